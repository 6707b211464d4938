"""What is damaged on a disk is one sentence, or does no harm; and the remedy that the sentence names works."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from videowm.data.captions import captions_of, captions_path, read_lines
from videowm.data.dataset import Dataset
from videowm.data.import_ import import_dataset
from videowm.data.latents import Latents, LatentsIndex
from videowm.data.recording import Recording
from videowm.info import info
from videowm.options import ImportOptions
from videowm.types import UserError

EPISODES = "meta/episodes/chunk-000/file-000.parquet"
DATA = "data/chunk-000/file-000.parquet"
SMALL = ["meta/info.json", "meta/files.json", "meta/recording.json", EPISODES, DATA, "captions.jsonl", "latents.json",
         "train-00000.safetensors", "test-00000.safetensors", "captions/NAME.json", "captions/NAME.jsonl"]  # fmt: skip


def wrong_type(path: Path) -> bytes:
    """Sound content of another type than the file has."""
    if path.suffix == ".parquet":
        table = pa.table({"action": ["a", "b"], "episode_index": [None, "x"], "length": [1.5, None]})
        pq.write_table(table, path)
        return path.read_bytes()
    return b"[1]\n" if path.suffix in (".json", ".jsonl") else b"{}"


DAMAGE = {
    "empty": lambda path: b"",
    "cut in half": lambda path: path.read_bytes()[: path.stat().st_size // 2],
    "zeroed": lambda path: bytes(path.stat().st_size),
    "of another type": wrong_type,
}


def use(data: Path, latents: Path) -> None:
    """Read all that the three folders hold."""
    dataset = Dataset(data)
    for episode in range(dataset.num_episodes):
        dataset.frames(episode, [0]), dataset.all_actions(episode), dataset.states(episode), dataset.caption(episode)
    Recording.read(data)
    for name in captions_of(data):
        read_lines(captions_path(data, name))
    for split in ("train", "test"):
        Latents.open(latents, split).check(range(1))
    info(data, verify=True), info(latents, verify=True)


@pytest.fixture(scope="module")
def folders(worded, tmp_path_factory) -> tuple[Path, Path]:
    """A copy of a recording with captions, and its latents."""
    folder = shutil.copytree(worded, tmp_path_factory.mktemp("damaged") / "worded")
    use(folder / "data", folder / "latents")
    return folder / "data", folder / "latents"


@pytest.mark.parametrize(("name", "how"), itertools.product(SMALL, DAMAGE))
def test_every_small_file_times_every_damage(folders, name, how):
    """Guards tracebacks and silence: each file of a dataset, of latents and of captions, damaged in four ways.

    Cannot pass by luck: every damage but a cut in a list of lines must be refused, and by one sentence.
    """
    data, latents = folders
    if "NAME" in name:
        name = name.replace("NAME", sorted(captions_of(data))[0])
    path = (latents if name.endswith("safetensors") or name == "latents.json" else data) / name
    whole = path.read_bytes()
    try:
        path.write_bytes(DAMAGE[how](path))
        if path.suffix == ".jsonl" and how in ("empty", "cut in half", "zeroed") and "captions/" in name:
            use(data, latents)  # whole lines count, as after a kill
        elif name == "captions.jsonl" and how == "empty":
            use(data, latents)
        else:
            with pytest.raises(UserError, match=r"^[^\n]+: [^\n]+$"):
                use(data, latents)
    finally:
        path.write_bytes(whole)


WRONG = [None, -1, 0, 2**70, 1e400, "x", True, [], {}, [None], {"a": None}]


def set_key(path: Path, key: str, value) -> None:
    content = json.loads(path.read_text())
    content[key] = value
    path.write_text(json.dumps(content))


def test_keys_of_another_type(folders):
    """Guards tracebacks and nonsense from one wrong key: every key of info.json, latents.json and files.json."""
    data, latents = folders
    refused = 0
    for path, read in ((data / "meta/info.json", Dataset), (latents / "latents.json", LatentsIndex.read),
                       (data / "meta/files.json", Dataset)):  # fmt: skip
        whole = path.read_text()
        folder = latents if path.parent == latents else data
        for key, wrong in itertools.product(json.loads(whole), WRONG):
            set_key(path, key, wrong)
            try:
                read(folder)
            except UserError as error:
                refused += 1
                assert "\n" not in str(error)
        path.write_text(whole)
    assert refused > 250
    use(data, latents)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("fps", 0, "fps is 0, expected a number above 0"),
        ("fps", -12, "fps is -12"),
        ("fps", "12", "fps is '12'"),
        ("splits", {"train": "0:6", "test": "0:6"}, "share episodes .train 0:6, test 0:6."),
        ("splits", {"train": "0:5", "test": "4:6"}, "share episodes"),
        ("splits", {"train": "0:4", "test": "4:9"}, "'4:9', expected a range within 0:6"),
        ("splits", {"train": "-3:4", "test": "4:6"}, "'-3:4', expected a range"),
        ("splits", {"train": 4, "test": "4:6"}, "4, expected a range"),
        ("video_path", "../../{file_index}", "leads out of the folder"),
        ("data_path", "{nothing}", "data_path is '{nothing}'"),
        ("total_frames", 12, "lengths are 69 to 69 frames, together at most 12"),
    ],
)
def test_descriptions_that_cannot_be(folders, key, value, sentence):
    """Guards frames of episode 0 for every episode (fps 0), tests on training data, and files outside the folder."""
    path = folders[0] / "meta/info.json"
    whole = path.read_text()
    set_key(path, key, value)
    try:
        with pytest.raises(UserError, match=sentence):
            Dataset(folders[0])
    finally:
        path.write_text(whole)


@pytest.mark.parametrize(
    ("column", "value"),
    [("length", 2**60), ("length", 0), ("length", None), ("data/file_index", -1), ("episode_index", 7),
     ("videos/observation.image/from_timestamp", float("nan")), ("tasks", 3)],
)  # fmt: skip
def test_tables_of_episodes_that_cannot_be(folders, column, value):
    """Guards a hang over 2**60 frames and episodes that begin nowhere."""
    path = folders[0] / EPISODES
    whole, table = path.read_bytes(), pq.read_table(path)
    values = [value, *table[column].to_pylist()[1:]] if column != "tasks" else [value] * len(table)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, pa.array(values)), path)
    try:
        with pytest.raises(UserError, match=r"meta/episodes (cannot be used|is missing, damaged)"):
            Dataset(folders[0])
    finally:
        path.write_bytes(whole)


def test_one_bit_of_a_video(dataset, encode, codec, vae_run, tmp_path):
    """Guards latents of changed frames under the hash of the recording: each of 20 single bits is refused.

    A decoder takes most of them without a word. No shard is written, and each file is read for its hash once.
    """
    from videowm.data.encode import encode_dataset
    from videowm.vae.codec import to_float

    data = shutil.copytree(dataset, tmp_path / "data")
    video = data / "videos/observation.image/chunk-000/file-000.mp4"
    whole, rng = video.read_bytes(), np.random.default_rng(0)
    for place in rng.integers(len(whole), size=20).tolist():
        content = bytearray(whole)
        content[place] ^= 1 << int(rng.integers(8))
        video.write_bytes(content)
        with pytest.raises(UserError, match="file-000.mp4.* is missing or changed .*: run the same record command"):
            encode_dataset(Dataset(data), codec, tmp_path / "z", vae=str(vae_run), to_frames=to_float, frames=33)
    assert not (tmp_path / "z").exists()


@pytest.mark.parametrize(
    ("name", "damage"),
    [*itertools.product(["train-00000.safetensors", "test-00000.safetensors"], [*DAMAGE, "gone", "one bit"]),
     *itertools.product(["latents.json"], [*DAMAGE, "gone"])],
)  # fmt: skip
def test_encode_again_mends_finished_latents(encode, codec, vae_run, latents, tmp_path, name, damage):
    """Guards a remedy that does nothing: the same command makes exactly the lost file, and touches no other."""
    folder = shutil.copytree(latents, tmp_path / "latents")
    path = folder / name
    if damage == "gone":
        path.unlink()
    elif damage == "one bit":
        content = bytearray(path.read_bytes())
        content[-len(content) // 3] ^= 4
        path.write_bytes(content)
    else:
        path.write_bytes(DAMAGE[damage](path))
    others = {file: file.stat().st_mtime_ns for file in folder.iterdir() if file != path}
    if name != "latents.json":
        with pytest.raises(UserError, match=f"{name} is missing or not .*: run the same videowm encode command again"):
            Latents.open(folder, name.split("-")[0]).check(range(1))
    encode(folder, codec, vae_run)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        file.name: file.read_bytes() for file in latents.iterdir()
    }
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in others.items())


def test_a_damaged_shard_is_not_sealed(encode, codec, vae_run, latents, tmp_path):
    """Guards an index over a shard that was damaged before there was one; its header alone looks sound."""
    folder = shutil.copytree(latents, tmp_path / "latents")
    (folder / "latents.json").unlink()
    path = folder / "train-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-4096:] = bytes(4096)
    path.write_bytes(content)
    encode(folder, codec, vae_run)
    assert path.read_bytes() == (latents / path.name).read_bytes()
    assert (folder / "latents.json").read_bytes() == (latents / "latents.json").read_bytes()


def test_import_again_mends_an_import(lossy, tmp_path):
    """Guards a remedy that does nothing: the same import makes a cut video again, and added captions stay."""
    out = import_dataset(lossy, tmp_path / "out", ImportOptions(size=32))
    before, added = Dataset(out)._files, '{"episode_index": 1, "caption": "Mine."}\n'
    with open(out / "captions.jsonl", "a") as file:
        file.write(added)
    video = out / "videos/observation.image/chunk-000/file-001.mp4"
    stamp = video.stat().st_mtime_ns
    import_dataset(lossy, out, ImportOptions(size=32))
    assert video.stat().st_mtime_ns == stamp, "a whole import is left as it is"
    with pytest.raises(UserError, match="size 32 there, 40 now.*another --out"):
        import_dataset(lossy, out, ImportOptions(size=40))
    os.truncate(video, 100)
    with pytest.raises(UserError, match="file-001.mp4 has 100 bytes.*: run the same import command again"):
        Dataset(out).frames(1, [0])
    import_dataset(lossy, out, ImportOptions(size=32))
    Dataset(out).verify()
    assert Dataset(out)._files == before and Dataset(out).caption(1) == "Mine."


def test_a_full_disk_and_the_umask(encode, codec, vae_run, tmp_path):
    """Guards a traceback where a disk is full, what it leaves behind, and latents that only their owner may read."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(
            UserError, match="no room for .*train-00000.safetensors: free disk space.*same command again"
        ):
            encode(tmp_path / "z", codec, vae_run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "z").iterdir())
    encode(tmp_path / "z", codec, vae_run)
    mask = os.umask(0)
    os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "z").iterdir()} == {0o666 & ~mask}
