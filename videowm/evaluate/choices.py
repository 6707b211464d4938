"""From one real moment several courses of actions: what each earns in the real game, and whether it ends there.

The game is brought back to the moment for each course. What it did belongs to the recording, not to a model: models of
every window and time stride are asked the same, and the answers are kept beside the recording.
"""

from __future__ import annotations

import io
import math
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Bool, Float
from tqdm import tqdm

from videowm.data.clips import even_clips
from videowm.data.dataset import Dataset
from videowm.data.played import cores
from videowm.data.recording import start_worker
from videowm.evaluate.counterfactual import Replay
from videowm.files import short_hash, write_atomic
from videowm.limits import Count, NonNegative, Positive, Seed, Share
from videowm.types import UserError

Course = Float[np.ndarray, "n a"] | int  # actions, or the seed of the scripted player
Moment = tuple[int, int, int, bool]  # episode, frame, number, and whether it is watched
Played = tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]  # actions, rewards, ends and videos of a moment
FOLDER = ".choices"  # in a recording; hidden, so that it is not pushed
WHOLE_STEPS = 4  # a course is whole latent steps of any time stride that divides this
EACH = 4  # moments at least for which a process is worth its start


@dataclass(frozen=True)
class DecisionConfig:
    """Moments, the courses of actions from each, and the dreams of each course."""

    moments: Count = 128  # held-out ones, spread evenly
    courses: Count = 16  # of each: held actions, the scripted player, random ones, and two held one after the other
    seconds: Positive = 2.0  # length of a course, rounded up to whole latent steps
    past: Count = 33  # frames that lie before a moment, where an episode has as many; a model may need more
    futures: Count = 4  # dreams of each course, of which the mean counts
    ceiling: Count = 32  # moments at most that the heads see the real video of
    rows: Count = 512  # dreams computed at once
    seed: Seed = 0  # of courses and noise
    temperature: NonNegative = 1.0  # factor of the starting noise, as in `videowm.dream.rows.DreamConfig`
    past_level: Share | None = None  # noise on what was dreamed; None: the model's own sampler's
    end_temperature: Positive = 1.0  # of the end's probabilities

    def steps(self, fps: float, stride: int) -> int:
        """Latent steps of `stride` frames in a course."""
        whole = math.lcm(stride, WHOLE_STEPS)
        return max(1, -(-round(self.seconds * fps) // whole)) * whole // stride


@dataclass(frozen=True)
class Choices:
    """What the real game did in each of M moments under each of K courses of n actions."""

    episode: np.ndarray  # "M"
    frame: np.ndarray  # "M"
    actions: np.ndarray  # float32 "M K n a"; behind an end the last one goes on
    rewards: np.ndarray  # float32 "M K n", 0 behind an end
    end: np.ndarray  # int "M K": 0 the game goes on, i the i-th action ended it
    videos: list[list[np.ndarray]]  # of some moments and each course: uint8 "f H W 3" from the moment to the end

    @property
    def earned(self) -> Float[np.ndarray, "M K"]:
        """The sum of rewards of each course."""
        return self.rewards.sum(-1, dtype=np.float64)

    @property
    def died(self) -> Bool[np.ndarray, "M K"]:
        """Whether the game ended within each course."""
        return self.end > 0

    def packed(self) -> bytes:
        """All of it as .npz."""
        frames = [video for videos in self.videos for video in videos]
        lengths = np.array([[len(video) for video in videos] for videos in self.videos], np.int64)
        held = io.BytesIO()
        np.savez_compressed(held, episode=self.episode, frame=self.frame, actions=self.actions, rewards=self.rewards,
                            end=self.end, lengths=lengths, frames=np.concatenate(frames))  # fmt: skip
        return held.getvalue()

    @classmethod
    def read(cls, path: Path) -> Choices | None:
        """What `packed` wrote to a file; None where there is none, or it is damaged."""
        try:
            with np.load(path) as held:
                parts = {name: held[name] for name in held.files}
            lengths, frames = parts.pop("lengths"), parts.pop("frames")
            each = iter(np.split(frames, np.cumsum(lengths.ravel())[:-1]))
            return cls(**parts, videos=[[next(each) for _ in row] for row in lengths])
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
            return None


def courses(replay: Replay, config: DecisionConfig, length: int, moment: int) -> list[Course]:
    """The courses of one moment, each of `length` actions; random ones hold an action for some frames."""
    random = np.random.default_rng([config.seed, moment])
    names = replay.dataset.action_names
    held = [np.float32(action) for action in replay.world.forced_actions(names).values()]
    pool = [np.float32(action) for action in replay.world.named_actions(names).values()]
    if not pool:
        taken = replay.dataset.all_actions(replay.dataset.split("train")[0])
        pool = [taken[i] for i in random.integers(len(taken), size=8)]
        held = pool[:3]

    def drawn() -> np.ndarray:
        steps = random.integers(len(pool), size=-(-length // WHOLE_STEPS))
        return np.repeat(np.stack([pool[i] for i in steps]), WHOLE_STEPS, axis=0)[:length]

    half = length // 2
    found: list[Course] = [np.tile(action, (length, 1)) for action in held]
    found += [int(random.integers(2**31)) for _ in range(2)]
    found += [drawn() for _ in range(5)]
    found += [np.concatenate([np.tile(a, (half, 1)), np.tile(b, (length - half, 1))])
              for a in held for b in held if a is not b]  # fmt: skip
    found += [drawn() for _ in range(config.courses)]
    return found[: config.courses]


def play_choices(replay: Replay, config: DecisionConfig, context: int, stride: int) -> Choices:
    """Play every course from every moment in the real game, or read what it did from beside the recording.

    Args:
        replay: the game.
        config: moments and courses.
        context: frames that a model sees before a moment.
        stride: its time stride.

    Raises:
        UserError: no held-out episode has `context` frames, or an episode cannot be played again.
    """
    lengths = replay.dataset.lengths[replay.dataset.split("test")]
    past = max(context, config.past if (lengths >= config.past).any() else 0)
    length = config.steps(replay.dataset.fps, stride) * stride
    about = (config.moments, config.courses, config.ceiling, config.seed, past, length)
    path = replay.dataset.root / FOLDER / f"{short_hash(replay.dataset.hash, repr(about))}.npz"
    if (kept := Choices.read(path)) is not None:
        return kept
    where = even_clips(replay.dataset, frames=past, split="test", count=config.moments)
    watched = set(np.linspace(0, len(where) - 1, min(config.ceiling, len(where)), dtype=int).tolist())
    asked = [(episode, first + past - 1, moment, moment in watched) for moment, (episode, first) in enumerate(where)]
    played = play_all(replay, config, length, asked)
    bar = tqdm(played, total=len(asked), desc="real game", unit="moment", dynamic_ncols=True)
    *parts, videos = zip(*bar)
    actions, rewards, end = (np.stack(part) for part in parts)
    episode, frame, *_ = (np.array(column) for column in zip(*asked))
    choices = Choices(episode, frame, actions, rewards, end, [several for several in videos if several])
    if os.access(replay.dataset.root, os.W_OK):
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, choices.packed())
    return choices


def play_all(replay: Replay, config: DecisionConfig, length: int, asked: list[Moment]) -> Iterator[Played]:
    """What the game did after each of the moments asked for, in their order; by several processes if there are many.

    Raises:
        UserError: an episode cannot be played again, or a playing process was killed.
    """
    if (workers := min(cores(), len(asked) // EACH)) < 2:
        yield from (play_moment(replay, config, length, one) for one in asked)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker)
    try:
        waiting = [pool.submit(play_in_worker, replay.dataset.root, config, length, one) for one in asked]
        yield from (future.result() for future in waiting)
    except BrokenProcessPool:
        raise UserError("a playing process was killed, perhaps for memory: evaluate with fewer --decisions") from None
    finally:
        pool.shutdown(cancel_futures=True)


def play_in_worker(root: Path, config: DecisionConfig, length: int, asked: Moment) -> Played:
    """`play_moment` of the game that this process keeps open."""
    if root not in _games:
        _games[root] = Replay(Dataset(root))
    return play_moment(_games[root], config, length, asked)


_games: dict[Path, Replay] = {}  # of a worker process


def play_moment(replay: Replay, config: DecisionConfig, length: int, asked: Moment) -> Played:
    """Every course from one moment; videos only where it is watched."""
    episode, frame, moment, watch = asked
    every = [replay.outcome(episode, frame, course, length, watch=watch)
             for course in courses(replay, config, length, moment)]  # fmt: skip
    actions, rewards, end, videos = zip(*every)
    return np.stack(actions), np.stack(rewards), np.array(end), list(videos) if watch else []
