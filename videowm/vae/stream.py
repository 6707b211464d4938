"""Encode and decode one latent step at a time, as the whole clip would be, in time and memory that do not grow.

An autoencoder that `remembers` runs each step through layers that keep what they need of the past. Any other one runs
a trailing window that covers its field in time: a causal autoencoder's newest output depends on its last R latent steps
only, R measured by `decoder_field` and `encoder_field`. Cut off behind R + 1 steps, the newest output is that of the
whole clip: the oldest step of the window becomes a "first frame", which stands for one frame instead of `stride`, so it
lies outside the field by one step more. Both agree with the whole clip up to rounding (sums of other lengths), below
1e-5 in float32.
"""

from __future__ import annotations

from bisect import bisect_left

import torch
from jaxtyping import Float
from torch import Tensor

from videowm.types import UserError, pixel_frames
from videowm.vae.causal import Layers, remembers
from videowm.vae.codec import DiffusersCodec

LIMIT = 64  # latent steps; a field beyond it counts as unbounded
PROBE = 2  # latent height and width of a probe


class Stream:
    """What the two directions share.

    Args:
        window: latent steps; None: exact, by what the layers remember or else by the shortest window that is.
        otherwise: the window where none is exact; None: that is a UserError.
    """

    half: str  # of the autoencoder
    new: str  # what a step adds

    def __init__(self, codec: DiffusersCodec, window: int | None = None, *, otherwise: int | None = None) -> None:
        self.codec, self.window = codec, window
        self.layers: Layers | None = None
        self.past: Tensor | None = None  # of a window
        if window is None and remembers(codec.vae):
            self.layers = Layers(getattr(codec.vae, self.half), codec.vae.config["local"])
        elif window is None:
            field = self.field()
            if field is None and otherwise is None:
                raise UserError(
                    f"the {self.new} of this {type(codec.vae).__name__} depend on more than {LIMIT} latent steps, so "
                    "no window streams it exactly: train it with vae.local, or give a window and accept its error"
                )
            self.window = otherwise if field is None else field + 1

    @property
    def begun(self) -> bool:
        """Whether a first step was made."""
        return self.past is not None if self.layers is None else self.layers.begun

    @property
    def held(self) -> list[Tensor]:
        """All that is kept of the past."""
        window = [] if self.past is None else [self.past]
        return window if self.layers is None else list(self.layers.past.values())

    def slide(self, new: Float[Tensor, "b n c h w"], length: int) -> Float[Tensor, "b m c h w"]:
        """The window's input once `new` has joined it, at most `length` steps or frames."""
        self.past = new if self.past is None else torch.cat([self.past, new], dim=1)[:, -length:]
        return self.past


class StreamDecoder(Stream):
    """Latents one step at a time to frames."""

    half, new = "decoder", "newest frames"

    def field(self) -> int | None:
        """Latent steps on which the newest frames depend; None: more than `LIMIT`."""
        return decoder_field(self.codec)

    @torch.no_grad()
    def step(self, latents: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b f 3 H W"]:
        """The frames in [-1, 1] that one latent step (t = 1) adds: 1 at first, then the time stride's."""
        if latents.shape[1] != 1:
            raise UserError(f"a stream decodes 1 latent step at a time, got {latents.shape[1]}: call step for each")
        if self.layers is not None:
            with self.layers.remembering():
                return self.codec.decode(latents)
        new = self.codec.stride[0] if self.begun else 1
        return self.codec.decode(self.slide(latents, self.window))[:, -new:]


class StreamEncoder(Stream):
    """Frames one latent step's at a time to latents."""

    half, new = "encoder", "newest latent step"

    def field(self) -> int | None:
        """Latent steps whose frames change the newest latent step; None: more than `LIMIT`."""
        return encoder_field(self.codec)

    @torch.no_grad()
    def step(self, frames: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b 1 c h w"]:
        """The latent step of frames in [-1, 1]: 1 at first, then the time stride's.

        Raises:
            UserError: another number of frames, another size, or a pixel that is not finite.
        """
        expected = self.codec.stride[0] if self.begun else 1
        if frames.shape[1] != expected:
            raise UserError(
                f"a stream encodes 1 frame at first and then {self.codec.stride[0]} at a time, got "
                f"{frames.shape[1]} where {expected} fit"
            )
        self.codec.check_size(frames)  # now, so that what is refused is not in the past
        self.codec.check_finite(frames)
        if self.layers is not None:
            with self.layers.remembering():
                return self.codec.encode_raw(frames)
        return self.codec.encode(self.slide(frames, pixel_frames(self.window, self.codec.stride[0])))[:, -1:]


@torch.no_grad()
def decoder_field(codec: DiffusersCodec, limit: int = LIMIT) -> int | None:
    """Latent steps, the newest included, that change the newest frames by one bit or more; None if over `limit`."""
    size = (1, limit + 2, codec.channels, PROBE, PROBE)
    return measured_field(codec, codec.decode_raw, size, new=(1, codec.stride[0]), limit=limit)


@torch.no_grad()
def encoder_field(codec: DiffusersCodec, limit: int = LIMIT) -> int | None:
    """Latent steps, the newest included, whose frames change the newest latents by a bit; None if over `limit`."""
    time, height, width = codec.stride
    size = (1, pixel_frames(limit + 2, time), 3, PROBE * height, PROBE * width)
    return measured_field(codec, codec.encode, size, new=(time, 1), limit=limit)


def measured_field(codec: DiffusersCodec, run, size: tuple[int, ...], *, new: tuple[int, int], limit: int):
    """The fewest latent steps after which the rest of the input does not matter; a step is `new` (inputs, outputs).

    Raises:
        UserError: the newest step changes earlier output. An autoencoder that sees the future cannot be streamed.
    """
    generator = torch.Generator().manual_seed(0)
    weights = next(codec.vae.parameters())
    inputs, others = (torch.randn(size, generator=generator).clamp(-1, 1).to(weights) for _ in range(2))
    whole, shown = run(inputs), new[1]
    for ahead in (1, 2):  # some classes decode by twos
        changed = torch.cat([inputs[:, : -ahead * new[0]], others[:, -ahead * new[0] :]], dim=1)
        if not torch.equal(run(changed)[:, : -ahead * shown], whole[:, : -ahead * shown]):
            raise UserError(
                f"this {type(codec.vae).__name__} sees the future, so it cannot be streamed: train one that is causal"
            )

    def unchanged(steps: int) -> bool:
        kept = steps * new[0]
        changed = torch.cat([others[:, :-kept], inputs[:, -kept:]], dim=1)
        return torch.equal(run(changed)[:, -shown:], whole[:, -shown:])

    field = 1 + bisect_left(range(1, limit + 1), 1, key=unchanged)
    return field if field <= limit else None


@torch.no_grad()
def window_error(codec: DiffusersCodec, latents: Float[Tensor, "b t c h w"], window: int) -> float:
    """Root mean square difference of the newest frames when only the last `window` latent steps are seen.

    In units of the pixel range -1 to 1.
    """
    time = codec.stride[0]
    whole, cut = (codec.decode(part)[:, -time:].float() for part in (latents, latents[:, -window:]))
    return (whole - cut).square().mean().sqrt().item()
