"""Lesson 1: the agent also sees how much time has passed: t / 100, as a last entry of o_t."""

import numpy as np


def test_the_last_entry_counts_the_steps(script):
    env = script.POMDP(script.Args(env_id="Wind-v0"), 3)
    assert env.obs_dim == 3, "o_t is x, y and the time"
    obs = [env.reset(seed=0)]
    for _ in range(5):
        obs.append(env.step(np.zeros((3, 2), np.float32))[0])
    obs = np.stack(obs)  # (6, 3, 3)
    assert obs.dtype == np.float32, "observations are float32"
    assert obs.shape == (6, 3, 3), "steps, lanes, entries of o_t"
    time = np.arange(6)[:, None] / 100 * np.ones(3)
    assert np.allclose(obs[..., 2], time, atol=1e-6), "after t steps the last entry is t / 100"
    assert (env.reset(seed=1)[:, 2] == 0).all(), "a new episode starts at time 0"


def test_the_buffer_gets_it_too(script):
    env = script.POMDP(script.Args(env_id="Wind-v0"), 2)
    rows, n_steps, *_ = script.play(env, lambda *_: (np.zeros((2, 2), np.float32), None), seed=0)
    assert n_steps.tolist() == [75, 75] and rows["obs"].shape == (76, 2, 3)
    assert np.allclose(rows["obs"][:, 1, 2], np.arange(76) / 100, atol=1e-6), "time in the rows"
