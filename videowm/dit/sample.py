"""Samplers are functions of a velocity function: the caller closes over model, actions, guidance and cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from videowm import config as configuration
from videowm.dit.shortcut import power_of
from videowm.limits import Guidance, Range, Share, Whole
from videowm.types import UserError

Steps = Annotated[int, Range(at_least=1, at_most=1000)]
Velocity = Callable[[Tensor, int], Tensor]  # (x, i) -> velocity of x at levels[i]


@dataclass(frozen=True)
class Sampler:
    """How a latent step is drawn. A guidance of 1 is none; each other one costs one more stream of the batch.

    Nine evaluations by default, and noise on finished steps: the best over 256 frames
    (docs/log/2026-11-25-sampler-steps.md, docs/log/2026-11-28-context-noise.md). A shortcut model gets the step size of
    1, 2, 4, 8 or 16 equal Euler steps.
    """

    steps: Steps = 5  # Euler: evaluations of the network; Heun: intervals, two evaluations each but the last
    method: Literal["euler", "heun"] = "heun"  # of integration
    levels: list[Share] | None = None  # the levels themselves, from 1 to 0, instead of `steps`
    shift: Annotated[float, Range(above=0, at_most=1000)] | None = None  # of the schedule; None: the model's own
    action_guidance: Guidance = 1.0  # classifier-free (arXiv 2207.12598) on the actions, dropped in training
    text_guidance: Guidance = 1.0  # the same on the text, against the empty one
    history_guidance: Guidance = 1.0  # on the context (arXiv 2502.06764), against a context noised to `history_level`
    history_level: Share = 1.0  # noise level of that context
    context_level: Share = 0.3  # noise on finished steps, with this as their level: hides what drifts
    sinks: Whole = 0  # first steps that a sliding window never forgets

    def __post_init__(self) -> None:
        if (levels := self.levels) is None:
            return
        falls = all(a > b for a, b in zip(levels, levels[1:]))
        if not falls or len(levels) < 2 or levels[0] != 1 or levels[-1]:
            raise UserError(f"sampler.levels {levels} is no schedule: levels must fall from 1 to 0")

    def schedule(self, shift: float) -> Float[Tensor, " levels"]:
        """The levels from 1 to 0, one more than intervals; `shift` is the model's own."""
        if self.levels is not None:
            return torch.tensor(self.levels)
        return schedule(self.steps, shift if self.shift is None else self.shift)

    def powers(self, shift: float) -> list[int]:
        """The step size of each interval as a shortcut model takes it (`videowm.dit.shortcut`)."""
        levels = self.schedule(shift).tolist()
        return [power_of(a, b) if self.method == "euler" else 0 for a, b in zip(levels, levels[1:])]


def sampler_of(run: Path) -> Sampler:
    """The sampler that a run was evaluated with, or the default."""
    content = configuration.read(run / "config.yaml") if (run / "config.yaml").exists() else {}
    given = (content.get("rollout") or {}).get("sampler") or {}
    return configuration.build(Sampler, given, where=f"{run}/config.yaml, rollout.sampler")


def schedule(steps: int, shift: float = 1.0) -> Float[Tensor, " levels"]:
    """`steps` + 1 levels from 1 to 0; shift > 1 spends more at high noise (arXiv 2403.03206, equation 23)."""
    level = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return (shift * level / (1 + (shift - 1) * level)).float()


def euler(velocity: Velocity, x: Float[Tensor, "*shape"], levels: Sequence[float]) -> Float[Tensor, "*shape"]:
    """The end of the path dx/dlevel = velocity from levels[0] to levels[-1], by Euler's method (first order).

    Args:
        velocity: called with x and the index of its level.
        x: noise at levels[0], of any shape.
        levels: falling, from 1 (noise) to 0 (data).
    """
    for i in range(len(levels) - 1):
        x = x + (levels[i + 1] - levels[i]) * velocity(x, i)
    return x


def heun(velocity: Velocity, x: Float[Tensor, "*shape"], levels: Sequence[float]) -> Float[Tensor, "*shape"]:
    """As `euler`, by Heun's method (second order). The last step is Euler's (arXiv 2206.00364, algorithm 1)."""
    for i in range(len(levels) - 2):
        size = levels[i + 1] - levels[i]
        slope = velocity(x, i)
        x = x + size * (slope + velocity(x + size * slope, i + 1)) / 2
    return x + (levels[-1] - levels[-2]) * velocity(x, len(levels) - 2)


METHODS = {"euler": euler, "heun": heun}
