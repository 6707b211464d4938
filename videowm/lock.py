"""One process works in a folder at a time; the kernel frees the lock however that process ends."""

from __future__ import annotations

import errno
import logging
import os
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO

from videowm.types import UserError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None

logger = logging.getLogger("videowm")
LOOKS = 1.0  # s within which a process that only looks, for microseconds, has let go again
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems that know no locks


class FolderLock:
    """Exclusive lock of a folder, held until the process ends, `release` or `remove`.

    Args:
        folder: made where it is not there.
        taken: the error sentence when another process holds the lock.

    Raises:
        UserError: another process holds the lock.
    """

    def __init__(self, folder: Path, taken: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, until = folder / ".lock", time.monotonic() + LOOKS
        while not self._take():
            if held(folder) or time.monotonic() > until:
                raise UserError(taken)
            time.sleep(0.01)
        # A worker that loads data would hold the lock for seconds after its trainer was killed.
        file = weakref.ref(self.file)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=lambda: file() and file().close())

    def _take(self) -> bool:
        """Lock the file, if that is possible at once; a file that `remove` took away meanwhile is not the lock."""
        self.file = self.path.open("w")
        with suppress(FileNotFoundError):
            if locked(self.file, exclusive=True) and os.path.samestat(os.fstat(self.file.fileno()), self.path.stat()):
                return True
        self.file.close()
        return False

    def release(self) -> None:
        """Let others in; the file stays."""
        self.file.close()

    def remove(self) -> None:
        """Let others in, and leave no file behind."""
        self.path.unlink(missing_ok=True)
        self.release()


def held(folder: Path) -> bool:
    """Whether some process works in `folder` now; the lock for that is shared, so lookers do not hinder each other."""
    try:
        with (folder / ".lock").open("r+") as file:
            return not locked(file, exclusive=False)
    except FileNotFoundError:
        return False


def locked(file: IO[str], *, exclusive: bool) -> bool:
    """Take the exclusive or a shared lock of an open file, if that is possible at once.

    On a file system without locks everybody gets it: two processes in one folder are then the user's to avoid.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        if exclusive:
            logger.warning("%s: no locks here (%s), so start one process at a time", file.name, error.strerror)
    return True
