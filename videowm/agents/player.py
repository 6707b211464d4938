"""What a player of the dream and of the real game is: one decision a latent step, for many games at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float, Float32
from torch import Tensor

Wants = Literal["latents", "memory", "past"]


@dataclass(frozen=True)
class Seen:
    """What n players have seen of their games: finished latent steps, the newest last.

    A decision is taken once a latent step. Its action is held over the k frames of the step to come.
    """

    latents: Float[Tensor, "n t c h w"]  # normalised; at most as many steps as a window keeps, t the same for all rows
    grouped: Float[Tensor, "n t g"]  # the transformer's actions that led to these (zeros for a game's first frame)
    memory: Float[Tensor, "n s d"] | None = None  # the network's features of the newest step, as `DreamEnv`'s "memory"
    games: tuple[int, ...] | None = None  # each row's own number, for players that remember; None: 0 to n-1


class Player(Protocol):
    """Whoever acts, in the dream as in the real game."""

    wants: Wants  # latents: the newest step is enough (t = 1); memory: that and `Seen.memory`; past: the whole window

    def act(self, seen: Seen) -> Float32[np.ndarray, "n a"]:
        """One action of the game's own numbers for each row, held over the next k frames."""
        ...
