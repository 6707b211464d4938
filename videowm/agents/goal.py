"""Goals: how near an imagined moment is to a picture of what is wanted, in latents or in the state that heads read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from videowm.dit.heads import Heads
from videowm.options import PlanOptions
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError, pixel_frames
from videowm.vae.codec import to_float
from videowm.worlds import find_world, open_world, world_class

SETTLED = 3  # latent steps for which the goal is shown before it is encoded, so that none of them is a video's first


class Goal(Protocol):
    """What futures are judged by."""

    def nearness(self, latents: Float[Tensor, "m c h w"]) -> Float[Tensor, " m"]:
        """How near to the goal some moments are: 0 there, less elsewhere."""


@dataclass(frozen=True)
class LatentGoal:
    """Nearness in the autoencoder's latents, where each number counts alike."""

    wanted: Float[Tensor, "c h w"]

    def nearness(self, latents: Float[Tensor, "m c h w"]) -> Float[Tensor, " m"]:
        """Minus the root of the mean squared difference."""
        return -(latents - self.wanted).float().square().mean((1, 2, 3)).sqrt()


@dataclass(frozen=True)
class Hand:
    """What moves the thing that a goal is about: how far it is from being near enough, of states as heads read them."""

    way: Float[Tensor, "d k"]  # what a state times this, and the next, makes its way to the thing
    offset: Float[Tensor, " d"]
    near: float

    def lacking(self, state: Float[Tensor, "m k"]) -> Float[Tensor, " m"]:
        """The distance that is left."""
        return ((state @ self.way.T + self.offset).norm(dim=1) - self.near).clamp_min(0)


@dataclass(frozen=True)
class StateGoal:
    """Nearness in the state that heads read off a moment; a little of it is how near the hand is to the thing.

    Without that, whatever the hand does far from the thing is worth the same but for errors of the dream. A planner
    would follow these errors, to wherever they are largest.
    """

    heads: Heads
    wanted: Float[Tensor, " k"]
    weight: Float[Tensor, " k"]  # of each column's difference
    hand: Hand | None = None
    share: float = 0.0  # that the hand's distance counts

    def nearness(self, latents: Float[Tensor, "m c h w"]) -> Float[Tensor, " m"]:
        """Minus the distance of the states, and some of the hand's."""
        state = self.heads.see(latents)
        far = ((state - self.wanted) * self.weight).norm(dim=1)
        return -far if self.hand is None else -far - self.share * self.hand.lacking(state)


@torch.no_grad()
def goal_of(options: PlanOptions, pipeline: WorldModelPipeline, heads: Heads) -> Goal | None:
    """What a planner comes near to; None: it earns rewards.

    Raises:
        UserError: there is no picture of the goal, or these heads read no state.
    """
    if options.goal == "reward":
        return None
    wanted = encoded(goal_picture(options.goal_picture, pipeline), pipeline)
    if options.goal == "latents":
        return LatentGoal(wanted)
    name, seen = pipeline.trained_on.world, heads.see(wanted[None])[0]
    hand = hand_of(name, heads) if options.goal_hand else None
    return StateGoal(heads, seen, weights_of(name, heads).to(seen.device), hand, options.goal_hand)


def weights_of(name: str | None, heads: Heads) -> Float[Tensor, " k"]:
    """What a standard deviation of each state column counts: as the world says, with 0 for all others; else 1."""
    world, about = find_world(name) if name else None, heads.config
    alike = world.GOAL if world else {}
    if not set(alike) & set(about.state):
        return torch.ones(len(about.state))
    return torch.tensor([std / alike[column] if column in alike else 0.0
                         for column, std in zip(about.state, about.state_std)])  # fmt: skip


def hand_of(name: str | None, heads: Heads) -> Hand | None:
    """The world's hand, in the units in which a goal's columns count; None: it has none, or heads do not read it."""
    world, about = find_world(name) if name else None, heads.config
    columns, pairs = list(about.state), list(world.HAND.items()) if world else []
    if not pairs or not {name for pair in pairs for name in pair} <= set(columns):
        return None
    way, offset = torch.zeros(len(pairs), len(columns)), torch.zeros(len(pairs))
    for row, pair in enumerate(pairs):
        for column, sign in zip(map(columns.index, pair), (1, -1)):
            way[row, column] = sign * about.state_std[column] / world.GOAL[pair[1]]
            offset[row] += sign * about.state_mean[column] / world.GOAL[pair[1]]
    return Hand(way.to(heads.device), offset.to(heads.device), world.NEAR / world.GOAL[pairs[0][1]])


def encoded(picture: UInt8[np.ndarray, "H W 3"], pipeline: WorldModelPipeline) -> Float[Tensor, "c h w"]:
    """The normalised latents of a picture that stands still."""
    still = np.repeat(picture[None, None], pixel_frames(1 + SETTLED, pipeline.time_stride), axis=1)
    actions = torch.zeros(1, still.shape[1] - 1, len(pipeline.trained_on.action_names))
    return pipeline.beginning(to_float(still), actions)[0][0, -1]


def goal_picture(path: str | None, pipeline: WorldModelPipeline) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in a file, or else the world's own goal.

    Raises:
        UserError: the file is no picture, or the world knows no goal.
    """
    if path is None:
        name = pipeline.trained_on.world
        if not (name and world_class(name).has("goal")):
            raise UserError(f"the world {name!r} has no goal of its own: give an image with --goal-picture")
        return open_world(name).goal()
    try:
        return np.asarray(Image.open(Path(path)).convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{path} cannot be read as a picture ({error}): give a PNG or JPEG of a frame") from None
