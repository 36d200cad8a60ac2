"""What is true of the comparator with Synthetic Returns, beyond what it shares with the scripts."""

from pathlib import Path

import impala_sr as sr
import numpy as np
import pytest
import torch
import toy_envs  # noqa: F401  (registers the ids)
from conftest import numbers, read_metrics, reproducible, stops_at
from test_siblings import blocks

import rmf_sac_discrete_pixels as pixels

ROOT = Path(__file__).resolve().parents[1]
TINY = ("--env-id toy_envs:KeyToDoorShort-v0 --num-envs 2 --total-timesteps 800 --eval-interval 250"
        " --eval-episodes 2 --rnn-size 8 --hidden-sizes 8 --embeddings 8 8 8").split()


@pytest.fixture
def start(tmp_path, no_pictures):
    def start(*flags):
        runs_dir = tmp_path / f"runs{len(list(tmp_path.iterdir()))}"
        return sr.main([*TINY, "--runs-dir", str(runs_dir), *flags])

    return start


def make_agent(**fields):
    args = sr.Args(env_id="KeyToDoorShort-v0", rnn_size=8, hidden_sizes=(8,), embeddings=(8, 4, 2),
                   **fields)
    torch.manual_seed(0)
    env = sr.POMDP(args, 3)
    return args, env, sr.Agent(env, args)


def test_it_has_the_scripts_own_words_where_it_does_the_same():
    ours, theirs = blocks(sr), blocks(pixels)
    same = {"mlp", "make_obs_encoder", "Memory", "Memory.__init__", "Memory.forward", "masked_mean",
            "POMDP", "POMDP.__init__", "POMDP._see", "POMDP.reset", "POMDP.step", "play",
            "evaluate"}
    assert {name for name in same if ours[name] != theirs[name]} == set()
    lines = Path(sr.__file__).read_text().splitlines()
    assert len(lines) <= 500 and max(map(len, lines)) <= 100


def test_the_sum_over_time_is_what_a_store_of_the_past_would_add_up():
    """The episodic store of the paper: at each step all states before it are looked up."""
    _, _, agent = make_agent()
    e = torch.randn(7, 3, 8)
    c, explained = agent.synthetic(e)
    for lane in range(3):
        store = []
        for t in range(7):
            past = sum(agent.c(x) for x in store) if store else torch.zeros(1)
            by_hand = torch.sigmoid(agent.g(e[t, lane])) * past + agent.b(e[t, lane])
            torch.testing.assert_close(explained[t, lane], by_hand[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(c[t, lane], agent.c(e[t, lane])[0])
            store.append(e[t, lane])


def test_what_is_stored_of_the_past_gets_no_gradient():
    _, _, agent = make_agent()
    e = torch.randn(5, 2, 8, requires_grad=True)
    _, explained = agent.synthetic(e)
    (grad,) = torch.autograd.grad(explained[4].sum(), e)
    assert grad[4].abs().sum() > 0 and grad[:4].abs().sum() == 0


def test_advantages_are_those_computed_by_hand():
    # gamma = lambda = 1/2. Lane 0 terminates at step 2, lane 1 is cut by time after step 1.
    reward = torch.tensor([[1.0, 2, 4]]).T.repeat(1, 2)
    value = torch.tensor([[10.0, 20, 40, 80]]).T.repeat(1, 2)
    terminal, mask = torch.zeros(3, 2), torch.ones(3, 2)
    terminal[2, 0], mask[2, 1] = 1, 0
    a = sr.advantages(reward, terminal, value, mask, sr.Args(gamma=0.5, gae_lambda=0.5))
    deltas = [1 + 20 / 2 - 10, 2 + 40 / 2 - 20, 4 - 40]
    assert a[:, 0].tolist() == [deltas[0] + deltas[1] / 4 + deltas[2] / 16,
                                deltas[1] + deltas[2] / 4, deltas[2]]
    assert a[:2, 1].tolist() == [deltas[0] + deltas[1] / 4, deltas[1]]


def one_update(args, env, agent, rows, n_steps):
    optimizer = torch.optim.SGD(agent.parameters(), 0.0)
    scalars = sr.update(agent, optimizer, rows, n_steps, args)
    return scalars, [p.grad.clone() for p in agent.parameters() if p.grad is not None]


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_the_policy_is_paid_what_a_state_adds_to_later_rewards(alpha, monkeypatch):
    args, env, agent = make_agent(alpha=alpha, beta=2.0)
    rows, n_steps, *_ = sr.play(env, agent.act, 1)
    rows["prev_reward"][5] = 1
    given, advantages = [], sr.advantages
    monkeypatch.setattr(sr, "advantages", lambda reward, *rest: (
        given.append(reward) or advantages(reward, *rest)))
    one_update(args, env, agent, rows, n_steps)
    obs, action, prev_reward = (torch.from_numpy(np.float32(rows[k])) for k in (
        "obs", "prev_action", "prev_reward"))
    with torch.no_grad():
        c, _ = agent.synthetic(agent(obs, action, prev_reward)[2])
    torch.testing.assert_close(given[0], alpha * c[1:] + 2 * prev_reward[1:])
    assert given[0].requires_grad is False


def test_garbage_behind_the_end_of_an_episode_changes_nothing():
    args, env, agent = make_agent()
    rows, n_steps, *_ = sr.play(env, agent.act, 1)
    n_steps = np.array([25, 10, 3])
    dirty = rows.copy()
    for lane, n in enumerate(n_steps):
        dirty["prev_reward"][n + 1:, lane], dirty["obs"][n + 1:, lane] = 9, 77
        dirty["terminal"][n + 1:, lane] = True
    (clean, grads), (other, others) = (one_update(args, env, agent, r, n_steps)
                                       for r in (rows, dirty))
    torch.testing.assert_close(clean, other)
    torch.testing.assert_close(grads, others)


@pytest.mark.parametrize("flags", [[], ["--policy", "markov"], ["--alpha", "0"], [
    "--env-id", "CartPole-V-v0", "--inputs", "oar", "--rnn", "gru"]], ids=" ".join)
def test_a_run_changes_every_weight_and_the_same_seed_gives_the_same_numbers(flags, start):
    folder = start(*flags)
    things = torch.load(folder / "checkpoint.pt", weights_only=True)["things"]
    torch.manual_seed(1)
    args = sr.parse_args(sr.Args, "impala_sr", [*TINY, *flags])
    fresh = sr.Agent(sr.POMDP(args, 2), args).state_dict()
    assert [k for k, v in things["agent"].items() if torch.equal(v, fresh[k])] == []
    assert read_metrics(folder)[-1]["eval/return_mean"]
    assert np.isfinite(numbers(folder, "losses/sr_loss")).all()
    assert reproducible(start(*flags)) == reproducible(folder)


def test_a_stopped_run_goes_on_to_the_numbers_of_an_unbroken_one(start, monkeypatch):
    unbroken = start()
    monkeypatch.setattr(sr, "update", stops_at(10, sr.update, KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        start()
    monkeypatch.undo()
    (folder,) = set(unbroken.parent.parent.glob("*/*")) - {unbroken}
    monkeypatch.setattr("run.draw_curve", lambda _: None)
    sr.main([*TINY[:2], "--resume", str(folder)])
    assert reproducible(folder) == reproducible(unbroken)


@pytest.mark.parametrize("flags", ["--env-id Pendulum-V-v0", "--alpha -1", "--gae-lambda 2",
                                   "--paper --env-id DelayedCatch-v0"])
def test_bad_flags_are_refused_in_a_line(flags, tmp_path):
    with pytest.raises(SystemExit) as error:
        sr.main([*TINY, *flags.split(), "--runs-dir", str(tmp_path / "runs")])
    message = str(error.value)
    assert message.startswith("error: ") and flags.split()[0] in message and "\n" not in message
