"""Comparing runs bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


def weights(run: Path) -> bytes:
    """The exported transformer, byte for byte."""
    return (run / "transformer/diffusion_pytorch_model.safetensors").read_bytes()


def lines(run: Path) -> list[dict]:
    """The steps in metrics.jsonl; the evaluation's line at the end has no training loss."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


@pytest.fixture(scope="session")
def same():
    """Whether two finished runs hold the same model, learned by the same losses and measured the same."""

    def check(run: Path, other: Path) -> None:
        assert weights(run) == weights(other)
        losses = [[(row["step"], row["loss"], row["grad_norm"], row["lr"]) for row in lines(r)] for r in (run, other)]
        assert losses[0] == losses[1]
        records = [json.loads((r / "record.json").read_text()) for r in (run, other)]
        assert records[0]["metrics"] == records[1]["metrics"] and records[0]["hashes"] == records[1]["hashes"]

    return check


@pytest.fixture
def stopped(world_run, tmp_path):
    """A copy of the finished run as it was when it was stopped after some step."""

    def stop(step: int, name: str = "world") -> Path:
        out = shutil.copytree(world_run, tmp_path / name)
        for left in (out / "transformer", out / "vae", out / "scheduler"):
            shutil.rmtree(left)
        (out / "record.json").unlink()
        (out / "model_index.json").unlink()
        for path in (out / "checkpoints").glob("step-*"):
            if int(path.name.removeprefix("step-")) > step:
                shutil.rmtree(path)
        return out

    return stop
