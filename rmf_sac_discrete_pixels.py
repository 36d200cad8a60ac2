"""Recurrent model-free RL for POMDPs: discrete SAC + LSTM, pixels or vectors, in one file.

    python rmf_sac_discrete_pixels.py --env-id DelayedCatch5-v0                      # with memory
    python rmf_sac_discrete_pixels.py --env-id DelayedCatch5-v0 --policy markov      # without
    python rmf_sac_discrete_pixels.py --env-id DelayedCatch5-v0 --policy markov-actor

The agent perceives, remembers, acts:   o_t, a_{t-1}, r_{t-1}  ->  h_t  ->  a_t  ->  r_t, o_{t+1}
Actor and critic each own a CNN and a memory: h_t (actor), c_t (critic), k_t (target of the
critic). With finitely many actions nothing need be sampled: pi(.) and Q(., a) for all a at once.

  (1) V_t = sum_a pi(a | h_t, o_t) [min_i Q_i'(k_t, o_t, a) - alpha log pi(a | h_t, o_t)]
  (2) y_t = r_t + gamma (1 - terminal_t) [(1 - lambda) V_{t+1} + lambda y_{t+1}]
  (3) J_Q     = mean_t  sum_i (Q_i(c_t, o_t, a_t) - y_t)^2
  (4) J_pi    = mean_t  sum_a pi(a | h_t, o_t) [alpha log pi(a | h_t, o_t) - min_i Q_i(c_t, o_t, a)]
  (5) J_alpha = mean_t  log_alpha (entropy_t - target entropy)

Shapes, time first: T steps of a sequence, B sequences, O observation (a picture is flat until the
CNN unfolds it), A actions (one-hot), H memory.

Discrete SAC: Christodoulou 2019. Ni, Eysenbach, Salakhutdinov: Recurrent Model-Free RL Can Be a
Strong Baseline for Many POMDPs (ICML 2022). What differs from the authors' code (each is marked
DEVIATION where it happens):
  - one forward per network and update: both losses see the networks as they were before the step;
  - lambda-returns and rewarded sequences in every batch (--td-lambda 0 --rewarded-fraction 0: off);
  - with --context-length, windows that reach a terminal end may be short, so that Q learns of it;
  - a picture and what the CNN makes of it start at the scale of 1 (--no-scaled-cnn: off);
  - vectors, too, are embedded once per network, for the memory and for the shortcut around it.
`--paper` runs the published recipe of an environment; docs/rmf_sac_discrete_pixels.md tells the
rest. In a minute: the CNN is `make_obs_encoder`, the memory `Memory`, the target `td_targets`, one
gradient step `update`, the whole course of things `train`. `# TRY:` marks lines that are good to
change.
"""

import copy
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import tyro

import envs  # noqa: F401  (importing it registers Wind-v0 and the other benchmark ids)

# --- ARGUMENTS ------------------------------------------------------------------------------------

# For credit: long returns of new episodes, and a temperature that is high and falls.
CREDIT = dict(
    num_envs=20, gamma=1.0, td_lambda=0.98, rnn_size=64, hidden_sizes=(64, 64), batch_size=16,
    learning_rate=1e-3, anneal_lr=0.5, alpha=0.5, anneal_alpha=True)
# Environment family -> what it needs that the defaults below do not give. A flag always wins.
PRESETS = {
    "DelayedCatch5": dict(
        total_timesteps=24_000, num_envs=20, eval_interval=2_040, td_lambda=0.9, batch_size=16,
        learning_starts=3_400, updates_per_step=0.12, learning_rate=1e-3, anneal_lr=0.5),
    "DelayedCatch10": CREDIT | dict(
        total_timesteps=100_000, eval_interval=7_000, buffer_size=28_000, learning_starts=7_000,
        updates_per_step=0.04),
    "DelayedCatch20": CREDIT | dict(
        total_timesteps=200_000, eval_interval=14_000, buffer_size=56_000, learning_starts=14_000,
        updates_per_step=0.02),
    "DelayedCatch": CREDIT | dict(  # 40 fruits, the paper's
        total_timesteps=400_000, eval_interval=22_000, buffer_size=112_000,
        learning_starts=28_000, updates_per_step=0.01),
    "KeyToDoor": CREDIT | dict(
        total_timesteps=1_000_000, eval_interval=51_000, eval_episodes=60, td_lambda=1.0,
        memory_span=85, buffer_size=170_000, learning_starts=85_000, updates_per_step=0.015),
    "CartPole": dict(
        total_timesteps=11_000, num_envs=4, eval_interval=500, inputs="oa", embeddings=(32, 8, 8),
        rnn_size=64, hidden_sizes=(64, 64), context_length=64, gamma=0.95, batch_size=16,
        learning_starts=1_000, updates_per_step=0.3, learning_rate=1e-3, anneal_lr=1.0),
    "LunarLander": dict(
        total_timesteps=150_000, num_envs=8, eval_interval=10_000, inputs="oa",
        embeddings=(32, 8, 8), rnn_size=64, hidden_sizes=(64, 64), context_length=256, batch_size=8,
        learning_starts=10_000, updates_per_step=0.05, learning_rate=1e-3, anneal_lr=0.5, alpha=1.0,
        anneal_alpha=True),
}
# --paper: the published recipe, for all environments and then by family.
PAPER = dict(tau=0.005, rewarded_fraction=0.0, scaled_cnn=False)
PAPER_PRESETS = {
    "DelayedCatch": dict(
        total_timesteps=2_500_000, num_envs=1, eval_interval=13_950, learning_starts=1_395,
        updates_per_step=0.25),
    "KeyToDoor": dict(
        total_timesteps=4_000_000, num_envs=1, eval_interval=4_250, learning_starts=425,
        updates_per_step=0.25),
    "CartPole": dict(
        total_timesteps=11_000, num_envs=1, eval_interval=200, inputs="oar", embeddings=(32, 8, 8),
        gamma=0.9, learning_starts=1_000, updates_per_step=1.0, autotune=True),
    "LunarLander": dict(
        total_timesteps=205_000, num_envs=1, eval_interval=4_000, inputs="oar",
        embeddings=(32, 8, 8), learning_starts=5_000, updates_per_step=0.2, autotune=True),
}


class UsageError(Exception):
    """What was asked for cannot be done; printed as one line, without a traceback."""


@dataclass
class Args:
    # --- the run: the same fields in every script ---
    env_id: str = "DelayedCatch5-v0"
    """Gymnasium id with Box observations, pictures or vectors, and Discrete actions; `module:Id-v0`
    imports `module` first"""
    seed: int = 1
    """seed of everything random, from 0 up; held-out episodes use seed + 10000"""
    total_timesteps: int = 200_000
    """env steps to play, counted over all lanes"""
    num_envs: int = 10
    """lanes: episodes that are played side by side between two rounds of updates"""
    max_episode_steps: int | None = None
    """cut episodes after this many steps; None keeps the id's own limit"""
    torch_threads: int = 1
    """CPU threads of torch; more than 1 is often slower for networks this small"""
    cuda: bool = True
    """use a GPU if there is one"""
    track: bool = False
    """log to Weights & Biases as well"""
    wandb_mode: Literal["offline", "online"] = "offline"
    """offline writes into the run folder and needs no account; `wandb sync` uploads it later"""
    capture_video: bool = False
    """write a GIF of one held-out episode at the end of the run (or of `--evaluate`)"""
    runs_dir: str = "runs"
    """folder that holds the run folders"""
    resume: str | None = None
    """run folder of a run that was stopped: go on with it"""
    evaluate: str | None = None
    """run folder: load its checkpoint, play held-out episodes, print the score, train nothing"""
    eval_interval: int = 5_000
    """env steps between two evaluations; each one is followed by a checkpoint"""
    eval_episodes: int = 20
    """held-out episodes per evaluation, deterministic actions, the same ones each time"""
    eval_env_ids: tuple[str, ...] = ()
    """other ids to evaluate in as well: does it generalize? As many observations and actions"""
    paper: bool = False
    """start from the paper's recipe for this environment instead of the fast preset"""

    # --- the algorithm ---
    policy: Literal["recurrent", "markov", "oracle", "markov-actor"] = "recurrent"
    """markov: no memory, only o_t; oracle: no memory, but the hidden state is in o_t; markov-actor:
    the critic has a memory, the actor has none"""
    inputs: Literal["o", "oa", "or", "oar"] = "o"
    """what the memory is fed: observation, previous action, previous reward"""
    observe: str = ""
    """keep only these entries of the observation, as in `0,1,4`: makes a POMDP of an MDP"""
    flicker: float = 0.0
    """probability, from 0 up to but not 1, that an observation is blanked to zeros"""
    rnn: Literal["gru", "lstm"] = "lstm"
    """kind of memory"""
    rnn_size: int = 128
    """width H of the memory"""
    memory_span: int = 0
    """steps over which the units of the memory keep what they hold, to begin with: from 1 to this,
    each its own; 0: the gates' biases are 0, as in the paper, and half is lost at each step"""
    hidden_sizes: tuple[int, ...] = (128, 128)
    """hidden layers of the actor's head and of each critic head"""
    embeddings: tuple[int, int, int] = (100, 8, 8)
    """widths of the layers that embed observation, action and reward"""
    scaled_cnn: bool = True
    """pictures, and what the CNN makes of them, start with a mean square of 1; off: pictures as
    they are, layers as torch starts them"""
    context_length: Literal["full"] | int = "full"
    """steps of the sequences that are trained on; full: whole episodes"""
    td_lambda: float = 0.0
    """lambda of the targets, 0 to 1; 0 is the paper's one-step target, more helps rare rewards"""
    rewarded_fraction: float = 0.5
    """share of each batch, 0 to 1, that is drawn from episodes with any non-zero reward"""
    gamma: float = 0.99
    """discount, 0 to 1"""
    tau: float = 0.02
    """step of the target network towards the critic at each update, 0 to 1; for runs of tens of
    thousands of updates try the paper's 0.005"""
    batch_size: int = 32
    """sequences per update"""
    buffer_size: int = 1_000_000
    """env steps that are kept for sampling, the newest"""
    learning_starts: int = 5_000
    """env steps of uniformly random actions before learning starts"""
    updates_per_step: float = 0.2
    """gradient updates per env step; more of them: better after as many steps, slower in minutes"""
    learning_rate: float = 3e-4
    """Adam's learning rate for actor, critic and temperature"""
    anneal_lr: float = 0.0
    """last share of the learning, 0 to 1, in which the learning rate falls to 0; 0: constant"""
    bf16: bool = False
    """products of matrices in bfloat16: faster at the sizes of --paper on processors and GPUs that
    have instructions for it, slower on others; parameters, outputs and losses stay float32"""
    autotune: bool = False
    """learn the temperature alpha, from 1, so that the entropy nears `target_entropy_ratio` ln A"""
    target_entropy_ratio: float = 0.7
    """with --autotune: the entropy aimed at, 0 to 1, as a share of the largest possible"""
    alpha: float = 0.1
    """temperature with --no-autotune: what a nat of entropy is worth, in reward"""
    anneal_alpha: bool = False
    """with --no-autotune, lower the temperature linearly to 0, from the first update on"""

    def __post_init__(self):
        rules = [  # what must hold; in words; of which fields
            (lambda x: x >= 1, "a whole number from 1 up", "num_envs eval_interval eval_episodes "
             "total_timesteps torch_threads rnn_size batch_size buffer_size"),
            (lambda x: x is None or x >= 1, "None or a number from 1 up", "max_episode_steps"),
            (lambda x: x == "full" or x >= 1, "'full' or a number from 1 up", "context_length"),
            (lambda x: min(x, default=0) >= 1, "widths from 1 up", "hidden_sizes embeddings"),
            (lambda x: 0 <= x < 2**31, "a whole number from 0 up, below 2**31",
             "seed learning_starts memory_span"),
            (lambda x: 0 <= x <= 1, "from 0 to 1",
             "td_lambda rewarded_fraction gamma tau anneal_lr target_entropy_ratio"),
            (lambda x: 0 <= x < 1, "from 0 up to, but not, 1", "flicker"),
            (lambda x: 0 < x < np.inf, "a number above 0", "updates_per_step learning_rate alpha"),
            (lambda x: re.fullmatch(r"(\d+(,\d+)*)?", x), "indices such as 0,1,4", "observe")]
        for holds, rule, names in rules:
            for name in names.split():
                if not holds(getattr(self, name)):
                    raise UsageError(f"{flag(name)} {getattr(self, name)}: must be {rule}")


def flag(name):
    return "--" + name.replace("_", "-")


def parse_args(argv=None):
    """Command line -> Args. Defaults come from the preset, or from the run that is named."""
    argv = sys.argv[1:] if argv is None else argv

    def parse(default, argv=argv):
        return tyro.cli(Args, args=argv, default=default, description=__doc__)

    # First without --help, which is to show the defaults of the environment that is named.
    args = parse(Args(), [word for word in argv if word not in ("-h", "--help")])
    if args.resume and args.evaluate:
        raise UsageError(f"--resume {args.resume} --evaluate {args.evaluate}: use one of the two")
    if args.resume or args.evaluate:
        source = "--resume" if args.resume else "--evaluate"
        saved = load_config(Path(args.resume or args.evaluate), source)
        args = parse(saved)
        may_change = {"resume", "evaluate", "track", "wandb_mode", "capture_video"}
        may_change |= {"eval_episodes", "eval_env_ids", "seed"} if args.evaluate else set()
        for name, old in asdict(saved).items():
            if name not in may_change and getattr(args, name) != old:
                raise UsageError(f"{flag(name)} {getattr(args, name)}: the run in {source} has "
                                 f"{old}; drop the flag, or start a new run with it")
        return args
    family = args.env_id.rpartition(":")[2].split("-")[0]
    if args.paper and family not in PAPER_PRESETS:
        raise UsageError(f"--paper: no published recipe for --env-id {args.env_id}; drop the flag, "
                         f"or use one of {', '.join(PAPER_PRESETS)}")
    kind, preset = (("paper's recipe", PAPER | PAPER_PRESETS[family]) if args.paper else
                    ("preset", PRESETS.get(family, {})))
    default = replace(Args(), **preset)
    args = parse(default)
    given = {k: v for k, v in asdict(args).items() if v != getattr(default, k)}
    for source, values in ((f"{kind} of {family}", preset), ("flags", given)):
        print(f"{source}:", " ".join(f"{k}={v:.4g}" if type(v) is float else f"{k}={v}"
                                     for k, v in values.items()) or "none")
    return args


# --- POMDP WRAPPER --------------------------------------------------------------------------------


class POMDP:
    """`n` lanes of any Gymnasium id, as the agent sees them: flat observations (n, O), float32 or,
    for pictures of bytes, uint8 with the channels first; actions (n, A) one-hot, `--observe` and
    `--flicker` applied, the hidden state for an oracle."""

    def __init__(self, args, n, split="train", render_mode=None):
        self.args, self.n = args, n
        module, _, env_id = args.env_id.rpartition(":")
        try:
            if module:
                importlib.import_module(module)
            known = gym.spec(env_id).kwargs  # which of these switches does the env offer?
            wanted = {"oracle": args.policy == "oracle", "split": split}
            kwargs = {k: v for k, v in wanted.items() if type(known.get(k)) is type(v)}
            options = {"max_episode_steps": args.max_episode_steps, "render_mode": render_mode}
            kwargs |= {k: v for k, v in options.items() if v is not None}
            self.envs = gym.make_vec(env_id, num_envs=n, **kwargs)
            if render_mode:  # better now than at the end of the run
                self.envs.reset()
                assert self.envs.render()[0] is not None
        except Exception as error:
            if render_mode:
                raise UsageError(f"--capture-video: --env-id {args.env_id} draws no pictures here; "
                                 "drop the flag") from error
            if not isinstance(error, (ImportError, gym.error.Error)):
                raise
            reason = " ".join(str(error).split())
            raise UsageError(f"--env-id {args.env_id}: {reason} Name a registered id, such as "
                             "Wind-v0, or module:Id-v0") from error
        if self.envs.metadata.get("autoreset_mode") != gym.vector.AutoresetMode.NEXT_STEP:
            raise UsageError(f"--env-id {args.env_id}: its lanes must reset in the step after an "
                             "end; register it with AutoresetMode.NEXT_STEP, Gymnasium's default")
        obs_space, action_space = self.envs.single_observation_space, self.envs.single_action_space
        if not isinstance(obs_space, gym.spaces.Box) or len(obs_space.shape) not in (1, 2, 3):
            raise UsageError(f"--env-id {args.env_id}: observations are {obs_space}; this script "
                             "takes a Box of one dimension, or pictures of two or three")
        if not isinstance(action_space, gym.spaces.Discrete):
            raise UsageError(f"--env-id {args.env_id}: actions are {action_space}; this script "
                             "takes Discrete; for a Box use rmf_sac_gru.py")
        self.first_action, self.action_dim = int(action_space.start), int(action_space.n)
        # A picture: an env whose observations are flat tells the shape in its metadata.
        shape = tuple(self.envs.metadata.get("image_shape", obs_space.shape))
        shape = (1, *shape) if len(shape) == 2 else shape
        self.channels_last = len(obs_space.shape) == 3 and shape[2] < shape[0]
        self.is_picture = len(shape) == 3
        self.obs_shape = (shape[2], *shape[:2]) if self.channels_last else shape
        # A picture of bytes stays one in the buffer; each observation is stored once, as it came.
        self.obs_dtype = np.uint8 if obs_space.dtype == np.uint8 else np.float32
        if self.is_picture and (args.observe or min(self.obs_shape[1:]) < 3):
            raise UsageError(f"--env-id {args.env_id} --observe {args.observe}: observations are "
                             f"pictures {self.obs_shape}; they are taken whole, from 3 x 3 up: "
                             "drop --observe, or wrap the env")
        n_obs = int(np.prod(obs_space.shape))
        self.keep = [int(i) for i in args.observe.split(",") if i] or list(range(n_obs))
        if max(self.keep) >= n_obs:
            raise UsageError(f"--observe {args.observe}: {args.env_id} has only the entries "
                             f"0 to {n_obs - 1}")
        self.flicker = args.flicker
        if args.policy == "oracle":
            if "oracle" not in known and not args.observe and not args.flicker:
                raise UsageError(f"--policy oracle: --env-id {args.env_id} has no oracle view and "
                                 "nothing is hidden by --observe or --flicker; drop the flag")
            self.keep, self.flicker = list(range(n_obs)), 0.0
        self.obs_dim = len(self.keep)
        self.obs_shape = self.obs_shape if self.is_picture else (self.obs_dim,)

    def _see(self, obs):
        obs = np.asarray(obs)
        obs = np.moveaxis(obs, -1, 1) if self.channels_last else obs  # (n, C, H, W)
        obs = obs.reshape(self.n, -1)[:, self.keep]  # (n, O)
        if self.flicker:
            obs = obs * (self.rng.random((self.n, 1)) >= self.flicker)
        return obs.astype(self.obs_dtype)

    def reset(self, seed):
        self.rng = np.random.default_rng([seed, 1])  # not the stream that the env makes of seed
        return self._see(self.envs.reset(seed=seed)[0])

    def step(self, action):
        """action (n, A) one-hot -> obs (n, O), then (n,) each: reward, terminal, ended, success
        (None where the env knows of none)."""
        obs, reward, terminated, truncated, info = self.envs.step(
            self.first_action + action.argmax(-1))
        # TRAP: a time limit (truncated) ends the episode but is not terminal: the future has value.
        success = info.get("is_goal", info.get("is_success"))
        return (self._see(obs), reward.astype(np.float32), terminated,
                terminated | truncated, success)


class Episodes(NamedTuple):
    """One episode per lane. Row t is what is perceived at step t: o_t, a_{t-1}, r_{t-1} and
    whether step t-1 was terminal; an episode of k steps has rows 0 to k, row 0 without a past."""

    rows: np.ndarray  # (T+1, n) of `row_dtype`
    n_steps: np.ndarray  # (n,)
    success: np.ndarray | None  # (n,) ever in the goal; None: the env knows of none

    @property
    def rewards(self):  # (T+1, n), row t: r_{t-1}; 0 behind the end
        return self.rows["prev_reward"] * (np.arange(len(self.rows))[:, None] <= self.n_steps)

    @property
    def returns(self):  # (n,)
        return self.rewards.sum(0, dtype=np.float64)


def play(env, act, seed, frames=None):
    """Play one whole episode in every lane. A lane that ends early plays on, unseen, until the
    longest one ends: its rows after the end belong to no episode and are never used.

    act: (obs (n, O), prev_action (n, A), prev_reward (n,), h) -> action (n, A), h
    """
    n, row_type = env.n, row_dtype(env)
    obs, h = env.reset(seed), None  # h None: an empty memory
    action, reward = np.zeros((n, env.action_dim), np.float32), np.zeros(n, np.float32)
    terminal, alive = np.zeros(n, bool), np.ones(n, bool)
    rows, n_steps, success = [], np.zeros(n, int), None
    while True:
        row = np.zeros(n, row_type)
        row["obs"], row["prev_action"], row["prev_reward"] = obs, action, reward
        row["terminal"] = terminal
        rows.append(row)
        if frames is not None:
            frames.append(env.envs.render()[0])
        if not alive.any():
            return Episodes(np.stack(rows), n_steps, success)  # rows: (T+1, n)
        if len(rows) > 100_000:
            raise UsageError(f"--env-id {env.args.env_id}: an episode did not end within 100,000 "
                             "steps; give it a limit with --max-episode-steps")
        action, h = act(obs, action, reward, h)
        obs, reward, terminal, ended, succeeded = env.step(action)
        if succeeded is not None:
            succeeded = np.asarray(succeeded, bool) & alive
            success = succeeded if success is None else success | succeeded
        n_steps += alive
        alive &= ~ended


# --- SEQUENCE BUFFER ------------------------------------------------------------------------------


def row_dtype(env):
    return np.dtype([("obs", env.obs_dtype, (env.obs_dim,)), ("prev_reward", "f4"),
                     ("prev_action", "f4", (env.action_dim,)), ("terminal", "?")])


class Batch(NamedTuple):
    """Sequences of one episode each, time first: rows 0 to T perceived, steps 0 to T-1 taken."""

    obs: torch.Tensor  # (T+1, B, O)
    prev_action: torch.Tensor  # (T+1, B, A)
    prev_reward: torch.Tensor  # (T+1, B)
    action: torch.Tensor  # (T, B, A)
    reward: torch.Tensor  # (T, B)
    terminal: torch.Tensor  # (T, B) 1 = nothing follows, do not bootstrap
    mask: torch.Tensor  # (T, B) 1 = a real step, 0 = padding behind the end of the episode


class SequenceBuffer:
    """Whole episodes, appended row by row to a file: a killed run loses nothing, a checkpoint
    only keeps the index; it is mapped into memory, and the newest `size` steps are sampled."""

    def __init__(self, path, row_type, size):
        self.path, self.size, self.dtype = Path(path), size, row_type
        self.n_steps = np.zeros(0, int)  # steps of each episode, oldest first
        self.rewarded = np.zeros(0, bool)  # has it any non-zero reward?

    def add(self, episodes):
        with self.path.open("ab") as file:
            for lane, n in enumerate(episodes.n_steps):
                file.write(episodes.rows[: n + 1, lane].tobytes())
        self.n_steps = np.append(self.n_steps, episodes.n_steps)
        self.rewarded = np.append(self.rewarded, episodes.rewards.any(0))
        self._map()

    def load(self, n_steps, rewarded):
        """Go back to the episodes of a checkpoint: whatever was appended later is cut off."""
        self.n_steps, self.rewarded = n_steps, rewarded
        n_bytes = int((n_steps + 1).sum()) * self.dtype.itemsize
        if n_bytes > (self.path.stat().st_size if self.path.exists() else 0):
            raise UsageError(f"--resume {self.path.parent}: {self.path.name} is missing or cut; "
                             "start the run again")
        if self.path.exists():
            os.truncate(self.path, n_bytes)
        if n_bytes:
            self._map()

    def _map(self):
        """Map the file and keep an index of the episodes that are young enough to be sampled."""
        self.rows = np.memmap(self.path, self.dtype, mode="r").view(np.ndarray)
        first_row = np.cumsum(self.n_steps + 1) - (self.n_steps + 1)
        age = np.cumsum(self.n_steps[::-1])[::-1]  # steps since the episode began
        young = age <= max(self.size, self.n_steps[-1])
        end, terminal = first_row + self.n_steps, self.rows["terminal"]
        fell = terminal[end] > terminal[end - 1]  # terminal at its end, and not before in a goal
        self.index = np.stack([first_row, self.n_steps, self.rewarded, fell], 1)[young]  # (n, 4)

    def sample(self, batch_size, context_length, rewarded_fraction, rng, device):
        """Draw sequences, each from inside one episode, every possible start equally likely; a
        `rewarded_fraction` of them from episodes that hold a reward, if there are any."""
        first_row, n_steps, rewarded, fell = self.index.T
        if context_length == "full":
            L, n_starts = n_steps.max(), np.ones_like(n_steps)
        else:
            # DEVIATION: in an episode that ends in a terminal step, any step may be the start.
            # TRAP: of windows that are all L steps long only one holds that step, while others are
            # in L of them: Q is told too rarely that a fall is the end.
            L = context_length
            n_starts = np.where(fell, n_steps, (n_steps - L + 1).clip(1))
        # DEVIATION: the paper draws all sequences alike (--rewarded-fraction 0). Where reward is
        # rare, nearly every batch lacks it then; where every episode has some, it is the same.
        n_rewarded = round(rewarded_fraction * batch_size) if rewarded.any() else 0
        episode = np.concatenate([
            np.searchsorted(weight.cumsum(), rng.integers(weight.sum() or 1, size=n), side="right")
            for weight, n in ((n_starts * rewarded, n_rewarded),
                              (n_starts, batch_size - n_rewarded))])
        start, n = rng.integers(n_starts[episode]), n_steps[episode]
        T = min(L, (n - start).max())
        t = start + np.arange(T + 1)[:, None]  # (T+1, B)
        rows = self.rows[first_row[episode] + np.minimum(t, n)]  # one gather: (T+1, B)
        # A sequence starts with an empty memory and no past, also in the middle of an episode.
        rows["prev_action"][0], rows["prev_reward"][0] = 0, 0

        def tensor(x):
            return torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(device)

        # TRY: let the first steps of a window count in no loss (docs/lessons.md, 4).
        prev_action, prev_reward = tensor(rows["prev_action"]), tensor(rows["prev_reward"])
        return Batch(tensor(rows["obs"]), prev_action, prev_reward, prev_action[1:],
                     prev_reward[1:], tensor(rows["terminal"][1:]), tensor(t[:-1] < n))


# --- NETWORKS -------------------------------------------------------------------------------------


def make_obs_encoder(env, args):
    """-> network that embeds observations (N, O) -> (N, embedding): a CNN for pictures."""
    n_out = args.embeddings[0]
    if not env.is_picture:
        return nn.Sequential(nn.Linear(env.obs_dim, n_out), nn.ReLU())
    channels, height, width = env.obs_shape
    if min(height, width) >= 64:  # the layers of the DQN paper (Mnih et al. 2015)
        layers = [nn.Conv2d(channels, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(),
                  nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten()]
    else:
        layers = [nn.Conv2d(channels, 8, 2), nn.ReLU(), nn.Conv2d(8, 16, 2), nn.ReLU(),
                  nn.Flatten()]
    cnn = nn.Sequential(nn.Unflatten(-1, env.obs_shape), *layers)
    n_features = cnn(torch.zeros(1, env.obs_dim)).shape[1]
    encoder = nn.Sequential(cnn, nn.Linear(n_features, n_out))
    if args.scaled_cnn:
        # DEVIATION: each picture is brought to a mean square of 1, and orthogonal layers keep it
        # so. TRAP: where 2 pixels of 49 are lit, torch's own start leaves of them changes of 0.02,
        # and the critic needs about ten times the updates to find out that they matter.
        for p in encoder.parameters():
            nn.init.orthogonal_(p, 2**0.5) if p.ndim > 1 else nn.init.zeros_(p)
        encoder.insert(0, nn.RMSNorm(env.obs_dim, elementwise_affine=False))
    return encoder


class Memory(nn.Module):
    """Remembers what is perceived at each step: the embedded observation, and what else `inputs`
    names. Acting is the same call with T = 1 and the h of the last step."""

    def __init__(self, action_dim, args):
        super().__init__()
        n_obs, n_action, n_reward = args.embeddings
        sizes = {"a": (action_dim, n_action), "r": (1, n_reward)}
        self.embed = nn.ModuleDict({k: nn.Linear(*sizes[k]) for k in args.inputs[1:]})
        n_in = n_obs + sum(sizes[k][1] for k in args.inputs[1:])
        self.rnn = {"gru": nn.GRU, "lstm": nn.LSTM}[args.rnn](n_in, args.rnn_size)
        for name, p in self.rnn.named_parameters():
            nn.init.orthogonal_(p) if "weight" in name else nn.init.zeros_(p)
        # DEVIATION: biases that keep, for 1 to `memory_span` steps, what a unit holds (chrono
        # initialisation, Tallec and Ollivier 2018). With the authors' zeros half is lost per step.
        if args.memory_span > 1:
            H, keep = args.rnn_size, torch.empty(args.rnn_size).uniform_(1, args.memory_span).log()
            bias = self.rnn.bias_hh_l0.data  # LSTM: input, forget, ...; GRU: reset, keep, ...
            bias[H : 2 * H] = keep
            if args.rnn == "lstm":
                bias[:H] = -keep

    def forward(self, seen, prev_action, prev_reward, h=None):
        """(T, B, embedding), (T, B, A), (T, B) -> memory at each step (T, B, H), and the last."""
        perceived = {"a": prev_action, "r": prev_reward.unsqueeze(-1)}
        x = [seen, *(F.relu(embed(perceived[k])) for k, embed in self.embed.items())]
        # TRY: a memory of your own: anything that looks back over the rows 0 to t, and no further.
        return self.rnn(torch.cat(x, -1), h)  # (T, B, embeddings) -> (T, B, H)


class OutputLayer(nn.Linear):
    """The last layer. It works in float32 even with --bf16, whose 8 bits are too coarse for a Q."""

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


def make_head(widths, n_out):
    layers = []
    for a, b in zip(widths, widths[1:]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, OutputLayer(widths[-1], n_out))


class Network(nn.Module):
    """An observation encoder, a memory or none, and heads over both: one number per action from
    each head. The actor is one with one head (logits), the critic one with two (Q_1 and Q_2)."""

    def __init__(self, env, args, recurrent, n_heads):
        super().__init__()
        self.obs_encoder = make_obs_encoder(env, args)
        self.largest = 255.0 if env.obs_dtype == np.uint8 else 1.0  # bytes: seen from 0 to 1
        self.memory = Memory(env.action_dim, args) if recurrent else None
        widths = [args.embeddings[0] + args.rnn_size * recurrent, *args.hidden_sizes]
        self.heads = nn.ModuleList(make_head(widths, env.action_dim) for _ in range(n_heads))

    def forward(self, obs, prev_action, prev_reward, h=None):
        """(T, B, O), (T, B, A), (T, B) -> a list of (T, B, A), one per head; the last memory."""
        T, B = prev_reward.shape
        x = self.obs_encoder(obs.flatten(0, 1) / self.largest)  # (T*B, embedding)
        x = x.unflatten(0, (T, B))
        if self.memory:
            out, h = self.memory(x, prev_action, prev_reward, h)
            # The shortcut: heads see o_t directly, too. DEVIATION: as with pictures, vectors are
            # embedded once for both; the authors have a second layer for the shortcut.
            x = torch.cat([out, x], -1)
        return [head(x) for head in self.heads], h


class Agent(nn.Module):
    """All that is learnt."""

    def __init__(self, env, args):
        super().__init__()
        self.actor = Network(env, args, args.policy == "recurrent", n_heads=1)
        self.critic = Network(env, args, args.policy in ("recurrent", "markov-actor"), n_heads=2)
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
        log_alpha = 0.0 if args.autotune else float(np.log(args.alpha))
        self.log_alpha = nn.Parameter(torch.tensor(log_alpha), requires_grad=args.autotune)
        self.target_entropy = args.target_entropy_ratio * float(np.log(env.action_dim))

    @torch.no_grad()
    def act(self, obs, prev_action, prev_reward, h, deterministic=False):
        """One step in n lanes, NumPy in and out: obs (n, O) ... -> action (n, A), memory."""
        obs, prev_action, prev_reward = (
            torch.as_tensor(x, dtype=torch.float32, device=self.log_alpha.device)[None]
            for x in (obs, prev_action, prev_reward))  # (1, n, ...)
        (logits,), h = self.actor(obs, prev_action, prev_reward, h)
        if deterministic:
            action = logits[0].argmax(-1)  # (n,)
        else:
            action = torch.multinomial(logits[0].softmax(-1), 1).squeeze(-1)
        return F.one_hot(action, logits.shape[-1]).float().cpu().numpy(), h


# --- LOSSES AND UPDATE ----------------------------------------------------------------------------


def masked_mean(x, mask):
    return (x * mask).sum() / mask.sum().clamp(min=1)


def td_targets(batch, next_value, args):
    """Eq. (2): next_value (T, B) is V_{t+1}; the targets y (T, B), from the last step backwards.
    After the last real step of a sequence follows V alone."""
    assert next_value.shape == batch.reward.shape == batch.mask.shape
    discount = args.gamma * (1 - batch.terminal)
    lam = args.td_lambda * torch.cat([batch.mask[1:], torch.zeros_like(batch.mask[:1])])  # (T, B)
    one_step = batch.reward + discount * (1 - lam) * next_value
    y = torch.zeros_like(one_step[0])
    targets = []
    # DEVIATION: the paper has lambda = 0, where the loop changes nothing.
    # TRY: n-step targets (docs/lessons.md, 6).
    for reward_t, follow_t in zip(one_step.flip(0), (discount * lam).flip(0)):
        y = reward_t + follow_t * y  # Eq. (2)
        targets.append(y)
    return torch.stack(targets).flip(0)  # (T, B)


def critic_loss(q1, q2, y, mask):
    """Eq. (3), all (T, B)."""
    assert q1.shape == q2.shape == y.shape == mask.shape
    loss = masked_mean((q1 - y) ** 2 + (q2 - y) ** 2, mask)
    return loss, {"losses/qf_loss": loss, "losses/q_data": masked_mean((q1 + q2) / 2, mask),
                  "losses/target": masked_mean(y, mask)}


def actor_loss(q1, q2, log_pi, alpha, mask):
    """Eq. (4): q1, q2 without gradient, log_pi, all (T, B, A); mask (T, B)."""
    assert q1.shape == q2.shape == log_pi.shape and q1.shape[:2] == mask.shape
    q, pi = torch.minimum(q1, q2), log_pi.exp()
    loss = masked_mean((pi * (alpha * log_pi - q)).sum(-1), mask)
    return loss, {"losses/actor_loss": loss, "losses/q_policy": masked_mean((pi * q).sum(-1), mask),
                  "losses/entropy": -masked_mean((pi * log_pi).sum(-1), mask)}


def alpha_loss(log_alpha, entropy, target_entropy, mask):
    """Eq. (5), entropy (T, B) without gradient."""
    return log_alpha * (masked_mean(entropy, mask) - target_entropy)


def grad_norm(module):
    return nn.utils.get_total_norm([p.grad for p in module.parameters()] if module else [])


def update(agent, optimizer, batch, args):
    """One gradient step on every network. Returns a dict of scalars, detached."""
    mask, actor, critic, target = batch.mask, agent.actor, agent.critic, agent.critic_target
    perceived = batch.obs, batch.prev_action, batch.prev_reward

    # Each network goes over the sequences once.
    # DEVIATION: the authors step the critic first and run it and the actor again for the actor's
    # loss; here both losses see the same networks.
    (logits,), _ = actor(*perceived)  # (T+1, B, A)
    log_pi, alpha = logits.log_softmax(-1), agent.log_alpha.detach().exp()
    q1, q2 = (q[:-1] for q in critic(*perceived)[0])  # (T, B, A)

    # The critic.
    with torch.no_grad():
        q = torch.minimum(*target(*perceived)[0])
        value = (log_pi.exp() * (q - alpha * log_pi)).sum(-1)  # Eq. (1), (T+1, B)
        y = td_targets(batch, value[1:], args)
    taken = [(q * batch.action).sum(-1) for q in (q1, q2)]  # (T, B)
    q_loss, scalars = critic_loss(*taken, y, mask)

    # The actor. Its loss takes Q as given: no gradient reaches the critic.
    pi_loss, actor_scalars = actor_loss(q1.detach(), q2.detach(), log_pi[:-1], alpha, mask)

    optimizer.zero_grad()
    with torch.autocast(mask.device.type, enabled=False):  # in the types that the forwards took
        (q_loss + pi_loss).backward()
    if args.autotune:
        entropy = -(log_pi.exp() * log_pi).sum(-1)[:-1].detach()  # (T, B)
        alpha_loss(agent.log_alpha, entropy, agent.target_entropy, mask).backward()
    scalars |= actor_scalars | {"losses/alpha": alpha, "grads/actor_rnn": grad_norm(actor.memory),
                                "grads/critic_rnn": grad_norm(critic.memory)}
    optimizer.step()

    # The target follows the critic.
    with torch.no_grad():
        torch._foreach_lerp_(list(target.parameters()), list(critic.parameters()), args.tau)
    return {name: value.detach() for name, value in scalars.items()}


# --- EVALUATION -----------------------------------------------------------------------------------


def evaluate(env, agent, args, frames=None):
    """Play the held-out episodes with deterministic actions, the same ones every time."""
    episodes = play(env, lambda *perceived: agent.act(*perceived, deterministic=True),
                    args.seed + 10_000, frames)
    returns = episodes.returns
    result = {"eval/return_mean": returns.mean(), "eval/return_std": returns.std()}
    result["eval/return_worst10"] = returns[returns <= np.percentile(returns, 10)].mean()
    if episodes.success is not None:
        result["eval/success_rate"] = episodes.success.mean()
    return result


def make_eval_envs(args):
    """-> {ending of a column's name: env}: "" for --env-id, "@id" for each of --eval-env-ids."""
    made = {"": POMDP(args, args.eval_episodes, "heldout")}
    for env_id in args.eval_env_ids:
        try:
            env = POMDP(replace(args, env_id=env_id), args.eval_episodes, "heldout")
        except UsageError as error:
            raise UsageError(f"--eval-env-ids {env_id}: {error}") from error
        made[f"@{env_id}"] = env
        own, other = (f"{e.obs_dim} observations and {e.action_dim} actions of a "
                      f"{type(e.envs.single_action_space).__name__}" for e in (made[""], env))
        if own != other:
            raise UsageError(f"--eval-env-ids {env_id}: {other}, but {args.env_id} has {own}")
    return made


def evaluate_all(eval_envs, agent, args):
    return {name + ending: value for ending, env in eval_envs.items()
            for name, value in evaluate(env, agent, args).items()}


def report(folder, result):
    print("\n".join(f"{name}: {value:.4g}" for name, value in result.items()))
    print(f"{folder}: held-out return {result['eval/return_mean']:.2f} +- "
          f"{result['eval/return_std']:.2f}")


def capture_video(env, agent, args, folder):
    """Write a held-out episode, played in an env of one lane that renders, as a GIF."""
    from PIL import Image

    frames = []
    evaluate(env, agent, args, frames)
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(folder / "episode.gif", save_all=True, append_images=images[1:], duration=50)
    print(f"video: {folder / 'episode.gif'}")


# --- RUN FOLDER -----------------------------------------------------------------------------------

COLUMNS = [
    "env_step", "seconds", "charts/episodic_return", "charts/episodic_length", "charts/SPS",
    "charts/updates", "losses/qf_loss", "losses/actor_loss", "losses/alpha", "losses/entropy",
    "losses/q_data", "losses/q_policy", "losses/target", "grads/actor_rnn", "grads/critic_rnn",
    "eval/return_mean", "eval/return_std", "eval/return_worst10", "eval/success_rate",
]


def columns(args):
    return COLUMNS + [f"{name}@{env_id}" for env_id in dict.fromkeys(args.eval_env_ids)
                      for name in COLUMNS if name.startswith("eval/")]


def replace_file(path, write):
    """Write a file under a temporary name, then rename it: it is never seen half written."""
    temporary = path.with_name("tmp-" + path.name)
    write(temporary)
    os.replace(temporary, path)


def new_run_folder(args):
    now = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    name = f"{args.env_id}__{Path(__file__).stem}__{args.seed}__{now}"
    folder = Path(args.runs_dir) / re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"--runs-dir {args.runs_dir}: cannot make {folder}: {error.strerror}; "
                         "name a folder that can be written to") from error
    git = subprocess.run("git rev-parse HEAD", shell=True, cwd=Path(__file__).parent,
                         capture_output=True, text=True)  # a shell: git may not be there
    versions = {m.__name__: m.__version__ for m in (torch, gym, np)} | {"python": sys.version}
    config = {"script": Path(__file__).name, "args": asdict(args), "versions": versions,
              "git_commit": git.stdout.strip()}
    replace_file(folder / "config.json", lambda p: p.write_text(json.dumps(config, indent=2)))
    (folder / "metrics.csv").write_text(",".join(columns(args)) + "\n")
    return folder


def load_config(folder, source):
    try:
        config = json.loads((folder / "config.json").read_text())
        if config["script"] != Path(__file__).name:
            raise UsageError(f"{source} {folder}: made by {config['script']}; use that script")
        lists = {k: tuple(v) for k, v in config["args"].items() if isinstance(v, list)}
        return Args(**config["args"] | lists)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{source} {folder}: no readable config.json in it ({error}); name the "
                         "folder of a run, as in runs/Wind-v0__...") from error


def load_checkpoint(folder, source, agent):
    try:
        saved = torch.load(folder / "checkpoint.pt", weights_only=True, map_location="cpu")
        agent.load_state_dict(saved["agent"])
        return saved
    except Exception as error:  # torch raises many kinds for a missing or damaged file
        reason = " ".join(str(error).split())[:100]
        raise UsageError(f"{source} {folder}: checkpoint.pt is missing, damaged or of another "
                         f"environment ({reason}); start the run again") from error


def draw_curve(folder, args, references):
    """learning_curve.png: the held-out return, with the scores that the env states as lines."""
    from matplotlib.figure import Figure

    table = np.genfromtxt(folder / "metrics.csv", delimiter=",", skip_header=1, ndmin=2)
    wanted = [COLUMNS.index(c) for c in ("env_step", "eval/return_mean", "eval/return_std")]
    step, mean, std = table[~np.isnan(table[:, wanted[1]])][:, wanted].T
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(step, mean, color="C0", label=f"{args.policy}, seed {args.seed}")
    axes.fill_between(step, mean - std, mean + std, color="C0", alpha=0.2, lw=0)
    for i, (name, score) in enumerate(references.items()):
        axes.axhline(score, color=f"C{i + 1}", ls="--", lw=1, label=f"{name}: {score:g}")
    axes.axvspan(0, min(args.learning_starts, step.max()), color="0.93", label="random actions")
    axes.set(title=f"{args.env_id}  {Path(__file__).stem}", xlabel="env steps",
             ylabel=f"return, {args.eval_episodes} held-out episodes")
    axes.legend(fontsize=8)
    replace_file(folder / "learning_curve.png", lambda p: figure.savefig(p, dpi=110))


# --- TRAINING -------------------------------------------------------------------------------------


def train(args, stop=()):
    """Play, learn, evaluate, until --total-timesteps, or until `stop`, a list, holds anything.
    Returns the run folder."""
    if args.learning_starts >= args.total_timesteps:
        raise UsageError(f"--learning-starts {args.learning_starts}: no update before the end; "
                         f"must be below --total-timesteps {args.total_timesteps}")
    torch.set_num_threads(args.torch_threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)  # what is sampled, and the seeds of the episodes
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    env, eval_envs = POMDP(args, args.num_envs), make_eval_envs(args)
    video_env = POMDP(args, 1, "heldout", "rgb_array") if args.capture_video else None
    agent = Agent(env, args).to(device)
    learnt = [p for p in agent.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learnt, args.learning_rate, fused=True)
    saved = load_checkpoint(Path(args.resume), "--resume", agent) if args.resume else None
    if saved and saved["env_step"] >= args.total_timesteps:
        raise UsageError(f"--resume {args.resume}: that run is complete; use --evaluate")
    if saved and not Path(args.resume, "metrics.csv").is_file():
        raise UsageError(f"--resume {args.resume}: metrics.csv is missing; start the run again")
    folder = Path(args.resume) if args.resume else new_run_folder(args)
    buffer = SequenceBuffer(folder / "buffer.bin", row_dtype(env), args.buffer_size)
    env_step, n_updates, owed, started = 0, 0, 0.0, time.monotonic()
    if saved:
        optimizer.load_state_dict(saved["optimizer"])
        rng.bit_generator.state = saved["numpy_rng"]
        torch.manual_seed(saved["env_step"])  # a GPU: not the noise of the start again
        torch.set_rng_state(saved["torch_rng"])
        buffer.load(saved["n_steps"].numpy(), saved["rewarded"].numpy())
        os.truncate(folder / "metrics.csv", saved["csv_bytes"])
        env_step, n_updates, owed = saved["env_step"], saved["n_updates"], saved["owed"]
        started -= saved["seconds"]
    if args.track:
        import wandb

        tracker = wandb.init(project="recurrent-model-free-rl", name=folder.name, id=folder.name,
                             dir=folder, config=asdict(args), mode=args.wandb_mode, resume="allow")
    n_parameters = sum(p.numel() for p in learnt)
    encoder = " -> ".join(str(m).replace("_features", "")
                          for m in agent.actor.obs_encoder.modules()
                          if isinstance(m, (nn.Conv2d, nn.Linear)))
    print(f"{args.env_id}: obs {env.obs_shape}, {env.action_dim} actions; {args.policy} agent on "
          f"{device}, {n_parameters:,} parameters\nobservation encoder: {encoder}\n"
          f"run folder: {folder}", flush=True)
    result, score, time_left = {}, "-", "-"

    def record(row, evaluation_due):
        """Write a row; after an evaluation, or when stopping, also the picture and a checkpoint."""
        nonlocal score, result
        if evaluation_due:
            result = evaluate_all(eval_envs, agent, args)
            row |= result
            score = f"{row['eval/return_mean']:.2f} +- {row['eval/return_std']:.2f}"
        seconds = time.monotonic() - started
        row |= {"env_step": env_step, "charts/updates": n_updates, "seconds": seconds}
        with (folder / "metrics.csv").open("a") as file:
            file.write(",".join(f"{row[c]:.7g}" if c in row else "" for c in columns(args)) + "\n")
        if args.track:
            tracker.log(row, step=env_step)
        if evaluation_due or sys.stdout.isatty():
            print(f"{env_step:>9,}/{args.total_timesteps:,} env steps | {n_updates:,} updates | "
                  f"{row.get('charts/SPS', 0):,.0f} steps/s | held-out return {score} | "
                  f"{time_left} left   ", end="\n" if evaluation_due else "\r", flush=True)
        if evaluation_due or stop:
            draw_curve(folder, args, env.envs.metadata.get("reference_scores", {}))
            checkpoint = {
                "agent": agent.state_dict(), "optimizer": optimizer.state_dict(),
                "env_step": env_step, "n_updates": n_updates, "owed": owed, "seconds": seconds,
                "numpy_rng": rng.bit_generator.state, "torch_rng": torch.get_rng_state(),
                "n_steps": torch.from_numpy(buffer.n_steps),
                "rewarded": torch.from_numpy(buffer.rewarded),
                "csv_bytes": (folder / "metrics.csv").stat().st_size}
            replace_file(folder / "checkpoint.pt", lambda path: torch.save(checkpoint, path))

    def random_action(obs, *_):
        one_hot = np.eye(env.action_dim, dtype=np.float32)
        return one_hot[rng.integers(env.action_dim, size=env.n)], None

    if not saved:
        record({}, evaluation_due=True)
    while env_step < args.total_timesteps and not stop:
        # Every lane plays an episode.
        round_started, learning = time.monotonic(), env_step >= args.learning_starts
        episodes = play(env, agent.act if learning else random_action, int(rng.integers(2**31)))
        buffer.add(episodes)
        new_steps = int(episodes.n_steps.sum())
        # The agent learns from the buffer.
        left = (args.total_timesteps - env_step) / (args.total_timesteps - args.learning_starts)
        if args.anneal_lr and learning:  # `left` falls from 1 to 0
            optimizer.param_groups[0]["lr"] = args.learning_rate * min(1, left / args.anneal_lr)
        if args.anneal_alpha and learning and not args.autotune:
            agent.log_alpha.data.fill_(np.log(args.alpha * left))
        owed += args.updates_per_step * new_steps * learning
        scalars = []
        for _ in range(int(owed)):
            batch = buffer.sample(args.batch_size, args.context_length, args.rewarded_fraction,
                                  rng, device)
            with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
                scalars.append(update(agent, optimizer, batch, args))
        # One row of numbers: means over the round.
        env_step, n_updates, owed = env_step + new_steps, n_updates + len(scalars), owed % 1
        steps_per_second = new_steps / (time.monotonic() - round_started)
        row = {k: torch.stack([s[k] for s in scalars if k in s]).mean().item()
               for k in set().union(*scalars)}
        row |= {"charts/episodic_return": episodes.returns.mean(), "charts/SPS": steps_per_second,
                "charts/episodic_length": episodes.n_steps.mean()}
        if learning:
            minutes = (args.total_timesteps - env_step) / steps_per_second / 60
            time_left = f"{max(minutes, 0):.1f} min"
        passed = env_step // args.eval_interval > (env_step - new_steps) // args.eval_interval
        record(row, evaluation_due=passed or env_step >= args.total_timesteps)
    if args.track:
        tracker.finish()
    if env_step < args.total_timesteps:
        print(f"stopped; go on with --resume {folder}")
        return folder
    if not n_updates:
        raise UsageError(f"--total-timesteps {args.total_timesteps}: {folder} ended without an "
                         "update; raise it, or lower --num-envs or --learning-starts")
    buffer.path.unlink()  # only training needs it
    if args.capture_video:
        capture_video(video_env, agent, args, folder)
    report(folder, result)
    return folder


def evaluate_run(args):
    """--evaluate: play the held-out episodes with the checkpoint of a run."""
    torch.set_num_threads(args.torch_threads)
    folder, eval_envs = Path(args.evaluate), make_eval_envs(args)
    env = eval_envs[""]
    agent = Agent(env, args)
    load_checkpoint(folder, "--evaluate", agent)
    if args.capture_video:
        capture_video(POMDP(args, 1, "heldout", "rgb_array"), agent, args, folder)
    report(folder, evaluate_all(eval_envs, agent, args))


def main(argv=None):
    args, stop = parse_args(argv), []
    if args.evaluate:
        return evaluate_run(args)

    def stop_after_this_round(*_):  # a second Ctrl-C stops at once
        signal.signal(signal.SIGINT, on_interrupt)
        stop.append(True)
        print("\nstopping after this round", flush=True)

    on_interrupt = signal.signal(signal.SIGINT, stop_after_this_round)
    try:
        return train(args, stop)
    finally:
        signal.signal(signal.SIGINT, on_interrupt)


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"error: {error}")
