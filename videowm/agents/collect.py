"""`videowm dream record`: a player's real games as a dataset, which the next round of training takes in.

A file group is a wave: games that begin together. So equal settings give equal bytes for any number of processes, and a
recording that was stopped goes on as one that was not. Its games are none that are scored, and none of the run's data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from videowm import config
from videowm.agents.contest import HELD, Contest, contest_of, recordings_of
from videowm.agents.games import Games
from videowm.agents.plan import Planner
from videowm.agents.taped import TapedSettings
from videowm.agents.wave import play_wave
from videowm.data.layout import write_group
from videowm.data.recording import Recording, record_into
from videowm.options import DreamRecordOptions, DreamScoreOptions
from videowm.types import Episode, UserError

TRIED = 8  # games of a recorded episode that are left out; more than so many seldom end at once


@dataclass
class Collector:
    """Plays and writes file groups of a recording."""

    contest: Contest
    options: DreamRecordOptions
    recording: Recording
    out: Path

    def make(self, numbers: list[int]) -> None:
        """The file groups of some numbers."""
        if not numbers:
            return
        members, world = [self.recording.members(number) for number in numbers], self.contest.world
        with (
            tqdm(
                total=sum(map(len, members)), desc=f"record {self.contest.name}", unit="game", dynamic_ncols=True
            ) as bar,
            Games(self.settings, max(map(len, members)), self.options.workers) as games,
        ):
            returns: list[float] = []
            for number, group in zip(numbers, members):
                episodes = self.episodes(games, group)
                write_group(self.out, number, episodes, self.recording.layout(world))
                returns += [float(episode.rewards.sum()) for episode in episodes]
                bar.update(len(group))
                bar.set_postfix(mean=f"{np.mean(returns):.1f}")

    @property
    def settings(self) -> TapedSettings:
        """What is played."""
        return TapedSettings(**vars(self.contest.settings), frames=self.contest.longest, random=self.options.random,
                             decision=decision_of(self.contest))  # fmt: skip

    def episodes(self, games: Games, members: range) -> list[Episode]:
        """One wave; games that end at once are drawn anew.

        Raises:
            UserError: an episode ended at once each time.
        """
        contest, shortest = self.contest, min(self.contest.world.shortest, self.contest.longest)
        seeds, found = {n: self.seeds(n) for n in members}, dict[int, Episode]()
        while left := [n for n in members if n not in found]:
            begun = [next(seeds[n], None) for n in left]
            if None in begun:
                raise UserError(f"every game of episode {left[begun.index(None)]} ended in {shortest} frames: change "
                                "the seed")  # fmt: skip
            if isinstance(contest.player, Planner):
                contest.player.begin(begun[0])
            eyes = contest.eyes if contest.player else None
            play_wave(games, begun, contest.longest, player=contest.player, eyes=eyes)
            played = games.ask({row: ("episode", {}) for row in range(len(left))})
            found |= {n: played[row] for row, n in enumerate(left) if len(played[row].actions) >= shortest}
        return [found[n] for n in members]

    def seeds(self, number: int) -> Iterator[int]:
        """The seeds of the games that an episode may be, without those that the run's data may have."""
        return (seed for seed in self.recording.game_seeds(number) if seed not in self.known)

    @cached_property
    def known(self) -> set[int]:
        """The seeds of the games that the run's recordings may hold."""
        recordings = recordings_of(self.contest.run) if self.contest.run else []
        return {seed for recording in recordings for number in range(recording.episodes)
                for seed in islice(recording.game_seeds(number), TRIED)}  # fmt: skip


def decision_of(contest: Contest) -> int:
    """Frames of a decision."""
    return contest.eyes.stride if contest.eyes else HELD


def record_games(player: str, out: Path, options: DreamRecordOptions) -> Path:
    """Let a player play the real game, and write its games as a dataset; what is there already stays.

    Raises:
        UserError: the player, its run or its game cannot be used, or `out` holds something else.
    """
    o = options
    contest = contest_of(player, DreamScoreOptions(
        world=o.world, run=o.run, seed=o.seed, plan=o.plan, device=o.device, frames=o.frames, held=o.held,
        frame_skip=o.frame_skip))  # fmt: skip
    game = contest.settings
    recording = config.build(Recording, {
        "world": game.world, "episodes": o.episodes, "seed": o.seed, "frames": contest.longest,
        "frame_skip": contest.world.frame_skip, "test_share": o.test_share, "lossless": o.lossless,
        "group": min(o.games, o.episodes), "arguments": dict(game.arguments),
        "player": contest.identity | {"random": o.random, "decision": decision_of(contest)},
    }, where="record")  # fmt: skip
    return record_into(out, recording, contest.world, Collector(contest, o, recording, out).make)
