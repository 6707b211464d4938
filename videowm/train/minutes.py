"""`train.minutes`: as many steps as this machine does in that time, found once, when the run begins."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from torch import Tensor

from videowm import config as configuration
from videowm.train import optim, trunk
from videowm.train.meter import WARMUP
from videowm.types import UserError

MINUTES, STEPS = "train.minutes", "train.steps"
SHARE, LONGEST = 0.05, 10.0  # of the minutes, and s: how long steps are timed
LAPS = 5  # at least, where steps are fast enough


def settle(config: Any, path: Path, overrides: list[str]) -> tuple[Any, bool]:
    """The configuration that `overrides` make of the file, and whether its number of steps is still to be measured.

    It is not where an earlier call of the run found it. The command line outdoes the file. A file that has both keys
    holds a number that was found: it is a run's config.yaml.

    Raises:
        UserError: the command line gives both minutes and steps.
    """
    train = config.train
    if train.minutes is None:
        return config, False
    ours, theirs = given(overrides), configuration.flatten(configuration.read(path))
    if {MINUTES, STEPS} <= ours:
        raise UserError(f"{MINUTES} {train.minutes:g} and {STEPS} {train.steps} both set the run's length: give one")
    if STEPS in ours:
        return replace(config, train=replace(train, minutes=None)), False
    if MINUTES not in ours and STEPS in theirs:
        return config, False
    before = Path(config.out) / "config.yaml"
    if not before.exists():
        return config, True
    return replace(config, train=replace(train, steps=trunk.completed(before)["train"]["steps"])), False


def given(overrides: list[str]) -> set[str]:
    """The dotted keys below `train` that overrides set."""
    data: dict[str, Any] = {}
    for text in overrides:
        if text.partition("=")[0].split(".")[0] == "train":
            configuration.apply_override(data, text)
    return set(configuration.flatten(data))


def measure(run: Any) -> tuple[int, float]:
    """The steps that fit into the rest of the minutes, the same in every process, and how many a second do.

    Real training steps are timed: at a rate of 0, and of a number at which every part of the loss has begun. The first
    ones, which compile and warm up, count as time but not as speed. Then weights and optimiser are as before.

    Args:
        run: a `videowm.train.loop.Run` that has not begun; its configuration has minutes.

    Raises:
        UserError: no time is left for a step.
    """
    began, config = time.perf_counter(), run.config
    seconds = 60 * config.minutes
    limit = min(LONGEST, SHARE * seconds)
    before = {name: value.to("cpu", copy=True) for name, value in run.task.model.state_dict().items()}
    run.config, run.step = replace(config, steps=10**9, lr=0.0), config.steps
    batches = run.batches()
    first = [lap(run, batches, 1) for _ in range(WARMUP)]
    size = max(1, min(config.log_every, int(limit / LAPS / first[-1])))
    laps = [lap(run, batches, size)]
    while sum(laps) < limit:
        laps.append(lap(run, batches, size))
    batches.close()
    run.task.model.load_state_dict(before)
    run.optimizer.optimizer.state.clear()
    run.guard = optim.Guard(run.optimizer.optimizer, run.accelerator.device)
    run.config, run.step = config, 0
    rate = size / statistics.median(laps)
    spent = agreed(time.perf_counter() - began)
    steps = int((seconds - spent) * rate)
    if steps < 1:
        raise UserError(f"{MINUTES} {config.minutes:g} is over after the first steps, which took {spent:.0f} s: give "
                        "more")  # fmt: skip
    return steps, rate


def lap(run: Any, batches: Iterator[list[dict[str, Tensor]]], steps: int) -> float:
    """Seconds of some steps, of which the last is read as a logged one is: that waits for the device."""
    began = time.perf_counter()
    for _ in range(steps):
        metrics = run.update(next(batches))
    run.means(metrics)
    return agreed(time.perf_counter() - began)


def agreed(seconds: float) -> float:
    """The first process's number, in every process."""
    return broadcast_object_list([seconds])[0]
