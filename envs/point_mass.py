"""Meta-RL on a plane: Wind and Semi-Circle. A point moves; what matters is hidden.

One implementation of the dynamics, batched over lanes in NumPy (`Wind`, `SemiCircle`). Around it
two thin shells (lanes.py): `...VectorEnv` (N lanes, for training) and `...Env` (one lane).

A *trial* is `episodes_per_trial` (k) episodes of `horizon` (H) steps with the same hidden task;
only the start state is redrawn in between. A trial is what Gymnasium calls an episode: it ends
after k * H actions with `truncated`, because the limit is practical and not part of the task.

The inner boundary (end of an episode that is not the last), in time:

    step H     action executed from s;  returned observation = final observation, flag = 1
               ... the start state is redrawn behind the scenes, the task is kept ...
    step H+1   action (chosen blindly, from the old observation) executed from the new start

Source: Ni, Eysenbach, Salakhutdinov, "Recurrent Model-Free RL Can Be a Strong Baseline for Many
POMDPs", ICML 2022. Semi-Circle and the trial come from variBAD (Zintgraf et al., ICLR 2020), Wind
from off-policy variBAD (Dorfman, Shenfeld, Tamar, NeurIPS 2021).
"""

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from envs.lanes import LanesEnv, LanesVectorEnv, check_count, check_seed

MAX_STEP = 0.1  # displacement per axis and step at action = +-1
FRAME_SIZE = 300  # pixels, square
SPLITS = ("train", "heldout")


# --- TRIALS OF N LANES ---------------------------------------------------------------------------


class PointMassLanes:
    """N lanes of one point-mass task: state, task, clock. Knows nothing of autoreset.

    Everything is float32, so an observation *is* the state and a student can recompute every
    transition and reward from the returned arrays without rounding doubts.

    All lanes end together (no lane can end early), hence one clock `t` for all of them.

    Args:
        num_lanes: N, at least 1.
        horizon: H, steps per episode.
        episodes_per_trial: k. With k > 1 the observation gets the episode-done flag as last entry.
        oracle: insert the task (2 numbers) after (x, y): the agent sees what is hidden.
        split: "train" draws a task uniformly from the training list at each reset; "heldout" goes
            through the held-out list in order (after a reset with seed s lane i has task
            (s + i) % 20, later resets go on counting), so that 20 lanes play each exactly once.
        keep_trail: remember the path of the current episode, for rendering.

    Raises:
        ValueError: an argument out of range; the message names argument, value and fix.
    """

    terminates = False  # a trial's limit is practical: truncated

    # What a task must define
    horizon: int
    episodes_per_trial: int
    goal_radius: float
    task_bound: float  # |task entry| is at most this
    start_bound: float  # |start entry| is at most this
    drift_bound: float  # the task moves the point by at most this per step and axis
    view: tuple  # rendering: x_min, y_min, width of the square that a frame shows

    def __init__(self, num_lanes, horizon, episodes_per_trial, oracle, split, keep_trail):
        counts = [num_lanes, horizon, episodes_per_trial]
        for name, value in zip(("num_envs", "horizon", "episodes_per_trial"), counts, strict=True):
            check_count(name, value)
        if split not in SPLITS:
            raise ValueError(f"split={split!r} is unknown; use one of {SPLITS}")
        self.num_lanes, self.horizon, self.episodes_per_trial = counts
        self.trial_steps = horizon * episodes_per_trial
        self.oracle, self.split, self.keep_trail = oracle, split, keep_trail
        train_tasks, heldout_tasks = self.task_lists()  # each (number of tasks, 2)
        self.tasks = {"train": train_tasks, "heldout": heldout_tasks}
        self.next_heldout = 0  # position in the held-out list
        self.t = None  # steps since the trial began; None = before the first reset
        self.observation_space = self._make_observation_space()
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def _make_observation_space(self):
        # The plane is unbounded, but k * H steps reach only so far: a finite box that always holds
        # (+1 covers rounding).
        reach = self.start_bound + self.horizon * (MAX_STEP + self.drift_bound) + 1.0
        low, high = [-reach] * 2, [reach] * 2
        if self.oracle:
            low, high = low + [-self.task_bound] * 2, high + [self.task_bound] * 2
        if self.episodes_per_trial > 1:
            low, high = low + [0.0], high + [1.0]
        return gym.spaces.Box(np.array(low, np.float32), np.array(high, np.float32))

    # The three functions in which tasks differ

    def task_lists(self):
        """Return (train, heldout), two float32 arrays (number of tasks, 2) without overlap."""
        raise NotImplementedError

    def draw_start(self, rng):
        """Return start states (N, 2), float32, drawn from the generator `rng`."""
        raise NotImplementedError

    def move(self, state, displacement):
        """Return the next state (N, 2)."""
        raise NotImplementedError

    def goal(self):
        """Return the centre of the goal, (N, 2) or (2,)."""
        raise NotImplementedError

    # The trial

    def begin(self, rng, seed, options):
        """Draw the tasks, or take `options["task"]`, (2,) for all lanes or (N, 2); draw the starts.
        A reset with a seed goes on from held-out task `seed`. Return obs (N, O), info (N rows)."""
        task = options.get("task")
        if seed is not None:
            self.next_heldout = seed
        self.task = self._draw_task(rng) if task is None else self._check_task(task)
        self.state = self.draw_start(rng)
        self.t = 0
        self.trail = [self.state]
        self.trial_return = np.zeros(self.num_lanes)
        self.is_goal = np.zeros(self.num_lanes, bool)
        return self._observe(episode_done=False), self._info(episode_done=False)

    def step(self, action, rng):
        """Move every lane by one step.

        Args:
            action: (N, 2); values outside [-1, 1] are clipped.
            rng: generator that draws the next start at an inner boundary.

        Returns:
            obs (N, O) float32, reward (N,) float64, trial_over (one bool), info.

        Raises:
            RuntimeError: before the first reset, or after the end of the trial.
            ValueError: the shape of `action` is not (N, 2).
        """
        if self.t is None or self.t >= self.trial_steps:
            raise RuntimeError(f"step() at t={self.t}: no trial is running; call reset() first")
        action = np.asarray(action, np.float32)
        if action.shape != (self.num_lanes, 2):
            raise ValueError(f"action has shape {action.shape}; use ({self.num_lanes}, 2)")
        if self.keep_trail and self.t % self.horizon == 0:
            self.trail = [self.state]  # a new episode draws a new line

        self.state = self.move(self.state, MAX_STEP * np.minimum(np.maximum(action, -1), 1))
        self.t += 1
        offset = self.state - self.goal()
        self.is_goal = np.hypot(offset[:, 0], offset[:, 1]) <= self.goal_radius
        reward = self.is_goal.astype(np.float64)
        self.trial_return += reward
        if self.keep_trail:
            self.trail.append(self.state)

        episode_done = self.t % self.horizon == 0
        obs, info = self._observe(episode_done), self._info(episode_done)
        if episode_done and self.t < self.trial_steps:
            # TRAP: only now. Observation, reward and goal flag above belong to the old episode;
            # the agent will not see this start state before it has moved away from it.
            self.state = self.draw_start(rng)
        return obs, reward, self.t == self.trial_steps, info

    def _draw_task(self, rng):
        tasks = self.tasks[self.split]
        if self.split == "train":
            return tasks[rng.integers(len(tasks), size=self.num_lanes)]
        turn = self.next_heldout + np.arange(self.num_lanes)
        self.next_heldout += self.num_lanes
        return tasks[turn % len(tasks)]

    def _check_task(self, task):
        task = np.asarray(task, np.float32)
        if task.shape not in {(2,), (self.num_lanes, 2)}:
            raise ValueError(f"task has shape {task.shape}; use (2,) or ({self.num_lanes}, 2)")
        if np.abs(task).max() > np.float32(self.task_bound):
            raise ValueError(f"task={task.tolist()} is outside +-{self.task_bound} per entry")
        return np.broadcast_to(task, (self.num_lanes, 2)).copy()

    def _observe(self, episode_done):
        parts = [self.state]
        if self.oracle:
            parts.append(self.task)
        if self.episodes_per_trial > 1:
            parts.append(np.full((self.num_lanes, 1), episode_done, np.float32))
        return np.concatenate(parts, axis=1)  # (N, O), always a new array

    def _info(self, episode_done):
        return {
            "task": self.task.copy(),  # (N, 2) float32
            "is_goal": self.is_goal.copy(),  # (N,) bool: in the goal after this step
            "episode_done": np.full(self.num_lanes, episode_done),  # (N,) bool
        }

    # Rendering

    def frame(self, lane):
        """Draw one lane: uint8 (300, 300, 3). The agent sees none of the pale, hidden things."""
        from PIL import Image, ImageDraw, ImageFont  # only for pictures: training needs no Pillow

        if self.t is None:
            raise RuntimeError("render() before the first reset(): there is nothing to draw yet")
        zoom = 2  # draw twice as large and shrink: smooth edges
        size = FRAME_SIZE * zoom
        x_min, y_min, width = self.view

        def pixel(point):  # plane -> picture, whose y axis points down; far points stick to the rim
            x, y = (point[0] - x_min) / width * size, size - (point[1] - y_min) / width * size
            return float(np.clip(x, 0, size)), float(np.clip(y, 0, size))

        def disc(centre, radius, **colours):
            x, y = pixel(centre)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), **colours)

        image = Image.new("RGB", (size, size), "#fbfaf7")
        draw = ImageDraw.Draw(image)
        for tick in np.arange(-3.0, 3.5, 0.5):  # grid, one line per 0.5
            x, y = pixel((tick, tick))
            draw.line([x, 0, x, size], fill="#ecebe6", width=zoom)
            draw.line([0, y, size, y], fill="#ecebe6", width=zoom)

        inside = bool(self.is_goal[lane])
        goal = np.broadcast_to(self.goal(), (self.num_lanes, 2))[lane]
        radius = max(self.goal_radius / width * size, 4 * zoom)
        fill, rim = ("#b7e4c0", "#2e8b57") if inside else ("#fbe3b5", "#d99a1c")
        disc(goal, radius, fill=fill, outline=rim, width=zoom)
        self.draw_task(draw, pixel, lane, zoom)

        path = [pixel(state[lane]) for state in self.trail]
        if len(path) > 1:
            draw.line(path, fill="#7d9cc8", width=2 * zoom, joint="curve")
        disc(self.trail[0][lane], 3 * zoom, outline="#7d9cc8", fill="#fbfaf7", width=zoom)
        disc(self.trail[-1][lane], 5 * zoom, fill="#2e8b57" if inside else "#1f4e96")

        font = ImageFont.load_default(size=13 * zoom)
        caption = f"step {self.t}/{self.trial_steps}   return {self.trial_return[lane]:.0f}"
        draw.text((8 * zoom, 6 * zoom), caption, fill="#333333", font=font)
        return np.asarray(image.resize((FRAME_SIZE, FRAME_SIZE), Image.Resampling.LANCZOS)).copy()

    def draw_task(self, draw, pixel, lane, zoom):
        """Draw what else is hidden in this lane."""


class Wind(PointMassLanes):
    """Reach a small goal through an unknown, constant wind.

            . . .(o). . .     `goal` (0, 1), radius 0.03, the same in every task, never shown
            .     ^     .
            .     |  ~> .     hidden: wind w = (wx, wy), each in [-0.08, 0.08], added to every step
            .     |  ~> .
            . . . x . . .     start: always (0, 0)

    Observed: (x, y). Transition: s' = s + 0.1 * action + w. Reward: 1 if |s' - (0, 1)| <= 0.03,
    else 0. Ends by time: one episode of 75 steps, truncated. Random play scores about 0.0, a
    controller that knows wind and goal 63.95 (mean over the 20 held-out winds).

    The 60 winds and the 40/20 split are those of the paper: one fixed legacy generator, the same
    in every run.
    """

    goal_radius, task_bound, start_bound, drift_bound = 0.03, 0.08, 0.0, 0.08
    view = (-1.3, -0.8, 2.6)
    TASK_SEED = 1337

    def __init__(self, num_lanes, keep_trail, horizon=75, episodes_per_trial=1, oracle=False,
                 split="train", goal=(0.0, 1.0)):
        self.centre = np.array(goal, np.float32)
        if self.centre.shape != (2,) or not np.isfinite(self.centre).all():
            raise ValueError(f"goal={goal!r} is not a point; use two numbers")
        super().__init__(num_lanes, horizon, episodes_per_trial, oracle, split, keep_trail)

    def task_lists(self):
        generator = np.random.RandomState(self.TASK_SEED)  # legacy on purpose: the paper's winds
        winds = generator.uniform(-0.08, 0.08, size=(60, 2)).astype(np.float32)
        order = generator.permutation(60)
        return winds[order[:40]], winds[order[40:]]

    def draw_start(self, rng):
        return np.zeros((self.num_lanes, 2), np.float32)

    def move(self, state, displacement):
        return state + displacement + self.task

    def goal(self):
        return self.centre

    def draw_task(self, draw, pixel, lane, zoom):
        # The wind as an arrow in the free corner at the bottom, five steps long: all of it fits.
        tail, wind = np.array([-0.75, -0.25]), self.task[lane].astype(np.float64)
        along = 0.1 * wind / max(np.hypot(*wind), 1e-6)  # the arrow's head has a fixed size
        across = 0.6 * np.array([-along[1], along[0]])
        tip = tail + 5.0 * wind
        draw.line([*pixel(tail), *pixel(tip)], fill="#c8553d", width=3 * zoom)
        head = [pixel(tip + along), pixel(tip + across), pixel(tip - across)]
        draw.polygon(head, fill="#c8553d")
        x, y = pixel((-1.25, -0.75))
        draw.text((x, y), "wind", fill="#c8553d", font_size=12 * zoom, anchor="lb")


class SemiCircle(PointMassLanes):
    """Search a half circle for a goal, remember it, go straight there in the second episode.

             . - (o) - .        hidden: goal at (cos p, sin p), p in [0, pi], radius 0.2
           .             .
          .    x          .     start: anywhere in x [-1.5, 1.5], y [-0.5, 1.5], each episode
          .               .

    Observed: (x, y, episode-done flag). Transition: s' = s + 0.1 * action. Reward: 1 if
    |s' - goal| <= 0.2, else 0. Ends by time: two episodes of 60 steps, then truncated. Random play
    scores about 2.3 per trial, knowing the goal 103.2, a scripted search with memory 94.4.

    100 goals are drawn from `task_seed`, one in each hundredth of the half circle; every fifth is
    held out. The list does not change with the seed of a run.
    """

    goal_radius, task_bound, start_bound, drift_bound = 0.2, 1.0, 1.5, 0.0
    view = (-1.9, -1.2, 3.8)

    def __init__(self, num_lanes, keep_trail, horizon=60, episodes_per_trial=2, oracle=False,
                 split="train", task_seed=0):
        check_seed("task_seed", task_seed)
        self.task_seed = task_seed
        super().__init__(num_lanes, horizon, episodes_per_trial, oracle, split, keep_trail)

    def task_lists(self):
        # One goal in each hundredth of the half circle, every fifth held out: 20 plain draws are so
        # uneven that one and the same agent scores 86 to 97 from list to list.
        jitter = np.random.default_rng(self.task_seed).uniform(size=100)
        angle = np.pi * (np.arange(100) + jitter) / 100
        goals = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)  # (100, 2)
        held_out = np.arange(100) % 5 == 2
        return goals[~held_out], goals[held_out]

    def draw_start(self, rng):
        return rng.uniform([-1.5, -0.5], [1.5, 1.5], (self.num_lanes, 2)).astype(np.float32)

    def move(self, state, displacement):
        return state + displacement

    def goal(self):
        return self.task

    def draw_task(self, draw, pixel, lane, zoom):
        angle = np.linspace(0.0, np.pi, 61)
        arc = [pixel((np.cos(a), np.sin(a))) for a in angle]
        for i in range(0, 60, 2):  # dashes
            draw.line([*arc[i], *arc[i + 1]], fill="#b9b5a8", width=2 * zoom)


# --- GYMNASIUM SHELLS ----------------------------------------------------------------------------

WIND_METADATA = {
    "heldout_episodes": 20,  # they start alike, so that a wind that is played again is the same
    "render_modes": ["rgb_array"],
    "render_fps": 15,
    # Horizontal lines of a learning curve: name -> return of one trial, default arguments.
    "reference_scores": {
        "oracle controller": 63.95,
        "oracle agent (paper)": 63.7,
        "Markovian agent (paper)": 18.4,
    },
}
SEMI_CIRCLE_METADATA = {
    "render_modes": ["rgb_array"],
    "render_fps": 15,
    "reference_scores": {
        "knows the goal": 103.2,
        "scripted searcher": 94.4,
        "oracle agent (paper)": 103.3,
        "Markovian agent (paper)": 12.4,
    },
}


# Both shells of a task hand on what it takes: horizon, episodes_per_trial, oracle, split, `goal`
# (Wind), `task_seed` (Semi-Circle).


class WindEnv(LanesEnv):
    __doc__ = Wind.__doc__
    metadata = WIND_METADATA

    def __init__(self, *, render_mode=None, **task):
        super().__init__(Wind(1, render_mode is not None, **task), render_mode)


class WindVectorEnv(LanesVectorEnv):
    __doc__ = Wind.__doc__
    metadata = WIND_METADATA

    def __init__(self, *, num_envs=1, render_mode=None, max_episode_steps=None,
                 autoreset_mode=AutoresetMode.NEXT_STEP, **task):
        lanes = Wind(num_envs, render_mode is not None, **task)
        super().__init__(lanes, render_mode, max_episode_steps, autoreset_mode)


class SemiCircleEnv(LanesEnv):
    __doc__ = SemiCircle.__doc__
    metadata = SEMI_CIRCLE_METADATA

    def __init__(self, *, render_mode=None, **task):
        super().__init__(SemiCircle(1, render_mode is not None, **task), render_mode)


class SemiCircleVectorEnv(LanesVectorEnv):
    __doc__ = SemiCircle.__doc__
    metadata = SEMI_CIRCLE_METADATA

    def __init__(self, *, num_envs=1, render_mode=None, max_episode_steps=None,
                 autoreset_mode=AutoresetMode.NEXT_STEP, **task):
        lanes = SemiCircle(num_envs, render_mode is not None, **task)
        super().__init__(lanes, render_mode, max_episode_steps, autoreset_mode)
