"""Occlusion: a known task from which the positions or the velocities have been taken away.

    Pendulum   cos  sin  speed          -P keeps | cos sin .   |     -V keeps | .  .  speed |
    CartPole   x  speed  angle  speed   -P keeps | x . angle . |     -V keeps | . speed . speed |
    LunarLander (needs Box2D)           -P keeps x, y, angle,        -V keeps their speeds,
                                        and both legs' contacts      and both legs' contacts

One observation is no longer a state: velocities must be had from successive positions (-P),
positions must be had by summing velocities up (-V, harder: errors pile up and the start is
unknown). Dynamics, reward, and termination are the base environment's.

Source: Ni, Eysenbach, Salakhutdinov, "Recurrent Model-Free RL Can Be a Strong Baseline for Many
POMDPs", ICML 2022; the idea is Meng, Gorbet, Kulic, "Memory-based Deep RL for POMDPs", IROS 2021.
"""

import gymnasium as gym
import numpy as np

KEPT = {  # base id -> view -> the entries of the base observation that the agent still sees
    "Pendulum-v1": {"P": [0, 1], "V": [2]},
    "CartPole-v1": {"P": [0, 2], "V": [1, 3]},
    "LunarLander-v3": {"P": [0, 1, 4, 6, 7], "V": [2, 3, 5, 6, 7]},  # the legs' contacts in both
}
REFERENCE_SCORES = {  # horizontal lines of a learning curve: name -> return of one episode
    "Pendulum-v1": {"full-state SAC": -157},
    "CartPole-v1": {"maximum": 200},
    "LunarLander-v3": {"landed well": 200},  # Gymnasium's own line for "solved"
}
METADATA = {"render_modes": ["rgb_array"], "render_fps": 30}
# Some velocities have no bound. Gymnasium's checker wants a finite one; no real value comes near.
UNBOUNDED = 1e6


class OccludedEnv(gym.Env):
    """Base environment `base_id` of which the agent sees the entries `KEPT[base_id][view]` only.

    Observation: float32, (number of kept entries,); the full base observation with `oracle=True`.
    Action: discrete ones as they are; a Box is advertised as [-1, 1] and mapped affinely onto the
    base's box. A plain `gym.Env` that owns its base, not a `gym.Wrapper`, so that a spec made from
    it does not wrap twice and `check_env` checks the occluded task itself.

    Args:
        base_id: a key of `KEPT`.
        view: "P" (positions) or "V" (velocities).
        oracle: show the full observation; the upper bound for any memory.
        render_mode: None or "rgb_array", passed on to the base.

    Raises:
        ValueError: unknown `base_id` or `view`.
    """

    metadata = METADATA

    def __init__(self, *, base_id, view, oracle=False, render_mode=None):
        if base_id not in KEPT:
            raise ValueError(f"base_id={base_id!r} has no table of entries; use {sorted(KEPT)}")
        if view not in KEPT[base_id]:
            raise ValueError(f"view={view!r} is unknown; use one of {sorted(KEPT[base_id])}")
        # -1 switches the base's own TimeLimit off: the limit registered for *this* id counts.
        try:
            self.base = gym.make(
                base_id, max_episode_steps=-1, disable_env_checker=True, render_mode=render_mode
            )
        except gym.error.DependencyNotInstalled as error:
            raise gym.error.DependencyNotInstalled(
                f"{base_id} needs Box2D; run `pip install -r requirements-box2d.txt`."
            ) from error
        self.render_mode = render_mode
        self.metadata = {
            **METADATA,
            "render_fps": self.base.metadata["render_fps"],
            "reference_scores": REFERENCE_SCORES[base_id],
        }

        full = self.base.observation_space
        self.kept = list(range(full.shape[0])) if oracle else KEPT[base_id][view]
        self.observation_space = gym.spaces.Box(
            np.clip(full.low[self.kept], -UNBOUNDED, UNBOUNDED).astype(np.float32),
            np.clip(full.high[self.kept], -UNBOUNDED, UNBOUNDED).astype(np.float32),
        )
        self.base_action_space = self.base.action_space
        self.is_continuous = isinstance(self.base_action_space, gym.spaces.Box)
        if self.is_continuous:
            self.action_space = gym.spaces.Box(-1.0, 1.0, self.base_action_space.shape, np.float32)
        else:
            self.action_space = self.base_action_space

    def _see(self, full_obs):
        return np.asarray(full_obs, np.float32)[self.kept]  # a list index copies: a new array

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)  # the base draws from its own generator, seeded on the next line
        full_obs, info = self.base.reset(seed=seed, options=options)
        return self._see(full_obs), info

    def step(self, action):
        if self.is_continuous:
            low, high = self.base_action_space.low, self.base_action_space.high
            unit = (np.clip(np.asarray(action, np.float64), -1.0, 1.0) + 1.0) / 2.0  # in [0, 1]
            # float64 in between: in float32, adding 1 would cost a small action its last digits
            action = (low + unit * (high - low)).astype(self.base_action_space.dtype)
        full_obs, reward, terminated, truncated, info = self.base.step(action)
        return self._see(full_obs), float(reward), bool(terminated), bool(truncated), info

    def render(self):
        return self.base.render()

    def close(self):
        self.base.close()
