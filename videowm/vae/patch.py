"""A video autoencoder that begins at the principal components of blocks of pixels and learns what they leave."""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, EncoderOutput
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from videowm.types import UserError
from videowm.vae.pca import PCA, from_blocks, to_blocks


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Blocks of `time_stride` frames by `space_stride`² pixels -> `latent_channels` numbers, and back.

    Both ways are a linear map plus a residual network on the latent grid. `begin_at` sets the linear maps to the
    principal components of such blocks, divided by their deviations. The networks' last layers start at zero. So before
    the first step the whole is a PCA, and latents have unit variance.

    Each latent step sees its own frames only: causal, and a stream needs no memory. The first frame is encoded as
    `time_stride` copies of itself; of its decoded copies the last one counts.
    """

    @register_to_config
    def __init__(
        self, latent_channels: int = 8, time_stride: int = 4, space_stride: int = 8, width: int = 128,
        layers: int = 2, fine_layers: int = 0,
    ) -> None:  # fmt: skip
        """Draw weights of networks that begin as nothing.

        Args:
            latent_channels: numbers of a block.
            time_stride, space_stride: frames and pixels of a block's sides.
            width: channels of the residual networks.
            layers: residual blocks of the encoder; the decoder has twice as many.
            fine_layers: residual blocks at twice the grid's resolution and half the width, next to the pixels.

        Raises:
            UserError: fine layers need an even space stride.
        """
        super().__init__()
        pixels = 3 * time_stride * space_stride**2
        if fine_layers and space_stride % 2:
            raise UserError(f"fine_layers {fine_layers} for a space stride of {space_stride}: give an even stride or 0")
        self.down, self.up = nn.Conv2d(pixels, latent_channels, 1), nn.Conv2d(latent_channels, pixels, 1)
        near, far = (width // 2, pixels // 4) if fine_layers else (width, pixels)
        self.encoder = nn.Sequential(
            nn.Conv2d(far, near, 1), *[Residual(near) for _ in range(fine_layers)],
            *([nn.PixelUnshuffle(2), nn.Conv2d(4 * near, width, 1)] if fine_layers else []),
            *[Residual(width) for _ in range(layers)], Norm(width), zero(nn.Conv2d(width, latent_channels, 1)),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, width, 3, padding=1), *[Residual(width) for _ in range(2 * layers)],
            *([nn.Conv2d(width, 4 * near, 1), nn.PixelShuffle(2)] if fine_layers else []),
            *[Residual(near) for _ in range(fine_layers)], Norm(near), zero(nn.Conv2d(near, far, 1)),
        )  # fmt: skip
        self.to(memory_format=torch.channels_last)

    def begin_at(self, pca: PCA) -> None:
        """Set the linear maps to principal components of blocks, so that latents are white."""
        set_maps(self.down, self.up, pca)

    def matrices(self) -> set[str]:
        """Names of the weights with the width on both sides, which Muon moves."""
        blocks = {name for name, module in self.named_modules() if isinstance(module, Residual)}
        return {f"{name}.{layer}.weight" for name in blocks for layer in ("spread", "gather")}

    def encode(self, x: Float[Tensor, "b 3 f H W"], *, begins: bool = True) -> EncoderOutput:
        """Latents "b c t h w" of frames in [-1, 1], f = 1 + time_stride * (t-1).

        Frames that do not begin a video (`begins`) are time_stride * t.
        """
        k, s = self.config.time_stride, self.config.space_stride
        copies = x[:, :, :1].expand(-1, -1, k - 1 if begins else 0, -1, -1)
        frames = torch.cat([copies, x], dim=2).movedim(1, 2)
        blocks = to_blocks(frames, k, s)
        flat = channels_last(blocks.flatten(0, 1))
        seen = channels_last(self.finer(flat)) if self.config.fine_layers else flat
        latents = linear(self.down, flat) + self.encoder(seen).float()
        return EncoderOutput(latents.unflatten(0, blocks.shape[:2]).movedim(2, 1))

    def decode(self, z: Float[Tensor, "b c t h w"], *, begins: bool = True) -> DecoderOutput:
        """Frames "b 3 f H W" of latents; where these do not begin a video, the first step gives all its frames."""
        k, s = self.config.time_stride, self.config.space_stride
        flat = channels_last(z.movedim(1, 2).flatten(0, 1))
        added = self.decoder(flat).float()
        blocks = linear(self.up, flat) + (self.coarser(added) if self.config.fine_layers else added)
        frames = from_blocks(blocks.unflatten(0, (len(z), -1)), k, s)
        return DecoderOutput(frames[:, k - 1 if begins else 0 :].movedim(1, 2))

    def forward(self, x: Float[Tensor, "b 3 f H W"]) -> Float[Tensor, "b 3 f H W"]:
        """Frames through the latents, not clipped."""
        return self.decode(self.encode(x).latent).sample

    def finer(self, blocks: Float[Tensor, "n d h w"]) -> Float[Tensor, "n e y x"]:
        """Blocks cut in four: half as wide and high each, on a grid of twice the resolution."""
        k, s = self.config.time_stride, self.config.space_stride // 2
        return rearrange(blocks, "n (k i s j r c) h w -> n (k s r c) (h i) (w j)", k=k, i=2, j=2, s=s, r=s)

    def coarser(self, blocks: Float[Tensor, "n e y x"]) -> Float[Tensor, "n d h w"]:
        """The blocks that `finer` cut."""
        k, s = self.config.time_stride, self.config.space_stride // 2
        return rearrange(blocks, "n (k s r c) (h i) (w j) -> n (k i s j r c) h w", k=k, i=2, j=2, s=s, r=s)


class Norm(nn.Module):
    """Mean square 1 over the channels of every place (Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4), with gains."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "n e h w"]) -> Float[Tensor, "n e h w"]:
        gains = self.gains.to(x.dtype)
        return F.rms_norm(x.movedim(1, -1), gains.shape, gains, eps=1e-6).movedim(-1, 1)


class Residual(nn.Module):
    """A 3x3 convolution to twice the width, and a 1x1 back, added to what came in; nothing at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = Norm(width)
        self.spread = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.gather = zero(nn.Conv2d(2 * width, width, 1))

    def forward(self, x: Float[Tensor, "n e h w"]) -> Float[Tensor, "n e h w"]:
        return x + self.gather(F.gelu(self.spread(self.norm(x))))


@torch.no_grad()
def set_maps(down: nn.Conv2d, up: nn.Conv2d, pca: PCA) -> None:
    """Set 1x1 convolutions from and to blocks to principal components, divided by their deviations."""
    inward = (pca.directions / pca.deviations).mT
    down.weight.copy_(inward[:, :, None, None])
    down.bias.copy_(-inward @ pca.mean)
    up.weight.copy_((pca.directions * pca.deviations)[:, :, None, None])
    up.bias.copy_(pca.mean)


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer, giving zeros."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def channels_last(x: Float[Tensor, "n e h w"]) -> Float[Tensor, "n e h w"]:
    """The same in the memory order in which these convolutions are fastest."""
    return x.contiguous(memory_format=torch.channels_last)


def linear(layer: nn.Conv2d, x: Float[Tensor, "n e h w"]) -> Float[Tensor, "n d h w"]:
    """The linear path in float32, under autocast and of weights in half precision too: half would lose what the PCA
    keeps."""
    with torch.autocast(x.device.type, enabled=False):
        return F.conv2d(x.float(), layer.weight.float(), layer.bias.float())
