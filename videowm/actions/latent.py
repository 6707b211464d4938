"""Actions that nobody wrote down, discovered: what changes from one latent step to the next, through a narrow code.

An encoder sees some latent steps and the one after them, and says in a few numbers what happened. A decoder sees the
earlier steps and these numbers, and predicts the later step. What the past does not tell must go through the code:
above all the action. Without labels this is LAPO (Schmidt and Jiang 2024, arXiv 2312.10812, section 3: an inverse and a
forward model, trained together on the error of the next observation) and Genie's latent action model (Bruce et al.
2024, arXiv 2402.15391, section 2.1, with 8 codes). LAPA (Ye et al. 2025, arXiv 2410.11758) does the same for robots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from videowm.limits import NonNegative, Size, Whole
from videowm.types import UserError


@dataclass(frozen=True)
class CodeConfig:
    """The code between two latent steps, and the networks on both sides of it."""

    codes: Size = 8  # values of a discrete code: 2 or more
    code: Whole = 0  # numbers of a continuous code, in place of a discrete one; 0: discrete
    kl: NonNegative = 1e-3  # weight of a continuous code's KL divergence from a standard normal one; 0: a plain code
    balance: NonNegative = 0.01  # weight of the entropy of discrete codes over a batch, at first; 0 from half way on
    past: Size = 2  # latent steps before the change that both networks see
    width: Size = 64  # channels of both, a multiple of 8
    blocks: Size = 2  # residual blocks of each

    def __post_init__(self) -> None:
        if self.codes < 2 or self.width % 8:
            raise UserError(f"codes {self.codes}, width {self.width}: give 2 codes or more, and a multiple of 8")

    @property
    def size(self) -> int:
        """Numbers that the decoder is given: those of a continuous code, or one for each value of a discrete one."""
        return self.code or self.codes

    @property
    def names(self) -> list[str]:
        """Names of these numbers, as elements of an action."""
        return [f"{'latent' if self.code else 'code'}{i}" for i in range(self.size)]


def chosen(logits: Float[Tensor, "n k"], noise: Float[Tensor, "n k"] | None = None) -> Float[Tensor, "n k"]:
    """One-hot values of discrete codes; the gradient is that of the probabilities.

    Args:
        logits: of the values.
        noise: uniform numbers from 0 to 1, for values that are drawn (straight-through Gumbel-softmax, Jang et al.
            2017, arXiv 1611.01144, section 2.2); None: the likeliest value.
    """
    if noise is None:
        return nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    logits = logits - torch.log(-torch.log(noise.clamp(1e-6, 1 - 1e-6)))
    soft = torch.softmax(logits, dim=-1)
    return nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]) + soft - soft.detach()


def imbalance(logits: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """How much the codes of a batch are below an even use, in nats: without it few of them are ever used.

    The diversity loss of wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477, equation 4), for one code book.
    """
    mean = torch.softmax(logits, dim=-1).mean(0)
    return math.log(logits.shape[-1]) + (mean * mean.clamp_min(1e-9).log()).sum()


class Block(nn.Module):
    """A residual block of two convolutions; a code scales and shifts what is between them, channel by channel."""

    def __init__(self, width: int, size: int = 0) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        self.norm = nn.GroupNorm(8, width)
        self.modulation = nn.Linear(size, 2 * width) if size else None
        self.last = nn.Sequential(nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))

    def forward(
        self, x: Float[Tensor, "b d h w"], code: Float[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b d h w"]:
        hidden = self.norm(self.first(x))
        if self.modulation is not None:
            scale, shift = self.modulation(code)[..., None, None].chunk(2, dim=1)
            hidden = hidden * (1 + scale) + shift
        return x + self.last(hidden)


class Encoder(nn.Module):
    """Latent steps "b p+1 c h w", the last of them after the change -> numbers "b k"."""

    def __init__(self, config: CodeConfig, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        rows, columns = -(-height // 2), -(-width // 2)
        self.body = nn.Sequential(
            nn.Conv2d((config.past + 1) * channels, config.width, 3, padding=1),
            *(Block(config.width) for _ in range(config.blocks)),
            nn.Conv2d(config.width, config.width, 3, stride=2, padding=1), nn.SiLU(), nn.Flatten(),
            nn.Linear(config.width * rows * columns, 2 * config.width), nn.SiLU(),
            nn.Linear(2 * config.width, config.size * (2 if config.code else 1)),
        )  # fmt: skip

    def forward(self, steps: Float[Tensor, "b s c h w"]) -> Float[Tensor, "b k"]:
        return self.body(steps.flatten(1, 2))


class Decoder(nn.Module):
    """Latent steps "b p c h w" and a code "b k" -> the next step "b c h w"; at first it is the last one again."""

    def __init__(self, config: CodeConfig, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, size = shape[0], 2 * config.width
        self.code = nn.Sequential(nn.Linear(config.size, size), nn.SiLU())
        self.head = nn.Conv2d(config.past * channels, config.width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(config.width, size) for _ in range(config.blocks))
        self.out = nn.Sequential(
            nn.GroupNorm(8, config.width), nn.SiLU(), nn.Conv2d(config.width, channels, 3, padding=1)
        )
        nn.init.zeros_(self.out[-1].weight)

    def forward(self, past: Float[Tensor, "b p c h w"], code: Float[Tensor, "b k"]) -> Float[Tensor, "b c h w"]:
        x, code = self.head(past.flatten(1, 2)), self.code(code)
        for block in self.blocks:
            x = block(x, code)
        return past[:, -1] + self.out(x)


class CodeNetwork(nn.Module):
    """Both networks, and a reader of recorded actions off the code, which only labels train.

    Args:
        config: the code.
        shape: (c, h, w) of a latent step.
        actions: numbers of a recorded action.
    """

    def __init__(self, config: CodeConfig, shape: tuple[int, int, int], actions: int) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config, shape), Decoder(config, shape)
        self.reader = nn.Sequential(nn.Linear(config.size, config.width), nn.SiLU(), nn.Linear(config.width, actions))

    def forward(
        self, latents: Float[Tensor, "b t c h w"], noise: Float[Tensor, "b t-1 k"] | None = None
    ) -> tuple[Float[Tensor, "b t-1 c h w"], Float[Tensor, "b t-1 a"], Float[Tensor, ""]]:
        """Every step but the first as predicted, the mean action of each as its code tells it, and the code's price.

        The price of a continuous code is its KL divergence, of a discrete one the `imbalance`. `noise` is normal for
        the one, and uniform for the other.
        """
        past, following = self.changes(latents)
        made, shape = self.made(past, following), (latents.shape[0], latents.shape[1] - 1)
        code = self.drawn(made, None if noise is None else noise.flatten(0, 1))
        price = divergence(*made.chunk(2, dim=-1)) if self.config.code else imbalance(made)
        return self.decoder(past, code).unflatten(0, shape), self.reader(code).unflatten(0, shape), price

    def changes(
        self, latents: Float[Tensor, "b t c h w"]
    ) -> tuple[Float[Tensor, "n p c h w"], Float[Tensor, "n c h w"]]:
        """Of every step but the first the `past` steps before it, and itself; before a clip its first step stands."""
        before = latents[:, :1].expand(-1, self.config.past - 1, -1, -1, -1)
        windows = torch.cat([before, latents], dim=1).unfold(1, self.config.past + 1, 1).movedim(-1, 2).flatten(0, 1)
        return windows[:, :-1], windows[:, -1]

    def made(self, past: Float[Tensor, "n p c h w"], following: Float[Tensor, "n c h w"]) -> Float[Tensor, "n e"]:
        """What the encoder says: logits of a discrete code, or mean and log of the variance of a continuous one."""
        return self.encoder(torch.cat([past, following[:, None]], dim=1)).float()

    def drawn(self, made: Float[Tensor, "n e"], noise: Float[Tensor, "n k"] | None = None) -> Float[Tensor, "n k"]:
        """The code that the decoder is given; without noise the likeliest value, or the mean."""
        if not self.config.code:
            return chosen(made, noise)
        mean, log_variance = made.chunk(2, dim=-1)
        plain = noise is None or not self.config.kl
        return mean if plain else mean + noise * torch.exp(log_variance.clamp(-10, 4) / 2)

    @torch.no_grad()
    def codes(self, latents: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t-1 k"]:
        """The codes of all steps but the first, as the decoder and a world model take them."""
        code = self.drawn(self.made(*self.changes(latents)))
        return code.unflatten(0, (latents.shape[0], latents.shape[1] - 1))


def divergence(mean: Float[Tensor, "n k"], log_variance: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """KL divergence of normal codes from a standard normal one, in nats, the mean over them."""
    log_variance = log_variance.clamp(-10, 4)
    return (mean.square() + log_variance.exp() - log_variance - 1).sum(-1).mean() / 2
