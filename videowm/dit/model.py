"""The world model's network: a diffusion transformer over spacetime patches (DiT, arXiv 2212.09748).

It predicts velocity; it knows no loss, schedule or sampler. Every latent step has its own noise level (diffusion
forcing, arXiv 2407.01392), so context is simply a step whose level is 0.
"""

from __future__ import annotations

import math

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from videowm.dit.attention import Attention, KVCache, Rotary, block_causal_mask

HEAD_SIZE = 64


def level_features(level: Tensor, width: int) -> Tensor:
    """Sines and cosines "b t d" of noise levels "b t" (frequencies 1 .. 1000 in geometric steps)."""
    frequency = torch.exp(torch.linspace(0, math.log(1000), width // 2, device=level.device))
    angle = level.float()[..., None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Tokens "b t s d", normalised, then scaled and shifted by one pair "b t 1 d" a latent step."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class Block(nn.Module):
    """Attention and MLP, each modulated and gated by the step's condition (adaLN-Zero)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.attention = Attention(width, heads)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, condition: Tensor, rotary, mask: Tensor | None, cache: KVCache | None, layer: int, *,
                write: bool) -> Tensor:  # fmt: skip
        """Tokens "b t s d", condition "b t d" -> tokens "b t s d"."""
        t, s = x.shape[1:3]
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, :, None].chunk(6, dim=-1)
        query, key, value = self.attention.heads_of(modulate(x, shift1, scale1).flatten(1, 2), rotary)
        if cache is not None:
            new_key, new_value = key, value
            key, value = cache.extended(layer, key, value)
            if write:
                cache.append(layer, new_key, new_value, s)
        x = x + gate1 * self.attention.attend(query, key, value, mask).unflatten(1, (t, s))
        return x + gate2 * self.down(F.gelu(self.up(modulate(x, shift2, scale2)), approximate="tanh"))


class DiT(ModelMixin, ConfigMixin):
    """Action-conditioned diffusion transformer, block-causal in time and full in space.

    Args:
        depth: number of blocks, and the one dial: `hidden` is 64 * depth and there is a head for every 64 unless given.
        channels, height, width: shape (c, h, w) of one latent step.
        actions: size of one grouped action (see `videowm.actions.group`).
        patch: side of the square patch that becomes one token.
        hidden, heads: width d of the tokens and number of heads, where they are not to follow from `depth`.
        trained_on: what a user of the weights must know (see `videowm.pipeline.TrainedOn`); the network ignores it.
    """

    @register_to_config
    def __init__(
        self,
        depth: int = 4,
        channels: int = 16,
        height: int = 8,
        width: int = 8,
        actions: int = 13,
        patch: int = 2,
        hidden: int | None = None,
        heads: int | None = None,
        trained_on: dict | None = None,
    ) -> None:
        super().__init__()
        hidden = hidden or HEAD_SIZE * depth
        heads = heads or max(1, hidden // HEAD_SIZE)
        self.depth, self.hidden, self.patch = depth, hidden, patch
        self.grid = (height // patch, width // patch)
        self.embed = nn.Linear(channels * patch * patch, hidden)
        self.level_mlp = nn.Sequential(nn.Linear(256, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.action_mlp = nn.Sequential(nn.Linear(actions, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.rotary = Rotary(hidden // heads, *self.grid)
        self.blocks = nn.ModuleList(Block(hidden, heads) for _ in range(depth))
        self.final_modulation = nn.Linear(hidden, 2 * hidden)
        self.unembed = nn.Linear(hidden, channels * patch * patch)
        self.initialise()

    @property
    def tokens(self) -> int:
        """Tokens per latent step."""
        return self.grid[0] * self.grid[1]

    def initialise(self) -> None:
        """Xavier for matrices; zeros where adaLN-Zero wants the block, and the output, to start as nothing."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for layer in [block.modulation for block in self.blocks] + [self.final_modulation, self.unembed]:
            nn.init.zeros_(layer.weight)

    def forward(
        self, latents: Tensor, level: Tensor, actions: Tensor, cache: KVCache | None = None, *, write: bool = False
    ) -> Tensor:
        """Velocity of every latent step, seen from itself and what came before it.

        Args:
            latents: "b t c h w", noised according to `level`.
            level: "b t" in [0, 1].
            actions: grouped actions "b t g".
            cache: keys and values of earlier steps; the given steps follow them.
            write: append the given steps to the cache.
        Returns:
            velocity (noise minus data) "b t c h w", float32.
        """
        t = latents.shape[1]
        first = cache.next_step if cache is not None else 0
        steps = torch.arange(first, first + t, device=latents.device)
        rotary = self.rotary.angles(steps)
        mask = self.mask(steps, cache)
        x = self.embed(rearrange(latents, "b t c (h p) (w q) -> b t (h w) (p q c)", p=self.patch, q=self.patch))
        condition = F.silu(self.level_mlp(level_features(level, 256)) + self.action_mlp(actions))
        for layer, block in enumerate(self.blocks):
            x = block(x, condition, rotary, mask, cache, layer, write=write)
        if write:
            cache.advance(t)
        shift, scale = self.final_modulation(condition)[:, :, None].chunk(2, dim=-1)
        out = self.unembed(modulate(x, shift, scale)).float()
        h, w = self.grid
        return rearrange(out, "b t (h w) (p q c) -> b t c (h p) (w q)", h=h, w=w, p=self.patch, q=self.patch)

    def mask(self, steps: Tensor, cache: KVCache | None) -> Tensor | None:
        """None where every query may see every key: one new step, which is what a rollout does."""
        if len(steps) == 1:
            return None
        earlier = torch.tensor(cache.steps if cache is not None else [], device=steps.device, dtype=steps.dtype)
        return block_causal_mask(steps, torch.cat([earlier, steps]), self.tokens)


# diffusers takes a module path "….dit.…" for its own DiT pipeline; the package name alone is not mistaken.
DiT.__module__ = "videowm.dit"
