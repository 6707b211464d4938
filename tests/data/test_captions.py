"""Captions from the recorded state, and the file that all captions share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from videowm.data.captions import (
    Captions,
    LineWriter,
    captions_path,
    clips_to_caption,
    header_name,
    read_lines,
)
from videowm.data.dataset import Dataset
from videowm.data.state_captions import caption_from_state
from videowm.types import UserError
from videowm.worlds.carracing import CarRacing


@pytest.fixture
def data(exact, tmp_path) -> Path:
    """A copy of the recording: 5 episodes of 40 frames."""
    return shutil.copytree(exact, tmp_path / "data")


def test_every_clip_has_its_words_and_the_dataset_stays_valid(data):
    """Guards clips left out, a second run that differs, and captions that break the dataset's hash or its files."""
    before = Dataset(data).hash
    name, count = caption_from_state(data, clip_frames=9)
    written = captions_path(data, name).read_bytes()
    assert caption_from_state(data, clip_frames=9) == (name, count)
    assert captions_path(data, name).read_bytes() == written
    captions = Captions.open(data, "state")
    assert list(captions) == clips_to_caption(Dataset(data), 9) and len(captions) == count == 5 * 4
    assert {key.start for key in captions} == {0, 8, 16, 24}
    for caption in captions.values():
        assert caption.source == "state" and caption.detailed.startswith(caption.short)
        assert len(caption.detailed) > len(caption.short) + 60
    assert len({caption.detailed for caption in captions.values()}) > 15
    assert Dataset(data).hash == before
    Dataset(data).verify()


def test_a_clip_is_described_by_its_own_frames(data):
    """Guards an offset between clip and caption: the words are those of these states, not of the episode's others."""
    name, _ = caption_from_state(data, clip_frames=17)
    captions, dataset = Captions.open(data, name[:8]), Dataset(data)
    for (episode, start, frames), caption in captions.items():
        heading, speed = dataset.states(episode)[start : start + frames, 2:4].T
        turned = heading[-1] - heading[0]
        if abs(turned) > 0.3:
            assert f"turned {'left' if turned > 0 else 'right'}" in caption.detailed
        if speed[-3:].mean() > speed[:3].mean() + 7:
            assert "speeds up" in caption.detailed or "faster" in caption.detailed
    assert any("has turned left" in c.detailed for c in captions.values())
    assert any("has turned right" in c.detailed for c in captions.values())


def test_detailed_words_follow_what_changes():
    """Guards a story out of order: straight, then left over the grass, then a stop on the road under the brake."""
    states, actions = np.zeros((60, 8), np.float32), np.zeros((59, 3), np.float32)
    states[:, 3], states[:, 6], states[20:40, 6], states[20:40, 4] = 30, 1, 0, 2
    states[20:40, 2], states[40:, 2], states[40:, 3], actions[40:, 2] = np.linspace(0, 2, 20), 2, 1, 0.5
    for seed in range(5):
        words = CarRacing().details(states, actions, np.random.default_rng(seed))
        parts = ["drives along the road, straight ahead", "drives over the grass, bending sharply left",
                 "stands still on the road", "has turned left by about a quarter of a circle"]  # fmt: skip
        places = [words.index(part) for part in parts]
        assert places == sorted(places) and ("slows down" in words or "slower" in words)
    mirrored = states * np.array([1, 1, -1, 1, -1, 1, 1, 1], np.float32)
    rng = np.random.default_rng(0)
    words = CarRacing().caption(mirrored, actions, rng) + CarRacing().details(mirrored, actions, rng)
    assert "left" not in words and "bending sharply right" in words
    assert CarRacing().details(states[:2], actions[:1], rng).count(".") == 2


def test_a_torn_line_is_mended_and_the_file_is_for_one(tmp_path):
    """Guards a caption lost, or one glued to a half-written line, after a kill; and two writers mixing their lines."""
    path = tmp_path / "captions/a.jsonl"
    writer = LineWriter(path)
    first, second = ({"episode": n, "start": 0, "frames": 9, "short": "ü"} for n in (0, 1))
    writer.write(first)
    with pytest.raises(UserError, match="another process writes"):
        LineWriter(path)
    writer.close()
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole + whole[:cut])
        assert list(read_lines(path, ["short"]).values()) == [first]
        writer = LineWriter(path)
        writer.write(second)
        writer.close()
        assert list(read_lines(path, ["short"]).values()) == [first, second]
    LineWriter(tmp_path / "captions/b.jsonl").close()
    assert not (tmp_path / "captions/b.jsonl").exists()


def test_files_that_are_wrong(data, lossy, tmp_path):
    """Guards words of another dataset, of several files of one name, or of a damaged file: one sentence each."""
    caption_from_state(data, clip_frames=9)
    other = shutil.copytree(lossy, tmp_path / "other")
    shutil.copytree(data / "captions", other / "captions")
    with pytest.raises(UserError, match="belongs to a dataset with hash .*caption this dataset"):
        Captions.open(other, "state")
    with pytest.raises(UserError, match="no captions are called 'gpt'.*there are: .* \\(state\\)"):
        Captions.open(data, "gpt")
    name, _ = caption_from_state(data, clip_frames=17)
    with pytest.raises(UserError, match="2 captions are called 'state'"):
        Captions.open(data, "state")
    path = captions_path(data, name)
    path.write_text(path.read_text().replace('"short"', "short"))
    with pytest.raises(UserError, match="is damaged"):
        Captions.open(data, name)
    header = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(header | {"clip_frames": 9}))
    assert header_name(header) == name
    with pytest.raises(UserError, match="is damaged or was changed"):
        Captions.open(data, "state")


def test_datasets_without_states_or_clips(data, tmp_path):
    """Guards words made from nothing: an imported dataset, clips longer than every episode."""
    with pytest.raises(UserError, match="no clip of 41 frames .its longest episode has 40"):
        caption_from_state(data, clip_frames=41)
    with pytest.raises(UserError, match="clips of 1 frames"):
        caption_from_state(data, clip_frames=1)
    info = json.loads((data / "meta/info.json").read_text())
    (data / "meta/info.json").write_text(json.dumps(info | {"robot_type": "robot"}))
    with pytest.raises(UserError, match="no recorded states that its world can put into words.*--base-url"):
        caption_from_state(data, clip_frames=9)
