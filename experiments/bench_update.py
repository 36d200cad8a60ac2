"""How long one gradient update takes, and which part takes how much of it.

    python experiments/bench_update.py             # SAC at the sizes of the authors' code for Wind
    python experiments/bench_update.py --preset    # the sizes of our Wind preset
    python experiments/bench_update.py --family SemiCircle               # and its --preset
    python experiments/bench_update.py --family HalfCheetah --script rmf_td3_lstm --rnn gru
    python experiments/bench_update.py --script rmf_td3_lstm
    python experiments/bench_update.py --script rmf_sac_discrete_pixels  # preset, Delayed-Catch
    python experiments/bench_update.py --script ppo_gru_baseline         # preset, Pendulum; acting
    python experiments/bench_update.py --cuda --graph                    # on a GPU, in one launch

Prints the median over `--updates` updates, one thread unless `--threads` says more, and the rate
of a large matrix product on this machine, which bounds what any update can reach. Run it on a quiet
machine: nothing else on the cores. With `--cuda`, on a GPU, the parts are not told apart, since it
goes on after their calls have returned; `--graph` makes the update as the scripts do there.
"""

import argparse
import importlib
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import run  # noqa: E402
import speed  # noqa: E402

PARTS = defaultdict(float)  # part -> seconds, summed over the updates
STEPS = {"Wind": 75, "SemiCircle": 120, "HalfCheetah": 64, "DelayedCatch5": 34}  # of a sequence
RELEASED = {  # the authors' sizes
    "Wind": dict(rnn_size=64, hidden_sizes=(128, 128), batch_size=64),
    "SemiCircle": dict(rnn_size=128, hidden_sizes=(128, 128), batch_size=32, inputs="or"),
    "HalfCheetah": dict(rnn_size=128, hidden_sizes=(256, 256), batch_size=64),
}


def timed(owner, name, part):
    """Replace `owner.name` by itself with a stop watch."""
    function = getattr(owner, name)

    def wrapper(*args, **kwargs):
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            PARTS[part] += time.perf_counter() - started

    setattr(owner, name, wrapper)


def off_policy(script, options):
    """-> function that makes one update on random sequences, what it is, stop watches to set."""
    pixels = "pixels" in script.__name__
    family = "DelayedCatch5" if pixels else options.family
    ours = run.preset(script.__name__, family, paper=False)[0]
    sizes = ours if options.preset or pixels else RELEASED[family]
    rnn = {"rnn": options.rnn} if options.rnn else {}
    env_id = "HalfCheetah-V-v0" if family == "HalfCheetah" else f"{family}-v0"
    args = script.Args(env_id=env_id, **sizes | rnn)
    env, B = script.POMDP(args, 1), args.batch_size
    T, n_obs, A = STEPS[family], env.obs_dim, env.action_dim
    agent = script.Agent(env, args) if pixels else script.Agent(n_obs, A, args)
    agent.to(options.device)
    optimizer = torch.optim.Adam(agent.parameters(), 3e-4, fused=True)
    batch = (
        torch.randn(T + 1, B, n_obs), torch.rand(T + 1, B, A) * 2 - 1, torch.rand(T + 1, B),
        torch.rand(T, B, A) * 2 - 1, torch.rand(T, B), torch.zeros(T, B), torch.ones(T, B))
    batch = script.Batch(*(x.to(options.device) for x in batch))
    rest = [True] if "td3" in script.__name__ else []  # TD3 is told to train the actor, too
    what = f"{args.rnn.upper()} {args.rnn_size}, heads {args.hidden_sizes}, {B} sequences x {T}"
    learn = speed.as_cuda_graph(script.update) if options.graph else script.update

    def update():
        learn(agent, optimizer, batch, args, *rest)

    def watch():
        if hasattr(script, "Encoder"):
            timed(script.Encoder, "forward", "memories, forward")
            timed(script.Head, "forward", "heads, forward")
        else:
            timed(script.Network, "forward", "networks, forward")
        timed(script, "td_targets", "targets")
        timed(torch.Tensor, "backward", "backward, all losses")
        timed(optimizer, "step", "Adam")
        timed(torch, "_foreach_lerp_", "target networks")

    return update, what, watch


def on_policy(script, options):
    """PPO: all gradient steps on one segment; also prints the rate of acting."""
    ours = run.preset(script.__name__, "Pendulum", paper=False)[0]
    args = script.Args(env_id="Pendulum-V-v0", **ours)
    env = script.POMDP(args, args.num_envs)
    agent = script.Agent(env.obs_dim, env.action_dim, env.lanes.discrete, args).to(options.device)
    optimizer = torch.optim.Adam(agent.parameters(), 3e-4, fused=True)
    lanes = script.Lanes(env, args, torch.device(options.device))
    lanes.reset(0)
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        segment, _ = lanes.play(agent)
        seconds.append(time.perf_counter() - started)
    print(f"acting: {args.num_envs * args.num_steps / np.median(seconds):,.0f} env steps/s")
    what = (f"{args.rnn.upper()} {args.rnn_size}, heads {args.hidden_sizes}, {args.num_envs} lanes "
            f"x {args.num_steps}, {args.update_epochs} x {args.num_minibatches} minibatches")
    rng = np.random.default_rng(0)

    def watch():
        timed(script, "remember", "memories, forward")
        timed(torch.Tensor, "backward", "backward")
        timed(optimizer, "step", "Adam")

    return lambda: list(script.update(agent, optimizer, segment, args, rng)), what, watch


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--script", default="rmf_sac_gru",
                        choices=("rmf_sac_gru", "rmf_td3_lstm", "rmf_sac_discrete_pixels",
                                 "ppo_gru_baseline"))
    parser.add_argument("--preset", action="store_true", help="the sizes of our preset")
    parser.add_argument("--family", default="Wind", choices=("Wind", "SemiCircle", "HalfCheetah"))
    parser.add_argument("--rnn", choices=("gru", "lstm"), help="else the script's own")
    parser.add_argument("--cuda", action="store_const", dest="device", const="cuda", default="cpu",
                        help="on a GPU")
    parser.add_argument("--graph", action="store_true", help="with --cuda: speed.as_cuda_graph")
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.graph and (options.device == "cpu" or options.script == "ppo_gru_baseline"):
        sys.exit("error: --graph: needs --cuda, and a script other than ppo_gru_baseline, which "
                 "does without; drop the flag")
    torch.set_num_threads(options.threads)
    script = importlib.import_module(options.script)

    def median_seconds(function, times):
        seconds = []
        for _ in range(times):
            started = time.perf_counter()
            function()
            if options.device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        return np.median(seconds), min(seconds), max(seconds)

    big = torch.randn(2048, 2048, device=options.device)
    print(f"2048-wide float32 product: "
          f"{2 * 2048**3 / median_seconds(lambda: big @ big, 6)[0] / 1e9:,.0f} GFLOP/s")

    build = on_policy if options.script == "ppo_gru_baseline" else off_policy
    update, what, watch = build(script, options)
    for _ in range(speed.WARM_UP + 1):  # after these a graph is there
        update()
    median, least, most = (1e3 * seconds for seconds in median_seconds(update, options.updates))
    where = "a GPU" if options.device == "cuda" else f"{options.threads} thread(s)"
    print(f"{what}, {where}: {median:.1f} ms per update (min {least:.1f}, max {most:.1f})")
    if options.device == "cuda":
        return

    watch()
    started = time.perf_counter()
    for _ in range(options.updates):
        update()
    total = time.perf_counter() - started
    PARTS["the rest (embeddings, densities, scalars)"] = total - sum(PARTS.values())
    for part, part_seconds in sorted(PARTS.items(), key=lambda item: -item[1]):
        ms = part_seconds / options.updates * 1e3
        print(f"  {ms:6.1f} ms  {part_seconds / total:4.0%}  {part}")


if __name__ == "__main__":
    main()
