"""What an autoencoder keeps of small things: in the boxes that the simulator gives, and to the eyes of a reader."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from videowm.bootstrap import mean_and_resamples, spread
from videowm.data.clips import even_clips
from videowm.data.dataset import Dataset
from videowm.evaluate.counterfactual import Replay
from videowm.evaluate.curves import Pairs, mean_and_error
from videowm.evaluate.pictures import finite
from videowm.evaluate.reader import Reader, check_reader, targets
from videowm.evaluate.readings import standardised
from videowm.types import UserError
from videowm.vae.codec import to_float
from videowm.worlds import find_world
from videowm.worlds.base import Boxes


@dataclass(frozen=True)
class HeldOut:
    """Held-out clips of a recording, on the CPU, and where small things are in them."""

    frames: Tensor  # "b f 3 H W" in [-1, 1]
    episode: np.ndarray  # "b"
    first: np.ndarray  # "b", the first frame's number within its episode
    boxes: list[list[Boxes]] = field(default_factory=list)  # of each clip and frame; none where no game gives any

    @property
    def kinds(self) -> list[str]:
        """The kinds of things that are in view somewhere."""
        return list(dict.fromkeys(kind for clip in self.boxes for frame in clip for kind in frame if frame[kind]))

    def mask(self, kind: str) -> Bool[Tensor, "b f H W"]:
        """The pixels within the boxes of one kind of thing."""
        mask = torch.zeros(*self.frames.shape[:2], *self.frames.shape[3:], dtype=torch.bool)
        for i, clip in enumerate(self.boxes):
            for j, frame in enumerate(clip):
                for rows, columns in frame.get(kind, ()):
                    mask[i, j, rows, columns] = True
        return mask


def held_out(dataset: Dataset, *, clips: int, frames: int) -> tuple[HeldOut, str | None]:
    """About `clips` held-out clips of `frames` frames with their boxes; and why there are none where a world has some.

    Raises:
        UserError: no held-out episode is as long as a clip.
    """
    where = even_clips(dataset, frames=frames, split="test", count=clips)
    pictures = to_float(np.stack([dataset.clip(episode, first, frames).frames for episode, first in where]))
    episode, first = (np.array(column) for column in zip(*where, strict=True))
    world, boxes, refusal = find_world(dataset.name), [], None
    if world is not None and world.has("boxes"):
        try:
            boxes = replayed_boxes(Replay(dataset), where, frames)
        except UserError as error:
            refusal = f"no boxes of small things: {error}"
    return HeldOut(pictures, episode, first, boxes), refusal


def replayed_boxes(replay: Replay, where: list[tuple[int, int]], frames: int) -> list[list[Boxes]]:
    """The boxes in every frame of some clips (episode, first frame), from the game that is played again.

    Raises:
        UserError: no game passes all recorded states of an episode.
    """
    last = {episode: first + frames for episode, first in sorted(where)}
    found = {episode: episode_boxes(replay, episode, end) for episode, end in last.items()}
    return [found[episode][first : first + frames] for episode, first in where]


def episode_boxes(replay: Replay, episode: int, end: int | None = None) -> list[Boxes]:
    """The boxes in every frame of an episode, or before frame `end`, from the game that is played again.

    Raises:
        UserError: no game passes all recorded states of the episode.
    """
    replay.world.watched, found = True, []
    replay.reset(episode)
    for action in replay.dataset.all_actions(episode)[:end]:
        found.append(replay.world.boxes())
        replay.world.step(action)
    return found


def small_things(held: HeldOut, decoded: dict[str, Float[Tensor, "b f 3 H W"]]) -> Pairs:
    """PSNR in dB of all pixels and of those within the boxes of each kind of thing, over the clips where it is seen.

    Also the share of all pixels that lies within these boxes: it says why a PSNR of the picture does not see them.

    Args:
        held: the clips.
        decoded: reconstructions "b f 3 H W" in [-1, 1] of all clips by suffix: "" of the autoencoder itself, others of
            what stands beside it, such as "_floor".
    """
    masks = {"picture": torch.ones_like(held.frames[:, :, 0], dtype=torch.bool)}
    masks |= {kind: held.mask(kind) for kind in held.kinds}
    yield "keeps/clips", len(held.frames)
    for kind, mask in masks.items():
        pixels = mask.sum((1, 2, 3))
        seen = (pixels > 0).numpy()
        for suffix, video in decoded.items():
            error = (finite("the reconstruction", video) - held.frames).square().mean(2)
            mean = ((error * mask).sum((1, 2, 3)) / pixels)[seen]
            values = 10 * (4 / mean.clamp_min(1e-10)).log10()
            yield from mean_and_error(f"keeps/{kind}_psnr{suffix}", values.numpy(), held.episode[seen])
        if kind != "picture":
            yield f"keeps/{kind}_psnr_clips", int(seen.sum())
            yield f"keeps/{kind}_share", mask.float().mean().item()


def read_back(reader: Reader, dataset: Dataset, held: HeldOut, decoded: Float[Tensor, "b f 3 H W"]) -> Pairs:
    """Absolute error of each action and state column that the reader reads off the reconstruction "b f 3 H W".

    It is in standard deviations of the column. Ceiling: the reader on the real video. Floor: the mean of the training
    data, whatever the video shows. The ratio of the error and its ceiling is 1 where nothing was lost.

    Raises:
        UserError: the reader is of another world or frame size, or the clips are shorter than its window.
    """
    check_reader(reader, dataset)
    windows, readable = held.frames.shape[1] - reader.config.frames + 1, reader.readable
    read = {"": reader.read(decoded), "_ceiling_real": reader.read(held.frames)}
    starts = zip(held.episode.tolist(), (held.first + reader.config.lag).tolist(), strict=True)
    rows = [targets(dataset, episode, readable.state)[start : start + windows] for episode, start in starts]
    true = standardised(reader, np.stack(rows))
    errors = {suffix: np.abs(standardised(reader, values) - true).mean(1) for suffix, values in read.items()}
    errors["_floor"] = np.abs(true).mean(1)
    for i, name in enumerate(readable.names):
        for suffix, values in errors.items():
            yield from mean_and_error(f"keeps/{name}_error{suffix}", values[:, i], held.episode)
        if errors["_ceiling_real"][:, i].all():
            ratio, error = ratio_of_means(errors[""][:, i], errors["_ceiling_real"][:, i], held.episode)
            yield f"keeps/{name}_ratio", ratio
            yield f"keeps/{name}_ratio_se", error


def ratio_of_means(
    above: Float[np.ndarray, " b"], below: Float[np.ndarray, " b"], groups: Int[np.ndarray, " b"]
) -> tuple[float, float]:
    """The ratio of two means over clips, and its bootstrap standard error over episodes."""
    drawn = mean_and_resamples(groups)
    ratios = (drawn @ above) / (drawn @ below)
    return float(ratios[0]), float(spread(ratios[1:], groups))
