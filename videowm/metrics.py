"""The registry of metrics: every number that a run can be measured to have, described once.

Evaluators yield pairs (name, value). Reports, pages, sweeps (`--y`), documentation and trackers look a name up: what
it is, its unit, whether higher or lower is better, and what its ceiling and floor are. A name may end in a suffix of
`SUFFIXES`: `fidelity/psnr_by_frame_ceiling` is the curve over frames of the ceiling of `fidelity/psnr`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", None]

BOUNDS = {  # suffix -> label of a bound
    "ceiling": "ceiling",
    "ceiling_real": "ceiling on real video",
    "floor": "floor",
    "floor_zero": "floor without actions",
    "real": "real against real",
    "true": "the simulator",
}
BESIDE = ("se", "by_frame", "first", "horizon", "clips", "seconds")  # other suffixes: error, curve, its first frame, …


@dataclass(frozen=True)
class Metric:
    """One metric, or a family of them whose name holds one `{}` for an action, a state column or a network."""

    name: str  # such as "fidelity/psnr" or "state/{}_error"
    what: str  # one sentence
    unit: str
    better: Better
    computed_in: str  # module
    ceiling: str | None = None  # what the best that a model could reach is
    floor: str | None = None  # what a model that knows nothing gets
    sentence: str | None = None  # of the evaluation page, with {} for the value

    def matches(self, name: str) -> bool:
        """Whether `name`, without bound suffixes, is this metric or of this family."""
        head, braces, tail = self.name.partition("{}")
        if not braces:
            return name == self.name
        return name.startswith(head) and name.endswith(tail) and len(name) > len(head) + len(tail)


METRICS: tuple[Metric, ...] = ()


def base_name(name: str) -> str:
    """`name` without the suffixes of bounds, errors and curves."""
    suffixes = [f"_{suffix}" for suffix in (*BOUNDS, *BESIDE)]
    while (end := next((s for s in suffixes if name.endswith(s)), None)) is not None and find(name) is None:
        name = name.removesuffix(end)
    return name


def find(name: str, among: Iterable[Metric] | None = None) -> Metric | None:
    """The metric called exactly `name`, before families that fit it; None where there is none."""
    metrics = METRICS if among is None else tuple(among)
    exact = next((metric for metric in metrics if metric.name == name), None)
    return exact or next((metric for metric in metrics if metric.matches(name)), None)


def metric_of(name: str) -> Metric | None:
    """The metric that a recorded name belongs to, whatever suffixes it has."""
    return find(base_name(name))


def lower_is_better(name: str) -> bool:
    """Whether a lower value of `name` is better; False where nothing is known of it."""
    metric = metric_of(name)
    return metric is not None and metric.better == "lower"
