"""Frames a second that decord and PyAV read off a recording: clips at random, one reader kept open for each file.

The two take turns on the same clips, whose bits must agree. The figure is each reader's best round.

    videowm record carracing --out data/carracing --episodes 20 --seed 0 --workers 2
    python benchmarks/video.py data/carracing --out benchmarks/video.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import timing

from videowm.data.dataset import Dataset
from videowm.data.video import AVVideo, DecordVideo

READERS = {"decord": DecordVideo, "PyAV": AVVideo}


def clips(data: Dataset, frames: int, count: int) -> list[tuple[Path, range]]:
    """Random clips of a recording: the file, and the numbers of the frames within it."""
    rng, found = np.random.default_rng(0), []
    for episode in rng.integers(0, data.num_episodes, count).tolist():
        first = data.first_frame(episode) + int(rng.integers(0, data.lengths[episode] - frames + 1))
        found.append((data.video_path(episode), range(first, first + frames)))
    return found


def read(reader: type, where: list[tuple[Path, range]]) -> tuple[float, list[np.ndarray]]:
    """Seconds for all clips, opening the files included, and the frames."""
    began, opened, found = time.perf_counter(), {}, []
    for path, frames in where:
        opened[path] = opened.get(path) or reader(path)
        found.append(opened[path].read(frames))
    return time.perf_counter() - began, found


def measure(data: Dataset, frames: int, count: int, rounds: int) -> dict[str, float]:
    """Frames a second of both readers, and their ratio.

    Raises:
        SystemExit: they read other frames.
    """
    where, seconds = clips(data, frames, count), {name: [] for name in READERS}
    for _ in range(rounds):
        found = {}
        for name, reader in READERS.items():
            took, found[name] = read(reader, where)
            seconds[name].append(took)
        if not all(map(np.array_equal, *found.values())):
            raise SystemExit(f"the readers differ on clips of {frames} frames")
    rates = {name: round(frames * count / min(took)) for name, took in seconds.items()}
    return {"frames": frames, **rates, "ratio": round(rates["PyAV"] / rates["decord"], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--frames", nargs="+", type=int, default=[1, 17, 65], help="of a clip")
    parser.add_argument("--count", type=int, default=200, help="clips")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    data = Dataset(args.data)
    rows = [measure(data, frames, args.count, args.rounds) for frames in args.frames]
    for row in rows:
        print("clips of {frames:3d}: decord {decord:6d}, PyAV {PyAV:6d} frames/s, ratio {ratio:.2f}".format(**row))
    if args.out:
        content = {"command": f"python benchmarks/video.py {' '.join(sys.argv[1:])}", "device": timing.device_name(),
                   "size": list(data.size), "clips": args.count, "rows": rows}  # fmt: skip
        args.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
