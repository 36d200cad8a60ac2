"""What is true of any Gymnasium id once it is lanes of flat arrays."""

import gymnasium as gym
import numpy as np
import pytest
import toy_envs

from envs import FlatLanes, UnusableEnv

SEED = 10


def lanes(env_id="Clock-v0", n=4, takes="Box", **options):
    return FlatLanes(env_id, n, takes, **options)


# --- LANES ----------------------------------------------------------------------------------------


def test_seeds_count_the_lanes_and_a_lane_goes_on_after_its_end_with_a_new_episode():
    env = lanes()
    obs, ends = [env.reset(SEED)], []
    for _ in range(6):
        seen, reward, terminated, truncated, _ = env.step(np.ones((4, 2)))
        assert seen.dtype == reward.dtype == np.float32 and reward.shape == (4,)
        obs.append(seen)
        ends.append([terminated, truncated])
    terminated, truncated = np.array(ends, int).transpose(1, 2, 0)  # (n, T) each
    lane, episode, t = np.array(obs)[..., :3].T  # (n, T+1)
    assert (lane == np.arange(10, 14)[:, None]).all()
    # Lane 2 has 2 steps; the step after the second is the reset, its action is not executed.
    assert episode[2].tolist() == [0, 0, 0, 1, 1, 1, 2] and t[2].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert obs[3][2, 3:].tolist() == [0, 0]
    assert terminated[2].tolist() == [0, 1, 0, 0, 1, 0] and not truncated[2].any()
    assert truncated[3].tolist() == [0, 0, 1, 0, 0, 0] and not terminated[3].any()


def test_a_module_before_the_id_is_imported_first(tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text(
        "import gymnasium, toy_envs\n"
        "gymnasium.register('Mine-v0', entry_point=toy_envs.ClockEnv)\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "Mine-v0" not in gym.registry
    assert lanes("my_module:Mine-v0", 2).reset(SEED)[:, 0].tolist() == [10, 11]


def test_the_age_of_a_lane_begins_anew_with_each_episode(monkeypatch):
    env = lanes("ClockLimited-v0", 1)
    env.reset(SEED)
    for _ in range(25):
        env.step(np.zeros((1, 2)))
        assert env.age <= 9
    env.age[:] = 100_000  # 100,001 steps without an end
    with pytest.raises(UnusableEnv, match="ClockLimited-v0.*100,000 steps.*max_episode_steps"):
        env.step(np.zeros((1, 2)))


def test_lanes_are_made_of_single_environments_where_an_id_is_not_ours():
    """CartPole-v1 has lanes of its own, too; those of others may do what a single one does not."""
    for env_id in ("CartPole-v1", "ClockOwnLanes-v0", "Clock-v0"):
        kind = type(lanes(env_id, 2, "Box Discrete").envs)
        assert kind is gym.vector.SyncVectorEnv, env_id
    assert type(lanes("Wind-v0").envs) is not gym.vector.SyncVectorEnv


# --- SEEDS ----------------------------------------------------------------------------------------


def starts(env_id, seeds, n=20, split="train"):
    env = lanes(env_id, n, "Box Discrete", split=split)
    return [tuple(obs) for seed in seeds for obs in env.reset(seed)]


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "SemiCircle-v0"])
def test_no_two_seeds_share_an_episode_nor_do_training_and_evaluation(env_id):
    seeds = [(seed, first) for seed in range(1, 6) for first in (0, 20)]  # held out, of five runs
    train = [int(s) for s in np.random.default_rng(1).integers(2**31, size=20)]
    all_starts = starts(env_id, seeds + [1, 2, 3, 4, 5, 10_001, 10_002] + train)
    assert len(set(all_starts)) == len(all_starts) == 20 * 37
    assert starts(env_id, seeds) == all_starts[:200]  # and they are the same ones every time


@pytest.mark.parametrize("env_id", ["Wind-v0", "CheetahVel-v0"])
@pytest.mark.parametrize("n, firsts", [(20, [0]), (10, [0, 10]), (5, [20, 25, 30, 35])])
def test_held_out_tasks_of_a_list_are_played_each_once(env_id, n, firsts):
    env, tasks = lanes(env_id, n, split="heldout"), []
    for first in firsts:
        env.reset((7, first))
        tasks += ([tuple(x) for x in env.envs.lanes.task] if env_id == "Wind-v0" else
                  [tuple(e.unwrapped.task) for e in env.envs.envs])
    assert len(set(tasks)) == len(tasks) == 20


def test_more_held_out_episodes_than_there_are_is_said(capsys):
    lanes("Wind-v0", 20, split="heldout")
    lanes("Wind-v0", 100)
    assert capsys.readouterr().out == ""
    env = lanes("Wind-v0", 100, split="heldout")
    assert "100 held-out episodes, but only 20" in capsys.readouterr().out and env.n_heldout == 20


def test_a_long_episode_says_that_it_goes_on(monkeypatch, capsys):
    clock = iter(range(0, 10**6, 25))  # seconds
    monkeypatch.setattr("envs.flat.time.monotonic", lambda: next(clock))
    env = lanes("ClockLimited-v0", 2)
    env.reset(SEED)
    for _ in range(8):
        env.step(np.zeros((2, 2)))
    said = capsys.readouterr().out.splitlines()
    assert said == [f"ClockLimited-v0: at step {t} in 2 lanes" for t in (3, 6)]


# --- ACTIONS --------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["ClockUneven-v0", "ClockDouble-v0", "ClockSkewed-v0"])
def test_full_actions_stay_inside_the_box_and_have_its_dtype(env_id):
    env = lanes(env_id)  # the env itself asserts both
    env.reset(SEED)
    for end in (-1, 1):
        obs = env.step(np.full((4, 2), end, np.float32))[0]
        assert obs[:, 3:] == pytest.approx(np.tile((env.low, env.high)[end > 0], (4, 1)))


@pytest.mark.parametrize("env_id, action, executed", [
    ("ClockTwo-v0", [0.5, -1], [1, -2]),
    ("ClockTwo-v0", [3, -9], [2, -2]),  # clipped
    ("ClockSkewed-v0", [-1, 1], [0, 3]),
    ("ClockSkewed-v0", [0, 0], [5, 1]),
    ("ClockSkewed-v0", [1.5, -1.5], [10, -1]),  # clipped
])
def test_actions_are_mapped_from_minus_one_one_onto_the_box(env_id, action, executed):
    env = lanes(env_id, 2)
    env.reset(SEED)
    obs, *_ = env.step(np.float32([action, action]))
    assert obs[:, 3:].tolist() == [executed, executed]


class BoxEnv(gym.Env):
    """Takes any box of actions and keeps what it is given."""

    observation_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, low, high, shape, dtype):
        self.action_space = gym.spaces.Box(low, high, shape, dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.action = action
        return np.zeros(1, np.float32), 0.0, False, False, {}


BOXES = {  # name: low, high, shape, dtype; and the actions that have to be reached, None: refused
    "Int8": ((-128, 127, (1,), np.int8), range(-128, 128)),
    "Levels": ((0, 4, (1,), np.int64), range(5)),
    "Bytes": ((0, 255, (2, 2), np.uint8), range(256)),
    "Bool": ((0, 1, (1,), bool), [False, True]),
    "Scalar": ((-2, 2, (), np.float32), [-2, 2]),
    "FloatMax": ((-3.4e38, 3.4e38, (1,), np.float32), None),
    "Int64": ((-(2**63), 2**63 - 1, (1,), np.int64), None),
    "Empty": ((-1, 1, (0,), np.float32), None),
}


@pytest.mark.parametrize("name", BOXES)
def test_every_action_of_a_box_is_reached_or_the_box_is_refused(name):
    box, reached = BOXES[name]
    env_id = f"Box{name}-v0"
    if env_id not in gym.registry:
        gym.register(env_id, BoxEnv, kwargs=dict(zip(("low", "high", "shape", "dtype"), box)))
    if reached is None:
        with pytest.raises(UnusableEnv, match=f"--env-id {env_id}: actions are Box"):
            lanes(env_id)
        return
    env, seen = lanes(env_id, 1), set()
    env.reset(SEED)
    for x in np.linspace(-1, 1, 1001):
        env.step(np.full((1, env.action_dim), x, np.float32))
        seen |= set(np.ravel(env.envs.envs[0].unwrapped.action).tolist())
    assert set(reached) <= seen


def test_a_one_hot_action_is_the_number_that_the_env_counts_from_its_start():
    env = lanes("PictureGrey-v0", 3, "Discrete pictures")
    env.reset(SEED)
    obs, *_ = env.step(np.eye(3, dtype=np.float32))
    assert env.discrete and env.action_dim == 3
    assert obs[:, 0].tolist() == [11, 12, 13]  # 10 t + action, actions start at 1


# --- OBSERVATIONS ---------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id, shape, first_of_each_channel", [
    ("Picture-v0", (3, 8, 9), [11, 111, 211]), ("PictureFirst-v0", (2, 8, 9), [11, 11]),
    ("PictureGrey-v0", (1, 8, 9), [11])])
def test_pictures_of_bytes_stay_bytes_flat_and_channels_first(env_id, shape, first_of_each_channel):
    env = lanes(env_id, 2, "Discrete pictures")
    env.reset(SEED)
    obs, *_ = env.step(np.eye(3)[[0, 0]])
    assert obs.dtype == np.uint8 and env.obs_shape == shape and env.is_picture
    assert obs.shape == (2, env.obs_dim) == (2, np.prod(shape))
    assert env.seen == "sees " + "x".join(map(str, shape))
    channels = obs.reshape(2, *shape)
    assert (channels == np.array(first_of_each_channel)[:, None, None]).all()


def test_what_is_observed_is_a_new_array_at_every_step():
    env = lanes()
    first = env.reset(SEED)
    kept = first.copy()
    env.step(np.ones((4, 2)))
    assert (first == kept).all()


def test_switches_are_given_to_an_env_that_has_them_and_to_no_other():
    assert lanes("ClockOracle-v0", oracle=True).reset(SEED)[:, -1].tolist() == [7] * 4
    assert lanes("ClockOracle-v0").obs_dim == 5 and lanes("ClockOracle-v0").has_oracle
    assert lanes("Clock-v0", oracle=True).obs_dim == 5 and not lanes("Clock-v0").has_oracle
    # An argument of the env's own that only has the name of a switch is left alone.
    assert lanes("ClockSplit-v0").envs.envs[0].unwrapped.split == 0.8
    trained, heldout = (lanes("SemiCircle-v0", 200, split=s) for s in ("train", "heldout"))
    goals = [{tuple(np.ravel(task)) for task in env.envs.reset(seed=0)[1]["task"]}
             for env in (trained, heldout)]
    assert not goals[0] & goals[1]


class BadNumberEnv(toy_envs.ClockEnv):
    """From step 2 on lane 11 observes, or is paid, what is no finite number."""

    def __init__(self, what, number):
        super().__init__()
        self.what, self.number = what, number

    def step(self, action):
        obs, reward, *rest = super().step(action)
        if self.lane == 11 and self.t == 2:
            obs[3], reward = (self.number, reward) if self.what == "obs" else (obs[3], self.number)
        return obs, reward, *rest


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("what, words", [("obs", "observation"), ("reward", "reward")])
def test_a_number_that_is_not_finite_is_named_with_its_place(what, words, number):
    env_id = f"Bad{what}{number}-v0".replace("+", "")
    if env_id not in gym.registry:
        gym.register(env_id, BadNumberEnv, kwargs={"what": what, "number": number})
    env = lanes(env_id)
    env.reset(SEED)
    env.step(np.zeros((4, 2)))
    entry = 3 if what == "obs" else 0
    with np.errstate(over="ignore"), pytest.raises(
            FloatingPointError, match=f"{env_id}: .*{words} is .*entry {entry}, lane 1 of 4"):
        env.step(np.zeros((4, 2)))


def test_an_action_that_is_not_finite_does_not_reach_the_env():
    env = lanes()
    env.reset(SEED)
    with pytest.raises(FloatingPointError, match="action is nan .entry 1, lane 2 of 4"):
        env.step(np.where([[0, 0], [0, 0], [0, 1], [0, 0]], np.nan, 0))
    assert all(e.unwrapped.t == 0 for e in env.envs.envs)


def test_entries_are_named_by_their_indices():
    env = lanes()
    assert env.entries("") == [0, 1, 2, 3, 4] and env.entries("4,0") == [4, 0]
    for wrong in ("5", "0;1", "0,,1", "-1", "a"):
        with pytest.raises(UnusableEnv, match=f"--observe {wrong}: .*0 to 4"):
            env.entries(wrong)


# --- PICTURES FOR A FILM --------------------------------------------------------------------------


def test_a_film_has_a_picture_of_each_observation_since_the_reset():
    env = lanes("Wind-v0", 2, film=True)
    for n_steps in (3, 2):
        env.reset(SEED)
        for _ in range(n_steps):
            env.step(np.ones((2, env.action_dim)))
        assert len(env.frames) == n_steps + 1
        assert env.frames[0].dtype == np.uint8 and env.frames[0].shape[2] == 3
    assert (env.frames[0] != env.frames[-1]).any()
    plain = lanes("Wind-v0", 2)
    plain.reset(SEED)
    assert plain.frames == []


# --- REFUSED --------------------------------------------------------------------------------------


def same_step(num_envs=1, **_):
    return gym.vector.SyncVectorEnv([toy_envs.ClockEnv] * num_envs,
                                    autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)


gym.register("ClockSameStep-v0", vector_entry_point=same_step)
gym.register("ClockOwnLanes-v0", entry_point=toy_envs.ClockEnv, vector_entry_point=same_step)

REFUSED = {  # what is asked for -> what the message has to name
    ("Nowhere-v0", "Box"): ["Nowhere", "Wind-v0"],
    ("no_such_module:Wind-v0", "Box"): ["no_such_module"],
    ("ClockSameStep-v0", "Box"): ["NEXT_STEP"],
    ("CartPole-V-v0", "Box"): ["Discrete(2)", "Pendulum-V-v0", "rmf_sac_discrete_pixels.py"],
    ("Clock-v0", "Discrete pictures"): ["Box(", "CartPole-P-v0", "rmf_sac_gru.py"],
    ("Unbounded-v0", "Box Discrete"): ["inf", "Pendulum-V-v0", "CartPole-P-v0"],
    ("Image-v0", "Box"): ["(8, 8, 3)", "rmf_sac_discrete_pixels.py"],
    ("Dict-v0", "Box Discrete pictures"): ["Dict", "two or three"],
    ("PictureTiny-v0", "Discrete pictures"): ["(3, 9, 2)", "3 x 3"],
}


class OneSimulator(toy_envs.ClockEnv):
    made = 0

    def __init__(self):
        OneSimulator.made += 1
        if OneSimulator.made > 1:
            raise RuntimeError("there is only\none simulator")
        super().__init__()


def its_own_lanes(num_envs):  # knows no render_mode
    return gym.vector.SyncVectorEnv([toy_envs.ClockEnv] * num_envs)


gym.register("OneSimulator-v0", OneSimulator)
gym.register("OnlyLanes-v0", vector_entry_point=its_own_lanes)


def test_what_an_ids_own_constructor_says_is_told_in_one_line():
    with pytest.raises(UnusableEnv, match="OneSimulator-v0: cannot be made into 2 lanes "
                                          ".RuntimeError: there is only one simulator"):
        lanes("OneSimulator-v0", 2)
    assert lanes("OnlyLanes-v0", 2).reset(SEED).shape == (2, 5)
    with pytest.raises(UnusableEnv, match="--capture-video: .*OnlyLanes.*TypeError.*render_mode"):
        lanes("OnlyLanes-v0", 1, film=True)


@pytest.mark.parametrize("asked", REFUSED, ids=" ".join)
def test_what_cannot_be_made_into_lanes_is_refused_in_one_line(asked):
    with pytest.raises(UnusableEnv) as error:
        lanes(asked[0], 2, asked[1])
    message = str(error.value)
    assert message.startswith(f"error: --env-id {asked[0]}: ") and "\n" not in message
    assert [part for part in REFUSED[asked] if part not in message] == [], message


@pytest.mark.parametrize("env_id", ["Clock-v0", "Blank-v0"])
def test_a_film_of_an_env_that_draws_nothing_is_refused_at_once(env_id):
    with pytest.raises(UnusableEnv, match=f"--capture-video: --env-id {env_id} draws no pictures"):
        lanes(env_id, 1, film=True)


def test_an_error_inside_of_an_env_is_named_as_it_is():
    class Broken(toy_envs.ClockEnv):
        def __init__(self):
            raise ZeroDivisionError("mine")

    gym.register("Broken-v0", entry_point=Broken)
    with pytest.raises(UnusableEnv, match="Broken-v0: cannot .* 4 lanes .ZeroDivisionError: mine"):
        lanes("Broken-v0")
