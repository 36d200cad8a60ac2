"""What is true of the grid runner: what is finished is kept, what broke goes on."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import pytest
from conftest import TINY_RUN, reproducible
from PIL import Image

import rmf_sac_gru as rmf
from run import load_config, parse_args

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "experiments"))
import generalize  # noqa: E402
import grid  # noqa: E402
import robust_ppo  # noqa: E402

FLAGS = dict(zip(TINY_RUN[::2], TINY_RUN[1::2]))
TABLE = '''
script = "rmf_sac_gru.py"
seeds = [1]
num_envs = 2
total_timesteps = 320
learning_starts = 40
eval_interval = 40
eval_episodes = 2
updates_per_step = 0.16
rnn_size = 8
batch_size = 4
hidden_sizes = [[8, 8]]
[[run]]
env_id = "toy_envs:PendulumShort-v0"
policy = ["recurrent", "markov", "oracle"]
'''


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.toml"
    path.write_text(TABLE)
    return path


def command(table, *flags):
    return [sys.executable, "experiments/grid.py", str(table), "--runs-dir",
            str(table.parent / "runs"), *flags]


def run_folders(table):
    """Name of a job -> its run folders."""
    return {p.name: sorted(f for f in p.iterdir() if f.is_dir())
            for p in (table.parent / "runs").iterdir()}


def test_a_table_is_the_product_of_its_lists():
    jobs = grid.jobs_of({
        "script": "rmf_sac_gru.py", "seeds": [1, 2],
        "run": [{"env_id": "Wind-v0", "policy": ["markov", "oracle"], "paper": True},
                {"env_id": ["A-v0"], "hidden_sizes": [[4, 5]], "cuda": [False],
                 "seeds": [7]}]})
    assert len(jobs) == 2 * 2 + 1
    assert ["rmf_sac_gru.py", "--env-id", "Wind-v0", "--policy", "oracle", "--paper",
            "--seed", "2"] in jobs.values()
    assert ["rmf_sac_gru.py", "--env-id", "A-v0", "--hidden-sizes", "4", "5", "--no-cuda",
            "--seed", "7"] in jobs.values()


def test_a_list_of_scripts_is_one_run_for_each():
    jobs = grid.jobs_of({"script": ["rmf_sac_gru.py", "rmf_td3_lstm.py"], "run": [{"gamma": 0.9}]})
    assert [job[0] for job in jobs.values()] == ["rmf_sac_gru.py", "rmf_td3_lstm.py"]


def test_the_tables_of_the_lessons_hold_runs_that_their_scripts_accept():
    import importlib

    for path in sorted((ROOT / "experiments" / "lessons").glob("*.toml")):
        jobs = grid.jobs_of(grid.tomllib.loads(path.read_text()))
        assert jobs
        for script, *flags in {tuple(job[:-2]) for job in jobs.values()}:  # one of the seeds
            name = Path(script).stem
            parse_args(importlib.import_module(name).Args, name, flags)


def test_what_is_done_of_a_job_and_where_to_go_on(tmp_path):
    assert grid.state_of(tmp_path) == (0.0, None)
    older, run = tmp_path / "run-1", tmp_path / "run-2"
    for folder in (older, run):
        folder.mkdir()
        (folder / "config.json").write_text('{"args": {"total_timesteps": 200}}')
    assert grid.state_of(tmp_path) == (0.0, run)  # killed before its first row and checkpoint
    (run / "metrics.csv").write_text("seconds,env_step\n9,0\n10,100\n")
    assert grid.state_of(tmp_path) == (0.5, run)
    (run / "checkpoint.pt").write_text("")
    assert grid.state_of(tmp_path)[0] < 1  # an empty checkpoint finishes nothing
    (run / "checkpoint.pt").write_text("weights")
    os.utime(run / "checkpoint.pt", (1, 1))
    (run / "metrics.csv").write_text("seconds,env_step\n9,0\n10,210\n")
    assert grid.state_of(tmp_path) == (0.99, run)  # the last row, not yet its checkpoint
    os.utime(run / "checkpoint.pt")
    assert grid.state_of(tmp_path) == (1.0, run)


def test_killed_with_its_workers_it_resumes_what_broke_and_keeps_what_is_finished(table):
    process = subprocess.Popen(command(table, "--workers", "2"), cwd=ROOT, start_new_session=True,
                               stdout=subprocess.DEVNULL)
    jobs = grid.jobs_of(grid.tomllib.loads(TABLE))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # kill all when one is done and another one is under way
        shares = [grid.state_of(table.parent / "runs" / name)[0] for name in jobs]
        if 1.0 in shares and any(0 < share < 1 for share in shares):
            break
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {name: (folders[0] / "metrics.csv").stat().st_mtime_ns
                for name, folders in run_folders(table).items()
                if grid.state_of(table.parent / "runs" / name)[0] == 1}
    assert 1 <= len(finished) < 3
    out = subprocess.run(command(table, "--workers", "2"), cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stdout + out.stderr
    assert out.stdout.startswith(f"3 runs, {len(finished)} finished before")
    for name, folders in run_folders(table).items():
        assert grid.state_of(table.parent / "runs" / name)[0] == 1
        if name in finished:
            assert (folders[0] / "metrics.csv").stat().st_mtime_ns == finished[name]
    # The numbers are those of unbroken runs.
    for name, (script, *flags) in jobs.items():
        unbroken = rmf.main([*flags, "--runs-dir", str(table.parent / "unbroken")])
        broken = [f for f in run_folders(table)[name] if (f / "checkpoint.pt").exists()][-1]
        assert reproducible(broken) == reproducible(unbroken)
    again = subprocess.run(command(table, "--list"), cwd=ROOT, capture_output=True, text=True)
    assert [line.split()[0] for line in again.stdout.splitlines()] == ["100%"] * 3


def test_a_run_whose_runner_was_killed_is_waited_for_and_not_started_twice(table):
    (name, job), *_ = grid.jobs_of(grid.tomllib.loads(TABLE)).items()
    lone = f"import grid; grid.run_job({name!r}, {job!r}, {str(table.parent / 'runs')!r})"
    process = subprocess.Popen([sys.executable, "-c", lone], cwd=ROOT / "experiments")
    folder = table.parent / "runs" / name
    while not list(folder.glob("*/checkpoint.pt")):
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert grid.run_job(name, job, table.parent / "runs") == 0
    assert grid.state_of(folder)[0] == 1 and len(list(folder.glob("*/config.json"))) == 1


def test_ctrl_c_stops_what_runs_starts_nothing_more_and_the_same_command_goes_on(table):
    process = subprocess.Popen(  # a job that a shell put in the background ignores Ctrl-C, and
        command(table), cwd=ROOT, start_new_session=True,  # so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    jobs = grid.jobs_of(grid.tomllib.loads(TABLE))
    first, *_ = jobs
    while not grid.state_of(table.parent / "runs" / first)[0]:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    assert process.wait(timeout=60) != 0
    assert process.stderr.read().splitlines() == ["stopped; the same command goes on"]
    shares = [grid.state_of(table.parent / "runs" / name)[0] for name in jobs]
    assert 0 < sum(shares) <= 1 and shares[1:] == [0, 0]
    out = subprocess.run(command(table, "--workers", "2"), cwd=ROOT, capture_output=True)
    assert out.returncode == 0
    assert [grid.state_of(table.parent / "runs" / name)[0] for name in jobs] == [1] * 3


@pytest.mark.parametrize("wrong, named", [
    ("seeds = [1]", "seed"), ("[1]", "seed"), ("[[run]]", "two brackets"),
    ('script = "rmf_sac_gru.py"', "script"),
])
def test_a_faulty_table_is_refused_in_a_line(wrong, named, table):
    instead = {"seeds = [1]": "seed = [1]", "[1]": "2", "[[run]]": "[run]"}.get(wrong, "")
    table.write_text(TABLE.replace(wrong, instead))
    out = subprocess.run(command(table), cwd=ROOT, capture_output=True, text=True)
    assert out.returncode != 0 and named in out.stderr and len(out.stderr.splitlines()) == 1


def test_a_picture_does_not_mix_unlike_runs(tiny_run, tmp_path):
    folder = rmf.main([*TINY_RUN, "--runs-dir", str(tmp_path / "other"), "--seed", "2",
                       "--gamma", "0.5"])
    plot = [sys.executable, "experiments/plot.py", str(tmp_path / "picture.png"), str(tiny_run),
            str(folder), str(tmp_path)]
    out = subprocess.run(plot, cwd=ROOT, capture_output=True, text=True)
    assert out.returncode != 0 and "gamma" in out.stderr and "--by" in out.stderr
    table, curves = tmp_path / "table.csv", tmp_path / "curves.csv"
    out = subprocess.run([*plot, "--by", "gamma", "--table", str(table), "--curves", str(curves)],
                         cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0 and (tmp_path / "picture.png").stat().st_size > 1000
    last, evaluations = (path.read_text().splitlines() for path in (table, curves))
    assert len(last) == 3 and len(evaluations) == 1 + 2 * 5  # after 0, 100, 200, 300, 320 steps
    assert [evaluations[0], evaluations[5], evaluations[10]] == last
    # The file of --curves in place of the runs: the same file again.
    again = tmp_path / "again.csv"
    out = subprocess.run([*plot[:3], str(curves), "--curves", str(again)], cwd=ROOT,
                         capture_output=True, text=True)
    assert out.returncode == 0 and again.read_text() == curves.read_text()
    out = subprocess.run([*plot[:3], str(tiny_run / "metrics.csv")], cwd=ROOT,
                         capture_output=True, text=True)
    assert out.returncode != 0 and "metrics.csv: not a file that --curves wrote" in out.stderr


def test_a_legend_leaves_out_what_most_runs_share():
    from experiments.plot import label_of, shorten

    runs = ["recurrent, lam 0.9"] * 3 + ["recurrent, lam 0"]
    assert shorten(runs) == {"recurrent, lam 0.9": "with memory",
                             "recurrent, lam 0": "with memory, lam 0"}
    runs = ["rmf_sac_gru, recurrent", "rmf_sac_gru, markov", "rmf_sac_gru, markov"]
    assert shorten(runs) == {"rmf_sac_gru, recurrent": "with memory",
                             "rmf_sac_gru, markov": "without memory"}
    assert shorten(["gamma 0.9", "gamma 0.9"]) == {"gamma 0.9": "gamma 0.9"}
    runs = [label_of({"policy": policy, "algo": algo, "gamma": 1}, ["policy", "algo"])
            for policy, algo in (("recurrent", "rl2"), ("markov", "rl2"), ("oracle", "varibad"))]
    assert [*shorten(runs).values()] == ["with memory, RL^2", "without memory",
                                         "told what is hidden"]


def test_an_agent_has_one_colour_in_all_pictures():
    from experiments.plot import COLOURS, colours, shorten

    agents = ["rmf_sac_gru, recurrent", "rmf_sac_gru, markov", "ppo_gru_baseline, recurrent"]
    expected = [COLOURS["recurrent"], COLOURS["markov"], COLOURS["ppo_gru_baseline"]]
    assert list(map(colours(shorten(agents)).get, agents)) == expected
    assert len({*colours(shorten([*agents, "gamma 0.9", "gamma 0.5"])).values()}) == 5
    lambdas = ["recurrent, lam 0", *2 * ["recurrent, lam 0.9"], "markov, lam 0.9"]
    assert colours(shorten(lambdas))["recurrent, lam 0.9"] == COLOURS["recurrent"]


def test_what_is_published_is_drawn_with_the_agent_it_is_about():
    from experiments.plot import PUBLISHED, known

    with PUBLISHED.open() as file:
        rows = list(csv.DictReader(file))
    labels = ["vrm, markov", "vrm, recurrent", "rmf_sac_gru, recurrent"]
    assert list(known(rows, "HopperBLT-P-v0", "eval/return_mean", labels)) == [
        ("vrm, recurrent", 557, "0.5M")]
    assert list(known(rows, "HopperBLT-P-v0", "eval/success_rate", labels)) == []
    scripts = {path.stem for path in [*ROOT.glob("*.py"), *ROOT.glob("comparators/*.py")]}
    assert {row["agent"] for row in rows} <= scripts
    assert {row["env_id"] for row in rows} <= gym.registry.keys()


def test_q_is_put_beside_the_rewards_that_followed(tiny_run, tmp_path):
    """An episode of Pendulum-V cut after 10 steps; --gamma 0: what follows is the reward alone."""
    folder = rmf.main([*TINY_RUN, "--runs-dir", str(tmp_path), "--gamma", "0"])
    out = subprocess.run([sys.executable, "experiments/q_against_returns.py", str(folder)],
                         cwd=ROOT, capture_output=True, text=True)
    total, steps = re.search(r"return (\S+), (\S+) steps", out.stdout).groups()
    followed = re.search(r"all steps .* followed +(\S+)", out.stdout)[1]
    assert float(steps) == 10 and float(followed) == pytest.approx(float(total) / 10, abs=0.06)


def test_the_q_of_a_step_at_each_place_of_a_window(tiny_run):
    from experiments.q_against_returns import q_by_place, q_values

    args = load_config(rmf.Args, tiny_run, "folder")
    env = rmf.POMDP(args, 2)
    agent = rmf.Agent(env.obs_dim, env.action_dim, args)
    (episodes, n_steps, *_), L = rmf.play(env, agent.act, seed=0), 3  # 10 steps
    by_place = q_by_place(agent.critic, episodes, n_steps, L)
    assert by_place.shape == (2 * 5, L)  # of the last 3 L: steps 3 to 7
    for lane in range(2):
        for step in range(3, 8):
            for place in range(L):
                rows = episodes[step - place : step + 2, lane : lane + 1].copy()
                rows["prev_action"][0], rows["prev_reward"][0] = 0, 0
                expected = q_values(agent.critic, rows)[place, 0]
                assert by_place[5 * lane + step - 3, place] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("flags, named", [
    ("--columns losses/nothing", "--columns losses/nothing"), ("--by nothing", "--by nothing"),
    ("", "no run with a checkpoint")])
def test_a_picture_of_nothing_is_refused_in_a_line(flags, named, tiny_run, tmp_path):
    out = subprocess.run([sys.executable, "experiments/plot.py", str(tmp_path / "picture.png"),
                          str(tiny_run) if flags else str(tmp_path / "*"), *flags.split()],
                         cwd=ROOT, capture_output=True, text=True)
    assert out.returncode != 0 and named in out.stderr and len(out.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_is_named_with_its_last_words(table):
    table.write_text(TABLE.replace('["recurrent", "markov", "oracle"]', '"nonsense"'))
    out = subprocess.run(command(table), cwd=ROOT, capture_output=True, text=True)
    assert out.returncode != 0 and "FAILED rmf_sac_gru__" in out.stdout
    assert "1 runs failed" in out.stderr and "Traceback" not in out.stderr


def test_on_ray_a_killed_worker_is_replaced_and_its_run_resumes(table):
    pytest.importorskip("ray")
    process = subprocess.Popen(command(table, "--workers", "2", "--engine", "ray"), cwd=ROOT,
                               stdout=subprocess.PIPE, text=True)
    runs = table.parent / "runs"
    while not list(runs.glob("*/*/checkpoint.pt")):
        time.sleep(0.005)
    (lock, *_) = runs.glob("*/lock")
    holders = subprocess.run(["fuser", str(lock)], capture_output=True, text=True).stdout.split()
    for pid in holders:  # the worker of Ray and its run
        os.kill(int(pid), signal.SIGKILL)
    assert process.wait(timeout=180) == 0 and holders
    assert all(grid.state_of(folder)[0] == 1 for folder in runs.iterdir())


def test_interpolation_and_extrapolation_are_of_a_seeds_two_trainings(tmp_path, monkeypatch):
    played = []

    def evaluated(folder, script, env_id):
        if not played:
            assert set(unpatched(folder, script, env_id)) == set(generalize.COLUMNS)
        played.append((folder, env_id))
        share = {"D": 0.5, "R": 0.25, "E": 0.0}[env_id[-4]] + 0.125 * ("-R-" in str(folder))
        return {"eval/return_mean": 8 * share, "eval/success_rate": share}

    unpatched = generalize.evaluated
    monkeypatch.setattr(generalize, "evaluated", evaluated)
    folders = [robust_ppo.main([
        "--env-id", f"HopperGeneralize-{mode}-v0", "--num-envs", "2", "--episodes", "2", "--seed",
        "3", "--total-timesteps", "40", "--eval-episodes", "1", "--runs-dir", str(tmp_path)])
        for mode in "DR"]
    table = tmp_path / "table.csv"
    monkeypatch.setattr(sys, "argv", ["", str(table), str(tmp_path), *map(str, folders)])
    generalize.main()
    assert len(played) == 6
    with table.open() as file:
        rows = {row["env_id"]: row for row in csv.DictReader(file)}
    assert {row["group"] for row in rows.values()} == {"robust_ppo, select all"}
    assert {name.removeprefix("HopperGeneralize, "): float(row["eval/success_rate"])
            for name, row in rows.items()} == {
        "D on D": 0.5, "D on R": 0.25, "D on E": 0.0, "R on D": 0.625, "R on R": 0.375,
        "R on E": 0.125, "interpolation": 0.375, "extrapolation": 0.125}
    assert float(rows["HopperGeneralize, extrapolation"]["eval/return_mean"]) == 1
    seconds = {name: float(row["seconds"]) for name, row in rows.items()}
    assert seconds["HopperGeneralize, extrapolation"] == (
        seconds["HopperGeneralize, D on R"] + seconds["HopperGeneralize, R on E"])


def test_agents_play_the_same_episode_side_by_side(tmp_path, no_pictures):
    folders = [rmf.main(["--total-timesteps", "300", "--num-envs", "2", "--learning-starts", "150",
                         "--policy", policy, "--runs-dir", str(tmp_path)])
               for policy in ("markov", "recurrent")]
    picture = tmp_path / "wind.gif"
    subprocess.run([sys.executable, "experiments/side_by_side.py", picture, *folders, "--episode",
                    "3", "--size", "100"], cwd=ROOT, check=True, capture_output=True)
    with Image.open(picture) as gif:
        assert gif.size == (208, 128) and gif.n_frames > 40
