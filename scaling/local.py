"""Run what is missing on this machine, several points at once: each ends exactly once however often it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from scaling import dispatch
from scaling.point import Point, SweepConfig
from videowm.types import UserError

POLL = 0.2  # s between two looks at the processes
REDRAW = 1.0  # s between two looks at the points' own progress
GRACE = 20.0  # s that the processes of a point have to end after SIGTERM
PATIENCE = 5.0  # s until a point that another process has is spoken of
TAIL = 12  # lines of a failed point's log that are shown


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them. A subprocess counts them with torch."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    if not any(next(Path("/dev").glob(name), None) for name in ("nv*", "kfd", "dxg")):
        return []  # without a driver's device file there is no GPU, and torch, which takes seconds, is not needed
    count = subprocess.run([sys.executable, "-c", "import torch; print(torch.cuda.device_count())"],
                           stdout=subprocess.PIPE, text=True, check=False).stdout  # fmt: skip
    return [str(index) for index in range(int(count or 0))]


def share_gpus(gpus: list[str], jobs: int | None, each: int) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of every slot, `each` GPUs a point, round robin; None: as it is.

    Without `jobs`, as many slots as the GPUs give, at least one.
    """
    count = jobs or max(1, len(gpus) // each)
    if count == 1 or not gpus:
        return [None] * count
    return [",".join(gpus[(slot * each + i) % len(gpus)] for i in range(min(each, len(gpus)))) for slot in range(count)]


@dataclass
class Try:
    """One running try of a point."""

    point: Point
    process: subprocess.Popen
    slot: int
    logged: int  # bytes of the log that were there before
    began: float = field(default_factory=time.monotonic)

    def end(self) -> None:
        """End every process of the point, gently at first."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)

    def wait(self, until: float) -> None:
        """Wait for all its processes, at the time `until` kill what is left."""
        with suppress(ProcessLookupError):
            while time.monotonic() < until:
                self.process.poll()
                os.killpg(self.process.pid, 0)
                time.sleep(0.05)
        self.sweep()

    def sweep(self) -> None:
        """Kill what outlives its launcher: a worker whose launcher of accelerate was killed."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class StopOnSignal:
    """Whether the user or the system asked to stop (SIGINT, SIGTERM, SIGHUP); a signal never hits between two lines."""

    def __enter__(self) -> StopOnSignal:
        self.asked = False
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        handled = [number for number in signals if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
        self.before = {number: signal.signal(number, self.ask) for number in handled}
        return self

    def ask(self, *_) -> None:
        self.asked = True

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


class Launcher:
    """Starts points in free slots, tries failed ones again, and shows how far they are."""

    def __init__(self, points: list[Point], retries: int, slots: list[str | None]) -> None:
        """Nothing starts yet.

        Raises:
            UserError: this system knows no groups of processes.
        """
        if not hasattr(os, "killpg"):
            raise UserError("a sweep ends each of its runs as a group of processes, which this system does not know: "
                            "run it in WSL, or train its points with videowm train")  # fmt: skip
        self.points, self.retries, self.slots = points, retries, slots
        self.todo = [point for point in points if not dispatch.done(point)]
        self.running: list[Try] = []
        self.tries: dict[str, tuple[int, int]] = {}  # name -> step reached, failed tries since
        self.given_up: set[str] = set()
        self.seen_elsewhere: dict[str, float] = {}
        self.bar = tqdm(total=sum(p.spent for p in points), initial=sum(map(dispatch.spent, points)), unit="FLOP",
                        unit_scale=True, smoothing=0, desc=self.title(), disable=None)  # fmt: skip
        self.drawn = time.monotonic()

    def unfinished(self) -> list[Point]:
        return [*self.todo, *(one.point for one in self.running)]

    def title(self) -> str:
        ended = len(self.points) - len(self.unfinished()) - len(self.given_up)
        return f"{ended}/{len(self.points)} points"

    def say(self, text: str, file=None) -> None:
        self.bar.write(text, file=file or sys.stdout)
        (file or sys.stdout).flush()

    def step(self) -> bool:
        """Look after what runs, start what can be started; False when nothing is left to wait for."""
        for one in [one for one in self.running if one.process.poll() is not None]:
            self.ended(one)
        waits = False
        for point in list(self.todo):
            if len(self.running) < len(self.slots):
                waits |= self.begin(point)
        if time.monotonic() - self.drawn > REDRAW:
            self.draw()
        return bool(self.running or waits)

    def begin(self, point: Point) -> bool:
        """Start a point if that is possible now; whether the launcher should try again later."""
        if point.after in {other.name for other in self.unfinished()} | self.given_up:
            return False
        file = dispatch.claim(point)
        if file is None:
            self.wait_for_another(point)
            return True
        with file:
            self.seen_elsewhere.pop(point.name, None)
            self.todo.remove(point)
            if dispatch.done(point):  # by another launcher
                return True  # for others may have waited for it
            self.start(point, file)
        return False

    def wait_for_another(self, point: Point) -> None:
        """Print once, after a while, that another process has the point."""
        since = self.seen_elsewhere.setdefault(point.name, time.monotonic())
        if time.monotonic() - since > PATIENCE:
            self.say(f"waiting   {point.name}: another process trains it")
            self.seen_elsewhere[point.name] = float("inf")

    def start(self, point: Point, log: BinaryIO) -> None:
        """Launch the processes of a point in a free slot; they hold the lock of its log."""
        before, busy = log.tell(), {one.slot for one in self.running}
        slot = next(slot for slot in range(len(self.slots)) if slot not in busy)
        gpu = {} if self.slots[slot] is None else {"CUDA_VISIBLE_DEVICES": self.slots[slot]}
        process = subprocess.Popen(dispatch.launch_command(point.config), stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=log, env=os.environ | dispatch.threads(len(self.slots)) | gpu,
                                   process_group=0)  # fmt: skip
        self.running.append(Try(point, process, slot, before))
        where = f", GPU {self.slots[slot]}" if gpu else ""
        self.say(f"started   {point.name}: {point.spent:.3g} FLOPs, {point.steps:,} steps{where}")

    def ended(self, one: Try) -> None:
        """A try is over: the point is done, is tried again, or has failed for good."""
        one.sweep()
        self.running.remove(one)
        point, code = one.point, one.process.returncode
        if dispatch.done(point):
            self.draw()
            share = self.bar.n / self.bar.total
            why = dispatch.stopped(point)
            how = f"stopped   {point.name} by its {why}" if why else f"finished  {point.name}"
            self.say(f"{how} in {time.monotonic() - one.began:.0f} s: {self.title()}, {share:.0%} of FLOPs")
        elif dispatch.held(point.run):  # somebody else was faster
            self.todo.append(point)
        else:
            self.failed(one, code)

    def failed(self, one: Try, code: int) -> None:
        """Count it; a try that got further than the one before it begins the count anew, so a kill costs none."""
        point, now = one.point, dispatch.reached(one.point)
        before, count = self.tries.get(point.name, (0, 0))
        count = 1 if now > before else count + 1
        self.tries[point.name] = (now, count)
        dispatch.note_failure(point, code)
        again = count <= self.retries
        if again:
            self.todo.append(point)
        else:
            self.given_up.add(point.name)
        what = "tried again" if again else "given up until the next call"
        self.say(
            f"failed    {point.name} with exit code {code}, {what}; the end of {dispatch.log_of(point)}:", sys.stderr
        )
        self.say(last_lines(dispatch.log_of(point), one.logged), sys.stderr)

    def draw(self) -> None:
        self.drawn = time.monotonic()
        self.bar.set_description(self.title(), refresh=False)
        left = sum(point.spent - dispatch.spent(point) for point in self.unfinished())
        self.bar.n = self.bar.total - left
        self.bar.refresh()

    def close(self) -> None:
        """End what runs, as a whole and not one after the other."""
        for one in self.running:
            one.end()
        until = time.monotonic() + GRACE
        for one in self.running:
            one.wait(until)
        if self.todo or self.running:
            self.draw()
        self.bar.close()


def last_lines(path: Path, offset: int) -> str:
    """The end of what the last try wrote, without progress bars."""
    text = path.read_bytes()[offset:].decode(errors="replace").replace("\r", "\n")
    lines = [line for line in text.splitlines() if line.strip() and "%|" not in line]
    return "\n".join(f"  | {line}" for line in lines[-TAIL:]) or "  | (nothing)"


def run(points: list[Point], sweep: SweepConfig, jobs: int | None = None) -> int:
    """Run every point that has no record, several at once; return how many are not done."""
    each = dispatch.processes()
    with StopOnSignal() as stop:
        gpus = [] if jobs == 1 else visible_gpus()  # without a choice nothing is chosen
        launcher = Launcher(points, sweep.retries, share_gpus(gpus, jobs, each))
        try:
            while launcher.step() and not stop.asked:
                time.sleep(POLL)
        finally:
            launcher.close()
    left = sum(not dispatch.done(point) for point in points)
    if left and stop.asked:
        raise KeyboardInterrupt
    return left
