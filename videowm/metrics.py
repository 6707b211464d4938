"""The registry of metrics: every number that a run can be measured to have, described once.

Evaluators yield pairs (name, value). Reports, pages, sweeps (`--y`), documentation and trackers look a name up: what
it is, its unit, whether higher or lower is better, and what its ceiling and floor are. A recorded name may end in
suffixes of `BOUNDS` and `BESIDE`: `fidelity/psnr_by_frame_ceiling` is the curve of `fidelity/psnr`'s ceiling.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from videowm.metric_table import METRICS, Metric

__all__ = ["BESIDE", "BOUNDS", "METRICS", "SUFFIXES", "Metric"]

BOUNDS = {  # suffix -> label of a bound
    "ceiling": "ceiling",
    "ceiling_real": "ceiling on real video",
    "floor": "floor",
    "floor_zero": "floor under actions of zeros",
    "floor_repeat": "floor of the longest repeat",
    "floor_empty": "floor without a prompt",
    "real": "real against real",
    "true": "the simulator",
}
BESIDE = ("se", "by_frame", "first", "clips", "protocol", "refused")  # an error, a curve, its first frame, …
SUFFIXES = tuple(f"_{suffix}" for suffix in (*BOUNDS, *BESIDE))
# Name in old records -> name now.
FORMER = {f"heldout/loss_untold{end}": f"heldout/loss_without_text{end}" for end in ("", "_se")}


@cache
def find(name: str) -> Metric | None:
    """The metric called exactly `name`, else the first family that fits it; None where there is none."""
    exact = next((metric for metric in METRICS if metric.name == name), None)
    return exact or next((metric for metric in METRICS if metric.matches(name)), None)


@cache
def base_name(name: str) -> str:
    """`name` without the suffixes of bounds, errors and curves."""
    while (metric := find(name)) is None or metric.name.endswith("{}"):  # such a family would fit any suffix
        end = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)
        if end is None or name.endswith(f"/{end}"):
            break
        name = name.removesuffix(end)
    return name


def metric_of(name: str) -> Metric | None:
    """The metric that a recorded name belongs to, whatever suffixes it has."""
    return find(base_name(name))


def unit(name: str) -> str:
    """The unit of a recorded number or curve; empty where nothing is known of it."""
    metric = metric_of(name)
    return "" if metric is None else metric.unit


def lower_is_better(name: str) -> bool:
    """Whether a lower value of `name` is better; False where nothing is known of it."""
    metric = metric_of(name)
    return metric is not None and metric.better == "lower"


def beside(name: str, suffix: str) -> str:
    """The recorded name of a metric's error (suffix "se"), curve ("by_frame") or bound ("ceiling", "floor", …)."""
    metric = find(name)
    return f"{name}_{suffix}" if metric is None else metric.others.get(suffix, f"{name}_{suffix}")


def with_current_names(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded metrics with the names of today: records keep the names that they were written with."""
    return {FORMER.get(name, name): value for name, value in metrics.items()}


def single(metrics: Mapping[str, Any], room: str = "") -> list[str]:
    """The names of recorded single numbers, of one room ("fidelity") or of all: no bounds, errors, curves or times."""
    names = [name for name in metrics if name.startswith(f"{room}/" if room else "") and base_name(name) == name]
    bounds = {other for metric in METRICS for other in metric.others.values()}
    names = [name for name in names if name not in bounds and unit(name) != "seconds"]
    return [name for name in names if isinstance(metrics[name], int | float | None)]
