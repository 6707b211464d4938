"""Small real recordings of CarRacing, made once for all tests of the data room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from videowm.data.recording import record_episodes


@pytest.fixture(scope="session")
def settings() -> dict[str, Any]:
    """Five episodes of 40 frames in three file groups."""
    return {"episodes": 5, "seed": 7, "frames": 40, "group": 2, "test_share": 0.2}


@pytest.fixture(scope="session")
def exact(tmp_path_factory, settings) -> Path:
    """The episodes in lossless video."""
    return record_episodes("carracing", tmp_path_factory.mktemp("data") / "exact", **settings, lossless=True)


@pytest.fixture(scope="session")
def lossy(tmp_path_factory, settings) -> Path:
    """The same episodes in the default video quality."""
    return record_episodes("carracing", tmp_path_factory.mktemp("data") / "lossy", **settings)
