"""Block-causal attention over spacetime tokens and rotary positions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from videowm.device import computing_float64
from videowm.dit import passes

try:
    from videowm.dit import fused
except ImportError:  # no Triton, so no GPU that it could serve
    fused = None

# Few queries on a long cache: FlashAttention splits the keys (H100, 64 on 1,088: 10.8 us against cuDNN's 16.1), which
# is of use while streams and heads leave processors idle.
PROCESSORS = 128
CLIP = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
LONG_CACHE = [SDPBackend.FLASH_ATTENTION, *(backend for backend in CLIP if backend != SDPBackend.FLASH_ATTENTION)]
# With a mask, which a text has, the backward pass of cuDNN may give NaN (H100, PyTorch 2.11, its issue 196678).
MASKED = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class Blocks(NamedTuple):
    """A block mask for FlexAttention and what its kernel may take for granted."""

    mask: BlockMask
    options: dict[str, bool]


Mask = Tensor | Blocks | None
# Keys and values "b n l k" of finished steps with room for the present one, and the places "l" that are written to.
Store = tuple[Tensor, Tensor, Tensor]


def block_causal_mask(steps: int, tokens: int, window: int | None = None) -> Bool[Tensor, "l l"]:
    """A mask that is True where attention is allowed: a token sees its own and earlier latent steps; l = t * s.

    Args:
        steps: latent steps of the clip.
        tokens: tokens per latent step.
        window: latent steps seen at most, the own one included; None: all.
    """
    at = torch.arange(steps).repeat_interleave(tokens)
    behind = at[:, None] - at[None, :]
    return (behind >= 0) & (behind < (window or steps))


def block_causal_blocks(steps: int, tokens: int, window: int | None, device: torch.device) -> Blocks:
    """The same mask for FlexAttention, which leaves out what it hides (arXiv 2412.05496).

    Without a window every token sees the first block of keys, so no running maximum is minus infinity: the kernel
    need not ask. With a window that holds for no block, and the same promise gives NaN (seen on an H100).
    """

    def seen(b: Tensor, n: Tensor, query: Tensor, key: Tensor) -> Tensor:
        behind = query // tokens - key // tokens
        return (behind >= 0) & (behind < (window or steps))

    length = steps * tokens
    options = {"PRESCALE_QK": True, "BLOCKS_ARE_CONTIGUOUS": True, "ROWS_GUARANTEED_SAFE": window is None}
    return Blocks(create_block_mask(seen, None, None, length, length, device=device), options)


class Rotary(nn.Module):
    """Rotary position embedding (RoFormer, arXiv 2104.09864, equation 34) over time, height and width.

    Half of a head's channels turn with the latent step, a quarter each with the row and the column. Channels i and
    i + k/2 make a pair, not neighbours as in the paper. Only differences of positions reach the scores, so a rollout
    may count its steps on for ever.

    Args:
        head_size: k, a multiple of 8.
        height, width: of the grid of tokens.
        base: the slowest channel turns by 1/base a position; the paper's 10,000 is for longer sequences.
    """

    def __init__(self, head_size: int, height: int, width: int, base: float = 100.0) -> None:
        super().__init__()
        if head_size % 8:
            raise ValueError(f"head size {head_size} is not a multiple of 8, which rotary positions over 3 axes need")
        self.shape = (height, width)
        self.time = head_size // 4
        self.space = head_size // 8
        self.base = base

    def angles(self, steps: Int[Tensor, " t"]) -> tuple[Float[Tensor, "l half"], Float[Tensor, "l half"]]:
        """Cosine and sine in float32 for the tokens of latent steps with these numbers; l = t * s, half = k/2."""
        height, width = self.shape
        device, steps = steps.device, computing_float64(steps)
        at = {"device": steps.device, "dtype": torch.float64}  # float32 is off by 1e-3 after 10,000 steps
        time = steps.double()[:, None] * self.base ** -(torch.arange(self.time, **at) / self.time)
        frequency = self.base ** -(torch.arange(self.space, **at) / self.space)
        rows = torch.arange(height, **at)[:, None] * frequency
        columns = torch.arange(width, **at)[:, None] * frequency
        t, s = len(steps), height * width
        rows, columns = rows.repeat_interleave(width, 0), columns.repeat(height, 1)
        parts = [part.expand(t, s, -1) for part in (time[:, None], rows[None], columns[None])]
        angle = torch.cat(parts, dim=-1).flatten(0, 1)
        return angle.cos().float().to(device), angle.sin().float().to(device)

    def forward_in_time(self, steps: Int[Tensor, " b"]) -> tuple[Float[Tensor, "b half"], Float[Tensor, "b half"]]:
        """Cosine and sine that move keys on by `steps` latent steps, and not in the picture."""
        tokens = self.shape[0] * self.shape[1]
        return tuple(angle[::tokens] for angle in self.angles(steps))  # a step's first token: row 0 and column 0


def rotate(
    x: Float[Tensor, "b n l k"], cos: Float[Tensor, "*#rows half"], sin: Float[Tensor, "*#rows half"]
) -> Float[Tensor, "b n l k"]:
    """Queries or keys with the channel pairs (i, i + k/2) turned by their angles (arXiv 2104.09864, equation 34).

    The angles are "l half" for all rows, or "b 1 1 half" for all tokens of a row.
    """
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def unit(x: Float[Tensor, "*axes k"], gain: Float[Tensor, " k"]) -> Float[Tensor, "*axes k"]:
    """Root-mean-square normalisation over the last axis (arXiv 1910.07467, equation 4), in the precision of `x`."""
    return F.rms_norm(x, x.shape[-1:], gain.to(x.dtype), eps=1e-6)


def heads_of(
    qkv: Float[Tensor, "b l 3 n k"], gains: Float[Tensor, "2 k"], angles: tuple[Tensor, Tensor]
) -> tuple[Float[Tensor, "b n l k"], Float[Tensor, "b n l k"], Float[Tensor, "b n l k"]]:
    """Queries and keys, normalised with `gains` and turned by `angles` (cosine and sine "l k/2"), and values."""
    if fused is not None and qkv.is_cuda and qkv.shape[-1] & (qkv.shape[-1] - 1) == 0:
        return tuple(x.transpose(1, 2) for x in fused.norm_rotate(qkv, gains, *angles))
    if passes.serves(qkv):
        return passes.NormRotate.apply(qkv, gains, *angles)
    query, key, value = rearrange(qkv, "b l three n k -> three b n l k")
    return rotate(unit(query, gains[0]), *angles), rotate(unit(key, gains[1]), *angles), value


def attention(
    query: Float[Tensor, "b n l k"], key: Float[Tensor, "b n m k"], value: Float[Tensor, "b n m k"], mask: Mask
) -> Float[Tensor, "b n l k"]:
    """softmax(q k / sqrt(head size)) v (arXiv 1706.03762, equation 1), as float32 or half precision comes in.

    On a CPU it is written out, which is twice as fast for short clips.
    """
    if isinstance(mask, Blocks):
        return flex_attention(query, key, value, block_mask=mask.mask, kernel_options=mask.options)
    if query.device.type != "cpu":
        few = query.shape[2] < key.shape[2] and query.shape[0] * query.shape[1] < PROCESSORS
        backends = LONG_CACHE if few else CLIP
        if mask is not None and torch.is_grad_enabled():
            backends = MASKED
        with sdpa_kernel(backends, set_priority=True):
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores += torch.zeros(mask.shape, dtype=scores.dtype).masked_fill_(~mask, float("-inf"))  # no backward pass
    return scores.softmax(dim=-1).to(value.dtype) @ value


class Attention(nn.Module):
    """Multi-head self-attention with normalised queries and keys (QK-norm) and rotary positions.

    QK-norm as in arXiv 2302.05442, section 3.1, with RMSNorm in place of LayerNorm.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.gains = nn.Parameter(torch.ones(2 * width // heads))  # of queries, then of keys
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Float[Tensor, "b t s d"], rotary: tuple[Tensor, Tensor], mask: Mask, store: Store | None
    ) -> Float[Tensor, "b t s d"]:
        """The update of the tokens. With a store, keys and values go into it, and one step then sees all it holds."""
        qkv = rearrange(self.qkv(x), "b t s (three n k) -> b (t s) three n k", three=3, n=self.heads)
        query, key, value = heads_of(qkv, self.gains.view(2, -1), rotary)
        if store is not None:
            keys, values, where = store
            kept = len(where)  # of several steps, those that later ones will still see
            keys.index_copy_(2, where, key[:, :, -kept:].to(keys.dtype))
            values.index_copy_(2, where, value[:, :, -kept:].to(values.dtype))
            if x.shape[1] == 1:
                key, value = keys.to(query.dtype), values.to(query.dtype)
        mixed = attention(query, key, value, mask)
        return self.project(rearrange(mixed, "b n (t s) k -> b t s (n k)", s=x.shape[2]))
