"""How close predicted frames are to the true ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def psnr(predicted: Tensor, true: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of every frame, "b f"; frames "b f 3 H W" in [-1, 1], so the peak is 2."""
    mse = (predicted.float() - true.float()).square().mean(dim=(2, 3, 4))
    return 10 * (4 / mse.clamp_min(1e-10)).log10()


def ssim(predicted: Tensor, true: Tensor) -> Tensor:
    """Structural similarity of every frame, "b f" (torchmetrics, Gaussian window of 11, data range 2)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    flat = structural_similarity_index_measure(
        predicted.float().flatten(0, 1), true.float().flatten(0, 1), data_range=2.0, reduction="none"
    )
    return flat.unflatten(0, predicted.shape[:2])


def standard_error(values: np.ndarray, groups: np.ndarray, *, draws: int = 1000, seed: int = 0) -> float:
    """Bootstrap standard error of the mean of `values`, drawing whole groups (episodes) with replacement."""
    names, inverse = np.unique(groups, return_inverse=True)
    sums = np.bincount(inverse, weights=values, minlength=len(names))
    counts = np.bincount(inverse, minlength=len(names))
    drawn = np.random.default_rng(seed).integers(len(names), size=(draws, len(names)))
    return float((sums[drawn].sum(1) / counts[drawn].sum(1)).std(ddof=1))


def finite(name: str, values: Tensor) -> Tensor:
    """The values, or an error when one is not a number: a mean over NaN says nothing."""
    if not torch.isfinite(values).all():
        raise FloatingPointError(f"{name} has {int((~torch.isfinite(values)).sum())} values that are not finite")
    return values
