"""Sources of actions: what was recorded, no actions, or tables of others beside a recording or its latents.

A run names its source: `recorded`, `none`, or KIND/HASH. That is the file `actions/KIND/HASH.safetensors` in the folder
of the latents or of the recording. `videowm label` writes `labelled/HASH`. Another kind needs no change here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from videowm.actions.tables import NO_ACTIONS
from videowm.config import suggest
from videowm.files import atomic, short_hash, visible
from videowm.types import UserError

RECORDED, NONE, FOLDER = "recorded", NO_ACTIONS, "actions"


@dataclass(frozen=True)
class ActionTable:
    """The actions of every row of a recording, from one source.

    Attributes:
        name: KIND/HASH, or none.
        names: of the elements of an action.
        values: float32 "n a", the rows of all episodes, one after the other; row i leads frame i to frame i+1.
        first: int64 "episodes+1", where each episode's rows begin, then n; empty: the only row holds everywhere.
        mean: float32 "a", of the training episodes' rows.
        std: float32 "a", likewise; at least a twentieth of the column's range, and 1 where it never varies.
        hash: 16 hex digits over names, values and first.
    """

    name: str
    names: tuple[str, ...]
    values: np.ndarray
    first: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    hash: str

    @classmethod
    def of(cls, kind: str, names: Sequence[str], episodes: Sequence[np.ndarray], train: Sequence[int]) -> ActionTable:
        """A table of the rows float32 "f a" of all episodes, with the statistics of those in `train`."""
        values = np.concatenate(episodes).astype(np.float32)
        first = np.cumsum([0, *map(len, episodes)])
        seen = np.concatenate([episodes[episode] for episode in train])
        mean, std = (getattr(seen, name)(0, dtype=np.float64).astype(np.float32) for name in ("mean", "std"))
        extent = np.ptp(seen, axis=0)  # an action that is hardly ever seen would be an input of hundreds
        std = np.where(extent > 0, np.maximum(std, extent / 20), 1).astype(np.float32)
        digest = digest_of(names, values, first)
        return cls(f"{kind}/{digest}", tuple(names), values, first, mean, std, digest)

    def rows(self, episodes: np.ndarray, starts: np.ndarray, count: int) -> np.ndarray:
        """Actions float32 "b count a" from row `starts` "b" of `episodes` "b" on; zeros behind an episode's end."""
        if not len(self.first):
            return np.broadcast_to(self.values, (len(episodes), count, len(self.names))).copy()
        at = (self.first[episodes] + starts)[:, None] + np.arange(count)
        inside = at < self.first[episodes + 1][:, None]
        return self.values[np.where(inside, at, 0)] * inside[..., None]

    def of_episode(self, episode: int, length: int) -> np.ndarray:
        """All actions of an episode of `length` rows, float32 "length a"."""
        return self.rows(np.array([episode]), np.array([0]), length)[0]

    def save(
        self, folder: Path, data_hash: str, note: Mapping[str, Any], beside: Mapping[str, np.ndarray] | None = None
    ) -> Path:
        """Write the table below `folder`, whole or not at all; returns its file.

        Args:
            folder: of the recording or of latents.
            data_hash: of the recording whose rows these are.
            note: what is to be known of its making, for JSON.
            beside: more arrays with a row for each of `values`.
        """
        path = folder / FOLDER / f"{self.name}.safetensors"
        about = json.dumps({"names": list(self.names), "data_hash": data_hash} | dict(note))
        arrays = {"values": self.values, "first": self.first, "mean": self.mean, "std": self.std} | dict(beside or {})
        with atomic(path) as aside:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, aside,
                      metadata={"about": about})  # fmt: skip
        return path

    @classmethod
    def open(cls, folder: Path, name: str, data_hash: str) -> ActionTable:
        """The table KIND/HASH below `folder`.

        Raises:
            UserError: it is damaged, or its rows are those of another recording.
        """
        path = folder / FOLDER / f"{name}.safetensors"
        about, arrays = read(path)
        if about["data_hash"] != data_hash:
            raise UserError(f"{path} is of a recording with the hash {about['data_hash']}, this one has {data_hash}: "
                            "label this one")  # fmt: skip
        table = cls(name, tuple(about["names"]), *(arrays[key] for key in ("values", "first", "mean", "std")),
                    path.stem)  # fmt: skip
        if digest_of(table.names, table.values, table.first) != table.hash:
            raise damaged(path)
        return table


NOTHING = ActionTable(NONE, (NO_ACTIONS,), np.zeros((1, 1), np.float32), np.zeros(0, np.int64),
                      np.zeros(1, np.float32), np.ones(1, np.float32), NONE)  # fmt: skip


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a file of a table says of it, and its arrays.

    Raises:
        UserError: it is damaged.
    """
    try:
        with safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            about = json.loads(file.metadata()["about"])
        if missing := {"values", "first", "mean", "std"} - arrays.keys() | {"names", "data_hash"} - about.keys():
            raise KeyError(*missing)
    except (SafetensorError, OSError, TypeError, KeyError, ValueError, AttributeError):
        raise damaged(path) from None
    return about, arrays


def read_about(folder: Path, name: str) -> dict[str, Any]:
    """What the file of a table KIND/HASH below `folder` says of it.

    Raises:
        UserError: it is damaged.
    """
    return read(folder / FOLDER / f"{name}.safetensors")[0]


def damaged(path: Path) -> UserError:
    """The sentence for a table that cannot be used."""
    return UserError(f"{path} is damaged: remove it and make it again")


def digest_of(names: Sequence[str], values: np.ndarray, first: np.ndarray) -> str:
    """16 hex digits over all that decides what a table says."""
    return short_hash(json.dumps(list(names)), values.tobytes(), first.astype(np.int64).tobytes())


def tables(folder: Path) -> list[str]:
    """The names KIND/HASH of the tables below a folder of a recording or of latents."""
    return sorted(path.relative_to(folder / FOLDER).with_suffix("").as_posix()
                  for path in visible(folder, f"{FOLDER}/*/*.safetensors"))  # fmt: skip


def sources(recorded: Sequence[str], *folders: Path) -> list[str]:
    """Every source that a run may name; `recorded` are the names of the recorded actions."""
    own = [] if tuple(recorded) == (NO_ACTIONS,) else [RECORDED]
    return [*own, *sorted({name for folder in folders for name in tables(folder)}), NONE]


def find_source(
    name: str | None, recorded: Sequence[str], folders: Sequence[str | Path], data_hash: str
) -> ActionTable | None:
    """The table of a source; None for what was recorded, which the latents or the recording hold themselves.

    Args:
        name: the source; None: `recorded`, or `none` where nothing was recorded.
        recorded: names of the recorded actions.
        folders: of latents and recordings, in which a table may lie.
        data_hash: of the recording.

    Raises:
        UserError: there is no such source, or its table is damaged or of another recording.
    """
    folders = [Path(folder) for folder in folders]
    if name is None:
        return None
    if name not in (there := sources(recorded, *folders)):
        raise UserError(f"actions {name!r} are no source of {folders[-1]}{suggest(name, there)}")
    if name in (RECORDED, NONE):
        return None if name == RECORDED else NOTHING
    return ActionTable.open(next(folder for folder in folders if name in tables(folder)), name, data_hash)


def judged_by(table: ActionTable | None, recorded: Sequence[str]) -> ActionTable | None:
    """The actions under which a model of a source is judged: the recorded ones, where the source's have their names.

    Labels stand for recorded actions, so true ones tell whether the model learned what they do. Codes stand for none.

    Args:
        table: the source that the model was trained on; None: recorded ones.
        recorded: names of the recorded actions.
    """
    return None if table is not None and table.names == tuple(recorded) else table


def source_name(table: ActionTable | None, recorded: Sequence[str]) -> str:
    """What a source is called: `recorded`, `none`, or KIND/HASH."""
    if table is not None:
        return table.name
    return NONE if tuple(recorded) == (NO_ACTIONS,) else RECORDED
