"""Rows of real games, begun together and stepped together, in processes of their own.

A game is decided by its seed and its actions alone, so neither rows nor processes change one. Each process holds some
of the rows. It draws frames only where somebody looks. A scripted player acts within it, from the game's own state.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, repeat
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from videowm.data.recording import end_engines, start_worker
from videowm.types import UserError
from videowm.worlds import World, open_world

SCRIPTS = ("random", "still", "driver", "expert")
Order = tuple[str, dict[str, Any]]
FIRST_SEED = 2**31  # of scored games; those of recordings lie below, so no scored game was ever recorded


def game_seeds(seed: int, count: int) -> list[int]:
    """The seeds of the scored games 0 … count - 1: the same for every player, and of no recording."""
    return [FIRST_SEED + int(np.random.default_rng([seed, i]).integers(2**31)) for i in range(count)]


@dataclass(frozen=True)
class GameSettings:
    """What is played, and by which script, if by one."""

    world: str
    frame_skip: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    script: str | None = None  # one of SCRIPTS; None: actions come from outside
    held: int = 1  # frames for which each of the script's actions is held

    def open(self) -> World:
        """The world."""
        return open_world(self.world, self.frame_skip, **self.arguments)

    def row(self) -> Game:
        """A game of these."""
        return Game(self)


@dataclass(frozen=True)
class Stretch:
    """What some actions of one game did; fewer than were meant where the game ended."""

    frames: np.ndarray  # uint8 "n H W 3" after each action that the game outlived; empty where nobody looked
    actions: np.ndarray  # float32 "n a"
    rewards: np.ndarray  # float32 "n"
    over: bool


def script_of(world: World, name: str, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Endless actions float32 "a" of a scripted player, each chosen from the state when it is drawn.

    Raises:
        UserError: there is no such script.
    """
    if name not in SCRIPTS:
        raise UserError(f"no player is called {name!r}: give an agent's folder, or one of {', '.join(SCRIPTS)}")
    if name == "random":
        return (world.random(rng) for _ in count())
    if name == "still":
        return repeat(np.zeros(len(world.action_names), np.float32))
    return world.driver(rng) if name == "driver" else world.expert(rng)


class Game:
    """One row: a world and its player, game after game."""

    def __init__(self, settings: GameSettings) -> None:
        self.settings, self.world = settings, settings.open()
        self.script: Iterator[np.ndarray] | None = None

    def begin(self, seed: int) -> tuple[np.ndarray, float]:
        """The first frame uint8 "H W 3" of the game of that seed, and what was earned before it."""
        self.world.reset(seed)
        if self.settings.script is not None:
            script = script_of(self.world, self.settings.script, np.random.default_rng([seed, 1]))
            self.script = (action for action in script for _ in range(self.settings.held))
        return self.world.render(), self.world.earned

    def step(self, action: np.ndarray | None, frames: int, *, look: bool) -> Stretch:
        """Hold an action float32 "a", or follow the script, for some frames or until the game ends."""
        shown, actions, rewards, over = [], [], [], False
        while len(actions) < frames and not over:
            taken, reward, over = self.once(self.script if action is None else repeat(np.float32(action)))
            actions.append(taken)
            rewards.append(reward)
            if look and not over:
                shown.append(self.world.render())
        pictures = np.stack(shown) if shown else np.zeros((0, *self.world.size, 3), np.uint8)
        return Stretch(pictures, np.stack(actions), np.array(rewards, np.float32), over)

    def once(self, player: Iterator[np.ndarray]) -> tuple[np.ndarray, float, bool]:
        """One frame: the action that a player takes, float32 "a", its reward, and whether the game is over."""
        taken = np.float32(next(player))
        return taken, *self.world.step(taken)


class Games:
    """Rows of real games; a context manager, since processes must end.

    Args:
        settings: what is played.
        rows: games at the same time.
        workers: processes, which change nothing; with 1 this process plays.
    """

    def __init__(self, settings: GameSettings, rows: int, workers: int) -> None:
        context, self.pipes, self.processes = multiprocessing.get_context("spawn"), [], []
        self.settings, self.here = settings, {}
        workers = min(rows, workers)
        for first in range(workers if workers > 1 else 0):
            mine, theirs = context.Pipe()
            own = list(range(first, rows, workers))
            process = context.Process(target=work, args=(theirs, settings), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append((mine, own))
            self.processes.append(process)

    def __enter__(self) -> Games:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe, _ in self.pipes:
            with suppress(OSError):
                pipe.send(None)
        for process in self.processes:
            process.join()

    def begin(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """A new game in each of the first rows: their first frames uint8 "n H W 3", and what is earned by then "n"."""
        begun = self.ask({row: ("begin", {"seed": seed}) for row, seed in enumerate(seeds)})
        frames, earned = zip(*(begun[row] for row in range(len(seeds))))
        return np.stack(frames), np.array(earned)

    def step(self, actions: Mapping[int, np.ndarray | None], frames: int, *, look: bool) -> dict[int, Stretch]:
        """Each row's next frames under an action float32 "a", or under its script (None)."""
        return self.ask({row: ("step", {"action": action, "frames": frames, "look": look})
                         for row, action in actions.items()})  # fmt: skip

    def ask(self, orders: Mapping[int, Order]) -> dict[int, Any]:
        """Give every process its rows' orders at once, then collect what came of them.

        An order is the name of a method of the row's `Game`, and its arguments.

        Raises:
            UserError: a process was killed, or a game cannot be played.
        """
        if not self.pipes:
            return {row: carry_out(self.here, self.settings, row, *order) for row, order in orders.items()}
        asked, found = [], {}
        try:
            for pipe, own in self.pipes:
                if mine := {row: orders[row] for row in own if row in orders}:
                    pipe.send(mine)
                    asked.append(pipe)
            answers = [pipe.recv() for pipe in asked]
        except (EOFError, OSError):
            raise UserError("a playing process was killed, perhaps for memory: run again with fewer --games and "
                            "--workers") from None  # fmt: skip
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
            found |= answer
        return found


def work(pipe: Connection, settings: GameSettings) -> None:
    """A playing process: carry out orders until None comes, or nobody is there any more."""
    start_worker()
    signal.signal(signal.SIGTERM, lambda *_: (end_engines(), os._exit(1)))  # as timeout sends it to all of a group
    games: dict[int, Game] = {}
    with suppress(EOFError, BrokenPipeError):
        while (orders := pipe.recv()) is not None:
            pipe.send(answer(games, settings, orders))


def answer(games: dict[int, Game], settings: GameSettings, orders: Mapping[int, Order]) -> Any:
    """What came of the orders, by row, or the error that the main process raises."""
    try:
        return {row: carry_out(games, settings, row, *order) for row, order in orders.items()}
    except Exception as error:  # noqa: BLE001
        return error


def carry_out(games: dict[int, Game], settings: GameSettings, row: int, what: str, about: dict[str, Any]) -> Any:
    """One order to one row, whose world opens with its first game."""
    if row not in games:
        games[row] = settings.row()
    return getattr(games[row], what)(**about)
