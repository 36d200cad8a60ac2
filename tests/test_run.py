"""What is true of a run: its folder, its numbers, and what is left when it is stopped."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    TINY_RUN,
    numbers,
    read_metrics,
    reproducible,
    snapshot,
    weights_before_the_first_update,
)
from PIL import Image

import rmf_sac_gru as rmf

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(tmp_path):
    """-> function: flags -> folder of a new finished run in this process."""

    def start(*flags):
        runs_dir = tmp_path / f"runs{len(list(tmp_path.iterdir()))}"
        return rmf.main([*TINY_RUN, "--runs-dir", str(runs_dir), *map(str, flags)])

    return start


def weights(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["agent"]


# --- LEARNING -------------------------------------------------------------------------------------

SHARED = ["published", "published-clipped", "critic-frozen", "critic-only"]


@pytest.mark.parametrize("flags", [
    ["--policy", "recurrent"], ["--policy", "markov"], ["--policy", "oracle"],
    ["--rnn", "lstm", "--inputs", "oar"], ["--anneal-lr", "0.5", "--context-length", "4"],
    *(["--shared-encoder", shared] for shared in SHARED),
], ids=" ".join)
def test_a_run_takes_gradient_steps_and_changes_every_weight(flags, run, monkeypatch):
    before = weights_before_the_first_update(rmf, monkeypatch)
    folder = run(*flags)
    assert [k for k, v in weights(folder).items() if torch.equal(v, before[0][k])] == []
    assert numbers(folder, "charts/updates")[-1] == int(0.16 * 280)  # 280 steps are learnt from
    assert np.isfinite(numbers(folder, "losses/qf_loss")).all()


def test_wind_with_its_preset_and_native_lanes_runs(tmp_path, capsys):
    flags = "--total-timesteps 900 --num-envs 2 --learning-starts 300 --eval-episodes 20"
    folder = rmf.main([*flags.split(), "--runs-dir", str(tmp_path)])
    preset, flags = capsys.readouterr().out.splitlines()[:2]
    assert "Wind" in preset and "gamma=0.9" in preset and "rnn_size=64" in preset
    assert "num_envs=2" in flags and "gamma" not in flags
    assert (numbers(folder, "charts/episodic_length") == 75).all()
    assert len(numbers(folder, "eval/success_rate")) >= 2


def test_a_temperature_that_is_learnt_is_not_annealed(run):
    learnt, both = (numbers(run("--autotune", *flags), "losses/alpha")
                    for flags in ([], ["--anneal-alpha"]))
    assert learnt.tolist() == both.tolist() and learnt.min() > 0.9


# --- RUN FOLDER -----------------------------------------------------------------------------------


def test_a_finished_run_leaves_four_files(tiny_run):
    names = {"config.json", "metrics.csv", "learning_curve.png", "checkpoint.pt"}
    assert {p.name for p in tiny_run.iterdir()} == names  # no buffer, no temporary file
    with Image.open(tiny_run / "learning_curve.png") as picture:
        picture.verify()
        assert picture.format == "PNG" and picture.width > 300


def test_a_run_needs_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = rmf.new_run_folder(rmf.Args(runs_dir=str(tmp_path / "runs")))
    assert json.loads((folder / "config.json").read_text())["git_commit"] == ""


def test_ctrl_c_is_given_back_when_a_run_breaks(tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(rmf, "update", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rmf.main([*TINY_RUN, "--runs-dir", str(tmp_path)])
    assert signal.getsignal(signal.SIGINT) == before


def test_config_holds_every_argument(tiny_run):
    saved = rmf.load_config(tiny_run, "--resume")
    flags = rmf.parse_args([*TINY_RUN, "--runs-dir", str(tiny_run.parent)])
    assert saved == flags and saved.num_envs == 2 and saved.inputs == "oar"


def test_metrics_have_the_documented_columns_and_an_evaluation_in_the_last_row(tiny_run):
    assert (tiny_run / "metrics.csv").read_text().splitlines()[0] == ",".join(rmf.COLUMNS)
    rows = read_metrics(tiny_run)
    assert [int(row["env_step"]) for row in rows] == list(range(0, 321, 20))
    evaluated = [int(row["env_step"]) for row in rows if row["eval/return_mean"]]
    assert evaluated == [0, 100, 200, 300, 320]
    for row in rows:
        assert bool(row["eval/return_std"]) == (int(row["env_step"]) in evaluated)
        assert bool(row["losses/qf_loss"]) == (int(row["env_step"]) > 40)
        assert row["eval/success_rate"] == ""  # Pendulum knows of none


def test_the_last_line_names_the_folder_and_the_mean(run, capsys):
    folder = run()
    last = capsys.readouterr().out.splitlines()[-1]
    mean = numbers(folder, "eval/return_mean")[-1]
    assert last.startswith(str(folder)) and f"{mean:.2f}" in last


# --- REPRODUCTION ---------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_numbers_and_another_one_others(run, tiny_run):
    assert reproducible(run()) == reproducible(tiny_run)
    assert reproducible(run("--seed", 2)) != reproducible(tiny_run)


def test_evaluation_does_not_disturb_training(run, tiny_run):
    folder = run("--eval-interval", 40, "--eval-episodes", 3)
    for column in ("losses/qf_loss", "losses/entropy", "charts/episodic_return"):
        assert numbers(folder, column).tolist() == numbers(tiny_run, column).tolist()
    assert len(numbers(folder, "eval/return_mean")) > len(numbers(tiny_run, "eval/return_mean"))


# --- STOPPED RUNS ---------------------------------------------------------------------------------

STOP = """
import os, signal, sys, rmf_sac_gru as rmf
owner, name, count = {moment}
function = getattr(owner, name)
def replaced(*args, **kwargs):
    global count
    count -= 1
    if count == 0:
        os.kill(os.getpid(), {signal})
    return function(*args, **kwargs)
setattr(owner, name, replaced)
rmf.main(sys.argv[1:])
"""
MOMENTS = {  # the n-th call of a function of the script, just before it does its work
    "plays its first episode": "rmf.POMDP, 'step', 15",
    "learns": "rmf, 'update', 20",
    "evaluates": "rmf, 'evaluate', 3",
    "has written a checkpoint but not named it": "os, 'replace', 7",
}


def stopped_run(signal_number, moment, runs_dir):
    """-> the process and the run folder it left."""
    code = STOP.format(signal=int(signal_number), moment=MOMENTS[moment])
    process = subprocess.run(
        [sys.executable, "-c", code, *TINY_RUN, "--runs-dir", str(runs_dir)], cwd=ROOT,
        capture_output=True, text=True, timeout=120)
    (folder,) = runs_dir.iterdir()
    return process, folder


def assert_equal_runs(folder, other):
    assert reproducible(folder) == reproducible(other)
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert {p.name for p in folder.iterdir()} == {p.name for p in other.iterdir()}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_to_the_numbers_of_an_unbroken_one(moment, tmp_path, tiny_run):
    process, folder = stopped_run(signal.SIGKILL, moment, tmp_path)
    assert process.returncode == -signal.SIGKILL
    assert numbers(folder, "env_step")[-1] < 320
    assert rmf.main(["--resume", str(folder)]) == folder
    assert_equal_runs(folder, tiny_run)


@pytest.mark.parametrize("moment", ["learns", "evaluates"])
def test_ctrl_c_saves_and_the_run_goes_on_to_the_same_numbers(moment, tmp_path, tiny_run):
    process, folder = stopped_run(signal.SIGINT, moment, tmp_path)
    assert process.returncode == 0 and process.stderr == ""
    assert process.stdout.splitlines()[-1] == f"stopped; go on with --resume {folder}"
    assert 0 < numbers(folder, "env_step")[-1] < 320
    before = (folder / "metrics.csv").read_text()
    rmf.main(["--resume", str(folder)])
    assert (folder / "metrics.csv").read_text().startswith(before)  # no round is played again
    assert_equal_runs(folder, tiny_run)


# --- EXTRAS ---------------------------------------------------------------------------------------


def test_evaluate_repeats_the_last_evaluation_and_changes_nothing(tiny_run, capsys):
    before = snapshot(tiny_run)
    rmf.main(["--evaluate", str(tiny_run)])
    printed = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    last = {k: v for k, v in read_metrics(tiny_run)[-1].items() if k.startswith("eval/") and v}
    assert len(last) == 3
    assert {k: printed[k] for k in last} == {k: f"{float(v):.4g}" for k, v in last.items()}
    assert snapshot(tiny_run) == before


def test_evaluate_takes_another_seed_and_more_episodes(tiny_run, capsys):
    rmf.main(["--evaluate", str(tiny_run), "--seed", "5", "--eval-episodes", "7"])
    mean = float(capsys.readouterr().out.split()[1])  # eval/return_mean: ...
    assert mean != pytest.approx(numbers(tiny_run, "eval/return_mean")[-1], rel=1e-3)


def test_capture_video_writes_an_animated_gif(tmp_path):
    flags = "--total-timesteps 300 --num-envs 1 --learning-starts 75 --eval-episodes 1"
    folder = rmf.main([*flags.split(), "--capture-video", "--runs-dir", str(tmp_path)])
    with Image.open(folder / "episode.gif") as gif:
        assert gif.format == "GIF" and gif.n_frames > 10
        gif.seek(gif.n_frames - 1)


def test_track_writes_an_offline_wandb_run_beside_the_same_numbers(run, tiny_run):
    folder = run("--track")
    (offline,) = (folder / "wandb").glob("offline-run-*")
    assert list(offline.glob("*.wandb"))
    assert reproducible(folder) == reproducible(tiny_run)
