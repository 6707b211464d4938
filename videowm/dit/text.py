"""Text as a condition: read to tokens once, for cross-attention in every block or as a pooled mean.

An encoder is one of two kinds. A small one reads the bytes of words and is trained with the network (ids as ByT5's,
arXiv 2105.13626, without files). A frozen one is any text encoder of transformers (T5, CLIP, ...).
"""

from __future__ import annotations

import re
from functools import cache
from itertools import chain
from typing import NamedTuple, Protocol

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from videowm.dit.attention import attention, unit
from videowm.files import short_hash_of
from videowm.types import UserError, first_line

# Features "b m e" of a frozen encoder, or byte ids "b m p" for the encoder that is trained; and a mask, bool "b m".
TextTokens = tuple[Tensor, Tensor]
IDS = 259  # padding, end, unknown, then the 256 bytes
LETTERS = 12  # bytes of a token of the byte encoder; a longer word takes several
LAYERS = 2  # of the byte encoder


class TextKeysValues(NamedTuple):
    """Keys and values "b n m k" of one block's cross-attention, and a mask, bool "b 1 1 m", False at padding."""

    key: Tensor
    value: Tensor
    mask: Tensor


class TextConditioning(NamedTuple):
    """A text as the network takes it, computed once for a clip or a stream."""

    pooled: Tensor | None  # "b d", from the mean over tokens; added to the condition of every latent step
    blocks: list[TextKeysValues | None]

    def of_rows(self, rows: Int[Tensor, " r"]) -> TextConditioning:
        """The conditioning of some of the texts."""
        pooled = None if self.pooled is None else self.pooled[rows]
        return TextConditioning(pooled, [b and TextKeysValues(*(part[rows] for part in b)) for b in self.blocks])


class TextEncoder(Protocol):
    """Makes tokens of captions."""

    def encode(self, captions: list[str]) -> TextTokens:
        """Tokens and mask of captions, on the CPU."""


class ByteText:
    """Captions as the byte ids of their words, one token a word; the encoder itself is part of the network.

    Args:
        length: words kept of a caption, 1 or more.
    """

    def __init__(self, length: int) -> None:
        self.length = length

    def encode(self, captions: list[str]) -> TextTokens:
        """Ids int16 "b m p" (padding 0, end 1, byte + 3) and mask; what is too long is cut off before the end."""
        known: dict[bytes, int] = {b"": 0}  # each piece of a word once: many captions have few words

        @cache
        def numbers(chunk: str) -> list[int]:
            words = [word.encode(errors="replace") for word in re.findall(r"\w+|[^\w\s]", chunk)]
            pieces = [word[i : i + LETTERS] for word in words for i in range(0, len(word), LETTERS)]
            return [known.setdefault(piece, len(known)) for piece in pieces]

        rows = np.zeros((len(captions), self.length), np.int64)
        for row, caption in zip(rows, captions):
            said = [*chain.from_iterable(map(numbers, caption.split(" ")))][: self.length - 1]
            row[: len(said) + 1] = [*said, -1]
        table = torch.zeros(len(known) + 1, LETTERS, dtype=torch.int16)
        for piece, place in zip(known, table):
            place[: len(piece)] = torch.tensor(list(piece), dtype=torch.int16) + 3
        table[-1, 0] = 1  # the end
        tokens = table[torch.from_numpy(rows)]
        return tokens, (tokens > 0).any(2)


class FrozenText:
    """Captions through a frozen text encoder of transformers.

    Raises:
        UserError: `length` (tokens kept of a caption) does not fit the encoder.
    """

    def __init__(self, encoder: nn.Module, tokenizer, length: int) -> None:
        most = min(tokenizer.model_max_length, getattr(encoder.config, "max_position_embeddings", length))
        if not 1 <= length <= most:
            raise UserError(f"text.length {length} does not fit this text encoder: give 1 to {most} tokens")
        self.encoder = encoder.eval().requires_grad_(requires_grad=False)
        self.tokenizer, self.length = tokenizer, length

    @classmethod
    def open(cls, name: str, length: int) -> FrozenText:
        """The encoder and tokenizer of a local folder or hub name.

        Raises:
            UserError: there is none, or no network.
        """
        from transformers import AutoModelForTextEncoding, AutoTokenizer, CLIPTextModel

        config = encoder_config(name)
        kind = CLIPTextModel if config.model_type == "clip" else AutoModelForTextEncoding
        try:
            return cls(kind.from_pretrained(name), AutoTokenizer.from_pretrained(name), length)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise no_encoder(name, error) from None

    @property
    def hash(self) -> str:
        """16 hex digits of everything that decides the features: weights, vocabulary, length."""
        about = [f"{type(self.encoder).__name__} {self.length}", repr(sorted(self.tokenizer.get_vocab().items()))]
        named = sorted(self.encoder.state_dict().items())
        weights = (key.encode() + value.cpu().contiguous().view(torch.uint8).numpy().tobytes() for key, value in named)
        return short_hash_of(chain(about, weights))

    @torch.no_grad()
    def encode(self, captions: list[str]) -> TextTokens:
        """Features "b m e" in float16 and mask, 32 captions at once, on the CPU.

        Raises:
            UserError: a feature is not finite in float16.
        """
        parts = []
        for i in range(0, len(captions), 32):
            asked = self.tokenizer(captions[i : i + 32], padding="max_length", truncation=True, max_length=self.length,
                                   return_tensors="pt").to(self.encoder.device)  # fmt: skip
            given = {"input_ids": asked["input_ids"], "attention_mask": asked["attention_mask"]}
            parts.append((self.encoder(**given).last_hidden_state.half().cpu(), given["attention_mask"].bool().cpu()))
        tokens, mask = (torch.cat(part) for part in zip(*parts))
        if not torch.isfinite(tokens).all():
            raise UserError("the text encoder's features are not finite in float16: give another text.encoder")
        return tokens, mask


def encoder_config(name: str):
    """The configuration of a text encoder; one sentence where there is none, or no network."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise no_encoder(name, error) from None


def no_encoder(name: str, error: Exception) -> UserError:
    why = first_line(error)
    return UserError(f"no text encoder at {name!r} ({why}): give bytes, a local folder, or a hub name while online")


def encoder_width(name: str) -> int | None:
    """Features of a token, from the configuration alone; None for bytes."""
    if name == "bytes":
        return None
    config = encoder_config(name)
    config = getattr(config, "text_config", config)
    return config.hidden_size


class ByteBlock(nn.Module):
    """Attention over all of a text, and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Float[Tensor, "b m e"], mask: Bool[Tensor, "b 1 1 m"]) -> Float[Tensor, "b m e"]:
        """The tokens after the block; padding is not attended to."""
        qkv = self.qkv(F.rms_norm(x, x.shape[-1:], eps=1e-6))
        query, key, value = rearrange(qkv, "b m (three n k) -> three b n m k", three=3, n=self.heads)
        x = x + self.project(rearrange(attention(query, key, value, mask), "b n m k -> b m (n k)"))
        return x + self.down(F.gelu(self.up(F.rms_norm(x, x.shape[-1:], eps=1e-6)), approximate="tanh"))


class ByteEncoder(nn.Module):
    """Byte ids -> tokens, one a word.

    Tokens of bytes, wherever words begin, take longer to learn (docs/log/2026-11-25-text-conditioning.md).
    """

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        # On one-hot rows, for a lookup's gradient is not deterministic; padding is none of the letters.
        self.embed = nn.Linear(LETTERS * (IDS - 1), width, bias=False)
        self.places = nn.Parameter(0.3 * torch.randn(length, width))
        self.blocks = nn.ModuleList(ByteBlock(width, heads) for _ in range(LAYERS))

    def forward(
        self, ids: Int[Tensor, "b m p"], mask: Bool[Tensor, "b m"]
    ) -> tuple[Float[Tensor, "b m e"], Bool[Tensor, "b m"]]:
        """Tokens of byte ids (0: padding), p bytes a token, and the same mask."""
        one_hot = (ids[..., None] == torch.arange(1, IDS, device=ids.device)).flatten(2).to(self.embed.weight.dtype)
        letters = self.embed(one_hot)
        # Normalised, or the places would be ten times as loud as the letters at the start.
        x = F.rms_norm(letters, letters.shape[-1:], eps=1e-6) + self.places
        for block in self.blocks:
            x = block(x, mask[:, None, None])
        return x, mask


class TextConditioner(nn.Module):
    """From a text's tokens to the conditioning of every block.

    Args:
        hidden, heads, depth: of the network.
        features: size e of a frozen encoder's tokens; None: byte ids, read by an encoder of its own.
        length: tokens m.
        into: "pooled": the mean over tokens joins every step's condition; "cross": and every block attends to them.
    """

    def __init__(self, hidden: int, heads: int, depth: int, *, features: int | None, length: int, into: str) -> None:
        super().__init__()
        self.heads, self.depth = heads, depth
        self.encoder = ByteEncoder(hidden // 2, heads, length) if features is None else None
        self.project = nn.Linear(features or hidden // 2, hidden)
        self.pool = nn.Linear(hidden, hidden)
        self.keys_values = None
        if into == "cross":
            self.keys_values = nn.Linear(hidden, 2 * depth * hidden, bias=False)  # of all blocks
            self.gains = nn.Parameter(torch.ones(depth, hidden // heads))

    def forward(
        self, tokens: Float[Tensor, "b m e"] | Int[Tensor, "b m p"], mask: Bool[Tensor, "b m"]
    ) -> TextConditioning:
        """The conditioning from a frozen encoder's features, or from byte ids."""
        if self.encoder is not None:
            tokens, mask = self.encoder(tokens, mask)
        tokens = self.project(tokens.to(self.project.weight.dtype))
        tokens = F.rms_norm(tokens, tokens.shape[-1:], eps=1e-6)
        weight = mask[..., None].to(tokens.dtype)
        pooled = self.pool((tokens * weight).sum(1) / weight.sum(1).clamp_min(1))
        if self.keys_values is None:
            return TextConditioning(pooled, [None] * self.depth)
        axes = {"i": self.depth, "two": 2, "n": self.heads}
        pairs = rearrange(self.keys_values(tokens), "b m (i two n k) -> i two b n m k", **axes)
        where = mask[:, None, None]
        blocks = [TextKeysValues(unit(k, gain).to(v.dtype), v, where) for (k, v), gain in zip(pairs, self.gains)]
        return TextConditioning(pooled, blocks)


class CrossAttention(nn.Module):
    """Cross-attention from spacetime tokens to the tokens of a text."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.gain = nn.Parameter(torch.ones(width // heads))
        self.query = nn.Linear(width, width, bias=False)
        self.project = nn.Linear(width, width, bias=False)

    def forward(self, x: Float[Tensor, "b t s d"], text: TextKeysValues) -> Float[Tensor, "b t s d"]:
        """The update of the tokens from the text's keys and values."""
        query = unit(rearrange(self.query(x), "b t s (n k) -> b n (t s) k", n=self.heads), self.gain)
        query = query.to(text.key.dtype)
        mixed = attention(query, text.key, text.value, text.mask)
        return self.project(rearrange(mixed, "b n (t s) k -> b t s (n k)", s=x.shape[2]))
