"""Who moves OGBench's arm: its own oracle picks the cube up and carries it to a target, with an unsteady hand.

    pip install ogbench
    cd benchmarks
    videowm record gym:light_cube:LightCube-v0 --policy arm:picks --out arm --episodes 8 --frames 121 --size 96x96 \
        --state proprio/effector_pos,privileged/block_0_pos \
        --world-args mode=data_collection terminate_at_goal=false width=96 height=96
"""

from typing import Any

import numpy as np
from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle

NOISE = 0.2  # of the hand, in units of the action
REST = np.array([0.42, 0.0, 0.25])  # metres, where the hand goes when it is done


def picks(observation: Any, info: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    """The next move of the hand in three directions and about its axis, and of the gripper; float32 "5", -1 to 1."""
    oracle = CubeMarkovOracle(env=None)  # it decides by `info` alone
    oracle._done, oracle._step, oracle._final_pos, oracle._final_yaw = False, 0, REST, 0.0
    return np.clip(oracle.select_action(observation, info) + NOISE * rng.normal(size=5), -1, 1).astype(np.float32)
