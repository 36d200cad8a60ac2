"""What is true of the POMDP wrapper and of playing episodes in lanes."""

import dataclasses

import numpy as np
import pytest
import toy_envs  # noqa: F401  (registers the ids)

import rmf_sac_gru as rmf

SEED, N_STEPS = 10, [4, 5, 2, 3]  # of lanes 10 to 13; the even ones terminate


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


# --- EPISODES -------------------------------------------------------------------------------------


def test_lanes_of_different_length_keep_their_own_returns_and_lengths(make_env):
    rows, n_steps, returns, success = rmf.play(make_env(), nothing, SEED)
    assert rows.shape == (max(N_STEPS) + 1, 4) and n_steps.tolist() == N_STEPS
    assert returns.tolist() == [
        sum(10 * lane + t for t in range(1, n + 1)) for lane, n in zip(range(10, 14), N_STEPS)]
    assert np.isnan(success).all()  # the env knows of none


def test_an_episode_keeps_its_true_last_observation_and_nothing_of_the_next_one(make_env):
    rows, *_ = rmf.play(make_env(), nothing, SEED)
    for i, n in enumerate(N_STEPS):
        assert rows["obs"][: n + 1, i, 0].tolist() == [10 + i] * (n + 1)  # lane
        assert rows["obs"][: n + 1, i, 1].tolist() == [0] * (n + 1)  # episode
        assert rows["obs"][: n + 1, i, 2].tolist() == list(range(n + 1))  # t


def test_only_termination_is_terminal_not_a_time_limit(make_env):
    rows, *_ = rmf.play(make_env(), nothing, SEED)
    for i, n in enumerate(N_STEPS):
        assert not rows["terminal"][:n, i].any()
        assert rows["terminal"][n, i] == (i % 2 == 0)


def test_row_t_holds_the_action_and_the_reward_of_step_t_minus_1(make_env):
    rows, *_ = rmf.play(make_env(), Recorder(), SEED)
    for i, n in enumerate(N_STEPS):
        t = np.arange(n + 1)
        np.testing.assert_array_equal(rows["prev_action"][: n + 1, i, 0], t / 64)
        np.testing.assert_array_equal(rows["obs"][: n + 1, i, 3], t / 64)  # what the env executed
        np.testing.assert_array_equal(
            rows["prev_reward"][: n + 1, i], np.where(t == 0, 0, 10 * (10 + i) + t))


def test_the_policy_is_given_what_the_rows_hold_and_its_own_memory(make_env):
    act = Recorder()
    rows, *_ = rmf.play(make_env(), act, SEED)
    assert len(act.given) == len(rows) - 1  # nothing is left to do after the last row
    for t, (obs, prev_action, prev_reward, h) in enumerate(act.given):
        np.testing.assert_array_equal(obs, rows["obs"][t])
        np.testing.assert_array_equal(prev_action, rows["prev_action"][t])
        np.testing.assert_array_equal(prev_reward, rows["prev_reward"][t])
        assert h == (["h", t] if t else None)


def test_who_needs_no_rows_keeps_none_but_the_first(make_env):
    (rows, *rest), (first, *others) = (
        rmf.play(make_env(), nothing, SEED, keep) for keep in (True, False))
    assert (first == rows[:1]).all() and len(first) == 1
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(rest, others))


def test_every_call_starts_without_a_past(make_env):
    env, act = make_env(), Recorder()
    rmf.play(env, nothing, SEED)
    rows, *_ = rmf.play(env, act, SEED + 4)
    assert act.given[0][3] is None
    assert not rows["prev_action"][0].any() and not rows["prev_reward"][0].any()
    assert rows["obs"][0, :, :3].tolist() == [[10 + i, 0, 0] for i in range(4)]


def test_the_limit_of_an_id_truncates(make_env):
    rows, n_steps, *_ = rmf.play(make_env(env_id="ClockCut-v0"), nothing, SEED)
    assert n_steps.tolist() == [2, 2, 2, 2]
    assert rows["terminal"][2].tolist() == [False, False, True, False]  # ends at 2 anyway


def test_a_step_inside_the_goal_is_terminal_but_the_episode_goes_on(make_env):
    rows, n_steps, _, success = rmf.play(make_env(env_id="ClockGoal-v0"), nothing, SEED)
    assert n_steps.tolist() == N_STEPS
    assert rows["terminal"][:3].tolist() == [[False] * 4] * 2 + [[True] * 4]
    assert not rows["terminal"][3, 1]  # behind the goal, before the end
    assert success.tolist() == [1] * 4


def test_success_counts_in_the_first_episode_of_a_lane_and_ends_nothing(make_env):
    env = make_env(env_id="ClockSuccess-v0")
    (rows, _, _, success), (plain, *_) = (rmf.play(e, nothing, SEED) for e in (env, make_env()))
    assert success.tolist() == [n >= 3 for n in N_STEPS]
    for i, n in enumerate(N_STEPS):
        assert (rows[: n + 1, i] == plain[: n + 1, i]).all()


def test_a_success_that_is_given_as_a_number_counts_as_well(make_env):
    *_, success = rmf.play(make_env(env_id="ClockNumber-v0"), nothing, SEED)
    assert success.tolist() == [n >= 3 for n in N_STEPS]


def test_an_endless_episode_is_refused_and_ends_where_its_id_has_a_limit(make_env, monkeypatch):
    def late(lanes, seed, reset=rmf.envs.FlatLanes.reset):
        obs = reset(lanes, seed)
        lanes.age += 99_900  # or this test would take half a minute
        return obs

    monkeypatch.setattr(rmf.envs.FlatLanes, "reset", late)
    with pytest.raises(rmf.envs.UnusableEnv, match="--env-id ClockEndless-v0.*max_episode_steps"):
        rmf.play(make_env(1, "ClockEndless-v0"), nothing, SEED)
    assert rmf.play(make_env(1, "ClockLimited-v0"), nothing, SEED)[1].tolist() == [9]


# --- EVALUATION -----------------------------------------------------------------------------------


def test_an_evaluation_is_of_the_first_episode_of_each_lane(make_args, make_env):
    n = 40  # lanes 10 to 49 have 4, 5, 2, 3, 4, ... steps
    args = make_args(env_id="ClockSuccess-v0", seed=0)
    env = rmf.POMDP(args, n)
    agent = rmf.Agent(env.obs_dim, env.action_dim, args)
    row = rmf.evaluate(env, agent, args)
    returns = np.array([sum(10 * lane + t for t in range(1, 3 + lane % 4))
                        for lane in range(10, 10 + n)])
    assert row["eval/return_mean"] == pytest.approx(returns.mean())
    assert row["eval/return_std"] == pytest.approx(returns.std())
    assert (row["eval/return_p10"] <= returns).mean() == 0.9
    assert (row["eval/return_p90"] >= returns).mean() == 0.9
    assert row["eval/return_worst10"] == pytest.approx(np.sort(returns)[:4].mean())
    assert row["eval/success_rate"] == 0.75  # in step 3, which a quarter of them does not reach
    assert row["eval/episodes"] == 40
    assert "eval/success_rate" not in rmf.evaluate(make_env(n), agent, args)


@pytest.mark.parametrize("n, played", [(3, 102), (40, 120), (100, 100), (101, 101)])
def test_the_last_evaluation_has_100_episodes_or_more_and_each_is_another_one(n, played, make_args):
    args = make_args(env_id="Clock-v0")
    env = rmf.POMDP(args, n)
    row = rmf.evaluate(env, rmf.Agent(env.obs_dim, env.action_dim, args), args, last=True)
    returns = [sum(10 * lane + t for t in range(1, 3 + lane % 4))
               for lane in range(10, 10 + played)]
    assert row["eval/episodes"] == played
    assert row["eval/return_mean"] == pytest.approx(np.mean(returns))


@pytest.mark.parametrize("n", [5, 20])
def test_the_last_evaluation_in_wind_is_of_its_20_winds_each_once(n, make_args, monkeypatch):
    args, winds = make_args(env_id="Wind-v0"), []
    env = rmf.POMDP(args, n, "heldout")
    reset = env.lanes.envs.reset
    monkeypatch.setattr(env.lanes.envs, "reset", lambda **seed: (
        out := reset(**seed), winds.extend(map(tuple, out[1]["task"])))[0])
    agent = rmf.Agent(env.obs_dim, env.action_dim, args)
    assert rmf.evaluate(env, agent, args, last=True)["eval/episodes"] == len(winds) == 20
    assert set(winds) == set(map(tuple, env.lanes.envs.lanes.tasks["heldout"]))


def test_another_seed_is_evaluated_on_other_episodes(make_args):
    args = make_args(env_id="PendulumShort-v0")
    env = rmf.POMDP(args, 3)
    agent = rmf.Agent(env.obs_dim, env.action_dim, args)
    one, other = (rmf.evaluate(env, agent, dataclasses.replace(args, seed=s)) for s in (1, 2))
    assert one["eval/return_mean"] != other["eval/return_mean"]


def test_evaluation_does_not_depend_on_what_training_has_drawn(make_args):
    args = make_args(env_id="PendulumShort-v0", flicker=0.5)
    env, train_env = rmf.POMDP(args, 3), rmf.POMDP(args, 2)
    agent = rmf.Agent(env.obs_dim, env.action_dim, args)
    first = rmf.evaluate(env, agent, args)
    rmf.play(train_env, agent.act, 5)
    np.random.default_rng(0).random()
    assert rmf.evaluate(env, agent, args) == first


# --- OBSERVATIONS ---------------------------------------------------------------------------------


def test_observe_keeps_the_named_entries_in_their_order(make_env):
    env = make_env(2, observe="2,0")
    assert env.obs_dim == 2 and env.reset(SEED).tolist() == [[0, 10], [0, 11]]
    assert env.step(np.zeros((2, 2)))[0].tolist() == [[1, 10], [1, 11]]


def flickered(env, seed):
    """-> which observations were blanked (T+1, n); lane > 0, so only a blanked one is all zero."""
    return ~rmf.play(env, nothing, seed)[0]["obs"].any(-1)[:3]  # each lane has 2 steps or more


def test_flicker_blanks_the_given_share_of_the_observations_and_repeats_with_the_seed(make_env):
    env = make_env(200, flicker=0.3)
    blank = flickered(env, 50)
    assert abs(blank.mean() - 0.3) < 0.05  # 600 draws: 2.7 standard deviations
    assert 0 < blank[0].sum() < 200  # each lane on its own, the first observation too
    assert (flickered(env, 50) == blank).all()
    assert (flickered(env, 51) != blank).any()


def test_a_flicker_of_one_blanks_every_observation(make_env):
    assert flickered(make_env(50, flicker=1.0), 50).all()


def test_the_oracle_sees_the_hidden_entry_and_ignores_observe_and_flicker(make_env):
    env = make_env(100, "ClockOracle-v0", policy="oracle", observe="0", flicker=0.9)
    obs = env.reset(SEED)
    assert obs.shape == (100, 6) and (obs[:, -1] == 7).all()
    assert make_env(1, "ClockOracle-v0").obs_dim == 5
    env = make_env(100, "Clock-v0", policy="oracle", observe="0", flicker=0.9)
    assert env.reset(SEED)[:, 0].all() and env.obs_dim == 5


def test_a_row_has_the_bytes_that_it_needs_and_no_more(make_env):
    env = make_env(observe="0,2")
    rows, *_ = rmf.play(env, nothing, SEED)
    assert rows.dtype == env.row_type and env.row_type.itemsize == 4 * (2 + 2 + 1) + 1
