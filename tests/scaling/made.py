"""Records and predictions that tests of `scaling` write or hold, complete and as plain as can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scaling.predict import Prediction
from scaling.records import Finished
from videowm.record import RunRecord


def run_record(name: str = "p", **changes: Any) -> RunRecord:
    """A record of one run, with `changes`."""
    values = {
        "name": name, "seed": 0, "steps": 9, "batch": 4, "lr": 1e-3, "wall_seconds": 1.0, "device": "CPU", "depth": 2,
        "params": {"body": 10}, "tokens": {"target": 100}, "frames": {"seen": 1, "unique": 1},
        "flops": {"train": 1e12, "spent": 1e11}, "hashes": {"bank": "b", "vae": "v", "data": "d"},
        "metrics": {"heldout/loss": 0.5, "heldout/loss_se": 0.01},
    }  # fmt: skip
    return RunRecord(**values | changes)


def finished_run(name: str = "p", *, arm: str | None = None, **changes: Any) -> Finished:
    """The same as a finished point of a sweep."""
    return Finished.of(run_record(name, **changes), arm)


def write_record(run: Path, **changes: Any) -> None:
    """Write a record.json into the run directory `run`."""
    run_record(run.name, **changes).write(run)


def prediction(**changes: Any) -> Prediction:
    """A prediction of 1e17 FLOPs."""
    values = {
        "form": "surface", "status": "converged", "params": {}, "n": None, "d": None, "loss": 0.48,
        "interval": [0.47, 0.49], "block": "run", "baselines": {"no further gain": 0.6, "power": 0.45}, "budget": 1e17,
        "y": "heldout/loss", "arm": None, "form_chosen": "named by the user", "level": 0.9, "depth": None,
        "held_out": True, "runs": {}, "time": "", "sha256": "",
    }  # fmt: skip
    return Prediction(**values | changes)
