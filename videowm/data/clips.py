"""Which sample comes when: a function of (seed, index), nothing else."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from videowm.types import Clip, Episodes, UserError

GOLDEN = (5**0.5 - 1) / 2


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """Order of `count` items in one pass over them."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def pick(seed: int, index: int, count: int) -> tuple[int, np.random.Generator]:
    """Item number `index` of an endless stream that passes over all `count` items before one comes again.

    Returns the item and a generator of its own for further choices, such as where in the item to start.
    """
    item = int(permutation(seed, index // count, count)[index % count])
    return item, np.random.default_rng((seed, 1, index))


def long_enough(dataset: Episodes, split: str, frames: int) -> list[int]:
    """The episodes of a split that have `frames` frames or more.

    Raises:
        UserError: there is none.
    """
    episodes = [episode for episode in dataset.split(split) if dataset.lengths[episode] >= frames]
    if not episodes:
        remedy = "record longer ones or lower frames"
        raise UserError(f"{dataset.root} has no {split} episode of {frames} frames or more: {remedy}")
    return episodes


def final_start(dones: np.ndarray, frames: int, stride: int, episode: int) -> int | None:
    """The first frame of the clip that is cut where an episode's game ended; None where it did not, or is too short.

    `dones` is bool "f". The fatal action is one of the `stride` actions after the clip. Which one differs from episode
    to episode, as it will in a dream.
    """
    over = np.flatnonzero(dones)
    latest = int(over[0]) - (frames - 1) if len(over) else -1
    return None if latest < 0 else latest - min(episode % stride, latest)


class ClipStream:
    """Clips of `frames` frames from one split of a dataset: pass after pass over stretches, at random offsets."""

    def __init__(self, dataset: Episodes, *, frames: int, split: str, seed: int) -> None:
        self.dataset, self.frames, self.seed = dataset, frames, seed
        episodes = long_enough(dataset, split, frames)
        self.stretches = [(e, s) for e in episodes for s in range(0, int(dataset.lengths[e]) - frames + 1, frames)]

    def __len__(self) -> int:
        return len(self.stretches)

    def where(self, index: int) -> tuple[int, int]:
        """Episode and first frame of clip number `index`: a start within its stretch, each as likely as the others."""
        item, rng = pick(self.seed, index, len(self))
        episode, start = self.stretches[item]
        last = int(self.dataset.lengths[episode]) - self.frames
        return episode, start + int(rng.integers(min(self.frames, last - start + 1)))

    def __getitem__(self, index: int) -> Clip:
        return self.dataset.clip(*self.where(index), self.frames)


def even_clips(dataset: Episodes, *, frames: int, split: str, count: int) -> list[tuple[int, int]]:
    """`count` clips (episode, start), spread evenly over the episodes of a split, the same for every model.

    Fewer where short episodes have fewer starts; with more episodes than clips, evenly spread episodes have one each.
    A clip alone in its episode starts anywhere in it: by the golden ratio, which spreads any number of starts evenly.

    Raises:
        UserError: no episode of the split has `frames` frames.
    """
    episodes = long_enough(dataset, split, frames)
    each = np.diff(np.arange(len(episodes) + 1) * count // len(episodes))
    found = []
    for episode, n in zip(episodes, each, strict=True):
        where = np.linspace(0, 1, n) if n != 1 else np.array([len(found) * GOLDEN % 1])
        starts = (where * (dataset.lengths[episode] - frames)).astype(int)
        found += [(episode, int(start)) for start in np.unique(starts)]
    return found


def stretches(dataset: Episodes, split: str, frames: int) -> list[tuple[int, int]]:
    """Consecutive clips (episode, start) of a split; neighbours share one frame, the rest of an episode is left."""
    return [(e, s) for e in dataset.split(split) for s in range(0, int(dataset.lengths[e]) - frames + 1, frames - 1)]
