"""What leaks out of a dream: events that the laws of its world forbid, counted per 1,000 frames."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from videowm.evaluate.curves import Pairs, mean_and_error
from videowm.evaluate.detector import Detector, Found
from videowm.evaluate.scenes import Scenes
from videowm.evaluate.tracks import COLUMN, RULES, Event, Path, Rules, Tracker, path_error, shifts
from videowm.worlds import World, world_class

VIDEOS = {"": "dreamed", "_ceiling": "decoded", "_ceiling_real": "truth"}
FLIGHTS = np.geomspace(4, 40, 24)  # frames that are tried for the way from the still things to the camera


@dataclass(frozen=True)
class Laws:
    """What can never happen in a world, and the two numbers by which its camera is understood."""

    still: tuple[str, ...]
    straight: tuple[str, ...]
    bounds: dict[str, tuple[float, float]]
    fastest: dict[str, float]  # most that a bounded column changes from frame to frame
    slope: float  # columns that still things move by, for 1 of the first bounded column
    flight: float  # frames that a straight thing takes from the still things to the camera
    size: tuple[int, int]

    @classmethod
    def of(cls, detector: Detector) -> Laws:
        """The laws of the world that a detector was trained on."""
        world, seen = world_class(detector.findable.world), detector.findable
        bounds = {name: world.BOUNDS[name] for name in seen.columns}
        fastest = dict(zip(seen.columns, seen.fastest, strict=True))
        return cls(world.STILL, world.STRAIGHT, bounds, fastest, seen.slope, seen.flight, tuple(seen.size))

    @property
    def events(self) -> list[str]:
        """The names of all events that can be counted."""
        lost = [f"{kind}_lost" for kind in (*self.still, *self.straight)]
        bent = [f"{kind}_bent" for kind in self.straight] if self.flight else []
        return lost + bent + [f"{name}_{what}" for name in self.bounds for what in ("outside", "jump")]


def judge(
    found: list[Found], columns: Float[np.ndarray, "f c"], laws: Laws, rules: Rules = RULES
) -> list[Event]:  # fmt: skip
    """What happens in one video that cannot happen.

    Args:
        found: the things in every frame.
        columns: the bounded columns, in their own units.
        laws: of the world.
        rules: from when on something is believed.
    """
    way = np.diff(columns[:, 0]) if columns.shape[1] else np.zeros(len(found) - 1)
    most = abs(laws.slope) * max(laws.fastest.values(), default=0) or np.inf
    steps = shifts(found, laws.still, laws.slope * way, rules, most)
    tracker = Tracker(laws.size, laws.still, laws.straight, laws.flight, rules)
    for frame, step in zip(found, steps, strict=True):
        tracker.see(frame, float(step))
    events = list(tracker.events)
    for i, (name, (low, high)) in enumerate(laws.bounds.items()):
        places = [columns[:, i]]
        if laws.slope and i == 0:
            places.append(walked(columns[:, 0], steps / laws.slope, rules.memory))
        room = rules.beyond * laws.fastest[name]
        events += outside(name, places, low - room, high + room, rules.missed)
        events += jumps(name, columns[:, i], laws.fastest[name], rules.leap)
    return events


def walked(read: Float[np.ndarray, " f"], steps: Float[np.ndarray, " f"], memory: int) -> Float[np.ndarray, " f"]:
    """The camera's place by its motion against the still things, from where it was read `memory` frames ago on."""
    way = steps.cumsum()
    gap = read - way
    since = [slice(max(0, t - memory), max(1, t - memory // 2)) for t in range(len(way))]
    return way + [np.median(gap[known]) for known in since]


def outside(name: str, places: list[Float[np.ndarray, " f"]], low: float, high: float, frames: int) -> list[Event]:
    """Stays of some frames beyond the bounds, each counted once."""
    beyond = np.any([(place < low) | (place > high) for place in places], axis=0)
    began = [i for i in range(len(beyond) - frames + 1) if beyond[i : i + frames].all() and not beyond[:i][-1:].any()]
    return [Event(f"{name}_outside", i) for i in began]


def jumps(name: str, place: Float[np.ndarray, " f"], fastest: float, leap: float) -> list[Event]:
    """Frames at which the place of two frames differs from that of the two before by more than the game can do."""
    if len(place) < 4:
        return []
    pairs = (place[1:] + place[:-1]) / 2
    far = np.abs(pairs[2:] - pairs[:-2]) > (2 + leap) * fastest
    return [Event(f"{name}_jump", int(i) + 2) for i in np.flatnonzero(far) if not far[:i][-3:].any()]


def rates(
    detector: Detector, video: Float[Tensor, "b f 3 H W"], context: int = 0, rules: Rules = RULES
) -> dict[str, Float[np.ndarray, " b"]]:
    """Events per 1,000 frames of each clip of a video "b f 3 H W" in [-1, 1], by their name; `events` are all.

    The first `context` frames are looked at and not judged, so that what is known there can be lost after them.
    """
    laws, counts = Laws.of(detector), []
    for clip in video:
        events = judge(*detector.find(clip), laws, rules)
        counts.append(Counter(event.what for event in events if event.frame >= context))
    per = 1000 / (video.shape[1] - context)
    values = {name: np.array([per * count[name] for count in counts]) for name in laws.events}
    return values | {"events": np.sum(list(values.values()), axis=0)}


def leaks(scenes: Scenes, detector: Detector) -> Pairs:
    """Impossible events per 1,000 predicted frames; ceilings: in real video through the autoencoder, and as it is."""
    for suffix, video in VIDEOS.items():
        for name, values in rates(detector, getattr(scenes, video), scenes.context).items():
            yield from mean_and_error(f"leaks/{name}{suffix}", values, scenes.episode)


def slope_of(things: list[list[Found]], columns: list[Float[np.ndarray, "_ c"]], still: tuple[str, ...]) -> float:
    """By how many columns still things move in the picture for 1 of the first bounded column; 0 where none is seen.

    Every two still things of neighbouring frames give a ratio. The right one is common to all frames.
    """
    ratios = []
    for frames, column in zip(things, columns, strict=True):
        way = np.diff(column[:, 0])
        for i in np.flatnonzero(np.abs(way) > np.abs(way).max() / 2):
            before, now = (np.concatenate([frames[j][kind][:, COLUMN] for kind in still]) for j in (i, i + 1))
            ratios.append((now[None] - before[:, None]).ravel() / way[i])
    ratios = np.concatenate(ratios) if ratios else np.zeros(0)
    if not len(ratios):
        return 0.0
    widest = np.percentile(np.abs(ratios), 90)
    heights, edges = np.histogram(ratios, 101, (-widest, widest))
    top = heights.argmax()
    rough = ratios[(ratios >= edges[max(top - 1, 0)]) & (ratios <= edges[min(top + 2, 101)])].mean()
    return long_way(things, columns, still, float(rough))


def long_way(things: list[list[Found]], columns: list[Float[np.ndarray, "_ c"]], still: tuple[str, ...],
             slope: float) -> float:  # fmt: skip
    """The slope anew, over whole episodes, where boxes that are whole pixels matter less."""
    above, below = 0.0, 0.0
    for frames, column in zip(things, columns, strict=True):
        place = column[:, 0] - column[:, 0].mean()
        above += float(place @ shifts(frames, still, slope * np.diff(column[:, 0]), Rules()).cumsum())
        below += float(place @ place)
    return above / below if below else slope


def flight_of(things: list[list[Found]], columns: list[Float[np.ndarray, "_ c"]], world: type[World], slope: float,
              size: tuple[int, int]) -> float:  # fmt: skip
    """The frames that a straight thing takes from the still things to the camera: the number that fits its paths."""
    paths: list[Path] = []
    for frames, column in zip(things, columns, strict=False):
        steps = shifts(frames, world.STILL, slope * np.diff(column[:, 0]), Rules())
        tracker = Tracker(size, world.STILL, world.STRAIGHT, 1.0, Rules(bent=np.inf), paths)
        for frame, step in zip(frames, steps, strict=True):
            tracker.see(frame, float(step))
    errors = [np.median([path_error(points, camera, flight, size[1] / 2) for points, camera in paths[:500]] or [0])
              for flight in FLIGHTS]  # fmt: skip
    return float(FLIGHTS[int(np.argmin(errors))])
