"""Actions as a user writes them."""

from __future__ import annotations

import numpy as np
import pytest

from videowm.actions.script import parse_actions, read_actions
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
        ("  ", "no actions"),
    ],
)
def test_words_that_are_wrong(text, expected):
    """Guards a misspelt action that is left out in silence."""
    with pytest.raises(UserError, match=expected):
        parse_actions(text, NAMED)


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv", "headed.csv", "spaced.csv"])
def test_tables(tmp_path, suffix):
    """Guards a lost or doubled first row: every format gives the same three rows, a header is no row."""
    table = np.array([[-0.5, 1e-3], [0.25, 1], [0, -2e5]], np.float32)
    path = tmp_path / f"a.{suffix}"
    rows = "\n".join(",".join(f"{v:g}" for v in row) for row in table)
    if suffix == "npy":
        np.save(path, table)
    elif suffix == "npz":
        np.savez(path, actions=table)
    else:
        path.write_text(
            {"csv": rows, "headed.csv": f"steer,gas\n{rows}\n\n", "spaced.csv": rows.replace(",", " ")}[suffix]
        )
    np.testing.assert_array_equal(read_actions(path), table)


def test_a_table_that_names_no_number_is_kept_for_the_check(tmp_path):
    """Guards a first row of `nan` taken for a header, which would hide it from `check_actions`."""
    path = tmp_path / "a.csv"
    path.write_text("nan,0\n1,2\n")
    assert read_actions(path).shape == (2, 2) and np.isnan(read_actions(path)[0, 0])


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
        read_actions(path)
    assert "\n" not in str(error.value)
