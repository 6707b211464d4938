"""Actions as a user writes them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from videowm.actions.script import MOST, opposite_actions, parse_actions, read_action_table
from videowm.types import UserError

NAMED = {"left": (-1.0, 0.5), "gas": (0.0, 1.0)}


def test_words():
    """Guards counts and order: a count repeats its own action, a bare name is one."""
    got = parse_actions("left*2 gas left", NAMED)
    assert got.dtype == np.float32
    assert got.tolist() == [[-1, 0.5], [-1, 0.5], [0, 1], [-1, 0.5]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lefft*3", "unknown action 'lefft', did you mean 'left'"),
        ("gas*0", "number of actions above 0"),
        ("gas*-1", "number of actions above 0"),
        ("gas*x", "number of actions above 0"),
        ("gas*", "number of actions above 0"),
        ("gas*²", "number of actions above 0"),
        ("gas*00", "number of actions above 0"),
        ("gas**8", "number of actions above 0"),
        ("*8", "unknown action ''"),
        ("gas*" + "9" * 30, f"more than {MOST} actions"),
        (f"gas*{MOST} gas", f"more than {MOST} actions"),
        ("", "no actions"),
        ("  ", "no actions"),
    ],
)
def test_words_that_are_wrong(text, expected):
    """Guards a misspelt action that is left out in silence, and counts that are a traceback or fill the memory."""
    with pytest.raises(UserError, match=expected):
        parse_actions(text, NAMED)


SUFFIXES = ["npy", "npz", "parquet", "lists.parquet", "csv", "headed.csv", "spaced.csv", "spaced.headed.csv"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tables(tmp_path, suffix):
    """Guards a lost or doubled first row: every format gives the same three rows, a header is no row."""
    table = np.array([[-0.5, 1e-3], [0.25, 1], [0, -2e5]], np.float32)
    path = tmp_path / f"a.{suffix}"
    names = ("steer", "gas") if "headed" in suffix or suffix == "parquet" else ()
    if suffix == "npy":
        np.save(path, table)
    elif suffix == "npz":
        np.savez(path, other=np.zeros(9), actions=table)
    elif suffix == "lists.parquet":
        names = ("action_0", "action_1")
        pq.write_table(pa.table({"action": table.tolist()}), path)
    elif suffix == "parquet":
        pq.write_table(pa.table(dict(zip(names, table.T))), path)
    else:
        rows = "\n".join(",".join(f"{v:g}" for v in row) for row in table)
        text = f"{','.join(names)}\n{rows}\n\n" if names else rows
        path.write_text(text.replace(",", " ") if "spaced" in suffix else text)
    found, rows = read_action_table(path)
    assert found == names and rows.dtype == np.float32
    np.testing.assert_array_equal(rows, table)


def test_one_number_a_row(tmp_path):
    """Guards an array "n" that is taken for a single action of n numbers."""
    np.save(tmp_path / "a.npy", np.arange(5.0))
    assert read_action_table(tmp_path / "a.npy")[1].shape == (5, 1)


@pytest.mark.parametrize("suffix", ["csv", "npy"])
def test_numbers_that_are_not_finite(tmp_path, suffix):
    """Guards a first row of `nan` taken for a header, and actions that would make every frame NaN."""
    path = tmp_path / f"a.{suffix}"
    path.write_text("nan,0\n1,2\n") if suffix == "csv" else np.save(path, np.array([[np.nan, 0], [1, 2]]))
    with pytest.raises(UserError, match=r"row 0 of .*/a\.(csv|npy) is \[nan, 0.0\], expected finite numbers"):
        read_action_table(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"steer,gas\n0.1,left\n"),
        ("a.csv", b"0,1\n2\n"),
        ("a.csv", b""),
        ("a.csv", b"\xff\xfe\x00"),
        ("a.npy", b""),
        ("a.npy", b"no array"),
        ("a.npz", b"PK\x03\x04 cut off"),
        ("a.parquet", b"PAR1 cut off"),
        ("a.txt", b"left left\n"),
        ("missing.parquet", None),
        ("missing.csv", None),
        ("missing.npz", None),
    ],
)
def test_what_is_no_table(tmp_path, name, content):
    """Guards tracebacks of numpy and zipfile: an unreadable file is one sentence."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="is no action table") as error:
        read_action_table(path)
    assert "\n" not in str(error.value)


def test_opposite_actions():
    """Guards a report that ends with KeyError 'left', for a world without such a name or for imported data."""
    of_three = {"names": ("steer", "gas", "brake"), "mean": (0.1, 0.2, 0.0), "std": (1e-3, 0.5, 0.2)}
    assert list(opposite_actions("carracing", **of_three)) == ["left", "right"]
    imported = opposite_actions("robot", **of_three)
    assert list(imported) == ["gas -0.3", "gas 0.7"], "steer never changes in these data"
    np.testing.assert_allclose(list(imported.values()), [[0.1, -0.3, 0], [0.1, 0.7, 0]])
    other = opposite_actions("carracing", ("joint", "grip"), (0, 0), (1, 1))
    assert list(other) == ["joint -1", "joint 1"], "a robot's data may have the name of a world"
    with pytest.raises(UserError, match="no action of robot varies"):
        opposite_actions("robot", ("a", "b"), (0.0, 1.0), (1e-3, 1e-3))
