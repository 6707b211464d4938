"""Scores of what a reader read, each with its bootstrap error over episodes."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

from videowm.bootstrap import DRAWS, group_counts, spread


def r2(
    read: Float[np.ndarray, "b w k"], true: Float[np.ndarray, "b w k"], groups: Int[np.ndarray, " b"], *,
    draws: int = DRAWS,
) -> tuple[float | None, float]:  # fmt: skip
    """Coefficient of determination and its bootstrap error; read, true "b w k" in comparable units, groups "b".

    1 - sum of squares left over / sum of squares around the mean of each of the k columns, pooled over columns.
    None where nothing varies: there is nothing to be read. The error is NaN for one group.

    Raises:
        FloatingPointError: a reading is not finite, so that no score of it means anything.
    """
    read, true = read.astype(np.float64), true.astype(np.float64)
    if not (np.isfinite(read).all() and np.isfinite(true).all()):
        raise FloatingPointError("a score of readings that are not finite means nothing")
    if np.ptp(true.reshape(-1, true.shape[-1]), axis=0).max() < 1e-9:
        return None, math.nan
    names, inverse = np.unique(groups, return_inverse=True)

    def per_group(values: Float[np.ndarray, "b w k"]) -> Float[np.ndarray, "n k"]:
        sums = np.zeros((len(names), values.shape[-1]))
        np.add.at(sums, inverse, values.sum(1))
        return sums

    left, once, twice = (per_group(v) for v in ((read - true) ** 2, true, true**2))
    rows = np.bincount(inverse, minlength=len(names)) * true.shape[1]

    def score(counts: Float[np.ndarray, "draws n"]) -> Float[np.ndarray, " draws"]:
        """R² where each of the n groups counts so often."""
        around = counts @ twice - (counts @ once) ** 2 / (counts @ rows)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            return 1 - (counts @ left).sum(-1) / around.sum(-1)

    drawn = score(group_counts(len(names), draws=draws))
    return float(score(np.ones((1, len(names))))[0]), float(spread(drawn[np.isfinite(drawn)], groups))
