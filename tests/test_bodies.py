"""What is true of the MuJoCo environments: trials of bodies, changed dynamics, occlusion."""

import functools
import re
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import envs  # noqa: F401  (registers the ids)
import rmf_sac_gru as rmf
from envs.dynamics import OUTER, TASKS, DynamicsEnv
from envs.locomotion import AntDirEnv, CheetahDirEnv, CheetahVelEnv, HumanoidDirEnv
from envs.occlusion import KEPT

TRIALS = {"CheetahVel-v0": CheetahVelEnv, "CheetahDir-v0": CheetahDirEnv,
          "AntDir-v0": AntDirEnv, "HumanoidDir-v0": HumanoidDirEnv}
every_trial = pytest.mark.parametrize("env_id", TRIALS)
every_dynamics = pytest.mark.parametrize("task", TASKS)


def random_actions(env, n, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, *env.action_space.shape)).astype("f4")


# --- TRIALS ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id, expected", [
    ("CheetahVel-v0", lambda d: [d.qpos[1:], d.qvel, d.body("torso").xpos]),
    ("CheetahDir-v0", lambda d: [d.qpos[1:], d.qvel, d.body("torso").xpos]),
    ("AntDir-v0", lambda d: [d.qpos[2:], d.qvel]),
    ("HumanoidDir-v0", lambda d: [d.qpos[2:], d.qvel, d.cinert[1:].ravel(), d.cvel[1:].ravel(),
                                  d.qfrc_actuator[6:]]),
])
@pytest.mark.parametrize("oracle", [False, True])
def test_a_trial_observes_the_body_then_the_task_for_the_oracle_then_the_flag(
        env_id, expected, oracle):
    env = gym.make(env_id, oracle=oracle).unwrapped
    env.reset(seed=1)
    for action in random_actions(env, 5):
        obs, _, _, _, info = env.step(action)
        parts = expected(env.body.data) + [info["task"]] * oracle + [[0.0]]
        np.testing.assert_allclose(obs, np.concatenate(parts), rtol=1e-5, atol=1e-6)
    assert obs.dtype == np.float32


def centre_of_mass(body):
    return (body.model.body_mass @ body.data.xipos)[:2] / body.model.body_mass.sum()


@pytest.mark.parametrize("env_id, place, formula", [
    ("CheetahVel-v0", lambda b: b.data.qpos[:2],
     lambda v, a, task: -abs(v[0] - task[0]) - 0.05 * (a**2).sum()),
    ("CheetahDir-v0", lambda b: b.data.qpos[:2],
     lambda v, a, task: task[0] * v[0] - 0.05 * (a**2).sum()),
    ("AntDir-v0", lambda b: b.data.body("torso").xpos[:2],
     lambda v, a, task: v @ task - 0.5 * (a**2).sum() + 1),
    ("HumanoidDir-v0", centre_of_mass,
     lambda v, a, task: 0.25 * 0.015 / 0.003 * v @ task - 0.1 * ((0.4 * a) ** 2).sum() + 5),
])
def test_the_reward_is_the_papers_formula(env_id, place, formula):
    env = gym.make(env_id).unwrapped
    _, info = env.reset(seed=3)
    for action in random_actions(env, 20):
        before = place(env.body).copy()
        _, reward, _, _, info = env.step(action)
        velocity = (place(env.body) - before) / env.body.dt
        assert reward == pytest.approx(formula(velocity, action.astype(float), info["task"]),
                                       rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("env_id", ["CheetahVel-v0", "CheetahDir-v0"])
def test_a_trial_has_k_times_h_actions_a_flag_a_new_start_and_the_same_task(env_id):
    env = gym.make(env_id, horizon=7, episodes_per_trial=3).unwrapped
    obs, info = env.reset(seed=5)
    task, flags, x = info["task"], [obs[-1]], []
    for t, action in enumerate(random_actions(env, 21)):
        before = env.body.data.qpos.copy()
        obs, _, terminated, truncated, info = env.step(action)
        flags.append(obs[-1])
        assert obs[-1] == info["episode_done"] and np.array_equal(info["task"], task)
        assert not terminated and truncated == (t == 20)
        if t in (6, 13):  # the old end is shown, the body stands at a new start already
            assert np.abs(obs[:8] - env.body.data.qpos[1:]).max() > 1e-3
            assert np.abs(env.body.data.qpos[0]) <= 0.1 and not np.array_equal(
                before, env.body.data.qpos)
            x.append(env.body.data.qpos.copy())
    assert np.flatnonzero(flags).tolist() == [7, 14, 21] and not np.array_equal(*x)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(action)


@pytest.mark.parametrize("env_id", ["AntDir-v0", "HumanoidDir-v0"])
def test_a_fall_ends_an_episode_and_only_in_the_last_one_the_trial(env_id):
    env = gym.make(env_id).unwrapped
    _, info = env.reset(seed=2)
    task = info["task"]
    for episode in (1, 2):
        for _ in range(3):
            _, _, terminated, truncated, info = env.step(np.zeros(env.action_space.shape))
            assert not info["episode_done"]
        env.body.data.qpos[2] = 5.0  # far above where the body is healthy
        obs, _, terminated, truncated, info = env.step(np.zeros(env.action_space.shape))
        assert info["episode_done"] and obs[-1] == 1 and not truncated
        assert terminated == (episode == 2) and np.array_equal(info["task"], task)
        if episode == 1:  # the fall is shown, the body stands at a new start already
            assert obs[0] > 2 and env.body.data.qpos[2] < 2 and env.steps_left == 200


@every_trial
def test_the_first_action_of_a_new_episode_moves_the_body_from_its_new_start(env_id):
    env = gym.make(env_id, horizon=3).unwrapped
    env.reset(seed=4)
    actions = random_actions(env, 4)
    for action in actions[:3]:
        env.step(action)
    start = env.body.data.qpos.copy(), env.body.data.qvel.copy()
    obs, reward, *_ = env.step(actions[3])
    other = gym.make(env_id).unwrapped
    other.reset(seed=1, options={"task": env.task})
    other.body.set_state(*start)
    same, same_reward, *_ = other.step(actions[3])
    np.testing.assert_allclose(obs, same, rtol=1e-4, atol=1e-5)
    assert reward == pytest.approx(same_reward, rel=1e-4)


def test_a_fall_exactly_at_the_time_limit_is_not_terminal():
    env = gym.make("AntDir-v0", horizon=2, episodes_per_trial=1).unwrapped
    env.reset(seed=2)
    env.step(np.zeros(8))
    env.body.data.qpos[2] = 5.0
    _, _, terminated, truncated, _ = env.step(np.zeros(8))
    assert truncated and not terminated


def test_cheetah_vel_has_100_speeds_for_training_and_20_others_held_out():
    train, heldout = (gym.make("CheetahVel-v0", split=s).unwrapped for s in ("train", "heldout"))
    drawn = {float(train.reset(seed=s)[1]["task"][0]) for s in range(60)}
    held = [float(heldout.reset(seed=10_001 + s)[1]["task"][0]) for s in range(20)]
    assert len(set(held)) == 20 and not drawn & set(held) and len(drawn) > 30
    assert len(train.train_speeds) == 100 and len(train.heldout_speeds) == 20
    lanes = gym.make_vec("CheetahVel-v0", num_envs=20, split="heldout")
    assert sorted(lanes.reset(seed=10_001)[1]["task"][:, 0].tolist()) == sorted(held)
    assert all(0 <= v <= 3 for v in drawn | set(held))
    again = [float(heldout.reset()[1]["task"][0]) for _ in range(20)]
    assert sorted(again) == sorted(held) and again[0] == held[0]
    other = gym.make("CheetahVel-v0", split="heldout", task_seed=1).unwrapped
    assert float(other.reset(seed=10_001)[1]["task"][0]) != held[0]
    with pytest.raises(ValueError, match="task_seed=-1.*>= 0"):
        CheetahVelEnv(task_seed=-1)


def test_directions_are_those_of_the_paper():
    def tasks(env_id, n):
        env = gym.make(env_id).unwrapped
        return np.array([env.reset(seed=s)[1]["task"] for s in range(n)])

    assert sorted(set(tasks("CheetahDir-v0", 30).ravel().tolist())) == [-1, 1]
    ant = np.unique(tasks("AntDir-v0", 30), axis=0)  # a radian to either side
    np.testing.assert_allclose(ant, [[0.5403, -0.8415], [0.5403, 0.8415]], atol=1e-4)
    humanoid = tasks("HumanoidDir-v0", 10)
    np.testing.assert_allclose(np.hypot(*humanoid.T), 1, rtol=1e-6)
    assert len(np.unique(humanoid[:, 0])) == 10


@pytest.mark.parametrize("env_id, n_hidden", [
    ("HopperRobust-v0", 2), ("CheetahVel-v0", 1), ("CheetahDir-v0", 1), ("HumanoidDir-v0", 2)])
def test_the_start_of_the_body_does_not_betray_the_task(env_id, n_hidden):
    """With one seed for both generators the numbers of the start would be those of the task."""
    env = gym.make(env_id).unwrapped
    starts, tasks = [], []
    for seed in range(200):
        _, info = env.reset(seed=seed)
        data = env.base.unwrapped.data
        starts.append(np.concatenate([data.qpos, data.qvel]))
        tasks.append(info["task"][:n_hidden])
    starts = np.array(starts)[:, np.std(starts, 0) > 1e-9]
    both = np.corrcoef(starts.T, np.array(tasks).T)[:-n_hidden, -n_hidden:]
    assert np.abs(both).max() < 0.35  # of at most 94 independent pairs; 1.0 with one seed


@every_trial
def test_trials_are_reproducible_forced_and_bounded(env_id):
    def play(**options):
        env = gym.make(env_id, horizon=6)
        obs, info = env.reset(seed=9, options=options)
        rows = [obs] + [env.step(a)[0] for a in random_actions(env, 12)]
        assert all(env.observation_space.contains(row) for row in rows)
        return np.array(rows), info["task"]

    a, task = play()
    b, _ = play()
    assert np.array_equal(a, b)
    forced = -task if "Vel" not in env_id else np.array([1.5])
    assert np.allclose(play(task=forced)[1], forced)
    for wrong in ([1.0, 2.0, 3.0], task * 99, task * np.nan):
        with pytest.raises(ValueError, match="task="):
            play(task=wrong)
    for wrong in ({"horizon": 0}, {"episodes_per_trial": 0}, {"render_mode": "human"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TRIALS[env_id](**wrong)


# --- DYNAMICS -------------------------------------------------------------------------------------


def compiled(env):
    model = env.unwrapped.model
    return {"mass": model.body_mass.copy(), "inertia": model.body_inertia.copy(),
            "friction": model.geom_friction.copy(), "gear": model.actuator_gear.copy(),
            "subtree": model.body_subtreemass.copy(), "invweight": model.body_invweight0.copy()}


@every_dynamics
def test_the_compiled_model_holds_what_was_drawn_and_nothing_adds_up(task):
    base = compiled(gym.make(TASKS[task][0]))
    env = gym.make(f"{task}-v0")
    for seed in range(1000):
        _, info = env.reset(seed=seed)
    density, friction, power = info["task"].astype(float)
    now = compiled(env)
    for name, factor in (("mass", density), ("inertia", density), ("subtree", density)):
        np.testing.assert_allclose(now[name], base[name] * factor, rtol=1e-5)
    np.testing.assert_allclose(now["friction"][:, 0], base["friction"][:, 0] * friction, rtol=1e-5)
    np.testing.assert_allclose(now["friction"][:, 1:], base["friction"][:, 1:])
    np.testing.assert_allclose(now["gear"][:, 0], base["gear"][:, 0] * power, rtol=1e-5)
    # Inverse weights follow, less than by 1 / density: the joints' armature is not scaled.
    ratio = now["invweight"][1:] / base["invweight"][1:]
    assert (np.abs(np.log(ratio)) <= abs(np.log(density)) + 1e-6).all()
    assert (np.log(ratio) * -np.log(density) > 0).all()
    env.unwrapped.set_parameters(1.0, 1.0, 1.0)
    assert all(np.allclose(base[k], v, rtol=1e-9) for k, v in compiled(env).items())


@every_dynamics
def test_each_mode_draws_from_its_range(task):
    ranges = TASKS[task][1]

    def drawn(mode):
        env = gym.make(f"{task}-v0", mode=mode).unwrapped
        env.reset(seed=0)
        return np.array([env.draw_parameters() for _ in range(300)])

    assert (drawn("D") == 1).all()
    inner = drawn("R")
    for i, name in enumerate(("density", "friction", "power")):
        low, high = ranges.get(name, (1, 1))
        assert low <= inner[:, i].min() <= low + 0.05 * (high - low)
        assert high >= inner[:, i].max() >= high - 0.05 * (high - low)
    if task not in OUTER:
        with pytest.raises(ValueError, match="mode="):
            gym.make(f"{task}-v0", mode="E", disable_env_checker=True)
        return
    extreme = drawn("E")
    for i, name in enumerate(ranges):
        (low, high), (lowest, highest) = ranges[name], OUTER[task][name]
        below, above = extreme[:, i] < low, extreme[:, i] >= high
        assert (below | above).all() and 0.35 < below.mean() < 0.65
        assert extreme[:, i].min() >= lowest and extreme[:, i].max() < highest
        assert low - lowest == pytest.approx(highest - high)


def test_the_nominal_body_is_gymnasiums_own():
    ours, base = gym.make("HopperGeneralize-D-v0"), gym.make("Hopper-v5")
    ours.reset(seed=0)
    base.reset(seed=0)
    base.unwrapped.set_state(ours.unwrapped.base.unwrapped.data.qpos.copy(),
                             ours.unwrapped.base.unwrapped.data.qvel.copy())
    for action in random_actions(ours, 10):
        a, b = ours.step(action), base.step(action)
        np.testing.assert_allclose(a[0], b[0], rtol=1e-4, atol=1e-5)
        assert a[1] == pytest.approx(b[1], rel=1e-6) and a[2] == b[2]


def test_parameters_can_be_forced():
    env = gym.make("HopperGeneralize-v0")
    forced = np.array([1.1, 0.9, 0.7], np.float32)
    assert np.allclose(env.reset(seed=0, options={"task": forced})[1]["task"], forced)
    assert not np.allclose(env.reset()[1]["task"], forced)
    for wrong in ([1.0, 1.0], [0.0, 1.0, 1.0], [1.0, -1.0, 1.0], [1.0, 1.0, np.nan]):
        with pytest.raises(ValueError, match="task=.*density, friction, power"):
            env.reset(options={"task": wrong})


def test_absolute_friction_is_that_of_the_original_engine():
    env = gym.make("HopperGeneralize-v0", friction="absolute")
    _, info = env.reset(seed=1)
    np.testing.assert_allclose(env.unwrapped.model.geom_friction[:, 0], 0.64 * info["task"][1],
                               rtol=1e-6)


@pytest.mark.parametrize("task", ["HopperRobust", "HopperGeneralize"])
def test_the_oracle_sees_the_parameters(task):
    env = gym.make(f"{task}-v0", oracle=True)
    obs, info = env.reset(seed=4)
    varied = info["task"][: len(TASKS[task][1])]
    low, high = np.array(list(TASKS[task][1].values())).T
    expected = varied if task in OUTER else (varied - low) / (high - low)
    np.testing.assert_allclose(obs[11:], expected, rtol=1e-5)
    assert env.observation_space.shape == obs.shape


def test_success_is_to_have_been_far_enough_at_any_step():
    env = gym.make("HopperGeneralize-v0", success_distance=2.0).unwrapped
    _, info = env.reset(seed=0)
    assert info["is_success"] is False
    data = env.base.unwrapped.data
    for x, expected in ((1.9, False), (2.1, True), (0.0, True)):
        data.qpos[0], data.qvel[0] = x, 0.0
        assert env.step(np.zeros(3))[4]["is_success"] is expected
    assert env.reset(seed=1)[1]["is_success"] is False
    assert "is_success" not in gym.make("HopperRobust-v0").reset(seed=0)[1]


def test_bad_arguments_of_dynamics_name_argument_value_and_fix():
    for kwargs in ({"task": "Snail"}, {"mode": "X"}, {"friction": "none"},
                   {"render_mode": "human"}, {"success_distance": 0},
                   {"success_distance": np.nan}, {"success_distance": np.inf},
                   {"success_distance": 5.0, "task": "HopperRobust"}):
        with pytest.raises(ValueError, match=next(iter(kwargs))):
            DynamicsEnv(**{"task": "HopperGeneralize"} | kwargs)


@pytest.mark.parametrize("env_id", [
    "HopperGeneralize-v0", "CheetahRobust-v0", "CheetahVel-v0", "AntDir-v0", "HalfCheetah-V-v0"])
def test_lane_i_is_the_single_environment_that_is_reset_with_seed_plus_i(env_id):
    n, seed = 3, 11
    lanes, single = gym.make_vec(env_id, num_envs=n), gym.make(env_id)
    obs, info = lanes.reset(seed=seed)
    actions = np.random.default_rng(0).uniform(-1, 1, (5, n, *single.action_space.shape))
    actions = actions.astype(np.float32)
    rows = [obs] + [lanes.step(a)[:2] for a in actions]
    for i in range(n):
        obs, single_info = single.reset(seed=seed + i)
        np.testing.assert_array_equal(obs, rows[0][i])
        if "task" in single_info:
            np.testing.assert_array_equal(single_info["task"], info["task"][i])
        for t, (lane_obs, lane_reward) in enumerate(rows[1:]):
            obs, reward, *_ = single.step(actions[t, i])
            np.testing.assert_array_equal(obs, lane_obs[i])
            assert reward == lane_reward[i]


def test_a_script_reports_success_in_each_mode_and_the_worst_tenth(monkeypatch):
    """--evaluate with --env-id: one agent, the body it was trained on and others."""
    fields = dict(eval_episodes=20, rnn_size=8, hidden_sizes=(8,))
    agent = rmf.Agent(11, 3, rmf.Args(**fields))

    def played(env, act, seed, keep_rows, original=rmf.play):
        rows, n_steps, returns, success = original(env, act, seed, keep_rows)
        assert success.shape == (20,) and not np.isnan(success).any()
        return rows, n_steps, np.arange(20.0), np.arange(20) < n_far

    monkeypatch.setattr(rmf, "play", played)
    for mode, n_far in (("R", 8), ("D", 13), ("E", 1)):  # lanes that get far enough
        args = rmf.Args(env_id=f"HopperGeneralize-{mode}-v0", **fields)
        result = rmf.evaluate(rmf.POMDP(args, 20, "heldout"), agent, args)
        assert result["eval/success_rate"] == n_far / 20
        assert result["eval/return_worst10"] == 0.5  # of 0, 1: two of twenty
        assert result["eval/return_mean"] == 9.5 and len(result) == 7


@pytest.mark.parametrize("env_id", ["HopperGeneralize-v0", "AntDir-v0"])
def test_a_script_plays_them_in_lanes_that_end_one_by_one(env_id):
    env = rmf.POMDP(rmf.Args(env_id=env_id), 4)
    rng = np.random.default_rng(0)
    rows, n_steps, _, success = rmf.play(
        env, lambda *_: (rng.uniform(-1, 1, (4, env.action_dim)), None), seed=3)
    assert len(set(n_steps.tolist())) > 1
    assert (~np.isnan(success)).all() == ("Generalize" in env_id)
    for lane, n in enumerate(n_steps):
        limit = n >= 200  # of the last episode of a trial
        assert rows["terminal"][n, lane] or limit
        assert not rows["terminal"][:n, lane].any()


# --- OCCLUSION ------------------------------------------------------------------------------------


@pytest.mark.parametrize("body, view, expected", [
    ("HalfCheetah", "P", lambda d: d.qpos[1:]), ("HalfCheetah", "V", lambda d: d.qvel),
    ("Hopper", "P", lambda d: d.qpos[1:]), ("Hopper", "V", lambda d: d.qvel.clip(-10, 10)),
    ("Walker2d", "P", lambda d: d.qpos[1:]), ("Walker2d", "V", lambda d: d.qvel.clip(-10, 10)),
    ("Ant", "P", lambda d: d.qpos[2:]), ("Ant", "V", lambda d: d.qvel),
])
def test_positions_are_qpos_and_velocities_are_qvel(body, view, expected):
    env = gym.make(f"{body}-{view}-v0").unwrapped
    env.reset(seed=0)
    for action in random_actions(env, 5):
        obs, *_ = env.step(action)
        np.testing.assert_allclose(obs, expected(env.base.unwrapped.data), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("body, positions, velocities", [
    ("Hopper", [0, 1, 2, 6, 7, 8, 10, 12, 14], [3, 4, 5, 9, 11, 13]),
    ("Walker2D", [0, 1, 2, 6, 7, 8, 10, 12, 14, 16, 18, 20, 21], [3, 4, 5, *range(9, 20, 2)]),
    ("HalfCheetah", [0, 1, 2, 6, 7, 8, 10, 12, 14, 16, 18, *range(20, 26)],
     [3, 4, 5, *range(9, 20, 2)]),
    ("Ant", [0, 1, 2, 6, 7, *range(8, 23, 2), *range(24, 28)], [3, 4, 5, *range(9, 24, 2)]),
])
def test_pybullet_entries_are_the_papers(body, positions, velocities):
    assert KEPT[f"{body}BulletEnv-v0"] == {"P": positions, "V": velocities}


@pytest.mark.parametrize("body", ["Hopper", "Walker", "HalfCheetah", "Ant"])
def test_pybullet_pays_the_same_in_its_first_and_its_second_episode(body):
    pytest.importorskip("pybullet_envs_gymnasium")
    env, rewards = gym.make(f"{body}BLT-V-v0"), []
    for _ in range(2):
        env.reset(seed=7)
        rewards.append([env.step(action)[1] for action in random_actions(env, 5)])
    assert rewards[0] == rewards[1]


def test_pybullet_draws_also_when_the_first_world_has_been_closed():
    pytest.importorskip("pybullet_envs_gymnasium")
    make = functools.partial(gym.make, "HopperBLT-P-v0", render_mode="rgb_array")
    first, second = make(), make()
    for env in (first, second):
        env.reset(seed=0)
    first.close()
    frame = second.render()
    assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.std() > 0
    second.close()


def test_pybullet_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pybullet_envs_gymnasium", None)  # as if it were not there
    with pytest.raises(gym.error.DependencyNotInstalled, match="requirements-pybullet.txt"):
        gym.make("HopperBLT-P-v0")


# --- PICTURES -------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["CheetahVel-v0", "AntDir-v0", "HopperRobust-v0"])
def test_a_picture_shows_the_body_and_says_what_is_hidden(env_id):
    env = gym.make(env_id, render_mode="rgb_array").unwrapped
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.render()
    env.reset(seed=0)
    try:
        bare = env.base.render()
    except Exception as error:  # a machine without any OpenGL
        pytest.skip(f"MuJoCo cannot draw here: {error}")
    frame = env.render()
    assert frame.dtype == np.uint8 and frame.shape == bare.shape
    changed = np.argwhere((frame != bare).any(-1))
    assert 0 < len(changed) and changed[:, 0].max() < 40  # the line of text at the top
    assert gym.make(env_id).unwrapped.render() is None


def test_every_body_has_its_picture_in_the_docs():
    from experiments.draw_envs import STRIPS

    def family(env_id):
        return re.sub(r"(-[PVDRE])?-v0$", "", env_id)

    registered = {i: gym.spec(i) for i in envs.ENVIRONMENTS}  # not those of tests and exercises
    ours = {family(i) for i, spec in registered.items()
            if str(spec.entry_point).startswith(("envs.locomotion", "envs.dynamics"))
            or KEPT.keys() & {spec.kwargs.get("base_id")}}
    ours -= {"Pendulum", "CartPole", "LunarLander"}
    assert ours == {family(i) for strip in STRIPS.values() for i, _, _ in strip}
    page = (Path(__file__).parent.parent / "docs/environments.md").read_text()
    assert all(f"images/{name}.png" in page for name in STRIPS)
