"""The floor of every autoencoder: principal components of blocks of pixels, and the way to and from such blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from videowm.device import computing_float64
from videowm.types import UserError

SMALLEST = 1e-3  # deviation that a component is divided by at least: one that never varies stays near 0


def to_blocks(frames: Float[Tensor, "b f 3 H W"], time: int, space: int) -> Float[Tensor, "b t d h w"]:
    """Pixels of blocks of `time` x `space` x `space`, d = 3 * time * space², one block at each place of the grid."""
    return rearrange(frames, "b (t k) c (h s) (w r) -> b t (k s r c) h w", k=time, s=space, r=space)


def from_blocks(blocks: Float[Tensor, "b t d h w"], time: int, space: int) -> Float[Tensor, "b f 3 H W"]:
    """The frames that blocks were made of."""
    return rearrange(blocks, "b t (k s r c) h w -> b (t k) c (h s) (w r)", k=time, s=space, r=space, c=3)


@dataclass(frozen=True)
class PCA:
    """Principal components of vectors: their mean "d", directions "d n" and standard deviations "n" along these."""

    mean: Tensor
    directions: Tensor
    deviations: Tensor

    @classmethod
    def fit(cls, batches: Iterable[Float[Tensor, "_ d"]], count: int) -> PCA:
        """The `count` components of largest variance of rows; sums are float64, so any batches of them give the same.

        Raises:
            UserError: vectors have fewer numbers than components are wanted.
        """
        rows, total, squares = 0, 0.0, 0.0
        for batch in batches:
            batch = computing_float64(batch).double()
            rows, total, squares = rows + len(batch), total + batch.sum(0), squares + batch.mT @ batch
        mean = total / rows
        if count > len(mean):
            raise UserError(f"{count} latent channels for blocks of {len(mean)} numbers: give {len(mean)} or fewer")
        variances, directions = torch.linalg.eigh(squares / rows - mean[:, None] * mean)
        directions = directions.flip(1)[:, :count]
        largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))  # a direction's sign is arbitrary
        deviations = variances.flip(0)[:count].clamp_min(0).sqrt().clamp_min(SMALLEST)
        return cls(mean.float(), (directions * largest.sign()).float(), deviations.float())


@dataclass(frozen=True)
class BlockPCA:
    """An autoencoder by linear algebra: blocks of pixels by their principal components, the first frame by itself.

    What a trained autoencoder of the same latent shape does not beat, it has not learned.
    """

    time: int  # frames of a block, the time stride
    space: int  # pixels of a block's side, the space stride
    first: PCA  # of blocks of the first frame alone
    later: PCA  # of blocks of `time` frames

    @classmethod
    def fit(cls, clips: Iterable[Float[Tensor, "_ f 3 H W"]], time: int, space: int, channels: int) -> BlockPCA:
        """Components of the blocks of some clips in [-1, 1], f = 1 + time * (t-1), t at least 2."""
        clips = list(clips)
        size = min(channels, 3 * space * space)
        return cls(
            time, space,
            PCA.fit((rows_of(clip[:, :1], 1, space) for clip in clips), size),
            PCA.fit((rows_of(clip[:, 1:], time, space) for clip in clips), channels),
        )  # fmt: skip

    def reconstruct(self, frames: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f 3 H W"]:
        """Frames in [-1, 1] through the latents, clipped to that range."""
        parts = [through(self.first, frames[:, :1], 1, self.space)]
        if frames.shape[1] > 1:
            parts.append(through(self.later, frames[:, 1:], self.time, self.space))
        return torch.cat(parts, dim=1).clamp(-1, 1)


def rows_of(frames: Float[Tensor, "b f 3 H W"], time: int, space: int) -> Float[Tensor, "rows d"]:
    """Every block of some frames as a row."""
    return rearrange(to_blocks(frames, time, space), "b t d h w -> (b t h w) d")


def through(pca: PCA, frames: Float[Tensor, "b f 3 H W"], time: int, space: int) -> Float[Tensor, "b f 3 H W"]:
    """Frames as the components leave them."""
    mean, directions = pca.mean.to(frames), pca.directions.to(frames)
    centred = to_blocks(frames, time, space).movedim(2, -1) - mean
    return from_blocks((centred @ directions @ directions.mT + mean).movedim(-1, 2), time, space)
