"""Scores of what a reader read, each with its bootstrap error over episodes."""

from __future__ import annotations

import numpy as np


def r2(read: np.ndarray, true: np.ndarray, groups: np.ndarray, *, draws: int = 1000) -> tuple[float | None, float]:
    """Coefficient of determination and its bootstrap error; read, true "b w k" in comparable units, groups "b".

    1 - sum of squares left over / sum of squares around the mean of each of the k columns, pooled over columns.
    None where nothing varies: there is nothing to be read.
    """
    names, inverse = np.unique(groups, return_inverse=True)
    read, true = read.astype(np.float64), true.astype(np.float64)
    if not (np.isfinite(read).all() and np.isfinite(true).all()):
        raise FloatingPointError("a score of readings that are not finite says nothing")

    def per_group(values: np.ndarray) -> np.ndarray:
        sums = np.zeros((len(names), values.shape[-1]))
        np.add.at(sums, inverse, values.sum(1))
        return sums

    left, once, twice = (per_group(v) for v in ((read - true) ** 2, true, true**2))
    count = np.bincount(inverse, minlength=len(names)) * true.shape[1]

    def score(rows: np.ndarray) -> np.ndarray:
        around = twice[rows].sum(-2) - once[rows].sum(-2) ** 2 / count[rows].sum(-1)[..., None]
        with np.errstate(divide="ignore", invalid="ignore"):
            return 1 - left[rows].sum(-2).sum(-1) / around.sum(-1)

    if np.ptp(true.reshape(-1, true.shape[-1]), axis=0).max() < 1e-9:
        return None, 0.0
    drawn = score(np.random.default_rng(0).integers(len(names), size=(draws, len(names))))
    drawn = drawn[np.isfinite(drawn)]
    return float(score(np.arange(len(names)))), float(drawn.std(ddof=1)) if len(drawn) > 1 else 0.0
