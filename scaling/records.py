"""What the finished points of a sweep say: record.json, one a run; nothing is scraped from a log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from scaling.law import Runs
from scaling.plan import Point
from videowm.types import UserError


def read_record(run: Path) -> dict[str, Any] | None:
    """record.json of a finished run, None for an unfinished one."""
    try:
        return json.loads((run / "record.json").read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError(f"{run}/record.json is damaged: remove it and run the sweep again") from None


def finished(points: list[Point]) -> list[dict[str, Any]]:
    """Records of the finished points by rising compute, without trunks; other banks, VAEs or datasets do not mix."""
    found = [record for point in points if (record := read_record(point.run)) is not None]
    records = [record for record in found if record.get("role") != "trunk"]
    for key in ("bank", "vae", "data"):
        found = sorted({record["hashes"][key] for record in records})
        if len(found) > 1:
            raise UserError(
                f"the points were measured with {len(found)} different {key} hashes {found}: they do not compare"
            )
    return sorted(records, key=lambda record: record["flops"]["train"])


def runs_of(records: list[dict[str, Any]], y: str = "heldout/loss") -> Runs:
    """The table that a law is fitted on: N (body), D (target tokens), C (training FLOPs) and the loss."""
    for record in records:
        if y not in record["metrics"]:
            raise UserError(f"record of {record['name']} has no {y!r}; it has {', '.join(sorted(record['metrics']))}")
    trunks = [record.get("trunk") for record in records]
    return Runs(
        n=np.array([record["params"]["body"] for record in records], float),
        d=np.array([record["tokens"]["target"] for record in records], float),
        c=np.array([record["flops"]["train"] for record in records], float),
        loss=np.array([record["metrics"][y] for record in records], float),
        trunk=np.array([t or r["name"] for t, r in zip(trunks, records, strict=True)]) if any(trunks) else None,
    )
