"""ViZDoom's my_way_home: nine rooms, each with walls of its own, seen by someone who walks through them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from videowm.worlds.base import HELD, Boxes, Fact
from videowm.worlds.doom import DoomWorld, boxes_of, start_engine

SCREEN = (192, 256)  # (H, W) pixels that the engine draws
TURN = 2.0  # degrees a physics step: 8 a frame at frame skip 4
STRIDE = 15.0  # the engine's measure of thrust: from a standing start, 20 map units a frame after half a second
VARIABLES = ("POSITION_X", "POSITION_Y", "ANGLE", "VELOCITY_X", "VELOCITY_Y")
BUTTONS = ("TURN_LEFT_RIGHT_DELTA", "MOVE_FORWARD_BACKWARD_DELTA", "MOVE_LEFT_RIGHT_DELTA")
# The rooms and their middles, map units (x, y); walls are REACH away.
ROOMS = {
    "the machines": (240, -176),
    "dark blue walls": (464, -176),
    "the lockers": (464, 48),
    "white panels": (688, -176),
    "orange lamps": (688, 48),
    "red walls": (464, -464),
    "blue screens": (1040, 48),
    "green walls": (1040, -176),
    "the vest": (1040, -352),
}
REACH, VEST, PASSAGE = 80, 8, 9  # PASSAGE: the number that a state has outside all rooms
# Places to walk to: the rooms, then turning points and middles of the passages between them.
PLACES = np.array([
    *ROOMS.values(), (352, -176), (464, -64), (464, -320), (576, -176), (688, -64), (576, 48), (864, 48), (1040, -64),
    (1040, -240), (464, -672), (540, -672),
])  # fmt: skip
WAYS = ((0, 9, 1), (1, 10, 2), (1, 11, 5), (1, 12, 3), (3, 13, 4), (2, 14, 4), (4, 15, 6), (6, 16, 7), (7, 17, 8),
        (5, 18, 19))  # fmt: skip
GLANCES = np.radians([0, 0, 0, 0, 0, 45, -45, 90, -90, 180])  # from the way that is walked to the way that is seen
STEPS = [pair for way in WAYS for a, b in zip(way, way[1:]) for pair in ((a, b), (b, a))]


class DoomRooms(DoomWorld):
    """Someone walks through eight rooms from a random place on; taking the vest in the ninth ends the game.

    The engine runs at 35 Hz; its 256x192 picture is averaged over areas to 128x128. Lengths are in map units,
    velocities in map units a physics step. The heading is in radians, anticlockwise; the player looks along
    (look_x, look_y) = (-sin, cos) of it. `room` is a number of `ROOMS`, or 9 in a passage. The house is the same in
    every episode, and nothing in it moves but the vest, which blinks.
    """

    name = "doomrooms"
    size = (128, 128)
    shortest = 65
    action_names = ("turn", "forward", "strafe")  # -1 to 1, turn and strafe positive to the right
    state_names = ("x", "y", "heading", "look_x", "look_y", "vx", "vy", "room")
    NAMED_ACTIONS = {
        "none": (0.0, 0.0, 0.0),
        "forward": (0.0, 1.0, 0.0),
        "back": (0.0, -1.0, 0.0),
        "left": (-1.0, 0.0, 0.0),
        "right": (1.0, 0.0, 0.0),
        "strafe-left": (0.0, 0.0, -1.0),
        "strafe-right": (0.0, 0.0, 1.0),
        "forward-left": (-1.0, 1.0, 0.0),
        "forward-right": (1.0, 1.0, 0.0),
    }
    FORCED = ("forward", "left", "right")
    FACTS = (
        Fact("walk", columns=("forward",),
             low=("mostly standing", "mostly walking backwards"), high=("mostly walking ahead",),
             others=("mostly walking sideways",)),
        Fact("turn", columns=("turn",),
             low=("turning right",), high=("turning left",), others=("turning both ways", "hardly turning")),
    )  # fmt: skip

    def start(self) -> Any:
        off = dict.fromkeys(("render_crosshair", "render_weapon", "render_messages"), False)
        return start_engine(self.name, "my_way_home", SCREEN, VARIABLES, BUTTONS, episode_timeout=0,
                            labels_buffer_enabled=self.watched, **off)  # fmt: skip

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        """Values are cut to -1 to 1. The reward for the vest is 1; the frame after it does not exist."""
        turn, forward, strafe = (float(value) for value in np.clip(action, -1, 1))
        reward = self._game.make_action([TURN * turn, STRIDE * forward, STRIDE * strafe], self.frame_skip)
        self._now = self._game.get_state()
        return reward, self._now is None

    def state(self) -> np.ndarray:
        x, y, degrees, vx, vy = (float(value) for value in self._now.game_variables)
        heading = math.remainder(math.radians(degrees - 90), 2 * math.pi)
        return np.array([x, y, heading, -math.sin(heading), math.cos(heading), vx, vy, room_at(x, y)], np.float32)

    def boxes(self) -> Boxes:
        """The vest; only of a world that was `watched` from its first `reset` on."""
        return boxes_of(self._now, {"vest": "GreenArmor"}, self.size)

    def driver(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Walks from place to place, ahead, sideways or backwards; looks around; now and then only holds a button.

        Two episodes in ten go for the vest where they come near it.
        """
        place, before = nearest(*self.state()[:2]), -1
        goal, glance, seeks = middle(place, rng), 0.0, rng.random() < 0.2
        held, action, last = [], np.zeros(3), self.state()[:2]
        while True:
            x, y, heading = self.state()[:3]
            blocked = action[1:].any() and math.hypot(x - last[0], y - last[1]) < 0.4 * self.frame_skip
            last = x, y
            if math.hypot(goal[0] - x, goal[1] - y) < 28 and not held:
                place, before = onwards(place, before, rng, vest=seeks), place
                goal, glance = middle(place, rng), float(rng.choice(GLANCES)) if rng.random() < 0.15 else glance
                if rng.random() < 0.08:  # up to a whole turn
                    held = [np.array([rng.choice((-1, 1)), 0, 0])] * int(rng.integers(10, 46))
            elif blocked:  # by a corner: the nearest place lies straight ahead of wherever one is
                place, before = nearest(x, y), -1
                goal, glance = PLACES[place], 0.0
                escape = np.array([rng.choice((-1, 0, 1)), -rng.integers(2), rng.choice((-1, 1))])
                held = [escape] * int(rng.integers(1, 4))
            elif not held and rng.random() < 0.03:
                held = [np.array(rng.choice(list(self.NAMED_ACTIONS.values())))] * int(rng.integers(1, HELD + 1))
            action = held.pop() if held else towards(goal - (x, y), heading, glance, self.frame_skip * TURN)
            yield action.astype(np.float32)

    def facts(self, states: np.ndarray) -> dict[str, str]:
        """Where a clip begins and ends, how the player walks and turns, and by how much it turns in all."""
        walk, turn, turned = gait(states), swing(states), f"in all {amount(states)}"
        start, end = (
            f"{word} {whereabouts(states[some])}" for word, some in (("from", slice(3)), ("to", slice(-3, None)))
        )
        return {"walk": walk, "turn": turn, "start": start, "end": end, "turned": turned}

    def sentence(self, facts: dict[str, str], rng: np.random.Generator) -> str:
        who = rng.choice(["Someone in a maze of rooms is seen", "A walker through a maze is seen"])
        return f"{who} {', '.join(facts.values())}."

    def states_from(self, read: dict[str, np.ndarray]) -> np.ndarray | None:
        """Means of a few frames stand for each frame, since a reader errs anew in every one."""
        if not {*self.state_names[:2], *self.state_names[3:7]} <= set(read):
            return None
        x, y, look_x, look_y, vx, vy = (smooth(read[name]) for name in (*self.state_names[:2], *self.state_names[3:7]))
        long = np.maximum(np.hypot(look_x, look_y), 1e-6)
        rooms = [room_at(*point) for point in zip(x, y, strict=True)]
        columns = x, y, np.arctan2(-look_x, look_y), look_x / long, look_y / long, vx, vy, rooms
        return np.stack(columns, 1).astype(np.float32)

    def caption(self, states: np.ndarray, actions: np.ndarray, rng: np.random.Generator, *, over: bool = False) -> str:
        """One to five of the facts."""
        facts = self.facts(states)
        some = set(rng.permutation(list(facts))[: rng.integers(1, len(facts) + 1)].tolist())
        told = self.sentence({name: phrase for name, phrase in facts.items() if name in some}, rng)
        return told if not over else f"{told[:-1]}, and takes the green vest."

    def details(self, states: np.ndarray, actions: np.ndarray, rng: np.random.Generator) -> str:
        """The beginning, the middle and the end, and what they add up to."""
        parts = [f"{gait(part)} and {swing(part)}" for part in np.array_split(states, 3) if len(part) > 1]
        story = "; ".join(f"{when} it is {part}" for when, part in zip(("At first", "then", "in the end"), parts))
        turned = math.degrees(float(turns(states).sum()))
        side = "left" if turned > 0 else "right"
        ends = f"has turned {side} by {abs(turned):.0f} degrees" if abs(turned) > 10 else "looks where it looked before"
        return f"{story or 'It stands'}. In all it {ends}."


def gait(states: np.ndarray) -> str:
    """How the player moves in states "f k": a phrase of the fact "walk"."""
    look, velocity = states[:, 3:5], states[:, 5:7]
    ahead = (look * velocity).sum(1)  # map units a physics step
    aside = np.abs(look[:, 0] * velocity[:, 1] - look[:, 1] * velocity[:, 0])
    moves = np.maximum(np.abs(ahead), aside) > 1
    shares = {
        "mostly standing": ~moves,
        "mostly walking ahead": moves & (ahead >= aside),
        "mostly walking backwards": moves & (ahead <= -aside),
        "mostly walking sideways": moves & (np.abs(ahead) < aside),
    }
    return max(shares, key=lambda phrase: shares[phrase].sum())


def turns(states: np.ndarray) -> np.ndarray:
    """Radians by which the player turns from each of the states "f k" to the next, "f-1", positive to the left."""
    return (np.diff(states[:, 2]) + np.pi) % (2 * np.pi) - np.pi


def swing(states: np.ndarray) -> str:
    """How the player turns in states "f k": a phrase of the fact "turn"."""
    turn = np.degrees(turns(states))
    left, right = float(turn.clip(0).sum()), float(-turn.clip(None, 0).sum())
    if left + right < 1.5 * len(turn):
        return "hardly turning"
    return "turning left" if left > 2 * right else "turning right" if right > 2 * left else "turning both ways"


def amount(states: np.ndarray) -> str:
    """By how much the player turns in states "f k" from the first to the last, in quarters of a whole turn."""
    turned = math.degrees(float(turns(states).sum()))
    if abs(turned) < 45:
        return "less than an eighth of a turn"
    size = ("a quarter of a turn", "half a turn", "more than half a turn")[int(np.digitize(abs(turned), [135, 225]))]
    return f"{size} to the {'left' if turned > 0 else 'right'}"


def whereabouts(states: np.ndarray) -> str:
    """Where the player is in most of the states "f k"."""
    room = int(np.bincount(states[:, 7].astype(int)).argmax())
    return "a dark passage" if room == PASSAGE else f"the room with {list(ROOMS)[room]}"


def smooth(values: np.ndarray, width: int = 5) -> np.ndarray:
    """The mean of the `width` numbers of "f" about each one, fewer at the ends."""
    ones = np.ones(min(width, 2 * ((len(values) - 1) // 2) + 1))  # odd, and no longer than the values
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")


def room_at(x: float, y: float) -> int:
    """The number of the room at a point, map units."""
    inside = (room for room, (a, b) in enumerate(ROOMS.values()) if max(abs(x - a), abs(y - b)) <= REACH)
    return next(inside, PASSAGE)


def nearest(x: float, y: float) -> int:
    """The index of the place nearest to a point, map units."""
    return int(np.hypot(*(PLACES - (x, y)).T).argmin())


def middle(place: int, rng: np.random.Generator) -> np.ndarray:
    """A point about the middle of a room, or the middle of a passage, map units "2"."""
    return PLACES[place] + (rng.uniform(-24, 24, 2) if place < VEST else 0)


def onwards(place: int, before: int, rng: np.random.Generator, *, vest: bool) -> int:
    """A place next to `place`, rarely the one `before`, and the vest only if it is wanted."""
    ways = [b for a, b in STEPS if a == place and (vest or b != VEST)]
    new = [b for b in ways if b != before]
    straight = [b for b in new if before >= 0 and (PLACES[b] - PLACES[place]) @ (PLACES[place] - PLACES[before]) > 0]
    ahead = straight if straight and rng.random() < 0.5 else new
    return int(rng.choice(ahead if ahead and rng.random() < 0.93 else ways))


def towards(way: np.ndarray, heading: float, glance: float, most: float) -> np.ndarray:
    """The action "3" that goes along `way` "2" and looks `glance` radians to its left; it turns by `most` degrees."""
    bearing = math.atan2(-way[0], way[1])  # measured as headings are
    error = math.remainder(bearing + glance - heading, 2 * math.pi)
    turn = float(np.clip(-math.degrees(error) / most, -1, 1))
    if abs(error) > 1.2:
        return np.array([turn, 0, 0])
    side = heading - bearing  # radians from where the player looks to where it goes, positive to the right
    return np.array([turn, round(math.cos(side)), round(math.sin(side))])
