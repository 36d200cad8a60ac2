"""What is true of Variational Recurrent Models and SAC, beyond what is the same in SAC-GRU."""

import ast
import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_envs  # noqa: F401  (registers the ids)
import vrm
from conftest import numbers, read_metrics, reproducible, stops_at
from test_buffer import CPU, episodes, make_buffer
from test_siblings import blocks

import rmf_sac_gru as sac

ROOT = Path(__file__).resolve().parents[1]
TINY = ("--env-id toy_envs:PendulumShort-v0 --num-envs 2 --total-timesteps 320 --learning-starts 40"
        " --first-updates 3 --eval-interval 100 --eval-episodes 2 --updates-per-step 0.16"
        " --model-frequency 2 --rnn-size 8 --hidden-sizes 8 8 --context-length 6 --burn-in 3"
        " --batch-size 4").split()


@pytest.fixture
def start(tmp_path, no_pictures):
    def start(*flags):
        runs_dir = tmp_path / f"runs{len(list(tmp_path.iterdir()))}"
        return vrm.main([*TINY, "--runs-dir", str(runs_dir), *flags])

    return start


def make_agent(module=vrm, obs_dim=2, action_dim=1, **fields):
    args = module.Args(**dict(rnn_size=8, hidden_sizes=(8, 8), batch_size=4) | fields)
    torch.manual_seed(0)
    return args, module.Agent(obs_dim, action_dim, args)


def drawn(args, lengths=(9, 5, 7), seed=0):
    """-> batch of windows of episodes whose observations are (episode, t)."""
    return make_vrm_buffer(lengths).sample(args, np.random.default_rng(seed), CPU)


def make_vrm_buffer(lengths):
    buffer = vrm.SequenceBuffer(make_buffer().row_type, 1000)
    buffer.add(*episodes(0, lengths))
    return buffer


# --- SAME TEXT ------------------------------------------------------------------------------------


def test_it_has_sacs_own_words_where_it_does_the_same():
    ours, theirs = blocks(vrm), blocks(sac)
    same = {"Args.__post_init__", "Head", "Head.__init__", "Head.forward", "Actor.forward",
            "Critic.forward", "masked_mean", "SequenceBuffer", "SequenceBuffer.__init__",
            "SequenceBuffer.add", "SequenceBuffer.state_dict", "SequenceBuffer.load_state_dict",
            "POMDP", "POMDP.__init__", "POMDP._see", "POMDP.reset", "POMDP.step", "play",
            "evaluate"}
    assert {name for name in same if ours[name] != theirs[name]} == set()


def test_it_is_short():
    text = Path(vrm.__file__).read_text()
    assert len(text.splitlines()) <= 500 and max(map(len, text.splitlines())) <= 100
    functions = {n.name: n.end_lineno - n.lineno + 1 for n in ast.walk(ast.parse(text))
                 if isinstance(n, ast.FunctionDef)}
    assert [name for name, length in functions.items()
            if length > (70 if name in ("train", "update") else 50)] == []


# --- THE MODEL ------------------------------------------------------------------------------------


def softplus(x):
    return math.log(1 + math.exp(x))


def test_the_terms_of_the_elbo_are_those_computed_by_hand():
    """Two rows of one lane, without burn-in."""
    args, agent = make_agent(obs_dim=1, context_length=1, burn_in=0)
    (klm, _), Z = agent.models, 2
    x, a = torch.randn(2, 1, 2), torch.randn(2, 1, 1)
    batch = vrm.Batch(x, a, torch.zeros(0, 1), None, None, None, None)
    torch.manual_seed(5)
    reconstruction, kl = vrm.elbo(klm, batch)
    torch.manual_seed(5)
    noise = torch.randn(2, 2, 1, Z)
    h = c = torch.zeros(1, 8)
    with torch.no_grad():
        for t in range(2):
            e = klm.embed(x[t])
            q, p = klm.posterior(h, torch.cat([e, a[t]], -1))[0], klm.prior(h, a[t])[0]
            by_hand, z, z_prior = 0, [], []
            for i in range(Z):
                (mq, sq), (mp, sp) = ((v[i].item(), softplus(v[Z + i]) + 0.01) for v in (q, p))
                by_hand += math.log(sp / sq) + (sq**2 + (mq - mp) ** 2) / (2 * sp**2) - 0.5
                z.append(mq + sq * noise[0, t, 0, i].item())
                z_prior.append(mp + sp * noise[1, t, 0, i].item())
            assert kl[t].item() == pytest.approx(by_hand, rel=1e-4)
            guess, by_hand = klm.decoder(h, torch.tensor([z_prior]))[0], 0
            for i in range(2):  # the observation, and the reward before it
                mean, std = guess[i].item(), softplus(guess[2 + i]) + 0.01
                by_hand -= ((x[t, 0, i].item() - mean) / std) ** 2 / 2
                by_hand -= math.log(std * math.sqrt(2 * math.pi))
            assert reconstruction[t].item() == pytest.approx(by_hand, rel=1e-4)
            h, c = klm.cell(torch.cat([e, torch.tensor([z])], -1), (h, c))


@pytest.mark.parametrize("noise", [None, torch.randn(7, 3, 2)], ids=["means", "samples"])
def test_step_by_step_is_the_whole_sequence(noise):
    _, agent = make_agent()
    x, a, state = torch.randn(7, 3, 3), torch.randn(7, 3, 1), None
    whole, last, q = agent.models[0](x, a, noise=noise)
    for t in range(7):
        now = slice(t, t + 1)
        d, state, q_t = agent.models[0](x[now], a[now], state,
                                        noise=None if noise is None else noise[now])
        torch.testing.assert_close(d[0], whole[t])
        torch.testing.assert_close(q_t[0], q[t])
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("models", ["klm", "fim+klm"])
def test_acting_sees_the_states_that_are_learnt_from(models, monkeypatch):
    args, agent = make_agent(models=models, env_id="Pendulum-V-v0")
    env, seen, remember = vrm.POMDP(args, 2), [], vrm.Agent.remember
    _, agent = make_agent(models=models, obs_dim=env.obs_dim)
    monkeypatch.setattr(vrm.Agent, "remember", lambda *a, **k: (
        seen.append(remember(*a, **k)) or seen[-1]))
    rows, *_ = vrm.play(env, agent.act, 1)
    x = torch.from_numpy(np.concatenate([rows["obs"], rows["prev_reward"][..., None]], -1))
    whole, _ = remember(agent, x, torch.from_numpy(rows["prev_action"].copy()))
    assert whole.shape == (201, 2, 8 * len(agent.models))
    torch.testing.assert_close(torch.cat([d for d, _ in seen]), whole[:-1], atol=1e-4, rtol=1e-4)


def test_deterministic_play_draws_no_random_numbers():
    _, agent = make_agent()
    before = torch.get_rng_state()
    agent.act(np.zeros((2, 2), "f4"), np.zeros((2, 1), "f4"), np.zeros(2, "f4"), None, True)
    assert torch.equal(before, torch.get_rng_state())


# --- WINDOWS AND BURN-IN --------------------------------------------------------------------------


@pytest.mark.parametrize("context, burn_in", [(1, 0), (3, 2), (4, 50), (50, 3), ("full", 5)])
def test_a_window_and_its_burn_in_are_rows_of_one_episode_in_order(context, burn_in):
    lengths = (9, 1, 5, 7)
    args = vrm.Args(context_length=context, burn_in=burn_in, batch_size=300)
    batch = drawn(args, lengths)
    K, T = len(batch.real), len(batch.mask)
    assert T == min(9, 50 if context == "full" else context) and K <= burn_in
    for b in range(300):
        episode, start = batch.x[K, b, :2].int().tolist()
        n = lengths[episode]
        t = np.arange(start - K, start + T + 1)
        assert 0 <= start <= max(n - T, 0)  # no part of a window is padding that need not be
        assert batch.real[:, b].tolist() == (t[:K] >= 0).tolist()
        assert batch.mask[:, b].tolist() == (t[K:-1] < n).tolist()
        there = (t >= 0) & (t <= n)
        assert (batch.x[there, b, 0] == episode).all()
        assert batch.x[there, b, 1].tolist() == t[there].tolist()
        assert batch.prev_action[there, b, 0].tolist() == t[there].tolist()
        steps = batch.mask[:, b].numpy() > 0
        assert batch.action[steps, b, 0].tolist() == (t[K + 1:][steps]).tolist()
        ends = (t[K + 1:][steps] == n) & (episode % 2 == 0)
        assert batch.terminal[steps, b].tolist() == ends.tolist()


def test_no_step_is_drawn_much_less_often_than_others():
    args = vrm.Args(context_length=8, burn_in=0, batch_size=20_000)
    batch = drawn(args, (40, 20))
    real = batch.mask.bool()
    for episode, n in enumerate((40, 20)):
        mine = real & (batch.x[:-1, :, 0] == episode)
        counts = np.bincount(batch.x[:-1, :, 1][mine].int(), minlength=n)
        assert len(counts) == n and counts.max() < 2.5 * counts.min()


def test_after_a_burn_in_that_covers_the_past_a_state_is_that_of_the_whole_episode():
    lengths, wrong = (9, 5, 7), {}
    for burn_in in (50, 1):
        args, agent = make_agent(context_length=3, burn_in=burn_in, batch_size=50)
        buffer, worst = make_vrm_buffer(lengths), 0.0
        whole = []
        for rows in buffer.episodes:
            x = np.concatenate([rows["obs"], rows["prev_reward"][:, None]], -1)
            whole.append(agent.remember(torch.from_numpy(x)[:, None],
                                        torch.from_numpy(rows["prev_action"].copy())[:, None])[0])
        batch = buffer.sample(args, np.random.default_rng(0), CPU)
        K = len(batch.real)
        d, _ = agent.remember(batch.x, batch.prev_action, real=batch.real)
        for b in range(50):
            episode, start = batch.x[K, b, :2].int().tolist()
            worst = max(worst, (d[K:, b] - whole[episode][start : start + 4, 0]).abs().max().item())
        wrong[burn_in] = worst
    assert wrong[50] < 1e-5 and wrong[1] > 1e-3


def test_garbage_before_and_behind_an_episode_changes_nothing():
    args, agent = make_agent(context_length=6, burn_in=4, batch_size=40)
    clean = drawn(args, (4, 9, 7))
    K = len(clean.real)
    behind = torch.cat([torch.zeros(1, 40), 1 - clean.mask]).bool()
    assert behind.any() and (clean.real == 0).any()
    outside = torch.cat([clean.real == 0, behind])
    x, a = clean.x.clone(), clean.prev_action.clone()
    x[outside], a[outside] = 77.0, 77.0
    spoilt = [v.where(clean.mask.bool(), torch.tensor(77.0)) for v in (
        clean.reward, clean.terminal)]
    dirty = vrm.Batch(x, a, clean.real, a[K + 1:], *spoilt, clean.mask)
    results = [[one_step(agent, batch, args, f) for f in (vrm.update, learn_model)]
               for batch in (clean, dirty)]
    torch.testing.assert_close(results[0], results[1])


# --- WHO LEARNS FROM WHAT -------------------------------------------------------------------------


def learn_model(agent, optimizer, batch, args):
    return vrm.update_model(agent, optimizer, batch)


def one_step(agent, batch, args, f, rate=0.0):
    """-> scalars, gradients by name, of one step of plain gradient descent."""
    torch.manual_seed(0)
    scalars = f(agent, torch.optim.SGD(agent.parameters(), rate), batch, args)
    return scalars, {k: p.grad.clone() for k, p in agent.named_parameters() if p.grad is not None}


def test_the_actors_step_leaves_q_alone_and_no_gradient_of_sac_reaches_a_model():
    args, agent = make_agent(context_length=4, burn_in=3)
    batch = drawn(args)
    _, grads = one_step(agent, batch, args, vrm.update)
    assert {k.split(".")[0] for k in grads} == {"actor", "critic", "log_alpha"}
    # The critic's gradient is that of its own loss, from the same noise.
    torch.manual_seed(0)
    K = len(batch.real)
    d, x = agent.remember(batch.x, batch.prev_action, real=batch.real)[0][K:], batch.x[K:]
    action, log_prob = agent.actor(d, x)
    with torch.no_grad():
        v = torch.minimum(*agent.critic_target(d[1:], x[1:], action[1:])) - log_prob[1:]
        y = batch.reward + 0.99 * (1 - batch.terminal) * v
    loss = sum(((q - y) ** 2 * batch.mask).sum()
               for q in agent.critic(d[:-1], x[:-1], batch.action))
    own = torch.autograd.grad(loss / batch.mask.sum(), list(agent.critic.parameters()))
    torch.testing.assert_close([grads[f"critic.{k}"] for k, _ in agent.critic.named_parameters()],
                               list(own))


@pytest.mark.parametrize("f, learns", [
    (vrm.update, {"actor", "critic", "critic_target", "log_alpha"}), (learn_model, {"models.0"})])
def test_each_kind_of_update_changes_its_own_weights_only(f, learns):
    args, agent = make_agent(context_length=4, burn_in=3)
    before = {k: v.clone() for k, v in agent.state_dict().items()}
    one_step(agent, drawn(args), args, f, rate=0.1)
    changed = {k for k, v in agent.state_dict().items() if not torch.equal(v, before[k])}
    assert {k[:8] if "models" in k else k.split(".")[0] for k in changed} == learns
    assert "models.0.prior.of_x.weight" in before  # the names above are those that there are


def test_the_first_impression_is_the_model_after_the_random_steps_and_stays(start, monkeypatch):
    kept, update = [], vrm.update

    def first(agent, *rest):
        if not kept:
            kept.append({k: v.clone() for k, v in agent.models.state_dict().items()})
        return update(agent, *rest)

    monkeypatch.setattr(vrm, "update", first)
    monkeypatch.setattr(vrm, "update_model", lambda agent, *rest, f=vrm.update_model: (
        calls.append(1), f(agent, *rest))[1])
    calls = []
    folder = start("--model-frequency", "1000")  # the KLM learns once before SAC's first update
    things = torch.load(folder / "checkpoint.pt", weights_only=True)["things"]
    end = {k.removeprefix("models."): v for k, v in things["agent"].items() if "models." in k}
    assert len(calls) == 3 + 1
    assert all(torch.equal(end[k], v) for k, v in kept[0].items())
    assert any(not torch.equal(v, end[f"1{k[1:]}"]) for k, v in end.items() if k[0] == "0")


# --- THE PUBLISHED FAULT --------------------------------------------------------------------------


@pytest.fixture
def merged(tmp_path):
    """The script with one backward pass for both losses, as the published port has it."""
    (tmp_path / "comparators").mkdir()
    (tmp_path / "comparators" / "vrm.py").write_text(Path(vrm.__file__).read_text())
    patch = ROOT / "docs" / "exercises" / "bugs" / "vrm_merged_update.patch"
    subprocess.run(["git", "apply", str(patch)], cwd=tmp_path, check=True)
    spec = importlib.util.spec_from_file_location("vrm_merged", tmp_path / "comparators" / "vrm.py")
    module = sys.modules["vrm_merged"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    subprocess.run(["git", "apply", "-R", str(patch)], cwd=tmp_path, check=True)
    assert (tmp_path / "comparators" / "vrm.py").read_text() == Path(vrm.__file__).read_text()


def q_where_nothing_is_paid(module, n_updates):
    """Random features, rewards of 0, a temperature of 0.001 that stays: the true Q is 0.
    -> Q of the policy's own actions."""
    args, agent = make_agent(module, hidden_sizes=(64, 64), policy="markov")
    T, B = 8, 16
    x, a = torch.randn(T + 1, B, 3), torch.rand(T + 1, B, 1) * 2 - 1
    zeros = torch.zeros(T, B)
    batch = module.Batch(x, a, torch.zeros(0, B), a[1:], zeros, zeros, zeros + 1)
    agent.log_alpha.data.fill_(math.log(0.001))
    optimizer = torch.optim.Adam([*agent.actor.parameters(), *agent.critic.parameters()], 1e-3)
    for _ in range(n_updates):
        scalars = module.update(agent, optimizer, batch, args)
    return scalars["losses/q_policy"].item()


def test_one_backward_pass_for_both_losses_makes_q_climb_where_nothing_is_paid(merged):
    assert abs(q_where_nothing_is_paid(vrm, 300)) < 0.1
    assert q_where_nothing_is_paid(merged, 300) > 3


# --- RUNS -----------------------------------------------------------------------------------------


REAL = " --total-timesteps 700 --updates-per-step 0.02 --eval-episodes 50"


@pytest.mark.parametrize("flags", [
    "", "--models klm", "--policy markov", f"--policy oracle --env-id Pendulum-V-v0{REAL}",
    f"--env-id Pendulum-V-v0{REAL}", f"--env-id Pendulum-v1 --observe 0,1{REAL}"])
def test_a_run_changes_every_weight(flags, start):
    flags = flags.split()
    folder = start(*flags)
    things = torch.load(folder / "checkpoint.pt", weights_only=True)["things"]
    torch.manual_seed(1)
    args = vrm.parse_args(vrm.Args, "vrm", [*TINY, *flags])
    env = vrm.POMDP(args, 2)
    fresh = vrm.Agent(env.obs_dim, env.action_dim, args).state_dict()
    assert [k for k, v in things["agent"].items() if torch.equal(v, fresh[k])] == []
    assert read_metrics(folder)[-1]["eval/return_mean"]
    assert np.isfinite(numbers(folder, "losses/qf_loss")).all()
    if args.policy == "recurrent":
        assert np.isfinite(numbers(folder, "losses/reconstruction")).all()
        assert min(numbers(folder, "losses/kl")) > 0 and min(numbers(folder, "grads/model")) > 0
    else:
        assert "losses/kl" not in read_metrics(folder)[0]


def test_the_same_seed_gives_the_same_numbers(start):
    first = reproducible(start())
    assert reproducible(start()) == first
    assert reproducible(start("--seed", "2")) != first


def test_a_stopped_run_goes_on_to_the_numbers_of_an_unbroken_one(start, monkeypatch):
    unbroken = start()
    monkeypatch.setattr(vrm, "update", stops_at(30, vrm.update, KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        start()
    monkeypatch.undo()
    (folder,) = set(unbroken.parent.parent.glob("*/*")) - {unbroken}
    assert 1 < len(read_metrics(folder)) < len(read_metrics(unbroken))
    monkeypatch.setattr("run.draw_curve", lambda _: None)
    vrm.main([*TINY[:2], "--resume", str(folder)])
    assert reproducible(folder) == reproducible(unbroken)


@pytest.mark.parametrize("flags", [
    "--env-id CartPole-V-v0", "--env-id toy_envs:Unbounded-v0", "--gamma 2", "--burn-in -1",
    "--learning-starts 320", "--learning-starts 0", "--model-frequency 0", "--context-length 0",
    "--paper --env-id Pendulum-V-v0"])
def test_bad_flags_are_refused_in_a_line(flags, tmp_path):
    with pytest.raises(SystemExit) as error:
        vrm.main([*TINY, *flags.split(), "--runs-dir", str(tmp_path / "runs")])
    message = str(error.value)
    assert message.startswith("error: ") and flags.split()[0] in message and "\n" not in message
    assert not (tmp_path / "runs").exists()
