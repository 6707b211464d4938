"""The memory-bound parts of a block for a CPU, in as few passes over memory as PyTorch without a compiler allows.

Autograd's own formulas go over the same numbers again and again, and write most of them down in float32. With these
forward and backward pass of the quickstart's 16x model take 0.7 of the time (docs/log/2026-11-30-quickstart-lead.md).
What is computed is the same; in half precision intermediate results are rounded, as autocast does.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-6


def serves(*tensors: Float[Tensor, ...]) -> bool:
    """Whether these functions take such tensors: on a CPU, of one dtype, and nothing is being compiled."""
    first = tensors[0]
    return first.is_cpu and all(t.dtype == first.dtype for t in tensors) and not torch.compiler.is_compiling()


def inverse_norm(x: Float[Tensor, "*axes d"]) -> Float[Tensor, "*axes 1"]:
    """One over the root mean square of the last axis; sums are in float32."""
    accurate = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=accurate)
    return norm.square_().div_(x.shape[-1]).add_(EPS).rsqrt_().to(x.dtype)


def along(x: Float[Tensor, "*axes d"]) -> Float[Tensor, "*axes 1"]:
    """Mean over the last axis."""
    return x.sum(-1, keepdim=True).div_(x.shape[-1])


class AddModulate(torch.autograd.Function):
    """`videowm.dit.model.add_modulate`."""

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "b t s d"], update: Float[Tensor, "b t s d"], gate: Float[Tensor, "b t 1 d"],
        shift: Float[Tensor, "b t 1 d"], scale: Float[Tensor, "b t 1 d"],
    ) -> tuple[Float[Tensor, "b t s d"], Float[Tensor, "b t s d"]]:  # fmt: skip
        out, scale = torch.addcmul(x, gate, update), scale + 1
        inverse = inverse_norm(out)
        unit = out * inverse
        ctx.save_for_backward(update, gate, scale, unit, inverse)
        return out, torch.addcmul(shift, unit, scale)

    @staticmethod
    def backward(ctx: Any, d_out: Float[Tensor, "b t s d"], d_h: Float[Tensor, "b t s d"]) -> tuple[Tensor, ...]:
        update, gate, scale, unit, inverse = ctx.saved_tensors
        d_unit = d_h * scale
        d_unit = torch.addcmul(d_unit, unit, along(d_unit * unit), value=-1)
        d_x = torch.addcmul(d_out, d_unit, inverse)
        of_step = ((d_x * update), d_h, d_h * unit)
        return d_x, d_x * gate, *(part.sum(2, keepdim=True) for part in of_step)


class NormRotate(torch.autograd.Function):
    """`videowm.dit.attention.heads_of`."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Float[Tensor, "b l 3 n k"], gains: Float[Tensor, ...], cos: Float[Tensor, "#l half"],
        sin: Float[Tensor, "#l half"],
    ) -> tuple[Float[Tensor, "b n l k"], Float[Tensor, "b n l k"], Float[Tensor, "b n l k"]]:  # fmt: skip
        parts = qkv.permute(2, 0, 3, 1, 4).contiguous()  # "3 b n l k"
        inverse = inverse_norm(parts[:2])
        unit = parts[:2] * inverse
        gains, cos, sin = gains.to(unit.dtype)[:, None, None, None], cos.to(unit.dtype), sin.to(unit.dtype)
        ctx.save_for_backward(unit, inverse, gains, cos, sin)
        return *turned(unit * gains, cos, sin), parts[2]

    @staticmethod
    def backward(
        ctx: Any, d_query: Float[Tensor, "b n l k"], d_key: Float[Tensor, "b n l k"], d_value: Float[Tensor, "b n l k"]
    ) -> tuple[Tensor | None, ...]:
        unit, inverse, gains, cos, sin = ctx.saved_tensors
        d_unit = torch.stack([turned(d, cos, -sin) for d in (d_query, d_key)])
        seen = d_unit * unit
        d_gains = seen.flatten(1, 3).sum(1)
        d_unit = torch.addcmul(d_unit * gains, unit, along(seen * gains), value=-1)
        _, b, n, length, k = unit.shape
        d_qkv = unit.new_empty(b, length, 3, n, k)
        parts = d_qkv.permute(2, 0, 3, 1, 4)
        torch.mul(d_unit, inverse, out=parts[:2])
        parts[2].copy_(d_value)
        return d_qkv, d_gains, None, None


def turned(
    x: Float[Tensor, "*axes l k"], cos: Float[Tensor, "#l half"], sin: Float[Tensor, "#l half"]
) -> Float[Tensor, "*axes l k"]:
    """As `videowm.dit.attention.rotate`, each half written once."""
    out = torch.empty_like(x)
    (first, second), half = x.chunk(2, dim=-1), x.shape[-1] // 2
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(first, sin, out=out[..., half:]).addcmul_(second, cos)
    return out


def gelu(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """GELU by tanh; in half precision the exact one, a quarter of the time: they differ by less than it resolves."""
    return F.gelu(x, approximate="none" if serves(x) and x.dtype in (torch.bfloat16, torch.float16) else "tanh")
