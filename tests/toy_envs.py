"""Tiny environments for the tests: what they show and pay says where it was shown and paid."""

import gymnasium as gym
import numpy as np


class ClockEnv(gym.Env):
    """Observation (lane, episode, t, executed action...), reward 10 * lane + t, for t = 1, 2, ...

    Lanes are numbered 10, 11, ..., as the last digits of the seed of the first reset count them. An
    episode of lane i has 2 + i % 4 steps; in even lanes the last one terminates, in odd lanes it is
    truncated.

    Args:
        oracle: append a last entry, 7, that is hidden otherwise.
        goal_at: this step is inside the goal; None: no such thing.
        success_at: this step succeeds, and so does every step of the second episode and later.
        number: type of the success in `info`, bool or a kind of number.
        endless: no episode ends.
        dtype: of the actions.
        split: a word of its own, which the script must leave alone.
    """

    def __init__(self, low=(-1, -1), high=(1, 1), oracle=False, goal_at=None, success_at=None,
                 number=bool, endless=False, dtype=np.float32, split=None):
        self.oracle, self.goal_at, self.success_at = oracle, goal_at, success_at
        self.number, self.endless, self.split = number, endless, split
        self.action_space = gym.spaces.Box(np.array(low, dtype), np.array(high, dtype), dtype=dtype)
        self.observation_space = gym.spaces.Box(-1e6, 1e6, (3 + len(low) + oracle,), np.float32)
        self.lane, self.episode = 0, -1

    def _see(self, action):
        hidden = [7] if self.oracle else []
        return np.array([self.lane, self.episode, self.t, *action, *hidden], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.lane, self.episode = 10 + seed % 1000, -1
        self.episode, self.t = self.episode + 1, 0
        return self._see(np.zeros(self.action_space.shape)), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        ended = self.t >= 2 + self.lane % 4 and not self.endless
        info = {}
        if self.goal_at is not None:
            info["is_goal"] = self.t == self.goal_at
        if self.success_at is not None:
            info["is_success"] = self.number(self.t == self.success_at or self.episode > 0)
        terminated = ended and self.lane % 2 == 0
        return self._see(action), 10.0 * self.lane + self.t, terminated, ended != terminated, info


class LotteryEnv(gym.Env):
    """One step. Action 0, or one below 0, pays 1; action 1, or one above 0, pays 10 in one of 20
    episodes. So the first is worth 1 and the second 0.5."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, discrete=False):
        self.action_space = gym.spaces.Discrete(2) if discrete else gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        gamble = np.ravel(action)[0] > 0
        reward = 10.0 * (self.np_random.random() < 0.05) if gamble else 1.0
        return np.zeros(1, np.float32), reward, True, False, {}


class BlankEnv(ClockEnv):
    """Has nothing to draw, and says so late."""

    def render(self):
        return None


class RefusedEnv(gym.Env):
    """Spaces that the script does not take."""

    def __init__(self, obs_space, action_space):
        self.observation_space, self.action_space = obs_space, action_space


class PictureEnv(gym.Env):
    """Bytes: every pixel of channel c is 100 * c + 10 * t + the executed action; 4 steps, reward t.
    Actions start at 1."""

    def __init__(self, shape=(8, 9, 3)):
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)
        self.action_space = gym.spaces.Discrete(3, start=1)

    def _see(self, action):
        picture = np.full(self.observation_space.shape, 10 * self.t + action, np.uint8)
        if picture.shape[-1] == 3:
            picture += np.array([0, 100, 200], np.uint8)
        return picture

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._see(0), {}

    def step(self, action):
        self.t += 1
        return self._see(action), float(self.t), self.t == 4, False, {}


VECTOR = gym.spaces.Box(-1, 1, (2,))
IDS = {
    "Clock-v0": (ClockEnv, {}),
    "ClockOracle-v0": (ClockEnv, {"oracle": False}),
    "ClockTwo-v0": (ClockEnv, {"low": (-2, -2), "high": (2, 2)}),
    "ClockSkewed-v0": (ClockEnv, {"low": (0, -1), "high": (10, 3)}),
    "ClockGoal-v0": (ClockEnv, {"goal_at": 2}),
    "ClockSuccess-v0": (ClockEnv, {"success_at": 3}),
    "ClockNumber-v0": (ClockEnv, {"success_at": 3, "number": np.float32}),
    "ClockEndless-v0": (ClockEnv, {"endless": True}),
    "ClockUneven-v0": (ClockEnv, {"low": (-1, -1), "high": (0.7, 0.7)}),  # rounds to 0.70000005
    "ClockDouble-v0": (ClockEnv, {"low": (-0.1, -3), "high": (0.1, 1), "dtype": np.float64}),
    "ClockSplit-v0": (ClockEnv, {"split": 0.8}),
    "Lottery-v0": (LotteryEnv, {}),
    "LotteryDiscrete-v0": (LotteryEnv, {"discrete": True}),
    "Blank-v0": (BlankEnv, {}),
    "Image-v0": (RefusedEnv, {"obs_space": gym.spaces.Box(0, 255, (8, 8, 3), np.uint8),
                              "action_space": VECTOR}),
    "Dict-v0": (RefusedEnv, {"obs_space": gym.spaces.Dict(a=VECTOR), "action_space": VECTOR}),
    "Unbounded-v0": (RefusedEnv, {"obs_space": VECTOR,
                                  "action_space": gym.spaces.Box(-np.inf, np.inf, (2,))}),
}
IDS |= {f"{name}-v0": (PictureEnv, {"shape": shape}) for name, shape in {
    "Picture": (8, 9, 3), "PictureFirst": (2, 8, 9), "PictureGrey": (8, 9), "PictureLarge":
    (64, 70, 3), "PictureTiny": (9, 2, 3)}.items()}
for env_id, (env, kwargs) in IDS.items():
    gym.register(env_id, entry_point=env, kwargs=kwargs)

# The same with a limit of steps, and real tasks that are over soon.
gym.register("ClockCut-v0", entry_point=ClockEnv, max_episode_steps=2)
gym.register("ClockLimited-v0", entry_point=ClockEnv, kwargs={"endless": True}, max_episode_steps=9)
gym.register("PendulumShort-v0", entry_point="envs.occlusion:OccludedEnv", max_episode_steps=10,
             kwargs={"base_id": "Pendulum-v1", "view": "V", "oracle": False})
gym.register("KeyToDoorShort-v0", entry_point="envs.credit:KeyToDoorEnv", max_episode_steps=25,
             vector_entry_point="envs.credit:KeyToDoorVectorEnv", kwargs={"distractor_steps": 60})
