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


def orthogonal_on_cpu(x: Tensor) -> Tensor:
    """`orthogonal` of bfloat16 matrices "n a b" for a CPU, where wide ones take 4 products with x in place of 10.

    A step multiplies x by a polynomial of x xᵀ. Some steps in a row are taken on this small matrix alone, and x is
    multiplied once. Rounding errors in it grow 12-fold a step, so after three it is made anew.
    """
    short, long = sorted(x.shape[-2:])
    first, *others = (3, 2) if long >= 2 * short else (1, 1, 1, 1, 1)
    gram = gram_of(x)
    square = gram.diagonal(dim1=-2, dim2=-1).sum(-1, dtype=torch.float32)[:, None, None].clamp(min=EPSILON**2)
    x = multiplied(x, newton_schulz(gram.div_(square), first).mul_(square.rsqrt()))
    for steps in others:
        x = multiplied(x, newton_schulz(gram_of(x), steps))
    return x


def gram_of(x: Tensor) -> Tensor:
    """x xᵀ "n a a" of matrices "n a b", of tall ones xᵀ x "n b b". A batch of one would be copied to be transposed."""
    left, right = (x.mT, x) if x.shape[-2] > x.shape[-1] else (x, x.mT)
    return left @ right if len(x) > 1 else (left[0] @ right[0])[None]


def multiplied(x: Tensor, factor: Tensor) -> Tensor:
    """Matrices "n a b" times what is of the size of their `gram_of`."""
    return x @ factor if x.shape[-2] > x.shape[-1] else factor @ x


def newton_schulz(gram: Tensor, steps: int) -> Tensor:
    """What matrices x are multiplied by in some steps, from their x xᵀ "n a a"."""
    a, b, c = NEWTON_SCHULZ
    factor = None
    for step in range(steps):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        factor = polynomial if factor is None else factor @ polynomial
        if step < steps - 1:
            gram = polynomial @ gram @ polynomial
    return factor


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
    """`Muon.move` for a CPU: a matrix is read again while it is in the cache, and calls cost nothing."""
    updates = torch.empty(len(matrices), *matrices[0].flatten(1).shape, dtype=torch.bfloat16)
    for update, p, buffer in zip(updates, matrices, buffers):
        buffer.lerp_(p.grad, 1 - MOMENTUM)
        update.view(p.shape).copy_(p.grad.lerp(buffer, MOMENTUM))
    rate = lr * MATCHED * max(updates.shape[-2:]) ** 0.5
    for update, p in zip(orthogonal_on_cpu(updates), matrices):
        if weight_decay:
            p.mul_(1 - lr * weight_decay)
        p.add_(update.view(p.shape), alpha=-rate)


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
