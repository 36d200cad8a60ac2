"""Any Gymnasium id as `n` lanes of plain arrays: flat observations, actions in [-1, 1] or one-hot.

What cannot be made into that is refused in one line, before a run has begun.
"""

import importlib
import os
import sys
import time

import gymnasium as gym
import numpy as np

HINTS = {"Box": "a Box with finite bounds, as in Pendulum-V-v0",
         "Discrete": "Discrete, as in CartPole-P-v0"}


class UnusableEnv(SystemExit):
    """An environment that a script cannot take; uncaught, Python ends with this one line."""

    def __init__(self, message):
        super().__init__(f"error: {message}")


def one_line(text):
    return " ".join(text.split())


class FlatLanes:
    """`n` lanes of a Gymnasium id. obs (n, O): float32; pictures of bytes stay uint8, channels
    first. action (n, A): in [-1, 1] for a Box, one-hot for Discrete.

    Args:
        env_id: Gymnasium id; `module:Id-v0` imports `module` first.
        n: lanes.
        takes: words of "Box Discrete pictures": which actions, and are pictures taken?
        oracle: let the env show its hidden state, if it can (`require_oracle`).
        split: "train" or "heldout" tasks, where the env has both.
        film: keep a picture of lane 0 for each step, in `frames`.

    Raises:
        UnusableEnv: names the id, what is wrong with it, and what would do.
        FloatingPointError: an observation, reward or action that is not a finite number.
    """

    def __init__(self, env_id, n, takes, oracle=False, split="train", film=False):
        self.env_id, self.n, self.film, self.frames = env_id, n, film, []
        self.envs, self.has_oracle = self._make(oracle, split)
        # Held-out episodes that a run ends with: 100, or all that differ, where an env knows.
        different = self.envs.metadata.get("heldout_episodes", np.inf)
        self.n_heldout = int(min(100, different))
        if split == "heldout" and n > different:
            print(f"{env_id}: {n} held-out episodes, but only {different} different ones")
        self.reference_scores = self.envs.metadata.get("reference_scores", {})
        obs_space, action_space = self.envs.single_observation_space, self.envs.single_action_space
        n_axes = len(obs_space.shape) if isinstance(obs_space, gym.spaces.Box) else None
        if n_axes not in ((0, 1, 2, 3) if "pictures" in takes else (0, 1)) or 0 in obs_space.shape:
            fix = ("a Box of one dimension, or pictures of two or three" if "pictures" in takes else
                   "a Box of one dimension: flatten them with your own wrapper; of pictures "
                   "rmf_sac_discrete_pixels.py makes something")
            self._refuse(f"observations are {obs_space}; this script takes {fix}")
        # A picture: an env whose observations are flat tells the shape in its metadata.
        shape = tuple(self.envs.metadata.get("image_shape", obs_space.shape))
        shape = (1, *shape) if len(shape) == 2 else shape
        self.channels_last = n_axes == 3 and shape[2] < shape[0]
        self.obs_shape = (shape[2], *shape[:2]) if self.channels_last else shape
        self.is_picture = "pictures" in takes and len(shape) == 3
        self.seen = (f"sees {'x'.join(map(str, self.obs_shape))}" if self.is_picture else
                     f"sees {int(np.prod(shape))} numbers")
        if self.is_picture and min(self.obs_shape[1:]) < 3:
            self._refuse(f"observations are pictures {self.obs_shape}; they must be 3 x 3 or more")
        # A picture of bytes stays one in the buffer; each observation is stored once, as it came.
        is_bytes = "pictures" in takes and obs_space.dtype == np.uint8
        self.obs_dtype = np.uint8 if is_bytes else np.float32
        self.obs_dim = int(np.prod(obs_space.shape))
        self.action_space = action_space
        self.discrete = isinstance(action_space, gym.spaces.Discrete)
        bounds = np.array([x.astype(float).ravel() for x in (action_space.low, action_space.high)]
                          if isinstance(action_space, gym.spaces.Box) else [])  # (2, A)
        if self.discrete and "Discrete" in takes:
            self.action_dim = int(action_space.n)
        elif "Box" in takes and bounds.size and np.abs(bounds).max() < 1e15:  # more: no bounds
            (self.low, self.high), self.action_dim = bounds, bounds.shape[1]
        else:
            fix = " or ".join(hint for kind, hint in HINTS.items() if kind in takes)
            other = ("; see rmf_sac_discrete_pixels.py" if self.discrete else
                     "; see rmf_sac_gru.py" if "Box" not in takes else "")
            self._refuse(f"actions are {action_space}; this script takes {fix}{other}")

    def _make(self, oracle, split):
        """-> vector env, does it offer an oracle view?"""
        module, _, name = self.env_id.rpartition(":")
        try:
            if module:
                sys.path.append(os.getcwd())
                importlib.import_module(module)
            spec = gym.spec(name)
            # Which of these switches does the env offer, and set as we would?
            kwargs = {k: value for k, value, default in (("oracle", oracle, False),
                                                         ("split", split, "train"))
                      if k in spec.kwargs and spec.kwargs[k] == default}
            if self.film:
                kwargs["render_mode"] = "rgb_array"
                if sys.platform == "linux" and not os.environ.get("DISPLAY"):
                    os.environ.setdefault("MUJOCO_GL", "egl")  # it draws without a screen
            # TRAP: another package's own lanes may do more than its single environment: Atari's
            # clip the rewards. So lanes are made of single ones, but for the ids of this package.
            ours = str(spec.vector_entry_point).startswith("envs.") or not spec.entry_point
            envs = gym.make_vec(name, num_envs=self.n,
                                vectorization_mode=None if ours else "sync", **kwargs)
            if self.film:  # better now than at the end of the run
                envs.reset()
                assert envs.render()[0] is not None, "render() gives None"
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            if self.film:
                raise UnusableEnv(f"--capture-video: --env-id {self.env_id} draws no pictures "
                                  f"here ({one_line(reason)}); drop the flag") from error
            if isinstance(error, (ImportError, gym.error.Error)):
                self._refuse(f"{error}; name a registered id, such as Wind-v0, or module:Id-v0")
            self._refuse(f"cannot be made into {self.n} lanes ({reason})")
        if envs.metadata.get("autoreset_mode") != gym.vector.AutoresetMode.NEXT_STEP:
            self._refuse("its lanes must reset in the step after an end; register it with "
                         "AutoresetMode.NEXT_STEP, Gymnasium's default")
        return envs, "oracle" in kwargs

    def _refuse(self, reason):
        raise UnusableEnv(one_line(f"--env-id {self.env_id}: {reason}"))

    def _finite(self, what, x, cure="mend the environment"):
        """x (n, k) -> the same, if all of it are finite numbers."""
        if not np.isfinite(x).all():
            lane, entry = np.argwhere(~np.isfinite(x))[0]
            raise FloatingPointError(
                f"--env-id {self.env_id}: {what} is {x[lane, entry]} (entry {entry}, lane {lane} "
                f"of {self.n}, after {self.age[lane]} steps of its episode): {cure}")
        return x

    def _flat(self, obs):
        """-> (n, O), and a picture for the film."""
        if self.film and len(self.frames) < 1000:
            self.frames.append(self.envs.render()[0])
        obs = np.asarray(obs)
        obs = np.moveaxis(obs, -1, 1) if self.channels_last else obs  # (n, C, H, W)
        return self._finite("an observation", obs.reshape(self.n, -1).astype(self.obs_dtype))

    def require_oracle(self):
        if not self.has_oracle:
            raise UnusableEnv(f"--policy oracle: --env-id {self.env_id} has no oracle view and "
                              "nothing is hidden by --observe or --flicker; drop the flag")

    def entries(self, indices):
        """"0,1,4" -> [0, 1, 4], entries of an observation; "" -> all of them."""
        if indices and self.is_picture:
            self._refuse(f"--observe {indices}: pictures are taken whole; drop --observe, or wrap "
                         "the env")
        known = [str(i) for i in range(self.obs_dim)]
        named = indices.split(",") if indices else known
        if not set(named) <= set(known):
            self._refuse(f"--observe {indices}: must be indices such as 0,1,4; an observation "
                         f"has the entries 0 to {known[-1]}")
        return [int(i) for i in named]

    def reset(self, seed):
        """A new episode in every lane -> obs (n, O).

        seed: a whole number; or (seed, first): held-out episodes, from number `first` on. Lanes get
        seeds far from each other, whose last three digits count the episodes: an env with a list of
        held-out tasks takes task seed % length of the list, so that each is played as often."""
        first = seed[1] if isinstance(seed, tuple) else 0
        words = np.random.SeedSequence([*np.atleast_1d(seed), 2]).generate_state(self.n)
        seeds = [int(word) % 2_000_000 * 1000 + (first + lane) % 1000
                 for lane, word in enumerate(words)]
        singles = isinstance(self.envs, gym.vector.SyncVectorEnv)
        self.frames, self.age, self.last_word = [], np.zeros(self.n, int), time.monotonic()
        return self._flat(self.envs.reset(seed=seeds if singles else seeds[0])[0])

    def step(self, action):
        """action (n, A) -> obs (n, O), reward (n,) float32, terminated, truncated (n,), info.
        After its end a lane goes on with a new episode: the first step of it ignores the action."""
        if self.discrete:
            action = int(self.action_space.start) + action.argmax(-1)
        else:
            action = np.clip(self._finite("an action", action, "lower --learning-rate"), -1, 1)
            action = self.low + (action + 1) / 2 * (self.high - self.low)
            if self.action_space.dtype.kind != "f":
                action = np.rint(action)  # whole numbers: each is reached
            action = np.clip(action, self.low, self.high).astype(self.action_space.dtype)
            action = action.reshape(self.n, *self.action_space.shape)
        obs, reward, terminated, truncated, info = self.envs.step(action)
        self.age = np.where(terminated | truncated, 0, self.age + 1)
        if time.monotonic() - self.last_word > (10 if sys.stdout.isatty() else 60):
            print(f"{self.env_id}: at step {self.age.max():,} in {self.n} lanes", flush=True)
            self.last_word = time.monotonic()
        if self.age.max() > 100_000:
            self._refuse("an episode did not end within 100,000 steps; register the id with a "
                         "limit, max_episode_steps")
        reward = self._finite("a reward", reward.astype(np.float32)[:, None])[:, 0]
        return self._flat(obs), reward, terminated, truncated, info
