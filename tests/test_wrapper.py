"""What is true of the POMDP wrapper and of playing episodes in lanes."""

import gymnasium as gym
import numpy as np
import pytest
import toy_envs  # noqa: F401  (registers the ids)

import rmf_sac_gru as rmf

SEED, N_STEPS = 10, [4, 5, 2, 3]  # lanes 10 to 13; the even ones terminate


def nothing(obs, prev_action, prev_reward, h):
    return np.zeros((len(obs), 2), np.float32), h


class Recorder:
    """Acts with a_t = t / 64 in every entry, exact in float32, and keeps what it is given."""

    def __init__(self):
        self.given = []

    def __call__(self, obs, prev_action, prev_reward, h):
        self.given.append((obs, prev_action, prev_reward, h))
        return np.full((len(obs), 2), len(self.given) / 64, np.float32), ["h", len(self.given)]


@pytest.fixture
def make_env(make_args):
    return lambda n=4, env_id="Clock-v0", **fields: rmf.POMDP(make_args(env_id=env_id, **fields), n)


@pytest.mark.parametrize("env_id", ["ClockUneven-v0", "ClockDouble-v0", "ClockSkewed-v0"])
def test_full_actions_stay_inside_the_box_and_have_its_dtype(env_id, make_env):
    env = make_env(env_id=env_id)  # the env itself asserts both
    env.reset(SEED)
    for end in (-1, 1):
        obs = env.step(np.full((4, 2), end, np.float32))[0]
        assert obs[:, 3:] == pytest.approx(np.tile((env.low, env.high)[end > 0], (4, 1)))


def test_a_keyword_of_the_env_that_only_has_the_name_of_a_switch_is_left_alone(make_env):
    assert make_env(env_id="ClockSplit-v0").envs.envs[0].unwrapped.split == 0.8


# --- EPISODES -------------------------------------------------------------------------------------


def test_lanes_of_different_length_keep_their_own_returns_and_lengths(make_env):
    episodes = rmf.play(make_env(), nothing, SEED)
    assert episodes.n_steps.tolist() == N_STEPS
    assert episodes.returns.tolist() == [
        sum(10 * lane + t for t in range(1, n + 1)) for lane, n in zip(range(10, 14), N_STEPS)]
    assert episodes.success is None


def test_an_episode_keeps_its_true_last_observation_and_nothing_of_the_next_one(make_env):
    rows = rmf.play(make_env(), nothing, SEED).rows
    for i, n in enumerate(N_STEPS):
        assert rows["obs"][: n + 1, i, 0].tolist() == [SEED + i] * (n + 1)  # lane
        assert rows["obs"][: n + 1, i, 1].tolist() == [0] * (n + 1)  # episode
        assert rows["obs"][: n + 1, i, 2].tolist() == list(range(n + 1))  # t


def test_only_termination_is_terminal_not_a_time_limit(make_env):
    rows = rmf.play(make_env(), nothing, SEED).rows
    for i, n in enumerate(N_STEPS):
        assert not rows["terminal"][:n, i].any()
        assert rows["terminal"][n, i] == (i % 2 == 0)


def test_row_t_holds_the_action_and_the_reward_of_step_t_minus_1(make_env):
    rows = rmf.play(make_env(), Recorder(), SEED).rows
    for i, n in enumerate(N_STEPS):
        t = np.arange(n + 1)
        np.testing.assert_array_equal(rows["prev_action"][: n + 1, i, 0], t / 64)
        np.testing.assert_array_equal(rows["obs"][: n + 1, i, 3], t / 64)  # what the env executed
        np.testing.assert_array_equal(
            rows["prev_reward"][: n + 1, i], np.where(t == 0, 0, 10 * (SEED + i) + t))


def test_the_policy_is_given_what_the_rows_hold_and_its_own_memory(make_env):
    act = Recorder()
    rows = rmf.play(make_env(), act, SEED).rows
    for t, (obs, prev_action, prev_reward, h) in enumerate(act.given):
        np.testing.assert_array_equal(obs, rows["obs"][t])
        np.testing.assert_array_equal(prev_action, rows["prev_action"][t])
        np.testing.assert_array_equal(prev_reward, rows["prev_reward"][t])
        assert h == (["h", t] if t else None)


def test_every_call_starts_without_a_past(make_env):
    env, act = make_env(), Recorder()
    rmf.play(env, nothing, SEED)
    rows = rmf.play(env, act, SEED + 4).rows
    assert act.given[0][3] is None
    assert not rows["prev_action"][0].any() and not rows["prev_reward"][0].any()
    assert rows["obs"][0, :, :3].tolist() == [[SEED + 4 + i, 0, 0] for i in range(4)]


def test_max_episode_steps_truncates(make_env):
    episodes = rmf.play(make_env(max_episode_steps=2), nothing, SEED)
    assert episodes.n_steps.tolist() == [2, 2, 2, 2]
    assert episodes.rows["terminal"][2].tolist() == [False, False, True, False]  # ends at 2 anyway


def test_a_step_inside_the_goal_is_terminal_but_the_episode_goes_on(make_env):
    episodes = rmf.play(make_env(env_id="ClockGoal-v0"), nothing, SEED)
    assert episodes.n_steps.tolist() == N_STEPS
    assert episodes.rows["terminal"][:3].tolist() == [[False] * 4] * 2 + [[True] * 4]
    assert not episodes.rows["terminal"][3, 1]  # behind the goal, before the end
    assert episodes.success.tolist() == [True] * 4


def test_success_counts_in_the_first_episode_of_a_lane_and_ends_nothing(make_env):
    env = make_env(env_id="ClockSuccess-v0")
    episodes, plain = (rmf.play(e, nothing, SEED) for e in (env, make_env()))
    assert episodes.success.tolist() == [n >= 3 for n in N_STEPS]
    for i, n in enumerate(N_STEPS):
        assert (episodes.rows[: n + 1, i] == plain.rows[: n + 1, i]).all()
    agent = rmf.Agent(env.obs_dim, env.action_dim, env.args)
    args = rmf.replace(env.args, seed=0)  # held-out lanes are 10000 to 10003: 2, 3, 4, 5 steps
    assert rmf.evaluate(env, agent, args)["eval/success_rate"] == 0.75
    assert "eval/success_rate" not in rmf.evaluate(make_env(), agent, args)


def test_a_success_that_is_given_as_a_number_counts_as_well(make_env):
    episodes = rmf.play(make_env(env_id="ClockNumber-v0"), nothing, SEED)
    assert episodes.success.tolist() == [n >= 3 for n in N_STEPS]


def test_an_episode_without_end_is_an_error_and_a_limit_helps(make_env):
    with pytest.raises(rmf.UsageError, match="--env-id ClockEndless-v0.*--max-episode-steps"):
        rmf.play(make_env(1, "ClockEndless-v0"), nothing, SEED)
    env = make_env(1, "ClockEndless-v0", max_episode_steps=9)
    assert rmf.play(env, nothing, SEED).n_steps.tolist() == [9]


# --- ACTIONS --------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id, action, executed", [
    ("ClockTwo-v0", [0.5, -1], [1, -2]),
    ("ClockTwo-v0", [3, -9], [2, -2]),  # clipped
    ("ClockSkewed-v0", [-1, 1], [0, 3]),
    ("ClockSkewed-v0", [0, 0], [5, 1]),
    ("ClockSkewed-v0", [1.5, -1.5], [10, -1]),  # clipped
])
def test_actions_are_mapped_from_minus_one_one_onto_the_box(make_env, env_id, action, executed):
    env = make_env(2, env_id)
    env.reset(SEED)
    obs, *_ = env.step(np.float32([action, action]))
    assert obs[:, 3:].tolist() == [executed, executed]


# --- OBSERVATIONS ---------------------------------------------------------------------------------


def test_observe_keeps_the_named_entries_in_their_order(make_env):
    env = make_env(2, observe="2,0")
    assert env.obs_dim == 2 and env.reset(SEED).tolist() == [[0, 10], [0, 11]]
    assert env.step(np.zeros((2, 2)))[0].tolist() == [[1, 10], [1, 11]]


def flickered(env, seed):
    """-> which observations were blanked (T+1, n); lane > 0, so only a blanked one is all zero."""
    return ~rmf.play(env, nothing, seed).rows["obs"].any(-1)[:3]  # each lane has 2 steps or more


def test_flicker_blanks_the_given_share_of_the_observations_and_repeats_with_the_seed(make_env):
    env = make_env(200, flicker=0.3)
    blank = flickered(env, 50)
    assert abs(blank.mean() - 0.3) < 0.05  # 600 draws: 2.7 standard deviations
    assert 0 < blank[0].sum() < 200  # each lane on its own, the first observation too
    assert (flickered(env, 50) == blank).all()
    assert (flickered(env, 51) != blank).any()


def test_evaluation_does_not_depend_on_what_training_has_drawn(make_args):
    args = make_args(env_id="Pendulum-V-v0", flicker=0.5, max_episode_steps=20)
    env, train_env = rmf.POMDP(args, 3), rmf.POMDP(args, 2)
    agent = rmf.Agent(env.obs_dim, env.action_dim, args)
    first = rmf.evaluate(env, agent, args)
    rmf.play(train_env, agent.act, 5)
    np.random.default_rng(0).random()
    assert rmf.evaluate(env, agent, args) == first


def test_the_oracle_sees_the_hidden_entry_and_ignores_observe_and_flicker(make_env):
    env = make_env(100, "ClockOracle-v0", policy="oracle", observe="0", flicker=0.9)
    obs = env.reset(SEED)
    assert obs.shape == (100, 6) and (obs[:, -1] == 7).all()
    assert make_env(1, "ClockOracle-v0").obs_dim == 5
    env = make_env(100, "Clock-v0", policy="oracle", observe="0", flicker=0.9)
    assert env.reset(SEED)[:, 0].all() and env.obs_dim == 5


def test_a_module_before_the_id_is_imported_first(make_env, tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text(
        "import gymnasium, toy_envs\n"
        "gymnasium.register('Mine-v0', entry_point=toy_envs.ClockEnv)\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "Mine-v0" not in gym.registry
    assert make_env(2, "my_module:Mine-v0").reset(SEED)[:, 0].tolist() == [10, 11]
