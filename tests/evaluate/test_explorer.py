"""Directions of a latent space: found, moved, and what they follow, on planted ones and through the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from videowm.data.dataset import Dataset
from videowm.evaluate.explorer import Explored, correlations, explore, moved_pictures, pearson, principal_directions
from videowm.types import UserError


def test_planted_directions_are_found():
    """Guards variances, order and signs mixed up: two planted directions of deviation 5 and 2 in noise of 0.1.

    The first follows the column `speed` up to its sign, the second follows nothing; `still` never varies.
    """
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(20, 2, generator=generator)).Q.T
    drawn = torch.randn(600, 2, generator=generator)
    drawn = (drawn - drawn.mean(0)) / drawn.std(0)
    latents = 7 + drawn * torch.tensor([5.0, 2.0]) @ basis + 0.1 * torch.randn(600, 20, generator=generator)
    found = principal_directions(latents, 2)
    assert (found.axes @ basis.T).abs().diagonal().tolist() == pytest.approx([1, 1], abs=1e-2)
    assert found.std.tolist() == pytest.approx([5, 2], rel=0.02)
    whole = latents.var(0).sum().item()
    assert found.explained == pytest.approx([25 / whole, 4 / whole], rel=0.02)
    noise = np.random.default_rng(0).normal(size=600)
    states = np.stack([np.ones(600), -3 * drawn[:, 0].numpy() + 0.1, noise], 1)
    explored = Explored(latents, states, ["still", "speed", "noise"], np.repeat(np.arange(6), 100), latents)
    first, second = correlations(explored, found)
    assert first["best"] == "speed" and first["r2"] > 0.99 and first["r2_se"] < 0.01
    assert second["r2"] < 0.05 and set(first["pearson"]) == {"speed", "noise"}
    with pytest.raises(UserError, match="20 directions of 600 latent steps of 20 numbers: give 1 to 19"):
        principal_directions(latents, 20)


def test_pearson_is_numpys():
    """Guards the formula against numpy's own; a vector that does not vary gives 0, not NaN."""
    a, b = np.random.default_rng(0).normal(size=(2, 50))
    assert pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1]) and pearson(a, np.ones(50)) == 0


def test_states_belong_to_their_latent_steps(codec, dataset):
    """Guards states of another frame: step i >= 1 of a clip is drawn last at frame 4 i, so that is its row."""
    recording = Dataset(dataset)
    explored = explore(codec, recording, clips=4)
    episode = explored.episode[0]
    np.testing.assert_array_equal(explored.states[:8, :8], recording.states(episode)[4:36:4])
    assert explored.names[:2] == ["x", "y"] and explored.names[-1] == "turn" and len(explored.latents) == 32
    assert len(set(explored.episode.tolist())) == 2


def test_moving_to_the_own_coordinate_changes_nothing(codec, dataset):
    """Guards a shift in place of a value: with a deviation of a third of the own coordinate, +3 is the frame itself."""
    explored = explore(codec, Dataset(dataset), clips=4)
    found = principal_directions(explored.latents, 2)
    own = (explored.shown[0, -1].flatten() - found.mean) @ found.axes.T
    found.std[:] = own / 3
    pictures = moved_pictures(codec, explored.shown, found)
    assert pictures.shape == (2, 8, 64, 64, 3)
    for row in pictures:
        np.testing.assert_array_equal(row[-1], row[0])
        assert (row[1] != row[0]).any()


def test_the_command(vae_run, dataset, videowm, tmp_path):
    """Guards the verb: a picture of a row a direction, and JSON beside it that says what it follows."""
    ended = videowm("latents", vae_run, "--data", dataset, "--out", tmp_path / "l.png", "--directions", 3, "--clips", 4)
    assert ended.code == 0 and "over 2 episodes" in ended.out
    note = json.loads((tmp_path / "l.json").read_text())
    assert len(note["directions"]) == 3 and {path.name for path in tmp_path.iterdir()} == {"l.png", "l.json"}
    assert note["directions"][0]["explained"] > note["directions"][2]["explained"] > 0
    assert Image.open(tmp_path / "l.png").size == (170 + 8 * 100, 24 + 3 * 100)
    wrong = videowm("latents", vae_run, "--data", dataset, "--out", tmp_path / "l.jpg")
    assert wrong.code == 2 and ".png" in wrong.errors[-1]
