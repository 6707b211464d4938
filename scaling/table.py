"""Read finished runs from a CSV whose columns carry any names and units."""

from __future__ import annotations

import csv
import difflib
import operator
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from scaling.law import Runs
from videowm.types import UserError

COMPARE = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
CONDITION = re.compile(r"^(.+?)\s*(<=|>=|!=|=|<|>)\s*(.*)$")


def read_table(
    path: str | Path,
    *,
    n: str = "N",
    d: str | None = None,
    c: str | None = None,
    loss: str = "loss",
    trunk: str | None = None,
    hashes: str | None = None,
    where: Sequence[str] = (),
    drop_highest: int = 0,
    c_min: float = 0.0,
    c_max: float = np.inf,
    n_unit: float = 1.0,
    d_unit: float = 1.0,
    c_unit: float = 1.0,
) -> Runs:
    """Runs of a CSV: names of its columns, what one unit of them is worth (`n_unit=1e6`), and which rows to take.

    D = C / 6N where no data column is named, C = 6ND where no compute column is. First come the rows that meet every
    condition of `where` ("dataset=rpj", "N<=4e8"). Then the `drop_highest` highest losses go; diverged runs are the
    highest. Of the rest, the rows with compute between `c_min` and `c_max` are taken.

    Raises:
        UserError: neither data nor compute has a column, a column is missing or not of numbers, or no row is left.
    """
    if d is None and c is None:
        raise UserError(f"{path}: name the column of the data (d) or of the compute (c), one of them follows from N")
    header, rows = _rows(path)
    for condition in where:
        rows = [row for row in rows if _meets(path, header, row, condition)]
    if not rows:
        raise UserError(f"{path}: no row is left where {' and '.join(where) or 'there is none at all'}")
    sizes = _numbers(path, header, rows, n) * n_unit
    data = None if d is None else _numbers(path, header, rows, d) * d_unit
    flops = 6 * sizes * data if c is None else _numbers(path, header, rows, c) * c_unit
    text = {name: _column(path, header, rows, name) for name in (trunk, hashes) if name}
    runs = Runs(
        n=sizes,
        d=flops / (6 * sizes) if data is None else data,
        c=flops,
        loss=_numbers(path, header, rows, loss),
        trunk=_trunks(path, text[trunk], trunk) if trunk else None,
        hashes=tuple(text[hashes]) if hashes else (),
    )
    return _without(runs, path, drop_highest, c_min, c_max)


def _trunks(path: str | Path, names: list[str], column: str) -> np.ndarray:
    """The trunk of every row; a row without one is a trunk of its own."""
    if not any(names):
        raise UserError(f"{path}: column {column!r} is empty, so no two runs share a trunk: leave out the trunk")
    return np.array([name or f"row {i}" for i, name in enumerate(names)])


def _without(runs: Runs, path: str | Path, drop_highest: int, c_min: float, c_max: float) -> Runs:
    count = min(drop_highest, len(runs))
    keep = np.ones(len(runs), bool)
    keep[np.argsort(runs.loss)[len(runs) - count :]] = False  # NaN sorts last
    keep &= ~((runs.c < c_min) | (runs.c > c_max))  # so that a compute of NaN stays, and is refused by name
    if not keep.any():
        raise UserError(f"{path}: no run is left with compute between {c_min:g} and {c_max:g}")
    return replace(runs.keep(keep), dropped=count)


def _rows(path: str | Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} as a CSV table: {error}") from error


def _column(path, header: list[str], rows: list[dict], name: str) -> list[str]:
    if name not in header:
        lower = {column.lower(): column for column in header}
        near = [column for column in lower if column.startswith(name.lower())]
        near = near or difflib.get_close_matches(name.lower(), lower, n=1)
        hint = f"did you mean {lower[near[0]]!r}?" if near else f"it has {', '.join(header)}"
        raise UserError(f"{path} has no column {name!r}: {hint}")
    return [row[name] or "" for row in rows]


def _numbers(path, header: list[str], rows: list[dict], name: str) -> np.ndarray:
    values = []
    for text in _column(path, header, rows, name):
        try:
            values.append(float(text or "nan"))
        except ValueError:
            raise UserError(f"{path}: column {name!r} holds {text!r} where a number is needed") from None
    return np.array(values)


def _meets(path, header: list[str], row: dict[str, str], condition: str) -> bool:
    """Compared as numbers when both sides are numbers, else as text."""
    match = CONDITION.match(condition)
    if not match:
        raise UserError(f"cannot read the condition {condition!r}: write COLUMN=VALUE, or <, <=, >, >=, !=")
    name, sign, value = match.groups()
    text = _column(path, header, [row], name)[0]
    try:
        return bool(COMPARE[sign](float(text), float(value)))
    except ValueError:
        return bool(COMPARE[sign](text, value))
