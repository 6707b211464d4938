"""One player's session, without a clock or a web: a message in, pictures and sentences out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from videowm.play import messages as m
from videowm.play.dream import Dream
from videowm.play.pilot import Pilot
from videowm.play.real import RealGame
from videowm.play.reel import Reel
from videowm.play.stage import Stage
from videowm.types import UserError
from videowm.vae.codec import to_float

Frames = UInt8[np.ndarray, "n H W 3"]
REAL = "real"
LONGEST_BRANCH = 4096  # frames after which a branch must be picked
HELD = (4, 24)  # frames that the player by chance holds an action


@dataclass
class Futures:
    """Several futures of one moment, of the front dream, until one is picked."""

    dream: Dream
    names: list[str]
    forced: Float32[np.ndarray, "r a"] | None = None  # the action that each takes all along; None: the player's
    alike: bool = False  # the same noise for all
    taken: list[Float32[np.ndarray, "r n a"]] = field(default_factory=list)
    shown: list[UInt8[np.ndarray, "r n H W 3"]] = field(default_factory=list)


class Session:
    """A game of one player.

    Everything is one thread's: a world's renderer may not be used by two.

    Example:
        >>> session = Session(stage)
        >>> list(session.handle(Start(episode=0, frame=8)))
        >>> [picture] = session.handle(Step(number=0, actions=[[0.0, 0.4, 0.0]] * 4))
    """

    def __init__(self, stage: Stage, *, form: m.Format = "raw") -> None:
        self.stage, self.form, self.dataset = stage, form, stage.dataset()
        self.dataset.open_readers = 1  # of many players each would hold eight
        self.dreams = [Dream(model) for model in stage.models]
        self.names = distinct([model.name for model in stage.models])
        self.game: RealGame | None = None
        self.real = stage.hello.real is None
        self.by: m.By = "person"
        self.pilot: Pilot | None = None  # of an agent or the planner
        self.front, self.exploring = 0, False
        self.futures: Futures | None = None
        self.reel = Reel([*self.names, REAL])
        self.begun: m.Start | None = None
        self.at = 0
        self.queued = 0.0  # ms that the present message waited for this session
        self.held: tuple[Float32[np.ndarray, " a"], int] | None = None
        self.named = np.array([control.action for control in stage.hello.controls], np.float32)
        self.ways: dict[type, Callable[[Any], Iterator[bytes | m.Message]]] = {
            m.Start: self.start, m.Look: self.look, m.Step: self.step, m.Drive: self.drive, m.Tune: self.tune,
            m.Real: self.set_real, m.Branch: self.branch, m.Pick: self.pick, m.Front: self.set_front,
            m.Explore: self.explore, m.Move: self.move, m.Save: self.save,
        }  # fmt: skip

    @torch.no_grad()
    def handle(self, message: m.Asked) -> Iterator[bytes | m.Message]:
        """The answers to a message; what cannot be done is a sentence, and the session is as it was before.

        Yields:
            pictures as `messages.pack` makes them, and other messages.
        """
        try:
            self.check_begun(message)
            yield from self.ways[type(message)](message)
        except UserError as error:
            yield m.Said(text=str(error), refused=True, number=getattr(message, "number", None))

    def check_begun(self, message: m.Asked) -> None:
        """Refuse what needs a game before there is one.

        Raises:
            UserError: nothing has begun.
        """
        if self.begun is None and not isinstance(message, m.Start | m.Look | m.Real):
            raise UserError("nothing has begun: send a start first")

    def start(self, asked: m.Start) -> Iterator[bytes | m.Message]:
        """Go to a recorded moment, in every model and in the real game."""
        shown = self.recorded(asked.episode, asked.frame)
        longest = max(dream.model.context_frames for dream in self.dreams)
        first = max(0, asked.frame + 1 - longest)
        frames = self.dataset.frames(asked.episode, range(first, asked.frame + 1))
        actions = self.dataset.actions(asked.episode)[first : asked.frame]
        began = time.perf_counter()
        for dream in self.dreams:
            dream.start(frames, actions, asked.seed)
        self.begun, self.at, self.futures, self.held = asked, 0, None, None
        self.rng = np.random.default_rng(asked.seed)
        self.by = "person" if self.by == "script" else self.by
        self.pilot = self.stage.pilot(self.by, self.dreams[self.front].model, asked.seed)
        self.reel.start(shown)
        ms = {"model": passed(began)}
        yield from self.start_real(asked)
        views = [m.View(name=name, kind="dream", run=i) for i, name in enumerate(self.names)]
        pictures = [shown[None] for _ in views]
        if self.game is not None:
            views.append(m.View(name=REAL, kind="real"))
            pictures.append(self.game.frame[None])
        yield self.picture("start", views, pictures, ms=ms)

    def start_real(self, asked: m.Start) -> Iterator[m.Message]:
        """Bring the real game to the same moment; where that cannot be, play without it and say why."""
        if not self.real:
            self.game = None
            return
        try:
            self.game = self.game or RealGame(self.dataset)
            self.game.start(asked.episode, asked.frame)
        except UserError as error:
            self.game, self.real = None, False
            yield m.Said(text=f"without the real game: {error}")

    def recorded(self, episode: int, frame: int) -> UInt8[np.ndarray, "H W 3"]:
        """A recorded frame.

        Raises:
            UserError: there is no such episode or frame.
        """
        return self.dataset.frames(episode, [frame])[0]

    def look(self, asked: m.Look) -> Iterator[bytes]:
        """Show a recorded frame."""
        frame = self.recorded(asked.episode, asked.frame)
        yield self.picture("look", [m.View(name="recorded", kind="recorded")], [frame[None]])

    def step(self, asked: m.Step) -> Iterator[bytes | m.Message]:
        """The next frames, under the page's actions or those of whoever plays.

        Raises:
            UserError: there is not one action for every frame.
        """
        given = np.array(asked.actions, np.float32)
        expected = (self.stage.frames, len(self.dataset.action_names))
        if given.shape != expected:
            raise UserError(f"actions of shape {given.shape} were given, expected {expected}: one for every frame")
        if self.futures is not None:
            yield self.step_futures(asked.number, given)
            return
        began = time.perf_counter()
        actions, real = self.actions_of(given)
        between = time.perf_counter()
        thought = self.pilot.ms if self.pilot else {}
        frames = {name: dream.play(actions[None])[0] for name, dream in zip(self.names, self.dreams, strict=True)}
        ms = {"model": passed(between), **thought}
        again = time.perf_counter()
        if self.game is not None:
            frames[REAL] = self.game.play(actions) if real is None else real
            ms["real"] = passed(again) + (1e3 * (between - began) if real is not None else 0)
        self.reel.add(actions, frames)
        self.at += len(actions)
        yield self.picture("step", self.views(frames), list(frames.values()), number=asked.number, actions=actions,
                           ms=ms)  # fmt: skip

    def views(self, frames: dict[str, Frames]) -> list[m.View]:
        """The rows of a step's picture, with the running difference from the real game."""
        real, over = frames.get(REAL), self.game is not None and self.game.over
        alone = real is None or over  # nothing to compare with
        views = [m.View(name=name, kind="dream", run=i, psnr=None if alone else psnr(frames[name], real))
                 for i, name in enumerate(self.names)]  # fmt: skip
        return views if real is None else [*views, m.View(name=REAL, kind="real", over=over)]

    def actions_of(self, given: Float32[np.ndarray, "n a"]) -> tuple[Float32[np.ndarray, "n a"], Frames | None]:
        """The actions of whoever plays now; of the scripted driver with the real game's frames.

        Raises:
            UserError: the scripted driver has no game to see.
        """
        if self.by == "script":
            assert self.game is not None and self.begun is not None
            return self.game.drive(len(given), self.begun.seed + self.at)
        if self.by == "episode":
            return self.recorded_actions(given), None
        if self.pilot is not None:
            return np.tile(self.pilot.actions(self.dreams[self.front]), (len(given), 1)), None
        return (self.by_chance(given) if self.by == "random" else given), None

    def recorded_actions(self, given: Float32[np.ndarray, "n a"]) -> Float32[np.ndarray, "n a"]:
        """The episode's own next actions; where they end, a person takes over."""
        assert self.begun is not None
        own = self.dataset.all_actions(self.begun.episode)[self.begun.frame + self.at :][: len(given)]
        if len(own) < len(given):
            self.by = "person"
        return np.concatenate([own, given[len(own) :]])

    def by_chance(self, like: Float32[np.ndarray, "n a"]) -> Float32[np.ndarray, "n a"]:
        """Named actions drawn by chance, each held for a while."""
        rows = []
        while len(rows) < len(like):
            action, left = self.held or (self.draw_action(), int(self.rng.integers(*HELD)))
            rows.append(action)
            self.held = (action, left - 1) if left > 1 else None
        return np.stack(rows)

    def draw_action(self) -> Float32[np.ndarray, " a"]:
        """One of the world's named actions."""
        named = self.stage.hello.controls
        return np.float32(named[int(self.rng.integers(len(named)))].action)

    def drive(self, asked: m.Drive) -> Iterator[m.Message]:
        """Hand over.

        Raises:
            UserError: the scripted driver has no game to see, or the front model suits neither agent nor planner.
        """
        if asked.by == "script" and self.game is None:
            raise UserError("the scripted driver looks at the real game, which is not being played: turn it on")
        if asked.by == "script" and self.futures is not None:
            raise UserError("the real game waits while there are several futures: pick one first")
        self.pilot = self.stage.pilot(asked.by, self.dreams[self.front].model, self.begun.seed + self.at)
        if self.game is not None:
            self.game.driver = None
        self.by, self.held = asked.by, None
        yield m.Said(text=f"{asked.by} plays")

    def tune(self, asked: m.Tune) -> Iterator[m.Message]:
        """Other settings from now on, in every model or in none."""
        dreams = [*self.dreams, *([self.futures.dream] if self.futures else [])]
        for dream in dreams:
            dream.check(asked)
        for dream in dreams:
            dream.retune(asked)
        yield m.Said(text="settings changed")

    def set_real(self, asked: m.Real) -> Iterator[m.Message]:
        """Play the real game from the next start on, or no more.

        Raises:
            UserError: the recording's game cannot be played.
        """
        if asked.on and self.stage.hello.real is not None:
            raise UserError(self.stage.hello.real)
        self.real = asked.on
        if not asked.on:
            self.game, self.by = None, "person" if self.by == "script" else self.by
        yield m.Said(text="the real game plays from the next start on" if asked.on else "without the real game")

    def set_front(self, asked: m.Front) -> Iterator[m.Message]:
        """Branch and explore another run.

        Raises:
            UserError: there is no such run, or futures wait to be picked.
        """
        if asked.run >= len(self.dreams):
            raise UserError(f"there is no run {asked.run}: give 0 to {len(self.dreams) - 1}")
        if self.futures is not None:
            raise UserError("several futures are shown: pick one first")
        self.pilot = self.stage.pilot(self.by, self.dreams[asked.run].model, self.at)
        self.front = asked.run
        yield m.Said(text=f"{self.names[asked.run]} is in front")

    def branch(self, asked: m.Branch) -> Iterator[bytes]:
        """Several futures of now."""
        self.close_futures()
        if asked.kind == "chance":
            forced, names = None, [f"future {i + 1}" for i in range(asked.count)]
        else:
            named = self.stage.hello.controls[:9]
            forced, names = np.array([c.action for c in named], np.float32), [c.name for c in named]
        dream = self.dreams[self.front].select([0] * len(names))
        yield self.open_futures(Futures(dream, names, forced, alike=forced is not None))

    def open_futures(self, futures: Futures) -> bytes:
        """Show several futures, which begin with what is shown now; the scripted driver's game waits."""
        self.futures = futures
        self.by = "person" if self.by == "script" else self.by
        now = np.array(self.reel.frames[self.names[self.front]][-1])[None]
        views = [m.View(name=name, kind="future", run=self.front) for name in futures.names]
        return self.picture("branch", views, [now] * len(views))

    def close_futures(self) -> None:
        """Forget futures of which none was picked."""
        self.futures = None

    def step_futures(self, number: int, given: Float32[np.ndarray, "n a"]) -> bytes:
        """The next frames of every future.

        Raises:
            UserError: nobody picked one for a long time.
        """
        futures = self.futures
        assert futures is not None
        if sum(part.shape[1] for part in futures.taken) >= LONGEST_BRANCH:
            raise UserError("these futures are long: pick one of them")
        actions = self.in_futures(futures, given)
        began = time.perf_counter()
        shown = futures.dream.play(actions, alike=futures.alike)
        ms = {"model": passed(began)}
        futures.taken.append(actions)
        futures.shown.append(shown)
        views = [m.View(name=name, kind="future", run=self.front) for name in futures.names]
        return self.picture("step", views, list(shown), number=number, actions=actions[0], ms=ms)

    def in_futures(self, futures: Futures, given: Float32[np.ndarray, "n a"]) -> Float32[np.ndarray, "r n a"]:
        """The actions in every future: forced ones, or those of whoever plays, who sees each future alone."""
        if futures.forced is not None:
            return np.repeat(futures.forced[:, None], len(given), 1)
        if self.pilot is not None:
            return np.repeat(self.pilot.actions(futures.dream)[:, None], len(given), 1)
        played = self.recorded_ahead(given) if self.by == "episode" else self.actions_of(given)[0]
        return np.repeat(played[None], len(futures.names), 0)

    def recorded_ahead(self, given: Float32[np.ndarray, "n a"]) -> Float32[np.ndarray, "n a"]:
        """The episode's own actions as far as the futures have come."""
        assert self.futures is not None
        ahead, self.at = self.at, self.at + sum(part.shape[1] for part in self.futures.taken)
        try:
            return self.recorded_actions(given)
        finally:
            self.at = ahead

    def pick(self, asked: m.Pick) -> Iterator[bytes]:
        """Go on with one future: the other models and the real game follow under the actions that it took.

        Raises:
            UserError: there is no such future.
        """
        futures = self.futures
        if futures is None or asked.row >= len(futures.names):
            raise UserError("there is no such future to pick: branch first")
        self.futures, front = None, self.names[self.front]
        self.dreams[self.front] = futures.dream.select([asked.row])
        frames = {name: np.array(reel[-1])[None] for name, reel in self.reel.frames.items() if reel}
        for taken, shown in zip(futures.taken, futures.shown, strict=True):
            actions = taken[asked.row]
            frames = {name: shown[asked.row] if name == front else dream.play(actions[None])[0]
                      for name, dream in zip(self.names, self.dreams, strict=True)}  # fmt: skip
            if self.game is not None:
                frames[REAL] = self.game.play(actions)
            self.reel.add(actions, frames)
            self.at += len(actions)
        if self.game is None:
            frames.pop(REAL, None)
        yield self.picture("picked", self.views(frames), [view[-1:] for view in frames.values()])

    def explore(self, asked: m.Explore) -> Iterator[m.Message]:
        """Say what the directions are, and where the state is along them from now on."""
        self.exploring = asked.on
        if asked.on:
            yield m.Directions(directions=self.dreams[self.front].model.directions(self.dataset)[1])

    def move(self, asked: m.Move) -> Iterator[bytes]:
        """Set coordinates of the shown frame, or of the state that the future comes from.

        Raises:
            UserError: there is no such direction.
        """
        dream = self.dreams[self.front]
        found, rows = dream.model.directions(self.dataset)
        values = {int(number): value for number, value in asked.values.items()}
        if wrong := [number for number in values if number >= len(rows)]:
            raise UserError(f"there is no direction {wrong[0]}: give 0 to {len(rows) - 1}")
        if asked.where == "frame":
            frame = dream.moved_frame(found, values)
            yield self.picture("moved", [m.View(name="moved", kind="moved", run=self.front)], [frame])
            return
        self.close_futures()
        yield self.open_futures(Futures(dream.moved(found, values), ["as it was", "moved"], alike=True))

    def save(self, asked: m.Save) -> Iterator[m.Message]:
        """Write what was played."""
        paths = self.reel.save(self.stage.out, self.dataset, self.dreams[0].tune.prompt)
        yield m.Said(text=f"saved {', '.join(map(str, paths))}")

    def picture(
        self,
        what: Any,
        views: list[m.View],
        pictures: list[Frames],
        *,
        number: int | None = None,
        actions: Float32[np.ndarray, "n a"] | None = None,
        ms: dict[str, float] | None = None,
    ) -> bytes:
        """A packed picture of some views, a row each."""
        began, coordinates = time.perf_counter(), None
        if self.exploring and self.begun is not None and what in ("start", "step"):
            dream = self.dreams[self.front]
            coordinates = dream.coordinates(dream.model.directions(self.dataset)[0])
        content = m.picture(pictures, self.form)
        names = [] if actions is None else self.names_of(actions)
        header = m.Shown(what=what, number=number, at=self.at, frames=len(pictures[0]), size=self.dataset.size,
                         views=views, format=self.form, by=self.by, actions=names, coordinates=coordinates,
                         ms={"queue": self.queued, **(ms or {}), "pack": passed(began)})  # fmt: skip
        return m.pack(header, content)

    def names_of(self, actions: Float32[np.ndarray, "n a"]) -> list[str]:
        """The named action nearest to each, in the training data's standard deviations."""
        std = np.maximum(self.stage.models[0].pipeline.trained_on.action_std, 1e-6)
        distance = np.square((actions[:, None] - self.named) / std).sum(-1)
        return [self.stage.hello.controls[i].name for i in distance.argmin(1)]


def passed(began: float) -> float:
    """Milliseconds since a moment."""
    return round(1e3 * (time.perf_counter() - began), 3)


def psnr(frames: Frames, real: Frames) -> list[float]:
    """PSNR in dB of each frame against the real game's, at most 99."""
    from videowm.evaluate.pictures import psnr as of_video

    return [min(99.0, value) for value in of_video(to_float(frames[None]), to_float(real[None]))[0].tolist()]


def distinct(names: list[str]) -> list[str]:
    """Names with a number behind those that come again; the real game's is taken."""
    found: list[str] = []
    for name in names:
        taken = [*found, REAL]
        found.append(next(n for n in (name, *(f"{name}-{i}" for i in range(2, 99))) if n not in taken))
    return found
