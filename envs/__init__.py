"""The benchmark environments as Gymnasium ids. `import envs` registers them.

    import gymnasium as gym, envs
    env  = gym.make("Wind-v0")                          # one environment
    lanes = gym.make_vec("Wind-v0", num_envs=16)        # 16 lanes in one NumPy object, ~10x faster

What each id is, and what its arguments mean: docs/environments.md. The training scripts see any id,
also of other packages, through `FlatLanes`: lanes of flat observations and actions in [-1, 1]. The
keyword arguments in this table are part of the interface: there `gym.spec(id).kwargs` tells whether
an environment has an oracle view, or a held-out task split.
"""

import gymnasium as gym

from envs.flat import FlatLanes, UnusableEnv  # noqa: F401  (what a script needs of this package)

POINT_MASS = {"oracle": False, "split": "train"}

# No max_episode_steps for point masses, credit tasks and trials of bodies: they end themselves,
# after a number of steps that follows from their arguments. The others never end themselves
# (Pendulum, HalfCheetah), or only by a fall or at rest.
# fmt: off
ENVIRONMENTS = {  # id: (module, single class, vector class or None, step limit or None, arguments)
    "Wind-v0": ("point_mass", "WindEnv", "WindVectorEnv", None,
                POINT_MASS | {"goal": (0.0, 1.0)}),
    "SemiCircle-v0": ("point_mass", "SemiCircleEnv", "SemiCircleVectorEnv", None,
                      POINT_MASS | {"task_seed": 0}),
    "DelayedCatch5-v0": ("credit", "CatchEnv", "CatchVectorEnv", None, {"runs": 5}),
    "DelayedCatch10-v0": ("credit", "CatchEnv", "CatchVectorEnv", None, {"runs": 10}),
    "DelayedCatch20-v0": ("credit", "CatchEnv", "CatchVectorEnv", None, {"runs": 20}),
    "DelayedCatch-v0": ("credit", "CatchEnv", "CatchVectorEnv", None, {"runs": 40}),
    "KeyToDoor-v0": ("credit", "KeyToDoorEnv", "KeyToDoorVectorEnv", None,
                     {"distractor_steps": 60}),
    "CheetahVel-v0": ("locomotion", "CheetahVelEnv", None, None,
                      {"oracle": False, "split": "train", "task_seed": 0}),
    "CheetahDir-v0": ("locomotion", "CheetahDirEnv", None, None, {"oracle": False}),
    "AntDir-v0": ("locomotion", "AntDirEnv", None, None, {"oracle": False}),
    "HumanoidDir-v0": ("locomotion", "HumanoidDirEnv", None, None, {"oracle": False}),
}
OCCLUDED = {  # name: (base id, step limit)
    "Pendulum": ("Pendulum-v1", 200), "CartPole": ("CartPole-v1", 200),
    "LunarLander": ("LunarLander-v3", 1000),
    "HalfCheetah": ("HalfCheetah-v5", 1000), "Hopper": ("Hopper-v5", 1000),
    "Walker2d": ("Walker2d-v5", 1000), "Ant": ("Ant-v5", 1000),
    "HalfCheetahBLT": ("HalfCheetahBulletEnv-v0", 1000), "HopperBLT": ("HopperBulletEnv-v0", 1000),
    "WalkerBLT": ("Walker2DBulletEnv-v0", 1000), "AntBLT": ("AntBulletEnv-v0", 1000),
}
ENVIRONMENTS |= {
    f"{name}-{view}-v0": ("occlusion", "OccludedEnv", None, limit,
                          {"base_id": base_id, "view": view, "oracle": False})
    for name, (base_id, limit) in OCCLUDED.items() for view in "PV"}
DYNAMICS = {  # name: (task, mode): R random, D the body as it is, E extreme
    **{task: (task, "R") for task in ("HopperRobust", "WalkerRobust", "CheetahRobust",
                                      "HopperGeneralize", "CheetahGeneralize")},
    **{f"{task}-{mode}": (task, mode) for task in ("HopperGeneralize", "CheetahGeneralize")
       for mode in "DRE"},
}
ENVIRONMENTS |= {
    f"{name}-v0": ("dynamics", "DynamicsEnv", None, 1000,
                   {"task": task, "mode": mode, "oracle": False})
    for name, (task, mode) in DYNAMICS.items()}
# fmt: on

for env_id, (module, single, vector, step_limit, kwargs) in ENVIRONMENTS.items():
    if env_id in gym.registry:
        continue  # a second run of this file (importlib.reload) would only warn: nothing changes
    gym.register(
        env_id,
        entry_point=f"envs.{module}:{single}",
        vector_entry_point=f"envs.{module}:{vector}" if vector else None,
        max_episode_steps=step_limit,
        kwargs=dict(kwargs),
    )
