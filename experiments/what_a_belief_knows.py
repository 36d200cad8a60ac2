"""What a belief learns, and when: nats that it moves in a step, before and after the first reward.

    python experiments/what_a_belief_knows.py runs/SemiCircle-v0__varibad_offpolicy__*

Plays 100 held-out trials with each trained agent of comparators/varibad_offpolicy.py, deterministic
actions, and prints: in how many a reward was found; the KL of each belief to the one before, a
step, before the first reward, in its step and the two after it, and later; the smallest standard
deviation of a belief before and after; what the first and the second half of a trial earned.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "comparators")]
import varibad_offpolicy as vb  # noqa: E402

from run import load_checkpoint, load_config  # noqa: E402


def main(folder):
    args = load_config(vb.Args, folder, "folder")
    env = vb.POMDP(args, 100, "heldout")
    agent = vb.Agent(env.obs_dim, env.action_dim, args)
    load_checkpoint(folder, "folder", agent=agent)
    rows, *_ = vb.play(env, partial(agent.act, deterministic=True), 7)
    reward = rows["prev_reward"]  # (T+1, N)
    belief = agent.believe(vb.tensors(rows, torch.device("cpu")))  # (T+1, N, 2L)
    moved = vb.kl(belief).numpy()  # (T+1, N)
    width = (0.5 * belief.chunk(2, -1)[1]).exp().min(-1)[0].numpy()  # (T+1, N)

    found = (reward > 0).any(0)
    t = np.arange(len(reward))[:, None] - (reward > 0).argmax(0)  # 0: the first reward is felt
    before, after = found & (t < 0) & (np.arange(len(t)) > 0)[:, None], found & (t > 0)
    later = found & (t > 2)
    at = [moved[(t == i) & found].mean() for i in range(3)]
    half = len(reward) // 2 + 1
    print(f"{folder.name}: found in {found.mean():.0%}\n"
          f"  KL a step: before {moved[before].mean():.3f}, first reward and two steps after "
          f"{at[0]:.2f} {at[1]:.2f} {at[2]:.2f}, later {moved[later].mean():.3f}\n"
          f"  narrowest standard deviation: before {width[before].mean():.3f}, after "
          f"{width[after].mean():.3f}\n"
          f"  earned: first half {reward[1:half].sum(0).mean():.1f}, second half "
          f"{reward[half:].sum(0).mean():.1f}", flush=True)


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        main(Path(folder))
