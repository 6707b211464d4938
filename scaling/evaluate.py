"""Measure all finished runs of a sweep later: heads where decisions are asked for, then `videowm evaluate`."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

from tqdm import tqdm

from scaling import dispatch
from scaling.local import share_gpus, visible_gpus
from scaling.point import Point
from videowm.files import write_atomic
from videowm.options import EvaluateOptions
from videowm.types import UserError

HEADS = "configs/heads/base.yaml"
Start = Callable[[list[str], Path, dict[str, str]], int]  # words after `videowm`, log, environment -> exit code


def start(words: list[str], log: Path, environment: dict[str, str]) -> int:
    """Run `videowm` with these words in a process of its own; its output is added to the log."""
    with log.open("ab") as file:
        return subprocess.run([sys.executable, "-m", "videowm", *words], stdout=file, stderr=subprocess.STDOUT,
                              env=environment, check=False).returncode  # fmt: skip


def commands(point: Point, options: EvaluateOptions, out: Path, heads: Sequence[str]) -> list[list[str]]:
    """What is missing of a point's measurement, as words after `videowm`; nothing where it was so measured before."""
    found, asked = [], ["evaluate", f"{point.run}", *given(options)]
    if options.decisions and not (point.run / "heads/config.json").exists():
        found.append(["train", HEADS, f"world={point.run}", f"out={out / 'heads' / point.name}", *heads])
    before, there = asked_of(point), (point.run / "evaluation.json").exists()
    if found or not there or not before.exists() or before.read_text() != "\n".join(asked):
        found.append(asked)
    return found


def asked_of(point: Point) -> Path:
    """The file that says with which words a point was measured."""
    return point.run / "evaluate.words"


def given(options: EvaluateOptions) -> list[str]:
    """The options that are not the default ones, as a command line has them."""
    words = []
    for field in fields(options):
        value = getattr(options, field.name)
        if value != field.default:
            many = value if isinstance(value, tuple) else (value,)
            words += [f"--{field.name.replace('_', '-')}", *map(str, many)]
    return words


def evaluate(
    points: Sequence[Point], options: EvaluateOptions, out: Path, *, jobs: int | None = None,
    heads: Sequence[str] = (), begin: Start = start,
) -> list[str]:  # fmt: skip
    """Measure every finished point that was not measured so yet, the largest first; sentences on those that failed.

    The same call again goes on; one with other options measures anew. What is printed is in RUN/evaluate.log.

    Args:
        points: of a sweep; unfinished ones and trunks are left out.
        options: of each measurement.
        out: the sweep's folder.
        jobs: measurements at once; None: one a GPU.
        heads: overrides of configs/heads/base.yaml.
        begin: how a command is run.

    Raises:
        UserError: no point is finished.
    """
    there = [point for point in points if dispatch.done(point) and not dispatch.stopped(point) and not point.branches]
    if not there:
        raise UserError(f"{out} has no finished point to measure: python -m scaling run first")
    todo = [(point, words) for point in there if (words := commands(point, options, out, heads))]
    slots: queue.Queue[str | None] = queue.Queue()
    for gpu in share_gpus(visible_gpus(), jobs, 1):
        slots.put(gpu)
    cores = dispatch.threads(slots.qsize())

    def measure(job: tuple[Point, list[list[str]]]) -> str | None:
        point, several = job
        gpu, log = slots.get(), point.run / "evaluate.log"
        try:
            environment = os.environ | cores | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
            if any(begin(words, log, environment) for words in several):
                return f"{point.name} failed: {last_line(log)}"
            write_atomic(asked_of(point), "\n".join(several[-1]).encode())
            return None
        finally:
            slots.put(gpu)

    order = sorted(todo, key=lambda job: -job[0].flops)
    pool = ThreadPoolExecutor(slots.qsize())
    try:
        bar = tqdm(pool.map(measure, order), total=len(order), desc="measured", unit="point", dynamic_ncols=True)
        return [sentence for sentence in bar if sentence]
    finally:  # of an interrupted call no further point begins
        pool.shutdown(cancel_futures=True)


def last_line(log: Path) -> str:
    """The end of a log that may not be there."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else f"{log} says nothing"
