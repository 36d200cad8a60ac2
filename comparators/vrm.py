"""Comparator: Variational Recurrent Models and SAC, continuous actions.

    python comparators/vrm.py --env-id Pendulum-V-v0                   # FIM and KLM
    python comparators/vrm.py --env-id Pendulum-V-v0 --models klm      # the one that keeps learning
    python comparators/vrm.py --env-id Pendulum-V-v0 --policy markov   # no model: SAC on x_t alone

The agent perceives, remembers, acts:   o_t, a_{t-1}, r_{t-1}  ->  d_t  ->  a_t  ->  r_t, o_{t+1}
Its memory learns to predict x_t = (o_t, r_{t-1}), never to act. SAC takes what it remembers for a
part of what is seen, and sends no gradient back.

  (1) prior      z_t ~ p(. | d_{t-1}, a_{t-1})             what is about to happen
      posterior  z_t ~ q(. | d_{t-1}, a_{t-1}, x_t)        what has happened
      state      d_t = LSTM([x_t, z_t], d_{t-1})           z_t ~ q
  (2) J_model = mean_t  -log p(x_t | d_{t-1}, z_t) + KL(q || p)                   z_t ~ p
  (3) s_t     = [d_t of the KLM, d_t of the FIM, x_t]      what SAC takes for a state
  (4) y_t     = r_t + gamma (1 - terminal_t) (min_i Q_i'(s_{t+1}, a~) - alpha log pi(a~ | s_{t+1}))
      J_Q     = mean_t  sum_i (Q_i(s_t, a_t) - y_t)^2                             a~ ~ pi
  (5) J_pi    = mean_t  alpha log pi(a~ | s_t) - min_i Q_i(s_t, a~)
  (6) J_alpha = mean_t  -log_alpha (log pi(a~ | s_t) + target entropy)

KLM is the model that keeps learning, FIM the first impression: what it was after the random steps.
Shapes, time first: T steps of a window, K of burn-in before it, B windows, O observation, A action,
H state, Z latent. Han, Doya, Tani: Variational Recurrent Models for Solving Partially Observable
Control Tasks (ICLR 2020); what differs from their code is marked DEVIATION. More: docs/vrm.md.
"""

import copy
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the house: envs, run, speed
import envs
import speed
from run import Count, Positive, Run, RunArgs, Share, Whole, mean_of, parse_args


# --- ARGUMENTS ------------------------------------------------------------------------------------
@dataclass
class Args(RunArgs):  # and the flags of a run, run.py. Defaults for bodies; presets.toml has others
    env_id: str = "Pendulum-V-v0"
    """Gymnasium id with Box observations and actions; `module:Id-v0` imports `module` first"""
    policy: Literal["recurrent", "markov", "oracle"] = "recurrent"
    """markov: no model, only x_t; oracle: no model, but the hidden state is in x_t"""
    models: Literal["klm", "fim+klm"] = "fim+klm"
    """whose states the policy sees: of the model that keeps learning, or of the frozen one, too"""
    observe: str = ""
    """keep only these entries of the observation, as in `0,1,4`: makes a POMDP of an MDP"""
    flicker: Share = 0.0
    """probability that an observation is blanked to zeros"""
    rnn_size: Count = 128
    """width H of a model's state, and of the layers around it; its latent has a quarter"""
    hidden_sizes: tuple[Count, ...] = (128, 128)
    """hidden layers of the actor's head and of each critic head"""
    context_length: Literal["full"] | Count = 32
    """steps of the windows that are trained on; full: whole episodes"""
    burn_in: Whole = 16
    """steps before a window over which the models' states are warmed up"""
    gamma: Share = 0.99
    """discount, 0 to 1"""
    tau: Share = 0.005
    """step of the target network towards the critic at each update, 0 to 1"""
    batch_size: Count = 16
    """windows per update"""
    learning_starts: Count = 1000
    """env steps of uniformly random actions; they are what the first impression is made of"""
    first_updates: Whole = 2000
    """updates of the model alone right after those"""
    updates_per_step: Positive = 0.2
    """gradient updates of SAC per env step"""
    model_frequency: Count = 5
    """the KLM learns at every n-th of SAC's updates"""
    learning_rate: Positive = 1e-3
    """Adam's learning rate"""
    anneal_lr: Share = 0.5
    """last share of the learning, 0 to 1, in which the learning rate falls to 0; 0: constant"""

    def __post_init__(self):
        super().__post_init__()
        self.require("learning_starts", self.learning_starts < self.total_timesteps,
                     f"below --total-timesteps {self.total_timesteps}")


# --- NETWORKS -------------------------------------------------------------------------------------
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


def normal(parameters):
    """(..., 2n) -> n independent Gaussians."""
    mean, std = parameters.chunk(2, -1)
    return Normal(mean, F.softplus(std) + 0.01, validate_args=False)


class Model(nn.Module):
    """Eq. (1). Acting is the same call, T = 1, with the state that the last one gave."""

    def __init__(self, n_x, action_dim, args):
        super().__init__()
        # DEVIATION: one network for mean and deviation, ReLU, one width. Theirs: two, tanh, 128.
        self.H, self.Z = H, Z = args.rnn_size, max(args.rnn_size // 4, 1)
        self.embed = nn.Sequential(nn.Linear(n_x, H), nn.Tanh(), nn.Linear(H, H))
        self.posterior = Head(H, H + action_dim, (H,), 2 * Z)
        self.prior = Head(H, action_dim, (H,), 2 * Z)
        self.decoder = Head(H, Z, (H, H), 2 * n_x)
        self.cell = nn.LSTMCell(H + Z, H)

    def forward(self, x, prev_action, state=None, real=(), noise=None):
        """x (T, B, O+1), prev_action (T, B, A) -> d (T, B, H), state for the next call, q's (T, B,
        2Z). real (K, B): K rows are burn-in. noise (T, B, Z): z_t is a sample; None: q's mean"""
        (T, B, _), learns = x.shape, torch.is_grad_enabled()
        e = self.embed(x)  # (T, B, H)
        of_x = self.posterior.of_x(torch.cat([e, prev_action], -1))  # for all steps at once
        h, c = state or (x.new_zeros(B, self.H), x.new_zeros(B, self.H))
        d, q = [], []
        for t in range(T):
            with torch.set_grad_enabled(learns and t >= len(real)):
                q.append(self.posterior.rest(self.posterior.of_h(h) + of_x[t]))  # (B, 2Z)
                z = q[t][:, : self.Z]  # the mean
                if noise is not None:
                    z = z + normal(q[t]).stddev * noise[t]
                h, c = self.cell(torch.cat([e[t], z], -1), (h, c))
                if t < len(real):  # before an episode there is nothing to remember
                    h, c = (v * real[t, :, None] for v in (h, c))
                d.append(h)
        return torch.stack(d), (h, c), torch.stack(q)


class Actor(nn.Module):
    """pi(a_t | s_t): a Gaussian squashed by tanh. Its h is d_t, its obs x_t."""

    def __init__(self, H, n_x, action_dim, args):
        super().__init__()
        self.embed = nn.Linear(n_x, args.rnn_size)
        self.head = Head(H, args.rnn_size, args.hidden_sizes, 2 * action_dim)

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
    """Q_1 and Q_2 (s_t, a_t). Their c is d_t, their obs x_t."""

    def __init__(self, H, n_x, action_dim, args):
        super().__init__()
        self.embed = nn.Linear(n_x + action_dim, args.rnn_size)
        self.qf1, self.qf2 = (Head(H, args.rnn_size, args.hidden_sizes, 1) for _ in range(2))

    def forward(self, c, obs, action):
        """c (..., H), obs (..., O), action (..., A) -> two values (...)."""
        x = F.relu(self.embed(torch.cat([obs, action], -1)))
        return self.qf1(c, x).squeeze(-1), self.qf2(c, x).squeeze(-1)


class Agent(nn.Module):
    """All that is learnt. The models are the KLM and, if there is one, the FIM."""

    def __init__(self, obs_dim, action_dim, args):
        super().__init__()
        n = 1 + (args.models == "fim+klm") if args.policy == "recurrent" else 0
        self.models = nn.ModuleList(Model(obs_dim + 1, action_dim, args) for _ in range(n))
        self.models[1:].requires_grad_(False)
        self.actor, self.critic = (net(n * args.rnn_size, obs_dim + 1, action_dim, args)
                                   for net in (Actor, Critic))
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.zeros(()))

    @torch.no_grad()  # what SAC wants does not reach the models
    def remember(self, x, prev_action, states=None, real=()):
        """(T, B, O+1), (T, B, A) -> d of the n models (T, B, n H), n 0 to 2; the state of each."""
        # DEVIATION: z_t are means, so that one past gives one state; the authors sample them.
        out = [model(x, prev_action, state, real)
               for model, state in zip(self.models, states or (None, None))]
        return torch.cat([x[..., :0], *(d for d, _, _ in out)], -1), [state for _, state, _ in out]

    @torch.no_grad()
    def act(self, obs, prev_action, prev_reward, h, deterministic=False):
        """One step in n lanes, NumPy in and out: obs (n, O) ... -> action (n, A), memory."""
        x, prev_action = (torch.as_tensor(v).to(self.actor.embed.weight)[None] for v in (
            np.c_[obs, prev_reward], prev_action))  # (1, n, ...)
        d, h = self.remember(x, prev_action, h)
        action, _ = self.actor(d, x, deterministic)
        return action[0].cpu().numpy(), h


# --- LOSSES AND UPDATE ----------------------------------------------------------------------------
class Batch(NamedTuple):
    """B windows, time first. An episode of 5 steps has 6 rows; row t is perceived at step t:

        row        0    1    2    3    4    5       The window of T = 3 steps from row 2 on is rows
        o_t       o_0  o_1  o_2  o_3  o_4  o_5      2 to 5; rows 0 and 1 before it are its burn-in,
        a_{t-1}    0   a_0  a_1  a_2  a_3  a_4      in which the models' states find out where they
        r_{t-1}    0   r_0  r_1  r_2  r_3  r_4      are. Behind the end of an episode is padding.
    """
    x: torch.Tensor  # (K+T+1, B, O+1) o_t and r_{t-1}
    prev_action: torch.Tensor  # (K+T+1, B, A)
    real: torch.Tensor  # (K, B) 1 = a row of the burn-in, 0 = padding before the episode began
    action: torch.Tensor  # (T, B, A)
    reward: torch.Tensor  # (T, B)
    terminal: torch.Tensor  # (T, B) 1 = nothing follows, or in a goal: no bootstrap
    mask: torch.Tensor  # (T, B) 1 = a real step, 0 = padding behind the end of the episode


def masked_mean(x, mask):
    return (x * mask).sum() / mask.sum().clamp(min=1)


def elbo(model, batch):
    """-> log p(x_t | d_{t-1}, z_t) and KL(q || p) at each row of the windows, (T+1, B), in nats."""
    K, (x, prev_action, real) = len(batch.real), batch[:3]
    noise = torch.randn(2, *x.shape[:2], model.Z, device=x.device)
    d, _, q = model(x, prev_action, real=real, noise=noise[0])
    before = torch.cat([torch.zeros_like(d[:1]), d[:-1]])[K:]  # d_{t-1}
    q, p = normal(q[K:]), normal(model.prior(before, prev_action[K:]))
    # The decoder makes do with what is expected: z_t of p, which has not seen x_t. TRY: z_t of q.
    decoded = normal(model.decoder(before, p.mean + p.stddev * noise[1, K:]))
    return decoded.log_prob(x[K:]).sum(-1), kl_divergence(q, p).sum(-1)


def update_model(agent, optimizer, batch):
    """One gradient step on the KLM -> dict of scalars, detached."""
    rows = torch.cat([torch.ones_like(batch.mask[:1]), batch.mask])  # (T+1, B) those perceived
    # DEVIATION: sums over the entries of x and z, as the ELBO has them; the authors take means.
    reconstruction, kl = (masked_mean(v, rows) for v in elbo(agent.models[0], batch))
    optimizer.zero_grad()
    (kl - reconstruction).backward()  # Eq. (2)
    # DEVIATION: clipped. TRAP: where x is all but certain a small error is a gradient of hundreds.
    norm = nn.utils.clip_grad_norm_(agent.models.parameters(), 10.0)
    optimizer.step()
    scalars = {"losses/reconstruction": reconstruction, "losses/kl": kl, "grads/model": norm}
    return {name: value.detach() for name, value in scalars.items()}


def update(agent, optimizer, batch, args):
    """One gradient step of SAC, on every network but the models -> dict of scalars, detached."""
    mask, actor, critic, target = batch.mask, agent.actor, agent.critic, agent.critic_target

    # What SAC takes for a state, in the windows.
    # DEVIATION: a whole burn-in; the authors' is one step long, by an index over the wrong axis.
    K, d = len(batch.real), agent.remember(batch.x, batch.prev_action, real=batch.real)[0]
    d, x = d[K:], batch.x[K:]  # (T+1, B, n H), (T+1, B, O+1)
    action, log_prob = actor(d, x)  # (T+1, B, A), (T+1, B)
    alpha = agent.log_alpha.detach().exp()

    # The critic.
    # DEVIATION: target critics, as in rmf_sac_gru.py, in place of a value network and its target.
    with torch.no_grad():
        next_q = torch.minimum(*target(d[1:], x[1:], action[1:]))  # (T, B)
        next_value = next_q - alpha * log_prob[1:]
        y = batch.reward + args.gamma * (1 - batch.terminal) * next_value  # Eq. (4)
    q1, q2 = critic(d[:-1], x[:-1], batch.action)  # (T, B)
    q_loss = masked_mean((q1 - y) ** 2 + (q2 - y) ** 2, mask)  # Eq. (4)

    # The actor.
    q_policy = torch.minimum(*critic(d[:-1], x[:-1], action[:-1]))  # (T, B)
    actor_loss = masked_mean(alpha * log_prob[:-1] - q_policy, mask)  # Eq. (5)

    # Gradients: each loss reaches only the parameters that it is meant to train.
    # TRAP: one backward pass for both losses trains Q to like what the policy does.
    optimizer.zero_grad()
    q_loss.backward()
    actor_loss.backward(inputs=list(actor.parameters()))
    entropy = -masked_mean(log_prob[:-1].detach(), mask)
    (agent.log_alpha * (entropy + action.shape[-1])).backward()  # Eq. (6), target entropy -A
    scalars = {
        "losses/qf_loss": q_loss, "losses/q_data": masked_mean((q1 + q2) / 2, mask),
        "losses/target": masked_mean(y, mask), "losses/actor_loss": actor_loss,
        "losses/q_policy": masked_mean(q_policy, mask), "losses/entropy": entropy,
        "losses/alpha": alpha}
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
        """Draw windows, each from inside one episode, and the `burn_in` rows before each."""
        n_steps = self.index[:, 0]
        L = n_steps.max() if args.context_length == "full" else args.context_length
        # A window may begin before its episode, or end after it, so that no step is drawn less
        # often than others. DEVIATION: it is then moved inside; the authors' are part padding.
        ends = (n_steps + L - 1).cumsum()
        chosen = np.searchsorted(ends, rng.integers(ends[-1], size=args.batch_size), side="right")
        n = n_steps[chosen]
        start = rng.integers(1 - L, n).clip(0, (n - L).clip(0))
        T, K = min(L, n.max()), min(args.burn_in, start.max())
        t = start + np.arange(-K, T + 1)[:, None]  # (K+T+1, B)
        rows = np.stack([self.episodes[episode][t[:, b].clip(0, n[b])]
                         for b, episode in enumerate(chosen)], 1)  # (K+T+1, B)
        real, mask = (torch.from_numpy(np.float32(x)).to(device)
                      for x in (t[:K] >= 0, t[K:-1] < n))
        x = {name: torch.from_numpy(np.ascontiguousarray(rows[name], np.float32)).to(device)
             for name in rows.dtype.names}
        return Batch(torch.cat([x["obs"], x["prev_reward"].unsqueeze(-1)], -1), x["prev_action"],
                     real, *(x[name][K + 1 :] for name in ("prev_action", "prev_reward",
                                                           "terminal")), mask)

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
    rates = [group["lr"] for group in optimizer.param_groups]
    learn, learn_model = (speed.as_cuda_graph(f) if device.type == "cuda" else f
                          for f in (update, update_model))
    buffer = SequenceBuffer(env.row_type, args.total_timesteps)  # nothing is dropped
    run = Run(args, f"{args.policy} agent", env.lanes.reference_scores, agent=agent,
              optimizer=optimizer, buffer=buffer, rng=rng)  # --resume, --evaluate: brought back
    env_step, n_updates = run.env_step, run.n_updates

    def random_action(*_):
        return rng.uniform(-1, 1, (env.n, env.action_dim)).astype(np.float32), None

    if args.evaluate or env_step == 0:
        metrics = evaluate(eval_env, agent, args, last=args.evaluate)
    if env_step == 0:
        run.log(env_step, n_updates, metrics)
    while env_step < args.total_timesteps:
        # What is left of the learning, from 1 (more, before it starts) to 0: the rate follows it.
        left = (args.total_timesteps - env_step) / (args.total_timesteps - args.learning_starts)
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * min(1, left / args.anneal_lr if args.anneal_lr else 1)
        # Every lane plays an episode.
        act = agent.act if env_step >= args.learning_starts else random_action
        rows, n_steps, returns, _ = play(env, act, int(rng.integers(2**31)))
        buffer.add(rows, n_steps)
        env_step += int(n_steps.sum())
        # The first impression is made of random play, and kept.
        if agent.models and act is random_action and env_step >= args.learning_starts:
            for _ in range(args.first_updates):
                learn_model(agent, optimizer, buffer.sample(args, rng, device))
            # DEVIATION: the KLM goes on from there; the authors' is another one, and begins anew.
            for fim in agent.models[1:]:
                fim.load_state_dict(agent.models[0].state_dict())
        # The agent learns from the buffer, as many updates as are due by now.
        scalars = []
        while n_updates < int(args.updates_per_step * (env_step - args.learning_starts)):
            batch = buffer.sample(args, rng, device)
            if n_updates % args.model_frequency == 0 and agent.models:
                scalars.append(learn_model(agent, optimizer, batch))
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
    return train(parse_args(Args, "vrm", argv))


if __name__ == "__main__":
    main()
