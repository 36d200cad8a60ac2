"""What is true of a run: its folder, its numbers, and what is left when it is stopped."""

import json
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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
    snapshot,
    weights_before_the_first_update,
)
from PIL import Image

import rmf_sac_gru as rmf
import run
from run import load_checkpoint, load_config, mean_of, new_run_folder, parse_args

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def start(tmp_path, no_pictures):
    """-> function: flags -> folder of a new finished run in this process."""

    def start(*flags):
        runs_dir = tmp_path / f"runs{len(list(tmp_path.iterdir()))}"
        return rmf.main([*TINY_RUN, "--runs-dir", str(runs_dir), *map(str, flags)])

    return start


def weights(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["things"]["agent"]


# --- LEARNING -------------------------------------------------------------------------------------

@pytest.mark.parametrize("flags", [
    ["--policy", "recurrent"], ["--policy", "markov"], ["--policy", "oracle"],
    ["--rnn", "lstm"], ["--anneal-lr", "0", "--context-length", "4"], ["--alpha", "0.1"],
    ["--shared-encoder", "critic-only"], ["--shared-encoder", "published", "--policy", "markov"],
], ids=" ".join)
def test_a_run_takes_gradient_steps_and_changes_every_weight(flags, start, monkeypatch):
    before = weights_before_the_first_update(rmf, monkeypatch)
    folder = start(*flags)
    assert [k for k, v in weights(folder).items() if torch.equal(v, before[0][k])] == []
    assert numbers(folder, "charts/updates")[-1] == int(0.16 * 280)  # 280 steps are learnt from
    assert np.isfinite(numbers(folder, "losses/qf_loss")).all()


def test_wind_with_its_preset_and_native_lanes_runs(tmp_path, capsys, no_pictures):
    flags = "--total-timesteps 900 --num-envs 2 --learning-starts 300 --eval-episodes 20"
    folder = rmf.main([*flags.split(), "--runs-dir", str(tmp_path)])
    preset, flags = capsys.readouterr().out.splitlines()[:2]
    assert "Wind" in preset and "gamma=0.95" in preset and "hidden_sizes=(64, 64)" in preset
    assert "num_envs=2" in flags and "gamma" not in flags
    assert (numbers(folder, "charts/episodic_length") == 75).all()
    assert len(numbers(folder, "eval/success_rate")) >= 2


def left(env_step):
    """The share of the learning that is left in a TINY_RUN as the round that ends here begins."""
    return min(1, (320 - (env_step - 20)) / (320 - 40))


@pytest.mark.parametrize("paper", [False, True])
def test_a_temperature_that_is_a_number_falls_to_0_but_not_in_the_papers_recipe(
        paper, tmp_path, no_pictures):
    argv = [*TINY_RUN, "--alpha", "0.5", "--runs-dir", str(tmp_path)]
    args = parse_args(rmf.Args, "rmf_sac_gru", argv)
    args.paper = paper
    folder = rmf.train(args)
    steps = numbers(folder, "env_step")[-len(numbers(folder, "losses/alpha")):]
    expected = [0.5 * (1 if paper else left(step)) for step in steps]
    assert numbers(folder, "losses/alpha") == pytest.approx(expected)
    assert expected[0] == 0.5 and (expected[-1] < 0.04) == (not paper)


def test_a_temperature_that_is_learnt_starts_at_1_and_does_not_fall_to_0(tiny_run):
    alpha = numbers(tiny_run, "losses/alpha")
    assert 0.99 < alpha[0] <= 1.01 and alpha.min() > 0.9


@pytest.mark.parametrize("anneal", [0.0, 0.5])
def test_learning_rates_fall_together_and_keep_their_ratio(anneal, start, monkeypatch):
    """A learning rate of its own for the memories takes one line: two groups of parameters."""
    adam, update, seen = torch.optim.Adam, rmf.update, []

    def two_groups(parameters, rate, **options):
        parameters = list(parameters)
        return adam([{"params": parameters[:6], "lr": rate / 4}, {"params": parameters[6:]}],
                    rate, **options)

    def watched(agent, optimizer, batch, args):
        seen.append([group["lr"] for group in optimizer.param_groups])
        return update(agent, optimizer, batch, args)

    monkeypatch.setattr(torch.optim, "Adam", two_groups)
    monkeypatch.setattr(rmf, "update", watched)
    folder = start("--anneal-lr", anneal)
    memory, rest = np.array(seen).T
    assert memory == pytest.approx(rest / 4)
    n = np.diff(numbers(folder, "charts/updates"), prepend=0).astype(int)  # updates in each round
    share = [min(1, left(step) / anneal) if anneal else 1 for step in numbers(folder, "env_step")]
    assert rest == pytest.approx(1e-3 * np.repeat(share, n))
    assert rest[0] == 1e-3 and (rest[-1] < 2e-4) == bool(anneal)


# --- RUN FOLDER -----------------------------------------------------------------------------------


def test_a_finished_run_leaves_four_files_and_an_empty_lock(tiny_run):
    names = {"config.json", "metrics.csv", "learning_curve.png", "checkpoint.pt", "lock"}
    assert (tiny_run / "lock").read_bytes() == b""
    assert {p.name for p in tiny_run.iterdir()} == names  # no temporary file
    with Image.open(tiny_run / "learning_curve.png") as picture:
        picture.verify()
        assert picture.format == "PNG" and picture.width > 300


def test_the_checkpoint_holds_all_that_the_run_was_given(tiny_run):
    saved = torch.load(tiny_run / "checkpoint.pt", weights_only=True)
    assert set(saved["things"]) == {"agent", "optimizer", "buffer", "rng"}
    assert saved["env_step"] == 320 and saved["n_updates"] == 44 and saved["n_rows"] == 17


def test_a_run_needs_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = new_run_folder(rmf.Args(runs_dir=str(tmp_path / "runs")))
    assert json.loads((folder / "config.json").read_text())["git_commit"] == ""


def test_config_holds_every_argument(tiny_run):
    saved = load_config(rmf.Args, tiny_run, "--resume")
    argv = [*TINY_RUN, "--runs-dir", str(tiny_run.parent)]
    assert saved == parse_args(rmf.Args, "rmf_sac_gru", argv)
    assert saved.num_envs == 2 and saved.inputs == "oar"


def test_metrics_have_a_row_for_each_round_and_an_evaluation_in_the_last_row(tiny_run):
    columns = (tiny_run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert columns[:4] == ["env_step", "seconds", "charts/SPS", "charts/updates"]
    losses = {f"losses/{x}" for x in (
        "qf_loss", "actor_loss", "alpha", "entropy", "q_data", "q_policy", "target")}
    others = {"charts/episodic_return", "charts/episodic_length", "grads/actor_rnn",
              "grads/critic_rnn", "eval/return_mean", "eval/return_std", "eval/return_worst10",
              "eval/return_p10", "eval/return_p90", "eval/episodes"}
    assert sorted(columns[4:]) == sorted(losses | others)  # of success Pendulum knows nothing
    rows = read_metrics(tiny_run)
    assert [int(row["env_step"]) for row in rows] == list(range(0, 321, 20))
    evaluated = [int(row["env_step"]) for row in rows if row["eval/return_mean"]]
    assert evaluated == [0, 100, 200, 300, 320]
    for row in rows:
        assert bool(row["eval/return_std"]) == (int(row["env_step"]) in evaluated)
        assert all(bool(row[name]) == (int(row["env_step"]) > 40) for name in losses)
        assert bool(row["charts/episodic_return"]) == (int(row["env_step"]) > 0)


def test_updates_are_those_that_are_due_by_the_steps_played(tiny_run):
    due = [int(0.16 * max(step - 40, 0)) for step in numbers(tiny_run, "env_step")]
    assert numbers(tiny_run, "charts/updates").tolist() == due


def test_sps_is_steps_over_wall_time_since_the_last_row(tiny_run):
    step, seconds = numbers(tiny_run, "env_step"), numbers(tiny_run, "seconds")
    sps = numbers(tiny_run, "charts/SPS")
    assert (np.diff(seconds) > 0).all()
    assert sps[1:] == pytest.approx(np.diff(step) / np.diff(seconds), rel=0.01)


def test_a_number_that_is_new_in_a_row_makes_a_column_and_is_empty_in_the_rows_before(
        start, tiny_run, monkeypatch):
    update, count = rmf.update, 0

    def one_number_more(*arguments):
        nonlocal count
        count += 1
        scalars = update(*arguments)
        return scalars | {"losses/mine": torch.tensor(float(count))} if count > 20 else scalars

    monkeypatch.setattr(rmf, "update", one_number_more)
    folder = start()
    header = (folder / "metrics.csv").read_text().splitlines()[0]
    before = (tiny_run / "metrics.csv").read_text().splitlines()[0]
    assert header == before + ",losses/mine"
    rows = reproducible(folder)
    for row in rows:
        until = float(row["charts/updates"])
        since = int(0.16 * max(float(row["env_step"]) - 60, 0))  # updates before the round
        of_round = [i for i in range(since + 1, int(until) + 1) if i > 20]
        mine = row.pop("losses/mine")
        assert mine == (f"{np.mean(of_round):.7g}" if of_round else "")
    assert rows == reproducible(tiny_run)


def test_whole_numbers_are_written_whole(tmp_path):
    """The paper's longest run has 30,200,000 steps."""
    args = rmf.Args(total_timesteps=30_200_000, runs_dir=str(tmp_path))
    run = rmf.Run(args, "nothing", {}, agent=torch.nn.Linear(1, 1))
    run.log(12_345_678, 10_000_001, {"losses/mine": 1e7 / 3})
    (row,) = read_metrics(run.folder)
    assert (row["env_step"], row["charts/updates"]) == ("12345678", "10000001")
    assert row["losses/mine"] == "3333333"


def test_a_mean_over_updates_is_over_those_that_say_the_number():
    scalars = [{"a": torch.tensor(1.0)}, {"a": torch.tensor(3.0), "b": torch.tensor(5.0)}]
    assert mean_of(scalars) == {"a": 2, "b": 5} and mean_of([]) == {}


@pytest.mark.parametrize("total, interval, expected", [
    (320, 100, [100, 200, 300, 320]), (200, 50, [60, 100, 160, 200]), (320, 320, [320]),
    (1000, None, list(range(40, 1001, 40))), (3, None, [3]),
    (250, None, list(range(20, 241, 20)) + [250])])
def test_an_evaluation_is_due_once_an_interval_and_at_the_end(total, interval, expected):
    """Rounds of 20 steps; without a word there are 25 evaluations, or one in each round."""
    run, due = rmf.Run.__new__(rmf.Run), []
    run.args, run.env_step = rmf.Args(total_timesteps=total, learning_starts=0,
                                      eval_interval=interval), 0
    while run.env_step < total:
        env_step = min(run.env_step + 20, total)
        if run.evaluation_due(env_step):
            due.append(env_step)
        run.env_step = env_step
    assert due == expected


def test_the_last_line_names_the_folder_and_the_mean(start, capsys):
    folder = start()
    last = capsys.readouterr().out.splitlines()[-1]
    mean = numbers(folder, "eval/return_mean")[-1]
    assert last.startswith(str(folder)) and f"{mean:.2f}" in last


# --- REPRODUCTION ---------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_numbers_and_another_one_others(start, tiny_run):
    assert reproducible(start()) == reproducible(tiny_run)
    assert reproducible(start("--seed", 2)) != reproducible(tiny_run)


def test_evaluation_does_not_disturb_training(start, tiny_run):
    folder = start("--eval-interval", 40, "--eval-episodes", 3)
    for column in ("losses/qf_loss", "losses/entropy", "charts/episodic_return"):
        assert numbers(folder, column).tolist() == numbers(tiny_run, column).tolist()
    assert len(numbers(folder, "eval/return_mean")) > len(numbers(tiny_run, "eval/return_mean"))


# --- STOPPED RUNS ---------------------------------------------------------------------------------

# A process that imports everything once. For each line, [flags, owner and name of a function, n,
# signal, file], it forks one that sends itself the signal at the n-th call of that function, just
# before it does its work, and answers with what that one ended with.
STOPPER = """
import contextlib, io, json, os, sys
import torch, toy_envs, run, rmf_sac_gru as rmf
from pathlib import Path
torch.set_num_threads(1)
run.draw_curve = lambda r: run.replace_file(r.folder / "learning_curve.png", Path.touch)

def stopped(flags, owner, name, count, signal, file):
    owner = eval(owner)
    function = getattr(owner, name)
    def replaced(*args, **kwargs):
        nonlocal count
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal)
        return function(*args, **kwargs)
    setattr(owner, name, replaced)
    with open(file, "w") as out, contextlib.redirect_stdout(out):
        try:
            rmf.main(flags)
        except KeyboardInterrupt as stop:
            with contextlib.redirect_stderr(out):
                sys.excepthook(type(stop), stop, None)
            return 130
    return 0

with contextlib.redirect_stdout(io.StringIO()):
    rmf.main(sys.argv[1:])  # some things are imported late
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os._exit(stopped(*json.loads(line)))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
MOMENTS = {  # checkpoints are at 0, 100, ...; their file is the fourth that is renamed, the tenth
    "is evaluated for the first time": ("rmf.POMDP", "step", 5),
    "has a first row but no checkpoint": ("os", "replace", 4),
    "plays its first episode": ("rmf.POMDP", "step", 15),
    "learns": ("rmf", "update", 20),
    "evaluates": ("rmf", "evaluate", 3),
    "has written a checkpoint but not named it": ("os", "replace", 10),
}


@pytest.fixture(scope="module")
def stop(tmp_path_factory):
    """-> function: flags, moment, signal -> exit status, what was said of a run in a process."""
    folder = tmp_path_factory.mktemp("stop")
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPER, *TINY_RUN, "--runs-dir", folder], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    said = folder / "stdout"

    def stop(flags, moment, number):
        print(json.dumps([[*map(str, flags)], *moment, number, str(said)]), file=process.stdin,
              flush=True)
        return int(process.stdout.readline()), said.read_text()

    yield stop
    process.stdin.close()
    process.wait()


def assert_equal_runs(folder, other):
    assert reproducible(folder) == reproducible(other)
    headers = [(f / "metrics.csv").read_text().splitlines()[0] for f in (folder, other)]
    assert headers[0] == headers[1]
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert {p.name for p in folder.iterdir()} == {p.name for p in other.iterdir()}
    assert (np.diff(numbers(folder, "seconds")) > 0).all()  # time goes on where it stopped


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_to_the_numbers_of_an_unbroken_one(
        moment, stop, tmp_path, tiny_run, no_pictures):
    status, _ = stop([*TINY_RUN, "--runs-dir", tmp_path], MOMENTS[moment], signal.SIGKILL)
    (folder,) = tmp_path.iterdir()
    files = {p.name for p in folder.iterdir()}
    assert status == -signal.SIGKILL
    assert "metrics.csv" not in files or numbers(folder, "env_step")[-1] < 320
    assert ("tmp-checkpoint.pt" in files) == ("replace" in MOMENTS[moment])
    assert ("checkpoint.pt" in files) == (moment not in list(MOMENTS)[:2])
    assert rmf.main([*TINY_RUN[:2], "--resume", str(folder)]) == folder
    assert_equal_runs(folder, tiny_run)


def test_a_run_may_be_killed_again_and_in_the_middle_of_a_row(stop, tmp_path, tiny_run):
    stop([*TINY_RUN, "--runs-dir", tmp_path], MOMENTS["learns"], signal.SIGKILL)
    (folder,) = tmp_path.iterdir()
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)["env_step"]
    assert 0 < saved < numbers(folder, "env_step")[-1]  # rows came after the checkpoint
    with (folder / "metrics.csv").open("a") as file:
        file.write("180,1.2\0\0\0\0")  # no end of line, and what a power cut may leave
    status, _ = stop([*TINY_RUN[:2], "--resume", folder], ("rmf", "update", 15), signal.SIGKILL)
    assert status == -signal.SIGKILL
    rmf.main([*TINY_RUN[:2], "--resume", str(folder)])
    assert_equal_runs(folder, tiny_run)
    assert b"\0" not in (folder / "metrics.csv").read_bytes()
    with Image.open(folder / "learning_curve.png") as picture:
        picture.verify()


@pytest.mark.parametrize("moment", [
    "is evaluated for the first time", "evaluates", "has written a checkpoint but not named it"])
def test_ctrl_c_ends_a_run_at_once_and_it_goes_on_to_the_same_numbers(
        moment, stop, tmp_path, tiny_run, no_pictures):
    status, said = stop([*TINY_RUN, "--runs-dir", tmp_path], MOMENTS[moment], signal.SIGINT)
    (folder,) = tmp_path.iterdir()
    assert status == 130
    last = said.splitlines()[-1]
    assert last.startswith("stopped; up to env step ")
    assert f"--resume {folder} --env-id toy_envs:" in last
    assert not (folder / "metrics.csv").exists() or numbers(folder, "env_step")[-1] < 320
    rmf.main([*TINY_RUN[:2], "--resume", str(folder)])
    assert_equal_runs(folder, tiny_run)


def test_ctrl_c_on_the_terminal_costs_one_line_and_leaves_a_run_that_goes_on(
        tmp_path, tiny_run, no_pictures):
    process = subprocess.Popen(
        [sys.executable, "rmf_sac_gru.py", *TINY_RUN, "--runs-dir", tmp_path], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while "100/320 env steps" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    (folder,) = tmp_path.iterdir()
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)["env_step"]
    assert process.returncode == -signal.SIGINT  # a shell says 130
    assert errors == (f"stopped; up to env step {saved} nothing is lost: go on with --resume "
                      f"{folder} {' '.join(TINY_RUN[:2])}\n")
    rmf.main([*TINY_RUN[:2], "--resume", str(folder)])
    assert_equal_runs(folder, tiny_run)


def test_a_run_leaves_ctrl_c_to_python_and_may_run_in_a_thread(start, monkeypatch, tiny_run):
    before = signal.getsignal(signal.SIGINT)
    with ThreadPoolExecutor(1) as pool:
        folder = pool.submit(start).result()
    assert reproducible(folder) == reproducible(tiny_run)
    monkeypatch.setattr(rmf, "update", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        start()
    assert signal.getsignal(signal.SIGINT) == before


def test_whatever_breaks_a_run_its_last_line_says_how_to_go_on(tmp_path):
    """Here the checkpoint at 200 steps cannot be written, as on a full disk."""
    code = ("import errno, sys, toy_envs, torch, rmf_sac_gru as rmf\n"
            "save, n = torch.save, 0\n"
            "def full(*args):\n"
            "    global n; n += 1\n"
            "    if n == 3: raise OSError(errno.ENOSPC, 'No space left on device')\n"
            "    save(*args)\n"
            "torch.save = full\n"
            "rmf.main(sys.argv[1:])\n")
    process = subprocess.run([sys.executable, "-c", code, *TINY_RUN, "--runs-dir", tmp_path],
                             cwd=ROOT, capture_output=True, text=True, timeout=120)
    (folder,) = tmp_path.iterdir()
    *trace, error, last = process.stderr.splitlines()
    assert process.returncode == 1 and trace[0].startswith("Traceback") and "No space" in error
    assert last == ("stopped; up to env step 100 nothing is lost: go on with --resume "
                    f"{folder} {' '.join(TINY_RUN[:2])}")
    assert load_checkpoint(folder, "--resume")["env_step"] == 100


def test_a_run_folder_is_for_one_process_at_a_time(tmp_path, tiny_run, no_pictures):
    process = subprocess.Popen(
        [sys.executable, "rmf_sac_gru.py", *TINY_RUN, "--total-timesteps", "100000", "--runs-dir",
         tmp_path], cwd=ROOT, text=True, stdout=subprocess.PIPE)
    while "100/100,000 env steps" not in process.stdout.readline():
        assert process.poll() is None
    (folder,) = tmp_path.iterdir()
    before = (folder / "config.json").read_bytes()
    with pytest.raises(SystemExit, match=f"--resume {folder}: another process"):
        rmf.main([*TINY_RUN[:2], "--resume", str(folder)])
    assert process.poll() is None and (folder / "config.json").read_bytes() == before
    process.kill()
    process.communicate()


def test_a_complete_run_is_lengthened(start, tiny_run, tmp_path):
    folder = Path(shutil.copytree(tiny_run, tmp_path / "copy"))
    assert rmf.main([*TINY_RUN[:2], "--resume", str(folder), "--total-timesteps", "420"]) == folder
    rows, before = reproducible(folder), reproducible(tiny_run)
    assert rows[: len(before)] == before and rows[-1]["env_step"] == "420"
    assert float(rows[-1]["charts/updates"]) == int(0.16 * 380)
    assert rows[-1]["eval/return_mean"] != rows[len(before) - 1]["eval/return_mean"]


def test_a_round_of_many_updates_says_how_far_it_is(start, capsys, monkeypatch):
    clock = iter(range(0, 10**6, 7))  # seconds: 7 pass between any two looks at the clock
    monkeypatch.setattr(run.time, "monotonic", lambda: next(clock))
    start("--updates-per-step", "1")  # 20 in a round
    said = [line for line in capsys.readouterr().out.splitlines() if " updates | " in line]
    updates = [int(line.split("|")[1].split()[0]) for line in said]
    assert len(set(updates)) > 20 and max(np.diff(updates)) <= 10


def test_numbers_that_are_not_finite_are_not_written(tmp_path, no_pictures):
    args = rmf.Args(total_timesteps=100, learning_starts=0, runs_dir=str(tmp_path))
    agent = torch.nn.Linear(1, 1)
    r = rmf.Run(args, "nothing", {}, agent=agent)
    good = {"eval/return_mean": 1.0, "eval/return_std": 0.0, "eval/episodes": 2}
    r.log(10, 1, good)
    before = snapshot(r.folder)
    for row in ({"losses/qf_loss": float("nan")}, good | {"eval/return_mean": np.inf}):
        with pytest.raises(FloatingPointError, match=f"{list(row)[0]} is not finite.*20, update 2"):
            r.log(20, 2, row)
    agent.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="weight is not finite"):
        r.log(20, 2, good)
    assert snapshot(r.folder) == before


# --- EXTRAS ---------------------------------------------------------------------------------------


def printed(capsys):
    """-> what stands before the last colon of each line -> what stands behind it."""
    return dict(line.rsplit(": ", 1) for line in capsys.readouterr().out.splitlines())


def test_evaluate_repeats_the_last_evaluation_and_changes_nothing(tiny_run, capsys):
    before = snapshot(tiny_run)
    assert rmf.main([*TINY_RUN[:2], "--evaluate", str(tiny_run)]) == tiny_run
    said = printed(capsys)
    last = {k: v for k, v in read_metrics(tiny_run)[-1].items() if k.startswith("eval/") and v}
    assert len(last) == 6
    assert {k: said[k] for k in last} == {k: f"{float(v):.4g}" for k, v in last.items()}
    mean, std = (float(last[f"eval/return_{x}"]) for x in ("mean", "std"))
    assert said[str(tiny_run)] == (f"held-out return {mean:.2f} +- {std:.2f} (100 episodes, "
                                   f"standard error {std / 99**0.5:.2f})")
    assert snapshot(tiny_run) == before


def test_evaluate_takes_another_seed_and_more_episodes(tiny_run, capsys):
    rmf.main([*TINY_RUN[:2], "--evaluate", str(tiny_run), "--seed", "5", "--eval-episodes", "7"])
    mean = float(printed(capsys)["eval/return_mean"])
    assert mean != pytest.approx(numbers(tiny_run, "eval/return_mean")[-1], rel=1e-3)


def test_evaluate_takes_another_environment_with_as_many_observations_and_actions(
        tiny_run, capsys):
    before = snapshot(tiny_run)
    rmf.main(["--evaluate", str(tiny_run), "--env-id", "Pendulum-V-v0"])
    said = printed(capsys)
    args = load_config(rmf.Args, tiny_run, "--evaluate")
    args.env_id = "Pendulum-V-v0"  # 200 steps, not 10
    env = rmf.POMDP(args, 2, "heldout")
    agent = rmf.Agent(env.obs_dim, env.action_dim, args)
    load_checkpoint(tiny_run, "--evaluate", agent=agent)
    expected = rmf.evaluate(env, agent, args, last=True)
    assert {k: said[k] for k in expected} == {k: f"{v:.4g}" for k, v in expected.items()}
    short = numbers(tiny_run, "eval/return_mean")[-1]
    assert expected["eval/return_mean"] < 5 * short < 0  # each step costs
    assert snapshot(tiny_run) == before


def test_capture_video_writes_a_gif_with_a_picture_of_each_observation(start):
    folder = start("--capture-video")
    path = folder / "episode.gif"
    with Image.open(path) as gif:
        assert gif.format == "GIF" and gif.n_frames == 11
        gif.seek(gif.n_frames - 1)
    path.unlink()
    before = snapshot(folder)
    rmf.main([*TINY_RUN[:2], "--evaluate", str(folder), "--capture-video"])
    assert path.stat().st_size > 0
    path.unlink()
    assert snapshot(folder) == before  # it has written nothing else


def test_track_writes_an_offline_wandb_run_beside_the_same_numbers(start, tiny_run, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = start("--track")
    (offline,) = (folder / "wandb").glob("offline-run-*")
    assert list(offline.glob("*.wandb"))
    assert reproducible(folder) == reproducible(tiny_run)
