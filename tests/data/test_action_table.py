"""Sources of actions: a table's rows, its file, and what a run of each source sees."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from videowm import api
from videowm.data.action_table import ActionTable, find_source, sources
from videowm.data.dataset import Dataset
from videowm.data.latents import Latents
from videowm.options import EvaluateOptions
from videowm.types import UserError


@pytest.fixture(scope="module")
def folder(latents, dataset, tmp_path_factory) -> Path:
    """A copy of the latents with two tables beside it: codes of another size, and labels a hundred above the truth."""
    out, data = shutil.copytree(latents, tmp_path_factory.mktemp("sourced") / "latents"), Dataset(dataset)
    episodes, train = [data.all_actions(episode) for episode in range(data.num_episodes)], data.split("train")
    labels = ActionTable.of("labelled", data.action_names, [rows + 100 for rows in episodes], train)
    codes = ActionTable.of("latent", ("code_0", "code_1"), [rows[:, :2] for rows in episodes], train)
    for table in (labels, codes):
        table.save(out, data.hash, {"by": "hand"})
    return out


def named(folder: Path, kind: str) -> str:
    return next(name for name in sources(("steer", "gas", "brake"), folder) if name.startswith(kind))


def test_rows_by_hand(tmp_path):
    """Guards rows of a neighbouring episode behind an episode's end, and a table that came back as another."""
    episodes = [np.array([[1], [2], [3]], np.float32), np.array([[7], [9]], np.float32)]
    table = ActionTable.of("labelled", ["at"], episodes, [1])
    assert (table.mean, table.std) == (8, 1) and table.name == f"labelled/{table.hash}"
    rows = table.rows(np.array([0, 1]), np.array([1, 0]), 3)[..., 0]
    np.testing.assert_array_equal(rows, [[2, 3, 0], [7, 9, 0]])
    path = table.save(tmp_path, "d", {}, {"probability": np.ones((5, 1), np.float32)})
    again = ActionTable.open(tmp_path, table.name, "d")
    np.testing.assert_array_equal(again.values, table.values)
    assert again.name == table.name and path.parent == tmp_path / "actions/labelled"
    with pytest.raises(UserError, match="hash d, this one has e: label this one"):
        ActionTable.open(tmp_path, table.name, "e")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged: remove it"):
        ActionTable.open(tmp_path, table.name, "d")


def test_a_source_is_named(folder):
    """Guards a source that is silently another, and a recording without actions that has a source `recorded`."""
    recorded = ("steer", "gas", "brake")
    assert sources(recorded, folder)[0] == "recorded" and sources(("none",), folder)[0].startswith("labelled/")
    assert find_source("recorded", recorded, [folder], "d") is find_source(None, recorded, [folder], "d") is None
    with pytest.raises(UserError, match="no source of .*; known: labelled/.*, latent/.*, none"):
        find_source("recorded", ("none",), [folder], "d")
    with pytest.raises(UserError, match="did you mean 'recorded'"):
        find_source("record", recorded, [folder], "d")


def test_latents_hold_the_sources_actions(folder, dataset):
    """Guards rows of another clip or another normalisation: every window is found in the recording by hand."""
    own = Latents.open(folder, "train")
    sourced = Latents.open(folder, "train", actions=named(folder, "labelled"))
    data, clips = Dataset(dataset), np.arange(len(own))
    (_, told), (_, recorded) = (part.windows(clips, clips * 0 + 2, 3) for part in (sourced, own))
    mean, std = sourced.described.action_scale
    for clip, episode, start in zip(clips, *(part.tolist() for part in own.places())):
        true = data.actions(episode)[start + 8 : start + 16].reshape(2, 4, 3)
        found = told[clip, 1:, :-1].reshape(2, 4, 3) * std + mean
        np.testing.assert_allclose(found, true + 100, rtol=1e-5)
    assert told.shape == recorded.shape and torch.equal(told[..., -1], recorded[..., -1])
    silent = Latents.open(folder, "train", actions="none").windows(clips, clips * 0, 3)[1]
    assert silent.shape == (len(own), 3, 5) and not silent[..., :-1].any() and silent[:, 1:, -1].all()
    labelled = data.acting(sourced.table)
    np.testing.assert_array_equal(labelled.actions(1), data.actions(1) + 100)
    assert labelled.source == sourced.source and labelled.recorded.source == data.source == "recorded"


def test_a_run_of_another_source(folder, train_world, tmp_path):
    """Guards a kind of table that some stage does not know, and numbers of a game that never took such actions."""
    name = named(folder, "latent")
    record = train_world(tmp_path / "codes", f"latents={folder}", f"actions={name}", "train.steps=2")
    assert record["actions"] == name and "heldout/action_gap" in record["metrics"]
    found = api.evaluate(tmp_path / "codes", EvaluateOptions(clips=1, horizon=4))
    assert f"was trained with actions={name}" in found["counterfactual/game_refused"]
    assert np.isfinite(found["fidelity/psnr"]) and np.isfinite(found["control/delta_psnr"])
    silent = train_world(tmp_path / "none", f"latents={folder}", "actions=none", "train.steps=1", "rollout.clips=0")
    assert silent["actions"] == "none" and "heldout/action_gap" not in silent["metrics"]
