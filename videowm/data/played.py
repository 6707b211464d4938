"""Episodes that are played for what needs them, and never stored as video."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tqdm import tqdm

from videowm import config
from videowm.data.clips import final_start
from videowm.data.dataset import Dataset
from videowm.data.layout import held_out
from videowm.data.recording import Recording, check_workers, play_ahead
from videowm.device import Process
from videowm.files import short_hash
from videowm.limits import Count, Seed, Whole
from videowm.options import Frames, HeldOut
from videowm.types import Clip, Episode, Outcomes, UserError
from videowm.worlds import open_world

EPISODES = 32  # a shard of latents, the last one fewer


class PlayedSource:
    """`episodes` new episodes of a recorded dataset's world, played with its settings under another seed.

    Their frames are the game's own, bit for bit: nothing was lost to video encoding.

    Raises:
        UserError: the dataset was not recorded here, the seed is its own, or a number is out of range.
    """

    unit = "episode"

    def __init__(self, dataset: Dataset, *, episodes: int, seed: int, workers: int, trust: bool = False) -> None:
        recorded = Recording.read(dataset.root)
        if seed == recorded.seed:
            raise UserError(f"--seed {seed} is the seed of {dataset.root} itself, whose test episodes it would repeat: "
                            "give another")  # fmt: skip
        if recorded.player:
            raise UserError(
                f"{dataset.root} was not played by the world's driver, which --play would ask: leave it out"
            )
        check_workers(workers)
        self.settings = config.check(replace(recorded, episodes=episodes, seed=seed, group=EPISODES, trust=trust))
        self.workers = workers

    @property
    def note(self) -> dict[str, Any]:
        """What decides the episodes, beside the dataset's own settings."""
        return {"episodes": self.settings.episodes, "seed": self.settings.seed}

    def sizes(self, frames: int) -> list[int]:
        """Episodes of each shard, whatever the clips' length in `frames`."""
        return [len(self.settings.members(n)) for n in range(-(-self.settings.episodes // EPISODES))]

    def shards(self, numbers: list[int], frames: int, stride: int) -> Iterator[list[Clip]]:
        """The clips of each of the shards `numbers`; the players do not wait between them."""
        members = [self.settings.members(number) for number in numbers]
        wanted = [i for group in members for i in group]
        played = play_ahead(self.settings, wanted, self.workers, partial(cut, frames=frames, stride=stride))
        for group in members:
            yield [clip for _ in group for clip in next(played)]


def cut(episode: Episode, number: int, *, frames: int, stride: int) -> list[Clip]:
    """Consecutive clips of an episode, and one that is cut where its game ended, with the next `stride` rows.

    Of the consecutive ones neighbours share one frame, and the rest is left.
    """
    columns = episode.actions, episode.rewards, episode.dones, episode.states
    starts = [(s, False) for s in range(0, len(episode.frames) - frames + 1, frames - 1)]
    if (end := final_start(episode.dones, frames, stride, number)) is not None:
        starts.append((end, True))
    return [
        Clip(episode.frames[s : s + frames], episode.actions[s : s + frames - 1], number, s,
             Outcomes.of(*columns, s, frames, stride), final)
        for s, final in starts
    ]  # fmt: skip


@dataclass(frozen=True)
class PlayConfig:
    """Episodes that are played and kept in memory: those that `videowm record` with the same settings would store."""

    world: str  # name of the game
    episodes: Count  # number of episodes
    seed: Seed = 0  # episode i draws its random numbers from (seed, i)
    frames: Frames = 261  # most frames of an episode
    frame_skip: Count | None = None  # game steps per frame; None: the world's own
    test_share: HeldOut = 0.1  # share of the episodes that are held out
    arguments: dict[str, Any] = field(default_factory=dict)  # more that the world's constructor takes
    trust: bool = False  # whether a policy that holds code may be loaded
    workers: Whole = 0  # processes that play; they change no frame; 0: one a core


class PlayedEpisodes:
    """Episodes in memory, played when they are first asked for. Their frames are the game's own, bit for bit.

    What a `videowm.data.dataset.Dataset` offers to training is here by the same names.

    Attributes:
        root: the configuration's key, for messages.
        size: (H, W) pixels.
        hash: 16 hex digits over the settings that decide every frame.

    Raises:
        UserError: the world is unknown or takes no such arguments, or memory has no room for the frames.
    """

    def __init__(self, settings: PlayConfig) -> None:
        world = open_world(settings.world, settings.frame_skip, **settings.arguments)
        self.settings, self.root, self.size = settings, Path("play"), world.size
        self.recording = Recording(
            settings.world, settings.episodes, settings.seed, settings.frames, world.frame_skip, settings.test_share,
            lossless=True, group=1, arguments=settings.arguments, trust=settings.trust,
        )  # fmt: skip
        self.shape = (settings.episodes * settings.frames, *self.size, 3)  # of the frames, at most
        need, free = math.prod(self.shape) / 2**30, psutil.virtual_memory().available / 2**30
        if need > free:
            raise UserError(
                f"the frames of play.episodes {settings.episodes} may take {need:.1f} GiB, and {free:.1f} GiB of "
                "memory are free: play fewer, or fewer play.frames"
            )

    @property
    def hash(self) -> str:
        decides = asdict(self.recording)
        del decides["lossless"], decides["group"], decides["trust"]
        return short_hash(json.dumps(decides, sort_keys=True))

    @cached_property
    def lengths(self) -> np.ndarray:
        """Frames of each episode, int64 "episodes"."""
        return np.array([len(actions) for actions in self._played[1]], np.int64)

    def split(self, name: str) -> list[int]:
        """Episodes of "train", or of "test", the last ones."""
        count = self.settings.episodes
        train = count - held_out(count, self.settings.test_share)
        return list({"train": range(train), "test": range(train, count)}[name])

    def every_frame(self, split: str) -> np.ndarray:
        """All frames of a split, episode after episode, uint8 "n H W 3": the memory itself, no copy."""
        first, frames, episodes = self._first, self._played[0], self.split(split)
        return frames[first[episodes[0]] : first[episodes[-1] + 1]] if episodes else frames[:0]

    def clip(self, episode: int, start: int, frames: int) -> Clip:
        """`frames` consecutive frames from `start` on and the actions between them."""
        first, actions = self._first[episode] + start, self._played[1][episode]
        return Clip(self._played[0][first : first + frames], actions[start : start + frames - 1], episode, start)

    @cached_property
    def _first(self) -> np.ndarray:
        """The number of each episode's first frame among all, and at the end how many there are."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    @cached_property
    def _played(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """Every frame, uint8 "n H W 3", and each episode's actions, float32 "f a".

        Raises:
            UserError: a playing process was killed.
        """
        settings, process = self.settings, Process.current()
        frames, actions, filled = np.empty(self.shape, np.uint8), [], 0
        workers = settings.workers or max(1, cores() // process.count)
        numbers = list(range(settings.episodes))
        played = play_ahead(self.recording, numbers, min(workers, len(numbers)), frames_and_actions)
        for pixels, taken in tqdm(played, desc=f"play {settings.world}", total=len(numbers), unit="episode",
                                  dynamic_ncols=True, disable=process.rank > 0):  # fmt: skip
            frames[filled : filled + len(pixels)] = pixels
            actions.append(taken)
            filled += len(pixels)
        return frames[:filled], actions


def frames_and_actions(episode: Episode, number: int) -> tuple[np.ndarray, np.ndarray]:
    """What is kept of an episode."""
    return episode.frames, episode.actions


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
