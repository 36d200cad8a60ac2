"""Lesson 4: burn-in. The first 5 steps of a window that begins inside an episode only warm up the
memory: they count in no loss. A window that begins with its episode needs no warming up."""

from types import SimpleNamespace

import numpy as np


def test_the_first_steps_of_a_window_do_not_count(script, tmp_path):
    env = SimpleNamespace(obs_dim=1, obs_dtype=np.float32, action_dim=1)
    row_type = script.row_dtype(env)
    buffer = script.SequenceBuffer(tmp_path / "rows", row_type, 1000)
    rows = np.zeros((41, 3), row_type)
    rows["obs"][..., 0] = np.arange(41)[:, None]  # the observation is the time
    buffer.add(script.Episodes(rows, np.full(3, 40), None))
    seen = set()
    for seed in range(20):
        batch = buffer.sample(8, 10, 0.0, np.random.default_rng(seed), "cpu")
        for b in range(8):
            inside = batch.obs[0, b, 0] > 0
            expected = [0.0] * 5 + [1.0] * 5 if inside else [1.0] * 10
            assert batch.mask[:, b].tolist() == expected
            seen.add(bool(inside))
    assert seen == {True, False}
