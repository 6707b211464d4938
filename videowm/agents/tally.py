"""What is said of played games: mean, spread and interval of the returns, paired differences, habits, foreseen ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from videowm.bootstrap import group_counts
from videowm.data.outcomes import Targets
from videowm.evaluate.outcomes import Readings, report

DRAWS = 4000  # resamples of games: an interval's ends are then known to about 2 % of its width
DEAD_BAND = 0.05  # steering nearer to 0 is neither left nor right
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Played:
    """Played games of one player, in the order of their seeds."""

    seeds: np.ndarray  # int64 "g"
    earned: np.ndarray  # float64 "g", before the first frame
    actions: np.ndarray  # float32 "g n a", zeros behind a game's last one
    rewards: np.ndarray  # float32 "g n"
    lengths: np.ndarray  # int64 "g", actions
    over: np.ndarray  # bool "g"; the others were cut off
    read: np.ndarray  # float32 "g t k+2": reward, then chances of no end and of ends; t = 0 where nobody looked

    @property
    def returns(self) -> np.ndarray:
        """What each game earned, float64 "g"."""
        return self.earned + self.rewards.sum(1, dtype=np.float64)


def interval(values: np.ndarray) -> list[float]:
    """The 95 % interval of a mean over games "g": percentiles of the bootstrap."""
    counts = group_counts(len(values), draws=DRAWS)
    return np.percentile(counts @ values / len(values), [2.5, 97.5]).tolist()


def about(values: np.ndarray) -> Numbers:
    """Mean, its interval, standard deviation of values over games."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return {"mean": float(values.mean()), "interval": interval(values), "sd": spread}


def most(games: Played) -> np.ndarray:
    """The most that each game had earned at any time, float64 "g"."""
    return games.earned + np.maximum(0, games.rewards.cumsum(1, dtype=np.float64).max(1))


def paired(
    one: Played, other: Played, weights: tuple[float, ...] = (), fps: float = 1.0, *, solvable: bool = False
) -> Numbers | None:
    """How much more one player earns in the same games: mean and interval, and the share of games it is ahead in.

    A tie counts half. With weights of steering also how much more often a second it reverses; in a solvable world also
    how many more it solves, as a share. None where no game was played by both.
    """
    _, mine, theirs = np.intersect1d(one.seeds, other.seeds, return_indices=True)
    if not len(mine):
        return None
    more = one.returns[mine] - other.returns[theirs]
    found = {"games": len(more), **about(more), "ahead": float((more > 0).mean() + (more == 0).mean() / 2)}
    if weights:
        rates = [reversals(games, weights) * fps / games.lengths for games in (one, other)]
        found["reversals"] = about(rates[0][mine] - rates[1][theirs])
    if solvable:
        found["solved"] = about(one.over[mine].astype(float) - other.over[theirs])
    return found


def reversals(games: Played, weights: tuple[float, ...]) -> np.ndarray:
    """How often each game's steering went from one side to the other, float64 "g"; straight on in between or not."""
    found = []
    for actions, length in zip(games.actions, games.lengths):
        steer = actions[:length] @ np.float32(weights)
        found.append(np.count_nonzero(np.diff(np.sign(steer[np.abs(steer) > DEAD_BAND]))))
    return np.array(found, np.float64)


def habits(games: Played, named: dict[str, tuple[float, ...]], names: tuple[str, ...]) -> Numbers:
    """The share of each named action among all that were taken; where none is named, each part's mean."""
    taken = np.concatenate([actions[:length] for actions, length in zip(games.actions, games.lengths)])
    shares = {name: float((taken == np.float32(action)).all(1).mean()) for name, action in named.items()}
    if sum(shares.values()) > 0.99:
        return {name: share for name, share in shares.items() if share}
    return {f"mean {name}": float(mean) for name, mean in zip(names, taken.mean(0))}


def foreseen(games: Played, stride: int) -> Numbers:
    """How well heads foresaw ends and rewards in these games; empty where nobody looked."""
    steps = games.read.shape[1]
    if not steps:
        return {}
    rewards = np.zeros((len(games.seeds), steps * stride), np.float32)
    rewards[:, : games.rewards.shape[1]] = games.rewards
    last = (games.lengths - 1) // stride  # the latent step that a game ended in, or was cut off in
    at, fatal = np.arange(steps), (games.lengths - 1) % stride + 1
    end = np.where((at == last[:, None]) & games.over[:, None], fatal[:, None], 0)
    known = (at < games.lengths[:, None] // stride) | (end > 0)
    rows = np.minimum(games.lengths[:, None], (at + 1) * stride)
    truth = Targets(rewards.reshape(len(rewards), steps, stride).sum(-1), end, known, rows)
    read = Readings(games.read[..., 0], games.read[..., 1:], truth, np.arange(len(games.seeds)))
    return {name.removeprefix("heads/agent_"): value for name, value in report("agent", read)}


def as_tensors(games: Played) -> dict[str, torch.Tensor]:
    """As a file holds them."""
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in vars(games).items()}
