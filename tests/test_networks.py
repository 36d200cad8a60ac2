"""What is true of the memories and of the networks on top of them."""

import numpy as np
import pytest
import torch

import rmf_sac_gru as rmf

every_rnn = pytest.mark.parametrize("rnn", ["gru", "lstm"])
every_inputs = pytest.mark.parametrize("inputs", ["o", "oa", "or", "oar"])


def perceived(T=8, B=4, seed=0):
    """-> random obs (T, B, 3), prev_action (T, B, 2), prev_reward (T, B)."""
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(T, B, *d, generator=g) for d in ((3,), (2,), ())]


def encoder(args, seed=0):
    torch.manual_seed(seed)
    net = rmf.Encoder(3, 2, args)
    for p in net.parameters():  # no zero biases: a dead unit would hide an input
        torch.nn.init.uniform_(p, -0.5, 0.5)
    return net


# --- MEMORY ---------------------------------------------------------------------------------------


@every_rnn
def test_step_by_step_equals_the_whole_sequence(rnn, make_args):
    net, sequence = encoder(make_args(rnn=rnn, inputs="oar")), perceived(T=20)
    whole, _ = net(*sequence)
    h, steps = None, []
    for t in range(20):
        out, h = net(*(x[t : t + 1] for x in sequence), h)
        steps.append(out)
    torch.testing.assert_close(torch.cat(steps), whole, rtol=0, atol=1e-6)


@every_rnn
def test_acting_equals_the_actor_on_the_whole_sequence(rnn, make_args, make_agent):
    agent, sequence = make_agent(make_args(rnn=rnn, inputs="oar")), perceived(T=20)
    out, _ = agent.actor.encoder(*sequence)
    expected = agent.actor(out, sequence[0], deterministic=True)[0].detach().numpy()  # (T, B, A)
    h = None
    for t in range(20):
        action, h = agent.act(*(x[t].numpy() for x in sequence), h, deterministic=True)
        np.testing.assert_allclose(action, expected[t], rtol=0, atol=1e-6)


@every_rnn
def test_memory_depends_on_the_past_and_not_on_the_future(rnn, make_args):
    net, sequence = encoder(make_args(rnn=rnn)), perceived()
    before, _ = net(*sequence)
    sequence[0][4, 0] += 1  # one observation, lane 0
    changed = (net(*sequence)[0] != before).any(-1)  # (T, B)
    assert changed[:, 0].tolist() == [False] * 4 + [True] * 4  # 7 remembers 4
    assert not changed[:, 1:].any()  # lanes do not mix


@every_rnn
@every_inputs
def test_inputs_says_what_the_memory_is_fed(rnn, inputs, make_args):
    net, sequence = encoder(make_args(rnn=rnn, inputs=inputs)), perceived()
    before, _ = net(*sequence)
    for letter, i in zip("oar", range(3)):
        changed = [x + (j == i) for j, x in enumerate(sequence)]
        assert torch.equal(net(*changed)[0], before) == (letter not in inputs)


@pytest.mark.parametrize("policy", ["markov", "oracle"])
def test_without_memory_there_is_no_past(policy, make_args, make_agent):
    agent, (obs, action, reward) = make_agent(make_args(policy=policy)), perceived(T=2)
    obs, h = obs[0].numpy(), None
    first, h = agent.act(obs, action[0].numpy(), reward[0].numpy(), h, deterministic=True)
    again, h = agent.act(obs, action[1].numpy(), reward[1].numpy(), h, deterministic=True)
    other, _ = agent.act(obs + 1, action[1].numpy(), reward[1].numpy(), h, deterministic=True)
    assert (first == again).all() and (first != other).any(-1).all()


def test_a_memory_of_width_0_is_an_encoder_without_weights(make_args):
    net = rmf.Encoder(3, 2, make_args(policy="markov"))
    out, h = net(*perceived(T=7))
    assert out.shape == (7, 4, 0) and h is None and net.state_dict() == {}


def test_a_recurrent_policy_has_a_past(make_args, make_agent):
    agent, (obs, action, reward) = make_agent(make_args(inputs="oar")), perceived(T=2)
    inputs = [x[0].numpy() for x in (obs, action, reward)]
    first, h = agent.act(*inputs, None, deterministic=True)
    again, _ = agent.act(*inputs, h, deterministic=True)
    assert (first != again).any(-1).all()


# --- HEADS ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(6,), (6, 5, 4)])
@pytest.mark.parametrize("H", [0, 8])
def test_a_head_is_an_mlp_over_memory_and_embedding_with_no_relu_at_its_end(H, hidden):
    torch.manual_seed(0)
    head, h, x = rmf.Head(H, 3, hidden, 2), torch.randn(5, 7, H), torch.randn(5, 7, 3)
    layers = [m for m in head.rest if isinstance(m, torch.nn.Linear)]
    assert [m.out_features for m in layers] == [*hidden[1:], 2]
    with torch.no_grad():
        layers[-1].bias.fill_(-9)
    weight = torch.cat([head.of_h.weight, head.of_x.weight], 1) if H else head.of_x.weight
    bias = head.of_h.bias if H else head.of_x.bias
    assert weight.shape == (hidden[0], H + 3)
    plain = torch.cat([h, x], -1) @ weight.t() + bias
    for layer in layers:
        plain = plain.relu() @ layer.weight.t() + layer.bias
    torch.testing.assert_close(head(h, x), plain)
    assert (head(h, x) < 0).all()


def test_the_policy_depends_on_memory_and_observation(make_args):
    torch.manual_seed(0)
    actor = rmf.Actor(3, 2, make_args())
    h, obs = torch.randn(5, 4, 8), torch.randn(5, 4, 3)
    before = actor(h, obs, deterministic=True)[0]
    for changed in ((h + 1, obs), (h, obs + 1)):
        assert (actor(*changed, deterministic=True)[0] != before).flatten(0, 1).any(0).all()


def test_the_critics_values_are_two_and_depend_on_memory_observation_and_action(make_args):
    torch.manual_seed(0)
    critic = rmf.Critic(3, 2, make_args(rnn_size=8))
    c, obs, action = torch.randn(5, 4, 8), torch.randn(5, 4, 3), torch.randn(5, 4, 2)

    def values(c, obs, action):
        return torch.stack(critic(c, obs, action))  # (2, T, B)

    before = values(c, obs, action)
    assert before.shape == (2, 5, 4) and not torch.allclose(before[0], before[1])
    for changed in ((c + 1, obs, action), (c, obs + 1, action), (c, obs, action + 1)):
        assert (values(*changed) != before).flatten(1).any(1).all()  # both heads
