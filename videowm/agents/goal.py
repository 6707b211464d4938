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
class StateGoal:
    """Nearness in the state that heads read off a moment."""

    heads: Heads
    wanted: Float[Tensor, " k"]
    weight: Float[Tensor, " k"]  # of each column's difference

    def nearness(self, latents: Float[Tensor, "m c h w"]) -> Float[Tensor, " m"]:
        """Minus the distance of the states."""
        return -((self.heads.see(latents) - self.wanted) * self.weight).norm(dim=1)


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
    return StateGoal(heads, heads.see(wanted[None])[0], weights_of(pipeline.trained_on.world, heads).to(wanted.device))


def weights_of(name: str | None, heads: Heads) -> Float[Tensor, " k"]:
    """What a standard deviation of each state column counts: as the world says, with 0 for all others; else 1."""
    world, about = find_world(name) if name else None, heads.config
    alike = world.GOAL if world else {}
    if not set(alike) & set(about.state):
        return torch.ones(len(about.state))
    return torch.tensor([std / alike[column] if column in alike else 0.0
                         for column, std in zip(about.state, about.state_std)])  # fmt: skip


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
