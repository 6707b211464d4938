"""The parts of a block for a CPU, against the plain formulas."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from videowm.dit import passes
from videowm.dit.attention import Rotary, heads_of, rotate, unit
from videowm.dit.model import add_modulate


def gradients(outputs: tuple[torch.Tensor, ...], inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Gradients of a fixed sum over the outputs."""
    torch.manual_seed(1)
    return torch.autograd.grad(sum((out * torch.randn(out.shape)).sum() for out in outputs), inputs)


def same(mine: tuple[torch.Tensor, ...], plain: tuple[torch.Tensor, ...], inputs: list[torch.Tensor]) -> None:
    torch.testing.assert_close(mine, plain)
    torch.testing.assert_close(gradients(mine, inputs), gradients(plain, inputs))


def test_add_modulate():
    """Guards values and all five gradients of the modulated norm, where step and token counts differ."""
    torch.manual_seed(0)
    x, update = (torch.randn(2, 3, 5, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    gate, shift, scale = (torch.randn(2, 3, 1, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert passes.serves(x, update, gate, shift, scale)
    out = x + gate * update
    plain = out, F.rms_norm(out, (8,), eps=1e-6) * (1 + scale) + shift
    same(add_modulate(x, update, gate, shift, scale), plain, [x, update, gate, shift, scale])


def test_heads():
    """Guards values and gradients of normalised and turned queries and keys, and that values pass through."""
    torch.manual_seed(0)
    qkv = torch.randn(2, 12, 3, 2, 16, dtype=torch.float64, requires_grad=True)
    gains = torch.randn(2, 16, dtype=torch.float64, requires_grad=True)
    angles = tuple(part.double() for part in Rotary(16, 2, 2).angles(torch.arange(3)))
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    plain = rotate(unit(query, gains[0]), *angles), rotate(unit(key, gains[1]), *angles), value
    same(heads_of(qkv, gains, angles), plain, [qkv, gains])


def test_gelu():
    """Guards the short cut in half precision: it is as near to GELU by tanh as the rounding of that is."""
    x = torch.linspace(-6, 6, 1001)
    mine, plain = passes.gelu(x.bfloat16()).float(), F.gelu(x.bfloat16().float(), approximate="tanh")
    torch.testing.assert_close(mine, plain, rtol=2**-8, atol=1e-3)
    assert torch.equal(passes.gelu(x), F.gelu(x, approximate="tanh"))
