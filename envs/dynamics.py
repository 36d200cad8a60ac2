"""Robust and generalizing control: the body itself is not quite the one that was trained with.

At each reset the masses, the friction and the motors' power are drawn anew, relative to the body's
own values, and stay for the episode. Nothing tells them but how the body moves.

    mode D             the body as it is: 1, 1, 1
    mode R (random)    each parameter uniform in a range around 1
    mode E (extreme)   each parameter outside of that range, all of them at once

Robust:      density and friction in R; what counts is also the mean of the worst tenth.
Generalize:  power, too. Success: to get `success_distance` metres far. Train on D or R, test on D,
             R, E: RR is called interpolation, the mean of DR, DE and RE extrapolation.

Source: Ni, Eysenbach, Salakhutdinov, "Recurrent Model-Free RL Can Be a Strong Baseline for Many
POMDPs", ICML 2022; the ranges from Jiang et al., "Monotonic Robust Policy Optimization with Model
Discrepancy", ICML 2021 (Robust), and Packer et al., "Assessing Generalization in Deep RL", 2018
(Generalize). There the engine was Roboschool; here it is MuJoCo, so scores do not compare.
"""

import gymnasium as gym
import mujoco
import numpy as np

from envs.bases import METADATA, finite_box, make_base, with_caption
from envs.lanes import check_render_mode

PARAMETERS = ("density", "friction", "power")
DENSITY = (0.75, 1.25)
# task -> base id, {parameter: (lowest, highest) of mode R}
TASKS = {
    "HopperRobust": ("Hopper-v5", {"density": DENSITY, "friction": (0.625, 1.375)}),
    "WalkerRobust": ("Walker2d-v5", {"density": DENSITY, "friction": (0.25, 3.125)}),
    "CheetahRobust": ("HalfCheetah-v5", {"density": DENSITY, "friction": (0.25, 2.8125)}),
    "HopperGeneralize": (
        "Hopper-v5", {"density": DENSITY, "friction": (0.625, 1.375), "power": (0.8, 1.2)}),
    "CheetahGeneralize": (
        "HalfCheetah-v5",
        {"density": DENSITY, "friction": (0.625, 1.375), "power": (7 / 9, 11 / 9)}),
}
# mode E: the range of mode R lies in the middle of this one
OUTER = {
    "HopperGeneralize": {
        "density": (0.5, 1.5), "friction": (0.25, 1.75), "power": (8 / 15, 22 / 15)},
    "CheetahGeneralize": {
        "density": (0.5, 1.5), "friction": (0.25, 1.75), "power": (5 / 9, 13 / 9)},
}
RANDOM_PLAY = {  # task -> mode -> return
    "HopperRobust": {"R": 17}, "WalkerRobust": {"R": 1}, "CheetahRobust": {"R": -309},
    "HopperGeneralize": {"D": 16, "R": 15, "E": 15},
    "CheetahGeneralize": {"D": -287, "R": -294, "E": -251},
}
# 20 m in Roboschool's 16.5 s are 1.21 m/s; this is the same speed over an episode of MuJoCo's body.
SUCCESS_DISTANCE = {"HopperGeneralize": 9.7, "CheetahGeneralize": 60.6}


class DynamicsEnv(gym.Env):
    """A MuJoCo body (v5: observation, reward, end) whose mass, friction and power are drawn anew.

    Info: `task`, the three parameters relative to the body's own; in Generalize also `is_success`,
    whether the body has got `success_distance` far at any step so far.

    Args:
        task: a key of `TASKS`.
        mode: "D", "R" or "E"; E is for Generalize only.
        oracle: append the parameters that vary to the observation; in Robust scaled to [0, 1].
        friction: "relative" scales every sliding friction, the floor's too: MuJoCo takes the larger
            of two, so that a floor left alone would be a lower bound. "absolute" sets all of them
            to 0.64 times the parameter, as in the original engine, where feet slip more easily.
        success_distance: metres; None is the speed of the original's 20 m, see SUCCESS_DISTANCE.
        render_mode: None or "rgb_array".

    Raises:
        ValueError: an argument out of range.
    """

    metadata = METADATA

    def __init__(self, *, task, mode="R", oracle=False, friction="relative",
                 success_distance=None, render_mode=None):
        if task not in TASKS:
            raise ValueError(f"task={task!r} is unknown; use one of {sorted(TASKS)}")
        modes = "DRE" if task in OUTER else "DR"
        if mode not in list(modes):
            raise ValueError(f"mode={mode!r}: {task} has {', '.join(modes)}")
        if friction not in ("relative", "absolute"):
            raise ValueError(f"friction={friction!r}: use 'relative' or 'absolute'")
        check_render_mode(render_mode)
        base_id, self.inner = TASKS[task]
        self.task, self.mode, self.oracle, self.friction = task, mode, oracle, friction
        self.success_distance = SUCCESS_DISTANCE.get(task)
        if success_distance is not None:
            if self.success_distance is None or not 0 < success_distance < np.inf:
                raise ValueError(f"success_distance={success_distance!r}: use metres above 0, and "
                                 "in Generalize only")
            self.success_distance = success_distance
        self.render_mode, self.parameters = render_mode, None
        self.base = make_base(base_id, render_mode)
        scores = {"random": RANDOM_PLAY[task][mode]} if mode in RANDOM_PLAY[task] else {}
        self.metadata = {**METADATA, "render_fps": self.base.metadata["render_fps"],
                         "reference_scores": scores}
        self.model = self.base.unwrapped.model
        # Everything is scaled from these copies, so that nothing adds up over resets.
        self.nominal = {"mass": self.model.body_mass.copy(),
                        "inertia": self.model.body_inertia.copy(),
                        "friction": self.model.geom_friction[:, 0].copy(),
                        "gear": self.model.actuator_gear[:, 0].copy()}
        box = finite_box(self.base.observation_space)
        extra = len(self.inner) * oracle
        self.observation_space = gym.spaces.Box(
            np.append(box.low, [-10.0] * extra).astype(np.float32),
            np.append(box.high, [10.0] * extra).astype(np.float32))
        self.action_space = gym.spaces.Box(-1.0, 1.0, self.base.action_space.shape, np.float32)

    def draw_parameters(self):
        """-> (density, friction, power), relative to the body's own values."""
        values = dict.fromkeys(PARAMETERS, 1.0)
        for name, (low, high) in self.inner.items():
            if self.mode == "R":
                values[name] = self.np_random.uniform(low, high)
            elif self.mode == "E":  # below or above, both sides are equally wide
                lowest, highest = OUTER[self.task][name]
                below = self.np_random.random() < 0.5
                side = (lowest, low) if below else (high, highest)
                values[name] = self.np_random.uniform(*side)
        return tuple(values.values())

    def set_parameters(self, density, friction, power):
        """Write them into the compiled model. Where the body is now does not change."""
        self.model.body_mass[:] = density * self.nominal["mass"]
        self.model.body_inertia[:] = density * self.nominal["inertia"]
        of_geoms = self.nominal["friction"] if self.friction == "relative" else 0.64
        self.model.geom_friction[:, 0] = friction * of_geoms
        self.model.actuator_gear[:, 0] = power * self.nominal["gear"]
        # TRAP: subtree masses and the contacts' inverse weights are constants of the model that
        # stay as they were until this; its data is a scratch one, it would be moved.
        mujoco.mj_setConst(self.model, mujoco.MjData(self.model))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        forced = (options or {}).get("task")
        self.parameters = self.draw_parameters() if forced is None else tuple(forced)
        if len(self.parameters) != 3 or not all(0 < p < np.inf for p in self.parameters):
            raise ValueError(f"task={forced!r}: use (density, friction, power), each above 0")
        self.set_parameters(*self.parameters)
        # TRAP: a seed of its own: else the start would be drawn from the numbers that made the body
        base_seed = None if seed is None else int(self.np_random.integers(2**31))
        state, _ = self.base.reset(seed=base_seed)
        self.is_success = False
        return self._observe(state), self._info()

    def step(self, action):
        state, reward, terminated, truncated, _ = self.base.step(
            np.clip(np.asarray(action, np.float64), -1.0, 1.0))
        if self.success_distance:
            x = self.base.unwrapped.data.qpos[0]
            self.is_success = bool(self.is_success or x >= self.success_distance)
        return (self._observe(state), float(reward), bool(terminated), bool(truncated),
                self._info())

    def _observe(self, state):
        shown = []
        if self.oracle:
            values = dict(zip(PARAMETERS, self.parameters))
            scale = {name: (0.0, 1.0) if self.task in OUTER else self.inner[name]
                     for name in self.inner}
            shown = [(values[k] - low) / (high - low) for k, (low, high) in scale.items()]
        return np.append(state, shown).astype(np.float32)  # (O,), a new array

    def _info(self):
        info = {"task": np.array(self.parameters, np.float32)}
        if self.success_distance:
            info["is_success"] = self.is_success
        return info

    def render(self):
        """The body, and what is hidden written above it; None without "rgb_array"."""
        if self.render_mode is None:
            return None
        if self.parameters is None:
            raise gym.error.ResetNeeded("render(): no episode is running; call reset() first")
        values = "   ".join(f"{k} {v:.2f}" for k, v in zip(PARAMETERS, self.parameters))
        return with_caption(self.base.render(), f"hidden: {values}")

    def close(self):
        self.base.close()
