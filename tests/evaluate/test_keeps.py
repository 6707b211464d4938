"""What an autoencoder keeps of small things: boxes from the replayed game, numbers by hand, and the verb."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from videowm.data.clips import even_clips
from videowm.data.dataset import Dataset
from videowm.data.playing import attempts, game_seed
from videowm.evaluate.counterfactual import Replay
from videowm.evaluate.keeps import HeldOut, held_out, ratio_of_means, read_back, replayed_boxes, small_things
from videowm.evaluate.reader import Reader
from videowm.metrics import metric_of, unit
from videowm.worlds.carracing import CAR


def test_psnr_within_boxes_by_hand():
    """Guards rows taken for columns, an overlap counted twice, and a clip without the thing that lifts its mean.

    The first clip is wrong by 0.2 in all of its ball, 6 of 2 * 64 pixels, and nowhere else.
    """
    frames = torch.zeros(3, 2, 3, 8, 8)
    ball = {"ball": [(slice(1, 3), slice(4, 6)), (slice(2, 3), slice(4, 8))]}  # 4 and 4 pixels, 2 of them shared
    none = {"ball": [], "ghost": []}
    held = HeldOut(frames, np.array([0, 1, 1]), np.zeros(3, int), [[ball, none], [none, none], [none, ball]])
    decoded = frames.clone()
    decoded[0, 0, :, 1:3, 4:6] = decoded[0, 0, :, 2, 4:8] = 0.2
    decoded[2] = 0.5
    got = dict(small_things(held, {"": decoded, "_floor": frames + 0.5}))
    db = lambda error: 10 * np.log10(4 / error)  # noqa: E731
    assert held.kinds == ["ball"] and got["keeps/clips"] == 3 and got["keeps/ball_psnr_clips"] == 2
    assert got["keeps/ball_psnr"] == pytest.approx((db(0.04) + db(0.25)) / 2, abs=1e-4)
    assert got["keeps/ball_psnr_floor"] == pytest.approx(db(0.25), abs=1e-4) and got["keeps/ball_psnr_se"] > 0
    assert got["keeps/picture_psnr"] == pytest.approx((db(0.04 * 6 / 128) + db(1e-10) + db(0.25)) / 3, abs=1e-4)
    assert got["keeps/ball_share"] == pytest.approx(12 / (6 * 64))
    assert not [name for name in got if "ghost" in name]


def test_boxes_are_those_of_the_clips_frames(recording):
    """Guards boxes of a neighbouring frame or another episode: the game is played once more, by hand."""
    where = even_clips(recording, frames=9, split="test", count=4)
    found = replayed_boxes(Replay(recording), where, 9)
    assert len({episode for episode, _ in where}) == 2 and any(first > 9 for _, first in where)
    replay = Replay(recording)
    for (episode, first), clip in zip(where, found, strict=True):
        replay.world.reset(game_seed(next(attempts(3, episode))))
        for action in recording.all_actions(episode)[:first]:
            replay.world.step(action)
        for action, boxes in zip(recording.all_actions(episode)[first : first + 9], clip, strict=True):
            assert boxes == replay.world.boxes() and boxes["car"] == [CAR]
            replay.world.step(action)
    assert len({str(boxes) for clip in found for boxes in clip}) > 1, "only the curbs tell frames apart"


def test_a_game_that_cannot_be_played_again_costs_only_its_boxes(dataset, tmp_path):
    """Guards a refusal to look at an autoencoder of data that were not recorded here."""
    copy = shutil.copytree(dataset, tmp_path / "copy")
    (copy / "meta/recording.json").unlink()
    held, refusal = held_out(Dataset(copy), clips=2, frames=9)
    assert "was not recorded here" in refusal and held.boxes == [] and held.kinds == []
    assert {name.split("/")[1] for name, _ in small_things(held, {"": held.frames})} == {
        "clips", "picture_psnr", "picture_psnr_se"
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained_on(recording) -> HeldOut:
    """Clips of training episodes: the tiny reader knows no others."""
    where = [(episode, first) for episode in recording.split("train") for first in (4, 30)]
    frames = torch.stack([torch.from_numpy(recording.clip(e, first, 33).frames) for e, first in where])
    frames = frames.float().movedim(-1, 2) / 127.5 - 1
    episode, first = (np.array(column) for column in zip(*where, strict=True))
    return HeldOut(frames, episode, first)


def test_what_a_reader_reads_back(reader_run, recording, trained_on):
    """Guards rows beside their windows, and a ratio of other videos: 1 for the same video, more for one that is
    grey, and an error that is below that of a reader who guesses."""
    reader = Reader.open(reader_run)
    same = dict(read_back(reader, recording, trained_on, trained_on.frames))
    grey = dict(read_back(reader, recording, trained_on, torch.zeros_like(trained_on.frames)))
    assert same["keeps/turn_ratio"] == 1.0 and same["keeps/turn_ratio_se"] == 0.0
    assert grey["keeps/turn_ratio"] > 1.2 and grey["keeps/turn_ratio_se"] > 0
    assert grey["keeps/turn_error_ceiling_real"] == same["keeps/turn_error"] < 0.8 * same["keeps/turn_error_floor"]
    late = HeldOut(trained_on.frames, trained_on.episode, trained_on.first + 6)
    assert dict(read_back(reader, recording, late, late.frames))["keeps/turn_error"] > 1.1 * same["keeps/turn_error"]


def test_ratio_of_means_by_hand():
    """Guards a mean of ratios: three of four parts of the error lie in one clip."""
    ratio, error = ratio_of_means(np.array([6.0, 2.0]), np.array([3.0, 1.0]), np.array([0, 1]))
    assert ratio == 2.0 and error == 0.0
    assert ratio_of_means(np.array([6.0, 1.0]), np.array([3.0, 1.0]), np.array([0, 1]))[0] == 1.75


def test_evaluating_an_autoencoder(vae_run, reader_run, tmp_path, videowm):
    """Guards the verb: a number without error or unit, a page without its table or picture."""
    run = shutil.copytree(vae_run, tmp_path / "vae")
    ended = videowm("evaluate", run, "--reader", reader_run, "--clips", 4)
    assert not ended.code, ended.errors
    text = (run / "evaluation.json").read_text()
    metrics, page = json.loads(text), (run / "evaluation.html").read_text()
    assert [name for name in metrics if metric_of(name) is None or not unit(name)] == []
    assert metrics["keeps/clips"] == 4 and metrics["keeps/car_psnr"] < metrics["keeps/picture_psnr"]
    assert metrics["keeps/car_share"] == pytest.approx(9 * 4 / 64**2)
    names = ["picture_psnr", "car_psnr", "car_psnr_floor", "turn_error", "turn_error_ceiling_real", "turn_error_floor"]
    for name in [*names, "turn_ratio"]:
        assert metrics[f"keeps/{name}_se"] > 0, name
    assert "reconstruction/psnr" in metrics and "keeps/game_refused" not in metrics
    assert f"{metrics['keeps/car_psnr']:.4g}" in page and "keeps/turn_ratio" in page
    assert page.count("data:image/png;base64,") == 1 and "Best, median" not in page
    assert (run / "evaluation/keeps.png").exists() and "Within the boxes of each car it is" in ended.out
    ended = videowm("evaluate", run, "--reader", vae_run)
    assert ended.code == 2 and "holds no finished reader" in ended.errors[-1]
