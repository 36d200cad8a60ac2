"""What is true of the scripts as a family: the same idea is the same text, and each one lives."""

import ast
import copy
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

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

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    sac: TINY_RUN, td3: TINY_RUN,
    pixels: ("--env-id KeyToDoor-v0 --max-episode-steps 25 --num-envs 1 --total-timesteps 800"
             " --learning-starts 100 --eval-interval 250 --eval-episodes 2 --rnn-size 8"
             " --updates-per-step 0.06 --hidden-sizes 8 8 --embeddings 8 8 8 --batch-size 4"
             " --autotune").split(),
    ppo: ("--env-id Pendulum-V-v0 --max-episode-steps 10 --num-envs 2 --total-timesteps 320"
          " --eval-interval 100 --eval-episodes 2 --num-steps 16 --num-minibatches 2"
          " --update-epochs 2 --rnn-size 8 --hidden-sizes 8 8 --embeddings 4 2 8").split()}
every_sibling = pytest.mark.parametrize("script", [td3, ppo, pixels], ids=lambda s: s.__name__)

# Name -> why its text is not the same in two scripts that both have it.
MAY_DIFFER = {
    "Args": "the algorithm's own flags",
    "parse_args": "PPO has no published recipe, but A2C's defaults",
    "POMDP": "PPO takes discrete actions, too, and counts no goal as terminal",
    "Encoder": "where GRU is the default it is the one by hand, elsewhere torch's",
    "Actor": "a distribution, or one action", "Agent": "its networks",
    "actor_loss": "the algorithm", "update": "the algorithm",
    "COLUMNS": "the losses", "PRESETS": "tuned for each",
    "draw_curve": "PPO plays no random actions first",
    "alpha_loss": "the entropy is an estimate, or known",
    "PAPER_TRIAL": "the kind of memory",
    "PAPER": "the recipe of each", "PAPER_PRESETS": "the recipe of each",
    "train": "PPO has no buffer", "evaluate_run": "PPO's agent is told if actions are discrete",
}

PPO_MAY_DIFFER = {"Head": "no --bf16: its networks are too small to gain from it"}


def blocks(script):
    """-> name of each class, function and constant at module level -> its text."""
    text = Path(script.__file__).read_text()
    nodes = ast.parse(text).body
    named = {n.name: n for n in nodes if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
    named |= {n.targets[0].id: n for n in nodes if isinstance(n, ast.Assign)}
    return {name: ast.get_source_segment(text, n) for name, n in named.items()}


@pytest.mark.parametrize("one, other", list(combinations([sac, td3, ppo, pixels], 2)),
                         ids=lambda s: s.__name__)
def test_what_is_the_same_idea_is_the_same_text(one, other):
    a, b = blocks(one), blocks(other)
    common = a.keys() & b.keys() - MAY_DIFFER.keys()
    common -= PPO_MAY_DIFFER.keys() if ppo in (one, other) else set()
    assert [name for name in sorted(common) if a[name] != b[name]] == []
    assert len(common) >= 14


def test_the_run_flags_are_the_same_in_all_scripts():
    def run_flags(script):
        text = blocks(script)["Args"]
        lines = text.split("# --- the algorithm")[0].split("\n")
        return [line.split(":")[0].strip() for line in lines
                if ": " in line and "=" in line and '"""' not in line]

    off_policy = run_flags(sac)
    assert run_flags(td3) == run_flags(pixels) == off_policy
    assert run_flags(ppo) == [name for name in off_policy if name != "paper"]


def test_the_published_recipe_is_the_same_for_sac_and_td3_but_for_the_kind_of_memory():
    a, b = ({family: {k: v for k, v in preset.items() if k != "rnn"}
             for family, preset in script.PAPER_PRESETS.items()} for script in (sac, td3))
    assert a == b
    discrete = {"CartPole", "LunarLander", "KeyToDoor"}
    continuous = {env_id.split("-")[0] for env_id in envs.ENVIRONMENTS if "Catch" not in env_id}
    assert continuous - discrete == a.keys() == sac.PRESETS.keys() == td3.PRESETS.keys()


# --- EACH SIBLING'S LIFE --------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """-> function: script, flags -> folder of a new finished run in this process."""

    def start(script, *flags):
        runs_dir = tmp_path / f"runs{len(list(tmp_path.iterdir()))}"
        return script.main([*TINY[script], "--runs-dir", str(runs_dir), *map(str, flags)])

    return start


@every_sibling
@pytest.mark.parametrize("flags", [
    [], ["--policy", "markov"], ["--policy", "oracle"], ["--rnn", "lstm", "--inputs", "o"],
    ["--rnn", "gru", "--inputs", "oar"],
], ids=lambda f: " ".join(f) or "default")
def test_a_run_takes_gradient_steps_and_changes_every_weight(script, flags, run, monkeypatch):
    if script is pixels and "oracle" in flags:
        flags = [*flags, "--env-id", "CartPole-V-v0"]  # the pictures have no oracle view
    before = weights_before_the_first_update(script, monkeypatch)
    folder = run(script, *flags)
    after = torch.load(folder / "checkpoint.pt", weights_only=True)["agent"]
    assert [k for k, v in after.items() if torch.equal(v, before[0][k])] == []
    rows = read_metrics(folder)
    assert numbers(folder, "charts/updates")[-1] > 0 and rows[-1]["eval/return_mean"]
    for column in [c for c in script.COLUMNS if c.startswith("losses/")]:
        assert np.isfinite(numbers(folder, column)).all() and len(numbers(folder, column)) > 1


@every_sibling
def test_the_same_seed_gives_the_same_numbers_and_another_one_others(script, run):
    first = reproducible(run(script))
    assert reproducible(run(script)) == first
    assert reproducible(run(script, "--seed", 2)) != first


@every_sibling
def test_a_killed_run_resumes_to_the_numbers_of_an_unbroken_one(script, run, tmp_path):
    unbroken = run(script)
    (tmp_path / "killed").mkdir()
    command = [sys.executable, str(Path(script.__file__)), *TINY[script],
               "--runs-dir", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    folder = None
    while process.poll() is None:  # kill it between its second evaluation and its end
        folders = [f.parent for f in (tmp_path / "killed").glob("*/checkpoint.pt")]
        rows = read_metrics(folders[0]) if folders else []
        if sum(bool(r["eval/return_mean"]) for r in rows) >= 2 and len(rows) < 30:
            process.send_signal(signal.SIGKILL)
            folder = folders[0]
            break
        time.sleep(0.002)
    process.wait()
    assert folder and process.returncode == -signal.SIGKILL
    assert reproducible(folder) != reproducible(unbroken)
    script.main(["--resume", str(folder)])
    assert reproducible(folder) == reproducible(unbroken)


@pytest.mark.parametrize("script", [sac, td3, pixels, ppo], ids=lambda s: s.__name__)
def test_a_run_that_is_asked_to_stop_saves_and_resumes_and_ctrl_c_is_as_before(
        script, run, monkeypatch):
    handler, update = signal.getsignal(signal.SIGINT), script.update

    def press_ctrl_c(*args):
        monkeypatch.setattr(script, "update", update)
        signal.raise_signal(signal.SIGINT)
        return update(*args)

    unbroken = reproducible(run(script))
    monkeypatch.setattr(script, "update", press_ctrl_c)
    folder = run(script)
    assert signal.getsignal(signal.SIGINT) is handler
    assert 0 < len(reproducible(folder)) < len(unbroken)
    script.main(["--resume", str(folder)])
    if script is not ppo:  # whose lanes start anew
        assert reproducible(folder) == unbroken


@every_sibling
def test_evaluate_prints_the_last_evaluation_again(script, run, capsys):
    folder = run(script)
    capsys.readouterr()
    script.main(["--evaluate", str(folder)])
    assert capsys.readouterr().out.splitlines()[-1].endswith(
        f"held-out return {numbers(folder, 'eval/return_mean')[-1]:.2f} +- "
        f"{numbers(folder, 'eval/return_std')[-1]:.2f}")


@pytest.mark.parametrize("rnn", ["gru", "lstm"])
@pytest.mark.parametrize("script", [sac, td3, pixels], ids=lambda s: s.__name__)
def test_bf16_changes_the_precision_of_the_gradients_and_nothing_else(
        script, rnn, run, monkeypatch):
    gradients, update = [], script.update  # float32 and bfloat16, of the first update

    def in_both(agent, optimizer, *rest):
        for bf16 in (False, True) if not gradients else ():
            twin = copy.deepcopy(agent)
            torch.manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                update(twin, torch.optim.SGD(twin.parameters(), 0.0), *rest)
            gradients.append({k: p.grad for k, p in twin.named_parameters() if p.grad is not None})
        assert torch.is_autocast_enabled("cpu")
        return update(agent, optimizer, *rest)

    monkeypatch.setattr(script, "update", in_both)
    folder = run(script, "--bf16", "--rnn", rnn)
    exact, rounded = (torch.cat([g.flatten() for g in grads.values()]) for grads in gradients)
    assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()
    weights = torch.load(folder / "checkpoint.pt", weights_only=True)["agent"]
    assert all(w.dtype == torch.float32 and w.isfinite().all() for w in weights.values())


@pytest.mark.parametrize("script", [sac, td3, pixels], ids=lambda s: s.__name__)
def test_the_last_layer_is_not_rounded_by_bf16(script):
    layer, x = script.OutputLayer(4, 1), torch.full((1, 4), 1.0)
    with torch.no_grad():
        layer.weight.fill_(15.001)
        layer.bias.fill_(0.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x.bfloat16()).item() == pytest.approx(60.004, abs=1e-5)
        assert torch.nn.functional.linear(x, layer.weight).item() == 60  # what it would be


@pytest.mark.parametrize("script", [sac, ppo], ids=lambda s: s.__name__)
def test_other_environments_have_columns_of_their_own(script, run, capsys):
    same = "envs:Pendulum-V-v0"  # by another name
    folder = run(script, "--eval-env-ids", same)
    own, other = (numbers(folder, f"eval/return_mean{end}") for end in ("", f"@{same}"))
    assert (own == other).all() and len(own) > 2
    assert f"eval/return_mean@{same}: {own[-1]:.4g}" in capsys.readouterr().out
    script.main(["--evaluate", str(folder), "--eval-env-ids", "Pendulum-V-v0"])
    assert f"eval/return_mean@Pendulum-V-v0: {own[-1]:.4g}" in capsys.readouterr().out


BAD_FLAGS = {
    td3: {"--policy-noise -1": "--policy-noise -1", "--exploration-noise nan": "nan",
          "--policy-frequency 0": "--policy-frequency 0", "--gamma 2": "--gamma 2",
          "--env-id CartPole-V-v0": "Discrete(2)", "--learning-starts 320": "320"},
    ppo: {"--num-minibatches 3": "--num-envs 2", "--num-minibatches 0": "--num-minibatches 0",
          "--num-steps 0": "--num-steps 0", "--clip-coef 0": "--clip-coef 0",
          "--gae-lambda 2": "--gae-lambda 2", "--env-id Image-v0": "(8, 8, 3)",
          "--env-id Unbounded-v0": "inf", "--ent-coef -1": "--ent-coef -1",
          "--eval-env-ids Wind-v0 --env-id CartPole-V-v0": "2 actions of a Box"},
    pixels: {"--env-id Pendulum-V-v0": "rmf_sac_gru.py", "--target-entropy-ratio 2": "2",
             "--policy oracle": "KeyToDoor-v0", "--observe 0,1": "pictures",
             "--context-length 0": "from 1 up", "--paper --env-id Clock-v0": "Clock-v0"},
}


@pytest.mark.parametrize("script, flags", [(s, f) for s in BAD_FLAGS for f in BAD_FLAGS[s]])
def test_bad_flags_are_refused_in_a_line_that_names_them(script, flags, tmp_path):
    with pytest.raises(script.UsageError) as error:
        script.main([*TINY[script], *flags.split(), "--runs-dir", str(tmp_path / "runs")])
    message = str(error.value)
    assert BAD_FLAGS[script][flags] in message and flags.split()[0] in message
    assert "\n" not in message and not (tmp_path / "runs").exists()
