"""Shards are compared with their sha256 while training goes on, in the order in which training first uses them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from videowm.data.latents import Latents
from videowm.data.mixture import Mixture
from videowm.types import UserError


def first_uses(latents: Mixture, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The shards of the first pass over the clips in the order of their first use, and the sample that uses each."""
    clips, samples = latents.first_pass(seed)
    used, at = np.unique(latents.shards_of(clips), return_index=True)
    order = np.argsort(at)
    return used[order], samples[at[order]]


class BackgroundCheck:
    """A thread of low priority that checks shards, once a host; `wait` is called before anything is saved.

    So no step waits for a check, and no checkpoint, model or record holds anything of a shard that is damaged.

    Args:
        latents: the training split, whose shards are checked in the order that `seed` gives.
        seed: of the order.
        heldout: another split.
        bank: the numbers of its shards that are measured on; they are checked first.
    """

    def __init__(self, latents: Mixture, seed: int, heldout: Latents, bank: Sequence[int]) -> None:
        shards, self.samples = first_uses(latents, seed)
        self.work = [(heldout, shard) for shard in bank] + [(latents, shard) for shard in shards]
        self.bank, self.taken, self.error = len(bank), 0, None
        self.running: set[int] = set()  # places in `work`
        self.changed = threading.Condition()
        threading.Thread(target=self.run, daemon=True, name="check of latents").start()

    def __reduce__(self) -> tuple:
        return type(None), ()  # a process that loads data checks nothing

    def run(self) -> None:
        """Check everything, shard after shard."""
        if sys.platform == "linux":  # elsewhere the priority is the process's
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        for _ in self.checked(len(self.work)):
            pass

    def checked(self, limit: int) -> Iterator[int]:
        """Check the first `limit` shards beside whoever else does, until one is damaged; yields what is done."""
        while True:
            with self.changed:
                if self.error or self.taken >= limit:
                    return
                place, self.taken = self.taken, self.taken + 1
                self.running.add(place)
            latents, shard = self.work[place]
            error = None
            try:
                latents.check([shard])
            except UserError as damaged:
                error = damaged
            with self.changed:
                self.running.remove(place)
                self.error = self.error or error
                self.changed.notify_all()
            yield place

    def wait(self, samples: int) -> None:
        """Until all shards that the first `samples` samples of the run used are checked, and those of the bank.

        This thread checks too, since the other one gets little of a busy machine.

        Raises:
            UserError: one of them is damaged.
        """
        needed = self.bank + int(np.searchsorted(self.samples, samples))
        with tqdm(self.checked(needed), total=max(0, needed - self.taken), desc="check latents before they are saved",
                  unit="shard", delay=2, leave=False, dynamic_ncols=True) as bar:  # fmt: skip
            for _ in bar:
                pass
        with self.changed:
            self.changed.wait_for(lambda: self.error or not any(place < needed for place in self.running))
        if self.error:
            raise self.error
