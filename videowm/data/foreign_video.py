"""Video files from elsewhere, frame by frame as a viewer sees them: upright, in square pixels, in RGB.

`look` reads the time stamps of all frames and decodes the first one. `Reel` decodes in order, strictly, because
decoders pass over damage without a word. Only one frame is in memory at a time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from videowm.types import UserError

if TYPE_CHECKING:
    import av

Size = tuple[int, int]  # (H, W) pixels
VIDEOS = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv",
    ".3gp", ".gif",
)  # fmt: skip
STRICT = {"err_detect": "explode"}
COUNTABLE = ("h264", "hevc", "av1", "libdav1d", "vp9", "libvpx-vp9", "mjpeg", "png", "gif", "ffv1", "prores")
STEADY = 0.01  # mean departure of the intervals from an even one, beyond the clock's tick, that is still constant
GRACE = 0.25  # of a step: a frame that appears this much late still counts as shown at the step
HDR = {16: "PQ", 18: "HLG"}  # AVColorTransferCharacteristic
BT709 = 1  # AVCOL_TRC_BT709 and AVCOL_PRI_BT709
FULL_RANGE = 2  # AVCOL_RANGE_JPEG


@dataclass(frozen=True)
class Turn:
    """How stored pictures become upright: transposed first, then mirrored."""

    transpose: bool = False
    rows: bool = False  # upside down
    columns: bool = False  # left to right

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """The upright picture "H W 3"."""
        picture = picture.swapaxes(0, 1) if self.transpose else picture
        return np.ascontiguousarray(picture[:: -1 if self.rows else 1, :: -1 if self.columns else 1])


@dataclass(frozen=True)
class Video:
    """What is known of a video file before its frames are decoded.

    Attributes:
        path: the file.
        stream: index of its moving pictures within the container.
        times: seconds since the first frame at which each frame is shown, float64 "f", rising.
        fps: frames a second, on average.
        uneven: mean departure of the intervals from their mean, as a share of it, beyond the clock's tick.
        stored: (H, W) pixels of the stored pictures.
        size: (H, W) pixels as shown: upright, with square pixels.
        turn: makes them upright.
        hdr: the curve of high dynamic range, or None.
        cut: what is to be said where other frames are stored than are shown, or None.
        direct: whether any decoder shows these same frames: H.264 of 8 bits in closed groups, nothing turned or cut.
        notes: what a viewer of the imported frames should know.
    """

    path: Path
    stream: int
    times: np.ndarray
    fps: float
    uneven: float
    stored: Size
    size: Size
    turn: Turn
    hdr: str | None
    cut: str | None
    direct: bool
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.times)

    @property
    def steady(self) -> bool:
        """Whether frames follow each other evenly, within 1 % on average."""
        return self.uneven <= STEADY

    def sampled(self, fps: float) -> np.ndarray:
        """The frame that is shown at each time i/fps, int64 "n"."""
        steps = np.arange(int(self.times[-1] * fps + GRACE) + 1)
        return np.searchsorted(self.times, (steps + GRACE) / fps, side="right") - 1


@dataclass
class Packets:
    """The packets of one stream, in stored order."""

    shown: list[int | None]  # presentation times in ticks, without what an edit list cuts off
    cut: int = 0
    open: bool = False  # whether a frame shown before a key frame is stored behind it
    decode: list[int | None] = None  # decoding times in ticks


def damaged(path: Path) -> UserError:
    """The sentence for a file that does not decode."""
    return UserError(f"{path} is damaged or no video: download or make it again")


def look(path: Path) -> Video:
    """Read the facts of a video file: every packet's time, and the first frame.

    Raises:
        UserError: the file is damaged or no video, holds one picture only, or is turned by no quarter.
    """
    import av

    try:
        with av.open(str(path)) as video:
            found = packets_of(video)
            stream = pick_stream(video, found, path)
            number, packets, tick = stream.index, found.pop(stream.index), float(stream.time_base)
            facts = stream.codec_context.name, stream.frames, stream.average_rate or stream.guessed_rate
            shape = stream.sample_aspect_ratio
        frame = next(decode(path, number))
    except (av.error.FFmpegError, IndexError, StopIteration):
        raise damaged(path) from None
    codec, declared, nominal = facts
    times, notes = times_of(path, number, packets, tick, codec, nominal)
    cut = header_note(path, packets, declared)
    notes += [cut] if cut else []
    if others := [other for other in found.values() if len(other.shown) > 1]:
        notes.append(f"holds {len(others) + 1} videos, stream {number} is taken")
    fps, uneven = rate_of(times, tick, float(nominal or 0))
    turn, aspect = turn_of(frame, path), float(shape or 1)
    height, width = frame.height, max(1, round(frame.width * aspect))
    notes += picture_notes(frame, turn, aspect)
    same = turn == Turn() and aspect == 1 and not packets.cut and not found and declared in (0, len(times))
    plain = codec == "h264" and not packets.open and frame.format.components[0].bits == 8
    return Video(
        path, number, times, fps, uneven, (frame.height, frame.width),
        (width, height) if turn.transpose else (height, width), turn, HDR.get(frame.color_trc), cut,
        same and plain and not frame.interlaced_frame, tuple(notes),
    )  # fmt: skip


def packets_of(video: av.container.InputContainer) -> dict[int, Packets]:
    """The packets of every video stream, by its index."""
    found = {stream.index: Packets([], decode=[]) for stream in video.streams.video}
    keys: dict[int, int] = {}
    for packet in video.demux(*video.streams.video):
        own = found[packet.stream.index]
        if packet.size == 0 and packet.pts is None and packet.dts is None:
            continue  # ends the stream
        if packet.is_discard:
            own.cut += 1
            continue
        own.shown.append(packet.pts)
        own.decode.append(packet.dts)
        if packet.pts is not None:
            key = keys[packet.stream.index] = packet.pts if packet.is_keyframe else keys.get(packet.stream.index)
            own.open |= key is None or packet.pts < key
    return found


def pick_stream(video: av.container.InputContainer, found: dict[int, Packets], path: Path) -> av.VideoStream:
    """The stream of moving pictures: no attached cover, and of several the one with the most frames.

    Raises:
        UserError: the file holds pictures that do not move.
    """
    from av.stream import Disposition

    moving = [s for s in video.streams.video if not s.disposition & Disposition.attached_pic]
    moving = [s for s in moving if len(found[s.index].shown) > 1]
    if not moving:
        count = sum(len(packets.shown) for packets in found.values())
        if not count:
            raise damaged(path)
        raise UserError(f"{path} holds {count} frames, expected 2 or more: leave it out")
    return max(moving, key=lambda stream: (len(found[stream.index].shown), -stream.index))


def decode(path: Path, stream: int) -> Iterator[av.VideoFrame]:
    """The frames of a stream up to the first damage that the decoder can see.

    Raises:
        UserError: the file is damaged.
    """
    import av

    try:
        with av.open(str(path), options=STRICT) as video:
            video.streams[stream].codec_context.options = STRICT
            yield from video.decode(video.streams[stream])
    except (av.error.FFmpegError, IndexError, ValueError):
        raise damaged(path) from None


def times_of(
    path: Path, stream: int, packets: Packets, tick: float, codec: str, nominal: Any
) -> tuple[np.ndarray, list[str]]:
    """Seconds since the first frame at which every frame is shown, and what is to be said of them.

    Packets tell, but where a codec may hide frames, or packets share a time, the frames are decoded once more.

    Raises:
        UserError: there are no times, and no rate to make them of; or the file is damaged.
    """
    stamps = packets.shown if None not in packets.shown else packets.decode
    if codec not in COUNTABLE or None in stamps or len(set(stamps)) < len(stamps):
        stamps = [frame.pts for frame in decode(path, stream)]
    if None not in stamps and len(set(stamps)) == len(stamps):
        times = np.sort(np.array(stamps, np.float64)) * tick
        return times - times[0], []
    if not nominal:
        raise UserError(f"{path} names no times of its frames and no frame rate: make it again with one")
    return np.arange(len(stamps)) / float(nominal), [f"names no times of its frames, {nominal} fps is taken"]


def header_note(path: Path, packets: Packets, declared: int) -> str | None:
    """What is to be said where the header declares another number of frames than are shown, or an edit list cuts.

    Raises:
        UserError: frames are missing: the file was cut off.
    """
    import av

    count = len(packets.shown) + packets.cut
    if packets.cut or declared > count:
        with av.open(str(path), options={"ignore_editlist": "1"}) as video:
            whole = max(len(p.shown) + p.cut for p in packets_of(video).values())
        if whole >= declared:  # all is there; an edit list cuts some of it off
            return f"has an edit list: {len(packets.shown)} of its {whole} stored frames are shown"
    if declared and abs(declared - count) > 1:
        raise UserError(f"{path} declares {declared} frames and holds {count}: download or make it again")
    return None if declared in (0, count) else f"declares {declared} frames and holds {count}, which are taken"


def rate_of(times: np.ndarray, tick: float, nominal: float) -> tuple[float, float]:
    """Frames a second, the nominal number where the times agree with it, and the unevenness of the intervals."""
    if len(times) < 2 or times[-1] <= 0:
        return nominal, 0.0
    mean = times[-1] / (len(times) - 1)
    uneven = float(np.abs(np.diff(times) - mean).mean() / mean)
    drift = abs(nominal * mean - 1)
    return (nominal if drift <= max(0.002, tick / times[-1]) else 1 / mean), max(0.0, uneven - tick / mean)


def turn_of(frame: av.VideoFrame, path: Path) -> Turn:
    """How a frame is made upright, by its display matrix: x' = a x + c y, y' = b x + d y.

    Raises:
        UserError: the matrix turns by no multiple of 90 degrees.
    """
    from av.sidedata.sidedata import Type

    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return Turn()
    a, b, _, c, d = struct.unpack("<9i", bytes(matrix))[:5]
    if (a or d) and (b or c):
        raise UserError(
            f"{path} is to be turned by {frame.rotation} degrees, expected a multiple of 90: turn it before"
        )
    return Turn(transpose=True, rows=b < 0, columns=c < 0) if b or c else Turn(rows=d < 0, columns=a < 0)


def picture_notes(frame: av.VideoFrame, turn: Turn, aspect: float) -> Iterator[str]:
    """What the imported frames differ in from the stored ones."""
    if turn != Turn():
        yield "is turned or mirrored as its display matrix says"
    if aspect != 1:
        yield f"has pixels {aspect:.4g} times as wide as high, made square"
    if frame.color_trc in HDR:
        yield f"has high dynamic range ({HDR[frame.color_trc]}): mapped to BT.709, brighter than white is cut off"
    if frame.interlaced_frame:
        yield "is interlaced: both fields are kept in one frame, so moving edges are combed"
    bits = frame.format.components[0].bits
    if bits > 8:
        yield f"has {bits} bits a colour, kept are 8"
    transparent = frame.format.name in ("rgba", "bgra", "argb", "abgr", "pal8") or frame.format.name.startswith("yuva")
    if transparent and frame.to_ndarray(format="rgba")[..., 3].min() < 255:
        yield "is transparent in places: the colours beneath are taken, without transparency"
    if frame.height >= 720 and frame.colorspace == 2 and frame.format.name.startswith("yuv"):
        yield "does not say how its colours are coded: BT.601 is taken"


Fit = Literal["stretch", "crop", "pad"]


class Painter:
    """Decoded frames -> uint8 "H W 3" of one size.

    Args:
        video: whose frames.
        size: (H, W) of the pictures; None keeps the shown size, less an odd row or column.
        fit: how pictures of another aspect become that size.
    """

    def __init__(self, video: Video, size: Size | None, fit: Fit) -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        height, width = video.size
        self.size = size or (height // 2 * 2, width // 2 * 2)
        scales = self.size[0] / height, self.size[1] / width
        scale = {"crop": max(scales), "pad": min(scales)}.get(fit)
        inner = (height, width) if size is None else self.size if scale is None else fitted(height, width, scale)
        if fit == "crop" and size is not None:
            inner = max(inner[0], size[0]), max(inner[1], size[1])
        self.video, self.inner = video, inner[::-1] if video.turn.transpose else inner
        way = Interpolation.AREA if min(scales) < 1 else Interpolation.BICUBIC
        self.settings = {"interpolation": way | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT}
        self.settings |= {"dst_color_range": FULL_RANGE, "threads": 1}
        if video.hdr:
            self.settings |= {"dst_color_trc": BT709, "dst_color_primaries": BT709}
        self.reformat = VideoReformatter().reformat

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """The picture of a frame.

        Raises:
            UserError: its size differs from the first one's, or its colours cannot be converted.
        """
        import av

        if (frame.height, frame.width) != self.video.stored:
            was, now = "{}x{}".format(*self.video.stored), f"{frame.height}x{frame.width}"
            raise UserError(f"{self.video.path} changes its size from {was} to {now}: cut it into two videos")
        try:
            rgb = self.reformat(frame, self.inner[1], self.inner[0], "rgb24", **self.settings)
        except (av.error.FFmpegError, ValueError) as error:
            raise UserError(f"the colours of {self.video.path} cannot be read ({error}): convert it before") from None
        return centred(self.video.turn(rgb.to_ndarray()), self.size)


def fitted(height: int, width: int, scale: float) -> Size:
    """A size, scaled."""
    return max(1, round(height * scale)), max(1, round(width * scale))


def centred(picture: np.ndarray, size: Size) -> np.ndarray:
    """The middle of a picture, or the picture in the middle of black, as uint8 "H W 3" of `size`."""
    for axis, wanted in enumerate(size):
        spare = picture.shape[axis] - wanted
        if spare > 0:
            picture = picture.take(range(spare // 2, spare // 2 + wanted), axis)
        elif spare < 0:
            around = [(0, 0)] * 3
            around[axis] = (-spare // 2, -spare - -spare // 2)
            picture = np.pad(picture, around)
    return np.ascontiguousarray(picture)


class Reel:
    """The frames of one video in order, each decoded once; an earlier one starts the decoding anew.

    Args:
        video: as `look` found it.
        painter: makes pictures of its frames.
    """

    def __init__(self, video: Video, painter: Painter) -> None:
        self.video, self.painter = video, painter
        self._frames, self._next = decode(video.path, video.stream), 0

    def read(self, wanted: np.ndarray) -> Iterator[np.ndarray]:
        """The pictures `wanted` (rising; repeats allowed), uint8 "H W 3".

        Raises:
            UserError: the file is damaged, or holds fewer frames.
        """
        if len(wanted) and wanted[0] < self._next:
            self._frames, self._next = decode(self.video.path, self.video.stream), 0
        picture, last = None, -1
        for index in wanted.tolist():
            while self._next <= index:
                frame = self._advance()
            if index != last:
                picture, last = self.painter(frame), index
            yield picture

    def finish(self) -> None:
        """Decode what is left.

        Raises:
            UserError: the file is damaged, or holds more or fewer frames than its packets say.
        """
        for _ in self._frames:
            self._next += 1
        if self._next != len(self.video):
            raise self._miscounted()

    def _advance(self) -> av.VideoFrame:
        frame = next(self._frames, None)
        if frame is None:
            raise self._miscounted()
        self._next += 1
        return frame

    def _miscounted(self) -> UserError:
        count = len(self.video)
        return UserError(
            f"{self.video.path} holds {count} frames, of which {self._next} decode: download or make it again"
        )
