"""Keys and values of finished latent steps, in buffers of fixed size."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from videowm.dit.attention import Mask, Rotary, Store, rotate


class KVCache:
    """Keys and values of a rollout: written once a finished step, read by every sampler step after it.

    All rows of the batch take their steps together, on one clock. `begins` is the step at which each row began, so rows
    stand at positions of their own. A row may begin anew (`reset`) while the others go on: it sees nothing from before
    its beginning. Only differences of positions reach the scores, so the clock's own angles serve all rows.

    Every block has a ring of `windows[block]` latent steps, the present one included: the present step writes its keys
    into a free place, over and over while it is denoised, and `advance` makes them stay. Attention does not mind the
    order of the places. Memory and shapes never change, so a rollout may go on for ever and be a CUDA graph.

    Attention sinks (arXiv 2309.17453): a row's first `sinks` steps are never forgotten. Once its window slides they
    stay at the window's beginning: their keys are turned along, so no distance is longer than in training.
    """

    def __init__(
        self, windows: Sequence[int], rotary: Rotary, shape: tuple[int, int, int], like: Tensor, *, sinks: int = 0,
        first: int = 0,
    ) -> None:  # fmt: skip
        """An empty cache.

        Args:
            windows: latent steps that each block sees, the present one included.
            rotary: positions, whose grid gives the tokens s of a step.
            shape: (batch b, heads n, head size k).
            like: a tensor of the device and dtype that the buffers "b n window*s k" get.
            sinks: first steps of a row that are never forgotten.
            first: what the clock says at the beginning.
        """
        batch, heads, size = shape
        self.windows, self.rotary, self.shape, self.like, self.sinks = tuple(windows), rotary, shape, like, sinks
        self.tokens = rotary.shape[0] * rotary.shape[1]
        self.keys = [like.new_zeros(batch, heads, w * self.tokens, size) for w in windows]
        self.values = [torch.zeros_like(k) for k in self.keys]
        # The first steps' keys as they were: turning these, not the last ones, adds up no rounding.
        self.kept = [torch.zeros_like(k) for k in self.sink_keys()] if sinks else []
        self.device = like.device
        self.first = self.next_step = first
        self.youngest, self.in_order = first, first == 0  # where the last row began; whether places fill up from 0
        # On the device, and filled anew rather than replaced: a rollout's graph reads these and moves them on.
        self.step = torch.full((1,), first, dtype=torch.int64, device=self.device)
        self.begins = torch.full((batch,), first, dtype=torch.int64, device=self.device)
        self.where = {w: torch.zeros(self.tokens, dtype=torch.int64, device=self.device) for w in set(windows)}
        self.visible = {
            w: torch.zeros(batch, 1, 1, w * self.tokens, dtype=torch.bool, device=self.device) for w in set(windows)
        }
        self.angles = rotary.angles(self.step)
        self.prepare()

    def sink_keys(self) -> list[Tensor]:
        """The keys of the first steps, in the blocks that never forget these: those that look back furthest."""
        length = self.sinks * self.tokens
        return [k[:, :, :length] for k, w in zip(self.keys, self.windows) if w == max(self.windows)]

    def sinks_of(self, window: int) -> int:
        """The first steps that rings of `window` steps never forget."""
        return self.sinks if window == max(self.windows) else 0

    def places(self, window: int, steps: Int[Tensor, " t"]) -> Int[Tensor, " l"]:
        """Where the tokens of some steps of the clock lie in rings of `window` steps; l = t * s."""
        sinks, position = self.sinks_of(window), steps - self.first
        slots = torch.where(position < sinks, position, sinks + (steps - sinks) % (window - sinks))
        return (slots[:, None] * self.tokens + torch.arange(self.tokens, device=self.device)).flatten()

    def seen(self, window: int) -> Bool[Tensor, "b {window}"]:
        """Which slots of a ring of `window` steps hold a step of the row itself, up to the present one."""
        sinks, slot = self.sinks_of(window), torch.arange(window, device=self.device)
        holds = self.step - (self.step - slot) % (window - sinks)  # the newest step with this place
        begins = self.begins[:, None]
        return torch.where(slot < sinks, begins + slot <= self.step, holds >= begins + sinks)

    @property
    def held(self) -> int:
        """Finished steps of the oldest row."""
        return self.next_step - self.first

    @property
    def full(self) -> bool:
        """Whether every place of every row holds a step of that row, the present step's included."""
        return self.next_step + 1 - self.youngest >= max(self.windows)

    def advance(self, count: int) -> None:
        """The `count` steps that every block has just written are finished."""
        if self.held < self.sinks:
            for kept, keys in zip(self.kept, self.sink_keys()):
                kept.copy_(keys)
        self.next_step += count
        self.step += count
        self.prepare()

    def prepare(self) -> None:
        """Where the next step stands and writes, and what it sees; on the device alone, so that a graph can do it."""
        for window, where in self.where.items():
            where.copy_(self.places(window, self.step))
            visible = self.visible[window].unflatten(-1, (window, self.tokens))
            visible.copy_(self.seen(window)[:, None, None, :, None])
        for buffer, value in zip(self.angles, self.rotary.angles(self.step)):
            buffer.copy_(value)
        if self.sinks:
            self.turn_sinks()

    def turn_sinks(self) -> None:
        """Place each row's first steps at the beginning of its window, as far as that has moved on."""
        moved = (self.step - self.begins + 1 - max(self.windows)).clamp_min(0)
        cos, sin = (angle[:, None, None] for angle in self.rotary.forward_in_time(moved))
        for keys, original in zip(self.sink_keys(), self.kept):
            keys.copy_(rotate(original, cos, sin))

    def fresh(self, rows: int, steps: int) -> KVCache:
        """An empty cache of `rows` rows, whose clock will stand where this one's does after `steps` steps."""
        return KVCache(self.windows, self.rotary, (rows, *self.shape[1:]), self.like, sinks=self.sinks,
                       first=self.next_step - steps)  # fmt: skip

    def reset(self, rows: Int[Tensor, " r"], fresh: KVCache) -> None:
        """Some rows begin anew with what `fresh`, of as many rows, holds; all others go on.

        Raises:
            ValueError: the two clocks differ, or a row's first `sinks` steps are not finished.
        """
        if fresh.next_step != self.next_step or min(self.held, fresh.held) < self.sinks:
            raise ValueError(f"rows with {fresh.held} steps, at step {fresh.next_step}, cannot join others with "
                             f"{self.held}, at step {self.next_step}, and {self.sinks} sinks")  # fmt: skip
        pairs = zip((*self.keys, *self.values, *self.kept), (*fresh.keys, *fresh.values, *fresh.kept), strict=True)
        for ours, theirs in pairs:
            ours.index_copy_(0, rows, theirs)
        self.begins.index_fill_(0, rows, fresh.first)
        self.youngest, self.in_order = max(self.youngest, fresh.first), False
        self.prepare()

    def select(self, rows: Int[Tensor, " r"]) -> KVCache:
        """A cache of its own with some rows of the batch, in that order; a row may come several times."""
        other = copy.copy(self)
        other.keys, other.values, other.kept = ([x[rows] for x in xs] for xs in (self.keys, self.values, self.kept))
        other.shape, other.begins = (len(rows), *self.shape[1:]), self.begins[rows]
        other.step, other.angles = self.step.clone(), tuple(angle.clone() for angle in self.angles)
        other.where = {window: places.clone() for window, places in self.where.items()}
        other.visible = {window: seen[rows] for window, seen in self.visible.items()}
        return other

    def take(self, other: KVCache, rows: Int[Tensor, " r"]) -> None:
        """Hold what some rows of another cache hold, in this one's own buffers; clocks and rings become the other's.

        Raises:
            ValueError: the two clocks began differently, so that places would differ.
        """
        if self.first != other.first:
            raise ValueError(f"a cache that began at {self.first} cannot take rows of one that began at {other.first}")
        pairs = zip((*self.keys, *self.values, *self.kept), (*other.keys, *other.values, *other.kept), strict=True)
        for ours, theirs in pairs:
            ours.copy_(theirs[rows])  # the other may be this one
        self.begins.copy_(other.begins[rows])
        self.step.copy_(other.step)
        self.next_step, self.youngest, self.in_order = other.next_step, other.youngest, other.in_order
        self.prepare()

    def store(self, block: int, steps: int, *, static: bool) -> tuple[Store, Mask]:
        """Where a block writes its keys and values, and the mask over what it then sees.

        Args:
            steps: how many latent steps come at once; several only at the beginning.
            static: the whole buffers with a mask, so that shapes stay; else the part in use, without.
        """
        window, keys, values = self.windows[block], self.keys[block], self.values[block]
        if steps > 1:
            written = torch.arange(max(0, steps - window), steps, device=self.device)
            return (keys, values, self.places(window, self.first + written)), None
        if not self.full and (static or not self.in_order):
            return (keys, values, self.where[window]), self.visible[window]
        used = min(window, self.next_step + 1) * self.tokens if self.in_order else None
        return (keys[:, :, :used], values[:, :, :used], self.where[window]), None
