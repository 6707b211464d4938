"""Datasets on disk: the LeRobot v3 layout and how it is written. `dataset.py` reads it.

A file group is `data/chunk-000/file-000.parquet` and `videos/observation.image/chunk-000/file-000.mp4`: a fixed number
of consecutive episodes one after another. Groups are written independently, in any order, by any process; `finish`
numbers the rows through and writes `meta/`, `meta/info.json` last. Frames are found by integer index, never by time.

Row i of an episode holds frame i and the action that leads to frame i+1. The action of the last row is real but leads
to a frame that was not recorded.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from videowm.files import atomic, sha256_of, visible, write_atomic, write_json
from videowm.limits import UNREADABLE
from videowm.types import Episode, UserError

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
IMAGE = "observation.image"
CHUNK = 1000  # files a folder
PIXELS = "yuv444p"  # at 64x64, 4:2:0 alone caps PSNR at 32 dB; 4:4:4 costs no more bytes
NOTE = b"videowm"  # parquet metadata key: what `finish` needs to know of a group


@dataclass(frozen=True)
class Layout:
    """What all episodes of a dataset have in common."""

    name: str  # world, or where the videos came from
    fps: float
    size: tuple[int, int]  # (H, W) pixels
    action_names: tuple[str, ...]
    state_names: tuple[str, ...] = ()
    lossless: bool = False  # bit-exact RGB video, about ten times larger
    group: int = 10  # episodes a file group

    @property
    def plain_fps(self) -> float:
        """Frames a second, as a whole number where it is one."""
        return int(self.fps) if self.fps == int(self.fps) else self.fps

    def paths(self, file_index: int) -> tuple[str, str]:
        """(parquet, mp4) of a file group, relative to the dataset."""
        where = {"chunk_index": file_index // CHUNK, "file_index": file_index % CHUNK}
        return DATA_PATH.format(**where), VIDEO_PATH.format(video_key=IMAGE, **where)


def check_width(width: int) -> None:
    """Refuse a width of 16, 24, 48 or 72 pixels: decord 0.6 assumes four channels there and fails (its issue 336).

    Raises:
        UserError: the width is one of these.
    """
    if width in UNREADABLE:
        raise UserError(f"decord cannot read videos {width} pixels wide: choose another size, such as 64")


def write_table(path: Path, table: pa.Table) -> None:
    """Write a parquet file, whole or not at all."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="snappy")
    write_atomic(path, buffer.getvalue())


def encode_video(path: Path, episodes: Iterable[Iterable[np.ndarray]], fps: float, *, lossless: bool) -> None:
    """Write the frames uint8 "H W 3" of each episode as one H.264 mp4 in which every episode starts at a key frame.

    Groups of pictures are closed and hold no B-frames: decord returns wrong frames without a word from open ones.
    One thread, because x264's output depends on their number. No macroblock tree and no look-ahead for it: with them
    one encoding in about forty had other bytes, and so had another processor. One frame is in memory at a time.
    """
    import av

    x264 = "keyint=12:min-keyint=1:scenecut=0:open-gop=0:bframes=0:threads=1:mbtree=0:rc-lookahead=0"
    codec, pixels, crf = ("libx264rgb", "rgb24", "0") if lossless else ("libx264", PIXELS, "14")
    options = {"crf": crf, "x264-params": x264, "forced-idr": "1"}
    kinds, stream = av.video.frame.PictureType, None
    with atomic(path) as aside, av.open(str(aside), "w", format="mp4") as video:
        for frames in episodes:
            for i, picture in enumerate(frames):
                if stream is None:
                    check_width(picture.shape[1])
                    stream = video.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
                    stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], pixels
                    stream.codec_context.thread_count = 1
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pict_type = kinds.I if i == 0 else kinds.NONE
                video.mux(stream.encode(frame))
        video.mux(stream.encode())


def write_group(
    root: str | Path, file_index: int, episodes: Sequence[Episode], layout: Layout, origin: str | None = None
) -> None:
    """Write the consecutive `episodes`, the first of them number `file_index * layout.group`, as one file group.

    The parquet file is written last: a group with one is complete. Equal episodes give equal bytes.

    Args:
        root: the dataset.
        file_index: number of the group.
        episodes: their frames may come one at a time, as many as there are actions.
        layout: what all episodes have in common.
        origin: what the episodes were made of; `origin_of` reads it back.
    """
    data_path, video_path = layout.paths(file_index)
    counts = np.zeros((3, 256), np.int64)
    encode_video(Path(root) / video_path, counted(episodes, counts), layout.fps, lossless=layout.lossless)
    lengths = [len(e.actions) for e in episodes]
    note = {"lengths": lengths, "captions": [e.caption for e in episodes], "pixels": counts.tolist()}
    note |= {"origin": origin} if origin else {}
    first = file_index * layout.group
    frame = np.concatenate([np.arange(n) for n in lengths])
    columns = {
        "observation.state": vector_column(np.concatenate([e.states for e in episodes])),
        "action": vector_column(np.concatenate([e.actions for e in episodes])),
        "next.reward": pa.array(np.concatenate([e.rewards for e in episodes]), pa.float32()),
        "next.done": pa.array(np.concatenate([e.dones for e in episodes]), pa.bool_()),
        "timestamp": pa.array(frame / layout.fps, pa.float32()),
        "frame_index": pa.array(frame, pa.int64()),
        "episode_index": pa.array(np.repeat(np.arange(first, first + len(lengths)), lengths), pa.int64()),
        "index": pa.array(frame, pa.int64()),  # numbers the whole dataset, as task_index does: `finish` fills both
        "task_index": pa.array(np.zeros_like(frame), pa.int64()),
    }
    if not layout.state_names:
        del columns["observation.state"]
    write_table(Path(root) / data_path, pa.table(columns).replace_schema_metadata({NOTE: json.dumps(note)}))


def counted(episodes: Iterable[Episode], counts: np.ndarray) -> Iterator[Iterator[np.ndarray]]:
    """The frames of each episode, while their pixels are added to `counts`, int "3 256": how many have each value.

    That is all that the statistics of the frames need.
    """

    def count(frame: np.ndarray) -> np.ndarray:
        for channel in range(3):
            counts[channel] += np.bincount(frame[..., channel].reshape(-1), minlength=256)
        return frame

    return (map(count, episode.frames) for episode in episodes)


def origin_of(path: Path) -> str | None:
    """What the episodes of a group were made of; None where its parquet file at `path` is missing or no such thing."""
    try:
        note = (pq.read_schema(path).metadata or {}).get(NOTE)
    except (OSError, pa.ArrowException):
        return None
    return json.loads(note).get("origin") if note else None


def vector_column(values: np.ndarray) -> pa.Array:
    """float "n k" as an Arrow column; LeRobot stores vectors of length 1 as plain numbers."""
    flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
    if values.shape[1] == 1:
        return flat
    return pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1) * values.shape[1], pa.int32()), flat)


def column_values(column: pa.ChunkedArray) -> np.ndarray:
    """An Arrow column of numbers or of equally long lists as an array "n" or "n k"; nulls become NaN."""
    rows, array = len(column), column.combine_chunks()
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type) or pa.types.is_large_list(array.type):
        array = array.flatten()
    flat = array.to_numpy(zero_copy_only=False)
    return flat if len(flat) == rows else flat.reshape(rows, -1)


def finish(root: str | Path, layout: Layout, test_share: float = 0.1) -> None:
    """Number the rows of all groups through and write `meta/`; the last `test_share` of the episodes are for test.

    `meta/info.json` comes last: a directory without it is unfinished. May be repeated.
    """
    root = Path(root)
    data_files = visible(root, "data/*/*.parquet")
    notes = [json.loads(pq.read_schema(path).metadata[NOTE]) for path in data_files]
    captions = [caption for note in notes for caption in note["captions"]]
    tasks = {task: i for i, task in enumerate(dict.fromkeys(captions))}
    episodes = number_rows(data_files, notes, tasks, layout)
    stats = numeric_stats(data_files) | {IMAGE: pixel_stats(np.sum([note["pixels"] for note in notes], axis=0))}
    write_json(root / "meta/stats.json", stats)
    write_table(root / EPISODES_PATH, pa.Table.from_pylist(episodes))
    write_table(root / "meta/tasks.parquet", task_table(tasks))
    lines = [{"episode_index": i, "caption": text, "source": "original"} for i, text in enumerate(captions)]
    write_captions(root, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
    seal(root, make_info(layout, episodes, len(tasks), test_share))


def write_captions(root: Path, content: bytes) -> None:
    """Write captions.jsonl; one that begins with `content` stays, since captions were added to it."""
    path = root / "captions.jsonl"
    if not (path.is_file() and path.read_bytes().startswith(content)):
        write_atomic(path, content)


def number_rows(files: list[Path], notes: list[dict], tasks: dict[str, int], layout: Layout) -> list[dict[str, Any]]:
    """Fill `index` and `task_index` in every data file -> one row of meta/episodes per episode."""
    episodes, start = [], 0
    for file_index, (path, note) in enumerate(zip(files, notes, strict=True)):
        where = {"chunk_index": file_index // CHUNK, "file_index": file_index % CHUNK}
        table, ends = pq.read_table(path), np.cumsum(note["lengths"])
        numbers = {
            "index": np.arange(start, start + len(table)),
            "task_index": np.repeat([tasks[c] for c in note["captions"]], note["lengths"]),
        }
        for name, values in numbers.items():
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.int64()))
        write_table(path, table)
        for caption, length, end in zip(note["captions"], note["lengths"], ends.tolist(), strict=True):
            row = {"episode_index": len(episodes), "tasks": [caption], "length": length}
            row |= {f"data/{k}": v for k, v in where.items()}
            row |= {"dataset_from_index": start + end - length, "dataset_to_index": start + end}
            row |= {f"videos/{IMAGE}/{k}": v for k, v in where.items()}
            row |= {f"videos/{IMAGE}/from_timestamp": (end - length) / layout.fps}
            row |= {f"videos/{IMAGE}/to_timestamp": end / layout.fps}
            episodes.append(row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        start += len(table)
    return episodes


def numeric_stats(files: list[Path]) -> dict[str, dict[str, list]]:
    """min, max, mean, std over all rows and their count, per element of each data column."""
    stats = {}
    for name in pq.read_schema(files[0]).names:
        values = np.concatenate([column_values(pq.read_table(path, columns=[name])[name]) for path in files])
        values = values.reshape(len(values), -1)
        stats[name] = {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        values = values.astype(np.float64)
        stats[name] |= {"mean": values.mean(0).tolist(), "std": values.std(0).tolist(), "count": [len(values)]}
    return stats


def pixel_stats(counts: np.ndarray) -> dict[str, list]:
    """The same for the pixels of all frames from `color_counts` "3 256": per channel, in 0..1, shaped (3, 1, 1)."""
    values, total = np.arange(256) / 255, int(counts[0].sum())
    mean = counts @ values / total
    std = np.sqrt(np.maximum(counts @ values**2 / total - mean**2, 0))
    seen = [values[channel > 0] for channel in counts]
    rows = {"min": [v[0] for v in seen], "max": [v[-1] for v in seen], "mean": mean, "std": std}
    return {key: np.reshape(row, (3, 1, 1)).tolist() for key, row in rows.items()} | {"count": [total]}


def task_table(tasks: dict[str, int]) -> pa.Table:
    """`task` as pandas' index and `task_index` as the column, written without pandas."""
    described = [
        {"name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
        {"name": "task", "pandas_type": "unicode", "numpy_type": "object"},
    ]
    described = [{**column, "field_name": column["name"], "metadata": None} for column in described]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": described, "pandas_version": "2.0.0"}
    table = pa.table({"task_index": pa.array(tasks.values(), pa.int64()), "task": pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({b"pandas": json.dumps(pandas)})


def held_out(episodes: int, test_share: float) -> int:
    """How many episodes, the last ones, are for test."""
    return max(1, round(test_share * episodes)) if test_share > 0 and episodes > 1 else 0


def make_info(layout: Layout, episodes: list[dict], total_tasks: int, test_share: float) -> dict[str, Any]:
    """meta/info.json as LeRobot v3.0 describes it."""
    total = len(episodes)
    train = total - held_out(total, test_share)
    return {
        "codebase_version": "v3.0",
        "robot_type": layout.name,
        "total_episodes": total,
        "total_frames": episodes[-1]["dataset_to_index"],
        "total_tasks": total_tasks,
        "chunks_size": CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 500,
        "fps": layout.plain_fps,
        "splits": {"train": f"0:{train}"} | ({"test": f"{train}:{total}"} if train < total else {}),
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": {IMAGE: video_feature(layout.size, layout.plain_fps, lossless=layout.lossless)}
        | number_features(layout),
    }


def video_feature(size: tuple[int, int], fps: float, *, lossless: bool) -> dict[str, Any]:
    """The description of frames of `size` (H, W)."""
    height, width = size
    video = {"height": height, "width": width, "channels": 3, "codec": "h264", "fps": fps}
    video |= {"is_depth_map": False, "pix_fmt": "gbrp" if lossless else PIXELS}
    info = {f"video.{key}": value for key, value in video.items()} | {"has_audio": False}
    return {"dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"], "info": info}


def number_features(layout: Layout) -> dict[str, dict[str, Any]]:
    """The descriptions of the columns of numbers."""
    vectors = {"observation.state": layout.state_names, "action": layout.action_names}
    vectors = {key: list(names) for key, names in vectors.items() if names}
    features = {key: {"dtype": "float32", "shape": [len(names)], "names": names} for key, names in vectors.items()}
    scalars = {"next.reward": "float32", "next.done": "bool", "timestamp": "float32"}
    scalars |= dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")
    return features | {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in scalars.items()}


def seal(root: Path, info: dict[str, Any]) -> None:
    """Write meta/info.json and meta/files.json, the size and sha256 of every file: the dataset is finished.

    Captions are left out because more may be added later; the original ones are in meta/tasks.parquet too.
    meta/info.json takes its place last.
    """
    content = (json.dumps(info, indent=4, ensure_ascii=False) + "\n").encode()
    skip = {"meta/files.json", "meta/info.json"}
    found = [path for folder in ("data", "meta", "videos") for path in visible(root, f"{folder}/**/*")]
    names = sorted(path.relative_to(root).as_posix() for path in found if path.is_file())
    files = {name: fingerprint(root / name) for name in names if name not in skip}
    with atomic(root / "meta/info.json") as aside:
        aside.write_bytes(content)
        write_json(root / "meta/files.json", files | {"meta/info.json": fingerprint(aside)})


def fingerprint(path: Path) -> dict[str, Any]:
    """The size and sha256 of a file, as meta/files.json has them."""
    return {"sha256": sha256_of(path), "bytes": path.stat().st_size}
