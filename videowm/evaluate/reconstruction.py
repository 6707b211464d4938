"""What an autoencoder keeps of held-out episodes, and what the PCA of the same latent shape keeps: the floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from videowm.data.clips import even_clips
from videowm.evaluate import pictures
from videowm.evaluate.curves import Pairs, mean_and_error
from videowm.limits import Count
from videowm.types import Episodes, latent_steps, pixel_frames
from videowm.vae.codec import DiffusersCodec, to_float
from videowm.vae.loss import moved
from videowm.vae.pca import BlockPCA

PCA_CLIPS = 256  # training clips at most whose blocks give the principal components
PCA_STEPS = 4  # latent steps of such a clip after the first
PCA_NUMBERS = 2**28  # pixel values at most that they hold: fewer clips of larger frames

Reconstruct = Callable[[Float[Tensor, "b f 3 H W"]], Float[Tensor, "b f 3 H W"]]  # of frames in [-1, 1]


@dataclass(frozen=True)
class ReconstructionConfig:
    """Held-out clips that are reconstructed."""

    clips: Count = 48  # held-out clips, at most
    frames: Count = 33  # frames of a clip, 1 + k * time stride
    batch: Count = 4  # clips computed at once


def through(codec: DiffusersCodec) -> Reconstruct:
    """What an autoencoder makes of frames "b f 3 H W", wherever these lie."""
    device = next(codec.vae.parameters()).device
    return lambda frames: codec.decode(codec.encode(frames.to(device)))


@torch.no_grad()
def reconstructed(
    frames: Float[Tensor, "b f 3 H W"], reconstruct: Reconstruct, batch: int
) -> Float[Tensor, "b f 3 H W"]:
    """Frames "b f 3 H W" in [-1, 1] as `reconstruct` gives them back, `batch` clips at once, on the CPU."""
    return torch.cat([reconstruct(part).float().cpu() for part in frames.split(batch)])


@torch.no_grad()
def reconstruction(
    codec: DiffusersCodec, dataset: Episodes, config: ReconstructionConfig, pca: BlockPCA | None = None
) -> Pairs:
    """`measures` of held-out clips through the codec, and through the PCA of its latent shape as `_floor`.

    Without `pca`, the result of `training_pca`, it is computed.

    Each has its standard error over episodes. Clips in which nothing moves have no `psnr_moved`; `moved_clips` counts
    the others.
    """
    where = even_clips(dataset, frames=config.frames, split="test", count=config.clips)
    device = next(codec.vae.parameters()).device
    pca = pca or training_pca(codec, dataset)
    parts: list[dict[str, Tensor]] = []
    for i in range(0, len(where), config.batch):
        clips = [dataset.clip(episode, start, config.frames).frames for episode, start in where[i : i + config.batch]]
        frames = to_float(np.stack(clips), device)
        floor = measures(pca.reconstruct(frames), frames)
        parts.append(measures(codec.decode(codec.encode(frames)), frames) | {f"{k}_floor": v for k, v in floor.items()})
    episodes = np.array([episode for episode, _ in where])
    yield "reconstruction/clips", len(where)
    for name in parts[0]:
        values = torch.cat([part[name] for part in parts]).double().numpy()
        kept = ~np.isnan(values) if name.startswith("psnr_moved") else np.full(len(values), fill_value=True)
        pictures.finite(name, torch.from_numpy(values[kept]))
        if name == "psnr_moved":
            yield "reconstruction/moved_clips", int(kept.sum())
        if kept.any():
            yield from mean_and_error(f"reconstruction/{name}", values[kept], episodes[kept])


def training_pca(codec: DiffusersCodec, dataset: Episodes) -> BlockPCA:
    """The principal components of the codec's latent shape, from evenly spread training clips: a matter of seconds."""
    time, space, _ = codec.stride
    frames = 1 + time * PCA_STEPS
    longest = int(dataset.lengths[dataset.split("train")].max())
    frames = min(frames, pixel_frames(latent_steps(longest - (longest - 1) % time, time), time))
    count = min(PCA_CLIPS, max(1, PCA_NUMBERS // (frames * 3 * dataset.size[0] * dataset.size[1])))
    where = even_clips(dataset, frames=frames, split="train", count=count)
    clips = (to_float(dataset.clip(episode, start, frames).frames[None]) for episode, start in where)
    return BlockPCA.fit(clips, time, space, codec.channels)


def against_floor(metrics: dict[str, object]) -> str:
    """One sentence: how far reconstructions lie above or below the PCA of the same latent shape."""
    found, floor = (float(metrics[f"reconstruction/psnr{suffix}"]) for suffix in ("", "_floor"))
    side = "above" if found >= floor else "BELOW"
    return (f"held-out clips are reconstructed at {found:.1f} dB, {abs(found - floor):.1f} dB {side} the PCA of the "
            f"same latent shape ({floor:.1f} dB)")  # fmt: skip


def measures(decoded: Float[Tensor, "b f 3 H W"], frames: Float[Tensor, "b f 3 H W"]) -> dict[str, Float[Tensor, " b"]]:
    """Scores "b" of decoded against true clips "b f 3 H W" in [-1, 1]; in dB the peak is 2 throughout.

    psnr, ssim: mean over frames. psnr_motion: PSNR of the differences of consecutive frames, mean over them.
    psnr_moved: PSNR over the pixels of the clip that moved, NaN where none did. gradients: mean absolute difference of
    neighbouring pixels over that of the true ones, 1 where nothing is blurred.
    """
    scores = {"psnr": pictures.psnr(decoded, frames).mean(1), "ssim": pictures.ssim(decoded, frames).mean(1)}
    scores["gradients"] = gradients(decoded) / gradients(frames).clamp_min(1e-10)
    if frames.shape[1] > 1:
        scores["psnr_motion"] = pictures.psnr(decoded.diff(dim=1), frames.diff(dim=1)).mean(1)
        error, counted = (decoded - frames)[:, 1:].square().mean(dim=2), moved(frames)
        mean = (error * counted).sum((1, 2, 3)) / counted.sum((1, 2, 3))  # 0 / 0 is NaN
        scores["psnr_moved"] = 10 * (4 / mean.clamp_min(1e-10)).log10()
    return {name: value.float().cpu() for name, value in scores.items()}


def gradients(frames: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, " b"]:
    """Mean absolute difference of neighbouring pixels."""
    across, down = (frames.diff(dim=axis).abs().mean((1, 2, 3, 4)) for axis in (-1, -2))
    return (across + down) / 2
