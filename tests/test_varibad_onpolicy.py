"""What is true of the comparator with a belief VAE and PPO, beyond what it shares with others."""

import ast
import copy
import re
from dataclasses import fields
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import robust_ppo as robust
import torch
import toy_envs  # noqa: F401  (registers the ids)
import varibad_offpolicy as offpolicy
import varibad_onpolicy as vb
from conftest import numbers, read_metrics, reproducible, stops_at
from test_siblings import blocks

import ppo_gru_baseline as ppo

ROOT = Path(__file__).resolve().parents[1]


class HiddenSignEnv(gym.Env):
    """10 steps, each pays a * sign; the sign is drawn per episode and only rewards show it. Whoever
    remembers gets 9 or more; without memory any action is worth 0."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.sign, self.t = self.np_random.choice([-1.0, 1.0]), 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), self.sign * float(action[0]), False, self.t == 10, {}


gym.register("HiddenSign-v0", entry_point=HiddenSignEnv)
SMALL = dict(rnn_size=8, hidden_sizes=(8, 8), embeddings=(4, 3, 2), latent_dim=2, elbo_terms=3,
             batch_size=2)
TINY = ("--env-id toy_envs:PendulumShort-v0 --num-envs 4 --total-timesteps 320 --eval-interval 100"
        " --eval-episodes 2 --batch-size 2 --update-epochs 2 --vae-updates 2 --buffer-size 3"
        " --rnn-size 8 --hidden-sizes 8 8 --embeddings 4 2 8 --latent-dim 2 --elbo-terms 3").split()
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


def random_round(lengths=(6, 3, 1), seed=0):
    """A round with episodes of these lengths, and behind their ends garbage; the first terminates,
    the others are truncated -> rows (T+1, B), n_steps (B,)."""
    rng, shape = np.random.default_rng(seed), (max(lengths) + 1, len(lengths))
    rows = np.zeros(shape, [("obs", "f4", (3,)), ("prev_action", "f4", (2,)), ("prev_reward", "f4"),
                            ("terminal", "?")])
    for name in ("obs", "prev_action", "prev_reward"):
        rows[name] = rng.normal(size=rows[name].shape)
    rows["prev_action"][0], rows["prev_reward"][0] = 0, 0
    rows["terminal"][lengths[0], 0] = True
    return rows, np.array(lengths)


def as_tensors(*of_round):
    return vb.tensors(*of_round, CPU)


def weights(module):
    return [p.clone() for p in module.parameters()]


def equal(a, b):
    return [torch.equal(x, y) for x, y in zip(a, b, strict=True)]


def of_ppo(agent, lr=0.1):
    return torch.optim.SGD([p for name, p in agent.named_parameters()
                            if not name.startswith("vae.")], lr)


def learn(agent, args, x, lr=0.1):
    """All updates of PPO on a round -> list of dicts of scalars."""
    args.num_envs = x["mask"].shape[1]
    return list(vb.update(agent, of_ppo(agent, lr), x, args, np.random.default_rng(0)))


# --- THE FILE -------------------------------------------------------------------------------------


def test_it_has_the_others_own_words_where_it_does_the_same():
    ours = blocks(vb)
    for other, may_differ in (
            (offpolicy, {"Args", "Agent", "Agent.__init__", "Agent.act", "update_belief", "update",
                         "tensors", "POMDP.step", "train", "main"}),
            (ppo, {"Args", "Agent", "Agent.__init__", "Agent.forward", "Agent.act", "update",
                   "POMDP.__init__", "train", "main"})):
        theirs = blocks(other)
        common = ours.keys() & theirs.keys()
        assert {name for name in common if ours[name] != theirs[name]} == may_differ
    assert {"VAE.decode", "VAE.forward", "kl", "play", "evaluate"} <= blocks(offpolicy).keys()
    for name in ("tanh_mlp", "RunningNorm.update", "RunningNorm.scale"):
        assert ours[name] == blocks(robust)[name]
    # What the belief learns by differs in what is said of the authors' code alone.
    a, b = (set(blocks(script)["update_belief"]) for script in (vb, offpolicy))
    assert all(line.strip().startswith("#") for line in a ^ b) and len(a ^ b) == 2


def test_it_is_short():
    text = Path(vb.__file__).read_text()
    lines = text.splitlines()
    assert len(lines) <= 500 and max(map(len, lines)) <= 100
    functions = {n.name: n.end_lineno - n.lineno + 1 for n in ast.walk(ast.parse(text))
                 if isinstance(n, ast.FunctionDef)}
    assert [name for name, length in functions.items()
            if length > (70 if name in ("train", "update") else 50)] == []


@pytest.mark.parametrize("algo", ["varibad", "rl2"])
def test_its_page_names_only_flags_and_metrics_that_exist(algo, start):
    page = (ROOT / "docs" / "varibad_onpolicy.md").read_text()
    flags = {"--" + f.name.replace("_", "-") for f in fields(vb.Args)} | {"--no-cuda", "--help"}
    assert set(re.findall(r"(?<![\w!-])--[a-z][a-z0-9-]*", page)) <= flags
    logged = {*read_metrics(start("--algo", algo))[0], "eval/success_rate"}
    named = set(re.findall(r"`((?:losses|charts|grads|eval)/[^`]+)`", page))
    assert {x for x in logged if x.startswith(("losses", "grads"))} <= named
    assert algo == "rl2" or named <= logged


# --- THE BELIEF AND ITS LOSS ----------------------------------------------------------------------


def test_the_loss_of_the_belief_is_the_one_computed_by_hand(monkeypatch):
    """An episode of two steps and one of one. A decoder that always says 0 errs by the reward. The
    belief has one number, which goes from N(0, 1) by way of N(1, 4) and N(3, 1) to N(3, 1)."""
    args, agent = make_agent(kl_weight=0.5, latent_dim=1)
    rows, n_steps = random_round((2, 1))
    rows["prev_reward"][1:, 0], rows["prev_reward"][1:, 1] = (1, 3), (2, 99)  # 99: padding
    for p in agent.vae.rest[-1].parameters():
        p.data.zero_()
    belief = torch.tensor([[1.0, float(np.log(4))], [3, 0], [3, 0]])[:, None].expand(3, 2, 2)
    monkeypatch.setattr(vb.VAE, "forward", lambda *_: (belief, None))
    losses, step = [], torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda x: (losses.append(x.item()), step(x))[1])
    scalars = vb.update_belief(agent, torch.optim.SGD(agent.vae.parameters(), 0.0),
                               as_tensors(rows, n_steps), args)
    reconstruction = ((1**2 + 3**2) / 2 + 2**2 / 1) / 2
    first = np.log(1 / 2) + (4 + 1**2) / 2 - 0.5
    second = np.log(2 / 1) + (1 + 2**2) / (2 * 4) - 0.5
    moved = ((first + second + 0) / 3 + (first + second) / 2) / 2
    assert scalars["losses/reconstruction"].item() == pytest.approx(reconstruction)
    assert scalars["losses/kl"].item() == pytest.approx(moved)
    assert losses == [pytest.approx(reconstruction + 0.5 * moved)]


def test_the_loss_of_a_few_times_has_the_mean_of_all_of_them(monkeypatch):
    """A decoder that errs by m_t, and m_t = t^2: from b_0, ..., b_4 by 0, 1, 4, 9, 16 and from b_0,
    b_1, b_2 of the other episode by 0, 1, 4. What a subsample draws is right on average."""
    args, agent = make_agent(elbo_terms=4, latent_dim=1)
    t = torch.arange(5.0)
    belief = torch.stack([t**2, torch.full((5,), -60.0)], -1)[:, None].expand(5, 2, 2)
    monkeypatch.setattr(vb.VAE, "forward", lambda *_: (
        belief + 0 * agent.vae.of_m.bias.sum(), None))
    monkeypatch.setattr(vb.VAE, "decode", lambda self, m, x: m.transpose(1, 2).expand(-1, 4, -1)
                        if m.shape[-1] == 2 else m[:, None, :, 0].expand(-1, 4, -1))
    x, sgd = as_tensors(*random_round((4, 2))), torch.optim.SGD(agent.vae.parameters(), 0.0)
    found = [vb.update_belief(agent, sgd, x, args)["losses/reconstruction"] for _ in range(1000)]
    full = ((0 + 1 + 4 + 9 + 16) / 5 + (0 + 1 + 4) / 3) / 2
    error = torch.stack(found).std() / len(found) ** 0.5
    assert abs(torch.stack(found).mean() - full) < 4 * error and error < 0.05


@pytest.mark.parametrize("algo", ["varibad", "rl2"])
@pytest.mark.parametrize("rnn", ["gru", "lstm"])
def test_what_is_believed_in_one_pass_is_what_was_believed_when_it_was_played(
        algo, rnn, monkeypatch):
    """And so are the densities: of unclipped actions, while the memory is fed the clipped ones."""
    args = vb.Args(**SMALL, env_id="toy_envs:Clock-v0", num_envs=4, algo=algo, rnn=rnn)
    torch.manual_seed(0)
    env = vb.POMDP(args, 4)
    agent = vb.Agent(env.obs_dim, env.action_dim, args)
    agent.norm.update(torch.randn(50, env.obs_dim + agent.width) * 5 + 3)
    acted, forward = [], vb.Agent.forward
    monkeypatch.setattr(vb.Agent, "forward", lambda self, seen: (
        acted.append(seen[0]), forward(self, seen))[1])
    rows, n_steps, *_ = vb.play(env, agent.act, 1)
    monkeypatch.undo()
    assert n_steps.tolist() == [4, 5, 2, 3] and np.abs(rows["prev_action"]).max() > 1
    x = as_tensors(rows, n_steps)
    seen, log_prob, *_ = vb.learnable(agent, x, args)
    real, acted = x["mask"] > 0, torch.stack(acted)
    torch.testing.assert_close(seen[real], acted[real])
    policy, _ = agent(acted)
    torch.testing.assert_close(
        log_prob[real], policy.log_prob(x["prev_action"][1:])[real], rtol=1e-4, atol=1e-4)
    # What was played, the env tells: the clipped action. That is what the memory knows of it.
    played = x["prev_action"].clamp(-1, 1)
    torch.testing.assert_close(played[1], x["obs"][1, :, 3:])
    torch.testing.assert_close(agent.see(x["obs"], played, x["prev_reward"])[0][:-1], seen)


def test_garbage_behind_the_end_of_an_episode_changes_nothing():
    for algo in ("varibad", "rl2"):
        args, agent = make_agent(algo=algo)
        rows, n_steps = random_round()
        dirty = rows.copy()
        for b, n in enumerate(n_steps):
            for name in ("obs", "prev_action", "prev_reward"):
                dirty[name][n + 1 :, b] = 77
            dirty["terminal"][n + 1 :, b] = True
        results = []
        for r in (rows, dirty):
            args, agent = make_agent(algo=algo)
            x, scalars = as_tensors(r, n_steps), []
            if algo == "varibad":
                scalars = [vb.update_belief(agent, torch.optim.SGD(agent.vae.parameters(), 0.1),
                                            x, args)]
            results.append((scalars + learn(agent, args, x), weights(agent),
                            agent.norm.var, agent.return_norm.var))
        torch.testing.assert_close(*results)


# --- WHAT PPO LEARNS FROM -------------------------------------------------------------------------


def test_actions_begin_with_the_deviation_that_is_asked_for():
    for std in (1.0, 0.37):
        _, agent = make_agent(init_std=std)
        policy, _ = agent(torch.randn(4, 3, agent.norm.mean.shape[-1]))
        torch.testing.assert_close(policy.stddev, torch.full_like(policy.mean, std))


def test_advantages_are_those_computed_by_hand():
    """Three steps that end by a fall; two that are cut, whose last value is that of row 2."""
    args, agent = make_agent(gamma=0.5, gae_lambda=0.5)
    rows, n_steps = random_round((3, 2))
    x = as_tensors(rows, n_steps)
    _, _, a, target = vb.learnable(agent, x, args)
    r = rows["prev_reward"][1:].astype(float)
    so_far = [r[0, 0], r[0, 0] / 2 + r[1, 0], r[0, 0] / 4 + r[1, 0] / 2 + r[2, 0],
              r[0, 1], r[0, 1] / 2 + r[1, 1]]
    assert agent.return_norm.var == pytest.approx(np.var(so_far), rel=1e-5)
    r = r / np.std(so_far)
    with torch.no_grad():
        seen, _ = agent.see(x["obs"], x["prev_action"], x["prev_reward"])
        v = agent(seen)[1].double().numpy()
    fall, cut = r[2, 0] - v[2, 0], r[1, 1] + v[2, 1] / 2 - v[1, 1]
    second = r[1, 0] + v[2, 0] / 2 - v[1, 0] + fall / 4
    by_hand = [[r[0, 0] + v[1, 0] / 2 - v[0, 0] + second / 4, second, fall],
               [r[0, 1] + v[1, 1] / 2 - v[0, 1] + cut / 4, cut, 0]]
    np.testing.assert_allclose(a.T, by_hand, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(target.T[0], (by_hand + v[:3].T)[0], rtol=1e-4, atol=1e-5)


def test_a_trial_of_two_episodes_is_one_to_ppo():
    """What is earned in the second is credited to steps of the first: nothing is cut between."""
    args = vb.Args(**SMALL, env_id="SemiCircle-v0", num_envs=2, gamma=0.9, gae_lambda=1.0)
    env = vb.POMDP(args, 2)
    agent = vb.Agent(env.obs_dim, env.action_dim, args)
    rows, n_steps, *_ = vb.play(env, agent.act, 1)
    rows["prev_reward"] = 0
    rows["prev_reward"][62] = 1  # what the second step of the second episode earned
    assert n_steps.tolist() == [120, 120] and rows["obs"][60, :, 2].tolist() == [1, 1]
    for p in agent.critic.parameters():
        p.data.zero_()
    _, _, a, _ = vb.learnable(agent, as_tensors(rows, n_steps), args)
    torch.testing.assert_close(a[59:63] / a[61], torch.tensor([[0.9**2], [0.9], [1], [0]]).expand(
        4, 2))


@pytest.mark.parametrize("algo", ["varibad", "rl2"])
def test_ppo_leaves_the_belief_alone_and_trains_the_memory_of_rl2(algo):
    args, agent = make_agent(algo=algo)
    x = as_tensors(*random_round())
    part = agent.vae if algo == "varibad" else agent.encoder
    before, others = weights(part), weights(agent.actor) + weights(agent.critic)
    scalars = learn(agent, args, x)
    assert not any(equal(others, weights(agent.actor) + weights(agent.critic)))
    if algo == "varibad":
        assert all(p.grad is None for p in part.parameters()) and all(equal(before, weights(part)))
        # Even if PPO were to look through the belief itself, with a gradient.
        seen, _ = agent.see(x["obs"], x["prev_action"], x["prev_reward"])
        agent(seen)[1].sum().backward()
        assert all(p.grad is None for p in part.parameters())
    else:
        assert not any(equal(before, weights(part))) and scalars[0]["grads/encoder"] > 0
        # Through the whole episode: the value of the last step depends on the first observation.
        torch.nn.init.constant_(agent.encoder.embed["o"].bias, 5.0)  # none of it is cut at 0
        x["obs"].requires_grad_()
        seen, _ = agent.see(x["obs"], x["prev_action"], x["prev_reward"])
        agent(seen)[1][5, 0].backward()
        assert (x["obs"].grad[0, 0] != 0).all() and (x["obs"].grad[:, 1:] == 0).all()


def test_the_belief_learns_and_leaves_ppo_alone():
    args, agent = make_agent()
    others = {name: weights(part) for name, part in agent.named_children() if name != "vae"}
    before = weights(agent.vae)
    vb.update_belief(agent, torch.optim.Adam(agent.parameters(), 0.1), as_tensors(
        *random_round()), args)
    assert not any(equal(before, weights(agent.vae)))
    assert all(all(equal(others[name], weights(getattr(agent, name)))) for name in others)


def test_what_the_belief_left_behind_does_not_shrink_the_steps_of_ppo():
    """The norm of the gradient that is clipped is that of PPO alone."""
    results = []
    for left_behind in (0.0, 1e6):
        args, agent = make_agent()
        for p in agent.vae.parameters():
            p.grad = torch.full_like(p, left_behind)
        results.append((learn(agent, args, as_tensors(*random_round())), weights(agent)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("algo", ["varibad", "rl2"])
def test_the_first_step_of_a_round_is_the_one_computed_by_hand(algo):
    """Every ratio is 1 then; the gradient of the gain is that of log pi A, A of mean 0."""
    args, agent = make_agent(algo=algo, batch_size=3, update_epochs=1, vf_coef=0.3, ent_coef=0.2)
    x = as_tensors(*random_round())
    real = x["mask"] > 0
    learner = copy.deepcopy(agent)
    (scalars,) = learn(learner, args, x, lr=0.0)
    ours = [p.grad for p in learner.parameters() if p.grad is not None]
    assert scalars["losses/clipfrac"] == 0 and scalars["losses/approx_kl"].abs() < 1e-6
    _, _, a, target = vb.learnable(agent, x, args)
    a, target = a[real], target[real]
    assert scalars["losses/value_loss"].item() == pytest.approx((a**2).mean().item(), rel=1e-4)
    seen, _ = agent.see(x["obs"], x["prev_action"], x["prev_reward"])
    policy, value = agent(seen[:-1])
    gain = (policy.log_prob(x["prev_action"][1:])[real] * (a - a.mean()) / a.std(correction=0))
    loss = (-gain.mean() + 0.3 * ((value[real] - target) ** 2).mean()
            - 0.2 * policy.entropy()[real].mean())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
    book = [p.grad for p in agent.parameters() if p.grad is not None]
    torch.testing.assert_close(ours, book, rtol=1e-3, atol=1e-5)


def test_each_epoch_learns_from_every_episode_once(monkeypatch):
    args, agent = make_agent(algo="rl2", batch_size=3, update_epochs=2)
    x = as_tensors(*random_round((2,) * 8))
    x["obs"][..., 0] = torch.arange(8.0)
    seen, see = [], vb.Agent.see
    monkeypatch.setattr(vb.Agent, "see", lambda self, obs, *rest: (
        seen.append(obs[0, :, 0].tolist()), see(self, obs, *rest))[1])
    assert len(learn(agent, args, x)) == 6
    parts = seen[1:]  # the first is of the whole round
    assert [len(part) for part in parts] == [3, 3, 2] * 2 and parts[:3] != parts[3:]
    assert sorted(sum(parts[:3], [])) == sorted(sum(parts[3:], [])) == list(range(8))


def test_the_buffer_keeps_the_newest_rounds_and_draws_episodes_of_one():
    buffer, rng = vb.RoundBuffer(3), np.random.default_rng(0)
    for i in range(5):
        buffer.add({"obs": torch.tensor([[10 * i, 10 * i + 1, 10 * i + 2]]),
                    "mask": torch.ones(1, 3)})
    again = vb.RoundBuffer(3)
    again.load_state_dict(buffer.state_dict())
    drawn = [b.sample(2, np.random.default_rng(1), CPU)["obs"][0] for b in (buffer, again)]
    assert torch.equal(*drawn)
    drawn = [buffer.sample(2, rng, CPU)["obs"][0].tolist() for _ in range(200)]
    assert {tuple(x // 10 for x in pair) for pair in drawn} == {(2, 2), (3, 3), (4, 4)}
    assert {x % 10 for pair in drawn for x in pair} == {0, 1, 2}
    assert all(a != b for a, b in drawn)


# --- RUNS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [
    [], ["--algo", "rl2"], ["--algo", "rl2", "--rnn", "lstm", "--inputs", "or"],
    ["--policy", "markov"], ["--policy", "oracle", "--algo", "rl2"]], ids=" ".join)
def test_a_run_changes_every_weight_and_the_same_seed_gives_the_same_numbers(flags, start):
    folder = start(*flags)
    things = torch.load(folder / "checkpoint.pt", weights_only=True)["things"]
    torch.manual_seed(1)
    args = vb.parse_args(vb.Args, "varibad_onpolicy", [*TINY, *flags])
    env = vb.POMDP(args, 2)
    fresh = vb.Agent(env.obs_dim, env.action_dim, args).state_dict()
    untouched = {k for k, v in things["agent"].items() if torch.equal(v, fresh[k])}
    assert untouched == {k for k in fresh if "markov" in flags and k.startswith("vae.")}
    assert read_metrics(folder)[-1]["eval/return_mean"]
    assert np.isfinite(numbers(folder, "losses/value_loss")).all()
    assert numbers(folder, "charts/updates")[-1] == 8 * 2 * 2  # rounds, epochs, parts
    rounds = things["buffer"]["rounds"]
    assert len(rounds) == (3 if flags == [] else 0)
    assert all(x["prev_action"].abs().max() == 1 for x in rounds)  # as played, clipped
    if flags in ([], ["--algo", "rl2"]):
        assert reproducible(start(*flags)) == reproducible(folder)


@pytest.mark.parametrize("stops_in, n, algo", [
    ("update", 6, "rl2"), ("update_belief", 13, "varibad")])
def test_a_stopped_run_goes_on_to_the_numbers_of_an_unbroken_one(
        stops_in, n, algo, start, monkeypatch):
    unbroken = start("--algo", algo)
    monkeypatch.setattr(vb, stops_in, stops_at(n, getattr(vb, stops_in), KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        start("--algo", algo)
    monkeypatch.undo()
    (folder,) = set(unbroken.parent.parent.glob("*/*")) - {unbroken}
    assert 0 < numbers(folder, "env_step")[-1] < 320 and (folder / "checkpoint.pt").exists()
    monkeypatch.setattr("run.draw_curve", lambda _: None)
    vb.main([*TINY[:2], "--resume", str(folder)])
    assert reproducible(folder) == reproducible(unbroken)


@pytest.mark.parametrize("flags, algo", [
    ("--env-id Wind-v0 --total-timesteps 600", "varibad"),
    ("--env-id SemiCircle-v0 --total-timesteps 960", "rl2"),
    ("--env-id toy_envs:Clock-v0 --total-timesteps 60 --decode obs", "varibad"),
    ("--env-id toy_envs:Clock-v0 --total-timesteps 60", "rl2")])
def test_it_runs_on_ids_with_box_observations_and_actions(flags, algo, start):
    flags += f" --algo {algo} --eval-episodes 50 --eval-interval 1000"
    folder = start(*flags.split())
    for column in ("policy_loss", "value_loss", "value", "entropy", "approx_kl", "clipfrac",
                   *(("reconstruction", "kl") if algo == "varibad" else ())):
        assert np.isfinite(numbers(folder, f"losses/{column}")).all()
    assert (numbers(folder, "grads/encoder") > 0).all()
    assert vb.main([*flags.split()[:2], "--evaluate", str(folder)]) == folder


@pytest.mark.parametrize("flags", [
    "--env-id CartPole-V-v0", "--gamma 2", "--elbo-terms 0", "--kl-weight -1", "--latent-dim 0",
    "--batch-size 0", "--buffer-size 0", "--clip-coef 0", "--paper",
    "--policy oracle --env-id Pendulum-v1"])
def test_bad_flags_are_refused_in_a_line(flags, tmp_path):
    with pytest.raises(SystemExit) as error:
        vb.main([*TINY, *flags.split(), "--runs-dir", str(tmp_path / "runs")])
    message = str(error.value)
    assert message.startswith("error: ") and flags.split()[0] in message and "\n" not in message
    assert not (tmp_path / "runs").exists()


# --- LEARNING -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("flags, low, high", [
    ("", 7.2, 10), ("--algo rl2", 7.2, 10), ("--policy markov", -1.35, 1.35)])
def test_a_sign_that_only_rewards_show_is_found_out_by_who_remembers_them(
        flags, low, high, tmp_path, no_pictures):
    folder = vb.main(("--env-id HiddenSign-v0 --total-timesteps 40000 --num-envs 40 --batch-size 10"
                      " --hidden-sizes 32 32 --rnn-size 16 --eval-episodes 100 --learning-rate 3e-3"
                      f" --gamma 0.9 --runs-dir {tmp_path} {flags}").split())
    assert low <= numbers(folder, "eval/return_mean")[-1] <= high
