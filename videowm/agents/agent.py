"""`Agent`: a network that acts on latents, or on latents and the world model's features of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from videowm import config as configuration
from videowm.agents.player import Seen
from videowm.files import read_json, short_hash, write_atomic, write_json
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError

WEIGHTS, ABOUT = "agent.safetensors", "agent.json"
REMEDY = "train it again with videowm dream train"
PER_TOKEN = 16  # numbers that an mlp keeps of each token's features
CLOSE = 1e-6  # least deviation of a principal component


@dataclass(frozen=True)
class AgentConfig:
    """What an agent sees, what it may do, and its network."""

    kind: Literal["linear", "mlp"]  # linear: of principal components; mlp: with two hidden layers
    observation: Literal["latents", "memory"]  # memory: latents and the network's features of the newest step
    latents: list[int]  # (c, h, w)
    memory: list[int]  # (s, d); none of latents alone
    actions: list[list[float]]  # named ones, one of which is taken; else the lowest and the highest numbers
    names: list[str]  # of the named ones; none where an action is numbers
    components: int = 32  # of a linear one: principal components of each of latents and memory
    hidden: int = 256  # of an mlp: width of the two hidden layers

    @property
    def sizes(self) -> list[int]:
        """How many numbers an observation has of latents, and of memory where that is seen."""
        return [int(np.prod(shape)) for shape in (self.latents, self.memory) if shape]

    @property
    def outputs(self) -> int:
        """A score for each named action, or a number for each part of an action."""
        return len(self.names) or len(self.actions[0])


class Components(nn.Module):
    """Projections of the parts of an observation to fixed principal components, each of deviation 1."""

    def __init__(self, sizes: list[int], count: int) -> None:
        super().__init__()
        self.sizes, self.features = sizes, count * len(sizes)
        for i, size in enumerate(sizes):
            self.register_buffer(f"mean{i}", torch.zeros(size))
            self.register_buffer(f"basis{i}", torch.zeros(size, count))

    def fit(self, seen: Float[Tensor, "m o"]) -> None:
        """Find the components of some observations."""
        for i, part in enumerate(seen.double().split(self.sizes, 1)):
            basis = getattr(self, f"basis{i}")
            getattr(self, f"mean{i}").copy_(part.mean(0))
            basis.copy_(principal(part - part.mean(0), basis.shape[1]))

    def forward(self, seen: Float[Tensor, "n o"]) -> Float[Tensor, "n i"]:
        """The components, those of latents first."""
        parts = enumerate(seen.split(self.sizes, 1))
        return torch.cat([(x - getattr(self, f"mean{i}")) @ getattr(self, f"basis{i}") for i, x in parts], 1)


def principal(centred: Float[Tensor, "m o"], count: int) -> Float[Tensor, "o count"]:
    """Directions of most variance, scaled so that the observations along each have the deviation 1.

    They are found from the m x m products: observations are few and long. The largest entry of each is positive.
    """
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    directions = centred.T @ vectors / values.clamp_min(CLOSE).sqrt()
    signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    deviations = (values / len(centred)).clamp_min(CLOSE).sqrt()
    return directions * signs / deviations


class Tokens(nn.Module):
    """Latents as they are, and a few numbers of each token's features."""

    def __init__(self, sizes: list[int], memory: list[int]) -> None:
        super().__init__()
        self.sizes, self.memory = sizes, memory
        self.token = nn.Linear(memory[1], PER_TOKEN)
        self.features = sizes[0] + memory[0] * PER_TOKEN

    def forward(self, seen: Float[Tensor, "n o"]) -> Float[Tensor, "n i"]:
        """The latents' numbers, then the tokens'."""
        latents, memory = seen.split(self.sizes, 1)
        return torch.cat([latents, self.token(memory.unflatten(1, self.memory)).flatten(1)], 1)


class Agent(nn.Module):
    """A player that sees the newest latent step: a linear controller, or a network with two hidden layers.

    Attributes:
        wants: see `videowm.agents.player.Player`.
        width: numbers that its first layer gets.
        about: what agent.json says beside the network: run, world, hashes, how it was trained.
    """

    def __init__(self, config: AgentConfig, about: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config, self.about, self.wants = config, dict(about or {}), config.observation
        if config.kind == "linear":
            self.reads = Components(config.sizes, config.components)
        else:
            self.reads = Tokens(config.sizes, config.memory) if config.memory else nn.Identity()
        self.width = getattr(self.reads, "features", sum(config.sizes))
        hidden = [config.hidden] * 2 if config.kind == "mlp" else []
        self.body = nn.Sequential(*hidden_layers(self.width, hidden))
        self.head = nn.Linear([self.width, *hidden][-1], config.outputs)
        self.register_buffer("table", torch.tensor(config.actions, dtype=torch.float32), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where its numbers are."""
        return self.table.device

    def observe(self, latents: Float[Tensor, "n c h w"], memory: Float[Tensor, "n s d"] | None) -> Float[Tensor, "n o"]:
        """What it sees, as one row of numbers; features have mean 0 and deviation 1 in each token."""
        parts = [latents.to(self.device).float().flatten(1)]
        if self.config.memory:
            memory = memory.to(self.device).float()
            parts.append(F.layer_norm(memory, memory.shape[-1:]).flatten(1))
        return torch.cat(parts, 1)

    def forward(self, seen: Float[Tensor, "n o"]) -> Float[Tensor, "n outputs"]:
        """A score for each named action, or numbers of which -1 is an action's lowest and 1 its highest."""
        return self.head(self.body(self.reads(seen)))

    def action_of(self, outputs: Float[Tensor, "n outputs"]) -> Float[Tensor, "n a"]:
        """The game's own numbers: of the named action with the highest score, or from lowest to highest."""
        return self.named(outputs.argmax(1)) if self.config.names else self.scaled(outputs)

    def named(self, number: Int[Tensor, " n"]) -> Float[Tensor, "n a"]:
        """Named actions by their number."""
        return self.table[number]

    def scaled(self, numbers: Float[Tensor, "n a"]) -> Float[Tensor, "n a"]:
        """The game's numbers; -1 and below is the lowest, 1 and above the highest."""
        low, high = self.table
        return low + (numbers.clamp(-1, 1) + 1) / 2 * (high - low)

    @torch.no_grad()
    def act(self, seen: Seen) -> Float32[np.ndarray, "n a"]:
        """See `videowm.agents.player.Player`: no chance is in it."""
        outputs = self(self.observe(seen.latents[:, -1], seen.memory))
        return self.action_of(outputs).float().cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write agent.safetensors, then agent.json with its hash."""
        weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()})
        write_atomic(folder / WEIGHTS, weights)
        write_json(folder / ABOUT, {"agent": asdict(self.config), "weights": short_hash(weights), **self.about})

    @classmethod
    def open(cls, folder: str | Path, pipeline: WorldModelPipeline | None = None) -> Agent:
        """The agent in a folder.

        Args:
            folder: what `videowm dream train` wrote.
            pipeline: the world model whose latents and features it shall see; None: not compared.

        Raises:
            UserError: there is none, it is damaged, or it was trained in the dream of another world model.
        """
        folder = Path(folder)
        about = read_json(folder / ABOUT, REMEDY)
        config = configuration.build(AgentConfig, about.pop("agent", {}), where=str(folder / ABOUT))
        if pipeline is not None:
            check_same(folder, config, about.get("hashes", {}), hashes_of(pipeline))
        try:
            weights = (folder / WEIGHTS).read_bytes()
        except OSError as error:
            raise UserError(f"{folder / WEIGHTS} cannot be read ({error.strerror}): {REMEDY}") from None
        if short_hash(weights) != about.pop("weights", None):
            raise UserError(f"{folder / WEIGHTS} is not what {ABOUT} describes: {REMEDY}")
        agent = cls(config, about)
        try:
            agent.load_state_dict(load(weights))
        except (SafetensorError, RuntimeError) as error:
            raise UserError(f"{folder / WEIGHTS} does not fit {ABOUT} ({str(error).splitlines()[0]}): {REMEDY}"
                            ) from None  # fmt: skip
        return agent.eval()


def hidden_layers(width: int, widths: list[int]) -> list[nn.Module]:
    """Linear layers, each followed by a tanh, as stable-baselines3's policies have them."""
    pairs = zip([width, *widths], widths)
    return [layer for before, after in pairs for layer in (nn.Linear(before, after), nn.Tanh())]


def hashes_of(pipeline: WorldModelPipeline) -> dict[str, str | None]:
    """What an agent depends on: the transformer, the autoencoder, and how its latents are normalised."""
    on = pipeline.trained_on
    statistics = short_hash(json.dumps([on.latents_mean, on.latents_std]))
    return {"transformer": pipeline.config.transformer_hash, "vae": on.vae_hash, "statistics": statistics}


def check_same(folder: Path, config: AgentConfig, own: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Refuse an agent of another world model. One that sees latents alone may go to any model of its latents.

    Raises:
        UserError: a hash differs.
    """
    parts = {"vae": "autoencoder", "statistics": "statistics of latents"}
    for key, what in (parts | ({"transformer": "transformer"} if config.memory else {})).items():
        if own.get(key) != theirs[key]:
            raise UserError(f"{folder} learned with another {what} (hash {own.get(key)}, this world model's is "
                            f"{theirs[key]}): give the run that it was trained in")  # fmt: skip
