"""How far off will a study's prediction be? Studies simulated under a known law, and the grid that a budget can buy.

Errors are in % of the gain: best loss of the highest budget minus that of the target.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scaling.fit import fit
from scaling.law import SURFACES, Law, Runs, optimum, score
from videowm.types import UserError

BEYOND = (10, 32)  # times the highest budget
STEP = 3.2  # between budgets
SHARES = (0.1, 0.3, 1.0)  # of the FLOPs that may be spent


@dataclass(frozen=True)
class Design:
    """Runs of C = 6ND around a best size of 20 tokens a parameter, evenly spaced in ln N."""

    budgets: tuple[float, ...]
    seeds: tuple[int, ...]  # of every size, a budget each
    sizes: int = 5
    spread: float = 4.0

    def runs(self, truth: Law) -> Runs:
        """The runs, with the losses of a surface `truth`."""
        rows = [
            (np.sqrt(c / 120) * factor, c)
            for c, seeds in zip(self.budgets, self.seeds, strict=True)
            for factor in np.repeat(np.geomspace(1 / self.spread, self.spread, self.sizes), seeds)
        ]
        n, c = np.array(rows).T
        return Runs(n, c / (6 * n), c, truth.predict(n, c / (6 * n)))

    def __str__(self) -> str:
        """The grid as settings of a sweep."""
        lowest = f"\n  seeds_at_lowest: {self.seeds[0]}" if self.seeds[0] > 1 else ""
        budgets = ", ".join(f"{c:.3g}" for c in self.budgets)
        return f"grid:\n  budgets: [{budgets}]\n  per_budget: {self.sizes}\n  spread: {self.spread:g}{lowest}"


def errors(truth: Law, runs: Runs, scatter: float, form: str = "surface", studies: int = 100,
           beyond: tuple[int, ...] = BEYOND) -> dict[int, tuple[float, float]]:  # fmt: skip
    """Median and 90 % quantile of the absolute error at each distance, over studies whose runs scatter in ln L.

    Args:
        truth: a surface, taken for true.
        runs: the design; their own losses are not used.
        scatter: standard deviation of one run's ln L.
        form: that is fitted in each study.
        studies: how many are simulated.
        beyond: times the highest budget.
    """
    loss, rng = truth.predict(runs.n, runs.d), np.random.default_rng(0)
    top = runs.c.max()
    last = loss[runs.c > top / 1.5].min()
    found: dict[int, list[float]] = {times: [] for times in beyond}
    for _ in range(studies):
        noisy = loss * np.exp(scatter * rng.standard_normal(len(runs)))
        law = fit(Runs(runs.n, runs.d, runs.c, noisy), form)
        for times in beyond:
            if (off := error_at(law, truth, times * top, last)) is not None:
                found[times].append(off)
    return {times: tuple(np.quantile(off, (0.5, 0.9))) if off else (np.nan, np.nan) for times, off in found.items()}


def error_at(law: Law, truth: Law, c: float, last: float) -> float | None:
    """Absolute error of a law at the optimum of C = 6ND for c FLOPs, in % of the gain; None where it has no optimum."""
    try:
        predicted = law.predict(*optimum(law, c)) if law.form in SURFACES else law.predict_c(c)
    except UserError:
        return None
    return abs(score(predicted, truth.predict(*optimum(truth, c)), last).gain_percent)


@dataclass(frozen=True)
class Proposal:
    """A grid, what it costs and how far off it is at 10 times its highest budget."""

    design: Design
    runs: int
    flops: float
    median: float  # % of the gain
    most: float  # that nine in ten studies stay below


def proposals(truth: Law, flops: float, scatter: float, studies: int = 30) -> Iterator[Proposal]:
    """Grids that cost at most `flops`, each simulated under a surface `truth`."""
    for share, count, sizes, lowest in itertools.product(SHARES, (4, 5), (3, 5), (1, 3)):
        steps = STEP ** -np.arange(count)[::-1]
        top = share * flops / (sizes * (steps.sum() + (lowest - 1) * steps[0]))
        design = Design(tuple(float(f"{c:.3g}") for c in top * steps), (lowest, *[1] * (count - 1)), sizes)
        runs = design.runs(truth)
        median, most = errors(truth, runs, scatter, studies=studies, beyond=BEYOND[:1])[BEYOND[0]]
        yield Proposal(design, len(runs), float(runs.c.sum()), float(median), float(most))


def best(found: list[Proposal], wished: float) -> Proposal:
    """The cheapest that is off by at most `wished` % of the gain in half of all studies, else the nearest."""
    good = [one for one in found if one.median <= wished]
    return min(good, key=lambda one: one.flops) if good else min(found, key=lambda one: one.median)
