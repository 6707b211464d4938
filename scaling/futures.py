"""The pictures of a report: every budget's rollout from the same starts, and two futures of one start."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scaling.plan import SweepConfig
from videowm import config as configuration
from videowm.data.clips import even_clips
from videowm.data.dataset import Dataset
from videowm.data.latents import LatentsIndex
from videowm.device import default_device
from videowm.evaluate.rollouts import RolloutConfig, Start, roll, start_from
from videowm.generation import named_actions
from videowm.pipeline import WorldModelPipeline
from videowm.show import draw_actions, encode_mp4, encode_png, grid, side_by_side, stack
from videowm.vae.codec import to_uint8

STILLS = 8  # frames of a rollout that are shown as stills


@dataclass(frozen=True)
class Picture:
    """A still and a moving version of one figure."""

    png: bytes
    mp4: bytes


def spread_starts(dataset: Dataset, context: int, frames: int, count: int) -> list[tuple[int, int]]:
    """`count` held-out stretches (episode, frame) of different episodes, from calm to lively; no model has a say.

    Of all candidates, the third whose last context frame shows most (variance over the picture: not bare grass) is
    ordered by how much the true frames change afterwards, and those at evenly spaced ranks are taken.
    """
    where = even_clips(dataset, frames=context + frames, split="test", count=8 * count)
    clips = [dataset.clip(episode, start, context + frames).frames.astype(np.float32) for episode, start in where]
    shows = np.array([clip[context - 1].var(axis=(0, 1)).mean() for clip in clips])
    change = np.array([np.abs(np.diff(clip[context - 1 :], axis=0)).mean() for clip in clips])
    order = [i for i in np.argsort(change) if shows[i] >= np.quantile(shows, 2 / 3)]
    picked: dict[int, int] = {}
    for rank in np.linspace(0, len(order) - 1, count + 2)[1:-1]:
        nearest = sorted(range(len(order)), key=lambda i: abs(i - rank))
        fresh = [where[order[i]] for i in nearest if where[order[i]][0] not in picked]
        picked |= dict(fresh[:1])
    return list(picked.items())


def strip(start: Start, rollouts: dict[str, np.ndarray], names: list[str], fps: float) -> Picture:
    """Truth and the rollout of every budget: same start, same noise, same actions."""
    moving = []
    for i in range(len(start.frames)):
        videos = of_start(start, rollouts, i)
        drawn = side_by_side(list(videos.values()), list(videos), cell=128)
        moving.append(draw_actions(drawn, start.actions[i].numpy(), names))
    png = encode_png(stills(start, rollouts, range(len(start.frames))))
    return Picture(png, encode_mp4(stack(moving), fps))


def of_start(start: Start, rollouts: dict[str, np.ndarray], i: int) -> dict[str, np.ndarray]:
    """What the game showed after the i-th start, and every budget's rollout from it."""
    return {"truth": to_uint8(start.frames[i]), **{name: video[i] for name, video in rollouts.items()}}


def stills(start: Start, rollouts: dict[str, np.ndarray], which: Iterable[int]) -> np.ndarray:
    """Frames of the starts `which`, a block of rows each."""
    known, found = start.context_frames, [of_start(start, rollouts, i) for i in which]
    shown = np.linspace(known - 1, start.frames.shape[1] - 1, STILLS + 1, dtype=int)
    rows = [video[shown] for videos in found for video in videos.values()]
    labels = [name for videos in found for name in videos]
    return grid(rows, labels, columns=headers(shown, known), cell=128, block=len(found[0]))


def headline(stills: np.ndarray, curve: bytes) -> bytes:
    """A study in one PNG: stills "H W 3", and beneath them the PNG `curve`."""
    below = Image.open(io.BytesIO(curve)).convert("RGB")
    canvas = Image.new("RGB", (stills.shape[1], len(stills) + below.height), "white")
    canvas.paste(Image.fromarray(stills), (0, 0))
    canvas.paste(below, ((canvas.width - below.width) // 2, len(stills)))
    return encode_png(np.asarray(canvas))


def headers(shown: np.ndarray, known: int) -> list[str]:
    """What stands above the stills: the start, then how many frames were predicted."""
    return ["start"] + [f"+{i - known + 1}" for i in shown[1:]]


def two_futures(pipeline: WorldModelPipeline, start: Start, settings: RolloutConfig, pair=("left", "right")) -> Picture:
    """The first start continued under each of two named actions, with the same noise."""
    named, known = named_actions(pipeline.trained_on.world), start.context_frames
    count = start.actions.shape[1] - known + 1
    videos = []
    for name in pair:
        future = torch.tensor(named[name]).expand(1, count, -1)
        actions = torch.cat([start.actions[:1, : known - 1], future], dim=1)
        one = replace(start, frames=start.frames[:1], noise=start.noise[:1], episode=start.episode[:1])
        videos.append(to_uint8(roll(pipeline, one, settings, actions))[0])
    shown = np.linspace(known - 1, known - 1 + min(count, 16), STILLS + 1, dtype=int)
    png = encode_png(grid([video[shown] for video in videos], list(pair), columns=headers(shown, known), cell=128))
    return Picture(png, encode_mp4(side_by_side(videos, list(pair), cell=256), pipeline.trained_on.fps))


def pictures(sweep: SweepConfig, shown: dict[str, str]) -> tuple[dict[str, Picture], np.ndarray | None]:
    """Strip and futures of finished points by rising compute, if any: the name of its row -> the point's. And stills of
    the calmest and the liveliest start."""
    rollouts: dict[str, np.ndarray] = {}
    start = pipeline = None
    for row, point in shown.items():
        run = Path(sweep.out) / point
        pipeline = WorldModelPipeline.open(run).to(default_device())
        resolved = configuration.read(run / "config.yaml")
        if start is None:
            horizon = sweep.strip_frames // pipeline.time_stride * pipeline.time_stride
            settings = configuration.build(RolloutConfig, resolved["rollout"] | {"horizon": horizon})
            dataset = Dataset(LatentsIndex.read(resolved["latents"]).data)
            where = spread_starts(dataset, settings.context_frames, horizon, sweep.strip_clips)
            start = start_from(pipeline, dataset, where, settings)
        rollouts[row] = to_uint8(roll(pipeline, start, settings))
    if pipeline is None:
        return {}, None
    trained_on, ends = pipeline.trained_on, sorted({0, len(start.frames) - 1})
    made = {
        "strip": strip(start, rollouts, trained_on.action_names, trained_on.fps),
        "futures": two_futures(pipeline, start, settings),
    }
    return made, stills(start, rollouts, ends)
