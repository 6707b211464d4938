"""The reader: a small video network that reads the action and the simulator's state off a few consecutive frames."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from videowm.config import suggest
from videowm.data.dataset import Dataset
from videowm.evaluate.saved import Saved
from videowm.limits import Size, Whole
from videowm.types import UserError

MOTION = ("forward", "sideways", "turn")  # from x, y and heading: what an observer on board sees change


@dataclass(frozen=True)
class ReaderConfig:
    """The window and the network. Row `lag` of the window's rows is what is read: its action and its state."""

    frames: Size = 5  # frames of a window
    lag: Whole = 0  # row that is read; steer is read at R² 0.46, with lag 1 at 0.37, with 2 at 0.31
    width: Size = 32  # channels of the first layer, a multiple of 8
    features: Size = 32  # numbers that describe a window, for the Fréchet distance
    state: list[str] = field(default_factory=list)  # state columns, or forward, sideways, turn

    def __post_init__(self) -> None:
        if not 0 <= self.lag <= self.frames - 2:
            raise UserError(f"reader lag {self.lag} lies outside {self.frames} frames: give 0 to {self.frames - 2}")
        if self.width % 8 or self.width < 8 or self.features < 1:
            raise UserError(f"reader width {self.width}, features {self.features}: give a multiple of 8, and 1 or more")


@dataclass(frozen=True)
class Readable:
    """What a trained reader has learned to read, and of which data; saved with it."""

    world: str
    data_hash: str
    size: tuple[int, int]
    actions: list[str]
    state: list[str]
    binary: list[bool]  # of actions, then state: columns that are 0 or 1 throughout
    mean: list[float]
    std: list[float]

    @property
    def names(self) -> list[str]:
        return [*self.actions, *self.state]


class Reader(Saved):
    """Frames "b f 3 H W" of one window -> standardised targets "b k"; its features feed the Fréchet distance."""

    kind, parts = "reader", {"config": ReaderConfig, "readable": Readable}

    def __init__(self, config: ReaderConfig, readable: Readable) -> None:
        super().__init__()
        self.config, self.readable = config, readable
        widths = [config.width * factor for factor in (1, 2, 2, 4)]
        layers: list[nn.Module] = []
        for before, after in zip([3 * config.frames, *widths[:-1]], widths, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        rows, columns = (-(-n // 16) for n in readable.size)
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * rows * columns, config.features))
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(config.features, len(readable.names)))

    def forward(self, frames: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b k"]:
        return self.head(self.features(frames))

    def features(self, frames: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b d"]:
        """Penultimate features "b d" of windows "b f 3 H W"."""
        return self.body(frames.flatten(1, 2))

    def windows(self, video: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b w n 3 H W"]:
        """Every window "b w n 3 H W", of n frames, of a video "b f 3 H W".

        Raises:
            UserError: the video is shorter than a window, or of another frame size.
        """
        if video.shape[1] < self.config.frames or tuple(video.shape[-2:]) != tuple(self.readable.size):
            raise UserError(
                f"the reader takes {self.config.frames} frames or more of {self.readable.size}, got "
                f"{video.shape[1]} of {tuple(video.shape[-2:])}: give a longer video, or a reader of this dataset"
            )
        return video.unfold(1, self.config.frames, 1).movedim(-1, 2)

    @torch.no_grad()
    def read(self, video: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b w k"]:
        """Targets "b w k" in their own units, on the CPU; window i of a video "b f 3 H W" tells of row i + lag.

        Raises:
            UserError: the video is shorter than a window, or of another frame size.
        """
        device = self.head[1].weight.device
        mean, std = (torch.tensor(v, device=device) for v in (self.readable.mean, self.readable.std))
        rows = [self(self.windows(one[None].to(device))[0]) * std + mean for one in video]
        return torch.stack(rows).cpu()

    @torch.no_grad()
    def clip_features(self, video: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b d"]:
        """One feature vector "b d" a video "b f 3 H W", on the CPU: the mean over its windows.

        Raises:
            UserError: the video is shorter than a window, or of another frame size.
        """
        device = self.head[1].weight.device
        return torch.stack([self.features(self.windows(one[None].to(device))[0]).mean(0) for one in video]).cpu()


def state_table(
    states: Float[np.ndarray, "f s"], names: tuple[str, ...], wanted: list[str]
) -> Float[np.ndarray, "f k"]:
    """The named columns, float32 "f k", of simulator states "f s"; motion is from row i to i+1, 0 in the last row.

    Motion is in the car's own frame: with heading a the nose points to (-sin a, cos a), turn is positive to the left.

    Raises:
        UserError: a wanted column is not there.
    """
    columns = {name: states[:, i] for i, name in enumerate(names)}
    if {"x", "y", "heading"} <= set(names):
        dx, dy = (np.diff(columns[axis], append=columns[axis][-1]) for axis in "xy")
        turn = np.diff(columns["heading"], append=columns["heading"][-1])
        sin, cos = np.sin(columns["heading"]), np.cos(columns["heading"])
        turn = (turn + np.pi) % (2 * np.pi) - np.pi
        columns |= dict(zip(MOTION, (cos * dy - sin * dx, cos * dx + sin * dy, turn), strict=True))
    for name in wanted:
        if name not in columns:
            raise UserError(f"reader state {name!r} is no column of this dataset{suggest(name, columns)}")
    return np.stack([columns[name] for name in wanted], 1).astype(np.float32) if wanted else states[:, :0]


def targets(dataset: Dataset, episode: int, state: list[str]) -> Float[np.ndarray, "n k"]:
    """What a reader is to read in every row of an episode: actions, then state, float32 "n k" in their own units.

    Raises:
        UserError: a wanted state column is not there.
    """
    actions = dataset.actions(episode)
    if not state:
        return actions
    return np.concatenate([actions, state_table(dataset.states(episode), dataset.state_names, state)[:-1]], axis=1)


def describe(dataset: Dataset, config: ReaderConfig) -> Readable:
    """Names and statistics of the targets over the training episodes.

    Raises:
        UserError: a state column of the configuration is not there.
    """
    rows = np.concatenate([targets(dataset, episode, config.state) for episode in dataset.split("train")])
    return Readable(
        dataset.name, dataset.hash, dataset.size, list(dataset.action_names), list(config.state),
        np.isin(rows, (0, 1)).all(0).tolist(), rows.mean(0, dtype=np.float64).tolist(),
        rows.std(0, dtype=np.float64).clip(1e-6).tolist(),
    )  # fmt: skip


def check_reader(reader: Reader, dataset: Dataset) -> None:
    """Refuse a reader of another world or frame size.

    Raises:
        UserError: the reader was trained on such data.
    """
    theirs, ours = (reader.readable.world, tuple(reader.readable.size)), (dataset.name, tuple(dataset.size))
    if theirs != ours:
        raise UserError(f"the reader was trained on {theirs}, the model's dataset is {ours}: train a reader on it")
