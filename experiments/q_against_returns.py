"""Does Q know what follows? A trained agent's Q beside the discounted rewards of whole episodes.

    python experiments/q_against_returns.py runs/HopperGeneralize-R-v0__rmf_sac_gru__1__...

Plays `--episodes` held-out episodes with the most likely actions of a run of rmf_sac_gru.py, and
prints Q (the smaller of Q_1 and Q_2) and what followed, for all steps, the first ones, and the last
20 of each episode. What is beyond a time limit is not in the sum, so that near such an end Q is
rightly larger; after a fall nothing follows. Q also holds the entropy that is to come.

Of a run with `--context-length L`, also the Q of the same steps by the number of steps that the
memory has seen, 1 to L. Where they differ much, the critic goes by a step's place in the window.
"""

import argparse
import functools
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import rmf_sac_gru as script  # noqa: E402
from run import load_checkpoint, load_config  # noqa: E402


def q_values(critic, rows):
    """rows (T+1, n), as `play` returns them -> the smaller Q of steps 0 to T-1, (T, n)."""
    obs, prev_action, prev_reward = (torch.from_numpy(np.ascontiguousarray(rows[name]))
                                     for name in ("obs", "prev_action", "prev_reward"))
    with torch.no_grad():
        c, _ = critic.encoder(obs, prev_action, prev_reward)
        return torch.minimum(*critic(c[:-1], obs[:-1], prev_action[1:])).numpy()


def q_by_place(critic, rows, n_steps, L):
    """rows (T+1, n), n_steps (n,) -> (steps, L): Q of a step as the 1st to the L-th of a window. Of
    each episode only steps with L - 1 before and behind them, the last L + 2 of these."""
    found = [np.zeros((0, L))]
    for lane, n in enumerate(n_steps):
        first = max(0, n - 3 * L)
        if n - first < 2 * L:
            continue
        start, place = np.arange(first, n - L + 1), np.arange(L + 1)[:, None]
        windows = rows[start + place, lane]  # (L+1, windows), a copy
        windows["prev_action"][0], windows["prev_reward"][0] = 0, 0
        step = np.arange(first + L - 1, n - L + 1)[:, None]
        found.append(q_values(critic, windows)[place[:-1].T, step - place[:-1].T - first])
    return np.concatenate(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--episodes", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    args, n = load_config(script.Args, options.folder, "folder"), options.episodes
    env = script.POMDP(args, n, "heldout")
    agent = script.Agent(env.obs_dim, env.action_dim, args)
    load_checkpoint(options.folder, "folder", agent=agent)

    act = functools.partial(agent.act, deterministic=True)
    rows, n_steps, returns, _ = script.play(env, act, args.seed + 20_000)  # rows: (T+1, n)
    q = q_values(agent.critic, rows)  # (T, n)
    t = np.arange(len(q))[:, None]
    left = n_steps - t  # (T, n) steps to the end
    follows = np.zeros((len(q) + 1, n))  # discounted rewards from step t on; 0 behind the end
    for i in reversed(range(len(q))):
        follows[i] = rows["prev_reward"][i + 1] * (left[i] > 0) + args.gamma * follows[i + 1]
    follows = follows[:-1]
    print(f"return {returns.mean():.1f}, {n_steps.mean():.1f} steps")
    for name, steps in (("all steps", left > 0), ("first step", (t == 0) & (left > 0)),
                        ("last 20 steps", (left > 0) & (left <= 20))):
        print(f"{name:13}  Q {q[steps].mean():7.1f}   followed {follows[steps].mean():7.1f}")
    if args.context_length != "full" and agent.critic.encoder.H:
        by_place = q_by_place(agent.critic, rows, n_steps, args.context_length)
        if len(by_place):
            print(f"{len(by_place)} steps, Q by how many steps the memory has seen:", ", ".join(
                f"{p + 1}: {by_place[:, p].mean():.1f}" for p in
                np.linspace(0, args.context_length - 1, 5).astype(int)))


if __name__ == "__main__":
    main()
