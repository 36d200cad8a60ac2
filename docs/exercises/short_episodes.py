"""Two tasks of the bug hunt, cut after fewer steps than usual. Importing this registers them:

    python rmf_sac_gru.py --env-id docs.exercises.short_episodes:Pendulum-V40-v0
"""

import gymnasium as gym

gym.register("Pendulum-V40-v0", entry_point="envs.occlusion:OccludedEnv", max_episode_steps=40,
             kwargs={"base_id": "Pendulum-v1", "view": "V", "oracle": False})
gym.register("InvertedPendulum-200-v0", max_episode_steps=200,
             entry_point="gymnasium.envs.mujoco.inverted_pendulum_v5:InvertedPendulumEnv")
