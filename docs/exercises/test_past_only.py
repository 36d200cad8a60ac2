"""Lesson 8: a belief of the past alone. From what is believed at time t the steps before t are to
be told, and no others; the error is still a mean over all steps of the episode, 0 for the rest."""

import torch


def test_only_what_was_is_told(script):
    n_steps, M = torch.tensor([5, 3]), 20_000  # two episodes, and so many times t of each
    args = script.Args(elbo_terms=M, kl_weight=0.0)
    agent = script.Agent(2, 1, args)
    optimizer = torch.optim.SGD(agent.vae.parameters(), 0.0)
    mask = (torch.arange(5)[:, None] < n_steps).float()  # (T, B)
    episodes = {"obs": torch.zeros(6, 2, 2), "prev_action": torch.zeros(6, 2, 1),
                "prev_reward": torch.zeros(6, 2), "terminal": torch.zeros(6, 2), "mask": mask}
    for k in range(5):
        error = torch.zeros(5, 2)
        error[k] = 1.0  # step k is told wrong by 1, all others right; behind the end, too
        agent.vae.decode = lambda m, x, error=error: error.expand(M, 5, 2)
        torch.manual_seed(k)
        scalars = script.update_belief(agent, optimizer, episodes, args)
        # t is any of 0 to n: n - k of these n + 1 are later than k.
        share = ((n_steps - k).clamp(min=0) / (n_steps + 1) / n_steps).mean()
        counts = scalars["losses/reconstruction"]
        assert abs(counts - share) < 0.003, f"step {k} counts {counts:.3f}, not {share:.3f}"
