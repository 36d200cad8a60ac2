"""Lesson 1: the agent also sees how much time has passed: t / 100, as a last entry of o_t."""

import numpy as np


def test_the_last_entry_counts_the_steps(script):
    env = script.POMDP(script.Args(env_id="Wind-v0"), 3)
    assert env.obs_dim == 3  # x, y, time
    obs = [env.reset(seed=0)]
    for _ in range(5):
        obs.append(env.step(np.zeros((3, 2), np.float32))[0])
    obs = np.stack(obs)  # (6, 3, 3)
    assert obs.dtype == np.float32 and obs.shape == (6, 3, 3)
    np.testing.assert_allclose(obs[..., 2], np.arange(6)[:, None] / 100 * np.ones(3), atol=1e-6)
    assert (env.reset(seed=1)[:, 2] == 0).all()


def test_the_buffer_gets_it_too(script):
    env = script.POMDP(script.Args(env_id="Wind-v0"), 2)
    rows, n_steps, *_ = script.play(env, lambda *_: (np.zeros((2, 2), np.float32), None), seed=0)
    assert n_steps.tolist() == [75, 75] and rows["obs"].shape == (76, 2, 3)
    np.testing.assert_allclose(rows["obs"][:, 1, 2], np.arange(76) / 100, atol=1e-6)
