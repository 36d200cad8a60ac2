"""What is true of the memories and of the networks on top of them."""

import numpy as np
import pytest
import torch
from torch.func import functional_call

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


# --- GRU ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 20])
@pytest.mark.parametrize("with_h0", [True, False])
def test_the_hand_written_gru_equals_torchs(T, with_h0):
    torch.manual_seed(0)
    theirs = torch.nn.GRU(5, 7).double()
    ours = rmf.GRU(5, 7).double()
    ours.load_state_dict(theirs.state_dict())
    x, h0 = torch.randn(T, 3, 5).double(), torch.randn(1, 3, 7).double()
    weight = torch.randn(T, 3, 7).double()  # every output has its own weight in the loss
    results = []
    for gru in (theirs, ours):
        inputs = [x.clone().requires_grad_(), h0.clone().requires_grad_()][: 1 + with_h0]
        out, h_n = gru(*inputs)
        ((out * weight).sum() + (h_n**2).sum()).backward()
        grads = {k: p.grad for k, p in gru.named_parameters()}
        results.append([out, h_n, grads, [x.grad for x in inputs]])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


def test_the_gradient_of_the_gru_is_its_derivative():
    torch.manual_seed(0)
    gru = rmf.GRU(2, 3).double()
    names, weights = zip(*gru.named_parameters())
    x, h0 = torch.randn(4, 2, 2).double(), torch.randn(1, 2, 3).double()

    def run(x, h0, *weights):
        return functional_call(gru, dict(zip(names, weights)), (x, h0))

    inputs = [t.detach().requires_grad_() for t in (x, h0, *weights)]
    assert torch.autograd.gradcheck(run, inputs)


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
    expected = agent.actor(out, sequence[0])[0].tanh().detach().numpy()  # (T, B, A)
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


def test_a_markov_policy_has_no_past(make_args, make_agent):
    agent, (obs, action, reward) = make_agent(make_args(policy="markov")), perceived(T=2)
    assert agent.actor.encoder is None and agent.critic.encoder is None
    obs, h = obs[0].numpy(), None
    first, h = agent.act(obs, action[0].numpy(), reward[0].numpy(), h, deterministic=True)
    again, h = agent.act(obs, action[1].numpy(), reward[1].numpy(), h, deterministic=True)
    other, _ = agent.act(obs + 1, action[1].numpy(), reward[1].numpy(), h, deterministic=True)
    assert (first == again).all() and h is None and (first != other).any()


def test_a_recurrent_policy_has_a_past(make_args, make_agent):
    agent, (obs, action, reward) = make_agent(make_args(inputs="oar")), perceived(T=2)
    inputs = [x[0].numpy() for x in (obs, action, reward)]
    first, h = agent.act(*inputs, None, deterministic=True)
    again, _ = agent.act(*inputs, h, deterministic=True)
    assert (first != again).any(-1).all()


# --- HEADS ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden_sizes", [(6,), (6, 5, 4)])
@pytest.mark.parametrize("n_memory", [3, 0])
def test_a_head_is_an_mlp_over_memory_and_x(hidden_sizes, n_memory):
    torch.manual_seed(0)
    head = rmf.Head(n_memory, 4, hidden_sizes, 2)
    h, x = torch.randn(5, 3, n_memory), torch.randn(5, 3, 4)
    weight, bias = head.of_x.weight, head.of_x.bias
    if n_memory:
        weight, bias = torch.cat([head.of_memory.weight, weight], 1), head.of_memory.bias
    plain = torch.cat([h, x], -1) @ weight.t() + bias
    for layer in [m for m in head.rest if isinstance(m, torch.nn.Linear)]:
        plain = layer(plain.relu())
    out = head(h if n_memory else None, x)
    assert out.shape == (5, 3, 2)
    torch.testing.assert_close(out, plain)


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
