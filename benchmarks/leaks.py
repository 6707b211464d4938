"""How often the counter of impossible events errs on real video, and how many planted ones it sees.

On held-out games of a recording, and on the same video through an autoencoder: false events per 1,000 frames, and the
share of planted events that are counted. In TakeCover the engine's own `noclip` also lets the player through a wall.
It prints JSON, and writes it with `--out`.

    videowm record takecover --out data/held --episodes 160 --seed 7 --test-share 0.9
    python benchmarks/leaks.py runs/detector --data data/held --vae runs/vae --out benchmarks/leaks.json
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videowm.data.dataset import Dataset
from videowm.device import default_device
from videowm.evaluate.detector import Detector
from videowm.evaluate.leaks import Laws, judge
from videowm.evaluate.planted import LATE, Planted, planted
from videowm.files import as_json, write_atomic
from videowm.train.tasks.detector import labelled, seen_through
from videowm.vae.codec import to_float
from videowm.worlds import open_world

Videos = list[np.ndarray]  # uint8 "f H W 3" each


def through_walls(count: int) -> list[Planted]:
    """Clips of a TakeCover player who walks through a wall, the event in the frame in which the wall is crossed."""
    world, clips = open_world("takecover"), []
    low, high = world.BOUNDS["y"]
    for seed in range(count):
        world.reset(seed)
        world._game.send_game_command("noclip")
        walk, frames, beyond = np.float32([seed % 2, 1 - seed % 2]), [], []
        while len(frames) < 80 and sum(beyond) < LATE + 1:
            frames.append(world.render())
            beyond.append(not low <= world.state()[1] <= high)
            if world.step(walk)[1]:
                break
        if sum(beyond) > LATE:
            clips.append(Planted("y_outside", np.stack(frames), beyond.index(True)))
    return clips


def false_rates(detector: Detector, videos: Videos) -> dict[str, float]:
    """Events per 1,000 frames of videos in which there are none."""
    laws, frames = Laws.of(detector), sum(map(len, videos))
    counts = Counter(event.what for video in videos for event in judge(*found(detector, video), laws))
    rates = {name: 1000 * counts[name] / frames for name in laws.events}
    return rates | {"events": sum(rates.values())}


def recalls(detector: Detector, clips: list[Planted], videos: Videos) -> dict[str, Any]:
    """The share of planted events that are counted in videos of their clips, and how many clips there are."""
    laws, seen = Laws.of(detector), {}
    for clip, video in zip(clips, videos, strict=True):
        seen.setdefault(clip.what, []).append(clip.seen(judge(*found(detector, video), laws)))
    return {name: {"recall": float(np.mean(hits)), "clips": len(hits)} for name, hits in seen.items()}


def found(detector: Detector, video: np.ndarray) -> Any:
    return detector.find(to_float(video[None])[0])


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path, help="run of task: detector")
    parser.add_argument("--data", type=Path, required=True, help="recording with held-out episodes")
    parser.add_argument("--vae", help="autoencoder; its pictures are judged too")
    parser.add_argument("--episodes", type=int, default=1000, help="held-out episodes at most")
    parser.add_argument("--count", type=int, default=100, help="planted events of each kind at most")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    device = default_device()
    detector, dataset = Detector.open(args.detector).to(device), Dataset(args.data)
    held = labelled(dataset, dataset.split("test")[: args.episodes], detector.findable.columns)
    episodes = list(zip(held.frames, held.things, held.columns, strict=True))
    clips = list(planted(episodes, Laws.of(detector), args.count))
    clips += through_walls(args.count) if dataset.name == "takecover" else []
    videos = {"real": (held.frames, [clip.frames for clip in clips])}
    if args.vae:
        videos["autoencoder"] = tuple(seen_through(args.vae, list(part), device) for part in videos["real"])
    result: dict[str, Any] = {"frames": sum(map(len, held.frames)), "detector": detector.hash, "data": dataset.hash,
                              "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU"}  # fmt: skip
    for name, (whole, changed) in videos.items():
        result[name] = {"false": false_rates(detector, whole), "planted": recalls(detector, clips, changed)}
    print(as_json(result).decode())
    if args.out:
        write_atomic(args.out, as_json(result))
    return result


if __name__ == "__main__":
    main()
