"""Do the arms of a study differ? Runs paired by budget, size and seed; error bars by trunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from scaling.records import Finished, by_arm, check_metric, is_loss, unstopped
from videowm import bootstrap
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
        """Whether the interval leaves zero out."""
        return not self.interval[0] <= 0 <= self.interval[1]


def compare(one: Sequence[Finished], other: Sequence[Finished], y: str, draws: int = 2000) -> Difference:
    """`other` minus `one` over the runs that both have; runs of one trunk are drawn together.

    The interval is mean ± t(trunks - 1) x standard error, as for cluster-robust errors (Cameron & Miller 2015):
    quantiles of few blocks are too narrow.

    Raises:
        UserError: the banks differ, no runs pair, or all pairs share one trunk.
    """
    if {r.hashes["bank"] for r in one} != {r.hashes["bank"] for r in other}:
        raise UserError("measured on different banks, so their values do not compare; each arm's law stands alone")
    scale = np.log if is_loss(y) else float
    first, second = ({cell(r): r for r in records} for records in (one, other))
    both = [key for key in first if key in second]
    if not both:
        raise UserError("no run of the one has the budget, size and seed of a run of the other")
    gaps = np.array([scale(second[key].metrics[y]) - scale(first[key].metrics[y]) for key in both])
    trunks = np.array([first[key].family for key in both])
    count = len(np.unique(trunks))
    if count < 2:
        raise UserError(
            "their pairs share one trunk, so their scatter over trunks is not known: run two sizes or seeds"
        )
    error = bootstrap.standard_error(gaps, trunks, draws=draws) * np.sqrt(count / (count - 1))
    half, mean = float(t.ppf((1 + LEVEL) / 2, count - 1) * error), float(gaps.mean())
    return Difference(mean, (mean - half, mean + half), len(both), count)


def cell(record: Finished) -> str:
    """Size, budget and seed: the name of the run without its arm."""
    return record.name.removeprefix(f"{record.arm}-")


def sentences(records: Sequence[Finished], y: str) -> list[str]:
    """One line for each arm after the first: how far it lies from the first."""
    records = unstopped(records)
    check_metric(records, y)
    (first, base), *others = by_arm(records).items() or [(None, [])]
    lines = []
    for arm, found in others:
        try:
            lines.append(f"arm {arm} against {first}: {in_words(compare(base, found, y), y)}")
        except UserError as error:
            lines.append(f"arm {arm} against {first}: {error}")
    return lines


def in_words(gap: Difference, y: str) -> str:
    """A difference as half a sentence; of a loss in percent."""
    unit, text = (100, "{:+.3g} %") if is_loss(y) else (1, "{:+.4g}")
    mean, low, high = (text.format(unit * value) for value in (gap.mean, *gap.interval))
    return (
        f"{y} {mean}, {LEVEL:.0%} [{low}, {high}] over {gap.pairs} pairs on {gap.trunks} trunks: "
        f"{'they differ' if gap.differ else 'no difference shown'}"
    )
