"""What all players of one server share: the opened models, where games begin, and what the page is told of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from videowm.data.dataset import Dataset
from videowm.play.controls import controls
from videowm.play.messages import Hello
from videowm.play.model import Model, check_together
from videowm.play.real import refusal
from videowm.worlds import find_world


@dataclass(frozen=True)
class Stage:
    """Models of one world and the recording that their games begin in."""

    models: list[Model]
    data: Path
    out: Path  # folder for what is saved

    @classmethod
    def of(cls, models: list[Model], data: Path, out: Path) -> Stage:
        """Models and a recording that belong together.

        Raises:
            UserError: worlds, actions or frame sizes differ, or there is no such recording.
        """
        check_together(models, Dataset(data))
        return cls(models, data, out)

    @property
    def frames(self) -> int:
        """Frames of one step: the least that is a whole number of latent steps for every model."""
        return math.lcm(*(model.stride for model in self.models))

    @cached_property
    def hello(self) -> Hello:
        """The first message to a page."""
        dataset, first = Dataset(self.data), self.models[0]
        trained_on, why = first.pipeline.trained_on, refusal(dataset)
        world, device = find_world(trained_on.world), first.pipeline.device
        threads = torch.get_num_threads()
        cpu = f"CPU, {threads} thread{'s' * (threads > 1)}"
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
        return Hello(world=trained_on.world, fps=trained_on.fps, size=dataset.size, frames=self.frames,
                     runs=[model.about() for model in self.models], controls=controls(trained_on),
                     episodes=dataset.lengths.tolist(), test=dataset.split("test"), real=why,
                     script=why is None and world is not None, device=name)  # fmt: skip
