"""A metric over the horizon with its ceiling and floor, and what is yielded of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Pairs = Iterator[tuple[str, object]]


@dataclass(frozen=True)
class Curve:
    """A metric of every clip and predicted frame, "b h", for the model, and the same of the bounds by their suffix.

    The bound "ceiling" is the best that a model could reach, "floor" what one that knows nothing gets. Others may be
    there too. Numbers that are not finite and bounds of another shape are refused: a mean over them says nothing.
    """

    name: str  # such as "fidelity/psnr"
    values: np.ndarray
    episode: np.ndarray  # "b", the groups of the bootstrap
    bounds: dict[str, np.ndarray] = field(default_factory=dict)
    better: Literal["higher", "lower"] = "higher"
    first: int = 1  # the predicted frame that the first column tells of

    def __post_init__(self) -> None:
        for suffix, values in {"": self.values, **self.bounds}.items():
            name = f"{self.name}_{suffix}" if suffix else self.name
            if values.shape != self.values.shape or values.ndim != 2 or len(values) != len(self.episode):
                raise ValueError(f"{name} has shape {values.shape}, {self.name} {self.values.shape}: unequal clips")
            if not np.isfinite(values).all():
                raise FloatingPointError(f"{name} has {int((~np.isfinite(values)).sum())} values that are not finite")


def resampled(episode: np.ndarray, *, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """Bootstrap weights "draws b", rows sum to 1: whole episodes are drawn with replacement, so `w @ x` is a mean."""
    names, inverse = np.unique(episode, return_inverse=True)
    drawn = np.random.default_rng(seed).integers(len(names), size=(draws, len(names)))
    counts = np.stack([np.bincount(row, minlength=len(names)) for row in drawn])[:, inverse]
    return counts / counts.sum(1, keepdims=True)


def with_error(name: str, values: np.ndarray, episode: np.ndarray) -> Pairs:
    """The mean over clips of values "b" or "b h", and its bootstrap standard error over episodes as `_se`."""
    values = values.astype(np.float64)
    error = (resampled(episode) @ values).std(0, ddof=1)
    yield name, values.mean(0).tolist()
    yield f"{name}_se", error.tolist()


def pairs(curve: Curve) -> Pairs:
    """The mean over the horizon and, as `_by_frame`, the curve; of the model and of every bound, each with `_se`."""
    for suffix, values in {"": curve.values, **{f"_{k}": v for k, v in curve.bounds.items()}}.items():
        yield from with_error(f"{curve.name}{suffix}", values.mean(1), curve.episode)
        yield from with_error(f"{curve.name}_by_frame{suffix}", values, curve.episode)
    if curve.first != 1:
        yield f"{curve.name}_by_frame_first", curve.first
