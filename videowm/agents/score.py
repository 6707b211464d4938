"""`videowm dream score`: a player's returns in the real game, beside those of all others in the same folder.

A folder holds one protocol: one game, one seed, one cap. Each player has a file there with all that it did. So the same
command goes on where it was stopped, and several players can be scored at once. `scores.json`, the table and the figure
are made anew of all files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from videowm.agents.contest import Contest, contest_of
from videowm.agents.dreamed import DreamedGames
from videowm.agents.entry import PLAYERS, Entry
from videowm.agents.games import Games, game_seeds
from videowm.agents.standings import write_standings
from videowm.agents.tally import Played
from videowm.agents.wave import Track, play_wave
from videowm.lock import FolderLock
from videowm.options import DreamScoreOptions
from videowm.types import UserError


def score(player: str, options: DreamScoreOptions) -> dict[str, Any]:
    """Play the real game, write what came of it, and return the content of scores.json.

    Raises:
        UserError: the player, its run or its game cannot be used, or the folder holds scores of another protocol.
    """
    contest = contest_of(player, options)
    out = options.out or Path("scores") / re.sub(r"\W+", "-", contest.settings.world)
    taken = f"another process scores {contest.name} into {out}: wait for it, or give another --name or --out"
    lock = FolderLock(out / PLAYERS / contest.name, taken)
    try:
        entry = with_games(contest, begun(contest, out), out, options)
        with_dreams(contest, entry, out, options)
    finally:
        lock.remove()
    return write_standings(out, Entry.all_of(out))


def begun(contest: Contest, out: Path) -> Entry:
    """What is there of this player's games, which may be none.

    Raises:
        UserError: the folder holds another protocol, or the name is another player's.
    """
    entries = Entry.all_of(out)
    for other in entries:
        theirs = other.about["protocol"]
        if differing := [f"{k} {theirs.get(k)} there, {v} now" for k, v in contest.protocol.items()
                         if theirs.get(k) != v]:  # fmt: skip
            raise UserError(f"{out} holds scores of another protocol ({'; '.join(differing)}): give another --out")
    own = next((entry for entry in entries if entry.name == contest.name), None)
    if own is not None and own.about["player"] != contest.identity:
        raise UserError(f"{out} has scores of another player called {own.name}: give this one a --name")
    return own or Entry(contest.name, nothing(), {}, {"protocol": contest.protocol, "player": contest.identity})


def nothing() -> Played:
    """No games."""
    whole, real = np.zeros(0, np.int64), np.zeros(0)
    return Played(whole, real, np.zeros((0, 0, 0), np.float32), np.zeros((0, 0), np.float32), whole, whole > 0,
                  np.zeros((0, 0, 0), np.float32))  # fmt: skip


def with_games(contest: Contest, entry: Entry, out: Path, options: DreamScoreOptions) -> Entry:
    """Play what is missing, wave by wave; every wave is kept."""
    seeds = game_seeds(options.seed, options.episodes)
    done, rows = len(entry.games.seeds), min(options.games, options.episodes)
    if done >= len(seeds):
        return entry
    with (
        tqdm(total=len(seeds), initial=done, desc=f"score {entry.name}", unit="game", dynamic_ncols=True) as bar,
        Games(contest.settings, rows, options.workers) as games,
    ):
        for first in range(done, len(seeds), rows):
            tracks = play_wave(games, seeds[first : first + rows], contest.longest, player=contest.player,
                               eyes=contest.eyes)  # fmt: skip
            entry = replace(entry, games=joined(entry.games, tracks))
            entry.write(out)
            bar.update(len(tracks))
            bar.set_postfix(mean=f"{entry.games.returns.mean():.1f}")
    return entry


def joined(games: Played, tracks: Sequence[Track]) -> Played:
    """Games and those of another wave."""
    parts = [[np.concatenate(part) for part in (track.actions, track.rewards)] for track in tracks]
    actions, rewards = zip(*parts)
    read = [np.array(track.read or np.zeros((0, 0)), np.float32) for track in tracks]
    return Played(
        np.append(games.seeds, [track.seed for track in tracks]), np.append(games.earned, [t.earned for t in tracks]),
        stacked(games.actions, actions), stacked(games.rewards, rewards),
        np.append(games.lengths, [track.length for track in tracks]), np.append(games.over, [t.over for t in tracks]),
        stacked(games.read, read),
    )  # fmt: skip


def stacked(before: np.ndarray, more: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of several lengths below those there are, zeros behind the ends."""
    length = max([before.shape[1], *map(len, more)])
    out = np.zeros((len(before) + len(more), length, *more[0].shape[1:]), np.float32)
    for row, values in enumerate([*before, *more]):
        out[row, : len(values)] = values
    return out


def with_dreams(contest: Contest, entry: Entry, out: Path, options: DreamScoreOptions) -> None:
    """Dream what is missing of each temperature."""
    keys = {f"{temperature:g}": temperature for temperature in options.dream_temperatures if options.dreams}
    missing = [key for key in keys if len(entry.dreams.get(key, ())) != options.dreams]
    dreamed = DreamedGames(contest, options) if missing else None
    for key in tqdm(missing, desc=f"dream {entry.name}", unit="temperature", disable=not missing):
        entry.dreams[key] = dreamed.returns(keys[key])
        entry.write(out)
