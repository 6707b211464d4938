"""Keys and values of finished latent steps, in buffers of fixed size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from videowm.dit.attention import Mask, Rotary, Store, rotate


class KVCache:
    """Keys and values of a rollout: written once a finished step, read by every sampler step after it.

    All rows of the batch stand at the same step: the position is one number.

    Every block has a ring of `windows[block]` latent steps, the present one included: the present step writes its keys
    into a free place, over and over while it is denoised, and `advance` makes them stay. Attention does not mind the
    order of the places. Memory and shapes never change, so a rollout may go on for ever and be a CUDA graph.

    Attention sinks (arXiv 2309.17453): the first `sinks` steps are never forgotten. Once the window slides they stay
    at its beginning: their keys are turned along, so no distance is longer than in training.
    """

    def __init__(
        self, windows: Sequence[int], rotary: Rotary, shape: tuple[int, int, int], like: Tensor, *, sinks: int = 0
    ) -> None:
        """An empty cache.

        Args:
            windows: latent steps that each block sees, the present one included.
            rotary: positions, whose grid gives the tokens s of a step.
            shape: (batch b, heads n, head size k).
            like: a tensor of the device and dtype that the buffers "b n window*s k" get.
            sinks: first steps that are never forgotten.
        """
        batch, heads, size = shape
        self.windows, self.rotary, self.sinks = tuple(windows), rotary, sinks
        self.tokens = rotary.shape[0] * rotary.shape[1]
        self.keys = [like.new_zeros(batch, heads, w * self.tokens, size) for w in windows]
        self.values = [torch.zeros_like(k) for k in self.keys]
        self.device = like.device
        self.next_step = 0
        # On the device, and filled anew rather than replaced: a rollout's graph reads these and moves them on.
        self.step = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.where = {w: torch.zeros(self.tokens, dtype=torch.int64, device=self.device) for w in set(windows)}
        self.visible = {w: torch.zeros(1, w * self.tokens, dtype=torch.bool, device=self.device) for w in set(windows)}
        self.angles = rotary.angles(self.step)
        self.kept: list[Tensor] = []
        self.prepare()

    def places(self, window: int, steps: Int[Tensor, " t"]) -> Int[Tensor, " l"]:
        """Where the tokens of some steps, numbered from 0, lie in rings of `window` steps; l = t * s."""
        sinks = self.sinks if window == max(self.windows) else 0  # blocks that look back less forget all steps
        slots = torch.where(steps < window, steps, sinks + (steps - sinks) % (window - sinks))
        return (slots[:, None] * self.tokens + torch.arange(self.tokens, device=self.device)).flatten()

    @property
    def full(self) -> bool:
        """Whether no ring has a place that was never written to, the present step's included."""
        return self.next_step + 1 >= max(self.windows)

    def advance(self, count: int) -> None:
        """The `count` steps that every block has just written are finished."""
        self.next_step += count
        self.step += count
        self.prepare()

    def prepare(self) -> None:
        """Where the next step stands and writes, and what it sees; on the device alone, so that a graph can do it."""
        for window, where in self.where.items():
            where.copy_(self.places(window, self.step))
            place = torch.arange(window * self.tokens, device=self.device)
            self.visible[window].copy_(place < (self.step + 1) * self.tokens)
        for buffer, value in zip(self.angles, self.rotary.angles(self.step)):
            buffer.copy_(value)
        if self.sinks and self.full:
            self.turn_sinks(self.step - max(self.windows) + 1)

    def turn_sinks(self, steps: Int[Tensor, " 1"]) -> None:
        """Place the first steps at the beginning of the window, which has moved on by `steps`."""
        length = self.sinks * self.tokens
        held = [k[:, :, :length] for k, w in zip(self.keys, self.windows) if w == max(self.windows)]
        if not self.kept:
            self.kept = [k.clone() for k in held]  # turning these, not the last ones, adds up no rounding
        angles = self.rotary.forward_in_time(steps)
        for keys, original in zip(held, self.kept):
            keys.copy_(rotate(original, *angles))

    def store(self, block: int, steps: int, *, static: bool) -> tuple[Store, Mask]:
        """Where a block writes its keys and values, and the mask over what it then sees.

        Args:
            steps: how many latent steps come at once; several only at the beginning.
            static: the whole buffers with a mask, so that shapes stay; else the part in use, without.
        """
        window, keys, values = self.windows[block], self.keys[block], self.values[block]
        if steps > 1:
            written = torch.arange(max(0, steps - window), steps, device=self.device)
            return (keys, values, self.places(window, written)), None
        if static and not self.full:
            return (keys, values, self.where[window]), self.visible[window]
        used = min(window, self.next_step + 1) * self.tokens
        return (keys[:, :, :used], values[:, :, :used], self.where[window]), None
