"""Actions as a user writes them: `left*8 gas*16`, a file, or a dataset's episode."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from videowm.config import suggest
from videowm.types import UserError


def parse_actions(text: str, named: dict[str, tuple[float, ...]]) -> np.ndarray:
    """`name*count` words -> float32 "f-1 a". `named` maps the world's action names to vectors."""
    rows: list[tuple[float, ...]] = []
    for word in text.split():
        name, star, count = word.partition("*")
        if name not in named:
            raise UserError(f"unknown action {name!r}{suggest(name, named)}")
        if star and not (count.isdigit() and int(count) > 0):
            raise UserError(f"{word!r}: after * comes a number of actions above 0, as in {name}*8")
        rows += [tuple(named[name])] * (int(count) if star else 1)
    if not rows:
        raise UserError(f"no actions in {text!r}; write for example {next(iter(named), 'name')}*8")
    return np.array(rows, dtype=np.float32)


def read_actions(path: Path) -> np.ndarray:
    """A table of actions, one row a frame: .csv (with or without a header), .npy or .npz (first array)."""
    try:
        if path.suffix == ".npy":
            table = np.load(path, allow_pickle=False)
        elif path.suffix == ".npz":
            archive = np.load(path, allow_pickle=False)
            table = archive[archive.files[0]]
        else:
            lines = [line for line in path.read_text().splitlines() if line.strip()]
            header = any(ch.isalpha() for ch in lines[0].lower().replace("nan", "").replace("inf", "").replace("e", ""))
            table = [[float(v) for v in line.replace(",", " ").split()] for line in lines[header:]]
        return np.atleast_2d(np.asarray(table, dtype=np.float32))
    except (ValueError, IndexError, AttributeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no action table ({error}): give .csv, .npy or .npz with one row a frame") from None
