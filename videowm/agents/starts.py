"""Real moments that dreams begin in, read and encoded once and kept on the device."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from videowm.dream.rows import Dreams
from videowm.types import Clip
from videowm.vae.codec import to_float

BATCH = 64  # clips that are encoded at the same time
READERS = 8  # threads at most

Place = tuple[int, int]  # episode, frame


@dataclass(frozen=True)
class Starts:
    """The contexts of m dreams."""

    context: Float[Tensor, "m t c h w"]  # normalised
    grouped: Float[Tensor, "m t g"]

    def __len__(self) -> int:
        return len(self.context)

    @classmethod
    def read(cls, dreams: Dreams, count: int, seed: int) -> Starts:
        """Real moments drawn by `seed`, as a dream's own beginnings are drawn.

        A dream that began with a recording's video of its own would wait for it: hundreds end in every second.
        """
        random = np.random.default_rng((seed, 0))
        places = sorted(dreams.place(random, None) for _ in range(count))
        contexts, actions = [], []
        with tqdm(total=count, desc="real moments", unit="moment", dynamic_ncols=True, leave=False) as bar:
            for first in range(0, count, BATCH):
                clips = clips_of(dreams, places[first : first + BATCH])
                frames, given = (np.stack([getattr(clip, name) for clip in clips]) for name in ("frames", "actions"))
                context, grouped = dreams.pipeline.beginning(to_float(frames), torch.from_numpy(given))
                contexts.append(context.to(dreams.device))
                actions.append(grouped.to(dreams.device))
                bar.update(len(clips))
        return cls(torch.cat(contexts), torch.cat(actions))


def clips_of(dreams: Dreams, places: Sequence[Place]) -> list[Clip]:
    """The real video before some moments, read by several threads; a reader serves one thread alone."""
    workers = min(READERS, os.cpu_count() or 1, len(places))
    shares = [places[len(places) * i // workers : len(places) * (i + 1) // workers] for i in range(workers)]

    def read(share: Sequence[Place]) -> list[Clip]:
        dataset = copy.copy(dreams.dataset)  # with no reader open
        return [dataset.clip(episode, frame - dreams.context + 1, dreams.context) for episode, frame in share]

    with ThreadPoolExecutor(workers) as pool:
        return [clip for share in pool.map(read, shares) for clip in share]
