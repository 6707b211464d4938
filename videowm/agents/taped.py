"""Real games that are recorded while they are played, row by row as `videowm record` does.

It needs no torch, so a playing process starts at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from videowm.agents.games import Game, GameSettings
from videowm.data.playing import Tape
from videowm.types import Episode


@dataclass(frozen=True)
class TapedSettings(GameSettings):
    """What is played, and recorded."""

    frames: int = 1  # of an episode, at most
    random: float = 0.0  # share of decisions that are drawn at random
    decision: int = 1  # frames for which these are held

    def row(self) -> Game:
        """A game that is recorded."""
        return TapedGame(self)


class TapedGame(Game):
    """A game of which every frame is kept, and in which some decisions are drawn in the player's place."""

    settings: TapedSettings

    def begin(self, seed: int) -> tuple[np.ndarray, float]:
        """As `Game.begin`; what is drawn at random follows from the seed."""
        begun = super().begin(seed)
        self.tape, self.seed = Tape(self.world, self.settings.frames), seed
        self.rng, self.forced = np.random.default_rng([seed, 2]), None
        return begun

    def once(self, player: Iterator[np.ndarray]) -> tuple[np.ndarray, float, bool]:
        """As `Game.once`, but for random decisions."""
        if len(self.tape.rows) % self.settings.decision == 0:
            errs = self.rng.random() < self.settings.random
            self.forced = self.world.random(self.rng) if errs else None
        return self.tape.take(player if self.forced is None else repeat(self.forced))

    def episode(self) -> Episode:
        """The game so far."""
        return self.tape.episode(np.random.default_rng([self.seed, 3]))
