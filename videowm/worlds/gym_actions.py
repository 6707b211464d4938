"""Action spaces of gymnasium as vectors of named numbers, and back."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from videowm.types import UserError

MOST_NAMED = 64  # combined choices that get a name each
PART = re.compile(r"part(\d+)=(\d+)")


def brief(value: Any) -> str:
    """A space or an action in an error: one line, and no long one."""
    text = " ".join(str(value).split())
    return text if len(text) < 120 else f"{text[:117]}..."


class Columns:
    """An action space as columns of float32 numbers; one subclass for each kind of space."""

    names: tuple[str, ...]

    def __init__(self, space: Any, meanings: Sequence[str]) -> None:
        self.space = space

    def vector(self, action: Any) -> np.ndarray:
        """The environment's action as float32 "a".

        Raises:
            UserError: the space does not hold the action.
        """
        raise NotImplementedError

    def action(self, vector: np.ndarray) -> Any:
        """The environment's action that a float32 vector "a" stands for; the nearest one where none is meant."""
        raise NotImplementedError

    def check(self, action: Any) -> np.ndarray:
        """The action as an array of the space's shape and type.

        Raises:
            UserError: the space does not hold it.
        """
        array, space = np.asarray(action), self.space
        if array.dtype.kind in "biuf" and array.size == math.prod(space.shape) and np.isfinite(array).all():
            typed = array.reshape(space.shape).astype(space.dtype)
            if space.contains(typed if space.shape else space.dtype.type(typed)):
                return typed
        raise UserError(f"the action {brief(action)} is not in the environment's {brief(space)}: correct the policy")


class Choice(Columns):
    """`Discrete`: one column for each action, 1 for the one that is taken and 0 for the others."""

    def __init__(self, space: Any, meanings: Sequence[str]) -> None:
        super().__init__(space, meanings)
        words = [re.sub(r"[\s*]+", "_", str(word).strip().lower()) for word in meanings]
        usable = len(words) == len(set(words)) == space.n and all(words)
        self.names = tuple(words) if usable else tuple(f"action_{i}" for i in range(int(space.n)))

    def vector(self, action: Any) -> np.ndarray:
        """One-hot."""
        taken = self.check(action) - self.space.start
        return (np.arange(len(self.names)) == taken).astype(np.float32)

    def action(self, vector: np.ndarray) -> Any:
        """The choice of the largest number."""
        return self.space.dtype.type(self.space.start + int(np.argmax(vector)))


class Choices(Columns):
    """`MultiDiscrete` of one dimension: a block of such columns for each part."""

    def __init__(self, space: Any, meanings: Sequence[str]) -> None:
        super().__init__(space, meanings)
        if space.nvec.ndim != 1:
            raise UserError(f"the action space {brief(space)} has {space.nvec.ndim} dimensions, expected 1: flatten it")
        self.names = tuple(f"part{part}={i}" for part, n in enumerate(space.nvec.tolist()) for i in range(n))

    def vector(self, action: Any) -> np.ndarray:
        """One-hot, block after block."""
        taken = (self.check(action) - self.space.start).tolist()
        blocks = [np.arange(n) == one for n, one in zip(self.space.nvec.tolist(), taken, strict=True)]
        return np.concatenate(blocks).astype(np.float32)

    def action(self, vector: np.ndarray) -> Any:
        """The choice of the largest number in every block."""
        blocks = np.split(vector, np.cumsum(self.space.nvec)[:-1])
        return (self.space.start + [int(np.argmax(block)) for block in blocks]).astype(self.space.dtype)


class Numbers(Columns):
    """An array of numbers: a column for each, in their order."""

    word: str  # of the columns' names

    def __init__(self, space: Any, meanings: Sequence[str]) -> None:
        super().__init__(space, meanings)
        self.names = tuple(f"{self.word}_{i}" for i in range(math.prod(space.shape)))

    def vector(self, action: Any) -> np.ndarray:
        """The numbers, which must be finite and in the space."""
        return self.check(action).astype(np.float32).ravel()


class Buttons(Numbers):
    """`MultiBinary`: 1 where a button is pressed."""

    word = "button"

    def action(self, vector: np.ndarray) -> Any:
        """Buttons are pressed by values above 0.5."""
        return (np.reshape(vector, self.space.shape) > 0.5).astype(self.space.dtype)


class Axes(Numbers):
    """`Box`: its numbers as they are."""

    word = "axis"

    def action(self, vector: np.ndarray) -> Any:
        """The numbers within the limits, which rounding to float32 may have passed."""
        numbers = np.reshape(vector, self.space.shape)
        whole = np.round(numbers) if self.space.dtype.kind in "iu" else numbers
        return np.clip(whole.astype(self.space.dtype), self.space.low, self.space.high)


KINDS = {"Discrete": Choice, "MultiDiscrete": Choices, "MultiBinary": Buttons, "Box": Axes}


def columns_of(space: Any, meanings: Sequence[str] = ()) -> Columns:
    """The columns of an action space; `meanings` are words for the actions of a `Discrete` one.

    Raises:
        UserError: the space is of another kind, such as `Dict` or `Tuple`, or holds no number.
    """
    kinds = {cls.__name__ for cls in type(space).__mro__} & set(KINDS)
    if not kinds:
        raise UserError(
            f"the action space {brief(space)} cannot be recorded, expected {', '.join(KINDS)}: flatten it in a wrapper"
        )
    columns = KINDS[kinds.pop()](space, meanings)
    if not columns.names:
        raise UserError(f"the action space {brief(space)} holds no number: give an environment that is acted on")
    return columns


def named_actions(names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Actions that a user can write, from the names of the columns alone: a model is used without its environment.

    Choices go by their names, combined ones as in "1,0,2" where they are few. Buttons are pressed one at a time. Axes
    have no names.
    """
    alone = dict(zip(names, map(tuple, np.eye(len(names)).tolist()), strict=True))
    if not names or names[0].startswith("axis_"):
        return {}
    if names[0].startswith("button_"):
        return {"none": (0.0,) * len(names)} | alone
    parts = [PART.fullmatch(name) for name in names]
    if not all(parts):
        return alone
    sizes = [sum(int(part[1]) == i for part in parts) for i in range(1 + int(parts[-1][1]))]
    combined = itertools.product(*(range(n) for n in sizes)) if math.prod(sizes) <= MOST_NAMED else ()
    return {",".join(map(str, chosen)): tuple(float(int(p[2]) == chosen[int(p[1])]) for p in parts)
            for chosen in combined}  # fmt: skip
