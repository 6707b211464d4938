"""A run that is asked to end does so after the step in work, with its checkpoint written."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # launchers and SLURM, Ctrl-C, SLURM before a time limit
PATIENCE = 15  # s for the step and the checkpoint; launchers wait 20 s, torchrun 30 s


class Stop:
    """Within, a signal is only noted. Ctrl-C once more, a second later at the earliest (launchers pass the first one
    on), ends at once.

    Args:
        saves: whether this process writes the checkpoint. One that does not may wait for ever for one that has ended,
            in a kernel where no Python runs: it goes on, so that the step can be finished, and then is ended by the
            system.
    """

    def __init__(self, *, saves: bool) -> None:
        self.saves, self.asked, self.at = saves, None, 0.0

    def __enter__(self) -> Stop:
        heard = SIGNALS if threading.current_thread() is threading.main_thread() else ()
        self.before = {number: signal.signal(number, self.ask) for number in heard}
        return self

    def ask(self, number: int, _: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT and time.monotonic() > self.at + 1:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self.at = signal.Signals(number), time.monotonic()
            if not self.saves:
                signal.alarm(PATIENCE)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def leave_signals_to_the_trainer(_: int) -> None:
    """Of a process that loads data: a signal to the whole group must not take the samples from the step in work."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
