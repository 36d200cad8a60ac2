"""Comparator: on-policy variBAD, PPO that is told a belief which is learnt by itself; and RL^2.

    python comparators/varibad_onpolicy.py --env-id CheetahDir-v0                    # the belief
    python comparators/varibad_onpolicy.py --env-id CheetahDir-v0 --algo rl2         # a memory
    python comparators/varibad_onpolicy.py --env-id CheetahDir-v0 --policy markov    # neither

The agent perceives, believes, acts:   o_t, a_{t-1}, r_{t-1}  ->  b_t  ->  a_t  ->  r_t, o_{t+1}
What is hidden is a task m, L numbers. After each step the belief of it is a Gaussian q_t, and it is
good if m tells all rewards of the episode, those to come and those that were: x_k, at any step k.

  (1) q_t   = N(mu_t, S_t), S_t diagonal         b_t = [mu_t, log S_t]         q_{-1} = N(0, 1)
  (2) J_VAE = mean_t  mean_k |x_k - decoder(m_t, k)|^2  +  kl_weight KL(q_t || q_{t-1})   m_t ~ q_t
  (3) A_t   = r_t + gamma (1 - terminated_t) V(o_{t+1}, b_{t+1}) - V(o_t, b_t) + gamma lambda A_t+1
  (4) J_pi  = mean_t  -min(ratio_t A_t, clip(ratio_t, 1 - eps, 1 + eps) A_t)
                ratio_t = pi(a_t | o_t, b_t) / pi_old(a_t | o_t, b_t)
  (5) J_V   = mean_t  (V(o_t, b_t) - (A_t + V_old(o_t, b_t)))^2

(2) alone trains the belief; to PPO, which trains actor and critic, it is a part of the observation.
`--algo rl2` has no (1), (2): b_t is the memory, and PPO trains it through the whole episode.

Shapes, time first: T steps of an episode, B episodes or N lanes, O observation, A action, H memory,
W belief: 2L numbers, with rl2 H; M times t. A trial of several episodes with one task is one
episode to all of this: advantages cross its inner boundary, where the authors' code cuts them.

variBAD: Zintgraf et al. 2020. RL^2: Duan et al. 2016. DEVIATION marks what differs from their code.
"""

import sys
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Independent, Normal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the house: envs, run, speed
import envs
import speed
from run import Amount, Count, Positive, Run, RunArgs, Share, grad_norm, mean_of, parse_args


# --- ARGUMENTS ------------------------------------------------------------------------------------
@dataclass
class Args(RunArgs):  # and the flags of a run, run.py. presets.toml: values per environment
    total_timesteps: Count = 5_000_000
    """env steps to play, counted over all lanes"""
    num_envs: Count = 32
    """lanes: episodes that are played side by side, and then learnt from: a round"""
    algo: Literal["varibad", "rl2"] = "varibad"
    """what PPO is told of the past: a belief of the hidden task, or a memory that it trains"""
    policy: Literal["recurrent", "markov", "oracle"] = "recurrent"
    """markov: no belief, only o_t; oracle: no belief, but the hidden state is in o_t"""
    inputs: Literal["o", "oa", "or", "oar"] = "oar"
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
    """hidden layers of the actor and of the critic"""
    embeddings: tuple[Count, Count, Count] = (32, 16, 16)
    """widths of the layers that embed observation, action and reward"""
    latent_dim: Count = 5
    """L, numbers that stand for the hidden task; a belief is as many means and log variances"""
    decode: Literal["reward", "obs"] = "reward"
    """what a belief must tell of every step; obs: the next one, where rewards do not give m away"""
    elbo_terms: Count = 8
    """M, how many times t of each episode are decoded from, drawn anew for each update"""
    kl_weight: Amount = 0.02
    """weight of nats that a belief moves in a step; 0.02: theirs, 0.1 * 10 against a sum of 50"""
    buffer_size: Count = 30
    """rounds that the belief learns from, the newest"""
    vae_updates: Count = 16
    """updates of the belief per round"""
    init_std: Positive = 1.0
    """deviation of the actions at first; less where wild actions cost more than a fall"""
    update_epochs: Count = 10
    """times that PPO learns from each round"""
    batch_size: Count = 8
    """episodes per gradient step, of PPO and of the belief"""
    gamma: Share = 0.99
    """discount, 0 to 1"""
    gae_lambda: Share = 0.95
    """lambda of the advantages, 0 to 1"""
    clip_coef: Positive = 0.2
    """a ratio is clipped at 1 plus and minus this"""
    ent_coef: Amount = 0.0
    """weight of the entropy bonus"""
    vf_coef: Amount = 0.125
    """weight of the critic's loss; with rl2 both losses train one memory"""
    learning_rate: Positive = 1e-3
    """Adam's learning rate"""
    anneal_lr: Share = 1.0
    """last share of the run, 0 to 1, in which the learning rate falls to 0; 0: constant"""


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
    """b_t: a belief, or with rl2 a memory; pi(a_t | o_t, b_t): a Gaussian; and V(o_t, b_t)."""

    def __init__(self, obs_dim, action_dim, args):
        super().__init__()
        self.believes = args.algo == "varibad"
        if self.believes:
            self.vae = VAE(obs_dim, action_dim, args)
        else:
            self.encoder = Encoder(obs_dim, action_dim, args)
        self.width = self.vae.width if self.believes else self.encoder.H  # W
        widths = obs_dim + self.width, *args.hidden_sizes
        self.actor = tanh_mlp(*widths, action_dim, gain=0.01)
        self.critic = tanh_mlp(*widths, 1, gain=1)
        self.log_std = nn.Parameter(torch.full((action_dim,), float(np.log(args.init_std))))
        self.norm, self.return_norm = RunningNorm(widths[0]), RunningNorm()

    def see(self, obs, prev_action, prev_reward, h=None):
        """(T, N, O), (T, N, A), (T, N) -> [o_t, b_t] (T, N, O + W); h for the next call."""
        # TRAP: the memory is fed the action that was played, clipped, as the lanes do it.
        net = self.vae if self.believes else self.encoder
        b, h = net(obs, prev_action.clamp(-1, 1), prev_reward, h)
        b = b.detach() if self.believes else b  # what PPO wants does not reach a belief
        return torch.cat([obs, b], -1), h

    def forward(self, seen):
        """seen (..., O + W) -> distribution of actions (..., A), value (...)."""
        x = self.norm(seen)
        gaussian = Normal(self.actor(x), self.log_std.exp(), validate_args=False)
        return Independent(gaussian, 1, validate_args=False), self.critic(x).squeeze(-1)

    @torch.no_grad()
    def act(self, obs, prev_action, prev_reward, h, deterministic=False):
        """One step in n lanes, NumPy in and out: obs (n, O) ... -> action (n, A), memory."""
        seen, h = self.see(*(torch.as_tensor(x, device=self.log_std.device)[None]
                             for x in (obs, prev_action, prev_reward)), h)  # (1, n, O + W)
        policy, _ = self(seen)
        # TRAP: the lanes clip it for the env, but its density is that of the unclipped action.
        return (policy.mode if deterministic else policy.sample())[0].cpu().numpy(), h


# --- LOSSES AND UPDATE ----------------------------------------------------------------------------
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
    # DEVIATION: M times t of each episode, all of its steps k; theirs draws 50 of both. Same mean.
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


def masked_mean(x, mask):
    return (x * mask).sum() / mask.sum().clamp(min=1)


@torch.no_grad()
def learnable(agent, x, args):
    """x: a round, as `tensors` gives it -> what PPO learns from: seen (T, N, O + W), log_prob,
    advantage and target (T, N). No network changed since, so that one pass gives the beliefs and
    densities that acting had."""
    seen, _ = agent.see(x["obs"], x["prev_action"], x["prev_reward"])  # (T+1, N, O + W)
    policy, value = agent(seen)
    log_prob = policy.log_prob(x["prev_action"].roll(-1, 0))[:-1]  # a_t is in row t+1
    reward, terminal, mask = x["prev_reward"][1:], x["terminal"][1:], x["mask"]  # (T, N)
    discounted = torch.stack([*accumulate(reward, lambda so_far, r: args.gamma * so_far + r)])
    agent.return_norm.update(discounted[mask > 0])
    # The row behind the last step holds the true last observation, and the belief there: its value
    # is what a truncated episode bootstraps from. DEVIATION: theirs takes the last step's own.
    delta = agent.return_norm.scale(reward) + args.gamma * (1 - terminal) * value[1:] - value[:-1]
    a = [torch.zeros_like(delta[0])]
    for delta_t, mask_t in zip(delta.flip(0), mask.flip(0)):
        a.append(mask_t * (delta_t + args.gamma * args.gae_lambda * a[-1]))  # Eq. (3)
    advantage = torch.stack(a[:0:-1])  # the last came first; 0 behind the end
    return seen[:-1], log_prob, advantage, advantage + value[:-1]


def update(agent, optimizer, x, args, rng):
    """All gradient steps of PPO on one round. Yields a dict of scalars for each, detached."""
    seen, old_log_prob, a, target = learnable(agent, x, args)
    action, mask, n = x["prev_action"][1:], x["mask"], args.num_envs
    mean = masked_mean(a, mask)
    a = (a - mean) / (masked_mean((a - mean) ** 2, mask).sqrt() + 1e-8)
    # TRAP: agent.parameters() would count gradients that the last update of the VAE left behind.
    (learnt,) = (group["params"] for group in optimizer.param_groups)
    for _ in range(args.update_epochs):
        for lanes in np.split(rng.permutation(n), range(args.batch_size, n, args.batch_size)):
            s, m = seen[:, lanes], mask[:, lanes]  # (T, n, O + W), (T, n)
            if not agent.believes:  # not as it was remembered then: as today, with a gradient
                s, _ = agent.see(*(x[k][:-1, lanes] for k in ("obs", "prev_action", "prev_reward")))
            policy, value = agent(s)
            log_ratio = policy.log_prob(action[:, lanes]) - old_log_prob[:, lanes]
            ratio = log_ratio.exp()
            clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
            gain = torch.minimum(ratio * a[:, lanes], clipped * a[:, lanes])
            pi_loss = -masked_mean(gain, m)  # Eq. (4)
            # DEVIATION: theirs is clipped, and a Huber loss.
            v_loss = masked_mean((value - target[:, lanes]) ** 2, m)  # Eq. (5)
            entropy = masked_mean(policy.entropy(), m)
            optimizer.zero_grad()
            (pi_loss + args.vf_coef * v_loss - args.ent_coef * entropy).backward()
            scalars = {
                "losses/policy_loss": pi_loss, "losses/value_loss": v_loss,
                "losses/value": masked_mean(value, m), "losses/entropy": entropy,
                "losses/approx_kl": masked_mean(ratio - 1 - log_ratio, m),
                "losses/clipfrac": masked_mean((ratio != clipped).float(), m)}
            if not agent.believes:
                scalars["grads/encoder"] = grad_norm(agent.encoder)
            nn.utils.clip_grad_norm_(learnt, 0.5)
            optimizer.step()
            yield {name: value.detach() for name, value in scalars.items()}
    agent.norm.update(seen[mask > 0])  # only now: learning sees what acting saw


# --- SEQUENCE BUFFER ------------------------------------------------------------------------------
def tensors(rows, n_steps, device):
    """rows (T+1, B), n_steps (B,) -> dict: obs (T+1, B, O), prev_action (T+1, B, A); prev_reward,
    terminal (was step t-1?) (T+1, B); mask (T, B). An episode of 5 steps has 6 rows:

        row        0    1    2    3    4    5       Row t is perceived at step t; what step t did
        o_t       o_0  o_1  o_2  o_3  o_4  o_5      and earned is in row t+1. mask (T, B): 1 for a
        a_{t-1}    0   a_0  a_1  a_2  a_3  a_4      step, 0 for padding behind the end."""
    x = {name: rows[name] for name in rows.dtype.names}
    x["mask"] = np.arange(len(rows) - 1)[:, None] < n_steps
    return {name: torch.from_numpy(values.astype(np.float32, order="C")).to(device)
            for name, values in x.items()}


class RoundBuffer:
    """The newest rounds, for the belief; a batch is episodes of one of them."""

    def __init__(self, size):
        self.size, self.rounds = size, []  # each as `tensors` gives it

    def add(self, x):
        self.rounds = [*self.rounds, x][-self.size :]

    def sample(self, n, rng, device):
        # DEVIATION: theirs draws each episode from all rounds.
        x = self.rounds[rng.integers(len(self.rounds))]
        lanes = rng.permutation(x["mask"].shape[1])[:n]
        return {name: values[:, lanes].to(device) for name, values in x.items()}

    def state_dict(self):
        return {"rounds": self.rounds}

    def load_state_dict(self, state):
        self.rounds = state["rounds"]


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
        success = info.get("is_goal", info.get("is_success", np.full(self.n, np.nan)))
        return self._see(obs), reward, terminated, terminated | truncated, success


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
    rng = np.random.default_rng(args.seed)  # minibatches, and the seeds of the episodes
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    env, eval_env = POMDP(args, args.num_envs), POMDP(args, args.eval_episodes, "heldout")
    video_env = POMDP(args, 1, "heldout", film=True) if args.capture_video else None
    agent = Agent(env.obs_dim, env.action_dim, args).to(device)
    buffer = RoundBuffer(args.buffer_size)
    # Two optimizers, so that neither loss can move what the other one trains.
    of_ppo = [p for name, p in agent.named_parameters() if not name.startswith("vae.")]
    optimizers = {"optimizer": torch.optim.Adam(of_ppo, eps=1e-5, fused=True)}
    if agent.believes:
        optimizers["vae_optimizer"] = torch.optim.Adam(agent.vae.parameters(), fused=True)
    run = Run(args, f"{args.policy} agent, {args.algo}", env.lanes.reference_scores, agent=agent,
              rng=rng, buffer=buffer, **optimizers)  # --resume, --evaluate: brought back
    env_step, n_updates = run.env_step, run.n_updates

    if args.evaluate or env_step == 0:
        metrics = evaluate(eval_env, agent, args, last=args.evaluate)
    if env_step == 0:
        run.log(env_step, n_updates, metrics)
    while env_step < args.total_timesteps:
        left = (args.total_timesteps - env_step) / args.total_timesteps  # from 1 to 0
        rate = args.learning_rate * min(1, left / args.anneal_lr if args.anneal_lr else 1)
        for optimizer in optimizers.values():
            optimizer.param_groups[0]["lr"] = rate
        # Every lane plays an episode, a whole trial, with today's beliefs.
        rows, n_steps, returns, _ = play(env, agent.act, int(rng.integers(2**31)))
        env_step += int(n_steps.sum())
        x = tensors(rows, n_steps, device)
        # PPO learns from this round alone.
        scalars = list(update(agent, optimizers["optimizer"], x, args, rng))
        n_updates += len(scalars)
        # The belief learns from rounds before, too.
        if agent.believes and agent.width:
            buffer.add(x | {"prev_action": x["prev_action"].clamp(-1, 1)})
            scalars += [update_belief(agent, optimizers["vae_optimizer"], buffer.sample(
                args.batch_size, rng, device), args) for _ in range(args.vae_updates)]
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
    return train(parse_args(Args, "varibad_onpolicy", argv))


if __name__ == "__main__":
    main()
