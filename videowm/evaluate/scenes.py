"""The same held-out starts, continued by the game, by the autoencoder and by the model under several actions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from videowm.data.dataset import Dataset
from videowm.evaluate.heldout import of_other_episode
from videowm.evaluate.reconstruction import reconstructed, through
from videowm.evaluate.rollouts import RolloutConfig, roll, start_from, starting_points
from videowm.pipeline import WorldModelPipeline


@dataclass(frozen=True)
class Scenes:
    """Videos "b f 3 H W" in [-1, 1] of one length, the context first; on the CPU."""

    truth: Tensor
    decoded: Tensor  # the truth through the autoencoder
    dreamed: Tensor  # the model under the true actions
    shuffled: Tensor  # the model under those of another episode
    zero: Tensor  # the model under actions of zeros
    random: Tensor  # the model under actions drawn from all clips at all times
    actions: Tensor  # float32 "b f-1 a", the true ones
    episode: np.ndarray  # "b"
    first: np.ndarray  # "b", the first frame's number within its episode
    context: int

    @property
    def horizon(self) -> int:
        return self.truth.shape[1] - self.context

    @property
    def acted(self) -> bool:
        """Whether any action varies; without one nothing tells whether actions are obeyed."""
        return bool((self.actions != self.actions[:1, :1]).any())

    @property
    def repeat(self) -> Float[Tensor, "b f 3 H W"]:
        """The context, then its last frame for ever: "b f 3 H W" in [-1, 1]."""
        last = self.truth[:, self.context - 1 : self.context].expand(-1, self.horizon, -1, -1, -1)
        return torch.cat([self.truth[:, : self.context], last], dim=1)

    def future(self, name: str) -> Float[Tensor, "b h 3 H W"]:
        """The predicted frames "b h 3 H W" in [-1, 1] of one of the videos."""
        return getattr(self, name)[:, self.context :]


@dataclass(frozen=True)
class PlayedScenes:
    """Some clips of the scenes, played on by the real game under the actions of `random`."""

    clips: np.ndarray  # "n", their numbers
    decoded: Tensor  # the predicted frames "n h 3 H W", through the autoencoder


def random_actions(future: Float[Tensor, "b h a"], seed: int) -> Float[Tensor, "b h a"]:
    """Actions "b h a" drawn from those of all clips at all times."""
    drawn = torch.randint(len(future) * future.shape[1], future.shape[:2],
                          generator=torch.Generator().manual_seed(seed))  # fmt: skip
    return future.flatten(0, 1)[drawn]


def with_future(
    actions: Float[Tensor, "b n a"], future: Float[Tensor, "#b h a"], context: int
) -> Float[Tensor, "b n a"]:
    """The actions "b f-1 a" with those that lead to predicted frames replaced by `future` "b h a"."""
    return torch.cat([actions[:, : context - 1], future.expand(len(actions), -1, -1)], dim=1)


@torch.no_grad()
def make_scenes(pipeline: WorldModelPipeline, dataset: Dataset, config: RolloutConfig) -> Scenes:
    """Roll the model out from the starts of `config`, with the same noise under every kind of actions.

    Raises:
        UserError: the context or the horizon does not fit the time stride.
    """
    where = starting_points(dataset, config, pipeline.time_stride)
    start = start_from(pipeline, dataset, where, config)
    actions, known = start.actions, start.context_frames
    future = actions[:, known - 1 :]
    rolled = {
        "dreamed": future,
        "shuffled": future[torch.from_numpy(of_other_episode(start.episode))],
        "zero": torch.zeros_like(future),
        "random": random_actions(future, config.seed),
    }
    videos = {name: roll(pipeline, start, config, with_future(actions, v, known)) for name, v in rolled.items()}
    decoded = reconstructed(start.frames, through(pipeline.codec), config.batch)
    return Scenes(truth=start.frames, decoded=decoded, **videos,
                  actions=actions, episode=start.episode, first=np.array([first for _, first in where]),
                  context=known)  # fmt: skip
