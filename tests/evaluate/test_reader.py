"""The reader: which row a window tells of, what it is to read, and what a finished one still knows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from videowm.data.dataset import Dataset
from videowm.evaluate.reader import Reader, ReaderConfig, check_reader, state_table, targets
from videowm.evaluate.scores import r2
from videowm.train.tasks.reader import ReaderRun, ReaderTask
from videowm.types import UserError
from videowm.vae.codec import to_float

STATE = ["turn", "on_track"]


@pytest.fixture(scope="module")
def run(reader_run) -> Path:
    return reader_run


def test_motion_by_hand():
    """Guards motion in the world's frame, a turn that jumps where the angle wraps, and a sign turned round."""
    names = ("x", "y", "heading")
    states = np.array([[0, 0, np.pi / 2], [-2, 1, np.pi], [-2, 1, -np.pi + 0.1]], np.float32)
    got = state_table(states, names, ["forward", "sideways", "turn", "x"])
    np.testing.assert_allclose(got[0], [2, 1, np.pi / 2, 0], atol=1e-5)  # nose to -x, the car moved up: to its right
    np.testing.assert_allclose(got[1], [0, 0, 0.1, -2], atol=1e-5)
    with pytest.raises(UserError, match="did you mean 'forward'"):
        state_table(states, names, ["forwards"])
    with pytest.raises(UserError, match="'turn' is no column"):
        state_table(states[:, :2], names[:2], ["turn"])


@pytest.mark.parametrize("lag", [0, 2])
def test_a_window_tells_of_its_row(dataset, lag):
    """Guards targets of another row: a clip's frames and rows are found in the episode by hand, for every window."""
    task = ReaderTask(ReaderRun("reader", "x", str(dataset), clip=9, reader=ReaderConfig(lag=lag, state=STATE)))
    batch = task.load(3, range(2))
    recording = Dataset(dataset)
    for slot in range(2):
        episode, start = task.clips.where(3 * task.config.train.batch + slot)
        windows = task.model.windows(to_float(batch["frames"][slot : slot + 1]))[0]
        assert windows.shape[:2] == (5, 5) and batch["rows"].shape == (2, 5, 5)
        for i in (0, 4):
            own = recording.frames(episode, range(start + i, start + i + 5))
            assert torch.equal(windows[i], to_float(own))
            row = targets(recording, episode, STATE)[start + i + lag]
            np.testing.assert_array_equal(batch["rows"][slot, i].numpy(), row)
            np.testing.assert_array_equal(row[:3], recording.actions(episode)[start + i + lag])


def test_it_learns_and_says_how_well(run):
    """Guards a reader that learns nothing, and a record without its own held-out error."""
    record = json.loads((run / "record.json").read_text())
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines() if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    for name in ("steer", "gas", "brake", *STATE):
        assert {f"reader/{name}_r2", f"reader/{name}_r2_se"} <= set(record["metrics"])
    assert "reader/on_track_accuracy" in record["metrics"] and "reader/steer_accuracy" not in record["metrics"]


def test_what_is_opened_is_what_was_trained(run, dataset, videowm, tmp_path):
    """Guards weights, statistics or names lost on the way: a second measurement gives the record's numbers."""
    reader, recording = Reader.open(run), Dataset(dataset)
    assert json.loads((run / "record.json").read_text())["hashes"] == {"data": recording.hash, "reader": reader.hash}
    check_reader(reader, recording)
    assert videowm("evaluate", run).code == 0
    again = json.loads((run / "evaluation.json").read_text())
    assert again == json.loads((run / "record.json").read_text())["metrics"]
    video = to_float(recording.clip(5, 0, 12).frames)[None]
    assert reader.read(video).shape == (1, 8, 5) and reader.clip_features(video).shape == (1, 32)
    alone = reader.read(video[:, 3:8])[0, 0]
    torch.testing.assert_close(reader.read(video)[0, 3], alone)


def test_refusals(run, dataset, tmp_path):
    """Guards readings of what was never learnt: other sizes, shorter clips, changed weights, no reader at all."""
    reader = Reader.open(run)
    with pytest.raises(UserError, match="takes 5 frames or more"):
        reader.read(torch.zeros(1, 4, 3, 64, 64))
    with pytest.raises(UserError, match="takes 5 frames or more"):
        reader.read(torch.zeros(1, 8, 3, 32, 64))
    with pytest.raises(UserError, match="no finished reader"):
        Reader.open(tmp_path)
    for name in ("record.json", "config.json", "reader.safetensors"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    content = bytearray((tmp_path / "reader.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "reader.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="not what was trained"):
        Reader.open(tmp_path)
    with pytest.raises(UserError, match="lag 4 lies outside 5 frames"):
        ReaderConfig(lag=4)


def test_r2_by_hand():
    """Guards a score that favours the truth's spread, hides what is not a number, or invents one for a constant."""
    rng = np.random.default_rng(0)
    true, groups = rng.normal(size=(12, 30, 2)), np.arange(12) // 2
    assert r2(true, true, groups) == (1.0, 0.0)
    assert r2(np.broadcast_to(true.mean((0, 1)), true.shape), true, groups)[0] == pytest.approx(0, abs=1e-9)
    score, error = r2(true + rng.normal(size=true.shape) / 2, true, groups)
    assert score == pytest.approx(0.75, abs=0.05) and 0 < error < 0.05
    assert r2(true, np.zeros_like(true), groups)[0] is None
    with pytest.raises(FloatingPointError):
        r2(np.where(true > 2, np.nan, true), true, groups)
