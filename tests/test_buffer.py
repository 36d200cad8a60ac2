"""What is true of the sequence buffer. Observations here are (episode, t): they tell on mixing."""

import io

import numpy as np
import pytest
import torch

import rmf_sac_gru as rmf

CPU = torch.device("cpu")
ROW = np.dtype([("obs", "f4", (2,)), ("prev_action", "f4", (1,)), ("prev_reward", "f4"),
                ("terminal", "?")])  # as POMDP.row_type has it


def episodes(first, lengths, rewarded=()):
    """Episodes `first`, `first + 1`, ...: prev_action = t, reward 1 at every step if rewarded, the
    last step terminal in even episodes. Behind the end lies garbage. -> rows, n_steps"""
    rows = np.zeros((max(lengths) + 1, len(lengths)), ROW)
    rows["obs"], rows["prev_action"], rows["prev_reward"], rows["terminal"] = -9, -9, -9, True
    for i, n in enumerate(lengths):
        t = np.arange(n + 1)
        rows["obs"][: n + 1, i] = np.stack([np.full(n + 1, first + i), t], 1)
        rows["prev_action"][: n + 1, i, 0] = t
        rows["prev_reward"][: n + 1, i] = (t > 0) * (first + i in rewarded)
        rows["terminal"][: n + 1, i] = (t == n) & ((first + i) % 2 == 0)
    return rows, np.array(lengths)


def make_buffer(*rounds, size=1000):
    """-> buffer that holds rounds of `episodes`."""
    buffer = rmf.SequenceBuffer(ROW, size)
    for round_ in rounds:
        buffer.add(*round_)
    return buffer


def sample(buffer, batch_size=500, context="full", fraction=0.0, seed=0):
    args = rmf.Args(batch_size=batch_size, context_length=context, rewarded_fraction=fraction)
    return buffer.sample(args, np.random.default_rng(seed), CPU)


def drawn(batch):
    """-> the episodes of a batch (B,)."""
    return batch.obs[0, :, 0].int().tolist()


LENGTHS = (1, 4, 2, 7)


@pytest.mark.parametrize("context", [1, 3, 5, 50, "full"])
def test_a_sequence_holds_one_episode_in_order_and_starts_without_a_past(context):
    buffer = make_buffer(episodes(0, LENGTHS[:2], rewarded=[1]),
                         episodes(2, LENGTHS[2:], rewarded=[3]))
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


def test_sampling_leaves_the_stored_rows_as_they_are():
    buffer = make_buffer(episodes(0, [6]))
    before = buffer.episodes[0].copy()
    first = sample(buffer, context=2)
    assert (buffer.episodes[0] == before).all()
    assert torch.equal(sample(buffer, context=2).action, first.action)


# Where an episode ended with a fall, windows begin anywhere, also in those cut by time; where none
# did (number 1 alone), windows of 4 of 12 steps begin at 0 to 8.
@pytest.mark.parametrize("first, lengths, context, n_starts", [
    (0, (3, 1, 7, 12), 4, (3, 1, 7, 12)), (0, (3, 1, 7, 12), "full", (1, 1, 1, 1)),
    (1, (12,), 4, (9,)), (1, (3,), 4, (1,))])
def test_every_start_is_equally_likely(first, lengths, context, n_starts):
    buffer = make_buffer(episodes(first, lengths))  # even ones end in a terminal step
    starts, counts = np.unique(
        sample(buffer, 6000, context).obs[0].numpy(), axis=0, return_counts=True)
    assert starts.tolist() == [[first + i, t] for i, n in enumerate(n_starts) for t in range(n)]
    expected = 6000 / len(starts)
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 3 * len(counts)  # expectation: len(counts) - 1


def test_a_terminal_step_is_drawn_like_others_wherever_it_is_in_the_window():
    """Of an episode of 300 steps with windows of 64, all of which are that long, one in 237 would
    hold it, at its end: where a memory counts along, it would know when the fall is due."""
    buffer = make_buffer(episodes(0, [300]))
    batch = sample(buffer, 20_000, 64)
    count = np.bincount(batch.obs[1:, :, 1].int()[batch.mask > 0].numpy(), minlength=301)
    assert count[300] == (batch.terminal * batch.mask).sum() == pytest.approx(count[150], rel=0.1)
    place = (batch.terminal * batch.mask).sum(1).numpy()  # (64,)
    chi2 = ((place - place.mean()) ** 2 / place.mean()).sum()
    assert chi2 < 2 * 64  # expectation: 63


def test_a_step_is_drawn_as_often_whatever_comes_after_it():
    """Episodes as long as the window or shorter, which end by chance: Q would be too low, or too
    high, if step 3 came up more often where a fall follows than where the time is over."""
    buffer = make_buffer(episodes(0, [4] * 50))
    batch = sample(buffer, 20_000, 8)
    last = (batch.obs[1:, :, 1] == 4) & (batch.mask > 0)
    assert batch.terminal[last].mean() == pytest.approx(0.5, abs=0.02)  # every other one falls
    buffer = make_buffer(episodes(0, [4, 9] * 25))  # 4: a fall; 9: the time is over
    batch = sample(buffer, 20_000, 8)
    step_3 = (batch.obs[1:, :, 1] == 4) & (batch.mask > 0)
    assert batch.terminal[step_3].mean() == pytest.approx(0.5, abs=0.02)


def test_staying_in_a_goal_until_the_time_is_over_is_not_a_fall():
    rows, n_steps = episodes(0, [30])
    rows["terminal"][20:] = True  # every step inside a goal is terminal
    buffer = make_buffer((rows, n_steps))
    count = np.bincount(sample(buffer, 5000, 10).obs[0, :, 1].int().numpy())
    assert len(count) == 21 and count[20] == pytest.approx(5000 / 21, rel=0.3)


def test_rewarded_fraction_is_the_share_that_is_drawn_from_rewarded_episodes():
    buffer = make_buffer(episodes(0, [3] * 20, rewarded=[7]))

    def counts(fraction):
        return [drawn(sample(buffer, 8, "full", fraction, seed)).count(7) for seed in range(200)]

    assert set(counts(1.0)) == {8}
    assert min(counts(0.25)) == 2  # exactly 2 of 8 are sure, the other 6 are drawn from all
    assert abs(np.mean(counts(0.25)) - (2 + 6 / 20)) < 0.15
    assert abs(np.mean(counts(0.0)) - 8 / 20) < 0.15


def test_without_any_rewarded_episode_all_are_drawn_alike():
    buffer = make_buffer(episodes(0, [3, 3]))
    assert abs(np.mean(drawn(sample(buffer, fraction=1.0))) - 0.5) < 0.1


def test_a_reward_behind_the_end_does_not_make_an_episode_rewarded():
    buffer = make_buffer(episodes(0, [1, 5], rewarded=[1]))  # the garbage of episode 0 is not 0
    assert set(drawn(sample(buffer, fraction=1.0))) == {1}


def test_only_the_newest_steps_are_sampled():
    buffer = make_buffer(*(episodes(i, [4]) for i in range(5)), size=10)
    assert set(drawn(sample(buffer))) == {3, 4}  # 8 steps; a third episode would make 12
    assert len(buffer.episodes) == len(buffer.index) == 2  # the others are not kept
    buffer.add(*episodes(5, [30]))
    assert set(drawn(sample(buffer))) == {5}  # one episode is kept, however long


def test_what_is_stored_does_not_change_with_the_rows_that_were_given():
    rows, n_steps = episodes(0, [3])
    buffer = make_buffer((rows, n_steps))
    rows[:] = 0
    assert sample(buffer, 1).obs[:, 0].tolist() == [[0, t] for t in range(4)]


# --- SAVED AND LOADED -----------------------------------------------------------------------------


def through_a_checkpoint(buffer):
    """-> a buffer that was loaded from what another one saved."""
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    again = make_buffer(size=buffer.size)
    again.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    return again


def assert_same_draws(one, other):
    for context, fraction in (("full", 0.0), (2, 0.5)):
        batches = [sample(b, context=context, fraction=fraction) for b in (one, other)]
        assert all(torch.equal(a, b) for a, b in zip(*batches))


def test_a_loaded_buffer_is_the_saved_one_and_goes_on_like_it():
    buffer = make_buffer(episodes(0, [2, 5, 1], rewarded=[1]), episodes(3, [4]), size=15)
    again = through_a_checkpoint(buffer)
    assert_same_draws(buffer, again)
    for b in (buffer, again):
        b.add(*episodes(4, [6, 3], rewarded=[5]))
    assert set(drawn(sample(again))) == {2, 3, 4, 5}  # 14 steps; number 1 would make it 19
    assert_same_draws(buffer, again)


@pytest.mark.parametrize("first", [0, 1])
def test_a_buffer_that_was_saved_before_the_first_episode_goes_on_like_a_new_one(first):
    again = through_a_checkpoint(make_buffer())
    again.add(*episodes(first, [2, 3], rewarded=[first]))
    assert set(drawn(sample(again))) == {first, first + 1}
    assert_same_draws(again, make_buffer(episodes(first, [2, 3], rewarded=[first])))


def test_what_was_saved_does_not_change_with_what_comes_later():
    buffer = make_buffer(episodes(0, [2, 5]))
    saved = {k: v.clone() for k, v in buffer.state_dict().items()}
    kept = buffer.state_dict()
    buffer.add(*episodes(2, [3]))
    sample(buffer, context=2)
    assert all(torch.equal(kept[k], v) for k, v in saved.items())


def test_a_checkpoint_holds_little_more_than_the_rows():
    """A million steps of Key-to-Door have to fit: one array of all rows, not one per episode."""
    buffer = make_buffer(*(episodes(i, [2] * 50) for i in range(0, 2000, 50)))
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    n_bytes = sum(x.numel() * x.element_size() for x in buffer.state_dict().values())
    assert file.tell() < 1.05 * n_bytes + 5000
