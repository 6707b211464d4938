"""One process trains in a run directory at a time; the kernel frees the lock however that process ends."""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path

from videowm.types import UserError


class RunLock:
    """Exclusive lock of a run directory, held until the process ends or `release`."""

    def __init__(self, run: Path) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self.file = (run / ".lock").open("w")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.close()
            raise UserError(f"another process is training in {run}: wait for it, or choose another out=") from None
        # A worker that loads data would hold the lock for seconds after its trainer was killed.
        file = weakref.ref(self.file)
        os.register_at_fork(after_in_child=lambda: file() and file().close())

    def release(self) -> None:
        self.file.close()


def held(run: Path) -> bool:
    """Whether some process trains in `run` now."""
    path = run / ".lock"
    if not path.exists():
        return False
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
