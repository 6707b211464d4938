"""Agents and the planner as players: they act on the front dream's own latents, one decision a step of the page."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from videowm.agents.agent import Agent, check_same, hashes_of
from videowm.agents.imagine import Imagination, faster
from videowm.agents.plan import Planner
from videowm.agents.player import Player, Seen
from videowm.options import PlanOptions
from videowm.play.dream import Dream
from videowm.play.model import Model
from videowm.types import UserError

LEAST = 4  # futures that the planner imagines at least, however slow the model is
SHARE = 0.5  # of a step's time that a decision may take: the dream itself needs the rest


class Pilot:
    """A player at the front dream.

    Attributes:
        ms: milliseconds of the newest decision, and how many futures were imagined for it.
    """

    def __init__(self, player: Player, imagination: Imagination | None, seconds: float) -> None:
        self.player, self.imagination, self.seconds = player, imagination, seconds
        self.most = player.options.futures if isinstance(player, Planner) else 0
        self.ms: dict[str, float] = {}

    def actions(self, dream: Dream) -> Float32[np.ndarray, "r a"]:
        """One action for each row of a dream. A planner that took too long imagines fewer futures next time."""
        began = time.perf_counter()
        with dream.model.lock:
            seen = Seen(dream.latents, dream.grouped)
            if self.player.wants == "memory":
                seen = replace(seen, memory=self.imagination.present(seen).kept)
            actions = self.player.act(seen)
        took = time.perf_counter() - began
        self.ms = {"player": round(1e3 * took, 3)}
        if isinstance(self.player, Planner):
            self.ms["futures"] = self.player.options.futures
            self.pace(self.player, took)
        return actions

    def pace(self, planner: Planner, took: float) -> None:
        """Halve the futures where a decision took longer than it may, double them again where there is time."""
        futures = planner.options.futures
        if took > self.seconds:
            futures = max(min(LEAST, self.most), futures // 2)
        elif took < self.seconds / 4:
            futures = min(self.most, 2 * futures)
        planner.options = replace(planner.options, futures=futures)


def pilot_of(who: tuple[str, Agent] | PlanOptions, model: Model, seed: int, seconds: float) -> Pilot:
    """An agent or a planner at a model.

    Args:
        who: an agent and its name, or how a planner searches.
        model: whose dream it sees.
        seed: of what it draws.
        seconds: of a step of the page.

    Raises:
        UserError: the model has no heads, or the agent learned with another one.
    """
    if isinstance(who, PlanOptions):
        imagination = imagination_of(model, who.sampling_steps, seed)
        return Pilot(Planner(imagination, who, seed=seed), imagination, SHARE * seconds)
    name, agent = who
    check_same(Path(name), agent.config, agent.about.get("hashes", {}), hashes_of(model.pipeline))
    imagination = imagination_of(model, None, seed) if agent.wants == "memory" else None
    return Pilot(agent.to(model.pipeline.device), imagination, SHARE * seconds)


def imagination_of(model: Model, steps: int | None, seed: int) -> Imagination:
    """A model as a player dreams with it, without a graph: none would be worth its recording here.

    Raises:
        UserError: the model has no heads.
    """
    if model.heads is None:
        raise UserError(f"{model.name} has no heads that read rewards and ends: train them with videowm train "
                        "configs/heads/base.yaml")  # fmt: skip
    return Imagination(model.pipeline, model.heads, faster(model.sampler, steps), seed=seed, graph=False)
