"""Is this table what it seems? Copies, wrong units and diverged runs, each named with its row before a fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from scaling.fit import solve
from scaling.law import Runs, budgets, identifiable, unusable
from videowm.types import UserError

UNIT = 10.0  # C / 6ND this factor from that of runs of like size is another unit or another formula
APART = 100.0  # a size or an amount of data this factor from all others is another unit
OUTLIER = 10.0  # robust standard deviations from the law
SURE = 0.15  # and this far from it in ln L
MANY = 0.25  # where more than this share of the rows is doubtful, nobody can say which are right
Kind = Literal["copy", "unit", "apart", "outlier"]


@dataclass(frozen=True)
class Doubt:
    """A row that is left out, and why."""

    kind: Kind
    row: int  # of the runs, from 0
    why: str

    def __str__(self) -> str:
        return self.of(f"row {self.row + 1}")

    def of(self, name: str) -> str:
        """The doubt as a sentence about `name`."""
        return f"{name} is left out: {self.why}"


def doubted(runs: Runs) -> tuple[Runs, list[Doubt]]:
    """The runs that a law may be fitted to, and a doubt for each that is left out.

    Raises:
        UserError: so many rows are doubtful that nobody can say which are right.
    """
    if unusable(runs):
        return runs, []
    doubts = {doubt.row: doubt for doubt in reversed([*copies(runs), *units(runs), *apart(runs)])}
    keep = np.array([row not in doubts for row in range(len(runs))])
    doubts |= {doubt.row: doubt for doubt in outliers(runs, keep)}
    found = sorted(doubts.values(), key=lambda doubt: doubt.row)
    wrong = [doubt for doubt in found if doubt.kind != "copy"]
    if len(wrong) > MANY * len(runs):
        raise UserError(
            f"{len(wrong)} of {len(runs)} rows do not fit the rest, so nobody can say which are right; {wrong[0].why}: "
            "check columns and units"
        )
    keep = np.array([row not in doubts for row in range(len(runs))])
    return replace(runs.keep(keep), dropped=runs.dropped + len(found)), found


def copies(runs: Runs) -> list[Doubt]:
    """Rows that equal an earlier one in every number: they would shrink the interval."""
    first: dict[tuple, int] = {}
    found = []
    for row, key in enumerate(zip(runs.n, runs.d, runs.c, runs.loss, strict=True)):
        if key in first:
            found.append(Doubt("copy", row, f"it equals row {first[key] + 1} in N, D, C and loss, so it is no new run"))
        first.setdefault(key, row)
    return found


def units(runs: Runs) -> list[Doubt]:
    """Rows whose C is far from what N and D give in the other rows."""
    ratio = np.log(runs.c / (6 * runs.n * runs.d))
    usual = np.median(ratio)
    return [
        Doubt("unit", int(row), f"C = {runs.c[row]:.3g} is {np.exp(ratio[row]):.3g} times 6ND where the others have "
              f"{np.exp(usual):.3g}, as in another unit")
        for row in np.flatnonzero(np.abs(ratio - usual) > np.log(UNIT))
    ]  # fmt: skip


def apart(runs: Runs) -> list[Doubt]:
    """Rows whose N or D lies a factor APART from all others: a few of many, at one end."""
    found = []
    for name, values in (("N", runs.n), ("D", runs.d)):
        order = np.argsort(values)
        gaps = np.diff(np.log(values[order]))
        for cut in np.flatnonzero(gaps > np.log(APART)):
            low, high = order[: cut + 1], order[cut + 1 :]
            few, edge = (low, high[0]) if len(low) < len(high) else (high, low[-1])
            if len(few) <= max(1, 0.1 * len(runs)):
                found += [Doubt("apart", int(row), f"{name} = {values[row]:.3g} lies far from all others (next "
                                f"{values[edge]:.3g}), as in another unit") for row in few]  # fmt: skip
    return found


def outliers(runs: Runs, keep: np.ndarray) -> list[Doubt]:
    """Rows whose loss lies far off the law of the others, in robust standard deviations: they may have diverged."""
    form = "surface" if not identifiable(runs.keep(keep), "surface") else "frontier"
    if identifiable(runs.keep(keep), form):
        return []
    residual = departures(runs.keep(keep), form)
    scale = 1.4826 * np.median(np.abs(residual))
    rows = np.flatnonzero(keep)
    return [
        Doubt("outlier", int(rows[i]), f"its loss {runs.loss[rows[i]]:.4g} is {np.exp(residual[i]):.2g} times what the "
              "other rows say, as if it had diverged or was in another unit")
        for i in np.flatnonzero(np.abs(residual) > np.maximum(OUTLIER * scale, SURE))
    ]  # fmt: skip


def departures(runs: Runs, form: str) -> np.ndarray:
    """ln L of each run minus the law's, "runs"; against the frontier only where it lies below or far above the budget.

    A frontier says nothing of sizes, so a run is compared with the best of its budget's neighbours.
    """
    if form == "surface":
        _, problem, theta, _ = solve(runs, form)
        return np.log(runs.loss) - problem.log_loss(theta, runs.n, runs.d, runs.c)
    label = budgets(runs.c)
    lowest = np.array([np.log(runs.loss[label == k].min()) for k in range(label.max() + 1)])
    line = np.polyfit(np.arange(len(lowest)), lowest, 1) if len(lowest) > 1 else np.array([0.0, lowest[0]])
    return np.log(runs.loss) - np.polyval(line, label)
