"""Things followed from frame to frame, and what the laws of a world forbid them to do.

Everything here takes boxes, wherever they come from: a detector, or the game itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from videowm.evaluate.detector import Found

ROW, COLUMN, HEIGHT, WIDTH, SCORE = range(5)
AWAY = (0.3, 1.2)  # share of its way from the still things to the camera that a judged straight thing is away


Points = list[tuple[int, float]]  # frame and column of one thing
Path = tuple[Points, np.ndarray]  # of a straight thing, and the camera's place in every frame up to then


@dataclass(frozen=True)
class Rules:
    """From when on something is believed. Lengths are in pixels; each was set on real video (benchmarks/leaks.py)."""

    hits: int = 5  # frames in which a thing was found before it counts
    flying: int = 3  # the same of a straight thing, which is soon near
    missed: int = 4  # consecutive frames in open view without it
    patience: int = 8  # frames for which a hidden thing is waited for
    sure: float = 0.6  # score at which a track begins; it goes on with a fainter one
    faint: float = 0.2
    clear: float = 0.5  # the same of a straight thing
    grows: float = 1.15  # by how much a straight thing at least grows in a frame
    shrinks: float = 0.7  # a straight thing comes near: what is smaller than this share of it is another one
    margin: float = 3.0  # a place nearer to the border is out of open view
    gate: float = 1.5  # how far from where it is expected a thing is looked for
    reach: float = 2.5  # how far the camera may move from what is read of it
    crowd: float = 3.5  # two things that are nearer to each other may look like one
    big: float = 6.5  # a straight thing whose longer side is more is too near to be judged
    points: int = 7  # consecutive frames that a path is fitted over, and one more where there is one
    bent: float = 0.8  # how far from the fitted path a thing may be, root mean square
    memory: int = 16  # frames ago that the camera's place was read from which its way is added up
    beyond: float = 1.0  # how far beyond a bound the camera may seem to be, in its fastest frames
    leap: float = 1.5  # by how much it may seem to be faster, in its fastest frames


RULES = Rules()


@dataclass
class Track:
    """One thing while it is followed."""

    kind: str
    box: Float[np.ndarray, " 5"]
    hits: int = 1
    missed: int = 0
    hidden: bool = False  # whether it may have been hidden in one of the frames that it is missing in
    speed: float = 0.0  # columns a frame, beside what the camera does
    points: Points = field(default_factory=list)  # of a straight thing


@dataclass(frozen=True)
class Event:
    """Something that cannot happen."""

    what: str  # such as "imp_lost"
    frame: int


def nearest_shift(
    before: Float[np.ndarray, " n"], now: Float[np.ndarray, " m"], guess: float, reach: float, most: float
) -> float:
    """By how many columns still things moved in the picture, `most` at most: the shift under which most of them match.

    Of several that match alike it is the nearest to `guess`, from which it may be `reach` away.
    """
    guess, ways = float(np.clip(guess, -most, most)), (now[None] - before[:, None]).ravel()
    ways = ways[(np.abs(ways - guess) <= reach) & (np.abs(ways) <= most + 0.5)]
    if not len(ways):
        return guess
    agree = np.abs(ways[:, None] - ways[None]) < 0.7
    best = max(range(len(ways)), key=lambda i: (agree[i].sum(), -abs(ways[i] - guess)))
    return float(ways[agree[best]].mean())


def shifts(
    found: list[Found],
    still: tuple[str, ...],
    guesses: Float[np.ndarray, " steps"],
    rules: Rules,
    most: float = np.inf,
) -> Float[np.ndarray, " f"]:
    """The camera's motion in each frame, "f", as the columns that still things move by; 0 in the first."""
    columns = [
        np.concatenate([frame[k][frame[k][:, SCORE] >= rules.sure, COLUMN] for k in still] or [np.zeros(0)])
        for frame in found
    ]
    pairs = zip(columns, columns[1:], guesses, strict=False)
    return np.array([0.0, *(nearest_shift(a, b, float(g), rules.reach, most) for a, b, g in pairs)])


class Tracker:
    """Follows the things of one video; `events` holds what they did that they cannot do."""

    def __init__(self, size: tuple[int, int], still: tuple[str, ...], straight: tuple[str, ...], flight: float,
                 rules: Rules, paths: list[Path] | None = None) -> None:  # fmt: skip
        self.paths = paths  # where given, every path that is judged is added
        self.size, self.still, self.straight, self.flight, self.rules = size, still, straight, flight, rules
        self.tracks: list[Track] = []
        self.events: list[Event] = []
        self.camera: list[float] = []  # sum of the shifts up to each frame

    def see(self, found: Found, shift: float) -> None:
        """Go on by one frame, in which still things have moved by `shift` columns."""
        self.camera.append((self.camera[-1] if self.camera else 0.0) + shift)
        self.expect(shift)
        for kind in (*self.still, *self.straight):
            self.follow(kind, found[kind])
        self.tracks = [track for track in self.tracks if not self.over(track, found)]

    def expect(self, shift: float) -> None:
        """Move every track to where its thing should be now."""
        for track in self.tracks:
            track.box = track.box.copy()
            track.box[COLUMN] += shift + track.speed
            if track.kind in self.straight:
                track.box[HEIGHT : WIDTH + 1] *= self.rules.grows

    def follow(self, kind: str, boxes: Float[np.ndarray, "n 5"]) -> None:
        """Give each track the nearest box, the best pairs first; begin tracks where a clear box is left."""
        boxes = boxes[boxes[:, SCORE] >= self.rules.faint]
        tracks = [track for track in self.tracks if track.kind == kind]
        for track in tracks:
            track.missed += 1
        far = [(self.distance(track, box), i, j) for i, track in enumerate(tracks) for j, box in enumerate(boxes)]
        free, left = set(range(len(tracks))), set(range(len(boxes)))
        for distance, i, j in sorted(far):
            if distance <= 1 and i in free and j in left:
                free.remove(i)
                left.remove(j)
                self.take(tracks[i], boxes[j])
        for j in sorted(left):
            if boxes[j, SCORE] >= self.rules.sure:
                self.tracks.append(Track(kind, boxes[j], points=[self.point(boxes[j])]))

    def distance(self, track: Track, box: Float[np.ndarray, " 5"]) -> float:
        """How far a box is from where a track expects it, 1 at most where it may be the same thing."""
        fast = track.kind in self.straight  # the nearer, the faster it moves across, and the larger it is
        if fast and (box[SCORE] < self.rules.clear or self.side(box) < self.rules.shrinks * self.side(track.box)):
            return np.inf
        gate = self.rules.gate + (self.side(track.box) + (track.hits == 1) if fast else 0)
        return float(np.abs(box[:2] - track.box[:2]).max() / (gate + 0.3 * (track.missed - 1)))

    def take(self, track: Track, box: Float[np.ndarray, " 5"]) -> None:
        """The thing of a track was found again."""
        if track.kind in self.straight:
            track.speed += float(box[COLUMN] - track.box[COLUMN]) / track.missed
            track.points.append(self.point(box))
            self.bend(track, box)
        track.box, track.hits, track.missed, track.hidden = box, track.hits + 1, 0, False

    def point(self, box: Float[np.ndarray, " 5"]) -> tuple[int, float]:
        return len(self.camera) - 1, float(box[COLUMN])

    def bend(self, track: Track, box: Float[np.ndarray, " 5"]) -> None:
        """Note where a straight thing leaves its path; it is then followed anew."""
        others = [other for other in self.tracks if other.kind == track.kind and other is not track]
        if self.near(box) or not self.inside(box) or any(self.touch(box, other.box) for other in others):
            track.points.clear()
        track.points = track.points[-self.rules.points - 1 :]
        if len(track.points) < self.rules.points or not self.flight:
            return
        if self.paths is not None:
            self.paths.append((list(track.points), np.array(self.camera)))
        if path_error(track.points, np.array(self.camera), self.flight, self.size[1] / 2) > self.rules.bent:
            self.events.append(Event(f"{track.kind}_bent", len(self.camera) - 1))
            track.points = track.points[-1:]

    def inside(self, box: Float[np.ndarray, " 5"]) -> bool:
        """Whether a box is whole and away from the borders."""
        half = box[HEIGHT : WIDTH + 1] / 2
        room = np.minimum(box[:2] - half, np.array(self.size) - box[:2] - half)
        return bool(room.min() >= self.rules.margin)

    def side(self, box: Float[np.ndarray, " 5"]) -> float:
        """The longer side of a box."""
        return float(box[HEIGHT : WIDTH + 1].max())

    def near(self, box: Float[np.ndarray, " 5"]) -> bool:
        """Whether a straight thing is too near to be judged."""
        return self.side(box) > self.rules.big

    def known(self, track: Track) -> bool:
        """Whether a thing was found often enough to count."""
        return track.hits >= (self.rules.flying if track.kind in self.straight else self.rules.hits)

    def open(self, track: Track, found: Found) -> bool:
        """Whether the thing of a track would be seen in this frame: inside, and nothing before it or beside it."""
        if not self.inside(track.box) or (track.kind in self.straight and self.near(track.box)):
            return False
        seen = (box for box in self.before(track.kind, found) if box[SCORE] >= self.rules.faint)
        return not any(self.touch(track.box, box) for box in seen)

    def before(self, kind: str, found: Found) -> list[np.ndarray]:
        """All boxes that may hide a thing of one kind, and those of its own kind: straight things pass still ones."""
        kinds = self.straight if kind in self.straight else found
        return [box for kind in kinds for box in found[kind]]

    def touch(self, box: Float[np.ndarray, " 5"], other: Float[np.ndarray, " 5"]) -> bool:
        """Whether two boxes overlap, or are so near that they may look like one."""
        room = np.maximum((box[HEIGHT : WIDTH + 1] + other[HEIGHT : WIDTH + 1]) / 2, self.rules.crowd)
        return bool((np.abs(box[:2] - other[:2]) < room).all())

    def over(self, track: Track, found: Found) -> bool:
        """Whether a track ends here. A known thing that is missing for long, always in open view, is lost."""
        if not track.missed:
            return False
        track.hidden = track.hidden or not self.open(track, found)
        if track.hidden and track.kind in self.still and self.known(track):
            return track.missed > self.rules.patience or not -2 < track.box[COLUMN] < self.size[1] + 2
        if track.hidden or not self.known(track):
            return True
        if track.missed >= self.rules.missed:
            self.events.append(Event(f"{track.kind}_lost", len(self.camera) - track.missed))
        return track.missed >= self.rules.missed


def path_error(points: Points, camera: Float[np.ndarray, " f"], flight: float, middle: float) -> float:
    """How far a path is from the best straight flight at one speed, root mean square in columns.

    A thing reaches the camera's row at time T. At time t it is seen `middle + (a + b t + flight camera) / (T - t)`.
    Its way across is a line, and the camera's own way looks the larger the nearer the thing is. `flight` is the
    number of frames from the still things' row to the camera's. For each of many T, a and b are fitted.
    """
    time, column = np.array(points, np.float64).T
    seen = camera[time.astype(int)]
    time, column, seen = time - time[-1], column - middle, seen - seen[-1]
    weight = 1 / (np.linspace(*AWAY, 24)[:, None] * flight - time)
    known = column - flight * seen * weight
    sides = np.stack([weight, weight * time], 2)
    solved = np.linalg.pinv(sides) @ known[..., None]
    left = (sides @ solved)[..., 0] - known
    return float(np.sqrt(np.square(left).mean(1).min()))
