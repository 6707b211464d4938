"""Memory: the game is led away from a view and back to it; does the dream then show what was there?

Every start stands still at the end of its context, which so shows the view. The player then looks aside and back
after a longer and longer wait, turns round once, or walks ahead and back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from videowm.bootstrap import mean_and_resamples, spread
from videowm.data.dataset import Dataset
from videowm.evaluate.counterfactual import SPARE, Future, Replay
from videowm.evaluate.courses import SETTLE, TAIL, Course, Walks, chosen, comes_back
from videowm.evaluate.curves import Pairs, mean_and_error
from videowm.evaluate.heldout import of_other_episode
from videowm.evaluate.pictures import by_frame, psnr
from videowm.evaluate.reader import Reader, state_table
from videowm.evaluate.readings import standardised
from videowm.evaluate.reconstruction import reconstructed, through
from videowm.evaluate.rollouts import RolloutConfig, Start, roll, start_from, starting_points
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError
from videowm.vae.codec import to_float

BOUNDS = ("", "ceiling", "floor", "real")


@dataclass(frozen=True)
class Videos:
    """A course from n starts, "n f 3 H W" of predicted frames."""

    rows: np.ndarray  # "n", numbers of the starts
    episode: np.ndarray
    real: Tensor
    decoded: Tensor  # the real game through the autoencoder
    dreamed: Tensor
    view: Tensor  # "n 1 3 H W", the last context frame
    states: np.ndarray  # float32 "n f s", the simulator's


@dataclass(frozen=True)
class Returned:
    """How near the frames behind the return are to the real ones, in the n starts whose game came back."""

    course: Course
    episode: np.ndarray  # "n"
    psnr: dict[str, np.ndarray]  # "n" by bound, and `stay` of a view that was never left
    pose: dict[str, np.ndarray]  # "n" by bound: errors of the state that is read, standard deviations; or empty


class Field:
    """Standing starts of a run, and the real game that they go on in.

    Raises:
        UserError: the game cannot be played again or has no names for the courses, or no view comes back.
    """

    def __init__(self, pipeline: WorldModelPipeline, dataset: Dataset, config: RolloutConfig, count: int) -> None:
        self.pipeline, self.replay, self.k = pipeline, Replay(dataset), pipeline.time_stride
        self.walks = Walks(self.replay.world)
        longest = max(course.length(self.k) for course in self.walks.courses(None))
        standing = 1 + -(-SETTLE // self.k) * self.k
        self.config = replace(
            config,
            clips=SPARE * count,
            horizon=longest,
            context_frames=max(config.context_frames, standing),
            batch=max(1, config.batch * config.horizon // longest),  # as many frames at once as in other rollouts
        )
        self.before = self.config.context_frames - 1 - SETTLE  # frames of a start before it stands still
        where = starting_points(dataset, self.config, self.k)
        self.places, turn = chosen(self.replay, self.walks, [(e, first + self.before) for e, first in where], count)
        self.courses = [c for c in self.walks.courses(turn) if c.length(self.k) <= longest]
        self.start = start_from(pipeline, dataset, [(e, at - self.before) for e, at in self.places], self.config)
        self.stay = Course("stay", ((self.walks.still, longest - TAIL),))

    def led(self, rows: Int[np.ndarray, " n"], futures: list[Future], course: Float[np.ndarray, "m a"]) -> Start:
        """Some starts with the real game of a `course` of actions float32 "m a", from standing still on, in them."""
        start, known, steps = self.start, self.config.context_frames, (len(course) - SETTLE) // self.k
        tail = to_float(np.stack([future.frames[1:] for future in futures]))
        taken = torch.from_numpy(course).expand(len(rows), -1, -1)
        return Start(
            frames=torch.cat([start.frames[rows, : known - SETTLE], tail], dim=1),
            actions=torch.cat([start.actions[rows, : self.before], taken], dim=1),
            episode=start.episode[rows],
            context_frames=known,
            noise=start.noise[rows, :steps],
            past_noise=start.past_noise[rows, : 1 + (known - 1) // self.k + steps],
        )

    @torch.no_grad()
    def rolled(self, course: Course) -> Videos | None:
        """A course in the real game and in the dream, from all starts whose view comes back; None where fewer than
        two episodes have one."""
        horizon = course.length(self.k)
        actions = self.walks.actions(*course.steps, (self.walks.still, horizon - course.back))
        found = [self.replay.future(*place, actions) for place in self.places]
        back = [future is not None and (course is self.stay or comes_back(future, course)) for future in found]
        rows = np.flatnonzero(back)
        if len(np.unique(self.start.episode[rows])) < 2:
            return None
        futures, known, batch = [found[i] for i in rows], self.config.context_frames, self.config.batch
        one = self.led(rows, futures, actions)
        videos = (one.frames, reconstructed(one.frames, through(self.pipeline.codec), batch),
                  roll(self.pipeline, one, self.config))  # fmt: skip
        states = np.stack([future.states[SETTLE + 1 :] for future in futures])
        return Videos(rows, one.episode, *(video[:, known:] for video in videos), one.frames[:, known - 1 : known],
                      states)  # fmt: skip


def near(videos: Videos, course: Course, stay: Videos, k: int, batch: int) -> dict[str, Float64[np.ndarray, " n"]]:
    """PSNR of the latent step behind the return, by bound: through the autoencoder, the mean of other episodes' real
    frames, and the picture that was left. And of a rollout that never left it, at the same time.

    The mean is nearer than any single view of elsewhere, and a blurred dream comes near it too: that is no memory.
    """
    span = slice(course.back - 1, course.back - 1 + k)
    real, device = videos.real[:, span], torch.device("cpu")
    shown = {"": videos.dreamed[:, span], "ceiling": videos.decoded[:, span],
             "floor": torch.stack([real[torch.from_numpy(videos.episode != e)].mean(0) for e in videos.episode]),
             "real": videos.view.expand_as(real)}  # fmt: skip
    found = {bound: by_frame(psnr, video, real, device, batch).mean(1) for bound, video in shown.items()}
    at = np.searchsorted(stay.rows, videos.rows)
    still = by_frame(psnr, stay.dreamed[at][:, span], stay.real[at][:, span], device, batch).mean(1)
    return found | {"stay": still}


def pose(
    videos: Videos, course: Course, reader: Reader | None, names: tuple[str, ...]
) -> dict[str, Float64[np.ndarray, " n"]]:
    """Absolute error of the state that is read in the frames behind the return, by bound, mean over its columns.

    Empty without a reader that reads states in so few frames.
    """
    if reader is None or not reader.readable.state or reader.config.frames > TAIL:
        return {}
    skipped, begin = len(reader.readable.actions), course.back - 1 + reader.config.lag
    rows = np.stack([state_table(s, names, reader.readable.state) for s in videos.states])
    rows = rows[:, begin : begin + TAIL - reader.config.frames + 1]
    true = standardised(reader, np.concatenate([np.zeros((*rows.shape[:2], skipped)), rows], -1))[..., skipped:]

    def error(video: Float[Tensor, "n f 3 H W"]) -> Float64[np.ndarray, " n"]:
        read = standardised(reader, reader.read(video[:, course.back - 1 : course.back - 1 + TAIL]))[..., skipped:]
        return np.abs(read - true).mean((1, 2))

    other = torch.from_numpy(of_other_episode(videos.episode))
    return {"": error(videos.dreamed), "ceiling": error(videos.decoded), "ceiling_real": error(videos.real),
            "floor": error(videos.real[other])}  # fmt: skip


def returns(
    pipeline: WorldModelPipeline, dataset: Dataset, config: RolloutConfig, count: int, reader: Reader | None
) -> Pairs:
    """What is kept of a view that was left, by course and over all, and its half-life; or why nothing is known."""
    try:
        field = Field(pipeline, dataset, config, count)
    except UserError as refusal:
        yield "returns/game_refused", f"no view is left and seen again: {refusal}"
        return
    stay, found = field.rolled(field.stay), []
    for course in field.courses if stay else ():
        videos = field.rolled(course)
        if videos and np.isin(videos.rows, stay.rows).all():
            near_to = near(videos, course, stay, field.k, config.batch)
            found.append(Returned(course, videos.episode, near_to, pose(videos, course, reader, dataset.state_names)))
    yield "returns/starts", len(field.places)
    for one in found:
        yield f"returns/{one.course.name}_seconds", one.course.back / pipeline.trained_on.fps
        yield f"returns/{one.course.name}_starts", len(one.episode)
        yield from scores([one], f"{one.course.name}_")
    yield from scores(found, "")
    yield from half_life([one for one in found if one.course.name.startswith("look")], pipeline.trained_on.fps)


def scores(found: list[Returned], name: str) -> Pairs:
    """The means over some courses and their starts, each beside its bounds."""
    if not found:
        return
    episode = np.concatenate([one.episode for one in found])

    def whole(part: str, bound: str) -> Float64[np.ndarray, " n"]:
        return np.concatenate([getattr(one, part)[bound] for one in found])

    for bound in found[0].psnr:
        if bound != "stay":
            yield from mean_and_error(f"returns/{name}psnr{'_' * bool(bound)}{bound}", whole("psnr", bound), episode)
    for bound in found[0].pose:
        yield from mean_and_error(f"returns/{name}pose{'_' * bool(bound)}{bound}", whole("pose", bound), episode)
    yield from mean_and_error(f"returns/{name}gap", whole("psnr", "stay") - whole("psnr", ""), episode)
    share = kept(found)
    yield f"returns/{name}kept", float(share[0])
    yield f"returns/{name}kept_se", float(spread(share[1:], episode))


def kept(found: list[Returned]) -> Float64[np.ndarray, " draws"]:
    """How far the return is from the mean of other episodes' views (0) to the autoencoder's picture (1).

    The share over all, then that of every resample of episodes.
    """
    weights = mean_and_resamples(np.concatenate([one.episode for one in found]))
    dream, top, bottom = (weights @ np.concatenate([one.psnr[bound] for one in found])
                          for bound in ("", "ceiling", "floor"))  # fmt: skip
    return (dream - bottom) / (top - bottom)


def half_life(looks: list[Returned], fps: float) -> Pairs:
    """Seconds away after which half of the view is lost, between the waits that were tried; None where it never is."""
    if len(looks) < 2:
        return
    seconds = np.array([one.course.back / fps for one in looks])
    lost = np.array([kept([one]) for one in looks]).T <= 0.5  # "draws looks"
    first = np.where(lost.any(1), seconds[lost.argmax(1)], seconds[-1])
    yield "returns/half_life", float(first[0]) if lost[0].any() else None
    yield "returns/half_life_se", float(spread(first[1:], looks[0].episode))
    yield "returns/longest", float(seconds[-1])
