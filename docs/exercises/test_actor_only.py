"""Lesson 2: a sixth routing, "actor-only": one memory, trained by the actor's loss alone."""

import torch

from run import parse_args


def test_the_flag_takes_the_word(script):
    try:
        args = parse_args(script.Args, "rmf_sac_gru", ["--shared-encoder", "actor-only"])
    except SystemExit as refused:
        raise AssertionError("--shared-encoder actor-only is refused: see `Args`") from refused
    assert args.shared_encoder == "actor-only"


def agent_and_batch(script, **fields):
    args = script.Args(rnn_size=8, hidden_sizes=(8, 8), shared_encoder="actor-only", **fields)
    torch.manual_seed(0)
    agent = script.Agent(3, 2, args)
    with torch.no_grad():
        for p in agent.parameters():
            p.uniform_(-0.5, 0.5)
    assert agent.actor.encoder is agent.critic.encoder, "one memory for both"
    batch = script.Batch(torch.randn(6, 4, 3), torch.randn(6, 4, 2), torch.randn(6, 4),
                         torch.randn(5, 4, 2), torch.randn(5, 4), torch.zeros(5, 4),
                         torch.ones(5, 4))
    return args, agent, batch


def gradients(script, args, agent, batch):
    """Names of the parameters that get a gradient in one update."""
    optimizer = torch.optim.SGD([p for p in agent.parameters() if p.requires_grad], 0.1)
    script.update(agent, optimizer, batch, args)
    return {name for name, p in agent.named_parameters()
            if p.grad is not None and p.grad.abs().max() > 1e-7}


def test_the_memory_learns_from_the_actor(script, monkeypatch):
    args, agent, batch = agent_and_batch(script)
    # Targets that are what the critic says already: nothing is learnt from its loss.
    agent.critic.qf2.load_state_dict(agent.critic.qf1.state_dict())
    c = agent.critic.encoder(batch.obs, batch.prev_action, batch.prev_reward)[0]
    q = agent.critic(c[:-1], batch.obs[:-1], batch.action)[0].detach()
    monkeypatch.setattr(script, "td_targets", lambda *_: q)
    by_actor = gradients(script, args, agent, batch)
    assert any("encoder" in name for name in by_actor), "the actor's loss trains the memory"
    assert not any(name.startswith("critic.qf") for name in by_actor), "it leaves Q alone"


def test_the_memory_does_not_learn_from_the_critic(script):
    args, agent, batch = agent_and_batch(script)
    with torch.no_grad():  # the actor does not look at the memory: nothing reaches it from there
        agent.actor.head.of_h.weight[:] = 0
    by_critic = gradients(script, args, agent, batch)
    assert not any("encoder" in name for name in by_critic), "the critic's loss trains no memory"
    assert any(name.startswith("critic.qf1") for name in by_critic), "it trains Q"
    assert any(name.startswith("actor.head") for name in by_critic), "the actor's head learns"


def test_the_target_still_follows_the_whole_critic(script):
    args, agent, batch = agent_and_batch(script, tau=1.0)
    script.update(agent, torch.optim.SGD(agent.critic.parameters(), 0.1), batch, args)
    target = dict(agent.critic_target.named_parameters())
    for name, p in agent.critic.named_parameters():
        torch.testing.assert_close(target[name], p.detach(), msg=name)
