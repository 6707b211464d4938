"""ViZDoom's take_cover: imps throw fireballs, the player can only step aside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from videowm.worlds.base import Boxes
from videowm.worlds.doom import DoomWorld, boxes_of, start_engine

CAP = 2100  # tics of a scored game, at most: one minute at 35 Hz
SCREEN = (120, 160)  # (H, W) pixels, the smallest that the engine draws
VARIABLES = ("POSITION_X", "POSITION_Y", "VELOCITY_X", "VELOCITY_Y", "HEALTH")
WALLS = (16.0, 752.0)  # map units, how far along y the player's corridor reaches
# Slots of the state. Of 300 episodes' frames 99.9 % have no more fireballs, 99.5 % no more imps.
FIREBALLS, IMPS = 8, 10
PLAYER = ("x", "y", "vx", "vy", "health")
COUNTS = ("imps", "fireballs", "imps_seen", "fireballs_seen")
FIRST_SLOT = len(PLAYER) + len(COUNTS)


def slot_names(kind: str, count: int) -> list[str]:
    return [f"{kind}{i}_{what}" for i in range(count) for what in ("x", "y", "vx", "vy")]


class TakeCover(DoomWorld):
    """The player stands at one end of a hall, looks along +x and steps left (+y) or right until the imps have won.

    The engine runs at 35 Hz; its 160x120 picture is averaged over areas to 64x64. Lengths are in map units, velocities
    in map units a physics step. Fireballs and imps fill their slots from the nearest on, relative to the player;
    a slot without one is zero, and so is the velocity of a fireball that is bursting.
    """

    name = "takecover"
    size = (64, 64)
    shortest = 33  # frames; of 300 episodes 94 % lasted that long, 72 % for 65, half for 99, a tenth for 221
    action_names = ("left", "right")
    state_names = (*PLAYER, *COUNTS, *slot_names("fireball", FIREBALLS), *slot_names("imp", IMPS))
    COUNTED = COUNTS
    STILL, STRAIGHT = ("imp",), ("fireball",)
    BOUNDS = {"y": WALLS}
    FORCED = ("left", "right", "stay")
    STEERING = (1.0, -1.0)
    NAMED_ACTIONS = {"stay": (0.0, 0.0), "left": (1.0, 0.0), "right": (0.0, 1.0)}

    @property
    def longest(self) -> int:
        """A tic earns 1, so a return is the tics that were survived."""
        return CAP // self.frame_skip

    def start(self) -> Any:
        seen = {"objects_info_enabled": True, "labels_buffer_enabled": True}
        return start_engine(self.name, "take_cover", SCREEN, VARIABLES, **seen)

    def reset(self, seed: int) -> None:
        super().reset(seed)
        self._state = None

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        """Buttons are pressed by values above 0.5. The frame after death does not exist."""
        reward = self._game.make_action([float(value) > 0.5 for value in action], self.frame_skip)
        self._now, self._state = self._game.get_state(), None
        return reward, self._now is None

    def state(self) -> np.ndarray:
        if self._state is None:  # the driver and the recording both read it
            self._state = self._read()
        return self._state

    def _read(self) -> np.ndarray:
        player, now = np.array(self._now.game_variables), self._now
        found, seen = [], []
        for kind, slots in (("DoomImp", IMPS), ("DoomImpBall", FIREBALLS)):
            things = [o for o in now.objects if o.name == kind]
            rows = [(o.position_x, o.position_y, o.velocity_x, o.velocity_y) for o in things]
            rows = np.array(rows).reshape(-1, 4) - (*player[:2], 0, 0)
            near = rows[np.lexsort((rows[:, 1], np.hypot(rows[:, 0], rows[:, 1])))][:slots]
            padded = np.zeros((slots, 4))
            padded[: len(near)] = near
            found.append((len(rows), padded))
            seen.append(sum(label.object_name == kind for label in now.labels))
        (imps, imp_slots), (balls, ball_slots) = found
        return np.array([*player, imps, balls, *seen, *ball_slots.flat, *imp_slots.flat], np.float32)

    def boxes(self) -> Boxes:
        """Imps, and fireballs that fly or burst."""
        return boxes_of(self._now, {"imp": "DoomImp", "fireball": "DoomImpBall"}, self.size)

    def driver(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Wanders, stands or dodges for a while each, in this episode's own mixture."""
        habits, mixture = ("wander", "stand", "dodge"), rng.dirichlet((0.8, 0.3, 1.2))
        habit, left, side = "", 0, 0
        while True:
            if left == 0:
                habit, left = str(rng.choice(habits, p=mixture)), int(rng.integers(8, 50))
            if habit == "dodge":
                side = escape(self.state())
            elif habit == "stand":
                side = 0
            elif rng.random() < 0.15:  # else the buttons stay as they are
                side = int(rng.choice((-1, -1, 0, 1, 1)))
            left -= 1
            yield np.array([side > 0, side < 0], np.float32)

    def expert(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Always dodges."""
        while True:
            side = escape(self.state())
            yield np.array([side > 0, side < 0], np.float32)

    def caption(self, states: np.ndarray, actions: np.ndarray, rng: np.random.Generator, *, over: bool = False) -> str:
        first, last = (int(n) for n in states[[0, -1], len(PLAYER)])
        few, many = number(first), number(last)
        crowd = f"{many} imp{'s' * (last != 1)}"
        if last > first:
            crowd = str(rng.choice([f"{few}, later {many} imps", f"first {few} and then {many} imps"]))
        throw = rng.choice(["throw fireballs at the player", "hurl fireballs from across the hall at the player"])
        moved = actions[:, 0] != actions[:, 1]
        needed = np.array([escape(state) for state in states[: len(actions)]])
        dodged = (needed != 0) & (np.sign(actions[:, 0] - actions[:, 1]) == needed)
        habits = ["runs left and right", "wanders sideways"]
        if moved.mean() < 0.2:
            habits = ["hardly moves", "mostly stands still"]
        elif dodged.sum() > 0.7 * max(1, (needed != 0).sum()):
            habits = ["dodges them", "steps out of their way"]
        hits = int((np.diff(states[:, 4]) < 0).sum()) + over
        hurt = "is never hit" if not hits else "is hit once" if hits == 1 else f"is hit {hits} times"
        end = rng.choice(["dies", "is killed in the end"] if over else ["survives", "is still alive at the end"])
        return f"{crowd} {throw}, who {rng.choice(habits)}, {hurt} and {end}.".capitalize()

    def details(self, states: np.ndarray, actions: np.ndarray, rng: np.random.Generator) -> str:
        """One sentence on the beginning, the middle and the end."""
        moments = []
        for part, pressed in zip(np.array_split(states, 3), np.array_split(actions, 3), strict=True):
            if len(part) == 0 or len(pressed) == 0:
                continue
            drift = float((pressed[:, 0] - pressed[:, 1]).mean())
            way = "moves right" if drift < -0.3 else "moves left" if drift > 0.3 else "stays about where it is"
            imps, balls = (int(n) for n in part[-1, len(PLAYER) + 2 : len(PLAYER) + 4])
            seen = f"{number(imps)} imp{'s' * (imps != 1)} and {number(balls)} fireball{'s' * (balls != 1)}"
            moments.append(f"it {way} and sees {seen}")
        openings = ("at first", "then", "in the end")
        return "; ".join(f"{opening} {moment}" for opening, moment in zip(openings, moments)).capitalize() + "."


def number(count: int) -> str:
    """A count in words."""
    words = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    return words[count] if count < len(words) else "many"


def escape(state: np.ndarray) -> int:
    """Where to step in `state` "k" from the first fireball that would hit: 1 left (+y), -1 right, 0 stay."""
    balls = state[FIRST_SLOT : FIRST_SLOT + 4 * FIREBALLS].reshape(-1, 4)
    coming = balls[(balls[:, 2] < 0) & (balls[:, 0] > 0)]
    arrival = -coming[:, 0] / coming[:, 2]  # physics steps
    miss = coming[:, 1] + coming[:, 3] * arrival  # map units to the player's left
    threats = np.flatnonzero((np.abs(miss) < 56) & (arrival < 70))
    if not len(threats):
        return 0
    nearest = threats[np.argmin(arrival[threats])]
    low, high = WALLS
    if state[1] < low + 40:
        return 1
    if state[1] > high - 40:
        return -1
    return -1 if miss[nearest] > 0 else 1
