"""Draw held-out returns of many runs: a panel for each environment, a line for each group of runs.

    python experiments/plot.py picture.png runs/Wind-v0__* runs/SemiCircle-v0__*
    python experiments/plot.py picture.png --by shared_encoder runs/Pendulum-V-v0__*
    python experiments/plot.py picture.png --by script,update_epochs --table table.csv runs/*
    python experiments/plot.py picture.png --columns eval/return_mean,grads/critic_rnn runs/*
    python experiments/plot.py picture.png --by script --minutes runs/*
    python experiments/plot.py picture.png experiments/results/curves/td_lambda.csv

Runs that differ only in the seed form a line: the mean over seeds, and the range from the lowest to
the highest as a band; grey is where no run of a panel has learnt yet. `--by` names what tells
groups apart: arguments (of config.json), or `script`; runs that differ in anything else are
refused. The legend leaves out what most runs of the picture have in common, and says how many seeds
there are. Prints the last values, one row per group. `--table` writes the last evaluation of each
finished run, `--curves` all of them; such a file can stand in place of the folders it was made from
(only for eval/ columns, grouped as it is), or beside others. Folders without a checkpoint are
passed over. `--published` adds what experiments/results/published.csv knows of the same agents: a
dotted line in the agent's colour, with the env steps after which it was reached.
"""

import argparse
import csv
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import gymnasium as gym
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import envs  # noqa: F401  (registers the ids whose reference scores are drawn)

WORDS = {  # on an axis
    "eval/return_mean": "held-out return", "eval/success_rate": "share of successes",
    "eval/return_worst10": "mean of the worst 10 %",
    "grads/actor_rnn": "gradient norm of the actor's memory",
    "grads/critic_rnn": "gradient norm of the critic's memory",
    "losses/q_policy": "Q at the policy's actions", "losses/q_data": "Q at the actions played",
    "losses/entropy": "entropy of the policy, nats", "losses/alpha": "temperature"}
AGENTS = {"recurrent": "with memory", "markov": "without memory", "oracle": "told what is hidden",
          "markov-actor": "memory in the critic alone", "rmf_sac_gru": "SAC-GRU",
          "rmf_td3_lstm": "TD3-LSTM", "ppo_gru_baseline": "PPO-GRU",
          "rmf_sac_discrete_pixels": "discrete SAC-LSTM", "impala_sr": "actor-critic",
          "varibad_offpolicy": "off-policy variBAD", "varibad_onpolicy": "on-policy",
          "algo varibad": "variBAD", "algo rl2": "RL^2",
          "robust_ppo": "PPO without memory", "vrm": "VRM"}
COLOURS = {"recurrent": "C0", "markov": "C1", "oracle": "C2", "markov-actor": "C4",
           "rmf_sac_gru": "C0", "rmf_td3_lstm": "C3", "ppo_gru_baseline": "C5",
           "rmf_sac_discrete_pixels": "C0", "varibad_offpolicy": "C6", "vrm": "C8",
           "algo varibad": "C6", "algo rl2": "C9",
           "impala_sr": "olive", "beliefs stored": "rosybrown", "alpha 0.0": "tan",
           "separate": "C0", "published": "crimson", "published-clipped": "salmon",
           "critic-frozen": "seagreen", "critic-only": "darkcyan"}  # in all pictures
SPEAK_FOR_THEMSELVES = {"policy", "script", "shared_encoder"}  # in a legend
# Arguments that may differ within a group.
THE_RUNS_OWN = {"seed", "runs_dir", "resume", "evaluate", "track", "capture_video", "cuda",
                "eval_interval"}
EVALUATION = ("env_step", "charts/updates", "eval/return_mean", "eval/return_std", "eval/episodes",
              "eval/return_worst10", "eval/success_rate", "seconds", "git")  # of --table, --curves
PUBLISHED = Path(__file__).resolve().parent / "results" / "published.csv"


def curve(rows, column):
    """-> env steps, minutes and values, (3, n), of the rows that hold a number in that column."""
    return np.array([(float(row["env_step"]), float(row["seconds"] or "nan") / 60,
                      float(row[column])) for row in rows if row.get(column)]).reshape(-1, 3).T


def load_run(folder, columns):
    """-> arguments of the run, the curve of each column, the rows with an evaluation."""
    config = json.loads((folder / "config.json").read_text())
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for c in columns:
        if not any(row.get(c) for row in rows):
            sys.exit(f"error: --columns {c}: no such numbers in {folder}; its columns are "
                     f"{', '.join(k for k in rows[-1] if rows[-1][k])}")
    args = config["args"] | {"script": Path(config["script"]).stem}
    git = {"git": config["git_commit"][:7]}
    curves = [curve(rows, c) for c in columns]
    return args, curves, [row | git for row in rows if row.get("eval/return_mean")]


def label_of(args, by):
    """Arguments of a run, names of some -> what tells its group apart, as in a table."""
    if args["policy"] in ("markov", "oracle"):
        by = [k for k in by if k != "algo"]  # RL^2 or variBAD without a memory: PPO, both
    return ", ".join(
        str(args[k]) if k in SPEAK_FOR_THEMSELVES else f"{k} {args[k]}".replace(", ", ",")
        for k in by if k in args)


def load_curves(path, columns):
    """A file that --curves wrote -> {(env id, label, seed): (curve of each column, its rows)}."""
    runs = defaultdict(list)
    try:
        with path.open() as file:
            for row in csv.DictReader(file):
                runs[row["env_id"], row["group"], int(row["seed"])].append(row)
    except (OSError, KeyError):
        sys.exit(f"error: {path}: not a file that --curves wrote; name one, or run folders")
    for c in columns:
        if not any(row.get(c) for rows in runs.values() for row in rows):
            sys.exit(f"error: --columns {c}: no such numbers in {path}; name run folders")
    return {key: ([curve(rows, c) for c in columns], rows) for key, rows in runs.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, or files of --curves")
    parser.add_argument("--by", default="policy", help="what tells groups apart: a,b,c")
    parser.add_argument("--table", type=Path, help="write a row per run to this CSV file")
    parser.add_argument("--curves", type=Path, help="write a row per evaluation to this CSV file")
    parser.add_argument("--columns", type=lambda text: text.split(","),
                        default=["eval/return_mean"],
                        help="columns a,b,c of metrics.csv: a row of panels for each")
    parser.add_argument("--minutes", action="store_true",
                        help="below each panel the same against minutes")
    parser.add_argument("--published", action="store_true", help="add what others published")
    options = parser.parse_args()

    runs, recipes = {}, {}  # (env id, label, seed) -> curve of each column, its evaluations
    unfinished = set()
    for path in options.runs:
        if path.suffix == ".csv":
            runs |= load_curves(path, options.columns)
            continue
        if not (path / "checkpoint.pt").exists():
            continue
        args, curves, rows = load_run(path, options.columns)
        label = label_of(args, options.by.split(","))
        first = recipes.setdefault((args["env_id"], label), args)
        differs = [k for k in args if k not in THE_RUNS_OWN and args[k] != first.get(k, args[k])]
        if differs:
            sys.exit(f"error: {path}: not the same as other runs of '{label}' in "
                     f"{', '.join(differs)}; add it to --by, or leave the run out")
        key = {"env_id": args["env_id"], "group": label, "seed": args["seed"]}
        rows = [key | {k: row.get(k, "") for k in EVALUATION} for row in rows]
        runs[tuple(key.values())] = curves, rows
        if float(rows[-1]["env_step"]) < args["total_timesteps"]:
            unfinished.add(tuple(key.values()))
    if not runs:
        sys.exit(f"error: {options.runs[0]}: no run with a checkpoint; name run folders")
    for key in options.by.split(",") if recipes else ():
        if not any(key in args for args in recipes.values()):
            sys.exit(f"error: --by {key}: no run has such an argument")
    for path, part in ((options.table, slice(-1, None)), (options.curves, slice(None))):
        if path:
            rows = [row for key, (_, rows) in sorted(runs.items()) for row in rows[part]
                    if key not in unfinished]
            with path.open("w", newline="") as file:
                columns = ("env_id", "group", "seed", *EVALUATION)
                writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    published = list(csv.DictReader(PUBLISHED.open())) if options.published else []
    groups = defaultdict(lambda: defaultdict(list))  # env id -> label -> list of (seed, curves)
    warm_up = defaultdict(list)  # env id -> the last step without an update, of each run
    for (env_id, label, seed), (curves, rows) in runs.items():
        groups[env_id][label].append((seed, curves))
        warm_up[env_id].append(max([float(row["env_step"]) for row in rows
                                    if not float(row["charts/updates"])], default=0))

    # A row of panels for each column; of a single column or environment, rows of at most four.
    panel_rows = [(i, column, minutes) for i, column in enumerate(options.columns)
                  for minutes in (False, *[True] * options.minutes)]
    size = (len(panel_rows), len(groups))
    shape = size if min(size) > 1 else (-(-max(size) // 4), min(max(size), 4))
    figure = Figure(figsize=(5.2 * shape[1], 3.8 * shape[0]), layout="constrained")
    panels = figure.subplots(*shape, squeeze=False).flatten()
    for axes in panels[size[0] * size[1]:]:
        axes.remove()  # left over in the last row
    panels = panels[: size[0] * size[1]].reshape(size)
    short = shorten([label for _, label, _ in runs])
    colour = colours(short)
    for panel_row, (row, column, minutes) in zip(panels, panel_rows):
        for axes, (env_id, lines) in zip(panel_row, groups.items()):
            draw(axes, env_id, lines, row, column, colour, short, minutes)
            for label, value, steps in known(published, env_id, column, lines):
                axes.axhline(value, ls=":", color=colour[label])
                axes.text(0.5, value, f"published, {steps} steps", fontsize=6, va="bottom",
                          ha="center", color=colour[label],
                          transform=axes.get_yaxis_transform())
            if not minutes:
                axes.axvspan(0, min(warm_up[env_id]), color="0.93", lw=0, zorder=0)
            if column.startswith("grads/"):
                axes.set_yscale("log")
    lines, names = [], []
    for axes in panels[0]:  # one legend for all panels, where it hides nothing
        for line, name in zip(*axes.get_legend_handles_labels()):
            if name not in names:
                lines.append(line)
                names.append(name)
    fit = int(5.2 * shape[1] / (0.6 + 0.07 * max(map(len, names))))  # inches
    figure.legend(lines, names, loc="outside lower center", ncols=max(1, min(len(names), fit, 4)),
                  fontsize=9)
    figure.savefig(options.picture, dpi=110)


def known(published, env_id, column, labels):
    """What is published of the agents of a panel: -> (label, value, after how many env steps)."""
    for row in published:
        same = [label for label in labels if row["agent"] in label.split(", ")
                and not {"markov", "oracle"} & {*label.split(", ")}]
        if same and (row["env_id"], row["column"]) == (env_id, column):
            yield same[0], float(row["value"]), row["env_steps"]


def in_order(label):
    return len(label), label  # context_length 5 before 16


def colours(short):
    """{label: the same in words} -> {label: colour}: that of its last part that has one in all
    pictures, first come the shortest words, which are of what most runs are; or one left over."""
    colour, rest = {}, []
    for label in sorted(short, key=lambda label: (len(short[label]), *in_order(label))):
        own = [COLOURS[part] for part in reversed(label.split(", ")) if part in COLOURS]
        own = [c for c in own if c not in colour.values()]
        if own:
            colour[label] = own[0]
        else:
            rest.append(label)
    free = [c for c in (f"C{i}" for i in range(10)) if c not in colour.values()]
    if colour:  # last those of agents that are not here
        free.sort(key=lambda c: c in COLOURS.values())
    return colour | {label: free[i % len(free)] for i, label in enumerate(rest)}


def shorten(label_of_runs):
    """The label of each run -> {label: the same in words, without settings that most runs share,
    and without the name that all share if another is left}."""
    n = len(label_of_runs)
    count = Counter(part for label in label_of_runs for part in label.split(", "))

    def words(label):
        parts = label.split(", ")
        names = [part for part in parts if " " not in part]
        telling = [part for part in names if count[part] < n] or names
        settings = [part for part in parts if " " in part and count[part] <= n / 2]
        return ", ".join([AGENTS.get(part, part) for part in telling]
                         + [AGENTS.get(part, part.replace("_", " ")) for part in settings]) or label

    return {label: words(label) for label in label_of_runs}


def draw(axes, env_id, lines, row, column, colour, short, minutes):
    """One panel: the curves number `row` of all groups of an environment, against env steps or
    against minutes."""
    for label, runs in sorted(lines.items(), key=lambda line: in_order(line[0])):
        runs = [(seed, curves[row][int(minutes)], curves[row][2])
                for seed, curves in sorted(runs, key=lambda run: run[0])]
        grid = np.unique(np.concatenate([steps for _, steps, _ in runs]))
        grid = grid[grid <= min(steps[-1] for _, steps, _ in runs)]
        values = np.stack([np.interp(grid, steps, v) for _, steps, v in runs])  # (seeds, n)
        axes.plot(grid, values.mean(0), color=colour[label],
                  label=short[label])
        axes.fill_between(grid, values.min(0), values.max(0), color=colour[label], alpha=0.2, lw=0)
        last = {seed: v[-1] for seed, _, v in runs}
        if minutes:
            continue
        print(f"{env_id:16} {label:28} {column:16} mean {np.mean(list(last.values())):9.2f}  "
              "by seed: " + "  ".join(f"{seed}: {v:.2f}" for seed, v in last.items()))
    if column == "eval/return_mean":
        try:
            scores = gym.make_vec(env_id, num_envs=1).metadata.get("reference_scores", {})
        except gym.error.DependencyNotInstalled as error:
            print(f"{env_id}: drawn without reference scores: {error}", file=sys.stderr)
            scores = {}
        by_score = sorted(scores.items(), key=lambda item: item[1])
        axes.margins(y=0.08)  # room for the name of the highest
        for i, (name, score) in enumerate(by_score):  # neighbours are named at opposite ends
            axes.axhline(score, color="0.6", ls=":", lw=1)
            axes.text(i % 2, score, f" {name} ", fontsize=6, color="0.4", va="bottom",
                      ha=("left", "right")[i % 2], transform=axes.get_yaxis_transform())
    n_seeds = sorted({len(runs) for runs in lines.values()})
    axes.set(title=f"{env_id}, {' or '.join(map(str, n_seeds))} seed{'s' * (n_seeds != [1])}",
             xlabel="minutes" if minutes else "env steps", ylabel=WORDS.get(column, column))
    if not minutes:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


if __name__ == "__main__":
    main()
