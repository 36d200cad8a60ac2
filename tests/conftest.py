"""Shared by all tests: settings of the process, small networks, batches and runs."""

import csv
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import rmf_sac_gru as rmf
import run

SMALL = dict(rnn_size=8, hidden_sizes=(8, 8), embeddings=(4, 3, 2))  # fields of Args
TINY_RUN = (  # a run of a second: 4 random episodes, then 28 with 3.2 updates for each pair
    "--env-id toy_envs:PendulumShort-v0 --num-envs 2 --total-timesteps 320"
    " --learning-starts 40 --eval-interval 100 --eval-episodes 2 --updates-per-step 0.16"
    " --inputs oar --rnn-size 8 --hidden-sizes 8 8 --embeddings 4 2 8 --batch-size 4"
).split()  # 8 for the reward: it is never positive, and of 2 ReLU units both may be dead
# A process of its own finds toy_envs, too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
AS_STARTED = dict(os.environ)  # for tests/test_gpu.py: a process with it sees the GPU
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # others compare to the digit, which a GPU need not repeat


@pytest.fixture(autouse=True)
def same_process_for_each_test():
    torch.set_num_threads(1)


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing learning curves takes two thirds of a tiny run."""
    monkeypatch.setattr(run, "draw_curve", lambda r: run.replace_file(
        r.folder / "learning_curve.png", Path.touch))


@pytest.fixture
def make_args():
    """-> function: fields of Args, over small networks."""
    return lambda **fields: rmf.Args(**SMALL | fields)


@pytest.fixture
def make_agent():
    """-> function: args -> agent with 3 observations and 2 actions."""

    def make(args, seed=0):
        torch.manual_seed(seed)
        return rmf.Agent(3, 2, args)

    return make


@pytest.fixture
def make_batch():
    """-> function: lengths of the episodes -> random batch, zeros behind their ends."""

    def make(lengths=(6, 3, 1), seed=0, obs_dim=3, action_dim=2):
        g, T, B = torch.Generator().manual_seed(seed), max(lengths), len(lengths)
        step = torch.arange(T + 1)[:, None]
        real = (step <= torch.tensor(lengths)).float()  # (T+1, B) rows that were perceived
        mask = (step < torch.tensor(lengths)).float()[:T]  # (T, B) steps that were taken
        past = real * (step > 0)
        obs = torch.randn(T + 1, B, obs_dim, generator=g) * real[..., None]
        action = (torch.rand(T + 1, B, action_dim, generator=g) * 2 - 1) * past[..., None]
        reward = torch.randn(T + 1, B, generator=g) * past
        terminal = torch.zeros(T, B)
        terminal[lengths[0] - 1, 0] = 1  # the first episode terminates, the others are truncated
        return rmf.Batch(obs, action, reward, action[1:], reward[1:], terminal, mask)

    return make


def weights_before_the_first_update(script, monkeypatch):
    """-> list; it gets the agent's weights as a run of `script` makes its first update."""
    before, update = [], script.update

    def keep_the_first_weights(agent, *rest):
        if not before:
            before.append({k: v.clone() for k, v in agent.state_dict().items()})
        return update(agent, *rest)

    monkeypatch.setattr(script, "update", keep_the_first_weights)
    return before


def stops_at(n, function, error):
    """-> `function`, but its n-th call raises `error` instead."""
    calls = itertools.count(1)

    def stopping(*arguments):
        if next(calls) == n:
            raise error
        return function(*arguments)

    return stopping


def read_metrics(folder):
    """metrics.csv -> list of rows, column -> text."""
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def reproducible(folder):
    """metrics.csv without the two columns that hold times."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "charts/SPS")}
            for row in read_metrics(folder)]


def numbers(folder, column):
    """The cells of a column that are not empty."""
    return np.array([float(row[column]) for row in read_metrics(folder) if row[column]])


def snapshot(folder):
    """Path -> content of all that lies in a folder."""
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """Folder of a finished run of TINY_RUN. Read only."""
    return rmf.main([*TINY_RUN, "--runs-dir", str(tmp_path_factory.mktemp("runs"))])
