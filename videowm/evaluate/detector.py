"""The detector: a small network that finds the things of a world in a frame, and reads where the camera is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from videowm.data.dataset import Dataset
from videowm.evaluate.saved import Saved
from videowm.limits import Size
from videowm.types import UserError
from videowm.worlds import World, find_world
from videowm.worlds.base import Boxes

SPREAD = 0.8  # pixels, of the hill that marks a box's centre
NEAR = 0.3  # height of that hill from which on a pixel tells of the box
UNIT = 8.0  # pixels; sizes and distances are learned in this unit
FAINT = 0.1  # score below which nothing is found
Found = dict[str, np.ndarray]  # kind of thing -> float32 "n 5": row and column of centres, height, width, score


@dataclass(frozen=True)
class DetectorConfig:
    """The network."""

    width: Size = 24  # channels of the first layer, a multiple of 8

    def __post_init__(self) -> None:
        if self.width % 8:
            raise UserError(f"detector width {self.width} cannot be used: give a multiple of 8")


@dataclass(frozen=True)
class Findable:
    """What a trained detector has learned to find, and of which data; saved with it."""

    world: str
    data_hash: str
    size: tuple[int, int]
    kinds: list[str]
    columns: list[str]  # of the state, those that have bounds
    mean: list[float]
    std: list[float]
    fastest: list[float]  # most that each column changes from frame to frame
    slope: float = 0.0  # columns of the picture that still things move by, for 1 of the first column
    flight: float = 0.0  # frames that a straight thing takes from the still things to the camera


def layer(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """Convolution, norm, activation; a stride of 2 halves the picture."""
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(8, after), nn.SiLU())


class Detector(Saved):
    """A frame -> a map of centres, boxes and standardised columns. It works at half the picture's size."""

    kind, parts = "detector", {"config": DetectorConfig, "findable": Findable}

    def __init__(self, config: DetectorConfig, findable: Findable) -> None:
        super().__init__()
        self.config, self.findable = config, findable
        fine, coarse, outputs = config.width, 2 * config.width, 5 * len(findable.kinds)
        self.fine = nn.Sequential(layer(12, fine), layer(fine, fine))
        self.coarse = nn.Sequential(layer(fine, coarse, 2), layer(coarse, coarse))
        self.merge = nn.Sequential(layer(fine + coarse, fine), layer(fine, fine), nn.Conv2d(fine, 4 * outputs, 1))
        nn.init.constant_(self.merge[-1].bias, -2.0)
        places = -(-findable.size[0] // 4) * -(-findable.size[1] // 4)
        self.columns = nn.Sequential(
            nn.Conv2d(coarse, 8, 1), nn.Flatten(), nn.Linear(8 * places, 64), nn.SiLU(),
            nn.Linear(64, len(findable.columns)),
        )  # fmt: skip

    def forward(self, frames: Float[Tensor, "b 3 H W"]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of centres "b k H W", boxes "b k 4 H W", standardised columns "b c", of frames in [-1, 1].

        A box is the way from the pixel's middle to the centre (down, across), its height and its width, in pixels.
        """
        height, width = frames.shape[-2:]
        frames = F.pad(frames, (0, -width % 4, 0, -height % 4), mode="replicate")
        fine = self.fine(F.pixel_unshuffle(frames, 2))
        coarse = self.coarse(fine)
        merged = self.merge(torch.cat([fine, F.interpolate(coarse, scale_factor=2.0)], 1))
        maps = F.pixel_shuffle(merged, 2)[..., :height, :width].unflatten(1, (-1, 5))
        return maps[:, :, 0], maps[:, :, 1:] * UNIT, self.columns(coarse)

    @torch.no_grad()
    def find(self, video: Float[Tensor, "f 3 H W"], batch: int = 256) -> tuple[list[Found], Float[np.ndarray, "f c"]]:
        """The things in every frame of a video "f 3 H W" in [-1, 1], and the columns "f c" in their own units.

        Raises:
            UserError: the frames have another size than those of the training.
        """
        if tuple(video.shape[-2:]) != tuple(self.findable.size):
            raise UserError(f"the detector takes frames of {tuple(self.findable.size)}, got {tuple(video.shape[-2:])}: "
                            "train one on this dataset")  # fmt: skip
        found, columns, device = [], [], next(self.parameters()).device
        for part in video.split(batch):
            logits, boxes, read = (output.float().cpu() for output in self(part.to(device)))
            found += peaks(logits.sigmoid(), boxes, self.findable.kinds)
            columns.append(read.double().numpy())
        return found, np.concatenate(columns) * self.findable.std + self.findable.mean


def peaks(
    scores: Float[Tensor, "f k H W"], boxes: Float[Tensor, "f k 4 H W"], kinds: list[str]
) -> list[Found]:  # fmt: skip
    """The boxes at the local peaks of the scores, for every frame."""
    top = (scores >= FAINT) & (scores == F.max_pool2d(scores, 3, 1, 1))
    found: list[Found] = []
    for hit, score, box in zip(top, scores, boxes, strict=True):
        kind, row, column = hit.nonzero(as_tuple=True)
        centre = torch.stack([row, column], 1) + 0.5 + box[kind, :2, row, column]
        rows = torch.cat([centre, box[kind, 2:, row, column], score[kind, row, column, None]], 1).numpy()
        found.append({name: rows[kind.numpy() == i] for i, name in enumerate(kinds)})
    return found


def as_rows(boxes: Boxes) -> Found:
    """A simulator's boxes in the detector's form, each with the score 1."""
    rows = {kind: [[(r.start + r.stop) / 2, (c.start + c.stop) / 2, r.stop - r.start, c.stop - c.start, 1]
                   for r, c in things] for kind, things in boxes.items()}  # fmt: skip
    return {kind: np.array(things, np.float32).reshape(-1, 5) for kind, things in rows.items()}


def centre_maps(
    boxes: Float[Tensor, "b k m 5"], size: tuple[int, int]
) -> tuple[Float[Tensor, "b k H W"], Float[Tensor, "b k 4 H W"]]:
    """What the network is to say of boxes "b k m 5" (`Found` with score 0 where there is none): hills and boxes."""
    rows, columns = (torch.arange(n, device=boxes.device) + 0.5 for n in size)
    centre = boxes[..., :2].floor() + 0.5
    far = (rows[:, None] - centre[..., 0, None, None]).square() + (columns - centre[..., 1, None, None]).square()
    hills = (-far / (2 * SPREAD**2)).exp() * (boxes[..., 4, None, None] > 0)
    height, which = hills.max(2)
    chosen = boxes[..., :4].gather(2, which.flatten(2)[..., None].expand(-1, -1, -1, 4)).unflatten(2, size)
    chosen = chosen.movedim(-1, 2)
    middles = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return height, torch.cat([chosen[:, :, :2] - middles, chosen[:, :, 2:]], 2)


def detector_loss(
    outputs: tuple[Tensor, Tensor, Tensor], boxes: Float[Tensor, "b k m 5"], columns: Float[Tensor, "b c"]
) -> dict[str, Tensor]:
    """Terms of the loss: centres (Zhou et al. 2019, equation 1), boxes and standardised columns."""
    logits, read, told = (output.float() for output in outputs)
    hills, wanted = centre_maps(boxes, tuple(logits.shape[-2:]))
    score, things = logits.sigmoid(), boxes[..., 4].sum().clamp_min(1)
    hit = (1 - score).square() * F.logsigmoid(logits) * (hills == 1)
    miss = (1 - hills) ** 4 * score.square() * F.logsigmoid(-logits) * (hills < 1)
    near = (hills > NEAR)[:, :, None]
    off = ((read - wanted).abs() * near).sum() / near.sum().clamp_min(1) / UNIT
    return {"centres": -(hit.sum() + miss.sum()) / things, "boxes": off, "columns": (told - columns).square().mean()}


def matched(found: Found, true: Found, kind: str, sure: float) -> tuple[int, int, int]:
    """How many things of a kind are found where one is, how many are found, and how many there are."""
    rows, boxes = found[kind][found[kind][:, 4] >= sure], true[kind]
    left, right = list(range(len(rows))), 0
    for box in boxes:
        far = [np.abs(rows[i, :2] - box[:2]).max() for i in left]
        if far and min(far) < 2 + box[2] / 4:
            left.pop(int(np.argmin(far)))
            right += 1
    return right, len(rows), len(boxes)


def world_with_laws(dataset: Dataset) -> type[World]:
    """The world of a dataset, which says what can never happen in it.

    Raises:
        UserError: no such world is installed, or it says nothing of that.
    """
    world = find_world(dataset.name)
    if world is None or not (world.STILL or world.STRAIGHT or world.BOUNDS):
        raise UserError(f"the world {dataset.name!r} says nothing of what can never happen in it (STILL, STRAIGHT, "
                        "BOUNDS): use one that does, such as takecover")  # fmt: skip
    return world


def check_detector(detector: Detector, dataset: Dataset) -> None:
    """Refuse a detector of another world or frame size.

    Raises:
        UserError: the detector was trained on such data.
    """
    theirs, ours = (detector.findable.world, tuple(detector.findable.size)), (dataset.name, tuple(dataset.size))
    if theirs != ours:
        raise UserError(f"the detector was trained on {theirs}, the model's dataset is {ours}: train a detector on it")
