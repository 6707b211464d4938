"""Heads on a world model: what the next latent step earns, whether the game ends within it, and the simulator's state.

The frame after a fatal action does not exist, so no latent step shows an end. The heads therefore read the features of
the step before, which has seen all of the past, and the actions of the step to come. The state of a step is read off
its own latents.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from videowm.dit.flow import noised
from videowm.dit.model import DiT
from videowm.dit.saved import loading
from videowm.dit.text import TextTokens
from videowm.files import share
from videowm.types import UserError

FOLDER = "heads"  # beside the other parts in a world model's folder
LOOK_WIDTH, LOOK_LAYERS, POINTS = 64, 3, 32  # of what reads a state


class Reading(NamedTuple):
    """What heads say of the latent step after each of t steps."""

    reward: Tensor  # float32 "b t", what it earns up to its end
    logits: Tensor  # float32 "b t k+1": of no end, then of an end by its i-th action

    @property
    def death(self) -> Float[Tensor, "b t"]:
        """The probability that the game ends within the step."""
        return 1 - self.logits.softmax(-1)[..., 0]


class Look(nn.Module):
    """The standardised state "n k" of latent steps "n c h w", from points that it finds in them.

    A point is where a map of the picture is high on average, a spatial softmax (arXiv 1504.00702, section 5.1). So what
    is learned of a thing in one place holds in all others. A layer for each place learns the training data by heart.
    """

    def __init__(self, channels: int, height: int, width: int, states: int, hidden: int) -> None:
        super().__init__()
        wide = (channels, *[LOOK_WIDTH] * LOOK_LAYERS)
        self.seen = nn.Sequential(*(layer for before, after in zip(wide, wide[1:]) for layer in (
            nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU())))  # fmt: skip
        self.maps, self.values = (nn.Conv2d(LOOK_WIDTH, POINTS, 1) for _ in range(2))
        grid = torch.cartesian_prod(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width))
        self.register_buffer("grid", grid, persistent=False)
        self.out = nn.Sequential(nn.Linear(3 * POINTS, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
                                 nn.Linear(hidden, states))  # fmt: skip

    def forward(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Never in 16 bits, where a thousandth of the picture is lost."""
        with torch.autocast(latents.device.type, enabled=False):
            seen = self.seen(latents.float())
            where, value = self.maps(seen).flatten(2).softmax(-1), self.values(seen).flatten(2)
            return self.out(torch.cat([(where @ self.grid).flatten(1), (where * value).sum(-1)], dim=1))


class Heads(ModelMixin, ConfigMixin):
    """Reward and end of a latent step, from the features of the step before and the actions of the step.

    Args:
        features: width d of the features.
        tokens: of a latent step, s.
        actions: size g of a grouped action.
        stride: time stride k.
        block: the block of the world model whose residual stream is read, at its end.
        width: numbers that are kept of each token.
        hidden: width of the two hidden layers.
        reward_mean, reward_std: of the training steps' rewards.
        end_weight: how much more a step with an end counted in training; probabilities are put right by it.
        world, transformer_hash: of the world model that was frozen.
        state, state_mean, state_std: names of the state columns that are read too, and what standardises them.
        latents: channels, height and width of a latent step, where a state is read.
    """

    @register_to_config
    def __init__(
        self, features: int, tokens: int, actions: int, stride: int, block: int, width: int = 32, hidden: int = 256,
        reward_mean: float = 0.0, reward_std: float = 1.0, end_weight: float = 1.0, world: str = "",
        transformer_hash: str = "", state: tuple[str, ...] = (), state_mean: tuple[float, ...] = (),
        state_std: tuple[float, ...] = (), latents: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.norm, self.token = nn.LayerNorm(features), nn.Linear(features, width)
        self.layers = nn.Sequential(
            nn.Linear(width * tokens + actions, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, stride + 2),
        )  # fmt: skip
        self.look = Look(*latents, len(state), hidden) if state else None

    def forward(
        self, features: Float[Tensor, "b t s d"], actions: Float[Tensor, "b t g"],
        latents: Float[Tensor, "b t c h w"] | None = None,
    ) -> Float[Tensor, "b t o"]:  # fmt: skip
        """The standardised reward, then the k+1 logits as they were trained, then the states of given latents.

        o = k+2, and as many more as there are state columns.
        """
        tokens = self.token(self.norm(features.float())).flatten(2)
        said = self.layers(torch.cat([tokens, actions.float()], dim=-1)).float()
        if latents is None or self.look is None:
            return said
        return torch.cat([said, self.look(latents.flatten(0, 1)).float().unflatten(0, said.shape[:2])], dim=-1)

    def read(self, features: Float[Tensor, "b t s d"], actions: Float[Tensor, "b t g"]) -> Reading:
        """The reward in the game's own units, and logits whose probabilities are those of the training data.

        An end that counts w times in training has odds w times too high (Elkan 2001, theorem 2), hence the logarithm.
        """
        reward, logits = self(features, actions).split([1, self.config.stride + 1], dim=-1)
        ends = logits[..., 1:] - torch.log(torch.tensor(self.config.end_weight))
        return Reading(
            reward[..., 0] * self.config.reward_std + self.config.reward_mean, torch.cat([logits[..., :1], ends], -1)
        )

    def see(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """The state of latent steps, float32, in standard deviations of the training data.

        Raises:
            UserError: these heads read no state.
        """
        if self.look is None:
            raise UserError("these heads read no state: train them with state=[...], on latents that were encoded with "
                            "--states")  # fmt: skip
        return self.look(latents)

    def save(self, run: Path) -> None:
        """Put the heads into a world model's folder, in the place of others."""
        with tempfile.TemporaryDirectory(dir=run, prefix=".heads-") as aside:
            self.save_pretrained(new := Path(aside, "new"))
            share(new)
            if (run / FOLDER).exists():
                os.replace(run / FOLDER, Path(aside, "old"))
            os.replace(new, run / FOLDER)

    @classmethod
    def open(cls, run: str | Path, transformer_hash: str | None) -> Heads:
        """The heads in a world model's folder.

        Raises:
            UserError: it has none, or they are damaged, of another version or of another world model.
        """
        folder = Path(run) / FOLDER
        if not (folder / "config.json").exists():
            raise UserError(f"{run} has no heads that read rewards and ends: train them with videowm train "
                            f"configs/heads/base.yaml world={run}")  # fmt: skip
        with loading(folder):
            heads, about = cls.from_pretrained(folder, low_cpu_mem_usage=False, output_loading_info=True)
        if about["missing_keys"]:
            raise UserError(f"{folder} was written by another version of videowm, whose heads had other layers: train "
                            "them anew")  # fmt: skip
        if heads.config.transformer_hash != transformer_hash:
            raise UserError(f"{folder} was trained on another world model (hash {heads.config.transformer_hash}, this "
                            f"one has {transformer_hash}): train heads of this one")  # fmt: skip
        return heads.eval()


@torch.no_grad()
def features_of(
    model: DiT, latents: Float[Tensor, "b t c h w"], actions: Float[Tensor, "b t g"], block: int,
    level: Float[Tensor, "b t"], noise: Float[Tensor, "b t c h w"], text: TextTokens | None = None,
) -> Float[Tensor, "b t s d"]:  # fmt: skip
    """The residual stream at the end of `block`, of steps that are remembered with some noise."""
    kept = []

    def tap(i: int, stream: Float[Tensor, "b t s d"]) -> Float[Tensor, "b t s d"]:
        if i == block:
            kept.append(stream)
        return stream

    model(noised(latents, noise, level), level, actions, text=text, tap=tap)
    return kept[0]
