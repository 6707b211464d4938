"""Record a world into a dataset: seeded, parallel over file groups, and continued after an interruption.

Equal settings give equal bytes whatever the number of workers: every episode has its own random numbers, every file
group is written by one process with one encoder thread.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.util
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tqdm import tqdm

from videowm.data.layout import Layout, finish, write_group
from videowm.files import leftovers, write_json
from videowm.types import Episode, UserError
from videowm.worlds import World, open_world

ATTEMPTS = 100  # at an episode that ends at once


@dataclass(frozen=True)
class Recording:
    """The settings that decide every byte of a recorded dataset; kept in meta/recording.json."""

    world: str
    episodes: int
    seed: int
    frames: int
    frame_skip: int
    test_share: float
    lossless: bool
    group: int

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.frames < 2 or self.group < 1:
            raise UserError(f"{self.episodes} episodes of {self.frames} frames: give at least 1 episode of 2 frames")
        if self.seed < 0 or not 0 <= self.test_share < 1:
            raise UserError(f"seed {self.seed}, test_share {self.test_share}: give a seed from 0 on, a share in [0, 1)")

    def layout(self, world: World) -> Layout:
        names = {"action_names": world.action_names, "state_names": world.state_names}
        return Layout(self.world, world.fps, world.size, **names, lossless=self.lossless, group=self.group)

    def members(self, file_index: int) -> range:
        """The episodes of a file group."""
        return range(file_index * self.group, min((file_index + 1) * self.group, self.episodes))


def record_episodes(
    world: str,
    out: str | Path,
    *,
    episodes: int,
    seed: int = 0,
    workers: int = 1,
    frames: int = 261,
    frame_skip: int = 4,
    test_share: float = 0.1,
    lossless: bool = False,
    group: int = 10,
) -> Path:
    """Record `episodes` episodes of up to `frames` frames into `out`; the same call again continues or does nothing."""
    settings = Recording(world, episodes, seed, frames, frame_skip, test_share, lossless, group)
    if workers < 1:
        raise UserError(f"workers {workers} cannot be used: give the number of processes, 1 or more")
    game, out = open_world(world, frame_skip), Path(out)
    layout = settings.layout(game)
    if claim(out, settings):
        tqdm.write(f"{out} is already recorded: {episodes} episodes of {world}, seed {seed}")
        return out
    missing = [i for i in range(-(-episodes // group)) if not (out / layout.paths(i)[0]).exists()]
    todo = sum(len(settings.members(i)) for i in missing) * frames
    with tqdm(total=todo, unit=" frames", desc=f"record {world}", smoothing=0.1) as bar:
        if workers == 1:
            for file_index in missing:
                record_group(settings, out, file_index, bar.update)
        else:
            record_parallel(settings, out, missing, workers, bar)
    clean(out)  # once more: the workers of a killed run end a moment after it
    finish(out, layout, test_share)
    return out


def claim(out: Path, settings: Recording) -> bool:
    """Make `out` this recording's folder; True when it is already finished."""
    wanted, note = vars(settings), out / "meta/recording.json"
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file, expected a folder: give another --out")
    if not note.exists():
        if out.is_dir() and {path for path in out.rglob("*") if path.is_file()} - set(leftovers(out)):
            raise UserError(f"{out} holds something else than a recording: give a new or empty folder")
        write_json(note, wanted)
    present = json.loads(note.read_text())
    differing = [f"{k} {present.get(k)} there, {v} now" for k, v in wanted.items() if present.get(k) != v]
    if differing:
        raise UserError(f"{out} was recorded with other settings ({'; '.join(differing)}): give another --out")
    clean(out)
    return (out / "meta/info.json").exists()


def clean(out: Path) -> None:
    """Remove what an interrupted write left behind."""
    for leftover in leftovers(out):
        leftover.unlink(missing_ok=True)


def play_ahead(
    settings: Recording, numbers: list[int], workers: int, keep: Callable[[Episode, int], Any]
) -> Iterator[Any]:
    """Play the episodes `numbers` in `workers` fresh processes and yield `keep(episode, number)` of each, in order.

    A group and a few more wait to be taken: the players go on while whoever takes them is busy with a group. Only what
    is kept travels between the processes.
    """
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker)
    waiting: deque[Future] = deque()
    try:
        for number in numbers:
            waiting.append(pool.submit(play_in_worker, settings, number, keep))
            if len(waiting) > settings.group + 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError("a playing process was killed, perhaps for memory: run again with fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def play_in_worker(settings: Recording, number: int, keep: Callable[[Episode, int], Any]) -> Any:
    if settings.world not in _worlds:  # a simulator may take longer to start than an episode to play
        _worlds[settings.world] = open_world(settings.world, settings.frame_skip)
    return keep(play_episode(_worlds[settings.world], settings.seed, number, settings.frames), number)


_worlds: dict[str, World] = {}  # of a worker process, which plays for one recording


def record_parallel(settings: Recording, out: Path, missing: list[int], workers: int, bar: tqdm) -> None:
    """Record the missing file groups in `workers` fresh processes."""
    context = multiprocessing.get_context("spawn")
    done = context.Value("q", 0)
    pool = ProcessPoolExecutor(min(workers, len(missing) or 1), context, start_worker, (done,))
    try:
        running: set[Future] = {pool.submit(record_in_worker, settings, out, i) for i in missing}
        while running:
            finished, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            bar.update(done.value - bar.n)
            for future in finished:
                future.result()
    except BrokenProcessPool:
        raise UserError("a recording process was killed, perhaps for memory: run again with fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def start_worker(done: Any = None) -> None:
    """Keep the shared frame counter, and leave when the main process is gone, even when it was killed."""
    global _done
    _done = done
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), end_engines(), os._exit(1)), daemon=True).start()
    multiprocessing.util.Finalize(None, end_engines, exitpriority=0)


def end_engines() -> None:
    """Doom runs in a process of its own, which outlives the one that plays, and holds its output open."""
    for engine in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            engine.kill()


def record_in_worker(settings: Recording, out: Path, file_index: int) -> None:
    def count(frames: int) -> None:
        with _done.get_lock():
            _done.value += frames

    record_group(settings, out, file_index, count)


def record_group(settings: Recording, out: Path, file_index: int, progress: Any) -> None:
    """Play and write the episodes of one file group; `progress(frames)` is called after each."""
    world, episodes = open_world(settings.world, settings.frame_skip), []
    for number in settings.members(file_index):
        episodes.append(play_episode(world, settings.seed, number, settings.frames))
        progress(settings.frames)
    write_group(out, file_index, episodes, settings.layout(world))


def attempts(seed: int, number: int) -> Iterator[np.random.Generator]:
    """The random numbers of an episode, and of each that is drawn in its place while they end at once."""
    for attempt in range(ATTEMPTS):
        yield np.random.default_rng([seed, number] + [attempt] * (attempt > 0))


def play_episode(world: World, seed: int, number: int, frames: int) -> Episode:
    """Episode `number` of the recording with `seed`; drawn anew in the rare case that it ends at once."""
    for rng in attempts(seed, number):
        episode = play_once(world, rng, frames)
        if len(episode.frames) >= min(world.shortest, frames):
            return episode
    raise UserError(f"{ATTEMPTS} tries at episode {number} of {world.name} ended in {world.shortest} frames: change "
                    "the seed")  # fmt: skip


def game_seed(rng: np.random.Generator) -> int:
    """The first number drawn from an attempt's `rng`."""
    return int(rng.integers(2**31))


def play_once(world: World, rng: np.random.Generator, frames: int) -> Episode:
    """One episode of `frames` rows, fewer where the game ends."""
    world.reset(game_seed(rng))
    driver, rows, done = world.driver(rng), [], False
    while len(rows) < frames and not done:
        frame, state, action = world.render(), world.state(), next(driver)
        reward, done = world.step(action)
        rows.append((frame, action, reward, done, state))
    pixels, actions, rewards, dones, states = (np.stack(column) for column in zip(*rows, strict=True))
    caption = world.caption(states, actions, rng, over=done)
    return Episode(pixels, actions, rewards.astype(np.float32), dones, states, caption)
