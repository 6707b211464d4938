"""The real game beside the dream, from the same recorded moment, under the same actions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, UInt8

from videowm.data.dataset import Dataset
from videowm.evaluate.counterfactual import Replay
from videowm.types import UserError


class RealGame:
    """The game of a recording, brought to a moment and played on from there.

    Attributes:
        over: whether the game has ended; its last frame then stays.
        rewards, states: of every frame that was played since the start.

    Raises:
        UserError: the dataset was not recorded here, or its game cannot be found again.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.replay = Replay(dataset)
        self.driver: Iterator[np.ndarray] | None = None

    def start(self, episode: int, frame: int) -> None:
        """Go to a recorded moment.

        Raises:
            UserError: no game passes all recorded states of the episode.
        """
        self.replay.reset(episode)
        world = self.replay.world
        for action in self.replay.dataset.all_actions(episode)[:frame]:
            world.step(action)
        self.over, self.driver = False, None
        self.frame = world.render()

    def step(self, action: Float32[np.ndarray, " a"]) -> UInt8[np.ndarray, "H W 3"]:
        """The frame after one action."""
        if not self.over:
            self.over = self.replay.world.step(action)[1]
            self.frame = self.frame if self.over else self.replay.world.render()
        return self.frame

    def play(self, actions: Float32[np.ndarray, "n a"]) -> UInt8[np.ndarray, "n H W 3"]:
        """The frames after some actions."""
        return np.stack([self.step(action) for action in actions])

    def drive(self, count: int, seed: int) -> tuple[Float32[np.ndarray, "n a"], UInt8[np.ndarray, "n H W 3"]]:
        """`count` actions of the world's scripted driver, and the frames after them."""
        if self.driver is None:
            self.driver = self.replay.world.driver(np.random.default_rng([seed, 1]))
        actions, frames = [], []
        for _ in range(count):
            actions.append(actions[-1] if self.over and actions else self.next_action())
            frames.append(self.step(actions[-1]))
        return np.stack(actions), np.stack(frames)

    def next_action(self) -> Float32[np.ndarray, " a"]:
        """The driver's next action.

        Raises:
            UserError: the game is over, so there is no state to drive by.
        """
        if self.over or self.driver is None:
            raise UserError("the real game is over, so nobody can drive in it: restart, or take over")
        return np.asarray(next(self.driver), np.float32)


def refusal(dataset: Dataset) -> str | None:
    """Why a recording's game cannot be played beside the dream; None where it can."""
    try:
        Replay(dataset)
    except UserError as error:
        return str(error)
    return None
