"""Ranges of configuration values, stated once in the annotation of each key.

`Annotated[float, Range(above=0)]` limits what a key may hold. `videowm.config` checks it when a file is read, and the
reference in the documentation prints it. Numbers are always finite; a key without a range may hold any finite number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from videowm.types import UserError


@dataclass(frozen=True)
class Range:
    """Limits of a number; `at_least` and `at_most` include the limit, `above` and `below` exclude it."""

    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf

    def holds(self, value: float) -> bool:
        """Whether `value` lies within the limits."""
        return self.at_least <= value <= self.at_most and self.above < value < self.below

    def __str__(self) -> str:
        """The limits in words, such as "above 0 and at most 1"."""
        words = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        return " and ".join(f"{word} {limit:g}" for word, limit in words.items() if math.isfinite(limit))


def ranges(hint: Any) -> Iterator[Range]:
    """Every range in an annotation, those within unions, lists and tuples too."""
    if get_origin(hint) is Annotated:
        yield from (extra for extra in get_args(hint)[1:] if isinstance(extra, Range))
    for inner in get_args(hint):
        yield from ranges(inner)


LARGEST = 2**53  # beyond it a float no longer holds every whole number

Count = Annotated[int, Range(at_least=1, at_most=10**9)]  # how many of something there must be
Whole = Annotated[int, Range(at_least=0, at_most=10**9)]  # how many of something there may be; 0: none
LARGEST_SIZE = 2**16
Size = Annotated[int, Range(at_least=1, at_most=LARGEST_SIZE)]  # width, channels, side of a network's part
Seed = Annotated[int, Range(at_least=0, at_most=LARGEST)]
Positive = Annotated[float, Range(above=0, at_most=1e12)]
NonNegative = Annotated[float, Range(at_least=0, at_most=1e12)]
Flops = Annotated[float, Range(above=0, at_most=1e30)]
Share = Annotated[float, Range(at_least=0, at_most=1)]  # a part of a whole, 0 and 1 included
Fraction = Annotated[float, Range(above=0, at_most=1)]  # a part of a whole that is not nothing
Guidance = Annotated[float, Range(at_least=0, at_most=1000)]  # of a sampler; 1: none
Frames = Annotated[int, Range(at_least=2, at_most=10**9)]  # of an episode or a clip
HeldOut = Annotated[float, Range(at_least=0, below=1)]  # share of the episodes that are held out


def frame_size(text: str) -> tuple[int, int]:
    """A size (H, W) of frames in pixels, as users write it: "64" or "64x96", even numbers from 16 to 2048.

    Raises:
        UserError: the text is no such size.
    """
    words = text.lower().split("x")
    sides = tuple(int(word) if word.isascii() and word.isdigit() else 0 for word in words * (3 - len(words)))
    if len(sides) != 2 or not all(16 <= side <= 2048 and side % 2 == 0 for side in sides):
        raise UserError(f"size {text!r} cannot be used: give HxW pixels such as 64x96, even numbers from 16 to 2048")
    return sides


UNREADABLE = (16, 24, 48, 72)  # widths of videos, in pixels: decord 0.6 assumes four channels there (its issue 336)


def fitting(size: tuple[int, int], multiple: int) -> str:
    """The nearest sizes whose sides are multiples of a number, in words such as "80x64 or 96x64"."""
    below = [max(multiple, side // multiple * multiple) for side in size]
    above = [-(-side // multiple) * multiple for side in size]
    while below[1] in UNREADABLE and below[1] > multiple:
        below[1] -= multiple
    for sides in (below, above):
        while sides[1] in UNREADABLE:
            sides[1] += multiple
    return " or ".join(dict.fromkeys(f"{height}x{width}" for height, width in (below, above)))


SPACE, PATCH = 8, 2  # strides of the configurations that come with the package: of the autoencoder, of the world model


def check_fit(size: tuple[int, int], stride: int) -> None:
    """Refuse frames of `size` (H, W) pixels that an autoencoder of this space stride does not take.

    Raises:
        UserError: a side is no multiple of the stride; the sentence names the nearest sizes that fit.
    """
    if any(side % stride for side in size):
        raise UserError(
            f"frames of {size[0]}x{size[1]} do not fit the autoencoder's space stride {stride}: record or import them "
            f"at {fitting(size, stride)}"
        )


def unfit(size: tuple[int, int], stride: int = SPACE) -> str | None:
    """Which sizes would suit a world model where frames of `size` do not, with patches of 2; None where they do."""
    if not any(side % (stride * PATCH) for side in size):
        return None
    patch = "" if any(side % stride for side in size) else "; as they are, world models need patch=1"
    return (f"frames of {size[0]}x{size[1]} do not fit a space stride of {stride} and patches of {PATCH}, as the "
            f"configurations have: {fitting(size, stride * PATCH)} would{patch}")  # fmt: skip
