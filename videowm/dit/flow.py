"""Rectified flow (arXiv 2209.03003) with one noise level a latent step (diffusion forcing, arXiv 2407.01392)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from videowm.device import computing_float64

Generators = torch.Generator | Sequence[torch.Generator] | None  # a sequence: each draws an equal share of the rows


def normal(shape: Sequence[int], generator: Generators, device: torch.device) -> Float[Tensor, "*shape"]:
    """Standard normal noise on `device`, drawn where the generator is: a seed gives the same noise on every device.

    Of several generators each draws its share of the rows as it would alone.
    """
    generators = generator if isinstance(generator, Sequence) else [generator]
    rows = shape[0] // len(generators)
    parts = [torch.randn(rows, *shape[1:], generator=g, device=g.device if g else device) for g in generators]
    return torch.cat(parts).to(device)


def noised(
    latents: Float[Tensor, "b t c h w"], noise: Float[Tensor, "b t c h w"],
    level: Float[Tensor, "b t"] | Float[Tensor, "b 1"],
) -> Float[Tensor, "b t c h w"]:  # fmt: skip
    """The straight path x = (1 - level) * data + level * noise, level in [0, 1] (arXiv 2209.03003, equation 1)."""
    level = level[..., None, None, None]
    return (1 - level) * latents + level * noise


def velocity(latents: Float[Tensor, "b t c h w"], noise: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
    """The network's target, the slope of the path: dx/dlevel = noise - data (arXiv 2209.03003, equation 1)."""
    return noise - latents


def step_loss(predicted: Float[Tensor, "b t c h w"], target: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t"]:
    """Unweighted mean squared error of every latent step's velocity, accumulated in float32."""
    return (predicted.float() - target.float()).square().mean(dim=(2, 3, 4))


def training_levels(uniform: Float[Tensor, "b t"], *, location: float, scale: float) -> Float[Tensor, "b t"]:
    """Noise levels in (0, 1) of a training batch, from uniform draws: logit-normal (arXiv 2403.03206, equation 19).

    Every latent step has its own. With a wide scale many levels are near 0, as the context of a rollout is.
    """
    drawn = torch.special.ndtri(computing_float64(uniform).clamp(1e-5, 1 - 1e-5)).to(uniform.device)
    return torch.sigmoid(location + scale * drawn)
