"""Rectified flow with one noise level per latent step (arXiv 2209.03003; diffusion forcing, arXiv 2407.01392)."""

from __future__ import annotations

import torch
from torch import Tensor


def noised(latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """The straight path x = (1 - level) * data + level * noise; latents and noise "b t c h w", level "b t"."""
    level = level[..., None, None, None]
    return (1 - level) * latents + level * noise


def velocity(latents: Tensor, noise: Tensor) -> Tensor:
    """What the network learns: dx/dlevel = noise - data."""
    return noise - latents


def step_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Unweighted velocity MSE of every latent step, "b t", accumulated in float32."""
    return (predicted.float() - target.float()).square().mean(dim=(2, 3, 4))


def training_levels(uniform: Tensor, *, location: float, scale: float) -> Tensor:
    """Noise levels of a training batch: logit-normal (SD3, arXiv 2403.03206, eq. 19), from uniform draws "b t".

    Every step draws its own. A wide scale keeps clean context, which is what a rollout has, within the training levels.
    """
    normal = torch.special.ndtri(uniform.clamp(1e-5, 1 - 1e-5))
    return torch.sigmoid(location + scale * normal)
