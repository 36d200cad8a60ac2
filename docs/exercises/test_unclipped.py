"""Lesson 3: policy_loss of ppo_gru_baseline.py without its clip: -mean(ratio * advantage)."""

import pytest
import torch


def test_a_large_ratio_counts_in_full(script):
    ratio, mask = torch.tensor([[3.0, 0.5, 9.0]]), torch.tensor([[1.0, 1, 0]])
    loss, _ = script.policy_loss(ratio.log(), torch.zeros(1, 3), torch.tensor([[2.0, -2, 9]]), mask,
                                 script.Args())
    assert loss.item() == pytest.approx(-(3 * 2 - 0.5 * 2) / 2)
