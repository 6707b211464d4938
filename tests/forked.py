"""Processes of a program of ours that need not import torch: they are forked from a server that has imported it.

Where a kill, a signal or a full disk is tested, the process is what counts; its imports alone would take 8 s of a core.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["videowm.cli", "videowm.train.loop", "videowm.train.tasks.world"])


def main(module: str, arguments: list[str], environment: dict[str, str], said: list[str], session: bool) -> None:
    """What `python -m MODULE ARGUMENTS` does, in the forked process; its output goes to the two files `said`."""
    if session:
        os.setsid()
    for stream, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class Forked:
    """One such process, with what tests need of `subprocess.Popen`.

    Args:
        session: it leads a session, and a process group, of its own.
    """

    def __init__(self, module: str, arguments: list, environment: dict[str, str], *, session: bool = False) -> None:
        self.said = [tempfile.NamedTemporaryFile("r") for _ in ("stdout", "stderr")]  # noqa: SIM115
        given = (module, [*map(str, arguments)], environment, [file.name for file in self.said], session)
        self.process = SERVER.Process(target=main, args=given)
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()

    def wait(self, timeout: float = 120) -> int:
        """The exit code.

        Raises:
            subprocess.TimeoutExpired: the process has not ended; it is killed.
        """
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired(str(self.process), timeout, *(file.read() for file in self.said))
        return self.process.exitcode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Its stdout and stderr, when it has ended."""
        self.wait(timeout)
        return self.said[0].read(), self.said[1].read()

    def close(self) -> None:
        """End it if it lives, and forget what it said."""
        if self.poll() is None:
            self.kill()
            self.process.join()
        for file in self.said:
            file.close()
