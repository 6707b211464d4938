"""How a point stands, who has it, and the command that trains it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import BinaryIO

import yaml

from scaling.point import Point
from scaling.records import read_record
from videowm.files import write_atomic
from videowm.launch import default_file, read
from videowm.lock import locked
from videowm.train.config import DIVERGED
from videowm.train.kept import covers, number, steps
from videowm.train.lock import held

ENDED = ("done", "stopped")  # states of a point that is not trained again


def state(point: Point) -> str:
    """done, stopped (by the action gate, for good), running, diverged, failed or todo."""
    if done(point):
        return "stopped" if stopped(point) else "done"
    if taken(point):
        return "running"
    if diverged(point):
        return "diverged"
    return "failed" if failures(point) else "todo"


def diverged(point: Point) -> bool:
    """Whether the point has no record because its gradient was not finite."""
    return not done(point) and (point.run / DIVERGED).exists()


def stopped(point: Point) -> str | None:
    """What stopped a point that has a record before its end; None where nothing did."""
    record = read_record(point.run)
    return record and record.stopped


def done(point: Point) -> bool:
    """Whether there is a record; a trunk's must reach the plan's steps and keep the plan's checkpoints.

    A point that the action gate stopped is done too, and so is a trunk that nothing is left to start from: where only
    records were brought to another machine, no trunk is trained again for them.
    """
    if point.branches and all(map(read_record, point.branches)):
        return True
    record = read_record(point.run)
    if record is None or not record.is_trunk:
        return record is not None
    return covers(point.run, record, point.steps, yaml.safe_load(point.config.read_text())["train"]["keep_at"])


def log_of(point: Point) -> Path:
    """The file that holds all output of the point's processes."""
    return point.config.with_suffix(".log")


def claim(point: Point) -> BinaryIO | None:
    """The point's log, locked; None where another process has it.

    The lock belongs to the open file, which becomes the output of all processes of the point. It is held until the last
    of them ends, however the launcher ends. It also holds while they import and have no lock of the run yet.
    """
    file = log_of(point).open("ab")
    if not locked(file, exclusive=True) or held(point.run):  # the run by a `videowm train` that somebody else started
        file.close()
        return None
    return file


def taken(point: Point) -> bool:
    """Whether some process trains the point now, or is about to."""
    if not log_of(point).exists():
        return held(point.run)
    file = claim(point)
    if file is not None:
        file.close()
    return file is None


def failures(point: Point) -> list[str]:
    """What the tries so far ended with, one line each."""
    path = point.config.with_suffix(".failed")
    return path.read_text().splitlines() if path.exists() else []


def note_failure(point: Point, code: int) -> None:
    """Add one line to the failures of a point: exit code, time, step reached."""
    lines = [*failures(point), json.dumps({"exit": code, "time": time.time(), "step": reached(point)})]
    write_atomic(point.config.with_suffix(".failed"), ("\n".join(lines) + "\n").encode())


def reached(point: Point) -> int:
    """The step of the newest checkpoint, 0 without any."""
    return max(map(number, steps(point.run / "checkpoints")), default=0)


def spent(point: Point) -> float:
    """FLOPs of the point's own steps that are behind it, from its log of metrics."""
    if done(point):
        return point.spent
    first = round(point.steps * (1 - point.spent / point.flops))
    return point.spent * min(1.0, max(0, logged(point.run) - first) / max(1, point.steps - first))


def logged(run: Path) -> int:
    """The last step in metrics.jsonl, 0 without any."""
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16384))
            return json.loads(file.read().splitlines()[-1])["step"]
    except (OSError, ValueError, IndexError, KeyError):  # none yet, or half a line
        return 0


def processes() -> int:
    """The processes that are started for one point, under the user's own configuration of accelerate.

    Raises:
        UserError: it is damaged, or asks for what training does not follow.
    """
    path = default_file()
    return 1 if path is None else int(read(path).get("num_processes", 1))


def launch_command(config: Path) -> list[str]:
    """What trains a point: a process of its own, or `videowm.launch` where the user has configured accelerate."""
    if default_file() is None:
        return [sys.executable, "-m", "videowm", "train", str(config)]
    return [sys.executable, "-m", "videowm.launch", "--main_process_port", "0", "train", str(config)]


def threads(jobs: int) -> dict[str, str]:
    """The share of the host's cores of each of `jobs` points side by side, unless the user or accelerate gives one."""
    if default_file() is not None:
        return {}
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))}
