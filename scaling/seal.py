"""A target's seed, drawn from its prediction, so that the run cannot have come first.

`predict` freezes a file, git holds it in a commit, `seal` draws. The seed is a hash of the prediction's sha256 and of
what nobody knew when it was made: a later drand round where there is a network, else the commit that holds the file.
The plan gives that seed, and the prediction's hash, to the target's run.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from scaling import beacon
from scaling.frozen import file_name, publish_once, read
from scaling.point import SweepConfig
from videowm.files import read_json, write_atomic
from videowm.types import UserError

LOSS = "heldout/loss"


@dataclass(frozen=True)
class Seal:
    """What a target's seed was drawn from; the content of predictions/BUDGET.seal."""

    prediction: str  # sha256 of the prediction
    commit: str  # that first holds its file
    beacon: dict[str, Any] | None  # a drand round, `scaling.beacon.Round`
    seed: int  # of the target's run

    @staticmethod
    def read(path: Path) -> Seal | None:
        """The seal in a file; None where there is none.

        Raises:
            UserError: the file is damaged.
        """
        if not path.exists():
            return None
        try:
            return Seal(**read_json(path, "restore it from git"))
        except TypeError:
            raise UserError(f"{path} is no seal: restore it from git") from None

    @property
    def drawn(self) -> int:
        """The seed that the other fields give."""
        return draw(self.prediction, self.beacon["randomness"] if self.beacon else self.commit)


def draw(prediction: str, later: str) -> int:
    """A seed from a prediction's sha256 and from what came later, 0 to 2^31 - 1."""
    return int.from_bytes(hashlib.sha256(f"{prediction} {later}".encode()).digest()[:4], "big") >> 1


def seal_path(out: str | Path, budget: float, arm: str | None = None) -> Path:
    """Where the seal of a budget's prediction of the held-out loss lies."""
    return (Path(out) / "predictions" / file_name(budget, LOSS, arm)).with_suffix(".seal")


def sealed(out: str | Path, budget: float, arm: str | None = None) -> Seal | None:
    """The seal of a budget, None without one.

    Raises:
        UserError: it is of another prediction than the one beside it, or its seed is not the drawn one.
    """
    path = seal_path(out, budget, arm)
    found = Seal.read(path)
    if found is None:
        return None
    if found.prediction != read(prediction_of(path)).sha256 or found.seed != found.drawn:
        raise UserError(f"{path} does not fit the prediction beside it: restore both from git")
    return found


def prediction_of(seal: Path) -> Path:
    """The file of the prediction that a seal belongs to."""
    return seal.with_suffix(".json")


def seal(sweep: SweepConfig, budget: float, arm: str | None = None, *, drand: str | None = beacon.DRAND,
         calendar: str | None = None) -> tuple[Path, Seal, list[str]]:  # fmt: skip
    """Draw the seed of a budget's target, once; the file, what it holds, and sentences on what was not to be had.

    Args:
        sweep: whose prediction it is.
        budget: FLOPs of the target.
        arm: of the sweep.
        drand: a drand server's address; None: draw from the commit.
        calendar: an OpenTimestamps calendar's address, whose proof lies beside the prediction; None: no timestamp.

    Raises:
        UserError: there is no such prediction, git does not hold it, or another seal is there.
    """
    path, notes = seal_path(sweep.out, budget, arm), []
    if found := sealed(sweep.out, budget, arm):
        return path, found, ["it was sealed before, and a seal is never drawn again"]
    source = prediction_of(path)
    if not source.exists():
        raise UserError(f"{source} is not there: freeze it with `python -m scaling predict`")
    frozen, commit, later = read(source), holding_commit(source), None
    for try_ in (drand,) if drand else ():
        try:
            later = beacon.latest(try_)
        except UserError as error:
            notes.append(f"no beacon, so the seed is drawn from the commit: {error}")
    if later and later.time <= datetime.fromisoformat(frozen.time).timestamp():
        raise UserError(f"the latest round of {drand} is older than {source}: wait, or check the clock")
    if calendar:
        notes += timestamp(source, calendar)
    found = Seal(frozen.sha256, commit, later and later.to_json(),
                 draw(frozen.sha256, later.randomness if later else commit))  # fmt: skip
    publish_once(path, json.dumps(vars(found), indent=1) + "\n")
    return path, found, notes


def timestamp(source: Path, calendar: str) -> list[str]:
    """Put FILE.ots beside a file; a sentence."""
    proof = source.with_name(source.name + ".ots")
    try:
        write_atomic(proof, beacon.stamp(hashlib.sha256(source.read_bytes()).digest(), calendar))
    except UserError as error:
        return [f"no timestamp: {error}"]
    return [f"{proof}: pending; `ots upgrade` completes it in some hours, `ots verify` checks it"]


def holding_commit(path: Path) -> str:
    """The commit that first holds a file as it is now.

    Raises:
        UserError: git does not hold it, or holds another content.
    """
    remedy = f"git add -f {path.name} && git commit, in {path.parent}"
    commits = git(path.parent, "log", "--diff-filter=A", "--format=%H", "--", path.name).split()
    if not commits:
        raise UserError(f"git does not hold {path}, so nobody can see that it came first: {remedy}")
    if git(path.parent, "status", "--porcelain", "--", path.name).strip():
        raise UserError(f"{path} differs from what git holds: {remedy}")
    return commits[-1]


def git(folder: Path, *words: str) -> str:
    """What git prints, empty where it fails."""
    try:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
