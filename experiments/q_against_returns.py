"""Does Q know what follows? A trained agent's Q beside the discounted rewards of whole episodes.

    python experiments/q_against_returns.py runs/HopperGeneralize-R-v0__rmf_sac_gru__1__...

Plays `--episodes` held-out episodes with the most likely actions of a run of rmf_sac_gru.py, and
prints Q (the smaller of Q_1 and Q_2) and what followed, for all steps, the first ones, and the last
20 of each episode. What is beyond a time limit is not in the sum, so that near such an end Q is
rightly larger; after a fall nothing follows. Q also holds the entropy that is to come.
"""

import argparse
import functools
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import rmf_sac_gru as script  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--episodes", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    args, n = script.load_config(options.folder, "folder"), options.episodes
    env = script.POMDP(args, n, "heldout")
    agent = script.Agent(env.obs_dim, env.action_dim, args)
    script.load_checkpoint(options.folder, "folder", agent)

    act = functools.partial(agent.act, deterministic=True)
    episodes = script.play(env, act, args.seed + 20_000)  # rows: (T+1, n)
    obs, prev_action, prev_reward = (torch.from_numpy(np.ascontiguousarray(episodes.rows[name]))
                                     for name in ("obs", "prev_action", "prev_reward"))
    critic = agent.critic
    with torch.no_grad():
        c = critic.encoder(obs, prev_action, prev_reward)[0][:-1] if critic.encoder else None
        q = torch.minimum(*critic(critic.project(c), obs[:-1], prev_action[1:])).numpy()  # (T, n)
    follows = np.zeros((len(q) + 1, n))  # discounted rewards from step t on; 0 behind the end
    for t in reversed(range(len(q))):
        follows[t] = episodes.rewards[t + 1] + args.gamma * follows[t + 1]
    follows, t = follows[:-1], np.arange(len(q))[:, None]
    left = episodes.n_steps - t  # (T, n) steps to the end
    print(f"return {episodes.returns.mean():.1f}, {episodes.n_steps.mean():.1f} steps")
    for name, steps in (("all steps", left > 0), ("first step", (t == 0) & (left > 0)),
                        ("last 20 steps", (left > 0) & (left <= 20))):
        print(f"{name:13}  Q {q[steps].mean():7.1f}   followed {follows[steps].mean():7.1f}")


if __name__ == "__main__":
    main()
