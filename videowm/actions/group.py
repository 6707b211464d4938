"""The one place where actions meet latent steps."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from videowm.types import UserError, latent_steps


def grouped_size(action_size: int, stride: int) -> int:
    """Numbers in one grouped action: `stride` actions and one that says whether they are there."""
    return action_size * stride + 1


def group_actions(actions: Tensor, stride: int, *, first: Tensor | None = None) -> Tensor:
    """Group the actions of a clip by the latent step that they lead to.

    Args:
        actions: "b f-1 a"; action i leads frame i to frame i+1.
        stride: time stride k of the VAE; f must be 1 + k * (t-1).
        first: the k actions "b k a" that led to the first step, when the clip goes on from an earlier one.
    Returns:
        "b t k*a+1": the k actions leading to each step, then 1. The first step of a clip has no actions: all zeros.
    """
    b, count, a = actions.shape
    steps = latent_steps(count + 1, stride)
    groups = rearrange(actions, "b (t k) a -> b t (k a)", k=stride)
    groups = torch.cat([groups, torch.ones_like(groups[..., :1]) if steps > 1 else groups.new_zeros(b, 0, 1)], dim=-1)
    head = groups.new_zeros(b, 1, grouped_size(a, stride))
    if first is not None:
        head = torch.cat([rearrange(first, "b k a -> b 1 (k a)"), groups.new_ones(b, 1, 1)], dim=-1)
    return torch.cat([head, groups], dim=1)


def drop_actions(grouped: Tensor, drop: Tensor) -> Tensor:
    """Zero the grouped actions "b t g" of the samples marked in `drop` (bool "b"): the unconditional branch."""
    return grouped * (~drop)[:, None, None]


def check_actions(actions: Tensor, *, frames: int | None = None, size: int | None = None) -> None:
    """Refuse actions "f-1 a" of a wrong length, of a wrong size, or that are not finite."""
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
