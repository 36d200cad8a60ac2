"""Lesson 7: `--policy markov-critic`: the actor remembers, the critic sees o_t alone."""

import copy

import torch

FLAGS = ("--env-id DelayedCatch5-v0 --policy markov-critic --num-envs 2 --rnn-size 8"
         " --hidden-sizes 8 8 --embeddings 4 2 2").split()


def make_agent(script):
    try:
        args = script.parse_args(script.Args, "rmf_sac_discrete_pixels", FLAGS)
    except SystemExit as refused:
        raise AssertionError("--policy markov-critic is refused: see `Args`") from refused
    env = script.POMDP(args, args.num_envs)
    torch.manual_seed(0)
    return args, env, script.Agent(env, args)


def test_the_memory_is_the_actors_alone(script):
    _, _, agent = make_agent(script)
    assert agent.actor.memory.H == 8, "the actor has a memory"
    H = agent.critic.memory.H, agent.critic_target.memory.H
    assert H == (0, 0), "the critic has none, nor has its target"


def test_it_plays_and_both_networks_learn(script):
    args, env, agent = make_agent(script)
    action, h = agent.act(*(torch.zeros(2, n) for n in (env.obs_dim, env.action_dim)),
                          torch.zeros(2), None)
    assert action.shape == (2, env.action_dim) and h is not None
    T, B = 5, 4
    action = torch.eye(env.action_dim)[torch.randint(env.action_dim, (T + 1, B))]
    batch = script.Batch(torch.rand(T + 1, B, env.obs_dim), action, torch.randn(T + 1, B),
                         action[1:], torch.randn(T, B), torch.zeros(T, B), torch.ones(T, B))
    before = copy.deepcopy(agent)
    script.update(agent, torch.optim.SGD(agent.parameters(), 0.1), batch, args)
    for name in ("actor", "critic"):
        old, new = (list(getattr(a, name).parameters()) for a in (before, agent))
        assert any((p != q).any() for p, q in zip(old, new)), f"the {name} does not learn"
