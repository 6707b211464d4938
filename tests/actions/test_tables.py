"""Tables of actions as people write them: what is read, what is left out with a word, and what is refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from videowm.actions.tables import categories, choose, numbers, read_action_table, read_table
from videowm.types import UserError

SUFFIXES = ["npy", "npz", "parquet", "lists.parquet", "csv", "headed.csv", "spaced.csv", "spaced.headed.csv"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tables(tmp_path, suffix):
    """Guards a lost or doubled first row: every format gives the same three rows, a header is no row."""
    table = np.array([[-0.5, 1e-3], [0.25, 1], [0, -2e5]], np.float32)
    path = tmp_path / f"a.{suffix}"
    names = ("steer", "gas") if "headed" in suffix or suffix == "parquet" else ()
    generic = ("action_0", "action_1")
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
    assert found == (names or generic) and rows.dtype == np.float32
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
        ("a.csv", b"steer,gas\n0.1,left\n0,0\n0,1\n"),
        ("a.csv", b"steer,gas\n0.1,\n0,0\n"),
        ("a.csv", b"0,1\n\n0,1\n"),
        ("a.csv", b"steer,gas\n0,1,2\n"),
        ("a.csv", b"steer,0.5\n0,1\n"),
        ("a.csv", b"gas,gas\n0,1\n"),
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


def write(path, text: str, encoding: str = "utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("text", "encoding", "names"),
    [
        ("steer;gas\n0,5;1\n-1;0,25\n", "utf-8", ("steer", "gas")),  # decimal commas
        ("steer;gas\n0.5;1\n-1;0.25\n", "utf-8-sig", ("steer", "gas")),
        ("steer\tgas\n0.5\t1\n-1\t0.25\n", "utf-16", ("steer", "gas")),
        ("größe,gas\r\n0.5,1\r\n-1,0.25\r\n", "cp1252", ("größe", "gas")),
        ("# steer gas\n0.5 1\n-1 0.25\n", "utf-8", ("steer", "gas")),  # numpy.savetxt
        ("steer,gas,\n0.5,True,\n-1,0.25,\n\n\n", "utf-8", ("steer", "gas")),
        (",steer,gas\n0,0.5,1\n1,-1,0.25\n", "utf-8", ("steer", "gas")),  # the index of pandas
        ("timestamp,steer,gas\n17.5,0.5,1\n17.6,-1,0.25\n", "utf-8", ("steer", "gas")),
        ("0.5,1\n-1,0.25\n", "utf-8", ("action_0", "action_1")),
    ],
)
def test_every_spelling_of_one_table(tmp_path, text, encoding, names):
    """Guards moved rows and foreign columns: two rows, whatever the header, delimiter, encoding or end of line."""
    found, rows = read_action_table(write(tmp_path / "a.csv", text, encoding))
    assert found == names
    np.testing.assert_array_equal(rows, np.array([[0.5, 1], [-1, 0.25]], np.float32))


def test_a_header_of_numbers_is_in_doubt(tmp_path):
    """Guards a header 0,1 of pandas taken for the first action: all later ones would move by a frame."""
    table = read_table(write(tmp_path / "a.csv", "0,1\n0.5,1\n-1,0.25\n"))
    assert table.numbered and len(table) == 3 and len(table.without_first_row()) == 2
    assert not read_table(write(tmp_path / "b.csv", "0,1\n1,0\n2,3\n")).numbered
    assert not read_table(write(tmp_path / "c.csv", "0,0.5\n1,0.5\n")).numbered


def test_columns_are_chosen_and_named(tmp_path):
    """Guards text and time as actions without a word: text is refused by name, time is left out with a note."""
    path = write(tmp_path / "a.csv", "frame,steer,phase\n0,0.5,grasp\n1,0.25,reach\n")
    table = read_table(path)
    with pytest.raises(
        UserError, match=r"text in column 'phase' \(and time in 'frame'\).*--columns steer.*--one-hot phase"
    ):
        choose(table)
    assert numbers(choose(table, ["steer"]))[0] == ("steer",)
    assert numbers(choose(table, ["frame", "steer"]))[1].tolist() == [[0, 0.5], [1, 0.25]]
    chosen = choose(table, [], ["phase"])
    assert chosen.notes == ("column 'frame' counts time and is left out; --columns takes it",)
    names, rows = numbers(chosen, categories([chosen], ["phase"]))
    assert names == ("steer", "phase=grasp", "phase=reach") and rows.tolist() == [[0.5, 1, 0], [0.25, 0, 1]]
    with pytest.raises(UserError, match="has no column 'fase', did you mean 'phase'"):
        choose(table, ["fase"])
    still = read_table(write(tmp_path / "b.csv", "t,steer\n0.5,1\n0.25,1\n"))
    assert list(choose(still).columns) == ["t", "steer"], "what goes back is a throttle, no time"
    with pytest.raises(UserError, match="only columns that count time"):
        choose(read_table(write(tmp_path / "c.csv", "time\n0\n1\n")))


def test_values_become_columns_over_all_files(tmp_path):
    """Guards a file that lacks a value and so gets other columns than the next; and codes taken for amounts."""
    paths = [write(tmp_path / f"{n}.csv", f"key\n{text}\n") for n, text in enumerate(("2\n0", "1\n1"))]
    tables = [choose(read_table(path), [], ["key"]) for path in paths]
    values = categories(tables, ["key"])
    assert values == {"key": [0, 1, 2]}
    assert numbers(tables[1], values)[1].tolist() == [[0, 1, 0], [0, 1, 0]]
    with pytest.raises(UserError, match="holds fractions"):
        categories([read_table(write(tmp_path / "f.csv", "key\n0.5\n1\n"))], ["key"])
    with pytest.raises(UserError, match="more than 64 values"):
        categories([read_table(write(tmp_path / "m.csv", "key\n" + "\n".join(map(str, range(65)))))], ["key"])


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        (pa.array([[1.0, 2.0], None, [3.0, 4.0]]), "lacks a value, the first of 1, at 1"),
        (pa.array([[1.0, 2.0], [1.0], [3.0, 4.0]]), "differ in length"),
        (pa.array([[1.0, 2.0], [1.0, None], [3.0, 4.0]]), "lacks a value"),
        (pa.array([1, None, 3]), "lacks a value"),
        (pa.array([["a", "b"], ["b", "c"], ["c", "d"]]), "hold no numbers"),
    ],
)
def test_parquet_that_lacks_values(tmp_path, column, sentence):
    """Guards lists with missing rows that are flattened to another width, and null as 0."""
    pq.write_table(pa.table({"action": column}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=sentence):
        read_action_table(tmp_path / "a.parquet")


def test_parquet_columns(tmp_path):
    """Guards lists of lists, bools, whole numbers and words of a dictionary."""
    columns = {"m": pa.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]]), "b": pa.array([True, False]),
               "f": pa.array([[0.5, 1], [2, 3]], pa.list_(pa.float32(), 2)), "i": pa.array([7, 9], pa.int8()),
               "w": pa.array(["x", "y"]).dictionary_encode()}  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    names, rows = numbers(choose(read_table(tmp_path / "a.parquet"), ["m_0", "m_3", "b", "f_1", "i"]))
    assert rows.tolist() == [[1, 4, 1, 1, 7], [5, 8, 0, 3, 9]]
    assert read_table(tmp_path / "a.parquet", "f").columns.keys() == {"f_0", "f_1"}
    with pytest.raises(UserError, match="has no column 'g'"):
        read_table(tmp_path / "a.parquet", "g")


@pytest.mark.parametrize(
    ("arrays", "key", "sentence"),
    [
        ({"a": np.zeros((3, 2)), "b": np.zeros((3, 2))}, None, "its arrays are a, b.*--action-key chooses one"),
        ({"a": np.zeros((3, 2))}, "c", "none is called c"),
        ({"a": np.zeros((3, 0))}, None, r"its shape is \(3, 0\)"),
        ({"a": np.float32(1)}, None, "a single number"),
        ({"a": np.zeros(3, complex)}, None, "complex128"),
        ({"a": np.array(["x", "y"])}, None, "expected real numbers"),
        ({"a": np.array([{}])}, None, "allow_pickle"),
    ],
)
def test_archives_that_are_refused(tmp_path, arrays, key, sentence):
    """Guards an array that is picked by chance, imaginary parts that are dropped, and a width of 0."""
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=sentence):
        read_table(tmp_path / "a.npz", key)


def test_archives(tmp_path):
    """Guards the usual keys: `action` beside others, any key by name."""
    np.savez(tmp_path / "a.npz", action=np.ones((3, 2)), other=np.zeros((3, 5)))
    assert len(read_table(tmp_path / "a.npz").columns) == 2
    assert len(read_table(tmp_path / "a.npz", "other").columns) == 5
