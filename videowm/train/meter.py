"""How fast a run is: tokens and samples a second, MFU, the share of time spent waiting for data, peak memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from videowm.record import RunRecord
from videowm.train.flops import peak_flops

T = TypeVar("T")
WARMUP = 3  # first steps of a call that are in no rate: they compile, allocate and start workers


@dataclass
class Span:
    """Steps, the seconds that they took and those of them that were spent waiting for data."""

    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0


class Meter:
    """Measures a run over the steps since the last reading, and over all of its steps.

    In both, the first `WARMUP` steps of each call are left out, and so is the time in which checkpoints are written.
    On a GPU the host runs ahead of the device, so readings are to be taken where the two have just met.

    Args:
        samples: global batch; `tokens` and `flops` of a step of it, where they are counted.
    """

    def __init__(self, device: torch.device, processes: int, samples: int, tokens: int | None, flops: float | None):
        self.device, self.processes = device, processes
        self.samples, self.tokens, self.flops = samples, tokens, flops
        self.since, self.whole = Span(), Span()
        self.done, self.at = 0, time.perf_counter()

    def batches(self, batches: Iterable[T]) -> Iterator[T]:
        """Pass `batches` on; until the next one is there, the run waits."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.add(waited=time.perf_counter() - asked)
            yield batch

    def step(self) -> None:
        """A step ended (on a GPU its work may still be queued)."""
        self.add(steps=1, seconds=self.lap())
        self.done += 1
        if self.done == WARMUP:
            synchronize(self.device)
            self.leave_out()

    def leave_out(self) -> None:
        """Leave the time since the last step out of all rates: in it a checkpoint was written, or the like."""
        self.lap()

    def lap(self) -> float:
        before, self.at = self.at, time.perf_counter()
        return self.at - before

    def add(self, **more: float) -> None:
        if self.done >= WARMUP:
            for span in (self.since, self.whole):
                for name, value in more.items():
                    setattr(span, name, getattr(span, name) + value)

    def read(self) -> dict[str, float | None]:
        """The rates since the last reading."""
        span, self.since = self.since, Span()
        return self.rates(span)

    def rates(self, span: Span) -> dict[str, float | None]:
        """`tokens_per_second` (processed), `samples_per_second`, `mfu`, `wait` (share of the time) and `memory_gib`;
        None where it is not known."""
        rate = span.steps / span.seconds if span.seconds else None
        return {
            "samples_per_second": rate and rate * self.samples,
            "tokens_per_second": rate and self.tokens and rate * self.tokens,
            "mfu": rate and self.mfu(rate),
            "wait": rate and span.waited / span.seconds,
            "memory_gib": peak_memory(self.device),
        }

    def mfu(self, steps_per_second: float) -> float | None:
        """Share of the devices' dense bf16 peak; None where the peak or the FLOPs are not known."""
        if not self.flops or self.device.type != "cuda":
            return None
        peak = peak_flops(torch.cuda.get_device_name(self.device))
        return peak and self.flops * steps_per_second / (peak * self.processes)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> float | None:
    """GiB allocated at most on a GPU, else resident at most of the process; None on Windows, where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def in_words(record: RunRecord) -> str:
    """The last line of a run on the terminal."""
    speed = [f"{record.steps:,} steps in {record.wall_seconds:,.0f} s"]
    rates = {"{:,.0f} tokens/s": record.tokens_per_second, "{:,.1f} samples/s": record.samples_per_second,
             "MFU {:.1%}": record.mfu}  # fmt: skip
    speed += [text.format(rate) for text, rate in rates.items() if rate]
    if record.wait is not None:
        speed.append(f"{record.wait:.1%} of the time waiting for data")
    memory = "" if record.memory_gib is None else f", {record.memory_gib:.2f} GiB at most"
    return f"{record.name}: {', '.join(speed)}{memory}, on {record.device}"
