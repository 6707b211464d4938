"""One process trains in a run directory at a time; the kernel frees the lock however that process ends."""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from pathlib import Path
from typing import IO

from videowm.types import UserError

LOOKS = 1.0  # s within which whoever only looks, for microseconds, has let go again


class RunLock:
    """Exclusive lock of a run directory, held until the process ends or `release`."""

    def __init__(self, run: Path) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self.file, until = (run / ".lock").open("w"), time.monotonic() + LOOKS
        while not locked(self.file, fcntl.LOCK_EX):
            if held(run) or time.monotonic() > until:
                self.file.close()
                raise UserError(f"another process is training in {run}: wait for it, or choose another out=")
            time.sleep(0.01)
        # A worker that loads data would hold the lock for seconds after its trainer was killed.
        file = weakref.ref(self.file)
        os.register_at_fork(after_in_child=lambda: file() and file().close())

    def release(self) -> None:
        self.file.close()


def held(run: Path) -> bool:
    """Whether some process trains in `run` now; the lock for that is shared, so lookers do not hinder each other."""
    path = run / ".lock"
    if not path.exists():
        return False
    with path.open("r+") as file:
        return not locked(file, fcntl.LOCK_SH)


def locked(file: IO[str], kind: int) -> bool:
    """Take the lock of an open file, LOCK_SH or LOCK_EX, if that is possible at once."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
