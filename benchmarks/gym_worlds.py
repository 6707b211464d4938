"""Four gymnasium environments from the first frame to a dream, with the quickstart's presets on a CPU.

    pip install ale-py minigrid gym-pusht ogbench
    python benchmarks/gym_worlds.py --out runs/gym                       # one after the other, each some minutes
    python benchmarks/gym_worlds.py --out runs/gym --only pong           # one of them; the results are kept together

A stage that is finished is not made again, and its minutes are those of its first time. Minutes are of one CPU core:
they add up what all processes and threads computed, so a busy machine hardly changes them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CONTEXT, FRAMES, SHOWN = 9, 32, (0, 2, 4, 8, 12, 16, 24, 32)  # SHOWN: predicted frames of a strip; 0 is the last given


@dataclass(frozen=True)
class Recipe:
    """An environment, how it is recorded, and what a user had to write for it."""

    title: str
    world: str
    record: tuple[str, ...] = ()
    written: str | None = None  # a file beside this one, in the user's part


RECIPES = {
    "pong": Recipe("ALE Pong", "gym:ALE/Pong-v5", ("--world-args", "repeat_action_probability=0")),
    "minigrid": Recipe("MiniGrid DoorKey", "gym:MiniGrid-DoorKey-8x8-v0",
                       ("--hold", "3", "--world-args", "tile_size=8")),
    "pusht": Recipe("PushT", "gym:gym_pusht/PushT-v0",
                    ("--world-args", "visualization_width=96", "visualization_height=96")),
    "cube": Recipe("OGBench cube", "gym:light_cube:LightCube-v0",
                   ("--episodes", "20", "--world-args", "width=64", "height=64"), written="light_cube.py"),
}  # fmt: skip
SMALL = {  # what makes every stage tiny, for a test
    "record": ["--episodes", "4", "--frames", "49", "--test-share", "0.5"],
    "autoencoder": ["train.steps=2", "train.batch=2", "vae.size.width=16", "vae.size.channels=4", "evaluate.clips=2",
                    "train.precision=fp32", "train.trackers=[]"],
    "encode": ["--frames", "33"],
    "world model": ["train.steps=2", "budget=null", "depth=1", "hidden=32", "train.batch=2", "heldout.clips=2",
                    "train.precision=fp32", "train.trackers=[]", "rollout.clips=0"],
}  # fmt: skip
FULL = {
    "record": ["--episodes", "40", "--test-share", "0.2"],
    "autoencoder": ["evaluate.clips=16", "train.trackers=[]"],
    "encode": [],
    "world model": ["heldout.clips=32", "rollout.clips=16", "train.trackers=[]"],
}


def stages(recipe: Recipe, out: Path, more: dict[str, list[str]]) -> dict[str, list[str]]:
    """The commands that a user gives, by the name of the stage."""
    data, vae, latents, world = (str(out / name) for name in ("data", "vae", "latents", "world"))
    configs = HERE.parent / "configs"
    commands = {
        "record": ["record", recipe.world, "--out", data, *more["record"], *recipe.record],
        "autoencoder": ["train", str(configs / "vae/quickstart.yaml"), f"data={data}", f"out={vae}"],
        "encode": ["encode", data, "--vae", vae, "--out", latents],
        "world model": ["train", str(configs / "world/quickstart.yaml"), f"latents={latents}", f"out={world}"],
    }
    return {name: command if name == "record" else [*command, *more[name]] for name, command in commands.items()}


def timed(command: list[str], threads: int) -> tuple[float, float]:
    """Seconds of CPU of a finished command and its children, and seconds by the clock."""
    used, began = children_seconds(), time.perf_counter()
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")]),
    }
    subprocess.run([sys.executable, "-m", "videowm", *command], check=True, env=environment)
    return children_seconds() - used, time.perf_counter() - began


def children_seconds() -> float:
    """CPU seconds of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def lines_of(recipe: Recipe) -> int:
    """Lines of code that the user wrote: no comments, docstrings or empty lines."""
    text = (HERE / recipe.written).read_text() if recipe.written else ""
    return sum(bool(line.strip()) and not line.strip().startswith(("#", '"""')) for line in text.splitlines())


def run(recipe: Recipe, out: Path, more: dict[str, list[str]], threads: int) -> dict[str, object]:
    """Carry out the stages that are not finished, and describe all of them."""
    note = out / "stages.json"
    done = json.loads(note.read_text()) if note.exists() else {}
    out.mkdir(parents=True, exist_ok=True)
    for name, command in stages(recipe, out, more).items():
        if name not in done:
            core, clock = timed(command, threads)
            done[name] = {"core_minutes": round(core / 60, 2), "minutes": round(clock / 60, 2)}
            note.write_text(json.dumps(done))
    record = json.loads((out / "world/record.json").read_text())["metrics"]
    measured = {name: round(record[key], 3) for name, key in MEASURED.items() if key in record}
    info = json.loads((out / "data/meta/info.json").read_text())
    return {
        "world": recipe.world, "title": recipe.title, "lines": lines_of(recipe), "stages": done,
        "core_minutes": round(sum(stage["core_minutes"] for stage in done.values()), 1),
        "frames": info["total_frames"], "size": info["features"]["observation.image"]["shape"][:2],
        "actions": len(info["features"]["action"]["names"]), **measured,
    }  # fmt: skip


MEASURED = {
    "psnr": "rollout/psnr_mean", "psnr_ceiling": "rollout/psnr_vae_mean", "psnr_floor": "rollout/psnr_repeat_mean",
    "action_gap": "heldout/action_gap", "action_gap_se": "heldout/action_gap_se",
}  # fmt: skip


def strip(recipe: Recipe, out: Path, *, small: bool) -> object:
    """Truth above dream from a held-out start of median liveliness, uint8 "H W 3"."""
    sys.path.insert(0, str(HERE.parent))
    from scaling.futures import spread_starts
    from videowm import api
    from videowm.data.dataset import Dataset
    from videowm.show import grid

    frames = 12 if small else FRAMES
    shown = [frame for frame in SHOWN if frame <= frames]
    episode, start = spread_starts(Dataset(out / "data"), CONTEXT, frames, 1)[0]
    options = api.GenerateOptions(episode=episode, start=start, context=CONTEXT, frames=frames)
    made = api.generate(out / "world", out / "data", None, options)
    at = [made.context_frames - 1 + frame for frame in shown]
    labels = [recipe.title, "dream"]
    return grid([made.truth[at], made.frames[at]], labels, columns=["start", *(f"+{n}" for n in shown[1:])], cell=80,
                margin=116)  # fmt: skip


def stacked(pictures: list) -> bytes:
    """Pictures of several widths under each other, as PNG."""
    import numpy as np

    from videowm.show import encode_png

    width = max(picture.shape[1] for picture in pictures)
    even = [np.pad(p, ((0, 6), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures]
    return encode_png(np.concatenate(even))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--result", type=Path, help="JSON to write, such as benchmarks/gym_worlds.json")
    parser.add_argument("--picture", type=Path, help="PNG to write, such as docs/gymnasium.png")
    parser.add_argument("--small", action="store_true", help="tiny stages, to see that all of it runs")
    args = parser.parse_args(argv)
    os.environ.setdefault("MUJOCO_GL", "egl")
    recipes = {name: RECIPES[name] for name in args.only}
    found = {name: run(recipe, args.out / name, SMALL if args.small else FULL, args.threads)
             for name, recipe in recipes.items()}  # fmt: skip
    for row in found.values():
        print(
            f"{row['title']:18s} {row['core_minutes']:6.1f} core minutes  {row['lines']} lines  {row['frames']} frames"
        )
    if args.result:
        args.result.write_text(json.dumps(list(found.values()), indent=1) + "\n")
    if args.picture:
        args.picture.write_bytes(stacked([strip(r, args.out / n, small=args.small) for n, r in recipes.items()]))


if __name__ == "__main__":
    main()
