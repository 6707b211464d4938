"""Did the prediction come first? What files and git prove of it, and what must be trusted.

A folder holds `predictions/` and its records, as `NAME/record.json` (a sweep) or `records/NAME.json` (a study).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from scaling.beacon import OTS_HEADER, Round
from scaling.frozen import Prediction, read
from scaling.seal import Seal, git
from videowm.files import read_json, sha256_of
from videowm.record import RunRecord
from videowm.types import UserError

Word = Literal["proven", "trust", "missing", "BROKEN"]
NEAR = (0.9, 1.2)  # times the predicted budget: FLOPs of a run of it


@dataclass(frozen=True)
class Finding:
    """One thing that is so, is to be trusted, is not there, or contradicts the rest."""

    word: Word
    text: str

    def __str__(self) -> str:
        return f"  {self.word:<8} {self.text}"


def verify(folder: str | Path) -> dict[Path, list[Finding]]:
    """What is known of each prediction in a folder.

    Raises:
        UserError: there is no prediction.
    """
    files = sorted(Path(folder).glob("predictions/*.json"))
    if not files:
        raise UserError(f"{folder} holds no predictions/*.json: give the folder of a sweep or of a study")
    paths = [*sorted(Path(folder).glob("records/*.json")), *sorted(Path(folder).glob("*/record.json"))]
    records = {path: RunRecord.from_json(read_json(path, "restore it"), path) for path in paths}
    return {path: list(findings(Path(folder), path, records)) for path in files}


def findings(folder: Path, path: Path, records: dict[Path, RunRecord]) -> Iterator[Finding]:
    """All of one prediction."""
    try:
        frozen = read(path)
    except UserError as error:
        yield Finding("BROKEN", str(error))
        return
    yield Finding("proven", f"the file matches its own sha256 {frozen.sha256[:16]}")
    yield fitted(frozen, records)
    yield from stamped(path)
    target = target_of(frozen, records)
    if target is None:
        yield Finding("missing", f"no record of a run at {frozen.budget:.3g} FLOPs yet")
        return
    record = records[target]
    yield from named(frozen, record)
    yield from seeded(path, frozen, record)
    yield order(path, target)
    yield from clocks(frozen, record)
    yield Finding("trust", "that no other run of this budget was made and thrown away")


def fitted(frozen: Prediction, records: dict[Path, RunRecord]) -> Finding:
    """Whether the records that it was made from are there, unchanged."""
    hashes = {record.name: sha256_of(path) for path, record in records.items()}
    if changed := [name for name, digest in frozen.runs.items() if name in hashes and hashes[name] != digest]:
        return Finding("BROKEN", f"{len(changed)} of the records that were fitted are others now, such as {changed[0]}")
    if missing := [name for name in frozen.runs if name not in hashes]:
        return Finding(
            "missing", f"{len(missing)} of {len(frozen.runs)} records that were fitted, such as {missing[0]}"
        )
    return Finding("proven", f"all {len(frozen.runs)} records that were fitted are there, each with its sha256")


def stamped(path: Path) -> Iterator[Finding]:
    """Whether a timestamp lies beside it."""
    proof = path.with_name(path.name + ".ots")
    if not proof.exists():
        return
    start = OTS_HEADER + hashlib.sha256(path.read_bytes()).digest()
    if proof.read_bytes().startswith(start):
        yield Finding("trust", f"{proof.name} is a timestamp of these bytes: `ots verify` proves its date")
    else:
        yield Finding("BROKEN", f"{proof.name} is a timestamp of another content")


def target_of(frozen: Prediction, records: dict[Path, RunRecord]) -> Path | None:
    """The record that names the prediction, else the lowest loss at its budget among those that were not fitted."""
    if naming := [path for path, r in records.items() if r.prediction == frozen.sha256 and not r.is_trunk]:
        return naming[0]
    low, high = (share * frozen.budget for share in NEAR)
    found = [path for path, r in records.items() if r.name not in frozen.runs and not r.is_trunk and not r.stopped
             and low <= (r.flops.get("train") or 0) <= high and frozen.y in r.metrics]  # fmt: skip
    return min(found, key=lambda path: records[path].metrics[frozen.y], default=None)


def named(frozen: Prediction, record: RunRecord) -> Iterator[Finding]:
    """Whether the run's configuration holds the prediction's hash."""
    if record.prediction == frozen.sha256:
        yield Finding("proven", f"{record.name} was configured with the prediction's sha256")
    elif record.prediction:
        yield Finding("BROKEN", f"{record.name} names another prediction, {record.prediction[:16]}")
    else:
        yield Finding("missing", f"{record.name} names no prediction: it may have been trained before")


def seeded(path: Path, frozen: Prediction, record: RunRecord) -> Iterator[Finding]:
    """Whether the run's seed could not be known before the prediction."""
    seal = Seal.read(path.with_suffix(".seal"))
    if seal is None:
        yield Finding("missing", "no seal: the run's seed was not drawn from the prediction")
        return
    if seal.prediction != frozen.sha256 or seal.seed != seal.drawn or record.seed != seal.seed:
        yield Finding("BROKEN", f"the run's seed {record.seed} is not the one drawn from this prediction, {seal.drawn}")
        return
    if seal.beacon is None:
        yield Finding("proven", f"seed {seal.seed} follows from the prediction and commit {seal.commit[:12]}")
        yield Finding("trust", "that the commit was not remade until its seed pleased: no public beacon was mixed in")
        return
    said = Round(**seal.beacon)
    if not said.whole or said.time <= moment(frozen.time):
        yield Finding(
            "BROKEN", f"drand round {said.round} does not match its signature, or is older than the prediction"
        )
        return
    yield Finding("proven", f"seed {seal.seed} follows from the prediction and drand round {said.round}")
    yield Finding("trust", f"that the round is drand's: compare {said.url}/{said.chain}/public/{said.round}")


def order(path: Path, target: Path) -> Finding:
    """Whether git holds the prediction in an earlier commit than the run's record."""
    first, later = (
        git(file.parent, "log", "--diff-filter=A", "--format=%H", "--", file.name).split()[-1:]
        for file in (path, target)
    )
    if not first or not later:
        return Finding("missing", "git does not hold both the prediction and the record")
    if first == later:
        return Finding(
            "missing", f"commit {first[0][:12]} brought prediction and record together, so git shows no order"
        )
    if git(path.parent, "merge-base", first[0], later[0]).strip() == first[0]:
        return Finding(
            "proven", f"git: the prediction's commit {first[0][:12]} comes before the record's {later[0][:12]}"
        )
    return Finding(
        "BROKEN", f"git: the record's commit {later[0][:12]} does not follow the prediction's {first[0][:12]}"
    )


def clocks(frozen: Prediction, record: RunRecord) -> Iterator[Finding]:
    """What the machines' clocks say."""
    started = record.execution.started
    if started is None:
        yield Finding("missing", f"{record.name} holds no time at which it was begun")
    elif moment(started) < moment(frozen.time):
        yield Finding("BROKEN", f"{record.name} was begun at {started}, before the prediction of {frozen.time}")
    else:
        yield Finding("trust", f"the clocks: frozen {frozen.time}, begun {started}")


def moment(text: str) -> float:
    """Unix time of an ISO time."""
    return datetime.fromisoformat(text).timestamp()
