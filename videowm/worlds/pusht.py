"""PushT: a round finger pushes a T to where a green T is painted, with the physics and the starts of gym-pusht."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from videowm.types import UserError
from videowm.worlds.base import World

TABLE, DRAWN = 512, 384  # side of the table; of the canvas, which is averaged down to the picture
GOAL = (256.0, 256.0, np.pi / 4)  # x, y, angle of the painted T
BARS = (
    ((-60, 0), (60, 0), (60, 30), (-60, 30)),
    ((-15, 30), (15, 30), (15, 120), (-15, 120)),
)  # of the T
MIDDLE = np.array([0.0, 45.0])  # of its mass, in its own axes
FINGER, EDGE = 15.0, 15.0  # radius; how near its middle may come to the table's edge
REACH = 30.0  # how far ahead of the finger the action 1 puts its target
A_FRAME = 15.0  # how far a held push of 1 moves the finger in a frame
TICKS, SECONDS = 10, 0.01  # physics steps of a frame, and of each
STIFF, DAMPED = 100.0, 20.0  # of the controller
SOLVED = 0.95  # share of the painted T that must be covered
COLOURS = {"table": (255, 255, 255), "wall": (211, 211, 211), "goal": (144, 238, 144), "block": (119, 136, 153),
           "finger": (65, 105, 225)}  # fmt: skip
LEVER = 50.0  # how far off its middle a push turns the T as much as it moves it
ROUND = 100.0  # how far from the T's middle the driver walks about it
ENOUGH = 2.0  # what a push must help, in units of the table
STEADY = 0.1  # noise of the expert
PATIENCE = 40  # frames for which it keeps to a place to push at
Look = Callable[[], tuple[np.ndarray, np.ndarray]]


class PushT(World):
    """gym-pusht's PushT-v0 at 10 frames a second; it is solved, and over, when 95 % of the painted T are covered.

    The action is relative: 1 puts the controller's target 30 units ahead of the finger, and it is renewed every frame.
    Held, it is a straight push of up to 150 units a second. So the same number does the same anywhere on the table.

    Args:
        noise: how clumsy the driver is, from 0 to 1; None: another number in each episode.
        explore: the share of a driver's episodes that only explore: straight pushes that no state lets one guess.
    """

    name = "pusht"
    fps = 1 / (TICKS * SECONDS)
    size = (96, 96)
    action_names = ("right", "down")
    state_names = ("finger_x", "finger_y", "block_x", "block_y", "block_cos", "block_sin", "coverage")
    shows_end = True
    longest = 300
    solvable = True
    # Held for four frames, a push of 0.8 moves the finger by about half the T's length.
    NAMED_ACTIONS = {
        "stay": (0.0, 0.0),
        "left": (-0.8, 0.0),
        "right": (0.8, 0.0),
        "up": (0.0, -0.8),
        "down": (0.0, 0.8),
    }
    GOAL = {"block_x": 60.0, "block_y": 60.0, "block_cos": 1.0, "block_sin": 1.0}  # a turn moves the T's ends so far
    HAND = {"finger_x": "block_x", "finger_y": "block_y"}
    NEAR = 100.0
    FORCED = ("left", "right", "up", "down")

    def __init__(self, noise: float | None = None, explore: float = 0.0) -> None:
        for name, share in (("noise", noise), ("explore", explore)):
            if share is not None and not 0 <= share <= 1:
                raise UserError(f"{name} {share} cannot be used: give 0 to 1")
        self.noise, self.explore, self.space = noise, explore, None

    def reset(self, seed: int) -> None:
        """As `World.reset`; the same seed begins as gym-pusht does.

        Raises:
            UserError: pymunk or shapely cannot be imported.
        """
        try:
            import pymunk
            import shapely  # noqa: F401 - `area` needs it
        except ImportError as error:
            raise UserError(f"pusht cannot start ({error}): pip install 'videowm[robots]'") from None
        rng = np.random.default_rng(seed)
        self.close()
        self.space, self.finger, self.block = table(pymunk)
        place = [*rng.integers(50, 450, 1), *rng.integers(50, 450, 1), *rng.integers(100, 400, 1),
                 *rng.integers(100, 400, 1), rng.uniform(-np.pi, np.pi)]  # fmt: skip
        self.finger.position = tuple(map(float, place[:2]))
        self.block.position = tuple(map(float, place[2:4]))
        self.block.angle = place[4]  # turns about the middle of mass, so it comes to lie elsewhere, as in gym-pusht
        self.space.step(SECONDS)
        self.earned = self.covered = coverage(pose(self.block))

    def close(self) -> None:
        """Take the table apart in order, rather than leave that to the garbage collector."""
        if self.space is not None:
            self.space.remove(*self.space.shapes, *self.space.bodies)
        self.space = None

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        """The reward is what is covered more, so a game earns the share that is covered in the end."""
        self.move(action)
        before, self.covered = self.covered, coverage(pose(self.block))
        return self.covered - before, self.covered > SOLVED

    def move(self, action: np.ndarray) -> None:
        """A frame of physics, and nothing else: what is covered is not looked at."""
        ahead = np.array(self.finger.position) + REACH * np.clip(np.asarray(action, np.float64), -1, 1)
        push(self.space, self.finger, ahead.clip(EDGE, TABLE - EDGE).tolist())

    def state(self) -> np.ndarray:
        turned = np.cos(self.block.angle), np.sin(self.block.angle)
        return np.array([*self.finger.position, *self.block.position, *turned, self.covered], np.float32)

    def render(self) -> np.ndarray:
        return draw(pose(self.block), tuple(self.finger.position))

    def goal(self) -> np.ndarray:
        """The solved table, uint8 "H W 3", the finger out of the way."""
        return draw(np.array(GOAL), (TABLE - 60.0, TABLE - 60.0))

    def random(self, rng: np.random.Generator) -> np.ndarray:
        """Any push, evenly drawn."""
        return rng.uniform(-1, 1, 2).astype(np.float32)

    def expert(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """The driver with a steady hand: with no noise at all it often gets stuck in one place."""
        return pushes(self.look, rng, STEADY)

    def driver(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Goes behind the T and pushes where it helps most, more or less clumsily; now and then it wanders about.

        In the episodes that explore it does not care what helps.
        """
        if self.explore and rng.random() < self.explore:
            return explorations(self.look, rng)
        return pushes(self.look, rng, rng.uniform() if self.noise is None else self.noise)

    def look(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the finger is, "2", and where the T lies: x, y, angle."""
        return np.array(self.finger.position), pose(self.block)

    def caption(self, states: np.ndarray, actions: np.ndarray, rng: np.random.Generator, *, over: bool = False) -> str:
        moved = np.hypot(*np.diff(states[:, 2:4], axis=0).T).sum()
        habit = ("moves about beside a gray T", "nudges a gray T a little", "pushes a gray T along")
        done = f"{rng.choice(['A blue finger', 'Seen from above, a blue finger'])} {habit[np.digitize(moved, [3, 40])]}"
        ends = "off the green one", "partly over the green one", "over most of the green one"
        return f"{done}, which ends {ends[int(np.digitize(states[-1, 6], [0.05, 0.6]))]}."

    def details(self, states: np.ndarray, actions: np.ndarray, rng: np.random.Generator) -> str:
        """Where the finger is in the end, and whether more of the painted T is covered than before."""
        across, along = (int(np.digitize(value, [171, 341])) for value in states[-1, :2])
        where = f"{('upper', 'middle', 'lower')[along]} {('left', 'centre', 'right')[across]}"
        more = int(np.digitize(states[-1, 6] - states[0, 6], [-0.03, 0.03]))
        covers = (
            "covers less of the green T than before",
            "covers as much of the green T as before",
            "covers more of it",
        )
        return f"The finger ends in the {where} of the table, and the gray T {covers[more]}."


def area(place: np.ndarray) -> Any:
    """What the T covers at some place, as shapely says it."""
    import shapely

    return shapely.MultiPolygon([shapely.Polygon(moved(np.array(bar, float), place)) for bar in BARS])


def coverage(place: np.ndarray) -> float:
    """The share of the painted T that a T at some place covers."""
    goal, whole = painted()
    return float(goal.intersection(area(place)).area / whole)


@cache
def painted() -> tuple[Any, float]:
    """The painted T, and the size of its area."""
    goal = area(np.array(GOAL))
    return goal, goal.area


def table(pymunk: Any) -> tuple[Any, Any, Any]:
    """A space with walls, the finger and the T."""
    space = pymunk.Space()
    space.damping = 0  # nothing slides on by itself
    ends = [((5, 506), (5, 5)), ((5, 5), (506, 5)), ((506, 5), (506, 506)), ((5, 506), (506, 506))]
    space.add(*(pymunk.Segment(space.static_body, a, b, 2) for a, b in ends))
    finger = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
    space.add(finger, pymunk.Circle(finger, FINGER))
    corners = [[(float(x), float(y)) for x, y in bar] for bar in BARS]
    block = pymunk.Body(1, 2 * pymunk.moment_for_poly(1, corners[0]))  # gym-pusht counts the crossbar twice
    shapes = [pymunk.Poly(block, bar) for bar in corners]
    block.center_of_gravity = tuple(MIDDLE)
    space.add(block, *shapes)
    return space, finger, block


def push(space: Any, finger: Any, target: list[float]) -> None:
    """A frame of physics: the controller draws the finger to the target."""
    for _ in range(TICKS):
        (x, y), (u, v) = finger.position, finger.velocity
        pull = STIFF * (target[0] - x) - DAMPED * u, STIFF * (target[1] - y) - DAMPED * v
        finger.velocity = u + SECONDS * pull[0], v + SECONDS * pull[1]
        space.step(SECONDS)


def pose(block: Any) -> np.ndarray:
    """Where the T lies: x, y, angle."""
    return np.array([*block.position, block.angle])


def moved(points: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Points "n 2" in the T's own axes, on the table."""
    cos, sin = np.cos(place[2]), np.sin(place[2])
    return points @ np.array([[cos, sin], [-sin, cos]]) + place[:2]


def draw(place: np.ndarray, finger: tuple[float, float]) -> np.ndarray:
    """The table from above, uint8 "96 96 3"."""
    scale = DRAWN / TABLE
    canvas = Image.new("RGB", (DRAWN, DRAWN), COLOURS["table"])
    pen = ImageDraw.Draw(canvas)
    pen.rectangle((4, 4, DRAWN - 5, DRAWN - 5), outline=COLOURS["wall"], width=3)
    for where, colour in ((np.array(GOAL), "goal"), (place, "block")):
        for bar in BARS:
            pen.polygon((scale * moved(np.array(bar, float), where)).ravel().tolist(), fill=COLOURS[colour])
    (x, y), radius = (scale * value for value in finger), scale * FINGER
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLOURS["finger"])
    return np.asarray(canvas.reduce(DRAWN // PushT.size[0]))


def pushes(look: Look, rng: np.random.Generator, noise: float) -> Iterator[np.ndarray]:
    """Endless actions float32 "2" of the driver, each chosen when it is drawn from what it sees of the table.

    Args:
        look: where the finger is, "2", and the T: x, y, angle.
        rng: of the noise.
        noise: how clumsy it is, 0 to 1.
    """
    chosen, left = 0, 0
    while True:
        if rng.random() < 0.1 * noise:
            yield from [rng.uniform(-1, 1, 2).astype(np.float32)] * int(rng.integers(2, 12))
            left = 0
        finger, place = look()
        points, inward = sides(place)
        gain = helps(place, points, inward)
        if left == 0 or gain[chosen] < ENOUGH:
            noisy = gain + 15 * noise * rng.normal(size=len(gain))
            chosen, left = best(finger, points, inward, noisy), PATIENCE
        action = towards(finger, place, points[chosen], inward[chosen], float(gain[chosen]))
        left -= 1
        yield np.clip(action + 0.6 * noise * rng.normal(size=2), -1, 1).astype(np.float32)


def explorations(look: Look, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Endless straight pushes float32 "2", each held for some frames: as many through the T as anywhere else.

    Args:
        look: as of `pushes`.
        rng: of all that is drawn.
    """
    while True:
        finger, place = look()
        size, frames, push = rng.uniform(0.3, 1), int(rng.integers(4, 17)), rng.uniform(-1, 1, 2)
        if rng.random() < 0.5:
            way = rng.choice(sides(place)[0]) - finger
            far = max(float(np.linalg.norm(way)), 1e-6)
            push, frames = size * way / far, min(24, frames + int(far / (A_FRAME * size)))
        yield from [push.astype(np.float32)] * frames


def best(finger: np.ndarray, points: np.ndarray, inward: np.ndarray, gain: np.ndarray) -> int:
    """The point of the outline to push at: where it helps, is not far, and there is room for the finger."""
    behind = points - (FINGER + 4) * inward
    room = ((behind > EDGE) & (behind < TABLE - EDGE)).all(1)
    return int(np.argmax(gain - 0.05 * np.linalg.norm(behind - finger, axis=1) - 1e3 * ~room))


def towards(finger: np.ndarray, place: np.ndarray, point: np.ndarray, inward: np.ndarray, gain: float) -> np.ndarray:
    """The push at a point of the outline, or the way to it; "2"."""
    middle, offset = moved(MIDDLE[None], place)[0], finger - (point - FINGER * inward)
    along = float(offset @ inward)
    aside = offset - along * inward
    if np.linalg.norm(aside) < 6 and -20 < along < 10:
        return inward * min(1.0, 0.15 + gain / 60) - aside / REACH
    return around(finger - middle, point - (FINGER + 8) * inward - middle)


def sides(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points along the T's outline on the table, and the unit vectors that point into it; "n 2" each."""
    points, inward = outline()
    return moved(points, place), moved(inward, np.array([0, 0, place[2]]))


@cache
def outline(apart: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    """The same in the T's own axes."""
    corners = np.array([(-60, 0), (60, 0), (60, 30), (15, 30), (15, 120), (-15, 120), (-15, 30), (-60, 30)], float)
    points, inward = [], []
    for start, end in zip(corners, np.roll(corners, -1, 0)):
        length = np.linalg.norm(end - start)
        along = (end - start) / length
        places = np.arange(apart / 2, length, apart)
        points.append(start + places[:, None] * along)
        inward.append(np.tile((-along[1], along[0]), (len(places), 1)))
    return np.concatenate(points), np.concatenate(inward)


def helps(place: np.ndarray, points: np.ndarray, inward: np.ndarray) -> np.ndarray:
    """How much nearer to their goals a push of one unit at each point brings the T's corners, were it to go on; "n".

    A push that misses the middle turns the T as it moves it.
    """
    corners = np.array(BARS, float).reshape(-1, 2)
    here, wanted = moved(corners, place), moved(corners, np.array(GOAL))
    middle = moved(MIDDLE[None], place)
    arm, to_corner = points - middle, here - middle
    torque = arm[:, 0] * inward[:, 1] - arm[:, 1] * inward[:, 0]
    spin = torque / LEVER**2
    motion = inward[:, None] + spin[:, None, None] * np.stack([-to_corner[:, 1], to_corner[:, 0]], -1)
    motion /= (1 + torque**2 / LEVER**2)[:, None, None]
    return (motion * (wanted - here)).sum(-1).mean(1)


def around(finger: np.ndarray, target: np.ndarray) -> np.ndarray:
    """A step towards a target beside the T, round about it where it may be in the way; "2", from its middle."""
    far = np.linalg.norm(finger)
    ahead = (np.arctan2(target[1], target[0]) - np.arctan2(finger[1], finger[0]) + np.pi) % (2 * np.pi) - np.pi
    if abs(ahead) < 0.3 or far * abs(ahead) < 12:
        way = target - finger
        return way / max(np.linalg.norm(way), 25)
    out = finger / max(far, 1e-6)
    side = np.sign(ahead) * np.array([-out[1], out[0]])
    lacking = np.clip((ROUND - far) / 20, -1, 1)
    way = side * (1 - max(lacking, 0)) + out * lacking
    return way / np.linalg.norm(way)
