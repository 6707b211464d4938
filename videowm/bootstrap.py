"""Bootstrap over groups: the one place where standard errors come from (Efron 1979, Annals of Statistics 7).

Frames of one episode are alike, so whole episodes are drawn with replacement. A single group holds no information about
the spread. Every standard error is then NaN, which JSON stores as null, and no test passes on it.
"""

from __future__ import annotations

import math

import numpy as np

DRAWS = 1000  # resamples; a standard error is then known to about 2 %


def group_counts(groups: int, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each of `groups` groups is drawn in each resample, int "draws groups"; rows sum to `groups`."""
    drawn = np.random.default_rng(seed).integers(groups, size=(draws, groups))
    return np.stack([np.bincount(row, minlength=groups) for row in drawn])


def weights(groups: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Resampling weights "draws n" for n values whose group is `groups` "n"; rows sum to 1, so `w @ x` is a mean."""
    names, inverse = np.unique(groups, return_inverse=True)
    counts = group_counts(len(names), draws=draws, seed=seed)[:, inverse]
    return counts / counts.sum(1, keepdims=True)


def mean_and_resamples(groups: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Weights "1+draws n": those of the plain mean over n values, then those of `weights`."""
    return np.concatenate([np.full((1, len(groups)), 1 / len(groups)), weights(groups, draws=draws, seed=seed)])


def spread(resampled: np.ndarray, groups: np.ndarray) -> np.ndarray | float:
    """Standard deviation over resamples (axis 0), NaN where there is one group only."""
    if len(np.unique(groups)) < 2:
        return np.full(np.shape(resampled)[1:], math.nan)[()]
    return np.std(resampled, axis=0, ddof=1)


def standard_error(values: np.ndarray, groups: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> float:
    """Standard error of the mean of `values` "n" when whole groups "n" are resampled; NaN for a single group."""
    return float(spread(weights(groups, draws=draws, seed=seed) @ np.asarray(values, np.float64), groups))


def clear_of_zero(value: float, error: float | None, errors: float) -> bool:
    """Whether `value` is positive by `errors` standard errors; False where no error is known."""
    return error is not None and math.isfinite(error) and value > 0 and value >= errors * error
