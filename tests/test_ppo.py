"""What is true of segments, advantages, losses and the memory of the on-policy baseline."""

import gymnasium as gym
import numpy as np
import pytest
import torch
import toy_envs  # noqa: F401  (registers the ids)
from conftest import numbers

import ppo_gru_baseline as ppo

SMALL = dict(rnn_size=8, hidden_sizes=(8, 8), embeddings=(4, 3, 2), inputs="oar")
every_rnn = pytest.mark.parametrize("rnn", ["gru", "lstm"])


class CountEnv(gym.Env):
    """Counts its steps: the observation is 10 * lane + t, the reward t. An episode ends after
    `last` steps: terminated if `last` is odd, else truncated."""

    lanes = 0

    def __init__(self):
        self.observation_space = gym.spaces.Box(-1, 1000, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(3, start=5)
        self.lane = CountEnv.lanes
        CountEnv.lanes += 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.last = 0, 2 + self.lane
        return np.array([10.0 * self.lane], np.float32), {}

    def step(self, action):
        assert action in self.action_space
        self.t += 1
        end = self.t == self.last
        odd = self.last % 2 == 1
        return (np.array([10.0 * self.lane + self.t], np.float32), float(self.t), end and odd,
                end and not odd, {})


gym.register("Count-v0", entry_point=CountEnv)


@pytest.fixture
def lanes():
    """-> function: flags -> lanes of Count-v0 (lane 0 is truncated after 2 steps, lane 1 terminates
    after 3) and an agent."""

    def make(**fields):
        CountEnv.lanes = 0
        args = ppo.Args(**SMALL | dict(env_id="Count-v0", num_envs=2, num_steps=9, norm_obs=False,
                                       norm_reward=False, num_minibatches=1) | fields)
        env = ppo.POMDP(args, 2)
        torch.manual_seed(0)
        agent = ppo.Agent(env.obs_dim, env.action_dim, env.lanes.discrete, args)
        with torch.no_grad():
            for p in agent.parameters():
                p.uniform_(-0.5, 0.5)
        result = ppo.Lanes(env, args, "cpu")
        result.reset(seed=0)
        return result, agent, args

    return make


# --- SEGMENTS -------------------------------------------------------------------------------------


def test_a_segment_holds_the_true_last_observations_and_marks_where_episodes_start(lanes):
    play, agent, _ = lanes()
    segment, finished = play.play(agent)
    # rows:  start  .  end | start ...
    raw = [[0, 1, 2, 0, 1, 2, 0, 1, 2, 0], [10, 11, 12, 13, 10, 11, 12, 13, 10, 11]]
    assert segment.obs[..., 0].T.tolist() == raw
    assert segment.first.T.tolist() == [
        [1, 0, 0, 1, 0, 0, 1, 0, 0, 1], [1, 0, 0, 0, 1, 0, 0, 0, 1, 0]]
    assert segment.mask.T.tolist() == [[1, 1, 0, 1, 1, 0, 1, 1, 0], [1, 1, 1, 0, 1, 1, 1, 0, 1]]
    assert segment.ended.T.tolist() == [[0, 1, 0, 0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0, 1, 0, 0]]
    assert segment.terminal[:, 0].tolist() == [0] * 9  # lane 0 is only ever truncated
    assert segment.terminal[:, 1].tolist() == [0, 0, 1, 0, 0, 0, 1, 0, 0]
    assert segment.prev_reward.T.tolist() == [
        [0, 1, 2, 0, 1, 2, 0, 1, 2, 0], [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]]
    assert finished == [(3, 2), (6, 3), (3, 2), (6, 3), (3, 2)]  # return, length
    # The action is fed to the memory one row later, except where an episode starts.
    fed, taken = segment.prev_action[1:], segment.action
    torch.testing.assert_close(fed, taken * segment.mask[..., None])


def test_rewards_are_scaled_by_the_returns_of_real_steps_alone(lanes):
    play, agent, args = lanes(norm_reward=True, gamma=0.5)
    segment, _ = play.play(agent)
    assert agent.return_norm.count == segment.mask.sum() == 13
    seen = [1, 2.5, 1, 2.5, 1, 2.5, 1, 2.5, 4.25, 1, 2.5, 4.25, 1]  # r_t + gamma (what was before)
    assert agent.return_norm.mean == pytest.approx(np.mean(seen))
    assert agent.return_norm.var == pytest.approx(np.var(seen))


def test_a_segment_goes_on_where_the_last_one_stopped(lanes):
    play, agent, _ = lanes(num_steps=4)
    (one, _), (two, _) = play.play(agent), play.play(agent)
    for name in ("obs", "prev_action", "prev_reward", "first", "value"):
        torch.testing.assert_close(getattr(one, name)[-1], getattr(two, name)[0])
    assert two.h[0].abs().sum() > 0 and one.h == (None, None)


def test_a_goal_is_a_success_but_no_end():
    env = ppo.POMDP(ppo.Args(env_id="ClockGoal-v0"), 2)  # in the goal at step 2
    env.reset(seed=1)  # lane 10 has 4 steps and terminates, lane 11 has 5 and is truncated
    steps = [env.step(np.zeros((2, 2), np.float32))[2:] for _ in range(5)]
    terminal, ended, success = np.array(steps, float).transpose(1, 0, 2)
    assert success[:4, 0].tolist() == [0, 1, 0, 0] and terminal[:4, 0].tolist() == [0, 0, 0, 1]
    assert terminal[:, 1].tolist() == [0, 0, 0, 0, 0] and ended[:, 1].tolist() == [0, 0, 0, 0, 1]


@every_rnn
@pytest.mark.parametrize("policy", ["recurrent", "markov"])
def test_learning_sees_the_densities_and_values_that_acting_saw(rnn, policy, lanes):
    play, agent, args = lanes(rnn=rnn, policy=policy, num_steps=7)
    play.play(agent)
    segment, _ = play.play(agent)  # starts in the middle of episodes
    policy, value, _ = agent(*(x[:-1] for x in segment[:4]), segment.h)
    torch.testing.assert_close(policy.log_prob(segment.action), segment.log_prob)
    torch.testing.assert_close(value, segment.value[:-1])


@every_rnn
def test_no_memory_leaks_from_one_episode_into_the_next(rnn, lanes):
    _, agent, _ = lanes(rnn=rnn)
    torch.manual_seed(0)
    rows = [torch.randn(8, 2, 1), torch.randn(8, 2, 3), torch.randn(8, 2)]
    first = torch.zeros(8, 2)
    first[0], first[3, 0], first[5, 1] = 1, 1, 1
    out, h = ppo.remember(agent.actor.encoder, *rows, first, None)
    alone, h_alone = ppo.remember(agent.actor.encoder, *(x[3:, :1] for x in rows), first[3:, :1],
                                  None)
    torch.testing.assert_close(out[3:, :1], alone)
    rows[0][2, 0] += 1  # the end of the first episode of lane 0
    changed = (ppo.remember(agent.actor.encoder, *rows, first, None)[0] != out).any(-1)
    assert changed[:, 0].tolist() == [False, False, True] + [False] * 5 and not changed[:, 1].any()


def test_the_rnn_is_called_once_for_each_stretch_without_a_start(lanes, monkeypatch):
    _, agent, _ = lanes()
    calls = []
    forward = ppo.Encoder.forward
    monkeypatch.setattr(ppo.Encoder, "forward", lambda self, obs, *rest: (
        calls.append(len(obs)) or forward(self, obs, *rest)))
    first = torch.zeros(50, 2)
    first[20, 1] = 1
    rows = [torch.randn(50, 2, 1), torch.randn(50, 2, 3), torch.randn(50, 2)]
    ppo.remember(agent.actor.encoder, *rows, first, None)
    assert calls == [20, 30]


# --- ADVANTAGES AND LOSSES ------------------------------------------------------------------------


def test_advantages_are_those_computed_by_hand():
    # gamma 1/2, lambda 1/2; lane 0 terminates at step 1, lane 1 is truncated there, lane 2 goes on.
    value = torch.tensor([[10.0, 20, 40, 80]]).T.repeat(1, 3)  # (T+1, N)
    reward, zero = torch.tensor([[1.0, 2, 4]]).T.repeat(1, 3), torch.zeros(3, 3)
    terminal, ended = zero.clone(), zero.clone()
    terminal[1, 0] = ended[1, 0] = ended[1, 1] = 1
    none = [torch.zeros(4, 3)] * 4
    segment = ppo.Segment(*none, value, None, None, reward, terminal, ended, torch.ones(3, 3), None)
    a = ppo.advantages(segment, ppo.Args(gamma=0.5, gae_lambda=0.5))
    last = 4 + 80 / 2 - 40
    expected = [[1 + 20 / 2 - 10 + (2 - 20) / 4, 2 - 20, last],
                [1 + 20 / 2 - 10 + (2 + 40 / 2 - 20) / 4, 2 + 40 / 2 - 20, last],
                [1 + 20 / 2 - 10 + (2 + last / 4) / 4, 2 + last / 4, last]]
    assert a.T.tolist() == expected


class Said(torch.nn.Module):
    """An agent in one lane that says the same at each step, whatever it perceives."""

    def __init__(self, ratio, value, entropy):
        super().__init__()
        self.log_ratio = torch.nn.Parameter(torch.tensor(ratio).log()[:, None])  # (T, 1)
        self.value = torch.nn.Parameter(torch.tensor(value)[:, None])
        self.spread = torch.nn.Parameter(torch.tensor(entropy)[:, None])
        self.actor = self.critic = torch.nn.ModuleDict({"encoder": torch.nn.Module()})

    def forward(self, *_):
        return self, self.value, None

    def log_prob(self, action):
        return self.log_ratio

    def entropy(self):
        return self.spread


def test_losses_are_those_computed_by_hand():
    """Four steps and one that is none. With gamma = 0 and nothing valued before, the advantages are
    the rewards, and 1 and -1 once their mean 2 is subtracted; the targets are the rewards."""
    agent = Said(ratio=[1.5, 1.5, 0.5, 1, 9], value=[1.0, 2, 3, 4, 99], entropy=[1.0, 2, 3, 4, 9])
    reward, none = torch.tensor([[3.0, 1, 3, 1, 99]]).T, torch.zeros(5, 1)
    rows = [torch.zeros(6, 1, 1)] * 2 + [torch.zeros(6, 1)] * 3
    segment = ppo.Segment(*rows, none[..., None], none, reward, none, none,
                          torch.tensor([[1.0, 1, 1, 1, 0]]).T, (None, None))
    args = ppo.Args(num_envs=1, num_minibatches=1, update_epochs=1, gamma=0.0, clip_coef=0.25,
                    ent_coef=0.1, vf_coef=0.5, max_grad_norm=1e9)
    optimizer = torch.optim.SGD(agent.parameters(), 0.0)
    (scalars,) = ppo.update(agent, optimizer, segment, args, np.random.default_rng(0))
    ratio = np.array([1.5, 1.5, 0.5, 1])
    expected = {"policy_loss": -(1.25 - 1.5 + 0.5 - 1) / 4, "value_loss": (4 + 1 + 0 + 9) / 4,
                "value": 2.5, "entropy": 2.5, "clipfrac": 3 / 4,
                "approx_kl": (ratio - 1 - np.log(ratio)).mean()}
    assert {k: scalars[f"losses/{k}"].item() for k in expected} == pytest.approx(expected, rel=1e-5)
    # No gradient where the clip says so: the first would have gained by it, the second not.
    for parameter, grad in ((agent.log_ratio, [0, 1.5 / 4, -0.5 / 4, 1 / 4, 0]),
                            (agent.value, [-2 / 4, 1 / 4, 0, 3 / 4, 0]),
                            (agent.spread, [-0.1 / 4] * 4 + [0])):
        assert parameter.grad.flatten().tolist() == pytest.approx(grad, rel=1e-4)


def test_a2c_is_ppo_with_one_epoch_and_one_minibatch(lanes):
    """Its gradient is that of -log pi A: the ratio is 1, nothing is clipped."""
    play, agent, args = lanes(update_epochs=1, vf_coef=0.0, max_grad_norm=1e9)
    segment, _ = play.play(agent)
    optimizer = torch.optim.SGD(agent.parameters(), 0.0)
    scalars = list(ppo.update(agent, optimizer, segment, args, np.random.default_rng(0)))
    assert len(scalars) == 1 and scalars[0]["losses/clipfrac"] == 0
    assert scalars[0]["losses/approx_kl"].abs() < 1e-6
    by_ppo = [p.grad.clone() for p in agent.actor.parameters()]
    a, mask = ppo.advantages(segment, args), segment.mask
    real = a[mask.bool()]
    a = (a - real.mean()) / (real.std(correction=0) + 1e-8)
    optimizer.zero_grad()
    policy, _, _ = agent(*(x[:-1] for x in segment[:4]), segment.h)
    (-(policy.log_prob(segment.action) * a * mask).sum() / mask.sum()).backward()
    for ours, book in zip(by_ppo, agent.actor.parameters()):
        torch.testing.assert_close(ours, book.grad, rtol=1e-4, atol=1e-6)


def test_the_first_ratio_is_that_of_the_policy_that_has_acted(lanes):
    play, agent, args = lanes(update_epochs=2, num_minibatches=2)
    play.play(agent)
    segment, _ = play.play(agent)  # starts in the middle of episodes
    optimizer = torch.optim.SGD(agent.parameters(), 0.1)
    first, *later = ppo.update(agent, optimizer, segment, args, np.random.default_rng(0))
    assert first["losses/first_ratio_error"] < 1e-5
    assert len(later) == 3 and not any("losses/first_ratio_error" in scalars for scalars in later)
    wrong = segment._replace(h=(None, None))
    first, *_ = ppo.update(agent, optimizer, wrong, args, np.random.default_rng(0))
    assert first["losses/first_ratio_error"] > 1e-3


def test_what_is_no_step_changes_no_gradient(lanes):
    play, agent, args = lanes(update_epochs=1)
    segment, _ = play.play(agent)
    hidden = ~segment.mask.bool()
    dirty = segment._replace(
        reward=segment.reward.masked_fill(hidden, 1e3),
        log_prob=segment.log_prob.masked_fill(hidden, -3.0),
        action=torch.where(hidden[..., None], segment.action.flip(-1), segment.action))
    grads = []
    for s in (segment, dirty):
        optimizer = torch.optim.SGD(agent.parameters(), 0.0)
        list(ppo.update(agent, optimizer, s, args, np.random.default_rng(0)))
        grads.append([p.grad.clone() for p in agent.parameters()])
    torch.testing.assert_close(*grads)


def test_every_lane_is_learnt_from_once_in_an_epoch(lanes, monkeypatch):
    play, agent, args = lanes(update_epochs=3, num_minibatches=2)
    segment, _ = play.play(agent)
    seen, forward = [], ppo.Agent.forward
    monkeypatch.setattr(ppo.Agent, "forward", lambda self, obs, *rest: (
        seen.append(obs) or forward(self, obs, *rest)))
    scalars = list(ppo.update(agent, torch.optim.SGD(agent.parameters(), 0.0), segment, args,
                              np.random.default_rng(0)))
    assert len(scalars) == 6 and [x.shape for x in seen] == [(9, 1, 1)] * 6  # whole, time intact
    chosen = [int(x[0, 0, 0] >= 10) for x in seen]  # lane 1 shows 10 and more
    assert all(sorted(chosen[i : i + 2]) == [0, 1] for i in (0, 2, 4))
    for x, lane in zip(seen, chosen):
        assert torch.equal(x[:, 0], segment.obs[:-1, lane])


# --- NORMALISATION AND ACTIONS --------------------------------------------------------------------


def test_the_running_norm_knows_mean_and_variance_of_all_it_saw():
    norm, g = ppo.RunningNorm(3), torch.Generator().manual_seed(0)
    parts = [5 + 3 * torch.randn(n, 3, generator=g) for n in (1, 7, 40)]
    for part in parts:
        norm.update(part)
    whole = torch.cat(parts).double()
    torch.testing.assert_close(norm.mean, whole.mean(0))
    torch.testing.assert_close(norm.var, whole.var(0, correction=0))
    normal = norm(torch.cat(parts))
    assert normal.mean().abs() < 1e-5 and (normal.std() - 1).abs() < 0.05
    assert norm(torch.full((1, 3), 1e9)).tolist() == [[10, 10, 10]]


def test_evaluation_leaves_the_norms_alone(lanes):
    play, agent, args = lanes(norm_obs=True, norm_reward=True)
    play.play(agent)
    before = {k: v.clone() for k, v in agent.state_dict().items() if "norm" in k}
    assert before["obs_norm.count"] == 18 and before["return_norm.count"] == 13
    ppo.evaluate(play.env, agent, args)
    assert all(torch.equal(v, agent.state_dict()[k]) for k, v in before.items())


def test_acting_and_evaluating_see_normalised_observations(lanes):
    play, agent, args = lanes(norm_obs=True)
    raw = np.array([[3.0], [14.0]], np.float32)
    past = np.zeros((2, 3), np.float32), np.zeros(2, np.float32)
    agent.obs_norm.mean[:], agent.obs_norm.var[:], agent.obs_norm.count = 5, 4, torch.tensor(9.0)
    policy, _, _ = agent(torch.tensor((raw - 5) / 2)[None], *(torch.tensor(x)[None] for x in past),
                         torch.zeros(1, 2), (None, None))
    seen = []
    agent.forward = lambda obs, *rest: seen.append(obs) or ppo.Agent.forward(agent, obs, *rest)
    action, _ = agent.act(raw, *past, None, deterministic=True)
    np.testing.assert_array_equal(action, policy.mode[0])
    torch.testing.assert_close(seen[0][0], torch.tensor([[-1.0], [4.5]]))
    seen.clear()
    ppo.evaluate(play.env, agent, args)
    torch.testing.assert_close(seen[0][0], torch.tensor([[-2.5], [2.5]]))  # 0 and 10, the starts


def test_lanes_go_on_over_evaluations(tmp_path):
    """Episodes of 10 steps, segments of 6: with lanes that start anew at each of them none ends."""
    folder = ppo.main(
        "--env-id PendulumShort-v0 --num-envs 2 --total-timesteps 240 --eval-interval 12"
        " --eval-episodes 2 --num-steps 6 --num-minibatches 1 --update-epochs 1 --rnn-size 8"
        f" --hidden-sizes 8 --runs-dir {tmp_path}".split())
    assert len(numbers(folder, "eval/return_mean")) > 15
    length = numbers(folder, "charts/episodic_length")
    assert len(length) > 8 and (length == 10).all()


def test_a_continuous_action_is_clipped_for_the_env_but_not_for_its_density():
    args = ppo.Args(**SMALL)
    agent = ppo.Agent(1, 2, False, args)
    policy, _, _ = agent(torch.zeros(1, 4, 1), torch.zeros(1, 4, 2), torch.zeros(1, 4),
                         torch.ones(1, 4), (None, None))
    action = torch.full((1, 4, 2), 3.0)
    assert agent.playable(action).max() == 1
    torch.testing.assert_close(policy.log_prob(action), policy.base_dist.log_prob(action).sum(-1))


# --- LEARNING -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_memory_balances_the_pole_that_shows_only_positions(seed, tmp_path):
    """>= 195 of 200 with memory, under half without. (With velocities none is needed.)"""
    score = {}
    for policy in ("recurrent", "markov"):
        folder = ppo.main(["--env-id", "CartPole-P-v0", "--policy", policy, "--seed", str(seed),
                           "--total-timesteps", "60000", "--runs-dir", str(tmp_path)])
        score[policy] = numbers(folder, "eval/return_mean")[-1]
    assert score["recurrent"] >= 195 and score["markov"] < 100
