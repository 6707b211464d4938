"""An autoencoder trained on episodes that are played for it and never stored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from videowm.data import played
from videowm.data.dataset import Dataset
from videowm.data.played import PlayConfig, PlayedEpisodes
from videowm.data.recording import record_episodes
from videowm.record import RunRecord
from videowm.train.loop import launch
from videowm.types import UserError

SETTINGS = {"world": "takecover", "episodes": 5, "seed": 7, "frames": 80, "test_share": 0.4}
PLAY = ["data=null", *(f"play.{key}={value}" for key, value in SETTINGS.items())]
VAE = Path(__file__).parents[2] / "configs/vae/quickstart.yaml"


@pytest.fixture(scope="module")
def lossless(tmp_path_factory) -> Path:
    """The same episodes, recorded with every bit kept."""
    return record_episodes(out=tmp_path_factory.mktemp("recorded") / "takecover", lossless=True, **SETTINGS)


@pytest.fixture(scope="module")
def run(vae_arguments, tmp_path_factory) -> Path:
    """A tiny autoencoder that was trained on them, played by two processes; every checkpoint is kept."""
    out = tmp_path_factory.mktemp("runs") / "vae"
    launch(VAE, [f"out={out}", *PLAY, "play.workers=2", *vae_arguments, "train.save_every=1", "train.keep=9"])
    return out


def same(run: Path, other: Path) -> None:
    """Two runs hold the same weights and were measured the same."""
    weights = [(r / "vae/diffusion_pytorch_model.safetensors").read_bytes() for r in (run, other)]
    assert weights[0] == weights[1]
    assert RunRecord.read(run).metrics == RunRecord.read(other).metrics


def test_played_is_recorded(lossless):
    """Guards other episodes than `videowm record` stores: every frame and action, of episodes of several lengths."""
    recorded, now = Dataset(lossless), PlayedEpisodes(PlayConfig(**SETTINGS))
    assert now.lengths.tolist() == recorded.lengths.tolist() and len({*recorded.lengths.tolist()}) > 1
    assert now.size == recorded.size
    for split in ("train", "test"):
        assert now.split(split) == recorded.split(split)
        np.testing.assert_array_equal(now.every_frame(split), recorded.every_frame(split))
    for episode, start in ((0, 0), (2, 3), (4, 20)):
        clips = [episodes.clip(episode, start, 9) for episodes in (now, recorded)]
        np.testing.assert_array_equal(clips[0].frames, clips[1].frames)
        np.testing.assert_array_equal(clips[0].actions, clips[1].actions)
        assert [(clip.episode, clip.start) for clip in clips] == [(episode, start)] * 2


def test_training_on_played_is_training_on_recorded(lossless, run, vae_arguments, tmp_path):
    """Guards clips of the wrong place, held-out frames that were trained on, and frames that no video keeps.

    Once all frames lie in one tensor, once each clip is cut from memory: both are the run on the lossless recording.
    """
    launch(VAE, [f"out={tmp_path / 'data'}", f"data={lossless}", *vae_arguments])
    same(run, tmp_path / "data")
    launch(run / "config.yaml", [f"out={tmp_path / 'off'}", "resident=off", "play.workers=1"])
    same(run, tmp_path / "off")


def test_a_resume_plays_again(run, tmp_path, monkeypatch, capsys):
    """Guards other frames after a resume, and minutes of play before "nothing to do" or a refusal."""
    out = shutil.copytree(run, tmp_path / "vae")
    (out / "record.json").unlink()
    for step in (2, 3):
        shutil.rmtree(out / f"checkpoints/step-0000000{step}")
    launch(out / "config.yaml", [f"out={out}"])
    same(run, out)
    monkeypatch.setattr(played, "play_ahead", None)
    assert launch(run / "config.yaml", []).steps == 3 and "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds another run: play.seed is 7 there and 8 here"):
        launch(run / "config.yaml", ["play.seed=8"])


def test_the_record_says_what_was_played(run):
    """Guards a hash that does not follow the settings, or that follows who plays; config.yaml has them all."""
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written["data"] is None and written["play"].items() >= SETTINGS.items()
    changes = ({}, {"seed": 8}, {"episodes": 6}, {"frames": 81}, {"frame_skip": 2}, {"test_share": 0.2})
    hashes = [PlayedEpisodes(PlayConfig(**SETTINGS | change)).hash for change in changes]
    assert json.loads((run / "record.json").read_text())["hashes"]["data"] == hashes[0]
    assert len(set(hashes)) == len(hashes)
    same_frames = {"workers": 3, "frame_skip": 4}  # the world's own
    assert PlayedEpisodes(PlayConfig(**SETTINGS | same_frames)).hash == hashes[0]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data=null"], "needs one of data and play"),
        (PLAY[1:], "needs one of data and play"),
        ([*PLAY, "play.world=nowhere"], "nowhere"),
        ([*PLAY, "play.episodes=0"], "play.episodes: 0 is out of range"),
        ([*PLAY, "vae.size.space=16", "vae.args={}", "frames=10"], "10 frames does not fit the time stride 4"),
        ([*PLAY, "play.episodes=1000000000"], "play.episodes 1000000000 may take .* GiB"),
    ],
)
def test_what_is_refused_at_once(vae_arguments, tmp_path, overrides, expected):
    """Guards minutes of play before a mistake shows."""
    with pytest.raises(UserError, match=expected) as error:
        launch(VAE, [f"out={tmp_path / 'vae'}", *vae_arguments, *overrides])
    assert "\n" not in str(error.value) and not (tmp_path / "vae").exists()
