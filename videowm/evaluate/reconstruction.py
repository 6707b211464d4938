"""What an autoencoder keeps: reconstruction of held-out episodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from videowm.data.clips import even_clips
from videowm.data.dataset import Dataset
from videowm.evaluate import fidelity
from videowm.vae.codec import DiffusersCodec, to_float


@dataclass(frozen=True)
class ReconstructionConfig:
    """Held-out clips that are reconstructed."""

    clips: int = 48
    frames: int = 33
    batch: int = 4


@torch.no_grad()
def reconstruction(
    codec: DiffusersCodec, dataset: Dataset, config: ReconstructionConfig
) -> Iterator[tuple[str, object]]:
    """PSNR and SSIM of held-out clips through the codec, each with its standard error over episodes."""
    where = even_clips(dataset, frames=config.frames, split="test", count=config.clips)
    device = next(codec.vae.parameters()).device
    scores: dict[str, list[torch.Tensor]] = {"psnr": [], "ssim": []}
    for i in range(0, len(where), config.batch):
        clips = [dataset.clip(episode, start, config.frames).frames for episode, start in where[i : i + config.batch]]
        frames = to_float(np.stack(clips), device)
        decoded = codec.decode(codec.encode(frames))
        scores["psnr"].append(fidelity.psnr(decoded, frames).mean(1).cpu())
        scores["ssim"].append(fidelity.ssim(decoded, frames).mean(1).cpu())
    episodes = np.array([episode for episode, _ in where])
    for name, parts in scores.items():
        values = fidelity.finite(name, torch.cat(parts)).double().numpy()
        yield f"reconstruction/{name}", float(values.mean())
        yield f"reconstruction/{name}_se", fidelity.standard_error(values, episodes)
