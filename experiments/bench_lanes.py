"""How fast do lanes of a body move, and what would move them faster?

    python experiments/bench_lanes.py
    python experiments/bench_lanes.py --env-ids Ant-V-v0 --num-envs 20

Prints env steps per second, random actions, of Gymnasium's `SyncVectorEnv` (one process; what the
scripts use) and `AsyncVectorEnv` (a process per lane), and of MuJoCo's own threaded rollout, which
moves the bodies alone: no observations, rewards or ends, and back to the start every 20 steps.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
from mujoco.rollout import Rollout

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import envs  # noqa: F401  (registers the ids)


def vector_speed(env_id, num_envs, mode, seconds):
    lanes = gym.make_vec(env_id, num_envs=num_envs, vectorization_mode=mode)
    lanes.reset(seed=0)
    lanes.action_space.seed(0)
    actions, steps = [lanes.action_space.sample() for _ in range(100)], 0
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        for action in actions:
            lanes.step(action)
        steps += len(actions) * num_envs
    speed = steps / (time.perf_counter() - started)
    lanes.close()
    return speed


def rollout_speed(env_id, num_envs, threads, seconds):
    body = gym.make(env_id).unwrapped.base.unwrapped
    data = [mujoco.MjData(body.model) for _ in range(threads)]
    body.reset(seed=0)
    size = mujoco.mj_stateSize(body.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    state = np.empty(size)
    mujoco.mj_getState(body.model, body.data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    start, rng, steps = np.tile(state, (num_envs, 1)), np.random.default_rng(0), 0
    states = start
    started = time.perf_counter()
    with Rollout(nthread=threads) as rollout:
        while time.perf_counter() - started < seconds:
            for step in range(100):  # one action, then the next: an agent has to see in between
                action = rng.uniform(-1, 1, (num_envs, 1, body.model.nu))
                control = np.repeat(action, body.frame_skip, axis=1)  # (lanes, sub-steps, A)
                states = states if step % 20 else start
                path, _ = rollout.rollout([body.model] * num_envs, data, states, control)
                states = path[:, -1]
            steps += 100 * num_envs
    return steps / (time.perf_counter() - started)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-ids", nargs="+",
                        default=["HalfCheetah-V-v0", "Hopper-V-v0", "Ant-V-v0"])
    parser.add_argument("--num-envs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement")
    options = parser.parse_args()
    n, seconds, cores = options.num_envs, options.seconds, os.cpu_count()
    print(f"{n} lanes, {cores} cores, env steps per second")
    for env_id in options.env_ids:
        sync, across = (vector_speed(env_id, n, mode, seconds) for mode in ("sync", "async"))
        bodies = rollout_speed(env_id, n, cores, seconds)
        print(f"{env_id:18} sync {sync:7,.0f}   async {across:7,.0f}   "
              f"bodies alone, {cores} threads {bodies:7,.0f}", flush=True)


if __name__ == "__main__":
    main()
