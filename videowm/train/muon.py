"""Muon for the hidden matrices, AdamW for everything else, as one optimiser."""

from __future__ import annotations

import time

import torch
from torch import Tensor

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # of the five steps, steep at zero: Muon's own
EPSILON = 1e-7
MATCHED = 0.2  # root mean square of an update in learning rates, as of AdamW


def orthogonal(matrices: Tensor) -> Tensor:
    """Singular values of "n a b" brought near 1 by five Newton-Schulz steps in bfloat16 (arXiv 2502.16982, eq. 2)."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=EPSILON)
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.AdamW):
    """AdamW whose groups with `orthogonal: True` hold matrices moved by Muon (arXiv 2502.16982, eq. 4).

    As in the fused AdamW nothing moves where `found_inf` is 1. Matrices of one shape go through Newton-Schulz together:
    torch.optim.Muon takes them one by one and has no `found_inf`, else it computes the same.
    """

    def __init__(self, groups: list[dict], **settings) -> None:
        super().__init__(groups, **settings)
        self.clock = Clock()

    @torch.no_grad()
    def step(self, closure=None) -> None:
        every = self.param_groups
        try:
            self.param_groups = [group for group in every if not group["orthogonal"]]
            super().step(closure)
        finally:
            self.param_groups = every
        moved = [group for group in every if group["orthogonal"]]
        self.clock.start(moved[0]["params"][0].device)
        for group in moved:
            for shape in sorted({p.shape for p in group["params"] if p.grad is not None}):
                same = [p for p in group["params"] if p.grad is not None and p.shape == shape]
                self.move(same, group["lr"], group["weight_decay"])
        self.clock.stop()

    def move(self, matrices: list[Tensor], lr: float, weight_decay: float) -> None:
        """One step of matrices of one shape; a convolution "out in y x" is a matrix of all its inputs."""
        for p in matrices:
            if "momentum_buffer" not in self.state[p]:
                # AdamW looks for a step in every state that it loads.
                self.state[p] |= {"step": torch.zeros((), device=p.device), "momentum_buffer": torch.zeros_like(p)}
        buffers, shape = [self.state[p]["momentum_buffer"] for p in matrices], matrices[0].shape
        bad = getattr(self, "found_inf", None)
        if matrices[0].is_cpu:
            if not bad:
                move_in_place(matrices, buffers, lr, weight_decay)
            return
        gradient, weight = stacked([p.grad for p in matrices]), stacked(matrices)
        before = stacked(buffers)
        momentum = before.lerp(gradient, 1 - MOMENTUM)
        update = orthogonal(gradient.lerp(momentum, MOMENTUM)).to(weight.dtype)
        rate = lr * MATCHED * max(weight.shape[-2:]) ** 0.5
        after = weight * (1 - lr * weight_decay) - rate * update
        if bad is not None:
            after, momentum = torch.where(bad > 0, weight, after), torch.where(bad > 0, before, momentum)
        torch._foreach_copy_(matrices, [one.view(shape) for one in after])
        torch._foreach_copy_(buffers, [one.view(shape) for one in momentum])


def move_in_place(matrices: list[Tensor], buffers: list[Tensor], lr: float, weight_decay: float) -> None:
    """`Muon.move` in fewer passes over memory, which count on a CPU, and more calls, which count on a GPU."""
    gradients = [p.grad for p in matrices]
    torch._foreach_lerp_(buffers, gradients, 1 - MOMENTUM)
    update = orthogonal(stacked(torch._foreach_lerp(gradients, buffers, MOMENTUM)))
    rate = lr * MATCHED * max(update.shape[-2:]) ** 0.5
    if weight_decay:
        torch._foreach_mul_(matrices, 1 - lr * weight_decay)
    moves = update.to(matrices[0].dtype).unbind()
    torch._foreach_add_(matrices, [one.reshape(p.shape) for one, p in zip(moves, matrices)], alpha=-rate)


def stacked(tensors: list[Tensor]) -> Tensor:
    """Tensors of one shape as matrices "n a b", b all axes but the first."""
    return torch.stack([one.flatten(1) for one in tensors])


class Clock:
    """Device seconds from `start` to `stop`; on a GPU the host waits for them only when they are read."""

    def __init__(self) -> None:
        self.spans: list[tuple] = []

    def start(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.began = self.now()

    def stop(self) -> None:
        self.spans.append((self.began, self.now()))

    def now(self):
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def mean(self) -> float:
        """Seconds a span since the last reading."""
        spans, self.spans = self.spans, []
        if not self.cuda:
            return sum(end - began for began, end in spans) / len(spans)
        spans[-1][1].synchronize()
        return sum(began.elapsed_time(end) for began, end in spans) / 1000 / len(spans)
