"""Fréchet distance between sets of videos, with the protocol that its number means nothing without."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float64, Int

from videowm.bootstrap import group_counts, spread
from videowm.evaluate.curves import Pairs
from videowm.evaluate.features import Features
from videowm.evaluate.scenes import Scenes
from videowm.types import UserError

SPLITS = 10  # ways of halving the episodes that a distance is averaged over
TRIES = 20  # orders of the episodes that a half may be cut from
DRAWS = 100  # of the bootstrap
VIDEOS = {"": "dreamed", "_ceiling": "decoded", "_floor": "repeat", "_real": "truth"}


def frechet_distance(one: Float[np.ndarray, "n d"], two: Float[np.ndarray, "m d"]) -> float:
    """Squared Fréchet distance of Gaussians fitted to features "n d" and "m d" (Heusel et al. 2017, equation 6).

    |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^1/2); the last trace is that of the symmetric root of C1^1/2 C2 C1^1/2.
    """
    one, two = one.astype(np.float64), two.astype(np.float64)
    c1, c2 = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (one, two))
    values, vectors = np.linalg.eigh(c1)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ c2 @ root).clip(0)).sum()
    apart = ((one.mean(0) - two.mean(0)) ** 2).sum()
    return float(max(apart + np.trace(c1) + np.trace(c2) - 2 * cross, 0.0))


def halves(
    episode: Int[np.ndarray, " b"], rng: np.random.Generator
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """Clip numbers of two halves of the episodes, equally many clips in each where `TRIES` random orders find that."""
    names, counts = np.unique(episode, return_counts=True)
    first, least = names[:1], np.inf
    for order in (rng.permutation(len(names)) for _ in range(TRIES)):
        uneven = np.abs(np.cumsum(counts[order])[:-1] - len(episode) / 2)
        if uneven.min() < least:
            first, least = names[order[: 1 + int(uneven.argmin())]], uneven.min()
        if least < 1:
            break
    inside = np.isin(episode, first)
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def redrawn(rows: Int[np.ndarray, " n"], episode: Int[np.ndarray, " b"], seed: int) -> Int[np.ndarray, " m"]:
    """Clip numbers of as many episodes as `rows` has, drawn with replacement."""
    names, inverse = np.unique(episode[rows], return_inverse=True)
    return np.repeat(rows, group_counts(len(names), draws=1, seed=seed)[0][inverse])


def frechet(scenes: Scenes, features: Features) -> Pairs:
    """The distance of the model's futures from real ones of other episodes, and under the same protocol the bounds.

    One half of the episodes is real, the other the model's; averaged over `SPLITS` ways of halving. Every such
    distance depends on the number of clips. That is the same for the model and for real against real (`_real`), the
    lowest number that this protocol can give. `_ceiling`: real video through the autoencoder; `_floor`: the last
    context frame repeated. The interval lies around the value: episodes drawn twice move all draws up, not apart.

    Raises:
        UserError: one episode alone, or fewer clips in a half than features.
    """
    vectors = vectors_of(scenes, features)
    episode, dimension = scenes.episode, vectors["truth"].shape[1]
    splits = checked_splits(episode, dimension, features.name)

    def distance(video: str, one: Int[np.ndarray, " n"], two: Int[np.ndarray, " m"]) -> float:
        return frechet_distance(vectors["truth"][one], vectors[video][two])

    name = f"frechet/{features.name}"
    groups = episode if len(np.unique(episode)) >= 4 else episode[:1]  # a half of one episode: no error is known
    for suffix, video in VIDEOS.items():
        yield f"{name}{suffix}", float(np.mean([distance(video, *split) for split in splits]))
        drawn = bootstrap(lambda one, two, video=video: distance(video, one, two), episode)
        yield f"{name}{suffix}_se", float(spread(drawn, groups))
        if video == "dreamed":
            around = np.quantile(drawn, (0.05, 0.95)) - drawn.mean()
    protocol = {"clips": len(episode), "clips_a_side": [len(half) for half in splits[0]],
                "episodes": len(np.unique(episode)), "frames": scenes.horizon, "features": features.name,
                "dimension": dimension, "network": features.hash, "resolution": list(features.resolution),
                "source_resolution": list(scenes.truth.shape[-2:]), "splits": SPLITS,
                "interval_90": around.tolist()}  # fmt: skip
    yield f"{name}_protocol", protocol


def vectors_of(scenes: Scenes, features: Features) -> dict[str, Float64[np.ndarray, "b d"]]:
    """Feature vectors float64 "b d" of the predicted frames of every kind of video."""
    vectors = {video: features(scenes.future(video)).double().numpy() for video in VIDEOS.values()}
    for name, values in vectors.items():
        if not np.isfinite(values).all():
            raise FloatingPointError(f"features of {name} hold {int((~np.isfinite(values)).sum())} that are not finite")
    return vectors


def checked_splits(
    episode: Int[np.ndarray, " b"], dimension: int, name: str
) -> list[tuple[Int[np.ndarray, " _n"], Int[np.ndarray, " _m"]]]:
    """Clip numbers of `SPLITS` ways of halving the clips of episodes "b", for features of `dimension` numbers.

    Raises:
        UserError: one episode alone, or fewer clips in a half than features.
    """
    if len(np.unique(episode)) < 2:
        raise UserError("the Fréchet distance needs held-out clips of two episodes or more: record more episodes")
    splits = [halves(episode, np.random.default_rng([0, i])) for i in range(SPLITS)]
    fewest = min(len(half) for split in splits for half in split)
    if fewest < dimension:
        raise UserError(
            f"{len(episode)} clips leave {fewest} in a half, fewer than the {dimension} features of {name}: "
            f"evaluate with --clips {2 * dimension + len(episode) - 2 * fewest} or more"
        )
    return splits


def bootstrap(
    distance: Callable[[Int[np.ndarray, " n"], Int[np.ndarray, " m"]], float], episode: Int[np.ndarray, " b"]
) -> Float64[np.ndarray, " draws"]:
    """The distance of two sets of clip numbers, in `DRAWS` halvings of episodes drawn with replacement."""
    drawn = []
    for i in range(DRAWS):
        rng = np.random.default_rng([1, i])
        one, two = halves(episode, rng)
        drawn.append(distance(redrawn(one, episode, 2 * i), redrawn(two, episode, 2 * i + 1)))
    return np.array(drawn)
