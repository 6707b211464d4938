"""Attention of diffusers' Cosmos with what no argument of its own offers: fewer latent steps, normalised scores."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import diffusers
from diffusers.models.autoencoders.autoencoder_kl_cosmos import CosmosCausalAttention
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from videowm.types import UserError


@dataclass(frozen=True)
class Adapted:
    """Attention processor: as `whole`, but each latent step sees itself and the `steps` - 1 before it.

    With `qk_norm`, queries and keys are normalised over their channels (Henry et al. 2020, arXiv:2010.04245, with
    1/sqrt(d) as the scale). No score then passes sqrt(d).
    """

    whole: Any
    steps: int | None
    qk_norm: bool

    def __call__(self, attention: nn.Module, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if self.steps is not None:
            attention_mask = attention_mask.triu(1 - self.steps)
        if self.qk_norm:
            attention = SimpleNamespace(
                norm=attention.norm, to_q=Unit(attention.to_q), to_k=Unit(attention.to_k), to_v=attention.to_v,
                to_out=attention.to_out, num_attention_heads=attention.num_attention_heads,
            )  # fmt: skip
        return self.whole(attention, hidden_states, attention_mask)


@dataclass(frozen=True)
class Unit:
    """As `project`, then scaled to mean square 1 over the channels."""

    project: nn.Module

    def __call__(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b e t h w"]:
        x = self.project(x).movedim(1, -1)
        return F.rms_norm(x, x.shape[-1:], eps=1e-6).movedim(-1, 1)


def adapt(vae: nn.Module, *, local: int | None = None, qk_norm: bool = False) -> nn.Module:
    """Cosmos' attention with what no argument of its own offers (see `VAEConfig`), written into its configuration;
    what a saved autoencoder was trained with stays.

    Raises:
        UserError: `local` or `qk_norm` is set for another class than Cosmos.
    """
    local = vae.config.get("local") if local is None else local
    qk_norm = qk_norm or vae.config.get("qk_norm", False)
    if local is None and not qk_norm:
        return vae
    cosmos = isinstance(vae, diffusers.AutoencoderKLCosmos)
    if local is not None and not cosmos:
        raise UserError(f"vae.local {local} for {type(vae).__name__}: leave it out, it is for AutoencoderKLCosmos only")
    if not cosmos:
        raise UserError(f"vae.qk_norm for {type(vae).__name__}: leave it out, it is for AutoencoderKLCosmos only")
    for name, module in vae.named_modules():
        if isinstance(module, CosmosCausalAttention):
            whole = module.processor.whole if isinstance(module.processor, Adapted) else module.processor
            in_time = name.split(".")[-2:-1] == ["temp_attentions"]
            module.processor = Adapted(whole, local if in_time else None, qk_norm)
    used = {"local": local, "qk_norm": qk_norm}
    vae.register_to_config(**{key: value for key, value in used.items() if value})
    return vae
