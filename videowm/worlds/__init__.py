"""Games that data are recorded from: seeded, stepped by actions, drawn to RGB, driven by a scripted player.

Names, sizes and named actions are class attributes and cost nothing; a simulator loads when its world is opened or
first reset.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from videowm.config import suggest
from videowm.types import UserError
from videowm.worlds.carracing import CarRacing
from videowm.worlds.fourrooms import FourRooms
from videowm.worlds.noisy import NoisyCarRacing
from videowm.worlds.takecover import TakeCover


class World(Protocol):
    """A game as the recorder, the dream scorer and the player see it."""

    name: str
    fps: float  # recorded frames, and actions, a second
    size: tuple[int, int]  # (H, W) pixels
    shortest: int  # frames; a recorded episode that ends earlier is drawn anew
    action_names: tuple[str, ...]
    state_names: tuple[str, ...]
    NAMED_ACTIONS: dict[str, tuple[float, ...]]

    def reset(self, seed: int) -> None:
        """Start the episode that `seed` names; equal seeds and actions give equal frames, bit for bit."""

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        """Hold action float32 "a" for one recorded frame -> (reward, whether the game is over).

        A game that is over has no next frame: neither `render` nor `state` may be called before the next `reset`.
        """

    def render(self) -> np.ndarray:
        """The present picture, uint8 "H W 3"."""

    def state(self) -> np.ndarray:
        """The simulator's own state, float32 "k" in the order of `state_names`."""

    def driver(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Endless actions float32 "a", each chosen from the simulator's state at the moment it is asked for."""

    def caption(self, states: np.ndarray, actions: np.ndarray, rng: np.random.Generator, *, over: bool = False) -> str:
        """What happened, in one plain sentence, from states "f k" and actions "f a" (a clip: "f-1 a").

        `rng` picks the phrasing; `over` says whether the last action ended the game, which no state shows.
        """

    def details(self, states: np.ndarray, actions: np.ndarray, rng: np.random.Generator) -> str:
        """What goes on after that sentence in a detailed caption: what changes from the first frame to the last."""


WORLDS: dict[str, type[Any]] = {world.name: world for world in (CarRacing, NoisyCarRacing, TakeCover, FourRooms)}


def open_world(name: str, frame_skip: int = 4) -> World:
    """The world called `name`, its frames `frame_skip` physics steps apart."""
    if name not in WORLDS:
        raise UserError(f"unknown world {name!r}{suggest(name, WORLDS)}")
    if frame_skip < 1:
        raise UserError(f"frame_skip {frame_skip} cannot be used: give the physics steps a frame, 1 or more")
    return WORLDS[name](frame_skip)
