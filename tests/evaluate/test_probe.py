"""Linear probes: planted factors come back, others do not, and a run is probed by one command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from videowm.evaluate.intervene import OWN, InterveneConfig, direction, pushes, scored
from videowm.evaluate.probe import Seen, probe
from videowm.evaluate.probe_record import read
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


def test_probes_are_tested_on_another_recording():
    """Guards a test on rows of the fit, and factors scaled by the recording that they are tested on."""
    seen, other = planted(), planted()
    other.factors[:, 0] = other.factors[::-1, 0]
    rows = {row["factor"]: row for row in probe(seen, ["speed", "turn"], other)}
    assert rows["turn"]["r2"]["block 0"] > 0.95 and rows["speed"]["r2"]["block 1"] < 0
    other.factors[:, 1] = 0
    with pytest.raises(UserError, match="factor 'turn' is none that varies here"):
        probe(seen, ["turn"], other)


def test_a_push_that_moves_its_factor_stands_out():
    """Guards signs that cancel, random directions counted with their signs, and errors over clips instead of episodes.

    In block 1 the own direction moves the factor by 0.5, random ones by 0.2 to either side; block 0 moves it back.
    """
    random = np.random.default_rng(0)
    moves = 0.05 * random.normal(size=(24, 2, 2 + 8))
    moves[:, 1, OWN] += 0.5
    moves[:, 0, OWN] -= 0.5
    moves[:, :, 2:] += 0.2 * np.array([1, -1] * 4)
    found = scored(moves, np.repeat(np.arange(8), 3), 1)
    assert found["effect"][1] == pytest.approx(0.5, abs=0.05) and found["random"][1] == pytest.approx(0.2, abs=0.03)
    assert found["errors_above"][1] > 10 and found["errors_above"][0] < -10 and found["block"] == 1
    assert scored(moves, np.zeros(24, int), 1)["above_se"] != scored(moves, np.arange(24), 1)["above_se"]
    flat = scored(np.zeros((4, 1, 10)), np.arange(4), 0)
    assert flat["errors_above"] == [0]


def test_a_push_is_as_long_as_random_ones():
    """Guards random directions of another length, and a direction that is not the factor's."""
    states = planted().sources["block 1"]
    found = direction(states, planted().factors[:, 0])
    every = pushes(states, found, InterveneConfig(strength=3.0))
    lengths = every.norm(dim=1)
    assert len(every) == 9 and torch.allclose(lengths, lengths[:1])
    along = (states - states.mean(0)) @ every[0] / lengths[0]
    torch.testing.assert_close(lengths[0], 3 * along.std())
    assert np.corrcoef(along.numpy(), planted().factors[:, 0])[0, 1] > 0.9


def test_runs_are_probed_and_pushed(videowm, train_world, dataset, tmp_path):
    """Guards a verb that lost an option, clips that do not fit the window, a source that is missing, and records.

    A push in the first of two blocks moves the future; one in the last is remembered by nothing.
    """
    run = tmp_path / "two"
    train_world(run, "train.steps=2", "depth=2")
    call = videowm("probe", run, run, "--factor", "speed", "turn", "--clips", "4", "--test-data", dataset,
                   "--intervene", "--moments", "2", "--horizon", "4", "--strength", "50",
                   "--out", tmp_path / "p.png")  # fmt: skip
    assert call.code == 0 and call.out.startswith("two, speed: "), call.errors
    found = json.loads((tmp_path / "p.json").read_text())["runs"]
    assert len(found) == 2 and json.loads((run / "probe.json").read_text()) == found[1]
    assert [row["factor"] for row in found[0]["factors"]] == ["speed", "turn"] and found[0]["episodes"] == 2
    assert set(found[0]["factors"][0]["r2"]) == {"latents", "block 0", "block 1", "random"}
    push = found[0]["interventions"][0]
    assert push["block"] == 0 and push["effect"][1] == 0 and push["random"][1] == 0 and push["random"][0] > 0
    assert (tmp_path / "p.png").stat().st_size > 2000
    directions, factors = read(run, found[0]["vae_hash"])
    assert directions.axes.norm(dim=1) == pytest.approx([1, 1], abs=1e-4) and [f for f, _ in factors] == [
        "speed",
        "turn",
    ]
    assert read(run, "another") is None and read(tmp_path, "") is None
