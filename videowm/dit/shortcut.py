"""Rollouts in few steps, without a teacher: shortcut models (arXiv 2410.12557), here with a noise level and a step for
each latent step, as in Dreamer 4 (arXiv 2509.24527).

The network's input holds the step size beside the level. Some samples of a batch learn that a step of size d is two of
its own steps of d/2 (eq. 4-5); the others, and the finest size, are plain flow matching. Sizes are 2^power / 16.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from videowm.dit import flow

HALVINGS = 4  # from the whole way to the finest step

# (x, level with step size) -> velocity
VelocityField = Callable[[Float[Tensor, "b t c h w"], Float[Tensor, "b t 2"]], Float[Tensor, "b t c h w"]]


def level_with_step_size(
    level: Float[Tensor, "*bt"], power: Float[Tensor, "*#bt"] | Int[Tensor, "*#bt"] | int
) -> Float[Tensor, "*bt 2"]:
    """A shortcut model's level input "b t 2": levels "b t" and step sizes from 0 (finest) to 1 (the whole way)."""
    return torch.stack([level, torch.zeros_like(level) + power / HALVINGS], dim=-1)


def power_of(level: float, to: float) -> int:
    """The power p of a sampler's step of size 2^p / 16 from `level`; 0 (plain flow) for steps that were not learned."""
    for power in range(HALVINGS + 1):
        size = 2.0 ** (power - HALVINGS)
        if abs(level - to - size) < 1e-6 and abs(level / size - round(level / size)) < 1e-6:
            return power
    return 0


def draw(
    uniform: Float[Tensor, "b t"], level: Float[Tensor, "b t"], where: Float[Tensor, "b t"]
) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
    """Powers from 0 to 4, all alike probable, and levels that are multiples of the step size; power 0 keeps its level.

    Args:
        uniform, where: uniform draws, of the power and of the level.
        level: flow matching's levels.
    """
    power = (uniform * (HALVINGS + 1)).floor()
    size = 2.0 ** (power - HALVINGS)
    return power, torch.where(power > 0, ((where / size).floor() + 1) * size, level)


@torch.no_grad()
def target(
    model: VelocityField, x: Float[Tensor, "b t c h w"], level: Float[Tensor, "b t"],
    power: Float[Tensor, "b t"], velocity: Float[Tensor, "b t c h w"],
) -> Float[Tensor, "b t c h w"]:  # fmt: skip
    """The target of samples that learn long steps: the mean velocity of two half steps, or the true one at the finest.

    Args:
        model: (x, level with step size) -> velocity.
        x: latents noised to `level`.
        power: of the step from there.
        velocity: the true one, which the finest steps learn.
    """
    half, smaller = 2.0 ** (power - HALVINGS) / 2, (power - 1).clamp(min=0)
    first = model(x, level_with_step_size(level, smaller))
    second = model(x - half[..., None, None, None] * first, level_with_step_size((level - half).clamp(min=0), smaller))
    return torch.where((power > 0)[..., None, None, None], (first + second) / 2, velocity)


def learned(
    model: VelocityField, latents: Float[Tensor, "b t c h w"], noise: Float[Tensor, "b t c h w"],
    level: Float[Tensor, "b t"], some: slice, uniform: Float[Tensor, "b t"], where: Float[Tensor, "b t"],
) -> tuple[Float[Tensor, "b t c h w"], Float[Tensor, "b t 2"], Float[Tensor, "b t c h w"]]:  # fmt: skip
    """A batch of which `some` samples learn to step far: its latents, level with step size, and target.

    Args:
        model: (x, level with step size) -> velocity, of these samples.
        latents, noise: data and noise of the whole batch.
        level, uniform, where: as in `draw`.
    """
    power, level, goal = torch.zeros_like(level), level.clone(), flow.velocity(latents, noise)
    power[some], level[some] = draw(uniform[some], level[some], where[some])
    x = flow.noised(latents, noise, level)
    if len(power[some]):  # none in this process, perhaps
        goal[some] = target(model, x[some], level[some], power[some], goal[some])
    return x, level_with_step_size(level, power), goal
