"""Errors of pictures: how far a video is from another, frame by frame. Models and scenes have no part in it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from videowm.types import UserError
from videowm.vae.loss import lpips_network

SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents of Wang et al. 2003, from the finest scale on
WINDOW = 11  # pixels, of the structural similarities
Frames = Callable[[Float[Tensor, "b f 3 H W"], Float[Tensor, "b f 3 H W"]], Float[Tensor, "b f"]]  # of two videos


def psnr(predicted: Float[Tensor, "b f 3 H W"], true: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f"]:
    """Peak signal-to-noise ratio in dB of every frame, "b f"; frames "b f 3 H W" in [-1, 1], so the peak is 2."""
    mse = (predicted.float() - true.float()).square().mean(dim=(2, 3, 4))
    return 10 * (4 / mse.clamp_min(1e-10)).log10()


def ssim(predicted: Float[Tensor, "b f 3 H W"], true: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f"]:
    """Structural similarity of every frame, "b f" (torchmetrics, Gaussian window of 11, data range 2)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    flat = structural_similarity_index_measure(
        predicted.float().flatten(0, 1), true.float().flatten(0, 1), data_range=2.0, reduction="none"
    )
    return flat.unflatten(0, predicted.shape[:2])


def scales(size: tuple[int, int]) -> tuple[float, ...]:
    """Exponents of the scales whose coarsest picture the window of 11 still fits, with sum 1: three at 64x64.

    The published five need 161 pixels, so a value at 64x64 compares with others of three scales only.

    Raises:
        UserError: a side of `size`, (H, W), is below 11 pixels.
    """
    fitting = [n for n in range(1, len(SCALES) + 1) if min(size) // max(1, n - 1) ** 2 >= WINDOW <= min(size) >> n - 1]
    if not fitting:
        raise UserError(f"MS-SSIM needs frames of {WINDOW}x{WINDOW} or more, got {size[0]}x{size[1]}")
    chosen = np.array(SCALES[: fitting[-1]])
    return tuple((chosen / chosen.sum()).tolist())


def ms_ssim(predicted: Float[Tensor, "b f 3 H W"], true: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f"]:
    """Multi-scale structural similarity (Wang et al. 2003, equation 7) of every frame, "b f", at `scales` scales.

    Raises:
        UserError: a side of the frames is below 11 pixels.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    flat = multiscale_structural_similarity_index_measure(
        predicted.float().flatten(0, 1), true.float().flatten(0, 1), data_range=2.0, reduction="none",
        betas=scales(tuple(true.shape[-2:])), normalize="relu",
    )  # fmt: skip
    return flat.unflatten(0, predicted.shape[:2])


def gradients(predicted: Float[Tensor, "b f 3 H W"], true: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f"]:
    """Differences of neighbouring pixels over those of the true frame, "b f": 1 is as sharp, less is blurred."""

    def differences(frames: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f"]:
        across, down = (frames.float().diff(dim=axis).abs().mean((2, 3, 4)) for axis in (-1, -2))
        return across + down

    return differences(predicted) / differences(true).clamp_min(1e-6)


def lpips(device: torch.device) -> Frames | None:
    """Learned perceptual distance (Zhang et al. 2018, AlexNet) of every frame, or None where its package or weights
    are not here: they are no dependency."""
    try:
        network = lpips_network("alex").to(device)
    except UserError:
        return None

    def distance(predicted: Float[Tensor, "b f 3 H W"], true: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f"]:
        return network(predicted.flatten(0, 1), true.flatten(0, 1)).reshape(predicted.shape[:2])

    return distance


@torch.no_grad()
def by_frame(
    metric: Frames, predicted: Float[Tensor, "b f 3 H W"], true: Float[Tensor, "b f 3 H W"], device: torch.device,
    batch: int,
) -> Float64[np.ndarray, "b f"]:  # fmt: skip
    """A metric of every frame, float64 "b f", of videos "b f 3 H W" in [-1, 1], computed `batch` clips at once."""
    parts = zip(predicted.split(batch), true.split(batch), strict=True)
    return torch.cat([metric(p.to(device), t.to(device)).cpu() for p, t in parts]).double().numpy()


def finite(name: str, values: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """The values, or an error when one is not a number: a mean over NaN means nothing."""
    if not torch.isfinite(values).all():
        raise FloatingPointError(f"{name} has {int((~torch.isfinite(values)).sum())} values that are not finite")
    return values
