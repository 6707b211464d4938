"""Rollouts in few steps, without a teacher: shortcut models (arXiv 2410.12557), here with a noise level and a step for
each latent step, as in Dreamer 4 (arXiv 2509.24527).

The network's input holds the step size beside the level. Some samples of a batch learn that a step of size d is two of
its own steps of d/2 (eq. 4-5); the others, and the finest size, are plain flow matching. Sizes are 2^power / 16.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from videowm.dit import flow

HALVINGS = 4  # from the whole way to the finest step


def level_with_step_size(level: Tensor, power: Tensor | int) -> Tensor:
    """A shortcut model's level input "b t 2": levels "b t" and step sizes from 0 (finest) to 1 (the whole way)."""
    return torch.stack([level, torch.zeros_like(level) + power / HALVINGS], dim=-1)


def power_of(level: float, to: float) -> int:
    """The power of a sampler's step from `level`; 0, plain flow, where it is none that was learned."""
    for power in range(HALVINGS + 1):
        size = 2.0 ** (power - HALVINGS)
        if abs(level - to - size) < 1e-6 and abs(level / size - round(level / size)) < 1e-6:
            return power
    return 0


def draw(uniform: Tensor, level: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Powers, all alike probable, and levels from which steps of that size end at 0; the finest keep their level.

    Args:
        uniform, where: uniform draws "b t".
        level: flow matching's levels "b t".
    Returns:
        power "b t" and level "b t".
    """
    power = (uniform * (HALVINGS + 1)).floor()
    size = 2.0 ** (power - HALVINGS)
    return power, torch.where(power > 0, ((where / size).floor() + 1) * size, level)


@torch.no_grad()
def target(
    model: Callable[[Tensor, Tensor], Tensor], x: Tensor, level: Tensor, power: Tensor, velocity: Tensor
) -> Tensor:
    """The target of samples that learn long steps: the mean velocity of two half steps, or the true one at the finest.

    Args:
        model: (x, level with step size) -> velocity.
        x: latents "b t c h w" at `level` "b t".
        power: of the step from there, "b t".
        velocity: the true one, which the finest steps learn.
    """
    half, smaller = 2.0 ** (power - HALVINGS) / 2, (power - 1).clamp(min=0)
    first = model(x, level_with_step_size(level, smaller))
    second = model(x - half[..., None, None, None] * first, level_with_step_size((level - half).clamp(min=0), smaller))
    return torch.where((power > 0)[..., None, None, None], (first + second) / 2, velocity)


def learned(
    model: Callable[[Tensor, Tensor], Tensor], latents: Tensor, noise: Tensor, level: Tensor, some: slice,
    uniform: Tensor, where: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """A batch of which `some` samples learn to step far: its latents, level with step size, and target.

    Args:
        model: (x, level with step size) -> velocity, of these samples.
        latents, noise: "b t c h w".
        level, uniform, where: "b t", as in `draw`.
    """
    power, level, goal = torch.zeros_like(level), level.clone(), flow.velocity(latents, noise)
    power[some], level[some] = draw(uniform[some], level[some], where[some])
    x = flow.noised(latents, noise, level)
    if len(power[some]):  # none in this process, perhaps
        goal[some] = target(model, x[some], level[some], power[some], goal[some])
    return x, level_with_step_size(level, power), goal
