"""What is true of the environments. Run: pytest tests/test_envs.py

The scripted controllers below are also worth reading: they are what a memory has to learn.
"""

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs
from envs.occlusion import BASE_KWARGS, KEPT
from envs.point_mass import SemiCircleEnv, SemiCircleVectorEnv, WindEnv, WindVectorEnv

ROOT = Path(__file__).resolve().parents[1]
POINT_MASSES = {
    "Wind": (WindEnv, WindVectorEnv),
    "SemiCircle": (SemiCircleEnv, SemiCircleVectorEnv),
}
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]
HAS_BOX2D = importlib.util.find_spec("Box2D") is not None
if HAS_BOX2D:
    with warnings.catch_warnings():  # it warns as it is loaded, and crashes if that is an error
        warnings.simplefilter("ignore")
        import Box2D  # noqa: F401
HAS_PYBULLET = importlib.util.find_spec("pybullet_envs_gymnasium") is not None
IDS = [pytest.param(env_id, marks=[
    pytest.mark.skipif(env_id.startswith("Lunar") and not HAS_BOX2D, reason="needs Box2D"),
    pytest.mark.skipif("BLT" in env_id and not HAS_PYBULLET, reason="needs PyBullet")])
    for env_id in envs.ENVIRONMENTS]
OCCLUDED = [p for p in IDS if "base_id" in gym.spec(p.values[0]).kwargs]

both_tasks = pytest.mark.parametrize("name", POINT_MASSES)
both_modes = pytest.mark.parametrize("mode", MODES, ids=["next_step", "same_step"])
every_id = pytest.mark.parametrize("env_id", IDS)
occluded_ids = pytest.mark.parametrize("env_id", OCCLUDED)


def play(lanes, controller, seed=0, task=None):
    """Play one trial in every lane. Return the returns (N,)."""
    obs, info = lanes.reset(seed=seed, options={"task": task})
    reward, total, over = np.zeros(lanes.num_envs), np.zeros(lanes.num_envs), False
    while not over:
        obs, reward, _, truncated, info = lanes.step(controller(obs, reward, info))
        total += reward
        over = truncated.all()
    return total


def towards(position, target):
    return np.clip((target - position) / 0.1, -1, 1)


def equal(a, b):
    """Compare nested dicts of arrays, object arrays of arrays included."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray) and a.dtype == object:
        return b.dtype == object and all(map(np.array_equal, a, b))
    return np.array_equal(a, b) and np.asarray(a).dtype == np.asarray(b).dtype


# --- GYMNASIUM -----------------------------------------------------------------------------------


@every_id
@pytest.mark.parametrize("oracle", [False, True])
def test_every_id_passes_gymnasiums_checker_without_a_warning(env_id, oracle):
    if oracle and "oracle" not in gym.spec(env_id).kwargs:
        pytest.skip("no oracle view")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(env_id, **{"oracle": True} if oracle else {}).unwrapped
        needs_gl = hasattr(getattr(env, "base", env).unwrapped, "mujoco_renderer")
        check_env(env, skip_render_check=needs_gl)  # pictures of bodies: test_bodies.py


@every_id
def test_every_id_makes_lanes_that_know_autoreset_and_reference_scores(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lanes = gym.make_vec(env_id, num_envs=3)
    assert lanes.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert all(
        isinstance(score, (int, float)) for score in lanes.metadata["reference_scores"].values()
    )
    assert len(lanes.metadata["reference_scores"]) > 0
    obs, _ = lanes.reset(seed=0)
    space = lanes.single_observation_space
    assert obs.shape == (3, *space.shape) and obs.dtype == space.dtype
    assert space.dtype == (np.uint8 if env_id == "KeyToDoor-v0" else np.float32)
    # This is how a script finds the oracle view; the credit tasks have none.
    has_oracle = "Catch" not in env_id and "Key" not in env_id
    assert gym.spec(env_id).kwargs.get("oracle") is (False if has_oracle else None)
    assert ("split" in gym.spec(env_id).kwargs) == (
        env_id in ("Wind-v0", "SemiCircle-v0", "CheetahVel-v0"))


def test_importing_twice_from_another_folder_registers_once_and_does_not_warn(tmp_path):
    program = (
        "import importlib, gymnasium as gym, envs; importlib.reload(envs); "
        "gym.make('envs:Wind-v0'); gym.make_vec('envs:Wind-v0', num_envs=2); "
        "print(len(envs.ENVIRONMENTS))"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == len(envs.ENVIRONMENTS)


# --- LANES = SINGLE ENVIRONMENT ------------------------------------------------------------------


@both_tasks
@pytest.mark.parametrize("oracle", [False, True])
def test_lanes_equal_single_envs_on_the_same_actions_and_tasks(name, oracle):
    single_class, vector_class = POINT_MASSES[name]
    lanes = vector_class(num_envs=3, oracle=oracle)
    tasks = lanes.lanes.tasks["train"][:3]
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1.5, 1.5, (lanes.lanes.horizon, 3, 2)).astype(np.float32)

    lanes.reset(seed=0, options={"task": tasks})
    starts = lanes.lanes.state.copy()
    played = [lanes.step(action) for action in actions]
    for lane in range(3):
        env = single_class(oracle=oracle)
        env.reset(seed=0, options={"task": tasks[lane]})
        env.lanes.state = starts[lane : lane + 1].copy()  # one generator serves all lanes
        for step, action in enumerate(actions):
            obs, reward, terminated, truncated, info = env.step(action[lane])
            v_obs, v_reward, v_terminated, v_truncated, v_info = played[step]
            np.testing.assert_array_equal(obs, v_obs[lane])
            assert (reward, terminated, truncated) == (
                v_reward[lane],
                v_terminated[lane],
                v_truncated[lane],
            )
            for key, value in info.items():
                np.testing.assert_array_equal(value, v_info[key][lane])


@both_tasks
@both_modes
@pytest.mark.parametrize("limit", [None, 7])
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_one_lane_equals_sync_vector_env_through_many_autoresets(name, mode, limit, split):
    # One lane and one single env share the order of their random draws, so *everything* must agree:
    # the row of the ignored action, final_obs, masks, the tasks and starts of later trials.
    arguments = {"horizon": 5, "episodes_per_trial": 2, "split": split}
    native = gym.make_vec(
        f"{name}-v0",
        num_envs=1,
        autoreset_mode=mode,
        **arguments,
        **({"max_episode_steps": limit} if limit else {}),
    )
    sync = SyncVectorEnv(
        [lambda: gym.make(f"{name}-v0", max_episode_steps=limit, **arguments)], autoreset_mode=mode
    )
    assert native.single_observation_space == sync.single_observation_space
    native_out, sync_out = native.reset(seed=3), sync.reset(seed=3)
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(60):
        for a, b in zip(native_out, sync_out, strict=True):
            assert equal(a, b), (a, b)
        action = rng.uniform(-1, 1, (1, 2)).astype(np.float32)
        native_out, sync_out = native.step(action), sync.step(action)
        ends += native_out[3][0]
    assert ends >= 5


@both_modes
def test_many_lanes_equal_sync_vector_env_when_nothing_is_random(mode):
    # Wind always starts at the origin; with one task in the list nothing is left to chance.
    native = WindVectorEnv(num_envs=4, horizon=6, autoreset_mode=mode)
    sync = SyncVectorEnv([lambda: WindEnv(horizon=6)] * 4, autoreset_mode=mode)
    only = native.lanes.tasks["train"][:1]
    native.lanes.tasks["train"] = only
    for env in sync.envs:
        env.lanes.tasks["train"] = only
    native_out, sync_out = native.reset(seed=0), sync.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        for a, b in zip(native_out, sync_out, strict=True):
            assert equal(a, b), (a, b)
        action = rng.uniform(-1, 1, (4, 2)).astype(np.float32)
        native_out, sync_out = native.step(action), sync.step(action)


def test_next_step_mode_ignores_the_action_after_the_end():
    lanes = WindVectorEnv(num_envs=2, horizon=3)
    lanes.reset(seed=0)
    for _ in range(3):
        last_obs, _, _, truncated, _ = lanes.step(np.ones((2, 2)))
    assert truncated.all() and (last_obs != 0).all()
    obs, reward, terminated, truncated, info = lanes.step(np.ones((2, 2)))
    np.testing.assert_array_equal(obs, np.zeros((2, 2)))  # the new start, not moved
    assert not reward.any() and not terminated.any() and not truncated.any()
    obs, *_ = lanes.step(np.zeros((2, 2)))
    np.testing.assert_array_equal(obs, info["task"])  # the next action is executed: wind only


def test_same_step_mode_returns_the_new_start_and_keeps_the_true_last_observation():
    lanes = WindVectorEnv(num_envs=2, horizon=3, autoreset_mode=AutoresetMode.SAME_STEP)
    _, info = lanes.reset(seed=0)
    wind = info["task"]
    for _ in range(3):
        obs, _, _, truncated, info = lanes.step(np.zeros((2, 2)))
    assert truncated.all()
    np.testing.assert_array_equal(obs, np.zeros((2, 2)))
    final_obs = np.stack(info["final_obs"][info["_final_obs"]])
    np.testing.assert_allclose(final_obs, 3 * wind, atol=1e-6)
    np.testing.assert_array_equal(info["final_info"]["task"], wind)
    assert info["final_info"]["episode_done"].all() and not info["episode_done"].any()


@both_tasks
def test_same_seed_same_trials_and_another_seed_another_trial(name):
    _, vector_class = POINT_MASSES[name]

    def history(seed):
        lanes = vector_class(num_envs=3, autoreset_mode=AutoresetMode.SAME_STEP)
        obs, info = lanes.reset(seed=seed)
        rows = [obs, info["task"]]
        for _ in range(2 * lanes.lanes.trial_steps):
            obs, _, _, _, info = lanes.step(np.full((3, 2), 0.3))
            rows += [obs, info["task"]]
        return rows

    first, again, other = history(1), history(1), history(2)
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))


# --- TRANSITION AND REWARD -----------------------------------------------------------------------


@both_tasks
def test_transition_and_reward_are_those_of_the_paper(name):
    _, vector_class = POINT_MASSES[name]
    lanes = vector_class(num_envs=64, episodes_per_trial=1)
    obs, info = lanes.reset(seed=0)
    task = info["task"]
    goal = np.array([[0.0, 1.0]]) if name == "Wind" else task
    radius, drift = (0.03, task) if name == "Wind" else (0.2, 0.0)
    assert not info["is_goal"].any()
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(lanes.lanes.trial_steps):
        # Half noise (also outside [-1, 1]: clipped), half towards the goal, so both rewards occur.
        noise, aimed = rng.uniform(-2, 2, (64, 2)), towards(obs[:, :2] + drift, goal)
        action = np.where(np.arange(64)[:, None] % 2, noise, aimed)
        expected = obs[:, :2] + 0.1 * np.clip(action, -1, 1) + drift
        obs, reward, terminated, _, info = lanes.step(action)
        np.testing.assert_allclose(obs[:, :2], expected, atol=1e-6)
        inside = np.linalg.norm(obs[:, :2].astype(np.float64) - goal, axis=1) <= radius
        np.testing.assert_array_equal(reward, inside)
        np.testing.assert_array_equal(info["is_goal"], inside)
        assert not terminated.any()  # standing in the goal does not end the trial
        seen |= set(reward)
    assert seen == {0.0, 1.0}


def test_wind_starts_at_the_origin_and_semi_circle_anywhere_in_its_box():
    np.testing.assert_array_equal(WindVectorEnv(num_envs=50).reset(seed=0)[0], np.zeros((50, 2)))
    start = SemiCircleVectorEnv(num_envs=5000).reset(seed=0)[0]
    np.testing.assert_allclose(start[:, :2].min(0), [-1.5, -0.5], atol=0.01)
    np.testing.assert_allclose(start[:, :2].max(0), [1.5, 1.5], atol=0.01)
    np.testing.assert_allclose(start[:, :2].mean(0), [0.0, 0.5], atol=0.05)
    assert (start[:, 2] == 0).all()


@pytest.mark.parametrize("name, horizon, k", [("Wind", 75, 1), ("SemiCircle", 60, 2)])
def test_a_trial_has_exactly_k_times_h_actions_and_is_truncated(name, horizon, k):
    env = gym.make(f"{name}-v0")
    env.reset(seed=0)
    done_at = []
    for step in range(1, horizon * k + 1):
        _, _, terminated, truncated, info = env.step(env.action_space.sample())
        assert (terminated, truncated) == (False, step == horizon * k)
        done_at += [step] if info["episode_done"] else []
    assert done_at == [horizon * (i + 1) for i in range(k)]
    with pytest.raises(RuntimeError, match="reset"):
        env.step(env.action_space.sample())


def test_inner_boundary_shows_the_old_end_and_acts_from_the_new_start():
    env = SemiCircleEnv(horizon=4, episodes_per_trial=3)
    obs, info = env.reset(seed=0)
    task, flags = info["task"], [obs[-1]]
    still = np.zeros(2, np.float32)
    starts = [obs[:2]]
    for step in range(1, 13):
        before = obs
        obs, _, _, _, info = env.step(still)
        flags.append(obs[-1])
        np.testing.assert_array_equal(info["task"], task)  # the task survives the boundary
        if before[-1] == 1:
            starts.append(obs[:2])  # action 0: where this step went from is the new start
            assert not np.allclose(obs[:2], before[:2])
        else:
            np.testing.assert_array_equal(obs[:2], before[:2])  # also on the boundary step itself
    assert flags == [0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert len(np.unique(np.array(starts), axis=0)) == 3


def test_goal_flag_on_the_boundary_step_belongs_to_the_old_episode():
    env = SemiCircleEnv(horizon=2)
    obs, _ = env.reset(seed=0, options={"task": [1.0, 0.0]})
    env.lanes.state = np.array([[1.0, 0.0]], np.float32)  # stand in the goal
    env.step(np.zeros(2))
    obs, reward, _, _, info = env.step(np.zeros(2))
    assert obs[-1] == 1 and reward == 1.0 and info["is_goal"] and info["episode_done"]
    assert np.linalg.norm(env.lanes.state - [1.0, 0.0]) > 0.2  # the new start is elsewhere


@both_tasks
@pytest.mark.parametrize("k", [1, 2])
def test_oracle_view_inserts_the_task_just_before_the_flag(name, k):
    single_class, _ = POINT_MASSES[name]
    plain = single_class(episodes_per_trial=k, horizon=3)
    oracle = single_class(episodes_per_trial=k, horizon=3, oracle=True)
    (obs, info), (oracle_obs, _) = plain.reset(seed=0), oracle.reset(seed=0)
    for _ in range(3 * k):
        flag = obs[2:]
        assert len(flag) == (k > 1)
        np.testing.assert_array_equal(oracle_obs, np.concatenate([obs[:2], info["task"], flag]))
        obs, *_ = plain.step(np.ones(2))
        oracle_obs, *_ = oracle.step(np.ones(2))


# --- TASKS ---------------------------------------------------------------------------------------


def test_wind_has_the_papers_winds_and_the_papers_split():
    generator = np.random.RandomState(1337)
    winds = np.array([[generator.uniform(-0.08, 0.08) for _ in "xy"] for _ in range(60)])
    published = [[-0.038076, -0.054611], [-0.035500, -0.006509], [-0.028640, 0.002943]]
    np.testing.assert_allclose(winds[:3], published, atol=1e-6)
    heldout = [21, 22, 31, 39, 34, 41, 37, 3, 54, 1, 38, 27, 45, 26, 19, 29, 8, 16, 24, 58]
    tasks = WindEnv().lanes.tasks
    np.testing.assert_array_equal(tasks["heldout"], winds[heldout].astype(np.float32))
    np.testing.assert_array_equal(tasks["train"][:5], winds[[6, 42, 7, 18, 55]].astype(np.float32))


def test_semi_circle_goals_lie_on_the_half_circle_and_depend_on_task_seed_only():
    one, same, other = (SemiCircleEnv(task_seed=s).lanes.tasks for s in (3, 3, 4))
    goals = np.concatenate([one["train"], one["heldout"]])
    np.testing.assert_allclose(np.linalg.norm(goals, axis=1), 1.0, atol=1e-6)
    assert (goals[:, 1] >= 0).all() and goals[:, 0].min() < -0.9 and goals[:, 0].max() > 0.9
    np.testing.assert_array_equal(one["train"], same["train"])
    assert not np.array_equal(one["train"], other["train"])


def test_semi_circle_heldout_goals_cover_the_half_circle_evenly():
    """One goal in each hundredth of the half circle, every fifth of these held out."""
    tasks = SemiCircleEnv(task_seed=3).lanes.tasks
    hundredth = {k: np.arctan2(g[:, 1], g[:, 0]) / np.pi * 100 for k, g in tasks.items()}
    np.testing.assert_array_equal(np.floor(hundredth["heldout"]), np.arange(20) * 5 + 2)
    both = np.sort(np.concatenate([hundredth["train"], hundredth["heldout"]]))
    np.testing.assert_array_equal(np.floor(both), np.arange(100))


@pytest.mark.parametrize("name, n_train", [("Wind", 40), ("SemiCircle", 80)])
def test_train_draws_only_training_tasks_and_heldout_covers_each_other_task_once(name, n_train):
    _, vector_class = POINT_MASSES[name]
    _, train = vector_class(num_envs=2000).reset(seed=0)
    _, heldout = vector_class(num_envs=20, split="heldout").reset(seed=0)
    train, heldout = set(map(tuple, train["task"])), set(map(tuple, heldout["task"]))
    assert (len(train), len(heldout)) == (n_train, 20)
    assert not train & heldout


def test_heldout_counter_goes_on_at_resets_and_starts_at_the_seed_of_one():
    lanes = WindVectorEnv(num_envs=8, split="heldout", horizon=1, autoreset_mode=MODES[1])
    tasks = [tuple(task) for task in lanes.lanes.tasks["heldout"]]

    def positions(info):
        return [tasks.index(tuple(task)) for task in info["task"]]

    assert positions(lanes.reset(seed=40)[1]) == list(range(8))  # task 40 % 20, and on
    assert positions(lanes.step(np.zeros((8, 2)))[4]) == list(range(8, 16))  # an autoreset
    assert positions(lanes.reset()[1]) == [16, 17, 18, 19, 0, 1, 2, 3]
    assert positions(lanes.reset(seed=1006)[1]) == list(range(6, 14))


# --- SCORES --------------------------------------------------------------------------------------

CENTRE = np.array([0.0, 0.5])  # mean start of Semi-Circle: best guess for the blind step
UNIFORM_ANGLE = np.random.default_rng(5).uniform(0, np.pi, 4000)
UNIFORM_GOALS = np.stack([np.cos(UNIFORM_ANGLE), np.sin(UNIFORM_ANGLE)], axis=1)


def believed_position(obs):
    """(x, y), but the mean start where the flag tells that the point is about to jump. (N, 2)"""
    return np.where(obs[:, -1:] == 1, CENTRE, obs[:, :2])


def scripted_searcher(n, radius=0.86):
    """Sweep the arc from the nearer end until a reward is felt, sit there, remember the place."""
    found, place, angle, on_arc, turn = None, None, None, None, None

    def at(angle):
        return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def act(obs, reward, info):
        nonlocal found, place, angle, on_arc, turn
        position = believed_position(obs)
        if found is None:
            right = position[:, 0] > 0
            angle, turn = np.where(right, 0.0, np.pi), np.where(right, 1.0, -1.0)
            found, on_arc, place = np.zeros(n, bool), np.zeros(n, bool), np.zeros((n, 2))
        new = (reward > 0) & ~found
        found, place = found | new, np.where(new[:, None], position, place)
        on_arc |= np.abs(at(angle) - position).max(1) <= 0.1
        for _ in range(20):  # push the aim along the arc as far as one step reaches
            pushed = angle + 0.01 * turn
            reachable = np.abs(at(pushed) - position).max(1) <= 0.1
            angle = np.where(on_arc & reachable, pushed, angle)
        return towards(position, np.where(found[:, None], place, at(angle)))

    return act


def test_a_controller_that_knows_the_wind_scores_63_95_on_the_heldout_winds():
    lanes = WindVectorEnv(num_envs=20, split="heldout")
    goal = np.array([0.0, 1.0])
    score = play(lanes, lambda obs, _, info: towards(obs + info["task"], goal)).mean()
    assert score == pytest.approx(63.95)
    assert score == lanes.metadata["reference_scores"]["oracle controller"]


def test_semi_circle_controllers_score_what_the_metadata_says():
    lanes = SemiCircleVectorEnv(num_envs=len(UNIFORM_GOALS))
    scores = lanes.metadata["reference_scores"]
    known = play(
        lanes,
        lambda obs, _, info: towards(believed_position(obs), info["task"]),
        task=UNIFORM_GOALS,
    )
    searched = play(lanes, scripted_searcher(len(UNIFORM_GOALS)), task=UNIFORM_GOALS)
    assert known.mean() == pytest.approx(scores["knows the goal"], abs=0.4)  # standard error 0.13
    assert searched.mean() == pytest.approx(scores["scripted searcher"], abs=0.5)
    assert (searched > 0).all()  # the sweep never misses


@pytest.mark.parametrize("name, low, high", [("Wind", 0.0, 0.05), ("SemiCircle", 1.9, 2.9)])
def test_random_play_scores_next_to_nothing(name, low, high):
    _, vector_class = POINT_MASSES[name]
    rng = np.random.default_rng(0)
    lanes = vector_class(num_envs=2000)
    score = play(lanes, lambda *_: rng.uniform(-1, 1, (2000, 2)).astype(np.float32)).mean()
    assert low <= score <= high


# --- OCCLUSION -----------------------------------------------------------------------------------


def random_actions(space, n, seed):
    space.seed(seed)
    return [space.sample() for _ in range(n)]


@occluded_ids
@pytest.mark.parametrize("oracle", [False, True])
def test_occlusion_hides_entries_and_changes_nothing_else(env_id, oracle):
    kwargs = gym.spec(env_id).kwargs
    env = gym.make(env_id, oracle=oracle)
    limit = gym.spec(env_id).max_episode_steps
    if "Bullet" in kwargs["base_id"]:
        import pybullet_envs_gymnasium  # noqa: F401
    base = gym.make(kwargs["base_id"], max_episode_steps=limit,
                    **BASE_KWARGS.get(kwargs["base_id"], {}))
    if "Bullet" in kwargs["base_id"]:
        base.reset(seed=0)  # the TRAP in occlusion.py
    kept = KEPT[kwargs["base_id"]][kwargs["view"]]
    kept = list(range(base.observation_space.shape[0])) if oracle else kept
    for seed in range(3):
        (obs, _), (full, _) = env.reset(seed=seed), base.reset(seed=seed)
        np.testing.assert_array_equal(obs, full[kept].astype(np.float32))
        over = False
        for action in random_actions(env.action_space, limit, seed):
            scaled = 2.0 * action if kwargs["base_id"] == "Pendulum-v1" else action
            obs, reward, *ends, _ = env.step(action)
            full, base_reward, *base_ends, _ = base.step(scaled)
            np.testing.assert_allclose(obs, full[kept], rtol=1e-5, atol=1e-5)
            assert reward == pytest.approx(base_reward, rel=1e-5) and ends == base_ends
            if over := any(ends):
                break
        assert over


def test_kept_entries_are_the_papers():
    assert KEPT["Pendulum-v1"] == {"P": [0, 1], "V": [2]}
    assert KEPT["CartPole-v1"] == {"P": [0, 2], "V": [1, 3]}
    assert KEPT["LunarLander-v3"] == {"P": [0, 1, 4, 6, 7], "V": [2, 3, 5, 6, 7]}


def test_lunar_lander_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "Box2D", None)  # as if it were not there
    monkeypatch.delitem(sys.modules, "gymnasium.envs.box2d.lunar_lander", raising=False)
    with pytest.raises(gym.error.DependencyNotInstalled, match="requirements-box2d.txt"):
        gym.make("LunarLander-V-v0")


@pytest.mark.parametrize("env_id", ["Pendulum-P-v0", "Pendulum-V-v0"])
def test_pendulum_action_minus_one_to_one_is_the_full_torque(env_id):
    env = gym.make(env_id)
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    env.reset(seed=0)
    for action, torque in [(-1.0, -2.0), (0.25, 0.5), (1.0, 2.0), (7.0, 2.0)]:
        env.unwrapped.step(np.array([action], np.float32))
        assert env.unwrapped.base.unwrapped.last_u == pytest.approx(torque)


def balance(env):
    """CartPole, full state: push to the side to which the pole falls. Return the episode length."""
    obs, _ = env.reset(seed=0)
    for step in range(1, 301):
        obs, _, terminated, truncated, _ = env.step(int(obs[2] + 0.3 * obs[3] > 0))
        if terminated or truncated:
            return step, terminated, truncated
    return step, False, False


def test_cart_pole_is_cut_at_200_steps_and_not_by_the_500_of_its_base():
    assert balance(gym.make("CartPole-V-v0", oracle=True)) == (200, False, True)
    assert balance(gym.make("CartPole-V-v0", oracle=True, max_episode_steps=250)) == (
        250,
        False,
        True,
    )


# --- RENDERING -----------------------------------------------------------------------------------


@both_tasks
def test_a_frame_shows_the_hidden_task_the_agent_and_the_goal(name):
    single_class, _ = POINT_MASSES[name]
    env = single_class(render_mode="rgb_array")

    def frame(task, n_steps=0):
        env.reset(seed=0, options={"task": task})
        for _ in range(n_steps):
            env.step(np.ones(2))
        return env.render()

    one, same, other = frame([0.05, 0.05]), frame([0.05, 0.05]), frame([-0.05, 0.05])
    assert one.shape == (300, 300, 3) and one.dtype == np.uint8
    np.testing.assert_array_equal(one, same)
    assert (one != other).any() and (one != frame([0.05, 0.05], 3)).any()
    away = env.render()
    env.lanes.is_goal[:] = True
    assert (env.render() != away).any()  # colours tell that the point is inside


def test_lanes_render_one_frame_each_and_nothing_without_a_render_mode():
    lanes = gym.make_vec("SemiCircle-v0", num_envs=3, render_mode="rgb_array")
    lanes.reset(seed=0)
    frames = lanes.render()
    assert isinstance(frames, tuple) and [f.shape for f in frames] == [(300, 300, 3)] * 3
    assert (frames[0] != frames[1]).any()
    blind = SemiCircleVectorEnv()
    blind.reset(seed=0)
    assert blind.render() is None


def test_occluded_tasks_render_the_base():
    env = gym.make("CartPole-V-v0", render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().dtype == np.uint8 and env.render().shape[2] == 3


# --- ERRORS --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env_id, kwargs, message",
    [
        ("Wind-v0", {"split": "test"}, "split='test'.*heldout"),
        ("Wind-v0", {"horizon": 0}, "horizon=0.*>= 1"),
        ("Wind-v0", {"horizon": 7.5}, "horizon=7.5.*integer"),
        ("SemiCircle-v0", {"episodes_per_trial": 0}, "episodes_per_trial=0.*>= 1"),
        ("SemiCircle-v0", {"task_seed": -1}, "task_seed=-1.*>= 0"),
        ("Wind-v0", {"num_envs": 0}, "num_envs=0.*>= 1"),
        ("Wind-v0", {"max_episode_steps": 0}, "max_episode_steps=0.*>= 1"),
        ("Wind-v0", {"render_mode": "human"}, "render_mode='human'.*rgb_array"),
        ("Wind-v0", {"autoreset_mode": AutoresetMode.DISABLED}, "autoreset_mode=.*SAME_STEP"),
        ("Pendulum-P-v0", {"view": "X"}, "view='X'.*'P'"),
        ("Pendulum-P-v0", {"base_id": "Acrobot-v1"}, "base_id='Acrobot-v1'.*CartPole"),
    ],
)
def test_bad_arguments_name_the_argument_the_value_and_the_fix(env_id, kwargs, message):
    with pytest.raises(ValueError, match=message):
        gym.make_vec(env_id, **kwargs)


def test_bad_forced_tasks_bad_actions_and_steps_before_reset_are_refused():
    lanes = WindVectorEnv(num_envs=3)
    with pytest.raises(RuntimeError, match="reset"):
        lanes.step(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        lanes.reset(options={"task": np.zeros((2, 2))})
    with pytest.raises(ValueError, match="outside"):
        lanes.reset(options={"task": [0.5, 0.0]})
    lanes.reset()
    with pytest.raises(ValueError, match=r"shape \(2,\); use \(3, 2\)"):
        lanes.step(np.zeros(2))


def test_cartpole_v_needs_no_memory():
    """Push after theta_dot + 0.1 x_dot: 200 of 200 steps from each start."""
    env = gym.make("CartPole-V-v0")
    for seed in range(20):
        obs, _ = env.reset(seed=seed)
        steps, ended = 0, False
        while not ended:
            obs, _, terminated, truncated, _ = env.step(int(obs[1] + 0.1 * obs[0] > 0))
            steps, ended = steps + 1, terminated or truncated
        assert steps == 200
