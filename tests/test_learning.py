"""What is true of learning: memory pays where memory is needed, and only there.

The default tests play a task of their own in which the past is all that counts. At each step the
agent sees a fresh coin o_t in {-1, +1} and is paid for naming the *last* one:

    r_t = 1 - |a_t - o_{t-1}|   with a_t in [-1, 1];  r_0 = 0;  10 steps

Perfect memory scores 9. Without memory o_{t-1} is a fair coin, independent of all that is seen, so
any action earns (1 - |a - 1| + 1 - |a + 1|) / 2 = 0 on average: the best memoryless policy scores
exactly 0, and one held-out mean over 100 episodes lies within 0.9 of it (three standard errors of
at most 0.3). So a score of 7.2 proves memory, and a score below 1.35 its absence.
"""

import gymnasium as gym
import numpy as np
import pytest
from conftest import numbers

import rmf_sac_discrete_pixels as pixels
import rmf_sac_gru as rmf
import rmf_td3_lstm as td3

STEPS, MAXIMUM = 10, 9


class LastCoinEnv(gym.Env):
    """The task above. With `oracle=True` the last coin is seen as well."""

    def __init__(self, oracle=False):
        self.oracle = oracle
        self.observation_space = gym.spaces.Box(-1, 1, (1 + oracle,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def _toss(self, last):
        self.last, self.coin = last, 2 * int(self.np_random.integers(2)) - 1
        return np.array([self.coin, self.last][: 1 + self.oracle], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._toss(last=0), {}

    def step(self, action):
        reward = 1 - abs(float(action[0]) - self.last) if self.t else 0.0
        self.t += 1
        return self._toss(last=self.coin), reward, False, self.t == STEPS, {}


gym.register("LastCoin-v0", entry_point=LastCoinEnv, kwargs={"oracle": False})


def final_score(tmp_path, **fields):
    folder = rmf.train(rmf.Args(**dict(runs_dir=str(tmp_path / "runs")) | fields))
    return numbers(folder, "eval/return_mean")[-1]


@pytest.mark.parametrize("script", [rmf, td3, pixels], ids=lambda s: s.__name__)
def test_a_gamble_that_is_worth_less_is_not_taken(script, tmp_path, no_pictures):
    """1 for sure, or 10 with probability 0.05. With half of each batch from episodes that paid,
    --rewarded-fraction 0.5, both kinds of SAC take the gamble."""
    env_id = "toy_envs:Lottery" + ("Discrete" if script is pixels else "")
    folder = script.main(
        f"--env-id {env_id}-v0 --total-timesteps 3000 --learning-starts 1000 --hidden-sizes 32"
        f" --rnn-size 16 --embeddings 8 8 8 --runs-dir {tmp_path}".split())
    assert numbers(folder, "eval/return_mean")[-1] >= 0.98
    assert numbers(folder, "losses/q_policy")[-1] < 1.2  # nothing pays more than 1 on average


def last_coin(tmp_path, policy, seed):
    return final_score(
        tmp_path, env_id="LastCoin-v0", policy=policy, seed=seed, total_timesteps=1500,
        num_envs=5, learning_starts=500, eval_interval=1500, eval_episodes=100, inputs="o",
        rnn_size=16, hidden_sizes=(32,), embeddings=(8, 4, 4), gamma=0.5, batch_size=32,
        updates_per_step=0.3, learning_rate=5e-3, alpha=0.05, tau=0.02)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_with_memory_the_last_coin_is_named(seed, tmp_path):
    assert last_coin(tmp_path, "recurrent", seed) >= 0.8 * MAXIMUM


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_without_memory_it_is_not(seed, tmp_path):
    assert abs(last_coin(tmp_path, "markov", seed)) <= 0.15 * MAXIMUM


def test_without_memory_it_is_named_once_it_is_seen(tmp_path):
    assert last_coin(tmp_path, "oracle", 1) >= 0.8 * MAXIMUM


# --- SLOW -----------------------------------------------------------------------------------------


def wind(tmp_path, *flags):
    folder = rmf.main(["--env-id", "Wind-v0", *flags, "--runs-dir", str(tmp_path)])
    return numbers(folder, "eval/return_mean")[-1]


@pytest.mark.slow
def test_wind_is_solved_with_memory(tmp_path):
    assert wind(tmp_path) >= 60  # perfect play with the wind known: about 63; published: 63.7


@pytest.mark.slow
def test_wind_is_not_solved_without_memory(tmp_path):
    assert wind(tmp_path, "--policy", "markov") < 40  # published: 18.4
