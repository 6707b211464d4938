"""Inverse dynamics: which row a window tells of, what probabilities mean, and labels that a world model can take."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from videowm import api
from videowm.data.action_table import ActionTable
from videowm.data.dataset import Dataset
from videowm.evaluate.labeller import Labeller, LabellerConfig, calibration, latest
from videowm.evaluate.reader import Readable
from videowm.options import LabelOptions
from videowm.train.loop import launch
from videowm.types import UserError
from videowm.vae.codec import to_float

ROOT = Path(__file__).parents[2]
SMALL = ["train.trackers=[]", "train.precision=fp32", "train.steps=60", "train.batch=4", "train.lr=3e-3",
         "reader.width=8", "reader.frames=4", "reader.lag=1", "clip=9", "heldout_clips=8"]  # fmt: skip


@pytest.fixture(scope="module")
def data(three_data, tmp_path_factory) -> Path:
    """A copy of the game in which the action is the frame's number, and the brightness tells it."""
    return shutil.copytree(three_data, tmp_path_factory.mktemp("labels") / "three")


@pytest.fixture(scope="module")
def run(data) -> Path:
    """A labeller that learned from half of its training episodes, for seconds."""
    out = data.parent / "label"
    launch(ROOT / "configs/label/base.yaml", [f"data={data}", f"out={out}", "share=0.5", *SMALL])
    return out


def test_shares_are_nested(three_data):
    """Guards a smaller share with episodes that a larger one lacks, and held-out episodes in a share."""
    dataset = Dataset(three_data)
    few, half, every = (dataset.labelled_episodes(share, 3) for share in (0.01, 0.5, 1.0))
    assert len(few) == 1 and set(few) < set(half) < set(every) == set(dataset.split("train")) and len(half) == 6


def test_labels_are_the_actions(run, data):
    """Guards labels of another row, recorded actions that were not seen, and labels that are made twice."""
    found, dataset = api.label(data, LabelOptions(by=run)), Dataset(data)
    kept = dataset.labelled_episodes(0.5, 0)
    assert (found.labelled, found.kept) == (10, 6) and f"actions={found.name}" in found.summary
    table = ActionTable.open(data, found.name, dataset.hash)
    true = {episode: dataset.all_actions(episode) for episode in range(dataset.num_episodes)}
    off = {episode: table.of_episode(episode, len(rows)) - rows for episode, rows in true.items()}
    assert not any(off[episode].any() for episode in kept)
    left = [episode for episode in true if episode not in kept]
    error, around = (np.concatenate([part[episode][1:-2] for episode in left]).var() for part in (off, true))
    assert 0 < error < 0.5 * around
    metrics = found.metrics
    assert metrics["label/at_r2"] > 0.6 and metrics["label/episodes"] == 6
    assert metrics["label/hours"] == pytest.approx(dataset.lengths[kept].sum() / 10 / 3600)
    assert api.label(data, LabelOptions(by=run)).name == found.name and found.name in api.info(data)


def test_rows_at_the_ends(run, data):
    """Guards rows that are shifted where an episode's first and last frame stand beyond its ends."""
    labeller, video = Labeller.open(run), to_float(Dataset(data).frames(0, range(12)))
    rows, inside = labeller.rows(video)[0], labeller.distribution(video)[0]
    assert rows.shape == (12, 1)
    torch.testing.assert_close(rows[1:10], inside)


def test_probabilities_by_hand():
    """Guards a likelihood with a wrong sign or unit, and a spread that is not in the target's own units."""
    about = Readable("w", "d", (16, 16), ["jump", "steer"], [], [True, False], [0.5, 10.0], [0.5, 2.0])
    labeller = Labeller(LabellerConfig(frames=2, lag=0, width=8), about)
    made = torch.tensor([[0.0, 1.0, 9.0, 0.0], [2.0, 0.0, 9.0, np.log(4.0)]])
    told = labeller.surprise(made, torch.tensor([[1.0, 12.0], [0.0, 14.0]]))
    hand = [[np.log(2), 0.0], [np.log(1 + np.e**2), (np.log(4) + 1) / 2]]
    torch.testing.assert_close(told, torch.tensor(hand, dtype=torch.float32))
    with torch.no_grad():
        labeller.head[1].weight.zero_()
        labeller.head[1].bias.copy_(torch.tensor([0.0, 1.0, 0.0, np.log(4.0)]))
    mean, spread = labeller.distribution(torch.zeros(3, 3, 16, 16))
    torch.testing.assert_close(mean, torch.tensor([[0.5, 12.0]]).expand(2, 2))
    torch.testing.assert_close(spread, torch.tensor([[0.5, 4.0]]).expand(2, 2))


def test_calibration_and_delay_by_hand():
    """Guards a calibration that overconfidence passes, and a delay with its sign turned round."""
    random = torch.Generator().manual_seed(0)
    chance = torch.rand(20_000, generator=random)
    ones = (torch.rand(20_000, generator=random) < chance).float()
    assert calibration(chance, chance, ones, binary=True) < 0.02
    assert calibration((chance > 0.5).float(), chance, ones, binary=True) == pytest.approx(0.25, abs=0.02)
    noise = torch.randn(20_000, generator=random)
    assert calibration(torch.zeros(20_000), torch.ones(20_000), noise, binary=False) < 0.01
    assert calibration(torch.zeros(20_000), torch.ones(20_000) / 2, noise, binary=False) == pytest.approx(
        0.31, abs=0.02
    )
    true = torch.randn(4, 12, 1, generator=random)
    assert latest(torch.roll(true, 1, dims=1), true) == 1 and latest(torch.roll(true, -2, dims=1), true) == -2
    assert latest(true[:, :4], true[:, :4]) is None and latest(true, torch.zeros_like(true)) is None


def test_a_constant_error_is_no_delay():
    """Guards a delay of -1 of labels that are too large by 1 on an even rise, where nobody could tell the two apart."""
    start, row = torch.tensor([0.0, 7.0])[:, None], torch.arange(12.0)
    rise, wave = (start + row)[..., None], torch.sin(start + row)[..., None]
    assert latest(rise + 0.8, rise) is None and latest(0.5 * rise, rise) is None
    assert latest(wave + 0.8, wave) == 0 and latest(torch.sin(start + row - 1)[..., None] - 2, wave) == 1
    both = torch.cat([rise, wave], dim=-1)
    assert latest(both + 0.8, both) == 0


def test_refusals(three_data, run, dataset, tmp_path):
    """Guards labels of frames that were never learned from, and a labeller of a recording without actions."""
    from videowm.data.import_ import import_dataset
    from videowm.options import ImportOptions

    bare = import_dataset(three_data, tmp_path / "bare", ImportOptions(no_actions=True, size="48x64"))
    with pytest.raises(UserError, match="no actions to learn from: name a recording with --learn-from"):
        api.label(bare, LabelOptions(out=tmp_path / "run"))
    with pytest.raises(UserError, match="the reader takes 4 frames or more of"):
        api.label(bare, LabelOptions(by=run))
