"""A run that was stopped on its way."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def stopped(world_run, tmp_path):
    """A copy of a finished run as it was when it was stopped after some step."""

    def stop(step: int, name: str = "world", run: Path = world_run) -> Path:
        out = shutil.copytree(run, tmp_path / name)
        for left in (out / "transformer", out / "vae", out / "scheduler"):
            shutil.rmtree(left)
        (out / "record.json").unlink()
        (out / "model_index.json").unlink()
        for path in (out / "checkpoints").glob("step-*"):
            if int(path.name.removeprefix("step-")) > step:
                shutil.rmtree(path)
        return out

    return stop
