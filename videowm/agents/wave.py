"""A wave of real games under one player: all begin at frame 0 together, and those that end drop out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from videowm.agents.eyes import Eyes
from videowm.agents.games import Games, Stretch
from videowm.agents.player import Player


@dataclass
class Track:
    """One played game: what was done and earned, and what heads expected of each latent step."""

    seed: int
    earned: float  # before the first frame
    actions: list[np.ndarray] = field(default_factory=list)  # float32 "n a"
    rewards: list[np.ndarray] = field(default_factory=list)  # float32 "n"
    read: list[np.ndarray] = field(default_factory=list)  # float32 "k+2": reward, then chances of no end and of ends
    over: bool = False

    @property
    def length(self) -> int:
        """How many actions were taken."""
        return sum(map(len, self.rewards))

    def add(self, stretch: Stretch) -> None:
        """The game went on."""
        self.actions.append(stretch.actions)
        self.rewards.append(stretch.rewards)
        self.over = stretch.over


def play_wave(
    games: Games, seeds: Sequence[int], longest: int, *, player: Player | None = None, eyes: Eyes | None = None
) -> list[Track]:
    """Play one game of each seed.

    Args:
        games: at least as many rows as seeds; they have a script where there is no player.
        seeds: of the games.
        longest: actions after which a game is cut off.
        player: who acts, once a latent step.
        eyes: what looks; a player needs some.
    """
    frames, earned = games.begin(seeds)
    tracks = [Track(seed, float(before)) for seed, before in zip(seeds, earned)]
    if eyes is None:
        for row, stretch in games.step(dict.fromkeys(range(len(seeds))), longest, look=False).items():
            tracks[row].add(stretch)
        return tracks
    eyes.begin(frames, seeds)
    alive, shown = list(range(len(seeds))), frames[:, None].repeat(eyes.stride, 1)
    while alive:
        chosen = dict.fromkeys(alive) if player is None else dict(zip(alive, player.act(eyes.seen(alive))))
        count = min(eyes.stride, longest - tracks[alive[0]].length)
        stretches = games.step(chosen, count, look=True)
        actions = np.zeros((len(seeds), eyes.stride, stretches[alive[0]].actions.shape[1]), np.float32)
        for row, stretch in stretches.items():
            tracks[row].add(stretch)
            shown[row], actions[row] = padded(stretch.frames, shown[row]), padded(stretch.actions, actions[row])
        keep_reading(tracks, alive, eyes, actions)
        alive = [row for row in alive if not tracks[row].over and tracks[row].length < longest]
        if alive:
            eyes.see(shown, actions)
    return tracks


def padded(values: np.ndarray, before: np.ndarray) -> np.ndarray:
    """As many values as before, the last one repeated; where there are none, all as before."""
    return np.concatenate([values, np.repeat(values[-1:], len(before) - len(values), 0)]) if len(values) else before


def keep_reading(tracks: list[Track], alive: list[int], eyes: Eyes, actions: np.ndarray) -> None:
    """What heads expected of the step that was just taken, under its actions "n k a"."""
    reading = eyes.foresee(actions)
    if reading is None:
        return
    read = torch.cat([reading.reward, reading.logits[:, 0].softmax(-1)], dim=1).float().cpu().numpy()
    for row in alive:
        tracks[row].read.append(read[row])
