"""Processes of a program of ours that need not import torch: they are forked from a server that has imported it.

Where a kill, a signal or a full disk is tested, the process is what counts; its imports alone would take 8 s of a core.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLONE_NEWNS = 0x20000  # of unshare(2)
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["videowm.cli", "videowm.train.loop", "videowm.train.tasks.world"])


def main(
    module: str,
    arguments: list[str],
    environment: dict[str, str],
    said: list[str],
    session: bool,
    before: list[str] | None,
) -> None:
    """What `python -m MODULE ARGUMENTS` does, in the forked process; its output goes to the two files `said`."""
    if session:
        os.setsid()
    if before:
        ctypes.CDLL(None).unshare(CLONE_NEWNS)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(before, check=True)
    for stream, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    multiprocessing.set_start_method("fork", force=True)  # as in any program on Linux, not the server's own way
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def free_port() -> int:
    """A port that nobody listens on, below those that the system hands out: else it may be gone by its use."""
    for port in random.SystemRandom().sample(range(20000, 32000), 100):
        with socket.socket() as server, suppress(OSError):
            server.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port from 20000 to 32000")


def ranks(count: int) -> list[dict[str, str]]:
    """What `torchrun` puts into the environment of each of `count` processes."""
    same = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    return [same | {"LOCAL_WORLD_SIZE": str(count), "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(count)]


class Forked:
    """One such process, with what tests need of `subprocess.Popen`.

    Args:
        session: it leads a session, and a process group, of its own.
        before: a command that it runs first, in a mount namespace of its own.
    """

    def __init__(self, module: str, arguments: list, environment: dict[str, str], *, session: bool = False,
                 before: list[str] | None = None) -> None:  # fmt: skip
        self.said = [tempfile.NamedTemporaryFile("r") for _ in ("stdout", "stderr")]  # noqa: SIM115
        given = (module, [*map(str, arguments)], environment, [file.name for file in self.said], session, before)
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
