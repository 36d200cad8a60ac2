"""What is true of TD3's own losses and update; the rest is rmf_sac_gru.py's, text for text."""

import pytest
import torch

import rmf_td3_lstm as td3

SMALL = dict(rnn_size=8, hidden_sizes=(8, 8), embeddings=(4, 3, 2))
SHARED = ["separate", "published", "published-clipped", "critic-frozen", "critic-only"]
every_sharing = pytest.mark.parametrize("shared", SHARED)


def make_agent(args, seed=0):
    torch.manual_seed(seed)
    agent = td3.Agent(3, 2, args)
    with torch.no_grad():
        for p in agent.learnt:
            p.uniform_(-0.5, 0.5)
    return agent


def one_update(agent, batch, args, n_updates=0, learning_rate=1e-3, seed=0):
    """-> scalars and the gradients (name -> tensor) of one update with a fixed noise."""
    optimizer = torch.optim.Adam([p for p in agent.parameters() if p.requires_grad], learning_rate)
    torch.manual_seed(seed)
    scalars = td3.update(agent, optimizer, batch, args, n_updates)
    return scalars, {k: p.grad for k, p in agent.named_parameters() if p.grad is not None}


def test_actor_losses_are_those_computed_by_hand():
    mask = torch.tensor([[1.0, 1, 0]])
    q1, q2 = torch.tensor([[1.0, 2, 9]]), torch.tensor([[3.0, 0, 9]])
    u = torch.tensor([[[1.0, 2.5], [0, -3], [9, 9]]])  # (T, B, A) before tanh
    free = dict(saturation_cost=0.0)
    loss, scalars = td3.actor_loss(q1, q2, u, mask, td3.Args(**free))
    assert loss == -(1 + 0) / 2 and scalars["losses/q_policy"] == (1 + 0) / 2
    assert scalars["losses/saturated"] == 2 / 4  # 2.5 and -3
    loss, _ = td3.actor_loss(q1, q2, u, mask, td3.Args(**free, actor_q="first"))
    assert loss == -(1 + 2) / 2
    loss, scalars = td3.actor_loss(q1, q2, u, mask, td3.Args(saturation_cost=0.5))
    assert loss == -1 / 2 + 0.5 * ((1 + 6.25) / 2 + 9 / 2) / 2
    assert scalars["losses/q_policy"] == 1 / 2


@every_sharing
@pytest.mark.parametrize("policy_noise", [0.0, 5.0])
def test_the_target_is_eq_1_with_clipped_noise(shared, policy_noise, make_batch, monkeypatch):
    args = td3.Args(**SMALL, shared_encoder=shared, gamma=0.5, policy_noise=policy_noise)
    agent, batch, targets = make_agent(args), make_batch(), []
    with torch.no_grad():
        for p in agent.targets:  # targets that are not the networks
            p.uniform_(-0.5, 0.5)
    monkeypatch.setattr(td3, "td_targets",
                        lambda *a, f=td3.td_targets: targets.append(f(*a)) or targets[-1])
    seen = []
    monkeypatch.setattr(td3.Critic, "forward", lambda *a, f=td3.Critic.forward: (
        seen.append(a[3]) if a[0] is agent.critic_target else None) or f(*a))
    with torch.no_grad():  # the book, step by step
        g = agent.actor_target.encoder(*batch[:3])[0]
        mu = agent.actor_target(g, batch.obs)[1:]
    one_update(agent, batch, args)
    noise = seen[0] - mu
    assert (seen[0].abs() <= 1).all() and (noise.abs() <= 0.5 + 1e-6).all()
    if policy_noise == 0:
        torch.testing.assert_close(seen[0], mu)
    else:  # nearly every draw of so large a noise is cut
        assert ((noise.abs() > 0.499) | (seen[0].abs() == 1)).float().mean() > 0.8
    # A critic of before the update: only the targets were needed, and these moved by tau.
    before = make_agent(args)
    with torch.no_grad():
        for p in before.targets:
            p.uniform_(-0.5, 0.5)
    target = before.critic_target
    with torch.no_grad():
        k = target.encoder(*batch[:3])[0][1:]
        q = torch.minimum(*target(k, batch.obs[1:], seen[0]))
    expected = batch.reward + 0.5 * (1 - batch.terminal) * q
    real = batch.mask.bool()
    torch.testing.assert_close(targets[0][real], expected[real])


def trained_by(agent, batch, args, loss):
    """Names of the parameters that get a gradient of one loss when the other one is nothing."""
    kept = {"actor": td3.actor_loss, "critic": td3.critic_loss}
    silent = "critic" if loss == "actor" else "actor"
    original = kept[silent]
    setattr(td3, f"{silent}_loss", lambda *a: (0 * original(*a)[0], {}))
    try:
        grads = one_update(agent, batch, args)[1]
    finally:
        setattr(td3, f"{silent}_loss", original)
    return {name for name, grad in grads.items() if grad.any()}


@every_sharing
def test_each_loss_trains_what_its_routing_says(shared, make_batch):
    args = td3.Args(**SMALL, shared_encoder=shared, inputs="oar")
    actor = trained_by(make_agent(args), make_batch(), args, "actor")
    critic = trained_by(make_agent(args), make_batch(), args, "critic")
    assert not any("target" in name for name in actor | critic)
    assert any(name.startswith("critic.qf1") for name in critic)
    assert not any(name.startswith(("actor.head", "actor.embed")) for name in critic)
    assert any(name.startswith("actor.head") for name in actor)
    assert any(name.startswith("critic.qf") for name in actor) == shared.startswith("published")
    memory = any(name.startswith("actor.encoder") for name in actor)
    assert memory == (shared != "critic-only")


@pytest.mark.parametrize("shared", ["separate", "critic-frozen"])
def test_targets_follow_by_tau(shared, make_batch):
    args = td3.Args(**SMALL, shared_encoder=shared, tau=0.25)
    agent = make_agent(args)
    before = [p.clone() for p in agent.targets]
    one_update(agent, make_batch(), args)
    for old, new, learnt in zip(before, agent.targets, agent.learnt):
        torch.testing.assert_close(new, old + 0.25 * (learnt.detach() - old))


def test_policy_frequency_spares_actor_and_targets(make_batch):
    args = td3.Args(**SMALL, policy_frequency=2)
    agent = make_agent(args)

    def state():
        return {k: v.clone() for k, v in agent.state_dict().items()}

    before = state()
    scalars, _ = one_update(agent, make_batch(), args, n_updates=1)
    after = state()
    changed = {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert changed == {"critic"} and "losses/actor_loss" not in scalars
    one_update(agent, make_batch(), args, n_updates=2)
    last = state()
    changed = {k.split(".")[0] for k in before if not torch.equal(after[k], last[k])}
    assert changed == {"critic", "actor", "actor_target", "critic_target"}


def test_garbage_in_padded_steps_changes_no_loss_and_no_gradient(make_batch):
    args, clean = td3.Args(**SMALL, inputs="oar"), make_batch()
    behind = torch.cat([torch.zeros(1, 3), 1 - clean.mask]).bool()  # (T+1, B) no such row
    obs, prev_action, prev_reward = (x.clone() for x in clean[:3])
    obs[behind], prev_action[behind], prev_reward[behind] = 1e3, 1e3, 1e3
    dirty = td3.Batch(obs, prev_action, prev_reward, prev_action[1:], prev_reward[1:],
                      clean.terminal, clean.mask)
    results = [one_update(make_agent(args), batch, args) for batch in (clean, dirty)]
    torch.testing.assert_close(*results, rtol=0, atol=1e-6)


def test_exploration_adds_noise_within_the_bounds():
    args = td3.Args(**SMALL, exploration_noise=0.1)
    agent = make_agent(args)
    inputs = torch.randn(2000, 3).numpy(), torch.zeros(2000, 2).numpy(), torch.zeros(2000).numpy()
    torch.manual_seed(0)
    mu, _ = agent.act(*inputs, None, deterministic=True)
    noisy, _ = agent.act(*inputs, None)
    inside = abs(mu) < 0.6
    assert abs(noisy).max() <= 1 and inside.sum() > 500
    assert abs((noisy - mu)[inside].std() - 0.1) < 0.01
