"""Do the arms of a study differ? Runs paired by budget, size and seed; error bars by trunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t

from scaling.records import by_arm, check_metric, unstopped
from videowm.types import UserError

LEVEL = 0.9


@dataclass(frozen=True)
class Difference:
    """Mean difference of the paired runs of two arms, with its bootstrap interval."""

    mean: float  # of a loss in ln L; of another metric in its own units
    interval: tuple[float, float]
    pairs: int
    trunks: int

    @property
    def differ(self) -> bool:
        return not self.interval[0] <= 0 <= self.interval[1]


def compare(one: list[dict[str, Any]], other: list[dict[str, Any]], y: str, draws: int = 2000) -> Difference:
    """`other` minus `one` over the runs that both have; runs of one trunk are drawn together.

    The interval is mean +- t(trunks - 1) x spread, as in `scaling.fit`: quantiles of few blocks are too narrow.
    """
    if {r["hashes"]["bank"] for r in one} != {r["hashes"]["bank"] for r in other}:
        raise UserError("measured on different banks, so their values do not compare; each arm's law stands alone")
    scale = np.log if y.startswith("heldout/loss") else float
    first, second = ({cell(r): r for r in records} for records in (one, other))
    both = [key for key in first if key in second]
    if not both:
        raise UserError("no run of the one has the budget, size and seed of a run of the other")
    gaps = np.array([scale(second[key]["metrics"][y]) - scale(first[key]["metrics"][y]) for key in both])
    trunks = [first[key].get("trunk") or first[key]["name"] for key in both]
    names, block = np.unique(trunks, return_inverse=True)
    if len(names) < 2:
        raise UserError("their pairs share one trunk, so nothing says how far another would be: run two sizes or seeds")
    counts = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    means = (counts @ np.bincount(block, gaps)) / (counts @ np.bincount(block))
    spread = means.std() * np.sqrt(len(names) / (len(names) - 1))
    half = float(t.ppf((1 + LEVEL) / 2, len(names) - 1) * spread)
    mean = float(gaps.mean())
    return Difference(mean, (mean - half, mean + half), len(both), len(names))


def cell(record: dict[str, Any]) -> str:
    """Size, budget and seed: the name of the run without its arm."""
    return record["name"].removeprefix(f"{record['arm']}-")


def sentences(records: list[dict[str, Any]], y: str) -> list[str]:
    """One line for each arm after the first: how far it lies from the first."""
    records = unstopped(records)
    check_metric(records, y)
    (first, base), *others = by_arm(records).items() or [(None, [])]
    lines = []
    for arm, found in others:
        try:
            gap = compare(base, found, y)
        except UserError as error:
            lines.append(f"arm {arm} against {first}: {error}")
            continue
        unit, text = (100, "{:+.3g} %") if y.startswith("heldout/loss") else (1, "{:+.4g}")
        mean, low, high = (text.format(unit * value) for value in (gap.mean, *gap.interval))
        lines.append(
            f"arm {arm} against {first}: {y} {mean}, {LEVEL:.0%} [{low}, {high}] over {gap.pairs} pairs on "
            f"{gap.trunks} trunks: {'they differ' if gap.differ else 'no difference shown'}"
        )
    return lines
