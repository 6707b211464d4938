"""ViZDoom's engine, started in the same way for every world that it draws, and its picture made smaller."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from functools import cache
from typing import Any

import numpy as np

from videowm.types import UserError
from videowm.worlds.base import Boxes, World

HERTZ = 35  # physics steps a second


class DoomWorld(World):
    """A world that ViZDoom's engine draws at 35 Hz; a subclass says by `start` which game that is."""

    def __init__(self, frame_skip: int = 4) -> None:
        self.frame_skip = frame_skip
        self.fps = HERTZ / frame_skip
        self._game: Any = None

    def start(self) -> Any:
        """The engine with this world's game."""
        raise NotImplementedError

    def reset(self, seed: int) -> None:
        if self._game is None:
            self._game = self.start()
        self._game.set_seed(seed)
        self._game.new_episode()
        self._now = self._game.get_state()

    def render(self) -> np.ndarray:
        return area_average(self._now.screen_buffer, self.size)


def start_engine(
    world: str,
    scenario: str,
    screen: tuple[int, int],
    variables: tuple[str, ...],
    buttons: tuple[str, ...] = (),
    **settings: Any,
) -> Any:
    """A running, windowless game with the settings that its users may have elsewhere left out.

    Args:
        world: the name that an error gives.
        scenario: a configuration that comes with vizdoom, such as "take_cover".
        screen: (H, W) pixels, one of the sizes that the engine draws.
        variables: names of vizdoom's game variables, in the order of its states.
        buttons: names of vizdoom's buttons, in the order of an action; without any, the scenario's own.
        settings: values of other setters of `vizdoom.DoomGame`, by name without `set_`.

    Raises:
        UserError: vizdoom is not installed, or its engine does not start.
    """
    try:
        import vizdoom
    except ImportError as error:
        raise UserError(f"{world} cannot start ({error}): pip install 'videowm[doom]'") from None
    game = vizdoom.DoomGame()
    game.load_config(os.path.join(vizdoom.scenarios_path, f"{scenario}.cfg"))
    game.set_window_visible(False)
    game.set_screen_resolution(getattr(vizdoom.ScreenResolution, f"RES_{screen[1]}X{screen[0]}"))
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_render_hud(False)
    game.set_available_game_variables([getattr(vizdoom.GameVariable, name) for name in variables])
    if buttons:
        game.set_available_buttons([getattr(vizdoom.Button, name) for name in buttons])
    for name, value in settings.items():
        getattr(game, f"set_{name}")(value)
    try:
        # The engine leaves a folder and a settings file, shared with its other processes, where it is started.
        with tempfile.TemporaryDirectory(prefix="videowm-doom-") as folder, contextlib.chdir(folder):
            game.set_doom_config_path(os.devnull)
            game.init()
    except vizdoom.ViZDoomErrorException as error:
        raise UserError(f"{world} cannot start ({error}): reinstall vizdoom, or free shared memory") from None
    return game


def boxes_of(now: Any, kinds: dict[str, str], size: tuple[int, int]) -> Boxes:
    """The boxes of what the engine labels, in a picture of `size` (h, w): every pixel that a thing may be seen in.

    Args:
        now: the engine's state, drawn with labels.
        kinds: the engine's name of a thing, by the name that we give it.
        size: (h, w) pixels that the engine's picture is averaged to.

    Raises:
        RuntimeError: the engine was started without labels.
    """
    if now.labels_buffer is None:
        raise RuntimeError("the engine draws no labels: set `watched` before the first reset")
    height, width = now.screen_buffer.shape[:2]

    def span(first: int, length: int, big: int, small: int) -> slice:
        return slice(first * small // big, -(-(first + length) * small // big))

    return {
        kind: [
            (span(label.y, label.height, height, size[0]), span(label.x, label.width, width, size[1]))
            for label in now.labels
            if label.object_name == name
        ]
        for kind, name in kinds.items()
    }


@cache
def shares(big: int, small: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The few of `big` pixels under each of `small` equal areas: index and share, a whole number, both "small"."""
    edges = np.arange(small + 1) * big
    left, right = np.arange(big) * small, np.arange(1, big + 1) * small
    overlap = (np.minimum(edges[1:, None], right) - np.maximum(edges[:-1, None], left)).clip(0) // math.gcd(big, small)
    span = (overlap > 0).sum(1).max()
    first = np.minimum((overlap > 0).argmax(1), big - span)
    return [(i, overlap[np.arange(small), i].astype(np.float32)) for i in (first + k for k in range(span))]


def area_average(screen: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 "H W 3" -> uint8 "h w 3" of `size` (h, w), every pixel the rounded mean of the area that it covers.

    No matrix product: the threads of a BLAS wait for each other where processes outnumber cores, and play stands still.
    """
    down, across = (shares(*pair) for pair in zip(screen.shape, size))
    rows = sum(screen[index] * share[:, None, None] for index, share in down)
    total = sum(rows[:, index] * share[:, None] for index, share in across)
    area = sum(share[0] for _, share in down) * sum(share[0] for _, share in across)
    # While 255 * area is below 2**24, every sum is a whole number, exact in any order on any machine, and a quotient is
    # further from the next whole number than float32 rounds.
    return ((total + area / 2) / area).astype(np.uint8)
