"""The hundred kinds of recordings that `imports.py` checks."""

from __future__ import annotations

import random
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from imports import COUNT, Kind, Table, Video, action, csv_text, plain

from videowm.data.foreign_video import GRACE

MPEG4 = {"qscale": "2", "flags": "+qscale", "global_quality": "236"}
X265 = {"x265-params": "log-level=none", "crf": "4"}
VP = {"crf": "4", "b": "4M"}
OPEN = {"x264-params": "keyint=8:min-keyint=8:scenecut=0:open-gop=1:bframes=3:b-adapt=0", "crf": "4"}


def text(content: str | bytes, name: str = "a.csv") -> Table:
    """A table with this content, whatever the rows."""
    return lambda folder, rows: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def rows_text(encoding: str = "utf-8", before: str = "", after: str = "", **how) -> Table:
    """A csv file in an encoding, with text before and after."""
    return lambda folder, rows: (folder / "a.csv").write_bytes(
        (before + csv_text(rows, **how) + after).encode(encoding)
    )


def column_text(name: str, values) -> Table:
    """A csv file with a further column before the actions."""

    def write(folder: Path, rows: np.ndarray) -> None:
        lines = csv_text(rows).splitlines()
        cells = [name, *(values(i) for i in range(len(rows)))]
        (folder / "a.csv").write_text("\n".join(f"{cell},{line}" for cell, line in zip(cells, lines)))

    return write


def spoilt(spoil) -> Table:
    """A csv file of which `spoil` changed the text."""
    return lambda folder, rows: (folder / "a.csv").write_text(spoil(csv_text(rows)))


def cut_off(name: str, count: int):
    """Takes the last bytes of a file away."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-count])


def npz(**arrays) -> Table:
    """An archive of arrays; a function is called with the rows."""
    return lambda folder, rows: np.savez(
        folder / "a.npz", **{k: v(rows) if callable(v) else v for k, v in arrays.items()}
    )


def parquet(make) -> Table:
    """A parquet file of what `make(rows)` gives."""
    return lambda folder, rows: pq.write_table(pa.table(make(rows)), folder / "a.parquet")


def jitter(mean: float, spread: float, count: int = COUNT) -> list[float]:
    """Times of frames that come `spread` early or late."""
    chance = random.Random(0)
    return [i * mean + (chance.uniform(-spread, spread) if i else 0) for i in range(count)]


def shown(times: list[float], rate: float) -> list[int]:
    """The oracle: for each step the last frame that has come, a quarter of a step late at most."""
    found, step = [], 0
    while step / rate <= times[-1] + GRACE / rate:
        found.append(max(i for i, time in enumerate(times) if time <= (step + GRACE) / rate + 1e-9))
        step += 1
    return found


def declare(folder: Path, frames: int) -> None:
    """Write another number of frames into the header of an AVI file."""
    content = bytearray((folder / "a.avi").read_bytes())
    place = content.index(b"strh") + 8 + 32
    content[place : place + 4] = frames.to_bytes(4, "little")
    (folder / "a.avi").write_bytes(content)


EDITED = [0.1 * (i - 5) for i in range(COUNT)]
ONE_KEY = {"crf": "4", "bf": "0", "g": "999"}
EDIT = {"use_editlist": "1", "avoid_negative_ts": "disabled"}
UNEVEN = [0.1 * i + (0.05 if i % 2 else 0) for i in range(COUNT)]
PAUSE = [0.1 * i + (0.7 if i > 9 else 0) for i in range(COUNT)]
ONE_HOT = np.array([2, 0, 1, 1, 0] * 4)


def one_hot(numbers: np.ndarray) -> np.ndarray:
    return (ONE_HOT[numbers][:, None] == np.arange(3)).astype(np.float32)


CODECS = [
    Kind("h264 mp4"),
    Kind("h264 mkv", Video("a.mkv")),
    Kind("h264 mov", Video("a.mov")),
    Kind("h264 m4v", Video("a.m4v")),
    Kind("h264 ts", Video("a.ts")),
    Kind("h264 flv", Video("a.flv")),
    Kind("h264 avi", Video("a.avi", options={"crf": "4", "bf": "0"})),
    Kind("h264 fragmented mp4", Video(container={"movflags": "frag_keyframe+empty_moov"})),
    Kind("h264 open groups", Video(options=OPEN)),
    Kind("h264 five B-frames", Video(options={"crf": "4", "bf": "5"})),
    Kind("h264 one key frame", Video(options={"crf": "4", "g": "999"})),
    Kind("h264 rgb", Video(codec="libx264rgb", pixels="rgb24"), colours=2),
    Kind("hevc mp4", Video(codec="libx265", options=X265)),
    Kind("hevc open groups",
         Video(codec="libx265", options={"x265-params": "log-level=none:open-gop=1:keyint=8:bframes=4"}), colours=25),
    Kind("av1 mp4", Video(codec="libsvtav1", options={"preset": "10", "crf": "5"})),
    Kind("av1 webm", Video("a.webm", codec="libsvtav1", options={"preset": "10", "crf": "5"})),
    Kind("vp9 webm", Video("a.webm", codec="libvpx-vp9", options=VP)),
    Kind("vp8 webm hidden frames",
         Video("a.webm", codec="libvpx", options=VP | {"auto-alt-ref": "1", "lag-in-frames": "16"})),
    Kind("mpeg4 avi", Video("a.avi", codec="mpeg4", options=MPEG4), colours=14),
    Kind("mpeg4 mp4 B-frames", Video(codec="mpeg4", options=MPEG4 | {"bf": "2"}), colours=14),
    Kind("mpeg2 mpg", Video("a.mpg", codec="mpeg2video", rate=Fraction(25), options=MPEG4), fps=25, colours=14),
    Kind("mjpeg avi", Video("a.avi", codec="mjpeg", pixels="yuvj420p", options=MPEG4), colours=14),
    Kind("prores mov", Video("a.mov", codec="prores_ks", pixels="yuv422p10le", options={}), said="10 bits"),
    Kind("ffv1 mkv", Video("a.mkv", codec="ffv1", pixels="yuv444p", options={}), colours=2),
    Kind("gif", Video("a.gif", codec="gif", pixels="rgb8", options={}), colours=40),
    Kind("capital letters", Video("A.MP4"), table=lambda f, r: plain(f, r, "A.CSV")),
]  # fmt: skip
COLOURS = [
    Kind(f"{space} {'full' if full else 'limited'} {pixels}",
         Video(codec=codec, space=space, full=full, pixels=pixels, options=options), colours=2.5)
    for space in ("601", "709", "2020") for full in (False, True)
    for codec, pixels, options in (("libx264", "yuv420p", {"qp": "1"}), ("libx264", "yuv444p", {"qp": "1"}),
                                   ("libx265", "yuv420p10le", {"x265-params": "log-level=none:qp=1"}))
]  # fmt: skip
SHAPES = [
    Kind("turned by 90", Video(matrix=(0, 1, -1, 0)), size=(128, 96)),
    Kind("turned by 180", Video(matrix=(-1, 0, 0, -1)), size=(96, 128)),
    Kind("turned by 270", Video(matrix=(0, -1, 1, 0)), size=(128, 96)),
    Kind("mirrored", Video(matrix=(-1, 0, 0, 1))),
    Kind("upside down", Video(matrix=(1, 0, 0, -1))),
    Kind("transposed", Video(matrix=(0, 1, 1, 0)), size=(128, 96)),
    Kind("wide pixels", Video(aspect=Fraction(4, 3), size=(96, 96)), size=(96, 128)),
    Kind("wide pixels turned", Video(aspect=Fraction(2), size=(96, 64), matrix=(0, 1, -1, 0)), size=(128, 96)),
    Kind("odd sides", Video("a.mkv", codec="ffv1", pixels="yuv444p", options={}, size=(97, 131)), size=(96, 130),
         colours=2),
    Kind("stretched", options={"size": "64x64"}, size=(64, 64)),
    Kind("cropped", options={"size": "64x64", "fit": "crop"}, size=(64, 64), box=(0, -1 / 6, 1, 4 / 3)),
    Kind("padded", options={"size": "64x64", "fit": "pad"}, size=(64, 64), box=(1 / 8, 0, 3 / 4, 1)),
    Kind("enlarged", options={"size": "192x256"}, size=(192, 256)),
    Kind("interlaced", Video(options={"crf": "4", "x264-params": "tff=1"}), said="interlaced"),
    Kind("cover before the video", Video("a.mkv", cover=True)),
    Kind("two videos in a file", Video("a.mkv", second=True), said="holds 2 videos"),
    Kind("transparent", Video("a.mov", codec="png", pixels="rgba", options={}, clear=True), colours=2,
         said="transparent"),
    Kind("HLG", Video(codec="libx265", pixels="yuv420p10le", space="2020", curve=18, options=X265), colours=256,
         said="HLG"),
    Kind("PQ", Video(codec="libx265", pixels="yuv420p10le", space="2020", curve=16, options=X265), colours=256,
         said="PQ"),
]  # fmt: skip
TIMES = [
    Kind("29.97", Video(rate=Fraction(30000, 1001)), fps=29.97),
    Kind("29.97 as 30", Video(rate=Fraction(30000, 1001)), options={"fps": 30.0}, fps=30, said="taken as 30"),
    Kind("milliseconds of mkv at 60", Video("a.mkv", rate=Fraction(60)), fps=60),
    Kind("uneven", Video(times=UNEVEN), refused="give --fps 10"),
    Kind("uneven at 10", Video(times=UNEVEN), options={"fps": 10.0}, numbers=shown(UNEVEN, 10), said="uneven times"),
    Kind("a pause", Video(times=PAUSE), refused="give --fps"),
    Kind("a pause at 10", Video(times=PAUSE), options={"fps": 10.0}, numbers=shown(PAUSE, 10)),
    Kind("tremor of 5 % at 10", Video(times=jitter(0.1, 0.005)), options={"fps": 10.0}, numbers=range(COUNT)),
    Kind("tremor of 0.5 %", Video(times=jitter(0.1, 0.0005))),
    Kind("half the rate", options={"fps": 5.0}, numbers=range(0, COUNT, 2), fps=5),
    Kind("two thirds of the rate", Video(rate=Fraction(30)), options={"fps": 20.0}, fps=20,
         numbers=shown([i / 30 for i in range(COUNT)], 20)),
    Kind("three times the rate", options={"fps": 30.0}, fps=30, numbers=shown([i / 10 for i in range(COUNT)], 30)),
    Kind("edit list", Video(times=EDITED, options=ONE_KEY, container=EDIT), rows=15,
         numbers=range(5, COUNT), actions=lambda n: action(n - 5), said="15 of its 20 stored frames"),
    Kind("edit list, a row for each stored frame",
         Video(times=EDITED, options=ONE_KEY, container=EDIT), rows=COUNT,
         refused="has an edit list"),
    Kind("header a frame off", Video("a.avi", codec="mpeg4", options=MPEG4), more=lambda f: declare(f, COUNT + 1),
         colours=14, said="declares 21 frames and holds 20"),
    Kind("header nine frames off", Video("a.avi", codec="mpeg4", options=MPEG4),
         more=lambda f: declare(f, COUNT + 9), refused="declares 29 frames and holds 20"),
    Kind("late start", Video("a.mkv", times=[3 + 0.1 * i for i in range(COUNT)])),
]  # fmt: skip
TABLES = [
    Kind("one row a frame", rows=COUNT),
    Kind("one row too many", rows=COUNT + 1, refused="20 frames and 21 actions"),
    Kind("one row too few", rows=COUNT - 2, refused="20 frames and 18 actions"),
    Kind("two rows a frame", rows=2 * COUNT, refused="2 rows a frame"),
    Kind("no header", table=rows_text(header=None)),
    Kind("no header, one row a frame", table=rows_text(header=None), rows=COUNT),
    Kind("header of numbers", table=rows_text(header="0,1"), refused="may be names or an action"),
    Kind("header of numbers, one row a frame", table=rows_text(header="0,1"), rows=COUNT, said="read as a header"),
    Kind("mixed header", table=rows_text(header="x,0"), refused="mixes names"),
    Kind("mark of utf-8", table=rows_text("utf-8-sig")),
    Kind("utf-16", table=rows_text("utf-16")),
    Kind("windows-1252", table=rows_text("cp1252", header="größe,y"), said="windows-1252"),
    Kind("semicolons", table=rows_text(header="x;y", comma=";")),
    Kind("decimal commas", table=lambda f, r: (f / "a.csv").write_text(csv_text(r, "x;y", ";").replace(".", ","))),
    Kind("tabs", table=rows_text(header="x\ty", comma="\t")),
    Kind("spaces of numpy", table=rows_text(header="# x y", comma=" ")),
    Kind("empty lines at the end", table=rows_text(after="\n\n  \n")),
    Kind("empty line between", table=spoilt(lambda t: t.replace("\n", "\n\n", 5)), refused="is empty"),
    Kind("delimiter at the end of lines", table=spoilt(lambda t: t.replace("\n", ",\n"))),
    Kind("index of pandas", table=column_text("", str), said="counts time"),
    Kind("time stamps", table=column_text("timestamp", lambda i: f"{1.7e9 + i / 10:.3f}"),
         said="'timestamp' counts time"),
    Kind("text column", table=column_text("phase", lambda i: "ab"[i % 2]), refused="text in column 'phase'"),
    Kind("text column, chosen", table=column_text("phase", lambda i: "ab"[i % 2]), options={"columns": ("x", "y")}),
    Kind("columns in another order", options={"columns": ("y", "x")}, actions=lambda n: action(n)[:, ::-1]),
    Kind("words as columns", table=lambda f,
         r: (f / "a.csv").write_text("k\n" + "\n".join("abc"[i] for i in ONE_HOT)), rows=COUNT,
         options={"one_hot": ("k",)}, actions=one_hot),
    Kind("codes as columns", table=lambda f, r: np.save(f / "a.npy", ONE_HOT), rows=COUNT,
         options={"one_hot": ("action",)}, actions=one_hot),
    Kind("a cell without a value", table=spoilt(lambda t: t + "1,\n"), refused="has no value"),
    Kind("nan", table=lambda f, r: (f / "a.csv").write_text(csv_text(r[1:]) + "nan,1\n"), refused="finite numbers"),
    Kind("npy", table=lambda f, r: np.save(f / "a.npy", r)),
    Kind("npz actions", table=npz(actions=lambda r: r, states=np.zeros((9, 4)))),
    Kind("npz arr_0", table=npz(arr_0=lambda r: r)),
    Kind("npz of two arrays", table=npz(a=lambda r: r, b=lambda r: r), refused="--action-key"),
    Kind("npz by key", table=npz(a=lambda r: -r, b=lambda r: r), options={"action_key": "b"}),
    Kind("complex numbers", table=npz(actions=lambda r: r + 1j), refused="complex64"),
    Kind("width 0", table=npz(actions=lambda r: r[:, :0]), refused="shape"),
    Kind("parquet lists", table=parquet(lambda r: {"action": r.tolist()})),
    Kind("parquet lists of lists", table=parquet(lambda r: {"action": [[[x], [y]] for x, y in r.tolist()]})),
    Kind("parquet columns and time",
         table=parquet(lambda r: {"time": np.arange(len(r)), "x": r[:, 0], "y": r[:, 1]}), said="'time' counts time"),
    Kind("parquet nulls", table=parquet(lambda r: {"action": [None, *r[1:].tolist()]}), refused="lacks a value"),
    Kind("two tables", table=lambda f, r: (plain(f, r), np.save(f / "a.npy", r)), refused="2 action tables"),
    Kind("no table", table=None, refused="--no-actions"),
    Kind("no actions", table=None, options={"no_actions": True}, actions=lambda n: np.zeros((len(n), 1), np.float32)),
    Kind("subfolder", more=lambda f: ((f / "day").mkdir(), [shutil.move(p, f / "day") for p in f.glob("a.*")])),
    Kind("hidden files", more=lambda f: [(f / f"._a.{end}").write_bytes(b"\0\5\26\7") for end in ("mp4", "csv")]),
]  # fmt: skip
DAMAGE = [
    Kind("cut off", more=cut_off("a.mp4", 900), refused="damaged"),
    Kind("cut off with its index", Video(container={"movflags": "faststart"}), more=cut_off("a.mp4", 3000),
         refused="a.mp4"),
    Kind("mkv cut off", Video("a.mkv"), more=cut_off("a.mkv", 2000), refused="a.mkv"),
    Kind("text", more=lambda f: (f / "a.mp4").write_text("no video"), refused="damaged or no video"),
    Kind("a picture", Video(count=1), rows=1, refused="expected 2 or more"),
]  # fmt: skip
KINDS = [*CODECS, *COLOURS, *SHAPES, *TIMES, *TABLES, *DAMAGE]
