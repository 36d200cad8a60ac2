"""Comparator: PPO in bodies that differ, learning from all episodes, or from the bad ones.

    python comparators/robust_ppo.py --env-id HopperRobust-v0                 # all: randomisation
    python comparators/robust_ppo.py --env-id HopperRobust-v0 --select epopt  # the worst tenth
    python comparators/robust_ppo.py --env-id HopperRobust-v0 --select mrpo   # and much better

The agent has no memory:   o_t  ->  a_t  ->  r_t, o_{t+1}

  (1) delta_t = r_t + gamma (1 - terminated_t) V(o_{t+1}) - V(o_t)
  (2) A_t     = delta_t + gamma lambda (1 - ended_t) A_{t+1}       ended: terminated or truncated
  (3) J_pi    = mean_t  -min(ratio_t A_t, clip(ratio_t, 1 - eps, 1 + eps) A_t)
                ratio_t = pi(a_t | o_t) / pi_old(a_t | o_t)
  (4) J_V     = mean_t  (V(o_t) - (A_t + V_old(o_t)))^2
      loss    = J_pi + vf_coef J_V - ent_coef entropy

Each of the E episodes of a round has dynamics of its own, drawn anew and not told: parameters p_i.
R_i is its return, W are the worst: at or below the 10th percentile. Steps of which are learnt from?

  (5) all     every i                                                      domain randomisation
      epopt   i in W; in the rounds of a warm-up every i                                  EPOpt
      mrpo    i in W, and i with  R_i - kappa d(i, w) > R_w  for every w in W             MRPO
              d(i, w) = sum_k |p_ik - p_wk| / range_k,  kappa grows from round to round

Shapes, time first: T steps, N lanes, O observation, A action; S steps that are learnt from.

PPO: Schulman et al. 2017. EPOpt: Rajeswaran et al. 2017, there with TRPO. MRPO: Jiang et al. 2021.
The parameters p serve the choice alone. What differs from MRPO's code is marked DEVIATION: the
distance, what follows a time limit, the critic's loss, the norm's pace. More: docs/robust_ppo.md.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn as nn
from torch.distributions import Independent, Normal, OneHotCategorical

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the house: envs, run
import envs
from run import Amount, Count, Positive, Run, RunArgs, Share, Whole, mean_of, parse_args


# --- ARGUMENTS ------------------------------------------------------------------------------------
@dataclass
class Args(RunArgs):  # and the flags of a run, run.py. presets.toml: values per environment
    env_id: str = "HopperRobust-v0"
    """Gymnasium id; `module:Id-v0` imports `module` first"""
    total_timesteps: Count = 1_000_000
    """env steps to play, those of episodes that are not learnt from included"""
    num_envs: Count = 10
    """lanes: episodes that are played side by side"""
    policy: Literal["markov", "oracle"] = "markov"
    """markov: no memory, only o_t; oracle: no memory, but the hidden state is in o_t"""
    observe: str = ""
    """keep only these entries of the observation, as in `0,1,4`: makes a POMDP of an MDP"""
    flicker: Share = 0.0
    """probability that an observation is blanked to zeros"""
    episodes: Count = 100
    """E: whole episodes that are played between two updates, over all lanes"""
    select: Literal["all", "epopt", "mrpo"] = "all"
    """episodes to learn from: all; the worst; or the worst and those that are good and similar"""
    worst_share: Share = 0.1
    """share of the episodes that are the worst, 0 to 1"""
    epopt_warmup: Share = 0.2
    """first share of the run, 0 to 1, in which epopt learns from all episodes"""
    kappa: Amount = 1.0
    """how much return mrpo asks, at first, for being as different as a parameter's whole range"""
    kappa_growth: Positive = 1.005
    """kappa is multiplied by this after each round"""
    hidden_sizes: tuple[Count, ...] = (64, 64)
    """hidden layers of the actor and of the critic"""
    update_epochs: Count = 10
    """times that each round is gone over"""
    minibatch_size: Whole = 2048
    """played steps per gradient step, whatever the share that is learnt from: as many gradient
    steps for each `select`; 0: one on all that is learnt from, as EPOpt's and MRPO's code"""
    gamma: Share = 0.99
    """discount, 0 to 1"""
    gae_lambda: Share = 0.95
    """lambda of the advantages, 0 to 1"""
    clip_coef: Positive = 0.2
    """a ratio is clipped at 1 plus and minus this"""
    ent_coef: Amount = 0.0
    """weight of the entropy bonus"""
    vf_coef: Amount = 0.5
    """weight of the critic's loss; matters to the clipping of gradients alone: nothing is shared"""
    max_grad_norm: Positive = 0.5
    """the gradient is scaled down to this norm"""
    learning_rate: Positive = 3e-4
    """Adam's learning rate"""
    anneal_lr: Share = 0.0
    """last share of the run, 0 to 1, in which the learning rate falls to 0; 0: constant"""
    norm_obs: bool = True
    """shift and scale observations to mean 0, variance 1 of all seen so far, cut at -10 and 10"""
    norm_reward: bool = True
    """divide rewards by the standard deviation of the discounted return, cut at -10 and 10"""

    def __post_init__(self):
        super().__post_init__()
        self.require("episodes", self.episodes % self.num_envs == 0,
                     f"a multiple of --num-envs {self.num_envs}: every lane plays as many")


# --- NETWORKS -------------------------------------------------------------------------------------
def tanh_mlp(*widths, gain):
    """Linear layers between these widths, tanh between the layers; the last one's weights have
    `gain`."""
    layers = []
    for a, b in zip(widths, widths[1:]):
        layers += [nn.Linear(a, b), nn.Tanh()]
        nn.init.orthogonal_(layers[-2].weight, 2**0.5)
        nn.init.zeros_(layers[-2].bias)
    nn.init.orthogonal_(layers[-2].weight, gain)
    return nn.Sequential(*layers[:-1])


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


class Agent(nn.Module):
    """pi(a_t | o_t): a Gaussian, or one-hot for discrete actions; and V(o_t)."""

    def __init__(self, obs_dim, action_dim, discrete, args):
        super().__init__()
        self.discrete = discrete
        self.actor = tanh_mlp(obs_dim, *args.hidden_sizes, action_dim, gain=0.01)
        self.critic = tanh_mlp(obs_dim, *args.hidden_sizes, 1, gain=1)
        self.log_std = None if discrete else nn.Parameter(torch.zeros(action_dim))
        self.obs_norm, self.return_norm = RunningNorm(obs_dim), RunningNorm()

    def pi(self, obs):
        """obs (..., O) normalised -> distribution of actions (..., A)."""
        out = self.actor(obs)
        if self.discrete:
            return OneHotCategorical(logits=out, validate_args=False)
        return Independent(Normal(out, self.log_std.exp(), validate_args=False), 1,
                           validate_args=False)

    @torch.no_grad()
    def act(self, obs, prev_action, prev_reward, h, deterministic=False):
        """One step in n lanes, NumPy in and out: obs (n, O) ... -> action (n, A), no memory."""
        policy = self.pi(self.obs_norm(torch.as_tensor(obs, device=self.obs_norm.mean.device)))
        # TRAP: the lanes clip it for the env, but its density is that of the unclipped action.
        return (policy.mode if deterministic else policy.sample()).cpu().numpy(), None


# --- LOSSES AND UPDATE ----------------------------------------------------------------------------
class Segment(NamedTuple):
    """What a round of whole episodes leaves behind, time first: rows 0 to T perceived, steps 0 to
    T-1 taken. In each lane one episode follows the other; E are played in all."""

    obs: torch.Tensor  # (T+1, N, O) normalised
    value: torch.Tensor  # (T+1, N)
    action: torch.Tensor  # (T, N, A)
    log_prob: torch.Tensor  # (T, N)
    reward: torch.Tensor  # (T, N) scaled
    terminal: torch.Tensor  # (T, N) 1 = nothing follows, do not bootstrap
    ended: torch.Tensor  # (T, N) 1 = the episode ends here: terminated or truncated
    mask: torch.Tensor  # (T, N) 1 = a real step, 0 = the call that only starts the next episode
    episode: torch.Tensor  # (T, N) which of the E episodes this is a step of


def select(returns, params, kappa, args, warm_up=False):
    """Eq. (5): returns (E,), params (E, K) of the dynamics -> (E,) is it learnt from?"""
    if args.select == "all" or (args.select == "epopt" and warm_up):
        return np.ones(len(returns), bool)
    worst = returns <= np.percentile(returns, 100 * args.worst_share)
    if args.select == "epopt":
        return worst
    # DEVIATION: a distance (L1), each parameter in units of its range in this round. MRPO's code
    # takes the absolute value of the sum of signed differences, so that denser and more slippery
    # may cancel out, and counts density half.
    params = np.asarray(params, float)
    params = params / np.where(np.ptp(params, 0) > 0, np.ptp(params, 0), 1)
    d = np.abs(params[:, None] - params[worst]).sum(-1)  # (E, W)
    # TRY: `.any(1)`: to be so much better than one of the worst is enough.
    return worst | (returns[:, None] - kappa * d > returns[worst]).all(1)


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


def update(agent, optimizer, segment, keep, args):
    """All gradient steps on the episodes of a round that `keep` (E,) says. Yields a dict of scalars
    for each, detached."""
    a = advantages(segment, args)  # (T, N)
    target = a + segment.value[:-1]
    keep = torch.as_tensor(keep, device=a.device)
    chosen = segment.mask.bool() & keep[segment.episode]  # (T, N)
    obs, action, old_log_prob, a, target = (x[chosen] for x in (
        segment.obs[:-1], segment.action, segment.log_prob, a, target))  # (S, ...)
    a = (a - a.mean()) / (a.std(correction=0) + 1e-8)
    # DEVIATION: the critic's loss is not clipped.
    n_parts = max(1, int(segment.mask.sum()) // args.minibatch_size) if args.minibatch_size else 1
    for _ in range(args.update_epochs):
        for part in torch.randperm(len(a)).chunk(n_parts):  # (M,) steps
            policy, value = agent.pi(obs[part]), agent.critic(obs[part]).squeeze(-1)
            log_ratio = policy.log_prob(action[part]) - old_log_prob[part]  # (M,)
            ratio = log_ratio.exp()
            clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
            pi_loss = -torch.minimum(ratio * a[part], clipped * a[part]).mean()  # Eq. (3)
            v_loss = ((value - target[part]) ** 2).mean()  # Eq. (4)
            entropy = policy.entropy().mean()
            optimizer.zero_grad()
            (pi_loss + args.vf_coef * v_loss - args.ent_coef * entropy).backward()
            nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
            optimizer.step()
            scalars = {"losses/policy_loss": pi_loss, "losses/value_loss": v_loss,
                       "losses/value": value.mean(), "losses/entropy": entropy,
                       "losses/approx_kl": (ratio - 1 - log_ratio).mean(),
                       "losses/clipfrac": (ratio != clipped).float().mean()}
            yield {name: x.detach() for name, x in scalars.items()}


# --- POMDP WRAPPER AND PLAY -----------------------------------------------------------------------
class POMDP:
    """What the agent sees of `n` lanes of an environment: obs (n, O), of which `--observe` keeps
    some entries and `--flicker` blanks some; an oracle sees all of it, and the hidden state."""

    def __init__(self, args, n, split="train", film=False):
        oracle = args.policy == "oracle"
        self.lanes = envs.FlatLanes(args.env_id, n, "Box Discrete", oracle, split, film)
        if oracle and not (args.observe or args.flicker):
            self.lanes.require_oracle()
        self.keep = self.lanes.entries("" if oracle else args.observe)
        self.flicker = 0.0 if oracle else args.flicker
        self.n, self.obs_dim, self.action_dim = n, len(self.keep), self.lanes.action_dim
        self.row_type = np.dtype([("obs", self.lanes.obs_dtype, (self.obs_dim,)),
                                  ("prev_action", "f4", (self.action_dim,)),
                                  ("prev_reward", "f4"), ("terminal", "?")])

    def _see(self, obs):
        return obs[:, self.keep] * (self.rng.random((self.n, 1)) >= self.flicker)  # (n, O)

    def reset(self, seed):
        self.rng = np.random.default_rng([*np.atleast_1d(seed), 1])  # not the stream of any lane
        return self._see(self.lanes.reset(seed))

    def step(self, action):
        """action (n, A) -> obs (n, O); (n,): reward, terminal, ended, success (nan: unknown)."""
        obs, reward, terminated, truncated, info = self.lanes.step(action)
        # TRAP: a time limit (truncated) ends the episode but is not terminal: the future has value.
        self.task = info.get("task")  # parameters of the dynamics (n, K), for `select` alone
        success = info.get("is_goal", info.get("is_success", np.full(self.n, np.nan)))
        return self._see(obs), reward, terminated, terminated | truncated, success


def require_parameters(lanes):
    if "task" not in lanes.envs.reset()[1]:
        raise envs.UnusableEnv(
            f"--select mrpo: --env-id {lanes.env_id} does not tell the parameters of its dynamics, "
            'info["task"]; use --select all or epopt')


@torch.no_grad()
def play_round(env, agent, args, seed):
    """Every lane plays `episodes / num_envs` whole episodes, one after the other; then it plays on,
    unseen, until the last lane has. So a short episode counts as often as a long one.
    -> Segment; of each episode (E,): return scaled, return, length; parameters (E, K) or E None"""
    n, each = env.n, args.episodes // args.num_envs
    obs, rows, steps, params = env.reset(seed), [], [], [None] * args.episodes
    played, ended, discounted = np.zeros(n, int), np.zeros(n, bool), np.zeros(n)
    while (played < each).any():
        rows.append(obs)
        action, _ = agent.act(obs, None, None, None)
        obs, reward, terminal, ends, _ = env.step(action)
        # In the call after the end of an episode the env ignores the action and resets. So the row
        # of that call holds the true last observation, and its value is what a truncated episode
        # bootstraps from; the call itself is no step (mask 0).
        # DEVIATION: in MRPO's code nothing follows a time limit either.
        real = ~ended
        mask = real & (played < each)
        episode = np.arange(n) * each + np.minimum(played, each - 1)  # (n,)
        discounted = discounted * args.gamma * real + reward * real
        steps.append((action, reward, terminal, ends, mask, episode, discounted))
        ended = ends & real
        for lane in np.flatnonzero(ended & mask):
            params[episode[lane]] = None if env.task is None else env.task[lane]
        played += ended & mask
    obs = np.stack([*rows, obs])  # (T+1, N, O)
    action, reward, terminal, ended, mask, episode, discounted = map(np.stack, zip(*steps))

    def tensor(x):
        return torch.as_tensor(np.asarray(x, np.float32), device=agent.obs_norm.mean.device)

    if args.norm_reward:
        agent.return_norm.update(tensor(discounted[mask]))
    scaled = agent.return_norm.scale(tensor(reward))
    seen, action = agent.obs_norm(tensor(obs)), tensor(action)
    segment = Segment(
        seen, agent.critic(seen).squeeze(-1), action, agent.pi(seen[:-1]).log_prob(action), scaled,
        *map(tensor, (terminal, ended, mask)), torch.as_tensor(episode, device=seen.device))
    # DEVIATION: only from the next round on, so that learning sees what acting saw.
    if args.norm_obs:
        agent.obs_norm.update(tensor(obs[:-1][mask]))
    sums = [np.bincount(episode[mask], x[mask]) for x in (
        scaled.cpu().numpy(), reward, np.ones_like(reward))]
    return segment, *sums, params


# For evaluation alone: what is learnt from is played by `play_round`, above.
def play(env, act, seed, keep_rows=True):
    """Play one whole episode in every lane. A lane that ends early plays on, unseen, until the
    longest one ends: its rows after the end belong to no episode and are never used.
    act: (obs (n, O), prev_action (n, A), prev_reward (n,), h) -> action (n, A), h
    -> rows (T+1, n) of `row_type` ("terminal": was step t-1?), or the first alone; then (n,) each:
    n_steps, returns, success (ever in the goal; nan: the env knows of none)"""
    n, h = env.n, None  # None: an empty memory
    obs, action, reward = env.reset(seed), np.zeros((n, env.action_dim), "f4"), np.zeros(n, "f4")
    terminal, alive = np.zeros(n, bool), np.ones(n, bool)
    rows, n_steps, returns, success = [], np.zeros(n, int), np.zeros(n), np.full(n, np.nan)
    while True:
        row = np.zeros(n, env.row_type)
        row["obs"], row["prev_action"], row["prev_reward"] = obs, action, reward
        row["terminal"] = terminal
        if keep_rows or not rows:
            rows.append(row)
        if not alive.any():
            return np.stack(rows), n_steps, returns, success
        action, h = act(obs, action, reward, h)
        obs, reward, terminal, ended, succeeded = env.step(action)
        success = np.fmax(success, np.where(alive, succeeded, np.nan))
        n_steps += alive
        returns += reward * alive
        alive &= ~ended


# --- EVALUATION AND TRAINING ----------------------------------------------------------------------
def evaluate(env, agent, args, last=False):
    """Play held-out episodes, deterministic and the same ones every time; at the last, 100."""
    act, n = partial(agent.act, deterministic=True), env.lanes.n_heldout if last else 1
    returns, success = np.concatenate([play(env, act, (args.seed, first), keep_rows=False)[2:]
                                       for first in range(0, n, env.n)], 1)
    low, high = np.percentile(returns, (10, 90))
    row = {"eval/return_mean": returns.mean(), "eval/return_std": returns.std(),
           "eval/return_p10": low, "eval/return_p90": high,
           "eval/return_worst10": returns[returns <= low].mean(), "eval/episodes": len(returns)}
    return row if np.isnan(success).all() else row | {"eval/success_rate": np.nanmean(success)}


def train(args):
    """Play, choose, learn, evaluate, until --total-timesteps. Returns the run folder."""
    torch.set_num_threads(1)  # more are often slower for networks this small
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)  # the seeds of the episodes
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    env, eval_env = POMDP(args, args.num_envs), POMDP(args, args.eval_episodes, "heldout")
    video_env = POMDP(args, 1, "heldout", film=True) if args.capture_video else None
    if args.select == "mrpo":
        require_parameters(env.lanes)
    agent = Agent(env.obs_dim, env.action_dim, env.lanes.discrete, args).to(device)
    optimizer = torch.optim.Adam(agent.parameters(), args.learning_rate, eps=1e-5, fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    run = Run(args, f"{args.policy} agent, {args.select}", env.lanes.reference_scores, agent=agent,
              optimizer=optimizer, rng=rng)  # --resume, --evaluate: brought back
    env_step, n_updates = run.env_step, run.n_updates

    if args.evaluate or env_step == 0:
        metrics = evaluate(eval_env, agent, args, last=args.evaluate)
    if env_step == 0:
        run.log(env_step, n_updates, metrics)
    while env_step < args.total_timesteps:
        left = (args.total_timesteps - env_step) / args.total_timesteps  # from 1 to 0
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * min(1, left / args.anneal_lr if args.anneal_lr else 1)
        # A round of whole episodes, each with dynamics of its own.
        segment, scaled, returns, n_steps, params = play_round(
            env, agent, args, int(rng.integers(2**31)))
        env_step += int(n_steps.sum())
        # The agent learns from some of them.
        kappa = args.kappa * args.kappa_growth ** (len(run.rows) - 1)  # a row for each round
        keep = select(scaled, params, kappa, args, warm_up=left > 1 - args.epopt_warmup)
        scalars = list(update(agent, optimizer, segment, keep, args))
        n_updates += len(scalars)
        # One row of numbers, means over the round.
        metrics = mean_of(scalars) | {
            "charts/episodic_return": returns.mean(), "charts/episodic_length": n_steps.mean(),
            "charts/kept": keep.mean()} | ({"charts/kappa": kappa} if args.select == "mrpo" else {})
        if run.evaluation_due(env_step):
            metrics |= evaluate(eval_env, agent, args, last=env_step >= args.total_timesteps)
        run.log(env_step, n_updates, metrics)
    if video_env:
        evaluate(video_env, agent, args)
        run.save_video(video_env.lanes.frames)
    return run.finish(metrics)


def main(argv=None):
    return train(parse_args(Args, "robust_ppo", argv))


if __name__ == "__main__":
    main()
