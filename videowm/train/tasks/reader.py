"""Train the reader: windows of real frames -> the action and the state of one of their rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from videowm.bootstrap import standard_error
from videowm.data.clips import ClipStream, even_clips
from videowm.data.dataset import Dataset
from videowm.data.resident import Resident, ResidentFrames
from videowm.evaluate import scores
from videowm.evaluate.reader import Reader, ReaderConfig, describe, targets
from videowm.limits import Count, Seed
from videowm.train.config import TrainConfig
from videowm.train.task import Draws, Task
from videowm.vae.codec import to_float


@dataclass(frozen=True)
class ReaderRun:
    """`task: reader`: train the network that reads actions and state off frames."""

    task: Literal["reader"]  # what is trained
    out: str  # run directory
    data: str  # dataset that `videowm record` or `import` wrote
    seed: Seed = 0  # of weights, order and noise
    clip: Count = 17  # frames read at once, of which all windows are samples
    heldout_clips: Count = 64  # clips of held-out episodes on which it is measured
    resident: Resident = "auto"  # frames on the device, decoded once; auto: where they fit and enough are read
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


class ReaderTask(Task):
    """Read actions and state off real frames."""

    name, network = "reader", Reader

    def __init__(self, config: ReaderRun) -> None:
        self.config, self.seed = config, config.seed
        self.dataset = self.recording()
        self.model = self.network(config.reader, describe(self.dataset, config.reader))
        self.clips = ClipStream(self.dataset, frames=config.clip, split="train", seed=config.seed)
        self.heldout = even_clips(self.dataset, frames=config.clip, split="test", count=config.heldout_clips)
        self.resident = ResidentFrames(self.dataset, "train")
        self.tables: dict[int, np.ndarray] = {}

    def recording(self) -> Dataset:
        """The recording that is read."""
        return Dataset(self.config.data)

    def to(self, device: torch.device) -> None:
        """What the targets are standardised by lies on the device from the first step on, the frames if they fit."""
        config, readable = self.config, self.model.readable
        self.mean, self.std = (torch.tensor(values, device=device) for values in (readable.mean, readable.std))
        self.resident.settle(config.resident, device, config.train.steps * config.train.batch * config.clip)

    def rows(self, episode: int, start: int) -> np.ndarray:
        """The targets "w k" of a clip's windows."""
        if episode not in self.tables:
            self.tables[episode] = targets(self.dataset, episode, self.config.reader.state)
        first = start + self.config.reader.lag
        return self.tables[episode][first : first + self.config.clip - self.config.reader.frames + 1]

    def load(self, step: int, slots: range) -> dict[str, Tensor]:
        numbers = [step * self.config.train.batch + slot for slot in slots]
        rows = np.stack([self.rows(*self.clips.where(number)) for number in numbers])
        return self.resident.load(self.clips, numbers) | {"rows": torch.from_numpy(rows)}

    def loss(self, model: nn.Module, batch: dict[str, Tensor], draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean `error` of all windows; the frames get noise, which a rollout has too."""
        frames = to_float(self.resident.of(batch, self.config.clip))
        frames = frames + 0.02 * draws.normal(*frames.shape[1:])
        return self.error(model(self.model.windows(frames).flatten(0, 1)), batch["rows"].flatten(0, 1)), {}

    def error(self, made: Tensor, rows: Tensor) -> Tensor:
        """Mean squared error, a scalar, of what the network made of windows "b", in standardised targets "b k"."""
        return (made.float() - (rows - self.mean) / self.std).square().mean()

    @torch.no_grad()
    def evaluate(self) -> Iterator[tuple[str, Any]]:
        """R² of every target on held-out episodes, and the accuracy of those that are 0 or 1."""
        read, true, readable = [], [], self.model.readable
        for episode, start in self.heldout:
            frames = to_float(self.dataset.clip(episode, start, self.config.clip).frames)
            read.append(self.model.read(frames[None])[0].numpy())
            true.append(self.rows(episode, start))
        episodes = np.array([episode for episode, _ in self.heldout])
        read, true = np.stack(read), np.stack(true)
        for i, name in enumerate(readable.names):
            score, error = scores.r2(read[..., [i]], true[..., [i]], episodes)
            yield f"reader/{name}_r2", score
            yield f"reader/{name}_r2_se", error
            if readable.binary[i]:
                right = ((read[..., i] > 0.5) == (true[..., i] > 0.5)).mean(1)
                yield f"reader/{name}_accuracy", float(right.mean())
                yield f"reader/{name}_accuracy_se", standard_error(right, episodes)

    def export(self, out) -> None:
        self.model.save(out)

    def restore(self, run: Path, device: torch.device) -> None:
        """Take the trained weights of a finished run, ready to be evaluated."""
        self.model.load_state_dict(self.network.open(run).state_dict())
        self.model.to(device).eval()

    def record_fields(self) -> dict[str, Any]:
        """Parameters, frames seen, and hashes of data and model."""
        return {
            "params": {self.name: sum(p.numel() for p in self.model.parameters())},
            "frames": {"seen": self.config.train.steps * self.config.train.batch * self.config.clip},
            "hashes": {"data": self.dataset.hash, self.name: self.model.hash},
        }


CONFIG, TASK = ReaderRun, ReaderTask
