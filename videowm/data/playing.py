"""One episode of a world: its driver plays until the game or the number of frames ends."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from videowm.types import Episode, UserError
from videowm.worlds import World

ATTEMPTS = 100  # at an episode that ends at once


def attempts(seed: int, number: int, *stream: int) -> Iterator[np.random.Generator]:
    """The random numbers of an episode, and of each that is drawn in its place while they end at once.

    Each `stream` has its own, that of `videowm record` is none.
    """
    for attempt in range(ATTEMPTS):
        yield np.random.default_rng([seed, number, attempt, *stream] if attempt or stream else [seed, number])


def play_episode(world: World, seed: int, number: int, frames: int) -> Episode:
    """Episode `number` of the recording with `seed`; drawn anew in the rare case that it ends at once.

    Raises:
        UserError: it ended at once a hundred times.
    """
    for rng in attempts(seed, number):
        episode = play_once(world, rng, frames)
        if len(episode.frames) >= min(world.shortest, frames):
            return episode
    raise UserError(f"{ATTEMPTS} tries at episode {number} of {world.name} ended in {world.shortest} frames: change "
                    "the seed")  # fmt: skip


def game_seed(rng: np.random.Generator) -> int:
    """The first number drawn from an attempt's `rng`."""
    return int(rng.integers(2**31))


def check_promises(world: World, frame: np.ndarray, state: np.ndarray, action: np.ndarray) -> None:
    """Refuse a world whose picture, state or driver does not give what its attributes promise.

    Raises:
        UserError: a shape or type differs from the promised one.
    """
    promised = {
        "picture": (frame, (*world.size, 3), np.uint8),
        "state": (state, (len(world.state_names),), np.float32),
        "driver's action": (action, (len(world.action_names),), np.float32),
    }
    for what, (given, shape, kind) in promised.items():
        if given.shape != shape or given.dtype != kind:
            raise UserError(f"the {what} of world {world.name!r} is {given.dtype} {given.shape}, expected "
                            f"{np.dtype(kind)} {shape}: correct the world")  # fmt: skip


def play_once(world: World, rng: np.random.Generator, frames: int) -> Episode:
    """One episode of `frames` rows, fewer where the game ends.

    Raises:
        UserError: the world does not keep the promises of its attributes.
    """
    world.reset(game_seed(rng))
    tape, driver = Tape(world, frames), world.driver(rng)
    while not tape.full:
        tape.take(driver)
    return tape.episode(rng)


class Tape:
    """What is recorded of a game that was reset: a row for each frame, `frames` at most."""

    def __init__(self, world: World, frames: int) -> None:
        self.world, self.frames, self.rows, self.over = world, frames, [], False

    @property
    def full(self) -> bool:
        """Whether the game is over or all frames are there."""
        return self.over or len(self.rows) >= self.frames

    def take(self, player: Iterator[np.ndarray]) -> tuple[np.ndarray, float, bool]:
        """Let a player act once: its action float32 "a", the reward, and whether the game is over.

        Raises:
            UserError: the world does not keep the promises of its attributes.
        """
        world = self.world
        frame, state, action = world.render(), world.state(), next(player)
        if not self.rows:
            check_promises(world, frame, state, action)
        reward, self.over = world.step(action)
        self.rows.append((frame, action, reward, self.over, state))
        if self.over and world.shows_end and len(self.rows) < self.frames:  # its action leads nowhere and earns nothing
            self.rows.append((world.render(), action, 0.0, True, world.state()))
        return action, reward, self.over

    def episode(self, rng: np.random.Generator) -> Episode:
        """All rows, and a caption whose phrasing `rng` picks."""
        pixels, actions, rewards, dones, states = (np.stack(column) for column in zip(*self.rows, strict=True))
        caption = self.world.caption(states, actions, rng, over=self.over)
        return Episode(pixels, actions, rewards.astype(np.float32), dones, states, caption)
