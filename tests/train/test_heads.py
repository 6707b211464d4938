"""Heads on a frozen world model: what they learn, where they lie, and what they are refused for."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from videowm.config import build, read
from videowm.data.outcomes import Targets
from videowm.dit.heads import FOLDER, Heads
from videowm.dit.stream import LatentStream
from videowm.evaluate.outcomes import Readings, report
from videowm.metrics import metric_of
from videowm.pipeline import WorldModelPipeline
from videowm.record import RunRecord
from videowm.train.loop import launch
from videowm.train.registry import finished_task
from videowm.train.task import Draws
from videowm.train.tasks.heads import HeadsRun, HeadsTask
from videowm.types import UserError


def test_heads_learn_a_game_whose_end_is_seen(three_heads, three_run):
    """Guards heads that learn the base rate: the picture tells when the game ends, so held-out ends are read.

    They lie in the world model's folder, and what the run logged and recorded is described.
    """
    record = RunRecord.read(three_heads)
    metrics = record.metrics
    assert metrics["heads/real_done_recall"] == 1 and metrics["heads/real_done_precision"] == 1
    assert metrics["heads/real_done_delay"] == 0 and metrics["heads/real_reward_r2"] > 0.9
    assert 0 < metrics["heads/real_done_brier"] < metrics["heads/real_done_brier_floor"] / 2
    assert metrics["heads/state_at_r2"] > 0.9
    assert sum(count for *_, count in metrics["heads/dream_done_reliability"]) > 4
    assert all(metric_of(name) for name in metrics) and (three_heads / "reliability.png").stat().st_size > 1000
    pipeline = WorldModelPipeline.open(three_run)
    heads = Heads.open(three_run, pipeline.config.transformer_hash)
    assert heads.config.block == 0 and heads.config.world == "three"


def test_an_evaluation_of_finished_heads_gives_their_numbers(three_heads):
    """Guards `videowm evaluate` of heads that were restored to other weights."""
    task = finished_task(three_heads, torch.device("cpu"))
    again = dict(task.evaluate())
    assert again["heads/real_done_brier"] == pytest.approx(RunRecord.read(three_heads).metrics["heads/real_done_brier"])


def test_heads_can_learn_from_dreams(three_run, three_heads, tmp_path):
    """Guards heads that are trained on the recorded steps after all, or on a dream whose context was dreamed too."""
    config = read(three_heads / "config.yaml") | {"dreamed": 1.0, "out": str(tmp_path)}
    task = HeadsTask(build(HeadsRun, config))
    task.to(torch.device("cpu"))
    batch = task.load(0, range(2))
    latents, seen = batch["latents"], [task.seen(batch["latents"], batch["actions"], Draws(0, step, range(2), 2, "cpu"))
                                       for step in (0, 0, 1)]  # fmt: skip
    context = task.config.context
    assert all(torch.equal(one[:, :context], latents[:, :context]) for one in seen)
    assert torch.equal(seen[0], seen[1]) and seen[0].shape == latents.shape
    assert all((seen[0] - other)[:, context:].abs().mean() > 0.01 for other in (latents, seen[2]))


def test_probabilities_are_put_right():
    """Guards a rare class whose weight in training stays in what is read: its odds fall by the weight, no other."""
    heads = Heads(8, 2, 3, 4, 0, end_weight=8.0, reward_mean=5.0, reward_std=2.0)
    features, actions = torch.randn(2, 3, 2, 8), torch.randn(2, 3, 3)
    out, read = heads(features, actions), heads.read(features, actions)
    torch.testing.assert_close(read.reward, 5 + 2 * out[..., 0])
    raw = out[..., 1:].softmax(-1)
    odds = [p[..., 1:] / p[..., :1] for p in (raw, read.logits.softmax(-1))]
    torch.testing.assert_close(odds[1] * 8, odds[0])
    torch.testing.assert_close(read.death, 1 - read.logits.softmax(-1)[..., 0])


def test_kept_features_are_those_of_the_clip(three_run):
    """Guards features of another step, level or row: a stream keeps what a pass over the whole clip gives.

    After a row began anew it keeps that row's own.
    """
    model = WorldModelPipeline.open(three_run).transformer
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    from videowm.dit.sample import Sampler
    from videowm.evaluate.outcomes import features_of

    sampler = Sampler(steps=2, method="euler", context_level=0)
    latents, actions = torch.randn(2, 5, 4, 8, 8), torch.randn(2, 5, model.config.actions)
    stream = LatentStream(model, latents[:, :3], actions[:, :3], sampler=sampler, window=8, keep=0)
    made = stream.step(actions[:, 3, None], latents[:, 3, None])

    def whole(clip, acted):
        return features_of(model, clip, acted, 0, torch.zeros(clip.shape[:2]), torch.zeros_like(clip))[:, -1]

    clip = torch.cat([latents[:, :3], made], 1)
    torch.testing.assert_close(stream.kept, whole(clip, actions[:, :4]), rtol=1e-4, atol=1e-4)
    stream.reset([1], latents[1:, :2], actions[1:, :2])
    torch.testing.assert_close(stream.kept[0], whole(clip, actions[:, :4])[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(stream.kept[1], whole(latents[1:, :2], actions[1:, :2])[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(stream.select([1]).kept[0], stream.kept[1])


def test_scores_of_hand_made_readings():
    """Guards precision and recall in each other's place, steps that nobody knows, and a delay counted in steps.

    The end is the second action of step 1 (k = 4), so frame 6; read one step and one action later it is 5 frames late.
    """
    chances = np.zeros((2, 3, 5))
    chances[..., 0] = 1
    chances[0, 2] = [0.1, 0, 0, 0.9, 0]
    chances[1, 0] = [0.4, 0.6, 0, 0, 0]
    end, known = np.array([[0, 2, 0], [1, 0, 0]]), np.array([[True, True, True], [True, True, False]])
    reward = np.array([[1.0, 2, 3], [4, 5, 99]])
    read = Readings(reward + 1, chances, Targets(reward, end, known, end), np.array([0, 1]))
    found = dict(report("real", read))
    assert found["heads/real_done_precision"] == 0.5 and found["heads/real_done_recall"] == 0.5
    assert found["heads/real_reward_error"] == 1 and found["heads/real_done_rate"] == 0.4
    assert found["heads/real_done_delay"] == pytest.approx((5 + 0) / 2)
    assert found["heads/real_done_reliability"] == [[0, pytest.approx(1 / 3), 3], [pytest.approx(0.6), 1, 1],
                                                    [pytest.approx(0.9), 0, 1]]  # fmt: skip
    assert math.isclose(found["heads/real_done_auroc"], (0.5 + 0 + 0.5 + 1 + 0 + 1) / 6)


def test_what_heads_are_refused_for(three_heads, three_run, world_run, tmp_path):
    """Guards tracebacks and heads that are half untrained: none, of another world model or version, no such block."""
    with pytest.raises(UserError, match="has no heads that read rewards and ends: train them with videowm train"):
        Heads.open(world_run, None)
    shutil.copytree(three_run / FOLDER, tmp_path / FOLDER)
    other = WorldModelPipeline.open(world_run).config.transformer_hash
    with pytest.raises(UserError, match="was trained on another world model"):
        Heads.open(tmp_path, other)
    weights = tmp_path / FOLDER / "diffusion_pytorch_model.safetensors"
    save_file({key: value for key, value in load_file(weights).items() if not key.startswith("look.maps")}, weights)
    with pytest.raises(UserError, match="was written by another version of videowm"):
        Heads.open(tmp_path, WorldModelPipeline.open(three_run).config.transformer_hash)
    with pytest.raises(UserError, match="block 7 is not in"):
        launch("configs/heads/base.yaml", [f"out={tmp_path / 'x'}", f"world={three_run}", "block=7"])
