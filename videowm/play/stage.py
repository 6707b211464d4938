"""What all players of one server share: the opened models, where games begin, and what the page is told of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from videowm.agents.agent import Agent
from videowm.data.dataset import Dataset
from videowm.data.starts import acted_dataset
from videowm.options import PlanOptions
from videowm.play.controls import controls
from videowm.play.messages import By, Hello
from videowm.play.model import Model, check_together
from videowm.play.pilot import Pilot, pilot_of
from videowm.play.real import refusal
from videowm.types import UserError
from videowm.worlds import find_world

PLAN = PlanOptions(futures=16, horizon=16, iterations=1, sampling_steps=2)  # what a step's time allows


@dataclass(frozen=True)
class Stage:
    """Models of one world, the recording that their games begin in, and who may play beside persons."""

    models: list[Model]
    data: Path
    out: Path  # folder for what is saved
    agents: Mapping[str, Agent] = field(default_factory=dict)  # by their names
    plan: PlanOptions = PLAN

    @classmethod
    def of(
        cls, models: list[Model], data: Path, out: Path, agents: Mapping[str, Agent] | None = None,
        plan: PlanOptions = PLAN,
    ) -> Stage:  # fmt: skip
        """Models, a recording and agents that belong together.

        Raises:
            UserError: worlds, actions or frame sizes differ, there is no such recording, or an agent fits no model.
        """
        stage = cls(models, data, out, agents or {}, plan)
        check_together(models, stage.dataset())
        for number in range(len(stage.agents)):
            refusals = [stage.refusal(f"agent {number}", model) for model in models]
            if all(refusals):
                raise UserError(refusals[0])
        return stage

    def dataset(self) -> Dataset:
        """The recording, with the actions that the first model takes."""
        run = self.models[0].run
        return Dataset(self.data) if run is None else acted_dataset(run, self.data)

    def pilot(self, by: By, model: Model, seed: int) -> Pilot | None:
        """Who acts on a dream's latents; None where a person plays, or another who does not look at them.

        Raises:
            UserError: there is no such agent, or the model has no heads or is another than an agent learned with.
        """
        seconds = self.frames / model.pipeline.trained_on.fps
        if by == "planner":
            return pilot_of(self.plan, model, seed, seconds)
        if not by.startswith("agent "):
            return None
        known = list(self.agents.items())
        if (number := int(by.removeprefix("agent "))) >= len(known):
            raise UserError(f"there is no {by}: {len(known)} were given with --agent")
        return pilot_of(known[number], model, seed, seconds)

    def refusal(self, by: By, model: Model) -> str | None:
        """Why somebody cannot play at a model; None where they can."""
        try:
            self.pilot(by, model, 0)
        except UserError as error:
            return str(error)
        return None

    @property
    def frames(self) -> int:
        """Frames of one step: the least that is a whole number of latent steps for every model."""
        return math.lcm(*(model.stride for model in self.models))

    @cached_property
    def hello(self) -> Hello:
        """The first message to a page."""
        dataset, first = self.dataset(), self.models[0]
        trained_on, why = first.pipeline.trained_on, refusal(dataset)
        world, device = find_world(trained_on.world), first.pipeline.device
        threads = torch.get_num_threads()
        cpu = f"CPU, {threads} thread{'s' * (threads > 1)}"
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
        return Hello(world=trained_on.world, fps=trained_on.fps, size=dataset.size, frames=self.frames,
                     runs=[model.about() for model in self.models], controls=controls(trained_on),
                     episodes=dataset.lengths.tolist(), test=dataset.split("test"), real=why,
                     script=why is None and world is not None, planner=self.refusal("planner", first),
                     agents=list(self.agents), device=name)  # fmt: skip
