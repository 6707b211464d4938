"""The world model's network: a diffusion transformer over spacetime patches (DiT, arXiv 2212.09748).

It predicts velocity; losses, schedules and samplers stand elsewhere. Every latent step has its own noise level
(diffusion forcing, arXiv 2407.01392), so context is simply a step whose level is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from videowm.dit import passes
from videowm.dit.attention import Attention, Mask, Rotary, Store, block_causal_blocks, block_causal_mask, fused
from videowm.dit.cache import KVCache
from videowm.dit.graph import capture
from videowm.dit.shortcut import level_with_step_size
from videowm.dit.text import CrossAttention, TextConditioner, TextConditioning, TextKeysValues, TextTokens
from videowm.types import UserError

HEAD_SIZE = 64
# tap(i, x): x "b t s d" is the residual stream at the end of block i (from 0); what it returns replaces the stream.
Tap = Callable[[int, Tensor], Tensor]
# Residual stream and last update, both "b t s d", and the update's gate "b t 1 d".
Stream = tuple[Tensor, Tensor, Tensor]


def level_features(level: Float[Tensor, "*b"], width: int) -> Float[Tensor, "*b {width}"]:
    """Cosines and sines of noise levels in [0, 1] at frequencies from 1 to 1000, in geometric steps."""
    frequency = torch.exp(torch.linspace(0, math.log(1000), width // 2, device=level.device))
    angle = level.float()[..., None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def add_modulate(
    x: Float[Tensor, "b t s d"], update: Float[Tensor, "b t s d"], gate: Float[Tensor, "b t 1 d"],
    shift: Float[Tensor, "b t 1 d"], scale: Float[Tensor, "b t 1 d"],
) -> tuple[Float[Tensor, "b t s d"], Float[Tensor, "b t s d"]]:  # fmt: skip
    """The stream x + gate * update, and its modulated norm (1 + scale) * rms_norm(x) + shift, the next layer's input.

    This is DiT's adaLN-Zero (arXiv 2212.09748, section 3.2) with RMSNorm in place of LayerNorm.
    """
    if fused is not None and x.is_cuda:
        return fused.add_modulate(x, update, gate, shift, scale)
    if passes.serves(x, update, gate, shift, scale):
        return passes.AddModulate.apply(x, update, gate, shift, scale)
    x = x + gate * update
    return x, F.rms_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class Block(nn.Module):
    """Self-attention, cross-attention where there is a text, and MLP; the step's condition modulates and gates each.

    The MLP's update is added at the start of the next block. There adding, normalising and modulating are one pass over
    memory. `DiT.tapped` adds it at once instead, where a caller looks at the residual stream.
    """

    def __init__(self, width: int, heads: int, *, cross_attention: bool = False) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.cross = CrossAttention(width, heads) if cross_attention else None
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(
        self, x: Float[Tensor, "b t s d"], update: Float[Tensor, "b t s d"], gate: Float[Tensor, "b t 1 d"],
        modulation: Float[Tensor, "b t parts 1 d"], rotary: tuple[Tensor, Tensor], mask: Mask,
        store: Store | None = None, text: TextKeysValues | None = None,
    ) -> Stream:  # fmt: skip
        """The stream after this block, all updates added but the MLP's; that update; and its gate.

        Args:
            x, update, gate: the same from the block before.
            modulation: shift, scale and gate of attention, then of the MLP, then of cross-attention (6 or 9 parts).
            rotary: cosine and sine "l k/2" of the tokens' positions.
            mask: which tokens see which (`videowm.dit.attention`); None: all see all.
            store: where keys and values of a rollout are kept.
            text: keys and values of the text, where the block has cross-attention.
        """
        shift1, scale1, gate1, shift2, scale2, gate2, *third = modulation.unbind(2)
        x, h = add_modulate(x, update, gate, shift1, scale1)
        update, gate = self.attention(h, rotary, mask, store), gate1
        if self.cross is not None:
            x, h = add_modulate(x, update, gate, *third[:2])
            update, gate = self.cross(h, text), third[2]
        x, h = add_modulate(x, update, gate, shift2, scale2)
        return x, self.down(passes.gelu(self.up(h))), gate2.contiguous()


class Head(nn.Module):
    """From tokens to the patches that they stand for."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.unembed = nn.Linear(width, outputs)

    def forward(
        self, x: Float[Tensor, "b t s d"], update: Float[Tensor, "b t s d"], gate: Float[Tensor, "b t 1 d"],
        modulation: Float[Tensor, "b t 2 1 d"],
    ) -> Float[Tensor, "b t s outputs"]:  # fmt: skip
        """Patches in float32, from the last block's output."""
        return self.unembed(add_modulate(x, update, gate, *modulation.unbind(2))[1]).float()


class DiT(ModelMixin, ConfigMixin):
    """Action-conditioned diffusion transformer, block-causal in time and full in space.

    Args:
        depth: number of blocks, and the one dial: `hidden` is 64 * depth and there is a head for every 64 unless given.
        channels, height, width: shape (c, h, w) of one latent step.
        actions: size of one grouped action (see `videowm.actions.group`).
        patch: side of the square patch that becomes one token.
        hidden, heads: width d of the tokens and number of heads, where they are not to follow from `depth`.
        local: latent steps that three of four blocks see, the own one included; None: all blocks see all.
        text: a text beside the actions: `features`, `length` and `into` of `TextConditioner`; None: no text.
        shortcut: whether the level comes with a step size (see `videowm.dit.shortcut`).
        trained_on: statistics of the training data (see `videowm.dit.saved.TrainedOn`); the network ignores it.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self, depth: int = 4, channels: int = 16, height: int = 8, width: int = 8, actions: int = 13, patch: int = 2,
        hidden: int | None = None, heads: int | None = None, local: int | None = None, trained_on: dict | None = None,
        text: dict | None = None, *, shortcut: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        hidden = hidden or HEAD_SIZE * depth
        heads = heads or max(1, hidden // HEAD_SIZE)
        self.depth, self.hidden, self.patch = depth, hidden, patch
        self.grid = (height // patch, width // patch)
        self.embed = nn.Linear(channels * patch * patch, hidden)
        levels = 2 if shortcut else 1
        self.level_mlp = nn.Sequential(nn.Linear(256 * levels, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.action_mlp = nn.Sequential(nn.Linear(actions, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.rotary = Rotary(hidden // heads, *self.grid)
        cross_attention = text is not None and text["into"] == "cross"
        self.parts = 9 if cross_attention else 6  # of a block's modulation
        self.modulation = nn.Linear(hidden, (self.parts * depth + 2) * hidden)  # of all blocks and of the head
        self.blocks = nn.ModuleList(Block(hidden, heads, cross_attention=cross_attention) for _ in range(depth))
        self.head = Head(hidden, channels * patch * patch)
        self.text_condition = TextConditioner(hidden, heads, depth, **text) if text else None
        # Three of four blocks look back less far, where `local` is given; the last one never does.
        self.windows = [None if local is None or (depth - i) % 4 == 1 else local for i in range(depth)]
        self.compiled, self.masks, self.graphs = False, {}, None
        self.gradient_checkpointing = False  # set by enable_gradient_checkpointing(): blocks are computed twice
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
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for layer in (self.modulation, self.head.unembed):
            nn.init.zeros_(layer.weight)
        if self.parts == 9:
            self.open_cross_attention_gates()

    def open_cross_attention_gates(self) -> None:
        """Cross-attention starts with an open gate and a projection of zeros, as in arXiv 2310.00426, section 2.3.

        A closed gate opens for what all captions have in common first (docs/log/2026-11-25-text-conditioning.md).
        """
        gates = self.modulation.bias[: -2 * self.hidden].view(self.depth, self.parts, self.hidden)[:, -1]
        nn.init.ones_(gates)
        for block in self.blocks:
            nn.init.zeros_(block.cross.project.weight)

    def forward(
        self, latents: Float[Tensor, "b t c h w"], level: Float[Tensor, "b t"] | Float[Tensor, "b t 2"],
        actions: Float[Tensor, "b t g"], cache: KVCache | None = None, *,
        text: TextTokens | TextConditioning | None = None, write: bool = False, tap: Tap | None = None,
    ) -> Float[Tensor, "b t c h w"]:  # fmt: skip
        """Velocity (noise minus data) of every latent step in float32; a step sees itself and the steps before it.

        Args:
            latents: noised according to `level`.
            level: in [0, 1]. A shortcut model also takes "b t 2", with step sizes; without them it is flow matching.
            actions: grouped actions (see `videowm.actions.group`).
            cache: keys and values of earlier steps. The given step follows them; several steps need an empty cache.
            text: tokens and mask, one text a clip. With a cache, give `text_conditioning`'s result, made once.
            write: the given steps are finished and stay in the cache.
            tap: called with every block's index and the residual stream at its end; its result replaces the stream.
        """
        if cache is None:
            graphed = self.graphs is not None and self.training and torch.is_grad_enabled() and tap is None
            if graphed:
                return self.graphed(latents, level, actions, *(text or ()))
            return self.velocity(latents, level, actions, *(text or ()), tap=tap)
        text = text if isinstance(text, TextConditioning) else self.text_conditioning(*(text or ()))
        t, modulations = latents.shape[1], self.modulations(level, actions, text)
        if t == 1:
            out = self.one_step(latents, modulations, cache, text, tap=tap)
        elif cache.held:
            raise ValueError(f"{t} steps were given to a cache that holds {cache.held}: give one after the other")
        else:
            out = self.sequence(latents, modulations, text, cache, tap=tap)
        if write:
            cache.advance(t)
        return out

    def velocity(
        self, latents: Tensor, level: Tensor, actions: Tensor, *text: Tensor, tap: Tap | None = None
    ) -> Float[Tensor, "b t c h w"]:
        """As `forward` without a cache; `text` is nothing, or tokens and mask."""
        conditioning = self.text_conditioning(*text)
        return self.sequence(latents, self.modulations(level, actions, conditioning), conditioning, tap=tap)

    def graphed(self, *inputs: Tensor) -> Tensor:
        """As `velocity` in training, by CUDA graphs that are captured once for every shape."""
        shapes = tuple(x.shape for x in inputs)
        if shapes not in self.graphs:
            self.graphs[shapes] = capture(self, self.velocity, inputs)
        return self.graphs[shapes](*inputs)

    def text_conditioning(self, *text: Tensor) -> TextConditioning:
        """The blocks' input from a text's tokens and mask (`TextTokens`); empty where the network has no text."""
        if bool(text) != (self.text_condition is not None):
            raise ValueError("a text was given to a model without" if text else "a model with text was given none")
        return self.text_condition(*text) if text else TextConditioning(None, [None] * self.depth)

    def modulations(
        self, level: Float[Tensor, "b t"] | Float[Tensor, "b t 2"], actions: Float[Tensor, "b t g"],
        text: TextConditioning | None = None,
    ) -> list[Float[Tensor, "b t parts 1 d"]]:  # fmt: skip
        """Shifts, scales and gates of every block (6 parts, 9 with cross-attention), then those of the head (2)."""
        dtype = self.embed.weight.dtype
        if self.config.shortcut and level.ndim == 2:
            level = level_with_step_size(level, 0)
        condition = self.level_mlp(level_features(level, 256).flatten(2).to(dtype)) + self.action_mlp(actions.to(dtype))
        if text is not None and text.pooled is not None:
            condition = condition + text.pooled[:, None]
        whole = self.modulation(F.silu(condition)).unflatten(-1, (self.parts * self.depth + 2, 1, self.hidden))
        return list(whole.split([self.parts] * self.depth + [2], dim=2))

    def sequence(
        self, latents: Float[Tensor, "b t c h w"], modulations: list[Tensor], text: TextConditioning,
        cache: KVCache | None = None, *, tap: Tap | None = None,
    ) -> Float[Tensor, "b t c h w"]:  # fmt: skip
        """Velocity of a clip from its first step on; keys and values go into an empty cache."""
        t, stream = latents.shape[1], self.stream(latents)
        first = 0 if cache is None else cache.first
        rotary = self.rotary.angles(torch.arange(first, first + t, device=latents.device))
        for i, block in enumerate(self.blocks):
            store = cache.store(i, t, static=False)[0] if cache is not None else None
            run = block.forward if store is not None else block  # lengths of contexts differ: not worth compiling
            if self.gradient_checkpointing and torch.is_grad_enabled():
                run = partial(self._gradient_checkpointing_func, block)
            blocks = self.compiled and store is None and latents.is_cuda  # FlexAttention is slow where not compiled
            mask = self.mask(t, self.windows[i], latents.device, blocks=blocks)
            stream = run(*stream, modulations[i], rotary, mask, store, text.blocks[i])
            stream = stream if tap is None else self.tapped(tap, i, stream)
        return self.unpatched(self.head(*stream, modulations[-1]))

    def one_step(
        self, latents: Float[Tensor, "b 1 c h w"], modulations: list[Tensor], cache: KVCache,
        text: TextConditioning | None = None, *, static: bool = False, tap: Tap | None = None,
    ) -> Float[Tensor, "b 1 c h w"]:  # fmt: skip
        """Velocity of the step that follows those in the cache; see `KVCache.store` for `static`."""
        stream = self.stream(latents)
        for i, block in enumerate(self.blocks):
            store, mask = cache.store(i, 1, static=static)
            run = block if static else block.forward
            stream = run(*stream, modulations[i], cache.angles, mask, store, text and text.blocks[i])
            stream = stream if tap is None else self.tapped(tap, i, stream)
        return self.unpatched((self.head if static else self.head.forward)(*stream, modulations[-1]))

    @staticmethod
    def tapped(tap: Tap, block: int, stream: Stream) -> Stream:
        """The stream after a tap: the block's last update is added at once, and nothing is left for the next block."""
        x, update, gate = stream
        whole = torch.addcmul(x.float(), gate.float(), update.float())  # rounded once, as the kernels do
        return tap(block, whole.to(x.dtype)), torch.zeros_like(update), gate

    def stream(self, latents: Float[Tensor, "b t c h w"]) -> Stream:
        """The first block's input: an empty stream, and the patches' tokens as an update with a gate of 1."""
        patches = rearrange(latents, "b t c (h p) (w q) -> b t (h w) (p q c)", p=self.patch, q=self.patch)
        tokens = self.embed(patches.to(self.embed.weight.dtype))
        return torch.zeros_like(tokens), tokens, torch.ones_like(tokens[:, :, :1])

    def unpatched(self, tokens: Float[Tensor, "b t s patch"]) -> Float[Tensor, "b t c h w"]:
        """The latents that the head's patches "b t s (p q c)" make up."""
        h, w = self.grid
        return rearrange(tokens, "b t (h w) (p q c) -> b t c (h p) (w q)", h=h, w=w, p=self.patch, q=self.patch)

    def mask(self, steps: int, window: int | None, device: torch.device, *, blocks: bool) -> Mask:
        """The mask of a clip of `steps` latent steps, made once; None where every token sees every other.

        With `blocks` it is FlexAttention's, which has no gradient on a CPU.
        """
        if steps == 1:
            return None
        key = (steps, window, device, blocks)
        if key not in self.masks:
            if blocks:
                self.masks[key] = block_causal_blocks(steps, self.tokens, window, device)
            else:
                self.masks[key] = block_causal_mask(steps, self.tokens, window).to(device)
        return self.masks[key]

    def new_cache(self, batch: int, window: int, *, sinks: int = 0) -> KVCache:
        """An empty cache for `batch` streams that see `window` latent steps, the present one included.

        Raises:
            UserError: the window has no room for `sinks` steps, the present one and one that slides.
        """
        if sinks and sinks > window - 2:
            most = max(0, window - 2)
            raise UserError(f"{sinks} sinks leave no room in a window of {window} latent steps: give {most} at most")
        windows = [window if w is None else min(w, window) for w in self.windows]
        attention = self.blocks[0].attention
        return KVCache(windows, self.rotary, (batch, attention.heads, self.hidden // attention.heads),
                       self.embed.weight, sinks=sinks)  # fmt: skip

    def compile_blocks(self, *, graph: bool = False, backend: str = "inductor") -> None:
        """Compile blocks and head (one compilation serves all blocks); clips must then keep one shape.

        With `graph` a training step on a GPU is two CUDA graphs; its gradients must not be accumulated over calls.
        """
        self.compiled = True
        self.graphs = {} if graph and self.embed.weight.is_cuda else None
        # Every mask, precision and shape is a variant, of all models in a process; at torch's 8 it would fail.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        for module in (*self.blocks, self.head):
            module.compile(fullgraph=True, dynamic=False, backend=backend)

    def uncompile(self) -> None:
        """Back to plain PyTorch, for shapes that change."""
        self.compiled, self.graphs = False, None
        for module in (*self.blocks, self.head):
            module._compiled_call_impl = None

    @contextmanager
    def uncompiled(self) -> Iterator[None]:
        """Plain PyTorch within, for shapes that change; afterwards what was compiled and recorded is there again."""
        modules = (*self.blocks, self.head)
        compiled, graphs, calls = self.compiled, self.graphs, [module._compiled_call_impl for module in modules]
        self.uncompile()
        try:
            yield
        finally:
            self.compiled, self.graphs = compiled, graphs
            for module, call in zip(modules, calls, strict=True):
                module._compiled_call_impl = call


# diffusers takes a module path "….dit.…" for its own DiT pipeline; the package name alone is not mistaken.
DiT.__module__ = "videowm.dit"
