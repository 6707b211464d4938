"""Samplers are functions of a velocity function: the caller closes over model, actions and cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]  # (x "b t c h w", level "b t") -> velocity "b t c h w"


def schedule(steps: int, shift: float = 1.0) -> Tensor:
    """Levels from 1 to 0 in `steps` steps; shift > 1 spends more of them at high noise (arXiv 2403.03206, eq. 23)."""
    level = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return (shift * level / (1 + (shift - 1) * level)).float()


def euler(velocity: Velocity, x: Tensor, levels: Tensor) -> Tensor:
    """Follow dx/dlevel from levels[0] to levels[-1] by Euler's method; first order in the step."""
    for level, following in zip(levels[:-1], levels[1:], strict=True):
        x = x + (following - level) * velocity(x, level.expand(x.shape[:2]))
    return x
