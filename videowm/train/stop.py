"""A signal ends a run after the step in work, with its checkpoint written."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

# Launchers and SLURM, Ctrl-C, SLURM before a time limit; Windows has no SIGUSR1.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
PATIENCE = 15  # s for the step and the checkpoint; launchers wait 20 s, torchrun 30 s


class StopOnSignal:
    """Within it a signal is noted in `signal` and nothing ends, so that the step in work can be saved.

    Ctrl-C once more ends at once, a second later at the earliest, because launchers pass the first one on.

    Args:
        saves: whether this process writes the checkpoint. One that does not may wait for ever for one that has ended,
            in a kernel where no Python runs: it goes on, so that the step can be finished, and then is ended by the
            system.
    """

    def __init__(self, *, saves: bool) -> None:
        self.saves, self.signal, self.at = saves, None, 0.0

    def __enter__(self) -> StopOnSignal:
        taken = SIGNALS if threading.current_thread() is threading.main_thread() else ()
        self.before = {number: signal.signal(number, self.note) for number in taken}
        return self

    def note(self, number: int, _: FrameType | None) -> None:
        """Handle a signal."""
        if self.signal and number == signal.SIGINT and time.monotonic() > self.at + 1:
            raise KeyboardInterrupt
        if not self.signal:
            self.signal, self.at = signal.Signals(number), time.monotonic()
            if not self.saves and hasattr(signal, "alarm"):
                signal.alarm(PATIENCE)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def leave_signals_to_the_trainer(_: int) -> None:
    """Of a process that loads data: a signal to the whole group must not take the samples from the step in work."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
