"""What an autoencoder keeps: reconstruction of held-out episodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from videowm.data.clips import even_clips
from videowm.evaluate import pictures
from videowm.evaluate.curves import Pairs, mean_and_error
from videowm.limits import Count
from videowm.types import Episodes
from videowm.vae.codec import DiffusersCodec, to_float
from videowm.vae.loss import moved


@dataclass(frozen=True)
class ReconstructionConfig:
    """Held-out clips that are reconstructed."""

    clips: Count = 48  # held-out clips, at most
    frames: Count = 33  # frames of a clip, 1 + k * time stride
    batch: Count = 4  # clips computed at once


@torch.no_grad()
def reconstruction(codec: DiffusersCodec, dataset: Episodes, config: ReconstructionConfig) -> Pairs:
    """`measures` of held-out clips through the codec, each with its standard error over episodes.

    Clips in which nothing moves have no `psnr_moved`; `moved_clips` counts the others.
    """
    where = even_clips(dataset, frames=config.frames, split="test", count=config.clips)
    device = next(codec.vae.parameters()).device
    parts: list[dict[str, Tensor]] = []
    for i in range(0, len(where), config.batch):
        clips = [dataset.clip(episode, start, config.frames).frames for episode, start in where[i : i + config.batch]]
        frames = to_float(np.stack(clips), device)
        parts.append(measures(codec.decode(codec.encode(frames)), frames))
    episodes = np.array([episode for episode, _ in where])
    for name in parts[0]:
        values = torch.cat([part[name] for part in parts]).double().numpy()
        kept = ~np.isnan(values) if name == "psnr_moved" else np.full(len(values), fill_value=True)
        pictures.finite(name, torch.from_numpy(values[kept]))
        if name == "psnr_moved":
            yield "reconstruction/clips", len(where)
            yield "reconstruction/moved_clips", int(kept.sum())
        if kept.any():
            yield from mean_and_error(f"reconstruction/{name}", values[kept], episodes[kept])


def measures(decoded: Float[Tensor, "b f 3 H W"], frames: Float[Tensor, "b f 3 H W"]) -> dict[str, Float[Tensor, " b"]]:
    """Scores "b" of decoded against true clips "b f 3 H W" in [-1, 1]; in dB the peak is 2 throughout.

    psnr, ssim: mean over frames. psnr_motion: PSNR of the differences of consecutive frames, mean over them.
    psnr_moved: PSNR over the pixels of the clip that moved, NaN where none did.
    """
    scores = {"psnr": pictures.psnr(decoded, frames).mean(1), "ssim": pictures.ssim(decoded, frames).mean(1)}
    if frames.shape[1] > 1:
        scores["psnr_motion"] = pictures.psnr(decoded.diff(dim=1), frames.diff(dim=1)).mean(1)
        error, counted = (decoded - frames)[:, 1:].square().mean(dim=2), moved(frames)
        mean = (error * counted).sum((1, 2, 3)) / counted.sum((1, 2, 3))  # 0 / 0 is NaN
        scores["psnr_moved"] = 10 * (4 / mean.clamp_min(1e-10)).log10()
    return {name: value.float().cpu() for name, value in scores.items()}
