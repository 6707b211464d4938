"""The memory-bound parts of a block as Triton kernels, each reading and writing its tensors once.

Compiled from plain formulas these parts took 15.3 of 58.5 ms of kernels a step
(H100, 130M parameters; docs/log/2026-11-25-fused-kernels.md).
Sums are in float32 and their order is fixed, so the same inputs give the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

EPS = 1e-6


@triton.jit
def add_modulate_kernel(x, y, gate, shift, scale, out, h, steps, tokens, width, batch_stride, step_stride, gate_batch,
                        gate_step, eps: tl.constexpr, ROWS: tl.constexpr, LOOPS: tl.constexpr,
                        BLOCK: tl.constexpr):  # fmt: skip
    step, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.arange(0, BLOCK)
    inside = column < width
    at = (step // steps) * batch_stride + (step % steps) * step_stride + column
    gate_at = (step // steps) * gate_batch + (step % steps) * gate_step + column
    s = tl.load(shift + at, mask=inside, other=0.0).to(tl.float32)
    m = tl.load(scale + at, mask=inside, other=0.0).to(tl.float32) + 1
    g = tl.load(gate + gate_at, mask=inside, other=0.0).to(tl.float32)
    for loop in range(LOOPS):
        row = (chunk * LOOPS + loop) * ROWS + tl.arange(0, ROWS)
        place = (step * tokens + row)[:, None] * width + column[None, :]
        ok = (row < tokens)[:, None] & inside[None, :]
        branch = tl.load(y + place, mask=ok, other=0.0).to(tl.float32)
        stream = tl.load(x + place, mask=ok, other=0.0).to(tl.float32) + g[None, :] * branch
        rounded = stream.to(out.dtype.element_ty)
        tl.store(out + place, rounded, mask=ok)
        stream = rounded.to(tl.float32)  # what the backward pass will read
        norm = tl.rsqrt(tl.sum(stream * stream, axis=1) / width + eps)
        tl.store(h + place, (stream * norm[:, None] * m[None, :] + s[None, :]).to(h.dtype.element_ty), mask=ok)


@triton.jit
def add_modulate_backward_kernel(d_out, d_h, out, y, gate, scale, d_x, d_y, sums, steps, tokens, width, batch_stride,
                                 step_stride, gate_batch, gate_step, eps: tl.constexpr, ROWS: tl.constexpr,
                                 LOOPS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    step, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.arange(0, BLOCK)
    inside = column < width
    at = (step // steps) * batch_stride + (step % steps) * step_stride + column
    gate_at = (step // steps) * gate_batch + (step % steps) * gate_step + column
    m = tl.load(scale + at, mask=inside, other=0.0).to(tl.float32) + 1
    g = tl.load(gate + gate_at, mask=inside, other=0.0).to(tl.float32)
    to_gate = tl.zeros((ROWS, BLOCK), tl.float32)
    to_shift = tl.zeros((ROWS, BLOCK), tl.float32)
    to_scale = tl.zeros((ROWS, BLOCK), tl.float32)
    for loop in range(LOOPS):
        row = (chunk * LOOPS + loop) * ROWS + tl.arange(0, ROWS)
        place = (step * tokens + row)[:, None] * width + column[None, :]
        ok = (row < tokens)[:, None] & inside[None, :]
        stream = tl.load(out + place, mask=ok, other=0.0).to(tl.float32)
        of_h = tl.load(d_h + place, mask=ok, other=0.0).to(tl.float32)
        of_out = tl.load(d_out + place, mask=ok, other=0.0).to(tl.float32)
        branch = tl.load(y + place, mask=ok, other=0.0).to(tl.float32)
        norm = tl.rsqrt(tl.sum(stream * stream, axis=1) / width + eps)[:, None]
        unit = stream * norm
        to_shift += of_h
        to_scale += of_h * unit
        of_unit = of_h * m[None, :]
        along = tl.sum(of_unit * unit, axis=1) / width
        of_stream = (of_unit - unit * along[:, None]) * norm + of_out
        to_gate += of_stream * branch
        tl.store(d_x + place, of_stream.to(d_x.dtype.element_ty), mask=ok)
        tl.store(d_y + place, (of_stream * g[None, :]).to(d_y.dtype.element_ty), mask=ok)
    into = sums + ((step * tl.num_programs(1) + chunk) * 3) * width + column
    tl.store(into, tl.sum(to_gate, axis=0), mask=inside)
    tl.store(into + width, tl.sum(to_shift, axis=0), mask=inside)
    tl.store(into + 2 * width, tl.sum(to_scale, axis=0), mask=inside)


def tile(tokens: int, width: int, steps: int) -> tuple[dict[str, int], int]:
    """Rows and columns of a tile, tiles and warps a program, and how many programs share a latent step.

    Among the fastest of 14 (H100): widths that are no power of 2 leave lanes idle and want smaller tiles.
    """
    block = triton.next_power_of_2(width)
    size, warps, most = (4096, 8, 8) if block == width else (2048, 4, 16)
    rows = max(1, size // block)
    loops = 1 if steps * tokens < 16384 else min(most, triton.cdiv(tokens, rows))  # a short clip needs all programs
    return {"ROWS": rows, "LOOPS": loops, "BLOCK": block, "num_warps": warps}, triton.cdiv(tokens, rows * loops)


@triton_op("videowm::add_modulate", mutates_args={})
def add_modulate(x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """x + gate * y "b t s d", and that normalised, scaled by 1 + scale and shifted; gate, shift, scale "b t 1 d"."""
    x, y = x.contiguous(), y.contiguous()
    b, t, s, d = x.shape
    out, h = torch.empty_like(x), torch.empty_like(x)
    settings, chunks = tile(s, d, b * t)
    wrap_triton(add_modulate_kernel)[(b * t, chunks)](
        x, y, gate, shift, scale, out, h, t, s, d, scale.stride(0), scale.stride(1), gate.stride(0), gate.stride(1),
        EPS, **settings,
    )  # fmt: skip
    return out, h


@triton_op("videowm::add_modulate_backward", mutates_args={})
def add_modulate_backward(
    d_out: Tensor, d_h: Tensor, out: Tensor, y: Tensor, gate: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and y "b t s d", and of gate, shift and scale as float32 "b t 3 d"."""
    d_out, d_h, y = d_out.contiguous(), d_h.contiguous(), y.contiguous()
    b, t, s, d = out.shape
    d_x, d_y = torch.empty_like(out), torch.empty_like(y)
    settings, chunks = tile(s, d, b * t)
    sums = torch.empty(b, t, chunks, 3, d, dtype=torch.float32, device=out.device)
    wrap_triton(add_modulate_backward_kernel)[(b * t, chunks)](
        d_out, d_h, out, y, gate, scale, d_x, d_y, sums, t, s, d, scale.stride(0), scale.stride(1), gate.stride(0),
        gate.stride(1), EPS, **settings,
    )  # fmt: skip
    return d_x, d_y, sums.sum(2)


def save_add_modulate(ctx, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    _, y, gate, _, scale = inputs
    ctx.save_for_backward(output[0], y, gate, scale)


def backward_add_modulate(ctx, d_out: Tensor | None, d_h: Tensor):
    out, y, gate, scale = ctx.saved_tensors
    d_out = torch.zeros_like(d_h) if d_out is None else d_out
    d_x, d_y, sums = add_modulate_backward(d_out, d_h, out, y, gate, scale)
    return d_x, d_y, *(part.unsqueeze(2).to(scale.dtype) for part in sums.unbind(2))


add_modulate.register_autograd(backward_add_modulate, setup_context=save_add_modulate)


@triton.jit
def norm_rotate_kernel(qkv, gains, cos, sin, q, k, v, heads, length, count, eps: tl.constexpr, K: tl.constexpr,
                       ROWS: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # over tokens and heads
    half = tl.arange(0, K // 2)
    ok = (row < count)[:, None]
    token, head = row // heads, row % heads
    angle = (token % length)[:, None] * (K // 2) + half[None, :]
    c, s = tl.load(cos + angle, mask=ok, other=0.0), tl.load(sin + angle, mask=ok, other=0.0)
    place = row[:, None] * K + half[None, :]
    for which in tl.static_range(3):
        base = ((token * 3 + which) * heads + head)[:, None] * K + half[None, :]
        a, b = tl.load(qkv + base, mask=ok, other=0.0), tl.load(qkv + base + K // 2, mask=ok, other=0.0)
        if which == 2:
            tl.store(v + place, a, mask=ok)
            tl.store(v + place + K // 2, b, mask=ok)
        else:
            a, b = a.to(tl.float32), b.to(tl.float32)
            norm = tl.rsqrt((tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1)) / K + eps)[:, None]
            a = a * norm * tl.load(gains + which * K + half)[None, :]
            b = b * norm * tl.load(gains + which * K + K // 2 + half)[None, :]
            into = q if which == 0 else k
            tl.store(into + place, (a * c - b * s).to(q.dtype.element_ty), mask=ok)
            tl.store(into + place + K // 2, (a * s + b * c).to(q.dtype.element_ty), mask=ok)


@triton.jit
def norm_rotate_backward_kernel(d_q, d_k, d_v, qkv, gains, cos, sin, d_qkv, sums, heads, length, count,
                                q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head,
                                eps: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    program = tl.program_id(0)
    row = program.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    half = tl.arange(0, K // 2)
    ok = (row < count)[:, None]
    token, head = row // heads, row % heads
    batch, place = token // length, token % length
    angle = place[:, None] * (K // 2) + half[None, :]
    c, s = tl.load(cos + angle, mask=ok, other=0.0), tl.load(sin + angle, mask=ok, other=0.0)
    for which in tl.static_range(3):
        base = ((token * 3 + which) * heads + head)[:, None] * K + half[None, :]
        if which == 0:
            given = d_q + (batch * q_batch + place * q_token + head * q_head)[:, None] + half[None, :]
        elif which == 1:
            given = d_k + (batch * k_batch + place * k_token + head * k_head)[:, None] + half[None, :]
        else:
            given = d_v + (batch * v_batch + place * v_token + head * v_head)[:, None] + half[None, :]
        first, second = tl.load(given, mask=ok, other=0.0), tl.load(given + K // 2, mask=ok, other=0.0)
        if which == 2:
            tl.store(d_qkv + base, first.to(d_qkv.dtype.element_ty), mask=ok)
            tl.store(d_qkv + base + K // 2, second.to(d_qkv.dtype.element_ty), mask=ok)
        else:
            first, second = first.to(tl.float32), second.to(tl.float32)
            a = tl.load(qkv + base, mask=ok, other=0.0).to(tl.float32)
            b = tl.load(qkv + base + K // 2, mask=ok, other=0.0).to(tl.float32)
            norm = tl.rsqrt((tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1)) / K + eps)[:, None]
            a, b = a * norm, b * norm
            of_a, of_b = first * c + second * s, second * c - first * s
            into = sums + (program * 2 + which) * K + half
            tl.store(into, tl.sum(of_a * a, axis=0))
            tl.store(into + K // 2, tl.sum(of_b * b, axis=0))
            of_a *= tl.load(gains + which * K + half)[None, :]
            of_b *= tl.load(gains + which * K + K // 2 + half)[None, :]
            along = ((tl.sum(of_a * a, axis=1) + tl.sum(of_b * b, axis=1)) / K)[:, None]
            tl.store(d_qkv + base, ((of_a - a * along) * norm).to(d_qkv.dtype.element_ty), mask=ok)
            tl.store(d_qkv + base + K // 2, ((of_b - b * along) * norm).to(d_qkv.dtype.element_ty), mask=ok)


@triton_op("videowm::norm_rotate", mutates_args={})
def norm_rotate(qkv: Tensor, gains: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys (normalised, with gains "2 k", turned by "l k/2") and values, "b l n k" each, of "b l 3 n k"."""
    qkv = qkv.contiguous()
    b, length, _, n, k = qkv.shape
    q, key, v = (qkv.new_empty(b, length, n, k) for _ in range(3))
    rows = max(1, 4096 // k)
    wrap_triton(norm_rotate_kernel)[(triton.cdiv(b * length * n, rows),)](
        qkv, gains, cos, sin, q, key, v, n, length, b * length * n, EPS, K=k, ROWS=rows, num_warps=4
    )
    return q, key, v


@triton_op("videowm::norm_rotate_backward", mutates_args={})
def norm_rotate_backward(
    d_q: Tensor, d_k: Tensor, d_v: Tensor, qkv: Tensor, gains: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of qkv "b l 3 n k" and of the gains, float32 "2 k"."""
    qkv = qkv.contiguous()
    b, length, _, n, k = qkv.shape
    d_q, d_k, d_v = (d if d.stride(3) == 1 else d.contiguous() for d in (d_q, d_k, d_v))
    rows = max(1, 2048 // k)
    programs = triton.cdiv(b * length * n, rows)
    d_qkv, sums = torch.empty_like(qkv), torch.empty(programs, 2, k, dtype=torch.float32, device=qkv.device)
    wrap_triton(norm_rotate_backward_kernel)[(programs,)](
        d_q, d_k, d_v, qkv, gains, cos, sin, d_qkv, sums, n, length, b * length * n,
        *d_q.stride()[:3], *d_k.stride()[:3], *d_v.stride()[:3], EPS, K=k, ROWS=rows, num_warps=2,
    )  # fmt: skip
    return d_qkv, sums.sum(0)


def save_norm_rotate(ctx, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs)


def backward_norm_rotate(ctx, d_q: Tensor, d_k: Tensor, d_v: Tensor):
    qkv, gains, cos, sin = ctx.saved_tensors
    d_qkv, d_gains = norm_rotate_backward(d_q, d_k, d_v, qkv, gains, cos, sin)
    return d_qkv, d_gains.to(gains.dtype), None, None


norm_rotate.register_autograd(backward_norm_rotate, setup_context=save_norm_rotate)
