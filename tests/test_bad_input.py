"""What is said, and what is left untouched, when something is asked for that cannot be done."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy_envs  # noqa: F401  (registers the ids)
from conftest import TINY_RUN, snapshot, stops_at

import rmf_sac_gru as rmf
from envs import UnusableEnv
from run import UsageError, load_checkpoint, parse_args

ROOT = Path(__file__).resolve().parents[1]

# Flags -> what the message has to name.
BAD_FLAGS = {
    "--env-id Nowhere-v0": ["--env-id Nowhere-v0"],
    "--env-id no_such_module:Wind-v0": ["--env-id no_such_module:Wind-v0", "no_such_module"],
    "--env-id CartPole-V-v0": ["--env-id CartPole-V-v0", "Discrete(2)", "discrete_pixels.py"],
    "--env-id Image-v0": ["--env-id Image-v0", "(8, 8, 3)", "discrete_pixels.py"],
    "--env-id Dict-v0": ["--env-id Dict-v0", "Dict"],
    "--env-id Unbounded-v0": ["--env-id Unbounded-v0", "inf"],
    "--seed -1": ["--seed -1", "from 0 up"],
    "--seed 2147483648": ["--seed 2147483648", "below 2**31"],
    "--num-envs 0": ["--num-envs 0", "from 1 up"],
    "--total-timesteps 0": ["--total-timesteps 0", "from 1 up"],
    "--eval-episodes 0": ["--eval-episodes 0"],
    "--eval-interval 0": ["--eval-interval 0"],
    "--context-length 0": ["--context-length 0", "from 1 up"],
    "--td-lambda 1.5": ["--td-lambda 1.5", "from 0 to 1"],
    "--gamma -1": ["--gamma -1", "from 0 to 1"],
    "--gamma nan": ["--gamma nan"],
    "--tau 2": ["--tau 2"],
    "--rewarded-fraction 1.1": ["--rewarded-fraction 1.1"],
    "--flicker 1.1": ["--flicker 1.1", "from 0 to 1"],
    "--learning-rate nan": ["--learning-rate nan"],
    "--learning-rate inf": ["--learning-rate inf"],
    "--learning-rate 0": ["--learning-rate 0"],
    "--updates-per-step 0": ["--updates-per-step 0"],
    "--anneal-lr 2": ["--anneal-lr 2", "from 0 to 1"],
    "--alpha 0": ["--alpha 0", "above 0"],
    "--alpha nan": ["--alpha nan", "above 0"],
    "--batch-size 0": ["--batch-size 0", "from 1 up"],
    "--buffer-size 0": ["--buffer-size 0", "from 1 up"],
    "--rnn-size 0": ["--rnn-size 0"],
    "--hidden-sizes 8 0": ["--hidden-sizes", "0"],
    "--embeddings 0 2 2": ["--embeddings", "0"],
    "--observe 0,5": ["--observe 0,5", "0 to 0"],  # one entry is shown
    "--observe 0;1": ["--observe 0;1", "0,1,4"],
    "--observe 0,,1": ["--observe 0,,1"],
    "--observe=-1": ["--observe -1"],
    "--policy oracle --env-id Clock-v0": ["--policy oracle", "Clock-v0"],
    "--learning-starts 320": ["--learning-starts 320", "--total-timesteps 320"],
    "--capture-video --env-id Clock-v0": ["--capture-video", "Clock-v0"],  # it draws no pictures
    "--capture-video --env-id Blank-v0": ["--capture-video", "Blank-v0"],
    "--paper --env-id Clock-v0": ["--paper", "Clock-v0"],
}


def refused(argv):
    """-> the one line that main(argv) refuses with."""
    with pytest.raises((UsageError, UnusableEnv)) as error:
        rmf.main(argv)
    message = str(error.value)
    assert message.startswith("error: ") and "\n" not in message and len(message) < 500
    return message


@pytest.mark.parametrize("flags", BAD_FLAGS)
def test_a_bad_flag_is_named_with_its_value_and_no_folder_is_made(flags, tmp_path):
    message = refused([*TINY_RUN, "--runs-dir", str(tmp_path / "runs"), *flags.split()])
    assert [part for part in BAD_FLAGS[flags] if part not in message] == [], message
    assert list(tmp_path.iterdir()) == []


def test_a_runs_dir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "taken").write_text("mine")
    message = refused([*TINY_RUN, "--runs-dir", str(tmp_path / "taken")])
    assert f"--runs-dir {tmp_path / 'taken'}" in message
    assert (tmp_path / "taken").read_text() == "mine"


def test_tracking_online_without_a_key_is_said_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    message = refused([*TINY_RUN, "--track", "--runs-dir", str(tmp_path)])
    assert message.startswith("error: --track: ") and "WANDB_MODE" in message


def test_a_run_that_ends_without_an_update_says_so(tmp_path, no_pictures):
    """Rounds are whole episodes, 2 x 10 steps here: 39 random steps are 40."""
    message = refused([*TINY_RUN, "--learning-starts", "39", "--total-timesteps", "40",
                       "--runs-dir", str(tmp_path)])
    assert "--total-timesteps 40" in message and "without an update" in message


def test_help_shows_the_defaults_of_the_environment_that_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        rmf.main(["--env-id", "Wind-v0", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "187500" in shown and "--td-lambda" in shown  # of 200000, the default
    assert rmf.__doc__.splitlines()[0] in shown


@pytest.mark.parametrize("flags", ["--alpha often", "--rnn transformer", "--hidden-sizes 8 x"])
def test_a_word_that_is_no_value_of_a_flag_ends_with_status_2(flags, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        rmf.main([*TINY_RUN, "--runs-dir", str(tmp_path / "runs"), *flags.split()])
    assert stop.value.code == 2 and flags.split()[0] in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_resume_and_evaluate_exclude_each_other(tiny_run):
    assert "--evaluate" in refused(["--resume", str(tiny_run), "--evaluate", str(tiny_run)])


# --- RUN FOLDERS ----------------------------------------------------------------------------------


def keep_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit_config(**changes):
    def edit(folder):
        config = json.loads((folder / "config.json").read_text())
        for key, value in changes.items():
            config[key] = config[key] | value if key == "args" else value
        (folder / "config.json").write_text(json.dumps(config))
    return edit


def edit_checkpoint(edit):
    def damage(folder):
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)
        edit(saved)
        torch.save(saved, folder / "checkpoint.pt")
    return damage


DAMAGE = {  # what happened to the folder -> what it does, and what the message has to name
    "no folder": (shutil.rmtree, ["config.json"]),
    "no config": (lambda f: (f / "config.json").unlink(), ["config.json"]),
    "config is no JSON": (lambda f: keep_half(f / "config.json"), ["config.json"]),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), ["config.json"]),
    "config is not text": (lambda f: (f / "config.json").write_bytes(b"\xff\x00"), ["config.json"]),
    "config with an unknown field": (edit_config(args={"dropped": 1}), ["config.json"]),
    "config with a bad value": (edit_config(args={"gamma": 7}), ["gamma"]),
    "run of another script": (edit_config(script="rmf_td3_lstm.py"), ["rmf_td3_lstm.py"]),
    "run in another environment": (edit_config(args={"env_id": "Clock-v0"}),
                                   ["checkpoint.pt", "another environment"]),
    "networks of other sizes": (edit_config(args={"rnn_size": 9}), ["checkpoint.pt"]),
    "no checkpoint": (lambda f: (f / "checkpoint.pt").unlink(), ["checkpoint.pt"]),
    "cut checkpoint": (lambda f: keep_half(f / "checkpoint.pt"), ["checkpoint.pt"]),
    "random checkpoint": (lambda f: (f / "checkpoint.pt").write_bytes(os.urandom(5000)),
                          ["checkpoint.pt"]),
    "empty checkpoint": (lambda f: (f / "checkpoint.pt").write_bytes(b""), ["checkpoint.pt"]),
    "checkpoint without an agent": (edit_checkpoint(lambda c: c["things"].pop("agent")),
                                    ["checkpoint.pt"]),
}
OF_A_STOPPED_RUN = {  # what only --resume needs
    "no metrics": (lambda f: (f / "metrics.csv").unlink(), ["metrics.csv"]),
    "cut metrics": (lambda f: keep_half(f / "metrics.csv"), ["metrics.csv"]),
    "metrics are not text": (lambda f: (f / "metrics.csv").write_bytes(b"\xff\x00"),
                             ["metrics.csv"]),
    "checkpoint without a buffer": (edit_checkpoint(lambda c: c["things"].pop("buffer")),
                                    ["checkpoint.pt", "buffer"]),
    "buffer that was cut": (edit_checkpoint(lambda c: c["things"]["buffer"].update(
        rows=c["things"]["buffer"]["rows"][:-1])), ["checkpoint.pt"]),
}
CASES = [(damage, flag) for damage in DAMAGE for flag in ("--resume", "--evaluate")]
CASES += [(damage, "--resume") for damage in OF_A_STOPPED_RUN]


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory):
    """Folder of a TINY_RUN that ended after its checkpoint at 200 steps. Read only."""
    runs_dir = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(rmf, "update", stops_at(30, rmf.update, Killed))
        rmf.main([*TINY_RUN, "--runs-dir", str(runs_dir)])
    (folder,) = runs_dir.iterdir()
    return folder


@pytest.fixture
def copy(tmp_path):
    return lambda folder: Path(shutil.copytree(folder, tmp_path / "run"))


@pytest.mark.parametrize("damage, flag", CASES)
def test_a_damaged_run_folder_is_named_and_stays_as_it_is(
        damage, flag, copy, tiny_run, stopped_run):
    folder = copy(stopped_run if flag == "--resume" else tiny_run)
    harm, expected = (DAMAGE | OF_A_STOPPED_RUN)[damage]
    harm(folder)
    before = snapshot(folder)
    message = refused([flag, str(folder), *(
        TINY_RUN[:2] if damage != "run in another environment" else [])])
    assert [part for part in expected if part not in message] == [], message
    if damage != "config with a bad value":
        assert f"{flag} {folder}" in message
    assert snapshot(folder) == before


def test_what_the_cases_of_damage_begin_with_is_not_damaged(
        copy, stopped_run, no_pictures, capsys):
    folder = copy(stopped_run)
    assert load_checkpoint(folder, "--resume")["env_step"] == 200
    rmf.main([*TINY_RUN[:2], "--evaluate", str(folder)])  # one that was stopped can be evaluated
    assert "(100 episodes, standard error" in capsys.readouterr().out.splitlines()[-1]
    assert rmf.main([*TINY_RUN[:2], "--resume", str(folder)]) == folder


@pytest.mark.parametrize("flags", [
    ["--resume", "{}", "--gamma", "0.5"], ["--resume", "{}", "--seed", "2"],
    ["--resume", "{}", "--env-id", "Pendulum-V-v0"], ["--resume", "{}", "--alpha", "0.1"],
    ["--resume", "{}", "--hidden-sizes", "8"],
    ["--evaluate", "{}", "--rnn-size", "9"], ["--evaluate", "{}", "--policy", "markov"],
], ids=" ".join)
def test_a_run_does_not_go_on_with_other_arguments(flags, copy, tiny_run, stopped_run):
    folder = copy(stopped_run if flags[0] == "--resume" else tiny_run)
    before = snapshot(folder)
    same = [] if "--env-id" in flags else TINY_RUN[:2]
    message = refused([*same, *(f.format(folder) for f in flags)])
    assert flags[2] in message and flags[0] in message and flags[3].strip("()") in message
    assert snapshot(folder) == before


def test_what_does_not_change_the_numbers_may_change(stopped_run, tiny_run):
    new = "--track --capture-video --no-cuda"
    args = parse_args(rmf.Args, "rmf_sac_gru", [
        *TINY_RUN[:2], "--resume", str(stopped_run), "--total-timesteps", "999", *new.split()])
    assert args.total_timesteps == 999
    assert args.track and args.capture_video and not args.cuda and args.rnn_size == 8
    new += " --eval-episodes 7 --seed 5 --env-id Pendulum-V-v0"
    args = parse_args(rmf.Args, "rmf_sac_gru", ["--evaluate", str(tiny_run), *new.split()])
    assert args.eval_episodes == 7 and args.seed == 5 and args.env_id == "Pendulum-V-v0"


@pytest.mark.parametrize("env_id, expected", [
    ("Pendulum-P-v0", "another environment"),  # two observations, not one
    ("Wind-v0", "another environment"), ("CartPole-V-v0", "Discrete"), ("Nowhere-v0", "Nowhere")])
def test_an_evaluation_in_an_environment_that_does_not_fit_is_refused(env_id, expected, tiny_run):
    before = snapshot(tiny_run)
    assert expected in refused(["--evaluate", str(tiny_run), "--env-id", env_id])
    assert snapshot(tiny_run) == before


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
def test_a_run_folder_does_not_decide_which_module_is_imported(flag, copy, stopped_run, tmp_path):
    """Who sends a folder has written its config.json, and may have put a module beside it."""
    folder = copy(stopped_run)
    edit_config(args={"env_id": "bad_module:Bad-v0"})(folder)
    (tmp_path / "bad_module.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')")
    process = subprocess.run([sys.executable, ROOT / "rmf_sac_gru.py", flag, folder], cwd=tmp_path,
                             capture_output=True, text=True, timeout=120)
    assert process.returncode == 1 and not (tmp_path / "harm").exists()
    assert process.stderr == (
        f"error: {flag}: add --env-id bad_module:Bad-v0, if you trust that module\n")


def test_a_finished_run_is_not_resumed(copy, tiny_run):
    folder = copy(tiny_run)
    before = snapshot(folder)
    message = refused([*TINY_RUN[:2], "--resume", str(folder)])
    assert f"--resume {folder}" in message and "complete" in message
    assert snapshot(folder) == before


def test_an_endless_episode_ends_a_run_with_one_line(tmp_path, monkeypatch, no_pictures):
    def late(lanes, seed, reset=rmf.envs.FlatLanes.reset):
        obs = reset(lanes, seed)
        lanes.age += 99_950
        return obs

    monkeypatch.setattr(rmf.envs.FlatLanes, "reset", late)
    message = refused([*TINY_RUN, "--env-id", "ClockEndless-v0", "--runs-dir", str(tmp_path)])
    assert "--env-id ClockEndless-v0" in message and "max_episode_steps" in message


# --- ON THE TERMINAL ------------------------------------------------------------------------------


@pytest.mark.parametrize("flags, expected", [
    ("--env-id toy_envs:Dict-v0", "--env-id toy_envs:Dict-v0"),
    ("--td-lambda 1.5", "--td-lambda 1.5"),
    ("--evaluate nowhere", "--evaluate nowhere"),
])
def test_a_mistake_costs_one_line_and_a_status_but_no_traceback(flags, expected, tmp_path):
    process = subprocess.run(
        [sys.executable, ROOT / "rmf_sac_gru.py", *flags.split()], cwd=tmp_path,
        capture_output=True, text=True, timeout=120)
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ") and expected in line
    assert process.returncode != 0 and list(tmp_path.iterdir()) == []
