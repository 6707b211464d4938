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

from videowm.data.clips import stretches
from videowm.data.dataset import Dataset
from videowm.files import read_json, short_hash, visible, write_atomic, write_json
from videowm.lock import locked
from videowm.types import UserError

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
    def open(cls, data: str | Path, name: str, digest: str | None = None) -> Captions:
        """Read one file of captions.

        Args:
            data: the dataset, or the folder of latents whose clips were played.
            name: which captions: their hash or its beginning, their model, or "state".
            digest: of what was captioned; None: the dataset's own.

        Raises:
            UserError: no file or several fit the name, or the file is damaged or of another dataset.
        """
        root = Path(data)
        headers = captions_of(root)
        found = [n for n, h in headers.items() if n.startswith(name) or name in (h["source"], h.get("model"))]
        if len(found) != 1:
            known = ", ".join(f"{n} ({h.get('model', 'state')})" for n, h in headers.items()) or "none"
            many = f"{len(found)} captions are called {name!r}" if found else f"no captions are called {name!r}"
            raise UserError(f"{many} in {root}/captions, there are: {known}; make them with videowm caption")
        header, path = headers[found[0]], captions_path(root, found[0])
        check_dataset(path, header, digest or Dataset(root).hash)
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


def write_captions(root: Path, header: dict[str, Any], lines: list[dict[str, Any]]) -> str:
    """Write all captions at once, the header last; returns their name."""
    name = header_name(header)
    write_lines(captions_path(root, name), lines)
    write_json(captions_path(root, name).with_suffix(".json"), header)
    return name


def check_dataset(path: Path, header: dict[str, Any], digest: str) -> None:
    """Refuse captions of another dataset than the one of hash `digest`.

    Raises:
        UserError: the header names another hash.
    """
    if header["dataset"] != digest:
        raise UserError(
            f"{path} belongs to a dataset with hash {header['dataset']}, {path.parent.parent} has {digest}: "
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
