"""Who is scored, in which game and under which protocol."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from videowm.agents.agent import WEIGHTS, Agent
from videowm.agents.eyes import Eyes
from videowm.agents.games import SCRIPTS, GameSettings
from videowm.agents.plan import Delayed, Planner, imagination_of
from videowm.agents.player import Player
from videowm.data.recording import NOTE, Recording
from videowm.data.starts import datasets_of
from videowm.files import short_hash
from videowm.options import DreamScoreOptions, PlanOptions
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError
from videowm.worlds import World

HELD = 4  # frames of a random decision where no run says how many a latent step has
PLAN = "plan:"


@dataclass(frozen=True)
class Contest:
    """A player, its eyes and its game."""

    name: str  # in tables
    settings: GameSettings
    world: World
    longest: int  # actions of a game, at most
    seed: int
    identity: dict[str, Any]  # what decides how it plays
    run: Path | None = None
    player: Player | None = None
    eyes: Eyes | None = None

    @property
    def protocol(self) -> dict[str, Any]:
        """What all scores of a folder have in common."""
        game, world = self.settings, self.world
        return {"world": game.world, "frame_skip": world.frame_skip, "arguments": dict(game.arguments),
                "frames": self.longest, "fps": world.fps, "seed": self.seed}  # fmt: skip


def contest_of(player: str, options: DreamScoreOptions) -> Contest:
    """Open a player, and the game that it shall play.

    Raises:
        UserError: the player is not there or cannot dream, or the game is another than the run's or has no cap.
    """
    name, run, identity = named(player, options)
    eyes = None if run is None else Eyes(run, memory=needs_heads(player, options), device=options.device)
    script = player if player in SCRIPTS else None
    if script and options.dreams:
        raise UserError(f"{player} acts on the game's own state, which no dream has: leave out --dreams")
    held = options.held or ((eyes.stride if eyes else HELD) if script == "random" else 1)
    settings = game_of(options, run, script=script, held=held)
    identity |= {"held": held} if script else {}
    world = settings.open()
    longest = options.frames or world.longest
    if longest is None:
        raise UserError(f"games of {settings.world!r} may go on for ever: give the most --frames of one")
    if eyes is not None:
        check_fits(world, eyes.pipeline, run)
        identity |= {"transformer": eyes.pipeline.config.transformer_hash}
    who = None if script else player_of(player, run, eyes.pipeline, options)
    return Contest(options.name or name, settings, world, longest, options.seed, identity, run, who, eyes)


def needs_heads(player: str, options: DreamScoreOptions) -> bool:
    """Whether a player sees the network's features, or dreams."""
    if player in SCRIPTS:
        return False
    return player.startswith(PLAN) or options.predict or Agent.open(player).config.observation == "memory"


def named(player: str, options: DreamScoreOptions) -> tuple[str, Path | None, dict[str, Any]]:
    """A player's name in tables, the run whose latents it sees, and what decides how it plays.

    Raises:
        UserError: there is no such player.
    """
    if player in SCRIPTS:
        suffix = f"-held{options.held}" if options.held else ""
        return player + suffix, options.run, {"script": player}
    late = {"delay": options.delay, "predict": options.predict} if options.delay else {}
    suffix = f"-late{options.delay}{'-predicting' * options.predict}" if late else ""
    if player.startswith(PLAN):
        run, plan = Path(player.removeprefix(PLAN)), options.plan
        goal = "" if plan.goal == "reward" else f"-{plan.goal}"
        name = f"plan-{plain(run)}{goal}-{plan.by}-{plan.futures}x{plan.horizon}"
        return name + suffix, run, {"plan": searched(plan)} | late
    if not Path(player).is_dir():
        raise UserError(f"no player is called {player!r}: give an agent's folder, {PLAN}RUN, or one of "
                        f"{', '.join(SCRIPTS)}")  # fmt: skip
    agent = Agent.open(player)
    late |= {"plan": searched(options.plan)} if late and options.predict else {}
    weights = short_hash((Path(player) / WEIGHTS).read_bytes())
    return plain(Path(player)) + suffix, options.run or Path(agent.about["run"]), {"agent": weights} | late


def searched(plan: PlanOptions) -> dict[str, Any]:
    """How a planner searches, as a file of scores says it; what was there before there were goals stays as it is."""
    return {key: value for key, value in asdict(plan).items() if plan.goal != "reward" or "goal" not in key}


def plain(path: Path) -> str:
    """A file's name of a path's last part."""
    return re.sub(r"[^\w.]+", "-", path.resolve().name)


def player_of(player: str, run: Path, pipeline: WorldModelPipeline, options: DreamScoreOptions) -> Player:
    """An agent in its folder or a planner, late where that is wanted.

    Raises:
        UserError: the agent is of another run, or a setting cannot be used.
    """
    if player.startswith(PLAN):
        who = Planner.open(run, options.plan, device=options.device, seed=options.seed)
    else:
        who = Agent.open(player, pipeline).to(pipeline.device)
    if not options.delay:
        return who
    imagination = imagination_of(run, options.plan, device=options.device, seed=options.seed)
    return Delayed(who, options.delay, imagination, predict=options.predict)


def game_of(options: DreamScoreOptions, run: Path | None, *, script: str | None, held: int) -> GameSettings:
    """The game, as a run's data were recorded from it.

    Raises:
        UserError: no world is named and no run says one, or both do and differ.
    """
    name, skip, arguments = options.world, options.frame_skip, {}
    if run is not None:
        recorded = next(iter(recordings_of(run)), None)
        own = recorded.world if recorded else WorldModelPipeline.open(run).trained_on.world
        if name not in (None, own):
            raise UserError(f"{run} is a model of {own!r}, not of {name!r}: leave out --world, or give another run")
        name = own
        if recorded:
            skip, arguments = skip or recorded.frame_skip, recorded.arguments
    if name is None:
        raise UserError("no game is named: give --world, such as takecover, or a --run")
    return GameSettings(name, skip, arguments, script, held)


def recordings_of(run: Path) -> list[Recording]:
    """How a run's data were recorded, without those that are gone or somebody else's."""
    try:
        return [Recording.read(data) for data in datasets_of(run) if (data / NOTE).exists()]
    except UserError:
        return []


def check_fits(world: World, pipeline: WorldModelPipeline, run: Path) -> None:
    """Refuse a game whose actions a model does not know.

    Raises:
        UserError: the actions' names differ.
    """
    known = tuple(pipeline.trained_on.action_names)
    if known != tuple(world.action_names):
        raise UserError(f"{run} knows the actions {', '.join(known)}, the game {world.name!r} has "
                        f"{', '.join(world.action_names)}: give the game that it was trained on")  # fmt: skip
