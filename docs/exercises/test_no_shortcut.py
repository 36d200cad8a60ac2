"""Lesson 5: without the shortcut, the actor's head sees the memory and nothing else."""

import torch


def test_the_action_depends_on_the_observation_through_the_memory_only(script):
    args = script.Args(rnn_size=8, hidden_sizes=(8, 8))
    torch.manual_seed(0)
    actor = script.Agent(3, 2, args).actor
    h, obs = torch.randn(4, 5, 8), torch.randn(4, 5, 3)
    action, log_prob = actor(h, obs, deterministic=True)
    for changed, same in (((h, obs + 1), True), ((h + 1, obs), False)):
        other, other_log_prob = actor(*changed, deterministic=True)
        stays = torch.equal(action, other), torch.equal(log_prob, other_log_prob)
        assert stays == (same, same), (
            "with the memory kept and another o_t the action must stay" if same else
            "with another memory the action must change")
