"""Cosmos one latent step at a time through its own layers, each of which keeps what it still needs of the past.

A step then costs what one step costs, where a trailing window (`videowm.vae.stream`) computes all of its steps again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import diffusers
import torch
from diffusers.models.autoencoders.autoencoder_kl_cosmos import (
    CosmosCausalConv3d,
    CosmosPatchEmbed3d,
    CosmosUnpatcher3d,
)
from torch import Tensor, nn
from torch.nn import functional as F


def remembers(vae: nn.Module) -> bool:
    """Whether the past that its layers need is bounded: attention in time limited, the time stride all in the patch."""
    resampled = ("temporal_downsample", "temporal_upsample")
    return (
        isinstance(vae, diffusers.AutoencoderKLCosmos)
        and vae.config.get("local") is not None
        and not any(getattr(module, name, False) for module in vae.modules() for name in resampled)
    )


class Layers:
    """What the encoder's or the decoder's layers of an autoencoder that `remembers` have kept of a stream."""

    def __init__(self, half: nn.Module, local: int) -> None:
        """`half` is the encoder or the decoder, `local` the latent steps that its attention in time sees."""
        self.half, self.local = half, local
        self.past: dict[str, Tensor] = {}  # "b c t h w" by layer
        self.begun = False
        self.ways = {}
        for name, module in half.named_modules():
            if isinstance(module, CosmosCausalConv3d) and module.temporal_pad:
                self.ways[name] = self.convolve
            elif isinstance(module, CosmosPatchEmbed3d):
                self.ways[name] = self.patch
            elif isinstance(module, CosmosUnpatcher3d):
                self.ways[name] = self.unpatch
            elif name.split(".")[-2:-1] == ["temp_attentions"]:
                self.ways[name] = self.attend

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """What runs in here goes on where the last such run ended: a first frame at the beginning, then one latent step
        at a time. Between them the layers are what they were, for others who use the autoencoder."""
        modules = {name: self.half.get_submodule(name) for name in self.ways}
        before = {name: vars(module).get("forward") for name, module in modules.items()}  # `exact` puts one there
        try:
            for name, module in modules.items():
                module.forward = partial(self.ways[name], name, module)
            yield
        finally:
            for name, module in modules.items():
                del module.forward
                if before[name] is not None:
                    module.forward = before[name]
        self.begun = True

    def kept(self, name: str, x: Tensor, steps: int) -> Tensor:
        """`x` behind what the layer has kept, of which the last `steps` are kept for the next time."""
        whole = torch.cat([self.past[name], x], dim=2) if name in self.past else x
        self.past[name] = whole[:, :, max(0, whole.shape[2] - steps) :]
        return whole

    def convolve(self, name: str, conv: nn.Conv3d, x: Tensor) -> Tensor:
        if not self.begun:  # the first frame stands for those before it
            self.past[name] = x[:, :, :1].repeat(1, 1, conv.temporal_pad, 1, 1)
        padded = F.pad(self.kept(name, x, conv.temporal_pad), (*conv.spatial_pad, 0, 0), mode=conv.pad_mode)
        return nn.Conv3d.forward(conv, padded)

    def attend(self, name: str, attention: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        whole = self.kept(name, x, self.local - 1)
        steps = whole.shape[2]
        return type(attention).forward(attention, whole, mask.new_ones(steps, steps).tril())[:, :, -x.shape[2] :]

    def patch(self, name: str, patch: nn.Module, x: Tensor) -> Tensor:
        """Later steps behind a frame that makes a first step of its own."""
        if not self.begun:
            return type(patch).forward(patch, x)
        return type(patch).forward(patch, torch.cat([x[:, :, :1], x], dim=2))[:, :, 1:]

    def unpatch(self, name: str, unpatch: nn.Module, x: Tensor) -> Tensor:
        """Later steps behind one that loses the frames which a first step loses."""
        if not self.begun:
            return type(unpatch).forward(unpatch, x)
        return type(unpatch).forward(unpatch, torch.cat([x[:, :, :1], x], dim=2))[:, :, -unpatch.patch_size :]
