"""The world `pusht` beside the gym-pusht package: the same pushes from the same seeds, state by state.

    python benchmarks/pusht_package.py --peer PYTHON --out benchmarks/pusht_package.json

PYTHON is the interpreter of an environment with `gym-pusht`, which cannot share ours: it pins pymunk below 7, and
brings pygame where gymnasium brings pygame-ce. Without one the benchmark says so and ends.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

GAMES, PUSHES, REACH, EDGES = 10, 150, 30, (15, 497)


def peer(out: Path) -> None:
    """What gym-pusht says: of each push the action, finger, block, angle and coverage, "games pushes 8"."""
    import gym_pusht  # noqa: F401
    import gymnasium

    game, found = gymnasium.make("gym_pusht/PushT-v0", obs_type="state").unwrapped, []
    for seed in range(GAMES):
        game.reset(seed=seed)
        rng, action = np.random.default_rng(seed + 100), np.zeros(2)
        for i in range(PUSHES):
            if i % 5 == 0:
                action = rng.uniform(-1, 1, 2)
            if i % 50 < 25:  # else hardly any push would meet the block
                away = np.array(game.block.position) - np.array(game.agent.position)
                action = away / np.linalg.norm(away)
            info = game.step(np.clip(np.array(game.agent.position) + REACH * action, *EDGES))[-1]
            place = [*game.agent.position, *game.block.position, game.block.angle]
            found.append([*action, *place, info["coverage"]])
    np.save(out, np.array(found).reshape(GAMES, PUSHES, 8))


def compared(theirs: np.ndarray) -> dict[str, Any]:
    """How far ours is from that."""
    from videowm.worlds.pusht import PushT

    world, apart = PushT(), []
    for seed, rows in enumerate(theirs):
        world.reset(seed)
        worst = 0.0
        for row in rows:
            world.step(row[:2])
            (finger, place), ours = world.look(), world.covered
            worst = max(worst, float(np.abs(np.array([*finger, *place, ours]) - row[2:]).max()))
        apart.append(worst)
    turned = np.ptp(theirs[..., 6], axis=1)
    return {"games": len(theirs), "pushes": PUSHES, "apart at most": max(apart), "equal to the bit": apart.count(0.0),
            "radians that each block turned": turned.round(2).tolist()}  # fmt: skip


def main(argv: list[str] | None = None) -> dict[str, Any] | None:
    """Ask the package, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", default=sys.executable, help="interpreter that can import gym_pusht")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peer-task", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.peer_task:
        return peer(options.peer_task)
    if subprocess.run([options.peer, "-c", "import gym_pusht"], capture_output=True).returncode:
        print(f"left out: {options.peer} has no gym-pusht; give --peer, the interpreter of an environment with it")
        return None
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([options.peer, __file__, "--peer-task", f"{folder}/said.npy"], check=True, capture_output=True)
        found = compared(np.load(f"{folder}/said.npy"))
    print(json.dumps(found))
    if options.out:
        from videowm.files import write_json

        write_json(options.out, found)
    return found


if __name__ == "__main__":
    main()
