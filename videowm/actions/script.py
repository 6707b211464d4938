"""Actions as a user writes them: `left*8 gas*16`, or a table in a file; and two opposite actions to compare."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from videowm.config import suggest
from videowm.types import UserError
from videowm.worlds import find_world

TABLES = (".csv", ".npy", ".npz", ".parquet")
MOST = 1_000_000  # actions of one script
STILL = 1e-3  # standard deviation below which an action never changed; latents.json holds none smaller


def parse_actions(text: str, named: dict[str, tuple[float, ...]]) -> Float32[np.ndarray, "n a"]:
    """The actions of a script such as `left*8 gas`: one row for each frame that an action is held.

    Args:
        text: words `name` or `name*count`, with spaces between.
        named: the world's action names and their vectors.

    Raises:
        UserError: an unknown name, a count that is no number from 1 on, no actions, or more than a million.
    """
    rows: list[tuple[float, ...]] = []
    for word in text.split():
        name, star, count = word.partition("*")
        if name not in named:
            raise UserError(f"unknown action {name!r}{suggest(name, named)}")
        if star and not (count.isascii() and count.isdigit() and count.strip("0")):
            raise UserError(f"{word!r}: after * comes a number of actions above 0, as in {name}*8")
        times = int(count[:8]) if star else 1  # eight digits are too many already
        if len(rows) + times > MOST:
            raise UserError(f"{text[:40]!r} asks for more than {MOST} actions: write fewer")
        rows += [tuple(named[name])] * times
    if not rows:
        raise UserError(f"no actions in {text!r}; write for example {next(iter(named), 'name')}*8")
    return np.array(rows, dtype=np.float32)


def read_action_table(path: Path) -> tuple[tuple[str, ...], Float32[np.ndarray, "n a"]]:
    """Column names (none where the file has none) and rows of a table of actions, one row a frame.

    A .csv may have a header, and commas or spaces between its numbers. Of an .npz the array `actions` is read, or the
    only one. Every column of a .parquet is read; a column of lists gives several.

    Raises:
        UserError: the file is missing, damaged, empty, or holds anything but finite numbers.
    """
    remedy = f"give {', '.join(TABLES[:-1])} or {TABLES[-1]} with one row of numbers a frame"
    try:
        names, rows = READERS.get(path.suffix, read_csv)(path)
        table = np.asarray(rows, dtype=np.float32)
        table = table.reshape(len(table), -1)
    except (ValueError, TypeError, LookupError, OSError, EOFError, csv.Error, zipfile.BadZipFile) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{path} is no action table ({why}): {remedy}") from None
    if not table.size:
        raise UserError(f"{path} is no action table (it is empty): {remedy}")
    bad = np.flatnonzero(~np.isfinite(table).all(1))
    if len(bad):
        raise UserError(f"row {bad[0]} of {path} is {table[bad[0]].tolist()}, expected finite numbers: correct it")
    return names, table


Table = tuple[tuple[str, ...], Sequence]  # names and rows


def read_csv(path: Path) -> Table:
    """A text table; its first row is a header where not all of it are numbers."""
    with path.open(newline="") as file:
        lines = [line for line in file if line.strip()]
    cells = list(csv.reader(lines)) if lines and "," in lines[0] else [line.split() for line in lines]
    header = [cell.strip() for cell in cells[0]] if cells and not all(map(is_number, cells[0])) else []
    return tuple(header), [[float(cell) for cell in row] for row in cells[bool(header) :]]


def is_number(cell: str) -> bool:
    """Whether a cell is written as a number; `nan` is one, and refused as such."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_npz(path: Path) -> Table:
    """The array `actions` of an archive, or its only one."""
    with np.load(path, allow_pickle=False) as archive:
        if "actions" not in archive.files and len(archive.files) != 1:
            raise ValueError(f"its arrays are {', '.join(archive.files)}, none is called actions")
        return (), archive["actions" if "actions" in archive.files else archive.files[0]]


def read_parquet(path: Path) -> Table:
    """All columns side by side."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None
    columns = {name: np.array(table[name].to_pylist(), np.float32) for name in table.column_names}
    parts = {name: values.reshape(len(values), -1) for name, values in columns.items()}
    names = [n if p.shape[1] == 1 else f"{n}_{i}" for n, p in parts.items() for i in range(p.shape[1])]
    return tuple(names), np.concatenate(list(parts.values()), axis=1)


READERS = {".npy": lambda path: ((), np.load(path, allow_pickle=False)), ".npz": read_npz, ".parquet": read_parquet}


def opposite_actions(
    world: str, names: Sequence[str], mean: Sequence[float], std: Sequence[float]
) -> dict[str, tuple[float, ...]]:
    """Two actions, by name, whose futures are worth comparing.

    Left and right where the world has them, else the first two that it forces. Without a world they are one standard
    deviation to either side of the mean of the first action that varies.

    Args:
        world: name of the world, which need not be installed.
        names: the action's parts, in order.
        mean: of each part over the data.
        std: standard deviation of each part.

    Raises:
        UserError: the world has no named actions and no action varies.
    """
    found = find_world(world)
    if found is not None:
        named, forced = found.named_actions(names), found.forced_actions(names)
        pair = {name: named[name] for name in ("left", "right") if name in named}
        pair = pair if len(pair) == 2 else dict(list(forced.items())[:2])
        if [len(action) for action in pair.values()] == [len(names)] * 2:
            return pair
    varies = [i for i, spread in enumerate(std) if spread > STILL]
    if not varies:
        raise UserError(f"no action of {world} varies in its data, so no two futures differ: record other actions")
    i = varies[0]
    sides = {sign: [m + sign * std[i] * (n == i) for n, m in enumerate(mean)] for sign in (-1, 1)}
    return {f"{names[i]} {side[i]:.2g}": tuple(side) for side in sides.values()}
