"""Which checkpoints a run directory holds, by their names alone. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path

from videowm.record import RunRecord

NAME = re.compile(r"step-\d{1,15}")


def steps(directory: Path) -> list[Path]:
    """The published checkpoints, oldest first; what has another name is none."""
    found = (path for path in directory.glob("step-*") if NAME.fullmatch(path.name) and path.is_dir())
    return sorted(found, key=number)


def number(checkpoint: Path) -> int:
    """The step of a published checkpoint."""
    return int(checkpoint.name.removeprefix("step-"))


def at(directory: Path, step: int) -> Path | None:
    """The published checkpoint of one step, intact or not; None where there is none."""
    return next((path for path in steps(directory) if number(path) == step), None)


def missing(out: Path, last: int, keep_at: list[int]) -> list[int]:
    """The steps that a run of `last` steps must keep and of which it has no checkpoint."""
    return [step for step in sorted(keep_at) if step <= last and at(out / "checkpoints", step) is None]


def covers(out: Path, record: RunRecord, last: int, keep_at: list[int]) -> bool:
    """Whether a finished run is the one wanted now; a trunk may have to go on to step `last`, or to keep more."""
    return not record.is_trunk or (record.steps >= last and not missing(out, last, keep_at))
