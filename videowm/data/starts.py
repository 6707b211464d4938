"""A few held-out stretches that travel with a pushed model, so that it can be rolled out where no dataset is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from videowm import config as configuration
from videowm.data import layout
from videowm.data.action_table import find_source, judged_by, sources
from videowm.data.clips import even_clips
from videowm.data.dataset import Dataset
from videowm.data.latents import LatentsIndex
from videowm.data.mixture import listed
from videowm.types import Episode, UserError

STARTS = "starts"  # their folder within a run's
FRAMES = 81  # most frames of a stretch: a context of nine, and a few seconds


def starts_of(run: Path) -> Path:
    """The stretches that a pushed run brought along.

    Raises:
        UserError: it brought none.
    """
    if not (run / STARTS / "meta/info.json").is_file():
        raise UserError(f"{run} brought no frames to start from (no {STARTS}/): name a dataset with --from")
    return run / STARTS


def dataset_of(run: Path) -> Path:
    """What a pushed run brought along to start from, or else the recording that a run's (first) latents were made of.

    Raises:
        UserError: the run's latents are gone.
    """
    return datasets_of(run)[0]


def datasets_of(run: Path) -> list[Path]:
    """What a pushed run brought along to start from, or else all recordings that a run's latents were made of.

    Raises:
        UserError: some of the run's latents are gone.
    """
    if (run / STARTS).is_dir():
        return [starts_of(run)]
    folders = [Path(folder) for folder in listed(configuration.read(run / "config.yaml").get("latents", ""))]
    if gone := [folder for folder in folders if not (folder / "latents.json").exists()]:
        raise UserError(f"{run} was trained on {gone[0]}, which is not there: name a recording with --from DATA")
    return [Path(LatentsIndex.read(folder).data) for folder in folders]


def acted_dataset(run: Path, data: Path | None = None) -> Dataset:
    """A recording with the actions of the source that a run was trained on; with its own where labels stand for them.

    Stretches that a pushed run brought along hold them. So does another recording, unless the run has no actions.

    Args:
        run: a world model's.
        data: None: what `dataset_of` finds.

    Raises:
        UserError: there is no such recording or source.
    """
    dataset, config = Dataset(data if data is not None else dataset_of(run)), configuration.read(run / "config.yaml")
    source = config.get("actions")
    folders = [*map(Path, listed(config.get("latents", str(dataset.root)))), dataset.root]
    if source not in sources(dataset.action_names, *folders):
        return dataset
    table = find_source(source, dataset.action_names, folders, dataset.hash)
    return dataset.acting(judged_by(table, dataset.action_names))


def write_starts(data: Dataset, out: Path, count: int) -> None:
    """Write a small dataset of held-out stretches, spread over the episodes; all of it is for test.

    Raises:
        UserError: fewer than two stretches can be cut.
    """
    held = [int(data.lengths[episode]) for episode in data.split("test")]
    length = min(FRAMES, max(held, default=0))
    where = even_clips(data, frames=length, split="test", count=count)
    if len(where) < 2:
        raise UserError(f"{data.root} holds {len(where)} held-out stretches of {length} frames: record more episodes")
    form = layout.Layout(data.name, data.fps, data.size, data.action_names, data.state_names, group=len(where))
    layout.write_group(out, 0, [cut(data, episode, first, length) for episode, first in where], form)
    layout.finish(out, form, test_share=1.0)


def cut(data: Dataset, episode: int, first: int, length: int) -> Episode:
    """A stretch of a recorded episode, as an episode; without rewards and ends where none were recorded."""
    part, features = slice(first, first + length), data.info["features"]
    none = np.zeros(length, np.float32)
    reward, done = (
        data.column(episode, name)[part] if name in features else none for name in ("next.reward", "next.done")
    )
    states = data.states(episode)[part] if data.state_names else none[:, None][:, :0]
    return Episode(data.frames(episode, range(first, first + length)), data.all_actions(episode)[part], reward,
                   done.astype(bool), states, data.caption(episode))  # fmt: skip
