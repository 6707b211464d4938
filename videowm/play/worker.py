"""A thread for every player, between a web that must not wait and a model that takes its time."""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from videowm.play import messages as m
from videowm.play.session import Session
from videowm.types import UserError

logger = logging.getLogger("videowm")
WAITING = 32  # messages that may wait for one session
STEPS = 4  # steps among them; the newest win
LATEST = (m.Look, m.Move)  # of these only the newest counts: they come with every pixel that a slider moves


class Inbox:
    """Messages on their way to a session, of bounded number; `None` at the end."""

    def __init__(self) -> None:
        self.messages: deque[tuple[m.Asked, float]] = deque()
        self.changed, self.closed = threading.Condition(), False

    def put(self, message: m.Asked) -> None:
        """Add a message, and drop older ones that it makes pointless.

        Raises:
            UserError: too many wait.
        """
        with self.changed:
            if isinstance(message, LATEST):
                self.drop(type(message), 0)
            elif isinstance(message, m.Step):
                self.drop(m.Step, STEPS - 1)
            if len(self.messages) >= WAITING:
                raise UserError(f"{WAITING} messages wait already: send fewer")
            self.messages.append((message, time.perf_counter()))
            self.changed.notify()

    def drop(self, kind: type, kept: int) -> None:
        """Drop the oldest messages of a kind, but for the newest `kept`."""
        old = [entry for entry in self.messages if isinstance(entry[0], kind)]
        for entry in old[: max(0, len(old) - kept)]:
            self.messages.remove(entry)

    def get(self) -> tuple[m.Asked, float] | None:
        """The next message and how many milliseconds it waited; None when the inbox is closed."""
        with self.changed:
            self.changed.wait_for(lambda: self.messages or self.closed)
            if self.closed:
                return None
            message, since = self.messages.popleft()
        return message, 1e3 * (time.perf_counter() - since)

    def close(self) -> None:
        """End whoever waits."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()


def give_back() -> None:
    """Give freed memory back to the system, as glibc by itself hardly does where several threads take and free it."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


class Worker(threading.Thread):
    """Plays one session until its inbox is closed.

    Args:
        make: the session, made in the thread that uses it.
        answer: takes every answer, from this thread; None comes last.
    """

    def __init__(self, make: Callable[[], Session], answer: Callable[[bytes | m.Message | None], None]) -> None:
        super().__init__(daemon=True, name="videowm-player")
        self.make, self.answer, self.inbox = make, answer, Inbox()

    def run(self) -> None:
        """Answer message after message. A fault of ours ends this session, and no other."""
        try:
            session = self.make()
            self.answer(session.stage.hello)
            while (found := self.inbox.get()) is not None:
                message, session.queued = found[0], round(found[1], 3)
                for answer in session.handle(message):
                    self.answer(answer)
                if isinstance(message, m.Start):
                    give_back()
        except Exception:
            logger.exception("a player's session ended")
            self.answer(m.Said(text="the server failed at this; its terminal says why: reload the page", refused=True))
        finally:
            self.answer(None)
