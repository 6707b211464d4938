"""Shards are compared with their sha256 while training goes on, in the order in which training first uses them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from videowm.data.clips import permutation
from videowm.data.latents import Latents
from videowm.types import UserError


def first_uses(latents: Latents, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The shards of the first pass over the clips in the order of their first use, and the sample that uses each."""
    used, sample = np.unique(latents.shards_of(permutation(seed, 0, len(latents))), return_index=True)
    order = np.argsort(sample)
    return used[order], sample[order]


class BackgroundCheck:
    """A thread of low priority that checks shards, once a host; `wait` is called before anything is saved.

    So no step waits for a check, and no checkpoint, model or record holds anything of a shard that is damaged.

    Args:
        latents: the training split, whose shards are checked in the order that `seed` gives.
        seed: of the order.
        heldout: another split.
        bank: the numbers of its shards that are measured on; they are checked first.
    """

    def __init__(self, latents: Latents, seed: int, heldout: Latents, bank: Sequence[int]) -> None:
        shards, self.samples = first_uses(latents, seed)
        self.bank, self.done, self.error = len(bank), 0, None
        self.changed = threading.Condition()
        work = [(heldout, bank[i : i + 1]) for i in range(len(bank))]
        work += [(latents, shards[i : i + 1]) for i in range(len(shards))]
        threading.Thread(target=self.run, args=(work,), daemon=True, name="check of latents").start()

    def __reduce__(self) -> tuple:
        return type(None), ()  # a process that loads data checks nothing

    def run(self, work: list[tuple[Latents, Sequence[int]]]) -> None:
        """Check shard after shard; the first that is damaged ends it."""
        if sys.platform == "linux":  # elsewhere the priority is the process's
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        for latents, shard in work:
            error = None
            try:
                latents.check(shard)
            except UserError as damaged:
                error = damaged
            with self.changed:
                self.done, self.error = self.done + 1, error
                self.changed.notify()
            if error:
                return

    def wait(self, samples: int) -> None:
        """Until all shards that the first `samples` samples of the run used are checked, and those of the bank.

        Raises:
            UserError: one of them is damaged.
        """
        needed = self.bank + int(np.searchsorted(self.samples, samples))
        with (
            self.changed,
            tqdm(total=needed, initial=min(self.done, needed), desc="check latents before they are saved", unit="shard",
                 delay=2, leave=False, dynamic_ncols=True) as bar,
        ):  # fmt: skip
            while self.done < needed and not self.error:
                self.changed.wait(1)
                bar.update(min(self.done, needed) - bar.n)
        if self.error:
            raise self.error
