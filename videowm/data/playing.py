"""One episode of a world: its driver plays until the game or the number of frames ends."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from videowm.types import Episode, UserError
from videowm.worlds import World

ATTEMPTS = 100  # at an episode that ends at once


def attempts(seed: int, number: int) -> Iterator[np.random.Generator]:
    """The random numbers of an episode, and of each that is drawn in its place while they end at once."""
    for attempt in range(ATTEMPTS):
        yield np.random.default_rng([seed, number, attempt] if attempt else [seed, number])


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
    driver, rows, done = world.driver(rng), [], False
    while len(rows) < frames and not done:
        frame, state, action = world.render(), world.state(), next(driver)
        if not rows:
            check_promises(world, frame, state, action)
        reward, done = world.step(action)
        rows.append((frame, action, reward, done, state))
    if done and world.shows_end and len(rows) < frames:  # its action leads nowhere and earns nothing
        rows.append((world.render(), action, 0.0, done, world.state()))
    pixels, actions, rewards, dones, states = (np.stack(column) for column in zip(*rows, strict=True))
    caption = world.caption(states, actions, rng, over=done)
    return Episode(pixels, actions, rewards.astype(np.float32), dones, states, caption)
