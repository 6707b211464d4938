"""What a world is: a core that every world has, and parts that a world may have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Boxes = dict[str, list[tuple[slice, slice]]]  # kind of thing -> (rows, columns) of each, in pixels
HELD = 8  # frames at most that the player without a plan holds an action


@dataclass(frozen=True)
class Fact:
    """One fact that every short caption of a world states, and the column of a reader that shows it in frames."""

    name: str
    columns: tuple[str, ...]  # the first of these that the reader has is read
    low: tuple[str, ...]
    high: tuple[str, ...]  # phrases that mean more of the column than those of `low`
    others: tuple[str, ...]  # phrases that mean neither

    @property
    def pattern(self) -> str:
        """A regular expression that finds the phrase."""
        phrases = sorted((*self.low, *self.high, *self.others), key=len, reverse=True)
        return "|".join(rf"\b{re.escape(phrase)}\b" for phrase in phrases)

    def side_of(self, caption: str) -> int:
        """1 where a caption has a high phrase, -1 for a low one, 0 for neither."""
        phrase = re.search(self.pattern, caption)
        return 0 if phrase is None else (phrase[0] in self.high) - (phrase[0] in self.low)

    def changed(self, caption: str, phrase: str) -> str:
        """The caption with `phrase` in the place of this fact's phrase, all else as it was."""
        return re.sub(self.pattern, phrase, caption, count=1)


class World:
    """A game that data are recorded from: seeded, stepped by actions, drawn to RGB.

    A subclass defines the core: `name`, `fps`, `size`, `action_names`, `reset`, `step` and `render`. It costs nothing
    until `reset`: a simulator loads there. Its constructor may take `frame_skip` and other arguments with defaults.

    Everything else is optional. What this class defines for such a part means that the world lacks it. A caller uses
    the part or leaves out what needs it; no caller looks for a world's name.
    """

    name: str
    fps: float  # recorded frames, and actions, a second
    size: tuple[int, int]  # (H, W) pixels
    action_names: tuple[str, ...]

    frame_skip: int | None = None  # physics steps a frame, of a world whose constructor takes it
    shows_end: bool = False  # whether a game that is over can still be drawn: its last frame is recorded
    shortest: int = 2  # frames; a recorded episode that ends earlier is drawn anew
    solvable: bool = False  # whether a game that ends is solved; it earns how far it got, 1 at the most
    longest: int | None = None  # actions of a scored game, at most
    earned: float = 0.0  # reward of what `reset` played before the first picture, which counts in a scored game
    state_names: tuple[str, ...] = ()  # of `state`
    GOAL: dict[str, float] = {}  # what `goal` is about of the state, and differences that count alike; empty: all of it
    HAND: dict[str, str] = {}  # column of what moves things -> column of `GOAL` that it must come near to move that
    NEAR: float = 0.0  # distance of the two at which it is near enough
    NAMED_ACTIONS: dict[str, tuple[float, ...]] = {}  # what users write, as in left*8
    FORCED: tuple[str, ...] = ()  # named actions that evaluations force; without any, the first three
    FACTS: tuple[Fact, ...] = ()  # facts of captions that can be changed and read off frames
    COUNTED: tuple[str, ...] = ()  # state columns that count things
    STILL: tuple[str, ...] = ()  # kinds of `boxes` that never move and never vanish
    STRAIGHT: tuple[str, ...] = ()  # kinds of `boxes` that come straight at the camera's row, at one speed
    BOUNDS: dict[str, tuple[float, float]] = {}  # state column, the camera's place across the view -> (least, most)
    STEERING: tuple[float, ...] = ()  # weights of the action's parts, whose sum steers left or right
    NOISE: tuple[slice, slice] | None = None  # (rows, columns) of a patch of pure noise, pixels
    watched: bool = False  # whether `boxes` will be called; set before the first `reset`, since it may cost time

    def reset(self, seed: int) -> None:
        """Start the episode that `seed` names; equal seeds and actions give equal frames, bit for bit."""
        raise NotImplementedError

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        """Hold action float32 "a" for one recorded frame -> (reward, whether the game is over).

        A game that is over has no next frame: neither `render` nor `state` may be called before the next `reset`.
        Where `shows_end` is true both may be called, and only `step` may not.
        """
        raise NotImplementedError

    def render(self) -> np.ndarray:
        """The present picture, uint8 "H W 3"."""
        raise NotImplementedError

    def goal(self) -> np.ndarray:
        """A picture uint8 "H W 3" of what a player shall reach; it needs no `reset`."""
        raise NotImplementedError

    def state(self) -> np.ndarray:
        """The simulator's own state, float32 "k" in the order of `state_names`."""
        return np.zeros(0, np.float32)

    def boxes(self) -> Boxes:
        """Where small things are in the present picture: every kind of them, and a box around each that is in view.

        Raises:
            RuntimeError: the world was not `watched` from its first `reset` on, and needs that.
        """
        return {}

    def driver(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Endless actions float32 "a" of a scripted player, each chosen from the state when it is drawn.

        Without a plan of its own, the player draws a named action, or uniform numbers from -1 to 1. It holds each for
        1 to 8 frames.
        """
        while True:
            yield from [self.random(rng)] * int(rng.integers(1, HELD + 1))

    def expert(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Endless actions of the best scripted player, which agents are compared with; else the `driver`'s."""
        return self.driver(rng)

    def random(self, rng: np.random.Generator) -> np.ndarray:
        """An action float32 "a" drawn evenly: one of the named actions, else numbers from -1 to 1."""
        named = [np.float32(action) for action in self.named_actions(self.action_names).values()]
        free = rng.uniform(-1, 1, len(self.action_names)).astype(np.float32)
        return named[int(rng.integers(len(named)))] if named else free

    def caption(self, states: np.ndarray, actions: np.ndarray, rng: np.random.Generator, *, over: bool = False) -> str:
        """What happened, in one plain sentence, from states "f k" and actions "f a" (a clip: "f-1 a").

        `rng` picks the phrasing; `over` is whether the last action ended the game, which no state shows.
        """
        return ""

    def details(self, states: np.ndarray, actions: np.ndarray, rng: np.random.Generator) -> str:
        """What goes on after that sentence in a detailed caption: what changes from the first frame to the last."""
        return ""

    def facts(self, states: np.ndarray) -> dict[str, str]:
        """What captions may state of states "f k": the name of each fact, and its phrase in `sentence`.

        States read off video are told by the same phrases, so a phrase must not turn on one frame's error.
        """
        return {}

    def sentence(self, facts: dict[str, str], rng: np.random.Generator) -> str:
        """Some of the `facts` in one plain sentence; `rng` picks the phrasing of the rest of it."""
        return ""

    def states_from(self, read: dict[str, np.ndarray]) -> np.ndarray | None:
        """States float32 "f k" made of what was read off video: columns "f" of actions and state, by name.

        None where these columns say too little for `facts`.
        """
        return None

    @classmethod
    def has(cls, part: str) -> bool:
        """Whether the world defines the optional part of this name, such as "caption"."""
        return getattr(cls, part) is not getattr(World, part)

    @classmethod
    def named_actions(cls, names: Sequence[str]) -> dict[str, tuple[float, ...]]:
        """What users write, of a recording whose action has the parts `names`; empty where the world names none.

        Discovered actions, which are no parts of the world's own, are named by `discovered`.
        """
        return cls.NAMED_ACTIONS if (found := discovered(names)) is None else found

    @classmethod
    def forced_actions(cls, names: Sequence[str]) -> dict[str, tuple[float, ...]]:
        """The named actions that evaluations force; `names` as in `named_actions`."""
        named = cls.named_actions(names)
        return {name: named[name] for name in [n for n in cls.FORCED if n in named] or tuple(named)[:3]}


def discovered(names: Sequence[str]) -> dict[str, tuple[float, ...]] | None:
    """The named actions of discovered ones: values of a discrete code, none of a continuous one; None for others."""
    if not names or not re.fullmatch(r"(code|latent)0", names[0]):
        return None
    alone = np.eye(len(names)).tolist()
    return dict(zip(names, map(tuple, alone), strict=True)) if names[0] == "code0" else {}
