"""Work that several jobs share, each of them its part: by hand, or as the tasks of a SLURM array.

Who does what is said by files in the common folder, made by O_EXCL and rename. So no locks are needed, which many
network file systems do not have. A file that is not touched any more belongs to a job that was killed.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from videowm.device import whole
from videowm.files import is_alive
from videowm.types import UserError

BEAT = 5.0  # s between two touches of a file that says who works
DEAD = 60.0  # s without a touch, after which its job counts as killed
T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Part `number` of `count`, counted from 1; a single one is the whole."""

    number: int = 1
    count: int = 1

    @classmethod
    def current(cls, given: str | None) -> Part:
        """The part that was given as "3/8", else the one of this task of a SLURM array, else the whole.

        Raises:
            UserError: the text names no part, or the tasks of the array are no even row.
        """
        if given is not None:
            found = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", given)
            if not found or int(found[1]) > int(found[2]):
                raise UserError(f"--part {given}: expected K/N with K from 1 to N, such as 3/8")
            return cls(int(found[1]), int(found[2]))
        if "SLURM_ARRAY_TASK_ID" not in os.environ:
            return cls()
        names = {"ID": 0, "MIN": 0, "MAX": 0, "STEP": 1, "COUNT": 1}
        task, least, most, step, count = (whole(f"SLURM_ARRAY_TASK_{name}", value) for name, value in names.items())
        if step < 1 or (most - least) // step + 1 != count or (task - least) % step or not least <= task <= most:
            raise UserError(
                f"task {task} is one of {count} from {least} to {most} of a SLURM array, which is no even row: give "
                "--part K/N, such as --part 3/8"
            )
        return cls((task - least) // step + 1, count)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Every `count`-th item: each belongs to one part."""
        return items[self.number - 1 :: self.count]

    def __str__(self) -> str:
        return f"part {self.number} of {self.count}"

    @contextmanager
    def working(self, folder: Path) -> Iterator[None]:
        """Within it this part is worked on here alone; afterwards it counts as made.

        Raises:
            UserError: another job works on this part, or on parts of another number.
        """
        for path in folder.glob(".part-*-of-*"):
            if path.suffix != ".made" and (path.name == self.mark or not path.name.endswith(f"-of-{self.count}")):
                refuse_living(path, folder)
        claim = Claim.take(folder / self.mark)
        if claim is None:
            raise UserError(f"{self} of {folder} was begun by another job at this moment: wait for it")
        with claim:
            yield
            os.replace(claim.path, claim.path.with_suffix(".made"))

    @property
    def mark(self) -> str:
        """The file that says that this part is worked on."""
        return f".part-{self.number}-of-{self.count}"

    def left(self, folder: Path) -> list[int]:
        """The parts that are not made yet. Whoever makes the last one sees that, also on a network file system:
        what it has just written there makes the system ask the server."""
        return [n for n in range(1, self.count + 1) if not (folder / f"{Part(n, self.count).mark}.made").exists()]


WHOLE = Part()


class Claim:
    """A file that says that this process does something; it is touched while the process lives, and then removed."""

    def __init__(self, path: Path) -> None:
        self.path, self.ended = path, threading.Event()
        threading.Thread(target=self.beat, daemon=True, name=f"beat of {path.name}").start()

    @classmethod
    def take(cls, path: Path) -> Claim | None:
        """The claim, unless the file is there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("x") as file:
                file.write(f"{socket.gethostname()} {os.getpid()}")
        except FileExistsError:
            return None
        return cls(path)

    def beat(self) -> None:
        """Touch the file from time to time."""
        while not self.ended.wait(BEAT):
            with suppress(OSError):
                os.utime(self.path)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.path.unlink(missing_ok=True)


def holder(path: Path) -> str | None:
    """Who lives and holds a claim, in words; None where nobody does, and then the file is gone.

    Of a process of this host the system knows. Another host's is watched until it touches the file, for a minute at
    the most; clocks are not compared.
    """
    try:
        text, stamp, until = path.read_text(), path.stat().st_mtime_ns, time.monotonic() + DEAD
        host, _, process = text.partition(" ")
        alive = host == socket.gethostname() and process.isdigit() and is_alive(int(process))
        while host != socket.gethostname() and not alive and time.monotonic() < until:
            time.sleep(0.2)
            alive = path.stat().st_mtime_ns != stamp
        if alive:
            return f"process {process} of {host}"
        taken = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.made")
        os.rename(path, taken)  # of several that found it dead one succeeds
        if taken.read_text() != text:  # of somebody who was faster, and lives
            os.rename(taken, path)
            return "another job"
        taken.unlink()
    except FileNotFoundError:
        pass
    return None


def refuse_living(path: Path, folder: Path) -> None:
    """Refuse to work beside whoever holds a claim.

    Raises:
        UserError: somebody does.
    """
    if who := holder(path):
        number, count = path.name.removeprefix(".part-").split("-of-")
        raise UserError(f"{who} makes part {number} of {count} of {folder}: wait for it, or give another --out")


def refuse_parts(folder: Path) -> None:
    """Refuse to make the whole while jobs make parts of it.

    Raises:
        UserError: one does.
    """
    for path in folder.glob(".part-*-of-*"):
        if path.suffix != ".made":
            refuse_living(path, folder)


def exactly_once(path: Path, done: Callable[[], bool], work: Callable[[], None]) -> None:
    """Do `work` in one of several processes that call this, and return when it is done; `path` is the claim."""
    while not done():
        if claim := Claim.take(path):
            with claim:
                if not done():
                    work()
            return
        holder(path)
        time.sleep(0.2)


def forget_parts(folder: Path) -> None:
    """Remove the files that say who made what, once all is made."""
    for path in folder.glob(".part-*-of-*"):
        path.unlink(missing_ok=True)
