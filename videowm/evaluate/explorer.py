"""What directions of a latent space mean: move one, decode and look; and which state of the simulator it follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Num, UInt8
from torch import Tensor

from videowm.bootstrap import spread, weights
from videowm.data.clips import even_clips
from videowm.data.dataset import Dataset
from videowm.evaluate.pictures import finite
from videowm.evaluate.reader import MOTION, state_table
from videowm.types import UserError, pixel_frames
from videowm.vae.codec import DiffusersCodec, to_float, to_uint8

STEPS = 9  # latent steps a clip
VALUES = (-3, -2, -1, 0, 1, 2, 3)  # standard deviations


@dataclass(frozen=True)
class Explored:
    """Latent steps of held-out clips, flattened over channels and place, and the state when each was drawn.

    The first step of a clip is left out: it stands for one frame and has a distribution of its own.
    """

    latents: Tensor  # float "n d"
    states: np.ndarray  # float "n k"
    names: list[str]
    episode: np.ndarray  # "n"
    shown: Tensor  # latents "1 t c h w" of the first of the clips, whose last step is moved


@dataclass(frozen=True)
class Directions:
    """Principal directions of the latent steps, the one of most variance first."""

    mean: Tensor  # "d"
    axes: Tensor  # "n d", of unit length
    std: Tensor  # "n", of the coordinates along them
    explained: list[float]  # shares of the whole variance


@torch.no_grad()
def explore(codec: DiffusersCodec, dataset: Dataset, *, clips: int, batch: int = 4) -> Explored:
    """Encode about `clips` held-out clips; of the state, also the motion that a car's x, y and heading give.

    Raises:
        UserError: no held-out episode is as long as a clip.
    """
    time = codec.stride[0]
    frames = pixel_frames(STEPS, time)
    where = even_clips(dataset, frames=frames, split="test", count=clips)
    wanted = list(dataset.state_names)
    wanted += [name for name in MOTION if {"x", "y", "heading"} <= set(wanted)]
    device = next(codec.vae.parameters()).device
    latents, states = [], []
    for i in range(0, len(where), batch):
        parts = [dataset.clip(episode, start, frames).frames for episode, start in where[i : i + batch]]
        latents.append(codec.encode(to_float(np.stack(parts), device)).float())
    for episode, start in where:
        rows = start + time * np.arange(1, STEPS)  # the last frame of each step
        table = state_table(dataset.states(episode), dataset.state_names, wanted) if wanted else np.zeros((0, 0))
        states.append(table[rows] if wanted else np.zeros((len(rows), 0)))
    whole = finite("latents", torch.cat(latents))
    episodes = np.repeat([episode for episode, _ in where], STEPS - 1)
    return Explored(whole[:, 1:].flatten(0, 1).flatten(1), np.concatenate(states), wanted, episodes, whole[:1])


def principal_directions(latents: Float[Tensor, "n d"], count: int) -> Directions:
    """The first `count` principal components of latent steps "n d".

    Raises:
        UserError: `count` is below 1, or not below n and d.
    """
    if not 1 <= count < min(latents.shape):
        raise UserError(
            f"{count} directions of {len(latents)} latent steps of {latents.shape[1]} numbers: give 1 to "
            f"{min(latents.shape) - 1}"
        )
    mean = latents.mean(0)
    _, scale, axes = torch.linalg.svd(latents - mean, full_matrices=False)
    variance = scale.square()
    explained = (variance / variance.sum().clamp_min(1e-12))[:count].tolist()
    return Directions(mean, axes[:count], (variance[:count] / (len(latents) - 1)).sqrt(), explained)


@torch.no_grad()
def moved_pictures(
    codec: DiffusersCodec, latents: Float[Tensor, "1 t c h w"], found: Directions
) -> UInt8[np.ndarray, "n v H W 3"]:
    """The newest frame of latents "1 t c h w" as it is, then with one coordinate set: uint8 "n 1+values H W 3".

    Set, not shifted: at 0 the direction has its mean, at 3 it is three standard deviations above.
    """
    last = latents[0, -1].flatten()
    rows = []
    for axis, std in zip(found.axes, found.std, strict=True):
        own = (last - found.mean) @ axis
        steps = torch.stack([last, *(last + (value * std - own) * axis for value in VALUES)])
        clips = latents.repeat(len(steps), 1, 1, 1, 1)
        clips[:, -1] = steps.unflatten(1, latents.shape[2:])
        rows.append(to_uint8(codec.decode(clips)[:, -1:])[:, 0])
    return np.stack(rows)


def correlations(explored: Explored, found: Directions) -> list[dict[str, Any]]:
    """For each direction its share of variance, Pearson's r with each state column, and the best of them.

    r2 is the square of the best r, r2_se its bootstrap error over episodes, the column kept. The best of many columns
    looks better than it is where episodes are few.
    """
    scores = ((explored.latents - found.mean) @ found.axes.T).double().cpu().numpy()
    varies = [i for i in range(len(explored.names)) if np.ptp(explored.states[:, i]) > 1e-9]
    rows = []
    for n, share in enumerate(found.explained):
        r = {explored.names[i]: pearson(scores[:, n], explored.states[:, i]) for i in varies}
        row: dict[str, Any] = {"explained": share, "pearson": r, "best": None, "r2": None, "r2_se": None}
        if r:
            best = max(r, key=lambda name: abs(r[name]))
            column = explored.states[:, explored.names.index(best)]
            row |= {"best": best, "r2": r[best] ** 2, "r2_se": r2_error(scores[:, n], column, explored.episode)}
        rows.append(row)
    return rows


def pearson(a: Num[np.ndarray, " n"], b: Num[np.ndarray, " n"]) -> float:
    """Pearson's correlation of two vectors; 0 where one does not vary."""
    a, b = a - a.mean(), b.astype(np.float64) - b.mean()
    return float(a @ b / max(np.sqrt((a @ a) * (b @ b)), 1e-30))


def r2_error(
    a: Num[np.ndarray, " n"], b: Num[np.ndarray, " n"], groups: Int[np.ndarray, " n"], *, draws: int = 200
) -> float:
    """Bootstrap standard error of the squared correlation of two vectors over whole groups (episodes)."""
    drawn = weights(groups, draws=draws)
    a, b = a - a.mean(), b.astype(np.float64) - b.mean()
    ma, mb = drawn @ a, drawn @ b
    both = (drawn @ (a * b) - ma * mb) ** 2
    return float(spread(both / ((drawn @ a**2 - ma**2) * (drawn @ b**2 - mb**2)).clip(1e-30), groups))
