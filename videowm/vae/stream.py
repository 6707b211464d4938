"""Decode one latent step at a time, as the whole clip would be, in time and memory that do not grow.

An autoencoder that does not look back decodes each step by itself. One that `remembers` runs each step through layers
that keep what they need of the past. Any other one runs a trailing window that covers its field in time: a causal
autoencoder's newest output depends on its last R latent steps only, R measured by `decoder_field`. Cut off behind
R + 1 steps, the newest output is that of the whole clip. The oldest step of the window becomes a "first frame", which
stands for one frame instead of `stride`. So it lies outside the field by one step more. Frames agree with the whole
clip's up to rounding (sums of other lengths), below 1e-5 in float32.
"""

from __future__ import annotations

from bisect import bisect_left

import torch
from jaxtyping import Float
from torch import Tensor

from videowm.types import UserError
from videowm.vae.causal import Layers, remembers
from videowm.vae.codec import DiffusersCodec

LIMIT = 64  # latent steps; a field beyond it counts as unbounded
PROBE = 2  # latent height and width of a probe


class StreamDecoder:
    """Latents one step at a time to frames.

    Args:
        window: latent steps; None: exact, by what the layers remember or else by the shortest window that is.
        otherwise: the window where none is exact; None: that is a UserError.
    """

    def __init__(self, codec: DiffusersCodec, window: int | None = None, *, otherwise: int | None = None) -> None:
        self.codec, self.window = codec, window
        self.layers: Layers | None = None
        self.past: Tensor | None = None  # of a window
        self.begins = True
        if window is None and not codec.looks_back:
            return
        if window is None and remembers(codec.vae):
            self.layers = Layers(codec.vae.decoder, codec.vae.config["local"])
        elif window is None:
            field = decoder_field(codec)
            if field is None and otherwise is None:
                raise UserError(
                    f"the newest frames of this {type(codec.vae).__name__} depend on more than {LIMIT} latent steps, "
                    "so no window streams it exactly: train it with vae.local, or give a window and accept its error"
                )
            self.window = otherwise if field is None else field + 1

    @property
    def held(self) -> list[Tensor]:
        """All that is kept of the past."""
        window = [] if self.past is None else [self.past]
        return window if self.layers is None else list(self.layers.past.values())

    @torch.no_grad()
    def step(self, latents: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b f 3 H W"]:
        """The frames in [-1, 1] that one latent step adds: 1 at first, then as many as the time stride.

        Raises:
            UserError: several latent steps at once.
        """
        if latents.shape[1] != 1:
            raise UserError(f"a stream decodes 1 latent step at a time, got {latents.shape[1]}: call step for each")
        if self.window is None and not self.codec.looks_back:
            frames, self.begins = self.codec.decode(latents, begins=self.begins), False
            return frames
        if self.layers is not None:
            with self.layers.remembering():
                return self.codec.decode(latents)
        new = 1 if self.past is None else self.codec.stride[0]
        self.past = latents if self.past is None else torch.cat([self.past, latents], dim=1)[:, -self.window :]
        return self.codec.decode(self.past)[:, -new:]


@torch.no_grad()
def decoder_field(codec: DiffusersCodec, limit: int = LIMIT) -> int | None:
    """Latent steps, the newest included, that change the newest frames by one bit or more; None if over `limit`.

    Raises:
        UserError: the newest step changes earlier frames. What sees the future cannot be streamed.
    """
    generator = torch.Generator().manual_seed(0)
    size = (1, limit + 2, codec.channels, PROBE, PROBE)
    weights = next(codec.vae.parameters())
    inputs, others = (torch.randn(size, generator=generator).clamp(-1, 1).to(weights) for _ in range(2))
    whole, new = codec.decode_raw(inputs), codec.stride[0]
    for ahead in (1, 2):  # some classes decode by twos
        changed = torch.cat([inputs[:, :-ahead], others[:, -ahead:]], dim=1)
        if not torch.equal(codec.decode_raw(changed)[:, : -ahead * new], whole[:, : -ahead * new]):
            raise UserError(
                f"this {type(codec.vae).__name__} sees the future, so it cannot be streamed: train one that is causal"
            )

    def unchanged(steps: int) -> bool:
        changed = torch.cat([others[:, :-steps], inputs[:, -steps:]], dim=1)
        return torch.equal(codec.decode_raw(changed)[:, -new:], whole[:, -new:])

    field = 1 + bisect_left(range(1, limit + 1), 1, key=unchanged)
    return field if field <= limit else None
