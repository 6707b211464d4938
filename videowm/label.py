"""`videowm label`: actions read off frames: labels learned from a share of the episodes, or discovered codes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from videowm import shipped
from videowm.data.action_table import ActionTable, read_about, tables
from videowm.data.dataset import Dataset
from videowm.device import default_device
from videowm.evaluate import coder
from videowm.evaluate.coder import Coder
from videowm.evaluate.labeller import Labeller
from videowm.files import writing
from videowm.options import LabelOptions
from videowm.record import RunRecord
from videowm.train import registry
from videowm.train.loop import launch
from videowm.types import UserError
from videowm.vae.codec import to_float

KIND = "labelled"


@dataclass(frozen=True)
class Labelled:
    """A recording's labels, and how good their maker is on held-out episodes."""

    name: str  # of the source, labelled/HASH
    labelled: int  # episodes whose actions are labels
    kept: int  # episodes whose actions are recorded ones
    metrics: dict[str, Any]  # of the labeller

    @property
    def summary(self) -> str:
        """One line: what was made, and how a world model takes it."""
        if self.name.startswith(f"{coder.KIND}/"):
            return f"{self.labelled} episodes have codes for actions: train a world model with actions={self.name}"
        return (f"{self.labelled} episodes are labelled and {self.kept} keep their recorded actions: train a world "
                f"model with actions={self.name}")  # fmt: skip


def label(data: Path, options: LabelOptions) -> Labelled:
    """Train a labeller unless there is one, and write the labels of a recording into it.

    The same call again goes on with an interrupted training, and makes no labels twice. A run of discovered actions
    labels with codes.

    Raises:
        UserError: no episode of the share is long enough, the labeller is of another frame size, or its run is not
            finished.
    """
    dataset, run = Dataset(data), options.by or trained(data, options)
    if (run / f"{Coder.kind}.safetensors").exists():
        return code(dataset, run)
    labeller, record = Labeller.open(run), RunRecord.read(run)
    config = registry.load(run / "config.yaml")
    own = record.hashes["data"] == dataset.hash
    kept = dataset.labelled_episodes(config.share, config.seed) if own else []
    note = {"labeller": labeller.hash, "share": config.share, "hours": record.metrics["label/hours"], "kept": kept}
    name = made_before(dataset, labeller.hash) or write_labels(dataset, labeller.to(default_device()), kept, note)
    return Labelled(name, dataset.num_episodes - len(kept), len(kept), record.metrics)


def trained(data: Path, options: LabelOptions) -> Path:
    """The run of a labeller, trained now or before.

    Raises:
        UserError: the folder holds another run, or there is too little to learn from.
    """
    source = options.learn_from or data
    if Dataset(source).source == "none":
        raise UserError(f"{source} holds no actions to learn from: name a recording with --learn-from, or a finished "
                        "labeller with --by")  # fmt: skip
    given = {"train.steps": options.steps, "train.minutes": options.minutes}
    more = [f"{key}={value}" for key, value in given.items() if value is not None]
    launch(shipped.require("label/base"), [f"data={source}", f"out={options.out}", f"share={options.share}",
                                           f"seed={options.seed}", *more])  # fmt: skip
    return options.out


def made_before(dataset: Dataset, labeller: str) -> str | None:
    """The name of this labeller's table of the recording, if it was made."""
    for name in tables(dataset.root):
        about = read_about(dataset.root, name)
        if (about.get("labeller"), about["data_hash"]) == (labeller, dataset.hash):
            return name
    return None


def write_labels(dataset: Dataset, labeller: Labeller, kept: list[int], note: dict[str, Any]) -> str:
    """Label every episode but those of `kept`, whose actions are recorded; returns the name of the table.

    Of a label that is 0 or 1 the likelier value counts. Beside the labels lie their standard deviations, of 0 or 1 as
    the probability has it.
    """
    count, binary = len(labeller.readable.actions), np.array(labeller.readable.binary)
    values, spreads = [], []
    unseen = dataset.read_ahead(episode for episode in range(dataset.num_episodes) if episode not in kept)
    for episode in tqdm(range(dataset.num_episodes), desc="label", unit="episode", dynamic_ncols=True):
        if episode in kept:
            mean, spread = dataset.recorded.all_actions(episode), np.float32(0)
        else:
            mean, spread = (part.numpy()[:, :count] for part in labeller.rows(to_float(next(unseen))))
            mean = np.where(binary[:count], mean > 0.5, mean).astype(np.float32)
        values.append(mean)
        spreads.append(np.broadcast_to(spread, mean.shape))
    table = ActionTable.of(KIND, labeller.readable.actions, values, dataset.split("train"))
    with writing(dataset.root):
        table.save(dataset.root, dataset.hash, note, {"spread": np.concatenate(spreads).astype(np.float32)})
    return table.name


def code(dataset: Dataset, run: Path) -> Labelled:
    """Give every episode the codes of a finished run of discovered actions, unless it has them.

    Raises:
        UserError: its autoencoder is gone or another one, or takes no frames of this size.
    """
    model, record = Coder.open(run), RunRecord.read(run)
    note = {"labeller": model.hash, "vae": model.about.vae_hash}
    name = made_before(dataset, model.hash) or write_codes(dataset, model.to(default_device()), note)
    return Labelled(name, dataset.num_episodes, 0, record.metrics)


def write_codes(dataset: Dataset, model: Coder, note: dict[str, Any]) -> str:
    """Write the codes of every episode; returns the name of the table. Rows of one latent step have the same code."""
    codec, values = model.codec(), []
    codec.vae.to(default_device())
    episodes = dataset.read_ahead(range(dataset.num_episodes))
    for frames in tqdm(episodes, desc="code", total=dataset.num_episodes, unit="episode", dynamic_ncols=True):
        values.append(model.rows(codec, frames))
    table = ActionTable.of(coder.KIND, model.config.names, values, dataset.split("train"))
    with writing(dataset.root):
        table.save(dataset.root, dataset.hash, note)
    return table.name
