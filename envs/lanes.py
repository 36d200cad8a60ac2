"""From N lanes in NumPy to Gymnasium: the two shells around the dynamics of this package.

A `Lanes` object holds the dynamics of N copies of a task that all end together. Around it,
`LanesVectorEnv` is N lanes for training and `LanesEnv` is one lane, a `gymnasium.Env`: one
implementation serves both. What the shells ask of `lanes`:

    num_lanes, observation_space, action_space      of one lane
    terminates                                      is its own end terminal, or truncated?
    t                                               steps since the episode began
    begin(rng, seed, options) -> obs (N, ...), info               a new episode in every lane;
                                                    seed: the one of the reset, or None
    step(action (N, ...), rng) -> obs, reward (N,), over, info    over: one bool for all lanes
    frame(lane) -> picture, uint8 (height, width, 3)

Every value of an info is an array with N rows.
"""

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


def check_count(name, value):
    if not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}={value!r} is not a count; use an integer >= 1")


def check_seed(name, value):
    if not isinstance(value, (int, np.integer)) or value < 0:
        raise ValueError(f"{name}={value!r} is not a seed; use an integer >= 0")


def check_render_mode(render_mode):
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode={render_mode!r} is unknown; use None or 'rgb_array'")


class LanesEnv(gym.Env):
    """One lane as a `gymnasium.Env`: obs (O,), reward float, one end at the end of the episode."""

    def __init__(self, lanes, render_mode):
        check_render_mode(render_mode)
        self.lanes, self.render_mode = lanes, render_mode
        self.observation_space, self.action_space = lanes.observation_space, lanes.action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        obs, info = self.lanes.begin(self.np_random, seed, options or {})
        return obs[0], self._first(info)

    def step(self, action):
        obs, reward, over, info = self.lanes.step(np.asarray(action)[None], self.np_random)
        terminated, truncated = (over, False) if self.lanes.terminates else (False, over)
        return obs[0], float(reward[0]), terminated, truncated, self._first(info)

    @staticmethod
    def _first(info):  # row 0; a single number as a Python number
        return {key: v[0] if v.ndim > 1 else v[0].item() for key, v in info.items()}

    def render(self):
        return self.lanes.frame(0) if self.render_mode == "rgb_array" else None


class LanesVectorEnv(VectorEnv):
    """N lanes as a native `gymnasium.vector.VectorEnv`; no loop over sub-environments.

    One generator serves all lanes, so results depend on `num_envs`. `max_episode_steps` cuts the
    episode there (truncated), as `TimeLimit` does around a single environment.

    Autoreset, `autoreset_mode` NEXT_STEP (default) or SAME_STEP, as in `SyncVectorEnv`:
    NEXT_STEP: the step after the last one ignores the action, returns the reset observation and
        reward 0. It joins two episodes and is no transition: do not store it, do not count it.
    SAME_STEP: the last step already returns the next episode's first observation; the true last one
        is in `info["final_obs"]` (mask `info["_final_obs"]`), its info in `info["final_info"]`.
    """

    def __init__(self, lanes, render_mode, max_episode_steps, autoreset_mode):
        check_render_mode(render_mode)
        if autoreset_mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            raise ValueError(
                f"autoreset_mode={autoreset_mode!r} is not supported; use AutoresetMode.NEXT_STEP "
                "or AutoresetMode.SAME_STEP"
            )
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(
                f"max_episode_steps={max_episode_steps} would end every trial before its first "
                "step; use an integer >= 1, or None for the whole trial"
            )
        self.lanes, self.render_mode = lanes, render_mode
        self.num_envs = lanes.num_lanes
        self.single_observation_space = lanes.observation_space
        self.single_action_space = lanes.action_space
        self.observation_space = batch_space(lanes.observation_space, self.num_envs)
        self.action_space = batch_space(lanes.action_space, self.num_envs)
        self.max_episode_steps, self.autoreset_mode = max_episode_steps, autoreset_mode
        self.metadata = {**self.metadata, "autoreset_mode": autoreset_mode}
        self.reset_is_due = False  # NEXT_STEP: the coming step() will be a reset

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        obs, info = self.lanes.begin(self.np_random, seed, options or {})
        self.reset_is_due = False
        return obs, self._with_masks(info)

    def step(self, actions):
        N = self.num_envs
        if self.reset_is_due:
            obs, info = self.reset()
            return obs, np.zeros(N), np.zeros(N, bool), np.zeros(N, bool), info

        obs, reward, over, info = self.lanes.step(actions, self.np_random)
        terminated = over and self.lanes.terminates
        truncated = (over and not terminated) or self.lanes.t == self.max_episode_steps
        info = self._with_masks(info)
        if (terminated or truncated) and self.autoreset_mode == AutoresetMode.SAME_STEP:
            last_obs, last_info = np.full(N, None, object), info
            last_obs[:] = list(obs)  # object array of N arrays (O,), as SyncVectorEnv gives it
            obs, info = self.reset()
            info |= self._with_masks({"final_obs": last_obs, "final_info": last_info})
        elif terminated or truncated:
            self.reset_is_due = True
        return obs, reward, np.full(N, terminated), np.full(N, truncated), info

    def _with_masks(self, info):
        # Gymnasium's convention: "_key" tells which lanes have "key". Here always all of them.
        return info | {f"_{key}": np.ones(self.num_envs, bool) for key in info}

    def render(self):
        """Return a tuple of frames, one per lane; None without `render_mode="rgb_array"`."""
        if self.render_mode != "rgb_array":
            return None
        return tuple(self.lanes.frame(lane) for lane in range(self.num_envs))
