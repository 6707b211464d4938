"""sha256 of files that this host has read before, remembered in the user's cache folder.

A file counts as read before while its inode, size and time of change are the same. One text file for each folder of
data and host; lines are only added, so that several processes may write it.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from videowm.files import sha256_of, short_hash

Key = tuple[int, int, int]  # inode, size in bytes, time of change in ns


def cache_folder() -> Path:
    """Where hashes of this host are remembered; the environment variable VIDEOWM_CACHE moves it."""
    base = Path(os.environ.get("VIDEOWM_CACHE") or "~/.cache/videowm")
    return base.expanduser() / "sha256" / socket.gethostname()


class Digests:
    """The sha256 of a folder's files; what cannot be remembered is computed once a process."""

    def __init__(self, folder: Path) -> None:
        self.path = cache_folder() / f"{short_hash(str(folder.resolve()))}.txt"
        self.known: dict[Key, str] = {}
        with suppress(OSError):
            for line in self.path.read_text(errors="replace").splitlines():
                with suppress(ValueError):  # of a line that was cut
                    *key, digest = line.split(" ")
                    self.known[tuple(map(int, key))] = digest

    def of(self, path: Path, *, again: bool = False) -> str:
        """The sha256 of a file, 64 hexadecimal digits; `again`: read it whatever is remembered.

        Raises:
            OSError: the file cannot be read.
        """
        key = key_of(path)
        if again or key not in self.known:
            digest = sha256_of(path)
            if key_of(path) == key and self.known.get(key) != digest:
                self.remember(key, digest)
            return digest
        return self.known[key]

    def remember(self, key: Key, digest: str) -> None:
        """Keep a hash, for other processes too where the cache folder can be written."""
        self.known[key] = digest
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(" ".join(map(str, (*key, digest))) + "\n")


def key_of(path: Path) -> Key:
    """What changes when a file is written anew."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
