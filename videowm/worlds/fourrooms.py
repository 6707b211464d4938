"""MiniWorld's FourRooms: a light first-person house in which a player comes back to what it has seen before."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from videowm.types import UserError
from videowm.worlds.base import World

TURN, STRIDE = 3.75, 0.125  # degrees and world units a physics step: 15 degrees and half a unit a frame at frame skip 4
COLORS = ("red", "green", "blue", "yellow")  # of the boxes, one in each room
# The way round, world units (x, z): room 0, doorway 4, room 1, doorway 5, … as MiniWorld numbers them.
RING = ((-4, 4), (0, 4), (4, 4), (4, 0), (4, -4), (0, -4), (-4, -4), (-4, 0))


class FourRooms(World):
    """Four rooms in a ring, a box of another colour in each; no goal and no end.

    One physics step is 1/40 s. Buttons held together act together. State: position and heading (radians,
    anticlockwise from +x seen from above, z pointing down), the room (0-3, doorways 4-7), and where the boxes stand.
    """

    name = "fourrooms"
    size = (64, 64)
    shortest = 65
    action_names = ("turn_left", "turn_right", "forward")
    state_names = ("x", "z", "heading", "room", *(f"{color}_{axis}" for color in COLORS for axis in "xz"))
    NAMED_ACTIONS = {
        "stay": (0.0, 0.0, 0.0),
        "left": (1.0, 0.0, 0.0),
        "right": (0.0, 1.0, 0.0),
        "forward": (0.0, 0.0, 1.0),
        "forward_left": (1.0, 0.0, 1.0),
        "forward_right": (0.0, 1.0, 1.0),
    }

    def __init__(self, frame_skip: int = 4) -> None:
        self.frame_skip = frame_skip
        self.fps = 40 / frame_skip
        self._game: Any = None

    def reset(self, seed: int) -> None:
        if self._game is None:
            self._game = start_engine(*self.size)
        self._game.reset(seed=seed)

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        """Buttons are pressed by values above 0.5. There is nothing to win: the reward is 0."""
        game = self._game
        left, right, forward = (float(value) > 0.5 for value in action)
        for _ in range(self.frame_skip):
            if left != right:
                game.turn_agent(TURN if left else -TURN)
            if forward:
                game.move_agent(STRIDE, 0.0)
        return 0.0, False

    def render(self) -> np.ndarray:
        return np.ascontiguousarray(self._game.render_obs())

    def state(self) -> np.ndarray:
        game = self._game
        x, _, z = game.agent.pos
        room = next(i for i, r in enumerate(game.rooms) if r.min_x <= x <= r.max_x and r.min_z <= z <= r.max_z)
        boxes = [float(box.pos[axis]) for box in game.boxes for axis in (0, 2)]
        return np.array([x, z, game.agent.dir, room, *boxes], np.float32)

    def driver(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Walks round the ring, turns back now and then, and looks about on the spot."""
        room, way, spin, patience = int(self.state()[3]), int(rng.choice((-1, 1))), 0, 40
        node = 2 * room if room < 4 else 2 * (room - 4) + 1
        goal, forward = self._near(node, rng), False
        x, z = self.state()[:2]
        while True:
            before, (x, z, heading) = (x, z), self.state()[:3]
            patience -= 10 if forward and before == (x, z) else 1
            if math.hypot(goal[0] - x, goal[1] - z) < 0.6:
                way = -way if rng.random() < 0.12 else way
                node, patience = (node + way) % len(RING), 40
                goal = self._near(node, rng)
                if rng.random() < 0.3:  # up to a whole turn
                    spin = int(rng.integers(6, 25)) * int(rng.choice((-1, 1)))
            elif patience < 0:  # a box or a wall is in the way
                goal, patience = (x + rng.uniform(-2, 2), z + rng.uniform(-2, 2)), 15
            error = (math.atan2(z - goal[1], goal[0] - x) - heading + math.pi) % (2 * math.pi) - math.pi
            side = np.sign(spin) if spin else np.sign(error) * (abs(error) > 0.15)
            forward = not spin and abs(error) < 0.6
            spin -= np.sign(spin)
            yield np.array([side > 0, side < 0, forward], np.float32)

    @staticmethod
    def _near(node: int, rng: np.random.Generator) -> tuple[float, float]:
        """Somewhere in the room `node`, or the middle of the doorway."""
        reach = 0.0 if node % 2 else 1.0  # farther out, the way to the doorway would touch the wall
        return RING[node][0] + rng.uniform(-reach, reach), RING[node][1] + rng.uniform(-reach, reach)

    def caption(self, states: np.ndarray, actions: np.ndarray, rng: np.random.Generator, *, over: bool = False) -> str:
        numbers = ("no", "one", "two", "three", "four")
        rooms = [int(room) for room in states[:, 3] if room < 4]
        visits = [room for i, room in enumerate(rooms) if i == 0 or room != rooms[i - 1]]
        count = len(set(visits))
        place = "stays in one room" if count < 2 else f"{rng.choice(['walks', 'goes'])} through {numbers[count]} rooms"
        back = len(visits) - count
        times = "once" if back == 1 else "twice" if back == 2 else f"{back} times"
        again = f"comes back to a room seen before {times}" if back else "does not come back to any room"
        spins = ((actions[:, 0] != actions[:, 1]) & (actions[:, 2] == 0)).mean()
        looks = rng.choice(["looks around on the spot", "turns on the spot"]) if spins > 0.25 else "mostly walks ahead"
        who = rng.choice(["Seen through its eyes, someone", "A walker in a house of four rooms with coloured boxes"])
        return f"{who} {place}, {again} and {looks}."

    def details(self, states: np.ndarray, actions: np.ndarray, rng: np.random.Generator) -> str:
        turned = float(np.degrees(np.unwrap(states[:, 2])[[0, -1]] @ [-1, 1]))
        ends = "faces as at the start" if abs(turned) < 20 else f"has turned by {abs(turned):.0f} degrees"
        return f"It walks ahead in {(actions[:, 2] > 0.5).mean():.0%} of the frames and in the end {ends}."


def start_engine(height: int, width: int) -> Any:
    """A windowless game that draws "height width" pixels, with a box in each room instead of its goal.

    Raises:
        UserError: miniworld is not installed, or its renderer cannot start.
    """
    try:
        import pyglet

        # Before anything else of pyglet: it then draws through EGL, without a display.
        pyglet.options["headless"] = True
        from miniworld.entity import Box
        from miniworld.envs.fourrooms import FourRooms as Game

        class Boxes(Game):
            def _gen_world(self) -> None:
                super()._gen_world()
                self.entities.remove(self.box)
                rooms = self.np_random.permutation(len(COLORS))
                self.boxes = [self.place_entity(Box(c), room=self.rooms[r]) for c, r in zip(COLORS, rooms)]

        # The renderer says on stdout how it smooths edges.
        with contextlib.redirect_stdout(io.StringIO()):
            return Boxes(obs_width=width, obs_height=height)
    except ModuleNotFoundError as error:
        raise UserError(f"fourrooms cannot start ({error}): pip install 'videowm[maze]'") from None
    except Exception as error:  # noqa: BLE001 - a missing or broken display driver raises whatever it likes
        lacking = "install the system's EGL and OpenGL (Debian: libegl1 libgl1 libglu1-mesa)"
        raise UserError(f"fourrooms cannot draw ({type(error).__name__}: {error}): {lacking}") from None
