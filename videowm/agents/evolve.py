"""CMA-ES (arXiv 1604.00772, through `cma`): a generation of linear controllers dreams in one batch."""

from __future__ import annotations

import cma
import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from videowm.agents.agent import Agent
from videowm.agents.practice import Played, Practice, mixed

SIGMA = 0.3  # deviation of the first generation's weights; the components that they weigh have the deviation 1
DRAWS, BEGUN = 1, 2  # what the seeds are for


class Evolution:
    """Learns by generations. Each candidate plays the same dreams: the same moments, noise and chances.

    Attributes:
        rounds: generations so far.
        steps: latent steps of all dreams so far.
    """

    def __init__(self, agent: Agent, practice: Practice, population: int) -> None:
        """Begin a linear agent with all weights 0; the population divides the dreams."""
        self.agent, self.practice, self.population = agent, practice, population
        self.rounds, self.steps, self.told = 0, 0, []
        practice.alike = population
        self.inputs, self.free = agent.head.in_features, agent.config.outputs - bool(agent.config.names)
        random = np.random.RandomState(mixed(practice.seed, DRAWS) % 2**32)
        options = {"popsize": population, "randn": random.randn, "seed": np.nan, "verbose": -9}
        self.strategy = cma.CMAEvolutionStrategy(np.zeros((self.inputs + 1) * self.free), SIGMA, options)

    def advance(self, left: float = 1.0) -> dict[str, float]:
        """One generation; what it earned on average, and the best candidate."""
        candidates = np.array(self.strategy.ask())
        self.practice.reseed(BEGUN, self.rounds)
        played = self.play(candidates)
        earned = played.returns.reshape(self.population, -1).mean(1)
        self.tell(candidates, earned)
        self.rounds += 1
        self.steps += self.practice.count * int(played.lengths.max())
        return {"return": float(earned.mean()), "best": float(earned.max()), "episodes": self.practice.count,
                "frames": float(played.lengths.mean() * self.practice.stride)}  # fmt: skip

    def tell(self, candidates: Float64[np.ndarray, "p v"], earned: Float[np.ndarray, " p"]) -> None:
        """Let the strategy learn from what its candidates earned."""
        self.told.append(earned)
        self.strategy.tell(list(candidates), (-earned).tolist())

    def weights(self, vectors: Float64[np.ndarray, "p v"]) -> tuple[Float[Tensor, "p i o"], Float[Tensor, "p o"]]:
        """Matrices and biases of some candidates. The first of named actions always has the score 0."""
        own = torch.tensor(vectors, dtype=torch.float32, device=self.agent.device)
        own = own.unflatten(1, (self.inputs + 1, self.free))
        if self.agent.config.names:
            own = torch.cat([torch.zeros_like(own[..., :1]), own], -1)
        return own[:, :-1], own[:, -1]

    def play(self, candidates: Float64[np.ndarray, "p v"]) -> Played:
        """A dream of every row, each block by a candidate of its own."""
        matrices, biases = self.weights(candidates)

        def act(practice: Practice) -> Float[Tensor, "n k a"]:
            seen = self.agent.reads(practice.seen(self.agent)).unflatten(0, (self.population, -1))
            outputs = torch.einsum("pdi,pio->pdo", seen, matrices) + biases[:, None]
            return practice.held(self.agent.action_of(outputs.flatten(0, 1)))

        return self.practice.play(act)

    def finish(self) -> None:
        """Give the agent the mean of the strategy's distribution."""
        (matrix,), (bias,) = self.weights(self.strategy.mean[None])
        with torch.no_grad():
            self.agent.head.weight.copy_(matrix.T)
            self.agent.head.bias.copy_(bias)

    @property
    def at_rest(self) -> bool:
        """Whether a checkpoint can be written now: after every generation."""
        return True

    def state(self) -> dict[str, Tensor]:
        """All that a checkpoint needs: what every candidate earned. The rest follows from the seed."""
        return {"told": torch.from_numpy(np.array(self.told))}

    def restore(self, state: dict[str, Tensor], rounds: int, steps: int) -> None:
        """Go on where a checkpoint was written, by telling the strategy everything once more."""
        for earned in state["told"].numpy():
            self.tell(np.array(self.strategy.ask()), earned)
        self.rounds, self.steps = rounds, steps
