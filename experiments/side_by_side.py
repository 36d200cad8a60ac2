"""One held-out episode as several trained agents play it, side by side: a moving picture.

    python experiments/side_by_side.py docs/images/wind.gif runs/Wind-v0__* --episode 3

The folders are of finished runs in one environment; the pictures are in their order. Under each
stands `--policy` and what the episode has paid so far.
"""

import argparse
import importlib
import json
import sys
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import run as run_module

NAMES = {"recurrent": "with memory", "markov": "without memory", "oracle": "told what is hidden"}


def played(folder, seed, episode):
    """-> the policy of a run; a picture and what was paid so far, for each step of the episode."""
    script = importlib.import_module(Path(json.loads(
        (folder / "config.json").read_text())["script"]).stem)
    args = run_module.load_config(script.Args, folder, "run")
    env = script.POMDP(args, 1, "heldout", film=True)
    agent = script.Agent(env.obs_dim, env.action_dim, args)
    run_module.load_checkpoint(folder, "run", agent=agent)
    rows, n_steps, *_ = script.play(env, partial(agent.act, deterministic=True), (seed, episode))
    n = int(n_steps[0]) + 1
    return args.policy, env.lanes.frames[:n], rows["prev_reward"][:n, 0].cumsum()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("picture", type=Path, help="GIF to write")
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument("--episode", type=int, default=0, help="number of the held-out episode")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--size", type=int, default=280, help="of each picture, in pixels")
    options = parser.parse_args()
    films = [played(folder, options.seed, options.episode) for folder in options.runs]
    size, font = options.size, ImageFont.load_default(15)
    pictures = []
    for t in range(max(len(frames) for _, frames, _ in films)):
        picture = Image.new("RGB", (size * len(films) + 8 * (len(films) - 1), size + 28), "white")
        draw = ImageDraw.Draw(picture)
        for i, (policy, frames, paid) in enumerate(films):
            frame = Image.fromarray(frames[min(t, len(frames) - 1)]).resize((size, size))
            picture.paste(frame, (i * (size + 8), 0))
            text = f"{NAMES.get(policy, policy)}: {paid[min(t, len(paid) - 1)]:.0f}"
            draw.text((i * (size + 8) + size // 2, size + 14), text, fill="black", font=font,
                      anchor="mm")
        pictures.append(picture.quantize(48, method=Image.Quantize.MAXCOVERAGE))
    pictures += [pictures[-1]] * 15  # the end stays for a while
    pictures[0].save(options.picture, save_all=True, append_images=pictures[1:], duration=80,
                     loop=0, optimize=True)
    print(f"{options.picture}: {len(pictures)} pictures, "
          f"{options.picture.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
