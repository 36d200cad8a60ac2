"""What is true of Delayed-Catch and Key-to-Door. The scripted players know the rules."""

import gymnasium as gym
import numpy as np
import pytest

import envs  # noqa: F401  (registers the ids)
from envs.credit import COLOURS, Catch, KeyToDoor

PLAYER, WALL, BACKGROUND, KEY, DOOR, APPLE, WHITE = (
    (228, 148, 109), (25, 25, 25), (204, 204, 204), (159, 81, 44), (134, 206, 235), (140, 178, 0),
    (255, 255, 255))
UP, DOWN, LEFT, RIGHT = range(4)


def start(lanes, seed=0):
    rng = np.random.default_rng(seed)
    lanes.begin(rng, True, {})
    return rng


def play(env_id, choose, n=100, seed=0, **kwargs):
    """Play one episode in n lanes; choose(lanes) -> actions. -> returns (n,), the last info."""
    env = gym.make_vec(env_id, num_envs=n, **kwargs)
    env.reset(seed=seed)
    total, over = np.zeros(n), False
    while not over:
        _, reward, terminated, truncated, info = env.step(choose(env.unwrapped.lanes))
        assert not truncated.any()
        total, over = total + reward, terminated.all()
    return total, info


def random_player(n_actions, seed=0):
    rng = np.random.default_rng(seed)
    return lambda lanes: rng.integers(n_actions, size=lanes.num_lanes)


# --- BOTH -----------------------------------------------------------------------------------------

every_task = pytest.mark.parametrize("env_id, horizon, n_actions, kwargs", [
    ("DelayedCatch5-v0", 34, 3, {}), ("DelayedCatch10-v0", 69, 3, {}),
    ("DelayedCatch20-v0", 139, 3, {}), ("DelayedCatch-v0", 279, 3, {}),
    ("DelayedCatch-v0", 6, 3, {"runs": 1}), ("KeyToDoor-v0", 85, 4, {}),
    ("KeyToDoor-v0", 28, 4, {"distractor_steps": 3}),
], ids=str)


@every_task
def test_the_horizon_is_exact_and_terminal(env_id, horizon, n_actions, kwargs):
    rng = np.random.default_rng(0)
    for env in gym.make(env_id, **kwargs), gym.make_vec(env_id, num_envs=2, **kwargs):
        env.reset(seed=0)
        n = getattr(env, "num_envs", None)
        ends = [env.step(rng.integers(n_actions, size=n))[2:4] for _ in range(horizon)]
        assert not np.any([truncated for _, truncated in ends])
        assert not np.any([terminated for terminated, _ in ends[:-1]]) and np.all(ends[-1][0])


@every_task
def test_one_lane_is_the_single_env(env_id, horizon, n_actions, kwargs):
    single, lane = gym.make(env_id, **kwargs), gym.make_vec(env_id, num_envs=1, **kwargs)
    rng = np.random.default_rng(1)
    for seed in (3, None):
        (a, info_a), (b, info_b) = single.reset(seed=seed), lane.reset(seed=seed)
        for _ in range(horizon):
            np.testing.assert_array_equal(a, b[0])
            assert all(np.array_equal(v, info_b[k][0]) for k, v in info_a.items())
            action = int(rng.integers(n_actions))
            a, reward_a, terminated, _, info_a = single.step(action)
            b, reward_b, over, _, info_b = lane.step(np.array([action]))
            assert reward_a == reward_b[0] and terminated == over[0]


@pytest.mark.parametrize("make, names, n_actions", [
    (lambda n: Catch(n, 4), ["fruit_columns", "basket_columns"], 3),
    (lambda n: KeyToDoor(n, 60), ["key", "player", "apples"], 4)], ids=["catch", "key"])
def test_lanes_do_not_know_of_each_other(make, names, n_actions):
    many = make(5)
    rng = start(many)
    singles = [make(1) for _ in range(5)]
    for i, one in enumerate(singles):
        start(one)
        for name in names:
            lane_axis = 1 if name.endswith("columns") else 0
            setattr(one, name, np.take(getattr(many, name), [i], lane_axis))
        if isinstance(one, Catch):
            one.basket = one.basket_columns[0]
    if isinstance(many, Catch):
        many.basket = many.basket_columns[0]
    for _ in range(many.horizon):
        action = rng.integers(n_actions, size=5)
        obs, reward, _, info = many.step(action, rng)
        for i, one in enumerate(singles):
            obs_1, reward_1, _, info_1 = one.step(action[[i]], rng)
            assert (obs_1[0] == obs[i]).all() and reward_1[0] == reward[i]
            assert all(info_1[k][0] == info[k][i] for k in info)


@every_task
def test_the_same_seed_gives_the_same_episodes(env_id, horizon, n_actions, kwargs):
    def observations(seed):
        env = gym.make_vec(env_id, num_envs=20, **kwargs)
        rng = np.random.default_rng(0)
        obs = [env.reset(seed=seed)[0]]
        return np.stack(obs + [env.step(rng.integers(n_actions, size=20))[0]
                               for _ in range(horizon)])

    np.testing.assert_array_equal(observations(7), observations(7))
    assert (observations(7) != observations(8)).any()


@pytest.mark.parametrize("env_id", ["DelayedCatch-v0", "KeyToDoor-v0"])
def test_bad_actions_bad_arguments_and_steps_without_a_reset_are_refused(env_id):
    env = gym.make_vec(env_id, num_envs=2)
    with pytest.raises(RuntimeError, match="reset"):
        env.unwrapped.lanes.step(np.zeros(2, int), None)
    env.reset(seed=0)
    for bad in ([0, 4], [-1, 0], [0.5, 0.5], [0]):
        with pytest.raises(ValueError, match="action"):
            env.step(np.array(bad))
    name = "runs" if "Catch" in env_id else "distractor_steps"
    with pytest.raises(ValueError, match=f"{name}=0"):
        gym.make_vec(env_id, num_envs=2, **{name: 0})


# --- DELAYED-CATCH --------------------------------------------------------------------------------


def catcher(lanes):
    fruit = lanes.fruit_columns[min((lanes.t + 1) // 7, lanes.runs - 1)]
    return np.sign(fruit - lanes.basket) + 1


@pytest.mark.parametrize("runs", [1, 5, 40])
def test_who_knows_the_rules_catches_every_fruit(runs):
    returns, info = play("DelayedCatch-v0", catcher, runs=runs)
    assert (returns == runs).all() and info["is_success"].all()


def test_random_play_catches_what_it_should():
    # Exact: a walk of 6 steps between walls, from each start, meets each fruit.
    walk = np.zeros((7, 7))
    for column in range(7):
        for move in (-1, 0, 1):
            walk[column, np.clip(column + move, 0, 6)] += 1 / 3
    exact = np.linalg.matrix_power(walk, 6)[1:5, :6].sum(1).mean() / 6
    assert exact == pytest.approx(0.1527, abs=1e-4)
    returns, _ = play("DelayedCatch5-v0", random_player(3), n=20_000)
    assert returns.mean() / 5 == pytest.approx(exact, abs=0.005)  # 4 standard errors


def test_the_reward_is_the_number_of_catches_and_comes_at_the_end():
    env = gym.make_vec("DelayedCatch5-v0", num_envs=200)
    env.reset(seed=0)
    rng, caught = np.random.default_rng(0), np.zeros(200)
    for t in range(1, 35):
        _, reward, _, _, info = env.step(rng.integers(3, size=200))
        caught += info["caught"]
        assert t % 7 == 6 or not info["caught"].any()
        np.testing.assert_array_equal(info["n_caught"], caught)
        assert not reward.any() or t == 34
    np.testing.assert_array_equal(reward, caught)
    assert caught.max() >= 3


def test_a_run_by_hand():
    lanes = Catch(1, 2)
    rng = start(lanes)
    lanes.fruit_columns, lanes.basket_columns = np.array([[5], [0]]), np.array([[4], [1]])
    lanes.basket = lanes.basket_columns[0]
    expected = [(0, 5, 4)]  # fruit's row and column, basket
    basket = 4
    for row, action in enumerate([2, 2, 2, 0, 0, 1], start=1):  # right, to the wall, and back
        basket = min(basket + action - 1, 6)
        expected.append((row, 5, basket))
    # 7th action: ignored. Then left into the wall, and stay.
    expected += [(0, 0, 1), (1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 1), (5, 0, 0), (6, 0, 0)]
    seen = [lanes.observe()[0]]
    rewards = []
    for action in [2, 2, 2, 0, 0, 1, 2, 0, 0, 1, 2, 0, 1]:
        obs, reward, over, _ = lanes.step(np.array([action]), rng)
        seen.append(obs[0])
        rewards.append(reward[0])
    assert over and basket == 4 and rewards == [0] * 12 + [1]  # 4 is not 5: one catch in all
    for obs, (row, column, basket) in zip(seen, expected, strict=True):
        cells = np.zeros((7, 7))
        cells[row, column] = -1
        cells[6, basket] = 1  # over the fruit
        np.testing.assert_array_equal(obs.reshape(7, 7), cells)


def test_fruit_never_starts_in_the_last_column_and_baskets_start_inside():
    lanes = Catch(2000, 5)
    start(lanes)
    assert np.unique(lanes.fruit_columns).tolist() == [0, 1, 2, 3, 4, 5]
    assert np.unique(lanes.basket_columns).tolist() == [1, 2, 3, 4]


# --- KEY-TO-DOOR ----------------------------------------------------------------------------------


def walk(lanes, target):
    """First up or down in columns 4 to 6 if a wall of the first room is between, else straight."""
    row, column = lanes.player.T
    to_row, to_column = np.broadcast_to(target, lanes.player.shape).T
    behind_the_wall = (row > 3) & (to_row < 3) & ((column < 4) | (column > 6))
    sideways = np.where(column < 4, RIGHT, LEFT)
    straight = np.where(row > to_row, UP, np.where(row < to_row, DOWN, np.where(
        column > to_column, LEFT, RIGHT)))
    return np.where(behind_the_wall, sideways, straight)


def opener(lanes):
    if lanes.phase == 0:
        return walk(lanes, lanes.key)
    return np.full(lanes.num_lanes, UP)  # in the last room the door is straight up


def test_who_takes_the_key_opens_every_door_and_gets_five():
    returns, info = play("KeyToDoor-v0", opener, n=500)
    apples, no_key = play("KeyToDoor-v0", lambda lanes: np.full(
        lanes.num_lanes, UP if lanes.phase else DOWN), n=500)
    assert not no_key["is_success"].any()
    assert info["is_success"].all() and not info["has_key"].any()  # consumed
    # The same apples on the way up in the second room, and the door's 5.
    np.testing.assert_array_equal(returns - apples, 5)


def test_without_the_key_the_door_blocks():
    lanes = KeyToDoor(50, 3)
    rng = start(lanes)
    lanes.key[:] = (1, 3)
    rewards = []
    while lanes.t < lanes.horizon:
        rewards.append(lanes.step(np.full(50, DOWN if lanes.phase == 0 else UP), rng)[1])
    assert (lanes.player == (2, 5)).all() and not lanes.opened.any()
    assert not np.array(rewards)[18:].any()


def test_random_play_scores_what_the_facts_say():
    returns, info = play("KeyToDoor-v0", random_player(4), n=4000)
    assert returns.mean() == pytest.approx(5.55, abs=0.3)
    assert returns.std() == pytest.approx(2.0, abs=0.2)
    assert 0.008 < info["is_success"].mean() < 0.024


def test_the_floor_plans():
    lanes = KeyToDoor(1, 60)
    start(lanes)
    walls = {}
    for phase in range(3):
        lanes.phase, lanes.player = phase, np.array([[3, 5]])  # free in all of them
        cells = (lanes.board()[0] == 1).nonzero()
        walls[phase] = set(zip(*map(np.ndarray.tolist, cells)))
    room = {(r, c) for r in (0, 6) for c in range(2, 9)} | {(r, c) for r in range(1, 6)
                                                            for c in (2, 8)}
    assert walls[0] == room | {(3, 3), (3, 7)}
    assert walls[1] == ({(r, c) for r in (0, 6) for c in range(11)}
                        | {(r, c) for r in range(7) for c in (0, 10)})
    assert walls[2] == ({(1, c) for c in (3, 4, 6, 7)} | {(r, c) for r in (2, 3, 4) for c in (3, 7)}
                        | {(5, c) for c in range(3, 8)})


def test_where_things_start():
    lanes = KeyToDoor(4000, 60)
    start(lanes)
    key, player = set(map(tuple, lanes.key.tolist())), set(map(tuple, lanes.player.tolist()))
    assert key == {(r, c) for r in (1, 2) for c in range(3, 8)}
    assert player == {(r, c) for r in (4, 5) for c in range(3, 8)}
    cells = {tuple(cell) for cell in lanes.apples.reshape(-1, 2).tolist()}
    assert len(cells) == 22 and (5, 5) not in cells
    assert all(1 <= r <= 5 and 1 <= c <= 9 and (r + c) % 2 == 0 for r, c in cells)
    assert all(len(set(map(tuple, lane.tolist()))) == 10 for lane in lanes.apples[:50])


def view(lanes):  # (5, 5, 3) of lane 0
    return lanes.observe()[0].reshape(3, 5, 5).transpose(1, 2, 0)


def test_the_view_is_centred_on_the_player_and_shows_background_beyond_the_board():
    lanes = KeyToDoor(1, 60)
    rng = start(lanes)
    lanes.player, lanes.key = np.array([[5, 3]]), np.array([[1, 7]])
    lanes.step(np.array([LEFT]), rng)  # a wall: nothing moves
    picture = view(lanes)
    assert tuple(picture[2, 2]) == PLAYER
    assert {tuple(c) for c in picture[4]} == {BACKGROUND}  # row 7 is no row of the board
    assert [tuple(c) for c in picture[3]] == [BACKGROUND] + [WALL] * 4  # row 6, columns 1 to 5
    assert tuple(picture[0, 2]) == WALL and tuple(picture[0, 3]) == BACKGROUND  # (3, 3) and (3, 4)
    assert lanes.observe().dtype == np.uint8


def test_the_key_vanishes_and_the_white_cell_is_seen_once():
    lanes = KeyToDoor(1, 60)
    rng = start(lanes)
    lanes.player, lanes.key = np.array([[2, 4]]), np.array([[2, 5]])
    assert tuple(view(lanes)[2, 3]) == KEY
    _, reward, _, info = lanes.step(np.array([RIGHT]), rng)
    picture = view(lanes)
    assert reward[0] == 0 and info["has_key"][0]
    assert tuple(picture[2, 2]) == PLAYER and tuple(picture[0, 2]) == WHITE  # (0, 5)
    lanes.step(np.array([LEFT]), rng)
    picture = view(lanes)
    assert tuple(picture[2, 3]) == BACKGROUND and tuple(picture[0, 3]) == WALL


def test_a_key_taken_with_the_last_action_of_the_phase_counts_and_shows_no_white_cell():
    lanes = KeyToDoor(1, 60)
    rng = start(lanes)
    lanes.player, lanes.key = np.array([[1, 3]]), np.array([[1, 4]])
    for _ in range(14):
        lanes.step(np.array([UP]), rng)
    _, _, _, info = lanes.step(np.array([RIGHT]), rng)
    assert info["has_key"][0] and lanes.phase == 1 and lanes.player.tolist() == [[5, 5]]
    assert WHITE not in {tuple(c) for c in view(lanes).reshape(-1, 3)}


def test_an_apple_gives_one_and_is_back_after_21_steps():
    lanes = KeyToDoor(1, 60)
    rng = start(lanes)
    while lanes.phase == 0:
        lanes.step(np.array([DOWN]), rng)
    assert lanes.t == 15
    lanes.apples = np.array([[(4, 4)] + [(1, 1)] * 9])
    assert tuple(view(lanes)[1, 1]) == APPLE  # (4, 4), from (5, 5)
    assert lanes.step(np.array([LEFT]), rng)[1] == 0
    assert lanes.step(np.array([UP]), rng)[1] == 1  # taken in step 17
    assert lanes.step(np.array([DOWN]), rng)[1] == 0
    assert tuple(view(lanes)[1, 2]) == BACKGROUND
    for _ in range(19):
        lanes.step(np.array([DOWN]), rng)
    assert lanes.t == 37 and tuple(view(lanes)[1, 2]) == BACKGROUND
    lanes.step(np.array([DOWN]), rng)
    assert lanes.t == 38 and tuple(view(lanes)[1, 2]) == APPLE
    assert lanes.step(np.array([UP]), rng)[1] == 1


def test_the_door_hides_who_stands_in_it_pays_once_and_stays_open():
    lanes = KeyToDoor(1, 1)
    rng = start(lanes)
    while lanes.phase < 2:
        lanes.step(np.array([DOWN]), rng)
    lanes.has_key[:] = True
    assert lanes.player.tolist() == [[3, 5]] and tuple(view(lanes)[0, 2]) == DOOR
    rewards = [lanes.step(np.array([a]), rng)[1][0] for a in (UP, UP)]
    assert rewards == [0, 5] and tuple(view(lanes)[2, 2]) == DOOR
    assert [lanes.step(np.array([a]), rng)[1][0] for a in (UP, DOWN, DOWN, UP)] == [0] * 4
    assert lanes.player.tolist() == [[1, 5]]  # through it and back, without a key


def test_nobody_leaves_the_board():
    lanes = KeyToDoor(1, 1)
    rng = start(lanes)
    while lanes.phase < 2:
        lanes.step(np.array([DOWN]), rng)
    lanes.player, lanes.opened[:] = np.array([[0, 5]]), True
    lanes.step(np.array([UP]), rng)
    assert lanes.player.tolist() == [[0, 5]]


@pytest.mark.parametrize("env_id, shape, hidden", [
    ("DelayedCatch5-v0", (300, 280, 3), (46, 139, 87)), ("KeyToDoor-v0", (280, 440, 3), KEY)])
def test_a_frame_shows_what_is_hidden(env_id, shape, hidden):
    env = gym.make_vec(env_id, num_envs=2, render_mode="rgb_array")
    with pytest.raises(RuntimeError, match="reset"):
        env.render()
    env.reset(seed=0)
    lanes = env.unwrapped.lanes
    choose = catcher if "Catch" in env_id else opener
    for _ in range(14):
        env.step(choose(lanes))
    frame = env.render()[0]
    assert frame.shape == shape and frame.dtype == np.uint8
    rim = frame[-1, 0] if "Catch" in env_id else frame[0, 0]
    assert tuple(rim) == hidden
    assert gym.make_vec(env_id, num_envs=2).render() is None


def test_the_colours_are_the_papers():
    assert COLOURS.tolist() == [list(c) for c in (
        BACKGROUND, WALL, PLAYER, KEY, DOOR, APPLE, WHITE)]
