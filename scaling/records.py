"""What the finished points of a sweep say: record.json, one a run; nothing is scraped from a log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.law import Runs
from videowm.config import suggest
from videowm.types import UserError

if TYPE_CHECKING:
    from scaling.plan import Point


def read_record(run: Path) -> dict[str, Any] | None:
    """record.json of a finished run, None for an unfinished one."""
    try:
        return json.loads((run / "record.json").read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError(f"{run}/record.json is damaged: remove it and run the sweep again") from None


def finished(points: list[Point]) -> list[dict[str, Any]]:
    """Records of the finished points by rising compute, without trunks, each with its `arm`.

    Other banks, VAEs or datasets do not mix within an arm.
    """
    read = [(point, r) for point in points if (r := read_record(point.run)) is not None]
    records = [with_evaluation(r, point.run) | {"arm": point.arm} for point, r in read if r.get("role") != "trunk"]
    for group in by_arm(records).values():
        for key in ("bank", "vae", "data"):
            found = sorted({record["hashes"][key] for record in group})
            if len(found) > 1:
                raise UserError(
                    f"the points were measured with {len(found)} different {key} hashes {found}: they do not compare"
                )
    return sorted(records, key=lambda record: record["flops"]["train"])


def unstopped(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that went to their end: what the action gate stopped was never cooled down, and belongs to no law."""
    return [record for record in records if not record.get("stopped")]


def rolled(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those whose configuration asked for rollouts."""
    return [record for record in records if "rollout/psnr" in record["metrics"]]


def by_arm(records: list[dict[str, Any]]) -> dict[str | None, list[dict[str, Any]]]:
    """Records by their arm, arms in the order in which they come; without arms all of them, as None."""
    return {arm: [r for r in records if r.get("arm") == arm] for arm in dict.fromkeys(r.get("arm") for r in records)}


def with_evaluation(record: dict[str, Any], run: Path) -> dict[str, Any]:
    """The record with what `videowm evaluate` measured later; where both have a number, the record's stays."""
    try:
        later = json.loads((run / "evaluation.json").read_text())
    except FileNotFoundError:
        return record
    except ValueError:
        raise UserError(f"{run}/evaluation.json is damaged: run videowm evaluate {run} again") from None
    return record | {"metrics": later | record["metrics"], "own": list(record["metrics"])}


def check_metric(records: list[dict[str, Any]], y: str) -> None:
    """Refuse a name that is not a number in every record, or that was measured on other starts or by another reader."""
    for record in records:
        metrics = record["metrics"]
        if y not in metrics:
            numbers = [name for name, value in metrics.items() if isinstance(value, int | float)]
            raise UserError(
                f"record of {record['name']} has no {y!r}{suggest(y, numbers)} (videowm evaluate RUN --reader READER "
                "measures control, state and more)"
            )
        if not isinstance(metrics[y], int | float):
            raise UserError(f"{y} of {record['name']} is {metrics[y]!r}, a y-axis needs a number: name another")
    later = [r["metrics"]["about"] for r in records if y not in r.get("own", r["metrics"]) and "about" in r["metrics"]]
    for about in later[1:]:
        if differs := [f"{k} {later[0][k]} and {v}" for k, v in about.items() if later[0].get(k) != v]:
            raise UserError(f"{y} was measured with different {', '.join(differs)}: evaluate all points alike")


def runs_of(records: list[dict[str, Any]], y: str = "heldout/loss") -> Runs:
    """The table that a law is fitted on: N (body), D (target tokens), C (training FLOPs) and the loss.

    Stopped runs are left out.
    """
    records = unstopped(records)
    check_metric(records, y)
    trunks = [record.get("trunk") for record in records]
    return Runs(
        n=np.array([record["params"]["body"] for record in records], float),
        d=np.array([record["tokens"]["target"] for record in records], float),
        c=np.array([record["flops"]["train"] for record in records], float),
        loss=np.array([record["metrics"][y] for record in records], float),
        trunk=np.array([t or r["name"] for t, r in zip(trunks, records, strict=True)]) if any(trunks) else None,
    )
