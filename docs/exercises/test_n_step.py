"""Lesson 6: 3-step targets in place of lambda-returns: td_targets adds up three rewards, then the
value; fewer where the sequence, the episode or the future (a terminal step) ends."""

import torch


def test_targets_are_those_computed_by_hand(script):
    # Rewards 1, 2, 4, 8, 16, values of the next step 10, 20, 30, 40, 50, gamma 1/2.
    reward = torch.tensor([1.0, 2, 4, 8, 16])[:, None].repeat(1, 4)
    value = torch.tensor([10.0, 20, 30, 40, 50])[:, None].repeat(1, 4)
    mask, terminal = torch.ones(5, 4), torch.zeros(5, 4)
    terminal[1, 1] = 1  # column 1 is in the goal at its second step
    mask[3:, 2] = 0  # column 2 is truncated after its third step
    terminal[2, 3] = 1  # column 3 is in the goal at its third step
    batch = script.Batch(None, None, None, None, reward, terminal, mask)
    y = script.td_targets(batch, value, script.Args(gamma=0.5))
    full = [1 + 2 / 2 + 4 / 4 + 30 / 8, 2 + 4 / 2 + 8 / 4 + 40 / 8, 4 + 8 / 2 + 16 / 4 + 50 / 8,
            8 + 16 / 2 + 50 / 4, 16 + 50 / 2]
    assert y[:, 0].tolist() == full, "an episode that goes on behind the sequence"
    assert y[:, 1].tolist() == [1 + 2 / 2, 2.0, *full[2:]], "a goal at the second step"
    truncated = [full[0], 2 + 4 / 2 + 30 / 4, 4 + 30 / 2]
    assert y[:3, 2].tolist() == truncated, "an episode that is cut off after three steps"
    in_goal = [1 + 2 / 2 + 4 / 4, 2 + 4 / 2, 4.0, *full[3:]]
    assert y[:, 3].tolist() == in_goal, "a goal at the third step: no value is added there, either"
