"""What is true of the scripts as a family: small, same idea, same text, and each one lives."""

import ast
import importlib
import json
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from dataclasses import fields
from itertools import combinations
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import toy_envs  # noqa: F401  (registers the ids)
from conftest import (
    TINY_RUN,
    numbers,
    read_metrics,
    reproducible,
    weights_before_the_first_update,
)

import envs
import ppo_gru_baseline as ppo
import rmf_sac_discrete_pixels as pixels
import rmf_sac_gru as sac
import rmf_td3_lstm as td3
import run
import speed

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [sac, td3, pixels, ppo]
COMPARATORS = [importlib.import_module(file.stem)
               for file in sorted((ROOT / "comparators").glob("*.py"))]
TINY = {
    sac: TINY_RUN, td3: TINY_RUN,
    pixels: ("--env-id toy_envs:KeyToDoorShort-v0 --num-envs 1 --total-timesteps 800"
             " --learning-starts 100 --eval-interval 250 --eval-episodes 2 --rnn-size 8"
             " --updates-per-step 0.06 --hidden-sizes 8 8 --embeddings 8 8 8 --batch-size 4"
             " --alpha auto").split(),
    ppo: ("--env-id toy_envs:PendulumShort-v0 --num-envs 2 --total-timesteps 320"
          " --eval-interval 100 --eval-episodes 2 --num-steps 16 --num-minibatches 2"
          " --update-epochs 2 --inputs oar --rnn-size 8 --hidden-sizes 8 8"
          " --embeddings 4 2 8").split()}
TINY_LANES = {sac: 2, td3: 2, pixels: 1, ppo: 2}
each = {"ids": lambda x: getattr(x, "__name__", None)}
every_script = pytest.mark.parametrize("script", SCRIPTS, **each)
every_sibling = pytest.mark.parametrize("script", [td3, pixels, ppo], **each)  # SAC: test_run.py


# --- SIZE -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("module, most", [
    (sac, 480), (td3, 480), (pixels, 500), (ppo, 500), (run, 420), (speed, 130)], **each)
def test_a_file_is_a_screen_per_function_and_no_longer_than_it_may_be(module, most):
    text = Path(module.__file__).read_text()
    lines = text.splitlines()
    assert len(lines) <= most and max(map(len, lines)) <= 100
    functions = {n.name: n.end_lineno - n.lineno + 1 for n in ast.walk(ast.parse(text))
                 if isinstance(n, ast.FunctionDef)}
    assert [name for name, length in functions.items()
            if length > (70 if name in ("train", "update") else 50)] == []


@every_script
def test_a_script_reads_in_the_order_of_a_lecture(script):
    lines = Path(script.__file__).read_text().splitlines()
    banners = [line.strip("# -") for line in lines if line.startswith("# ---")]
    assert banners == ["ARGUMENTS", "NETWORKS", "LOSSES AND UPDATE",
                       *(["SEQUENCE BUFFER"] if script is not ppo else []),
                       "POMDP WRAPPER AND PLAY", "EVALUATION AND TRAINING"]
    (networks,) = [i for i, line in enumerate(lines, 1) if "# --- NETWORKS" in line]
    assert networks < 110 and lines[networks].startswith(("def mlp", "class Encoder", "class Head"))


@every_script
def test_the_flags_are_few(script):
    assert len(fields(script.Args)) <= (37 if script is td3 else 34)


def test_td3_differs_from_sac_in_few_lines():
    """As `diff` counts them: the lines of both that are outside of a longest common part."""
    a, b = (Path(script.__file__).read_text().splitlines() for script in (sac, td3))
    common = [0] * (len(b) + 1)  # of a[:i] with b[:j], at j
    for line in a:
        longer = [0]
        for j, other in enumerate(b):
            longer.append(common[j] + 1 if line == other else max(longer[j], common[j + 1]))
        common = longer
    assert len(a) + len(b) - 2 * common[-1] <= 120


# --- SAME TEXT ------------------------------------------------------------------------------------

# Name -> why its text is not the same in two scripts that both have it.
MAY_DIFFER = {
    "Args": "the algorithm's own flags",
    "Actor": "a distribution, or one action",
    "Actor.__init__": "two numbers for an action, or one",
    "Actor.forward": "a distribution, or one action",
    "Agent": "what is learnt",
    "Agent.__init__": "its networks",
    "Agent.act": "how an action is drawn",
    "update": "the algorithm",
    "POMDP.__init__": "which actions are taken, and are pictures?",
    "train": "TD3 trains its actor at times, PPO has no buffer, actions are drawn in another way",
    "main": "the name of the presets",
}
PPO_MAY_DIFFER = {
    "Args.__post_init__": "lanes to split, but no random actions first",
    "POMDP.step": "no goal is terminal, as in other baselines",
}


def blocks(script):
    """-> name of each function and method, and of what else there is in a class -> its text."""
    text = Path(script.__file__).read_text()
    lines, found = text.splitlines(), {}
    for node in ast.parse(text).body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            assert not isinstance(node, (ast.Assign, ast.AnnAssign))  # no constants on their own
            continue
        methods = [n for n in node.body if isinstance(node, ast.ClassDef)
                   and isinstance(n, ast.FunctionDef)]
        inside = set()
        for method in methods:
            first = min([method.lineno, *(d.lineno for d in method.decorator_list)])
            found[f"{node.name}.{method.name}"] = lines[first - 1 : method.end_lineno]
            inside |= set(range(first, method.end_lineno + 1))
        found[node.name] = [lines[i - 1] for i in range(node.lineno, node.end_lineno + 1)
                            if i not in inside]
    return found


def differences(one, other):
    a, b = blocks(one), blocks(other)
    return {name for name in a.keys() & b.keys() if a[name] != b[name]}, a.keys() & b.keys()


@pytest.mark.parametrize("one, other", list(combinations(SCRIPTS, 2)), **each)
def test_what_is_the_same_idea_is_the_same_text(one, other):
    differ, common = differences(one, other)
    allowed = MAY_DIFFER | (PPO_MAY_DIFFER if ppo in (one, other) else {})
    assert differ - allowed.keys() == set()
    same = {"masked_mean", "play", "evaluate", "POMDP", "POMDP.reset"}
    if ppo not in (one, other):
        same |= {"Batch", "td_targets", "SequenceBuffer", "SequenceBuffer.sample", "POMDP.step"}
    if pixels not in (one, other):
        same |= {"Encoder", "Encoder.__init__", "Encoder.forward", "Head", "Head.forward"}
    assert same <= common - differ


def test_nothing_is_excused_that_is_the_same_everywhere():
    of_all = set().union(*(differences(*pair)[0] for pair in combinations(SCRIPTS, 2)))
    of_ppo = set().union(*(differences(ppo, script)[0] for script in SCRIPTS if script is not ppo))
    assert of_all == MAY_DIFFER.keys() | PPO_MAY_DIFFER.keys() and PPO_MAY_DIFFER.keys() <= of_ppo


def test_flags_of_one_name_are_of_one_kind():
    shared = [f.name for f in fields(run.RunArgs)]
    for script in SCRIPTS:
        assert [f.name for f in fields(script.Args)][: len(shared)] == shared
    kinds = {(f.name, str(f.type)) for script in SCRIPTS for f in fields(script.Args)}
    assert {name for name, n in Counter(name for name, _ in kinds).items() if n > 1} == {
        "policy"}  # pixels: a memory for the critic alone


def imports(path):
    """Modules of this project that a file imports."""
    own = {p.stem for p in ROOT.glob("*.py")} | {"envs", "experiments", "tests"}
    named = [n for n in ast.walk(ast.parse(path.read_text()))
             if isinstance(n, (ast.Import, ast.ImportFrom))]
    names = {alias.name for n in named if isinstance(n, ast.Import) for alias in n.names}
    names |= {n.module or "." for n in named if isinstance(n, ast.ImportFrom)}
    return {name.split(".")[0] for name in names} & (own | {""})


def test_who_imports_whom():
    """`run`, `speed` and `envs` know nothing of each other, nor of the scripts, nor these of each
    other: any of them can be read, or replaced, alone."""
    for module in (run, speed):
        assert imports(Path(module.__file__)) == set()
    for path in (ROOT / "envs").glob("*.py"):
        assert imports(path) <= {"envs"}, path
    for script in SCRIPTS:
        assert imports(Path(script.__file__)) <= {"envs", "run", "speed"}


# --- PRESETS --------------------------------------------------------------------------------------


def fields_of(script, family, paper):
    """-> Args with the preset of a family, and does it name the family?"""
    values, found = run.preset(script.__name__, family, paper)
    return script.Args(**values), found


FAMILIES = {env_id.split("-")[0] for env_id in envs.ENVIRONMENTS}
DISCRETE = {name for name in FAMILIES if "Catch" in name} | {"CartPole", "LunarLander", "KeyToDoor"}


def test_presets_are_of_scripts_and_environments_that_exist():
    with (ROOT / "presets.toml").open("rb") as file:
        table = tomllib.load(file)
    assert table.keys() == {"ours", "paper"}
    for kind in table.values():
        assert {s for scripts in kind for s in scripts.split()} <= {
            s.__name__ for s in SCRIPTS + COMPARATORS}
        assert {name for families in kind.values() for names in families
                for name in names.split()} <= FAMILIES | {"all"}
    for script in SCRIPTS + COMPARATORS:
        for family in FAMILIES:
            for paper in (False, True):
                fields_of(script, family, paper)  # takes what is there, or names the flag


def test_the_published_recipe_is_the_same_for_sac_and_td3_but_for_the_kind_of_memory():
    own = {"rnn", *(f.name for f in fields(td3.Args)), *(f.name for f in fields(sac.Args))}
    own -= {f.name for f in fields(td3.Args)} & {f.name for f in fields(sac.Args)} - {"rnn"}
    for family in sorted(FAMILIES):
        (a, found), (b, too) = (fields_of(script, family, True) for script in (sac, td3))
        assert found == too == (family not in DISCRETE), family
        a, b = ({k: v for k, v in vars(x).items() if k not in own} for x in (a, b))
        assert a == b, family
    discrete = {f for f in FAMILIES if fields_of(pixels, f, True)[1]}
    assert discrete == {"DelayedCatch", "KeyToDoor", "CartPole", "LunarLander"}
    assert not any(fields_of(ppo, family, True)[1] for family in FAMILIES)


# --- EACH SCRIPT'S LIFE ---------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def nothing_is_drawn():
    """Pictures take half of the time of a run this short; tests/test_run.py looks at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "draw_curve", lambda _: None)
        yield


@pytest.fixture
def start(tmp_path):
    """-> function: script, flags -> folder of a new finished run in this process."""

    def start(script, *flags):
        runs_dir = tmp_path / f"runs{len(list(tmp_path.iterdir()))}"
        return script.main([*TINY[script], "--runs-dir", str(runs_dir), *map(str, flags)])

    return start


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """-> function: script -> folder of its finished tiny run. Read only."""
    folders = {}

    def run_of(script):
        if script not in folders:
            runs_dir = str(tmp_path_factory.mktemp(script.__name__))
            folders[script] = script.main([*TINY[script], "--runs-dir", runs_dir])
        return folders[script]

    return run_of


@every_sibling
@pytest.mark.parametrize("flags", [
    [], ["--policy", "markov"], ["--policy", "oracle"], ["--rnn", "lstm", "--inputs", "o"],
    ["--rnn", "gru", "--inputs", "oar"],
], ids=lambda f: " ".join(f) or "default")
def test_a_run_takes_gradient_steps_and_changes_every_weight(script, flags, start, monkeypatch):
    if script is pixels and "oracle" in flags:
        flags = [*flags, "--env-id", "CartPole-V-v0"]  # the pictures have no oracle view
    before = weights_before_the_first_update(script, monkeypatch)
    folder = start(script, *flags)
    after = torch.load(folder / "checkpoint.pt", weights_only=True)["things"]["agent"]
    assert after.keys() == before[0].keys()
    assert [k for k, v in after.items() if torch.equal(v, before[0][k])] == []
    rows = read_metrics(folder)
    assert numbers(folder, "charts/updates")[-1] > 0 and rows[-1]["eval/return_mean"]
    losses = [c for c in rows[0] if c.startswith("losses/")]
    assert len(losses) >= 6
    for column in losses:
        assert np.isfinite(numbers(folder, column)).all() and len(numbers(folder, column)) > 1


@every_sibling
def test_the_same_seed_gives_the_same_numbers_and_another_one_others(script, start, finished):
    first = reproducible(finished(script))
    assert reproducible(start(script)) == first
    assert reproducible(start(script, "--seed", 2)) != first


def assert_as_unbroken(script, folder, saved, unbroken):
    """PPO's lanes are in the middle of episodes when it stops: it goes on with new ones. The others
    repeat an unbroken run."""
    rows = reproducible(folder)
    if script is ppo:
        assert rows[:saved] == unbroken[:saved] and len(rows) == len(unbroken)
        assert float(rows[-1]["env_step"]) >= 320 and rows[-1]["eval/return_mean"]
    else:
        assert rows == unbroken


@every_sibling
def test_a_killed_run_resumes_to_the_numbers_of_an_unbroken_one(script, finished, tmp_path):
    unbroken = finished(script)
    command = [sys.executable, str(Path(script.__file__)), *TINY[script],
               "--runs-dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    folder = None
    while process.poll() is None:  # kill it between its third evaluation and its end
        folders = [f.parent for f in tmp_path.glob("*/checkpoint.pt")]
        rows = read_metrics(folders[0]) if folders else []
        if sum(bool(r["eval/return_mean"]) for r in rows) >= 3 and len(rows) < 30:
            process.send_signal(signal.SIGKILL)
            folder = folders[0]
            break
        time.sleep(0.002)
    process.wait()
    assert folder and process.returncode == -signal.SIGKILL
    assert reproducible(folder) != reproducible(unbroken)
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)["n_rows"]
    script.main([*TINY[script][:2], "--resume", str(folder)])
    assert_as_unbroken(script, folder, saved, reproducible(unbroken))


@every_script
@pytest.mark.parametrize("after", [0, 0.5])  # a share of the run; 0: before there is an update
def test_ctrl_c_ends_a_run_at_once_and_it_resumes_to_the_numbers_of_an_unbroken_one(
        after, script, finished, start, monkeypatch, capsys):
    unbroken, written, log = reproducible(finished(script)), [], run.Run.log

    def press_ctrl_c(self, env_step, n_updates, row):
        log(self, env_step, n_updates, row)
        written.append(self.folder)
        if env_step > after * self.args.total_timesteps and "eval/return_mean" not in row:
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("the run goes on")

    monkeypatch.setattr(run.Run, "log", press_ctrl_c)
    with pytest.raises(KeyboardInterrupt) as ended:
        start(script)
    sys.excepthook(ended.type, ended.value, ended.tb)
    monkeypatch.undo()
    folder = written[0]
    assert f"nothing is lost: go on with --resume {folder}" in capsys.readouterr().err
    n_rows = torch.load(folder / "checkpoint.pt", weights_only=True)["n_rows"]
    assert n_rows < len(read_metrics(folder)) < len(unbroken)  # some of it is played again
    assert (n_rows == 1) == (after == 0)
    script.main([*TINY[script][:2], "--resume", str(folder)])
    assert_as_unbroken(script, folder, n_rows, unbroken)


@every_sibling
def test_evaluate_prints_the_last_evaluation_again(script, finished, capsys):
    folder = finished(script)
    capsys.readouterr()
    script.main([*TINY[script][:2], "--evaluate", str(folder)])
    assert (f"held-out return {numbers(folder, 'eval/return_mean')[-1]:.2f} +- "
            f"{numbers(folder, 'eval/return_std')[-1]:.2f} (100 episodes"
            in capsys.readouterr().out.splitlines()[-1])


@every_script
def test_held_out_episodes_are_of_the_held_out_tasks_and_of_seeds_that_training_never_has(
        script, start, monkeypatch):
    seeds, reset = {"train": [], "heldout": []}, gym.vector.SyncVectorEnv.reset
    make = envs.FlatLanes._make

    def made(self, oracle, split):
        vector_env, has_oracle = make(self, oracle, split)
        vector_env.split = split
        return vector_env, has_oracle

    def recorded(self, *, seed=None, options=None):
        seeds[self.split] += seed
        return reset(self, seed=seed, options=options)

    monkeypatch.setattr(envs.FlatLanes, "_make", made)
    monkeypatch.setattr(gym.vector.SyncVectorEnv, "reset", recorded)
    flags = ["--env-id", "CartPole-V-v0" if script is pixels else "toy_envs:PendulumShort-v0"]
    folder = start(script, *flags)
    n_evaluations = len(numbers(folder, "eval/return_mean"))
    assert len(seeds["heldout"]) == 2 * (n_evaluations - 1) + 100  # two lanes; the last: 100
    assert len(set(seeds["heldout"])) == 100 and len(seeds["train"]) >= 2
    assert not set(seeds["heldout"]) & set(seeds["train"])
    assert not set(seeds["heldout"]) & set(range(20_000))  # not near the seed of the run


NOT_FINITE = [(s, what) for s in SCRIPTS for what in ("obs", "reward")]


@pytest.mark.parametrize("script, what", NOT_FINITE, **each)
def test_a_number_that_is_not_finite_stops_a_run_and_the_last_checkpoint_stays(
        script, what, start, monkeypatch):
    """Late in the run, in one lane."""
    folders, step, log = [], gym.vector.SyncVectorEnv.step, run.Run.log

    def spoilt(self, action):
        obs, reward, *rest = step(self, action)
        if folders and self.num_envs == TINY_LANES[script] and folders[-1] >= 200:
            (obs if what == "obs" else reward)[-1] = np.nan
        return obs, reward, *rest

    def logged(self, env_step, n_updates, row):
        log(self, env_step, n_updates, row)
        folders.extend([self.folder] if not folders else [])
        folders.append(env_step)

    monkeypatch.setattr(gym.vector.SyncVectorEnv, "step", spoilt)
    monkeypatch.setattr(run.Run, "log", logged)
    flags = ["--env-id", "CartPole-V-v0", "--eval-interval", "50"] if script is pixels else []
    place = f"--env-id .* is nan .*lane {TINY_LANES[script] - 1} of"
    with pytest.raises(FloatingPointError, match=place):
        start(script, *flags, "--eval-episodes", 5)
    saved = torch.load(folders[0] / "checkpoint.pt", weights_only=True)
    assert saved["env_step"] >= 100
    assert all(x.isfinite().all() for x in saved["things"]["agent"].values())


@every_script
def test_networks_that_blow_up_stop_a_run_and_the_last_checkpoint_stays(script, start, monkeypatch):
    saved, n, step = [], 0, torch.optim.Adam.step

    def blown_up(self):
        nonlocal n
        step(self)
        n += 1
        if n >= 15:
            self.param_groups[0]["params"][0].data.fill_(float("nan"))

    monkeypatch.setattr(run.Run, "_save", lambda self, seconds, save=run.Run._save: (
        save(self, seconds), saved.append(self.folder)))
    monkeypatch.setattr(torch.optim.Adam, "step", blown_up)
    with pytest.raises(FloatingPointError, match="(losses|act|log_alpha).* is (nan|not finite)"):
        start(script)
    agent = torch.load(saved[-1] / "checkpoint.pt", weights_only=True)["things"]["agent"]
    assert all(x.isfinite().all() for x in agent.values())


@pytest.mark.parametrize("script", [sac, ppo], **each)
def test_the_fast_gru_could_be_torchs(script, start, finished, monkeypatch):
    monkeypatch.setattr(speed, "GRU", torch.nn.GRU)
    plain, fast = start(script), finished(script)
    assert json.loads((plain / "config.json").read_text())["args"]["rnn"] == "gru"
    for column in [c for c in read_metrics(fast)[0] if c.startswith(("losses/", "eval/"))]:
        np.testing.assert_allclose(numbers(plain, column), numbers(fast, column), 1e-3, 1e-5)


BAD_FLAGS = {
    td3: {"--policy-noise -1": "--policy-noise -1", "--exploration-noise nan": "nan",
          "--policy-frequency 0": "--policy-frequency 0", "--gamma 2": "--gamma 2",
          "--env-id CartPole-V-v0": "Discrete(2)", "--learning-starts 320": "320"},
    ppo: {"--num-minibatches 3": "--num-envs 2", "--num-minibatches 0": "--num-minibatches 0",
          "--num-steps 0": "--num-steps 0", "--clip-coef 0": "--clip-coef 0",
          "--gae-lambda 2": "--gae-lambda 2", "--env-id Image-v0": "(8, 8, 3)",
          "--env-id Unbounded-v0": "inf", "--ent-coef -1": "--ent-coef -1",
          "--paper --env-id Wind-v0": "Wind-v0"},
    pixels: {"--env-id Pendulum-V-v0": "rmf_sac_gru.py", "--alpha 0": "--alpha 0",
             "--policy oracle": "KeyToDoorShort-v0", "--observe 0,1": "pictures",
             "--context-length 0": "from 1 up", "--paper --env-id Clock-v0": "Clock-v0"},
}


@pytest.mark.parametrize("script, flags", [(s, f) for s in BAD_FLAGS for f in BAD_FLAGS[s]], **each)
def test_bad_flags_are_refused_in_a_line_that_names_them(script, flags, tmp_path):
    with pytest.raises((run.UsageError, envs.UnusableEnv)) as error:
        script.main([*TINY[script], *flags.split(), "--runs-dir", str(tmp_path / "runs")])
    message = str(error.value)
    assert BAD_FLAGS[script][flags] in message and flags.split()[0] in message
    assert "\n" not in message and not (tmp_path / "runs").exists()
