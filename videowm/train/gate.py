"""The action gate: it finds a run whose actions do nothing early, and may stop it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from videowm.bootstrap import clear_of_zero
from videowm.record import RunRecord
from videowm.train.config import GateConfig


@dataclass(frozen=True)
class Verdict:
    """What the gate saw."""

    step: int
    gap: float  # held-out loss added by another episode's actions
    error: float  # its standard error; NaN where one episode is held out, so that nobody knows it
    passed: bool

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        seen = f"step {self.step}: shuffled actions change the held-out loss by {self.gap:.3g}"
        if math.isnan(self.error):
            return f"{seen}, with an unknown error: hold out two episodes or more, of one the gate cannot judge"
        size = f"{self.gap / self.error:.1f} standard errors" if self.error else "without any spread"
        state = "obeyed" if self.passed else "not yet obeyed: check their alignment, or train longer"
        return f"{seen} ({size}), {state}"


def judge(metrics: dict[str, Any], step: int, config: GateConfig) -> Verdict:
    """The verdict on `heldout/action_gap` and its error, as `heldout` yields them. An unknown error never passes."""
    gap, error = float(metrics["heldout/action_gap"]), metrics["heldout/action_gap_se"]
    passed = clear_of_zero(gap, error, config.errors)
    return Verdict(step, gap, math.nan if error is None else float(error), passed)


def cut_short(record: RunRecord, steps: int, *, began: int = 0) -> RunRecord:
    """The record of a run that was stopped after `steps` of its planned steps, its own from `began` on.

    Tokens, frames and FLOPs were those of the plan. Every step costs the same, so they are scaled, and `spent` counts
    the run's own steps. The plan stays under `planned`. Such a run was never cooled down: no law may be fitted to it.
    """
    if not began < steps <= record.steps:
        raise ValueError(f"{steps} of {record.steps} steps from {began} on cannot have been done")
    planned: dict[str, float] = {"steps": record.steps}
    groups = {"flops": dict(record.flops), "tokens": dict(record.tokens), "frames": dict(record.frames)}
    for group, name in (("flops", "train"), ("tokens", "target"), ("tokens", "processed"), ("frames", "seen")):
        if (whole := groups[group].get(name)) is not None:
            planned[f"{group}/{name}"] = whole
            groups[group][name] = whole * steps // record.steps
    if "train" in groups["flops"]:
        groups["flops"]["spent"] = groups["flops"]["train"] * (steps - began) // steps
    if "unique" in groups["frames"]:
        groups["frames"]["unique"] = min(groups["frames"]["unique"], groups["frames"]["seen"])
    return replace(record, steps=steps, planned=planned, stopped="action gate", **groups)
