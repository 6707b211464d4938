"""The action gate: a run whose actions do nothing is told early, and may be stopped."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from videowm.train.config import GateConfig


@dataclass(frozen=True)
class Verdict:
    """What the gate saw."""

    step: int
    gap: float  # held-out loss added by another episode's actions
    error: float  # its standard error
    passed: bool

    @property
    def sentence(self) -> str:
        size = f"{self.gap / self.error:.1f} standard errors" if self.error else "without any spread"
        state = "obeyed" if self.passed else "not yet obeyed: check their alignment, or train longer"
        return f"step {self.step}: shuffled actions change the held-out loss by {self.gap:.3g} ({size}), {state}"


def judge(metrics: dict[str, Any], step: int, config: GateConfig) -> Verdict:
    """The verdict on `heldout/action_gap` and its error, as `heldout` yields them."""
    gap, error = float(metrics["heldout/action_gap"]), float(metrics["heldout/action_gap_se"])
    return Verdict(step, gap, error, gap > 0 and gap >= config.errors * error)


def cut_short(record: dict[str, Any], steps: int, *, began: int = 0) -> dict[str, Any]:
    """The record of a run that was stopped after `steps` of its planned steps, its own from `began` on.

    Tokens, frames and FLOPs were those of the plan; every step costs the same, so they are scaled, and `spent` counts
    the run's own steps. The plan stays under `planned`. Such a run was never cooled down: no law may be fitted to it.
    """
    planned, record = record["steps"], deepcopy(record)
    if not began < steps <= planned:
        raise ValueError(f"{steps} of {planned} steps from {began} on cannot have been done")
    record |= {"steps": steps, "planned": {"steps": planned}, "stopped": "action gate"}
    for group, names in {"flops": ("train",), "tokens": ("target", "processed"), "frames": ("seen",)}.items():
        for name in names:
            if (whole := record.get(group, {}).get(name)) is not None:
                record["planned"][f"{group}/{name}"] = whole
                record[group][name] = whole * steps // planned
    if "flops" in record:
        record["flops"]["spent"] = record["flops"]["train"] * (steps - began) // steps
    if "unique" in record.get("frames", {}):
        record["frames"]["unique"] = min(record["frames"]["unique"], record["frames"]["seen"])
    return record
