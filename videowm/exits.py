"""How a command ends: exit code 0 or its own, or one sentence on stderr for what a user can mend."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Callable
from typing import IO, NoReturn

from videowm.files import is_full, no_room
from videowm.types import UserError

# What is wrong with a path -> what to do about it; any other OSError is a fault of ours and keeps its traceback.
REMEDIES = {
    errno.EACCES: "name a path that you may read and write",
    errno.EPERM: "name a path that you may read and write",
    errno.EROFS: "name a path on a disk that can be written",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "name a path whose parents are folders",
    errno.EEXIST: "name another path",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.ELOOP: "name a path without a circle of links",
}
WRONG, INTERRUPTED, CLOSED = 2, 130, 141  # the last two as a shell reports SIGINT and SIGPIPE


def carry_out(program: str, command: Callable[[], int], *, stopped: str) -> NoReturn:
    """Run `command` and exit with its code; what a user can mend is one line on stderr and exit code 2.

    Args:
        program: its name, which begins every line.
        command: returns the exit code.
        stopped: what is true after Ctrl-C, unless the KeyboardInterrupt has a message.
    """
    try:
        code = command()
        sys.stdout.flush()
    except UserError as error:
        fail(program, str(error))
    except BrokenPipeError:
        if not any(map(is_closed, (sys.stdout, sys.stderr))):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it exits
        sys.exit(CLOSED)
    except OSError as error:
        if (sentence := sentence_of(error)) is None:
            raise
        fail(program, sentence)
    except KeyboardInterrupt as error:
        print(f"{program}: stopped; {str(error) or stopped}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(code)


def fail(program: str, text: str) -> NoReturn:
    """Print one line on stderr and exit with code 2."""
    print(f"{program}: {printable(' '.join(text.split()))}", file=sys.stderr)
    sys.exit(WRONG)


def sentence_of(error: OSError) -> str | None:
    """What is wrong with a path in one sentence; None for an error that is no user's."""
    if is_full(error):
        return str(no_room(error.filename or "a file"))
    if error.filename is None or error.errno not in REMEDIES:
        return None
    name = error.filename if error.filename2 is None else error.filename2  # of a rename: what it was to become
    path = os.fsdecode(name) if isinstance(name, str | bytes) else str(name)
    path = path if len(path) <= 120 else f"{path[:60]}…{path[-40:]}"
    return f"{path}: {(error.strerror or '').lower()}; {REMEDIES[error.errno]}"


def is_closed(stream: IO[str]) -> bool:
    """Whether nobody reads what is written to `stream`."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def printable(text: str) -> str:
    r"""`text` with control characters and undecodable bytes as escapes, so that no file name can steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
