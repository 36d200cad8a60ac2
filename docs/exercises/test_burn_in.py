"""Lesson 4: burn-in. The first 5 steps of a window that begins inside an episode only warm up the
memory: they count in no loss. A window that begins with its episode needs no warming up."""

import numpy as np


def test_the_first_steps_of_a_window_do_not_count(script):
    row_type = np.dtype([("obs", "f4", (2,)), ("prev_action", "f4", (1,)), ("prev_reward", "f4"),
                         ("terminal", "?")])
    buffer = script.SequenceBuffer(row_type, 1000)
    n_steps = np.array([40, 40, 25])
    rows = np.zeros((41, 3), row_type)
    rows["obs"][..., 0] = np.arange(41)[:, None]  # an observation is the time, and the length
    rows["obs"][..., 1] = n_steps
    rows["terminal"][25, 2] = True  # so that windows may be short there
    buffer.add(rows, n_steps)
    args = script.Args(batch_size=8, context_length=10, rewarded_fraction=0.0)
    seen = set()
    for seed in range(20):
        batch = buffer.sample(args, np.random.default_rng(seed), "cpu")
        for b in range(8):
            start, n = batch.obs[0, b].tolist()
            warm_up, padded = 5 if start > 0 else 0, start + 10 > n
            expected = [float(i >= warm_up and start + i < n) for i in range(len(batch.mask))]
            assert batch.mask[:, b].tolist() == expected, (
                f"mask of a window of 10 from step {start:.0f} of an episode of {n:.0f}")
            seen.add((start > 0, padded))
    assert seen == {(False, False), (True, False), (True, True)}, "other windows than before"
