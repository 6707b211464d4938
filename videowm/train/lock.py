"""One process trains in a run directory at a time."""

from __future__ import annotations

from pathlib import Path

from videowm.lock import FolderLock, held

__all__ = ["RunLock", "held"]


class RunLock(FolderLock):
    """Exclusive lock of a run directory, held until the process ends or `release`.

    Raises:
        UserError: another process trains there.
    """

    def __init__(self, run: Path) -> None:
        super().__init__(run, f"another process is training in {run}: wait for it, or choose another out=")
