"""Captions of clips, beside the dataset that they describe: what a file holds, how it is written, how it is read.

`captions/NAME.json` holds how the captions of `captions/NAME.jsonl` were made; NAME is its hash. One line is
one clip:
    {"episode", "start", "frames", "short", "detailed", "source": "state" | "model"}
"state" captions are made from the simulator's recorded state, "model" captions by a model that saw frames. Clips that
no caption could be had for are in `captions/NAME.failed.jsonl`, with the reason. Nothing that `videowm info --verify`
checks is touched.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from videowm.data.clips import stretches
from videowm.data.dataset import Dataset
from videowm.files import read_json, short_hash, visible, write_atomic, write_json
from videowm.lock import locked
from videowm.types import UserError
from videowm.worlds import find_world, open_world

SOURCES = ("state", "model")  # who writes captions
REMEDY = "move it away and run videowm caption again"


class ClipKey(NamedTuple):
    """Which frames of a dataset: `frames` consecutive ones of an episode from frame `start` on."""

    episode: int
    start: int
    frames: int


@dataclass(frozen=True)
class Caption:
    """A clip in words, short and at length, and who wrote them."""

    short: str
    detailed: str
    source: Literal["state", "model"]


class Captions(dict[ClipKey, Caption]):
    """The captions of one file: `captions[episode, start, frames]`."""

    def __init__(self, header: dict[str, Any], captions: dict[ClipKey, Caption]) -> None:
        super().__init__(captions)
        self.header = header

    @classmethod
    def open(cls, data: str | Path, name: str) -> Captions:
        """Read one file of captions.

        Args:
            data: the dataset.
            name: which captions: their hash or its beginning, their model, or "state".

        Raises:
            UserError: no file or several fit the name, or the file is damaged or of another dataset.
        """
        dataset = Dataset(data)
        headers = captions_of(dataset.root)
        found = [n for n, h in headers.items() if n.startswith(name) or name in (h["source"], h.get("model"))]
        if len(found) != 1:
            known = ", ".join(f"{n} ({h.get('model', 'state')})" for n, h in headers.items()) or "none"
            many = f"{len(found)} captions are called {name!r}" if found else f"no captions are called {name!r}"
            raise UserError(f"{many} in {dataset.root}/captions, there are: {known}; make them with videowm caption")
        header, path = headers[found[0]], captions_path(dataset.root, found[0])
        check_dataset(path, header, dataset)
        lines = read_lines(path).items()
        return cls(header, {key: Caption(line["short"], line["detailed"], line["source"]) for key, line in lines})


def clips_to_caption(dataset: Dataset, frames: int) -> list[ClipKey]:
    """The clips that `videowm encode` makes of both splits, in their order.

    Raises:
        UserError: fewer than 2 frames, or no episode as long as a clip.
    """
    if frames < 2:
        raise UserError(f"clips of {frames} frames cannot be captioned: give --clip-frames 2 or more")
    clips = [ClipKey(e, s, frames) for split in ("train", "test") for e, s in stretches(dataset, split, frames)]
    if not clips:
        longest = int(dataset.lengths.max()) if dataset.num_episodes else 0
        raise UserError(
            f"{dataset.root} holds no clip of {frames} frames (its longest episode has {longest}): "
            "lower --clip-frames or record longer episodes"
        )
    return clips


def captions_path(root: Path, name: str) -> Path:
    """The file of captions of that name."""
    return root / "captions" / f"{name}.jsonl"


def header_name(header: dict[str, Any]) -> str:
    """16 hex digits of everything that decides the captions."""
    return short_hash(json.dumps(header, sort_keys=True))


def captions_of(root: Path) -> dict[str, dict[str, Any]]:
    """{name: header} of the captions beside a dataset.

    Raises:
        UserError: a header is damaged.
    """
    headers = {}
    for path in visible(root / "captions", "*.json"):
        header = read_json(path, REMEDY)
        if header_name(header) != path.stem or not sound_header(header):
            raise UserError(f"{path} is damaged or was changed: {REMEDY}")
        headers[path.stem] = header
    return headers


def sound_header(header: dict[str, Any]) -> bool:
    """Whether a header has what its readers need."""
    types = {"source": str, "dataset": str, "clip_frames": int}
    return all(type(header.get(key)) is kind for key, kind in types.items()) and header["source"] in SOURCES


def check_dataset(path: Path, header: dict[str, Any], dataset: Dataset) -> None:
    """Refuse captions of another dataset.

    Raises:
        UserError: the header names the hash of another dataset.
    """
    if header["dataset"] != dataset.hash:
        raise UserError(
            f"{path} belongs to a dataset with hash {header['dataset']}, {dataset.root} has {dataset.hash}: "
            "move it away or caption this dataset"
        )


def read_lines(path: Path, texts: Sequence[str] = ("short", "detailed", "source")) -> dict[ClipKey, dict[str, Any]]:
    """The whole lines of a file of captions by clip; what follows the last newline was cut off by a kill.

    Args:
        path: the file; one that is not there has no lines.
        texts: keys of a line that hold text.

    Raises:
        UserError: a line is damaged.
    """
    content = path.read_bytes() if path.is_file() else b""
    lines = {}
    for number, text in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
        try:
            line = json.loads(text)
            key = ClipKey(line["episode"], line["start"], line["frames"])
            sound = all(type(n) is int for n in key) and all(isinstance(line[name], str) for name in texts)
        except (ValueError, LookupError, TypeError, RecursionError):
            sound = False
        if not sound:
            raise UserError(f"line {number} of {path} is damaged: remove the line and run videowm caption again")
        lines[key] = line
    return lines


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write a file of lines, whole or not at all."""
    write_atomic(path, b"".join(map(encode_line, lines)))


def encode_line(line: dict[str, Any]) -> bytes:
    """A line as its file holds it."""
    return json.dumps(line, ensure_ascii=False).encode(errors="replace") + b"\n"


class LineWriter:
    """Appends lines that are on the disk when `write` returns; one process a file. A torn last line is cut off."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.file = path, open(path, "a+b", buffering=0)  # noqa: SIM115 - closed by `close`
        if not locked(self.file, exclusive=True):
            self.file.close()
            raise UserError(f"another process writes {path}: wait for it to end")
        self.mend()

    def mend(self) -> None:
        """Cut a torn last line off."""
        self.file.seek(0)
        self.file.truncate(self.file.read().rfind(b"\n") + 1)

    def write(self, line: dict[str, Any]) -> None:
        """Append a line and force it to the disk; what a full disk takes of it is cut off again."""
        try:
            content = encode_line(line)
            if self.file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(self.file.fileno())
        except OSError:
            self.mend()
            raise

    def close(self) -> None:
        """Let go of the file; an empty one goes, and its folder where nothing else is in it."""
        self.file.close()
        if self.path.stat().st_size == 0:
            self.path.unlink()
            with suppress(OSError):
                self.path.parent.rmdir()


def caption_from_state(data: str | Path, *, clip_frames: int) -> tuple[str, int]:
    """Caption every clip of a recorded world from its states and actions -> (name, number of captions).

    The phrasing is a function of (episode, start), so the same command gives the same file.

    Raises:
        UserError: the world is unknown, has no captions or recorded other states, or no episode is as long as a clip.
    """
    dataset = Dataset(data)
    known = find_world(dataset.name)
    if known is None or not known.has("caption") or dataset.state_names != known.state_names:
        raise UserError(
            f"{data} ({dataset.name}) has no recorded states that its world can put into words: caption it with "
            "--base-url and --model"
        )
    world = open_world(dataset.name)
    lines = []
    for key in clips_to_caption(dataset, clip_frames):
        states = dataset.states(key.episode)[key.start : key.start + key.frames]
        actions = dataset.actions(key.episode)[key.start : key.start + key.frames - 1]
        rng = np.random.default_rng([key.episode, key.start])
        short = world.caption(states, actions, rng)
        words = {"short": short, "detailed": f"{short} {world.details(states, actions, rng)}"}
        lines.append({**key._asdict(), **words, "source": "state"})
    content = short_hash(*map(encode_line, lines))
    header = {"schema": 1, "source": "state", "dataset": dataset.hash, "world": dataset.name}
    header |= {"clip_frames": clip_frames, "content": content}  # a world that learns new phrasings makes a new file
    name = header_name(header)
    write_lines(captions_path(dataset.root, name), lines)
    write_json(captions_path(dataset.root, name).with_suffix(".json"), header)
    return name, len(lines)
