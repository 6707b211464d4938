"""The LeRobot v3 layout on disk and random access to it."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from videowm.data.dataset import Dataset
from videowm.data.layout import Layout, finish, write_group
from videowm.data.playing import play_episode
from videowm.types import Episode, UserError
from videowm.worlds.carracing import CarRacing

ARROW = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}


@pytest.fixture(scope="module")
def played() -> list[Episode]:
    """The fixture's episodes straight from the game, never encoded."""
    return [play_episode(CarRacing(), 7, number, 40) for number in range(5)]


@pytest.fixture
def copy(lossy, tmp_path):
    """A copy of the recording that a test may damage."""
    return shutil.copytree(lossy, tmp_path / "copy")


def test_lossless_reading_is_exact(exact, played):
    """Guards wrong frames at key frames, file boundaries and in random order: all five columns, bit for bit."""
    data, rng = Dataset(exact), np.random.default_rng(0)
    assert data.lengths.tolist() == [40] * 5 and data.size == (64, 64) and data.fps == 12.5
    for number, episode in enumerate(played):
        np.testing.assert_array_equal(data.frames(number, range(40)), episode.frames)
        np.testing.assert_array_equal(data.actions(number), episode.actions[:-1])
        np.testing.assert_array_equal(data.states(number), episode.states)
        np.testing.assert_array_equal(data.column(number, "next.reward"), episode.rewards)
        np.testing.assert_array_equal(data.column(number, "next.done"), episode.dones)
    for _ in range(60):
        number, indices = int(rng.integers(5)), rng.integers(0, 40, int(rng.integers(1, 9)))
        np.testing.assert_array_equal(data.frames(number, indices), played[number].frames[indices])
    clip = data.clip(3, 31, 9)
    np.testing.assert_array_equal(clip.frames, played[3].frames[31:])
    np.testing.assert_array_equal(clip.actions, played[3].actions[31:39])
    assert (clip.episode, clip.start) == (3, 31)


def test_default_quality_is_close_and_on_the_right_frame(lossy, played):
    """Guards an off-by-one that lossy pictures hide: frame i must be nearer to recorded i than to i-1 and i+1."""
    data = Dataset(lossy)
    for number, episode in enumerate(played):
        stored, real = data.frames(number, range(40)).astype(float), episode.frames.astype(float)
        error = ((stored - real) ** 2).mean((1, 2, 3))
        assert 10 * np.log10(255**2 / error.mean()) > 30, "PSNR in dB"
        moving = ((real[1:] - real[:-1]) ** 2).mean((1, 2, 3)) > 40
        assert moving.sum() > 15
        assert (error[1:] < ((stored[1:] - real[:-1]) ** 2).mean((1, 2, 3)))[moving].all()
        assert (error[:-1] < ((stored[:-1] - real[1:]) ** 2).mean((1, 2, 3)))[moving].all()


def test_every_declared_file_and_column_is_there(lossy):
    """Guards readers of the layout other than ours: paths, column types and counts as meta/info.json declares them."""
    info = json.loads((lossy / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["robot_type"] == "carracing"
    assert info["splits"] == {"train": "0:4", "test": "4:5"}
    assert (info["total_episodes"], info["total_frames"], info["fps"]) == (5, 200, 12.5)
    episodes = pq.read_table(lossy / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    rows = []
    for row in episodes:
        where = {key: row[f"data/{key}"] for key in ("chunk_index", "file_index")}
        table = pq.read_table(lossy / info["data_path"].format(**where))
        rows += [table] if not rows or not rows[-1].equals(table) else []
        assert (lossy / info["video_path"].format(video_key="observation.image", **where)).is_file()
        mine = table.slice(row["dataset_from_index"] - table["index"][0].as_py(), row["length"])
        assert set(mine["episode_index"].to_pylist()) == {row["episode_index"]}
        assert mine["frame_index"].to_pylist() == list(range(row["length"]))
        start = row["videos/observation.image/from_timestamp"]
        assert row["videos/observation.image/to_timestamp"] - start == pytest.approx(row["length"] / info["fps"])
    whole = pa.concat_tables(rows)
    assert whole["index"].to_pylist() == list(range(200))
    features = {key: feature for key, feature in info["features"].items() if feature["dtype"] != "video"}
    assert set(whole.column_names) == set(features)
    stats = json.loads((lossy / "meta/stats.json").read_text())
    for name, feature in features.items():
        scalar, size = ARROW[feature["dtype"]], feature["shape"][0]
        assert whole.schema.field(name).type == (scalar if size == 1 else pa.list_(scalar)), name
        assert len(stats[name]["mean"]) == size and stats[name]["count"] == [200]
    import pandas as pd

    tasks = pd.read_parquet(lossy / "meta/tasks.parquet")
    assert info["total_tasks"] == len(tasks) and tasks.columns.tolist() == ["task_index"]
    data = Dataset(lossy)
    for row in episodes:
        caption = data.caption(row["episode_index"])
        assert row["tasks"] == [caption]
        assert data.column(row["episode_index"], "task_index")[0] == tasks.loc[caption].task_index


def test_statistics_are_those_of_the_frames(exact, played):
    """Guards the pixel statistics, which come from counts of values and not from the frames."""
    pixels = np.concatenate([e.frames for e in played]).reshape(-1, 3) / 255
    stats = json.loads((exact / "meta/stats.json").read_text())["observation.image"]
    for name in ("min", "max", "mean", "std"):
        expected = getattr(pixels, name)(0).reshape(3, 1, 1)
        np.testing.assert_allclose(np.array(stats[name]), expected, rtol=1e-9)


def read_in_child(data: Dataset, pipe) -> None:
    pipe.send(data.frames(4, range(30, 40)))


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_worker_processes_can_read(exact, start):
    """Guards the decord reader that hangs when it comes through a fork: the parent has read before the worker does."""
    data, context = Dataset(exact), multiprocessing.get_context(start)
    expected = data.frames(4, range(30, 40))
    here, there = context.Pipe()
    worker = context.Process(target=read_in_child, args=(data, there), daemon=True)
    worker.start()
    assert here.poll(30), "the worker hangs"
    np.testing.assert_array_equal(here.recv(), expected)
    worker.join(10)
    assert worker.exitcode == 0


def test_pickled_dataset_stays_small(exact):
    """Guards workers that are sent decord readers, which cannot travel."""
    data = Dataset(exact)
    frames = data.frames(0, [3])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(data)).frames(0, [3]), frames)


def test_damaged_files_are_named(copy):
    """Guards silently wrong frames: a truncated, foreign, changed or missing file is one sentence with its name."""
    video = copy / "videos/observation.image/chunk-000/file-001.mp4"
    whole = video.read_bytes()
    Dataset(copy).verify()
    for content in (whole[: len(whole) // 2], whole + b"x", b""):
        video.write_bytes(content)
        with pytest.raises(UserError, match="file-001.mp4 has .* bytes, expected .*again"):
            Dataset(copy).frames(2, [0])
        np.testing.assert_array_equal(Dataset(copy).frames(0, [0]).shape, (1, 64, 64, 3))
    video.write_bytes(b"no video".ljust(len(whole), b"."))  # of the right size
    with pytest.raises(UserError, match="file-001.mp4 is damaged or no video"):
        Dataset(copy).frames(2, [0])
    middle = len(whole) // 2
    video.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(UserError, match="file-001.mp4 .* changed"):
        Dataset(copy).verify()
    video.unlink()
    with pytest.raises(UserError, match="file-001.mp4 is missing"):
        Dataset(copy).frames(2, [0])


def test_damaged_tables_are_named(copy):
    """Guards tracebacks from pyarrow and json."""
    path = copy / "data/chunk-000/file-000.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="file-000.parquet is missing or no parquet"):
        Dataset(copy).actions(0)
    (copy / "meta/info.json").write_text("{")
    with pytest.raises(UserError, match="info.json is damaged .not JSON.: run the same record command again"):
        Dataset(copy)
    (copy / "meta/info.json").write_text('{"codebase_version": "v2.1"}')
    with pytest.raises(UserError, match="v2.1, expected v3.0"):
        Dataset(copy)


def test_nan_action_names_episode_and_row(tmp_path, played):
    """Guards training on NaN: the loss would be NaN thousands of steps away from the cause."""
    actions = played[0].actions.copy()
    actions[17, 1] = np.nan
    spoiled = Episode(**(vars(played[0]) | {"actions": actions}))
    layout = Layout("carracing", 12.5, (64, 64), CarRacing.action_names, CarRacing.state_names)
    write_group(tmp_path, 0, [played[1], spoiled], layout)
    finish(tmp_path, layout)
    data = Dataset(tmp_path)
    assert np.isfinite(data.actions(0)).all()
    with pytest.raises(UserError, match="episode 1, row 17 .*nan"):
        data.actions(1)


def test_split_hash_and_captions(copy):
    """Guards test episodes that leak into training, and a hash that added captions would change."""
    data = Dataset(copy)
    assert data.split("train") == [0, 1, 2, 3] and data.split("test") == [4]
    before = data.hash
    with open(copy / "captions.jsonl", "a") as file:
        file.write(json.dumps({"episode_index": 2, "caption": "A better one.", "source": "x"}) + "\n")
    again = Dataset(copy)
    again.verify()
    assert again.caption(2) == "A better one." != data.caption(3) == again.caption(3) and again.hash == before
    info = json.loads((copy / "meta/info.json").read_text())
    info["splits"] = {"train": "0:5"}
    (copy / "meta/info.json").write_text(json.dumps(info))
    assert Dataset(copy).split("test") == [4] and Dataset(copy).split("train") == [0, 1, 2, 3]
    (copy / "meta/files.json").unlink()
    assert Dataset(copy).hash != before
    with pytest.raises(UserError, match="unknown split 'tset', did you mean 'test'"):
        data.split("tset")


def test_out_of_range_is_one_sentence(exact):
    """Guards reading into the neighbouring episode of the same file, which decord would do without a word."""
    data = Dataset(exact)
    for indices in ([40], [-1], range(35, 45)):
        with pytest.raises(UserError, match="has no frame .*0 to 39"):
            data.frames(0, indices)
    with pytest.raises(UserError, match="no episode 5: give 0 to 4"):
        data.frames(5, [0])
    with pytest.raises(UserError, match="no column 'next.rewad', did you mean 'next.reward'"):
        data.column(0, "next.rewad")


def test_many_files_keep_few_readers(exact, monkeypatch):
    """Guards open files without bound; a reader that was closed must open again on the right frame."""
    monkeypatch.setattr("videowm.data.dataset.OPEN_READERS", 1)
    data, expected = Dataset(exact), Dataset(exact)
    for episode in (0, 4, 2, 0, 4):
        np.testing.assert_array_equal(data.frames(episode, [7, 3]), expected.frames(episode, [7, 3]))
        assert len(data._readers) == 1
