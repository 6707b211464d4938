"""Impossible events planted in real video: what a counter that found none of them would be worth.

Things are painted over with what is behind them, or moved off their path; two moments are joined.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from videowm.evaluate.detector import Found
from videowm.evaluate.leaks import Laws
from videowm.evaluate.tracks import COLUMN, HEIGHT, ROW, WIDTH, Event, Rules, Tracker, shifts

BEFORE, AFTER = 12, 12  # frames of a clip around its event
STAYS = 4  # frames after the event in which the thing would have been in open view
KNOWN = 3  # frames before it in which it was
LATE = 8  # frames after an event in which it must be counted
BEND = 3.0  # columns a frame that a thing is moved off its path
SAME = 0.35  # columns that the camera may be off where it is said to be at the same place
CLEAR = 1.0  # pixels of room more than the rules ask for
Episode = tuple[np.ndarray, list[Found], np.ndarray]  # frames uint8 "f H W 3", what is in each, columns "f c"


@dataclass(frozen=True)
class Planted:
    """A clip in which something impossible happens in one frame."""

    what: str  # the event's name
    frames: UInt8[np.ndarray, "f H W 3"]
    frame: int

    def seen(self, events: list[Event]) -> bool:
        """Whether it is among the events that were counted, at its time."""
        return any(event.what == self.what and -1 <= event.frame - self.frame <= LATE for event in events)


def pixels(box: Float[np.ndarray, " 5"], size: tuple[int, int], grow: int = 0) -> tuple[slice, slice]:
    """The rows and columns that a box covers in a picture of `size` (H, W), and `grow` more on each side."""
    spans = []
    for middle, length, most in ((box[ROW], box[HEIGHT], size[0]), (box[COLUMN], box[WIDTH], size[1])):
        first, last = int(np.floor(middle - length / 2)) - grow, int(np.ceil(middle + length / 2)) + grow
        spans.append(slice(max(0, first), min(most, last)))
    return spans[0], spans[1]


class Backgrounds:
    """What stands behind a thing: the same place, seen by the same camera at another moment of these episodes."""

    def __init__(self, episodes: list[Episode], laws: Laws) -> None:
        self.frames = np.concatenate([frames for frames, _, _ in episodes])
        self.number = np.concatenate([np.full(len(frames), i) for i, (frames, _, _) in enumerate(episodes)])
        first = [columns[:, 0] if columns.shape[1] else np.zeros(len(columns)) for _, _, columns in episodes]
        self.place = np.concatenate(first) * laws.slope
        things = [frame for _, frames, _ in episodes for frame in frames]
        self.kinds = {kind: padded([frame[kind] for frame in things]) for kind in (*laws.still, *laws.straight)}

    def overlapping(
        self, kind: str, chosen: Int[np.ndarray, " n"], rows: slice, columns: slice
    ) -> Int[np.ndarray, " n"]:
        """How many things of a kind reach into an area, in each of the chosen frames."""
        boxes = self.kinds[kind][chosen]
        down = (
            np.abs(boxes[..., ROW] - (rows.start + rows.stop) / 2) < (boxes[..., HEIGHT] + rows.stop - rows.start) / 2
        )
        middle, length = (columns.start + columns.stop) / 2, columns.stop - columns.start
        return (down & (np.abs(boxes[..., COLUMN] - middle) < (boxes[..., WIDTH] + length) / 2)).sum(1)

    def behind(self, number: int, kind: str, rows: slice, columns: slice) -> UInt8[np.ndarray, "h w 3"] | None:
        """What frame `number` would show in an area without the thing of this kind that is there; None if unknown."""
        near = np.flatnonzero(np.abs(self.place - self.place[number]) < SAME)
        fits, others = np.ones(len(near), bool), 0
        for name in self.kinds:
            wanted = self.overlapping(name, np.array([number]), rows, columns)[0] - (name == kind)
            fits &= self.overlapping(name, near, rows, columns) == wanted
            others += wanted
        if others:
            fits &= self.number[near] == self.number[number]
        near = near[fits]
        if not len(near):
            return None
        return self.frames[near[np.abs(self.place[near] - self.place[number]).argmin()], rows, columns]


def padded(boxes: list[Float[np.ndarray, "_ 5"]]) -> Float[np.ndarray, "f m 5"]:
    """The boxes of frames as one array; where there is none, one that reaches nowhere."""
    rows = np.full((len(boxes), max(1, *map(len, boxes)), 5), -1e6, np.float32)
    for row, frame in zip(rows, boxes, strict=True):
        row[: len(frame)] = frame
    return rows


def followed(things: list[Found], steps: Float[np.ndarray, " f"], kind: str, frame: int, box: Float[np.ndarray, " 5"],
             way: int) -> list[np.ndarray]:  # fmt: skip
    """The boxes of one thing after `frame`, or before it (`way` -1), as long as the game shows one near the last."""
    path, speed = [box], 0.0
    while 0 <= frame + way < len(things):
        step = way * steps[frame + (way > 0)]
        boxes = things[frame + way][kind]
        far = np.abs(boxes[:, :2] - (path[-1][:2] + [0, step + speed])).max(1, initial=0)
        if not len(boxes) or far.min() > 2:
            break
        path.append(boxes[far.argmin()])
        speed = float(path[-1][COLUMN] - path[-2][COLUMN] - step)
        frame += way
    return path


class Planter:
    """Plants events in one of some episodes whose boxes are known."""

    def __init__(self, episodes: list[Episode], number: int, laws: Laws, backgrounds: Backgrounds) -> None:
        self.frames, self.things, self.columns = episodes[number]
        self.laws, self.backgrounds = laws, backgrounds
        self.first = sum(len(frames) for frames, _, _ in episodes[:number])
        way = np.diff(self.columns[:, 0]) if self.columns.shape[1] else np.zeros(len(self.things) - 1)
        self.steps = shifts(self.things, laws.still, laws.slope * way, Rules())
        self.tracker = Tracker(laws.size, laws.still, laws.straight, laws.flight, Rules())

    def clear(self, kind: str, frame: int, box: Float[np.ndarray, " 5"]) -> bool:
        """Whether a thing stands in open view, with room around it."""
        if not self.tracker.inside(box) or (kind in self.laws.straight and self.tracker.near(box)):
            return False
        wide = box + np.array([0, 0, 2 * CLEAR, 2 * CLEAR, 0], np.float32)
        return sum(self.tracker.touch(wide, other) for other in self.tracker.before(kind, self.things[frame])) == 1

    def path(self, kind: str, frame: int, box: Float[np.ndarray, " 5"]) -> list[np.ndarray] | None:
        """The thing's boxes from `frame` on, if it stands in open view for some frames before and after it."""
        after = followed(self.things, self.steps, kind, frame, box, 1)
        before = followed(self.things, self.steps, kind, frame, box, -1)
        if len(after) <= STAYS or len(before) <= KNOWN:
            return None
        near = [(frame + i, after[i]) for i in range(STAYS + 1)] + [(frame - i, before[i]) for i in range(KNOWN + 1)]
        return after if all(self.clear(kind, number, one) for number, one in near) else None

    def clip(self, frame: int) -> tuple[UInt8[np.ndarray, "f H W 3"], int]:
        """A copy of the frames around an event, and where in it the event is."""
        first = max(0, frame - BEFORE)
        return self.frames[first : frame + AFTER].copy(), frame - first

    def things_of(self, what: str, kind: str, frame: int, rng: np.random.Generator) -> Planted | None:
        """Something of this kind in this frame vanishes, or leaves its path."""
        boxes = self.things[frame][kind]
        for number in rng.permutation(len(boxes)):
            path = self.path(kind, frame, boxes[number])
            if path is None:
                continue
            clip, at = self.clip(frame)
            bend = BEND * float(rng.choice((-1, 1))) if what.endswith("_bent") else None
            done = [self.change(clip[at + i], kind, box, frame + i, bend and bend * (i + 1))
                    for i, box in enumerate(path[: len(clip) - at])]  # fmt: skip
            if all(done[:STAYS]):
                return Planted(what, clip, at)
        return None

    def change(self, picture: UInt8[np.ndarray, "H W 3"], kind: str, box: Float[np.ndarray, " 5"], frame: int,
               by: float | None) -> bool:  # fmt: skip
        """Erase a thing from the picture of a frame, or move it across by whole columns; whether that could be done."""
        rows, columns = pixels(box, picture.shape[:2], 1)
        behind = self.backgrounds.behind(self.first + frame, kind, rows, columns)
        if behind is None:
            return False
        thing, there = pixels(box, picture.shape[:2])
        patch = picture[thing, there].copy()
        picture[rows, columns] = behind
        if by is not None:
            start, stop = max(0, there.start + round(by)), min(picture.shape[1], there.stop + round(by))
            if start < stop:
                picture[thing, start:stop] = patch[:, start - there.start - round(by) : stop - there.start - round(by)]
        return True

    def jump(self, name: str, frame: int, rng: np.random.Generator) -> Planted | None:
        """The video goes on at another moment of the episode, where the camera is elsewhere."""
        place, least = self.columns[:, list(self.laws.bounds).index(name)], 4 * self.laws.fastest[name]
        last = len(place) - AFTER
        elsewhere = np.flatnonzero(np.abs(place[:last] - place[frame]) > least) if last > 0 else []
        if not len(elsewhere):
            return None
        clip, at = self.clip(frame)
        then = int(rng.choice(elsewhere))
        return Planted(f"{name}_jump", np.concatenate([clip[:at], self.frames[then : then + AFTER]]), at)


def planted(episodes: list[Episode], laws: Laws, count: int, seed: int = 0) -> Iterator[Planted]:
    """Up to `count` clips of each event that can be planted, each in another place of the episodes.

    A stay beyond the bounds cannot: no real video shows one.
    """
    rng, backgrounds = np.random.default_rng(seed), Backgrounds(episodes, laws)
    planters = [Planter(episodes, i, laws, backgrounds) for i in range(len(episodes))]
    where = [(planter, frame) for planter in planters for frame in range(KNOWN + 2, len(planter.frames) - AFTER, 5)]
    for what in laws.events:
        name, _, kind = what.rpartition("_")
        made = 0
        for number in rng.permutation(len(where)) if kind != "outside" else ():
            planter, frame = where[number]
            clip = planter.jump(name, frame, rng) if kind == "jump" else planter.things_of(what, name, frame, rng)
            if clip is not None and made < count:
                made += 1
                yield clip
            if made == count:
                break
