"""Trunks and branches (warmup-stable-decay, arXiv 2405.18392): one long run at a constant rate, cooled down many times.

A trunk keeps the checkpoints at which branches leave. A branch starts from one of them, goes on with the same order of
data and cools down: on a CPU it is, bit for bit, the run that would have been trained in one go.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videowm import config as configuration
from videowm.config import flatten
from videowm.train import checkpoint, kept, registry
from videowm.train.config import FREE, StartConfig
from videowm.types import UserError

# What sets a branch apart from its trunk.
PRECISION = "train.precision"
OF_A_BRANCH = frozenset(["budget", *(f"train.{key}" for key in ("steps", "cooldown", "trunk", "start", "start.step"))])


def first_difference(run: Path, resolved: dict[str, Any], free: frozenset[str]) -> tuple[str, Any, Any] | None:
    """The first key outside `free` whose value in the configuration of `run` is another: key, there, here.

    A setting that did not exist yet when `run` was made has its default there. The precision of a run that was made
    before it was kept, or that is only planned, is "auto", which agrees with both.
    """
    theirs, ours = flatten(completed(run / "config.yaml")), flatten(resolved)
    if "auto" in (theirs.get(PRECISION), ours.get(PRECISION)):
        free = free | {PRECISION}
    keys = sorted((set(theirs) | set(ours)) - free)
    return next(((k, theirs.get(k), ours.get(k)) for k in keys if theirs.get(k) != ours.get(k)), None)


def completed(path: Path) -> dict[str, Any]:
    """The configuration of a run, with today's defaults of settings that it does not hold."""
    return configuration.to_dict(registry.load(path))


def origin(start: StartConfig, resolved: dict[str, Any], cooldown_from: int) -> Path:
    """The trunk's checkpoint that a branch starts from.

    Raises:
        UserError: there is none, the trunk was trained otherwise, or the step lies within the cooldown.
    """
    run, found = Path(start.run), kept.at(Path(start.run) / "checkpoints", start.step)
    if not (run / "config.yaml").exists():
        raise UserError(f"train.start.run {run} holds no run (no config.yaml): train the trunk first")
    if differs := first_difference(run, resolved, FREE | OF_A_BRANCH):
        key, there, here = differs
        raise UserError(
            f"the trunk {run} was trained otherwise: {key} is {there!r} there and {here!r} here; a branch differs in "
            "its length and cooldown only"
        )
    if start.step > cooldown_from:
        raise UserError(
            f"train.start.step {start.step} lies within the cooldown, which begins at step {cooldown_from}: start "
            "there or before"
        )
    if found is None or not checkpoint.intact(found):
        raise UserError(
            f"{run} keeps no intact checkpoint of step {start.step}: add the step to its train.keep_at and train it "
            "again, which goes back as far as needed"
        )
    return found


def kept_before(out: Path) -> list[int]:
    """The steps whose checkpoints an earlier call of this run was to keep."""
    path = out / "config.yaml"
    return completed(path)["train"]["keep_at"] if path.exists() else []
