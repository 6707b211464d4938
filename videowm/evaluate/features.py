"""Networks that turn a video into one feature vector, for the Fréchet distance."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from videowm.evaluate.reader import Reader
from videowm.files import short_hash, short_hash_of
from videowm.types import UserError, first_line

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation that VideoMAE was trained with
SIDE = 224  # pixels that I3D and VideoMAE take
I3D_FRAMES = 10  # fewer are lost in I3D's pooling over time


class Features(Protocol):
    """A feature network."""

    name: str  # stands in the metric's name, so that no other network's number is taken for it
    hash: str
    resolution: tuple[int, int]  # (H, W) that the network sees

    def __call__(self, video: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b d"]:
        """One vector "b d" a video "b f 3 H W" in [-1, 1], on the CPU."""


class ReaderFeatures:
    """The reader of this repository, trained on the dataset itself: not FVD, and not comparable across datasets."""

    name = "reader"

    def __init__(self, reader: Reader) -> None:
        self.reader, self.hash = reader, reader.hash
        self.resolution = tuple(reader.readable.size)

    def __call__(self, video: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b d"]:
        return self.reader.clip_features(video)


class I3D:
    """A TorchScript file whose forward takes "b 3 f 224 224" in [-1, 1]; such a file of I3D gives what is called FVD.

    The published one (StyleGAN-V's) also takes rescale, resize and return_features; they are passed where its forward
    has them, so that resizing is ours and the features are those before the logits.

    Raises:
        UserError: `path` is no TorchScript file.
    """

    name, resolution = "i3d", (SIDE, SIDE)

    def __init__(self, path: Path, device: torch.device) -> None:
        try:
            self.network = torch.jit.load(path, map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            why = first_line(error)
            raise UserError(f"{path} is no TorchScript file ({why}): give I3D as i3d_torchscript.pt") from None
        self.hash = short_hash(Path(path).read_bytes())
        known = {argument.name for argument in self.network.forward.schema.arguments}
        wanted = {"rescale": False, "resize": False, "return_features": True}
        self.settings = {name: value for name, value in wanted.items() if name in known}
        self.device = device

    @torch.no_grad()
    def __call__(self, video: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b d"]:
        """Features "b d" of videos in [-1, 1], on the CPU.

        Raises:
            UserError: a video has fewer than `I3D_FRAMES` frames.
        """
        if video.shape[1] < I3D_FRAMES:
            raise UserError(f"I3D needs {I3D_FRAMES} frames or more, got {video.shape[1]}: evaluate a longer horizon")
        rows = [self.network(resized(one[None].to(self.device)).transpose(1, 2), **self.settings) for one in video]
        return torch.cat([row.flatten(1).cpu() for row in rows])


class VideoMAE:
    """A VideoMAE encoder from a local folder or by its hub name; features are the mean over its tokens.

    Raises:
        UserError: no VideoMAE is there.
    """

    name, resolution = "videomae", (SIDE, SIDE)

    def __init__(self, source: str, device: torch.device) -> None:
        from transformers import VideoMAEModel

        try:
            self.network = VideoMAEModel.from_pretrained(source).to(device).eval()
        except (OSError, ValueError) as error:
            why = first_line(error)
            raise UserError(f"no VideoMAE at {source!r} ({why}): give a folder, or a hub name while online") from None
        named = sorted(self.network.state_dict().items())
        weights = (name.encode() + tensor.cpu().contiguous().numpy().tobytes() for name, tensor in named)
        self.hash = short_hash_of(chain([self.network.config.to_json_string()], weights))
        side = self.network.config.image_size
        self.resolution = (side, side) if isinstance(side, int) else tuple(side)
        self.device = device

    @torch.no_grad()
    def __call__(self, video: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b d"]:
        """Features "b d" of videos in [-1, 1], on the CPU.

        Raises:
            UserError: a video has fewer frames than the encoder takes.
        """
        count = self.network.config.num_frames
        if video.shape[1] < count:
            raise UserError(f"VideoMAE takes {count} frames, got {video.shape[1]}: evaluate a longer horizon")
        chosen = torch.linspace(0, video.shape[1] - 1, count).round().long()
        mean, std = (torch.tensor(v, device=self.device)[:, None, None] for v in IMAGENET)
        rows = []
        for one in video[:, chosen]:
            pixels = ((resized(one[None].to(self.device), self.resolution) + 1) / 2 - mean) / std
            rows.append(self.network(pixels).last_hidden_state.mean(1).cpu())
        return torch.cat(rows)


def resized(video: Float[Tensor, "b f 3 H W"], size: tuple[int, int] = (SIDE, SIDE)) -> Float[Tensor, "b f 3 h w"]:
    """A video "b f 3 H W" at another size, bilinear."""
    flat = F.interpolate(video.float().flatten(0, 1), size=size, mode="bilinear", align_corners=False, antialias=True)
    return flat.unflatten(0, video.shape[:2])


def open_features(source: str, reader: Reader | None, device: torch.device) -> Features:
    """The network that a user names: reader, a TorchScript file (.pt), or VideoMAE's folder or hub name.

    Raises:
        UserError: no reader was given for "reader", or `source` holds no such network.
    """
    if source == "reader":
        if reader is None:
            raise UserError("features of the reader need one: give --reader RUN, or name another network")
        return ReaderFeatures(reader)
    if source.endswith((".pt", ".pth", ".jit")):
        if not Path(source).is_file():
            raise UserError(f"no feature network at {source}: give an I3D TorchScript file, reader, or a VideoMAE")
        return I3D(Path(source), device)
    return VideoMAE(source, device)
