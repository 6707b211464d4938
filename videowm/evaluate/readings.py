"""What a reader reads off the predicted frames of all scenes, and what there was to be read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Num
from torch import Tensor

from videowm.data.dataset import Dataset
from videowm.evaluate.reader import Reader, targets
from videowm.evaluate.scenes import Scenes
from videowm.types import UserError

VIDEOS = ("truth", "decoded", "dreamed", "shuffled", "zero", "repeat")
BOUND_VIDEOS = {"ceiling": "decoded", "ceiling_real": "truth", "floor": "repeat"}  # suffix of a bound -> its video


@dataclass(frozen=True)
class Readings:
    """Standardised targets float64 "b w k": the true ones, and as read off each of `VIDEOS`.

    Every window lies within predicted frames; window i tells of predicted frame `first` + i.
    """

    true: np.ndarray
    read: dict[str, np.ndarray]
    names: list[str]  # of the k columns, actions first
    binary: np.ndarray  # bool "k"
    half: np.ndarray  # "k", 0.5 standardised: where a button goes from up to down
    actions: int  # how many of the columns are actions
    episode: np.ndarray
    first: int

    @property
    def varying(self) -> list[int]:
        """The action columns that vary here."""
        return [i for i in range(self.actions) if np.ptp(self.true[..., i]) > 1e-9]


def read_scenes(reader: Reader, scenes: Scenes, dataset: Dataset) -> Readings:
    """Standardised readings of all videos of the scenes; the truth comes from the recording.

    Raises:
        UserError: the horizon is shorter than the reader's window.
    """
    lag, readable = reader.config.lag, reader.readable
    windows = scenes.horizon - reader.config.frames + 1
    if windows < 1:
        raise UserError(
            f"a horizon of {scenes.horizon} frames holds no window of the reader's {reader.config.frames}: "
            f"evaluate with --horizon {reader.config.frames} or more"
        )
    if list(dataset.action_names) != readable.actions:  # the model's actions are others than those that are read
        dataset = dataset.recorded
    rows = []
    for episode, first in zip(scenes.episode.tolist(), scenes.first.tolist(), strict=True):
        begin = first + scenes.context + lag
        rows.append(targets(dataset, episode, readable.state)[begin : begin + windows])
    read = {name: standardised(reader, reader.read(scenes.future(name))) for name in VIDEOS}
    half = standardised(reader, np.full(len(readable.names), 0.5))
    return Readings(standardised(reader, np.stack(rows)), read, readable.names, np.array(readable.binary), half,
                    len(readable.actions), scenes.episode, 1 + lag)  # fmt: skip


def standardised(
    reader: Reader, rows: Num[np.ndarray, "*rows k"] | Num[Tensor, "*rows k"]
) -> Float64[np.ndarray, "*rows k"]:
    """Targets "… k" in standard deviations from the mean of the reader's training data, of those in their own units."""
    mean, std = np.array(reader.readable.mean), np.array(reader.readable.std)
    return (np.asarray(rows, np.float64) - mean) / std
