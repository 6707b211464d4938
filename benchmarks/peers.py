"""What the benchmarks compare: ours, a plain GPT as bound, and diffusers' video transformers, all behind one call.

`model(latents "b t c h w", level "b t", actions "b t g") -> velocity "b t c h w"`; what a peer cannot take is left out,
in its favour: each adapter says what it feeds. Depths of the peers are those that come nearest to our parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from diffusers import CogVideoXTransformer3DModel, LatteTransformer3DModel, WanTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from videowm.dit import DiT
from videowm.train.flops import model_flops

HEAD_SIZE = 64
SIZES = {"tiny": (64, 2), "S": (384, 12), "B": (768, 12), "L": (1024, 24)}  # hidden and depth of ours and of the GPT
CLIPS = {("L", 64): 16, ("S", 256): 8, ("B", 256): 8, ("L", 256): 4}  # in a training step; else 32, tiny 2


@dataclass(frozen=True)
class Work:
    """Clips of `steps` latent steps of `tokens` tokens, the same for every model of a row group."""

    size: str  # a key of SIZES
    tokens: int = 64  # a latent step, a square number
    steps: int = 16
    channels: int = 16
    actions: int = 16  # numbers a step
    text: int = 0  # tokens of text, where a peer takes some: the first actions stand for it

    @property
    def hidden(self) -> int:
        return SIZES[self.size][0]

    @property
    def heads(self) -> int:
        return self.hidden // HEAD_SIZE

    @property
    def grid(self) -> int:
        """Tokens along one side of a latent step."""
        return math.isqrt(self.tokens)

    @property
    def side(self) -> int:
        """Latent height and width; patches are 2x2."""
        return 2 * self.grid

    @property
    def clips(self) -> int:
        return 2 if self.size == "tiny" else CLIPS.get((self.size, self.tokens), 32)

    def batch(self, clips: int, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Random latents "b t c h w", levels "b t", actions "b t g" and the velocity to learn."""
        shape = (clips, self.steps, self.channels, self.side, self.side)
        with torch.device(device):
            return torch.randn(shape), torch.rand(shape[:2]), torch.randn(*shape[:2], self.actions), torch.randn(shape)


class Ours(nn.Module):
    """videowm's DiT: actions and a noise level a step, block-causal in time."""

    local: int | None = None  # latent steps that three of four blocks see

    def __init__(self, work: Work, depth: int) -> None:
        super().__init__()
        self.net = DiT(depth=depth, channels=work.channels, height=work.side, width=work.side, actions=work.actions,
                       patch=2, hidden=work.hidden, heads=work.heads, local=self.local)  # fmt: skip

    def forward(self, latents: Tensor, level: Tensor, actions: Tensor) -> Tensor:
        return self.net(latents, level, actions)

    def compile_blocks(self) -> None:
        self.net.compile_blocks()


class OursLocal(Ours):
    """The same where three of four blocks look no further back than their own latent step."""

    local = 1


class Peer(nn.Module):
    """A model whose `blocks` are compiled one by one."""

    blocks: list[nn.Module]

    def compile_blocks(self) -> None:
        for block in self.blocks:
            block.compile(dynamic=False)


class GPTBlock(nn.Module):
    """Pre-norm attention and MLP; no biases, as in ours."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.project = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens "b l d" -> "b l d"; every token sees every other."""
        query, key, value = rearrange(
            self.qkv(self.norm1(x)), "b l (three n k) -> three b n l k", three=3, n=self.heads
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        x = x + self.project(rearrange(attended, "b n l k -> b l (n k)"))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(Peer):
    """The bound: width and depth of ours, learned positions, no conditioning at all. It is fed the latents alone."""

    def __init__(self, work: Work, depth: int) -> None:
        super().__init__()
        self.grid, values = work.grid, 4 * work.channels
        self.embed = nn.Linear(values, work.hidden)
        self.positions = nn.Parameter(0.02 * torch.randn(work.steps * work.tokens, work.hidden))
        layers = [GPTBlock(work.hidden, work.heads) for _ in range(depth)]
        self.layers = nn.ModuleList(layers)
        self.head = nn.Sequential(nn.LayerNorm(work.hidden, bias=False), nn.Linear(work.hidden, values))
        self.blocks = [*layers, self.head]

    def forward(self, latents: Tensor, level: Tensor, actions: Tensor) -> Tensor:
        x = rearrange(latents, "b t c (h p) (w q) -> b (t h w) (p q c)", p=2, q=2)
        x = self.embed(x)
        x = x + self.positions.to(x.dtype)  # fp32 would make all that follows fp32, and the bound slower
        for layer in self.layers:
            x = layer(x)
        return rearrange(self.head(x), "b (t h w) (p q c) -> b t c (h p) (w q)", h=self.grid, w=self.grid, p=2, q=2)


class CogVideoX(Peer):
    """diffusers' CogVideoX: full attention, 3D rotary positions as in its 5B weights. It is fed one timestep a clip
    and no text (it accepts none, and so works on exactly the tokens of the clip). The timestep's embedding has the
    class' 512 channels, but 256 at width 384, where 512 would be most of the parameters."""

    def __init__(self, work: Work, depth: int) -> None:
        super().__init__()
        self.text = work.text
        self.net = CogVideoXTransformer3DModel(
            num_attention_heads=work.heads, attention_head_dim=HEAD_SIZE, num_layers=depth, in_channels=work.channels,
            out_channels=work.channels, text_embed_dim=work.actions, max_text_seq_length=work.text, patch_size=2,
            sample_width=work.side, sample_height=work.side, sample_frames=4 * (work.steps - 1) + 1,
            use_rotary_positional_embeddings=True, time_embed_dim=min(512, 2 * work.hidden // 3),
        )  # fmt: skip
        grid = (work.grid, work.grid)
        where = self.net.proj_out.weight.device
        cos, sin = get_3d_rotary_pos_embed(HEAD_SIZE, ((0, 0), grid), grid, work.steps, device=where)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)
        self.blocks = list(self.net.transformer_blocks)

    def forward(self, latents: Tensor, level: Tensor, actions: Tensor) -> Tensor:
        text = actions[:, : self.text]
        rotary = (self.cos, self.sin)
        return self.net(latents, text, 1000 * level[:, 0], image_rotary_emb=rotary, return_dict=False)[0]


class Wan(Peer):
    """diffusers' Wan: full attention, 3D rotary positions, cross-attention to text. It is fed one timestep a clip and
    one token of text, the least that its cross-attention has a meaning for."""

    def __init__(self, work: Work, depth: int) -> None:
        super().__init__()
        self.text = max(1, work.text)
        self.net = WanTransformer3DModel(
            num_attention_heads=work.heads, attention_head_dim=HEAD_SIZE, num_layers=depth, in_channels=work.channels,
            out_channels=work.channels, text_dim=work.actions, ffn_dim=4 * work.hidden, rope_max_seq_len=64,
        )  # fmt: skip
        self.blocks = list(self.net.blocks)

    def forward(self, latents: Tensor, level: Tensor, actions: Tensor) -> Tensor:
        text = actions[:, : self.text]
        return self.net(latents.transpose(1, 2), 1000 * level[:, 0], text, return_dict=False)[0].transpose(1, 2)


class Latte(Peer):
    """diffusers' Latte: blocks within a step and along time take turns, fixed positions. It is fed one timestep a clip
    and one token of text, for its cross-attention within a step. Depth counts pairs of blocks."""

    def __init__(self, work: Work, depth: int) -> None:
        super().__init__()
        self.text = max(1, work.text)
        self.net = LatteTransformer3DModel(
            num_attention_heads=work.heads, attention_head_dim=HEAD_SIZE, num_layers=depth, in_channels=work.channels,
            out_channels=work.channels, cross_attention_dim=work.hidden, attention_bias=True, sample_size=work.side,
            patch_size=2, activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single",
            norm_elementwise_affine=False, norm_eps=1e-6, caption_channels=work.actions, video_length=work.steps,
        )  # fmt: skip
        self.blocks = [*self.net.transformer_blocks, *self.net.temporal_transformer_blocks]

    def forward(self, latents: Tensor, level: Tensor, actions: Tensor) -> Tensor:
        clip, text = latents.transpose(1, 2), actions[:, : self.text]
        return self.net(clip, 1000 * level[:, 0], text, return_dict=False)[0].transpose(1, 2)


MODELS = {"ours": Ours, "ours-local": OursLocal, "gpt": GPT, "cogvideox": CogVideoX, "wan": Wan, "latte": Latte}
PEERS = ("cogvideox", "wan", "latte")


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def on_meta(name: str, work: Work, depth: int) -> nn.Module:
    """The model without memory behind its weights."""
    with torch.device("meta"):
        return MODELS[name](work, depth)


def depth_of(name: str, work: Work) -> int:
    """Depth of ours and the GPT as it stands in SIZES; of a peer, the one nearest to our parameters."""
    own = SIZES[work.size][1]
    if name not in PEERS:
        return own
    one, two = (parameters(on_meta(name, work, depth)) for depth in (1, 2))
    return max(1, 1 + round((parameters(on_meta("ours", work, own)) - one) / (two - one)))


@torch.no_grad()
def build(name: str, work: Work, device: torch.device | str) -> nn.Module:
    """The model in fp32 with random weights. Matrices that start as zeros are drawn anew: zeros run faster, and blocks
    behind closed gates would hide mistakes. Outputs get about the size of inputs."""
    torch.manual_seed(0)
    with torch.device(device):
        model = MODELS[name](work, depth_of(name, work))
    for value in model.parameters():
        if value.ndim >= 2 and not value.any():
            value.normal_(std=value.shape[-1] ** -0.5)
    return model


def training_flops(name: str, work: Work) -> int:
    """FLOPs of forward and backward on one clip, nothing recomputed: counted by torch on every matrix product of a
    peer, and for ours 3 x the forward pass by `model_flops`, which counts the pairs that its mask allows."""
    model = on_meta(name, work, depth_of(name, work))
    if name.startswith("ours"):
        return 3 * model_flops(model.net, work.steps)
    latents, level, actions, velocity = work.batch(1, "meta")
    with FlopCounterMode(display=False) as counter:
        F.mse_loss(model(latents, level, actions), velocity).backward()
    return counter.get_total_flops()
