"""Train the detector: frames -> the things in them, whose boxes the game gives when it is played again."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from videowm.data.clips import pick
from videowm.data.dataset import Dataset
from videowm.device import default_device
from videowm.evaluate.counterfactual import Replay
from videowm.evaluate.detector import (
    Detector,
    DetectorConfig,
    Findable,
    Found,
    as_rows,
    detector_loss,
    matched,
    world_with_laws,
)
from videowm.evaluate.keeps import episode_boxes
from videowm.evaluate.leaks import Laws, flight_of, judge, slope_of
from videowm.evaluate.planted import planted
from videowm.evaluate.reconstruction import reconstructed, through
from videowm.evaluate.tracks import Rules
from videowm.limits import Count, Seed
from videowm.train.config import TrainConfig
from videowm.train.task import Draws, Task
from videowm.vae.codec import DiffusersCodec, load_vae, to_float, to_uint8

GAMES = 8  # that are played again at the same time
CLIP = 33  # frames that an autoencoder is shown at once
PATHS = 20  # episodes from whose straight things the camera is understood
ROUGH = 0.06  # of [-1, 1], most noise that a frame gets


@dataclass(frozen=True)
class DetectorRun:
    """`task: detector`: train the network that finds the things of a world in a frame."""

    task: Literal["detector"]  # what is trained
    out: str  # run directory
    data: str  # dataset that `videowm record` wrote, of a world that has boxes and says what can never happen
    vae: str | None = None  # autoencoder through which every second frame is seen, as dreams are; null: none
    seed: Seed = 0  # of weights, order and noise
    episodes: Count = 100  # training episodes whose games are played again for the boxes
    heldout_episodes: Count = 20  # held-out ones on which it is measured
    planted: Count = 64  # events of each kind that are planted in them
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class Labelled:
    """Whole episodes with what is in every frame."""

    frames: list[np.ndarray]  # uint8 "f H W 3" of each episode
    things: list[list[Found]]
    columns: list[np.ndarray]  # "f c"


def labelled(dataset: Dataset, episodes: list[int], columns: list[str]) -> Labelled:
    """Some episodes, their games played again for the boxes, several at once.

    Raises:
        UserError: a game cannot be played again.
    """
    chosen = [dataset.state_names.index(name) for name in columns]
    frames = [dataset.frames(episode, range(int(dataset.lengths[episode]))) for episode in episodes]
    states = [dataset.states(episode)[:, chosen].astype(np.float64) for episode in episodes]
    count = min(GAMES, os.cpu_count() or 1, len(episodes))
    games = [replay_of(dataset) for _ in range(count)]
    with (
        tqdm(total=len(episodes), desc="boxes", unit="episode", dynamic_ncols=True, leave=False) as bar,
        ThreadPoolExecutor(count) as pool,
    ):

        def play(part: int) -> list[list[Found]]:
            found = []
            for episode in episodes[part::count]:
                found.append([as_rows(boxes) for boxes in episode_boxes(games[part], episode)])
                bar.update()
            return found

        parts = list(pool.map(play, range(count)))
    return Labelled(frames, [parts[i % count][i // count] for i in range(len(episodes))], states)


def replay_of(dataset: Dataset) -> Replay:
    """The dataset's game, started here: an engine must not start in a thread."""
    replay = Replay(Dataset(dataset.root))
    replay.world.watched = True
    replay.world.reset(0)
    return replay


@torch.no_grad()
def seen_through(vae: str, episodes: list[np.ndarray], device: torch.device) -> list[np.ndarray]:
    """The frames "f H W 3" of episodes as an autoencoder shows them; the last few, which fill no step, as they are.

    Raises:
        UserError: no autoencoder is there.
    """
    codec, shown = DiffusersCodec(load_vae(vae).to(device).eval()), []
    for frames in tqdm(episodes, desc="autoencoder", unit="episode", dynamic_ncols=True, leave=False):
        pictures = frames.copy()
        for first in range(0, len(frames), CLIP):
            part = frames[first : first + CLIP]
            length = (len(part) - 1) // codec.stride[0] * codec.stride[0] + 1
            decoded = reconstructed(to_float(part[None, :length]), through(codec), 1)
            pictures[first : first + length] = to_uint8(decoded.clamp(-1, 1))[0]
        shown.append(pictures)
    return shown


def padded(things: list[Found], kinds: list[str]) -> np.ndarray:
    """Things of frames as one array float32 "f k m 5", zeros where there is none."""
    most = max([1, *(len(frame[kind]) for frame in things for kind in kinds)])
    rows = np.zeros((len(things), len(kinds), most, 5), np.float32)
    for i, frame in enumerate(things):
        for j, kind in enumerate(kinds):
            rows[i, j, : len(frame[kind])] = frame[kind]
    return rows


class DetectorTask(Task):
    """Find the things of a world in real frames."""

    name = "detector"

    def __init__(self, config: DetectorRun) -> None:
        self.config, self.seed = config, config.seed
        self.dataset = Dataset(config.data)
        self.world = world_with_laws(self.dataset)
        columns = [name for name in self.world.BOUNDS if name in self.dataset.state_names]
        known = labelled(self.dataset, self.dataset.split("train")[: config.episodes], columns)
        rows = np.concatenate(known.columns)
        fastest = np.max([np.abs(np.diff(c, axis=0)).max(0) for c in known.columns if len(c) > 1], axis=0)
        kinds, size, still = list(known.things[0][0]), self.dataset.size, self.world.STILL
        slope = slope_of(known.things, known.columns, still) if columns and still else 0.0
        flight = flight_of(known.things[:PATHS], known.columns, self.world, slope, size) if slope else 0.0
        self.model = Detector(config.detector, Findable(
            self.dataset.name, self.dataset.hash, size, kinds, columns, rows.mean(0).tolist(),
            rows.std(0).clip(1e-6).tolist(), fastest.tolist(), slope, flight,
        ))  # fmt: skip
        self.frames = [np.concatenate(known.frames)]
        if config.vae:
            self.frames.append(np.concatenate(seen_through(config.vae, known.frames, default_device())))
        self.things = padded([frame for episode in known.things for frame in episode], kinds)
        self.columns = ((rows - rows.mean(0)) / rows.std(0).clip(1e-6)).astype(np.float32)

    def load(self, step: int, slots: range) -> dict[str, Tensor]:
        """Frames of all episodes in a random order, in turns as they are and through the autoencoder."""
        numbers = [step * self.config.train.batch + slot for slot in slots]
        chosen = [pick(self.seed, number, len(self.things))[0] for number in numbers]
        frames = [self.frames[number % len(self.frames)][i] for number, i in zip(numbers, chosen, strict=True)]
        rows = {"frames": np.stack(frames), "things": self.things[chosen], "columns": self.columns[chosen]}
        return {name: torch.from_numpy(values) for name, values in rows.items()}

    def loss(self, model: nn.Module, batch: dict[str, Tensor], draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Centres, boxes and columns; frames are blurred and get noise, each by its own measure, as dreams are."""
        frames = to_float(batch["frames"][:, None])[:, 0]
        blur, rough = draws.uniform(1, 1, 1), draws.uniform(1, 1, 1)
        soft = F.avg_pool2d(F.pad(frames, (1, 1, 1, 1), mode="replicate"), 3, 1)
        frames = frames.lerp(soft, blur) + ROUGH * rough * draws.normal(*frames.shape[1:])
        terms = detector_loss(model(frames), batch["things"], batch["columns"])
        return sum(terms.values()), {name: term.detach() for name, term in terms.items()}

    @torch.no_grad()
    def evaluate(self) -> Iterator[tuple[str, Any]]:
        """What is found in held-out frames, false events there, and how many of those that are planted are seen."""
        seen, laws = self.model.findable, Laws.of(self.model)
        held = labelled(self.dataset, self.dataset.split("test")[: self.config.heldout_episodes], seen.columns)
        found = [self.model.find(to_float(frames[None])[0]) for frames in held.frames]
        frames = sum(map(len, held.frames))
        yield "detector/frames", frames
        for kind in seen.kinds:
            pairs = [(a, b) for (things, _), true in zip(found, held.things) for a, b in zip(things, true)]
            right, given, there = np.sum([matched(a, b, kind, Rules().sure) for a, b in pairs], axis=0)
            yield f"detector/{kind}_recall", right / max(1, there)
            yield f"detector/{kind}_precision", right / max(1, given)
        for i, name in enumerate(seen.columns):
            errors = [np.abs(read[:, i] - true[:, i]) for (_, read), true in zip(found, held.columns)]
            yield f"detector/{name}_error", float(np.median(np.concatenate(errors)))
        false = Counter(event.what for one in found for event in judge(*one, laws))
        for name in laws.events:
            yield f"leaks/{name}_false", 1000 * false[name] / frames
        yield from self.planted(held, laws)

    def planted(self, held: Labelled, laws: Laws) -> Iterator[tuple[str, Any]]:
        """The share of planted events that are seen, and of how many."""
        episodes = list(zip(held.frames, held.things, held.columns, strict=True))
        seen: dict[str, list[bool]] = {}
        for clip in planted(episodes, laws, self.config.planted):
            events = judge(*self.model.find(to_float(clip.frames[None])[0]), laws)
            seen.setdefault(clip.what, []).append(clip.seen(events))
        for name, hits in seen.items():
            yield f"leaks/{name}_recall", float(np.mean(hits))
            yield f"leaks/{name}_recall_clips", len(hits)

    def export(self, out: Path) -> None:
        self.model.save(out)

    def restore(self, run: Path, device: torch.device) -> None:
        """Take the trained weights of a finished run, ready to be evaluated."""
        self.model.load_state_dict(Detector.open(run).state_dict())
        self.model.to(device).eval()

    def record_fields(self) -> dict[str, Any]:
        """Parameters, frames seen, and hashes of data and model."""
        return {
            "params": {"detector": sum(p.numel() for p in self.model.parameters())},
            "frames": {"seen": self.config.train.steps * self.config.train.batch},
            "hashes": {"data": self.dataset.hash, "detector": self.model.hash},
        }


CONFIG, TASK = DetectorRun, DetectorTask
