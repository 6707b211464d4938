"""Forms of law weighed by rolling validation: on planted laws."""

from __future__ import annotations

import numpy as np
import pytest

from scaling.combine import RIDGE, Combined, Member, Scatter, members, prior, rolling, stacked, table_of
from scaling.law import Runs, evaluate

TRUTH = {"E": 0.5, "A": 2.7195883, "B": 2.6598515, "alpha": 0.35, "beta": 0.25}


def grid(truth: dict, noise: float = 0.0, grows: float = 0.0, seed: int = 0, budgets=5) -> Runs:
    """Five sizes at each budget; ln L scatters by noise * (C / lowest)^grows."""
    c = np.repeat(3.2e14 * 3.16 ** np.arange(budgets), 5)
    n = np.sqrt(c / 120) * np.tile(np.geomspace(0.25, 4, 5), budgets)
    wobble = noise * (c / c.min()) ** grows * np.random.default_rng(seed).standard_normal(len(c))
    return Runs(n, c / (6 * n), c, evaluate("surface", truth, n, c / (6 * n), None) * np.exp(wobble))


def test_rolling_validation_weighs_the_form_that_predicted():
    """Guards weights that look at the fit in place of the future: without noise the true form has no rolling error and
    gains weight, a form that missed loses it, and no trial was fitted to the budget that it predicts."""
    runs = grid(TRUTH | {"E": 0.2, "A": 27.0})
    forms = list(members(runs))
    mixed, start = Combined.of(runs, draws=5), dict(zip(forms, prior(forms), strict=True))
    assert {"surface", "surface-0", "frontier"} <= set(forms)
    assert all(trial.target >= 2.5 * trial.origin for trial in mixed.trials)
    assert max(abs(trial.errors["surface"]) for trial in mixed.trials) < 1e-6
    assert min(abs(trial.errors["surface-0"]) for trial in mixed.trials) > 1e-3
    assert mixed.weights["surface"] > start["surface"] and mixed.weights["power"] < 0.8 * start["power"]


def test_stacking_by_hand():
    """Guards the ridge: with one trial and two forms the least squared error has a closed form; without any trial the
    weights are those from before."""
    start = np.array([0.5, 0.5])
    a, b = 0.3, -0.1
    x = (-b * (a - b) + RIDGE * 1.0) / ((a - b) ** 2 + 2 * RIDGE)  # of the first form, from the derivative
    assert stacked(np.array([[a, b]]), np.ones(1), start) == pytest.approx([x, 1 - x], abs=1e-4)
    assert (stacked(np.zeros((0, 2)), np.zeros(0), start) == start).all()
    errors, counts = table_of(rolling(grid(TRUTH)), ["surface", "second-order"], np.array([1.0, 0.0]), 1e17)
    assert len(errors) == len(counts) and np.isfinite(errors).all()


def test_a_run_s_scatter_may_grow():
    """Guards an interval that takes the scatter of small runs for that of the target: planted growth over nine budgets
    is seen, and equal scatter stays within a factor 1.5 of what it is."""
    grown, equal = ([Scatter.of(Member.of(grid(TRUTH, noise, grows, seed, 9), "surface")) for seed in range(5)]
                    for noise, grows in ((5e-4, 0.25), (2e-3, 0.0)))  # fmt: skip
    assert np.median([at(10 * at.top) / at.at for at in grown]) > 2
    assert 2e-3 / 1.5 < np.median([at(10 * at.top) for at in equal]) < 2e-3 * 1.5
