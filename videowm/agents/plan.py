"""Planning without learning: futures are imagined under many courses of actions, and the best one is begun.

The cross-entropy method (Rubinstein 1999) fits the plan to the best courses; model predictive path integral control
(arXiv 1707.02342) weighs all of them by what they earn.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from videowm import config as configuration
from videowm.agents.courses import Courses, Named, Numbers
from videowm.agents.goal import goal_of
from videowm.agents.imagine import Imagination
from videowm.agents.player import Player, Seen, Wants
from videowm.options import PlanOptions
from videowm.pipeline import TrainedOn
from videowm.types import UserError
from videowm.worlds import find_world


def cem_weights(returns: Float[Tensor, "n N"], options: PlanOptions) -> Float[Tensor, "n N"]:
    """Equal weights of the best share of every row's courses."""
    best = returns.topk(max(1, round(options.elite * returns.shape[1])), dim=1).indices
    return torch.zeros_like(returns).scatter_(1, best, 1 / best.shape[1])


def mppi_weights(returns: Float[Tensor, "n N"], options: PlanOptions) -> Float[Tensor, "n N"]:
    """Weights of all courses, exponential in their standardised returns."""
    spread = returns.std(1, keepdim=True, correction=0).clamp_min(1e-6)
    return (options.sharpness * (returns - returns.mean(1, keepdim=True)) / spread).softmax(1)


WEIGHTS: dict[str, Callable[[Tensor, PlanOptions], Tensor]] = {"cem": cem_weights, "mppi": mppi_weights}


def courses_of(trained_on: TrainedOn, options: PlanOptions) -> Courses:
    """What the planner of a world draws from.

    Raises:
        UserError: names are wanted of a world that has none.
    """
    world = find_world(trained_on.world)
    named = world.named_actions(trained_on.action_names) if world else {}
    if options.actions == "named" and not named:
        raise UserError(f"the world {trained_on.world!r} names no actions: give actions=box")
    if named and options.actions != "box":
        return Named(torch.tensor(list(named.values()), dtype=torch.float32), options.hold)
    return Numbers(torch.tensor(trained_on.action_mean), torch.tensor(trained_on.action_std), options.hold)


def imagination_of(run: str | Path, options: PlanOptions, *, device: str | None = None, seed: int = 0) -> Imagination:
    """A finished run as planners dream with it.

    Raises:
        UserError: the run is not finished or has no heads, or a setting is out of range.
    """
    o = configuration.check(options)
    return Imagination.open(run, device=device, steps=o.sampling_steps, temperature=o.temperature, batch=o.batch,
                            seed=seed)  # fmt: skip


class Planner:
    """A player that imagines futures of all its games in one batch and takes the best course's first action.

    What is left of a plan begins the search of the next decision.

    Args:
        imagination: the world model that it imagines with.
        options: how it searches.
        seed: of the courses that it draws.

    Raises:
        UserError: a setting is out of range, names are wanted of a world that has none, or a goal cannot be used.
    """

    wants: Wants = "past"

    def __init__(self, imagination: Imagination, options: PlanOptions, *, seed: int = 0) -> None:
        self.imagination, self.options = imagination, configuration.check(options)
        self.courses = courses_of(imagination.pipeline.trained_on, options)
        self.generator = torch.Generator().manual_seed(seed)
        self.plans: dict[int, Float[Tensor, "h p"]] = {}  # by game
        self.goal = goal_of(options, imagination.pipeline, imagination.heads)
        about, world = imagination.heads.config, find_world(imagination.pipeline.trained_on.world)
        worth = 0.0 if self.goal or (world and world.solvable) else max(0.0, about.reward_mean)
        self.beyond = worth * options.beyond / about.stride

    @classmethod
    def open(cls, run: str | Path, options: PlanOptions, *, device: str | None = None, seed: int = 0) -> Planner:
        """A planner in a finished run with heads.

        Args:
            run: the world model.
            options: how it searches.
            device: None: a GPU where there is one.
            seed: of courses and noise.

        Raises:
            UserError: the run is not finished or has no heads, or a setting cannot be used.
        """
        return cls(imagination_of(run, options, device=device, seed=seed), options, seed=seed)

    def begin(self, seed: int) -> None:
        """Forget all games. What is drawn from here on follows from the seed."""
        self.plans = {}
        for generator in (self.generator, self.imagination.generator):
            generator.manual_seed(seed)

    @property
    def steps(self) -> int:
        """Latent steps of a course."""
        return max(1, -(-self.options.horizon // self.imagination.stride))

    def remembered(self, seen: Seen, games: tuple[int, ...]) -> Float[Tensor, "n h p"]:
        """What is left of each game's plan; of a game that has only begun, nothing."""
        blank = self.courses.blank(1, self.steps)[0]
        begun = seen.latents.shape[1] > 1
        return torch.stack([self.plans.get(game, blank) if begun else blank for game in games])

    @torch.no_grad()
    def act(self, seen: Seen) -> Float32[np.ndarray, "n a"]:
        """The first action of each row's plan."""
        games = seen.games or tuple(range(len(seen.latents)))
        present, plan = self.imagination.present(seen), self.remembered(seen, games)
        noise = self.imagination.noise(present, self.steps - (self.goal is None))
        for _ in range(self.options.iterations):
            drawn = self.courses.draw(plan, self.options.futures, self.generator)
            returns = self.imagination.returns(present, self.courses.actions(drawn), noise, beyond=self.beyond,
                                               goal=self.goal)  # fmt: skip
            plan = self.courses.refit(drawn, WEIGHTS[self.options.by](returns, self.options))
        self.plans = dict(zip(games, self.courses.later(plan)))
        return self.courses.first(plan).numpy()


class Delayed:
    """A player whose eye and hand lie some latent steps apart: what it sees is that old.

    It knows what it did since. With `predict` it dreams itself forward under these actions, and acts on that.

    Args:
        player: who decides.
        steps: how old the newest that it sees is, in latent steps.
        imagination: the world model that predicts, and gives features to a player who wants them.
        predict: whether it dreams forward.
    """

    wants: Wants = "past"

    def __init__(self, player: Player, steps: int, imagination: Imagination, *, predict: bool) -> None:
        self.player, self.steps, self.imagination, self.predict = player, steps, imagination, predict

    def act(self, seen: Seen) -> Float32[np.ndarray, "n a"]:
        """What the player does on what it sees, or expects."""
        known = max(1, seen.latents.shape[1] - self.steps)
        old = Seen(seen.latents[:, :known], seen.grouped[:, :known], games=seen.games)
        return self.player.act(self.imagination.ahead(old, seen.grouped[:, known:][:, : None if self.predict else 0]))
