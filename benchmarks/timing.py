"""Timing, tables and results that survive a cut-off, for the benchmarks of this folder."""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

BEGAN = time.perf_counter()
CALL = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def say(text: str) -> None:
    """One line of progress with the seconds since the start."""
    print(f"[{time.perf_counter() - BEGAN:5.0f} s] {text}", flush=True)


def parser(doc: str, sizes: list[str], models: list[str]) -> argparse.ArgumentParser:
    """The options that the benchmarks share."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", nargs="+", default=sizes[1:], choices=sizes, help="default: all but tiny")
    options.add_argument("--tokens", nargs="+", type=int, default=[64, 256], help="tokens of a latent step")
    options.add_argument("--models", nargs="+", default=models, choices=models)
    options.add_argument("--again", nargs="+", default=[], choices=models, help="measure these anew, also if in --out")
    options.add_argument("--seconds", type=float, default=1.0, help="timed at least, after warm-up")
    options.add_argument("--stop-after", type=float, help="start nothing more after these seconds; the table comes")
    options.add_argument("--out", type=Path, help="JSON, saved after every row; rows already there are not run again")
    options.add_argument("--eager", action="store_true", help="compile nothing (always so on a CPU)")
    return options


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"


def versions() -> str:
    found = {d.name: d.version for d in importlib.metadata.distributions(name="triton")}  # comes with torch for CUDA
    found |= {name: importlib.metadata.version(name) for name in ("torch", "diffusers")}
    return ", ".join([f"Python {platform.python_version()}", *(f"{n} {found[n]}" for n in sorted(found))])


def command() -> str:
    return " ".join(["python", *sys.argv])


@dataclass(frozen=True)
class Times:
    """Milliseconds a step, and what came before."""

    ms: float  # median
    ms_min: float
    ms_mean: float  # the whole stretch by the clock on the wall, over its steps
    timed: int  # steps
    first_s: float  # the first step, compilation included


def measure(step: Callable[[], object], seconds: float, *, warmup: int = 10) -> Times:
    """Time `step` over at least `seconds` after `warmup` steps, by CUDA events where there is a GPU.

    Nothing waits for the GPU in between: an event follows each step, and they are read at the end.
    """
    on_gpu = torch.cuda.is_available()
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    start = time.perf_counter()
    step()
    wait()
    first, start = time.perf_counter() - start, time.perf_counter()
    for _ in range(warmup):
        step()
    wait()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    count = max(3, round(1.05 * seconds * warmup / (time.perf_counter() - start)))
    marks, start = [], time.perf_counter()
    for i in range(count + 1):
        if on_gpu:
            marks.append(torch.cuda.Event(enable_timing=True))
            marks[-1].record()
        else:
            marks.append(1e3 * time.perf_counter())
        if i < count:
            step()
    wait()
    mean = 1e3 * (time.perf_counter() - start) / count
    each = [a.elapsed_time(b) if on_gpu else b - a for a, b in zip(marks, marks[1:])]
    return Times(statistics.median(each), min(each), mean, count, first)


def kernels(step: Callable[[], object], count: int, steps: int = 3) -> str:
    """A table of the `count` kernels that take the most time, over `steps` steps."""
    on_gpu = torch.cuda.is_available()
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA if on_gpu else activity.CPU]) as profile:
        for _ in range(steps):
            step()
        if on_gpu:
            torch.cuda.synchronize()
    rows = profile.key_averages()
    spent = {r.key: (r.self_device_time_total if on_gpu else r.self_cpu_time_total) / 1e3 / steps for r in rows}
    calls, total = {r.key: r.count / steps for r in rows}, sum(spent.values())
    top = sorted(spent, key=spent.get, reverse=True)[:count]
    lines = [f"  {spent[k]:8.3f} ms {spent[k] / total:6.1%} {calls[k]:6.0f} x  {k[:90]}" for k in top]
    return "\n".join([f"  {total:8.3f} ms a step in all kernels", *lines])


def matmul_tflops(size: int = 8192) -> float | None:
    """TFLOP/s of one large bf16 matrix product of random numbers: what this very card gives today."""
    if not torch.cuda.is_available():
        return None
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2e-9 * size**3 / measure(lambda: a @ b, 0.5).ms


def free() -> None:
    """Give back what a model held, its compiled code included."""
    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_gib() -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


class Results:
    """Rows in a JSON file, each under a key of its first columns and the device."""

    def __init__(self, path: Path | None, keys: tuple[str, ...]) -> None:
        self.path, self.keys = path, (*keys, "device")
        self.rows: list[dict] = json.loads(path.read_text()) if path and path.exists() else []

    def key(self, row: dict) -> tuple:
        return tuple(row.get(name) for name in self.keys)

    def has(self, row: dict) -> bool:
        """Whether it was measured on this device; a row that failed is tried again."""
        return any(self.key(r) == self.key(row) and "error" not in r for r in self.rows)

    def add(self, row: dict) -> None:
        """Put a row in the place of the one with its key, and save all: written aside, then renamed."""
        self.rows = [r for r in self.rows if self.key(r) != self.key(row)] + [row]
        if self.path:
            aside = self.path.with_name(self.path.name + ".new")
            aside.write_text(json.dumps(self.rows, indent=1))
            os.replace(aside, self.path)


def attempt(
    results: Results, row: dict, measured: Callable[[], dict], options: argparse.Namespace, *, fresh: bool = True
) -> None:
    """Fill in one row unless it is there already or time is up; what fails becomes a row with its error.

    `fresh` forgets before what earlier rows have compiled.
    """
    row = row | {"device": device_name()}
    name = " ".join(str(row[key]) for key in results.keys[:-1])
    if results.has(row) and row["model"] not in options.again:
        say(f"{name}: already in {results.path}")
        return
    if options.stop_after and time.perf_counter() - BEGAN > options.stop_after:
        say(f"{name}: left out, {options.stop_after:.0f} s are over")
        return
    say(f"{name} ...")
    if fresh:
        free()
    try:
        row |= measured()
    except Exception as error:  # noqa: BLE001 - one model's failure must not cost the others' rows
        row["error"] = f"{type(error).__name__}: {str(error).strip()}"[:2000]
        say(f"{name} failed: {row['error']}")
    results.add(row | {"call": CALL, "versions": versions(), "command": command()})


def markdown(rows: list[dict], columns: dict[str, tuple[str, str]]) -> str:
    """A table of `columns`: name in the row -> (title, format)."""

    def cell(row: dict, name: str, form: str) -> str:
        if row.get(name) is None:
            return row["error"].splitlines()[0][:60] if name == "ms" and "error" in row else "-"
        return format(row[name], form)

    titles = [title for title, _ in columns.values()]
    lines = [titles, ["---"] * len(titles)]
    lines += [[cell(row, name, form) for name, (_, form) in columns.items()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def opening() -> float | None:
    """Say what this runs on; TFLOP/s of a large matrix product, on a GPU."""
    rate = matmul_tflops()
    say(f"{device_name()}; {versions()}" + (f"; 8192^3 bf16 matmul {rate:.0f} TFLOP/s" if rate else ""))
    return rate


def report(results: Results, columns: dict, verdicts: Callable[[list[dict]], list[str]]) -> list[dict]:
    """Print table and verdicts over all rows of this device; return them."""
    free()
    rows = [row for row in results.rows if row["device"] == device_name()]
    print(f"\n`{command()}`\n{device_name()}; {versions()}\n")
    print(markdown(rows, columns), *verdicts(rows), sep="\n")
    return rows


def apart(row: dict, other: dict) -> str:
    """A remark where two rows do not come from one call."""
    return "" if row["call"] == other["call"] else " (measured in another call)"


def bar(text: str, value: float, least: float) -> str:
    """One line about one bar."""
    return f"- {text}: **{value:.4g}**, bar {least:g}: {'reached' if value >= least else 'not reached'}"
