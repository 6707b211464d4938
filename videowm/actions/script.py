"""Actions as a user writes them: `left*8 gas*16`, or a table in a file; and two opposite actions to compare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from videowm.config import suggest
from videowm.types import UserError
from videowm.worlds import find_world

MOST = 1_000_000  # actions of one script
STILL = 1e-3  # standard deviation below which an action never changed; latents.json holds none smaller


def parse_actions(text: str, named: dict[str, tuple[float, ...]]) -> Float32[np.ndarray, "n a"]:
    """The actions of a script such as `left*8 gas`: one row for each frame that an action is held.

    Args:
        text: words `name` or `name*count`, with spaces between.
        named: the world's action names and their vectors.

    Raises:
        UserError: an unknown name, a count that is no number from 1 on, no actions, or more than a million.
    """
    rows: list[tuple[float, ...]] = []
    for word in text.split():
        name, star, count = word.partition("*")
        if name not in named:
            raise UserError(f"unknown action {name!r}{suggest(name, named)}")
        if star and not (count.isascii() and count.isdigit() and count.strip("0")):
            raise UserError(f"{word!r}: after * comes a number of actions above 0, as in {name}*8")
        times = int(count[:8]) if star else 1  # eight digits are too many already
        if len(rows) + times > MOST:
            raise UserError(f"{text[:40]!r} asks for more than {MOST} actions: write fewer")
        rows += [tuple(named[name])] * times
    if not rows:
        raise UserError(f"no actions in {text!r}; write for example {next(iter(named), 'name')}*8")
    return np.array(rows, dtype=np.float32)


def opposite_actions(
    world: str, names: Sequence[str], mean: Sequence[float], std: Sequence[float]
) -> dict[str, tuple[float, ...]]:
    """Two actions, by name, whose futures are worth comparing.

    Left and right where the world has them, else the first two that it forces. Without a world they are one standard
    deviation to either side of the mean of the first action that varies.

    Args:
        world: name of the world, which need not be installed.
        names: the action's parts, in order.
        mean: of each part over the data.
        std: standard deviation of each part.

    Raises:
        UserError: the world has no named actions and no action varies.
    """
    found = find_world(world)
    if found is not None:
        named, forced = found.named_actions(names), found.forced_actions(names)
        pair = {name: named[name] for name in ("left", "right") if name in named}
        pair = pair if len(pair) == 2 else dict(list(forced.items())[:2])
        if [len(action) for action in pair.values()] == [len(names)] * 2:
            return pair
    varies = [i for i, spread in enumerate(std) if spread > STILL]
    if not varies:
        raise UserError(f"no action of {world} varies in its data, so no two futures differ: record other actions")
    i = varies[0]
    sides = {sign: [m + sign * std[i] * (n == i) for n, m in enumerate(mean)] for sign in (-1, 1)}
    return {f"{names[i]} {side[i]:.2g}": tuple(side) for side in sides.values()}
