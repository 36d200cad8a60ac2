"""On-policy baseline for POMDPs: PPO + GRU (or A2C + GRU), in one file.

    python ppo_gru_baseline.py --env-id Pendulum-V-v0                    # with memory
    python ppo_gru_baseline.py --env-id Pendulum-V-v0 --policy markov    # without memory
    python ppo_gru_baseline.py --env-id Pendulum-V-v0 --policy oracle    # the hidden state is shown
    python ppo_gru_baseline.py --num-steps 16 --update-epochs 1 --num-minibatches 1      # A2C

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
good to change. More: docs/ppo_gru_baseline.md.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Independent, Normal, OneHotCategorical

import envs
import speed
from run import Amount, Count, Positive, Run, RunArgs, Share, grad_norm, mean_of, parse_args


# --- ARGUMENTS ------------------------------------------------------------------------------------
@dataclass
class Args(RunArgs):  # and the flags of a run, run.py. presets.toml: values per environment
    env_id: str = "Pendulum-V-v0"
    """Gymnasium id; `module:Id-v0` imports `module` first"""
    total_timesteps: Count = 1_000_000
    """env steps to play, counted over all lanes"""
    num_envs: Count = 16
    """lanes: episodes that are played side by side"""
    policy: Literal["recurrent", "markov", "oracle"] = "recurrent"
    """markov: no memory, only o_t; oracle: no memory, but the hidden state is in o_t"""
    inputs: Literal["o", "oa", "or", "oar"] = "oa"
    """what the memory is fed: observation, previous action, previous reward"""
    observe: str = ""
    """keep only these entries of the observation, as in `0,1,4`: makes a POMDP of an MDP"""
    flicker: Share = 0.0
    """probability that an observation is blanked to zeros"""
    rnn: Literal["gru", "lstm"] = "gru"
    """kind of memory"""
    rnn_size: Count = 64
    """width H of the memory"""
    hidden_sizes: tuple[Count, ...] = (64, 64)
    """hidden layers of the actor's and of the critic's head"""
    embeddings: tuple[Count, Count, Count] = (32, 8, 8)
    """widths of the layers that embed observation, action and reward"""
    num_steps: Count = 128
    """steps of a segment, in each lane; gradients flow at most this far back"""
    update_epochs: Count = 10
    """times that each segment is learnt from"""
    num_minibatches: Count = 4
    """parts that the lanes are split into; a gradient step each"""
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
    learning_rate: Positive = 1e-3
    """Adam's learning rate"""
    anneal_lr: Share = 1.0
    """last share of the run, 0 to 1, in which the learning rate falls to 0; 0: constant"""
    norm_obs: bool = True
    """shift and scale observations to mean 0, variance 1 of all seen so far, cut at -10 and 10"""
    norm_reward: bool = True
    """divide rewards by the standard deviation of the discounted return, cut at -10 and 10"""

    def __post_init__(self):
        super().__post_init__()
        self.require("num_minibatches", self.num_minibatches <= self.num_envs,
                     f"at most --num-envs {self.num_envs}: a part is whole lanes")


# --- NETWORKS -------------------------------------------------------------------------------------
class Encoder(nn.Module):
    """The memory: embeds what is perceived at each step and remembers it in an RNN. Acting is the
    same call, T = 1, with the h that the last one gave (None: empty). No memory: H = 0."""

    def __init__(self, obs_dim, action_dim, args):
        super().__init__()
        self.H = args.rnn_size if args.policy == "recurrent" else 0
        if self.H == 0:
            return
        sizes = dict(zip("oar", zip((obs_dim, action_dim, 1), args.embeddings)))
        self.embed = nn.ModuleDict({name: nn.Linear(*sizes[name]) for name in args.inputs})
        # TRY: a memory of your own: causal, and no mask is needed, since padding is behind the end.
        rnn = {"gru": speed.GRU, "lstm": nn.LSTM}[args.rnn]
        self.rnn = rnn(sum(sizes[name][1] for name in args.inputs), self.H)
        for name, p in self.rnn.named_parameters():
            nn.init.orthogonal_(p) if "weight" in name else nn.init.zeros_(p)

    def forward(self, obs, prev_action, prev_reward, h=None):
        """(T, B, O), (T, B, A), (T, B) -> memory at each step (T, B, H); h for the next call."""
        if self.H == 0:
            return obs.new_zeros(*prev_reward.shape, 0), None
        perceived = {"o": obs, "a": prev_action, "r": prev_reward.unsqueeze(-1)}
        x = [F.relu(embed(perceived[name])) for name, embed in self.embed.items()]
        return self.rnn(torch.cat(x, -1), h)  # (T, B, embeddings) -> (T, B, H)


class Head(nn.Module):
    """MLP over [h, x], or x alone; of h and x each has a first layer, at the scale of its width."""

    def __init__(self, H, n_x, hidden_sizes, n_out):
        super().__init__()
        self.of_h = nn.Linear(H, hidden_sizes[0]) if H else None
        self.of_x = nn.Linear(n_x, hidden_sizes[0], bias=H == 0)  # one bias is enough
        layers = [nn.ReLU()]
        for a, b in zip(hidden_sizes, (*hidden_sizes[1:], n_out)):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.rest = nn.Sequential(*layers[:-1])

    def forward(self, h, x):
        """h (..., H), x (..., n_x) -> (..., n_out)."""
        of_h = self.of_h(h).flatten(0, -2) if self.of_h else self.of_x.bias
        first = torch.addmm(of_h, x.flatten(0, -2), self.of_x.weight.t())
        return self.rest(first).unflatten(0, x.shape[:-1])


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
        self.encoder = Encoder(obs_dim, action_dim, args)
        self.embed = nn.Linear(obs_dim, args.embeddings[0])  # shortcut: h need not hold o_t
        self.head = Head(self.encoder.H, args.embeddings[0], args.hidden_sizes, n_out)

    def forward(self, obs, prev_action, prev_reward, first, h):
        """(T, N, O), (T, N, A), (T, N), (T, N) -> (T, N, n_out), memory after the last row."""
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


def of_lanes(h, lanes):
    """The memory (1, N, H) of some lanes; None is an empty one, a tuple that of an LSTM."""
    if isinstance(h, tuple):
        return tuple(x[:, lanes] for x in h)
    return h if h is None else h[:, lanes]


def update(agent, optimizer, segment, args, rng):
    """All gradient steps on one segment. Yields a dict of scalars for each, detached."""
    mask, a = segment.mask, advantages(segment, args)  # (T, N)
    target = a + segment.value[:-1]
    mean = masked_mean(a, mask)
    a = (a - mean) / (masked_mean((a - mean) ** 2, mask).sqrt() + 1e-8)
    for epoch in range(args.update_epochs):
        parts = np.array_split(rng.permutation(args.num_envs), args.num_minibatches)
        for part, lanes in enumerate(parts):
            rows, m = [x[:-1, lanes] for x in segment[:4]], mask[:, lanes]  # (T, n, ...)
            policy, value, _ = agent(*rows, [of_lanes(h, lanes) for h in segment.h])
            log_ratio = policy.log_prob(segment.action[:, lanes]) - segment.log_prob[:, lanes]
            ratio = log_ratio.exp()
            clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
            # TRY: without the clip (docs/lessons.md, 3).
            gain = torch.minimum(ratio * a[:, lanes], clipped * a[:, lanes])
            pi_loss = -masked_mean(gain, m)  # Eq. (3)
            v_loss = masked_mean((value - target[:, lanes]) ** 2, m)  # Eq. (4)
            entropy = masked_mean(policy.entropy(), m)
            optimizer.zero_grad()
            (pi_loss + args.vf_coef * v_loss - args.ent_coef * entropy).backward()
            scalars = {
                "losses/policy_loss": pi_loss, "losses/value_loss": v_loss,
                "losses/value": masked_mean(value, m), "losses/entropy": entropy,
                "losses/approx_kl": masked_mean(ratio - 1 - log_ratio, m),
                "losses/clipfrac": masked_mean((ratio != clipped).float(), m),
                "grads/actor_rnn": grad_norm(agent.actor.encoder),
                "grads/critic_rnn": grad_norm(agent.critic.encoder)}
            if epoch == part == 0:  # before any step each ratio is 1, or learning is not acting
                scalars["losses/first_ratio_error"] = masked_mean((ratio - 1).abs(), m)
            nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
            optimizer.step()
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
        success = info.get("is_goal", info.get("is_success", np.full(self.n, np.nan)))
        return self._see(obs), reward, terminated, terminated | truncated, success


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


# For evaluation alone: what is learnt from is played by `Lanes`, above.
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
    rng = np.random.default_rng(args.seed)  # the minibatches, and the seeds of the episodes
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    env, eval_env = POMDP(args, args.num_envs), POMDP(args, args.eval_episodes, "heldout")
    video_env = POMDP(args, 1, "heldout", film=True) if args.capture_video else None
    agent = Agent(env.obs_dim, env.action_dim, env.lanes.discrete, args).to(device)
    optimizer = torch.optim.Adam(agent.parameters(), args.learning_rate, eps=1e-5, fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    run = Run(args, f"{args.policy} agent", env.lanes.reference_scores, agent=agent,
              optimizer=optimizer, rng=rng)  # --resume, --evaluate: brought back
    env_step, n_updates = run.env_step, run.n_updates

    if args.evaluate or env_step == 0:
        metrics = evaluate(eval_env, agent, args, last=args.evaluate)
    if env_step == 0:
        run.log(env_step, n_updates, metrics)
    lanes = Lanes(env, args, device)
    lanes.reset(int(rng.integers(2**31)))  # also after --resume: new episodes
    while env_step < args.total_timesteps:
        left = (args.total_timesteps - env_step) / args.total_timesteps  # from 1 to 0
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * min(1, left / args.anneal_lr if args.anneal_lr else 1)
        # Every lane plays a segment.
        segment, finished = lanes.play(agent)
        env_step += int(segment.mask.sum())
        # The agent learns from it.
        scalars = list(update(agent, optimizer, segment, args, rng))
        n_updates += len(scalars)
        # One row of numbers, means over the round.
        metrics = mean_of(scalars)
        if finished:
            names = "charts/episodic_return", "charts/episodic_length"
            metrics |= zip(names, np.mean(finished, 0))
        if run.evaluation_due(env_step):
            metrics |= evaluate(eval_env, agent, args, last=env_step >= args.total_timesteps)
        run.log(env_step, n_updates, metrics)
    if video_env:
        evaluate(video_env, agent, args)
        run.save_video(video_env.lanes.frames)
    return run.finish(metrics)


def main(argv=None):
    return train(parse_args(Args, "ppo_gru_baseline", argv))


if __name__ == "__main__":
    main()
