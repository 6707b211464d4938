"""The keywords that diffusers' pipelines share: each works as it does there, or is refused in one sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback

from videowm.data.dataset import Dataset
from videowm.dit.sample import Sampler
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError
from videowm.vae.codec import to_float

TWO = Sampler(steps=2)


@pytest.fixture(scope="module")
def pipeline(world_run) -> WorldModelPipeline:
    """The trained world model, shaken so that its frames move."""
    pipeline = WorldModelPipeline.open(world_run)
    generator = torch.Generator().manual_seed(0)
    for parameter in pipeline.transformer.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return pipeline


@pytest.fixture(scope="module")
def clips(dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Nine frames "2 9 3 64 64" and actions "2 20 3" of two held-out episodes: three latent steps are predicted."""
    recording = Dataset(dataset)
    found = [recording.clip(episode, 10, 21) for episode in (4, 5)]
    return to_float(np.stack([clip.frames[:9] for clip in found])), torch.tensor(np.stack([c.actions for c in found]))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("futures", [1, 2])
def test_each_row_has_its_generator(pipeline, clips, futures):
    """Guards rows that depend on who is in the batch: noise at the start, on the context and on finished steps."""
    frames, actions = clips
    both = pipeline(frames, actions, generator=[seeded(3), seeded(4)], sampler=TWO, futures=futures).frames
    for row, seed in enumerate((3, 4)):
        one = slice(row, row + 1)
        alone = pipeline(frames[one], actions[one], generator=seeded(seed), sampler=TWO, futures=futures).frames
        torch.testing.assert_close(both[futures * row : futures * (row + 1)], alone, rtol=0, atol=1e-4)
    other = pipeline(frames, actions, generator=[seeded(3), seeded(5)], sampler=TWO, futures=futures).frames
    assert (other[-1] - both[-1]).abs().max() > 1e-2
    stream = pipeline.start(frames, actions[:, :8], generator=[seeded(3), seeded(4)], futures=futures)
    assert stream.step(actions[:, 8:12].repeat_interleave(futures, 0)).shape == (2 * futures, 4, 3, 64, 64)
    stream.reset([2 * futures - 1], frames[1:, :5], actions[1:, :4])
    assert stream.step(actions[:, 8:12].repeat_interleave(futures, 0)).isfinite().all()
    with pytest.raises(UserError, match="1 generators were given for 2 contexts"):
        pipeline(frames, actions, generator=[seeded(3)])


def test_num_inference_steps_are_the_samplers(pipeline, clips):
    """Guards a number of steps that is passed over, and one that overrides a schedule in silence."""
    frames, actions = clips
    named = pipeline(frames, actions, generator=seeded(0), num_inference_steps=2).frames
    assert torch.equal(named, pipeline(frames, actions, generator=seeded(0), sampler=TWO).frames)
    assert not torch.equal(named, pipeline(frames, actions, generator=seeded(0), num_inference_steps=3).frames)
    with pytest.raises(UserError, match="steps"):
        pipeline(frames, actions, num_inference_steps=0)
    with pytest.raises(UserError, match="num_inference_steps 2 and sampler.levels"):
        pipeline(frames, actions, num_inference_steps=2, sampler=Sampler(levels=[1.0, 0.5, 0.0]))


def test_output_types_hold_the_same_frames(pipeline, clips):
    """Guards frames in another range or order, and a decoding that nobody asked for."""
    frames, actions = clips

    def made(kind: str, **more):
        return pipeline(frames, actions, generator=seeded(0), sampler=TWO, output_type=kind, **more)

    whole = made("pt")
    plain = (whole.frames.permute(0, 1, 3, 4, 2).numpy() + 1) / 2
    assert whole.frames.shape == (2, 21, 3, 64, 64) and whole.context_frames == 9
    np.testing.assert_allclose(made("np").frames, plain, atol=1e-6)
    pictures = made("pil").frames
    assert [len(row) for row in pictures] == [21, 21] and pictures[0][0].size == (64, 64)
    np.testing.assert_allclose(np.asarray(pictures[1][20]) / 255, plain[1, 20], atol=0.51 / 255)
    latents = made("latent")
    assert torch.equal(latents.frames, whole.latents) and latents.frames.shape == (2, 6, 4, 8, 8)
    fields = made("pt", return_dict=False)
    assert torch.equal(fields[0], whole.frames) and fields[2] == 9
    with pytest.raises(UserError, match="output_type is 'npy', expected one of pt, np, pil, latent, did you mean 'np'"):
        made("npy")


def test_a_callback_sees_every_latent_step(pipeline, clips):
    """Guards a callback that is not called, or called with tensors of another step; and an interrupt that does not."""
    frames, actions = clips
    seen = []

    def look(pipe, step, place, tensors):
        seen.append((step, place, tensors["latents"].clone()))
        pipe._interrupt = step == stop
        return tensors

    stop = None
    whole = pipeline(frames, actions, generator=seeded(0), sampler=TWO, callback_on_step_end=look)
    assert [(step, place) for step, place, _ in seen] == [(0, 3), (1, 4), (2, 5)]
    assert torch.equal(torch.cat([latents for *_, latents in seen], 1), whole.latents[:, 3:])
    stop = 1
    cut = pipeline(frames, actions, generator=seeded(0), sampler=TWO, callback_on_step_end=look)
    assert cut.frames.shape[1] == 17 and torch.equal(cut.latents, whole.latents[:, :5])
    again = pipeline(frames, actions, generator=seeded(0), sampler=TWO)  # nothing is left of the interrupt
    assert torch.equal(again.frames, whole.frames)
    with pytest.raises(UserError, match="returned other latents"):
        pipeline(frames, actions, callback_on_step_end=lambda *a: {"latents": a[3]["latents"] * 2})
    with pytest.raises(UserError, match="names 'prompt_embeds', but a latent step has latents alone"):
        pipeline(frames, actions, callback_on_step_end=look, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    with pytest.raises(UserError, match="names 'prompt_embeds'"):
        pipeline(frames, actions, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=0.5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_whole(world_run, clips, dtype):
    """Guards parts that meet in two number formats, and a result that is not the same up to rounding."""
    frames, actions = clips
    whole, half = (WorldModelPipeline.open(world_run) for _ in range(2))
    assert half.to(dtype).vae.dtype == half.transformer.dtype == dtype
    expected = whole(frames, actions, generator=seeded(0), sampler=TWO).frames
    found = half(frames, actions, generator=seeded(0), sampler=TWO)
    assert found.frames.dtype == found.latents.dtype == torch.float32
    limit = 0.001 if dtype == torch.float16 else 0.005
    assert 0 < (found.frames - expected).abs().mean() < limit
    streams = [pipe.start(frames, actions[:, :8], generator=seeded(0), sampler=TWO) for pipe in (whole, half)]
    one, other = (stream.step(actions[:, 8:12]) for stream in streams)
    assert one.dtype == other.dtype and 0 < (one - other).abs().mean() < limit


def test_half_precision_reads_words(worded_run, clips):
    """Guards a prompt whose tokens stay in another number format."""
    frames, actions = clips
    pipeline = WorldModelPipeline.open(worded_run).to(torch.bfloat16)
    assert pipeline(frames, actions, sampler=TWO, prompt="a red car").frames.isfinite().all()


@pytest.mark.parametrize("name", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offloading_is_refused(pipeline, name):
    """Guards networks that are left on the CPU because a rollout does not call them whole."""
    with pytest.raises(UserError, match=f"{name} does not bring to the device: leave it out"):
        getattr(pipeline, name)(device="cuda")
