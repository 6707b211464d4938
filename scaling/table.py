"""Read finished runs from a CSV whose columns carry any names and units."""

from __future__ import annotations

import csv
import difflib
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scaling.law import Runs
from videowm.types import UserError

COMPARE = {"<=": operator.le, ">=": operator.ge, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
           "=": operator.eq}  # fmt: skip
CONDITION = re.compile(r"^(.+?)\s*(<=|>=|!=|=|<|>)\s*(.*)$")


def read_table(
    path: str | Path, *, n: str = "N", d: str | None = None, c: str | None = None, loss: str = "loss",
    trunk: str | None = None, hashes: str | None = None, where: Sequence[str] = (), drop_highest: int = 0,
    c_min: float = 0.0, c_max: float = np.inf, n_unit: float = 1.0, d_unit: float = 1.0, c_unit: float = 1.0,
) -> Runs:  # fmt: skip
    """Runs of a CSV: names of its columns, what one unit of them is worth (`n_unit=1e6`), and which rows to take.

    D = C / 6N where no data column is named, C = 6ND where no compute column is. First come the rows that meet every
    condition of `where` ("dataset=rpj", "N<=4e8"). Then the `drop_highest` highest losses go; diverged runs are the
    highest. Of the rest, the rows with compute between `c_min` and `c_max` are taken.

    Raises:
        UserError: neither data nor compute has a column, a column is missing or not of numbers, or no row is left.
    """
    if d is None and c is None:
        raise UserError(f"{path}: name the column of the data (d) or of the compute (c), one of them follows from N")
    table = Table.read(path)
    for condition in where:
        table = table.where(condition)
    if not table.rows:
        raise UserError(f"{path}: no row is left where {' and '.join(where) or 'there is none at all'}")
    sizes = table.numbers(n) * n_unit
    data = None if d is None else table.numbers(d) * d_unit
    flops = 6 * sizes * data if c is None else table.numbers(c) * c_unit
    data = flops / (6 * sizes) if data is None else data
    trunks, kinds = table.trunks(trunk) if trunk else None, tuple(table.column(hashes)) if hashes else ()
    return _without(Runs(sizes, data, flops, table.numbers(loss), trunks, kinds), path, drop_highest, c_min, c_max)


def _without(runs: Runs, path: str | Path, drop_highest: int, c_min: float, c_max: float) -> Runs:
    count = min(drop_highest, len(runs))
    keep = np.ones(len(runs), bool)
    keep[np.argsort(runs.loss)[len(runs) - count :]] = False  # NaN sorts last
    keep &= ~((runs.c < c_min) | (runs.c > c_max))  # so that a compute of NaN stays, and is refused by name
    if not keep.any():
        raise UserError(f"{path}: no run is left with compute between {c_min:g} and {c_max:g}")
    return replace(runs.keep(keep), dropped=count)


@dataclass(frozen=True)
class Table:
    """The rows of a CSV as text."""

    path: str | Path
    header: list[str]
    rows: list[dict[str, str]]

    @staticmethod
    def read(path: str | Path) -> Table:
        """The table in a file.

        Raises:
            UserError: the file cannot be read.
        """
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                return Table(path, list(reader.fieldnames or ()), list(reader))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {path} as a CSV table: {error}") from error

    def column(self, name: str) -> list[str]:
        """A column as text.

        Raises:
            UserError: there is none of this name; the sentence suggests one.
        """
        if name not in self.header:
            lower = {column.lower(): column for column in self.header}
            near = [column for column in lower if column.startswith(name.lower())]
            near = near or difflib.get_close_matches(name.lower(), lower, n=1)
            hint = f"did you mean {lower[near[0]]!r}?" if near else f"it has {', '.join(self.header)}"
            raise UserError(f"{self.path} has no column {name!r}: {hint}")
        return [row[name] or "" for row in self.rows]

    def numbers(self, name: str) -> np.ndarray:
        """A column as float "rows"; NaN where a cell is empty.

        Raises:
            UserError: there is no such column, or a cell is no number.
        """
        values = []
        for text in self.column(name):
            try:
                values.append(float(text or "nan"))
            except ValueError:
                raise UserError(f"{self.path}: column {name!r} holds {text!r} where a number is needed") from None
        return np.array(values)

    def trunks(self, name: str) -> np.ndarray:
        """The trunk of every row; a row without one is a trunk of its own.

        Raises:
            UserError: there is no such column, or all of it is empty.
        """
        names = self.column(name)
        if not any(names):
            raise UserError(f"{self.path}: column {name!r} is empty, so no two runs share a trunk: leave out the trunk")
        return np.array([name or f"row {i}" for i, name in enumerate(names)])

    def where(self, condition: str) -> Table:
        """The rows that meet a condition, compared as numbers when both sides are numbers, else as text.

        Raises:
            UserError: the condition cannot be read, or names no column.
        """
        match = CONDITION.match(condition)
        if not match:
            raise UserError(f"cannot read the condition {condition!r}: write COLUMN=VALUE, or <, <=, >, >=, !=")
        name, sign, value = match.groups()

        def meets(text: str) -> bool:
            try:
                return COMPARE[sign](float(text), float(value))
            except ValueError:
                return COMPARE[sign](text, value)

        return replace(self, rows=[row for row, text in zip(self.rows, self.column(name)) if meets(text)])
