"""Who is scored, in which game and under which protocol."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videowm.agents.agent import Agent
from videowm.agents.eyes import Eyes
from videowm.agents.games import SCRIPTS, GameSettings
from videowm.agents.player import Player
from videowm.data.recording import NOTE, Recording
from videowm.data.starts import dataset_of
from videowm.files import short_hash
from videowm.options import ScoreOptions
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError
from videowm.worlds import World

HOLD = 4  # frames of a decision where no run says it
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
        world = self.world
        return {"world": self.settings.world, "frame_skip": world.frame_skip, "arguments": dict(self.settings.arguments),
                "frames": self.longest, "fps": world.fps, "seed": self.seed}  # fmt: skip


def contest_of(player: str, options: ScoreOptions) -> Contest:
    """Open a player, and the game that it shall play.

    Raises:
        UserError: the player is not there, its run is another's, or the game has no cap and none is given.
    """
    who, run, identity = player_of(player, options)
    eyes = None if run is None else Eyes(run, memory=who is not None and who.wants == "memory", device=options.device)
    stride = eyes.stride if eyes else HOLD
    settings = game_of(options, run, script=player if who is None else None, hold=options.hold or stride)
    world = settings.open()
    longest = options.frames or world.longest
    if longest is None:
        raise UserError(f"games of {settings.world!r} may go on for ever: give the most --frames of one")
    if eyes is not None:
        check_fits(world, eyes.pipeline, run)
        identity = identity | {"transformer": eyes.pipeline.config.transformer_hash}
    if who is None and player == "random":
        identity = identity | {"hold": settings.hold}
    name = options.name or re.sub(r"[^\w.]+", "-", Path(player).name if who else player)
    return Contest(name, settings, world, longest, options.seed, identity, run, who, eyes)


def player_of(player: str, options: ScoreOptions) -> tuple[Player | None, Path | None, dict[str, Any]]:
    """A player by its name, the run whose latents it sees, and what decides how it plays; None: a script.

    Raises:
        UserError: there is no such player, or a script has no world.
    """
    if player in SCRIPTS:
        return None, options.run, {"script": player}
    if not Path(player).is_dir():
        raise UserError(f"no player is called {player!r}: give an agent's folder, or one of {', '.join(SCRIPTS)}")
    agent = Agent.open(player)
    run = options.run or Path(agent.about["run"])
    agent = Agent.open(player, WorldModelPipeline.open(run))
    return agent, run, {"agent": short_hash((Path(player) / "agent.safetensors").read_bytes())}


def game_of(options: ScoreOptions, run: Path | None, *, script: str | None, hold: int) -> GameSettings:
    """The game, as a run's data were recorded from it.

    Raises:
        UserError: no world is named and no run says one, or both do and differ.
    """
    name, skip, arguments = options.world, options.frame_skip, {}
    if run is not None:
        recorded = recording_of(run)
        own = recorded.world if recorded else WorldModelPipeline.open(run).trained_on.world
        if name not in (None, own):
            raise UserError(f"{run} is a model of {own!r}, not of {name!r}: leave out --world, or give another run")
        name = own
        if recorded:
            skip, arguments = skip or recorded.frame_skip, recorded.arguments
    if name is None:
        raise UserError("no game is named: give --world, such as takecover, or a --run")
    return GameSettings(name, skip, arguments, script, hold)


def recording_of(run: Path) -> Recording | None:
    """How a run's data were recorded; None where they are gone or somebody else's."""
    try:
        data = dataset_of(run)
    except UserError:
        return None
    return Recording.read(data) if (data / NOTE).exists() else None


def check_fits(world: World, pipeline: WorldModelPipeline, run: Path) -> None:
    """Refuse a game whose actions a model does not know.

    Raises:
        UserError: the actions' names differ.
    """
    known = tuple(pipeline.trained_on.action_names)
    if known != tuple(world.action_names):
        raise UserError(f"{run} knows the actions {', '.join(known)}, the game {world.name!r} has "
                        f"{', '.join(world.action_names)}: give the game that it was trained on")  # fmt: skip
