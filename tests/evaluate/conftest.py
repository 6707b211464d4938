"""Scenes made of a real recording and constructed rollouts, and a reader that was trained on it for seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from videowm.data.dataset import Dataset
from videowm.evaluate.scenes import Scenes
from videowm.train.loop import launch
from videowm.vae.codec import to_float

ROOT = Path(__file__).parents[2]
CONTEXT, HORIZON = 5, 24


@pytest.fixture(scope="session")
def reader_run(dataset, tmp_path_factory) -> Path:
    """A reader of the tiny recording, trained for seconds by the program's own command."""
    out = tmp_path_factory.mktemp("runs") / "reader"
    small = [
        "train.precision=fp32",
        "reader.width=8",
        "reader.state=[turn,on_track]",
        "train.steps=120",
        "train.batch=4",
        "train.lr=3e-3",
    ]
    launch(ROOT / "configs/reader/carracing.yaml", [f"data={dataset}", f"out={out}", "train.trackers=[]", *small])
    return out


@pytest.fixture(scope="session")
def recording(dataset) -> Dataset:
    return Dataset(dataset)


@pytest.fixture(scope="session")
def perfect(recording) -> Scenes:
    """Two clips of each training episode (the tiny reader knows no others), every rollout of them the truth itself.

    The autoencoder's picture of it is the truth with a little noise; tests replace what they are about.
    """
    where = [(episode, start) for episode in recording.split("train") for start in (4, 36)]
    clips = [recording.clip(episode, start, CONTEXT + HORIZON) for episode, start in where]
    truth = to_float(np.stack([clip.frames for clip in clips]))
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    actions = torch.from_numpy(np.stack([clip.actions for clip in clips]))
    return Scenes(
        truth, (truth + 0.03 * noise).clamp(-1, 1), truth, truth, truth, truth, actions,
        np.array([episode for episode, _ in where]), np.array([start for _, start in where]), CONTEXT,
    )  # fmt: skip


@pytest.fixture(scope="session")
def scenes(perfect) -> Scenes:
    """The same, under other actions than the true ones the picture of another episode, and for zeros the first frame
    repeated."""
    from videowm.evaluate.heldout import of_other_episode

    other = perfect.truth[torch.from_numpy(of_other_episode(perfect.episode))]
    wrong = torch.cat([perfect.truth[:, :CONTEXT], other[:, CONTEXT:]], dim=1)
    return replace(perfect, dreamed=perfect.decoded, shuffled=wrong, random=wrong, zero=perfect.repeat)
