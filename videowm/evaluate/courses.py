"""Courses that lead away from a view and back to it, in the real game, whose own pictures say that they do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, UInt8

from videowm.evaluate.counterfactual import Future, Replay, spread
from videowm.types import UserError
from videowm.worlds import World

SETTLE = 8  # frames of standing still: before a course within the context, and behind a walk
LOOK, WALK = 12, 4  # frames to one side, and ahead
WAITS = (0, 16, 32, 64)  # frames of looking elsewhere
TAIL = 8  # frames of standing still after the return, which are measured
ROUND = 100  # frames in which a whole turn must be done
BACK = 6.0  # dB by which the view is nearer to the first one again than the farthest was


@dataclass(frozen=True)
class Course:
    """Named actions that lead away from a view and back."""

    name: str
    steps: tuple[tuple[str, int], ...]  # a named action, and for how many frames
    waited: int = 0  # frames of looking elsewhere

    @property
    def back(self) -> int:
        """The predicted frame, counted from 1, that shows the view again."""
        return sum(frames for _, frames in self.steps)

    def length(self, stride: int) -> int:
        """Frames of the whole rollout, in whole latent steps."""
        return -(-(self.back + TAIL) // stride) * stride


class Walks:
    """Actions by name, and the courses that a world has the names for."""

    def __init__(self, world: World) -> None:
        self.named = world.named_actions(world.action_names)
        if not {"left", "right"} <= set(self.named):
            raise UserError(f"the world {world.name!r} has no actions named left and right, by which a view is left")
        self.still = next((name for name in ("none", "stay") if name in self.named), "")
        self.named = {"": (0.0,) * len(world.action_names), **self.named}

    def actions(self, *steps: tuple[str, int]) -> Float[np.ndarray, "n a"]:
        """Float32 "n a", SETTLE frames of standing still first."""
        return np.repeat(np.float32([self.named[name] for name in (self.still, *(name for name, _ in steps))]),
                         [SETTLE, *(frames for _, frames in steps)], axis=0)  # fmt: skip

    def courses(self, turn: int | None) -> list[Course]:
        """Looks aside with longer and longer waits, a whole turn of `turn` frames, and a walk."""
        looks = [Course(f"look_{w}", (("left", LOOK), (self.still, w), ("right", LOOK)), w) for w in WAITS]
        turns = [Course("turn", (("left", turn),))] if turn else []
        there = ("forward", WALK), ("back", WALK), (self.still, SETTLE)
        return looks + turns + [Course("walk", there)] * ({"forward", "back"} <= set(self.named))


def nearness(frames: UInt8[np.ndarray, "f H W 3"]) -> Float64[np.ndarray, " f"]:
    """PSNR of every frame uint8 "f H W 3" against the first of them, dB."""
    error = ((frames.astype(np.float32) - frames[0]) ** 2).mean((1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error.astype(np.float64), 1e-2))


def comes_back(future: Future | None, course: Course) -> bool:
    """Whether the real view was left and is there again, in a `future` that begins with SETTLE frames of standing."""
    if future is None:
        return False
    near = nearness(future.frames[SETTLE:])
    return near[course.back] >= near[: course.back].min() + BACK


def whole_turn(future: Future | None) -> int | None:
    """The frames after which a player who holds one side sees the first view again; None where that never is."""
    if future is None:
        return None
    near = nearness(future.frames[SETTLE:])
    again = near >= np.minimum.accumulate(near) + BACK
    peaks = [i for i in range(2, len(near) - 1) if again[i] and near[i] >= near[i - 1 : i + 2].max()]
    return max(peaks, key=lambda i: near[i], default=None)


def chosen(
    replay: Replay, walks: Walks, where: list[tuple[int, int]], count: int
) -> tuple[list[tuple[int, int]], int | None]:
    """`count` of the moments (episode, frame) from which a look aside comes back, and the frames of a whole turn.

    Raises:
        UserError: they are of fewer than two episodes.
    """
    look, kept, turn = walks.courses(None)[0], [], None
    for place in (where[i] for i in spread(len(where), count)):
        if not comes_back(replay.future(*place, walks.actions(*look.steps)), look):
            continue
        kept.append(place)
        turn = turn or whole_turn(replay.future(*place, walks.actions(("left", ROUND))))
        if len(kept) == count:
            break
    if len({episode for episode, _ in kept}) < 2:
        raise UserError(f"looking left and right shows the same view again from moments of {len({e for e, _ in kept})} "
                        "held-out episodes, 2 are needed: hold out more")  # fmt: skip
    return kept, turn
