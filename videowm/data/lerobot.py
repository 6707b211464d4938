"""LeRobot folders, as lerobot's releases wrote them (layouts v2.0, v2.1 and v3), as episodes to import.

The frames of an episode are found by integer: its first one by the time that meta/episodes gives, the others by
counting. Rows are found by their episode and frame numbers, wherever they stand in a table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from videowm.actions.tables import NO_ACTIONS, Table, parquet_column
from videowm.config import suggest
from videowm.data.foreign_video import STEADY, Video, look
from videowm.data.layout import held_out
from videowm.data.meta import feature_names, read_captions, read_episodes, read_info, splits_of
from videowm.data.takes import (
    Notes,
    Plan,
    Rows,
    Take,
    action_rows,
    resampled,
    resampled_note,
    stored_size,
    wanted_episodes,
)
from videowm.files import visible
from videowm.options import ImportOptions
from videowm.types import UserError

VERSIONS = ("v3.", "v2.0", "v2.1")
KEPT = ("action", "observation.state", "next.reward", "next.done")
COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
REMEDY = "repair it, or download it again"


@dataclass(frozen=True)
class Entry:
    """Where an episode is."""

    number: int
    length: int  # rows, thus frames
    table: Path
    video: Path
    start: float  # seconds of the video at which its first frame is shown
    caption: str


class LeRobot:
    """A foreign LeRobot folder and one of its cameras.

    Attributes:
        root: the folder.
        info: the content of meta/info.json.
        fps: frames a second, as declared.
        cameras: all videos but maps of depth.
        camera: the one that is taken.

    Raises:
        UserError: the folder is damaged, of another layout, or has no such camera.
    """

    def __init__(self, root: Path, camera: str | None = None) -> None:
        self.root, self.info = root, read_info(root, VERSIONS)
        self.features: dict[str, Any] = self.info["features"]
        self.fps = float(self.info["fps"])
        videos = [key for key, feature in self.features.items() if feature["dtype"] == "video"]
        flat = [key for key in videos if not is_depth(self.features[key])]
        self.cameras = flat or videos
        if not videos:
            pictures = [key for key, feature in self.features.items() if feature["dtype"] == "image"]
            held = f"single pictures ({', '.join(pictures)})" if pictures else "no video"
            raise UserError(f"{root} holds {held}, expected videos: record it with use_videos=True")
        if camera is not None and camera not in videos:
            raise UserError(f"{root} has no camera {camera!r}{suggest(camera, videos)}")
        self.camera = camera or self.cameras[0]

    @cached_property
    def entries(self) -> dict[int, Entry]:
        """Every episode that is there, by its number."""
        found = self._entries_v3() if self.info["codebase_version"].startswith("v3.") else self._entries_v2()
        if [entry.number for entry in found] == list(range(len(found))):
            captions = read_captions(self.root, [entry.caption for entry in found])
            found = [replace(entry, caption=caption) for entry, caption in zip(found, captions)]
        return {entry.number: entry for entry in found}

    def _entries_v3(self) -> list[Entry]:
        index = read_episodes(self.root, self.camera, self.info.get("total_frames"), gaps=True)

        def path(kind: str, template: str, i: int) -> Path:
            where = {key: index[f"{kind}/{key}"][i] for key in ("chunk_index", "file_index")}
            return self.root / template.format(video_key=self.camera, **where)

        return [
            Entry(
                number, index["length"][i], path("data", self.info["data_path"], i),
                path(f"videos/{self.camera}", self.info["video_path"], i),
                index[f"videos/{self.camera}/from_timestamp"][i], " ".join(index["tasks"][i] or []),
            )
            for i, number in enumerate(index["episode_index"])
        ]  # fmt: skip

    def _entries_v2(self) -> list[Entry]:
        path, found = self.root / "meta/episodes.jsonl", []
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            for line in sorted(lines, key=lambda line: line["episode_index"]):
                where = {"video_key": self.camera, "episode_index": line["episode_index"],
                         "episode_chunk": line["episode_index"] // self.info.get("chunks_size", 1000)}  # fmt: skip
                files = [self.root / self.info[key].format(**where) for key in ("data_path", "video_path")]
                found.append(Entry(line["episode_index"], line["length"], *files, 0.0, " ".join(line["tasks"])))
        except (OSError, ValueError, LookupError, TypeError):
            raise UserError(f"{path} is missing or damaged: {REMEDY}") from None
        return found

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the elements of observation.state, where that is a vector of numbers."""
        return feature_names(self.features, "observation.state")

    def rows(self, entry: Entry, features: tuple[str, ...]) -> dict[str, np.ndarray]:
        """The values of some features in an episode, "n" or "n k", in the order of its frames.

        Raises:
            UserError: rows or values are missing, or stand twice.
        """
        columns = read_columns(entry.table, ("episode_index", "frame_index", *features), stamp(entry.table))
        mine = np.flatnonzero(columns["episode_index"][:, 0] == entry.number)
        frames = columns["frame_index"][mine, 0]
        mine = mine[np.argsort(frames, kind="stable")]
        if len(mine) != entry.length or (np.sort(frames) != np.arange(len(mine))).any():
            raise UserError(
                f"{entry.table} holds {len(mine)} rows of episode {entry.number}, expected {entry.length} whose "
                f"frame_index counts from 0: {REMEDY}"
            )
        for name in features:
            width, declared = columns[name].shape[1], len(feature_names(self.features, name))
            if width != declared:
                raise UserError(f"{entry.table} has {width} numbers in {name}, info.json {declared}: {REMEDY}")
        return {name: columns[name][mine] for name in features}

    def table(self, entry: Entry, key: str) -> Table:
        """The actions of an episode as a table with the feature's names."""
        values = self.rows(entry, (key,))[key]
        return Table(entry.table, dict(zip(feature_names(self.features, key), values.T)))


def is_depth(feature: Mapping[str, Any]) -> bool:
    """Whether a video is a map of depth."""
    return any((feature.get(part) or {}).get(name) for part in ("info", "video_info")
               for name in ("is_depth_map", "video.is_depth_map"))  # fmt: skip


def stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is written anew; zeros where there is none."""
    return (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else (0, 0)


@lru_cache(maxsize=2)
def read_columns(path: Path, names: tuple[str, ...], _: tuple[int, int]) -> dict[str, np.ndarray]:
    """Columns of a data file, each "n k"; kept in memory for the episodes to come, until the file's `stamp` changes.

    Raises:
        UserError: the file is missing or damaged, or lacks a column or a value.
    """
    try:
        table = pq.read_table(path, columns=list(names))
        parts = {name: parquet_column(name, table[name]) for name in names}
    except (OSError, pa.ArrowException, LookupError, ValueError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read ({why}): {REMEDY}") from None
    return {name: np.stack(list(columns.values()), axis=1) for name, columns in parts.items()}


def plan_lerobot(src: Path, options: ImportOptions) -> Plan:
    """The wanted episodes of a LeRobot folder, seen by one camera; those for test come last.

    Raises:
        UserError: the folder is damaged, or lacks an episode, the camera or the actions.
    """
    data = LeRobot(src, options.camera)
    train, test = order_of(data, options)
    entries = [data.entries[number] for number in train + test]
    videos = {path: look_at(path) for path in dict.fromkeys(entry.video for entry in entries)}
    firsts = [first_frame(entry, videos[entry.video], data.fps) for entry in entries]
    check_apart(entries, firsts)
    seen = [(path.relative_to(src).as_posix(), video) for path, video in videos.items()]
    key, fps = options.action_key or "action", options.fps or data.fps
    names, actions, notes = action_rows_of(data, entries, key, options)
    notes += video_notes(data, seen, key, options, fps)
    takes = []
    for entry, first, rows in zip(entries, firsts, actions):
        take = Take(f"episode {entry.number}", videos[entry.video], (entry.video, entry.table),
                    partial(rows_of, data, entry, rows), entry.caption, first, np.arange(entry.length))  # fmt: skip
        close = abs(fps / data.fps - 1) <= STEADY
        takes.append(take if close else resampled(take, np.arange(entry.length) / data.fps, fps))
    return Plan(takes, str(data.info.get("robot_type") or src.name), fps, stored_size(seen, options), names, len(test),
                whole=False, notes=notes, camera=data.camera, state_names=data.state_names)  # fmt: skip


def order_of(data: LeRobot, options: ImportOptions) -> tuple[list[int], list[int]]:
    """The numbers of the wanted episodes for training and for test: as the folder splits them, unless a share is given.

    Raises:
        UserError: an episode is not there, or the split cannot be read.
    """
    wanted = wanted_episodes(options.episodes, list(data.entries))
    declared = data.info.get("splits")
    if options.test_share is None and isinstance(declared, dict) and "test" in declared:
        test = set(splits_of(data.root, data.info, max(data.entries) + 1)["test"])
        return [n for n in wanted if n not in test], [n for n in wanted if n in test]
    train = len(wanted) - held_out(len(wanted), 0.1 if options.test_share is None else options.test_share)
    return wanted[:train], wanted[train:]


def look_at(path: Path) -> Video:
    """The facts of a video that must be there.

    Raises:
        UserError: it is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: {REMEDY}")
    return look(path)


def first_frame(entry: Entry, video: Video, fps: float) -> int:
    """The number within its video of an episode's first frame.

    Raises:
        UserError: no frame is shown at its time, time and count disagree, or frames are missing at the end.
    """
    by_time, by_count = int(np.abs(video.times - entry.start).argmin()), round(entry.start * fps)
    if by_count + entry.length > len(video):
        needed = by_count + entry.length
        raise UserError(f"{entry.video} holds {len(video)} frames, expected {needed} or more: {REMEDY}")
    if by_time != by_count or abs(video.times[by_time] - entry.start) * fps > 0.5:
        raise UserError(
            f"episode {entry.number} begins at {entry.start:.6g} s of {entry.video}, which is frame {by_time} by its "
            f"times and {by_count} at {fps:g} fps: {REMEDY}"
        )
    return by_time


def check_apart(entries: list[Entry], firsts: list[int]) -> None:
    """Refuse episodes that share frames of a video.

    Raises:
        UserError: two do.
    """
    spans = sorted((str(entry.video), first, first + entry.length, entry.number)
                   for entry, first in zip(entries, firsts))  # fmt: skip
    for one, other in zip(spans, spans[1:]):
        if one[0] == other[0] and other[1] < one[2]:
            raise UserError(f"episodes {one[3]} and {other[3]} share frames of {one[0]}: {REMEDY}")


def action_rows_of(
    data: LeRobot, entries: list[Entry], key: str, options: ImportOptions
) -> tuple[tuple[str, ...], list[np.ndarray], Notes]:
    """The names of the actions, their rows float32 "n a" in each episode, and what is to be said of them.

    Raises:
        UserError: there is no such feature, or a value is missing or not finite.
    """
    if options.no_actions:
        return (NO_ACTIONS,), [np.zeros((entry.length, 1), np.float32) for entry in entries], []
    known = [name for name, feature in data.features.items() if feature["dtype"] not in ("video", "image", "string")]
    if key not in known:
        others = [name for name in known if name not in COUNTERS]
        raise UserError(
            f"{data.root} has no actions {key!r}{suggest(key, others)}: choose with --action-key, or give --no-actions"
        )
    tables = [(f"episode {entry.number}", data.table(entry, key)) for entry in entries]
    wanted = options.columns or feature_names(data.features, key)
    return action_rows(tables, replace(options, columns=wanted))


def video_notes(data: LeRobot, seen: list[tuple[str, Video]], key: str, options: ImportOptions, fps: float) -> Notes:
    """What is to be said of the videos, and of what is left behind."""
    notes = [(name, note) for name, video in seen for note in video.notes]
    if options.camera is None and len(data.cameras) > 1:
        others = ", ".join(name for name in data.cameras if name != data.camera)
        notes.append((data.camera, f"is the camera that is taken; --camera takes {others} instead"))
    for name, video in seen:
        if not video.steady:
            notes.append((name, f"has frames at uneven times; they are counted, at {data.fps:g} fps"))
        elif abs(video.fps / data.fps - 1) > STEADY:
            notes.append((name, f"plays at {video.fps:.4g} fps; the {data.fps:g} of info.json are taken"))
    if abs(fps / data.fps - 1) > STEADY:
        notes.append((data.root.name, resampled_note(f"{data.fps:g} fps", fps)))
    elif fps != data.fps:
        notes.append((data.root.name, f"has {data.fps:g} fps, taken as {fps:.4g}"))
    left = [name for name, feature in data.features.items()
            if name not in (*KEPT, *COUNTERS, key) and feature["dtype"] not in ("video", "image")]  # fmt: skip
    return notes + [(data.root.name, f"has features that are left out: {', '.join(left)}")] * bool(left)


def rows_of(data: LeRobot, entry: Entry, actions: np.ndarray) -> Rows:
    """All that is kept beside the frames of an episode."""
    found = data.rows(entry, tuple(name for name in KEPT[1:] if name in data.features))
    rows = Rows.of(actions)
    return Rows(
        actions,
        found["next.reward"][:, 0].astype(np.float32) if "next.reward" in found else rows.rewards,
        found["next.done"][:, 0].astype(bool) if "next.done" in found else rows.dones,
        found["observation.state"].astype(np.float32) if data.state_names else rows.states,
    )


def untouched(src: Path, options: ImportOptions, plan: Plan) -> bool:
    """Whether the files of a LeRobot folder can be copied as they are, because nothing is to be changed."""
    asked = replace(options, size=64, camera=None, lossless=False, fit="stretch") != ImportOptions()
    if asked or not read_info(src, VERSIONS)["codebase_version"].startswith("v3."):
        return False
    own = read_info(src)["features"][plan.camera]["shape"]
    videos = {take.video.path: take.video for take in plan.takes}.values()
    return all(v.direct and v.size == plan.size == tuple(own[:2]) for v in videos) and in_order(src, plan)


def in_order(src: Path, plan: Plan) -> bool:
    """Whether episodes are numbered through and their rows stand in the order of their frames."""
    names = [take.name for take in plan.takes]
    if names != [f"episode {number}" for number in range(len(names))]:
        return False
    for path in visible(src, "data/*/*.parquet"):
        columns = read_columns(path, ("episode_index", "frame_index"), stamp(path))
        for number in np.unique(columns["episode_index"]):
            frames = columns["frame_index"][columns["episode_index"] == number]
            if (frames != np.arange(len(frames))).any():
                return False
    return True
