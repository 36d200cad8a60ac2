"""What is true of the course's exercises: a right answer passes, the unchanged script does not."""

import csv
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY_RUN

from run import parse_args

ROOT = Path(__file__).resolve().parents[1]

# Check -> script, and an answer: pairs of a text and what takes its place.
ANSWERS = {
    "test_time": ("rmf_sac_gru.py", [
        ("        return obs[:, self.keep] * (self.rng.random((self.n, 1)) >= self.flicker)",
         "        obs = obs[:, self.keep] * (self.rng.random((self.n, 1)) >= self.flicker)\n"
         "        return np.c_[obs, np.full(self.n, self.t / 100, np.float32)]"),
        ("        self.rng = np.random", "        self.t = 0\n        self.rng = np.random"),
        ("= self.lanes.step(action)\n", "= self.lanes.step(action)\n        self.t += 1\n"),
        ("action_dim = n, len(self.keep), self", "action_dim = n, len(self.keep) + 1, self")]),
    "test_actor_only": ("rmf_sac_gru.py", [
        ('"critic-only"] = "separate"', '"critic-only", "actor-only"] = "separate"'),
        ("    k = target.encoder(*perceived)[0]\n",
         "    k = target.encoder(*perceived)[0]\n"
         "    c = c.detach() if args.shared_encoder == 'actor-only' else c\n")]),
    "test_unclipped": ("ppo_gru_baseline.py", [
        ("torch.minimum(ratio * a[:, lanes], clipped * a[:, lanes])", "ratio * a[:, lanes]")]),
    "test_burn_in": ("rmf_sac_gru.py", [
        ("(t[:-1] < n).astype", "((t[:-1] < n) & ((t[:-1] >= start + 5) | (start == 0))).astype")]),
    "test_no_shortcut": ("rmf_sac_gru.py", [
        ("self.head(h, F.relu(self.embed(obs)))", "self.head(h, 0 * F.relu(self.embed(obs)))")]),
    "test_markov_critic": ("rmf_sac_discrete_pixels.py", [
        ('"oracle", "markov-actor"]', '"oracle", "markov-actor", "markov-critic"]'),
        ('"markov-actor": (0, 1)}', '"markov-actor": (0, 1), "markov-critic": (1, 0)}')]),
    "test_n_step": ("rmf_sac_gru.py", [
        ("    assert next_value.shape == batch.reward.shape == batch.mask.shape\n", '''\
    y = next_value
    last = 1 - torch.cat([batch.mask[1:], torch.zeros_like(batch.mask[:1])])
    for k in range(3):
        # from the third reward backwards: y_t = r_t + gamma (1 - terminal_t) y_{t+1}
        if k:
            following = torch.cat([y[1:], next_value[-1:]])
            follow = torch.where(last.bool(), next_value, following)
        else:
            follow = next_value
        y = batch.reward + args.gamma * (1 - batch.terminal) * follow
    return y
''')]),
    "test_past_only": ("comparators/varibad_offpolicy.py", [
        ("    mu, logvar = belief.gather(0, t).chunk(2, -1)\n",
         "    mu, logvar = belief.gather(0, t).chunk(2, -1)\n"
         "    past = torch.arange(len(mask))[:, None] < t[:, None, :, 0]  # (M, T, B)\n"),
        ("(agent.vae.decode(m, x) * mask).sum(1)",
         "(agent.vae.decode(m, x) * mask * past).sum(1)")]),
}
# Answers that are nearly right. Check -> changes.
WRONG = [
    ("test_time", [*ANSWERS["test_time"][1][:1], *ANSWERS["test_time"][1][2:],  # never set to 0
                   ("        oracle = args", "        self.t = 0\n        oracle = args")]),
    ("test_time", [(a, b.replace("self.t = 0", "self.t = 1")) for a, b in ANSWERS["test_time"][1]]),
    ("test_time", [(a, b.replace(" / 100", "")) for a, b in ANSWERS["test_time"][1]]),
    ("test_actor_only", [  # the actor gets nothing, either
        ("    h = actor.encoder(*perceived)[0] if", "    c = c.detach()\n"
         "    h = actor.encoder(*perceived)[0] if")]),
    ("test_actor_only", [  # the actor's loss trains the critic as well
        *ANSWERS["test_actor_only"][1],
        ("backward(inputs=None if published else list(actor.parameters()))", "backward()")]),
    ("test_actor_only", ANSWERS["test_actor_only"][1][1:]),  # the flag refuses the word
    ("test_unclipped", [("torch.minimum(ratio * a", "torch.maximum(ratio * a")]),
    ("test_unclipped", [(ANSWERS["test_unclipped"][1][0][0], "log_ratio * a[:, lanes]")]),
    ("test_unclipped", [("torch.minimum(ratio * a[:, lanes], clipped * a[:, lanes])",
                         "clipped * a[:, lanes]")]),
    ("test_burn_in", [("(t[:-1] < n).astype", "(t[:-1] >= start + 5).astype")]),  # padding counts
    ("test_burn_in", [  # so do no first steps of an episode
        ("(t[:-1] < n).astype", "((t[:-1] < n) & (t[:-1] >= start + 5)).astype")]),
    ("test_burn_in", [("(t[:-1] < n).astype", "((t[:-1] < n) & (t[:-1] >= 5)).astype")]),
    ("test_no_shortcut", [("self.head(h, F.relu", "self.head(0 * h, F.relu")]),
    ("test_no_shortcut", [  # its gradient is cut, not what it tells
        ("self.head(h, F.relu(self.embed(obs)))",
         "self.head(h, F.relu(self.embed(obs)).detach())")]),
    ("test_no_shortcut", [  # the critic's
        ("x = F.relu(self.embed(torch.cat([obs, action], -1)))",
         "x = 0 * F.relu(self.embed(torch.cat([obs, action], -1)))")]),
    ("test_markov_critic", [
        *ANSWERS["test_markov_critic"][1][:1],
        ('"markov-actor": (0, 1)}', '"markov-actor": (0, 1), "markov-critic": (0, 1)}')]),
    ("test_markov_critic", [  # both remember
        *ANSWERS["test_markov_critic"][1][:1],
        ('"markov-actor": (0, 1)}', '"markov-actor": (0, 1), "markov-critic": (1, 1)}')]),
    ("test_markov_critic", ANSWERS["test_markov_critic"][1][1:]),  # the flag refuses the word
    ("test_n_step", [(a, b.replace("range(3)", "range(2)")) for a, b in ANSWERS["test_n_step"][1]]),
    ("test_n_step", [(  # adds up what comes after a terminal step
        a, b.replace(" * (1 - batch.terminal)", "")) for a, b in ANSWERS["test_n_step"][1]]),
    ("test_n_step", [(  # bootstraps behind the end
        ANSWERS["test_n_step"][1][0][0],
        ANSWERS["test_n_step"][1][0][1].replace("torch.where(last.bool(), next_value, following)",
                                                "following"))]),
    ("test_n_step", [(  # adds a value behind the goal if that is the third step
        a, b.replace("(1 - batch.terminal) * follow", "(1 - batch.terminal * (k > 0)) * follow"))
        for a, b in ANSWERS["test_n_step"][1]]),
    ("test_past_only", [(a, b.replace("] < t", "] <= t"))  # the step to come, too
                        for a, b in ANSWERS["test_past_only"][1]]),
    ("test_past_only", [(a, b.replace("] < t", "] >= t"))  # what is to come
                        for a, b in ANSWERS["test_past_only"][1]]),
    ("test_past_only", [*ANSWERS["test_past_only"][1][:1],  # a mean over the past alone
                        ("((agent.vae.decode(m, x) * mask).sum(1) / n_steps).mean()",
                         "((agent.vae.decode(m, x) * mask * past).sum(1)\n                      "
                         "/ past.sum(1).clamp(min=1)).mean()")]),
]


def failing_checks(names, script):
    """-> names of the checks that fail."""
    files = [f"docs/exercises/{name}.py" for name in names]
    result = subprocess.run([sys.executable, "-m", "pytest", "-q", "-rf", *files], cwd=ROOT,
                            env=os.environ | {"SCRIPT": str(script)}, capture_output=True,
                            text=True)
    assert result.returncode in (0, 1), result.stdout  # 1: some failed; more: pytest could not run
    return [name for name in names if f"FAILED docs/exercises/{name}.py" in result.stdout]


@pytest.mark.parametrize("script", sorted({script for script, _ in ANSWERS.values()}))
def test_the_unchanged_script_passes_no_check(script):
    names = [name for name in ANSWERS if ANSWERS[name][0] == script]
    assert failing_checks(names, ROOT / script) == names


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def changed_script(name, changes, tmp_path):
    """The script of a check, changed as said."""
    text = (ROOT / ANSWERS[name][0]).read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    answer = tmp_path / f"answer_{name}.py"
    answer.write_text(text)
    return load(answer)


def run_check(name, script, monkeypatch):
    """Call what it tests: here, not in a process of its own, which takes seconds to start."""
    given = {"script": script, "monkeypatch": monkeypatch}
    checks = [f for n, f in vars(load(ROOT / f"docs/exercises/{name}.py")).items()
              if n.startswith("test_")]
    assert checks
    for check in checks:
        check(**{k: given[k] for k in inspect.signature(check).parameters})
        monkeypatch.undo()


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_passes(name, tmp_path, monkeypatch):
    run_check(name, changed_script(name, ANSWERS[name][1], tmp_path), monkeypatch)


@pytest.mark.parametrize("name, changes", WRONG)
def test_a_nearly_right_answer_does_not(name, changes, tmp_path, monkeypatch):
    script = changed_script(name, changes, tmp_path)
    with pytest.raises(AssertionError):
        run_check(name, script, monkeypatch)


def test_each_check_knows_three_wrong_answers():
    assert {name: sum(name == n for n, _ in WRONG) >= 3 for name in ANSWERS} == dict.fromkeys(
        ANSWERS, True)


def grade(folder, *flags):
    return subprocess.run([sys.executable, ROOT / "docs/exercises/grade.py", folder, *flags],
                          cwd=folder, capture_output=True, text=True, timeout=300)


def test_a_folder_of_solutions_is_graded(tmp_path):
    """One is right, one wrong, one no Python, one named like no exercise, one leaves before its
    check, and four are missing."""
    changes = {"burn_in": ANSWERS["test_burn_in"], "unclipped": ("ppo_gru_baseline.py", [])}
    for name, (script, answer) in changes.items():
        text = (ROOT / script).read_text()
        for old, new in answer:
            text = text.replace(old, new)
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "n_step.py").write_text("def update(:")
    (tmp_path / "time.py").write_text("import os\nos._exit(0)")
    (tmp_path / "burn_out.py").write_text("")
    result = grade(tmp_path, "--json", "grades.json")
    assert result.returncode == 1, result.stderr
    grades = json.loads((tmp_path / "grades.json").read_text())
    assert {name: g["result"] for name, g in grades.items()} == {
        "time": "wrong", "actor_only": "missing", "unclipped": "wrong", "burn_in": "right",
        "no_shortcut": "missing", "markov_critic": "missing", "n_step": "wrong",
        "past_only": "missing"}
    assert "SyntaxError" in grades["n_step"]["why"] and grades["unclipped"]["why"]
    assert "burn_out.py: no exercise is called so" in result.stdout
    lines = result.stdout.splitlines()
    assert grades["time"]["why"] and "losses/policy_loss" in grades["unclipped"]["why"]
    assert len([x for x in lines if "missing" in x]) == 4 and lines[-1].startswith("1 of 8")


def test_a_folder_without_solutions_is_said(tmp_path):
    result = grade(tmp_path)
    assert result.returncode == 2 and result.stderr.startswith("error: ")


@pytest.mark.slow  # eight processes; each answer alone is checked above
def test_all_right_is_status_0(tmp_path):
    for name, (script, answer) in ANSWERS.items():
        text = (ROOT / script).read_text()
        for old, new in answer:
            text = text.replace(old, new)
        (tmp_path / f"{name.removeprefix('test_')}.py").write_text(text)
    result = grade(tmp_path)
    assert result.returncode == 0 and result.stdout.splitlines()[-1].startswith("8 of 8")


def test_every_exercise_has_an_answer_and_a_lesson():
    checks = {p.stem for p in (ROOT / "docs" / "exercises").glob("test_*.py")}
    assert checks == set(ANSWERS)
    lessons = (ROOT / "docs" / "lessons.md").read_text()
    assert [name for name in checks if f"docs/exercises/{name}.py" not in lessons] == []


def test_every_command_of_the_lessons_is_accepted():
    text = (ROOT / "docs/lessons.md").read_text()
    lines = re.findall(r"^python (?:comparators/)?(\w+)\.py (.*)$", text, re.M)
    assert len(lines) > 20
    for name, flags in lines:
        script = importlib.import_module(name)
        args = parse_args(script.Args, name, flags.split())
        script.POMDP(args, 1)


QUICK = re.findall(r"\*\*In two minutes\.\*\*.*?```bash\n(.*?)```\n\n!\[.*?\]\((.*?)\)",
                   (ROOT / "docs" / "lessons.md").read_text(), re.S)


def test_every_lesson_has_a_variant_of_two_minutes_with_a_picture():
    assert len(QUICK) == 8
    for n, (commands, picture) in enumerate(QUICK, 1):
        assert (ROOT / "docs" / picture).is_file() and picture.endswith(f"short-{n}.png")
        *runs, draw = commands.splitlines()
        assert len(runs) == 2 and draw.startswith(f"python experiments/plot.py short{n}.png ")


@pytest.mark.slow
@pytest.mark.parametrize("n", range(1, 9))
def test_the_two_minute_commands_of_a_lesson_run_in_a_fresh_clone(n, tmp_path):
    """Side by side, as the lesson says; a quarter of an hour, for a slow and busy machine."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "clone")], check=True)
    python = f"PATH={Path(sys.executable).parent}:$PATH OMP_NUM_THREADS=1"
    *runs, draw = QUICK[n - 1][0].splitlines()
    runs = [subprocess.Popen(f"{python} {line}", shell=True, cwd=tmp_path / "clone",
                             stdout=subprocess.DEVNULL) for line in runs]
    assert [run.wait(timeout=900) for run in runs] == [0, 0]
    subprocess.run(f"{python} {draw}", shell=True, cwd=tmp_path / "clone", check=True)
    assert (tmp_path / "clone" / f"short{n}.png").stat().st_size > 1000


# Bug -> a test that finds it.
CAUGHT_BY = {
    "bug_1": "test_ppo.py::test_no_memory_leaks_from_one_episode_into_the_next",
    "bug_2": "test_wrapper.py::test_only_termination_is_terminal_not_a_time_limit",
    "bug_3": "test_losses.py::test_a_masked_mean_is_the_mean_over_the_real_steps",
}


@pytest.mark.parametrize("bug", CAUGHT_BY)
def test_a_bug_of_the_hunt_applies_and_a_test_finds_it(bug, tmp_path):
    for file in (*ROOT.glob("*.py"), ROOT / "presets.toml", ROOT / "pyproject.toml"):
        shutil.copy(file, tmp_path)
    for name in ("envs", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name)
    clean = {path: path.read_text() for path in tmp_path.glob("*.py")}
    patch = ROOT / "docs" / "exercises" / "bugs" / f"{bug}.patch"
    subprocess.run(["git", "apply", str(patch)], cwd=tmp_path, check=True)
    result = subprocess.run([sys.executable, "-m", "pytest", "-q", f"tests/{CAUGHT_BY[bug]}"],
                            cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1 and f"FAILED tests/{CAUGHT_BY[bug]}" in result.stdout
    subprocess.run(["git", "apply", "-R", str(patch)], cwd=tmp_path, check=True)
    assert {path: path.read_text() for path in tmp_path.glob("*.py")} == clean


# --- RECIPES --------------------------------------------------------------------------------------
RECIPES = dict(zip(("", "memory", "rate", "metric", "environment"), re.split(
    r"^## ", (ROOT / "docs" / "recipes.md").read_text(), flags=re.M)))


def cooked(name):
    """The script with the differences of a recipe, and how many lines they add."""
    text, added = (ROOT / "rmf_sac_gru.py").read_text(), 0
    for block in re.findall(r"```diff\n(.*?)```", RECIPES[name], re.S):
        lines = block.splitlines(keepends=True)
        old, new = ("".join(x[1:] or "\n" for x in lines if x[:1] in (" ", sign)) for sign in "-+")
        assert text.count(old) == 1, old
        text, added = text.replace(old, new), added + sum(x.strip() not in "+-" for x in lines
                                                          if x[0] == "+")
    return text, added


@pytest.mark.parametrize("name, at_most", [("memory", 15), ("rate", 3), ("metric", 1)])
def test_a_recipe_is_a_few_lines_and_learns(name, at_most, tmp_path, monkeypatch):
    text, added = cooked(name)
    assert 0 < added <= at_most
    (tmp_path / f"cooked_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    script = importlib.import_module(f"cooked_{name}")
    folder = script.main([*TINY_RUN, "--runs-dir", str(tmp_path)])
    with (folder / "metrics.csv").open() as file:
        *_, last = csv.DictReader(file)
    assert float(last["charts/updates"]) > 0 and float(last["grads/actor_rnn"]) > 0
    assert name != "metric" or float(last["losses/disagreement"]) > 0
    if name == "rate":
        state = torch.load(folder / "checkpoint.pt", weights_only=True)["things"]["optimizer"]
        assert [group["lr"] for group in state["param_groups"]][0] < 1e-4
        assert len(state["param_groups"]) == 2


def test_a_memory_that_is_a_transformer_does_not_see_what_comes_later(tmp_path, monkeypatch):
    """Step by step, as in acting, it gives what it gives over the whole sequence."""
    (tmp_path / "cooked_causal.py").write_text(cooked("memory")[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    script = importlib.import_module("cooked_causal")
    encoder = script.Encoder(2, 1, script.Args(rnn_size=8))
    x = torch.randn(7, 3, 2), torch.randn(7, 3, 1), torch.randn(7, 3)
    whole, h = encoder(*x)[0], None
    for t in range(7):
        out, h = encoder(*(v[t : t + 1] for v in x), h)
        assert torch.allclose(out[0], whole[t], atol=1e-5)
