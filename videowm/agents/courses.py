"""What a planner draws courses of actions from: for every step a chance of each named action, or a Gaussian."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

EXPLORE = 0.2  # of the draws of a named action, as many ignore the plan
NARROWEST = 0.1  # deviation of a Gaussian at least, in standard deviations of the recorded actions
DEVIATIONS = 2.0  # how far from their mean actions of numbers may go


class Courses(Protocol):
    """A family of plans. A plan is a tensor "n h p": what is known of h steps of n rows, in p numbers each."""

    def blank(self, rows: int, steps: int) -> Float[Tensor, "n h p"]:
        """Plans that know nothing."""

    def draw(self, plan: Float[Tensor, "n h p"], count: int, generator: torch.Generator) -> Tensor:
        """`count` courses of every row."""

    def actions(self, drawn: Tensor) -> Float[Tensor, "n N h a"]:
        """The game's own numbers of drawn courses."""

    def refit(self, drawn: Tensor, weight: Float[Tensor, "n N"]) -> Float[Tensor, "n h p"]:
        """The plans that would have drawn these courses, by weights that sum to 1 in each row."""

    def first(self, plan: Float[Tensor, "n h p"]) -> Float[Tensor, "n a"]:
        """The action that a plan begins with."""

    def later(self, plan: Float[Tensor, "n h p"]) -> Float[Tensor, "n h p"]:
        """The plans as they are a step later."""


class Named:
    """Courses of named actions; a plan holds the probability of each.

    Args:
        table: the game's numbers of every name.
        hold: how likely a step's action is the one before it, whatever the plan says.
    """

    def __init__(self, table: Float[Tensor, "p a"], hold: float) -> None:
        self.table, self.hold = table, hold

    def blank(self, rows: int, steps: int) -> Float[Tensor, "n h p"]:
        """All names are as likely."""
        return torch.full((rows, steps, len(self.table)), 1 / len(self.table))

    def draw(self, plan: Float[Tensor, "n h p"], count: int, generator: torch.Generator) -> Int[Tensor, "n N h"]:
        """Numbers of names. Where there is room for it, each action held all along is among them."""
        n, h, names = plan.shape
        chances = ((1 - EXPLORE) * plan + EXPLORE / names).flatten(0, 1)
        drawn = torch.multinomial(chances, count, replacement=True, generator=generator).view(n, h, count).mT.clone()
        keeps = torch.rand(drawn.shape, generator=generator) < self.hold
        for step in range(1, h):
            drawn[..., step] = torch.where(keeps[..., step], drawn[..., step - 1], drawn[..., step])
        if count >= 2 * names:
            drawn[:, :names] = torch.arange(names)[:, None]
        return drawn

    def actions(self, drawn: Int[Tensor, "n N h"]) -> Float[Tensor, "n N h a"]:
        """What the names mean."""
        return self.table[drawn]

    def refit(self, drawn: Int[Tensor, "n N h"], weight: Float[Tensor, "n N"]) -> Float[Tensor, "n h p"]:
        """The weighted share of each name."""
        return torch.stack([torch.einsum("nN,nNh->nh", weight, (drawn == name).float())
                            for name in range(len(self.table))], dim=-1)  # fmt: skip

    def first(self, plan: Float[Tensor, "n h p"]) -> Float[Tensor, "n a"]:
        """The likeliest name."""
        return self.table[plan[:, 0].argmax(-1)]

    def later(self, plan: Float[Tensor, "n h p"]) -> Float[Tensor, "n h p"]:
        """Nothing is known of the last step."""
        return torch.cat([plan[:, 1:], self.blank(len(plan), 1)], dim=1)


class Numbers:
    """Courses of an action's own numbers; a plan holds means, then deviations, both as training normalises actions.

    Args:
        mean, std: of the recorded actions.
        hold: correlation of a step's noise with the one before it.
    """

    def __init__(self, mean: Float[Tensor, " a"], std: Float[Tensor, " a"], hold: float) -> None:
        self.mean, self.std, self.hold = mean, std, hold

    def blank(self, rows: int, steps: int) -> Float[Tensor, "n h p"]:
        """As the recording's players acted."""
        zeros = torch.zeros(rows, steps, len(self.mean))
        return torch.cat([zeros, zeros + 1], dim=-1)

    def draw(self, plan: Float[Tensor, "n h p"], count: int, generator: torch.Generator) -> Float[Tensor, "n N h a"]:
        """Normalised numbers, at most `DEVIATIONS` from 0; the noise of a step follows that of the one before.

        Of several courses the first is the plan as it is, so that a good one is given up only for a better one.
        """
        mean, std = plan[:, None].chunk(2, dim=-1)
        noise = torch.randn(len(plan), count, plan.shape[1], len(self.mean), generator=generator)
        for step in range(1, plan.shape[1]):
            noise[:, :, step] = self.hold * noise[:, :, step - 1] + (1 - self.hold**2) ** 0.5 * noise[:, :, step]
        noise[:, : count > 1] = 0
        return (mean + std * noise).clamp(-DEVIATIONS, DEVIATIONS)

    def actions(self, drawn: Float[Tensor, "n N h a"]) -> Float[Tensor, "n N h a"]:
        """In the game's units."""
        return self.mean + self.std * drawn

    def refit(self, drawn: Float[Tensor, "n N h a"], weight: Float[Tensor, "n N"]) -> Float[Tensor, "n h p"]:
        """Weighted means and deviations."""
        weight = weight[..., None, None]
        mean = (weight * drawn).sum(1)
        std = (weight * (drawn - mean[:, None]).square()).sum(1).sqrt()
        return torch.cat([mean, std.clamp_min(NARROWEST)], dim=-1)

    def first(self, plan: Float[Tensor, "n h p"]) -> Float[Tensor, "n a"]:
        """The mean."""
        return self.mean + self.std * plan[:, 0, : len(self.mean)]

    def later(self, plan: Float[Tensor, "n h p"]) -> Float[Tensor, "n h p"]:
        """Means move on, and are as uncertain as in the beginning."""
        means = torch.cat([plan[:, 1:, : len(self.mean)], plan.new_zeros(len(plan), 1, len(self.mean))], dim=1)
        return torch.cat([means, torch.ones_like(means)], dim=-1)
