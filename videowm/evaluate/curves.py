"""A metric over the horizon with its ceiling and floor, and what is yielded of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int, Num

from videowm.bootstrap import spread, weights
from videowm.metrics import lower_is_better

Pairs = Iterator[tuple[str, object]]


@dataclass(frozen=True)
class MetricCurve:
    """A metric of every clip and predicted frame, "b h", for the model, and the same of the bounds by their suffix.

    The bound "ceiling" is the best that a model could reach, "floor" what a model that learned nothing gets. Others may
    be there too. Numbers that are not finite and bounds of another shape are refused: a mean over them means nothing.
    """

    name: str  # such as "fidelity/psnr"
    values: np.ndarray
    episode: np.ndarray  # "b", the groups of the bootstrap
    bounds: dict[str, np.ndarray] = field(default_factory=dict)
    first: int = 1  # the predicted frame that the first column tells of

    @property
    def sign(self) -> int:
        """1 where a higher value is better, -1 where a lower one is."""
        return -1 if lower_is_better(self.name) else 1

    def __post_init__(self) -> None:
        for suffix, values in {"": self.values, **self.bounds}.items():
            name = f"{self.name}_{suffix}" if suffix else self.name
            if values.shape != self.values.shape or values.ndim != 2 or len(values) != len(self.episode):
                raise ValueError(f"{name} has shape {values.shape}, {self.name} {self.values.shape}: unequal clips")
            if not np.isfinite(values).all():
                raise FloatingPointError(f"{name} has {int((~np.isfinite(values)).sum())} values that are not finite")


def mean_and_error(name: str, values: Num[np.ndarray, "b ..."], episode: Int[np.ndarray, " b"]) -> Pairs:
    """The mean over clips of values "b" or "b h", and its bootstrap standard error over episodes as `_se`.

    With one episode no error is known: it is NaN, which JSON stores as null.
    """
    values = values.astype(np.float64)
    yield name, values.mean(0).tolist()
    yield f"{name}_se", np.asarray(spread(weights(episode) @ values, episode)).tolist()


def pairs(curve: MetricCurve) -> Pairs:
    """The mean over the horizon and, as `_by_frame`, the curve; of the model and of every bound, each with `_se`."""
    for suffix, values in {"": curve.values, **{f"_{k}": v for k, v in curve.bounds.items()}}.items():
        yield from mean_and_error(f"{curve.name}{suffix}", values.mean(1), curve.episode)
        yield from mean_and_error(f"{curve.name}_by_frame{suffix}", values, curve.episode)
    if curve.first != 1:
        yield f"{curve.name}_by_frame_first", curve.first
