"""Block-causal attention over spacetime tokens, rotary positions and the key-value cache."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


def block_causal_mask(query_steps: Tensor, key_steps: Tensor, tokens: int) -> Tensor:
    """Boolean mask: a token sees every token of its own and of earlier latent steps.

    Args:
        query_steps, key_steps: indices of the latent steps, int "t".
        tokens: tokens per latent step.
    Returns:
        bool "t_q*s t_k*s", True where attention is allowed.
    """
    allowed = query_steps[:, None] >= key_steps[None, :]
    return allowed.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)


class Rotary(nn.Module):
    """Rotary position embedding over (time, height, width), RoFormer (arXiv 2104.09864, eq. 34) per axis.

    Half of a head's channels turn with the latent step, a quarter each with the row and the column. Only differences
    of positions reach the scores, so a rollout may count its steps on for ever.
    """

    def __init__(self, head_size: int, height: int, width: int, base: float = 100.0) -> None:
        super().__init__()
        if head_size % 8:
            raise ValueError(f"head size {head_size} is not a multiple of 8, which rotary positions over 3 axes need")
        self.shape = (height, width)
        self.time = head_size // 4
        self.space = head_size // 8
        self.base = base

    def angles(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine "t*s k/2" for latent steps numbered `steps` (int "t")."""
        height, width = self.shape
        at = {"device": steps.device, "dtype": torch.float32}
        time = steps.float()[:, None] * self.base ** -(torch.arange(self.time, **at) / self.time)
        frequency = self.base ** -(torch.arange(self.space, **at) / self.space)
        rows = torch.arange(height, **at)[:, None] * frequency
        columns = torch.arange(width, **at)[:, None] * frequency
        t, s = len(steps), height * width
        angle = torch.cat(
            [
                time[:, None, :].expand(t, s, self.time),
                rows.repeat_interleave(width, 0)[None].expand(t, s, self.space),
                columns.repeat(height, 1)[None].expand(t, s, self.space),
            ],
            dim=-1,
        ).flatten(0, 1)
        return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the channel pairs (i, i + k/2) of "b n l k" by the angles "l k/2"."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def unit(x: Tensor, scale: Tensor) -> Tensor:
    """Root-mean-square normalisation over the last axis, in the precision of `x`."""
    return F.rms_norm(x, x.shape[-1:], scale.to(x.dtype), eps=1e-6)


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention over "b n l k"; written out on a CPU, where short clips make that twice as fast."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1).to(value.dtype) @ value


class KVCache:
    """Keys and values of finished latent steps: read while denoising, appended to once per finished step.

    Holds at most `window` steps per layer; older ones fall out. `steps` are the absolute indices of those held.
    """

    def __init__(self, layers: int, window: int | None = None) -> None:
        self.window = window
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers
        self.steps: list[int] = []
        self.next_step = 0

    def extended(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Cached keys and values "b n l k" of one layer followed by the given ones."""
        if self.keys[layer] is None:
            return keys, values
        return torch.cat([self.keys[layer], keys], dim=2), torch.cat([self.values[layer], values], dim=2)

    def append(self, layer: int, keys: Tensor, values: Tensor, tokens: int) -> None:
        """Store a layer's keys and values of new steps; forget what lies before the window."""
        keys, values = self.extended(layer, keys, values)
        keep = None if self.window is None else self.window * tokens
        if keep is not None and keys.shape[2] > keep:
            keys, values = keys[:, :, -keep:].contiguous(), values[:, :, -keep:].contiguous()
        self.keys[layer], self.values[layer] = keys, values

    def advance(self, count: int) -> None:
        """Number the `count` steps that every layer has just appended."""
        self.steps += range(self.next_step, self.next_step + count)
        self.next_step += count
        if self.window is not None:
            self.steps = self.steps[-self.window :]


class Attention(nn.Module):
    """Multi-head self-attention with QK-norm (arXiv 2302.05442, section 3.1) and rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.query_scale = nn.Parameter(torch.ones(width // heads))
        self.key_scale = nn.Parameter(torch.ones(width // heads))
        self.project = nn.Linear(width, width)

    def heads_of(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values "b n l k" of tokens "b l d"."""
        query, key, value = rearrange(self.qkv(x), "b l (three n k) -> three b n l k", three=3, n=self.heads)
        return rotate(unit(query, self.query_scale), *rotary), rotate(unit(key, self.key_scale), *rotary), value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        out = attention(query, key.to(query.dtype), value.to(query.dtype), mask)
        return self.project(rearrange(out, "b n l k -> b l (n k)"))
