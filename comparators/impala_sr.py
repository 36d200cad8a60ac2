"""Comparator: advantage actor-critic with an LSTM and Synthetic Returns, discrete actions.

    python comparators/impala_sr.py --env-id DelayedCatch5-v0                  # Synthetic Returns
    python comparators/impala_sr.py --env-id DelayedCatch5-v0 --alpha 0        # none: control arm
    python comparators/impala_sr.py --env-id DelayedCatch5-v0 --policy markov  # without a memory

The agent perceives, remembers, acts:   o_t, a_{t-1}, r_{t-1}  ->  h_t  ->  a_t  ->  r_t, o_{t+1}
Beside the memory that acts there is one for credit: how much has each state of the past added to
the reward that comes now? e_t is the embedded observation.

  (1) r_{t-1} ~ g(e_t) sum_{j<t} c(e_j) + b(e_t)      c: what a state adds to any later reward
      J_SR    = mean_t  1/2 (the right side - r_{t-1})^2      b: what the present explains
  (2) r~_t    = alpha c(e_{t+1}) + beta r_t               g: when the past is paid for, 0 to 1
  (3) delta_t = r~_t + gamma (1 - terminal_t) V(h_{t+1}) - V(h_t)
      A_t     = delta_t + gamma lambda A_{t+1}
  (4) loss    = mean_t  -log pi(a_t | h_t) A_t + vf_coef (V(h_t) - (A_t + V_old(h_t)))^2
                        - ent_coef entropy + sr_coef J_SR

Shapes, time first: T steps of an episode, N lanes, O observation, A actions (one-hot), H memory.

Synthetic Returns: Raposo et al. 2021, on IMPALA (Espeholt et al. 2018). What differs from them is
marked DEVIATION: lanes that play whole episodes side by side in place of distributed actors, so
that the policy that is learnt is the one that played, and nothing is corrected; a sum over time in
place of an episodic store. More: docs/impala_sr.md.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the house: envs, run, speed
import envs
import speed
from run import Amount, Count, Positive, Run, RunArgs, Share, Whole, grad_norm, mean_of, parse_args


# --- ARGUMENTS ------------------------------------------------------------------------------------
@dataclass
class Args(RunArgs):  # and the flags of a run, run.py. presets.toml: values per environment
    env_id: str = "DelayedCatch5-v0"
    """Gymnasium id with Box observations, pictures or vectors, and Discrete actions; `module:Id-v0`
    imports `module` first"""
    num_envs: Count = 32
    """lanes: episodes that are played side by side, and learnt from in one gradient step"""
    policy: Literal["recurrent", "markov", "oracle"] = "recurrent"
    """markov: no memory, only o_t; oracle: no memory, but the hidden state is in o_t"""
    inputs: Literal["o", "oa", "or", "oar"] = "o"
    """what the memory is fed: observation, previous action, previous reward"""
    observe: str = ""
    """keep only these entries of the observation, as in `0,1,4`: makes a POMDP of an MDP"""
    flicker: Share = 0.0
    """probability that an observation is blanked to zeros"""
    rnn: Literal["gru", "lstm"] = "lstm"
    """kind of memory"""
    rnn_size: Count = 64
    """width H of the memory"""
    memory_span: Whole = 0
    """steps over which the units of the memory keep what they hold, to begin with; 0: biases 0"""
    hidden_sizes: tuple[Count, ...] = (64,)
    """hidden layers of each head: policy, value, and c, b and g of the Synthetic Returns"""
    embeddings: tuple[Count, Count, Count] = (100, 8, 8)
    """widths of the layers that embed observation, action and reward"""
    alpha: Amount = 0.1
    """weight of what a state adds to later rewards in the reward that is learnt from; 0: none"""
    beta: Amount = 1.0
    """weight of the reward itself"""
    sr_coef: Amount = 1.0
    """weight of the loss of the Synthetic Returns"""
    gamma: Share = 0.99
    """discount, 0 to 1"""
    gae_lambda: Share = 0.95
    """lambda of the advantages, 0 to 1"""
    ent_coef: Amount = 0.01
    """weight of the entropy bonus"""
    vf_coef: Amount = 0.5
    """weight of the critic's loss"""
    max_grad_norm: Positive = 1.0
    """the gradient is scaled down to this norm"""
    learning_rate: Positive = 1e-3
    """Adam's learning rate"""
    anneal_lr: Share = 0.5
    """last share of the run, 0 to 1, in which the learning rate falls to 0; 0: constant"""


# --- NETWORKS -------------------------------------------------------------------------------------
def mlp(*widths):
    """Linear layers between these widths, ReLU between the layers."""
    layers = []
    for a, b in zip(widths, widths[1:]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def make_obs_encoder(env, args):
    """-> network that embeds observations (N, O) -> (N, embedding): a CNN for pictures."""
    n_out = args.embeddings[0]
    if not env.lanes.is_picture:
        return nn.Sequential(nn.Linear(env.obs_dim, n_out), nn.ReLU())
    channels, height, width = env.lanes.obs_shape
    if min(height, width) >= 64:  # the layers of the DQN paper (Mnih et al. 2015)
        layers = [nn.Conv2d(channels, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(),
                  nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten()]
    else:
        layers = [nn.Conv2d(channels, 8, 2), nn.ReLU(), nn.Conv2d(8, 16, 2), nn.ReLU(),
                  nn.Flatten()]
    cnn = nn.Sequential(nn.Unflatten(-1, env.lanes.obs_shape), *layers)
    encoder = nn.Sequential(cnn, nn.Linear(cnn(torch.zeros(1, env.obs_dim)).shape[1], n_out))
    if not args.paper:
        # DEVIATION: each picture is brought to a mean square of 1, and orthogonal layers keep it
        # so. TRAP: where 2 pixels of 49 are lit, torch's own start leaves of them changes of 0.02,
        # and the critic needs about ten times the updates to find out that they matter.
        for p in encoder.parameters():
            nn.init.orthogonal_(p, 2**0.5) if p.ndim > 1 else nn.init.zeros_(p)
        encoder.insert(0, nn.RMSNorm(env.obs_dim, elementwise_affine=False))
    return encoder


class Memory(nn.Module):
    """Remembers what is perceived at each step: the embedded observation, and what else --inputs
    names. Acting: T = 1, with the h that the last call gave (None: empty). No memory: H = 0."""

    def __init__(self, action_dim, args, H):
        super().__init__()
        self.H = H
        if H == 0:
            return
        sizes = {"a": (action_dim, args.embeddings[1]), "r": (1, args.embeddings[2])}
        self.embed = nn.ModuleDict({k: nn.Linear(*sizes[k]) for k in args.inputs[1:]})
        # TRY: a memory of your own: causal, and no mask is needed, since padding is behind the end.
        rnn = {"gru": speed.GRU, "lstm": nn.LSTM}[args.rnn]
        self.rnn = rnn(args.embeddings[0] + sum(sizes[k][1] for k in args.inputs[1:]), H)
        for name, p in self.rnn.named_parameters():
            nn.init.orthogonal_(p) if "weight" in name else nn.init.zeros_(p)
        # DEVIATION: biases that keep, for 1 to `memory_span` steps, what a unit holds (chrono
        # initialisation, Tallec and Ollivier 2018). With the authors' zeros half is lost per step.
        if args.memory_span > 1:
            keep = torch.empty(H).uniform_(1, args.memory_span).log()
            bias = self.rnn.bias_hh_l0.data  # LSTM: input, forget, ...; GRU: reset, keep, ...
            bias[H : 2 * H] = keep
            if args.rnn == "lstm":
                bias[:H] = -keep

    def forward(self, seen, prev_action, prev_reward, h=None):
        """(T, B, embedding), (T, B, A), (T, B) -> memory at each step (T, B, H); h for the next."""
        if self.H == 0:
            return seen.new_zeros(*prev_reward.shape, 0), None
        perceived = {"a": prev_action, "r": prev_reward.unsqueeze(-1)}
        x = [seen, *(F.relu(embed(perceived[k])) for k, embed in self.embed.items())]
        return self.rnn(torch.cat(x, -1), h)  # (T, B, embeddings) -> (T, B, H)


class Agent(nn.Module):
    """pi(a_t | h_t) and V(h_t) on one memory; c, b and g, each a number, on the embedding alone."""

    def __init__(self, env, args):
        super().__init__()
        self.obs_encoder = make_obs_encoder(env, args)
        self.largest = 255.0 if env.lanes.obs_dtype == np.uint8 else 1.0  # bytes: seen from 0 to 1
        self.memory = Memory(env.action_dim, args, args.rnn_size * (args.policy == "recurrent"))
        n, hidden = args.embeddings[0], args.hidden_sizes
        self.actor = mlp(self.memory.H + n, *hidden, env.action_dim)
        self.critic = mlp(self.memory.H + n, *hidden, 1)
        self.c, self.b, self.g = (mlp(n, *hidden, 1) for _ in range(3))

    def forward(self, obs, prev_action, prev_reward, h=None):
        """(T, N, O), (T, N, A), (T, N) -> logits (T, N, A), value (T, N), e (T, N, .), memory."""
        T, N = prev_reward.shape
        e = self.obs_encoder(obs.flatten(0, 1) / self.largest).unflatten(0, (T, N))
        out, h = self.memory(e, prev_action, prev_reward, h)
        x = torch.cat([out, e], -1)
        return self.actor(x), self.critic(x).squeeze(-1), e, h

    def synthetic(self, e):
        """e (T+1, N, .) -> what each state adds to later rewards, c (T+1, N), and the reward that
        came with it as (1) has it (T+1, N)."""
        # DEVIATION: the store of the past is only ever summed, so a sum over time does.
        c = self.c(e.detach()).squeeze(-1)  # TRAP: with a gradient e is bent to explain the reward
        past = c.cumsum(0) - c  # of all states before this one
        gate = self.g(e).squeeze(-1).sigmoid()
        return c, gate * past + self.b(e).squeeze(-1)

    @torch.no_grad()
    def act(self, obs, prev_action, prev_reward, h, deterministic=False):
        """One step in n lanes, NumPy in and out: obs (n, O) ... -> action (n, A), memory."""
        device = next(self.parameters()).device
        obs, prev_action, prev_reward = (torch.as_tensor(x, device=device)[None].float()
                                         for x in (obs, prev_action, prev_reward))  # (1, n, ...)
        logits, _, _, h = self(obs, prev_action, prev_reward, h)
        if deterministic:
            action = logits[0].argmax(-1)  # (n,)
        else:
            action = torch.multinomial(logits[0].softmax(-1), 1).squeeze(-1)
        return F.one_hot(action, logits.shape[-1]).float().cpu().numpy(), h


# --- LOSSES AND UPDATE ----------------------------------------------------------------------------
def masked_mean(x, mask):
    return (x * mask).sum() / mask.sum().clamp(min=1)


def advantages(reward, terminal, value, mask, args):
    """Eq. (3): reward, terminal, mask (T, N), value (T+1, N) -> (T, N)."""
    a, result = torch.zeros_like(value[0]), []
    delta = reward + args.gamma * (1 - terminal) * value[1:] - value[:-1]
    for delta_t, real in zip((delta * mask).flip(0), mask.flip(0)):
        a = delta_t + args.gamma * args.gae_lambda * real * a
        result.append(a)
    return torch.stack(result).flip(0)


def update(agent, optimizer, rows, n_steps, args):
    """One gradient step on the episodes that were just played -> dict of scalars, detached.
    rows (T+1, N) of `row_type`, n_steps (N,)"""
    device = next(agent.parameters()).device
    obs, prev_action, prev_reward, terminal = (
        torch.from_numpy(np.ascontiguousarray(rows[name], np.float32)).to(device)
        for name in ("obs", "prev_action", "prev_reward", "terminal"))
    t = torch.arange(len(rows), device=device)[:, None]  # (T+1, 1)
    perceived = (t <= torch.from_numpy(n_steps).to(device)).float()  # (T+1, N)
    mask = perceived[1:]  # (T, N) 1 = a real step
    logits, value, e, _ = agent(obs, prev_action, prev_reward)

    # Synthetic Returns: what did the past add to the reward that came with each observation?
    c, explained = agent.synthetic(e)
    sr_loss = masked_mean(0.5 * (explained - prev_reward) ** 2, perceived)  # Eq. (1)
    reward = args.alpha * c[1:].detach() + args.beta * prev_reward[1:]  # Eq. (2), (T, N)

    # Actor and critic.
    a = advantages(reward, terminal[1:], value.detach(), mask, args)
    log_pi = logits[:-1].log_softmax(-1)
    taken = (log_pi * prev_action[1:]).sum(-1)  # (T, N): the action of step t is in row t+1
    entropy = -masked_mean((log_pi.exp() * log_pi).sum(-1), mask)
    mean = masked_mean(a, mask)
    scaled = (a - mean) / (masked_mean((a - mean) ** 2, mask).sqrt() + 1e-8)
    pi_loss = -masked_mean(taken * scaled, mask)
    v_loss = masked_mean((value[:-1] - (a + value[:-1].detach())) ** 2, mask)

    optimizer.zero_grad()
    loss = pi_loss + args.vf_coef * v_loss - args.ent_coef * entropy + args.sr_coef * sr_loss
    loss.backward()
    scalars = {
        "losses/policy_loss": pi_loss, "losses/value_loss": v_loss, "losses/entropy": entropy,
        "losses/value": masked_mean(value[:-1], mask), "losses/sr_loss": sr_loss,
        "losses/contribution": masked_mean(c[1:].abs(), mask), "grads/rnn": grad_norm(agent.memory)}
    nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
    optimizer.step()
    return {name: x.detach() for name, x in scalars.items()}


# --- POMDP WRAPPER AND PLAY -----------------------------------------------------------------------
class POMDP:
    """What the agent sees of `n` lanes of an environment: obs (n, O), of which `--observe` keeps
    some entries and `--flicker` blanks some; an oracle sees all of it, and the hidden state."""

    def __init__(self, args, n, split="train", film=False):
        oracle = args.policy == "oracle"
        self.lanes = envs.FlatLanes(args.env_id, n, "Discrete pictures", oracle, split, film)
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
        # A step inside a goal is terminal, as the authors' are, but the episode goes on and counts.
        goal = np.asarray(info.get("is_goal", np.zeros(self.n)), bool)
        success = info.get("is_goal", info.get("is_success", np.full(self.n, np.nan)))
        return self._see(obs), reward, terminated | goal, terminated | truncated, success


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
    """Play, learn, evaluate, until --total-timesteps. Returns the run folder."""
    torch.set_num_threads(1)  # more are often slower for networks this small
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)  # the seeds of the episodes
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    env, eval_env = POMDP(args, args.num_envs), POMDP(args, args.eval_episodes, "heldout")
    video_env = POMDP(args, 1, "heldout", film=True) if args.capture_video else None
    agent = Agent(env, args).to(device)
    optimizer = torch.optim.Adam(agent.parameters(), args.learning_rate, eps=1e-5, fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    about = f"{args.policy} agent, {env.lanes.seen}"
    run = Run(args, about, env.lanes.reference_scores, agent=agent, optimizer=optimizer,
              rng=rng)  # --resume, --evaluate: brought back
    env_step, n_updates = run.env_step, run.n_updates

    if args.evaluate or env_step == 0:
        metrics = evaluate(eval_env, agent, args, last=args.evaluate)
    if env_step == 0:
        run.log(env_step, n_updates, metrics)
    while env_step < args.total_timesteps:
        left = (args.total_timesteps - env_step) / args.total_timesteps  # from 1 to 0
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * min(1, left / args.anneal_lr if args.anneal_lr else 1)
        # Every lane plays an episode, and the agent learns from it.
        rows, n_steps, returns, _ = play(env, agent.act, int(rng.integers(2**31)))
        scalars = update(agent, optimizer, rows, n_steps, args)
        env_step, n_updates = env_step + int(n_steps.sum()), n_updates + 1
        # One row of numbers.
        metrics = mean_of([scalars]) | {"charts/episodic_return": returns.mean(),
                                        "charts/episodic_length": n_steps.mean()}
        if run.evaluation_due(env_step):
            metrics |= evaluate(eval_env, agent, args, last=env_step >= args.total_timesteps)
        run.log(env_step, n_updates, metrics)
    if video_env:
        evaluate(video_env, agent, args)
        run.save_video(video_env.lanes.frames)
    return run.finish(metrics)


def main(argv=None):
    return train(parse_args(Args, "impala_sr", argv))


if __name__ == "__main__":
    main()
