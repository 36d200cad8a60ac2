"""What is true of the sequence buffer. Observations here are (episode, t): they tell on mixing."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import rmf_sac_gru as rmf

CPU = torch.device("cpu")
ROW = rmf.row_dtype(SimpleNamespace(obs_dim=2, obs_dtype=np.float32, action_dim=1))


def episodes(first, lengths, rewarded=()):
    """Episodes `first`, `first + 1`, ...: prev_action = t, reward 1 at every step if rewarded, the
    last step terminal in even episodes. Behind the end lies garbage."""
    rows = np.zeros((max(lengths) + 1, len(lengths)), ROW)
    rows["obs"], rows["prev_action"], rows["prev_reward"], rows["terminal"] = -9, -9, -9, True
    for i, n in enumerate(lengths):
        t = np.arange(n + 1)
        rows["obs"][: n + 1, i] = np.stack([np.full(n + 1, first + i), t], 1)
        rows["prev_action"][: n + 1, i, 0] = t
        rows["prev_reward"][: n + 1, i] = (t > 0) * (first + i in rewarded)
        rows["terminal"][: n + 1, i] = (t == n) & ((first + i) % 2 == 0)
    return rmf.Episodes(rows, np.array(lengths), None)


@pytest.fixture
def make_buffer(tmp_path):
    return lambda size=1000: rmf.SequenceBuffer(tmp_path / "buffer.bin", ROW, size)


def sample(buffer, batch_size=500, context="full", fraction=0.0, seed=0):
    return buffer.sample(batch_size, context, fraction, np.random.default_rng(seed), CPU)


def drawn(batch):
    """-> the episodes of a batch (B,)."""
    return batch.obs[0, :, 0].int().tolist()


LENGTHS = (1, 4, 2, 7)


@pytest.mark.parametrize("context", [1, 3, 5, 50, "full"])
def test_a_sequence_holds_one_episode_in_order_and_starts_without_a_past(make_buffer, context):
    buffer = make_buffer()
    buffer.add(episodes(0, LENGTHS[:2], rewarded=[1]))
    buffer.add(episodes(2, LENGTHS[2:], rewarded=[3]))
    batch = sample(buffer, context=context)
    T = min(7, 50 if context == "full" else context)
    assert batch.obs.shape == (T + 1, 500, 2) and batch.action.shape == (T, 500, 1)
    for b in range(500):
        n_real = int(batch.mask[:, b].sum())
        episode, start = batch.obs[0, b].int().tolist()
        end = LENGTHS[episode]
        assert n_real == min(T, end - start) and (batch.mask[:n_real, b] == 1).all()
        t = torch.arange(start, start + n_real + 1).float()
        assert (batch.obs[: n_real + 1, b, 0] == episode).all()
        assert torch.equal(batch.obs[: n_real + 1, b, 1], t)
        assert batch.prev_action[0, b] == 0 and batch.prev_reward[0, b] == 0
        assert torch.equal(batch.prev_action[1 : n_real + 1, b, 0], t[1:])
        assert torch.equal(batch.action[:n_real, b, 0], t[1:])  # a_t is the next row's a_{t-1}
        assert (batch.reward[:n_real, b] == float(episode in (1, 3))).all()
        assert torch.equal(batch.prev_reward[1 : n_real + 1, b], batch.reward[:n_real, b])
        terminates = (t[1:] == end) & (episode % 2 == 0)
        assert torch.equal(batch.terminal[:n_real, b], terminates.float())


def test_sampling_leaves_the_stored_rows_as_they_are(make_buffer):
    buffer = make_buffer()
    buffer.add(episodes(0, [6]))
    before = buffer.path.read_bytes()
    first = sample(buffer, context=2)
    assert buffer.path.read_bytes() == before
    assert torch.equal(sample(buffer, context=2).action, first.action)


# Of 12 steps cut by time the windows of 4 begin at 0 to 8; of 7 before a fall at 0 to 6.
@pytest.mark.parametrize("context, n_starts", [(4, (3, 1, 7, 9)), ("full", (1, 1, 1, 1))])
def test_every_start_is_equally_likely(make_buffer, context, n_starts):
    buffer = make_buffer()
    buffer.add(episodes(0, (3, 1, 7, 12)))  # number 0 and 2 end in a terminal step
    starts, counts = np.unique(
        sample(buffer, 6000, context).obs[0].numpy(), axis=0, return_counts=True)
    assert starts.tolist() == [[i, t] for i, n in enumerate(n_starts) for t in range(n)]
    expected = 6000 / len(starts)
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 3 * len(counts)  # expectation: len(counts) - 1


def test_a_terminal_step_is_drawn_like_others_wherever_it_is_in_the_window(make_buffer):
    """Of an episode of 300 steps with windows of 64, all of which are that long, one in 237 would
    hold it, at its end: where a memory counts along, it would know when the fall is due."""
    buffer = make_buffer()
    buffer.add(episodes(0, [300]))
    batch = sample(buffer, 20_000, 64)
    count = np.bincount(batch.obs[1:, :, 1].int()[batch.mask > 0].numpy(), minlength=301)
    assert count[300] == (batch.terminal * batch.mask).sum() == pytest.approx(count[150], rel=0.1)
    place = (batch.terminal * batch.mask).sum(1).numpy()  # (64,)
    chi2 = ((place - place.mean()) ** 2 / place.mean()).sum()
    assert chi2 < 2 * 64  # expectation: 63


def test_staying_in_a_goal_until_the_time_is_over_is_not_a_fall(make_buffer):
    buffer, stays = make_buffer(), episodes(0, [30])
    stays.rows["terminal"][20:] = True  # every step inside a goal is terminal
    buffer.add(stays)
    count = np.bincount(sample(buffer, 5000, 10).obs[0, :, 1].int().numpy())
    assert len(count) == 21 and count[20] == pytest.approx(5000 / 21, rel=0.3)


def test_rewarded_fraction_is_the_share_that_is_drawn_from_rewarded_episodes(make_buffer):
    buffer = make_buffer()
    buffer.add(episodes(0, [3] * 20, rewarded=[7]))

    def counts(fraction):
        return [drawn(sample(buffer, 8, "full", fraction, seed)).count(7) for seed in range(200)]

    assert set(counts(1.0)) == {8}
    assert min(counts(0.25)) == 2  # exactly 2 of 8 are sure, the other 6 are drawn from all
    assert abs(np.mean(counts(0.25)) - (2 + 6 / 20)) < 0.15
    assert abs(np.mean(counts(0.0)) - 8 / 20) < 0.15


def test_without_any_rewarded_episode_all_are_drawn_alike(make_buffer):
    buffer = make_buffer()
    buffer.add(episodes(0, [3, 3]))
    assert abs(np.mean(drawn(sample(buffer, fraction=1.0))) - 0.5) < 0.1


def test_a_reward_behind_the_end_does_not_make_an_episode_rewarded(make_buffer):
    buffer = make_buffer()
    buffer.add(episodes(0, [1, 5], rewarded=[1]))  # the garbage of episode 0 is not 0
    assert set(drawn(sample(buffer, fraction=1.0))) == {1}


def test_only_the_newest_steps_are_sampled(make_buffer):
    buffer = make_buffer(size=10)
    for i in range(5):
        buffer.add(episodes(i, [4]))
    assert set(drawn(sample(buffer))) == {3, 4}  # 8 steps; a third episode would make 12
    buffer.add(episodes(5, [30]))
    assert set(drawn(sample(buffer))) == {5}  # one episode is kept, however long


def test_load_cuts_off_what_came_after_the_checkpoint(make_buffer):
    buffer = make_buffer()
    buffer.add(episodes(0, [2, 5], rewarded=[1]))
    saved = buffer.n_steps.copy(), buffer.rewarded.copy()
    content = buffer.path.read_bytes()
    buffer.add(episodes(2, [3]))
    with buffer.path.open("ab") as file:
        file.write(b"half a row")  # killed while writing
    again = make_buffer()
    again.load(*saved)
    assert again.path.read_bytes() == content
    assert set(drawn(sample(again))) == {0, 1} and set(drawn(sample(again, fraction=1.0))) == {1}
    again.add(episodes(2, [4]))
    batch = sample(again)
    assert set(drawn(batch)) == {0, 1, 2}
    b = drawn(batch).index(2)
    assert batch.obs[:5, b].tolist() == [[2, t] for t in range(5)]


def test_load_before_the_first_episode_leaves_an_empty_buffer(make_buffer):
    buffer = make_buffer()
    saved = buffer.n_steps, buffer.rewarded
    buffer.add(episodes(0, [2]))
    again = make_buffer()
    again.load(*saved)
    assert again.path.stat().st_size == 0
    again.add(episodes(1, [2]))
    assert set(drawn(sample(again))) == {1}


def test_a_file_that_was_cut_is_an_error(make_buffer):
    buffer = make_buffer()
    buffer.add(episodes(0, [2, 5]))
    buffer.path.write_bytes(buffer.path.read_bytes()[:-1])
    with pytest.raises(rmf.UsageError, match="--resume .*buffer.bin is missing or cut"):
        make_buffer().load(buffer.n_steps, buffer.rewarded)
