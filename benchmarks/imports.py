"""A hundred recordings as people have them, imported one by one: every frame and action right, or one sentence.

    python benchmarks/imports.py --out benchmarks/imports.json

Each kind is made here with PyAV: the number of a frame stands in its picture as bits, its corners have colours of their
own, and its action is a function of the number. A kind is *right* if every imported frame has the number, the corners
and the colours that it should have, and every action is that of its frame. It is *refused* if the import ends with one
sentence. Anything else is a *silent error*.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from videowm.data.dataset import Dataset
from videowm.data.import_ import import_dataset
from videowm.files import write_json
from videowm.options import ImportOptions
from videowm.types import UserError

COUNT = 20  # frames of a recording, if nothing else is said
CORNERS = np.array([(200, 60, 30), (20, 180, 90), (30, 40, 220), (190, 190, 60)])  # top left, right, bottom left, right
WEIGHTS = {"601": (0.299, 0.114), "709": (0.2126, 0.0722), "2020": (0.2627, 0.0593)}
SPACES = {"601": 5, "709": 1, "2020": 9}  # AVColorSpace
UNIT = 1 << 16  # 1.0 in a display matrix


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    """Frame `number`: 4x4 cells, coloured corners, and 8 bits in the two rows between."""
    cells = np.full((4, 4, 3), 110, np.uint8)
    cells[[0, 0, 3, 3], [0, 3, 0, 3]] = CORNERS
    bits = [number >> bit & 1 for bit in range(8)]
    cells[1:3] = np.where(np.reshape(bits, (2, 4, 1)), 225, 30)
    rows, columns = (np.arange(side) * 4 // side for side in size)
    return cells[rows][:, columns]


Box = tuple[float, float, float, float]
Matrix = tuple[int, int, int, int]


def read_picture(frame: np.ndarray, box: Box = (0, 0, 1, 1), matrix: Matrix = (1, 0, 0, 1)) -> tuple[int, np.ndarray]:
    """The number of a frame and the colours of its corners "4 3", in the order of `CORNERS`.

    Args:
        frame: uint8 "H W 3".
        box: where in it the whole picture is: top, left, height and width, as shares of the frame's.
        matrix: a, b, c, d of the display matrix: a stored point (x, y) is shown at (a x + c y, b x + d y).
    """
    a, b, c, d = matrix

    def cell(row: int, column: int) -> np.ndarray:
        x, y = column / 4 + 1 / 8 - 1 / 2, row / 4 + 1 / 8 - 1 / 2  # from the middle of the stored picture
        places = (box[0] + box[2] * (b * x + d * y + 1 / 2), box[1] + box[3] * (a * x + c * y + 1 / 2))
        row, column = (int(np.clip(place * side, 1, side - 2)) for place, side in zip(places, frame.shape))
        return frame[row - 1 : row + 2, column - 1 : column + 2].reshape(-1, 3).astype(float).mean(0)

    number = sum(1 << i for i in range(8) if cell(1 + i // 4, i % 4).mean() > 128)
    return number, np.stack([cell(0, 0), cell(0, 3), cell(3, 0), cell(3, 3)])


def action(number: int | np.ndarray) -> np.ndarray:
    """The action of frame `number`: two numbers."""
    number = np.asarray(number, np.float64)
    return np.stack([np.sin(number) * 2, number * 0.25 - 1], axis=-1).astype(np.float32)


def yuv_frame(rgb: np.ndarray, space: str, pixels: str, *, full: bool) -> av.VideoFrame:
    """A picture in YUV by the standard's own formula, every plane averaged over its cells."""
    red, blue = WEIGHTS[space]
    r, g, b = np.moveaxis(rgb / 255.0, -1, 0)
    luma = red * r + (1 - red - blue) * g + blue * b
    planes = [luma, (b - luma) / (2 * (1 - blue)), (r - luma) / (2 * (1 - red))]
    bits = 10 if "10" in pixels else 8
    frame = av.VideoFrame(rgb.shape[1], rgb.shape[0], pixels)
    for i, (plane, values) in enumerate(zip(frame.planes, planes)):
        down, across = rgb.shape[0] // plane.height, rgb.shape[1] // plane.width
        values = values.reshape(plane.height, down, plane.width, across).mean((1, 3))
        if full:
            codes = values * (2**bits - 1) + (2 ** (bits - 1) if i else 0)
        else:
            codes = (values * (224 if i else 219) + (128 if i else 16)) * 2 ** (bits - 8)
        kind = np.uint16 if bits > 8 else np.uint8
        rows = np.zeros((plane.height, plane.line_size // kind().itemsize), kind)
        rows[:, : plane.width] = np.clip(np.round(codes), 0, 2**bits - 1)
        plane.update(rows.tobytes())
    return frame


@dataclass(frozen=True)
class Video:
    """How a video is made; the defaults are the plainest."""

    name: str = "a.mp4"
    codec: str = "libx264"
    pixels: str = "yuv420p"
    count: int = COUNT
    size: tuple[int, int] = (96, 128)
    rate: Fraction = Fraction(10)
    options: dict[str, str] = field(default_factory=lambda: {"crf": "4"})
    container: dict[str, str] = field(default_factory=dict)
    times: Sequence[float] | None = None  # s at which each frame is shown
    space: str | None = None  # colours by the formula and tagged, else by swscale and untagged
    full: bool = False
    curve: int | None = None  # AVColorTransferCharacteristic
    matrix: Matrix | None = None  # a, b, c, d of the display matrix
    aspect: Fraction | None = None  # of a pixel
    cover: bool = False  # a single picture before the video
    second: bool = False  # another, shorter video beside
    clear: bool = False  # transparent at the left

    def write(self, folder: Path) -> None:
        """Write the file."""
        with av.open(str(folder / self.name), "w", options=self.container) as out:
            if self.cover:
                art = out.add_stream("mjpeg", rate=1)
                art.width, art.height, art.pix_fmt = 32, 32, "yuvj420p"
            stream = out.add_stream(self.codec, rate=self.rate, options=self.options)
            stream.height, stream.width, stream.pix_fmt = *self.size, self.pixels
            if self.times is not None:
                stream.time_base = stream.codec_context.time_base = Fraction(1, 90_000)
            if self.aspect is not None:
                stream.sample_aspect_ratio = stream.codec_context.sample_aspect_ratio = self.aspect
            if self.space is not None:
                stream.codec_context.colorspace = SPACES[self.space]
                stream.codec_context.color_range = 2 if self.full else 1
            if self.curve is not None:
                stream.codec_context.color_trc, stream.codec_context.color_primaries = self.curve, 9
            if self.matrix is not None:
                a, b, c, d = self.matrix
                stream.set_display_matrix([a * UNIT, b * UNIT, 0, c * UNIT, d * UNIT, 0, 0, 0, 1 << 30])
            other = out.add_stream("libx264", rate=10) if self.second else None
            if other is not None:
                other.width, other.height, other.pix_fmt = 64, 64, "yuv420p"
            if self.cover:
                out.mux(art.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 9, np.uint8))))
                out.mux(art.encode())
            for number in range(self.count):
                out.mux(stream.encode(self.frame(number)))
            out.mux(stream.encode())
            for number in range(5 if other is not None else 0):
                out.mux(other.encode(av.VideoFrame.from_ndarray(picture(200 + number, (64, 64)))))
            if other is not None:
                out.mux(other.encode())

    def frame(self, number: int) -> av.VideoFrame:
        """Frame `number`, with its time."""
        rgb = picture(number, self.size)
        if self.clear:
            alpha = np.where(np.arange(self.size[1])[:, None] < 9, 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.dstack([rgb, np.broadcast_to(alpha.T, self.size)]), format="rgba")
        elif self.space is None:
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        else:
            frame = yuv_frame(rgb, self.space, self.pixels, full=self.full)
            frame.colorspace, frame.color_range = SPACES[self.space], 2 if self.full else 1
        if self.curve is not None:
            frame.color_trc, frame.color_primaries = self.curve, 9
        if self.times is not None:
            frame.time_base, frame.pts = Fraction(1, 90_000), round(self.times[number] * 90_000)
        return frame


Table = Callable[[Path, np.ndarray], None]  # writes rows "n 2" into a folder


def csv_text(rows: np.ndarray, header: str | None = "x,y", comma: str = ",", digits: str = ".9g") -> str:
    """Rows as text."""
    lines = [comma.join(format(value, digits) for value in row) for row in rows]
    return "\n".join(([header] if header is not None else []) + lines) + "\n"


def plain(folder: Path, rows: np.ndarray, name: str = "a.csv", **how: Any) -> None:
    """A csv file with a header."""
    (folder / name).write_text(csv_text(rows, **how))


@dataclass(frozen=True)
class Kind:
    """One kind of recording, and what is right for it."""

    name: str
    video: Video = Video()
    table: Table | None = plain
    options: dict[str, Any] = field(default_factory=dict)
    rows: int | None = None  # of the table; None: one between two frames
    refused: str | None = None  # a part of the one sentence
    numbers: Sequence[int] | None = None  # of the imported frames; None: all
    size: tuple[int, int] | None = None  # (H, W) of the imported frames
    box: Box = (0, 0, 1, 1)  # where the picture is in the imported frames
    colours: float = 10  # most grey levels that a corner may be off
    actions: Callable[[np.ndarray], np.ndarray] = action  # of the numbers of frames
    fps: float = 10
    said: str | None = None  # a part of a note
    more: Callable[[Path], None] | None = None  # done to the folder at the end


def check(kind: Kind, folder: Path) -> dict[str, Any]:
    """Make one recording, import it, and compare."""
    src, out = folder / "src", folder / "out"
    src.mkdir()
    row = {"kind": kind.name, "result": "SILENT ERROR"}
    kind.video.write(src)
    if kind.table is not None:
        kind.table(src, action(np.arange(kind.video.count - 1 if kind.rows is None else kind.rows)))
    if kind.more is not None:
        kind.more(src)
    options = ImportOptions(**{"size": "keep", "lossless": True} | kind.options)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            data = Dataset(import_dataset(src, out, options))
    except UserError as error:
        right = kind.refused is not None and kind.refused in str(error) and "\n" not in str(error)
        return row | {
            "result": "refused" if right else "REFUSED WRONGLY",
            "sentence": str(error).replace(str(src), "SRC"),
        }
    notes = json.loads((out / "meta/import.json").read_text())["warnings"]
    return row | compare(kind, data) | ({"notes": notes} if notes else {})


def compare(kind: Kind, data: Dataset) -> dict[str, Any]:
    """What differs between an import and what is right."""
    if kind.refused is not None:
        return {"wrong": "it was not refused"}
    wanted = np.array(range(kind.video.count) if kind.numbers is None else kind.numbers)
    frames, actions = data.frames(0, range(data.lengths[0])), data.all_actions(0)
    read = [read_picture(frame, kind.box, kind.video.matrix or (1, 0, 0, 1)) for frame in frames]
    numbers = np.array([number for number, _ in read])
    off = float(np.abs(np.stack([c for _, c in read]) - CORNERS).max())
    short = kind.rows is None and kind.table is not None  # the last row was not there, and the one before is held
    expected = kind.actions(np.minimum(wanted, kind.video.count - 2) if short else wanted)
    notes = " ".join(json.loads((data.root / "meta/import.json").read_text())["warnings"])
    if numbers.tolist() != wanted.tolist():
        wrong = f"frames are {numbers.tolist()}"
    elif actions.shape != expected.shape or np.abs(actions - expected).max() > 1e-5:
        wrong = f"actions are {actions.tolist()}"
    elif off > kind.colours:
        wrong = "colours"
    elif kind.size is not None and data.size != kind.size:
        wrong = f"size is {data.size}"
    elif abs(data.fps / kind.fps - 1) > 1e-3:
        wrong = f"fps is {data.fps}"
    elif kind.said is not None and kind.said not in notes:
        wrong = f"notes are {notes!r}"
    else:
        return {"result": "right", "frames": len(wanted), "grey levels off": round(off, 2)}
    return {"wrong": wrong, "grey levels off": round(off, 2)}


def main(argv: list[str] | None = None, kinds: Sequence[Kind] | None = None) -> list[dict[str, Any]]:
    """Check all kinds; a line for each, and a file of results."""
    from import_kinds import KINDS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file of results")
    parser.add_argument("--only", help="kinds whose name holds this")
    options, rows = parser.parse_args(argv), []
    for kind in kinds or KINDS:
        if options.only and options.only not in kind.name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows.append(check(kind, Path(folder)))
        print(f"{rows[-1]['result']:16s} {kind.name:40s} {rows[-1].get('sentence') or rows[-1].get('wrong') or ''}")
    counts = {result: sum(row["result"] == result for row in rows) for result in sorted({r["result"] for r in rows})}
    silent = len(rows) - counts.get("right", 0) - counts.get("refused", 0)
    print(f"{len(rows)} kinds: {counts}, {silent} wrong")
    if options.out:
        write_json(options.out, {"kinds": len(rows), "counts": counts, "wrong": silent, "rows": rows})
    return rows


if __name__ == "__main__":
    sys.exit(any(row["result"] not in ("right", "refused") for row in main()))
