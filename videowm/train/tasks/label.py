"""Train inverse dynamics on a share of a recording's episodes: windows of frames -> the action in their middle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from videowm.bootstrap import standard_error
from videowm.data.dataset import Dataset
from videowm.data.resident import Resident
from videowm.evaluate import scores
from videowm.evaluate.labeller import Labeller, LabellerConfig, calibration, latest
from videowm.limits import Count, Fraction, Seed
from videowm.train.config import TrainConfig
from videowm.train.tasks.reader import ReaderTask
from videowm.vae.codec import to_float


@dataclass(frozen=True)
class LabelRun:
    """`task: label`: train the network that labels frames with actions; `videowm label` runs it."""

    task: Literal["label"]  # what is trained
    out: str  # run directory
    data: str  # dataset with actions
    share: Fraction = 1.0  # of the training episodes whose actions are seen; those of a smaller share are among them
    seed: Seed = 0  # of weights, order and noise, and of which episodes are seen
    clip: Count = 17  # frames read at once, of which all windows are samples
    heldout_clips: Count = 64  # clips of held-out episodes on which it is measured
    resident: Resident = "auto"  # frames on the device, decoded once; auto: where they fit and enough are read
    reader: LabellerConfig = field(default_factory=LabellerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


class LabelTask(ReaderTask):
    """Read actions off frames before and after them."""

    name, network = "label", Labeller

    def recording(self) -> Dataset:
        """The recording, whose training split is the share."""
        whole = Dataset(self.config.data)
        return whole.training_on(whole.labelled_episodes(self.config.share, self.config.seed))

    def error(self, made: Tensor, rows: Tensor) -> Tensor:
        return self.model.surprise(made, rows).mean()

    @torch.no_grad()
    def evaluate(self) -> Iterator[tuple[str, Any]]:
        """R², accuracy, calibration and delay of labels on held-out episodes, and how much was labelled."""
        mean, spread, true = (torch.stack(part) for part in zip(*map(self.labelled, self.heldout)))
        episodes, readable = np.array([episode for episode, _ in self.heldout]), self.model.readable
        for i, name in enumerate(readable.names):
            score, error = scores.r2(mean[..., [i]].numpy(), true[..., [i]].numpy(), episodes)
            yield f"label/{name}_r2", score
            yield f"label/{name}_r2_se", error
            of_one = mean[..., i].flatten(), spread[..., i].flatten(), true[..., i].flatten()
            yield f"label/{name}_calibration", calibration(*of_one, binary=readable.binary[i])
            if readable.binary[i]:
                ones = true[..., i] > 0.5
                right = ((mean[..., i] > 0.5) == ones).double().mean(1).numpy()
                yield f"label/{name}_accuracy", float(right.mean())
                yield f"label/{name}_accuracy_se", standard_error(right, episodes)
                yield f"label/{name}_accuracy_floor", float(max(ones.double().mean(), (~ones).double().mean()))
        yield "label/delay", latest(mean, true)
        seen = self.dataset.split("train")
        yield "label/episodes", len(seen)
        yield "label/hours", self.dataset.hours(seen)

    def labelled(self, where: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and standard deviation of a held-out clip's rows "w k", and the true ones."""
        frames = to_float(self.dataset.clip(*where, self.config.clip).frames)
        return *self.model.distribution(frames), torch.tensor(self.rows(*where))

    def summary(self, metrics: dict[str, Any]) -> str:
        """One sentence on the held-out labels."""
        read = self.model.readable
        found = [f"{name} {metrics[f'label/{name}_accuracy']:.1%} right" if binary
                 else f"{name} R² {metrics[f'label/{name}_r2'] or 0:.2f}"
                 for name, binary in zip(read.names, read.binary)]  # fmt: skip
        return (f"of {metrics['label/hours']:.2g} hours, {metrics['label/episodes']} episodes, it learned to label "
                f"held-out ones: {', '.join(found)}")  # fmt: skip


CONFIG, TASK = LabelRun, LabelTask
