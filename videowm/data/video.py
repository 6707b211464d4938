"""Frames of a video file by their number. The only module that imports decord, which has no wheel for every machine.

Both readers give the same bits for what `layout.py` writes; PyAV takes longer (benchmarks/video.json). Each is for one
thread of one process: a reader that was opened before a fork hangs in the child, or shares its place in the file.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from videowm.types import UserError


class Video(Protocol):
    """An open video file."""

    def __len__(self) -> int:
        """How many frames it holds."""

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Frames `indices` (0 is the first, any order, repeats allowed), uint8 "f H W 3"."""


def open_video(path: Path) -> Video:
    """The video at `path`, read by decord where it is installed, else by PyAV.

    Raises:
        ImportError, OSError, RuntimeError: see `readable`, which makes one sentence of what is wrong with a file.
    """
    try:
        return DecordVideo(path)
    except ImportError:
        return AVVideo(path)


class DecordVideo:
    """A video that decord reads: fast, and right only where groups of pictures are closed."""

    def __init__(self, path: Path) -> None:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self.reader = decord.VideoReader(str(path), num_threads=1)

    def __len__(self) -> int:
        return len(self.reader)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """See `Video.read`."""
        frames = self.reader.get_batch(list(indices)).asnumpy()
        # A reader left as it is decodes on while the next one works: 2.5 times the time per clip over 3 files.
        self.reader.seek(0)
        return frames


class AVVideo:
    """A video that PyAV reads: from the key frame before a frame on, or from where the last read ended."""

    def __init__(self, path: Path) -> None:
        import av

        self.container = av.open(str(path))
        self.stream = self.container.streams.video[0]
        self.stream.codec_context.thread_count = 1
        shown = [packet for packet in self.container.demux(self.stream) if packet.pts is not None]
        shown = [(packet.pts, packet.is_keyframe) for packet in shown if not packet.is_discard]
        self.times = sorted(time for time, _ in shown)  # of all frames, in the order in which they are shown
        self.keys = sorted(time for time, key in shown if key)
        self.frames: Iterator[Any] = iter(())
        self.place = len(self.times)  # number of the frame that `frames` gives next

    def __len__(self) -> int:
        return len(self.times)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """See `Video.read`."""
        wanted, order = np.unique(np.asarray(indices, np.int64), return_inverse=True)
        frames = [self.frame(index).reformat(format="rgb24").to_ndarray() for index in wanted.tolist()]
        return np.stack(frames)[order]

    def frame(self, index: int) -> Any:
        """The decoded frame of that number.

        Raises:
            EOFError: the file ends before it.
        """
        time = self.times[index]
        key = self.keys[max(0, bisect_right(self.keys, time) - 1)]
        if index < self.place or key > self.times[self.place]:
            self.container.seek(key, stream=self.stream)
            self.frames = self.container.decode(self.stream)
        for frame in self.frames:
            if frame.pts is not None and frame.pts >= time:
                self.place = index + 1
                return frame
        self.place = len(self)
        raise EOFError


@contextmanager
def readable(path: Path, remedy: str) -> Iterator[None]:
    """Both readers' errors as one sentence that names the file.

    Raises:
        UserError: the file is damaged or no video.
    """
    try:
        yield
    except errors():
        raise UserError(f"{path} is damaged or no video that can be read: {remedy}") from None


def errors() -> tuple[type[Exception], ...]:
    """What the readers raise; decord's own class is no RuntimeError."""
    import av

    try:
        import decord
    except ImportError:
        return (av.error.FFmpegError, EOFError, IndexError)
    return (RuntimeError, decord.DECORDError)
