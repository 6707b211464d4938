"""The finished runs of a sweep, as `record.json` and `evaluation.json` hold them; nothing is taken from a log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling.law import Runs
from scaling.point import Point
from videowm.config import suggest
from videowm.files import read_json
from videowm.metrics import with_current_names
from videowm.record import RunRecord
from videowm.types import UserError


@dataclass(frozen=True)
class Finished(RunRecord):
    """The record of a finished point, and what the sweep adds to it. `metrics` holds later evaluations too."""

    arm: str | None = None  # of the grid
    own: frozenset[str] = frozenset()  # names of metrics that the run itself measured

    @staticmethod
    def of(record: RunRecord, arm: str | None = None, later: dict[str, Any] | None = None) -> Finished:
        """`record` with `later` metrics; where both have a number, the record's stays."""
        values = vars(record) | {"metrics": (later or {}) | record.metrics}
        return Finished(**values, arm=arm, own=frozenset(record.metrics))

    @property
    def compute(self) -> float:
        """Training FLOPs of the whole path, a trunk's share included."""
        return self.flops["train"]

    @property
    def family(self) -> str:
        """The trunk that the run branched off, else the run itself: what is drawn together in a bootstrap."""
        return self.trunk or self.name

    def number(self, name: str) -> float | None:
        """A metric that is a number; None where it is missing or another thing."""
        value = self.metrics.get(name)
        return value if isinstance(value, int | float) else None


def read_record(run: Path) -> RunRecord | None:
    """The record of a run directory, None for an unfinished run.

    Raises:
        UserError: the file is damaged.
    """
    return RunRecord.read(run)


def finished(points: Sequence[Point]) -> list[Finished]:
    """The finished points by rising compute, without trunks.

    Raises:
        UserError: within an arm, runs were measured on different banks, autoencoders or datasets; or a branch was
            trained in another precision than its trunk.
    """
    read = [(point, record) for point in points if (record := read_record(point.run)) is not None]
    same_precision([record for _, record in read])
    found = [Finished.of(r, point.arm, later_metrics(point.run)) for point, r in read if not r.is_trunk]
    for group in by_arm(found).values():
        for key in ("bank", "vae", "data"):
            kinds = sorted({record.hashes[key] for record in group})
            if len(kinds) > 1:
                raise UserError(
                    f"the points were measured with {len(kinds)} different {key} hashes {kinds}: they do not compare"
                )
    return sorted(found, key=lambda record: record.compute)


def same_precision(records: Sequence[RunRecord]) -> None:
    """Refuse a branch whose trunk was trained in another precision: together they are not one run.

    Raises:
        UserError: a branch and its trunk were trained in different precisions.
    """
    trunks = {record.name: record.execution.precision for record in records}
    for record in records:
        ours, theirs = record.execution.precision, trunks.get(record.trunk)
        if ours and theirs and ours != theirs:
            raise UserError(
                f"{record.name} was trained in {ours} and its trunk {record.trunk} in {theirs}, so they are not one "
                f"run: remove one of the two run directories and train it again with train.precision={theirs}"
            )


def unstopped(records: Sequence[Finished]) -> list[Finished]:
    """Those that went to their end: what the action gate stopped was never cooled down, and belongs to no law."""
    return [record for record in records if not record.stopped]


def rolled(records: Sequence[Finished]) -> list[Finished]:
    """Those whose configuration has rollouts."""
    return [record for record in records if record.metrics.get("rollout/psnr")]


def by_arm(records: Sequence[Finished]) -> dict[str | None, list[Finished]]:
    """Records by their arm, arms in the order in which they come; without arms all of them, as None."""
    return {arm: [r for r in records if r.arm == arm] for arm in dict.fromkeys(r.arm for r in records)}


def later_metrics(run: Path) -> dict[str, Any]:
    """What `videowm evaluate` measured later."""
    path = run / "evaluation.json"
    return with_current_names(read_json(path, f"run videowm evaluate {run} again")) if path.exists() else {}


def check_metric(records: Sequence[Finished], y: str) -> None:
    """Refuse a name that is not a number in every record, or that was measured in different ways.

    Raises:
        UserError: a record lacks the metric or holds no number, or runs were measured on other starts or by another
            reader.
    """
    for record in records:
        if y not in record.metrics:
            numbers = [name for name in record.metrics if record.number(name) is not None]
            raise UserError(
                f"record of {record.name} has no {y!r}{suggest(y, numbers)} (videowm evaluate RUN --reader READER "
                "measures control, state and more)"
            )
        if record.number(y) is None:
            raise UserError(f"{y} of {record.name} is {record.metrics[y]!r}, a y-axis needs a number: name another")
    later = [r.metrics["about"] for r in records if y not in r.own and "about" in r.metrics]
    for about in later[1:]:
        if differs := [f"{k} {later[0][k]} and {v}" for k, v in about.items() if later[0].get(k) != v]:
            raise UserError(f"{y} was measured with different {', '.join(differs)}: evaluate all points alike")


def is_loss(y: str) -> bool:
    """Whether a law may be fitted to this metric: its form is that of a held-out loss."""
    return y.startswith("heldout/loss")


def runs_of(records: Sequence[Finished], y: str = "heldout/loss") -> Runs:
    """The table that a law is fitted on: N (body), D (target tokens), C (training FLOPs) and the loss.

    Stopped runs are left out.

    Raises:
        UserError: `y` is missing, is no number, or was measured in different ways.
    """
    records = unstopped(records)
    check_metric(records, y)
    branched = any(record.trunk for record in records)
    rows = [(r.params["body"], r.tokens["target"], r.compute, r.metrics[y]) for r in records]
    columns = np.array(rows, float).reshape(-1, 4).T
    return Runs(*columns, trunk=np.array([record.family for record in records]) if branched else None)
