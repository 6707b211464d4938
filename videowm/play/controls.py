"""Which keys press which actions: the named actions of a world, or each number of an action up and down."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from videowm.pipeline import TrainedOn
from videowm.play.messages import Control
from videowm.worlds import find_world
from videowm.worlds.base import discovered

ARROWS = {  # last word of a name -> its keys, as browsers name them
    "left": ("ArrowLeft", "KeyA"),
    "right": ("ArrowRight", "KeyD"),
    "gas": ("ArrowUp", "KeyW"),
    "forward": ("ArrowUp", "KeyW"),
    "up": ("ArrowUp", "KeyW"),
    "brake": ("ArrowDown", "KeyS"),
    "back": ("ArrowDown", "KeyS"),
    "backward": ("ArrowDown", "KeyS"),
    "down": ("ArrowDown", "KeyS"),
    "fire": ("Space",),
    "attack": ("Space",),
    "shoot": ("Space",),
    "jump": ("Space",),
}
SPARE = [f"Key{letter}" for letter in "QEZXCVTGYHUJIOL"]  # of actions without a place among the arrows
DEVIATIONS = 2.0  # how far a key moves a number of an unnamed action, in standard deviations


def controls(trained_on: TrainedOn) -> list[Control]:
    """Every action that the page offers, the one without keys first."""
    if codes := discovered(trained_on.action_names):
        return of_codes(codes, trained_on.action_mean)
    world = find_world(trained_on.world)
    named = (dict(world.named_actions(trained_on.action_names)) if world else {}) or dict(unnamed(trained_on))
    neutral = next((name for name, action in named.items() if not any(action)), next(iter(named)))
    spare, taken = iter(SPARE), set()
    found = []
    for name in sorted(named, key=lambda name: name != neutral):
        parts = parts_of(name, named)
        keys: tuple[str, ...] = ()
        if name != neutral and len(parts) == 1:
            wanted = ARROWS.get(re.split("[_-]", name)[-1], ())
            keys = wanted if wanted and not taken & set(wanted) else tuple(key for key in [next(spare, "")] if key)
            taken |= set(keys)
        found.append(Control(name=name, action=list(named[name]), of=list(parts), keys=list(keys)))
    return found


def of_codes(codes: dict[str, tuple[float, ...]], mean: Sequence[float]) -> list[Control]:
    """Discovered actions on the number keys, the most frequent one first: it lasts while no key is pressed."""
    neutral = max(codes, key=lambda name: float(np.dot(codes[name], mean)))
    order = sorted(codes, key=lambda name: name != neutral)
    keys = {name: [f"Digit{i + 1}"] for i, name in enumerate(codes) if i < 9}
    return [Control(name=name, action=list(codes[name]), of=[name], keys=keys.get(name, [])) for name in order]


def parts_of(name: str, named: dict[str, tuple[float, ...]]) -> tuple[str, ...]:
    """The actions that a name such as gas_left puts together; the name alone where they are no names."""
    parts = tuple(re.split("[_-]", name))
    return parts if len(parts) > 1 and all(part in named for part in parts) else (name,)


def unnamed(trained_on: TrainedOn) -> Iterator[tuple[str, tuple[float, ...]]]:
    """The mean action of the training data, then each number two deviations below it and above."""
    mean = tuple(trained_on.action_mean)
    yield "none", mean
    for i, (name, std) in enumerate(zip(trained_on.action_names, trained_on.action_std, strict=True)):
        for sign in "-+":
            moved = mean[i] + (DEVIATIONS if sign == "+" else -DEVIATIONS) * std
            yield f"{name}{sign}", (*mean[:i], moved, *mean[i + 1 :])
