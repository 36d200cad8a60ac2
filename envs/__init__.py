"""The benchmark environments as Gymnasium ids. `import envs` registers them.

    import gymnasium as gym, envs
    env  = gym.make("Wind-v0")                          # one environment
    lanes = gym.make_vec("Wind-v0", num_envs=16)        # 16 lanes in one NumPy object, ~10x faster

What each id is, and what its arguments mean: docs/environments.md. The keyword arguments in this
table are part of the interface: a training script looks into `gym.spec(id).kwargs` to learn
whether an environment has an oracle view, a held-out task split, or a seed for its task list.
"""

import gymnasium as gym

POINT_MASS = {"oracle": False, "split": "train"}

# No max_episode_steps for point masses and credit tasks: they end themselves, after a number of
# steps that follows from their arguments. The occluded tasks never end themselves (Pendulum) or
# only by a fall (CartPole).
# fmt: off
ENVIRONMENTS = {  # id: (module, single class, vector class or None, step limit or None, arguments)
    "Wind-v0": ("point_mass", "WindEnv", "WindVectorEnv", None, POINT_MASS),
    "SemiCircle-v0": ("point_mass", "SemiCircleEnv", "SemiCircleVectorEnv", None,
                      POINT_MASS | {"task_seed": 0}),
    "DelayedCatch5-v0": ("credit", "CatchEnv", "CatchVectorEnv", None, {"runs": 5}),
    "DelayedCatch10-v0": ("credit", "CatchEnv", "CatchVectorEnv", None, {"runs": 10}),
    "DelayedCatch20-v0": ("credit", "CatchEnv", "CatchVectorEnv", None, {"runs": 20}),
    "DelayedCatch-v0": ("credit", "CatchEnv", "CatchVectorEnv", None, {"runs": 40}),
    "KeyToDoor-v0": ("credit", "KeyToDoorEnv", "KeyToDoorVectorEnv", None,
                     {"distractor_steps": 60}),
    "Pendulum-P-v0": ("occlusion", "OccludedEnv", None, 200,
                      {"base_id": "Pendulum-v1", "view": "P", "oracle": False}),
    "Pendulum-V-v0": ("occlusion", "OccludedEnv", None, 200,
                      {"base_id": "Pendulum-v1", "view": "V", "oracle": False}),
    "CartPole-P-v0": ("occlusion", "OccludedEnv", None, 200,
                      {"base_id": "CartPole-v1", "view": "P", "oracle": False}),
    "CartPole-V-v0": ("occlusion", "OccludedEnv", None, 200,
                      {"base_id": "CartPole-v1", "view": "V", "oracle": False}),
    "LunarLander-P-v0": ("occlusion", "OccludedEnv", None, 1000,
                         {"base_id": "LunarLander-v3", "view": "P", "oracle": False}),
    "LunarLander-V-v0": ("occlusion", "OccludedEnv", None, 1000,
                         {"base_id": "LunarLander-v3", "view": "V", "oracle": False}),
}
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
