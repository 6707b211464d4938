"""Many dreams at once to learn in: what an agent reads of them stays on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from videowm import config as configuration
from videowm.agents.agent import Agent
from videowm.agents.starts import Starts
from videowm.dit.sample import Sampler
from videowm.dream.rows import DreamConfig, Dreams, Step

STOCK = 1024  # real moments, on a GPU


@dataclass(frozen=True)
class Played:
    """One whole dream of each row."""

    returns: Float[np.ndarray, " n"]  # sums of rewards, in the game's own units
    lengths: Shaped[np.ndarray, " n"]  # latent steps, the one that ended the game included


def mixed(*numbers: int) -> int:
    """A seed that follows from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


class Practice(Dreams):
    """Dreams that begin in a stock of real moments, with random numbers from the device that depend on a seed alone.

    Attributes:
        alike: blocks of rows that get the same beginnings, noise and chances, so that only their agents differ.
        starts: the stock.
    """

    def __init__(
        self, run: str | Path, config: DreamConfig, rows: int, *, starts: int | None = None, seed: int = 0,
        sampler: Sequence[str] = (), data: str | Path | None = None, device: str | None = None,
    ) -> None:  # fmt: skip
        """Open a finished run with heads, and read `starts` real moments; `sampler` changes keys, as in "steps=3".

        Raises:
            UserError: as `Dreams`, or a key of the sampler is wrong.
        """
        super().__init__(run, config, rows, data=data, frames=False, device=device)
        self.alike, self.seed = 1, seed
        changed = asdict(self.sampler)
        for override in sampler:
            configuration.apply_override(changed, override)
        self.sampler = configuration.build(Sampler, changed, where="--sampler")
        self.generators = [torch.Generator(self.device)]
        self.starts = Starts.read(self, starts or (STOCK if self.graph else STOCK // 8), seed)

    def reseed(self, *numbers: int) -> None:
        """From here on all that is drawn follows from the seed and these numbers."""
        self.generators[0].manual_seed(mixed(self.seed, *numbers))

    def shared(self, draw: Callable[[int], Tensor]) -> Shaped[Tensor, "n ..."]:
        """What `draw` gives for the rows of one block, the same for every block."""
        own = draw(self.count // self.alike)
        return own.repeat(self.alike, *[1] * (own.ndim - 1))

    def noise(self, steps: int) -> Float[Tensor, "n {steps} c h w"]:
        """See `Dreams.noise`."""
        shape, (generator,) = (steps, *self.starts.context.shape[2:]), self.generators
        return self.shared(lambda n: torch.randn(n, *shape, generator=generator, device=self.device))

    def past_noise(self, steps: int) -> Float[Tensor, "n {steps} c h w"]:
        """See `Dreams.past_noise`."""
        return self.noise(steps)

    def uniform(self) -> Float[Tensor, " n"]:
        """See `Dreams.uniform`."""
        return self.shared(lambda n: torch.rand(n, generator=self.generators[0], device=self.device)).cpu()

    def again(self, rows: Sequence[int] | None = None) -> None:
        """Let some rows begin anew in moments of the stock, or all of them."""
        chosen = list(range(self.count)) if rows is None else list(rows)
        of = torch.tensor(chosen, device=self.device)
        stock, (generator,) = len(self.starts), self.generators
        places = self.shared(lambda n: torch.randint(stock, (n,), generator=generator, device=self.device))[of]
        noise = self.past_noise(self.starts.context.shape[1])[of]
        self.start(chosen, self.starts.context[places], self.starts.grouped[places], noise)

    def warm_up(self) -> None:
        """Let a GPU compile and record all that it will need: steps of young dreams and of old ones."""
        idle = torch.zeros(self.count, self.stride, len(self.pipeline.trained_on.action_names), device=self.device)
        self.reseed()
        self.again()
        self.step(idle)
        self.again([0])
        for _ in range(self.pipeline.trained_on.window + 1):
            self.step(idle)

    def seen(self, agent: Agent) -> Float[Tensor, "n o"]:
        """What the agent sees of every row now."""
        return agent.observe(self.latents, self.memory if agent.config.memory else None)

    def held(self, actions: Float[Tensor, "n a"]) -> Float[Tensor, "n k a"]:
        """Actions that are held over the frames of a latent step."""
        return actions[:, None].expand(-1, self.stride, -1)

    @torch.no_grad()
    def play(self, act: Callable[[Practice], Float[Tensor, "n k a"]]) -> Played:
        """Every row's dream from its beginning to its end or the horizon; `act` gives the game's actions."""
        self.again()
        returns, lengths, on = np.zeros(self.count), np.zeros(self.count, np.int64), np.ones(self.count, bool)
        for _ in range(self.horizon):
            made: Step = self.step(act(self))
            returns[on] += made.reward[on]
            lengths += on
            on &= made.end == 0
            if not on.any():
                break
        return Played(returns, lengths)
