"""Bring foreign recordings into a dataset: a LeRobot v3 folder, or a folder of videos with action tables.

Every frame is decoded once, strictly, because decoders pass over damage without a word. Video that decord cannot be
trusted with (any codec but H.264, open groups of pictures) or that gets another size is encoded again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from videowm.actions.script import TABLES, read_action_table
from videowm.data.dataset import Dataset
from videowm.data.layout import (
    PIXELS,
    Layout,
    check_width,
    encode_video,
    finish,
    seal,
    write_group,
    write_table,
)
from videowm.files import write_atomic, write_json
from videowm.types import Episode, UserError

Size = tuple[int, int]  # (H, W) pixels
VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov")


def import_dataset(
    src: str | Path,
    out: str | Path,
    *,
    size: Size | None = None,
    test_share: float = 0.1,
    video_key: str | None = None,
    lossless: bool = False,
) -> Path:
    """Check `src` and write it to the new folder `out`, its frames resized to `size` where that is given."""
    src, out = Path(src), Path(out)
    if not src.is_dir():
        raise UserError(f"no folder at {src}: give a LeRobot v3 dataset or a folder of videos with action tables")
    begun = (out / "meta/import.json").exists() and not (out / "meta/info.json").exists()
    if out.exists() and not begun and (out.is_file() or any(out.iterdir())):
        raise UserError(f"{out} already holds something: give a new or empty folder")
    if size is not None and (min(size) < 16 or size[0] % 2 or size[1] % 2):
        raise UserError(f"size {size[0]}x{size[1]} cannot be encoded: give even numbers from 16 on")
    write_json(out / "meta/import.json", {"src": src.name, "size": size, "video_key": video_key, "lossless": lossless})
    if (src / "meta/info.json").exists():
        import_lerobot(Dataset(src, video_key), out, size, lossless=lossless)
    else:
        import_videos(src, out, size, test_share, lossless=lossless)
    return out


def import_lerobot(data: Dataset, out: Path, size: Size | None, *, lossless: bool) -> None:
    """Copy a LeRobot v3 dataset with one of its videos, checked row by row and frame by frame."""
    needed: dict[Path, int] = {}  # frames that the episodes claim of each video file
    for episode, length in enumerate(data.lengths.tolist()):
        data.all_actions(episode)
        path = data.video_path(episode)
        needed[path] = max(needed.get(path, 0), data.first_frame(episode) + length)
    again = size not in (None, data.size) or not all(map(trusted, needed))
    size = size or (data.size[0] // 2 * 2, data.size[1] // 2 * 2)
    check_width(size[1])
    for path, frames in needed.items():
        pictures = counted(read_video(path, size), path, frames)
        if again:
            content = encode_video([pictures], data.fps, lossless=lossless)
        else:
            sum(1 for _ in pictures)
            content = path.read_bytes()
        write_atomic(out / path.relative_to(data.root), content)
    kept = [
        *data.root.glob("data/*/*.parquet"),
        *(data.root / name for name in ("meta/stats.json", "meta/tasks.parquet")),
    ]
    for path in [*sorted(kept), data.root / "captions.jsonl"]:
        if path.exists():
            write_atomic(out / path.relative_to(data.root), path.read_bytes())
    seal(out, one_video(data, out, size if again else None, lossless=lossless))


def one_video(data: Dataset, out: Path, size: Size | None, *, lossless: bool) -> dict[str, Any]:
    """Write meta/episodes without the videos that are not imported -> info.json to match; `size` if encoded again."""
    features = data.info["features"]
    others = [key for key, feature in features.items() if feature["dtype"] == "video" and key != data.video_key]
    gone = tuple(f"{kind}/{key}/" for key in others for kind in ("videos", "stats"))
    for path in sorted((data.root / "meta/episodes").glob("*/*.parquet")):
        table = pq.read_table(path)
        table = table.drop_columns([name for name in table.column_names if name.startswith(gone)]) if gone else table
        write_table(out / path.relative_to(data.root), table)
    features = {key: dict(feature) for key, feature in features.items() if key not in others}
    if size is not None:
        video = {"height": size[0], "width": size[1], "channels": 3, "codec": "h264", "fps": data.info["fps"]}
        video |= {"pix_fmt": "gbrp" if lossless else PIXELS, "is_depth_map": False}
        features[data.video_key] |= {"shape": [*size, 3], "names": ["height", "width", "channels"]}
        features[data.video_key]["info"] = {f"video.{k}": v for k, v in video.items()} | {"has_audio": False}
    return data.info | {"features": features}


def import_videos(src: Path, out: Path, size: Size | None, test_share: float, *, lossless: bool) -> None:
    """Every `a.mp4` with its actions in `a.csv`, `a.npy`, `a.npz` or `a.parquet` and perhaps a caption in `a.txt`."""
    videos = sorted(path for path in src.iterdir() if path.suffix.lower() in VIDEOS)
    if not videos:
        raise UserError(f"{src} holds no videos ({', '.join(VIDEOS)}) and no meta/info.json: give a folder that does")
    layout: Layout | None = None
    for number, path in enumerate(videos):
        names, actions = read_action_table(table_beside(path))
        names = names or (
            ("action",) if actions.shape[1] == 1 else tuple(f"action_{i}" for i in range(actions.shape[1]))
        )
        frames = np.stack(list(counted(read_video(path, size), path, 2)))
        common = Layout(src.name, frame_rate(path), frames.shape[1:3], names, (), lossless, group=1)
        layout = layout or common
        for key in ("fps", "size", "action_names"):
            if getattr(common, key) != (first := getattr(layout, key)):
                raise UserError(
                    f"{path} has {key} {getattr(common, key)}, {videos[0].name} has {first}: make them equal"
                )
        if len(actions) not in (len(frames) - 1, len(frames)):
            raise UserError(f"{path} has {len(frames)} frames and {len(actions)} actions: give one between two frames")
        if len(actions) < len(frames):
            actions = np.concatenate([actions, actions[-1:]])  # leads to a frame that is not there
        none, text = np.zeros(len(frames), np.float32), path.with_suffix(".txt")
        caption = " ".join(text.read_text().split()) if text.exists() else ""
        states = np.zeros((len(frames), 0), np.float32)
        write_group(out, number, [Episode(frames, actions, none, none > 0, states, caption)], layout)
    finish(out, layout, test_share)


def table_beside(video: Path) -> Path:
    """The action table of a video: the one file of its name that is a table."""
    tables = [video.with_suffix(end) for end in TABLES if video.with_suffix(end).exists()]
    if len(tables) != 1:
        raise UserError(
            f"{video} has {len(tables)} action tables beside it: give one of {', '.join(TABLES)} of its name"
        )
    return tables[0]


def read_video(path: Path, size: Size | None = None) -> Iterator[np.ndarray]:
    """Frames uint8 "H W 3" of a video, resized by area; UserError at the first damage that the decoder can see."""
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
    """The same frames; UserError after the last if they were fewer than needed."""
    total = 0
    for frame in frames:
        total += 1
        yield frame
    if total < needed:
        raise UserError(f"{path} holds {total} frames, expected {needed} or more: download or make it again")


def frame_rate(path: Path) -> float:
    import av

    with av.open(str(path)) as video:
        return float(video.streams.video[0].average_rate)


def trusted(path: Path) -> bool:
    """Whether decord finds every frame: H.264 where no frame shown before a key frame is stored behind it."""
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
