"""Occlusion: a known task from which the positions or the velocities have been taken away.

    Pendulum   cos  sin  speed          -P keeps | cos sin .   |     -V keeps | .  .  speed |
    CartPole   x  speed  angle  speed   -P keeps | x . angle . |     -V keeps | . speed . speed |
    LunarLander (needs Box2D)           -P keeps x, y, angle,        -V keeps their speeds,
                                        and both legs' contacts      and both legs' contacts
    HalfCheetah, Hopper, Walker2d, Ant  -P keeps height, attitude    -V keeps all velocities
    on MuJoCo (v5)                      and joint angles
    HalfCheetahBLT, HopperBLT,          the same, with the contacts  the same, but no rotation of
    WalkerBLT, AntBLT on PyBullet       of the feet and the bearing  the torso is observed at all

One observation is no longer a state: velocities must be had from successive positions (-P),
positions must be had by summing velocities up (-V, harder: errors pile up and the start is
unknown). Dynamics, reward, and termination are the base environment's (for PyBullet's first
episode see the TRAP below). The BLT bodies are the ones that the paper ran; their scores and those
of the MuJoCo bodies do not compare.

Source: Ni, Eysenbach, Salakhutdinov, "Recurrent Model-Free RL Can Be a Strong Baseline for Many
POMDPs", ICML 2022; the idea is Meng, Gorbet, Kulic, "Memory-based Deep RL for POMDPs", IROS 2021.
"""

import gymnasium as gym
import numpy as np

from envs.bases import METADATA, finite_box, make_base


def bullet(n_joints, n_feet):
    """Entries of a PyBullet body: height, bearing (2), velocity (3), roll and pitch, then angle and
    speed of each joint, then the contacts of the feet."""
    joints = range(8, 8 + 2 * n_joints, 2)
    feet = range(8 + 2 * n_joints, 8 + 2 * n_joints + n_feet)
    return {"P": [0, 1, 2, 6, 7, *joints, *feet], "V": [3, 4, 5, *(j + 1 for j in joints)]}


KEPT = {  # base id -> view -> the entries of the base observation that the agent still sees
    "Pendulum-v1": {"P": [0, 1], "V": [2]},
    "CartPole-v1": {"P": [0, 2], "V": [1, 3]},
    "LunarLander-v3": {"P": [0, 1, 4, 6, 7], "V": [2, 3, 5, 6, 7]},  # the legs' contacts in both
    # MuJoCo: qpos without what the reward moves along (x; of the ant x and y), then qvel.
    "HalfCheetah-v5": {"P": [*range(8)], "V": [*range(8, 17)]},
    "Hopper-v5": {"P": [*range(5)], "V": [*range(5, 11)]},
    "Walker2d-v5": {"P": [*range(8)], "V": [*range(8, 17)]},
    "Ant-v5": {"P": [*range(13)], "V": [*range(13, 27)]},
    "HalfCheetahBulletEnv-v0": bullet(n_joints=6, n_feet=6),
    "HopperBulletEnv-v0": bullet(n_joints=3, n_feet=1),
    "Walker2DBulletEnv-v0": bullet(n_joints=6, n_feet=2),
    "AntBulletEnv-v0": bullet(n_joints=8, n_feet=4),
}
BASE_KWARGS = {"Ant-v5": {"include_cfrc_ext_in_observation": False}}  # contact forces: left out


def paper(recurrent, markovian, oracle):
    return {"recurrent, paper": recurrent, "Markovian, paper": markovian, "oracle, paper": oracle}


REFERENCE_SCORES = {  # horizontal lines of a learning curve: name -> return of one episode
    "Pendulum-v1": {"full state (RL Zoo)": -157},
    "CartPole-v1": {"maximum": 200},
    "LunarLander-v3": {"landed well": 200},  # Gymnasium's own line for "solved"
    "HalfCheetah-v5": {"random": -284},
    "Hopper-v5": {"random": 17},
    "Walker2d-v5": {"random": 1},
    "Ant-v5": {"random": -52},
    "HalfCheetahBulletEnv-v0 P": paper(2693, 870, 2994),
    "HalfCheetahBulletEnv-v0 V": paper(1980, 518, 2994),
    "HopperBulletEnv-v0 P": paper(2133, 478, 2434),
    "HopperBulletEnv-v0 V": paper(1495, 228, 2434),
    "Walker2DBulletEnv-v0 P": paper(982, 472, 2225),
    "Walker2DBulletEnv-v0 V": paper(121, 214, 2225),
    "AntBulletEnv-v0 P": paper(348, 1133, 3394),
    "AntBulletEnv-v0 V": paper(1113, 645, 3394),
}


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
        self.base = make_base(base_id, render_mode, **BASE_KWARGS.get(base_id, {}))
        if "Bullet" in base_id:
            # TRAP: its first episode pays another first reward than all later ones, because the
            # floor becomes one of the parts of the body at the second reset.
            self.base.reset(seed=0)
            # TRAP: it turns the camera of a window, which is not there, and PyBullet looks for that
            # in the first world that was ever made: an error if it has been closed.
            self.base.unwrapped.camera_adjust = lambda: None
        self.render_mode = render_mode
        scores = REFERENCE_SCORES.get(base_id) or REFERENCE_SCORES[f"{base_id} {view}"]
        self.metadata = {**METADATA, "render_fps": self.base.metadata["render_fps"],
                         "reference_scores": scores}

        full = self.base.observation_space
        self.kept = list(range(full.shape[0])) if oracle else KEPT[base_id][view]
        self.observation_space = finite_box(full, self.kept)
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
