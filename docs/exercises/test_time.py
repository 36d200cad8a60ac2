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
