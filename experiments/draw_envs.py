"""Draw the bodies of docs/environments.md, a strip of pictures for each family.

    python experiments/draw_envs.py docs/images          # all but the BLT bodies need no extra
    python experiments/draw_envs.py docs/images --only env-bodies-blt    # requirements-pybullet.txt

MuJoCo needs OpenGL to draw (without a screen: EGL, which is set here on Linux). Every picture is a
body after some random moves; above the trials and the changed bodies stands what is hidden.
"""

import argparse
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import envs  # noqa: E402, F401  (registers the ids)

STRIPS = {  # picture -> (id, steps before it is taken, seed) from left to right
    "env-bodies": [("HalfCheetah-V-v0", 30, 1), ("Hopper-V-v0", 5, 1), ("Walker2d-V-v0", 5, 1),
                   ("Ant-V-v0", 25, 1)],
    "env-bodies-blt": [("HalfCheetahBLT-V-v0", 20, 1), ("HopperBLT-V-v0", 5, 1),
                       ("WalkerBLT-V-v0", 5, 1), ("AntBLT-V-v0", 10, 1)],
    "env-trials": [("CheetahVel-v0", 30, 3), ("CheetahDir-v0", 30, 3), ("AntDir-v0", 25, 2),
                   ("HumanoidDir-v0", 8, 3)],
    "env-dynamics": [("HopperRobust-v0", 4, 3), ("WalkerRobust-v0", 4, 3),
                     ("CheetahRobust-v0", 20, 2), ("HopperGeneralize-E-v0", 4, 5),
                     ("CheetahGeneralize-E-v0", 20, 4)],
}
WIDTH, GAP = 300, 6  # pixels


def tile(env_id, n_steps, seed):
    """-> picture, WIDTH x WIDTH, with the id in its lower left corner."""
    env = gym.make(env_id, render_mode="rgb_array")
    env.reset(seed=seed)
    rng = np.random.default_rng(0)
    for _ in range(n_steps):
        env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
    picture = Image.fromarray(env.render())
    env.close()
    side = min(picture.size)  # PyBullet's pictures are wider than high
    left = (picture.width - side) // 2
    picture = picture.crop((left, 0, left + side, side)).resize((WIDTH, WIDTH), Image.LANCZOS)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    draw.rectangle((0, WIDTH - 22, draw.textlength(env_id, font) + 12, WIDTH), fill="#202830")
    draw.text((6, WIDTH - 20), env_id, fill="white", font=font)
    return picture


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=STRIPS, default=[*STRIPS])
    options = parser.parse_args()
    for name in options.only:
        try:
            tiles = [tile(*shot) for shot in STRIPS[name]]
        except gym.error.DependencyNotInstalled as error:
            print(f"{name}: left out: {error}")
            continue
        strip = Image.new("RGB", (len(tiles) * (WIDTH + GAP) - GAP, WIDTH), "white")
        for i, picture in enumerate(tiles):
            strip.paste(picture, (i * (WIDTH + GAP), 0))
        strip.save(options.folder / f"{name}.png", optimize=True)
        print(options.folder / f"{name}.png")


if __name__ == "__main__":
    main()
