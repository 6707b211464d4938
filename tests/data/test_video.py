"""Frames by their number: both readers give the same bits, and a machine without decord reads by itself."""

from __future__ import annotations

import shutil
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from videowm.data.dataset import Dataset
from videowm.data.foreign_video import look
from videowm.data.layout import encode_video
from videowm.data.video import AVVideo, DecordVideo, open_video
from videowm.types import UserError

KINDS = {  # options of x264: closed groups with B-frames, as most videos have; without; groups that are not closed
    "closed": {"g": "12"},
    "no B-frames": {"g": "25", "bf": "0"},
    "open": {"x264-params": "open-gop=1:keyint=12:scenecut=0"},
}


@pytest.fixture
def without_decord(monkeypatch):
    """A machine on which `import decord` fails."""
    monkeypatch.setitem(sys.modules, "decord", None)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """A coloured picture that moves and gets lighter, so that no two frames are equal; uint8 "60 32 64 3"."""
    picture = np.random.default_rng(0).integers(0, 180, (8, 16, 3)).repeat(4, 0).repeat(4, 1)
    return np.stack([np.roll(picture, i, axis=1) + i for i in range(60)]).astype(np.uint8)


def write(path, pictures: np.ndarray, options: dict[str, str]) -> None:
    """An mp4 as other programs write them, in yuv420p."""
    with av.open(str(path), "w") as video:
        stream = video.add_stream("libx264", rate=Fraction(10), options=options)
        stream.height, stream.width, stream.pix_fmt = *pictures.shape[1:3], "yuv420p"
        for picture in pictures:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        video.mux(stream.encode())


def places(seed: int) -> list[int]:
    """Numbers of frames in no order, some twice, then some in order."""
    return [*np.random.default_rng(seed).integers(0, 60, 25).tolist(), *range(20, 40), 0, 59]


@pytest.mark.parametrize("lossless", [False, True])
def test_readers_agree_on_our_layout(pictures, tmp_path, lossless):
    """Guards frames that differ by a grey level, or by a place, from machine to machine."""
    path = tmp_path / "a.mp4"
    encode_video(path, [pictures[:23], pictures[23:]], 10, lossless=lossless)
    fast, slow = DecordVideo(path), AVVideo(path)
    assert len(fast) == len(slow) == 60
    for seed in range(3):
        np.testing.assert_array_equal(slow.read(places(seed)), fast.read(places(seed)))
    if lossless:
        np.testing.assert_array_equal(slow.read(range(60)), pictures)


@pytest.mark.parametrize("kind", KINDS)
def test_any_frame_is_the_one_of_a_whole_reading(pictures, tmp_path, kind):
    """Guards a seek that lands on another frame; where decord is trusted, it gives the same bits."""
    path = tmp_path / "a.mp4"
    write(path, pictures, KINDS[kind])
    with av.open(str(path)) as video:
        whole = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
    slow = AVVideo(path)
    for seed in range(3):
        np.testing.assert_array_equal(slow.read(places(seed)), whole[places(seed)])
    assert look(path).direct == (kind != "open")
    if look(path).direct:
        np.testing.assert_array_equal(slow.read(range(60)), DecordVideo(path).read(range(60)))


def test_a_machine_without_decord(dataset, without_decord, tmp_path):
    """Guards the way to the other reader, and a recording that reads otherwise there."""
    frames = Dataset(dataset).frames(1, range(60, 3, -1))
    assert isinstance(open_video(Dataset(dataset).video_path(1)), AVVideo)
    sys.modules.pop("decord")
    assert isinstance(open_video(Dataset(dataset).video_path(1)), DecordVideo)
    np.testing.assert_array_equal(frames, Dataset(dataset).frames(1, range(60, 3, -1)))


def test_damage_without_decord_is_one_sentence(lossy, without_decord, tmp_path):
    """Guards a traceback of the other reader: a file that is no video, and one that is cut."""
    copy = shutil.copytree(lossy, tmp_path / "copy")
    path = Dataset(copy).video_path(0)
    content, size = path.read_bytes(), path.stat().st_size
    for damaged in (b"\0" * size, content[: size // 2] + b"\0" * (size - size // 2)):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{path.name} (is damaged|holds)"):
            Dataset(copy).frames(0, range(40))
