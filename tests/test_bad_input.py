"""What is said, and what is left untouched, when something is asked for that cannot be done."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toy_envs  # noqa: F401  (registers the ids)
from conftest import TINY_RUN, snapshot

import rmf_sac_gru as rmf

ROOT = Path(__file__).resolve().parents[1]

# Flags -> what the message has to name.
BAD_FLAGS = {
    "--env-id Nowhere-v0": ["--env-id Nowhere-v0"],
    "--env-id no_such_module:Wind-v0": ["--env-id no_such_module:Wind-v0", "no_such_module"],
    "--env-id CartPole-V-v0": ["--env-id CartPole-V-v0", "Discrete(2)"],
    "--env-id Image-v0": ["--env-id Image-v0", "(8, 8, 3)"],
    "--env-id Dict-v0": ["--env-id Dict-v0", "Dict"],
    "--env-id Unbounded-v0": ["--env-id Unbounded-v0", "inf"],
    "--seed -1": ["--seed -1", "from 0 up"],
    "--num-envs 0": ["--num-envs 0", "from 1 up"],
    "--eval-episodes 0": ["--eval-episodes 0"],
    "--eval-interval 0": ["--eval-interval 0"],
    "--context-length 0": ["--context-length 0", "from 1 up"],
    "--max-episode-steps 0": ["--max-episode-steps 0"],
    "--td-lambda 1.5": ["--td-lambda 1.5", "from 0 to 1"],
    "--gamma -1": ["--gamma -1", "from 0 to 1"],
    "--gamma nan": ["--gamma nan"],
    "--tau 2": ["--tau 2"],
    "--rewarded-fraction 1.1": ["--rewarded-fraction 1.1"],
    "--flicker 1.0": ["--flicker 1.0"],
    "--learning-rate nan": ["--learning-rate nan"],
    "--learning-rate inf": ["--learning-rate inf"],
    "--learning-rate 0": ["--learning-rate 0"],
    "--updates-per-step 0": ["--updates-per-step 0"],
    "--rnn-size 0": ["--rnn-size 0"],
    "--hidden-sizes 8 0": ["--hidden-sizes", "0"],
    "--embeddings 0 2 2": ["--embeddings", "0"],
    "--eval-env-ids Nope-v0": ["--eval-env-ids Nope-v0"],
    "--eval-env-ids Pendulum-V-v0 Wind-v0": ["--eval-env-ids Wind-v0", "2", "Pendulum-V-v0", "1"],
    "--observe 0,5": ["--observe 0,5", "0 to 0"],  # Pendulum-V-v0 shows one entry
    "--observe 0;1": ["--observe 0;1", "0,1,4"],
    "--observe 0,,1": ["--observe 0,,1"],
    "--observe=-1": ["--observe -1"],
    "--policy oracle --env-id Clock-v0": ["--policy oracle", "Clock-v0"],
    "--learning-starts 320": ["--learning-starts 320", "--total-timesteps 320"],
    "--policy markov --shared-encoder published": ["--shared-encoder published", "markov"],
    "--capture-video --env-id Clock-v0": ["--capture-video", "Clock-v0"],  # it draws no pictures
    "--capture-video --env-id Blank-v0": ["--capture-video", "Blank-v0"],
    "--paper --env-id Clock-v0": ["--paper", "Clock-v0"],
}


def refused(argv):
    """-> the one line that main(argv) refuses with."""
    with pytest.raises(rmf.UsageError) as error:
        rmf.main(argv)
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
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


def test_a_run_that_ends_without_an_update_says_so(tmp_path):
    """Rounds are whole episodes, 2 x 10 steps here: 39 random steps are 40."""
    message = refused([*TINY_RUN, "--learning-starts", "39", "--total-timesteps", "40",
                       "--runs-dir", str(tmp_path)])
    assert "--total-timesteps 40" in message and "without an update" in message


def test_help_shows_the_defaults_of_the_environment_that_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        rmf.main(["--env-id", "Wind-v0", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert str(rmf.PRESETS["Wind"]["total_timesteps"]) in shown and "--td-lambda" in shown


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


DAMAGE = {  # what happened to the folder -> what it does, and what the message has to name
    "no folder": (shutil.rmtree, ["config.json"]),
    "no config": (lambda f: (f / "config.json").unlink(), ["config.json"]),
    "config is no JSON": (lambda f: keep_half(f / "config.json"), ["config.json"]),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), ["config.json"]),
    "config is not text": (lambda f: (f / "config.json").write_bytes(b"\xff\x00"), ["config.json"]),
    "config with an unknown field": (edit_config(args={"dropped": 1}), ["config.json"]),
    "config with a bad value": (edit_config(args={"gamma": 7}), ["gamma"]),
    "run of another script": (edit_config(script="rmf_td3_lstm.py"), ["rmf_td3_lstm.py"]),
    "run in another environment": (edit_config(args={"env_id": "toy_envs:Clock-v0"}),
                                   ["checkpoint.pt", "another environment"]),
    "no checkpoint": (lambda f: (f / "checkpoint.pt").unlink(), ["checkpoint.pt"]),
    "cut checkpoint": (lambda f: keep_half(f / "checkpoint.pt"), ["checkpoint.pt"]),
    "random checkpoint": (lambda f: (f / "checkpoint.pt").write_bytes(os.urandom(5000)),
                          ["checkpoint.pt"]),
    "empty checkpoint": (lambda f: (f / "checkpoint.pt").write_bytes(b""), ["checkpoint.pt"]),
}


@pytest.fixture
def folder(tiny_run, tmp_path):
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_folder_is_named_and_stays_as_it_is(damage, flag, folder):
    harm, expected = DAMAGE[damage]
    harm(folder)
    before = snapshot(folder)
    message = refused([flag, str(folder)])
    assert [part for part in expected if part not in message] == [], message
    if damage != "config with a bad value":
        assert f"{flag} {folder}" in message
    assert snapshot(folder) == before


@pytest.mark.parametrize("flags", [
    ["--resume", "{}", "--gamma", "0.5"], ["--resume", "{}", "--seed", "2"],
    ["--evaluate", "{}", "--rnn-size", "9"], ["--evaluate", "{}", "--policy", "markov"],
], ids=" ".join)
def test_a_run_does_not_go_on_with_other_arguments(flags, folder):
    before = snapshot(folder)
    message = refused([f.format(folder) for f in flags])
    assert " ".join(flags[2:]) in message and flags[0] in message
    assert snapshot(folder) == before


def test_a_finished_run_is_not_resumed(folder):
    before = snapshot(folder)
    message = refused(["--resume", str(folder)])
    assert f"--resume {folder}" in message and "complete" in message
    assert snapshot(folder) == before


@pytest.mark.parametrize("file", ["buffer.bin", "metrics.csv"])
def test_a_run_with_a_file_that_was_deleted_is_not_resumed(file, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def killed(*_):
        raise Killed

    monkeypatch.setattr(rmf, "update", killed)
    with pytest.raises(Killed):
        rmf.main([*TINY_RUN, "--eval-interval", "20", "--runs-dir", str(tmp_path)])
    (folder,) = tmp_path.iterdir()
    (folder / file).unlink()
    before = snapshot(folder)
    message = refused(["--resume", str(folder)])
    assert file in message and f"--resume {folder}" in message and snapshot(folder) == before


# --- ON THE TERMINAL ------------------------------------------------------------------------------


@pytest.mark.parametrize("flags, expected", [
    ("--env-id toy_envs:Dict-v0", "--env-id toy_envs:Dict-v0"),
    ("--env-id Windy-v0", "--env-id Windy-v0"),
    ("--td-lambda 1.5", "--td-lambda 1.5"),
    ("--evaluate nowhere", "--evaluate nowhere"),
])
def test_a_mistake_costs_one_line_and_a_status_but_no_traceback(flags, expected, tmp_path):
    process = subprocess.run(
        [sys.executable, ROOT / "rmf_sac_gru.py", *flags.split()], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")}, capture_output=True, text=True,
        timeout=120)
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ") and expected in line
    assert process.returncode != 0 and list(tmp_path.iterdir()) == []
