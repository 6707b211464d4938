"""CarRacing: its picture, drawn faster, its driver and its words."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from videowm.types import UserError
from videowm.worlds.base import Boxes, Fact, World

WINDOW = (1000, 800)  # (W, H) pixels of the game's own canvas, its y axis pointing up
DASHBOARD = 100  # rows of the canvas that the game covers with its instruments
CAR = (slice(50, 59), slice(30, 34))  # (rows, columns) of the picture that the car covers, always the same
CURBS = ((255, 255, 255), (255, 0, 0))  # colours of the road's border in sharp bends
CAP, ZOOM = 1000, 49  # physics steps of a scored game, the opening included; of the opening zoom, at least
VIEW_REACH = 50.0  # world units, more than the 48.3 from the car to the farthest corner of the canvas


class CarRacing(World):
    """gymnasium's CarRacing-v3 from above: steer, gas and brake on a random closed track.

    The physics runs at 50 Hz and only every `frame_skip`-th state is drawn. `reset` lets the scripted driver pass the
    opening zoom. A recorded episode thus starts on a moving car, in a state that the seed alone decides.
    """

    name = "carracing"
    size = (64, 64)
    shortest = 65  # frames; an episode hardly ever ends earlier
    action_names = ("steer", "gas", "brake")
    state_names = ("x", "y", "heading", "speed", "angular_speed", "wheel_angle", "on_track", "tiles_visited")
    # Turning needs motion, so left and right carry the little gas that a driver keeps in a bend; the wheels reach their
    # lock at a steer of 0.4, and a brake of 0.5 stops the car in four actions.
    NAMED_ACTIONS = {
        "coast": (0.0, 0.0, 0.0),
        "gas": (0.0, 0.4, 0.0),
        "brake": (0.0, 0.0, 0.1),
        "left": (-0.3, 0.1, 0.0),
        "right": (0.3, 0.1, 0.0),
        "gas_left": (-0.2, 0.3, 0.0),
        "gas_right": (0.2, 0.3, 0.0),
        "brake_left": (-0.3, 0.0, 0.1),
        "brake_right": (0.3, 0.0, 0.1),
    }
    FORCED = ("left", "right", "brake")
    STEERING = (1.0, 0.0, 0.0)
    FACTS = (
        Fact("turn", columns=("turn", "angular_speed"),
             low=("turning right most of the time",), high=("turning left most of the time",),
             others=("turning left and right in equal parts", "mostly straight on")),
        Fact("speed", columns=("speed", "forward"),
             low=("slowly", "at low speed"), high=("fast", "at high speed"),
             others=("at a moderate speed", "at medium pace")),
    )  # fmt: skip

    def __init__(self, frame_skip: int = 4) -> None:
        self.frame_skip = frame_skip
        self.fps = 50 / frame_skip

    def reset(self, seed: int) -> None:
        """As `World.reset`, with the opening zoom already played.

        Raises:
            UserError: pygame or gymnasium's Box2D cannot be imported.
        """
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            import pygame
            from gymnasium.envs.box2d import car_racing
        except Exception as error:  # noqa: BLE001 - a broken display or driver raises whatever it likes
            raise UserError(f"carracing cannot start ({error}): pip install 'gymnasium[box2d]'") from None
        self._pygame, self._sim = pygame, car_racing
        # A Box2D world remembers contacts of earlier tracks, so every episode gets a new game.
        if hasattr(self, "game"):
            end_game(self.game)
        self.game = car_racing.CarRacing(continuous=True)
        self.game._render = lambda mode: None  # the game would draw in every physics step
        self.game.reset(seed=seed)
        self._track = np.array([tile[2:4] for tile in self.game.track])  # "tiles 2", world units
        self._quads = np.concatenate([self._grass(), np.array([poly for poly, _ in self.game.road_poly])])
        self._centers = self._quads.mean(1)  # "quads 2"
        self._canvas = pygame.Surface(WINDOW)
        # Not a clip rectangle: gfxdraw would bend the outlines that cross its edge.
        self._view = self._canvas.subsurface((0, DASHBOARD, WINDOW[0], WINDOW[1] - DASHBOARD))
        opening, self.earned = self.driver(np.random.default_rng([seed, 50])), 0.0
        while self.game.t < 1.0:
            self.earned += self.step(next(opening))[0]

    @property
    def longest(self) -> int:
        """The official number of physics steps, less those of the opening zoom."""
        return (CAP + -ZOOM // self.frame_skip * self.frame_skip) // self.frame_skip

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        action, reward, done = np.asarray(action, np.float32), 0.0, False
        for _ in range(self.frame_skip):
            _, gained, done, _, _ = self.game.step(action)
            reward += gained
            if done:
                break
        return reward, done

    def state(self) -> np.ndarray:
        car, hull = self.game.car, self.game.car.hull
        speed = math.hypot(*hull.linearVelocity)
        motion = (*hull.position, hull.angle, speed, hull.angularVelocity, car.wheels[0].joint.angle)
        on_track = any(wheel.tiles for wheel in car.wheels)
        return np.array([*motion, on_track, self.game.tile_visited_count], np.float32)

    def render(self) -> np.ndarray:
        """The game's own picture without the dashboard: the same pixels, from only the polygons in view."""
        game, canvas = self.game, self._canvas
        zoom, shift, angle = self._camera()
        game.surf = canvas
        edge = max(map(abs, game.car.hull.position)) + VIEW_REACH > self._sim.PLAYFIELD
        self._draw_ground(zoom, shift, angle, edge=edge)
        self._draw_quads(zoom, shift, angle)
        game.car.draw(canvas, zoom, shift, angle, draw_particles=False)
        small = self._pygame.transform.smoothscale(self._view, self.size[::-1])
        # The canvas is upside down; turning it over after scaling gives the same bytes and touches 120 times fewer.
        return np.ascontiguousarray(self._pygame.surfarray.pixels3d(small).swapaxes(0, 1)[::-1])

    def boxes(self) -> Boxes:
        """The car, and each piece of the red and white curbs."""
        first = len(self._quads) - len(self.game.road_poly)
        curbs = [first + i for i, (_, color) in enumerate(self.game.road_poly) if tuple(color) in CURBS]
        x, y = self._projected(np.array(curbs, int), *self._camera())
        (width, height), (rows, columns) = WINDOW, self.size
        x, y = x * columns / width, (height - y) * rows / (height - DASHBOARD)  # pixels of the picture, y down
        sides = (y.min(1), 0, rows), (y.max(1), 0, rows), (x.min(1), 0, columns), (x.max(1), 0, columns)
        top, bottom, left, right = (side.clip(low, high) for side, low, high in sides)
        seen = (bottom > top) & (right > left)
        corners = np.stack([np.floor(top), np.ceil(bottom), np.floor(left), np.ceil(right)], 1)[seen].astype(int)
        return {"car": [CAR], "curb": [(slice(a, b), slice(c, d)) for a, b, c, d in corners.tolist()]}

    def _camera(self) -> tuple[float, tuple[float, float], float]:
        """Zoom in canvas pixels a world unit, shift in canvas pixels and angle in radians of the present picture."""
        sim, game = self._sim, self.game
        angle, (x, y) = -game.car.hull.angle, game.car.hull.position
        zoom = 0.1 * sim.SCALE * max(1 - game.t, 0) + sim.ZOOM * sim.SCALE * min(game.t, 1)
        shift = self._pygame.math.Vector2(-x * zoom, -y * zoom).rotate_rad(angle)
        return zoom, (WINDOW[0] / 2 + shift[0], WINDOW[1] / 4 + shift[1]), angle

    def _projected(
        self, which: np.ndarray, zoom: float, shift: tuple[float, float], angle: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where the corners of some quads "n" lie on the canvas: x and y, "n 4" each."""
        (cos, sin), (x, y) = self._pygame.math.Vector2(1, 0).rotate_rad(angle), self._quads[which].transpose(2, 0, 1)
        # Elementwise, in the game's own order of operations: a matrix product may round differently.
        return (cos * x - sin * y) * zoom + shift[0], (sin * x + cos * y) * zoom + shift[1]

    def _grass(self) -> np.ndarray:
        """The lighter squares of the meadow, "400 4 2" world units, in the game's drawing order."""
        corner = 2 * (np.stack(np.divmod(np.arange(400), 20), -1) - 10)[:, None]
        around = np.array([(1, 0), (0, 0), (0, 1), (1, 1)])
        return self._sim.GRASS_DIM * corner + self._sim.GRASS_DIM * around

    def _draw_ground(self, zoom: float, shift: tuple[float, float], angle: float, *, edge: bool) -> None:
        """The meadow: a plain fill, unless the black edge of the playfield may be in view."""
        game, b = self.game, self._sim.PLAYFIELD
        self._canvas.fill((0, 0, 0) if edge else tuple(game.bg_color))
        if edge:
            field = [(b, b), (b, -b), (-b, -b), (-b, b)]
            game._draw_colored_polygon(self._canvas, field, game.bg_color, zoom, shift, angle, clip=False)

    def _draw_quads(self, zoom: float, shift: tuple[float, float], angle: float) -> None:
        """Grass and road on the canvas; quads whose bounding box misses it would leave no pixel."""
        reach = VIEW_REACH + self._sim.GRASS_DIM
        near = np.flatnonzero(np.abs(self._centers - self.game.car.hull.position).max(1) < reach)
        x, y = self._projected(near, zoom, shift, angle)
        seen = (x.max(1) > -2) & (x.min(1) < WINDOW[0] + 2) & (y.max(1) > DASHBOARD - 2) & (y.min(1) < WINDOW[1] + 2)
        points = np.stack([x[seen], y[seen]], -1).astype(int).tolist()
        draw, road, first = self._sim.gfxdraw, self.game.road_poly, len(self._quads) - len(self.game.road_poly)
        # Colours are looked up anew because the game repaints the tiles that the car has touched.
        colors = [self.game.grass_color if i < first else road[i - first][1] for i in near[seen].tolist()]
        for polygon, color in zip(points, np.array(colors).astype(int).tolist(), strict=True):
            draw.aapolygon(self._canvas, polygon, color)
            draw.filled_polygon(self._canvas, polygon, color)

    def driver(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Follows the road at this episode's own pace; about 30 % of the time it does something else for a while."""
        ahead, pace, noise = int(rng.integers(3, 7)), rng.uniform(20, 55), rng.uniform(0.02, 0.15)
        left, antic = 0, (None, None, None)
        while True:
            if left == 0 and rng.random() < 0.045:
                antic, left = self._antic(rng), int(rng.triangular(4, 4, 25))
            action = self._follow(ahead, pace, rng.normal(0, noise))
            if left:
                action = np.array([own if held is None else held for held, own in zip(antic, action, strict=True)])
                # Far out there is only grass to see: the driver turns back.
                left = 0 if self._distances().min() > 14 else left - 1
            yield action.astype(np.float32)

    def random(self, rng: np.random.Generator) -> np.ndarray:
        """As the game's own action space draws."""
        return rng.uniform((-1, 0, 0), 1).astype(np.float32)

    def expert(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Follows the road fast and steers gently, so that it can also hold an action for 0.3 s; without antics.

        The three numbers were tried out on six tracks that no score is of.
        """
        while True:
            yield self._follow(9, 90, 0.0, gain=0.25, damping=0.0).astype(np.float32)

    def _follow(self, ahead: int, pace: float, noise: float, *, gain: float = 1.6, damping: float = 0.1) -> np.ndarray:
        """One action towards the road `ahead` tiles away at up to `pace` world units a second."""
        hull = self.game.car.hull
        speed = math.hypot(*hull.linearVelocity)
        nearest = int(np.argmin(self._distances()))
        error = self._heading_error(nearest + ahead)
        bend = abs(self._heading_error(nearest + 2 * ahead + 2))
        goal = pace / (1 + 1.2 * min(bend, 1.5))
        gas = np.clip(0.06 * (goal - speed), 0, 0.6) / (1 + 2 * abs(error))
        brake = np.clip(0.03 * (speed - goal - 8), 0, 0.5)
        # Without damping the car weaves at 55 units a second and this gain: 56 % of the time above 2.5 rad/s.
        steer = np.clip(noise - gain * error + damping * hull.angularVelocity, -1, 1)
        return np.array([steer, gas, brake])

    def _distances(self) -> np.ndarray:
        """World units from the car to the middle of every tile, "tiles"; the road reaches 6.7 to either side."""
        return np.hypot(*(self._track - self.game.car.hull.position).T)

    def _heading_error(self, tile: int) -> float:
        """Radians from the car's heading to the direction of a tile, positive to the left."""
        hull = self.game.car.hull
        dx, dy = self._track[tile % len(self._track)] - hull.position
        error = math.atan2(dy, dx) - math.pi / 2 - hull.angle
        return (error + math.pi) % (2 * math.pi) - math.pi

    def _antic(self, rng: np.random.Generator) -> tuple[float | None, float | None, float | None]:
        """What a player may do that a good driver does not: (steer, gas, brake), None for the driver's own."""
        side = rng.choice([-1.0, 1.0])
        antics = {
            "wander": (rng.uniform(-0.6, 0.6), rng.uniform(0, 0.4), 0.0),
            "full lock": (side, rng.uniform(0, 0.3), 0.0),
            "leave the road": (side * rng.uniform(0.15, 0.4), rng.uniform(0.1, 0.4), 0.0),
            "no hands": (0.0, rng.uniform(0, 0.3), 0.0),
            "brake": (None, 0.0, rng.uniform(0.1, 1.0)),
            "coast": (None, 0.0, 0.0),
            "race": (None, rng.uniform(0.3, 1.0), 0.0),
        }
        return antics[str(rng.choice(list(antics)))]

    def caption(self, states: np.ndarray, actions: np.ndarray, rng: np.random.Generator, *, over: bool = False) -> str:
        speed, spin, off = states[:, 3], states[:, 4], 1 - states[:, 6].mean()
        subject = rng.choice(["a red car drives", "the red race car goes", "seen from above, a red car moves"])
        paces = ("slowly", "at low speed"), ("at a moderate speed", "at medium pace"), ("fast", "at high speed")
        pace = rng.choice(paces[int(np.digitize(speed.mean(), [22, 36]))])
        left, right = (spin > 0.5).mean(), (spin < -0.5).mean()
        turns = "turning left and right in equal parts"
        if left + right < 0.2:
            turns = "mostly straight on"
        elif max(left, right) > 1.5 * min(left, right):
            turns = f"turning {'left' if left > right else 'right'} most of the time"
        roads = ("staying on the road", "leaving the road for a moment", "often off the road on the grass")
        habits = [turns, roads[int(np.digitize(off, [0.02, 0.25]))]]
        if (actions[:, 2] > 0.1).mean() > 0.1:
            habits.append(str(rng.choice(["braking now and then", "with several stretches of braking"])))
        if (speed < 2).mean() > 0.08:
            habits.append("standing still for a while")
        text = f"{subject} {pace}, {', '.join(habits[:-1])} and {habits[-1]}."
        return text[0].upper() + text[1:]

    def details(self, states: np.ndarray, actions: np.ndarray, rng: np.random.Generator) -> str:
        """Sentences on the beginning, middle and end of states "f k" and actions "f a", and on what they add up to."""
        parts = zip(np.array_split(states, 3), np.array_split(actions, 3), strict=True)
        moments = [self._moment(*part) for part in parts if len(part[0])]
        openings = rng.choice([("At first", "then", "finally"), ("In the beginning", "after that", "towards the end")])
        kept = [(o, m) for i, (o, m) in enumerate(zip(openings, moments)) if i == 0 or m != moments[i - 1]]
        story = "; ".join(f"{opening} it {moment}" for opening, moment in kept)
        if len(kept) == 1:
            story = f"{rng.choice(['From beginning to end', 'All the time'])} it {moments[0]}"
        gained = states[-3:, 3].mean() - states[:3, 3].mean()
        paces = ("slows down", "gets slower"), ("keeps its speed", "keeps its pace"), ("speeds up", "gets faster")
        pace = rng.choice(paces[int(np.digitize(gained, [-6, 6]))])
        turned = float(states[-1, 2] - states[0, 2])  # radians, anticlockwise
        amounts = "a little", "by about a quarter of a circle", "by about half a circle", "by more than half a circle"
        amount = amounts[int(np.digitize(abs(turned), [1.0, 2.4, 3.9]))]
        side = "left" if turned > 0 else "right"
        ends = "faces as it did before" if abs(turned) < 0.25 else f"has turned {side} {amount}"
        return f"{story}. Over these frames it {pace} and in the end {ends}."

    def _moment(self, states: np.ndarray, actions: np.ndarray) -> str:
        """A third of a clip in a few words, after "it"."""
        speed, spin, on = states[:, 3].mean(), states[:, 4].mean(), states[:, 6].mean()
        if speed < 2:
            return f"stands still on the {'road' if on > 0.5 else 'grass'}"
        way = ("crawls", "rolls", "drives", "races")[int(np.digitize(speed, [10, 22, 36]))]
        bends = "bending sharply right", "bending right", "straight ahead", "bending left", "bending sharply left"
        bend = bends[int(np.digitize(spin, [-1.5, -0.4, 0.4, 1.5]))]
        road = ("over the grass", "half on the grass", "along the road")[int(np.digitize(on, [0.3, 0.9]))]
        brakes = " and brakes" if len(actions) and (actions[:, 2] > 0.1).mean() > 0.3 else ""
        return f"{way} {road}, {bend}{brakes}"


def end_game(game: Any) -> None:
    """Let a game go: its world and its listener hold each other, and with them every tile of the track."""
    game._destroy()
    game.world.contactListener = game.contactListener_keepref = None
    game.world.contactListener_bug_workaround = None
