"""Random access to datasets in the LeRobot v3 layout.

Frames are found by integer index, never by time. `layout.py` writes what is read here.
"""

from __future__ import annotations

import copy
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from videowm.config import suggest
from videowm.data.action_table import ActionTable, source_name
from videowm.data.layout import column_values, fingerprint
from videowm.data.meta import feature_names, read_captions, read_episodes, read_files, read_info, remedy, splits_of
from videowm.data.video import Video, open_video, readable
from videowm.files import short_hash, visible
from videowm.types import Clip, Outcomes, UserError

OPEN_READERS = 8  # videos that one process keeps open


class Dataset:
    """A finished LeRobot v3 dataset: recorded, imported, or straight from the hub.

    Cheap to open and to send to workers: columns are read at their first use. Each process opens its own video readers,
    because one that was opened before a fork hangs in the child.

    Attributes:
        root: the folder.
        info: the content of meta/info.json.
        name: the world, or the robot.
        fps: frames a second.
        size: (H, W) pixels.
        lengths: rows, thus frames, of each episode, int64 "episodes".
        action_names: of the elements of an action.
        state_names: of the elements of a state; none where no state was recorded.
        open_readers: videos that stay open in one process; each takes about 15 MB.

    Raises:
        UserError: the folder holds no finished dataset, or its description is damaged.
    """

    def __init__(self, root: str | Path, video_key: str | None = None) -> None:
        self.root = Path(root)
        self.remedy = remedy(self.root)
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
        shape = features[self.video_key]["shape"]
        self.size: tuple[int, int] = (shape[1], shape[2]) if shape[0] == 3 else (shape[0], shape[1])
        self._table: ActionTable | None = None  # the source of actions; None: what was recorded
        self._index = read_episodes(self.root, self.video_key, self.info.get("total_frames"))
        self.lengths = np.array(self._index["length"], np.int64)
        self._splits = splits_of(self.root, self.info, len(self.lengths))
        self._files = read_files(self.root)
        self._verified: set[str] = set()
        self._columns: dict[tuple[str, str], np.ndarray] = {}
        self._captions: list[str] | None = None
        self.open_readers = OPEN_READERS
        self._readers: OrderedDict[str, Video] = OrderedDict()
        self._inherited: list[Any] = []
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": OrderedDict(), "_inherited": []}

    @property
    def num_episodes(self) -> int:
        """How many episodes there are."""
        return len(self.lengths)

    @property
    def hash(self) -> str:
        """16 hex digits that change with any frame, action or other recorded value; added captions do not count."""
        listed = self.root / "meta/files.json"
        if listed.exists():
            return short_hash(listed.read_bytes())
        parts = visible(self.root, "data/**/*.parquet") + visible(self.root, "videos/**/*.mp4")
        sizes = [f"{path.relative_to(self.root).as_posix()} {path.stat().st_size}" for path in parts]
        return short_hash((self.root / "meta/info.json").read_bytes(), "\n".join(sizes))

    @property
    def source(self) -> str:
        """The source of actions: `recorded`, `none`, or KIND/HASH."""
        return source_name(self._table, self.action_names)

    @property
    def recorded(self) -> Dataset:
        """The same recording with the actions that were recorded."""
        return self.acting(None)

    def acting(self, table: ActionTable | None) -> Dataset:
        """The same recording with the actions of another source; None: what was recorded."""
        other = copy.copy(self)
        other._table = table
        other.action_names = table.names if table else feature_names(self.info["features"], "action")
        return other

    def training_on(self, episodes: Iterable[int]) -> Dataset:
        """The same recording with these episodes alone for training."""
        other = copy.copy(self)
        other._splits = dict(self._splits) | {"train": list(episodes)}
        return other

    def labelled_episodes(self, share: float, seed: int) -> list[int]:
        """The training episodes of a share, rising: one at least. Those of a smaller share are among them."""
        train = self.split("train")
        count = max(1, round(share * len(train)))
        return sorted(np.random.default_rng(seed).permutation(train)[:count].tolist())

    def hours(self, episodes: list[int]) -> float:
        """How long some episodes are together, in hours of video."""
        return float(self.lengths[episodes].sum() / self.fps / 3600)

    def split(self, name: str) -> list[int]:
        """Episodes of "train" or "test"; where no test split is declared, it is the last tenth of the episodes.

        Raises:
            UserError: the name is neither "train" nor "test".
        """
        if name not in ("train", "test"):
            raise UserError(f"unknown split {name!r}{suggest(name, ('train', 'test'))}")
        return list(self._splits[name])

    def frames(self, episode: int, indices: Iterable[int]) -> np.ndarray:
        """Frames `indices` (0 is the first, any order, repeats allowed) of an episode, uint8 "f H W 3".

        Raises:
            UserError: the episode or a frame is not there, or the video is missing or damaged.
        """
        length, indices = self._length(episode), np.asarray(list(indices), np.int64)
        if len(indices) == 0:
            return np.zeros((0, *self.size, 3), np.uint8)
        if indices.min() < 0 or indices.max() >= length:
            wrong = next(i for i in indices.tolist() if not 0 <= i < length)
            raise UserError(f"episode {episode} of {self.root} has no frame {wrong}: give 0 to {length - 1}")
        path, start = self.video_path(episode), self.first_frame(episode)
        reader = self._reader(path)
        if start + length > len(reader):
            raise UserError(
                f"{path} holds {len(reader)} frames, episode {episode} needs {start + length}: {self.remedy}"
            )
        with readable(path, self.remedy):
            return reader.read((indices + start).tolist())

    def every_frame(self, split: str) -> np.ndarray:
        """All frames of a split, episode after episode, uint8 "n H W 3"; threads have videos of their own, since a
        decoder serves one thread."""
        episodes = self.split(split)
        ends = np.cumsum(self.lengths[episodes])
        frames = np.empty((ends[-1] if episodes else 0, *self.size, 3), np.uint8)
        places = [(episode, frames[end - self.lengths[episode] : end]) for episode, end in zip(episodes, ends)]
        count = min(8, os.cpu_count() or 1, len(places)) or 1
        with (
            tqdm(total=len(places), desc="frames", unit="episode", dynamic_ncols=True, leave=False) as bar,
            ThreadPoolExecutor(count) as pool,
        ):

            def read(part: int) -> None:
                own = Dataset(self.root, self.video_key)
                for episode, place in places[len(places) * part // count : len(places) * (part + 1) // count]:
                    place[:] = own.frames(episode, range(len(place)))
                    bar.update()

            list(pool.map(read, range(count)))
        return frames

    def read_ahead(self, episodes: Iterable[int], ahead: int = 8) -> Iterator[np.ndarray]:
        """All frames "f H W 3" of each of some episodes, in their order; threads read up to `ahead` of them early."""
        own = threading.local()

        def begin() -> None:
            own.dataset = Dataset(self.root, self.video_key)

        def read(episode: int) -> np.ndarray:
            return own.dataset.frames(episode, range(self._length(episode)))

        coming: deque[Future[np.ndarray]] = deque()
        with ThreadPoolExecutor(min(ahead, os.cpu_count() or 1), initializer=begin) as pool:
            for episode in episodes:
                coming.append(pool.submit(read, episode))
                if len(coming) > ahead:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

    def actions(self, episode: int) -> np.ndarray:
        """Actions between the frames of an episode, float32 "f-1 a"; the last row's leads to an unrecorded frame."""
        return self.all_actions(episode)[:-1]

    def all_actions(self, episode: int) -> np.ndarray:
        """Actions of all rows, float32 "f a", by the source.

        Raises:
            UserError: an action is not finite, or the table is missing or damaged.
        """
        if self._table is not None:
            return self._table.of_episode(episode, self._length(episode))
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
        """Column `name` of the data files, "f" or "f k" in its own number type.

        Raises:
            UserError: the table is missing or damaged, or has no such column.
        """
        length = self._length(episode)
        path = self.table_path(episode)
        rows = np.flatnonzero(self._read_column(path, "episode_index") == episode)
        if len(rows) != length:
            raise UserError(f"{path} holds {len(rows)} rows of episode {episode}, expected {length}: {self.remedy}")
        if rows[-1] - rows[0] == length - 1:
            return self._read_column(path, name)[rows[0] : rows[0] + length]
        return self._read_column(path, name)[rows]  # rows of other episodes stand between

    def caption(self, episode: int) -> str:
        """The newest caption of an episode; LeRobot's task where there is none."""
        self._length(episode)
        if self._captions is None:
            self._captions = read_captions(self.root, [" ".join(tasks or []) for tasks in self._index["tasks"]])
        return self._captions[episode]

    def clip(self, episode: int, start: int, frames: int) -> Clip:
        """`frames` consecutive frames from `start` on and the actions between them."""
        pixels = self.frames(episode, range(start, start + frames))
        return Clip(pixels, self.actions(episode)[start : start + frames - 1], episode, start)

    @property
    def has_outcomes(self) -> bool:
        """Whether rewards and ends are recorded."""
        return {"next.reward", "next.done"} <= self.info["features"].keys()

    def outcome_clip(self, episode: int, start: int, frames: int, stride: int) -> Clip:
        """As `clip`, with what its actions and the next `stride` ones did, where that is recorded."""
        clip = self.clip(episode, start, frames)
        if not self.has_outcomes:
            return clip
        columns = (self.column(episode, name) for name in ("next.reward", "next.done"))
        states = self.states(episode) if self.state_names else np.zeros((int(self.lengths[episode]), 0), np.float32)
        rows = Outcomes.of(self.all_actions(episode), *columns, states, start, frames, stride)
        return replace(clip, outcomes=rows)

    def verify(self) -> None:
        """Compare every file with its recorded size and sha256.

        Raises:
            UserError: files are missing or changed, or the dataset has no meta/files.json to compare with.
        """
        if not self._files:
            raise UserError(f"{self.root} has no meta/files.json to verify against: `videowm import` it to get one")
        self._compare(list(self._files))

    def verify_episodes(self, episodes: Iterable[int]) -> None:
        """Compare the files that hold some episodes with their sha256, each once; nothing where none was recorded.

        Raises:
            UserError: a file is missing or changed.
        """
        paths = {path for episode in episodes for path in (self.video_path(episode), self.table_path(episode))}
        names = sorted(path.relative_to(self.root).as_posix() for path in paths)
        self._compare([name for name in names if name in self._files and name not in self._verified])

    def _compare(self, names: list[str]) -> None:
        """Compare files, named as in meta/files.json, with what was recorded of them."""
        paths = {name: self.root / name for name in names}
        wrong = [path for n, path in paths.items() if not path.is_file() or fingerprint(path) != self._files[n]]
        if wrong:
            more = f" (and {len(wrong) - 1} more files)" if len(wrong) > 1 else ""
            raise UserError(f"{wrong[0]}{more} is missing or changed since it was written: {self.remedy}")
        self._verified.update(names)

    def video_path(self, episode: int) -> Path:
        """The video file that holds an episode."""
        return self._path(self.info["video_path"], f"videos/{self.video_key}", episode)

    def table_path(self, episode: int) -> Path:
        """The parquet file that holds an episode's rows."""
        return self._path(self.info["data_path"], "data", episode)

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
            except (OSError, pa.ArrowException):
                raise UserError(f"{path} is missing or no parquet file: {self.remedy}") from None
            if name not in names:
                raise UserError(f"{path} has no column {name!r}{suggest(name, names)}")
            self._columns[key] = column_values(table[name])
        return self._columns[key]

    def _reader(self, path: Path) -> Video:
        """This process's reader of a video, least recently used ones closed."""
        if self._pid != os.getpid():
            # Closing a reader that came through a fork waits for threads that are not here: keep it, unused.
            self._inherited.append(self._readers)
            self._readers, self._pid = OrderedDict(), os.getpid()
        key = str(path)
        if key not in self._readers:
            self._readers[key] = self._open_video(path)
            if len(self._readers) > self.open_readers:
                self._readers.popitem(last=False)
        self._readers.move_to_end(key)
        return self._readers[key]

    def _open_video(self, path: Path) -> Video:
        if not path.is_file():
            raise UserError(f"{path} is missing: {self.remedy}")
        file = self._files.get(path.relative_to(self.root).as_posix())
        if file is not None and path.stat().st_size != file["bytes"]:
            raise UserError(f"{path} has {path.stat().st_size} bytes, expected {file['bytes']}: {self.remedy}")
        with readable(path, self.remedy):
            return open_video(path)
