"""CarRacing with a noisy television in the corner: frames that no model can predict in full."""

from __future__ import annotations

import numpy as np

from videowm.worlds.carracing import CarRacing

PATCH = 16  # pixels, of each side
BLOCK = 8  # pixels of one colour, of each side: finer noise is lost in an autoencoder, and surprises nobody


class NoisyCarRacing(CarRacing):
    """CarRacing whose upper right corner shows uniform noise, drawn anew for each frame from (seed, frame number)."""

    name = "carracing-noisy"
    NOISE = (slice(0, PATCH), slice(CarRacing.size[1] - PATCH, CarRacing.size[1]))

    def reset(self, seed: int) -> None:
        self._seed, self._shown = seed, 0
        super().reset(seed)

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        self._shown += 1
        return super().step(action)

    def render(self) -> np.ndarray:
        picture = super().render()
        noise = np.random.default_rng([self._seed, self._shown, 16])
        blocks = noise.integers(0, 256, (PATCH // BLOCK, PATCH // BLOCK, 3), np.uint8)
        picture[self.NOISE] = blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)
        return picture
