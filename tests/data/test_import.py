"""Foreign recordings: folders of videos, and LeRobot datasets whose video decord cannot be trusted with."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from videowm.data.dataset import Dataset
from videowm.data.foreign_video import look
from videowm.data.import_ import import_dataset
from videowm.options import ImportOptions
from videowm.types import UserError


@pytest.fixture(scope="module")
def frames(exact) -> np.ndarray:
    """Real driving, uint8 "40 64 64 3"."""
    return Dataset(exact).frames(1, range(40))


def write_video(path: Path, frames: np.ndarray, codec: str = "libx264", rate=10, **options: str) -> None:
    with av.open(str(path), "w") as video:
        stream = video.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        video.mux(stream.encode())


OPEN_GOP = {"x264-params": "keyint=8:min-keyint=8:scenecut=0:open-gop=1:bframes=3:b-adapt=0", "crf": "10"}


def nearest(stored: np.ndarray, real: np.ndarray) -> list[int]:
    """For each stored frame the index of the most similar real one."""
    error = ((stored[:, None].astype(float) - real[None].astype(float)) ** 2).mean((2, 3, 4))
    return error.argmin(1).tolist()


@pytest.fixture
def videos(tmp_path, frames) -> Path:
    """Three videos of 40, 40 and 30 frames with their actions in the three kinds of table."""
    src, rng = tmp_path / "src", np.random.default_rng(0)
    src.mkdir()
    for name, count in (("a", 40), ("b", 40), ("c", 30)):
        write_video(src / f"{name}.mp4", frames[:count], crf="10")
    table = rng.uniform(-1, 1, (40, 2)).astype(np.float32)
    (src / "a.csv").write_text("steer,gas\n" + "\n".join(f"{x:.9g},{y:.9g}" for x, y in table[:39]))
    (src / "a.txt").write_text("A car\nturns left.")
    (src / "b.csv").write_text("steer,gas\n" + "\n".join(f"{x:.9g},{y:.9g}" for x, y in table))
    (src / "c.csv").write_text("steer,gas\n" + "\n".join(f"{x:.9g},{y:.9g}" for x, y in table[:30]))
    return src


def test_videos_with_tables(videos, tmp_path, frames):
    """Guards lost or shifted rows: F-1 or F actions, the caption, the right frame, and no state where none is known."""
    data = Dataset(import_dataset(videos, tmp_path / "out", ImportOptions(size="keep", test_share=0.4)))
    data.verify()
    assert data.lengths.tolist() == [40, 40, 30] and data.fps == 10 and data.action_names == ("steer", "gas")
    assert data.state_names == () and data.split("test") == [2]
    np.testing.assert_array_equal(data.actions(0), data.actions(1))
    assert data.actions(0).shape == (39, 2) and data.caption(0) == "A car turns left." and data.caption(1) == ""
    assert nearest(data.frames(2, range(30)), frames[:30]) == list(range(30))


def test_resize_and_other_tables(videos, tmp_path, capsys):
    """Guards --size and the npz and parquet tables; and a size whose misfit is said at the world model only."""
    (videos / "b.csv").unlink()
    (videos / "c.mp4").unlink()
    np.savez(videos / "b.npz", actions=np.zeros((39, 1), np.float32))
    (videos / "a.csv").write_text("action\n" + "\n".join("0.5" for _ in range(39)))
    data = Dataset(import_dataset(videos, tmp_path / "out", ImportOptions(size="32x40")))
    assert data.size == (32, 40) and data.frames(1, [0, 39]).shape == (2, 32, 40, 3)
    assert "frames of 32x40 do not fit" in (said := capsys.readouterr().out) and "32x32 or 32x64 would" in said
    assert data.actions(0).shape == (39, 1) and (data.actions(0) == 0.5).all()
    with pytest.raises(UserError, match="48 pixels wide"):  # dmlc/decord issue 336
        import_dataset(videos, tmp_path / "narrow", ImportOptions(size="32x48"))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda s: (s / "a.csv").write_text("steer,gas\n0,0\n"), "a.mp4 has 40 frames and 1 actions"),
        (lambda s: (s / "b.csv").write_text("steer,gas\n" + "0,0\n" * 20 + "nan,0\n" * 19), "row 20 of .*b.csv is"),
        (lambda s: (s / "b.csv").write_text("steer,gas\n" + "0,x\n" * 39), "b.csv holds text in column 'gas'"),
        (
            lambda s: (s / "b.csv").write_text("turn,gas\n" + "0,0\n" * 39),
            "b.mp4 has actions turn, gas, a.mp4 has steer, gas: make them equal",
        ),
        (lambda s: (s / "b.csv").unlink(), "b.mp4 has 0 action tables"),
        (lambda s: (s / "c.mp4").write_bytes((s / "c.mp4").read_bytes()[:900]), "c.mp4 is damaged"),
        (lambda s: (s / "c.mp4").write_bytes(b"text"), "c.mp4 is damaged"),
        (lambda s: [p.unlink() for p in s.iterdir()], "holds no videos"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(videos, tmp_path, spoil, sentence):
    """Guards silent repair: wrong counts, NaN, text, other columns and damage are refused with the file's name."""
    spoil(videos)
    with pytest.raises(UserError, match=sentence):
        import_dataset(videos, tmp_path / "out")
    assert not (tmp_path / "out/meta/info.json").exists()


def test_lerobot_folder_is_copied_when_it_can_be_trusted(lossy, tmp_path):
    """Guards needless loss: our own closed H.264 must come through untouched, without our extra files."""
    src = shutil.copytree(lossy, tmp_path / "hub")
    (src / "meta/files.json").unlink()
    (src / "captions.jsonl").unlink()
    ours, theirs = Dataset(lossy), Dataset(import_dataset(src, tmp_path / "out"))
    theirs.verify()
    for episode in range(5):
        np.testing.assert_array_equal(theirs.frames(episode, range(40)), ours.frames(episode, range(40)))
        np.testing.assert_array_equal(theirs.actions(episode), ours.actions(episode))
        assert theirs.caption(episode) == ours.caption(episode)


@pytest.mark.parametrize("codec", ["open", "av1"])
def test_lerobot_video_that_decord_misreads_is_encoded_again(exact, tmp_path, frames, codec):
    """Guards open groups of pictures (wrong frames without a word) and AV1 (unreadable), LeRobot's own default."""
    if codec == "av1" and "libsvtav1" not in av.codecs_available:
        pytest.skip("this PyAV has no AV1 encoder")
    src = shutil.copytree(exact, tmp_path / "hub")
    (src / "meta/files.json").unlink()
    real = {}
    for number, path in enumerate(sorted(src.glob("videos/*/*/*.mp4"))):
        episodes = range(2 * number, min(2 * number + 2, 5))
        real |= {e: Dataset(exact).frames(e, range(40)) for e in episodes}
        pictures = np.concatenate([real[e] for e in episodes])
        if codec == "open":
            write_video(path, pictures, rate=Fraction(25, 2), **OPEN_GOP)
        else:
            write_video(path, pictures, "libsvtav1", Fraction(25, 2), crf="10", preset="10")
        assert not look(path).direct
    data = Dataset(import_dataset(src, tmp_path / "out"))
    data.verify()
    assert data.info["features"]["observation.image"]["info"]["video.codec"] == "h264"
    for episode in range(5):
        order = np.random.default_rng(episode).permutation(40)
        moving = ((real[episode][1:].astype(float) - real[episode][:-1]) ** 2).mean((1, 2, 3)) > 40
        assert moving.sum() > 15
        found = np.array(nearest(data.frames(episode, order), real[episode]))
        fixed = np.concatenate([[True], moving]) & np.concatenate([moving, [True]])
        assert (found == order)[fixed[order]].all()


def test_lerobot_damage_is_refused(exact, tmp_path):
    """Guards a hub download that stopped half-way, and NaN in its actions."""
    src = shutil.copytree(exact, tmp_path / "hub")
    (src / "meta/files.json").unlink()
    video = src / "videos/observation.image/chunk-000/file-002.mp4"
    shutil.copy(src / "videos/observation.image/chunk-000/file-000.mp4", video)
    import_dataset(src, tmp_path / "longer")  # more frames than claimed are no damage
    write_video(video, np.zeros((20, 64, 64, 3), np.uint8))
    with pytest.raises(UserError, match="file-002.mp4 holds 20 frames, expected 40"):
        import_dataset(src, tmp_path / "out")
    info = json.loads((src / "meta/info.json").read_text())
    (src / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v1.6"}))
    with pytest.raises(UserError, match="v1.6"):
        import_dataset(src, tmp_path / "older")
    with pytest.raises(UserError, match="already holds something"):
        import_dataset(src, src)
