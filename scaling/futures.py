"""The pictures of a report: every budget's rollout from the same starts, and two futures of one start."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scaling.point import SweepConfig
from videowm import config as configuration
from videowm.actions.script import opposite_actions
from videowm.data.clips import even_clips
from videowm.data.dataset import Dataset
from videowm.data.starts import acted_dataset
from videowm.device import default_device
from videowm.evaluate.rollouts import RolloutConfig, Start, roll, start_from
from videowm.evaluate.text_control import in_words
from videowm.pipeline import WorldModelPipeline
from videowm.show import draw_actions, encode_mp4, encode_png, encode_webp, grid, side_by_side, text
from videowm.vae.codec import to_uint8
from videowm.worlds import find_world

STILLS = 8  # frames of a rollout that are shown as stills


@dataclass(frozen=True)
class Picture:
    """A still and a moving version of one figure."""

    png: bytes
    mp4: bytes


def spread_starts(dataset: Dataset, context: int, frames: int, count: int) -> list[tuple[int, int]]:
    """`count` held-out stretches (episode, frame) of different episodes, from calm to lively; no model plays a part.

    A third of all candidates is kept: those whose last context frame has the highest variance, so not bare grass.
    These are ordered by how much the true frames change afterwards. Those at evenly spaced ranks are taken.
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


def strip(rolled: Rolled) -> Picture:
    """Truth and the rollout of every point from all starts: same noise, same actions."""
    start, about = rolled.start, rolled.pipeline.trained_on
    moving = []
    for i in range(len(start.frames)):
        drawn = side_by_side(rolled.of_start(i), cell=128)
        moving.append(draw_actions(drawn, start.actions[i].numpy(), about.action_names))
    png = encode_png(stills(rolled, range(len(start.frames))))
    return Picture(png, encode_mp4(np.concatenate(moving, axis=1), about.fps))


def stills(rolled: Rolled, which: Iterable[int]) -> np.ndarray:
    """Frames of the starts `which`, a block of rows each, uint8 "H W 3"."""
    start, found = rolled.start, [rolled.of_start(i) for i in which]
    shown = np.unique(np.linspace(start.context_frames - 1, start.frames.shape[1] - 1, STILLS + 1, dtype=int))
    rows = [video[shown] for videos in found for video in videos.values()]
    labels = [name for videos in found for name in videos]
    notes = [f"“{rolled.prompts[i]}”" for i in which] if rolled.prompts else []
    return grid(rows, labels, columns=headers(shown), cell=128, block=len(found[0]), notes=notes)


def headline(rolled: Rolled, curve: bytes) -> bytes:
    """A study in one PNG: stills of the calmest and the liveliest start, and beneath them the PNG `curve`."""
    ends = stills(rolled, sorted({0, len(rolled.start.frames) - 1}))
    below = Image.open(io.BytesIO(curve)).convert("RGB")
    canvas = Image.new("RGB", (ends.shape[1], len(ends) + below.height), "white")
    canvas.paste(Image.fromarray(ends), (0, 0))
    canvas.paste(below, ((canvas.width - below.width) // 2, len(ends)))
    return encode_png(np.asarray(canvas))


def moving_headline(rolled: Rolled) -> bytes:
    """The calmest and the liveliest start as a moving WebP: truth and every budget side by side, the prompt beneath."""
    blocks = []
    for i in sorted({0, len(rolled.start.frames) - 1}):
        drawn = side_by_side(rolled.of_start(i), cell=192)
        note = words_beneath(f"“{rolled.prompts[i]}”" if rolled.prompts else "", drawn.shape[2])
        blocks += [drawn, np.broadcast_to(note, (len(drawn), *note.shape))]
    return encode_webp(np.concatenate(blocks, axis=1), rolled.pipeline.trained_on.fps)


def words_beneath(words: str, width: int) -> np.ndarray:
    """Words on white, uint8 "H width 3", in as many lines as they need."""
    lines = textwrap.wrap(words, width // 7)
    note = np.full((8 + 16 * len(lines), width, 3), 255, np.uint8)
    for number, line in enumerate(lines):
        note = text(note, (2, 2 + 16 * number), line, size=12)
    return note


def headers(shown: np.ndarray) -> list[str]:
    """What stands above the stills: the start, the first of the frames "n", then how many were predicted."""
    return ["start"] + [f"+{i - shown[0]}" for i in shown[1:]]


def two_futures(rolled: Rolled) -> Picture:
    """The first start continued by the largest model under each of two opposite actions, with the same noise.

    Raises:
        UserError: no action varies in the data.
    """
    start, pipeline = rolled.start, rolled.pipeline
    about, known = pipeline.trained_on, start.context_frames
    pair = opposite_actions(about.world, about.action_names, about.action_mean, about.action_std)
    count = start.actions.shape[1] - known + 1
    videos = {}
    for name, action in pair.items():
        future = torch.tensor(action).expand(1, count, -1)
        actions = torch.cat([start.actions[:1, : known - 1], future], dim=1)
        one = replace(start, frames=start.frames[:1], noise=start.noise[:1], past_noise=start.past_noise[:1],
                      episode=start.episode[:1])  # fmt: skip
        videos[name] = to_uint8(roll(pipeline, one, rolled.settings, actions))[0]
    shown = np.unique(np.linspace(known - 1, known - 1 + min(count, 16), STILLS + 1, dtype=int))
    png = encode_png(grid([video[shown] for video in videos.values()], list(pair), columns=headers(shown), cell=128))
    return Picture(png, encode_mp4(side_by_side(videos, cell=256), about.fps))


@dataclass(frozen=True)
class Rolled:
    """Rollouts of several points from the same starts under the same noise and actions."""

    start: Start
    rollouts: dict[str, np.ndarray]  # uint8 "b f H W 3" by the name of the row
    pipeline: WorldModelPipeline  # of the last point
    settings: RolloutConfig
    prompts: list[str] | None = None  # of models with text: what was to be seen from each start, in words

    def of_start(self, i: int) -> dict[str, np.ndarray]:
        """What the game showed after the i-th start, and every point's rollout from it: uint8 "f H W 3"."""
        return {"truth": to_uint8(self.start.frames[i]), **{name: video[i] for name, video in self.rollouts.items()}}


def roll_points(sweep: SweepConfig, shown: dict[str, str]) -> Rolled | None:
    """Roll out finished points by rising compute: the name of its row -> the point's. None where there are none."""
    rollouts: dict[str, np.ndarray] = {}
    start = None
    for row, point in shown.items():
        run = Path(sweep.out) / point
        pipeline = WorldModelPipeline.open(run).to(default_device())
        if start is None:
            start, settings, prompts = first_start(sweep, run, pipeline)
        rollouts[row] = to_uint8(roll(pipeline, start, settings, prompts=prompts if pipeline.reads else None))
    return None if start is None else Rolled(start, rollouts, pipeline, settings, prompts)


def first_start(
    sweep: SweepConfig, run: Path, pipeline: WorldModelPipeline
) -> tuple[Start, RolloutConfig, list[str] | None]:
    """The starts that the sweep's pictures show, how they are rolled out, and the prompts of models with text."""
    resolved = configuration.read(run / "config.yaml")
    horizon = sweep.strip_frames // pipeline.time_stride * pipeline.time_stride
    settings = configuration.build(RolloutConfig, resolved["rollout"] | {"horizon": horizon})
    dataset = acted_dataset(run)
    where = spread_starts(dataset, settings.context_frames, horizon, sweep.strip_clips)
    known = find_world(dataset.name)
    says = pipeline.reads and known and known.has("caption") and dataset.state_names == known.state_names
    prompts = in_words(dataset, where, settings.context_frames, horizon) if says else None
    return start_from(pipeline, dataset, where, settings), settings, prompts
