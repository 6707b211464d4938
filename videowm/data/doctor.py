"""What a careful colleague would say about a dataset before anyone trains on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, UInt8
from tqdm import tqdm

from videowm.actions.tables import NO_ACTIONS
from videowm.data.dataset import Dataset
from videowm.files import short_hash, visible

EPISODES, ROWS = 16, 250  # that are looked at closely: episodes, and rows of each
LAGS = (-2, -1, 0, 1, 2)  # rows from a change of the picture to the action that may lead to it
SEEN = 0.02  # share of an action's variance that a change must explain before a lag is believed
DISTINCT = 10  # values from which on a column is a continuous one
AT_LIMIT = 0.5  # share of rows at one extreme from which on a continuous column looks clipped
DARK = 4  # grey levels of 255
STILL = 2.0  # seconds
SHORTEST = 16  # rows that the search for a lag needs
CLIPS = (9, 65)  # frames of a clip: an autoencoder's shortest, and what `videowm encode` cuts


@dataclass(frozen=True)
class Look:
    """What the first rows of an episode show; the frames themselves are not kept."""

    episode: int
    rows: int
    motion: np.ndarray  # "f-1 d", see `motion`
    actions: np.ndarray  # "f a"
    black: int  # black frames
    still: int  # most frames one after another that are like the one before, under changing actions

    @classmethod
    def at(cls, dataset: Dataset, episode: int) -> Look:
        rows = min(int(dataset.lengths[episode]), ROWS)
        frames, actions = dataset.frames(episode, range(rows)), dataset.all_actions(episode)[:rows]
        start, still = longest_run((frames[1:] == frames[:-1]).all((1, 2, 3)))
        still = still if still and np.ptp(actions[start : start + still], axis=0).any() else 0
        black = int((frames.max((1, 2, 3)) <= DARK).sum())
        return cls(episode, rows, motion(frames), actions, black, still)


def examine(dataset: Dataset) -> list[str]:
    """One sentence for everything about a dataset that looks wrong; none where nothing does.

    Counts and lengths are of the whole dataset, frames and actions of up to 16 episodes spread over it.

    Raises:
        UserError: a file is missing or damaged, or an action is not finite.
    """
    chosen = np.unique(np.linspace(0, dataset.num_episodes - 1, EPISODES).astype(int)).tolist()
    bar = tqdm(chosen, desc="look", unit="episode", dynamic_ncols=True, leave=False)
    looks = [Look.at(dataset, episode) for episode in bar]
    return [
        *wrong_counts(dataset), *short_episodes(dataset), *duplicates(dataset), *odd_columns(dataset),
        *odd_pictures(looks, dataset.fps), *shifted(looks),
    ]  # fmt: skip


def wrong_counts(dataset: Dataset) -> Iterator[str]:
    """Counts of info.json against the episodes and the rows, and splits that leave something out."""
    found = {"total_episodes": dataset.num_episodes, "total_frames": int(dataset.lengths.sum())}
    for key, count in found.items():
        if (declared := dataset.info.get(key, count)) != count:
            yield f"info.json declares {key} {declared}, the episodes make {count}"
    try:
        rows = sum(pq.read_metadata(path).num_rows for path in visible(dataset.root, "data/*/*.parquet"))
    except (OSError, pa.ArrowException):
        rows = found["total_frames"]  # reading the rows gives the error
    if rows != found["total_frames"]:
        yield f"the tables hold {rows} rows, the episodes claim {found['total_frames']}"
    train, test = (dataset.split(name) for name in ("train", "test"))
    if not train or not test:
        yield f"the {'test' if train else 'train'} split is empty: measurements need one episode in each"
    if left := dataset.num_episodes - len(train) - len(test):
        yield f"{left} episodes belong to neither train nor test"


def short_episodes(dataset: Dataset) -> Iterator[str]:
    """Episodes that are shorter than a clip."""
    for frames, use in zip(CLIPS, ("give no clip at all", "are left out by videowm encode unless --frames is smaller")):
        if count := int((dataset.lengths < frames).sum()):
            yield f"{count} of {dataset.num_episodes} episodes are shorter than {frames} frames and {use}"


def duplicates(dataset: Dataset) -> Iterator[str]:
    """Episodes of the same actions and the same first and last frame; the test split must share none with train."""
    by_actions: dict[str, list[int]] = {}
    for episode in range(dataset.num_episodes):
        by_actions.setdefault(short_hash(dataset.all_actions(episode).tobytes()), []).append(episode)
    pairs = []
    for episodes in by_actions.values():
        pictures = {e: dataset.frames(e, (0, int(dataset.lengths[e]) - 1)) for e in episodes if len(episodes) > 1}
        pairs += [(a, b) for a, b in pairwise(episodes) if np.array_equal(pictures[a], pictures[b])]
    if pairs:
        test = set(dataset.split("test"))
        shared = sum((a in test) != (b in test) for a, b in pairs)
        more = f"; {shared} of these pairs stand in train and in test" if shared else ""
        yield f"{len(pairs)} episodes are copies of another (episode {pairs[0][1]} of {pairs[0][0]}){more}"


def odd_columns(dataset: Dataset) -> Iterator[str]:
    """Columns of actions that never change, or that stand at one extreme most of the time."""
    if dataset.action_names == (NO_ACTIONS,):
        return
    actions = np.concatenate([dataset.all_actions(episode) for episode in range(dataset.num_episodes)])
    for name, column in zip(dataset.action_names, actions.T):
        values, counts = np.unique(column, return_counts=True)
        if len(values) == 1:
            yield f"action {name!r} is {values[0]:g} in every row: it can teach nothing"
        elif len(values) > DISTINCT:
            count, value = max((counts[0], values[0]), (counts[-1], values[-1]))
            if count > AT_LIMIT * len(column) and value != 0:  # 0 is a pedal at rest
                share = count / len(column)
                yield f"action {name!r} is {value:g}, its extreme, in {share:.0%} of the rows: it looks clipped"


def odd_pictures(looks: list[Look], fps: float) -> Iterator[str]:
    """Black frames, and pictures that stand still while actions change."""
    black = [look for look in looks if look.black]
    if black:
        yield (f"{sum(look.black for look in black)} frames are black, in {len(black)} of {len(looks)} episodes "
               f"(first {black[0].episode})")  # fmt: skip
    frozen = [look for look in looks if look.still >= max(3, STILL * fps)]
    if frozen:
        yield (f"the picture stands still for {max(look.still for look in frozen)} frames while actions change, in "
               f"{len(frozen)} of {len(looks)} episodes (first {frozen[0].episode})")  # fmt: skip


def longest_run(true: np.ndarray) -> tuple[int, int]:
    """Where most true values stand one after another, and how many they are."""
    ends = np.flatnonzero(~np.concatenate([[False], true, [False]]))
    longest = int(np.diff(ends).argmax())
    return int(ends[longest]), int(np.diff(ends)[longest]) - 1


def shifted(looks: list[Look]) -> Iterator[str]:
    """Actions that fit the change before or after the one that they should lead to.

    The motion from frame i to i+1 tells of the action that led to it, beyond what the two motions before it tell. In a
    game that obeys at once that is action i. No game obeys before it is told, so a later action is believed at once;
    an earlier one may be a slow game's.
    """
    gains = gains_by_lag(looks)
    if gains is None:
        return
    best = LAGS[int(gains.argmax())]
    now, most = gains[LAGS.index(0)], gains.max()
    if best == 0 or most < SEEN or most < (1.2 if best > 0 else 1.5) * now:
        return
    rows = f"{abs(best)} row{'s' if abs(best) > 1 else ''}"
    what = f"{rows} late" if best > 0 else f"{rows} early, or the game obeys {rows} later"
    yield f"actions look {what}: action i must lead from frame i to frame i+1"


def gains_by_lag(looks: list[Look]) -> Float[np.ndarray, " lags"] | None:
    """Mean R² over actions that the motion now adds to the motions before it, by `LAGS`; None of too few episodes."""
    parts: list[tuple[np.ndarray, ...]] = []
    for number, look in enumerate(look for look in looks if look.rows >= SHORTEST):
        moved, actions = look.motion, look.actions
        at = np.arange(4, len(moved) - 2)
        seen = np.concatenate([moved[at], moved[at - 1], moved[at - 2]], 1)
        parts.append((seen, np.stack([actions[at + lag] for lag in LAGS], 1), np.full(len(at), number % 2)))
    if len({int(part[2][0]) for part in parts}) < 2:
        return None
    seen, told, half = (np.concatenate(column) for column in zip(*parts))
    seen = (seen - seen.mean(0)) / np.maximum(seen.std(0), 1e-6)
    varied = told[:, LAGS.index(0)].std(0) > 1e-6
    past = seen[:, seen.shape[1] // 3 :]
    if not varied.any():
        return None
    targets = [told[:, lag, varied] - told[:, lag, varied].mean(0) for lag in range(len(LAGS))]
    return np.array([(explained(seen, y, half) - explained(past, y, half)).mean() for y in targets])


def explained(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n a"], half: np.ndarray) -> Float[np.ndarray, " a"]:
    """R² of ridge regression on the other half of the episodes."""
    left = np.zeros(y.shape[1])
    for fold in (0, 1):
        fit, held = half == fold, half != fold
        gram = x[fit].T @ x[fit] + 0.02 * fit.sum() * np.eye(x.shape[1])
        left += np.square(y[held] - x[held] @ np.linalg.solve(gram, x[fit].T @ y[fit])).sum(0)
    return 1 - left / np.maximum(np.square(y).sum(0), 1e-12)


def motion(frames: UInt8[np.ndarray, "f H W 3"], cells: int = 4) -> Float[np.ndarray, "f-1 d"]:
    """How each of `cells` x `cells` parts of the picture moves and changes from each frame to the next.

    Motion is the least-squares solution of the brightness constancy constraint along each axis (Lucas and Kanade 1981).
    """
    grey = blurred(coarse(frames.astype(np.float32).mean(-1)))
    change, middle = np.diff(grey, axis=0), (grey[1:] + grey[:-1]) / 2
    flows = [-summed(slope * change, cells) / (summed(slope * slope, cells) + 50)
             for slope in (np.gradient(middle, axis=2), np.gradient(middle, axis=1))]  # fmt: skip
    return np.concatenate([*flows, np.sqrt(summed(np.abs(change), cells))], 1)


def coarse(grey: Float[np.ndarray, "f H W"]) -> Float[np.ndarray, "f h w"]:
    """Means over squares, so that the shorter side has 32 to 63."""
    k = max(1, min(grey.shape[1:]) // 32)
    h, w = (side // k for side in grey.shape[1:])
    return grey[:, : h * k, : w * k].reshape(len(grey), h, k, w, k).mean((2, 4))


def blurred(grey: Float[np.ndarray, "f h w"]) -> Float[np.ndarray, "f h w"]:
    """Each pixel with its neighbours along both axes."""
    for axis in (1, 2):
        grey = (np.roll(grey, 1, axis) + 2 * grey + np.roll(grey, -1, axis)) / 4
    return grey


def summed(values: Float[np.ndarray, "f h w"], cells: int) -> Float[np.ndarray, "f c"]:
    """Sums over `cells` x `cells` parts of each picture."""
    down, across = (np.linspace(0, side, cells + 1).astype(int)[:-1] for side in values.shape[1:])
    return np.add.reduceat(np.add.reduceat(values, down, 1), across, 2).reshape(len(values), -1)
