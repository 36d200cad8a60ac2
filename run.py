"""The life of a run, the same for every script: flags, presets, run folder, checkpoint, picture.

    args = parse_args(Args, presets="rmf_sac_gru")               # Args extends RunArgs
    run = Run(args, about, scores, agent=agent, optimizer=optimizer, rng=rng)
    while env_step < args.total_timesteps:
        ...                                                      # the script's own business
        run.log(env_step, n_updates, row)                        # a row of metrics.csv
    return run.finish(row)

What `Run` is given by a name is in the checkpoint under that name. It has a `state_dict` and a
`load_state_dict`, or is a NumPy generator. Nothing here calls the script back, nor learns.
"""

import csv
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, get_args, get_type_hints

import gymnasium as gym
import numpy as np
import torch
import tyro

if os.name == "posix":
    import fcntl  # on Windows nothing keeps two processes out of one run folder

# --- FLAGS ----------------------------------------------------------------------------------------
class UsageError(SystemExit):
    """What was asked for cannot be done; uncaught, Python ends with this one line."""
    def __init__(self, message):
        super().__init__("error: " + " ".join(message.split()))


# Types of flags: a kind of number, and a rule (what must hold, in words).
Count = Annotated[int, (lambda x: x >= 1, "a whole number from 1 up")]
Whole = Annotated[int, (lambda x: 0 <= x < 2**31, "a whole number from 0 up, below 2**31")]
Share = Annotated[float, (lambda x: 0 <= x <= 1, "from 0 to 1")]
Positive = Annotated[float, (lambda x: 0 < x < np.inf, "a number above 0")]
Amount = Annotated[float, (lambda x: 0 <= x < np.inf, "a number from 0 up")]


@dataclass
class RunArgs:
    """Flags of a run, the same in every script. `Args` of a script adds those of its algorithm."""

    env_id: str = "Wind-v0"
    """Gymnasium id; `module:Id-v0` imports `module` first"""
    seed: Whole = 1
    """seed of everything random, from 0 up"""
    total_timesteps: Count = 200_000
    """env steps to play, counted over all lanes"""
    num_envs: Count = 5
    """lanes: episodes that are played side by side between two rounds of updates"""
    cuda: bool = True
    """use a GPU if there is one"""
    track: bool = False
    """log to Weights & Biases as well: offline, into the run folder, unless WANDB_MODE=online"""
    capture_video: bool = False
    """write a GIF of one held-out episode at the end of the run (or of `--evaluate`)"""
    runs_dir: str = "runs"
    """folder that holds the run folders"""
    resume: str | None = None
    """run folder: go on from its last evaluation; a larger --total-timesteps lengthens the run"""
    evaluate: str | None = None
    """run folder: load its checkpoint, play held-out episodes, print the score, train nothing; with
    --env-id those of another environment with as many observations and actions"""
    eval_interval: Count | None = None
    """env steps between two evaluations, each followed by a checkpoint; None: 25 in a run"""
    eval_episodes: Count = 20
    """held-out episodes per evaluation, deterministic actions, the same ones each time; the last
    evaluation has 100, or all that differ"""
    paper: bool = False
    """start from the paper's recipe for this environment instead of the fast preset"""

    def __post_init__(self):
        """Refuse what the types rule out: also inside of `Count | None`, or `tuple[Count, ...]`."""
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            self.require(name, value != (), "one number or more")
            for x in value if isinstance(value, tuple) else (value,):
                for holds, words in rules_in(hint) if isinstance(x, (int, float)) else ():
                    self.require(name, holds(x), words)

    def require(self, name, holds, words):
        if not holds:
            raise UsageError(f"{flag(name)} {getattr(self, name)}: must be {words}")


def rules_in(hint):
    inside = [rule for part in get_args(hint) for rule in rules_in(part)]
    return [*getattr(hint, "__metadata__", ()), *inside]


def flag(name):
    return "--" + name.replace("_", "-")


def preset(presets, family, paper):
    """presets.toml -> fields: all headings that name the script and the family, the later win; and
    does any name the family itself?"""
    with Path(__file__).with_name("presets.toml").open("rb") as file:
        table = tomllib.load(file)["paper" if paper else "ours"]
    fields, found = {}, False
    for scripts, families in table.items():
        for names, values in families.items() if presets in scripts.split() else ():
            if names == "all" or family in names.split():
                fields |= {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
                found |= names != "all"
    return fields, found


def parse_args(Args, presets, argv=None):
    """Command line -> Args. Defaults come from the preset, or from the run that is named."""
    argv = sys.argv[1:] if argv is None else argv

    def parse(default):
        doc = (sys.modules[Args.__module__].__doc__ or "").split("\n\nThe agent")[0]
        doc += "\n\nFirst the flags of a run, then those of the algorithm, from --policy on."
        return tyro.cli(Args, args=argv, default=default, description=doc)

    # First the flags of the run alone, and no --help: it shows the defaults of the environment.
    words = [word for word in argv if word not in ("-h", "--help")]
    args, _ = tyro.cli(RunArgs, args=words, default=RunArgs(env_id=Args.env_id),
                       return_unknown_args=True)
    if args.resume and args.evaluate:
        raise UsageError(f"--resume {args.resume} --evaluate {args.evaluate}: use one of the two")
    if args.resume or args.evaluate:
        source = "--resume" if args.resume else "--evaluate"
        saved = load_config(Args, Path(args.resume or args.evaluate), source)
        named, args = args.env_id, parse(saved)
        if ":" in args.env_id != named:  # who made this folder says what is imported
            raise UsageError(f"{source}: add --env-id {args.env_id}, if you trust that module")
        may_change = {"resume", "evaluate", "track", "capture_video", "cuda"}
        may_change |= {"env_id", "eval_episodes", "seed"} if args.evaluate else {"total_timesteps"}
        for name, old in asdict(saved).items():
            if name not in may_change and getattr(args, name) != old:
                raise UsageError(f"{flag(name)} {getattr(args, name)}: the run in {source} has "
                                 f"{old}; drop the flag, or start a new run with it")
        return args
    family = args.env_id.rpartition(":")[2].split("-")[0]
    fields, found = preset(presets, family, args.paper)
    if args.paper and not found:
        raise UsageError(f"--paper: no published recipe for --env-id {args.env_id} in "
                         f"presets.toml; drop the flag")
    default = Args(**fields)
    args = parse(default)
    given = {k: v for k, v in asdict(args).items() if v != getattr(default, k)}
    kind = "paper's recipe" if args.paper else "preset"
    for source, values in ((f"{kind} of {family}", fields), ("flags", given)):
        print(f"{source}:", " ".join(f"{k}={v:.4g}" if type(v) is float else f"{k}={v}"
                                     for k, v in values.items()) or "none")
    return args


# --- RUN FOLDER -----------------------------------------------------------------------------------
def script_of(args):
    """Args, the class or one of it -> path of the script that it belongs to."""
    return Path(getattr(sys.modules[args.__module__], "__file__", "notebook"))


def replace_file(path, write):
    """Write a file under a temporary name, then rename it: it is never seen half written."""
    temporary = path.with_name("tmp-" + path.name)
    write(temporary)
    os.replace(temporary, path)


def new_run_folder(args):
    now = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    name = f"{args.env_id}__{script_of(args).stem}__{args.seed}__{now}"
    folder = Path(args.runs_dir) / re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"--runs-dir {args.runs_dir}: cannot make {folder}: {error.strerror}; "
                         "name a folder that can be written to") from error
    git = subprocess.run("git rev-parse HEAD", shell=True, cwd=script_of(args).parent,
                         capture_output=True, text=True)  # a shell: git may not be there
    versions = {m.__name__: m.__version__ for m in (torch, gym, np)} | {"python": sys.version}
    config = {"script": script_of(args).name, "args": asdict(args), "versions": versions,
              "git_commit": git.stdout.strip()}
    replace_file(folder / "config.json", lambda p: p.write_text(json.dumps(config, indent=2)))
    return folder


def load_config(Args, folder, source):
    """Run folder -> the Args that it was started with."""
    try:
        config = json.loads((folder / "config.json").read_text())
        if config["script"] != script_of(Args).name:
            raise UsageError(f"{source} {folder}: made by {config['script']}; use that script")
        lists = {k: tuple(v) for k, v in config["args"].items() if isinstance(v, list)}
        return Args(**config["args"] | lists)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{source} {folder}: no readable config.json in it ({error}); name the "
                         "folder of a run, as in runs/Wind-v0__...") from error


def load_checkpoint(folder, source, **things):
    """Bring things, each by its name, back to what they were. -> the whole checkpoint."""
    try:
        saved = torch.load(folder / "checkpoint.pt", weights_only=True, map_location="cpu")
        for name, thing in things.items():
            if hasattr(thing, "bit_generator"):
                thing.bit_generator.state = saved["things"][name]
            else:
                thing.load_state_dict(saved["things"][name])
        return saved
    except Exception as error:  # torch raises many kinds for a missing or damaged file
        raise UsageError(f"{source} {folder}: checkpoint.pt is missing, damaged or of another "
                         f"environment ({str(error)[:100]}); start the run again") from error


# --- RUN ------------------------------------------------------------------------------------------
class Run:
    """One run: its folder, and how far it is (`env_step`, `n_updates`). For terminal and picture:
    `about`, a few words on what runs, and `scores`, {name: return} of what is known of the env.
    `things` are what a checkpoint holds; --evaluate needs the `agent` alone."""

    def __init__(self, args, about, scores, **things):
        self.args, self.about, self.scores, self.things = args, about, scores, things
        self.env_step, self.n_updates, self.seconds, self.tracker = 0, 0, 0.0, None
        self.columns, self.rows = [], []  # of metrics.csv; a row: column -> text
        self.score, self.speed, self.saved = "-", 0.0, 0
        # What --resume and --evaluate must be told, too: the module to import.
        self.module = f" --env-id {args.env_id}" if ":" in args.env_id else ""
        if args.evaluate:
            self.folder, self.env_step = Path(args.evaluate), args.total_timesteps
            load_checkpoint(self.folder, "--evaluate", agent=things["agent"])
            return
        self.folder = Path(args.resume) if args.resume else new_run_folder(args)
        self.lock = (self.folder / "lock").open("w")
        try:
            os.name == "posix" and fcntl.lockf(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"--resume {self.folder}: another process is at it") from error
        if args.resume:
            self._go_on()
        if args.track:
            import wandb
            try:
                self.tracker = wandb.init(
                    project="recurrent-model-free-rl", name=self.folder.name, id=self.folder.name,
                    dir=self.folder, config=asdict(args), resume="allow",
                    mode=os.environ.get("WANDB_MODE", "offline"))
            except wandb.Error as error:
                raise UsageError(f"--track: {error} Or unset WANDB_MODE: offline") from error
        learnt = [p for p in things["agent"].parameters() if p.requires_grad]
        print(f"{args.env_id}: {about}; {sum(p.numel() for p in learnt):,} parameters on "
              f"{learnt[0].device}\nrun folder: {self.folder}", flush=True)
        self.started = self.last_log = self.last_line = time.monotonic()
        sys.excepthook = self._broken_off

    def _broken_off(self, kind, error, trace):
        """The last line of a process that ends by Ctrl-C, a NaN, a full disk, or whatever else."""
        if kind not in (KeyboardInterrupt, FloatingPointError):
            sys.__excepthook__(kind, error, trace)
        reason = f"error: {error}" if kind is FloatingPointError else "stopped"
        print(f"{reason}; up to env step {self.saved:,} nothing is lost: go on with --resume "
              f"{self.folder}{self.module}", file=sys.stderr)

    def _go_on(self):
        """Back to the last checkpoint: what came after it is played again, with the same numbers.
        Where there is none yet, or only that of the untrained agent, the run starts anew."""
        table, source = self.folder / "metrics.csv", f"--resume {self.folder}"
        try:
            reader = csv.DictReader(table.read_text().splitlines())
            self.rows, self.columns = list(reader), list(reader.fieldnames or [])
        except (OSError, ValueError, csv.Error):
            pass  # if it is needed, its rows are missed below
        none_yet = len(self.rows) <= 1 and not (self.folder / "checkpoint.pt").exists()
        saved = {"env_step": 0} if none_yet else load_checkpoint(
            self.folder, "--resume", **self.things)
        if saved["env_step"] == 0:
            self.rows, self.columns = [], []
            return
        if saved["env_step"] >= self.args.total_timesteps:
            raise UsageError(f"{source}: it is complete; use --evaluate, or more --total-timesteps")
        if len(self.rows) < saved["n_rows"]:
            raise UsageError(f"{source}: metrics.csv is missing or cut; start the run again")
        self.env_step, self.n_updates = saved["env_step"], saved["n_updates"]
        self.seconds, self.rows = saved["seconds"], self.rows[: saved["n_rows"]]
        torch.manual_seed(self.env_step)  # a GPU: not the noise of the start again
        torch.set_rng_state(saved["torch_rng"])
        self._write_table()

    def evaluation_due(self, env_step):
        """Has an --eval-interval passed since the last row, or is this the last one?"""
        interval = self.args.eval_interval or max(self.args.total_timesteps // 25, 1)
        return (env_step // interval > self.env_step // interval
                or env_step >= self.args.total_timesteps)

    def log(self, env_step, n_updates, row):
        """Add a row, column -> number, to metrics.csv; a new name makes a new column. With an
        evaluation (`eval/return_mean`) also draw the picture and write a checkpoint. A number in
        the row, or in the agent, that is not finite: FloatingPointError, and nothing is written."""
        evaluated, now = "eval/return_mean" in row, time.monotonic()
        for name, value in (row | self.things["agent"].state_dict()).items():
            if not torch.as_tensor(value).isfinite().all():
                raise FloatingPointError(f"{name} is not finite at env step {env_step:,}, update "
                                         f"{n_updates:,}; lower --learning-rate or scale rewards")
        self.speed = (env_step - self.env_step) / max(now - self.last_log, 1e-9)
        seconds = self.seconds + now - self.started
        row = {"env_step": env_step, "seconds": seconds, "charts/SPS": self.speed,
               "charts/updates": n_updates} | row
        self.env_step, self.n_updates, self.last_log = env_step, n_updates, now
        new = [name for name in row if name not in self.columns]
        self.columns += new
        self.rows.append({name: str(value) if isinstance(value, int) else f"{value:.7g}"
                          for name, value in row.items()})
        if new:
            self._write_table()
        else:
            with (self.folder / "metrics.csv").open("a") as file:
                file.write(self._line(self.rows[-1]))
        if self.tracker:
            self.tracker.log(row, step=env_step)
        if evaluated:
            self.score = f"{row['eval/return_mean']:.2f} +- {row['eval/return_std']:.2f}"
            draw_curve(self)
            self._save(seconds)
        self.progress(env_step, n_updates, evaluated)

    def progress(self, env_step, n_updates, evaluated=False):
        """Say how far it is: on a terminal once per second, in a log once per minute."""
        now, terminal = time.monotonic(), sys.stdout.isatty()
        if evaluated or now - self.last_line > (1 if terminal else 60):
            self.last_line = now
            left = max(self.args.total_timesteps - env_step, 0) / max(self.speed, 1e-9) / 60
            print(f"{env_step:>9,}/{self.args.total_timesteps:,} env steps | {n_updates:,} updates "
                  f"| {self.speed:,.0f} steps/s | held-out return {self.score} | "
                  f"{f'{left:.1f} min' if n_updates else '-'} left   ",
                  end="\r" if terminal and not evaluated else "\n", flush=True)

    def _line(self, row):
        return ",".join(row.get(name) or "" for name in self.columns) + "\n"

    def _write_table(self):
        text = ",".join(self.columns) + "\n" + "".join(map(self._line, self.rows))
        replace_file(self.folder / "metrics.csv", lambda path: path.write_text(text))

    def _save(self, seconds):
        checkpoint = {
            "things": {name: thing.bit_generator.state if hasattr(thing, "bit_generator") else
                       thing.state_dict() for name, thing in self.things.items()},
            "env_step": self.env_step, "n_updates": self.n_updates, "n_rows": len(self.rows),
            "seconds": seconds, "torch_rng": torch.get_rng_state()}
        replace_file(self.folder / "checkpoint.pt", lambda path: torch.save(checkpoint, path))
        self.saved = self.env_step

    def save_video(self, frames):
        """Write pictures, uint8 (height, width, 3), as a GIF into the run folder."""
        from PIL import Image
        images = [Image.fromarray(frame) for frame in frames]
        path = self.folder / "episode.gif"
        images[0].save(path, save_all=True, append_images=images[1:], duration=50)
        print(f"video: {path}")

    def finish(self, row):
        """Say what the last evaluation found, `row`. -> the run folder"""
        if not self.args.evaluate:
            sys.excepthook = sys.__excepthook__
            self.lock.close()
            if self.tracker:
                self.tracker.finish()
            if not self.n_updates:
                raise UsageError(f"--total-timesteps {self.args.total_timesteps}: {self.folder} "
                                 "ended without an update; raise it")
        for name, value in row.items():
            if name.startswith("eval/"):
                print(f"{name}: {value:.4g}")
        if not self.args.evaluate:
            twin = "" if self.args.policy == "markov" else "the same with --policy markov; "
            print(f"next: python {os.path.relpath(script_of(self.args))} --evaluate {self.folder}"
                  f"{self.module} --capture-video; {twin}lesson 1 in docs/lessons.md")
        mean, std, n = (row[f"eval/{x}"] for x in ("return_mean", "return_std", "episodes"))
        print(f"{self.folder}: held-out return {mean:.2f} +- {std:.2f} ({n} episodes, standard "
              f"error {std / max(n - 1, 1) ** 0.5:.2f})")
        return self.folder


def mean_of(scalars):
    """Dicts of scalars, one for each update -> name -> mean over those that have it."""
    return {name: torch.stack([s[name] for s in scalars if name in s]).mean().item()
            for name in dict.fromkeys(name for s in scalars for name in s)}


def grad_norm(module):
    """-> norm of the gradient of all its parameters, a scalar tensor; 0 if there is none."""
    return torch.nn.utils.get_total_norm(
        [p.grad for p in module.parameters() if p.grad is not None])


def draw_curve(run):
    """learning_curve.png: the held-out return, with the scores that the env states as lines."""
    from matplotlib.figure import Figure
    args, rows = run.args, [r for r in run.rows if r.get("eval/return_p10")]
    step, mean, low, high = np.array([[float(r[c]) for c in (
        "env_step", "eval/return_mean", "eval/return_p10", "eval/return_p90")] for r in rows]).T
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    colour = {"markov": "C1", "oracle": "C2"}.get(args.policy, "C0")  # as in all pictures
    axes.plot(step, mean, color=colour, label=f"seed {args.seed}")
    axes.fill_between(step, low, high, color=colour, alpha=0.2, lw=0, label="8 of 10 episodes")
    for i, (name, score) in enumerate(run.scores.items()):
        axes.axhline(score, color="0.5", ls=("--", ":", "-.")[i % 3], label=f"{name}: {score:g}")
    untrained = [float(r["env_step"]) for r in run.rows if float(r["charts/updates"]) == 0]
    axes.axvspan(0, untrained[-1], color="0.93", label="no update yet")
    axes.set(title=f"{args.env_id}  {script_of(args).stem}, {run.about}", xlabel="env steps",
             ylabel=f"return, {args.eval_episodes} held-out episodes")
    axes.legend(fontsize=8)
    replace_file(run.folder / "learning_curve.png", lambda p: figure.savefig(p, dpi=110))
