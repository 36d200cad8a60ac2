"""What is true of the comparator with a belief VAE, beyond what it shares with the scripts."""

import re
import subprocess
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_envs  # noqa: F401  (registers the ids)
import varibad_offpolicy as vb
from conftest import numbers, read_metrics, reproducible, stops_at
from test_siblings import blocks

import rmf_sac_gru as sac

ROOT = Path(__file__).resolve().parents[1]
SMALL = dict(rnn_size=8, hidden_sizes=(8, 8), embeddings=(4, 3, 2), latent_dim=2, elbo_terms=3)
TINY = ("--env-id toy_envs:PendulumShort-v0 --num-envs 2 --total-timesteps 320"
        " --learning-starts 40 --eval-interval 100 --eval-episodes 2 --updates-per-step 0.1"
        " --vae-updates-per-step 0.05 --batch-size 8 --vae-batch-size 3 --rnn-size 8"
        " --hidden-sizes 8 8 --embeddings 4 2 8 --latent-dim 2 --elbo-terms 3").split()
CPU = torch.device("cpu")


@pytest.fixture
def start(tmp_path, no_pictures):
    def start(*flags):
        runs_dir = tmp_path / f"runs{len(list(tmp_path.iterdir()))}"
        return vb.main([*TINY, "--runs-dir", str(runs_dir), *flags])

    return start


def make_agent(**given):
    """-> args, agent with 3 observations and 2 actions."""
    args = vb.Args(**SMALL | given)
    torch.manual_seed(0)
    return args, vb.Agent(3, 2, args)


def random_episodes(agent, lengths=(6, 3, 1), seed=0):
    """Episodes of these lengths, and behind their ends garbage -> rows (T+1, B), n_steps (B,)."""
    rng, shape = np.random.default_rng(seed), (max(lengths) + 1, len(lengths))
    rows = np.zeros(shape, [("obs", "f4", (3,)), ("prev_action", "f4", (2,)), ("prev_reward", "f4"),
                            ("terminal", "?"), ("belief", "f4", (agent.vae.width,))])
    for name in ("obs", "prev_action", "prev_reward"):
        rows[name] = rng.normal(size=rows[name].shape)
    rows["prev_action"][0], rows["prev_reward"][0] = 0, 0
    rows["terminal"][lengths[0], 0] = True
    rows["belief"] = agent.believe(vb.tensors(rows, CPU))
    return rows, np.array(lengths)


def as_tensors(rows, n_steps):
    mask = torch.arange(len(rows) - 1)[:, None] < torch.from_numpy(n_steps)
    return vb.tensors(rows, CPU) | {"mask": mask.float()}


def weights(module):
    return [p.clone() for p in module.parameters()]


def equal(a, b):
    return [torch.equal(x, y) for x, y in zip(a, b, strict=True)]


# --- THE FILE -------------------------------------------------------------------------------------


def test_it_has_the_scripts_own_words_where_it_does_the_same():
    ours, theirs = blocks(vb), blocks(sac)
    may_differ = {"Args", "Actor", "Actor.__init__", "Critic", "Critic.__init__", "Agent",
                  "Agent.__init__", "Agent.act", "update", "SequenceBuffer",
                  "SequenceBuffer.sample", "train", "main"}
    common = ours.keys() & theirs.keys()
    assert {name for name in common if ours[name] != theirs[name]} == may_differ
    assert {"Encoder.forward", "Head.forward", "Actor.forward", "Critic.forward", "POMDP.step",
            "SequenceBuffer.add", "play", "evaluate"} <= common - may_differ
    lines = Path(vb.__file__).read_text().splitlines()
    assert len(lines) <= 500 and max(map(len, lines)) <= 100


def test_its_page_names_only_flags_and_metrics_that_exist(start):
    page = (ROOT / "docs" / "varibad_offpolicy.md").read_text()
    flags = {"--" + f.name.replace("_", "-") for f in fields(vb.Args)} | {"--no-cuda", "--help"}
    assert set(re.findall(r"(?<![\w!-])--[a-z][a-z0-9-]*", page)) <= flags
    logged = {*read_metrics(start())[0], "eval/success_rate"}
    named = set(re.findall(r"`((?:losses|charts|grads|eval)/[^`]+)`", page))
    assert named <= logged and {x for x in logged if x.startswith(("losses", "grads"))} <= named
    assert len(page.splitlines()) <= 100


# --- THE BELIEF AND ITS LOSS ----------------------------------------------------------------------


def test_kl_of_two_gaussians_is_the_one_computed_by_hand():
    # One latent number, two steps: N(0, 1) -> N(1, 4) -> N(3, 1).
    belief = torch.tensor([[1.0, np.log(4)], [3.0, 0.0]])[:, None]
    by_hand = [np.log(1 / 2) + (4 + 1**2) / 2 - 0.5, np.log(2 / 1) + (1 + 2**2) / (2 * 4) - 0.5]
    assert vb.kl(belief)[:, 0].tolist() == pytest.approx(by_hand)
    # And torch's, for many numbers.
    belief = torch.randn(5, 3, 8)
    mu, logvar = belief.chunk(2, -1)
    q = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    before = torch.distributions.Normal(
        torch.cat([torch.zeros(1, 3, 4), q.loc[:-1]]), torch.cat([torch.ones(1, 3, 4),
                                                                  q.scale[:-1]]))
    expected = torch.distributions.kl_divergence(q, before).sum(-1)
    torch.testing.assert_close(vb.kl(belief), expected, rtol=1e-4, atol=1e-5)


def test_the_loss_of_the_belief_is_the_one_computed_by_hand(monkeypatch):
    """An episode of two steps and one of one. A decoder that always says 0 errs by the reward."""
    args, agent = make_agent(kl_weight=0.5)
    rows, n_steps = random_episodes(agent, (2, 1))
    rows["prev_reward"][1:, 0], rows["prev_reward"][1:, 1] = (1, 3), (2, 99)  # 99: padding
    for p in agent.vae.rest[-1].parameters():
        p.data.zero_()
    losses, step = [], torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda x: (losses.append(x.item()), step(x))[1])
    x = as_tensors(rows, n_steps)
    scalars = vb.update_belief(agent, torch.optim.SGD(agent.vae.parameters(), 0.0), x, args)
    reconstruction = ((1**2 + 3**2) / 2 + 2**2 / 1) / 2
    moves = vb.kl(agent.believe(x))
    moved = (moves[:3, 0].mean() + moves[:2, 1].mean()).item() / 2
    assert scalars["losses/reconstruction"].item() == pytest.approx(reconstruction)
    assert scalars["losses/kl"].item() == pytest.approx(moved)
    assert losses == [pytest.approx(reconstruction + 0.5 * moved)]


@pytest.mark.parametrize("decode", ["reward", "obs"])
def test_every_step_is_told_from_each_m_and_from_what_the_decoder_may_see(decode):
    """Of step k the reward is told from o_k, a_k, o_{k+1}; o_{k+1} from o_k and a_k alone."""
    args, agent = make_agent(decode=decode)
    rows, n_steps = random_episodes(agent, (4, 4))
    m = torch.randn(5, 2, 2)  # (M, B, L)
    error = agent.vae.decode(m, as_tensors(rows, n_steps))
    assert error.shape == (5, 4, 2)
    obs, action, reward = (torch.from_numpy(rows[k].copy()) for k in (
        "obs", "prev_action", "prev_reward"))
    for i, k, b in np.ndindex(5, 4, 2):
        seen = [obs[k, b], action[k + 1, b], *([obs[k + 1, b]] if decode == "reward" else [])]
        told = agent.vae.rest(agent.vae.of_m(m[i, b]) + agent.vae.of_step(torch.cat(seen)))
        truth = reward[k + 1, b] if decode == "reward" else obs[k + 1, b] - obs[k, b]
        torch.testing.assert_close(error[i, k, b], ((told - truth) ** 2).mean())


def test_each_time_of_an_episode_is_decoded_from_and_none_behind_its_end(monkeypatch):
    args, agent = make_agent(elbo_terms=500)
    rows, n_steps = random_episodes(agent, (4, 2))
    seen, gather = [], torch.Tensor.gather
    monkeypatch.setattr(torch.Tensor, "gather", lambda x, dim, t: (
        seen.append(t[..., 0]), gather(x, dim, t))[1])
    vb.update_belief(agent, torch.optim.SGD(agent.vae.parameters(), 0.0),
                     as_tensors(rows, n_steps), args)
    assert [set(seen[0][:, b].tolist()) for b in range(2)] == [set(range(5)), set(range(3))]


@pytest.mark.parametrize("rnn", ["gru", "lstm"])
def test_step_by_step_the_belief_is_that_of_the_whole_sequence(rnn):
    args, agent = make_agent(rnn=rnn)
    rows, _ = random_episodes(agent)
    x = vb.tensors(rows, CPU)
    whole, h, steps = agent.believe(x), None, []
    for t in range(len(rows)):
        belief, h = agent.vae(*(x[k][t : t + 1] for k in ("obs", "prev_action", "prev_reward")), h)
        steps.append(belief)
    torch.testing.assert_close(torch.cat(steps), whole)
    assert whole.shape == (7, 3, 4)


def test_garbage_behind_the_end_of_an_episode_changes_nothing():
    args, agent = make_agent(beliefs="reencoded")
    rows, n_steps = random_episodes(agent)
    dirty = rows.copy()
    for b, n in enumerate(n_steps):
        for name in ("obs", "prev_action", "prev_reward", "belief"):
            dirty[name][n + 1 :, b] = 77
    results = []
    for r in (rows, dirty):
        torch.manual_seed(1)
        x = as_tensors(r, n_steps)
        scalars = vb.update_belief(agent, torch.optim.SGD(agent.vae.parameters(), 0.0), x, args)
        results.append((scalars, [p.grad.clone() for p in agent.vae.parameters()],
                        vb.transitions_of(agent, x, args)))
    torch.testing.assert_close(*results)


# --- WHO LEARNS FROM WHAT -------------------------------------------------------------------------


def optimizers(agent):
    return (torch.optim.Adam([*agent.actor.parameters(), *agent.critic.parameters()], 0.1),
            torch.optim.Adam(agent.vae.parameters(), 0.1))


@pytest.mark.parametrize("beliefs", ["stored", "reencoded"])
def test_no_gradient_of_sac_reaches_the_belief_and_none_of_the_belief_sac(beliefs):
    args, agent = make_agent(beliefs=beliefs)
    x = as_tensors(*random_episodes(agent))
    of_sac, of_vae = optimizers(agent)
    parts = {"vae": agent.vae, "actor": agent.actor, "critic": agent.critic,
             "target": agent.critic_target}
    before = {name: weights(part) for name, part in parts.items()}
    pool = vb.transitions_of(agent, x, args)
    assert not any(values.requires_grad for values in pool)
    vb.update(agent, of_sac, pool, args)
    assert all(p.grad is None for p in agent.vae.parameters())
    assert all(equal(before["vae"], weights(agent.vae)))
    assert not any(sum((equal(before[k], weights(parts[k])) for k in ("actor", "critic")), []))
    for p in agent.parameters():
        p.grad = None
    after = {name: weights(part) for name, part in parts.items()}
    vb.update_belief(agent, of_vae, x, args)
    for name in ("actor", "critic", "target"):
        assert all(p.grad is None for p in parts[name].parameters())
        assert all(equal(after[name], weights(parts[name])))
    assert not any(equal(after["vae"], weights(agent.vae)))


def test_the_critic_follows_its_target_alone_as_computed_by_hand():
    args, agent = make_agent(gamma=0.5, alpha=2.0, tau=0)
    pool = vb.transitions_of(agent, as_tensors(*random_episodes(agent)), args)
    torch.manual_seed(3)
    scalars = vb.update(agent, torch.optim.SGD(agent.parameters(), 0.0), pool, args)
    grads = [p.grad.clone() for p in agent.critic.parameters()]
    agent.critic.zero_grad()
    belief, obs, action, reward, terminal, next_belief, next_obs = pool
    torch.manual_seed(3)
    with torch.no_grad():
        next_action, log_prob = agent.actor(next_belief, next_obs)
        q1, q2 = agent.critic_target(next_belief, next_obs, next_action)
    y = reward + 0.5 * (1 - terminal) * (torch.minimum(q1, q2) - 2.0 * log_prob)
    q1, q2 = agent.critic(belief, obs, action)
    ((q1 - y) ** 2 + (q2 - y) ** 2).mean().backward()
    torch.testing.assert_close([p.grad for p in agent.critic.parameters()], grads)
    torch.testing.assert_close(scalars["losses/target"], y.mean())


def test_stored_and_reencoded_beliefs_are_the_same_until_the_belief_learns():
    args, agent = make_agent(beliefs="stored")
    x = as_tensors(*random_episodes(agent))
    other = vb.Args(**SMALL, beliefs="reencoded")
    stored, today = (vb.transitions_of(agent, x, a) for a in (args, other))
    torch.testing.assert_close(stored, today)
    _, of_vae = optimizers(agent)
    vb.update_belief(agent, of_vae, x, args)
    torch.testing.assert_close(vb.transitions_of(agent, x, args), stored)
    changed = [not torch.equal(a, b) for a, b in zip(stored, vb.transitions_of(agent, x, other))]
    assert changed == [True, False, False, False, False, True, False]  # both beliefs, nothing else


def test_transitions_are_the_real_steps_with_what_followed_them():
    args, agent = make_agent()
    rows, n_steps = random_episodes(agent, (3, 1))
    belief, obs, action, reward, terminal, next_belief, next_obs = vb.transitions_of(
        agent, as_tensors(rows, n_steps), args)
    order = [(0, 0), (0, 1), (1, 0), (2, 0)]  # (t, episode)
    for i, (t, b) in enumerate(order):
        now, then = rows[t, b], rows[t + 1, b]
        for found, true in ((belief, now["belief"]), (obs, now["obs"]),
                            (action, then["prev_action"]), (next_belief, then["belief"]),
                            (next_obs, then["obs"])):
            assert found[i].tolist() == true.tolist()
        assert reward[i] == then["prev_reward"] and terminal[i] == then["terminal"]
    assert len(reward) == 4 and terminal.tolist() == [0, 0, 0, 1]


def test_what_is_stored_is_what_was_believed_when_the_step_was_played(start, monkeypatch):
    """Each belief that an agent acts on, step by step, is in the buffer, for each learnt step."""
    acted, stored, act, add = [], [], vb.Actor.forward, vb.SequenceBuffer.add

    def remembering(self, h, obs, deterministic=False):
        if h.dim() == 3 and not deterministic:  # acting, not learning
            acted.append(h[0])
        return act(self, h, obs, deterministic)

    monkeypatch.setattr(vb.Actor, "forward", remembering)
    monkeypatch.setattr(vb.SequenceBuffer, "add", lambda self, rows, n: (
        stored.append(rows["belief"][:-1].copy()), add(self, rows, n))[1])
    start()
    stored = np.concatenate(stored[2:])  # the first 40 steps, 2 rounds, were random
    np.testing.assert_allclose(stored, torch.stack(acted).numpy(), rtol=1e-4, atol=1e-6)


# --- RUNS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--beliefs", "stored"], ["--policy", "markov"],
                                   ["--policy", "oracle"]], ids=" ".join)
def test_a_run_changes_every_weight_and_the_same_seed_gives_the_same_numbers(flags, start):
    folder = start(*flags)
    things = torch.load(folder / "checkpoint.pt", weights_only=True)["things"]
    torch.manual_seed(1)
    args = vb.parse_args(vb.Args, "varibad_offpolicy", [*TINY, *flags])
    env = vb.POMDP(args, 2)
    fresh = vb.Agent(env.obs_dim, env.action_dim, args).state_dict()
    untouched = {k for k, v in things["agent"].items() if torch.equal(v, fresh[k])}
    assert untouched == ({k for k in fresh if k.startswith("vae.")} if "--policy" in flags
                         else set())
    assert read_metrics(folder)[-1]["eval/return_mean"]
    assert np.isfinite(numbers(folder, "losses/qf_loss")).all()
    if "--policy" not in flags:
        assert reproducible(start(*flags)) == reproducible(folder)


@pytest.mark.parametrize("stops_in, n, beliefs", [
    ("update", 9, "stored"), ("update_belief", 11, "reencoded")])
def test_a_stopped_run_goes_on_to_the_numbers_of_an_unbroken_one(
        stops_in, n, beliefs, start, monkeypatch):
    unbroken = start("--beliefs", beliefs)
    monkeypatch.setattr(vb, stops_in, stops_at(n, getattr(vb, stops_in), KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        start("--beliefs", beliefs)
    monkeypatch.undo()
    (folder,) = set(unbroken.parent.parent.glob("*/*")) - {unbroken}
    assert numbers(folder, "env_step")[-1] < 320 and (folder / "checkpoint.pt").exists()
    monkeypatch.setattr("run.draw_curve", lambda _: None)
    vb.main([*TINY[:2], "--resume", str(folder)])
    assert reproducible(folder) == reproducible(unbroken)


@pytest.mark.parametrize("flags", [
    "--env-id Wind-v0 --total-timesteps 900 --learning-starts 300 --decode obs",
    "--env-id SemiCircle-v0 --total-timesteps 960 --learning-starts 240",
    "--env-id Pendulum-v1 --total-timesteps 1200 --learning-starts 400"])
def test_it_learns_on_any_id_with_box_observations_and_actions(flags, start):
    folder = start(*flags.split(), *(
        "--updates-per-step 0.02 --vae-updates-per-step 0.01 --eval-episodes 50"
        " --eval-interval 1000").split())
    for column in ("reconstruction", "kl", "qf_loss", "q_data", "target", "actor_loss", "entropy"):
        assert np.isfinite(numbers(folder, f"losses/{column}")).all()
    assert (numbers(folder, "grads/encoder") > 0).all() and (numbers(folder, "losses/kl") > 0).all()
    assert vb.main([*flags.split()[:2], "--evaluate", str(folder)]) == folder


def test_the_belief_learns_from_the_random_steps_too(start):
    rows = read_metrics(start())
    first = [row for row in rows if row["losses/kl"]][0]
    assert int(first["env_step"]) <= 40 and first["charts/updates"] == "0"


@pytest.mark.parametrize("flags", [
    "--env-id CartPole-V-v0", "--gamma 2", "--elbo-terms 0", "--kl-weight -1", "--latent-dim 0",
    "--learning-starts 320", "--paper --env-id DelayedCatch-v0"])
def test_bad_flags_are_refused_in_a_line(flags, tmp_path):
    with pytest.raises(SystemExit) as error:
        vb.main([*TINY, *flags.split(), "--runs-dir", str(tmp_path / "runs")])
    message = str(error.value)
    assert message.startswith("error: ") and flags.split()[0] in message and "\n" not in message
    assert not (tmp_path / "runs").exists()


# --- LEARNING -------------------------------------------------------------------------------------


def test_a_belief_comes_to_tell_what_is_hidden():
    """The reward of all steps of an episode is 1 or -1, a coin that only rewards show: before the
    first one nothing is known and the error is 1, and after it none is left."""
    args, agent = make_agent(latent_dim=2, kl_weight=0.01, elbo_terms=8)
    rng, optimizer = np.random.default_rng(0), torch.optim.Adam(agent.vae.parameters(), 1e-2)

    def episodes():
        rows, n_steps = random_episodes(agent, (5,) * 32, seed=rng.integers(2**31))
        rows["prev_reward"][1:] = rng.choice([-1, 1], 32)
        return as_tensors(rows, n_steps)

    for _ in range(200):
        vb.update_belief(agent, optimizer, episodes(), args)
    x = episodes()
    mu, _ = agent.believe(x).chunk(2, -1)
    with torch.no_grad():
        error = agent.vae.decode(mu, x).mean((1, 2))[:6]  # (M,) from b_0, b_1, ...
    assert 0.8 < error[0] < 1.3 and error[1:].max() < 0.2


def test_what_a_belief_knows_is_told_of_the_trials_that_are_played(start):
    flags = ("--env-id SemiCircle-v0 --total-timesteps 480 --num-envs 2 --learning-starts 240"
             " --inputs or --eval-episodes 2").split()
    folder = start(*flags)
    out = subprocess.run([sys.executable, "experiments/what_a_belief_knows.py", str(folder)],
                         cwd=ROOT, capture_output=True, text=True)
    args = vb.parse_args(vb.Args, "varibad_offpolicy", [*TINY, *flags])
    env = vb.POMDP(args, 100, "heldout")
    agent = vb.Agent(env.obs_dim, env.action_dim, args)
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)["things"]
    agent.load_state_dict(saved["agent"])
    rows, *_ = vb.play(env, partial(agent.act, deterministic=True), 7)
    found, halves = (rows["prev_reward"] > 0).any(0), (rows[1:61], rows[61:])
    assert len(rows) == 121 and f"found in {found.mean():.0%}" in out.stdout
    first, second = (half["prev_reward"].sum(0).mean() for half in halves)
    assert f"first half {first:.1f}, second half {second:.1f}" in out.stdout
