"""Decode and encode one latent step at a time, as the whole clip would be, in time and memory that do not grow.

An autoencoder that does not look back treats each step by itself. One that `remembers` runs each step through layers
that keep what they need of the past. Any other one runs a trailing window that covers its field in time: a causal
autoencoder's newest output depends on its last R latent steps only, R measured by `decoder_field` or `encoder_field`.
Cut off behind R + 1 steps, the newest output is that of the whole clip. The oldest step of the window becomes a "first
frame", which stands for one frame instead of `stride`. So it lies outside the field by one step more. What comes out
agrees with the whole clip's up to rounding (sums of other lengths), below 1e-5 in float32.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from videowm.types import UserError, pixel_frames
from videowm.vae.causal import Layers, remembers
from videowm.vae.codec import DiffusersCodec

LIMIT = 64  # latent steps; a field beyond it counts as unbounded
PROBE = 2  # latent height and width of a probe


@dataclass
class Cohort:
    """Rows of a batch that began together, or whose beginning no longer matters, and what they keep of the past."""

    rows: Tensor  # int64 "r", their places in the batch
    past: dict[str, Tensor] = field(default_factory=dict)  # "r ..." by layer, or of the window
    begun: bool = False

    def without(self, rows: Int[Tensor, " r"]) -> Cohort:
        """The other rows."""
        stay = ~torch.isin(self.rows, rows)
        past = {name: past[stay.to(past.device)] for name, past in self.past.items()}
        return Cohort(self.rows[stay], past, self.begun)

    def select(self, rows: Sequence[int]) -> Cohort:
        """Those of some rows of the batch that are here, at their places among `rows`."""
        places = {row: place for place, row in enumerate(self.rows.tolist())}
        here = [(i, places[row]) for i, row in enumerate(rows) if row in places]
        past = {name: x[[place for _, place in here]] for name, x in self.past.items()}
        return Cohort(torch.tensor([i for i, _ in here], dtype=torch.int64), past, self.begun)

    @property
    def shapes(self) -> tuple:
        """What two cohorts have in common that can be decoded together."""
        return self.begun, sorted((name, past.shape[1:]) for name, past in self.past.items())

    def joined(self, other: Cohort) -> Cohort:
        """This and another one of equal `shapes`, in the order of their rows."""
        rows, order = torch.cat([self.rows, other.rows]).sort()
        pairs = ((name, torch.cat([past, other.past[name]])) for name, past in self.past.items())
        return Cohort(rows, {name: past[order.to(past.device)] for name, past in pairs}, self.begun)


class StreamDecoder:
    """Latents one step at a time to frames.

    Rows of the batch may begin anew (`reset`). They are decoded by themselves until they keep as much as the others.

    Args:
        window: latent steps; None: exact, by what the layers remember or else by the shortest window that is.
        otherwise: the window where none is exact; None: that is a UserError.
    """

    def __init__(self, codec: DiffusersCodec, window: int | None = None, *, otherwise: int | None = None) -> None:
        self.codec, self.window = codec, window
        self.layers: Layers | None = None
        self.cohorts: list[Cohort] = []
        if window is None and not codec.looks_back:
            return
        if window is None and remembers(codec.vae):
            self.layers = Layers(codec.vae.decoder, codec.vae.config["local"])
        elif window is None:
            self.window = window_of(codec, "frames", decoder_field(codec), otherwise)

    @property
    def held(self) -> list[Tensor]:
        """All that is kept of the past."""
        return [past for cohort in self.cohorts for past in cohort.past.values()]

    @torch.no_grad()
    def step(self, latents: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b f 3 H W"]:
        """The frames in [-1, 1] that one latent step adds: 1 at first, then as many as the time stride.

        Raises:
            UserError: several latent steps at once.
        """
        if latents.shape[1] != 1:
            raise UserError(f"a stream decodes 1 latent step at a time, got {latents.shape[1]}: call step for each")
        if not self.cohorts:
            self.cohorts = [Cohort(torch.arange(len(latents)))]
        if len(self.cohorts) == 1:
            return self.decode(self.cohorts[0], latents)
        parts = [self.decode(cohort, latents[cohort.rows]) for cohort in self.cohorts]
        order = torch.cat([cohort.rows for cohort in self.cohorts]).argsort()
        self.join()
        return torch.cat(parts)[order.to(latents.device)]

    @torch.no_grad()
    def reset(self, rows: Sequence[int], context: Float[Tensor, "r t c h w"]) -> Float[Tensor, "r f 3 H W"]:
        """Let some rows of the batch, numbered from 0, begin anew from latents of their own; the last step's frames."""
        fresh = Cohort(torch.tensor(list(rows)))
        for latents in context.split(1, dim=1):
            frames = self.decode(fresh, latents)
        others = (cohort.without(fresh.rows) for cohort in self.cohorts)
        self.cohorts = [*(cohort for cohort in others if len(cohort.rows)), fresh]
        self.join()
        return frames

    def select(self, rows: Sequence[int]) -> StreamDecoder:
        """A decoder of its own that goes on from some rows of this one's batch; a row may come several times."""
        other = copy.copy(self)
        chosen = [cohort.select(rows) for cohort in self.cohorts]
        other.cohorts = [cohort for cohort in chosen if len(cohort.rows)]
        return other

    def join(self) -> None:
        """Decode together what keeps equally much: no beginning reaches its newest frames any more."""
        joined: dict[tuple, Cohort] = {}
        for cohort in self.cohorts:
            key = repr(cohort.shapes)
            joined[key] = joined[key].joined(cohort) if key in joined else cohort
        self.cohorts = list(joined.values())

    def decode(self, cohort: Cohort, latents: Float[Tensor, "r 1 c h w"]) -> Float[Tensor, "r f 3 H W"]:
        """The frames of one cohort's next latent step."""
        begins, cohort.begun = not cohort.begun, True
        if self.layers is not None:
            with self.layers.remembering(cohort.past, begins=begins):
                return self.codec.decode(latents)
        if self.window is None:
            return self.codec.decode(latents, begins=begins)
        past = latents if begins else torch.cat([cohort.past["window"], latents], dim=1)[:, -self.window :]
        cohort.past["window"] = past
        return self.codec.decode(past)[:, -(1 if begins else self.codec.stride[0]) :]


class StreamEncoder:
    """Frames to latents, one latent step at a time; all rows of the batch begin together.

    Args:
        otherwise: latent steps of a window where none is exact; None: that is a UserError.
    """

    def __init__(self, codec: DiffusersCodec, *, otherwise: int | None = None) -> None:
        self.codec, self.begun = codec, False
        self.layers: Layers | None = None
        self.window: int | None = None
        self.past: dict[str, Tensor] = {}
        if codec.looks_back and remembers(codec.vae):
            self.layers = Layers(codec.vae.encoder, codec.vae.config["local"])
        elif codec.looks_back:
            self.window = window_of(codec, "latents", encoder_field(codec), otherwise)

    def begin(self) -> None:
        """Forget the past: the next frame is a video's first."""
        self.past, self.begun = {}, False

    @torch.no_grad()
    def step(self, frames: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b 1 c h w"]:
        """The latent step of frames in [-1, 1]: 1 at first, then as many as the time stride.

        Raises:
            UserError: another number of frames, or a size that does not fit the strides.
        """
        begins, expected = not self.begun, self.codec.stride[0] if self.begun else 1
        if frames.shape[1] != expected:
            raise UserError(f"a stream encodes 1 frame at first and then {self.codec.stride[0]} at a time, got "
                            f"{frames.shape[1]} where {expected} fit")  # fmt: skip
        self.codec.check_size(frames)
        self.begun = True
        if self.layers is not None:
            with self.layers.remembering(self.past, begins=begins):
                return self.codec.encode_raw(frames)
        if self.window is None:
            return self.codec.encode_raw(frames, begins=begins)
        length = pixel_frames(self.window, self.codec.stride[0])
        self.past["window"] = frames if begins else torch.cat([self.past["window"], frames], dim=1)[:, -length:]
        return self.codec.encode(self.past["window"])[:, -1:]


def window_of(codec: DiffusersCodec, what: str, field: int | None, otherwise: int | None) -> int:
    """Latent steps of the shortest window in which the newest frames or latents are exact, else `otherwise`.

    Raises:
        UserError: no window is exact, and none is given.
    """
    if field is not None:
        return field + 1
    if otherwise is None:
        raise UserError(
            f"the newest {what} of this {type(codec.vae).__name__} depend on more than {LIMIT} latent steps, so no "
            "window streams it exactly: train it with vae.local, or give a window and accept its error"
        )
    return otherwise


@torch.no_grad()
def decoder_field(codec: DiffusersCodec, limit: int = LIMIT) -> int | None:
    """Latent steps, the newest included, that change the newest frames by one bit or more; None if over `limit`.

    Raises:
        UserError: the newest step changes earlier frames. What sees the future cannot be streamed.
    """
    size = (1, limit + 2, codec.channels, PROBE, PROBE)
    return measured_field(codec, codec.decode_raw, size, new=(1, codec.stride[0]), limit=limit)


@torch.no_grad()
def encoder_field(codec: DiffusersCodec, limit: int = LIMIT) -> int | None:
    """Latent steps, the newest included, whose frames change the newest latents by a bit; None if over `limit`.

    Raises:
        UserError: the newest step changes earlier latents. What sees the future cannot be streamed.
    """
    time, height, width = codec.stride
    size = (1, pixel_frames(limit + 2, time), 3, PROBE * height, PROBE * width)
    return measured_field(codec, codec.encode, size, new=(time, 1), limit=limit)


def measured_field(
    codec: DiffusersCodec, run: Callable, size: tuple[int, ...], *, new: tuple[int, int], limit: int
) -> int | None:
    """The fewest latent steps before which the input does not matter; a step is `new` (inputs, outputs) long.

    Raises:
        UserError: the newest step changes earlier output. What sees the future cannot be streamed.
    """
    generator = torch.Generator().manual_seed(0)
    weights, (step, shown) = next(codec.vae.parameters()), new
    inputs, others = (torch.randn(size, generator=generator).clamp(-1, 1).to(weights) for _ in range(2))
    whole = run(inputs)
    for ahead in (1, 2):  # some classes decode by twos
        changed = torch.cat([inputs[:, : -ahead * step], others[:, -ahead * step :]], dim=1)
        if not torch.equal(run(changed)[:, : -ahead * shown], whole[:, : -ahead * shown]):
            raise UserError(
                f"this {type(codec.vae).__name__} sees the future, so it cannot be streamed: train one that is causal"
            )

    def unchanged(steps: int) -> bool:
        changed = torch.cat([others[:, : -steps * step], inputs[:, -steps * step :]], dim=1)
        return torch.equal(run(changed)[:, -shown:], whole[:, -shown:])

    field = 1 + bisect_left(range(1, limit + 1), 1, key=unchanged)
    return field if field <= limit else None
