"""The boundary format, written once, in full. Every room speaks these shapes, ranges and names.

Axis alphabet (the same letters in signatures and in einops):
    b batch · f pixel frames · H W pixels · t latent steps · c latent channels · h w latent height and width.
    s tokens per latent step · d width · n heads · k head size · a action size.

Frames    uint8 "f H W 3" in 0..255 on disk and in `Episode`; float "b f 3 H W" in [-1, 1] in front of a network.
Actions   float32 "f-1 a": **action i leads frame i to frame i+1**, so F frames have F-1 actions. On disk every row
          has an action (LeRobot's convention); the one in the last row leads to a frame that was not recorded.
Latents   float "b t c h w". With time stride k, latent step 0 holds frame 0 and latent step i >= 1 holds frames
          1+k(i-1) .. k*i, so a clip of f = 1 + k*(t-1) frames gives t steps, and the k actions k(i-1) .. k*i-1
          lead from step i-1 to step i.
Level     float "b t" in [0, 1]: 0 clean, 1 pure noise; one number a latent step, always.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class UserError(Exception):
    """What a user wrote or gave cannot be used. The message is one sentence: value, expectation, remedy."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type, without the full stop: for a sentence about it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@dataclass(frozen=True)
class Episode:
    """One recorded episode of F rows; row i is the frame shown, the action then taken and what followed it."""

    frames: np.ndarray  # uint8 "f H W 3"
    actions: np.ndarray  # float32 "f a", row i leads frame i to frame i+1
    rewards: np.ndarray  # float32 "f", earned by action i
    dones: np.ndarray  # bool "f", whether action i ended the episode
    states: np.ndarray  # float32 "f k", the simulator's own state when frame i was drawn
    caption: str  # what happens, in plain words, made from the states


@dataclass(frozen=True)
class Outcomes:
    """What the actions from a clip's first frame on did. An action that ends the game has a row and leads to no frame.

    There are rows for the f-1 actions between the clip's frames and for up to k more, the next latent step's. They stop
    at the end of the episode, and behind the action that ended the game.
    """

    actions: np.ndarray  # float32 "n a"
    rewards: np.ndarray  # float32 "n", earned by action i
    dones: np.ndarray  # bool "n", whether action i ended the game: the last one alone may
    states: np.ndarray  # float32 "f k", the simulator's own when each of the clip's frames was drawn; k may be 0

    @classmethod
    def of(
        cls, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray, states: np.ndarray, start: int, frames: int,
        stride: int,
    ) -> Outcomes:  # fmt: skip
        """Of an episode's columns the rows of a clip of `frames` frames from `start` on, and `stride` more."""
        over, count = np.flatnonzero(dones), frames - 1 + stride
        rows = slice(start, min(start + count, int(over[0]) + 1 if len(over) else len(actions)))
        return cls(actions[rows], rewards[rows], dones[rows], states[start : start + frames])


@dataclass(frozen=True)
class Clip:
    """A stretch of consecutive frames of one episode and the actions between them."""

    frames: np.ndarray  # uint8 "f H W 3"
    actions: np.ndarray  # float32 "f-1 a"
    episode: int
    start: int  # index of the first frame within the episode
    outcomes: Outcomes | None = None  # where rewards and ends are known
    final: bool = False  # whether it was cut where its game ended, beside the clips that follow one another


class Episodes(Protocol):
    """Episodes in two splits, as training and evaluation see them: a dataset on disk, or played and kept in memory."""

    root: Path  # where they are, for messages
    size: tuple[int, int]  # (H, W) pixels
    lengths: np.ndarray  # frames of each episode, int64 "episodes"
    hash: str  # 16 hexadecimal digits over what they hold, or what made them

    def split(self, name: str) -> list[int]:
        """Episodes of "train" or "test"."""

    def clip(self, episode: int, start: int, frames: int) -> Clip:
        """`frames` consecutive frames from `start` on and the actions between them."""

    def every_frame(self, split: str) -> np.ndarray:
        """All frames of a split, episode after episode, uint8 "n H W 3"."""


class VideoCodec(Protocol):
    """A video autoencoder as every other room sees it."""

    stride: tuple[int, int, int]  # (time, height, width) pixels per latent element
    channels: int  # latent channels
    hash: str  # sha256 over configuration and weights, 16 hexadecimal digits

    def encode(self, frames: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b t c h w"]:
        """Latents, not normalised, of frames in [-1, 1].

        Raises:
            UserError: f is not 1 + k * time stride, or H or W is no multiple of the space stride.
        """

    def decode(self, latents: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b f 3 H W"]:
        """Frames clipped to [-1, 1]; f = 1 + time stride * (t-1)."""


def latent_steps(frames: int, stride: int) -> int:
    """Latent steps of a clip of `frames` frames at time stride `stride`.

    Raises:
        UserError: no clip at this stride has `frames` frames; the message names the nearest lengths that fit.
    """
    if frames < 1 or (frames - 1) % stride:
        below = max(1, (frames - 1) // stride * stride + 1)
        raise UserError(
            f"a clip of {frames} frames does not fit the time stride {stride}: lengths are 1 + {stride}k, "
            f"the nearest are {below} and {below + stride}"
        )
    return 1 + (frames - 1) // stride


def pixel_frames(steps: int, stride: int) -> int:
    """Frames of a clip of `steps` latent steps at time stride `stride`."""
    return 1 + (steps - 1) * stride
