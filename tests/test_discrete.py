"""What is true of discrete SAC's own parts: pictures, losses over all actions, memory for credit
without memory for control. The rest is rmf_sac_gru.py's, text for text."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
import toy_envs  # noqa: F401  (registers the ids)
from conftest import numbers

import envs
import rmf_sac_discrete_pixels as script

SMALL = dict(rnn_size=8, hidden_sizes=(8, 8), embeddings=(6, 3, 2))
VECTOR = SimpleNamespace(obs_dim=3, action_dim=4, lanes=SimpleNamespace(
    is_picture=False, obs_shape=(3,), obs_dtype=np.float32))
every_rnn = pytest.mark.parametrize("rnn", ["gru", "lstm"])


def make_agent(args, env=VECTOR, seed=0):
    torch.manual_seed(seed)
    return script.Agent(env, args)


@pytest.fixture
def batch(make_batch):
    """Random sequences with one-hot actions."""
    batch = make_batch(action_dim=4)
    one_hot = torch.nn.functional.one_hot(batch.prev_action.argmax(-1), 4).float()
    one_hot = one_hot * (batch.prev_action != 0).any(-1, keepdim=True)
    return batch._replace(prev_action=one_hot, action=one_hot[1:])


def make_env(env_id, n=2, **fields):
    return script.POMDP(script.Args(env_id=env_id, **fields), n)


# --- PICTURES -------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id, shape", [
    ("Picture-v0", (3, 8, 9)), ("PictureFirst-v0", (2, 8, 9)), ("PictureGrey-v0", (1, 8, 9))])
def test_a_picture_is_seen_with_its_channels_first_and_stays_bytes(env_id, shape):
    env = make_env(env_id)
    assert env.lanes.is_picture and env.lanes.obs_shape == shape
    assert env.obs_dim == np.prod(shape)
    obs = env.reset(seed=0)
    assert obs.dtype == np.uint8 and obs.shape == (2, env.obs_dim)
    obs = env.step(np.eye(3)[[2, 0]])[0].reshape(2, *shape)  # actions 3 and 1
    channels = [0, 100, 200] if shape[0] == 3 else [0] * shape[0]
    for c, value in enumerate(channels):
        assert (obs[0, c] == value + 13).all() and (obs[1, c] == value + 11).all()


def test_rows_in_the_buffer_hold_bytes_and_come_back_as_they_were():
    env = make_env("Picture-v0")
    rows, n_steps, *_ = script.play(
        env, lambda *_: (np.eye(3, dtype=np.float32)[[1, 1]], None), seed=0)
    args = script.Args(context_length="full", batch_size=4, rewarded_fraction=0.0)
    buffer, again = (script.SequenceBuffer(env.row_type, 100) for _ in range(2))
    buffer.add(rows, n_steps)
    n_bytes = 3 * 8 * 9 + 4 * 3 + 4 + 1  # picture, one-hot action, reward, terminal
    assert env.row_type.itemsize == n_bytes
    assert sum(episode.nbytes for episode in buffer.episodes) == 2 * 5 * n_bytes
    again.load_state_dict(buffer.state_dict())  # as --resume does
    for b in buffer, again:
        batch = b.sample(args, np.random.default_rng(0), "cpu")
        assert batch.obs.dtype == torch.float32
        for t in range(5):
            expected = np.repeat([0, 100, 200], 72) + 10 * t + 2 * (t > 0)
            np.testing.assert_array_equal(batch.obs[t], np.tile(expected, (4, 1)))
        assert batch.action.argmax(-1).unique().tolist() == [1]
        assert batch.reward[:, 0].tolist() == [1, 2, 3, 4] and batch.terminal[-1].all()


def test_a_million_steps_of_key_to_door_take_less_than_a_gigabyte():
    env = make_env("KeyToDoor-v0")
    assert env.row_type.itemsize * 1e6 * 86 / 85 < 1e9


@pytest.mark.parametrize("env_id, layers", [
    ("Picture-v0", ["Conv2d(3, 8, k2 s1)", "Conv2d(8, 16, k2 s1)", "672"]),
    ("DelayedCatch5-v0", ["Conv2d(1, 8, k2 s1)", "Conv2d(8, 16, k2 s1)", "400"]),
    ("KeyToDoor-v0", ["Conv2d(3, 8, k2 s1)", "Conv2d(8, 16, k2 s1)", "144"]),
    ("PictureLarge-v0", ["Conv2d(3, 32, k8 s4)", "Conv2d(32, 64, k4 s2)", "Conv2d(64, 64, k3 s1)",
                         "1280"]),
    ("CartPole-V-v0", ["2"])])
def test_the_encoder_is_chosen_by_the_size_of_the_picture(env_id, layers):
    env = make_env(env_id)
    encoder = script.make_obs_encoder(env, script.Args(embeddings=(100, 8, 8)))
    seen = [f"Conv2d({m.in_channels}, {m.out_channels}, k{m.kernel_size[0]} s{m.stride[0]})"
            if isinstance(m, torch.nn.Conv2d) else str(m.in_features)
            for m in encoder.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    assert seen == layers
    obs = torch.as_tensor(env.reset(seed=0), dtype=torch.float32)
    assert encoder(obs).shape == (2, 100)


@pytest.mark.parametrize("scaled", [True, False])
def test_what_a_fruit_changes_in_the_embedding_does_not_get_lost(scaled):
    """Two of 49 pixels are lit. Scaled, moving them moves what the memory is fed by about as much
    as a standard normal input would; as torch starts the layers it is a fiftieth of that."""
    torch.manual_seed(0)
    env, rng = make_env("DelayedCatch5-v0", 500), np.random.default_rng(0)
    encoder = script.make_obs_encoder(env, script.Args(paper=not scaled))
    rows = script.play(env, lambda *_: (np.eye(3)[rng.integers(3, size=500)], None), seed=0)[0]
    obs = torch.tensor(rows["obs"][:-1].copy()).flatten(0, 1)
    change = encoder(obs).std(0).mean()
    assert 0.5 < change < 2 if scaled else change < 0.05
    assert torch.allclose(encoder(obs * 0.1), encoder(obs), atol=1e-3) == scaled  # a faint picture


@pytest.mark.parametrize("dtype, largest", [(np.uint8, 255), (np.float32, 1)])
def test_bytes_are_divided_by_255_and_other_pictures_are_not(dtype, largest):
    """Vectors of bytes as well, such as the RAM of a console."""
    for is_picture in (True, False):
        env = SimpleNamespace(obs_dim=48, action_dim=2, lanes=SimpleNamespace(
            is_picture=is_picture, obs_dtype=dtype, obs_shape=(3, 4, 4) if is_picture else (48,)))
        args = script.Args(paper=True)  # a scaled CNN sees no difference
        network, obs = script.Network(env, args, 0, 1), torch.rand(1, 2, 48) * 255
        expected = network.heads[0](network.obs_encoder(obs[0] / largest))
        (out,), _ = network(obs, torch.zeros(1, 2, 2), torch.zeros(1, 2))
        torch.testing.assert_close(out[0], expected)


def test_flicker_blanks_whole_pictures():
    env = make_env("Picture-v0", n=400, flicker=0.5)
    obs = env.reset(seed=0)
    blank = (obs == 0).all(1)
    assert obs.dtype == np.uint8 and 0.4 < blank.mean() < 0.6
    np.testing.assert_array_equal(obs[~blank][0], np.repeat([0, 100, 200], 72))


@pytest.mark.parametrize("fields, named", [
    (dict(env_id="Pendulum-V-v0"), "rmf_sac_gru.py"),
    (dict(env_id="PictureTiny-v0"), "(3, 9, 2)"),
    (dict(env_id="Picture-v0", observe="0,1"), "--observe 0,1"),
    (dict(env_id="Dict-v0"), "Dict"),
    (dict(env_id="DelayedCatch5-v0", policy="oracle"), "--policy oracle"),
])
def test_what_it_cannot_take_is_named(fields, named):
    with pytest.raises(envs.UnusableEnv) as error:
        script.POMDP(script.Args(**fields), 2)
    assert named in str(error.value) and fields["env_id"] in str(error.value)


# --- NETWORKS -------------------------------------------------------------------------------------


@every_rnn
@pytest.mark.parametrize("inputs", ["o", "oa", "or", "oar"])
def test_step_by_step_equals_the_whole_sequence_and_inputs_says_what_is_fed(rnn, inputs, batch):
    args = script.Args(**SMALL | {"embeddings": (6, 32, 32)}, rnn=rnn, inputs=inputs)
    net = make_agent(args).critic  # of a few ReLUs all may be dead
    rows = batch.obs, batch.prev_action, batch.prev_reward
    whole, _ = net(*rows)
    h, steps = None, []
    for row in zip(*rows):
        q, h = net(*(x[None] for x in row), h)
        steps.append(torch.cat(q))  # (2, B, A)
    torch.testing.assert_close(torch.stack(whole), torch.stack(steps, 1))
    for i, name in enumerate("oar"):
        changed = [x.clone() for x in rows]
        changed[i][1] += 1
        q, _ = net(*changed)
        assert torch.equal(q[0][0], whole[0][0])  # nothing of the future
        assert torch.equal(q[0][2], whole[0][2]) != (name in inputs)  # and all of the past


@pytest.mark.parametrize("policy, actor_has, critic_has", [
    ("recurrent", True, True), ("markov", False, False), ("markov-actor", False, True)])
def test_who_has_a_memory(policy, actor_has, critic_has, batch):
    agent = make_agent(script.Args(**SMALL, policy=policy))
    rows = batch.obs, batch.prev_action, batch.prev_reward
    changed = batch.obs.clone()
    changed[0] += 1
    for net, has in (agent.actor, actor_has), (agent.critic, critic_has), (agent.critic_target,
                                                                           critic_has):
        same = torch.equal(net(*rows)[0][0][2], net(changed, *rows[1:])[0][0][2])
        assert net.memory.H == 8 * has and same != has


@every_rnn
def test_acting_is_the_actor_one_step_at_a_time(rnn, batch):
    agent = make_agent(script.Args(**SMALL, rnn=rnn, inputs="oar"))
    rows = batch.obs, batch.prev_action, batch.prev_reward
    (logits,), _ = agent.actor(*rows)
    h = None
    for t in range(len(batch.obs)):
        action, h = agent.act(*(x[t].numpy() for x in rows), h, deterministic=True)
        assert (action.argmax(-1) == logits[t].argmax(-1).numpy()).all()
        assert action.shape == (3, 4) and (action.sum(-1) == 1).all()


def test_a_sampled_action_follows_the_policy():
    agent = make_agent(script.Args(**SMALL))
    obs = np.zeros((20_000, 3), np.float32)
    past = np.zeros((20_000, 4), np.float32), np.zeros(20_000, np.float32)
    with torch.no_grad():
        agent.actor.heads[0][-1].bias[:] = torch.tensor([0.0, 1, 2, -1])
        (logits,), _ = agent.actor(*(torch.as_tensor(x[:1])[None] for x in (obs, *past)))
    action, _ = agent.act(obs, *past, None)
    np.testing.assert_allclose(action.mean(0), logits[0, 0].softmax(-1), atol=0.015)


@every_rnn
def test_a_span_lets_the_memory_keep_what_it_holds(rnn):
    """Fed nothing, a fresh memory fades by half per step; with a span the slowest units keep on."""
    kept = {}
    for span in (0, 100):
        torch.manual_seed(0)
        memory = script.Memory(4, script.Args(rnn=rnn, memory_span=span), 64)
        for name, p in memory.rnn.named_parameters():
            if "weight" in name:
                p.data.zero_()
        h = torch.ones(1, 1, 64)
        nothing = torch.zeros(20, 1, 100), torch.zeros(20, 1, 4), torch.zeros(20, 1)
        _, h = memory(*nothing, (h, h) if rnn == "lstm" else h)
        kept[span] = (h[1] if rnn == "lstm" else h).mean().item()  # of the LSTM, the cell
    assert kept[0] == pytest.approx(0.5**20) and 0.4 < kept[100] < 0.9


def test_the_two_critics_differ_from_the_start(batch):
    q1, q2 = make_agent(script.Args(**SMALL)).critic(*batch[:3])[0]
    assert (q1 != q2).all()


# --- LOSSES AND UPDATE ----------------------------------------------------------------------------


def one_update(agent, batch, args):
    optimizer = torch.optim.Adam([p for p in agent.parameters() if p.requires_grad], 1e-3)
    scalars = script.update(agent, optimizer, batch, args)
    return scalars, {k: p.grad for k, p in agent.named_parameters() if p.grad is not None}


class Table(torch.nn.Module):
    """Says the same numbers to whatever it perceives: those of each head, (T+1, B, A)."""

    def __init__(self, *heads):
        super().__init__()
        self.heads = torch.nn.ParameterList(torch.tensor(x) for x in heads)
        self.memory = torch.nn.Module()

    def forward(self, *_):
        return list(self.heads), None


def test_the_losses_are_the_expectations_over_actions():
    """Two steps and the row after them in one lane; the second step is padding."""
    agent = torch.nn.Module()
    agent.actor = Table([[[0.5, 0.25, 0.25]], [[1 / 3, 1 / 3, 1 / 3]], [[1 / 3, 1 / 3, 1 / 3]]])
    agent.actor.heads[0].data.log_()
    agent.critic = Table([[[1.0, 2, 0]], [[5, 5, 5]], [[6, 6, 6]]],
                         [[[3.0, 1, 0]], [[9, 9, 9]], [[8, 8, 8]]])
    agent.critic_target = Table([[[7.0, 7, 7]], [[1, 2, 6]], [[7, 7, 7]]],
                                [[[7.0, 7, 7]], [[4, 2, 3]], [[7, 7, 7]]]).requires_grad_(False)
    agent.log_alpha = torch.nn.Parameter(torch.tensor(0.5).log())
    obs, seen, mask = torch.zeros(3, 1, 1), torch.zeros(3, 1), torch.tensor([[1.0], [0.0]])
    action = torch.tensor([[[0.0, 1, 0]], [[1.0, 0, 0]]])
    reward = torch.tensor([[10.0], [99.0]])
    batch = script.Batch(obs, torch.zeros(3, 1, 3), seen, action, reward, 0 * mask, mask)
    args = script.Args(gamma=0.5, td_lambda=0.9, alpha=0.5)
    scalars, grads = one_update(agent, batch, args)
    entropy = 0.5 * np.log(2) + 0.5 * np.log(4)
    y = 10 + 0.5 * ((1 + 2 + 3) / 3 + 0.5 * np.log(3))  # the smaller Q of each action
    expected = {"entropy": entropy, "actor_loss": -0.5 * entropy - (0.5 * 1 + 0.25 * 1 + 0),
                "q_policy": 0.75, "alpha": 0.5, "target": y, "q_data": (2 + 1) / 2,
                "qf_loss": (2 - y) ** 2 + (1 - y) ** 2}
    assert {k: scalars[f"losses/{k}"].item() for k in expected} == pytest.approx(expected)
    for head, taken in enumerate((2, 1)):  # Q learns of the action that was taken
        grad = torch.zeros(3, 1, 3)
        grad[0, 0, 1] = 2 * (taken - y)
        torch.testing.assert_close(grads[f"critic.heads.{head}"], grad)


@pytest.mark.parametrize("td_lambda", [0.0, 0.7])
def test_the_target_is_eq_1_and_eq_2(td_lambda, batch):
    args = script.Args(**SMALL, gamma=0.9, td_lambda=td_lambda, alpha=0.3)
    agent = make_agent(args)
    with torch.no_grad():
        (logits,), _ = agent.actor(*batch[:3])
        q = torch.minimum(*agent.critic_target(*batch[:3])[0])
        pi = logits.softmax(-1)
        value = (pi * (q - 0.3 * pi.log())).sum(-1)  # (T+1, B)
        y = torch.zeros_like(batch.reward)
        for b, n in enumerate(batch.mask.sum(0).int().tolist()):
            for t in reversed(range(n)):
                following = value[t + 1, b]
                if t + 1 < n:
                    following = (1 - td_lambda) * following + td_lambda * y[t + 1, b]
                y[t, b] = batch.reward[t, b] + 0.9 * (1 - batch.terminal[t, b]) * following
        taken = [(q[:-1] * batch.action).sum(-1) for q in agent.critic(*batch[:3])[0]]
        loss = sum((((q - y) ** 2) * batch.mask).sum() for q in taken) / batch.mask.sum()
    scalars, _ = one_update(agent, batch, args)
    assert scalars["losses/target"].item() == pytest.approx(
        ((y * batch.mask).sum() / batch.mask.sum()).item(), rel=1e-5)
    assert scalars["losses/qf_loss"].item() == pytest.approx(loss.item(), rel=1e-5)


def test_garbage_in_padded_steps_changes_no_loss_and_no_gradient(batch):
    args = script.Args(**SMALL, inputs="oar", td_lambda=0.5, alpha="auto")
    clean_scalars, clean = one_update(make_agent(args), batch, args)
    padded = batch.mask == 0
    rows = torch.cat([torch.zeros(1, 3, dtype=bool), padded])  # rows behind the end
    garbage = batch._replace(
        obs=batch.obs.masked_fill(rows[..., None], 9), reward=batch.reward.masked_fill(padded, 9),
        prev_action=batch.prev_action.masked_fill(rows[..., None], 9),
        prev_reward=batch.prev_reward.masked_fill(rows, 9),
        action=batch.action.masked_fill(padded[..., None], 9),
        terminal=batch.terminal.masked_fill(padded, 1))
    scalars, grads = one_update(make_agent(args), garbage, args)
    for name in clean_scalars:
        torch.testing.assert_close(scalars[name], clean_scalars[name])
    assert "log_alpha" in clean and grads.keys() == clean.keys()
    assert all(torch.allclose(grads[k], clean[k], atol=1e-6) for k in clean)


def test_each_loss_trains_its_own_network_alone(batch):
    """Each network's gradient is that of its own loss, with the others as they are given."""
    args = script.Args(**SMALL, gamma=0.9, alpha=0.3)
    agent = make_agent(args)
    _, grads = one_update(agent, batch, args)
    agent = make_agent(args)  # as it was
    (logits,), _ = agent.actor(*batch[:3])
    log_pi, (q1, q2) = logits.log_softmax(-1), (q[:-1] for q in agent.critic(*batch[:3])[0])
    with torch.no_grad():
        value = torch.minimum(*agent.critic_target(*batch[:3])[0]) - 0.3 * log_pi
        y = batch.reward + 0.9 * (1 - batch.terminal) * (log_pi.exp() * value).sum(-1)[1:]
        q = torch.minimum(q1, q2)
    errors = sum(((q * batch.action).sum(-1) - y) ** 2 for q in (q1, q2))
    gains = (log_pi.exp() * (0.3 * log_pi))[:-1] - log_pi.exp()[:-1] * q
    losses = {"actor": gains.sum(-1), "critic": errors}
    for name, loss in losses.items():
        net = getattr(agent, name)
        ((loss * batch.mask).sum() / batch.mask.sum()).backward(inputs=list(net.parameters()))
        expected = {f"{name}.{k}": p.grad for k, p in net.named_parameters()}
        assert any(g.any() for g in expected.values())
        for k, grad in expected.items():
            torch.testing.assert_close(grads.pop(k), grad)
    assert grads == {}  # nothing else has any: neither the target nor the temperature


@pytest.mark.parametrize("logit, share, rises", [(2.0, 0.66, True), (1.7, 0.75, False)])
def test_alpha_rises_when_the_entropy_is_below_its_target(logit, share, rises, batch):
    args = script.Args(**SMALL, alpha="auto")  # its target is 0.7 ln 4
    agent = make_agent(args)
    with torch.no_grad():
        agent.actor.heads[0][-1].weight.zero_()
        agent.actor.heads[0][-1].bias[:] = torch.tensor([logit, 0, 0, 0])
    before = agent.log_alpha.item()
    scalars, _ = one_update(agent, batch, args)
    assert scalars["losses/entropy"].item() == pytest.approx(share * np.log(4), abs=0.01)
    assert (agent.log_alpha.item() > before) == rises


@pytest.mark.parametrize("paper", [False, True])
def test_a_temperature_that_is_given_falls_to_0_and_the_papers_stays(
        paper, tmp_path, no_pictures):
    folder = script.train(script.Args(
        **SMALL, env_id="KeyToDoorShort-v0", paper=paper, alpha=0.5, num_envs=1, batch_size=2,
        total_timesteps=300, learning_starts=100, updates_per_step=0.04, eval_interval=300,
        eval_episodes=1, runs_dir=str(tmp_path / "runs")))
    learning = numbers(folder, "env_step")[-8:] - 25  # as each round began, one update in each
    alpha = numbers(folder, "losses/alpha")
    np.testing.assert_allclose(alpha, 0.5 if paper else 0.5 * (300 - learning) / 200, rtol=1e-5)


# --- LEARNING -------------------------------------------------------------------------------------


class LastCoinEnv(gym.Env):
    """Sees a fresh coin at each step; is paid 1 for naming the last one, at the end, for all."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.score, self.coin = 0, 0, int(self.np_random.integers(2))
        self.last = None
        return np.array([2 * self.coin - 1], np.float32), {}

    def step(self, action):
        self.score += action == self.last
        self.t += 1
        self.last, self.coin = self.coin, int(self.np_random.integers(2))
        over = self.t == 6
        return (np.array([2 * self.coin - 1], np.float32), float(self.score) if over else 0.0, over,
                False, {})


gym.register("LastCoinDiscrete-v0", entry_point=LastCoinEnv)


@pytest.mark.parametrize("policy, low, high", [
    ("recurrent", 4.5, 5.0), ("markov", 1.7, 3.3), ("markov-actor", 1.7, 3.3)])
def test_memory_pays_where_it_is_needed(policy, low, high, tmp_path, no_pictures):
    """Perfect memory scores 5. Without, the last coin is a fair one: 2.5 whatever the policy, and
    the mean of 100 episodes lies within 0.8 of it, also for a critic that remembers."""
    folder = script.train(script.Args(
        env_id="LastCoinDiscrete-v0", policy=policy, total_timesteps=3000, num_envs=10,
        learning_starts=600, eval_interval=3000, eval_episodes=100, rnn="gru", rnn_size=16,
        hidden_sizes=(32,), embeddings=(8, 4, 4), gamma=1.0, td_lambda=0.9, batch_size=32,
        updates_per_step=0.2, learning_rate=5e-3, runs_dir=str(tmp_path / "runs")))
    assert low <= numbers(folder, "eval/return_mean")[-1] <= high
