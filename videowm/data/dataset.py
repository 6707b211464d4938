"""Random access to datasets in the LeRobot v3 layout. The only module that imports decord.

Frames are found by integer index, never by time. `layout.py` writes what is read here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from videowm.config import suggest
from videowm.data.layout import column_values, fingerprint
from videowm.types import Clip, UserError

OPEN_READERS = 8  # decord readers that one process keeps open


class Dataset:
    """A finished LeRobot v3 dataset: recorded, imported, or straight from the hub.

    Cheap to open and to send to workers: columns are read when first asked for, and each process opens its own video
    readers, because one that was opened before a fork hangs in the child.
    """

    def __init__(self, root: str | Path, video_key: str | None = None) -> None:
        self.root = Path(root)
        self.info: dict[str, Any] = read_info(self.root)
        features = self.info["features"]
        keys = [key for key, feature in features.items() if feature["dtype"] == "video"]
        if not keys:
            raise UserError(f"{root} holds no video feature: give a LeRobot v3 dataset with videos")
        if video_key is not None and video_key not in keys:
            raise UserError(f"{root} holds no video {video_key!r}{suggest(video_key, keys)}")
        self.video_key = video_key or keys[0]
        self.name = str(self.info.get("robot_type") or self.root.name)
        self.fps = float(self.info["fps"])
        self.action_names = feature_names(features, "action")
        self.state_names = feature_names(features, "observation.state")
        shape = [int(n) for n in features[self.video_key]["shape"]]
        self.size: tuple[int, int] = (shape[1], shape[2]) if shape[0] == 3 else (shape[0], shape[1])
        self._index = read_episodes(self.root, self.video_key)
        self.lengths = np.array(self._index["length"], np.int64)  # rows, thus frames, of each episode
        self._sizes = {path: file["bytes"] for path, file in read_files(self.root).items()}
        self._columns: dict[tuple[str, str], np.ndarray] = {}
        self._captions: list[str] | None = None
        self._readers: OrderedDict[str, Any] = OrderedDict()
        self._inherited: list[Any] = []
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": OrderedDict(), "_inherited": []}

    @property
    def num_episodes(self) -> int:
        return len(self.lengths)

    @property
    def hash(self) -> str:
        """16 hex digits that change with any frame, action or other recorded value; added captions do not count."""
        listed = self.root / "meta/files.json"
        if listed.exists():
            return hashlib.sha256(listed.read_bytes()).hexdigest()[:16]
        parts = sorted((self.root / "data").rglob("*.parquet")) + sorted((self.root / "videos").rglob("*.mp4"))
        sizes = [f"{path.relative_to(self.root).as_posix()} {path.stat().st_size}" for path in parts]
        info = (self.root / "meta/info.json").read_bytes()
        return hashlib.sha256(info + "\n".join(sizes).encode()).hexdigest()[:16]

    def split(self, name: str) -> list[int]:
        """Episodes of "train" or "test"; where no test split is declared, it is the last tenth of the episodes."""
        if name not in ("train", "test"):
            raise UserError(f"unknown split {name!r}{suggest(name, ('train', 'test'))}")
        splits = self.info.get("splits") or {}
        if "train" in splits and "test" in splits:
            first, end = (int(n) for n in splits[name].split(":"))
            return list(range(first, min(end, self.num_episodes)))
        train = self.num_episodes - (max(1, round(0.1 * self.num_episodes)) if self.num_episodes > 1 else 0)
        return list(range(train)) if name == "train" else list(range(train, self.num_episodes))

    def frames(self, episode: int, indices: Iterable[int]) -> np.ndarray:
        """Frames `indices` (0 is the first, any order, repeats allowed) of an episode, uint8 "f H W 3"."""
        length, indices = self._length(episode), np.asarray(list(indices), np.int64)
        if len(indices) == 0:
            return np.zeros((0, *self.size, 3), np.uint8)
        if indices.min() < 0 or indices.max() >= length:
            wrong = next(i for i in indices.tolist() if not 0 <= i < length)
            raise UserError(f"episode {episode} of {self.root} has no frame {wrong}: give 0 to {length - 1}")
        path, start = self.video_path(episode), self.first_frame(episode)
        reader = self._reader(path)
        if start + length > len(reader):
            raise UserError(f"{path} holds {len(reader)} frames, episode {episode} needs {start + length}: {REMEDY}")
        with readable(path):
            frames = reader.get_batch((indices + start).tolist()).asnumpy()
            # A reader left as it is decodes on while the next one works: 2.5 times the time per clip over 3 files.
            reader.seek(0)
        return frames

    def actions(self, episode: int) -> np.ndarray:
        """Actions between the frames of an episode, float32 "f-1 a"; the last row's leads to an unrecorded frame."""
        return self.all_actions(episode)[:-1]

    def all_actions(self, episode: int) -> np.ndarray:
        """Actions of all rows, float32 "f a"."""
        actions = self.column(episode, "action").reshape(self._length(episode), -1).astype(np.float32, copy=False)
        bad = np.flatnonzero(~np.isfinite(actions).all(1))
        if len(bad):
            raise UserError(
                f"the action of episode {episode}, row {bad[0]} of {self.root} is {actions[bad[0]].tolist()}, "
                "expected finite numbers: repair the row or leave the episode out"
            )
        return actions

    def states(self, episode: int) -> np.ndarray:
        """The simulator's states, float32 "f k"."""
        states = self.column(episode, "observation.state").reshape(self._length(episode), -1)
        return states.astype(np.float32, copy=False)

    def column(self, episode: int, name: str) -> np.ndarray:
        """Column `name` of the data files, "f" or "f k" in its own number type."""
        length = self._length(episode)
        path = self._path(self.info["data_path"], "data", episode)
        rows = np.flatnonzero(self._read_column(path, "episode_index") == episode)
        if len(rows) != length:
            raise UserError(f"{path} holds {len(rows)} rows of episode {episode}, expected {length}: {REMEDY}")
        return self._read_column(path, name)[rows[0] : rows[0] + length]

    def caption(self, episode: int) -> str:
        """The newest caption of an episode; LeRobot's task where there is none."""
        self._length(episode)
        if self._captions is None:
            self._captions = [" ".join(tasks or []) for tasks in self._index["tasks"]]
            path = self.root / "captions.jsonl"
            for line in path.read_text().splitlines() if path.exists() else []:
                entry = json.loads(line)
                self._captions[entry["episode_index"]] = entry["caption"]
        return self._captions[episode]

    def clip(self, episode: int, start: int, frames: int) -> Clip:
        """`frames` consecutive frames from `start` on and the actions between them."""
        pixels = self.frames(episode, range(start, start + frames))
        return Clip(pixels, self.actions(episode)[start : start + frames - 1], episode, start)

    def verify(self) -> None:
        """Compare every file with its recorded size and sha256; UserError names those that are missing or changed."""
        files = read_files(self.root)
        if not files:
            raise UserError(f"{self.root} has no meta/files.json to verify against: `videowm import` it to get one")
        paths = {path: self.root / path for path in files}
        wrong = [p for p, file in paths.items() if not file.is_file() or fingerprint(file) != files[p]]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise UserError(f"{', '.join(wrong[:3])}{more} in {self.root} changed since it was written: {REMEDY}")

    def video_path(self, episode: int) -> Path:
        """The video file that holds an episode."""
        return self._path(self.info["video_path"], f"videos/{self.video_key}", episode)

    def first_frame(self, episode: int) -> int:
        """Index of the episode's frame 0 within its video file."""
        return round(self._index[f"videos/{self.video_key}/from_timestamp"][episode] * self.fps)

    def _length(self, episode: int) -> int:
        if not 0 <= episode < self.num_episodes:
            raise UserError(f"{self.root} has no episode {episode}: give 0 to {self.num_episodes - 1}")
        return int(self.lengths[episode])

    def _path(self, template: str, kind: str, episode: int) -> Path:
        where = {key: self._index[f"{kind}/{key}"][episode] for key in ("chunk_index", "file_index")}
        return self.root / template.format(video_key=self.video_key, **where)

    def _read_column(self, path: Path, name: str) -> np.ndarray:
        """A whole column of one data file, kept in memory."""
        key = (str(path), name)
        if key not in self._columns:
            try:
                names = pq.read_schema(path).names
                table = pq.read_table(path, columns=[name] if name in names else [])
            except (OSError, pa.ArrowInvalid):
                raise UserError(f"{path} is missing or no parquet file: {REMEDY}") from None
            if name not in names:
                raise UserError(f"{path} has no column {name!r}{suggest(name, names)}")
            self._columns[key] = column_values(table[name])
        return self._columns[key]

    def _reader(self, path: Path) -> Any:
        """This process's decord reader of a video, least recently used ones closed."""
        if self._pid != os.getpid():
            # Closing a reader that came through a fork waits for threads that are not here: keep it, unused.
            self._inherited.append(self._readers)
            self._readers, self._pid = OrderedDict(), os.getpid()
        key = str(path)
        if key not in self._readers:
            self._readers[key] = self._open_video(path)
            if len(self._readers) > OPEN_READERS:
                self._readers.popitem(last=False)
        self._readers.move_to_end(key)
        return self._readers[key]

    def _open_video(self, path: Path) -> Any:
        import decord

        if not path.is_file():
            raise UserError(f"{path} is missing: {REMEDY}")
        expected = self._sizes.get(path.relative_to(self.root).as_posix())
        if expected is not None and path.stat().st_size != expected:
            raise UserError(f"{path} has {path.stat().st_size} bytes, expected {expected}: {REMEDY}")
        decord.logging.set_level(decord.logging.QUIET)
        with readable(path):
            return decord.VideoReader(str(path), num_threads=1)


REMEDY = "record, import or download it again"


class readable:
    """decord's errors as one sentence that names the file; its own class is no RuntimeError, so both are caught."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        import decord

        if isinstance(error, RuntimeError | decord.DECORDError):
            raise UserError(f"{self.path} is damaged or no video that decord can read: {REMEDY}") from None


def read_info(root: Path) -> dict[str, Any]:
    """meta/info.json, checked for what the reader needs."""
    path = root / "meta/info.json"
    if not path.is_file():
        started = (root / "meta/recording.json").exists()
        remedy = "run the same record command again" if started else "give a folder that record or import wrote"
        raise UserError(f"{root} holds no finished dataset (no meta/info.json): {remedy}")
    try:
        info = json.loads(path.read_text())
        version, missing = str(info["codebase_version"]), {"fps", "features", "data_path", "video_path"} - set(info)
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not the description of a LeRobot dataset: {REMEDY}") from None
    if not version.startswith("v3."):
        raise UserError(f"{root} has LeRobot layout {version}, expected v3.0: convert it with lerobot's own converter")
    if missing:
        raise UserError(f"{path} lacks {', '.join(sorted(missing))}: {REMEDY}")
    return info


def read_files(root: Path) -> dict[str, dict[str, Any]]:
    """meta/files.json: {path: {"sha256", "bytes"}}, empty for a dataset that has none."""
    path = root / "meta/files.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def read_episodes(root: Path, video_key: str) -> dict[str, list]:
    """The columns of meta/episodes that locate an episode, in episode order."""
    places = [f"{kind}/{key}" for kind in ("data", f"videos/{video_key}") for key in ("chunk_index", "file_index")]
    wanted = ["episode_index", "tasks", "length", *places, f"videos/{video_key}/from_timestamp"]
    paths = sorted((root / "meta/episodes").glob("*/*.parquet"))
    try:
        table = pa.concat_tables([pq.read_table(path, columns=wanted) for path in paths])
    except (OSError, pa.ArrowInvalid):
        raise UserError(f"{root}/meta/episodes is missing, damaged or lacks one of {wanted}: {REMEDY}") from None
    columns = table.sort_by("episode_index").to_pydict()
    if columns.pop("episode_index") != list(range(len(table))):
        raise UserError(f"{root}/meta/episodes does not number the episodes 0, 1, 2, …: {REMEDY}")
    return columns


def feature_names(features: dict[str, Any], key: str) -> tuple[str, ...]:
    """Names of a vector's elements; LeRobot allows a list, a mapping to a list, or none at all."""
    if key not in features:
        return ()
    names, size = features[key].get("names"), int(np.prod(features[key]["shape"]))
    while isinstance(names, dict) and names:
        names = next(iter(names.values())) if len(names) == 1 else list(names)
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], list):
        names = names[0]
    if not isinstance(names, list) or len(names) != size:
        return tuple(f"{key.split('.')[-1]}_{i}" for i in range(size))
    return tuple(map(str, names))
