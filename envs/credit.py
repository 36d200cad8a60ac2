"""Temporal credit assignment: Delayed-Catch and Key-to-Door. The reward comes long after its cause.

One implementation of the dynamics, batched over lanes in NumPy (`Catch`, `KeyToDoor`); the shells
that make Gymnasium environments of it are in lanes.py. All lanes have the same clock. The horizon
is a true end (terminated): nothing is left to be earned.

Observations are flat, as in the paper; `metadata["image_shape"]` (channels, height, width) tells
how to make the picture of them again: `obs.reshape(image_shape)`.

Source: Ni, Eysenbach, Salakhutdinov, "Recurrent Model-Free RL Can Be a Strong Baseline for Many
POMDPs", ICML 2022. Both tasks come from Raposo et al., "Synthetic Returns for Long-Term Credit
Assignment", 2021; Key-to-Door first from Hung et al., "Optimizing Agent Behavior over Long Time
Scales by Transporting Value", Nature Communications 2019.
"""

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from envs.lanes import LanesEnv, LanesVectorEnv, check_count


class CreditLanes:
    """What both tasks share: N lanes with one clock, and actions that are whole numbers."""

    terminates = True  # the horizon is part of the task
    n_actions: int
    view: int  # side of the square that is observed, in cells

    def __init__(self, num_lanes, horizon):
        check_count("num_envs", num_lanes)
        self.num_lanes, self.horizon = num_lanes, horizon
        self.lane = np.arange(num_lanes)
        self.t = None  # steps since the episode began; None = before the first reset
        self.action_space = gym.spaces.Discrete(self.n_actions)

    def begin(self, rng, seed, options):
        """Draw new episodes. Return obs (N, O), info (N rows). `options` are ignored."""
        self.t = 0
        self.draw_episode(rng)
        return self.observe(), self.info()

    def step(self, action, rng):
        """action (N,) whole numbers -> obs (N, O), reward (N,), over (one bool), info.

        Raises:
            RuntimeError: before the first reset, or after the end of the episode.
            ValueError: an action that is not in the action space.
        """
        if self.t is None or self.t >= self.horizon:
            raise RuntimeError(f"step() at t={self.t}: no episode is running; call reset() first")
        action = np.asarray(action)
        if action.shape != (self.num_lanes,) or not np.issubdtype(action.dtype, np.integer):
            raise ValueError(f"action has shape {action.shape} and type {action.dtype}; use "
                             f"({self.num_lanes},) whole numbers")
        if action.min() < 0 or action.max() >= self.n_actions:
            raise ValueError(f"action={action.tolist()}: use 0 to {self.n_actions - 1}")
        self.t += 1
        reward = self.play(action)
        return self.observe(), reward, self.t == self.horizon, self.info()

    # What a task must define

    def draw_episode(self, rng):
        """Draw what is random in an episode."""
        raise NotImplementedError

    def play(self, action):
        """Move by one step; self.t counts it already. Return the reward (N,), float64."""
        raise NotImplementedError

    def observe(self):
        """Return the observation (N, O), a new array."""
        raise NotImplementedError

    def info(self):
        """Return a dict of arrays with N rows."""
        raise NotImplementedError


class Catch(CreditLanes):
    """Catch falling fruit, run after run, and be told only at the end how many were caught.

        . . o . . . .     a fruit (-1) falls by one row per step from a column in 0 to 5; the basket
        . . . . . . .     (+1) in the bottom row moves left, stays or moves right. After 6 moves the
           ...            fruit is in the bottom row, and is caught if the basket is there, too. The
        . . . = . . .     7th step of a run ignores the action: next fruit, next basket.

    Observed: 7 x 7 cells (0 empty), flat, row by row. Actions: 0 left, 1 stay, 2 right. Reward: 0,
    but at the last step the number of fruits caught. Ends after 7 * runs - 1 steps, terminated.
    Hidden: how many were caught so far. Every fruit can be caught; random play catches 15.3 %.

    Info: `caught` 1 in the step in which a fruit is caught, `n_caught` so far, `is_success` at the
    end, if all were caught.
    """

    n_actions, view = 3, 7

    def __init__(self, num_lanes, runs):
        check_count("runs", runs)
        self.runs = runs
        super().__init__(num_lanes, 7 * runs - 1)
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (49,), np.float32)

    def draw_episode(self, rng):
        # All starts of an episode at once: what comes does not depend on what is done.
        self.fruit_columns = rng.integers(0, 6, (self.runs, self.num_lanes))  # never column 6
        self.basket_columns = rng.integers(1, 5, (self.runs, self.num_lanes))
        self.basket = self.basket_columns[0]
        self.caught = self.n_caught = np.zeros(self.num_lanes, int)

    def play(self, action):
        run, moves = divmod(self.t, 7)  # moves made in this run: 0 in the step that starts it
        if moves == 0:
            self.basket = self.basket_columns[run]
        else:
            self.basket = np.clip(self.basket + action - 1, 0, 6)
        caught = (self.basket == self.fruit_columns[run]) & (moves == 6)
        self.caught = caught.astype(int)
        self.n_caught = self.n_caught + self.caught
        return self.n_caught * float(self.t == self.horizon)

    def observe(self):
        run, row = divmod(self.t, 7)  # at the very end row is 6, in the last run
        cells = np.zeros((self.num_lanes, 49), np.float32)
        cells[self.lane, 7 * row + self.fruit_columns[run]] = -1
        cells[self.lane, 42 + self.basket] = 1  # over the fruit
        return cells

    def info(self):
        success = (self.n_caught == self.runs) & (self.t == self.horizon)
        return {"caught": self.caught, "n_caught": self.n_caught, "is_success": success}

    def frame(self, lane):
        """Draw one lane: uint8, (280, 280, 3); what was caught so far, hidden, as a bar below."""
        if self.t is None:
            raise RuntimeError("render() before the first reset(): there is nothing to draw yet")
        colours = np.array([[200, 85, 61], [251, 250, 247], [31, 78, 150]], np.uint8)
        cells = self.observe()[lane].reshape(7, 7).astype(int) + 1
        picture = enlarge(colours[cells], 40)
        bar = round(280 * self.n_caught[lane] / self.runs)
        strip = np.full((20, 280, 3), 230, np.uint8)
        strip[:, :bar] = (46, 139, 87)
        return np.concatenate([picture, strip])


# Key-to-Door, cell codes and their colours. The three floor plans are 7 rows x 11 columns.
BACKGROUND, WALL, PLAYER, KEY, DOOR, APPLE, INDICATOR = range(7)
COLOURS = np.array([[204, 204, 204], [25, 25, 25], [228, 148, 109], [159, 81, 44], [134, 206, 235],
                    [140, 178, 0], [255, 255, 255]], np.uint8)
FLOOR_PLANS = """
..#######..  ###########  ...........
..#.....#..  #.........#  ...##.##...
..#.....#..  #.........#  ...#...#...
..##...##..  #.........#  ...#...#...
..#.....#..  #.........#  ...#...#...
..#.....#..  #.........#  ...#####...
..#######..  ###########  ...........
"""
# (3 phases, 7, 11)
WALLS = np.array([[[c == "#" for c in plan] for plan in line.split()]
                  for line in FLOOR_PLANS.split("\n") if line]).transpose(1, 0, 2)
EXPLORE, DISTRACTOR, REWARD = range(3)
MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])  # up, down, left, right
APPLE_CELLS = np.array([(row, column) for row in range(1, 6) for column in range(1, 10)
                        if (row + column) % 2 == 0 and (row, column) != (5, 5)])  # (22, 2)
DOOR_CELL, INDICATOR_CELL = np.array([1, 5]), np.array([0, 5])
NO_CELL = np.array([-1, -1])
MARGIN = 2  # the view goes this far around the player


class KeyToDoor(CreditLanes):
    """Pick up a key, eat apples for a while, and open a door with the key, if you have it.

        explore, 15 steps      distractor, 60 steps     reward, 10 steps
        . . # # # # # # # . .  # # # # # # # # # # #    . . . . . . . . . . .
        . . #   k     # . .    #  a   a   a   a    #    . . . # # D # # . . .
        . . # #   x # # . .    #      10 apples    #    . . . #   x   # . . .
        . . # # # # # # # . .  # # # # # # # # # # #    . . . # # # # # . . .

    The key lies somewhere in the upper half of the first room, the player (x) starts in the lower
    one. Taking the key gives nothing; a white cell is seen once, then having it is invisible. An
    apple gives 1, is back 21 steps later and can be eaten in the step after. The door (D) blocks
    without the key; entered with it, it gives 5, once.

    Observed: 5 x 5 cells around the player, RGB, uint8, channels first, flat: 75 numbers, 0 to 255.
    Actions: 0 up, 1 down, 2 left, 3 right; into a wall: nothing. Ends after 15 + distractor_steps +
    10 steps, terminated. Hidden: the phase's clock, having the key, what is out of sight. Random
    play scores 5.55 and opens the door in 2.0 % of the episodes.

    Info: `has_key`, and `is_success`: the door was opened. This is the variant of Raposo et al.:
    all apples are worth 1, the door 5.
    """

    n_actions, view = 4, 5

    def __init__(self, num_lanes, distractor_steps):
        check_count("distractor_steps", distractor_steps)
        self.phase_starts = np.cumsum([0, 15, distractor_steps])
        super().__init__(num_lanes, 15 + distractor_steps + 10)
        self.observation_space = gym.spaces.Box(0, 255, (75,), np.uint8)

    def draw_episode(self, rng):
        N = self.num_lanes
        self.key = np.stack([rng.integers(1, 3, N), rng.integers(3, 8, N)], 1)  # (N, 2) row, column
        self.player = np.stack([rng.integers(4, 6, N), rng.integers(3, 8, N)], 1)
        chosen = rng.permuted(np.tile(np.arange(22), (N, 1)), axis=1)[:, :10]
        self.apples = APPLE_CELLS[chosen]  # (N, 10, 2)
        self.apple_is_back = np.zeros((N, 10), int)  # the step in which it can be taken again
        self.has_key, self.opened = np.zeros(N, bool), np.zeros(N, bool)
        self.just_found = np.zeros(N, bool)
        self.phase = EXPLORE

    def play(self, action):
        # The move: into a free cell of the board.
        wanted = self.player + MOVES[action]
        inside = ((wanted >= 0) & (wanted < (7, 11))).all(1)
        row, column = np.where(inside[:, None], wanted, self.player).T
        free = inside & ~WALLS[self.phase, row, column]
        if self.phase == REWARD:
            free &= self.has_key | self.opened | (wanted != DOOR_CELL).any(1)
        self.player = np.where(free[:, None], wanted, self.player)

        # What lies there.
        reward = np.zeros(self.num_lanes)
        self.just_found = np.zeros(self.num_lanes, bool)
        if self.phase == EXPLORE:
            self.just_found = (self.player == self.key).all(1) & ~self.has_key
            self.has_key = self.has_key | self.just_found
        elif self.phase == DISTRACTOR:
            here = (self.apples == self.player[:, None]).all(2)  # (N, 10)
            taken = here & (self.t > self.apple_is_back)  # seen again in t + 21, eaten after that
            self.apple_is_back = np.where(taken, self.t + 21, self.apple_is_back)
            reward = taken.sum(1).astype(float)
        else:
            opens = (self.player == DOOR_CELL).all(1) & self.has_key
            self.opened, self.has_key = self.opened | opens, self.has_key & ~opens
            reward = 5.0 * opens

        # The last action of a phase counts; what is seen after it is the next phase already.
        if self.phase < REWARD and self.t == self.phase_starts[self.phase + 1]:
            self.phase += 1
            start = (5, 5) if self.phase == DISTRACTOR else (3, 5)
            self.player = np.tile(start, (self.num_lanes, 1))
            self.just_found = np.zeros(self.num_lanes, bool)
        return reward

    def board(self):
        """-> cell codes (N, 7, 11), in the order of drawing: what is later covers."""
        board = np.repeat(WALLS[None, self.phase].astype(np.uint8), self.num_lanes, axis=0)

        def draw(where, cell, code):  # where (N,) bool, cell (2,) or (N, 2)
            row, column = np.broadcast_to(cell, (self.num_lanes, 2))[where].T
            board[self.lane[where], row, column] = code

        everywhere = np.ones(self.num_lanes, bool)
        if self.phase == EXPLORE:
            draw(~self.has_key, self.key, KEY)
            draw(self.just_found, INDICATOR_CELL, INDICATOR)
        if self.phase == DISTRACTOR:
            lane, apple = np.nonzero(self.t >= self.apple_is_back)
            board[lane, *self.apples[lane, apple].T] = APPLE
        draw(everywhere, self.player, PLAYER)
        if self.phase == REWARD:
            draw(everywhere, DOOR_CELL, DOOR)  # over the player
        return board

    def observe(self):
        N, M = self.num_lanes, MARGIN
        wide = np.full((N, 7 + 2 * M, 11 + 2 * M), BACKGROUND, np.uint8)
        wide[:, M:-M, M:-M] = self.board()
        row, column = self.player.T[:, :, None, None]  # corner of the view, in the wide board
        span = np.arange(self.view)
        seen = wide[self.lane[:, None, None], row + span[:, None], column + span]  # (N, 5, 5)
        return COLOURS[seen].transpose(0, 3, 1, 2).reshape(N, 75)  # channels first

    def info(self):
        return {"has_key": self.has_key, "is_success": self.opened}

    def frame(self, lane):
        """Draw one lane's board: uint8 (280, 440, 3). What the agent does not see is darker; the
        frame around the picture is brown while it has the key."""
        if self.t is None:
            raise RuntimeError("render() before the first reset(): there is nothing to draw yet")
        board = COLOURS[self.board()[lane]].astype(float)
        row, column = self.player[lane]
        seen = np.zeros((7, 11), bool)
        seen[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = True
        picture = enlarge((board * np.where(seen, 1, 0.6)[..., None]).astype(np.uint8), 40)
        if self.has_key[lane]:
            for rim in (picture[:6], picture[-6:], picture[:, :6], picture[:, -6:]):
                rim[:] = COLOURS[KEY]
        return picture


def enlarge(picture, factor):
    """(H, W, 3) -> (factor H, factor W, 3), each cell a square."""
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


# --- GYMNASIUM SHELLS ----------------------------------------------------------------------------


CATCH_METADATA = {
    "render_modes": ["rgb_array"],
    "render_fps": 10,
    "image_shape": (1, 7, 7),
}
KEY_TO_DOOR_METADATA = {
    "render_modes": ["rgb_array"],
    "render_fps": 10,
    "image_shape": (3, 5, 5),
    # A perfect player opens the door (5) and eats apples (about 23 points, as the paper's authors
    # estimate).
    "reference_scores": {"about the best": 28, "random": 5.55},
}


def catch_metadata(runs):
    scores = {"maximum": runs, "random": round(0.1527 * runs, 2)}
    return CATCH_METADATA | {"reference_scores": scores}


class CatchEnv(LanesEnv):
    __doc__ = Catch.__doc__
    metadata = CATCH_METADATA

    def __init__(self, *, runs=40, render_mode=None):
        super().__init__(Catch(1, runs), render_mode)
        self.metadata = catch_metadata(runs)


class CatchVectorEnv(LanesVectorEnv):
    __doc__ = Catch.__doc__
    metadata = CATCH_METADATA

    def __init__(
        self,
        *,
        num_envs=1,
        runs=40,
        render_mode=None,
        max_episode_steps=None,
        autoreset_mode=AutoresetMode.NEXT_STEP,
    ):
        self.metadata = catch_metadata(runs)
        super().__init__(Catch(num_envs, runs), render_mode, max_episode_steps, autoreset_mode)


class KeyToDoorEnv(LanesEnv):
    __doc__ = KeyToDoor.__doc__
    metadata = KEY_TO_DOOR_METADATA

    def __init__(self, *, distractor_steps=60, render_mode=None):
        super().__init__(KeyToDoor(1, distractor_steps), render_mode)


class KeyToDoorVectorEnv(LanesVectorEnv):
    __doc__ = KeyToDoor.__doc__
    metadata = KEY_TO_DOOR_METADATA

    def __init__(
        self,
        *,
        num_envs=1,
        distractor_steps=60,
        render_mode=None,
        max_episode_steps=None,
        autoreset_mode=AutoresetMode.NEXT_STEP,
    ):
        lanes = KeyToDoor(num_envs, distractor_steps)
        super().__init__(lanes, render_mode, max_episode_steps, autoreset_mode)
