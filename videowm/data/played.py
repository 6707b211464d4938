"""Clips of episodes that are played for them and never stored as video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from videowm import config
from videowm.data.dataset import Dataset
from videowm.data.recording import Recording, check_workers, play_ahead
from videowm.types import Clip, Episode, UserError

EPISODES = 32  # a shard of latents, the last one fewer


class PlayedSource:
    """`episodes` new episodes of a recorded dataset's world, played with its settings under another seed.

    Their frames are the game's own, bit for bit: nothing was lost to video encoding.

    Raises:
        UserError: the dataset was not recorded here, the seed is its own, or a number is out of range.
    """

    unit = "episode"

    def __init__(self, dataset: Dataset, *, episodes: int, seed: int, workers: int) -> None:
        recorded = Recording.read(dataset.root)
        if seed == recorded.seed:
            raise UserError(f"--seed {seed} is the seed of {dataset.root} itself, whose test episodes it would repeat: "
                            "give another")  # fmt: skip
        check_workers(workers)
        self.settings = config.check(replace(recorded, episodes=episodes, seed=seed, group=EPISODES))
        self.workers = workers

    @property
    def note(self) -> dict[str, Any]:
        """What decides the episodes, beside the dataset's own settings."""
        return {"episodes": self.settings.episodes, "seed": self.settings.seed}

    def sizes(self, frames: int) -> list[int]:
        """Episodes of each shard, whatever the clips' length in `frames`."""
        return [len(self.settings.members(n)) for n in range(-(-self.settings.episodes // EPISODES))]

    def shards(self, numbers: list[int], frames: int) -> Iterator[list[Clip]]:
        """The clips of each of the shards `numbers`; the players do not wait between them."""
        members = [self.settings.members(number) for number in numbers]
        wanted = [i for group in members for i in group]
        played = play_ahead(self.settings, wanted, self.workers, partial(cut, frames=frames))
        for group in members:
            yield [clip for _ in group for clip in next(played)]


def cut(episode: Episode, number: int, *, frames: int) -> list[Clip]:
    """Consecutive clips of an episode; neighbours share one frame, the rest is left."""
    starts = range(0, len(episode.frames) - frames + 1, frames - 1)
    return [Clip(episode.frames[s : s + frames], episode.actions[s : s + frames - 1], number, s) for s in starts]
