"""Lesson 2: a sixth routing, "actor-only": one memory, trained by the actor's loss alone."""

import torch


def gradients(script, silent):
    """Names of the parameters that get a gradient when one of both losses is silenced."""
    args = script.Args(rnn_size=8, hidden_sizes=(8, 8), shared_encoder="actor-only")
    torch.manual_seed(0)
    agent = script.Agent(3, 2, args)
    with torch.no_grad():
        for p in agent.parameters():
            p.uniform_(-0.5, 0.5)
    batch = script.Batch(torch.randn(6, 4, 3), torch.randn(6, 4, 2), torch.randn(6, 4),
                         torch.randn(5, 4, 2), torch.randn(5, 4), torch.zeros(5, 4),
                         torch.ones(5, 4))
    original = getattr(script, silent)
    setattr(script, silent, lambda *a: (0 * original(*a)[0], original(*a)[1]))
    try:
        optimizer = torch.optim.SGD([p for p in agent.parameters() if p.requires_grad], 0.1)
        script.update(agent, optimizer, batch, args)
    finally:
        setattr(script, silent, original)
    return {k for k, p in agent.named_parameters() if p.grad is not None and p.grad.any()}


def test_the_memory_learns_from_the_actor_alone(script):
    by_actor, by_critic = gradients(script, "critic_loss"), gradients(script, "actor_loss")
    assert any("encoder" in name for name in by_actor)
    assert not any("encoder" in name for name in by_critic)
    assert any(name.startswith("critic.qf1") for name in by_critic)
    assert not any(name.startswith("critic.qf") for name in by_actor)


def test_the_target_still_follows_the_whole_critic(script):
    args = script.Args(rnn_size=8, hidden_sizes=(8, 8), shared_encoder="actor-only", tau=1.0)
    agent = script.Agent(3, 2, args)
    batch = script.Batch(torch.randn(6, 4, 3), torch.randn(6, 4, 2), torch.randn(6, 4),
                         torch.randn(5, 4, 2), torch.randn(5, 4), torch.zeros(5, 4),
                         torch.ones(5, 4))
    script.update(agent, torch.optim.SGD(agent.critic.parameters(), 0.1), batch, args)
    target = dict(agent.critic_target.named_parameters())
    for name, p in agent.critic.named_parameters():
        torch.testing.assert_close(target[name], p.detach(), msg=name)
