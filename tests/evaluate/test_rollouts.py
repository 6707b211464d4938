"""Rollouts and reconstruction, measured on held-out recordings."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from videowm.data.clips import even_clips
from videowm.dit.sample import Sampler
from videowm.evaluate import pictures
from videowm.evaluate.reconstruction import ReconstructionConfig, reconstruction
from videowm.evaluate.rollouts import RolloutConfig, held_out_starts, roll, rollouts
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError
from videowm.vae.codec import to_float

CONFIG = RolloutConfig(clips=4, context_frames=5, horizon=8, sampler=Sampler(2), batch=3)


@pytest.fixture(scope="module")
def pipeline(world_run) -> WorldModelPipeline:
    return WorldModelPipeline.open(world_run)


def test_curves_by_hand(pipeline, recording):
    """Guards a horizon counted from the wrong frame, a ceiling or floor of other frames, and leads of other clips."""
    got = dict(rollouts(pipeline, recording, CONFIG))
    start = held_out_starts(pipeline, recording, CONFIG)
    truth, last = start.frames[:, 5:], start.frames[:, 4:5]
    repeat = pictures.psnr(last.expand(-1, 8, -1, -1, -1), truth)
    assert got["rollout/psnr_repeat"] == pytest.approx(repeat.mean(0).tolist())
    model = pictures.psnr(roll(pipeline, start, CONFIG)[:, 5:], truth)
    assert got["rollout/psnr"] == pytest.approx(model.mean(0).tolist()) and len(got["rollout/psnr"]) == 8
    with torch.no_grad():
        vae = pictures.psnr(pipeline.codec.decode(pipeline.codec.encode(start.frames))[:, 5:], truth)
    assert got["rollout/psnr_vae"] == pytest.approx(vae.mean(0).tolist(), rel=1e-4)
    assert got["rollout/lead"] == pytest.approx(got["rollout/psnr_mean"] - got["rollout/psnr_repeat_mean"], abs=1e-4)


def test_starts_are_the_recording_s(pipeline, recording):
    """Guards training episodes among the held-out ones, and frames and actions of different places."""
    start = held_out_starts(pipeline, recording, CONFIG)
    where = even_clips(recording, frames=13, split="test", count=4)
    assert [episode for episode, _ in where] == start.episode.tolist() and set(start.episode) == {4, 5}
    for row, (episode, first) in enumerate(where):
        assert torch.equal(start.frames[row], to_float(recording.frames(episode, range(first, first + 13))))
        np.testing.assert_array_equal(start.actions[row].numpy(), recording.actions(episode)[first : first + 12])


def test_the_same_starts_twice(pipeline, recording):
    """Guards measurements of different models that do not compare: starts and noise come again, bit for bit."""
    torch.manual_seed(0)
    one, two = (held_out_starts(pipeline, recording, CONFIG) for _ in range(2))
    assert torch.equal(one.noise, two.noise) and torch.equal(roll(pipeline, one, CONFIG), roll(pipeline, two, CONFIG))
    other = RolloutConfig(**vars(CONFIG) | {"seed": 1})
    assert not torch.equal(held_out_starts(pipeline, recording, other).noise, one.noise)


def test_other_actions_are_used(pipeline, recording):
    """Guards counterfactual rollouts that roll out the recorded actions after all."""
    start = held_out_starts(pipeline, recording, CONFIG)
    own = roll(pipeline, start, CONFIG)
    assert torch.equal(roll(pipeline, start, CONFIG, start.actions), own)
    turned = roll(pipeline, start, CONFIG, start.actions + 1)
    assert not torch.equal(turned[:, 5:], own[:, 5:])


def test_a_rollout_does_not_depend_on_the_batch(world_run, recording):
    """Guards noise on the past that is drawn in the batch's shape: each clip then had another in every batch size."""
    pipeline = WorldModelPipeline.open(world_run)
    pipeline.trained_on = replace(pipeline.trained_on, drop_actions=0.1)
    for parameter in pipeline.transformer.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    settings = replace(CONFIG, clips=6, sampler=Sampler(2, context_level=0.3))
    start = held_out_starts(pipeline, recording, settings)
    for more in ({}, {"with_actions": False}, {"actions": torch.zeros_like(start.actions)}):
        one, *others = (roll(pipeline, start, replace(settings, batch=batch), **more) for batch in (1, 5, 8))
        for other in others:
            torch.testing.assert_close(other, one, rtol=0, atol=1e-5)
    still = roll(pipeline, replace(start, past_noise=start.past_noise.roll(1, 0)), settings, **more)
    assert (still - one).abs().max() > 1e-3, "the noise on the past must matter here"


@pytest.mark.parametrize(("context", "horizon"), [(6, 8), (5, 7)])
def test_lengths_that_do_not_fit(pipeline, recording, context, horizon):
    """Guards curves of which some frames are half predicted: lengths beside the time stride are refused."""
    with pytest.raises(UserError, match="do not fit the time stride 4"):
        held_out_starts(pipeline, recording, RolloutConfig(context_frames=context, horizon=horizon))


def test_reconstruction_by_hand(codec, recording, vae_run):
    """Guards scores of training episodes, and batches that count alike though the last is smaller."""
    config = ReconstructionConfig(clips=6, frames=9, batch=4)
    got = dict(reconstruction(codec, recording, config))
    frames = torch.stack([
        to_float(recording.clip(episode, first, 9).frames)
        for episode, first in even_clips(recording, frames=9, split="test", count=6)
    ])  # fmt: skip
    with torch.no_grad():
        decoded = codec.decode(codec.encode(frames))
    assert got["reconstruction/psnr"] == pytest.approx(pictures.psnr(decoded, frames).mean().item(), rel=1e-5)
    assert got["reconstruction/ssim"] == pytest.approx(pictures.ssim(decoded, frames).mean().item(), rel=1e-4)
    assert got["reconstruction/psnr_se"] > 0
    recorded = json.loads((vae_run / "record.json").read_text())["metrics"]
    two = dict(reconstruction(codec, recording, ReconstructionConfig(clips=2, frames=9)))
    assert recorded["reconstruction/psnr"] == pytest.approx(two["reconstruction/psnr"], rel=1e-6)
