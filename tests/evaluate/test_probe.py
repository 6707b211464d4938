"""Linear probes: planted factors come back, others do not, and a run is probed by one command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from videowm.evaluate.probe import Seen, probe
from videowm.types import UserError


def planted() -> Seen:
    """Ten episodes of 20 steps: block 1 holds `speed` in a direction of 300 numbers, unit 5 of block 0 holds `turn`."""
    random = np.random.default_rng(0)
    speed, turn = random.normal(size=(2, 200))
    wide, narrow = random.normal(size=(200, 300)), random.normal(size=(200, 8))
    wide += np.outer(speed, random.normal(size=300))
    narrow[:, 5] = -3 * turn + 0.1 * random.normal(size=200)
    noise = torch.tensor(random.normal(size=(200, 300)), dtype=torch.float32)
    blocks = {"block 0": torch.tensor(narrow).float(), "block 1": torch.tensor(wide).float()}
    factors = np.stack([speed, turn, np.ones(200), random.normal(size=200)], axis=1)
    names = ["speed", "turn", "constant", "nothing"]
    return Seen({"latents": noise, "random": noise, **blocks}, blocks, factors, names, np.repeat(np.arange(10), 20))


def test_planted_factors_come_back():
    """Guards probes tested on the episodes that they were fitted on, which read any factor off 300 random numbers.

    Also a penalty that hides a direction of many small parts, and a best unit by luck.
    """
    rows = {row["factor"]: row for row in probe(planted(), [])}
    assert set(rows) == {"speed", "turn", "nothing"}
    assert rows["speed"]["best"] == "block 1" and rows["speed"]["r2"]["block 1"] > 0.9
    assert rows["turn"]["best"] == "block 0" and rows["turn"]["r2"]["block 0"] > 0.95
    assert max(rows["nothing"]["r2"].values()) < 0.1 and rows["speed"]["r2"]["latents"] < 0.1
    unit = rows["turn"]["unit"]
    assert (unit["block"], unit["unit"]) == ("block 0", 5) and unit["r2"] > 0.9
    assert rows["nothing"]["unit"]["r2"] < 0.2 and rows["speed"]["r2_se"]["block 1"] > 0


def test_wrong_factors_are_one_sentence():
    """Guards a traceback over a name, and probes that no other episode can test."""
    with pytest.raises(
        UserError, match="factor 'constant' is none that varies here: give some of speed, turn, nothing"
    ):
        probe(planted(), ["constant"])
    seen = planted()
    seen.episode[:] = 0
    with pytest.raises(UserError, match="one is held out"):
        probe(seen, [])


def test_a_run_is_probed(videowm, world_run, tmp_path):
    """Guards a verb that lost an option, clips that do not fit the window, and a figure or a source that is missing."""
    call = videowm("probe", world_run, "--factor", "speed", "turn", "--clips", "4", "--out", tmp_path / "p.png")
    assert call.code == 0 and call.out.startswith("speed: "), call.errors
    found = json.loads((tmp_path / "p.json").read_text())
    assert [row["factor"] for row in found["factors"]] == ["speed", "turn"] and found["episodes"] == 2
    assert set(found["factors"][0]["r2"]) == {"latents", "block 0", "random"}
    assert (tmp_path / "p.png").stat().st_size > 2000
