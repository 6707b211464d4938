"""Rollouts from held-out starts, against the truth, the codec's own reconstruction and the repeated last frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from videowm.bootstrap import standard_error
from videowm.data.clips import even_clips
from videowm.data.dataset import Dataset
from videowm.dit.sample import Sampler
from videowm.evaluate import pictures
from videowm.evaluate.coder import KIND
from videowm.evaluate.curves import Pairs, mean_and_error
from videowm.evaluate.reconstruction import reconstructed, through
from videowm.limits import Count, Seed, Whole
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError, latent_steps
from videowm.vae.codec import to_float


@dataclass(frozen=True)
class RolloutConfig:
    """Held-out rollouts: `clips` starts spread evenly over the test episodes, the same for every model.

    Without any (`clips: 0`) the frames need not be there, the latents are enough.
    """

    clips: Whole = 48  # held-out starts; 0: no rollouts
    context_frames: Count = 9  # true frames before a rollout, 1 + k * time stride
    horizon: Count = 16  # frames rolled out, a multiple of the time stride
    sampler: Sampler = field(default_factory=Sampler)
    seed: Seed = 0  # of the starting noise
    batch: Count = 16  # rollouts computed at once


@dataclass(frozen=True)
class Start:
    """True frames and actions of some held-out stretches, with the noise that every model starts from.

    All noise is drawn once for each clip, so that a rollout does not depend on the clips that are rolled out with it.
    """

    frames: Tensor  # float "b f 3 H W", context and future
    actions: Tensor  # float32 "b f-1 a"
    episode: np.ndarray
    context_frames: int
    noise: Tensor  # "b steps c h w", of the steps to predict
    past_noise: Tensor  # "b context+steps c h w", of the steps as they are remembered


def starting_points(dataset: Dataset, config: RolloutConfig, k: int) -> list[tuple[int, int]]:
    """The held-out (episode, frame) that rollouts of a model with time stride `k` start from.

    Raises:
        UserError: the context or the horizon does not fit the time stride.
    """
    if (config.context_frames - 1) % k or config.horizon % k:
        raise UserError(
            f"context_frames {config.context_frames} and horizon {config.horizon} do not fit the time stride {k}: "
            f"context must be 1 + {k}n, the horizon a multiple of {k}"
        )
    where = even_clips(dataset, frames=config.context_frames + config.horizon, split="test", count=config.clips)
    if not dataset.source.startswith(f"{KIND}/"):
        return where
    return [(episode, start - start % k) for episode, start in where]  # a code holds for the frames of a latent step


def start_from(
    pipeline: WorldModelPipeline, dataset: Dataset, where: list[tuple[int, int]], config: RolloutConfig
) -> Start:
    """Read the given stretches; their noise depends on the seed and the latent shape only, not on the model."""
    total = config.context_frames + config.horizon
    clips = [dataset.clip(episode, start, total) for episode, start in where]
    time, down, across = pipeline.codec.stride
    height, width = clips[0].frames.shape[1:3]
    steps, known = config.horizon // time, latent_steps(config.context_frames, time)
    shape = (pipeline.codec.channels, height // down, width // across)
    generator = torch.Generator().manual_seed(config.seed)
    frames, actions = (np.stack([getattr(clip, name) for clip in clips]) for name in ("frames", "actions"))
    noise, past = (torch.randn(len(clips), n, *shape, generator=generator) for n in (steps, known + steps))
    return Start(to_float(frames), torch.from_numpy(actions), np.array([clip.episode for clip in clips]),
                 config.context_frames, noise, past)  # fmt: skip


def held_out_starts(pipeline: WorldModelPipeline, dataset: Dataset, config: RolloutConfig) -> Start:
    """The starts of `config`, the same for every model of one time stride.

    Raises:
        UserError: the context or the horizon does not fit the time stride.
    """
    return start_from(pipeline, dataset, starting_points(dataset, config, pipeline.time_stride), config)


def roll(
    pipeline: WorldModelPipeline, start: Start, config: RolloutConfig,
    actions: Float[Tensor, "b n a"] | None = None,
    prompts: list[str] | None = None, *, with_actions: bool = True,
) -> Float[Tensor, "b f 3 H W"]:  # fmt: skip
    """Rolled-out frames "b f 3 H W" in [-1, 1], context included, of all starts; under their own actions unless given.

    Without `prompts` a model with text has the empty one: a caption of what is to come would hold what the actions do.
    Without actions they are absent throughout, as training drops them.
    """
    actions = start.actions if actions is None else actions
    horizon, parts = start.frames.shape[1] - start.context_frames, []
    for i in range(0, len(start.frames), config.batch):
        rows = slice(i, i + config.batch)
        out = pipeline(start.frames[rows, : start.context_frames], actions[rows] if with_actions else None,
                       noise=start.noise[rows], past_noise=start.past_noise[rows], sampler=config.sampler,
                       prompt=prompts and prompts[rows], horizon=horizon)  # fmt: skip
        parts.append(out.frames.cpu())
    return torch.cat(parts)


@torch.no_grad()
def rollouts(pipeline: WorldModelPipeline, dataset: Dataset, config: RolloutConfig) -> Pairs:
    """PSNR by horizon of the model, the VAE (ceiling) and the repeated last frame (floor), and the model's lead."""
    start = held_out_starts(pipeline, dataset, config)
    known = start.context_frames
    truth = start.frames[:, known:]
    curves = {
        "psnr": pictures.psnr(roll(pipeline, start, config)[:, known:], truth),
        "psnr_vae": pictures.psnr(reconstructed(start.frames, through(pipeline.codec), config.batch)[:, known:], truth),
        "psnr_repeat": pictures.psnr(start.frames[:, known - 1 : known].expand_as(truth), truth),
    }
    for name, values in curves.items():
        pictures.finite(name, values)
        yield f"rollout/{name}", values.mean(0).tolist()
        yield f"rollout/{name}_mean", float(values.mean())
        yield f"rollout/{name}_se", standard_error(values.mean(1).double().numpy(), start.episode)
    lead = (curves["psnr"] - curves["psnr_repeat"]).mean(1).double().numpy()
    yield from mean_and_error("rollout/lead", lead, start.episode)
