"""How long one gradient update takes, and which part takes how much of it.

    python experiments/bench_update.py            # the sizes of the authors' code for Wind
    python experiments/bench_update.py --preset   # the sizes of our Wind preset

Prints the median over `--updates` updates, one thread unless `--threads` says more, and the rate
of a large matrix product on this machine, which bounds what any update can reach. Run it on a quiet
machine: nothing else on the cores.
"""

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import rmf_sac_gru as script

PARTS = defaultdict(float)  # part -> seconds, summed over the updates


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", action="store_true", help="sizes of our Wind preset")
    parser.add_argument("--rnn", choices=("gru", "lstm"), default="gru")
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    big = torch.randn(2048, 2048)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        big @ big
        seconds.append(time.perf_counter() - started)
    print(f"2048-wide float32 product: {2 * 2048**3 / np.median(seconds) / 1e9:.0f} GFLOP/s")

    paper = dict(rnn_size=64, hidden_sizes=(128, 128), batch_size=64)
    args = script.Args(rnn=options.rnn, **({"rnn_size": 64, "hidden_sizes": (64, 64),
                                            "batch_size": 16} if options.preset else paper))
    T, B, obs_dim, A = 75, args.batch_size, 2, 2
    agent = script.Agent(obs_dim, A, args)
    optimizer = torch.optim.Adam([p for p in agent.parameters() if p.requires_grad], 3e-4,
                                 fused=True)
    batch = script.Batch(
        torch.randn(T + 1, B, obs_dim), torch.rand(T + 1, B, A) * 2 - 1, torch.rand(T + 1, B),
        torch.rand(T, B, A) * 2 - 1, torch.rand(T, B), torch.zeros(T, B), torch.ones(T, B))
    for _ in range(5):
        script.update(agent, optimizer, batch, args)
    seconds = []
    for _ in range(options.updates):
        started = time.perf_counter()
        script.update(agent, optimizer, batch, args)
        seconds.append(time.perf_counter() - started)
    ms = np.array(seconds) * 1e3
    print(f"{args.rnn.upper()} {args.rnn_size}, heads {args.hidden_sizes}, {B} sequences x {T}, "
          f"{options.threads} thread(s): {np.median(ms):.1f} ms per update "
          f"(min {ms.min():.1f}, max {ms.max():.1f})")

    timed(script.Encoder, "forward", "memories, forward (actor, critic, target)")
    timed(script.Head, "forward", "heads, forward")
    timed(script, "td_targets", "targets")
    timed(torch.Tensor, "backward", "backward, all losses")
    timed(optimizer, "step", "Adam")
    timed(torch, "_foreach_lerp_", "target network")
    started = time.perf_counter()
    for _ in range(options.updates):
        script.update(agent, optimizer, batch, args)
    total = time.perf_counter() - started
    PARTS["the rest (embeddings, log density, scalars)"] = total - sum(PARTS.values())
    for part, part_seconds in sorted(PARTS.items(), key=lambda item: -item[1]):
        ms = part_seconds / options.updates * 1e3
        print(f"  {ms:6.1f} ms  {part_seconds / total:4.0%}  {part}")


if __name__ == "__main__":
    main()
