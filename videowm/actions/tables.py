"""Tables of actions as people write them: .csv, .npy, .npz and .parquet files with one row a frame.

A table is read in three steps: `read_table` gives its columns as they are, `choose` keeps those that are actions, and
`numbers` makes one float32 array of them. What is left out is named in `notes`; what could mean two things is refused.
"""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Shaped

from videowm.config import suggest
from videowm.files import decode_text
from videowm.types import UserError

NO_ACTIONS = "none"  # name of the one action of videos without actions, always 0
TABLES = (".csv", ".npy", ".npz", ".parquet")
KEYS = ("actions", "action")  # arrays of an .npz that are actions
DELIMITERS = "\t;,|"
MOST_VALUES = 64  # of a column that becomes one column for each
COUNTS_TIME = re.compile(  # names of columns that say when a row was, not what was done
    r"|unnamed: ?\d+|__index_level_\d+__|index|idx|frame([_ ]?(index|id|number|no|num|idx))?|step|row|i|t|ts|id"
    r"|.*time[_ ]?stamps?.*|time[_ ]?(s|ms|us|ns|sec|seconds)?|date([_ ]?time)?|episode([_ ]?(index|id))?"
)
Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Table:
    """The columns of a file, each of n numbers or n texts."""

    path: Path
    columns: Columns
    notes: tuple[str, ...] = ()  # what a reader should know of this file
    numbered: bool = False  # whether the first row, 0 1 2 …, may be a header of numbers

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def without_first_row(self) -> Table:
        """The table whose first row is a header."""
        note = f"the first row ({', '.join(self.columns)}) is read as a header"
        columns = {name: values[1:] for name, values in self.columns.items()}
        return replace(self, columns=columns, notes=(*self.notes, note), numbered=False)


def read_action_table(path: Path) -> tuple[tuple[str, ...], Float32[np.ndarray, "n a"]]:
    """Column names and rows of a table that holds nothing but actions, one row a frame.

    Raises:
        UserError: the file is missing, damaged, empty, or holds anything but finite numbers.
    """
    return numbers(choose(read_table(path)))


def read_table(path: Path, key: str | None = None) -> Table:
    """The columns of a table file.

    A .csv has commas, semicolons, tabs, bars or spaces between its cells, and may have a header. Of an .npz one array
    is read. A column of equally long lists becomes several columns.

    Args:
        path: the file; its suffix, in any case, says what it is.
        key: the array of an .npz, or the column of a .parquet; None: `actions`, `action`, or the only array; all
            columns.

    Raises:
        UserError: the file is missing, damaged or empty, lacks values, or its first row could be names or numbers.
    """
    remedy = f"give {', '.join(TABLES[:-1])} or {TABLES[-1]} with one row of numbers a frame"
    try:
        table = READERS.get(path.suffix.lower(), read_csv)(path, key)
    except (ValueError, TypeError, LookupError, OSError, EOFError, csv.Error, zipfile.BadZipFile) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{path} is no action table ({why}): {remedy}") from None
    if not table.columns or not len(table):
        raise UserError(f"{path} is no action table (it is empty): {remedy}")
    return table


def choose(table: Table, columns: Sequence[str] = (), one_hot: Sequence[str] = ()) -> Table:
    """The columns that are actions, in their order.

    Args:
        table: as read.
        columns: their names, in the order wanted; none: all that do not count time.
        one_hot: columns that become several; a column of text must be one of them.

    Raises:
        UserError: a name is not there, or a column of text is no action.
    """
    unknown = [name for name in (*columns, *one_hot) if name not in table.columns]
    if unknown:
        raise UserError(f"{table.path} has no column {unknown[0]!r}{suggest(unknown[0], table.columns)}")
    named = [*columns, *(name for name in one_hot if name not in columns)] if columns else []
    left = [] if named else [n for n, v in table.columns.items() if n not in one_hot and counts_time(n, v)]
    kept = {name: table.columns[name] for name in named or table.columns if name not in left}
    text = [name for name, values in kept.items() if is_text(values) and name not in one_hot]
    if text or not kept:
        others = [name for name in kept if name not in text] or ["NAME"]
        held = f"text in column {', '.join(map(repr, text))}" if text else "only columns that count time"
        raise UserError(
            f"{table.path} holds {held}{said(left) if text else ''}: choose columns with --columns {' '.join(others)}, "
            f"or make numbers of text with --one-hot {(text or ['NAME'])[0]}"
        )
    listed = ", ".join(repr(name) if name else "without a name" for name in left)
    note = (f"column {listed} counts time and is left out; --columns takes it",) * bool(left)
    return replace(table, columns=kept, notes=table.notes + note)


def said(left: Sequence[str]) -> str:
    """The part of a sentence that names columns which count time."""
    return f" (and time in {', '.join(map(repr, left))})" if left else ""


def counts_time(name: str, values: Shaped[np.ndarray, " n"]) -> bool:
    """Whether a column says when a row was: by its name, and because it never goes back."""
    if not COUNTS_TIME.fullmatch(name.strip().lower()):
        return False
    return is_text(values) or bool((np.diff(values.astype(np.float64)) >= 0).all())


def is_text(values: Shaped[np.ndarray, " n"]) -> bool:
    """Whether a column holds text."""
    return values.dtype.kind not in "biuf"


def categories(tables: Iterable[Table], one_hot: Sequence[str]) -> dict[str, list]:
    """The values of each column that becomes one column for each value, over all tables.

    Raises:
        UserError: a column has numbers that are not whole, or more than 64 values.
    """
    found: dict[str, set] = {name: set() for name in one_hot}
    for table in tables:
        for name in one_hot:
            values = table.columns[name]
            if not is_text(values) and (values != np.round(values)).any():
                raise UserError(
                    f"column {name!r} of {table.path} holds fractions: --one-hot takes whole numbers or text"
                )
            found[name] |= set(values.tolist() if is_text(values) else values.astype(np.int64).tolist())
            if len(found[name]) > MOST_VALUES:
                raise UserError(f"column {name!r} has more than {MOST_VALUES} values: --one-hot takes fewer")
    return {name: sorted(values) for name, values in found.items()}


def numbers(
    table: Table, one_hot: Mapping[str, Sequence] | None = None
) -> tuple[tuple[str, ...], Float32[np.ndarray, "n a"]]:
    """Names and rows of the columns as one array; each value of a column in `one_hot` gives a column of 0 and 1.

    Raises:
        UserError: a number is not finite.
    """
    parts: Columns = {}
    for name, values in table.columns.items():
        if name in (one_hot or {}):
            parts |= {f"{name}={value}": values == value for value in one_hot[name]}
        else:
            parts[name] = values
    with np.errstate(over="ignore"):
        rows = np.stack([values.astype(np.float32) for values in parts.values()], axis=1)
    bad = np.flatnonzero(~np.isfinite(rows).all(1))
    if len(bad):
        raise UserError(f"row {bad[0]} of {table.path} is {rows[bad[0]].tolist()}, expected finite numbers: correct it")
    return tuple(parts), rows


def read_csv(path: Path, _: str | None = None) -> Table:
    """A text table; see `header_of` for when its first row is a header."""
    text, encoding = decode_text(path.read_bytes())
    lines = text.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    titled = bool(lines) and lines[0].lstrip().startswith("#")
    lines = [line for line in ([lines[0].lstrip()[1:]] if titled else []) + lines[titled:] if line[:1] != "#"]
    if blank := [i for i, line in enumerate(lines, 1) if not line.strip()]:
        raise ValueError(f"line {blank[0]} is empty")
    cells = split_cells(lines)
    header = cells[0] if titled else header_of(cells)
    body = cells[bool(header) :]
    named = header or generic_names(len(cells[0]) if cells else 0)
    if len(set(named)) < len(named):
        raise ValueError(f"two columns are called {next(n for n in named if named.count(n) > 1)!r}")
    comma = any("," in cell for row in body for cell in row)  # 0,5 where semicolons separate
    columns = {name: cell_values(name, [row[i] for row in body], comma) for i, name in enumerate(named)}
    numbered = not header and cells[:1] == [[str(i) for i in range(len(named))]]
    note = (f"its text is read as {encoding}",) * (encoding != "utf-8")
    return Table(path, columns, note, numbered and any("." in cell for row in body for cell in row))


def split_cells(lines: list[str]) -> list[list[str]]:
    """The cells of every line, by the first delimiter that the lines agree on; without one, by spaces.

    Raises:
        ValueError: a line has more or fewer cells than the first.
    """
    fits = [d for d in DELIMITERS if lines and len({line.count(d) for line in lines[:9]}) == 1 and d in lines[0]]
    fits = fits or [d for d in DELIMITERS if lines and d in lines[0]]
    rows = list(csv.reader(lines, delimiter=fits[0])) if fits else [line.split() for line in lines]
    rows = [[cell.strip() for cell in row] for row in rows]
    if rows and len(rows[0]) > 1 and all(row[-1] == "" for row in rows):
        rows = [row[:-1] for row in rows]  # every line ends with the delimiter
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise ValueError(f"row {number} has {len(row)} cells, the first has {len(rows[0])}")
    return rows


def header_of(cells: list[list[str]]) -> list[str]:
    """The first row where it is a header, else nothing.

    It is one where it has no number. Where all is text, it is one if none of its cells comes again below. An empty
    cell above numbers makes it one too: pandas writes that over its index.

    Raises:
        ValueError: the first row mixes names and numbers above columns of numbers.
    """
    if not cells:
        return []
    first, body = cells[0], cells[1:]
    kinds = [is_number(cell) for cell in first]
    below = [bool(body) and all(is_number(row[i]) for row in body) for i in range(len(first))]
    if not any(kinds):
        again = any(first[i] in {row[i] for row in body} for i in range(len(first)))
        return [] if again and not any(below) else first
    if first[0] == "" and below[0]:
        return first
    if mixed := [cell for cell, kind, numeric in zip(first, kinds, below) if numeric and not kind]:
        raise ValueError(f"its first row mixes names ({mixed[0]!r}) and numbers")
    return []


def cell_values(name: str, cells: list[str], comma: bool) -> np.ndarray:  # noqa: FBT001
    """A column of cells as numbers where all are, else as text; `comma` is the sign before decimals.

    Raises:
        ValueError: a cell of a column of numbers is empty or text.
    """
    plain = [cell.replace(",", ".") for cell in cells] if comma else cells
    plain = [WORDS.get(cell.lower(), cell) for cell in plain]
    kinds = [is_number(cell) for cell in plain]
    if all(kinds):
        return np.array(plain, dtype=np.float64)
    if "" in cells:
        raise ValueError(f"column {name!r} has no value in row {cells.index('')}")
    if sum(kinds) > len(kinds) / 2:
        raise ValueError(f"column {name!r} holds {cells[kinds.index(False)]!r} in row {kinds.index(False)}")
    return np.array(cells, dtype=str)


WORDS = {"true": "1", "false": "0"}


def is_number(cell: str) -> bool:
    """Whether a cell is written as a number; `nan` is one, and refused as such. `1,5` is one, `1_5` is none."""
    try:
        float(cell.replace(",", ".", 1))
    except ValueError:
        return False
    return "_" not in cell


def generic_names(width: int, stem: str = "action") -> list[str]:
    """Names for columns that have none."""
    return [stem] if width == 1 else [f"{stem}_{i}" for i in range(width)]


def read_npy(path: Path, _: str | None = None) -> Table:
    """The array of a .npy file."""
    return table_of(path, np.load(path, allow_pickle=False))


def read_npz(path: Path, key: str | None) -> Table:
    """One array of an archive: the one called `key`, `actions`, `action`, or the only one."""
    with np.load(path, allow_pickle=False) as archive:
        names = [name for name in ((key,) if key else KEYS) if name in archive.files]
        if not names and (key or len(archive.files) != 1):
            listed = ", ".join(archive.files) or "none"
            raise ValueError(f"its arrays are {listed}, none is called {key or 'actions'}: --action-key chooses one")
        return table_of(path, archive[(names or archive.files)[0]])


def table_of(path: Path, array: Shaped[np.ndarray, "*shape"]) -> Table:
    """An array "n …" as a table of its columns.

    Raises:
        ValueError: the array has no rows or no columns, or holds no real numbers.
    """
    if array.dtype.kind not in "biuf":
        raise ValueError(f"it holds {array.dtype.name} values, expected real numbers")
    if array.ndim == 0:
        raise ValueError("it is a single number, expected one row a frame")
    if array.size == 0:
        raise ValueError(f"its shape is {array.shape}")
    rows = array.reshape(len(array), -1)
    return Table(path, dict(zip(generic_names(rows.shape[1]), rows.T)))


def read_parquet(path: Path, key: str | None) -> Table:
    """All columns side by side, or the one called `key`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None
    if key is not None and key not in table.column_names:
        raise ValueError(f"it has no column {key!r}{suggest(key, table.column_names)}")
    columns: Columns = {}
    for name in [key] if key else table.column_names:
        columns |= parquet_column(name, table[name])
    return Table(path, columns)


def parquet_column(name: str, column) -> Columns:
    """A column of numbers, text or times as one column; one of equally long lists as several.

    Raises:
        ValueError: a value is missing, the lists differ in length, or they hold no numbers.
    """
    import pyarrow as pa

    values = column.combine_chunks()
    rows = len(values)
    while (
        pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type)
    ):
        refuse_nulls(name, values)
        if len(set(values.value_lengths().to_pylist())) > 1:
            raise ValueError(f"the lists of column {name!r} differ in length")
        values = values.flatten()
    refuse_nulls(name, values)
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    array = values.to_numpy(zero_copy_only=False)
    if len(array) == rows:
        return {name: array if array.dtype.kind in "biuf" else array.astype(str)}
    if array.dtype.kind not in "biuf" or not len(array):
        raise ValueError(f"the lists of column {name!r} hold no numbers")
    table = array.reshape(rows, -1)
    return dict(zip(generic_names(table.shape[1], name), table.T))


def refuse_nulls(name: str, values) -> None:
    """Refuse a column that lacks a value."""
    if values.null_count:
        raise ValueError(f"column {name!r} lacks a value, the first of {values.null_count}, at {first_null(values)}")


def first_null(values) -> int:
    """The place of the first missing value."""
    return int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])


READERS = {".npy": read_npy, ".npz": read_npz, ".parquet": read_parquet}
