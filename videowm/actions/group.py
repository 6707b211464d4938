"""The one place where actions meet latent steps."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from videowm.types import UserError, latent_steps


def grouped_size(action_size: int, stride: int) -> int:
    """Numbers in one grouped action: `stride` actions and a flag, 1 where they are there."""
    return action_size * stride + 1


def group_actions(
    actions: Float[Tensor, "b n a"], stride: int, *, first: Float[Tensor, "b k a"] | None = None
) -> Float[Tensor, "b t g"]:
    """The actions of a clip, grouped by the latent step that they lead to.

    Args:
        actions: n = f-1 of them; action i leads frame i to frame i+1.
        stride: time stride k of the autoencoder; f must be 1 + k * (t-1).
        first: the k actions that led to the first step, when the clip goes on from an earlier one.

    Returns:
        g = k*a+1 numbers a step: the k actions that lead to it, then 1. The first step of a clip has no actions and
        is all zeros.

    Raises:
        UserError: n actions do not fit the stride; the sentence names the lengths that do.
    """
    b, count, a = actions.shape
    steps = latent_steps(count + 1, stride)
    groups = rearrange(actions, "b (t k) a -> b t (k a)", k=stride)
    groups = torch.cat([groups, torch.ones_like(groups[..., :1]) if steps > 1 else groups.new_zeros(b, 0, 1)], dim=-1)
    head = groups.new_zeros(b, 1, grouped_size(a, stride))
    if first is not None:
        head = torch.cat([rearrange(first, "b k a -> b 1 (k a)"), groups.new_ones(b, 1, 1)], dim=-1)
    return torch.cat([head, groups], dim=1)


def drop_actions(grouped: Float[Tensor, "b t g"], drop: Bool[Tensor, " b"]) -> Float[Tensor, "b t g"]:
    """Grouped actions without those of the samples marked in `drop`, as the model without actions sees them.

    The presence flag is zeroed too. The guidance branch without actions is trained on this (Ho and Salimans 2022,
    arXiv 2207.12598).
    """
    return grouped * (~drop)[:, None, None]


def check_actions(actions: Shaped[Tensor, "*shape"], *, frames: int | None = None, size: int | None = None) -> None:
    """Refuse actions that are not finite, or whose length or size does not fit.

    Args:
        actions: "n a" as a user gave them, of any shape.
        frames: of the clip, which has one action fewer; None: any.
        size: numbers in an action; None: any.

    Raises:
        UserError: one of these does not hold.
    """
    if actions.ndim != 2 or (size is not None and actions.shape[1] != size):
        raise UserError(f"actions have shape {tuple(actions.shape)}, expected (frames - 1, {size or 'action size'})")
    if frames is not None and len(actions) != frames - 1:
        raise UserError(
            f"{len(actions)} actions were given for {frames} frames, expected {frames - 1}: "
            "action i leads frame i to frame i+1"
        )
    bad = (~torch.isfinite(actions)).any(dim=1).nonzero()
    if len(bad):
        raise UserError(f"action {int(bad[0])} is {actions[int(bad[0])].tolist()}, expected finite numbers")
