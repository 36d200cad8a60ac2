"""Can the critic see? Train it alone on random play, then ask it what it has counted.

    python experiments/critic_on_random_play.py                             # the script's own CNN
    python experiments/critic_on_random_play.py --cnn torch                 # as torch starts it
    python experiments/critic_on_random_play.py --cnn torch --times 8       # brighter pictures
    python experiments/critic_on_random_play.py --cnn orthogonal            # another start
    python experiments/critic_on_random_play.py --cnn orthogonal --layer-norm --freeze-biases

Delayed-Catch pays all caught fruits in the last step, so the return of a game is in what the memory
has counted. Random play makes an easy lesson of it: no policy changes, every game is a fair sample.
The critic of rmf_sac_discrete_pixels.py is trained on it with the settings of the preset, and every
250 updates its value in the last step of 100 new games is correlated with the fruits that were
caught in them. A critic that sees and counts is near 1, a blind one near 0.
"""

import argparse
import copy
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import rmf_sac_discrete_pixels as script  # noqa: E402


def change_encoder(network, options):
    """Make of the scaled CNN the one that is asked for, and put what is asked for around it."""
    encoder = network.obs_encoder
    if options.cnn == "torch":
        for layer in encoder.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.reset_parameters()
    if options.cnn != "scaled":
        del encoder[0]  # the scale of the picture
    if options.layer_norm:
        encoder.append(nn.LayerNorm(encoder[-1].out_features))
    for p in encoder.parameters():
        p.requires_grad_(p.ndim > 1 or not options.freeze_biases)
    network.largest /= options.times


def last_values(network, env, rng):
    """Random play in every lane -> the value of the last step, the fruits caught until then."""
    lanes = env.lanes.envs.unwrapped.lanes
    obs, h = env.reset(int(rng.integers(2**31))), None
    action, reward = np.zeros((env.n, env.action_dim), np.float32), np.zeros(env.n, np.float32)
    for _ in range(lanes.horizon):
        counted = lanes.n_caught.copy()
        seen = (torch.as_tensor(x, dtype=torch.float32)[None] for x in (obs, action, reward))
        with torch.no_grad():
            q, h = network(*seen, h)
        action = random_action(rng, env)
        obs, reward, *_ = env.step(action)
    return torch.minimum(*q)[0].mean(-1).numpy(), counted  # the value of a uniform policy


def random_action(rng, env):
    return np.eye(env.action_dim, dtype=np.float32)[rng.integers(env.action_dim, size=env.n)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--env-id", default="DelayedCatch-v0", help="any number of fruits")
    parser.add_argument("--cnn", choices=("scaled", "torch", "orthogonal"), default="scaled")
    parser.add_argument("--times", type=float, default=1.0, help="pictures are so much brighter")
    parser.add_argument("--layer-norm", action="store_true", help="behind the CNN")
    parser.add_argument("--freeze-biases", action="store_true", help="train none in the CNN")
    parser.add_argument("--updates", type=int, default=750)
    parser.add_argument("--episodes", type=int, default=800, help="random games to learn from")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)

    args = script.parse_args(script.Args, "rmf_sac_discrete_pixels", [
        "--env-id", options.env_id, "--seed", str(options.seed), "--rewarded-fraction", "0"])
    env, new_games = script.POMDP(args, args.num_envs), script.POMDP(args, 100)
    critic = script.Network(env, args, args.rnn_size, n_heads=2)
    change_encoder(critic, options)
    target = copy.deepcopy(critic).requires_grad_(False)
    optimizer = torch.optim.Adam(critic.parameters(), args.learning_rate, fused=True)

    buffer = script.SequenceBuffer(env.row_type, 10**9)
    while len(buffer.episodes) < options.episodes:
        rows, n_steps, *_ = script.play(env, lambda *_: (random_action(rng, env), None),
                                        int(rng.integers(2**31)))
        buffer.add(rows, n_steps)
    batch = buffer.sample(args, rng, "cpu")
    with torch.no_grad():
        embedded = critic.obs_encoder(batch.obs.flatten(0, 1) / critic.largest)
    print(f"embeddings differ by {embedded.std(0).mean():.3f} from state to state", flush=True)
    started = time.monotonic()
    for n_updates in range(options.updates + 1):
        if n_updates % 250 == 0:
            value, caught = last_values(critic, new_games, np.random.default_rng(1))
            correlation, seconds = np.corrcoef(value, caught)[0, 1], time.monotonic() - started
            print(f"{n_updates:>6} updates, {seconds:4.0f} s: correlation of value and fruits "
                  f"caught {correlation:.2f}", flush=True)
        batch = buffer.sample(args, rng, "cpu")
        perceived = batch.obs, batch.prev_action, batch.prev_reward
        with torch.no_grad():
            value = torch.minimum(*target(*perceived)[0]).mean(-1)  # (T+1, B)
            y = script.td_targets(batch, value[1:], args)
        taken = [(q[:-1] * batch.action).sum(-1) for q in critic(*perceived)[0]]  # (T, B)
        loss = script.masked_mean(sum((q - y) ** 2 for q in taken), batch.mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(target.parameters()), list(critic.parameters()), args.tau)


if __name__ == "__main__":
    main()
