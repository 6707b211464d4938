"""Cosmos one latent step at a time through its own layers, each of which keeps what it still needs of the past.

A step then costs what one step costs, where a trailing window (`videowm.vae.stream`) computes all of its steps again.

diffusers' Cosmos has no cache and no argument for one. So `Layers.remembering` swaps the `forward` of four kinds of
layers for the time of one call, and puts back what was there: causal convolutions, attention in time, and the patch
and unpatch at the ends. Weights, configuration and the other layers are untouched. Whoever compiles or captures these
modules does it outside of `remembering`. Newer versions of diffusers may rename the layers: then
`tests/vae/test_vae_stream.py`, which compares a stream with the whole clip, fails.
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
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


def remembers(vae: nn.Module) -> bool:
    """Whether an autoencoder's layers need a bounded past: a Cosmos with `local`, its time stride all in the patch."""
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
        self.past: dict[str, Tensor] = {}  # "b c t h w" by layer; of the stream that is being continued
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
    def remembering(self, past: dict[str, Float[Tensor, "b c t h w"]], *, begins: bool) -> Iterator[None]:
        """Within it, a call of the half continues a stream: a first frame at first, then one latent step a call.

        Before and after, the layers are what they were, for others who use the autoencoder.

        Args:
            past: what the layers have kept of the stream, which they replace.
            begins: whether nothing came before.
        """
        self.past, self.begun = past, not begins
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

    def kept(self, name: str, x: Float[Tensor, "b c t h w"], steps: int) -> Float[Tensor, "b c u h w"]:
        """`x` behind what the layer `name` has kept; of the two the last `steps` are kept for the next call."""
        whole = torch.cat([self.past[name], x], dim=2) if name in self.past else x
        self.past[name] = whole[:, :, max(0, whole.shape[2] - steps) :]
        return whole

    def convolve(self, name: str, conv: nn.Conv3d, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b e t i j"]:
        """A causal convolution that continues behind its last inputs instead of padding."""
        if not self.begun:  # the first frame stands for those before it
            self.past[name] = x[:, :, :1].repeat(1, 1, conv.temporal_pad, 1, 1)
        padded = F.pad(self.kept(name, x, conv.temporal_pad), (*conv.spatial_pad, 0, 0), mode=conv.pad_mode)
        return nn.Conv3d.forward(conv, padded)

    def attend(
        self, name: str, attention: nn.Module, x: Float[Tensor, "b c t h w"], mask: Bool[Tensor, "t t"]
    ) -> Float[Tensor, "b c t h w"]:
        """Attention in time of the new steps to themselves and to the `local` - 1 kept ones."""
        whole = self.kept(name, x, self.local - 1)
        steps = whole.shape[2]
        return type(attention).forward(attention, whole, mask.new_ones(steps, steps).tril())[:, :, -x.shape[2] :]

    def patch(self, name: str, patch: nn.Module, x: Float[Tensor, "b c f H W"]) -> Float[Tensor, "b e t h w"]:
        """Patches of the new frames; later ones stand behind a frame that makes a first step of its own."""
        if not self.begun:
            return type(patch).forward(patch, x)
        return type(patch).forward(patch, torch.cat([x[:, :, :1], x], dim=2))[:, :, 1:]

    def unpatch(self, name: str, unpatch: nn.Module, x: Float[Tensor, "b e t h w"]) -> Float[Tensor, "b c f H W"]:
        """Frames of the new steps; later ones stand behind a step that loses the frames which a first step loses."""
        if not self.begun:
            return type(unpatch).forward(unpatch, x)
        return type(unpatch).forward(unpatch, torch.cat([x[:, :, :1], x], dim=2))[:, :, -unpatch.patch_size :]
