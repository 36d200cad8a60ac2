"""What is true of the course's exercises: a right answer passes, the unchanged script does not."""

import importlib.util
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Check -> script, and an answer: pairs of a text and what takes its place.
ANSWERS = {
    "test_time": ("rmf_sac_gru.py", [
        ("        obs = np.asarray(obs, np.float32).reshape(self.n, -1)[:, self.keep]  # (n, O)\n",
         "        obs = np.asarray(obs, np.float32).reshape(self.n, -1)[:, self.keep]  # (n, O)\n"
         "        obs = np.c_[obs, np.full(self.n, self.t / 100, np.float32)]\n"),
        ("        self.rng = np.random", "        self.t = 0\n        self.rng = np.random"),
        ("= self.envs.step(action)\n", "= self.envs.step(action)\n        self.t += 1\n"),
        ("self.obs_dim, self.action_dim = len(self.keep), len(self.low)",
         "self.obs_dim, self.action_dim = len(self.keep) + 1, len(self.low)")]),
    "test_actor_only": ("rmf_sac_gru.py", [
        ("        self.actor_trains = list(self.actor.parameters())",
         "        if args.shared_encoder == 'actor-only':\n"
         "            self.critic_trains = [p for name, p in self.critic.named_parameters()\n"
         "                                  if not name.startswith('encoder.')]\n"
         "        self.actor_trains = list(self.actor.parameters())")]),
    "test_unclipped": ("ppo_gru_baseline.py", [
        ("torch.minimum(ratio * advantage, clipped * advantage)", "ratio * advantage")]),
    "test_burn_in": ("rmf_sac_gru.py", [
        ("tensor(t[:-1] < n))", "tensor((t[:-1] < n) & ((t[:-1] >= start + 5) | (start == 0))))")]),
    "test_no_shortcut": ("rmf_sac_gru.py", [
        ("self.head(h, F.relu(self.embed(obs))).chunk(2, -1)",
         "self.head(h, 0 * F.relu(self.embed(obs))).chunk(2, -1)")]),
    "test_markov_critic": ("rmf_sac_discrete_pixels.py", [
        ('"oracle", "markov-actor"]', '"oracle", "markov-actor", "markov-critic"]'),
        ('Network(env, args, args.policy == "recurrent", n_heads=1)',
         'Network(env, args, args.policy in ("recurrent", "markov-critic"), n_heads=1)')]),
    "test_n_step": ("rmf_sac_gru.py", [
        ("    assert next_value.shape == batch.reward.shape == batch.mask.shape\n", '''\
    T, y = len(batch.reward), next_value
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
}


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


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_passes(name, tmp_path):
    script, changes = ANSWERS[name]
    text = (ROOT / script).read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    answer = tmp_path / f"answer_{name}.py"
    answer.write_text(text)
    given = {"script": load(answer), "tmp_path": tmp_path}
    checks = [f for n, f in vars(load(ROOT / f"docs/exercises/{name}.py")).items()
              if n.startswith("test_")]
    assert checks
    for check in checks:  # called here, not in a process of its own, which takes seconds to start
        check(**{k: given[k] for k in inspect.signature(check).parameters})


def test_every_exercise_has_an_answer_and_a_lesson():
    checks = {p.stem for p in (ROOT / "docs" / "exercises").glob("test_*.py")}
    assert checks == set(ANSWERS)
    lessons = (ROOT / "docs" / "lessons.md").read_text()
    assert [name for name in checks if f"docs/exercises/{name}.py" not in lessons] == []


# Bug -> a test that finds it.
CAUGHT_BY = {
    "bug_1": "test_ppo.py::test_no_memory_leaks_from_one_episode_into_the_next",
    "bug_2": "test_wrapper.py",
    "bug_3": "test_losses.py::test_a_masked_mean_is_the_mean_over_the_real_steps",
}


@pytest.mark.parametrize("bug", CAUGHT_BY)
def test_a_bug_of_the_hunt_applies_and_a_test_finds_it(bug, tmp_path):
    files = ["ppo_gru_baseline.py", "rmf_sac_gru.py", "rmf_td3_lstm.py", "pyproject.toml"]
    for name in files:
        shutil.copy(ROOT / name, tmp_path)
    for name in ("envs", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name)
    patch = ROOT / "docs" / "exercises" / "bugs" / f"{bug}.patch"
    subprocess.run(["git", "apply", str(patch)], cwd=tmp_path, check=True)
    result = subprocess.run([sys.executable, "-m", "pytest", "-q", f"tests/{CAUGHT_BY[bug]}"],
                            cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1, result.stdout
