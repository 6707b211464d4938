"""Recordings as people have them: each comes in right, to the frame and the action, or is refused by one sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from videowm.data.dataset import Dataset
from videowm.data.import_ import import_dataset
from videowm.options import ImportOptions
from videowm.types import UserError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import import_kinds
import imports
import lerobot_package
import long_import

CASES = Path(__file__).parent / "cases"
RAMP = np.arange(30, dtype=np.float32)
TWO = np.stack([RAMP, RAMP / 100], axis=1)
ONE = (RAMP / 100)[:, None]
RIGHT = {  # case -> its actions, where it is taken without a word of ours
    "a_noheader_30": TWO, "b_noheader_1col_30": RAMP[:, None], "a_npz_key_action": TWO, "a_npz_arr0": TWO, "a_npy": TWO,
    "a_semicolon": TWO, "v_uppercsv": TWO, "v_m4v": TWO, "v_ts": TWO, "v_subfolders": TWO,
    "n_hidden_macos": TWO, "a_caption_latin1": TWO, "a_with_timestamp_col": ONE, "a_pandas_index": ONE,
    "v_rot90": TWO, "v_rot180": TWO,
}  # fmt: skip
REFUSED = {
    "parquet_nulls": "lacks a value", "v_vfr": "33 to 100 ms apart: give --fps 15", "b_vfr_two": "33 to 35 ms apart",
    "v_mixed_fps": "give --fps 15", "v_no_table": "--no-actions", "a_npz_30x0": r"its shape is \(30, 0\)",
    "a_with_string_col": "text in column 'phase' .and time in 'frame'.", "a_string": "text in column 'key'",
    "a_npz_0dim": "a single number", "a_npz_complex": "complex128", "npz_truncated": "not a zip file",
    "stale_first": "d.mp4 is damaged",
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT)
def test_cases_that_come_in(case, tmp_path):
    """Guards rows that are lost or moved: 30 frames, and the action of every row."""
    data = Dataset(import_dataset(CASES / case, tmp_path / "out", ImportOptions(size="keep")))
    assert data.lengths.tolist() == [30]
    np.testing.assert_allclose(data.all_actions(0), RIGHT[case], rtol=1e-6)


@pytest.mark.parametrize("case", REFUSED)
def test_cases_that_are_refused(case, tmp_path):
    """Guards nonsense that is taken, and a refusal that leaves something behind."""
    with pytest.raises(UserError, match=REFUSED[case]) as error:
        import_dataset(CASES / case, tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def corners(frame: np.ndarray) -> list[str]:
    """The names of the corners' colours: top left, top right, bottom left, bottom right."""
    spots = [frame[y, x].astype(int) for y in (4, -5) for x in (4, -5)]
    return ["".join("RGB"[i] for i in range(3) if spot[i] > 128) for spot in spots]


@pytest.mark.parametrize(
    ("case", "size", "order"),
    [("a_npy", (96, 128), ["R", "G", "B", "RGB"]), ("v_rot90", (128, 96), ["B", "R", "RGB", "G"]),
     ("v_rot180", (96, 128), ["RGB", "B", "G", "R"])],
)  # fmt: skip
def test_upright(case, size, order, tmp_path):
    """Guards frames that lie on their side: a player turns them clockwise, as the display matrix says."""
    data = Dataset(import_dataset(CASES / case, tmp_path / "out", ImportOptions(size="keep")))
    assert data.size == size and corners(data.frames(0, [0])[0]) == order


@pytest.mark.parametrize("case", ["v_vfr", "b_vfr_two", "v_mixed_fps"])
def test_uneven_times_at_a_stated_rate(case, tmp_path):
    """Guards frames or actions of another time: each step has the frame that was shown, with its own action."""
    out = import_dataset(CASES / case, tmp_path / "out", ImportOptions(size="keep", fps=15.0))
    data, said = Dataset(out), json.loads((out / "meta/import.json").read_text())["warnings"]
    assert data.fps == 15 and any("is resampled from" in line for line in said)
    times = np.cumsum([0] + [0.1, 1 / 30] * 15)[:30]
    if case == "v_vfr":
        steps = (np.arange(data.lengths[0]) + 0.25) / 15
        expected = [np.flatnonzero(times <= t)[-1] for t in steps]
        np.testing.assert_array_equal(data.all_actions(0)[:, 0], expected)


def test_rates_within_one_per_cent(tmp_path):
    """Guards a refusal of 29.97 beside 30; the word on it is kept."""
    out = import_dataset(CASES / "b_fps_2997_30", tmp_path / "out", ImportOptions(size="keep"))
    assert Dataset(out).fps == 30 and Dataset(out).lengths.tolist() == [30, 30]
    assert json.loads((out / "meta/import.json").read_text())["warnings"] == ["b.mp4: has 29.97 fps, taken as 30"]


def test_cover_art_is_skipped(tmp_path):
    """Guards a cover that is taken for the video."""
    data = Dataset(import_dataset(CASES / "cover_art_first", tmp_path / "out", ImportOptions(size="keep")))
    assert data.size == (64, 64) and data.lengths.tolist() == [20]


def test_words_and_no_actions(tmp_path):
    """Guards --one-hot and --no-actions: words become columns of 0 and 1, and video alone has one action that is 0."""
    data = Dataset(import_dataset(CASES / "a_string", tmp_path / "words", ImportOptions(one_hot=("key",))))
    words = (CASES / "a_string/a.csv").read_text().split()[1:]
    assert data.action_names == tuple(f"key={word}" for word in sorted(set(words)))
    assert [data.action_names[i] for i in data.all_actions(0).argmax(1)] == [f"key={word}" for word in words]
    bare = Dataset(import_dataset(CASES / "v_no_table", tmp_path / "bare", ImportOptions(no_actions=True)))
    assert bare.action_names == ("none",) and not bare.all_actions(0).any()


@pytest.mark.parametrize("camera", ["observation.images.front", "observation.images.wrist"])
def test_two_cameras_as_lerobot_wrote_them(camera, tmp_path):
    """Guards the wrong camera, frames of another episode and lost rows, in AV1 that decord cannot read."""
    src, expected = CASES / "lerobot/two_cameras_av1", {"observation.images.front": (96, 128)}
    options = ImportOptions(size="keep", camera=camera, episodes="0,2", test_share=0.5)
    data = Dataset(import_dataset(src, tmp_path / "out", options))
    rows = pq.read_table(src / "data/chunk-000/file-000.parquet").to_pydict()
    assert data.size == expected.get(camera, (120, 160)) and data.lengths.tolist() == [40, 33]
    for episode, number in enumerate((0, 2)):
        mine = [i for i, e in enumerate(rows["episode_index"]) if e == number]
        np.testing.assert_array_equal(data.all_actions(episode), np.float32([rows["action"][i] for i in mine]))
        np.testing.assert_array_equal(data.states(episode), np.float32([rows["observation.state"][i] for i in mine]))
    assert data.caption(1) == "pick the cube" and data.split("test") == [1]


def test_lerobot_of_an_older_layout(tmp_path):
    """Guards v2.1, one video an episode: read as it is."""
    data = Dataset(import_dataset(CASES / "lerobot/v21", tmp_path / "out", ImportOptions(size="keep")))
    rows = pq.read_table(CASES / "lerobot/v21/data/chunk-000/episode_000000.parquet")["action"].to_pylist()
    np.testing.assert_array_equal(data.all_actions(0), np.float32(rows))
    assert data.caption(0) == "pick" and data.size == (96, 128)


def test_rows_in_any_order_and_deleted_episodes(tmp_path):
    """Guards rows that are found by place: those of all episodes are mixed, and one episode is gone."""
    src = shutil.copytree(CASES / "lerobot/two_cameras_av1", tmp_path / "src")
    path = src / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), path)
    index = src / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(index).take([0, 2]), index)
    data = Dataset(import_dataset(src, tmp_path / "out"))
    whole = Dataset(import_dataset(CASES / "lerobot/two_cameras_av1", tmp_path / "whole"))
    for ours, theirs in ((0, 0), (1, 2)):
        np.testing.assert_array_equal(data.all_actions(ours), whole.all_actions(theirs))
        np.testing.assert_array_equal(data.frames(ours, range(30)), whole.frames(theirs, range(30)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"camera": "observation.images.frnt"}, "no camera 'observation.images.frnt', did you mean"),
        ({"action_key": "observation.stat"}, "no actions 'observation.stat', did you mean 'observation.state'"),
        ({"columns": ("grp",)}, "no column 'grp', did you mean 'grip'"),
        ({"episodes": "0-7"}, "no episode 7: the last one is 2"),
        ({"episodes": "one"}, "no list of numbers"),
        ({"size": "64by64"}, "size '64by64' is none"),
        ({"size": "63"}, "63x63 cannot be stored"),
    ],
)
def test_options_that_cannot_be(options, sentence, tmp_path):
    """Guards an option that names nothing and is passed over."""
    with pytest.raises(UserError, match=sentence):
        import_dataset(CASES / "lerobot/two_cameras_av1", tmp_path / "out", ImportOptions(**options))


def test_a_refused_import_leaves_nothing_behind(tmp_path):
    """Guards clips that come twice, in train and in test: what another import left in the folder is never taken up."""
    with pytest.raises(UserError, match="d.mp4 is damaged"):
        import_dataset(CASES / "stale_first", tmp_path / "out")
    src = shutil.copytree(CASES / "stale_first", tmp_path / "first")
    broken = bytearray((src / "c.mp4").read_bytes())
    end = broken.index(b"moov") - 4
    broken[end - 300 : end] = bytes(300)  # its times and first frame are sound: refused after three episodes
    (src / "d.mp4").write_bytes(broken)
    (src / "d.csv").write_text("x\n" + "1\n" * 24)
    with pytest.raises(UserError, match="d.mp4 is damaged"):
        import_dataset(src, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("data/*/*.parquet"))) == 3
    data = Dataset(import_dataset(CASES / "stale_second", tmp_path / "out"))
    data.verify()
    assert data.lengths.tolist() == [20] and data.all_actions(0)[0].tolist() == [7]
    assert len(list((tmp_path / "out").rglob("*.mp4"))) == 1


def test_a_killed_import_goes_on(tmp_path, environment):
    """Guards an hour that is lost: after kill -9 the episodes that were done are kept, and the result is the same."""
    src = tmp_path / "src"
    src.mkdir()
    for number in range(8):
        for end in ("mp4", "csv"):
            shutil.copy(CASES / f"a_semicolon/a.{end}", src / f"{number}.{end}")
    out, first = tmp_path / "out", tmp_path / "out/data/chunk-000/file-000.parquet"
    command = [sys.executable, "-m", "videowm", "import", src, "--out", out, "--size", "160x160"]
    process = subprocess.Popen(command, env=environment, cwd=CASES.parents[2], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not first.exists() and time.monotonic() < until:
        time.sleep(0.005)
    process.kill()
    process.wait()
    stamp = first.with_suffix(".mp4").name, (out / "videos/observation.image/chunk-000/file-000.mp4").stat().st_mtime_ns
    assert not (out / "meta/info.json").exists() and len(list(out.glob("data/*/*.parquet"))) < 8
    import_dataset(src, out, ImportOptions(size="160x160"))
    assert (out / "videos/observation.image/chunk-000/file-000.mp4").stat().st_mtime_ns == stamp[1]
    whole = import_dataset(src, tmp_path / "whole", ImportOptions(size="160x160"))
    names = [path.relative_to(out) for path in sorted(out.rglob("*.parquet")) + sorted(out.rglob("*.mp4"))]
    assert len(names) == 18
    assert not [name for name in names if (out / name).read_bytes() != (whole / name).read_bytes()]


KINDS = ["h264 open groups", "709 full yuv420p10le", "turned by 270", "wide pixels turned", "padded", "a pause at 10",
         "edit list", "header a frame off", "header of numbers", "vp8 webm hidden frames", "gif"]  # fmt: skip


@pytest.mark.parametrize("kind", [k for k in import_kinds.KINDS if k.name in KINDS], ids=lambda kind: kind.name)
def test_kinds_of_recordings(kind, tmp_path):
    """Guards frames that are moved, turned or of other colours; `benchmarks/imports.py` checks 130 kinds."""
    found = imports.check(kind, tmp_path)
    assert found["result"] in ("right", "refused"), found


def test_the_check_can_fail(tmp_path):
    """Guards a proof that passes anything: an action or a frame that moved by one, or another colour, is seen."""
    by_name = {kind.name: kind for kind in import_kinds.KINDS}
    moved = replace(by_name["h264 mp4"], actions=lambda n: imports.action(n + 1))
    assert "actions are" in imports.check(moved, tmp_path)["wrong"]
    for number, other in enumerate(({"numbers": range(1, 21)}, {"colours": 0.01}, {"fps": 11}, {"said": "x"})):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert imports.check(replace(by_name["h264 mp4"], **other), folder)["result"] == "SILENT ERROR"


def test_slow_proofs_start(monkeypatch, capsys):
    """Guards benchmarks that no longer run: a minute is imported in its own process; lerobot is left out by name."""
    monkeypatch.setattr(long_import, "RATE", 1)
    (row,) = long_import.main(["--minutes", "1", "--keep", "0"])
    assert row["right"] and row["frames"] == 60 and 50 < row["peak MB"] < 1000
    assert lerobot_package.main(["--peer", sys.executable]) == [] and "has no lerobot" in capsys.readouterr().out
