"""Bring foreign recordings into a dataset: a LeRobot v3 folder, or a folder of videos with action tables.

Every frame is decoded once, strictly, because decoders pass over damage without a word. Video that decord cannot be
trusted with (any codec but H.264, open groups of pictures) or that gets another size is encoded again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from videowm.actions.script import TABLES, read_action_table
from videowm.data import layout
from videowm.data.dataset import Dataset
from videowm.data.layout import Layout
from videowm.files import read_json, remove_leftovers, visible, write_atomic, write_json, writing
from videowm.types import Episode, UserError

NOTE = "meta/import.json"
Size = tuple[int, int]  # (H, W) pixels
VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov")


def import_dataset(
    src: str | Path, out: str | Path, *, size: Size | None = None, test_share: float = 0.1,
    video_key: str | None = None, lossless: bool = False,
) -> Path:  # fmt: skip
    """Check foreign recordings and write them as a dataset; returns `out`.

    The same call again makes a dataset that was interrupted or damaged anew, or does nothing.

    Args:
        src: LeRobot v3 folder, or a folder of videos with action tables.
        out: new folder, or one of the same import.
        size: (H, W) pixels that frames are resized to, even and 16 or more; None keeps their size.
        test_share: share of the videos that are held out; a LeRobot folder keeps its own split.
        video_key: which video of a LeRobot folder that has several.
        lossless: whether video that is encoded again keeps every bit.

    Raises:
        UserError: the source is damaged or no source, `out` holds something else, or the disk is full.
    """
    src, out = Path(src), Path(out)
    if not src.is_dir():
        raise UserError(f"no folder at {src}: give a LeRobot v3 dataset or a folder of videos with action tables")
    if size is not None and (min(size) < 16 or size[0] % 2 or size[1] % 2):
        raise UserError(f"size {size[0]}x{size[1]} cannot be encoded: give even numbers from 16 on")
    settings = {"src": src.name, "size": size and list(size), "video_key": video_key, "lossless": lossless}
    with writing(out):
        if is_imported(out, settings):
            tqdm.write(f"{out} is already imported from {src}")
            return out
        try:
            begin(out, settings)
            if (src / "meta/info.json").exists():
                import_lerobot(Dataset(src, video_key), out, size, lossless=lossless)
            else:
                import_videos(src, out, size, test_share, lossless=lossless)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{out} is unfinished, the same command begins again") from None
    return out


def is_imported(out: Path, settings: dict[str, Any]) -> bool:
    """Whether `out` is a finished, whole import with these settings.

    Raises:
        UserError: `out` holds something else, or was imported with other settings.
    """
    note = out / NOTE
    if not note.is_file():
        if out.is_file() or visible(out, "*"):
            raise UserError(f"{out} already holds something: give a new or empty folder")
        return False
    if not (out / "meta/info.json").is_file():
        return False
    try:
        Dataset(out).verify()
    except UserError:
        return False
    present = read_json(note, "remove it")
    if differing := [f"{key} {present.get(key)} there, {value} now" for key, value in settings.items()
                     if present.get(key) != value]:  # fmt: skip
        raise UserError(f"{out} was imported with other settings ({'; '.join(differing)}): give another --out")
    return True


def begin(out: Path, settings: dict[str, Any]) -> None:
    """Make `out` an unfinished import: what an earlier one left in it is removed, captions that were added stay."""
    (out / "meta/info.json").unlink(missing_ok=True)
    for pattern in ("data/**/*.parquet", "videos/**/*.mp4", "meta/episodes/**/*.parquet"):
        for path in visible(out, pattern):
            path.unlink()
    remove_leftovers(out)
    write_json(out / NOTE, settings)


def import_lerobot(data: Dataset, out: Path, size: Size | None, *, lossless: bool) -> None:
    """Copy a LeRobot v3 dataset with one of its videos, checked row by row and frame by frame."""
    needed: dict[Path, int] = {}  # frames that the episodes claim of each video file
    for episode, length in enumerate(data.lengths.tolist()):
        data.all_actions(episode)
        path = data.video_path(episode)
        needed[path] = max(needed.get(path, 0), data.first_frame(episode) + length)
    again = size not in (None, data.size) or not all(map(trusted, needed))
    size = size or (data.size[0] // 2 * 2, data.size[1] // 2 * 2)
    layout.check_width(size[1])
    for path, frames in needed.items():
        pictures = counted(read_video(path, size), path, frames)
        if again:
            content = layout.encode_video([pictures], data.fps, lossless=lossless)
        else:
            sum(1 for _ in pictures)
            content = path.read_bytes()
        write_atomic(out / path.relative_to(data.root), content)
    for pattern in ("data/*/*.parquet", "meta/stats.json", "meta/tasks.parquet"):
        for path in visible(data.root, pattern):
            write_atomic(out / path.relative_to(data.root), path.read_bytes())
    if (captions := data.root / "captions.jsonl").exists():
        layout.write_captions(out, captions.read_bytes())
    layout.seal(out, one_video(data, out, size if again else None, lossless=lossless))


def one_video(data: Dataset, out: Path, size: Size | None, *, lossless: bool) -> dict[str, Any]:
    """Write meta/episodes without the videos that are not imported -> info.json to match; `size` if encoded again."""
    features = data.info["features"]
    others = [key for key, feature in features.items() if feature["dtype"] == "video" and key != data.video_key]
    gone = tuple(f"{kind}/{key}/" for key in others for kind in ("videos", "stats"))
    for path in visible(data.root, "meta/episodes/*/*.parquet"):
        table = pq.read_table(path)
        table = table.drop_columns([name for name in table.column_names if name.startswith(gone)]) if gone else table
        layout.write_table(out / path.relative_to(data.root), table)
    features = {key: dict(feature) for key, feature in features.items() if key not in others}
    if size is not None:
        features[data.video_key] |= layout.video_feature(size, data.info["fps"], lossless=lossless)
    return data.info | {"features": features}


def import_videos(src: Path, out: Path, size: Size | None, test_share: float, *, lossless: bool) -> None:
    """Import every `a.mp4` with its actions in a table beside it, such as `a.csv`, and perhaps a caption in `a.txt`.

    Raises:
        UserError: the folder holds no videos, a file is damaged, or videos differ in frame rate, size or action names.
    """
    videos = sorted(path for path in src.iterdir() if path.suffix.lower() in VIDEOS and not path.name.startswith("."))
    if not videos:
        raise UserError(f"{src} holds no videos ({', '.join(VIDEOS)}) and no meta/info.json: give a folder that does")
    first: Layout | None = None
    for number, path in enumerate(videos):
        episode, own = read_episode(path, size)
        first = first or replace(own, lossless=lossless)
        for key in ("fps", "size", "action_names"):
            ours, theirs = getattr(own, key), getattr(first, key)
            if ours != theirs:
                raise UserError(f"{path} has {key} {ours}, {videos[0].name} has {theirs}: make them equal")
        layout.write_group(out, number, [episode], first)
    layout.finish(out, first, test_share)


def read_episode(path: Path, size: Size | None) -> tuple[Episode, Layout]:
    """A video with its actions and its caption, and what it must have in common with the others.

    Raises:
        UserError: the video, the table or the caption is damaged, or their lengths do not fit.
    """
    names, actions = read_action_table(table_beside(path))
    width = actions.shape[1]
    names = names or (("action",) if width == 1 else tuple(f"action_{i}" for i in range(width)))
    frames = np.stack(list(counted(read_video(path, size), path, 2)))
    if len(actions) not in (len(frames) - 1, len(frames)):
        raise UserError(f"{path} has {len(frames)} frames and {len(actions)} actions: give one between two frames")
    if len(actions) < len(frames):
        actions = np.concatenate([actions, actions[-1:]])  # leads to a frame that is not there
    none, states = np.zeros(len(frames), np.float32), np.zeros((len(frames), 0), np.float32)
    own = Layout(path.parent.name, frame_rate(path), frames.shape[1:3], names, group=1)
    return Episode(frames, actions, none, none > 0, states, read_caption(path.with_suffix(".txt"))), own


def read_caption(path: Path) -> str:
    """The words of a text file; none where there is no file.

    Raises:
        UserError: the file cannot be read as UTF-8.
    """
    try:
        return " ".join(path.read_text(encoding="utf-8").split()) if path.exists() else ""
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} is no text in UTF-8: save it as one, or remove it") from None


def table_beside(video: Path) -> Path:
    """The action table of a video: the one file of its name that is a table.

    Raises:
        UserError: no table stands beside the video, or more than one.
    """
    tables = [video.with_suffix(end) for end in TABLES if video.with_suffix(end).exists()]
    if len(tables) != 1:
        raise UserError(
            f"{video} has {len(tables)} action tables beside it: give one of {', '.join(TABLES)} of its name"
        )
    return tables[0]


def read_video(path: Path, size: Size | None = None) -> Iterator[np.ndarray]:
    """Frames uint8 "H W 3" of a video, resized by area, up to the first damage that the decoder can see.

    Raises:
        UserError: the file is damaged or no video, or its number of frames differs from the declared one.
    """
    import av

    try:
        with av.open(str(path), options={"err_detect": "explode"}) as video:
            stream = video.streams.video[0]
            stream.codec_context.options = {"err_detect": "explode"}
            declared, total = stream.frames, 0
            height, width = size or (stream.height // 2 * 2, stream.width // 2 * 2)
            for frame in video.decode(stream):
                total += 1
                yield frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
    except (av.error.FFmpegError, IndexError, ValueError):
        raise UserError(f"{path} is damaged or no video: download or make it again") from None
    if declared and total != declared:
        raise UserError(f"{path} declares {declared} frames, {total} decode: download or make it again")


def counted(frames: Iterable[np.ndarray], path: Path, needed: int) -> Iterator[np.ndarray]:
    """The same frames, counted.

    Raises:
        UserError: after the last frame, when they were fewer than `needed`.
    """
    total = 0
    for frame in frames:
        total += 1
        yield frame
    if total < needed:
        raise UserError(f"{path} holds {total} frames, expected {needed} or more: download or make it again")


def frame_rate(path: Path) -> float:
    """Frames a second of a video, on average.

    Raises:
        UserError: the video names no frame rate.
    """
    import av

    with av.open(str(path)) as video:
        rate = video.streams.video[0].average_rate
    if not rate:
        raise UserError(f"{path} names no frame rate: make it again with one")
    return float(rate)


def trusted(path: Path) -> bool:
    """Whether decord finds every frame: H.264 where no frame shown before a key frame is stored behind it.

    Raises:
        UserError: the file is damaged or no video.
    """
    import av

    try:
        with av.open(str(path)) as video:
            stream, key = video.streams.video[0], None
            if stream.codec_context.name != "h264":
                return False
            for packet in video.demux(stream):
                if packet.pts is None:
                    continue
                key = packet.pts if packet.is_keyframe else key
                if key is None or packet.pts < key:
                    return False
    except (av.error.FFmpegError, IndexError):
        raise UserError(f"{path} is damaged or no video: download or make it again") from None
    return True
