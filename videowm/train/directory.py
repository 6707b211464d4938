"""The run directory: of this very run, of none yet, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from videowm import config as configuration
from videowm.files import write_atomic, writing
from videowm.record import RunRecord
from videowm.train import kept, trunk
from videowm.train.config import FREE
from videowm.types import UserError

if TYPE_CHECKING:
    from videowm.train.config import TrainConfig


def finished(out: Path, config: TrainConfig, resolved: dict[str, Any]) -> RunRecord | None:
    """The record of a run that has come to its end already, if that run did all that this call is to do.

    Raises:
        UserError: the record is damaged, the directory holds another run, or it cannot be read.
    """
    with writing(out):
        record = RunRecord.read(out)
        if record is None:
            return None
        check_same_run(out, resolved)
    if not kept.covers(out, record, config.steps, config.keep_at):
        return None
    how = f"was stopped by the {record.stopped}" if record.stopped else "is finished"
    print(f"{out} {how}: nothing to do")
    return record


def prepare_directory(out: Path, resolved: dict[str, Any]) -> None:
    """Make the run directory, or check that it is this very run's.

    Raises:
        UserError: it holds another run or something else, or it cannot be written.
    """
    check_free(out, resolved)
    with writing(out):
        write_atomic(out / "config.yaml", configuration.dump(resolved).encode())


def check_free(out: Path, resolved: dict[str, Any]) -> None:
    """Refuse a directory that holds neither this run nor nothing.

    Raises:
        UserError: it holds another run or something else, or it cannot be read.
    """
    with writing(out):
        if (out / "config.yaml").exists():
            check_same_run(out, resolved)
        elif out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
            raise UserError(f"{out} is not empty and holds no run (no config.yaml): choose another out=")


def check_same_run(out: Path, resolved: dict[str, Any], free: frozenset[str] = frozenset()) -> None:
    """Refuse to go on in a directory whose run was configured otherwise, but for keys in `free`.

    A trunk may become longer.

    Raises:
        UserError: the directory has no configuration, or that of another run.
    """
    if not (out / "config.yaml").exists():
        raise UserError(f"{out} has a record but no config.yaml, so it cannot be this run: choose another out=")
    longer = {"train.steps"} if resolved["train"]["trunk"] else set()
    if differs := trunk.first_difference(out, resolved, FREE | longer | free):
        key, there, here = differs
        raise UserError(
            f"{out} holds another run: {key} is {there!r} there and {here!r} here; "
            "choose another out= or remove the directory"
        )
