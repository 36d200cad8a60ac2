"""On-policy baseline for POMDPs: PPO + GRU (or A2C + GRU), in one file.

    python ppo_gru_baseline.py --env-id Pendulum-V-v0                    # with memory
    python ppo_gru_baseline.py --env-id Pendulum-V-v0 --policy markov    # without memory
    python ppo_gru_baseline.py --env-id Pendulum-V-v0 --policy oracle    # the hidden state is shown
    python ppo_gru_baseline.py --env-id CartPole-V-v0 --algo a2c

The agent perceives, remembers, acts:   o_t, a_{t-1}, r_{t-1}  ->  h_t  ->  a_t  ->  r_t, o_{t+1}
Actor and critic each own a memory, h_t and c_t.

  (1) delta_t = r_t + gamma (1 - terminated_t) V(c_{t+1}, o_{t+1}) - V(c_t, o_t)
  (2) A_t     = delta_t + gamma lambda (1 - ended_t) A_{t+1}       ended: terminated or truncated
  (3) J_pi    = mean_t  -min(ratio_t A_t, clip(ratio_t, 1 - eps, 1 + eps) A_t)
                ratio_t = pi(a_t | h_t, o_t) / pi_old(a_t | h_t, o_t)
  (4) J_V     = mean_t  (V(c_t, o_t) - (A_t + V_old(c_t, o_t)))^2
      loss    = J_pi + vf_coef J_V - ent_coef entropy

Shapes, time first: T steps of a segment, N lanes, O observation, A action, H memory.

PPO: Schulman et al. 2017. The recurrent form is the usual one (the paper's baseline has it too): a
segment starts from the memory that acting left behind, minibatches are whole lanes with their time
in order, gradients flow through the segment and stop where an episode starts. A2C is PPO with one
epoch and one minibatch: then every ratio is 1 (Huang et al. 2022).

In a minute: the memory is `Encoder`, its resets are in `remember`, what is learnt from is played by
`Lanes`, the target is `advantages`, the gradient steps are `update`. `# TRY:` marks lines that are
good to change.
"""

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
from torch.distributions import Independent, Normal, OneHotCategorical

import envs  # noqa: F401  (importing it registers Wind-v0 and the other benchmark ids)

# --- ARGUMENTS ------------------------------------------------------------------------------------

# Environment family -> what it needs that the defaults below do not give. A flag always wins.
PRESETS = {
    "Pendulum": dict(total_timesteps=300_000, num_envs=64, eval_interval=25_600, num_steps=50,
                     inputs="oar", gamma=0.95),
    "CartPole": dict(total_timesteps=150_000, eval_interval=10_000),
    "Wind": dict(num_envs=80, eval_interval=60_000, num_steps=75),
    "SemiCircle": dict(num_envs=80, eval_interval=96_000, eval_episodes=100, inputs="or",
                       num_steps=120),
}
DYNAMICS = "HopperRobust WalkerRobust CheetahRobust HopperGeneralize CheetahGeneralize".split()
PRESETS |= dict.fromkeys(DYNAMICS, dict(eval_interval=100_000, eval_episodes=100, inputs="o"))
A2C = dict(num_steps=16, update_epochs=1, num_minibatches=1)  # --algo a2c, for all environments


class UsageError(Exception):
    """What was asked for cannot be done; printed as one line, without a traceback."""


@dataclass
class Args:
    # --- the run: the same fields in every script ---
    env_id: str = "Pendulum-V-v0"
    """Gymnasium id with Box observations; `module:Id-v0` imports `module` first"""
    seed: int = 1
    """seed of everything random, from 0 up; held-out episodes use seed + 10000"""
    total_timesteps: int = 1_000_000
    """env steps to play, counted over all lanes"""
    num_envs: int = 16
    """lanes: episodes that are played side by side"""
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
    eval_interval: int = 25_000
    """env steps between two evaluations; each one is followed by a checkpoint, and the lanes start
    anew: let it be several episodes in each lane"""
    eval_episodes: int = 20
    """held-out episodes per evaluation, deterministic actions, the same ones each time"""
    eval_env_ids: tuple[str, ...] = ()
    """other ids to evaluate in as well: does it generalize? As many observations and actions"""

    # --- the algorithm ---
    algo: Literal["ppo", "a2c"] = "ppo"
    """a2c: one epoch, one minibatch and short segments, unless flags say otherwise"""
    policy: Literal["recurrent", "markov", "oracle"] = "recurrent"
    """markov: no memory, only o_t; oracle: no memory, but the hidden state is in o_t"""
    inputs: Literal["o", "oa", "or", "oar"] = "oa"
    """what the memory is fed: observation, previous action, previous reward"""
    observe: str = ""
    """keep only these entries of the observation, as in `0,1,4`: makes a POMDP of an MDP"""
    flicker: float = 0.0
    """probability, from 0 up to but not 1, that an observation is blanked to zeros"""
    rnn: Literal["gru", "lstm"] = "gru"
    """kind of memory"""
    rnn_size: int = 64
    """width H of the memory"""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """hidden layers of the actor's and of the critic's head"""
    embeddings: tuple[int, int, int] = (32, 8, 8)
    """widths of the layers that embed observation, action and reward"""
    num_steps: int = 128
    """steps of a segment, in each lane; gradients flow at most this far back"""
    update_epochs: int = 10
    """times that each segment is learnt from"""
    num_minibatches: int = 4
    """parts that the lanes are split into; a gradient step each"""
    gamma: float = 0.99
    """discount, 0 to 1"""
    gae_lambda: float = 0.95
    """lambda of the advantages, 0 to 1"""
    clip_coef: float = 0.2
    """a ratio is clipped at 1 plus and minus this"""
    ent_coef: float = 0.0
    """weight of the entropy bonus"""
    vf_coef: float = 0.5
    """weight of the critic's loss; matters to the clipping of gradients alone: nothing is shared"""
    max_grad_norm: float = 0.5
    """the gradient is scaled down to this norm"""
    learning_rate: float = 1e-3
    """Adam's learning rate"""
    anneal_lr: float = 1.0
    """last share of the run, 0 to 1, in which the learning rate falls to 0; 0: constant"""
    norm_obs: bool = True
    """shift and scale observations to mean 0, variance 1 of all seen so far, cut at -10 and 10"""
    norm_reward: bool = True
    """divide rewards by the standard deviation of the discounted return, cut at -10 and 10"""

    def __post_init__(self):
        rules = [  # what must hold; in words; of which fields
            (lambda x: x >= 1, "a whole number from 1 up", "num_envs eval_interval eval_episodes "
             "total_timesteps torch_threads rnn_size num_steps update_epochs num_minibatches"),
            (lambda x: x is None or x >= 1, "None or a number from 1 up", "max_episode_steps"),
            (lambda x: min(x, default=0) >= 1, "widths from 1 up", "hidden_sizes embeddings"),
            (lambda x: 0 <= x < 2**31, "a whole number from 0 up, below 2**31", "seed"),
            (lambda x: 0 <= x <= 1, "from 0 to 1", "gamma gae_lambda anneal_lr"),
            (lambda x: 0 <= x < 1, "from 0 up to, but not, 1", "flicker"),
            (lambda x: 0 < x < np.inf, "a number above 0", "learning_rate clip_coef max_grad_norm"),
            (lambda x: 0 <= x < np.inf, "a number from 0 up", "ent_coef vf_coef"),
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
    preset = PRESETS.get(family, {}) | (A2C if args.algo == "a2c" else {})
    default = replace(Args(), **preset)
    args = parse(default)
    given = {k: v for k, v in asdict(args).items() if v != getattr(default, k)}
    for source, values in ((f"preset of {family}", preset), ("flags", given)):
        print(f"{source}:", " ".join(f"{k}={v:.4g}" if type(v) is float else f"{k}={v}"
                                     for k, v in values.items()) or "none")
    return args


# --- POMDP WRAPPER --------------------------------------------------------------------------------


class POMDP:
    """`n` lanes of any Gymnasium id, as the agent sees them: flat float32 observations (n, O),
    actions (n, A) in [-1, 1] or one-hot, `--observe` and `--flicker` applied, the hidden state for
    an oracle."""

    obs_dtype = np.float32

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
        if not isinstance(obs_space, gym.spaces.Box) or len(obs_space.shape) > 1:
            raise UsageError(f"--env-id {args.env_id}: observations are {obs_space}; this script "
                             "takes a Box of one dimension: flatten them with your own wrapper")
        self.discrete = isinstance(action_space, gym.spaces.Discrete)
        if self.discrete:
            self.first_action, self.action_dim = int(action_space.start), int(action_space.n)
        elif isinstance(action_space, gym.spaces.Box) and action_space.is_bounded():
            self.low, self.high = action_space.low.ravel(), action_space.high.ravel()
            self.action_space, self.action_dim = action_space, len(self.low)
        else:
            raise UsageError(f"--env-id {args.env_id}: actions are {action_space}; this script "
                             "takes Discrete, or a Box with finite bounds, as in Pendulum-V-v0")
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

    def _see(self, obs):
        obs = np.asarray(obs, np.float32).reshape(self.n, -1)[:, self.keep]  # (n, O)
        if self.flicker:
            obs = obs * (self.rng.random((self.n, 1)) >= self.flicker)
        return obs

    def reset(self, seed):
        self.rng = np.random.default_rng([seed, 1])  # not the stream that the env makes of seed
        return self._see(self.envs.reset(seed=seed)[0])

    def step(self, action):
        """action (n, A) in [-1, 1] or one-hot -> obs (n, O), then (n,) each: reward, terminal,
        ended, success (None where the env knows of none)."""
        if self.discrete:
            action = self.first_action + action.argmax(-1)
        else:
            action = self.low + (np.clip(action, -1, 1) + 1) / 2 * (self.high - self.low)
            action = np.clip(action, self.low, self.high).astype(self.action_space.dtype)
            action = action.reshape(self.n, *self.action_space.shape)
        obs, reward, terminated, truncated, info = self.envs.step(action)
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


# For evaluation alone: what is learnt from is played by `Lanes`, below.
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


def row_dtype(env):
    return np.dtype([("obs", env.obs_dtype, (env.obs_dim,)), ("prev_reward", "f4"),
                     ("prev_action", "f4", (env.action_dim,)), ("terminal", "?")])


# --- SEGMENTS -------------------------------------------------------------------------------------


class Segment(NamedTuple):
    """What acting leaves behind, time first: rows 0 to T perceived, steps 0 to T-1 taken."""

    obs: torch.Tensor  # (T+1, N, O) normalised
    prev_action: torch.Tensor  # (T+1, N, A)
    prev_reward: torch.Tensor  # (T+1, N)
    first: torch.Tensor  # (T+1, N) 1 = an episode starts here: the memory is empty
    value: torch.Tensor  # (T+1, N)
    action: torch.Tensor  # (T, N, A)
    log_prob: torch.Tensor  # (T, N)
    reward: torch.Tensor  # (T, N) scaled
    terminal: torch.Tensor  # (T, N) 1 = nothing follows, do not bootstrap
    ended: torch.Tensor  # (T, N) 1 = the episode ends here: terminated or truncated
    mask: torch.Tensor  # (T, N) 1 = a real step, 0 = the call that only starts the next episode
    h: tuple  # memories of actor and critic before row 0


class Lanes:
    """N lanes that are played on and on; a segment is what `num_steps` calls of step leave."""

    def __init__(self, env, args, device):
        self.env, self.args, self.device = env, args, device

    def reset(self, seed):
        n = self.env.n
        self.obs, self.h = self.env.reset(seed), (None, None)
        self.prev_action = np.zeros((n, self.env.action_dim), np.float32)
        self.prev_reward, self.discounted = np.zeros(n, np.float32), np.zeros(n)
        self.first, self.ended = np.ones(n, bool), np.zeros(n, bool)
        self.so_far = np.zeros((2, n))  # return and length of the episode in each lane

    @torch.no_grad()
    def play(self, agent):
        """-> Segment, and the (return, length) of each episode that ended in it."""
        def tensor(x):
            return torch.as_tensor(np.asarray(x, np.float32), device=self.device)

        h0, rows, steps, finished = self.h, [], [], []
        for t in range(self.args.num_steps + 1):
            if self.args.norm_obs and t < self.args.num_steps:
                agent.obs_norm.update(tensor(self.obs))
            row = [agent.obs_norm(tensor(self.obs)), *map(tensor, (
                self.prev_action, self.prev_reward, self.first))]
            policy, value, h = agent(*(x[None] for x in row), self.h)
            rows.append([*row, value[0]])
            if t == self.args.num_steps:  # row T only lends its value to step T-1
                break
            self.h, action = h, policy.sample()  # (1, N, A)
            played = agent.playable(action)[0].cpu().numpy()  # (N, A)
            # In the call after the end of an episode the env ignores the action and resets. So the
            # row of that call holds the true last observation, and its value is what a truncated
            # episode bootstraps from; the call itself is no step (mask 0).
            real = ~self.ended
            self.obs, reward, terminal, ended, _ = self.env.step(played)
            self.so_far += reward * real, real
            finished += map(tuple, self.so_far.T[ended & real])
            self.discounted = self.discounted * self.args.gamma * real + reward * real
            if self.args.norm_reward and real.any():
                agent.return_norm.update(tensor(self.discounted[real]))
            steps.append([action[0], policy.log_prob(action)[0], agent.return_norm.scale(
                tensor(reward)), *map(tensor, (terminal, ended, real))])
            self.first, self.ended = ~real, ended & real
            self.prev_action, self.prev_reward = (
                played * real[:, None], (reward * real).astype(np.float32))
            self.so_far *= real
        return Segment(*map(torch.stack, (*zip(*rows), *zip(*steps))), h0), finished


# --- NETWORKS -------------------------------------------------------------------------------------


class RunningNorm(nn.Module):
    """Mean and variance of all that was seen (Chan et al. 1979), kept with the weights. As long as
    nothing was seen, values pass as they are."""

    def __init__(self, *shape):
        super().__init__()
        for name, value in (("mean", torch.zeros(shape)), ("var", torch.ones(shape)),
                            ("count", torch.tensor(0.0, dtype=torch.float64))):
            self.register_buffer(name, value.double())

    def update(self, x):
        """x (N, ...): N new values."""
        x = x.double()
        n, total = len(x), self.count + len(x)
        delta = x.mean(0) - self.mean
        self.var = (self.var * self.count + x.var(0, correction=0) * n
                    + delta**2 * self.count * n / total) / total
        self.mean, self.count = self.mean + delta * n / total, total

    def forward(self, x):
        return self.scale(x - self.mean.float())

    def scale(self, x):
        return (x / (self.var + 1e-8).sqrt()).clamp(-10, 10).float() if self.count else x


class Encoder(nn.Module):
    """The memory: embeds what is perceived at each step and remembers it in an RNN.
    Acting is the same call with T = 1 and the h of the last step."""

    def __init__(self, obs_dim, action_dim, args):
        super().__init__()
        sizes = dict(zip("oar", zip((obs_dim, action_dim, 1), args.embeddings)))
        self.embed = nn.ModuleDict({k: nn.Linear(*sizes[k]) for k in args.inputs})
        n_in = sum(sizes[k][1] for k in args.inputs)
        self.rnn = {"gru": nn.GRU, "lstm": nn.LSTM}[args.rnn](n_in, args.rnn_size)
        for name, p in self.rnn.named_parameters():
            nn.init.orthogonal_(p) if "weight" in name else nn.init.zeros_(p)

    def forward(self, obs, prev_action, prev_reward, h=None):
        """(T, B, O), (T, B, A), (T, B) -> memory at each step (T, B, H), memory after the last."""
        perceived = {"o": obs, "a": prev_action, "r": prev_reward.unsqueeze(-1)}
        x = [F.relu(embed(perceived[k])) for k, embed in self.embed.items()]
        # TRY: a memory of your own: anything that looks back over the rows 0 to t, and no further.
        return self.rnn(torch.cat(x, -1), h)  # (T, B, embeddings) -> (T, B, H)


class Head(nn.Module):
    """MLP over [h, x], or over x alone; the first layer has its weights in two parts."""

    def __init__(self, n_memory, n_x, hidden_sizes, n_out):
        super().__init__()
        self.of_memory = nn.Linear(n_memory, hidden_sizes[0]) if n_memory else None
        self.of_x = nn.Linear(n_x, hidden_sizes[0], bias=n_memory == 0)  # one bias is enough
        layers = [nn.ReLU(inplace=True)]
        for a, b in zip(hidden_sizes, hidden_sizes[1:]):
            layers += [nn.Linear(a, b), nn.ReLU(inplace=True)]
        self.rest = nn.Sequential(*layers, nn.Linear(hidden_sizes[-1], n_out))

    def forward(self, h, x):
        """h (..., H), or None without memory; x (..., n_x) -> (..., n_out)."""
        of_h = self.of_x.bias if h is None else self.of_memory(h).flatten(0, -2)  # (T*B, hidden)
        first = torch.addmm(of_h, x.flatten(0, -2), self.of_x.weight.t())
        return self.rest(first).unflatten(0, x.shape[:-1])


def remember(encoder, obs, prev_action, prev_reward, first, h):
    """The memory over T rows in which episodes may start: first (T, N). One call of the RNN for
    each stretch without a start -> (T, N, H), memory after the last row."""
    T = len(obs)
    starts = [0, *(torch.nonzero(first[1:].any(1)).flatten() + 1).tolist(), T]
    outs = []
    for a, b in zip(starts, starts[1:]):
        if h is not None:
            keep = 1 - first[a][:, None]  # (N, 1); a new episode starts with an empty memory
            h = tuple(x * keep for x in h) if isinstance(h, tuple) else h * keep
        out, h = encoder(obs[a:b], prev_action[a:b], prev_reward[a:b], h)
        outs.append(out)
    return torch.cat(outs), h


class Branch(nn.Module):
    """A memory, the shortcut around it, and a head: the actor, or the critic."""

    def __init__(self, obs_dim, action_dim, n_out, args):
        super().__init__()
        recurrent = args.policy == "recurrent"
        self.encoder = Encoder(obs_dim, action_dim, args) if recurrent else None
        self.embed = nn.Linear(obs_dim, args.embeddings[0])
        self.head = Head(args.rnn_size * recurrent, args.embeddings[0], args.hidden_sizes, n_out)

    def forward(self, obs, prev_action, prev_reward, first, h):
        """(T, N, O), (T, N, A), (T, N), (T, N) -> (T, N, n_out), memory after the last row."""
        out = None
        if self.encoder:
            out, h = remember(self.encoder, obs, prev_action, prev_reward, first, h)
        return self.head(out, F.relu(self.embed(obs))), h


class Agent(nn.Module):
    """pi(a_t | h_t, o_t): a Gaussian, or one-hot for discrete actions; and V(c_t, o_t)."""

    def __init__(self, obs_dim, action_dim, discrete, args):
        super().__init__()
        self.discrete = discrete
        self.actor = Branch(obs_dim, action_dim, action_dim, args)
        self.critic = Branch(obs_dim, action_dim, 1, args)
        nn.init.orthogonal_(self.actor.head.rest[-1].weight, 0.01)  # all actions alike at first
        self.log_std = None if discrete else nn.Parameter(torch.zeros(action_dim))
        self.obs_norm, self.return_norm = RunningNorm(obs_dim), RunningNorm()

    def forward(self, obs, prev_action, prev_reward, first, h):
        """Rows (T, N, ...), h (of actor, of critic) -> distribution, value (T, N), h."""
        perceived = obs, prev_action, prev_reward, first
        out, h_actor = self.actor(*perceived, h[0])
        value, h_critic = self.critic(*perceived, h[1])
        if self.discrete:
            policy = OneHotCategorical(logits=out, validate_args=False)
        else:
            policy = Independent(Normal(out, self.log_std.exp(), validate_args=False), 1,
                                 validate_args=False)
        return policy, value.squeeze(-1), (h_actor, h_critic)

    def playable(self, action):
        """TRAP: the env sees the clipped action, the density is that of the unclipped one."""
        return action if self.discrete else action.clamp(-1, 1)

    @torch.no_grad()
    def act(self, obs, prev_action, prev_reward, h, deterministic=False):
        """One step in n lanes, NumPy in and out: obs (n, O) ... -> action (n, A), memory."""
        device = self.obs_norm.mean.device
        obs, prev_action, prev_reward = (torch.as_tensor(x, device=device)[None]
                                         for x in (obs, prev_action, prev_reward))  # (1, n, ...)
        first = torch.zeros_like(prev_reward)
        policy, _, h = self(self.obs_norm(obs), prev_action, prev_reward, first, h or (None, None))
        action = policy.mode if deterministic else policy.sample()
        return self.playable(action)[0].cpu().numpy(), h


# --- LOSSES AND UPDATE ----------------------------------------------------------------------------


def masked_mean(x, mask):
    return (x * mask).sum() / mask.sum().clamp(min=1)


def advantages(segment, args):
    """Eq. (1) and (2) -> (T, N)."""
    assert segment.reward.shape == segment.ended.shape == segment.mask.shape
    following, a = segment.value[1:], torch.zeros_like(segment.value[0])
    delta = segment.reward + args.gamma * (1 - segment.terminal) * following - segment.value[:-1]
    result = []
    for delta_t, ended_t in zip(delta.flip(0), segment.ended.flip(0)):
        a = delta_t + args.gamma * args.gae_lambda * (1 - ended_t) * a  # Eq. (2)
        result.append(a)
    return torch.stack(result).flip(0)


def policy_loss(log_prob, old_log_prob, advantage, mask, args):
    """Eq. (3), all (T, N)."""
    assert log_prob.shape == old_log_prob.shape == advantage.shape == mask.shape
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)  # TRY: docs/lessons.md, 3
    loss = -masked_mean(torch.minimum(ratio * advantage, clipped * advantage), mask)
    return loss, {"losses/policy_loss": loss,
                  "losses/approx_kl": masked_mean(ratio - 1 - log_ratio, mask),
                  "losses/clipfrac": masked_mean(((ratio - clipped) != 0).float(), mask)}


def value_loss(value, target, mask):
    """Eq. (4), all (T, N)."""
    assert value.shape == target.shape == mask.shape
    loss = masked_mean((value - target) ** 2, mask)
    return loss, {"losses/value_loss": loss, "losses/value": masked_mean(value, mask)}


def grad_norm(module):
    return nn.utils.get_total_norm([p.grad for p in module.parameters()] if module else [])


def update(agent, optimizer, segment, args, rng):
    """All gradient steps on one segment. Yields a dict of scalars for each, detached."""
    mask, a = segment.mask, advantages(segment, args)  # (T, N)
    target = a + segment.value[:-1]
    mean = masked_mean(a, mask)
    a = (a - mean) / (masked_mean((a - mean) ** 2, mask).sqrt() + 1e-8)
    for _ in range(args.update_epochs):
        for lanes in np.array_split(rng.permutation(args.num_envs), args.num_minibatches):
            rows = [x[:-1, lanes] for x in segment[:4]]  # (T, n, ...)
            policy, value, _ = agent(*rows, [of_lanes(h, lanes) for h in segment.h])
            log_prob, entropy = policy.log_prob(segment.action[:, lanes]), policy.entropy()
            m = mask[:, lanes]
            pi_loss, scalars = policy_loss(log_prob, segment.log_prob[:, lanes], a[:, lanes], m,
                                           args)
            v_loss, v_scalars = value_loss(value, target[:, lanes], m)
            entropy = masked_mean(entropy, m)
            optimizer.zero_grad()
            (pi_loss + args.vf_coef * v_loss - args.ent_coef * entropy).backward()
            scalars |= v_scalars | {
                "losses/entropy": entropy, "grads/actor_rnn": grad_norm(agent.actor.encoder),
                "grads/critic_rnn": grad_norm(agent.critic.encoder)}
            nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
            optimizer.step()
            yield {name: x.detach() for name, x in scalars.items()}


def of_lanes(h, lanes):
    """The memory (1, N, H) of some lanes; None is an empty one, a tuple that of an LSTM."""
    if isinstance(h, tuple):
        return tuple(x[:, lanes] for x in h)
    return h if h is None else h[:, lanes]


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
    "charts/updates", "losses/policy_loss", "losses/value_loss", "losses/value", "losses/entropy",
    "losses/approx_kl", "losses/clipfrac", "grads/actor_rnn", "grads/critic_rnn",
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
    axes.set(title=f"{args.env_id}  {Path(__file__).stem}", xlabel="env steps",
             ylabel=f"return, {args.eval_episodes} held-out episodes")
    axes.legend(fontsize=8)
    replace_file(folder / "learning_curve.png", lambda p: figure.savefig(p, dpi=110))


# --- TRAINING -------------------------------------------------------------------------------------


def train(args, stop=()):
    """Play, learn, evaluate, until --total-timesteps, or until `stop`, a list, holds anything.
    Returns the run folder."""
    if args.num_minibatches > args.num_envs:
        raise UsageError(f"--num-minibatches {args.num_minibatches}: a part is whole lanes; must "
                         f"be at most --num-envs {args.num_envs}")
    torch.set_num_threads(args.torch_threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)  # the minibatches, and the seeds of the episodes
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    env, eval_envs = POMDP(args, args.num_envs), make_eval_envs(args)
    video_env = POMDP(args, 1, "heldout", "rgb_array") if args.capture_video else None
    agent = Agent(env.obs_dim, env.action_dim, env.discrete, args).to(device)
    optimizer = torch.optim.Adam(agent.parameters(), args.learning_rate, eps=1e-5, fused=True)
    saved = load_checkpoint(Path(args.resume), "--resume", agent) if args.resume else None
    if saved and saved["env_step"] >= args.total_timesteps:
        raise UsageError(f"--resume {args.resume}: that run is complete; use --evaluate")
    if saved and not Path(args.resume, "metrics.csv").is_file():
        raise UsageError(f"--resume {args.resume}: metrics.csv is missing; start the run again")
    folder = Path(args.resume) if args.resume else new_run_folder(args)
    env_step, n_updates, started = 0, 0, time.monotonic()
    if saved:
        optimizer.load_state_dict(saved["optimizer"])
        rng.bit_generator.state = saved["numpy_rng"]
        torch.manual_seed(saved["env_step"])  # a GPU: not the noise of the start again
        torch.set_rng_state(saved["torch_rng"])
        os.truncate(folder / "metrics.csv", saved["csv_bytes"])
        env_step, n_updates = saved["env_step"], saved["n_updates"]
        started -= saved["seconds"]
    if args.track:
        import wandb

        tracker = wandb.init(project="recurrent-model-free-rl", name=folder.name, id=folder.name,
                             dir=folder, config=asdict(args), mode=args.wandb_mode, resume="allow")
    n_parameters = sum(p.numel() for p in agent.parameters() if p.requires_grad)
    print(f"{args.env_id}: obs {env.obs_dim}, action {env.action_dim}; {args.policy} agent on "
          f"{device}, {n_parameters:,} parameters\nrun folder: {folder}", flush=True)
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
                "env_step": env_step, "n_updates": n_updates, "seconds": seconds,
                "numpy_rng": rng.bit_generator.state, "torch_rng": torch.get_rng_state(),
                "csv_bytes": (folder / "metrics.csv").stat().st_size}
            replace_file(folder / "checkpoint.pt", lambda path: torch.save(checkpoint, path))

    lanes, restart = Lanes(env, args, device), True
    if not saved:
        record({}, evaluation_due=True)
    while env_step < args.total_timesteps and not stop:
        # Every lane plays a segment. After an evaluation the lanes start anew, so that a run which
        # is killed and goes on from its last evaluation sees what an unbroken one sees.
        round_started = time.monotonic()
        if restart:
            lanes.reset(int(rng.integers(2**31)))
        segment, finished = lanes.play(agent)
        new_steps = int(segment.mask.sum())
        # The agent learns from it.
        if args.anneal_lr:
            left = (args.total_timesteps - env_step) / args.total_timesteps  # from 1 to 0
            optimizer.param_groups[0]["lr"] = args.learning_rate * min(1, left / args.anneal_lr)
        scalars = list(update(agent, optimizer, segment, args, rng))
        # One row of numbers: means over the round.
        env_step, n_updates = env_step + new_steps, n_updates + len(scalars)
        steps_per_second = max(new_steps, 1) / (time.monotonic() - round_started)
        row = {k: torch.stack([s[k] for s in scalars]).mean().item() for k in scalars[0]}
        row["charts/SPS"] = steps_per_second
        if finished:
            row["charts/episodic_return"], row["charts/episodic_length"] = np.mean(finished, 0)
        minutes = (args.total_timesteps - env_step) / steps_per_second / 60
        time_left = f"{max(minutes, 0):.1f} min"
        passed = env_step // args.eval_interval > (env_step - new_steps) // args.eval_interval
        restart = passed or env_step >= args.total_timesteps
        record(row, evaluation_due=restart)
    if args.track:
        tracker.finish()
    if env_step < args.total_timesteps:
        print(f"stopped; go on with --resume {folder}")
        return folder
    if args.capture_video:
        capture_video(video_env, agent, args, folder)
    report(folder, result)
    return folder


def evaluate_run(args):
    """--evaluate: play the held-out episodes with the checkpoint of a run."""
    torch.set_num_threads(args.torch_threads)
    folder, eval_envs = Path(args.evaluate), make_eval_envs(args)
    env = eval_envs[""]
    agent = Agent(env.obs_dim, env.action_dim, env.discrete, args)
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
