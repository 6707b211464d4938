"""Any diffusers video autoencoder behind the `VideoCodec` protocol."""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from einops import rearrange
from torch import Tensor, nn

from videowm.config import suggest
from videowm.types import UserError, latent_steps

# class -> how (time stride, space stride) are read from the model's own configuration
STRIDES = {
    "AutoencoderKLCosmos": lambda c: (c.temporal_compression_ratio, c.spatial_compression_ratio),
    "AutoencoderKLLTXVideo": lambda c: (
        c.patch_size_t * 2 ** sum(c.spatio_temporal_scaling),
        c.patch_size * 2 ** sum(c.spatio_temporal_scaling),
    ),
    "AutoencoderKLWan": lambda c: (2 ** sum(c.temperal_downsample), 2 ** (len(c.dim_mult) - 1) * (c.patch_size or 1)),
    "AutoencoderKLMagvit": lambda c: (4, 2 ** (len(c.block_out_channels) - 1)),
    "AutoencoderKLCogVideoX": lambda c: (c.temporal_compression_ratio, 2 ** (len(c.block_out_channels) - 1)),
}


@dataclass(frozen=True)
class VAEConfig:
    """Which autoencoder: a diffusers class with its own arguments, or the folder or hub name of a saved one."""

    model: str = "AutoencoderKLCosmos"
    args: dict[str, Any] = field(default_factory=dict)
    pretrained: str | None = None


def build_vae(config: VAEConfig) -> nn.Module:
    """The autoencoder that `config` names: fresh weights, or those of `pretrained`."""
    if config.pretrained is not None:
        return load_vae(config.pretrained)
    cls = vae_class(config.model)
    known = inspect.signature(cls.__init__).parameters
    for key in config.args:
        if key not in known:
            raise UserError(f"vae.args: {config.model} takes no {key!r}{suggest(key, set(known) - {'self'})}")
    return cls(**config.args)


def vae_class(name: str) -> type[nn.Module]:
    if name not in STRIDES:
        raise UserError(f"vae.model: {name!r} is not a video autoencoder known here{suggest(name, STRIDES)}")
    return getattr(diffusers, name)


def load_vae(source: str | Path) -> nn.Module:
    """A saved autoencoder: a diffusers folder, a run directory that holds one in `vae/`, or a hub name."""
    folder = Path(source)
    if folder.is_dir():
        folder = folder / "vae" if (folder / "vae" / "config.json").exists() else folder
        if not (folder / "config.json").exists():
            raise UserError(f"{source} holds no finished autoencoder (no vae/config.json): train it, or name another")
        name = json.loads((folder / "config.json").read_text()).get("_class_name", "")
        return vae_class(name).from_pretrained(folder)
    try:
        name = diffusers.AutoModel.load_config(str(source), subfolder="vae").get("_class_name", "")
        return vae_class(name).from_pretrained(str(source), subfolder="vae")
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no autoencoder at {source!r} ({reason}): give a folder, or a hub name while online") from None


def weights_hash(model: nn.Module) -> str:
    """sha256 (16 digits) over the configuration and every weight, whatever the device."""
    digest = hashlib.sha256()
    config = {k: v for k, v in dict(model.config).items() if not k.startswith("_")}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class DiffusersCodec:
    """`VideoCodec` over a diffusers video autoencoder. Latents are the posterior's mode, not scaled."""

    def __init__(self, vae: nn.Module) -> None:
        self.vae = vae
        time, space = STRIDES[type(vae).__name__](vae.config)
        self.stride = (time, space, space)
        self.channels = vae.config.get("latent_channels") or vae.config.get("z_dim")

    @property
    def hash(self) -> str:
        return weights_hash(self.vae)

    def check(self, frames: Tensor) -> None:
        """Refuse frames "b f 3 H W" whose length or size does not fit the strides."""
        latent_steps(frames.shape[1], self.stride[0])
        height, width = frames.shape[-2:]
        if height % self.stride[1] or width % self.stride[2]:
            raise UserError(
                f"frames of {height}x{width} do not fit the space stride {self.stride[1]}: "
                f"height and width must be multiples of {self.stride[1]}"
            )

    @torch.no_grad()
    def check_strides(self, height: int, width: int) -> None:
        """Refuse an autoencoder that does not compress as its configuration says; some only carry a label."""
        time, down, _ = self.stride
        frames = torch.zeros(1, 1 + time, 3, height, width)
        self.check(frames)
        got, expected = tuple(self.encode(frames).shape[1:]), (2, self.channels, height // down, width // down)
        if got != expected:
            raise UserError(
                f"vae.args: the autoencoder makes latents {got} (t c h w) of {1 + time} frames, its own strides say "
                f"{expected}: give as many blocks as the strides need"
            )

    def encode(self, frames: Tensor) -> Tensor:
        """Frames "b f 3 H W" in [-1, 1] -> latents "b t c h w"."""
        self.check(frames)
        posterior = self.vae.encode(rearrange(frames, "b f c H W -> b c f H W")).latent_dist
        return rearrange(posterior.mode(), "b c t h w -> b t c h w")

    def decode(self, latents: Tensor) -> Tensor:
        """Latents "b t c h w" -> frames "b f 3 H W" in [-1, 1]."""
        return self.decode_raw(latents).clamp(-1, 1)

    def decode_raw(self, latents: Tensor) -> Tensor:
        """As `decode`, not clipped: what a training loss needs."""
        frames = self.vae.decode(rearrange(latents, "b t c h w -> b c t h w")).sample
        return rearrange(frames, "b c f H W -> b f c H W")


def to_float(frames, device=None) -> Tensor:
    """uint8 "… f H W 3" -> float "… f 3 H W" in [-1, 1]."""
    x = torch.as_tensor(frames, device=device)
    return rearrange(x.float() / 127.5 - 1, "... f H W c -> ... f c H W")


def to_uint8(frames: Tensor):
    """float "… f 3 H W" in [-1, 1] -> uint8 array "… f H W 3"."""
    x = ((frames.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return rearrange(x, "... f c H W -> ... f H W c").cpu().numpy()
