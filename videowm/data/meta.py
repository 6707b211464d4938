"""The small files in `meta/` of a LeRobot v3 dataset, read and checked; a damaged one is one sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from videowm.files import read_json, visible
from videowm.types import UserError

NEEDED = {"codebase_version": str, "fps": int | float, "features": dict, "data_path": str, "video_path": str}
LARGEST_FPS = 1e6
LONGEST = 2**31 - 1  # rows of a dataset


def remedy(root: Path) -> str:
    """The command that makes a damaged file of a dataset again, for the end of an error sentence."""
    for verb, file in (("record", "recording.json"), ("import", "import.json")):
        if (root / "meta" / file).exists():
            return f"run the same {verb} command again"
    return "record, import or download it again"


def read_info(root: Path, versions: tuple[str, ...] = ("v3.",)) -> dict[str, Any]:
    """The content of meta/info.json.

    Args:
        root: the dataset.
        versions: how the versions of the layout begin that are read.

    Raises:
        UserError: it is missing, damaged, of another version of the layout, or lacks what the reader needs.
    """
    path = root / "meta/info.json"
    if not path.is_file():
        begun = any((root / "meta" / name).exists() for name in ("recording.json", "import.json"))
        advice = remedy(root) if begun else "give a folder that record or import wrote"
        raise UserError(f"{root} holds no finished dataset (no meta/info.json): {advice}")
    info = read_json(path, remedy(root))
    version = info.get("codebase_version")
    if isinstance(version, str) and not version.startswith(versions):
        advice = "`videowm import` it" if version in ("v2.0", "v2.1") else "convert it with lerobot's own converter"
        raise UserError(f"{root} has LeRobot layout {version}, expected v3.0: {advice}")
    problem = wrong_type(info) or wrong_value(info) or wrong_feature(info["features"])
    if problem:
        raise UserError(f"{path} cannot be used ({problem}): {remedy(root)}")
    return info


def wrong_type(info: dict[str, Any]) -> str | None:
    """What is wrong with the types of the keys that the reader needs, if anything is."""
    if missing := [key for key in NEEDED if key not in info]:
        return f"it lacks {', '.join(missing)}"
    for key, kind in NEEDED.items():
        if not isinstance(info[key], kind) or isinstance(info[key], bool):
            return f"{key} is {info[key]!r}"
    total = info.get("total_frames")
    return f"total_frames is {total!r}" if total is not None and type(total) is not int else None


def wrong_value(info: dict[str, Any]) -> str | None:
    """What is wrong with the frame rate or the names of files, if anything is."""
    if not 0 < info["fps"] <= LARGEST_FPS:
        return f"fps is {info['fps']!r}, expected a number above 0"
    for key in ("data_path", "video_path"):
        try:
            older = {"episode_chunk": 0, "episode_index": 0} if info["codebase_version"].startswith("v2.") else {}
            path = Path(info[key].format(video_key="video", chunk_index=0, file_index=0, **older))
        except (LookupError, ValueError, AttributeError, TypeError):
            return f"{key} is {info[key]!r}"
        if path.is_absolute() or ".." in path.parts:
            return f"{key} {info[key]!r} leads out of the folder"
    return None


def wrong_feature(features: dict[str, Any]) -> str | None:
    """What is wrong with the features, if anything is."""
    for key, feature in features.items():
        if not isinstance(feature, dict) or not isinstance(feature.get("dtype"), str):
            return f"feature {key} is {feature!r}, expected a dtype and a shape"
        video = feature["dtype"] == "video"
        if not video and key not in ("action", "observation.state"):
            continue
        shape = feature.get("shape")
        if not isinstance(shape, list) or not shape or not all(type(n) is int and 0 < n < 2**20 for n in shape):
            return f"the shape of {key} is {shape!r}, expected whole numbers above 0"
        if video and len(shape) != 3:
            return f"the shape of {key} is {shape!r}, expected height, width and channels"
    return None


def splits_of(root: Path, info: dict[str, Any], episodes: int) -> dict[str, range]:
    """The episodes of train and of test; where no test split is declared, it is the last tenth of the episodes.

    Raises:
        UserError: a split cannot be read or reaches beyond the episodes, or train and test share one.
    """
    path, declared = root / "meta/info.json", info.get("splits") or {}
    if not isinstance(declared, dict):
        raise UserError(f"splits of {path} is {declared!r}, expected ranges of episodes: {remedy(root)}")
    if not {"train", "test"} <= declared.keys():
        train = episodes - (max(1, round(0.1 * episodes)) if episodes > 1 else 0)
        return {"train": range(train), "test": range(train, episodes)}
    splits = {}
    for name in ("train", "test"):
        try:
            first, end = (int(number) for number in declared[name].split(":"))
        except (ValueError, AttributeError):
            first, end = 1, 0
        if not 0 <= first <= end <= episodes:
            raise UserError(
                f"split {name!r} of {path} is {declared[name]!r}, expected a range within 0:{episodes}: {remedy(root)}"
            )
        splits[name] = range(first, end)
    train, test = splits["train"], splits["test"]
    if max(train.start, test.start) < min(train.stop, test.stop):
        raise UserError(
            f"the splits of {path} share episodes (train {declared['train']}, test {declared['test']}): separate them"
        )
    return splits


def read_files(root: Path) -> dict[str, dict[str, Any]]:
    """The content of meta/files.json, {path: {"sha256", "bytes"}}; empty for a dataset that has none.

    Raises:
        UserError: the file is damaged.
    """
    path = root / "meta/files.json"
    files = read_json(path, remedy(root)) if path.is_file() else {}
    for name, file in files.items():
        sound = isinstance(file, dict) and type(file.get("bytes")) is int and isinstance(file.get("sha256"), str)
        if not sound or file.keys() != {"sha256", "bytes"}:
            raise UserError(f"{path} is damaged (no size and sha256 of {name!r}): {remedy(root)}")
    return files


def read_episodes(
    root: Path, video_key: str, total_frames: int | None = None, *, gaps: bool = False
) -> dict[str, list]:
    """The columns of meta/episodes that locate an episode, in episode order.

    Args:
        root: the dataset.
        video_key: the video whose files are located.
        total_frames: rows of the whole dataset, where info.json declares them.
        gaps: whether numbers of episodes may be missing.

    Raises:
        UserError: the tables are missing or damaged, or hold numbers that locate nothing.
    """
    places = [f"{kind}/{key}" for kind in ("data", f"videos/{video_key}") for key in ("chunk_index", "file_index")]
    begin = f"videos/{video_key}/from_timestamp"
    wanted = ["episode_index", "tasks", "length", *places, begin]
    try:
        paths = visible(root, "meta/episodes/*/*.parquet")
        table = pa.concat_tables([pq.read_table(path, columns=wanted) for path in paths])
        columns = table.sort_by("episode_index").to_pydict()
        numbers = {name: np.array(columns[name], np.int64) for name in ("episode_index", "length", *places)}
        starts = np.array(columns[begin], np.float64)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{root}/meta/episodes is missing, damaged or lacks one of {wanted}: {remedy(root)}") from None
    problem = wrong_numbers(numbers, starts, total_frames, gaps=gaps) or wrong_tasks(columns["tasks"])
    if problem:
        raise UserError(f"{root}/meta/episodes cannot be used ({problem}): {remedy(root)}")
    return columns


def wrong_numbers(
    numbers: dict[str, np.ndarray], starts: np.ndarray, total_frames: int | None, *, gaps: bool
) -> str | None:
    """What is wrong with the numbers that locate episodes, if anything is."""
    index, lengths = numbers["episode_index"], numbers["length"]
    if not len(index):
        return "it holds no episode"
    if len(set(index.tolist())) < len(index) or not gaps and index.tolist() != list(range(len(index))):
        return "it does not number the episodes 0, 1, 2, …"
    most = LONGEST if total_frames is None else total_frames
    if lengths.min() < 1 or lengths.astype(float).sum() > most:
        return f"its lengths are {lengths.min()} to {lengths.max()} frames, together at most {most} were expected"
    if any(values.min() < 0 for values in numbers.values()):
        return "it names a file by a number below 0"
    if not all(math.isfinite(start) and start >= 0 for start in starts.tolist()):
        return "an episode begins at no time of its video"
    return None


def wrong_tasks(tasks: list[Any]) -> str | None:
    """What is wrong with the captions that LeRobot calls tasks, if anything is."""
    for episode, names in enumerate(tasks):
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            return f"tasks of episode {episode} is {names!r}"
    return None


def read_captions(root: Path, captions: list[str]) -> list[str]:
    """The captions of all episodes: those given, and in their place the newest that captions.jsonl has.

    Raises:
        UserError: a line of the file is damaged or of an episode that is not there.
    """
    captions, path = list(captions), root / "captions.jsonl"
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            episode, caption = entry["episode_index"], entry["caption"]
        except (ValueError, LookupError, TypeError, RecursionError):
            episode, caption = None, None
        if type(episode) is not int or not 0 <= episode < len(captions) or not isinstance(caption, str):
            raise UserError(
                f"line {number} of {path} is damaged: correct the line, or remove the file to use the recorded captions"
            )
        captions[episode] = caption
    return captions


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
