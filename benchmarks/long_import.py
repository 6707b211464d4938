"""The memory that an import takes: videos of 640x480 that last from six minutes to an hour.

    python benchmarks/long_import.py --out benchmarks/long_import.json

A minute is encoded once and its packets are repeated, so making an hour costs no hour. Each import is a process of its
own, `videowm import`, whose largest resident memory the system tells.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
from imports import picture

from videowm.data.dataset import Dataset
from videowm.files import write_json

SIZE, RATE = (480, 640), 10


def minute(path: Path) -> None:
    """A minute of moving noise and counted frames."""
    noise = np.random.default_rng(0).integers(0, 60, (*SIZE, 3), np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "bf": "0", "crf": "23"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(60 * RATE):
            frame = picture(number % 256, SIZE) // 2 + np.roll(noise, number, axis=1)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())


def repeat(path: Path, source: Path, minutes: int) -> None:
    """The packets of a video, again and again."""
    with av.open(str(path), "w") as out, av.open(str(source)) as one:
        stream = out.add_stream_from_template(one.streams.video[0])
        ticks = int(60 / one.streams.video[0].time_base)
        for number in range(minutes):
            one.seek(0)
            for packet in one.demux(one.streams.video[0]):
                if packet.pts is not None:
                    packet.stream = stream
                    packet.pts, packet.dts = packet.pts + number * ticks, packet.dts + number * ticks
                    out.mux(packet)


CODE = """
import sys
from videowm import api
api.import_(sys.argv[1], sys.argv[2], api.ImportOptions(size=sys.argv[3]))
print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))
"""


def measure(folder: Path, source: Path, minutes: int, size: str) -> dict[str, Any]:
    """Import one video in a process of its own."""
    src, out = folder / f"src{minutes}-{size}", folder / f"out{minutes}-{size}"
    src.mkdir()
    repeat(src / "a.mp4", source, minutes)
    frames = minutes * 60 * RATE
    np.save(src / "a.npy", np.sin(np.arange(frames - 1)))
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", CODE, src, out, size], capture_output=True, text=True, check=True)
    seconds, data = time.monotonic() - began, Dataset(out)
    found = data.all_actions(0)[:-1, 0]
    right = data.lengths.tolist() == [frames] and bool(np.allclose(found, np.sin(np.arange(frames - 1)), atol=1e-6))
    return {"minutes": minutes, "frames": frames, "size": size, "peak MB": int(ended.stdout.split()[-1]) // 1024,
            "seconds": round(seconds), "MB": (src / "a.mp4").stat().st_size // 10**6, "right": right}  # fmt: skip


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print a table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--minutes", type=int, nargs="+", default=[6, 60])
    parser.add_argument("--keep", type=int, default=1, help="minutes of the video whose size is kept; 0: none")
    options, rows = parser.parse_args(argv), []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "minute.mp4"
        minute(source)
        plan = [(minutes, "64") for minutes in options.minutes] + [(options.keep, "keep")] * bool(options.keep)
        for minutes, size in plan:
            rows.append(measure(Path(folder), source, minutes, size))
            print(rows[-1], flush=True)
    if options.out:
        write_json(options.out, {"video": "640x480, 10 frames a second, H.264", "rows": rows})
    return rows


if __name__ == "__main__":
    sys.exit(not all(row["right"] for row in main()))
