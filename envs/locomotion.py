"""Meta-RL in bodies: run at a speed, or in a direction, that nobody tells.

    CheetahVel    hidden: a speed in [0, 3]             CheetahDir    hidden: forwards or backwards
    AntDir        hidden: one of two directions         HumanoidDir   hidden: any direction

A *trial* is `episodes_per_trial` (k) episodes of at most `horizon` (H) steps in Gymnasium's MuJoCo
bodies (v5), with the same hidden task. What the reward says in the first episode is worth most in
the second. A trial is what Gymnasium calls an episode. Its inner boundary (the end of an episode
that is not the last, by time or by a fall) is that of point_mass.py:

    last step   the final observation of the old episode is returned, with flag = 1
                ... the body is set up anew behind the scenes, the task is kept ...
    next step   the action was chosen blindly; what it leads to is returned, with flag = 0

So a fall in the first episode costs what is left of it. A trial ends with the last episode: by time
(truncated), or by a fall before its time is over (terminated).

Source: Ni, Eysenbach, Salakhutdinov, "Recurrent Model-Free RL Can Be a Strong Baseline for Many
POMDPs", ICML 2022. The tasks are those of variBAD (Zintgraf et al., ICLR 2020) and off-policy
variBAD (Dorfman, Shenfeld, Tamar, NeurIPS 2021); rewards and observations follow them.
"""

import gymnasium as gym
import numpy as np

from envs.bases import METADATA, UNBOUNDED, finite_box, make_base, with_caption
from envs.lanes import check_count, check_render_mode, check_seed


class LocomotionTrial(gym.Env):
    """k episodes in one body with one hidden task. What a task must define is below.

    Observation: float32, what the body observes, then the task if `oracle`, then the episode-done
    flag (if k > 1). Action: Box [-1, 1], times `torque` the body's command.

    Info: `task` (the hidden vector, as the oracle sees it), `episode_done` (bool).

    Args:
        horizon: H, steps per episode.
        episodes_per_trial: k.
        oracle: show the task.
        render_mode: None or "rgb_array".

    `reset(options={"task": ...})` sets the task instead of drawing it; ValueError if it is not a
    vector within `task_low` and `task_high`.
    """

    metadata = METADATA
    base_id: str
    base_kwargs = {}
    torque = 1.0  # the body's command at action = 1
    n_position = 0  # how many entries of the torso's position are observed, too
    task_low, task_high = (-1.0,), (1.0,)  # bounds of the hidden vector
    reference_scores = {}

    def __init__(self, *, oracle=False, horizon=200, episodes_per_trial=2, render_mode=None):
        check_count("horizon", horizon)
        check_count("episodes_per_trial", episodes_per_trial)
        check_render_mode(render_mode)
        self.oracle, self.horizon, self.episodes_per_trial = oracle, horizon, episodes_per_trial
        self.render_mode = render_mode
        self.base = make_base(self.base_id, render_mode, **self.base_kwargs)
        self.body = self.base.unwrapped
        self.metadata = {**METADATA, "render_fps": self.base.metadata["render_fps"],
                         "reference_scores": self.reference_scores}
        body_box, extra = finite_box(self.base.observation_space), self.n_position
        low = [body_box.low, np.full(extra, -UNBOUNDED)] + [self.task_low] * oracle
        high = [body_box.high, np.full(extra, UNBOUNDED)] + [self.task_high] * oracle
        if episodes_per_trial > 1:
            low, high = low + [[0.0]], high + [[1.0]]
        self.observation_space = gym.spaces.Box(
            np.concatenate(low).astype(np.float32), np.concatenate(high).astype(np.float32))
        self.action_space = gym.spaces.Box(-1.0, 1.0, self.base.action_space.shape, np.float32)
        self.over = True

    # What a task must define

    def draw_task(self, seed):
        """Return the hidden vector, drawn from self.np_random. `seed`: the one given to reset."""
        raise NotImplementedError

    def reward(self, velocity, action):
        """velocity (2,) m/s of the torso, action (A,) the body's command -> float."""
        raise NotImplementedError

    # The trial

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        task = (options or {}).get("task")
        task = self.draw_task(seed) if task is None else task
        self.task = np.array(task, np.float32).reshape(-1)
        if self.task.shape != np.shape(self.task_low) or not (
                (self.task_low <= self.task) & (self.task <= self.task_high)).all():
            raise ValueError(f"task={task!r}: {type(self).__name__} has {len(self.task_low)} "
                             f"hidden number(s), {self.task_low} to {self.task_high}")
        # TRAP: not base.reset(seed=seed). Both generators would draw the same numbers, and the
        # start of the body would betray the task.
        base_seed = None if seed is None else int(self.np_random.integers(2**31))
        state, _ = self.base.reset(seed=base_seed)
        self.episode, self.steps_left, self.over = 1, self.horizon, False
        return self._observe(state, False), self._info(False)

    def step(self, action):
        if self.over:
            raise RuntimeError("step(): no trial is running; call reset() first")
        command = self.torque * np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        state, _, _, _, base_info = self.base.step(command)
        velocity = np.array([base_info["x_velocity"], base_info.get("y_velocity", 0.0)])
        reward = float(self.reward(velocity, command))

        self.steps_left -= 1
        time_is_over, fell = self.steps_left == 0, not getattr(self.body, "is_healthy", True)
        episode_done = bool(time_is_over or fell)
        self.over = episode_done and self.episode == self.episodes_per_trial
        obs, info = self._observe(state, episode_done), self._info(episode_done)
        if episode_done and not self.over:
            # TRAP: only now. The agent does not see this start before it has moved away from it.
            self.base.reset()
            self.episode, self.steps_left = self.episode + 1, self.horizon
        return obs, reward, self.over and not time_is_over, self.over and time_is_over, info

    def _observe(self, state, episode_done):
        parts = [state, self.body.data.body("torso").xpos[: self.n_position]]
        if self.oracle:
            parts.append(self.task)
        if self.episodes_per_trial > 1:
            parts.append([episode_done])
        return np.concatenate(parts).astype(np.float32)  # (O,), a new array

    def _info(self, episode_done):
        return {"task": self.task.copy(), "episode_done": episode_done}

    # Rendering

    def render(self):
        """The body, and what is hidden written above it; None without "rgb_array"."""
        if self.render_mode is None:
            return None
        return with_caption(self.base.render(), (
            f"hidden: {self.task_text()}    episode {self.episode}, "
            f"step {self.horizon - self.steps_left}"))

    def task_text(self):
        x, y = self.task if len(self.task) == 2 else (self.task[0], 0.0)
        return f"run towards ({x:+.2f}, {y:+.2f})"

    def close(self):
        self.base.close()


class Cheetah(LocomotionTrial):
    """The half-cheetah sees its torso's position, too: 8 joint positions, 9 velocities, x, y, z."""

    base_id, n_position = "HalfCheetah-v5", 3

    def progress(self, v):
        """What the velocity v, in m/s, is worth."""
        raise NotImplementedError

    def reward(self, velocity, action):
        # The control cost is half of Gymnasium's.
        return self.progress(velocity[0]) - 0.05 * np.square(action).sum()


class CheetahVelEnv(Cheetah):
    """Run at the hidden speed v*. Reward -|v - v*| - 0.05 |a|^2. Random play: -690 per trial.

    120 speeds, one drawn from each 120th of [0, 3] (`task_seed`); every sixth is held out, the
    other 100 are for training. A reset with seed s takes held-out speed s % 20, later resets the
    next ones: 20 lanes play each of them once.
    """

    task_low, task_high = (0.0,), (3.0,)
    reference_scores = {"oracle, paper": -79.7, "Markovian, paper": -352, "random": -690}

    def __init__(self, *, split="train", task_seed=0, **kwargs):
        if split not in ("train", "heldout"):
            raise ValueError(f"split={split!r} is unknown; use 'train' or 'heldout'")
        check_seed("task_seed", task_seed)
        super().__init__(**kwargs)
        speeds = 3 * (np.arange(120) + np.random.default_rng(task_seed).random(120)) / 120
        held_out = np.arange(120) % 6 == 2
        self.split, self.next_heldout = split, 0
        self.train_speeds, self.heldout_speeds = speeds[~held_out], speeds[held_out]

    def draw_task(self, seed):
        if self.split == "train":
            return self.np_random.choice(self.train_speeds)
        turn = self.next_heldout if seed is None else seed
        self.next_heldout = turn + 1
        return self.heldout_speeds[turn % 20]

    def progress(self, v):
        return -abs(v - self.task[0])

    def task_text(self):
        return f"run at {self.task[0]:.2f} m/s"


class CheetahDirEnv(Cheetah):
    """Run forwards or backwards, d = +1 or -1. Reward d v - 0.05 |a|^2. Random play: -51."""

    reference_scores = {"random": -51}

    def draw_task(self, seed):
        return self.np_random.choice([-1.0, 1.0])

    def progress(self, v):
        return self.task[0] * v

    def task_text(self):
        return "run forwards" if self.task[0] > 0 else "run backwards"


class AntDirEnv(LocomotionTrial):
    """Run in one of two directions. Reward v . direction - 0.5 |a|^2 + 1. Random play: -50.

    TRAP: the directions are (cos g, sin g) with g = +1 or -1 *radian*: (0.54, 0.84) and
    (0.54, -0.84). They are 115 degrees apart, not opposite, as in variBAD and in the paper. The
    original's cost of contact forces was most probably 0, because its simulator reported none:
    left out.
    """

    base_id = "Ant-v5"
    base_kwargs = {"include_cfrc_ext_in_observation": False, "terminate_when_unhealthy": False}
    task_low, task_high = (-1.0, -1.0), (1.0, 1.0)
    reference_scores = {"random": -50}

    def draw_task(self, seed):
        g = self.np_random.choice([-1.0, 1.0])
        return np.cos(g), np.sin(g)

    def reward(self, velocity, action):
        return velocity @ self.task - 0.5 * np.square(action).sum() + 1.0


class HumanoidDirEnv(LocomotionTrial):
    """Run in any direction. Reward 1.25 v . direction - 0.1 |command|^2 + 5.

    v is the velocity of the centre of mass; 1.25 is variBAD's 0.25 / 0.003 times the 0.015 s of a
    step. A full action is a command of 0.4. Contact forces, most probably 0 there, are left out.
    Random play: 237 (300 with commands up to 0.16, as in the authors' warm-up).
    """

    base_id, torque = "Humanoid-v5", 0.4
    base_kwargs = {"include_cfrc_ext_in_observation": False, "terminate_when_unhealthy": False}
    task_low, task_high = (-1.0, -1.0), (1.0, 1.0)
    reference_scores = {"random": 237}

    def draw_task(self, seed):
        angle = self.np_random.uniform(0, 2 * np.pi)
        return np.cos(angle), np.sin(angle)

    def reward(self, velocity, action):
        return 1.25 * velocity @ self.task - 0.1 * np.square(action).sum() + 5.0
