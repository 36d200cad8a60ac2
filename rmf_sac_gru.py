"""Recurrent model-free RL for POMDPs: SAC + GRU, continuous actions, in one file.

    python rmf_sac_gru.py --env-id Wind-v0                    # with memory
    python rmf_sac_gru.py --env-id Wind-v0 --policy markov    # without memory
    python rmf_sac_gru.py --env-id Wind-v0 --policy oracle    # the hidden state is shown

The agent perceives, remembers, acts:   o_t, a_{t-1}, r_{t-1}  ->  h_t  ->  a_t  ->  r_t, o_{t+1}
Actor and critic each own a memory (of what --inputs names): h_t, c_t, and k_t (critic's target).

  (1) V_t = min_i Q_i'(k_t, o_t, a~_t) - alpha log pi(a~_t | h_t, o_t)          a~_t ~ pi
  (2) y_t = r_t + gamma (1 - terminal_t) [(1 - lambda) V_{t+1} + lambda y_{t+1}]
  (3) J_Q     = mean_t  sum_i (Q_i(c_t, o_t, a_t) - y_t)^2
  (4) J_pi    = mean_t  alpha log pi(a~_t | h_t, o_t) - min_i Q_i(c_t, o_t, a~_t)
  (5) J_alpha = mean_t  -log_alpha (log pi(a~_t | h_t, o_t) + target entropy)

Shapes, time first: T steps of a window, B windows, O observation, A action, H memory.
Ni, Eysenbach, Salakhutdinov: Recurrent Model-Free RL Can Be a Strong Baseline for Many POMDPs
(ICML 2022). --paper runs their recipe. What differs from their code is marked DEVIATION: one
forward per network and update; lambda-returns; rewarded windows in each batch; short windows at
a fall; random actions over the whole range.
In a minute: the memory is `Encoder`, the target `td_targets`, one gradient step `update`, the whole
course of things `train`. `# TRY:` marks lines that are good to change. More: docs/rmf_sac_gru.md.
"""

import copy
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import envs
import speed
from run import Count, Positive, Run, RunArgs, Share, Whole, grad_norm, mean_of, parse_args


# --- ARGUMENTS ------------------------------------------------------------------------------------
@dataclass
class Args(RunArgs):  # and the flags of a run, run.py. Defaults for bodies; presets.toml has others
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
    hidden_sizes: tuple[Count, ...] = (128, 128)
    """hidden layers of the actor's head and of each critic head"""
    embeddings: tuple[Count, Count, Count] = (32, 8, 8)
    """widths of the layers that embed observation, action and reward"""
    shared_encoder: Literal["separate", "published", "published-clipped", "critic-frozen",
                            "critic-only"] = "separate"
    """separate memories of actor and critic, or one for both; see SHARED ENCODER in `Agent`"""
    context_length: Literal["full"] | Count = 64
    """steps of the sequences that are trained on; full: whole episodes"""
    td_lambda: Share = 0.0
    """lambda of the targets, 0 to 1; 0 is the paper's one-step target, more helps rare rewards"""
    rewarded_fraction: Share = 0.0
    """share of each batch, 0 to 1, from episodes with a reward; where that is luck, Q is biased"""
    gamma: Share = 0.99
    """discount, 0 to 1"""
    tau: Share = 0.005
    """step of the target network towards the critic at each update, 0 to 1"""
    batch_size: Count = 16
    """sequences per update"""
    buffer_size: Count = 1_000_000
    """env steps that are kept for sampling, the newest"""
    learning_starts: Whole = 10_000
    """env steps of uniformly random actions before learning starts"""
    updates_per_step: Positive = 0.2
    """gradient updates per env step; more of them: better after as many steps, slower in minutes"""
    learning_rate: Positive = 1e-3
    """Adam's learning rate"""
    anneal_lr: Share = 0.5
    """last share of the learning, 0 to 1, in which the learning rate falls to 0; 0: constant"""
    alpha: Literal["auto"] | Positive = "auto"
    """temperature: what a nat of entropy is worth in reward; auto: learnt, so that entropy is near
    -A; a number: falls from there to 0 over the learning (with --paper it stays)"""

    def __post_init__(self):
        super().__post_init__()
        self.require("learning_starts", self.learning_starts < self.total_timesteps,
                     f"below --total-timesteps {self.total_timesteps}")


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


class Actor(nn.Module):
    """pi(a_t | h_t, o_t): a Gaussian squashed by tanh."""

    def __init__(self, obs_dim, action_dim, args):
        super().__init__()
        self.encoder = Encoder(obs_dim, action_dim, args)
        self.embed = nn.Linear(obs_dim, args.embeddings[0])  # shortcut: h need not hold o_t
        self.head = Head(self.encoder.H, args.embeddings[0], args.hidden_sizes, 2 * action_dim)

    def forward(self, h, obs, deterministic=False):
        """h (..., H), obs (..., O) -> action (..., A) in (-1, 1), and its log density (...)."""
        mean, log_std = self.head(h, F.relu(self.embed(obs))).chunk(2, -1)
        log_std = log_std.clamp(-20, 2)
        noise = torch.zeros_like(mean) if deterministic else torch.randn_like(mean)
        u = mean + log_std.exp() * noise
        log_prob = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi)
        # TRAP: log(1 - tanh(u)^2) underflows for large u; this is the same number, computed safely.
        log_prob = log_prob - 2 * (np.log(2) - u - F.softplus(-2 * u))
        return u.tanh(), log_prob.sum(-1)


class Critic(nn.Module):
    """Q_1 and Q_2 (c_t, o_t, a_t): two heads on one memory."""

    def __init__(self, obs_dim, action_dim, args):
        super().__init__()
        self.encoder = Encoder(obs_dim, action_dim, args)
        n = args.embeddings[0] + args.embeddings[1]
        self.embed = nn.Linear(obs_dim + action_dim, n)  # the shortcut
        self.qf1, self.qf2 = (Head(self.encoder.H, n, args.hidden_sizes, 1) for _ in range(2))

    def forward(self, c, obs, action):
        """c (..., H), obs (..., O), action (..., A) -> two values (...)."""
        x = F.relu(self.embed(torch.cat([obs, action], -1)))
        return self.qf1(c, x).squeeze(-1), self.qf2(c, x).squeeze(-1)


class Agent(nn.Module):
    """All that is learnt. SHARED ENCODER: `update` says what the actor's loss may change."""

    def __init__(self, obs_dim, action_dim, args):
        super().__init__()
        self.actor, self.critic = (net(obs_dim, action_dim, args) for net in (Actor, Critic))
        if args.shared_encoder != "separate":
            self.actor.encoder = self.critic.encoder
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
        log_alpha = torch.tensor(0.0 if args.alpha == "auto" else float(np.log(args.alpha)))
        self.log_alpha = nn.Parameter(log_alpha, requires_grad=args.alpha == "auto")

    @torch.no_grad()
    def act(self, obs, prev_action, prev_reward, h, deterministic=False):
        """One step in n lanes, NumPy in and out: obs (n, O) ... -> action (n, A), memory."""
        obs, prev_action, prev_reward = (torch.as_tensor(x).to(self.actor.embed.weight)[None]
                                         for x in (obs, prev_action, prev_reward))  # (1, n, ...)
        out, h = self.actor.encoder(obs, prev_action, prev_reward, h)
        action, _ = self.actor(out, obs, deterministic)
        return action[0].cpu().numpy(), h


# --- LOSSES AND UPDATE ----------------------------------------------------------------------------
class Batch(NamedTuple):
    """B windows, time first. An episode of 5 steps has 6 rows; row t is perceived at step t:

        row        0    1    2    3    4    5       The window of T = 3 steps from row 2 on is rows
        o_t       o_0  o_1  o_2  o_3  o_4  o_5      2 to 5. It has no past: its memory is empty, and
        a_{t-1}    0   a_0  a_1  a_2  a_3  a_4      a_1 and r_1 in its first row become 0. Behind
        r_{t-1}    0   r_0  r_1  r_2  r_3  r_4      the end of an episode is padding, with mask 0.
    """
    obs: torch.Tensor  # (T+1, B, O)
    prev_action: torch.Tensor  # (T+1, B, A)
    prev_reward: torch.Tensor  # (T+1, B)
    action: torch.Tensor  # (T, B, A)
    reward: torch.Tensor  # (T, B)
    terminal: torch.Tensor  # (T, B) 1 = nothing follows, or in a goal: no bootstrap
    mask: torch.Tensor  # (T, B) 1 = a real step, 0 = padding behind the end of the episode


def masked_mean(x, mask):
    return (x * mask).sum() / mask.sum().clamp(min=1)


def td_targets(batch, next_value, args):
    """Eq. (2): next_value (T, B) is V_{t+1}; the targets y (T, B), from the last step backwards."""
    assert next_value.shape == batch.reward.shape == batch.mask.shape
    discount = args.gamma * (1 - batch.terminal)
    # Lambda, (T, B), but 0 after the last real step of a window: V alone follows there.
    lam = args.td_lambda * torch.cat([batch.mask[1:], torch.zeros_like(batch.mask[:1])])
    one_step = batch.reward + discount * (1 - lam) * next_value
    y, targets = torch.zeros_like(one_step[0]), []
    # DEVIATION: the paper has lambda = 0. TRY: n-step targets (docs/lessons.md, 6).
    for one_step_t, follow_t in zip(one_step.flip(0), (discount * lam).flip(0)):
        y = one_step_t + follow_t * y  # Eq. (2)
        targets.append(y)
    return torch.stack(targets).flip(0)  # (T, B)


def update(agent, optimizer, batch, args):
    """One gradient step on every network -> dict of scalars, detached."""
    mask, actor, critic, target = batch.mask, agent.actor, agent.critic, agent.critic_target
    perceived = batch.obs, batch.prev_action, batch.prev_reward
    separate, published = (args.shared_encoder.startswith(x) for x in ("separate", "published"))

    # The memories. Each network goes over the sequences once.
    # DEVIATION: the authors step the critic first and run it and the actor again for the actor's
    # loss; here both losses see the networks as they are: fewer passes, a quicker update.
    c = critic.encoder(*perceived)[0]  # (T+1, B, H)
    h = actor.encoder(*perceived)[0] if separate else c
    h = h.detach() if args.shared_encoder == "critic-only" else h
    k = target.encoder(*perceived)[0]
    action, log_prob = actor(h, batch.obs)  # (T+1, B, A), (T+1, B)
    alpha = agent.log_alpha.detach().exp()

    # The critic.
    with torch.no_grad():
        next_q = torch.minimum(*target(k[1:], batch.obs[1:], action[1:]))  # (T, B)
        next_value = next_q - alpha * log_prob[1:]  # Eq. (1)
        y = td_targets(batch, next_value, args)
    q1, q2 = critic(c[:-1], batch.obs[:-1], batch.action)  # (T, B)
    q_loss = masked_mean((q1 - y) ** 2 + (q2 - y) ** 2, mask)  # Eq. (3)

    # The actor: its loss takes the critic's memory as given, since the new action enters after it.
    # TRAP: "published" sharing lets this loss train the critic, too: Q rises without bound.
    c = c if published else c.detach()
    q_policy = torch.minimum(*critic(c[:-1], batch.obs[:-1], action[:-1]))  # (T, B)
    actor_loss = masked_mean(alpha * log_prob[:-1] - q_policy, mask)  # Eq. (4)

    # Gradients: each loss reaches only the parameters that it is meant to train.
    optimizer.zero_grad()
    q_loss.backward(retain_graph=not separate)  # the actor's needs it, too
    actor_loss.backward(inputs=None if published else list(actor.parameters()))  # None: all
    entropy = -masked_mean(log_prob[:-1].detach(), mask)
    if args.alpha == "auto":
        (agent.log_alpha * (entropy + action.shape[-1])).backward()  # Eq. (5), target entropy -A
    scalars = {
        "losses/qf_loss": q_loss, "losses/q_data": masked_mean((q1 + q2) / 2, mask),
        "losses/target": masked_mean(y, mask), "losses/actor_loss": actor_loss,
        "losses/q_policy": masked_mean(q_policy, mask), "losses/entropy": entropy,
        "losses/alpha": alpha, "grads/actor_rnn": grad_norm(actor.encoder),
        "grads/critic_rnn": grad_norm(critic.encoder)}
    if args.shared_encoder == "published-clipped":
        nn.utils.clip_grad_norm_(agent.parameters(), 1.0)
    optimizer.step()

    # The target follows the critic.
    with torch.no_grad():
        torch._foreach_lerp_(list(target.parameters()), list(critic.parameters()), args.tau)
    return {name: value.detach() for name, value in scalars.items()}


# --- SEQUENCE BUFFER ------------------------------------------------------------------------------
class SequenceBuffer:
    """Whole episodes, the newest `size` steps of them, and windows drawn from them."""

    def __init__(self, row_type, size):
        self.row_type, self.size, self.episodes = row_type, size, []  # each (n_steps + 1,) rows
        self.index = np.zeros((0, 3), int)  # n_steps; any reward in it? does it end with a fall?

    def add(self, rows, n_steps):
        """rows (T+1, n), n_steps (n,): an episode in each column."""
        new = [rows[: n + 1, lane].copy() for lane, n in enumerate(n_steps)]
        # A fall: the last step is terminal and the one before is not (inside of a goal both are).
        facts = [(len(e) - 1, e["prev_reward"].any(), e["terminal"][-1] > e["terminal"][-2])
                 for e in new]
        self.episodes, self.index = self.episodes + new, np.append(self.index, facts, 0)
        age = np.cumsum(self.index[::-1, 0])[::-1]  # steps since the episode began
        n_old = (age > max(self.size, age[-1])).sum()
        self.episodes, self.index = self.episodes[n_old:], self.index[n_old:]

    def sample(self, args, rng, device):
        """Draw windows, each from inside one episode, every possible start equally likely; a
        `rewarded_fraction` of them from episodes that hold a reward, if there are any."""
        n_steps, rewarded, fell = self.index.T
        full = args.context_length == "full"
        L = n_steps.max() if full else args.context_length
        # DEVIATION: where episodes may end with a fall, any step may be the start. TRAP: of windows
        # that are all L steps long only one holds the fall, a step before it is in up to L.
        n_starts = (n_steps - L + 1).clip(1) if full or not fell.any() else n_steps
        # DEVIATION: the paper draws all sequences alike, as --rewarded-fraction 0. TRAP: what is
        # chosen by its outcome makes Q too high where the outcome is luck.
        n_rewarded = round(args.rewarded_fraction * args.batch_size) if rewarded.any() else 0
        chosen = np.concatenate([  # episodes, each as likely as it has starts, (B,)
            np.searchsorted(weight.cumsum(), rng.integers(weight.sum() or 1, size=n), side="right")
            for weight, n in ((n_starts * rewarded, n_rewarded),
                              (n_starts, args.batch_size - n_rewarded))])
        start, n = rng.integers(n_starts[chosen]), n_steps[chosen]
        t = start + np.arange(min(L, (n - start).max()) + 1)[:, None]  # (T+1, B)
        rows = np.stack([self.episodes[episode][np.minimum(t[:, b], n[b])]
                         for b, episode in enumerate(chosen)], 1)  # (T+1, B)
        # A window starts with an empty memory and no past, also in the middle of an episode.
        rows["prev_action"][0], rows["prev_reward"][0] = 0, 0
        # TRY: let the first steps of a window count in no loss (docs/lessons.md, 4).
        mask = torch.from_numpy((t[:-1] < n).astype(np.float32)).to(device)
        x = {name: torch.from_numpy(np.ascontiguousarray(rows[name], np.float32)).to(device)
             for name in rows.dtype.names}
        return Batch(x["obs"], x["prev_action"], x["prev_reward"], x["prev_action"][1:],
                     x["prev_reward"][1:], x["terminal"][1:], mask)

    def state_dict(self):
        rows = np.concatenate([np.zeros(0, self.row_type), *self.episodes])
        return {"rows": torch.from_numpy(rows.view("u1")), "index": torch.from_numpy(self.index)}

    def load_state_dict(self, state):
        rows, self.index = state["rows"].numpy().view(self.row_type), state["index"].numpy()
        self.episodes = np.split(rows, np.cumsum(self.index[:, 0] + 1))[:-1]


# --- POMDP WRAPPER AND PLAY -----------------------------------------------------------------------
class POMDP:
    """What the agent sees of `n` lanes of an environment: obs (n, O), of which `--observe` keeps
    some entries and `--flicker` blanks some; an oracle sees all of it, and the hidden state."""

    def __init__(self, args, n, split="train", film=False):
        oracle = args.policy == "oracle"
        self.lanes = envs.FlatLanes(args.env_id, n, "Box", oracle, split, film)
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
    rng = np.random.default_rng(args.seed)  # what is sampled, and the seeds of the episodes
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    env, eval_env = POMDP(args, args.num_envs), POMDP(args, args.eval_episodes, "heldout")
    video_env = POMDP(args, 1, "heldout", film=True) if args.capture_video else None
    agent = Agent(env.obs_dim, env.action_dim, args).to(device)
    optimizer = torch.optim.Adam(agent.parameters(), args.learning_rate, fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]  # TRY: above, a group for memories
    learn = speed.as_cuda_graph(update) if device.type == "cuda" else update
    buffer = SequenceBuffer(env.row_type, args.buffer_size)
    run = Run(args, f"{args.policy} agent", env.lanes.reference_scores, agent=agent,
              optimizer=optimizer, buffer=buffer, rng=rng)  # --resume, --evaluate: brought back
    env_step, n_updates = run.env_step, run.n_updates

    def random_action(*_):
        # DEVIATION: the authors' random moves are ten times smaller in Wind and Semi-Circle.
        return rng.uniform(-1, 1, (env.n, env.action_dim)).astype(np.float32), None

    if args.evaluate or env_step == 0:
        metrics = evaluate(eval_env, agent, args, last=args.evaluate)
    if env_step == 0:
        run.log(env_step, n_updates, metrics)
    while env_step < args.total_timesteps:
        # What is left of the learning, from 1 (more, before it starts) to 0: what falls follows it.
        left = (args.total_timesteps - env_step) / (args.total_timesteps - args.learning_starts)
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * min(1, left / args.anneal_lr if args.anneal_lr else 1)
        if args.alpha != "auto" and not args.paper:
            agent.log_alpha.data.fill_(np.log(args.alpha * min(1, left)))
        # Every lane plays an episode.
        act = agent.act if env_step >= args.learning_starts else random_action
        rows, n_steps, returns, _ = play(env, act, int(rng.integers(2**31)))
        buffer.add(rows, n_steps)
        env_step += int(n_steps.sum())
        # The agent learns from the buffer, as many updates as are due by now.
        scalars = []
        while n_updates < int(args.updates_per_step * (env_step - args.learning_starts)):
            batch = buffer.sample(args, rng, device)
            scalars.append(learn(agent, optimizer, batch, args))
            n_updates += 1
            run.progress(env_step, n_updates)
        # One row of numbers, means over the round.
        metrics = mean_of(scalars) | {"charts/episodic_return": returns.mean(),
                                      "charts/episodic_length": n_steps.mean()}
        if run.evaluation_due(env_step):
            metrics |= evaluate(eval_env, agent, args, last=env_step >= args.total_timesteps)
        run.log(env_step, n_updates, metrics)
    if video_env:
        evaluate(video_env, agent, args)
        run.save_video(video_env.lanes.frames)
    return run.finish(metrics)


def main(argv=None):
    return train(parse_args(Args, "rmf_sac_gru", argv))


if __name__ == "__main__":
    main()
