"""Lesson 3: `update` of ppo_gru_baseline.py without its clip: J_pi = -mean(ratio * advantage)."""

import numpy as np
import pytest
import torch

RATIO = torch.tensor([[3.0, 3.0, 0.5, 0.5, 9.0]])
ADVANTAGE = torch.tensor([[1.0, -1.0, 1.0, -1.0, 9.0]])  # mean 0, deviation 1, as `update` wants it
MASK = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0]])  # the last step is none


def test_every_ratio_counts_in_full(script):
    # One step in five lanes. With gamma 0 and values of 0 the advantage is the reward.
    args = script.Args(num_envs=5, update_epochs=1, num_minibatches=1, gamma=0.0, rnn_size=8,
                       hidden_sizes=(8,), embeddings=(4, 2, 2), max_grad_norm=1e9)
    torch.manual_seed(0)
    agent = script.Agent(3, 2, False, args)
    rows = torch.randn(2, 5, 3), torch.zeros(2, 5, 2), torch.zeros(2, 5), torch.ones(2, 5)
    action = torch.randn(1, 5, 2)
    policy, *_ = agent(*(x[:1] for x in rows), (None, None))
    log_prob = policy.log_prob(action)
    old_log_prob = log_prob.detach() - RATIO.log()
    segment = script.Segment(*rows, torch.zeros(2, 5), action, old_log_prob, ADVANTAGE,
                             torch.zeros(1, 5), torch.ones(1, 5), MASK, (None, None))

    loss = -((log_prob - old_log_prob).exp() * ADVANTAGE * MASK).sum() / 4
    parameters = [*agent.actor.parameters(), agent.log_std]
    expected = torch.autograd.grad(loss, parameters, allow_unused=True)
    optimizer = torch.optim.SGD(agent.parameters(), 0.0)
    (scalars,) = script.update(agent, optimizer, segment, args, np.random.default_rng(0))
    said = scalars["losses/policy_loss"].item()
    assert said == pytest.approx(loss.item(), abs=1e-5), "losses/policy_loss"
    for p, grad in zip(parameters, expected):
        torch.testing.assert_close(p.grad, grad, atol=1e-5, rtol=1e-4)
