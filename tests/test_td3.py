"""What is true of TD3's own losses and update; the rest is rmf_sac_gru.py's, text for text."""

import numpy as np
import pytest
import torch
import toy_envs  # noqa: F401  (registers the ids)
from conftest import SMALL, TINY_RUN

import rmf_td3_lstm as td3
from run import parse_args

SHARED = ["separate", "published", "published-clipped", "critic-frozen", "critic-only"]
every_sharing = pytest.mark.parametrize("shared", SHARED)


def make_agent(args, seed=0):
    torch.manual_seed(seed)
    agent = td3.Agent(3, 2, args)
    with torch.no_grad():
        for p in agent.learnt:
            p.uniform_(-0.5, 0.5)
    return agent


def one_update(agent, batch, args, train_actor=True, learning_rate=1e-3, seed=0):
    """-> scalars and the gradients (name -> tensor) of one update with a fixed noise."""
    optimizer = torch.optim.Adam(agent.parameters(), learning_rate)
    torch.manual_seed(seed)
    scalars = td3.update(agent, optimizer, batch, args, train_actor)
    return scalars, {k: p.grad for k, p in agent.named_parameters() if p.grad is not None}


# --- LOSSES ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", [0.0, 0.5])
def test_losses_are_those_computed_by_hand(cost, monkeypatch):
    """One step in three lanes: two are terminal, the third is padding."""

    def shaped(net, value):  # the parameters get a gradient of 0
        return torch.tensor(value) + 0 * sum(p.sum() for p in net.parameters())

    def actor(self, h, obs):
        u = shaped(self, [[[1.0, 2.5], [0, -3], [9, 9]]])  # (T, B, A) before tanh
        return u.tanh(), u

    def critic(self, c, obs, action):
        at_data = (action == 0).all()
        return [shaped(self, v) for v in (
            ([[1.0, 2, 9]], [[3.0, 0, 9]]) if at_data else ([[1.5, 7, 9]], [[8.0, 0, 9]]))]

    monkeypatch.setattr(td3.Actor, "forward", actor)
    monkeypatch.setattr(td3.Critic, "forward", critic)
    mask, reward = torch.tensor([[1.0, 1, 0]]), torch.tensor([[2.0, 0.5, -9]])
    obs, action = torch.zeros(2, 3, 3), torch.zeros(2, 3, 2)
    batch = td3.Batch(obs, action, torch.zeros(2, 3), action[1:], reward, torch.ones(1, 3), mask)
    args = td3.Args(**SMALL, saturation_cost=cost)
    scalars, _ = one_update(make_agent(args), batch, args)
    expected = {
        "losses/target": (2 + 0.5) / 2,
        "losses/qf_loss": ((1 - 2) ** 2 + (3 - 2) ** 2 + (2 - 0.5) ** 2 + (0 - 0.5) ** 2) / 2,
        "losses/q_data": ((1 + 3) / 2 + (2 + 0) / 2) / 2,
        "losses/actor_loss": -(1.5 + 0) / 2 + cost * ((1 + 6.25) / 2 + 9 / 2) / 2,
        "losses/q_policy": (1.5 + 0) / 2, "losses/saturated": 2 / 4}  # 2.5 and -3
    assert {k: scalars[k].item() for k in expected} == pytest.approx(expected)
    assert scalars.keys() - expected.keys() == {"grads/actor_rnn", "grads/critic_rnn"}


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
        mu = agent.actor_target(g, batch.obs)[0][1:]
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


# --- GRADIENTS ------------------------------------------------------------------------------------


def losses_by_the_book(agent, batch, args):
    """Eq. (1) to (4) in the plainest way, without noise -> loss of the critic, of the actor."""
    perceived, shared = batch[:3], args.shared_encoder != "separate"
    actor, critic, target = agent.actor, agent.critic, agent.critic_target
    c = critic.encoder(*perceived)[0]
    h = c if shared else actor.encoder(*perceived)[0]
    if args.shared_encoder == "critic-only":
        h = h.detach()
    with torch.no_grad():
        g = agent.actor_target.encoder(*perceived)[0]  # where it is shared, target.encoder
        k = target.encoder(*perceived)[0]
        value = torch.minimum(*target(k, batch.obs, agent.actor_target(g, batch.obs)[0]))
        y = td3.td_targets(batch, value[1:], args)
    q1, q2 = critic(c[:-1], batch.obs[:-1], batch.action)
    q_loss = (((q1 - y) ** 2 + (q2 - y) ** 2) * batch.mask).sum() / batch.mask.sum()
    memory = c if args.shared_encoder.startswith("published") else c.detach()
    action, u = actor(h, batch.obs)
    q = torch.minimum(*critic(memory, batch.obs, action))[:-1]
    loss = args.saturation_cost * (u[:-1] ** 2).mean(-1) - q
    return q_loss, (loss * batch.mask).sum() / batch.mask.sum()


# What the actor's loss may change. A shared encoder is the critic's as well: one object.
OWN = {"actor.embed", "actor.head"}
REACHES = {
    "separate": {*OWN, "actor.encoder"},
    "published": {*OWN, "actor.encoder", "critic.embed", "critic.qf1", "critic.qf2"},
    "critic-frozen": {*OWN, "actor.encoder"},
    "critic-only": OWN,
}


@pytest.mark.parametrize("policy", ["recurrent", "markov"])
@pytest.mark.parametrize("shared", REACHES)
def test_each_loss_trains_what_its_routing_says(shared, policy, make_batch, monkeypatch):
    args = td3.Args(**SMALL, shared_encoder=shared, inputs="oar", policy=policy, policy_noise=0.0,
                    saturation_cost=0.1)
    agent, batch = make_agent(args), make_batch()
    encoder = agent.critic.encoder
    assert (agent.actor.encoder is encoder) == (shared != "separate")
    assert (agent.actor_target.encoder is agent.critic_target.encoder) == (shared != "separate")
    encoder_name = "critic.encoder" if shared == "separate" else "actor.encoder"
    trains = {"critic": {"critic.embed", "critic.qf1", "critic.qf2", encoder_name},
              "actor": REACHES[shared]}
    learnt = {k: p for k, p in agent.named_parameters() if p.requires_grad}
    expected = []
    for loss, net in zip(losses_by_the_book(agent, batch, args), trains):
        named = {k: p for k, p in learnt.items() if ".".join(k.split(".")[:2]) in trains[net]}
        grads = torch.autograd.grad(loss, list(named.values()), retain_graph=True)
        expected.append(dict(zip(named, grads)))

    seen, backward = [], torch.Tensor.backward

    def watched(loss, *rest, **options):
        backward(loss, *rest, **options)
        seen.append({k: p.grad.clone() for k, p in learnt.items() if p.grad is not None})

    monkeypatch.setattr(torch.Tensor, "backward", watched)
    one_update(agent, batch, args)
    of_critic, of_both = seen
    torch.testing.assert_close(of_critic, expected[0], rtol=1e-4, atol=1e-6)
    both = {k: sum(g[k] for g in expected if k in g) for k in {**expected[0], **expected[1]}}
    torch.testing.assert_close(of_both, both, rtol=1e-4, atol=1e-6)
    for gradients in expected:  # of the smaller Q only: qf1 or qf2
        reached = {k.replace("qf2", "qf1") for k, grad in gradients.items() if grad.any()}
        assert reached == {k.replace("qf2", "qf1") for k in gradients}


@pytest.mark.parametrize("shared", ["separate", "critic-frozen"])
def test_targets_follow_by_tau(shared, make_batch):
    args = td3.Args(**SMALL, shared_encoder=shared, tau=0.25)
    agent = make_agent(args)
    before = [p.clone() for p in agent.targets]
    one_update(agent, make_batch(), args)
    for old, new, learnt in zip(before, agent.targets, agent.learnt):
        torch.testing.assert_close(new, old + 0.25 * (learnt.detach() - old))


@every_sharing
def test_an_update_without_the_actor_changes_the_critic_alone(shared, make_batch):
    args = td3.Args(**SMALL, shared_encoder=shared)
    agent = make_agent(args)

    def changed(train_actor):
        """-> the nets whose own weights an update changes, and is the actor's memory changed?"""
        before = {k: v.clone() for k, v in agent.state_dict().items()}
        one_update(agent, make_batch(), args, train_actor)
        names = [k for k, v in agent.state_dict().items() if not torch.equal(v, before[k])]
        return ({k.split(".")[0] for k in names if "actor.encoder" not in k},
                any(k.startswith("actor.encoder") for k in names))

    assert changed(train_actor=False) == ({"critic"}, shared != "separate")
    assert changed(train_actor=True) == (
        {"critic", "actor", "actor_target", "critic_target"}, True)


def test_policy_frequency_counts_updates_over_the_whole_run(tmp_path, monkeypatch, no_pictures):
    trained, update = [], td3.update

    def counted(agent, optimizer, batch, args, train_actor):
        trained.append(train_actor)
        return update(agent, optimizer, batch, args, train_actor)

    monkeypatch.setattr(td3, "update", counted)
    td3.main([*TINY_RUN, "--policy-frequency", "2", "--runs-dir", str(tmp_path)])
    assert len(trained) == int(0.16 * 280) and len(trained) % 2 == 0
    assert trained == [True, False] * (len(trained) // 2)  # 3.2 updates a round


def test_garbage_in_padded_steps_changes_no_loss_and_no_gradient(make_batch):
    args, clean = td3.Args(**SMALL, inputs="oar"), make_batch()
    behind = torch.cat([torch.zeros(1, 3), 1 - clean.mask]).bool()  # (T+1, B) no such row
    obs, prev_action, prev_reward = (x.clone() for x in clean[:3])
    obs[behind], prev_action[behind], prev_reward[behind] = 1e3, 1e3, 1e3
    dirty = td3.Batch(obs, prev_action, prev_reward, prev_action[1:], prev_reward[1:],
                      clean.terminal, clean.mask)
    results = [one_update(make_agent(args), batch, args) for batch in (clean, dirty)]
    torch.testing.assert_close(*results, rtol=0, atol=1e-6)


@pytest.mark.parametrize("paper", [False, True])
def test_the_noise_of_exploration_falls_to_0_but_not_in_the_papers_recipe(
        paper, tmp_path, no_pictures, monkeypatch):
    argv = [*TINY_RUN, "--exploration-noise", "0.4", "--runs-dir", str(tmp_path)]
    args = parse_args(td3.Args, "rmf_td3_lstm", argv)
    args.paper, seen, act = paper, [], td3.Agent.act

    def watched(agent, *inputs, deterministic=False):
        seen.extend([] if deterministic else [agent.exploration_noise])
        return act(agent, *inputs, deterministic=deterministic)

    monkeypatch.setattr(td3.Agent, "act", watched)
    td3.train(args)  # 40 steps of 320 are random, then rounds of 20, 10 calls in each
    left = [(320 - step) / 280 for step in range(40, 320, 20)]
    assert seen == pytest.approx(np.repeat([0.4 * (1 if paper else x) for x in left], 10))


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
