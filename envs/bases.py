"""The environments of Gymnasium, and of PyBullet, that others of this package are built on."""

import importlib
import os
import sys
from contextlib import contextmanager, nullcontext

import gymnasium as gym
import numpy as np

METADATA = {"render_modes": ["rgb_array"], "render_fps": 30}
# Some entries have no bound. Gymnasium's checker wants a finite one; no real value comes near.
UNBOUNDED = 1e6


def make_base(base_id, render_mode, **kwargs):
    """A base environment without its own time limit: the limit of the id built on it counts.

    Raises:
        gymnasium.error.DependencyNotInstalled: names the file that holds what is missing.
    """
    if render_mode and sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo draws without a screen only if told so
    package = "pybullet_envs_gymnasium" if "Bullet" in base_id else None
    extra, file = ("PyBullet", "-pybullet") if package else (
        ("Box2D", "-box2d") if base_id.startswith("Lunar") else ("MuJoCo", ""))
    try:
        if package:
            importlib.import_module(package)  # registers its ids
        with quiet() if base_id == "HalfCheetah-v5" else nullcontext():
            return gym.make(base_id, max_episode_steps=-1, disable_env_checker=True,
                            render_mode=render_mode, **kwargs)
    except (ModuleNotFoundError, gym.error.DependencyNotInstalled) as error:
        raise gym.error.DependencyNotInstalled(
            f"{base_id} needs {extra}; run `pip install -r requirements{file}.txt`."
        ) from error


@contextmanager
def quiet():
    """Gymnasium's half-cheetah is a file in an old style, and MuJoCo says so for every lane."""
    import mujoco

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def finite_box(box, kept=slice(None)):
    """A float32 box of the entries `kept` of another, with finite bounds."""
    low, high = (np.clip(x[kept], -UNBOUNDED, UNBOUNDED) for x in (box.low, box.high))
    return gym.spaces.Box(low.astype(np.float32), high.astype(np.float32))


def with_caption(picture, text):
    """uint8 (height, width, 3) -> the same with a line of text over its upper edge."""
    from PIL import Image, ImageDraw, ImageFont  # only for pictures: training needs no Pillow

    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, image.width, 32), fill="#202830")
    draw.text((8, 6), text, fill="white", font=ImageFont.load_default(18))
    return np.array(image)
