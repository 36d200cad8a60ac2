"""Comparator: off-policy variBAD. A belief that is learnt by itself, and SAC that is told it.

    python comparators/varibad_offpolicy.py --env-id SemiCircle-v0                    # the belief
    python comparators/varibad_offpolicy.py --env-id SemiCircle-v0 --policy markov    # without it

The agent perceives, believes, acts:   o_t, a_{t-1}, r_{t-1}  ->  b_t  ->  a_t  ->  r_t, o_{t+1}
What is hidden is a task m, L numbers. After each step the belief of it is a Gaussian q_t, and it is
good if m tells all rewards of the episode, those to come and those that were: x_k, at any step k.

  (1) q_t   = N(mu_t, S_t), S_t diagonal         b_t = [mu_t, log S_t]         q_{-1} = N(0, 1)
  (2) J_VAE = mean_t  mean_k |x_k - decoder(m_t, k)|^2  +  kl_weight KL(q_t || q_{t-1})   m_t ~ q_t
  (3) y_t   = r_t + gamma (1 - terminal_t) [min_i Q_i'(b_{t+1}, o_{t+1}, a~) - alpha log pi(a~ | .)]
  (4) J_Q   = mean_t  sum_i (Q_i(b_t, o_t, a_t) - y_t)^2                           a~ ~ pi
  (5) J_pi  = mean_t  alpha log pi(a~_t | b_t, o_t) - min_i Q_i(b_t, o_t, a~_t)

(2) alone trains the belief; to (4) and (5) it is a part of the observation. Shapes, time first: T
steps of an episode, B episodes, O observation, A action, H memory, M times t, N transitions.

Off-policy variBAD: Dorfman, Shenfeld, Tamar 2021 (BOReL), after Zintgraf et al. 2020. What differs
from their code is marked DEVIATION, and told in docs/varibad_offpolicy.md.
"""

import copy
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
    policy: Literal["recurrent", "markov", "oracle"] = "recurrent"
    """markov: no belief, only o_t; oracle: no belief, but the hidden state is in o_t"""
    inputs: Literal["o", "oa", "or", "oar"] = "oar"
    """what the belief's memory is fed: observation, previous action, previous reward"""
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
    latent_dim: Count = 5
    """L, numbers that stand for the hidden task; a belief is as many means and log variances"""
    decode: Literal["reward", "obs"] = "reward"
    """what a belief must tell of every step; obs: the next one, where rewards do not give m away"""
    elbo_terms: Count = 24
    """M, how many times t of each episode are decoded from, drawn anew for each update"""
    kl_weight: Amount = 0.1
    """weight of what a belief moves in one step, in nats, against the squared error"""
    beliefs: Literal["reencoded", "stored"] = "reencoded"
    """what SAC learns from: today's beliefs, or those of when the step was played (the authors')"""
    rewarded_fraction: Share = 0.0
    """share of each batch, 0 to 1, from episodes with a reward; where that is luck, Q is biased"""
    gamma: Share = 0.99
    """discount, 0 to 1"""
    tau: Share = 0.005
    """step of the target network towards the critic at each update, 0 to 1"""
    alpha: Positive = 0.01
    """temperature: what a nat of entropy is worth in reward, the same over the whole run"""
    batch_size: Count = 256
    """transitions per update of SAC"""
    vae_batch_size: Count = 16
    """episodes per update of the belief"""
    learning_starts: Whole = 10_000
    """env steps of uniformly random actions before SAC starts; the belief learns from them, too"""
    updates_per_step: Positive = 0.04
    """updates of SAC per env step"""
    vae_updates_per_step: Positive = 0.01
    """updates of the belief per env step"""
    learning_rate: Positive = 1e-3
    """Adam's learning rate"""
    anneal_lr: Share = 0.5
    """last share of the learning, 0 to 1, in which the learning rate falls to 0; 0: constant"""

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


class VAE(nn.Module):
    """The belief b_t, mean and log variance of q_t (no memory: of width 0), and the decoder."""

    def __init__(self, obs_dim, action_dim, args):
        super().__init__()
        self.encoder = Encoder(obs_dim, action_dim, args)
        self.width = 2 * args.latent_dim if self.encoder.H else 0
        self.to_belief = nn.Linear(self.encoder.H, self.width) if self.width else nn.Identity()
        self.rewards = args.decode == "reward"
        # DEVIATION: of a step whose reward is to be told theirs sees, on a plane, o_{k+1} alone.
        n, n_out = obs_dim * (1 + self.rewards) + action_dim, 1 if self.rewards else obs_dim
        self.of_step = nn.Sequential(nn.Linear(n, 32), nn.ReLU(), nn.Linear(32, 64, bias=False))
        self.of_m = nn.Linear(args.latent_dim, 64)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, n_out))

    def forward(self, obs, prev_action, prev_reward, h=None):
        """(T, B, O), (T, B, A), (T, B) -> belief at each step (T, B, 2L); h for the next call."""
        # DEVIATION: theirs begins with a belief before o_0; ours has seen o_0, as it acts on it.
        out, h = self.encoder(obs, prev_action, prev_reward, h)
        return self.to_belief(out), h

    def decode(self, m, x):
        """m (M, B, L) -> squared error at each step of its episode, for each m (M, T, B)."""
        obs, next_obs, action = x["obs"][:-1], x["obs"][1:], x["prev_action"][1:]  # (T, B, .)
        step = torch.cat([obs, action, *([next_obs] if self.rewards else [])], -1)
        # DEVIATION: o_{k+1} is told as a change: a network need not learn to hand on o_k.
        truth = x["prev_reward"][1:].unsqueeze(-1) if self.rewards else next_obs - obs
        told = self.rest(self.of_m(m)[:, None] + self.of_step(step))  # (M, T, B, 1 or O)
        return ((told - truth) ** 2).mean(-1)


class Actor(nn.Module):
    """pi(a_t | b_t, o_t): a Gaussian squashed by tanh. Here and in the critic h, c: the belief."""

    def __init__(self, width, obs_dim, action_dim, args):
        super().__init__()
        # DEVIATION: here and in the critic, theirs is a plain MLP over [o_t, b_t].
        self.embed = nn.Linear(obs_dim, args.embeddings[0])
        self.head = Head(width, args.embeddings[0], args.hidden_sizes, 2 * action_dim)

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
    """Q_1 and Q_2 (b_t, o_t, a_t)."""

    def __init__(self, width, obs_dim, action_dim, args):
        super().__init__()
        n = args.embeddings[0] + args.embeddings[1]
        self.embed = nn.Linear(obs_dim + action_dim, n)
        self.qf1, self.qf2 = (Head(width, n, args.hidden_sizes, 1) for _ in range(2))

    def forward(self, c, obs, action):
        """c (..., H), obs (..., O), action (..., A) -> two values (...)."""
        x = F.relu(self.embed(torch.cat([obs, action], -1)))
        return self.qf1(c, x).squeeze(-1), self.qf2(c, x).squeeze(-1)


class Agent(nn.Module):
    """All that is learnt: the VAE by (2), actor and critic by (4) and (5)."""

    def __init__(self, obs_dim, action_dim, args):
        super().__init__()
        self.vae = VAE(obs_dim, action_dim, args)
        self.actor, self.critic = (net(self.vae.width, obs_dim, action_dim, args)
                                   for net in (Actor, Critic))
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)

    @torch.no_grad()
    def act(self, obs, prev_action, prev_reward, h, deterministic=False):
        """One step in n lanes, NumPy in and out: obs (n, O) ... -> action (n, A), memory."""
        obs, prev_action, prev_reward = (torch.as_tensor(x).to(self.actor.embed.weight)[None]
                                         for x in (obs, prev_action, prev_reward))  # (1, n, ...)
        belief, h = self.vae(obs, prev_action, prev_reward, h)
        action, _ = self.actor(belief, obs, deterministic)
        return action[0].cpu().numpy(), h

    @torch.no_grad()
    def believe(self, x):
        """x: episodes, as `tensors` gives them -> belief at each row (T+1, B, 2L)."""
        return self.vae(x["obs"], x["prev_action"], x["prev_reward"])[0]


# --- LOSSES AND UPDATE ----------------------------------------------------------------------------
def transitions_of(agent, x, args):
    """Episodes -> all their real steps, N: belief (N, 2L), obs (N, O), action (N, A), reward (N,),
    terminal (N,), next belief, next obs."""
    b = x["belief"] if args.beliefs == "stored" else agent.believe(x)
    steps = (b[:-1], x["obs"][:-1], x["prev_action"][1:], x["prev_reward"][1:], x["terminal"][1:],
             b[1:], x["obs"][1:])
    return [values[x["mask"] > 0] for values in steps]  # (T, B, ...) -> (N, ...)


def kl(belief):
    """KL(q_t || q_{t-1}) of Gaussians, the first from N(0, 1): belief (T, B, 2L) -> (T, B)."""
    before = torch.cat([torch.zeros_like(belief[:1]), belief[:-1]])
    (mu, logvar), (mu_0, logvar_0) = belief.chunk(2, -1), before.chunk(2, -1)
    ratio = (logvar - logvar_0).exp() + (mu - mu_0) ** 2 * (-logvar_0).exp()
    return 0.5 * (logvar_0 - logvar + ratio - 1).sum(-1)


def update_belief(agent, optimizer, x, args):
    """One gradient step on the VAE, from whole episodes -> dict of scalars, detached."""
    mask, n_steps = x["mask"], x["mask"].sum(0)  # (T, B), (B,)
    belief, _ = agent.vae(x["obs"], x["prev_action"], x["prev_reward"])  # (T+1, B, 2L)

    # From what is believed at a time t the whole episode is told, what was and what will be.
    # DEVIATION: M times t of each episode, theirs are all of them; the mean is the same.
    t = torch.rand(args.elbo_terms, mask.shape[1], device=mask.device) * (n_steps + 1)
    t = t.long()[..., None].expand(-1, -1, belief.shape[-1])  # (M, B, 2L) 0 to n_steps
    mu, logvar = belief.gather(0, t).chunk(2, -1)
    m = mu + (0.5 * logvar).exp() * torch.randn_like(mu)  # (M, B, L)
    reconstruction = ((agent.vae.decode(m, x) * mask).sum(1) / n_steps).mean()
    # What the belief moves in a step, and the first one from N(0, 1).
    perceived = torch.cat([torch.ones_like(mask[:1]), mask])  # (T+1, B)
    moved = ((kl(belief) * perceived).sum(0) / (n_steps + 1)).mean()
    optimizer.zero_grad()
    (reconstruction + args.kl_weight * moved).backward()  # Eq. (2)
    optimizer.step()
    return {"losses/reconstruction": reconstruction.detach(), "losses/kl": moved.detach(),
            "grads/encoder": grad_norm(agent.vae.encoder)}


def update(agent, optimizer, batch, args):
    """One gradient step on actor and critic -> dict of scalars, detached."""
    actor, critic, target = agent.actor, agent.critic, agent.critic_target
    belief, obs, action, reward, terminal, next_belief, next_obs = batch
    with torch.no_grad():
        next_action, next_log_prob = actor(next_belief, next_obs)
        next_q = torch.minimum(*target(next_belief, next_obs, next_action))  # (N,)
        y = reward + args.gamma * (1 - terminal) * (next_q - args.alpha * next_log_prob)  # Eq. (3)
    q1, q2 = critic(belief, obs, action)  # (N,)
    assert q1.shape == y.shape == reward.shape
    q_loss = ((q1 - y) ** 2 + (q2 - y) ** 2).mean()  # Eq. (4)
    new_action, log_prob = actor(belief, obs)
    q_policy = torch.minimum(*critic(belief, obs, new_action))
    actor_loss = (args.alpha * log_prob - q_policy).mean()  # Eq. (5)

    # Gradients: each loss reaches only the parameters that it is meant to train.
    optimizer.zero_grad()
    q_loss.backward()
    actor_loss.backward(inputs=list(actor.parameters()))
    optimizer.step()
    with torch.no_grad():  # the target follows the critic
        torch._foreach_lerp_(list(target.parameters()), list(critic.parameters()), args.tau)
    return {name: value.detach() for name, value in {
        "losses/qf_loss": q_loss, "losses/q_data": (q1 + q2).mean() / 2, "losses/target": y.mean(),
        "losses/actor_loss": actor_loss, "losses/entropy": -log_prob.mean()}.items()}


# --- SEQUENCE BUFFER ------------------------------------------------------------------------------
def tensors(rows, device):
    """rows (T+1, B) -> dict: obs (T+1, B, O), prev_action (T+1, B, A), belief (T+1, B, 2L);
    prev_reward, terminal (was step t-1?) (T+1, B). An episode of 5 steps has 6 rows:

        row        0    1    2    3    4    5       Row t is perceived at step t; what step t did
        o_t       o_0  o_1  o_2  o_3  o_4  o_5      and earned is in row t+1. mask (T, B): 1 for a
        a_{t-1}    0   a_0  a_1  a_2  a_3  a_4      step, 0 for padding behind the end."""
    return {name: torch.from_numpy(rows[name].astype(np.float32, order="C")).to(device)
            for name in rows.dtype.names}


class SequenceBuffer:
    """Whole episodes, the newest `size` steps of them, and some drawn from them."""

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

    def sample(self, n, args, rng, device):
        """Draw n whole episodes, a `rewarded_fraction` of them such as hold a reward, if any do."""
        # DEVIATION: theirs draws tasks, then episodes of them, rewarded or not.
        rewarded = np.flatnonzero(self.index[:, 1])
        n_rewarded = round(args.rewarded_fraction * n) if len(rewarded) else 0
        chosen = rng.integers(len(self.episodes), size=n)
        chosen[:n_rewarded] = rng.choice(rewarded, n_rewarded) if n_rewarded else ()
        n_steps = self.index[chosen, 0]
        t = np.arange(n_steps.max() + 1)  # (T+1,)
        rows = np.stack([self.episodes[episode][np.minimum(t, n)]
                         for episode, n in zip(chosen, n_steps)], 1)  # (T+1, B)
        mask = torch.from_numpy((t[:-1, None] < n_steps).astype(np.float32)).to(device)
        return tensors(rows, device) | {"mask": mask}

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
    # Two optimizers, so that neither loss can move what the other one trains.
    optimizer, vae_optimizer = (torch.optim.Adam(parameters, fused=True) for parameters in (
        [*agent.actor.parameters(), *agent.critic.parameters()], agent.vae.parameters()))
    env.row_type = np.dtype([*env.row_type.descr, ("belief", "f4", (agent.vae.width,))])
    buffer = SequenceBuffer(env.row_type, args.total_timesteps)  # forgets nothing
    draw = partial(buffer.sample, args=args, rng=rng, device=device)
    run = Run(args, f"{args.policy} agent", env.lanes.reference_scores, agent=agent, rng=rng,
              optimizer=optimizer, vae_optimizer=vae_optimizer, buffer=buffer)  # brought back
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
        rate = args.learning_rate * min(1, left / args.anneal_lr if args.anneal_lr else 1)
        optimizer.param_groups[0]["lr"] = vae_optimizer.param_groups[0]["lr"] = rate
        # Every lane plays an episode. No network changes meanwhile: one pass gives its beliefs.
        act = agent.act if env_step >= args.learning_starts else random_action
        rows, n_steps, returns, _ = play(env, act, int(rng.integers(2**31)))
        rows["belief"] = agent.believe(tensors(rows, device)).cpu()
        buffer.add(rows, n_steps)
        before, env_step = env_step, env_step + int(n_steps.sum())
        # The belief learns. DEVIATION: from the random steps, too; theirs waits for SAC.
        due = (int(args.vae_updates_per_step * n) for n in (before, env_step))
        scalars = [update_belief(agent, vae_optimizer, draw(args.vae_batch_size), args)
                   for _ in range(*due) if agent.vae.width]
        # SAC learns from steps of episodes drawn for this round (theirs: of 16 tasks, drawn so).
        # TRAP: today's belief costs a pass over an episode: too much, if a batch had its own.
        due = int(args.updates_per_step * (env_step - args.learning_starts))
        if n_updates < due:
            n = int((due - n_updates) * args.batch_size / buffer.index[:, 0].mean()) + 1
            pool = transitions_of(agent, draw(n), args)
        while n_updates < due:
            chosen = torch.from_numpy(rng.integers(len(pool[0]), size=args.batch_size)).to(device)
            scalars.append(update(agent, optimizer, [x[chosen] for x in pool], args))
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
    return train(parse_args(Args, "varibad_offpolicy", argv))


if __name__ == "__main__":
    main()
