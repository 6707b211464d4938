"""Samples of the world model: the same wherever the latents lie."""

from __future__ import annotations

import pytest
import torch

from videowm import config as configuration
from videowm.data.clips import pick
from videowm.train.tasks import WorldRun, WorldTask


@pytest.fixture(scope="module")
def config(world_run) -> WorldRun:
    return configuration.load(WorldRun, world_run / "config.yaml")


def test_resident_samples_are_the_loaded_ones(config):
    """Guards windows of other clips or steps: gathered on the device, gathered by a loader, and cut one by one.

    Actions are their clip's too, and half of the windows or more do not begin their clip, so an offset is seen.
    """
    tasks = {choice: WorldTask(configuration.build(WorldRun, configuration.to_dict(config) | {"resident": choice}))
             for choice in ("on", "off", "auto")}  # fmt: skip
    for task in tasks.values():
        task.to(torch.device("cpu"))
    on, off = tasks["on"], tasks["off"]
    assert tasks["auto"].resident is None, "on a CPU nothing is gained"
    starts = []
    for step in range(8):
        where = on.load(step, range(1, 4))
        assert where.keys() == {"clip", "start"} and all(v.dtype == torch.int64 for v in where.values())
        resident, loaded = on.windows(**where, held=on.resident), off.load(step, range(1, 4))
        for name, whole in (("latents", off.latents.latents), ("actions", off.grouped)):
            assert torch.equal(resident[name], loaded[name]) and loaded[name].shape[:2] == (3, config.window)
            for row, slot in zip(loaded[name], range(1, 4), strict=True):
                clip, rng = pick(config.seed, step * config.train.batch + slot, len(off.latents))
                start = int(rng.integers(9 - config.window + 1)) if rng.random() < 0.5 else 0
                assert torch.equal(row, whole[clip, start : start + config.window])
                starts.append(start)
    assert len(set(starts)) > 2
