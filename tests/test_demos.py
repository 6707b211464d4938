"""The trained models in demos/: they predict held-out video before anything is recorded or trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from videowm.data.dataset import Dataset
from videowm.evaluate.pictures import psnr
from videowm.evaluate.rollouts import RolloutConfig, held_out_starts, roll
from videowm.pipeline import WorldModelPipeline

DEMOS = Path(__file__).parents[1] / "demos"


@pytest.mark.parametrize("name", ["carracing", "doomrooms"])
def test_a_demo_predicts(name):
    """Guards weights that do not fit the code any more, and a folder that grew: it is cloned by everyone."""
    assert sum(path.stat().st_size for path in (DEMOS / name).rglob("*")) < 15 * 2**20
    pipeline = WorldModelPipeline.from_pretrained(DEMOS / name)
    start = held_out_starts(pipeline, Dataset(DEMOS / name / "starts"), RolloutConfig(clips=2, horizon=8))
    with torch.no_grad():
        dreamed = roll(pipeline, start, RolloutConfig(clips=2, horizon=8))[:, 9:]
    truth, last = start.frames[:, 9:], start.frames[:, 8:9]
    assert (psnr(dreamed, truth) - psnr(last.expand_as(truth), truth)).mean() > 0.5
