"""Chains of commands, each run once its inputs are there: what the long studies of this folder are made of.

OUT/done names what ended well, and every command resumes by itself, so the same call goes on after any interruption.
Stages that need a GPU take one of the slots, round robin over the GPUs there are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from scaling.local import StopOnSignal, share_gpus, visible_gpus
from videowm.files import write_json

ROOT = Path(__file__).parents[1]
POLL = 0.2  # s


def options(description: str | None) -> argparse.ArgumentParser:
    """A command line with what every chain takes."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--out", type=Path, required=True)
    found.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that play (default: cores)")
    found.add_argument("--jobs", type=int, help="stages at once (default: one a GPU)")
    found.add_argument("--tiny", action="store_true", help="all of it, tiny, on a CPU")
    return found


@dataclass(frozen=True)
class Stage:
    """One command: `python -m ARGUMENTS`, or `python FILE ...` where the first one is a file of this folder."""

    name: str
    arguments: list[str]
    needs: tuple[str, ...] = ()  # names of stages
    gpu: bool = True
    after: Callable[[], None] | None = None  # once it has ended well, before it counts as done

    @property
    def file(self) -> str:
        return self.name.replace(" ", "-")

    @property
    def command(self) -> list[str]:
        first, *rest = self.arguments
        return [sys.executable, str(ROOT / "benchmarks" / first) if first.endswith(".py") else f"-m{first}", *rest]


def run(stages: list[Stage], out: Path, jobs: int | None = None) -> Iterator[tuple[str, float]]:
    """Run what is not done, in order as far as inputs and GPUs allow: yield (stage, seconds) of what ended well.

    Output goes to OUT/logs. A stage that fails is named with its last lines, and what needs it is left out.
    """
    slots, waiting = share_gpus(visible_gpus(), jobs, 1), [s for s in stages if not (out / "done" / s.file).exists()]
    unmet = {stage.name for stage in waiting}
    running: dict[str, tuple[Stage, subprocess.Popen, str | None, float]] = {}
    for folder in ("logs", "done"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    with StopOnSignal() as stop:
        try:
            while (waiting or running) and not stop.asked:
                for stage in list(waiting):
                    if unmet & set(stage.needs) or (stage.gpu and not slots):
                        continue
                    slot = slots.pop(0) if stage.gpu else None
                    waiting.remove(stage)
                    running[stage.name] = stage, begin(stage, out, slot), slot, time.perf_counter()
                for name, (stage, process, slot, began) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[name]
                    slots += [slot] if stage.gpu else []
                    took = time.perf_counter() - began
                    print(f"{name:32s} {took:6.1f} s  exit {process.returncode}", flush=True)
                    if process.returncode:
                        print(log_of(out, stage).read_text(errors="replace")[-1500:], flush=True)
                        continue
                    if stage.after:
                        stage.after()
                    (out / "done" / stage.file).touch()
                    unmet.remove(name)
                    yield name, round(took, 1)
                if not running and all(unmet & set(stage.needs) for stage in waiting):
                    break
                time.sleep(POLL)
        finally:  # also where what is yielded to fails
            for _, process, *_ in running.values():
                process.terminate()
            for _, process, *_ in running.values():
                process.wait()
    if left := [*running, *(stage.name for stage in waiting)]:
        print("not run to the end: " + ", ".join(left), flush=True)


def begin(stage: Stage, out: Path, slot: str | None) -> subprocess.Popen:
    environment = os.environ | ({} if slot is None else {"CUDA_VISIBLE_DEVICES": slot})
    with log_of(out, stage).open("ab") as log:
        return subprocess.Popen(stage.command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                env=environment)  # fmt: skip


def log_of(out: Path, stage: Stage) -> Path:
    return out / "logs" / f"{stage.file}.log"


def write_summary(path: Path, seconds: dict[str, float], numbers: dict[str, dict]) -> None:
    """Seconds of every stage so far, earlier calls' too, and the numbers that came out."""
    before = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, {"seconds": before.get("seconds", {}) | seconds, "numbers": numbers})
