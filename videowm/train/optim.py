"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def wsd(step: int, steps: int, warmup: float, cooldown: float) -> float:
    """Warmup-stable-decay factor in (0, 1] (arXiv 2405.18392): linear up, flat, then 1 - sqrt down to zero.

    `warmup` (below 1; from 1 on it is a number of steps) and `cooldown` are fractions of the run, so the schedule moves
    with its length.
    """
    rise, fall = warmup if warmup >= 1 else warmup * steps, cooldown * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    if step >= cooldown_from(steps, cooldown):
        return 1 - math.sqrt((step + 1 - (steps - fall)) / (fall + 1))
    return 1.0


def cooldown_from(steps: int, cooldown: float) -> int:
    """The first step at a falling rate: up to here runs of every length are one run, if their warmups are."""
    return math.ceil(steps - cooldown * steps)


def adamw(model: nn.Module, *, lr: float, betas: tuple[float, float], weight_decay: float) -> torch.optim.AdamW:
    """AdamW; only matrices decay, biases and gains do not.

    Each group learns at `scale` times the learning rate, which `model.rates` gives for names that begin alike.
    """
    rates, grouped = getattr(model, "rates", {}), {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = next((rate for start, rate in rates.items() if name.startswith(start)), 1.0)
            grouped.setdefault((-scale, parameter.ndim < 2), []).append(parameter)
    groups = [
        {"params": grouped[key], "weight_decay": 0.0 if key[1] else weight_decay, "scale": -key[0]}
        for key in sorted(grouped)
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


class Guard:
    """Keeps gradients that are not finite out of the weights without waiting for the device.

    The fused AdamW reads `found_inf` where it computes and then leaves weights and moments as they are. The first such
    step stops all later updates too, so that the weights stay what they were before it until someone asks.
    """

    def __init__(self, optimizer: torch.optim.AdamW, device: torch.device) -> None:
        self.norm = torch.zeros((), device=device)  # of the latest gradient, or of the first that was not finite
        self.good = torch.zeros((), device=device, dtype=torch.int64)  # finite gradients before that
        self.bad = optimizer.found_inf = torch.zeros((), device=device)  # 0 or 1

    def see(self, norm: Tensor) -> None:
        """The gradient of the update to come has this norm."""
        self.norm = torch.where(self.norm.isfinite(), norm, self.norm)
        self.bad.copy_(~self.norm.isfinite())
        self.good += 1 - self.bad.long()

    def failed(self) -> tuple[int, float] | None:
        """How many gradients were finite before the first that was not, and its norm; waits for the device."""
        return None if math.isfinite(norm := float(self.norm)) else (int(self.good), norm)


class Average:
    """Exponential moving average of the weights over a fraction of the run (EMA length moves with the run)."""

    def __init__(self, model: nn.Module, steps: float) -> None:
        self.weight = 1 / max(1.0, steps)
        self.values = {k: v.detach().clone().float() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        state = model.state_dict()
        new = [value.detach().float() for value in state.values()]
        torch._foreach_lerp_([self.values[name] for name in state], new, self.weight)  # one kernel for many tensors
