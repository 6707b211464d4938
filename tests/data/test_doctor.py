"""What `videowm info DATA --verify` says about a dataset: right about made ones, silent about sound ones."""

from __future__ import annotations

import numpy as np
import pytest

from videowm.data.dataset import Dataset
from videowm.data.doctor import examine
from videowm.data.layout import Layout, finish, write_group
from videowm.files import read_json, write_json
from videowm.info import info
from videowm.types import Episode

LAYOUT = Layout("rolling", 10.0, (32, 64), ("across", "down"), lossless=True, group=1)


def episode(seed: int, rows: int = 80, *, shift: int = 0, still: int = 0, black: int = 0) -> Episode:
    """A textured picture that each action moves by up to 2 pixels; `shift` moves the actions to later rows."""
    rng = np.random.default_rng(seed)
    actions = rng.integers(-2, 3, (rows, 2)).astype(np.float32)
    places = np.concatenate([np.zeros((1, 2)), actions[:-1].cumsum(0)]).astype(int)
    places[rows - still :] = places[rows - still - 1] if still else 0
    picture = np.kron(rng.integers(0, 256, (16, 32, 3)), np.ones((2, 2, 1))).astype(np.uint8)
    frames = np.stack([np.roll(picture, (down, across), (0, 1)) for across, down in places])
    frames[:black] = 0
    none = np.zeros(rows, np.float32)
    return Episode(frames, np.roll(actions, shift, 0), none, none > 0, np.zeros((rows, 0), np.float32), "rolling")


def made(root, episodes, test_share: float = 0.25) -> Dataset:
    for number, one in enumerate(episodes):
        write_group(root, number, [one], LAYOUT)
    finish(root, LAYOUT, test_share)
    return Dataset(root)


@pytest.mark.parametrize("shift", [-2, -1, 0, 1, 2])
def test_shifted_actions_are_named(tmp_path, shift):
    """Guards a lag that is not seen, has the wrong sign, or is seen where there is none."""
    said = examine(made(tmp_path, [episode(seed, shift=shift) for seed in range(8)]))
    rows = f"{abs(shift)} row{'s' if abs(shift) > 1 else ''} {'late' if shift > 0 else 'early'}"
    assert len(said) == (shift != 0) and all(rows in sentence for sentence in said), said


def test_everything_else_that_is_odd_is_named(tmp_path):
    """Guards each remark alone, with its number; a sound dataset beside it has none of them."""
    episodes = [episode(seed) for seed in range(4)]
    for one in episodes:
        one.actions[:, 0] = 0.5
    said = examine(made(tmp_path / "constant", episodes))
    assert [s for s in said if "across" in s] == ["action 'across' is 0.5 in every row: it can teach nothing"]

    for number, one in enumerate(episodes := [episode(seed) for seed in range(4)]):
        noise = np.random.default_rng(number).normal(2, 1, len(one.actions))
        one.actions[:, 1] = noise.clip(-1, 1)
    (said,) = [s for s in examine(made(tmp_path / "clipped", episodes)) if "clipped" in s]
    assert "'down' is 1, its extreme, in 8" in said

    copied = [episode(0), episode(1, still=40), episode(2, black=3), episode(0), episode(4, rows=8)]
    said = "\n".join(examine(made(tmp_path / "many", copied)))
    assert "1 episodes are copies of another (episode 3 of 0)" in said and "stand in train and in test" not in said
    assert "3 frames are black, in 1 of 5 episodes (first 2)" in said
    assert "stands still for 40 frames" in said and "in 1 of 5 episodes (first 1)" in said
    assert "1 of 5 episodes are shorter than 9 frames" in said and "1 of 5 episodes are shorter than 65" in said
    said = "\n".join(examine(made(tmp_path / "shared", [episode(0), episode(1), episode(0)])))
    assert "1 of these pairs stand in train and in test" in said


def test_counts_and_splits_are_compared(tmp_path):
    """Guards counts that nothing is compared with, and a dataset of the hub, which has no list of files."""
    data = made(tmp_path, [episode(seed) for seed in range(4)], test_share=0)
    path = data.root / "meta/info.json"
    write_json(path, read_json(path, "") | {"total_frames": 400, "splits": {"train": "0:3", "test": "3:3"}})
    (tmp_path / "meta/files.json").unlink()
    warnings = [line for line in info(tmp_path, verify=True).splitlines() if line.startswith("warning")]
    for part in ("total_frames 400, the episodes make 320", "the test split is empty", "1 episodes belong to neither",
                 "no meta/files.json"):  # fmt: skip
        assert sum(part in line for line in warnings) == 1, (part, warnings)
    assert len(warnings) == 4


def test_a_recording_is_sound(dataset):
    """Guards remarks about what we record ourselves."""
    assert [s for s in examine(Dataset(dataset)) if "shorter" not in s] == []
    assert "warning" not in info(dataset)
