"""Worlds by name: six that come with the package, and those of other packages.

Another package adds a world with an entry point in its pyproject.toml. Here `Pong` is a subclass of `World` with
`name = "pong"`:

    [project.entry-points."videowm.worlds"]
    pong = "my_package.pong:Pong"

Any environment of gymnasium is a world too, by the name `gym:ID` or `gym:package:ID` (`videowm.worlds.gym`).

A world's module is imported when a caller names the world; a simulator loads when its world is first reset.
"""

from __future__ import annotations

import inspect
import re
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from videowm.config import suggest
from videowm.types import UserError
from videowm.worlds.base import Fact, World

__all__ = ["Fact", "World", "find_world", "open_world", "world_class", "world_names"]

GROUP = "videowm.worlds"  # of entry points
BUILT_IN = {
    "carracing": "videowm.worlds.carracing:CarRacing",
    "carracing-noisy": "videowm.worlds.noisy:NoisyCarRacing",
    "doomrooms": "videowm.worlds.doomrooms:DoomRooms",
    "fourrooms": "videowm.worlds.fourrooms:FourRooms",
    "pusht": "videowm.worlds.pusht:PushT",
    "takecover": "videowm.worlds.takecover:TakeCover",
}
GYM = "gym:"  # how the name of a gymnasium environment begins
CORE = ("name", "size", "action_names", "reset", "step", "render")


def world_names() -> list[str]:
    """The names of all worlds that are installed; the six of this package come first."""
    return [*BUILT_IN, *sorted({point.name for point in entry_points(group=GROUP)} - set(BUILT_IN))]


def find_world(name: str) -> type[World] | None:
    """The class of the world called `name`; None where no such world is installed, as of imported data.

    Raises:
        UserError: two packages provide it, or its package is broken.
    """
    if name.startswith(GYM):
        return EntryPoint(name, "videowm.worlds.gym:gym_class", GROUP).load()(name)
    if name in BUILT_IN:
        return EntryPoint(name, BUILT_IN[name], GROUP).load()
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        return None
    packages = " and ".join(sorted(point.dist.name if point.dist else "a package" for point in points))
    if len(points) > 1:
        raise UserError(f"{packages} both provide a world {name!r}: uninstall all but one")
    return checked(points[0], packages)


def checked(point: EntryPoint, package: str) -> type[World]:
    """The class of another package's entry point, if it is a world.

    Raises:
        UserError: it cannot be loaded, is no `World`, lacks a core part, or has another name than its entry point.
    """
    where, remedy = f"the world {point.name!r} of {package}", "correct or uninstall that package"
    try:
        world = point.load()
    except Exception as error:  # noqa: BLE001 - another package's code raises whatever it likes
        raise UserError(f"{where} cannot be loaded ({type(error).__name__}: {error}): {remedy}") from None
    if not (isinstance(world, type) and issubclass(world, World)):
        raise UserError(f"{where} is {point.value}, expected a subclass of videowm.worlds.World: {remedy}")
    missing = [part for part in CORE if getattr(world, part, None) is getattr(World, part, None)]
    if missing:
        raise UserError(f"{where} does not define {', '.join(missing)}: {remedy}")
    if world.name != point.name:
        raise UserError(f"{where} has the name {world.name!r}, expected that of its entry point: {remedy}")
    return world


def world_class(name: str) -> type[World]:
    """The class of the world called `name`.

    Raises:
        UserError: no such world is installed; the sentence suggests one.
    """
    world = find_world(name)
    if world is None:
        known = [*world_names(), *([GYM + name] if re.search(r"-v\d+$", name) else [])]
        raise UserError(f"unknown world {name!r}{suggest(name, known)}")
    return world


def open_world(name: str, frame_skip: int | None = None, **arguments: Any) -> World:
    """An instance of the world called `name`.

    Args:
        name: one of `world_names()`, or the id of a gymnasium environment behind "gym:".
        frame_skip: physics steps between two frames, 1 or more; None means the world's default.
        arguments: more of what the world's constructor takes.

    Raises:
        UserError: the world is unknown, or its constructor does not take these arguments.
    """
    world = world_class(name)
    if frame_skip is not None:
        if frame_skip < 1:
            raise UserError(f"frame_skip {frame_skip} cannot be used: give the physics steps a frame, 1 or more")
        arguments["frame_skip"] = frame_skip
    takes = inspect.signature(world).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        for argument in arguments:
            if argument not in takes:
                known = suggest(argument, takes) if takes else "; it takes none"
                raise UserError(f"world {name!r} takes no argument {argument!r}{known}")
    return world(**arguments)
