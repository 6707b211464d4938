"""One forecast out of several forms of law, with an interval that holds the error of the form.

No table says which form its larger runs will follow, so every form that the runs identify is asked. Each is tried by
rolling validation (Tashman 2000): every budget is predicted from those below it. The errors, in shares of the gain in
ln L, give

    weights   of least squared error, drawn towards PRIOR (stacking: Breiman 1996, on a simplex with a ridge)
    rolling   the root mean square error of the weighted forecast, drawn towards USUAL

and a forecast is exp of the weighted mean of ln L. Its variance in ln L is the sum of

    parameters   refits to resampled runs (Efron 1979), at these weights
    scatter      of one new run around the law; it may grow with compute
    forms        (SPREAD x standard deviation of the forms' forecasts)^2
    rolling      (ROLLING x rolling error x gain)^2

with quantiles of Student's t with DEGREES degrees of freedom. The constants in capitals were set on the design tables
of `benchmarks/law_coverage.py` and checked on the tables that it held back. numpy and scipy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.stats import t

from scaling.fit import Problem, descend, require_trunks, resample, selection, solve
from scaling.law import SURFACES, Cost, Law, Runs, affordable, budgets, identifiable, optimum
from videowm.types import UserError

PRIOR = {"surface": 1.0, "surface-0": 0.5, "frontier": 1.0, "second-order": 0.0, "power": 0.3}  # before any run is seen
RIDGE = 0.1  # of the weights' distance from PRIOR
USUAL, WORTH = 0.15, 2.0  # a rolling error that is expected, and how many independent ones that belief is worth
SPREAD, ROLLING, DEGREES = 1 / 3, 0.6, 5
FAR = 2.5  # budgets closer than this factor say little about extrapolation
RECENT = 0.5  # an origin counts as (its compute / the highest)^RECENT
ABOVE = (
    0.5  # a run further above its budget's best than this share of the whole gain tells a surface nothing of the best
)
SIZES = 3  # different sizes a budget must have, before its lowest loss is near the best one
ORIGINS = 8  # highest budgets that are extrapolated from
LEAST_BUDGETS = {"second-order": 5}


@dataclass(frozen=True)
class Member:
    """One form, fitted."""

    law: Law
    problem: Problem
    theta: np.ndarray  # "params"
    runs: Runs  # that it was fitted to
    weights: np.ndarray  # "1 runs"

    @staticmethod
    def of(runs: Runs, form: str) -> Member | None:
        """The form on these runs; None where they do not identify it, or it has no best size."""
        kept = near_best(runs) if form in SURFACES else runs
        if identifiable(kept, form) or len(set(budgets(runs.c))) < LEAST_BUDGETS.get(form, 2):
            return None
        law, problem, theta, weights = solve(kept, form)
        if law.status == "collinear" or not has_best_size(law, kept):
            return None
        return Member(law, problem, theta, kept, weights)

    def log_loss(self, n, d, c) -> np.ndarray:
        """ln L at "points" N, D, C."""
        return self.problem.log_loss(self.theta, n, d, c)

    def draws(self, count: int, seed: int) -> np.ndarray:
        """Parameters of refits to resampled runs, "draws params"; the law's own where the runs are too few for any."""
        try:
            counts = resample(self.runs, self.law.form, count, np.random.default_rng(seed))
        except UserError:
            return np.tile(self.theta, (count, 1))
        weights = selection(self.runs, self.law.form, counts)
        return descend(self.problem, weights, np.tile(self.theta, (count, 1)), steps=100)[0]


def has_best_size(law: Law, runs: Runs) -> bool:
    """Whether a surface has an optimum; the other forms need none."""
    try:
        return law.form not in SURFACES or bool(optimum(law, float(runs.c.max())))
    except UserError:
        return False


def near_best(runs: Runs) -> Runs:
    """The runs without those that lie more than ABOVE of the whole gain above the best of their budget."""
    label, log_loss = budgets(runs.c), np.log(runs.loss)
    lowest = np.array([log_loss[label == k].min() for k in range(label.max() + 1)])
    return runs.keep(log_loss - lowest[label] <= ABOVE * np.ptp(lowest) + 1e-9)


def members(runs: Runs) -> dict[str, Member]:
    """The forms that these runs identify, without those whose exponents left the searched range if any is left.

    A budget with too few sizes does not show its best loss. A form of compute alone is then left out, unless no surface
    is left.
    """
    found = {form: member for form in PRIOR if (member := Member.of(runs, form))}
    found = {form: member for form, member in found.items() if member.law.status != "edge"} or found
    label = budgets(runs.c)
    sizes = [len(np.unique(np.round(np.log(runs.n[label == k]), 2))) for k in range(label.max() + 1)]
    surfaces = {form: member for form, member in found.items() if form in SURFACES}
    return surfaces if surfaces and np.median(sizes) < SIZES else found


# ---- rolling validation ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """One budget predicted from lower ones: errors of the forms in shares of the gain in ln L."""

    origin: float  # highest FLOPs that were fitted
    target: float  # FLOPs that were predicted
    gain: float  # in ln L
    errors: dict[str, float]  # by form


def rolling(runs: Runs) -> list[Trial]:
    """Every budget's best run predicted from the budgets below it, where these identify a form."""
    label, log_loss = budgets(runs.c), np.log(runs.loss)
    best = [at[log_loss[at].argmin()] for k in range(label.max() + 1) for at in [np.flatnonzero(label == k)]]
    trials = []
    for k in range(max(1, len(best) - ORIGINS), len(best) - 1):
        ahead = [i for i in best[k + 1 :] if runs.c[i] >= FAR * runs.c[best[k]]]
        found = members(runs.keep(label <= k)) if ahead else {}
        forecasts = {
            form: member.log_loss(runs.n[ahead], runs.d[ahead], runs.c[ahead]) for form, member in found.items()
        }
        last = min(log_loss[i] for i in best[: k + 1])
        for place, i in enumerate(ahead if found else ()):
            gain = max(last - log_loss[i], 1e-3)
            errors = {form: float(ahead_of[place] - log_loss[i]) / gain for form, ahead_of in forecasts.items()}
            trials.append(Trial(float(runs.c[best[k]]), float(runs.c[i]), float(gain), errors))
    return trials


def prior(forms) -> np.ndarray:
    """PRIOR over these forms, summing to 1; all alike where it knows none of them."""
    weights = np.array([PRIOR[form] for form in forms])
    weights = weights if weights.any() else np.ones(len(weights))
    return weights / weights.sum()


def table_of(trials: list[Trial], forms: list[str], fill: np.ndarray, top: float) -> tuple[np.ndarray, np.ndarray]:
    """Errors "trials forms", and how much each trial counts.

    A form that was not tried has the mean of the others, weighted by `fill`.
    """
    rows, counts = [], []
    for trial in trials:
        row = np.array([trial.errors.get(form, np.nan) for form in forms])
        tried = np.isfinite(row)
        if not (tried * fill).any():
            continue
        rows.append(np.where(tried, row, np.average(row[tried], weights=fill[tried])))
        counts.append((trial.origin / top) ** RECENT)
    return np.array(rows).reshape(-1, len(forms)), np.array(counts)


def stacked(errors: np.ndarray, counts: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Weights >= 0 that sum to 1, of least squared error, drawn towards `start`."""
    if not len(errors):
        return start
    rows = np.clip(errors, -1, 1) * np.sqrt(counts / len(counts))[:, None]
    one = 1e4  # what makes them sum to 1
    matrix = np.vstack([rows, np.sqrt(RIDGE) * np.eye(len(start)), np.full((1, len(start)), one)])
    weights = nnls(matrix, np.concatenate([np.zeros(len(rows)), np.sqrt(RIDGE) * start, [one]]))[0]
    return weights / weights.sum()


def rolling_error(errors: np.ndarray, counts: np.ndarray, weights: np.ndarray) -> float:
    """Root mean square error of the weighted forecast in shares of the gain, drawn towards USUAL."""
    if not len(errors):
        return USUAL
    square = np.average(np.clip(errors @ weights, -1, 1) ** 2, weights=counts)
    seen = min(len(errors), 20) / 3  # trials share their runs
    return float(np.sqrt((WORTH * USUAL**2 + seen * square) / (WORTH + seen)))


# ---- the scatter of a run -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scatter:
    """Standard deviation of one run's ln L around the law: at * (C / centre)^slope, and never less beyond the runs."""

    at: float
    slope: float  # 0 where the runs show no trend
    centre: float
    top: float

    @staticmethod
    def of(member: Member) -> Scatter:
        """From the residuals: their median size, and the slope of its logarithm where that is sure (2 errors)."""
        used = member.weights[0] > 0
        runs = member.runs.keep(used)
        residual = np.abs(member.log_loss(runs.n, runs.d, runs.c) - np.log(runs.loss))
        points = len(runs)
        at = 1.4826 * np.median(residual) * np.sqrt(points / max(1, points - len(member.theta)))
        x = np.log(runs.c) - np.log(runs.c).mean()
        slope = 0.0
        if points >= 10 and x.any():
            y = np.log(residual + 0.1 * at + 1e-12)
            slope = float(x @ y / (x @ x))
            error = np.sqrt(((y - y.mean() - slope * x) ** 2).sum() / (points - 2) / (x @ x))
            slope = float(np.clip(slope, -0.3, 0.3)) if abs(slope) > 2 * error else 0.0
        return Scatter(float(at), slope, float(np.exp(np.log(runs.c).mean())), float(runs.c.max()))

    def __call__(self, c) -> np.ndarray:
        c = np.asarray(c, float)
        return self.at * ((c if self.slope > 0 else np.minimum(c, self.top)) / self.centre) ** self.slope


# ---- the forecast ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outlook:
    """A forecast of "points": losses, intervals and what their widths are made of."""

    loss: np.ndarray
    low: np.ndarray
    high: np.ndarray
    by_form: dict[str, np.ndarray]  # each form's own loss
    parts: dict[str, np.ndarray]  # standard deviations in ln L: parameters, scatter, forms, rolling


@dataclass(frozen=True)
class Combined:
    """Forms fitted to runs, weighed by rolling validation."""

    runs: Runs
    members: dict[str, Member]
    weights: dict[str, float]  # by form, sum 1
    trials: list[Trial]
    rolling: float  # root mean square error in shares of the gain
    scatter: Scatter
    draws: dict[str, np.ndarray]  # of the forms that weigh something, "draws params"

    @staticmethod
    def of(runs: Runs, draws: int = 200, seed: int = 0) -> Combined:
        """Weigh the forms that `runs` identify.

        Args:
            runs: the finished runs.
            draws: refits to resampled runs, at least 1.
            seed: of the draws.

        Raises:
            UserError: the runs identify no form, or share one trunk.
        """
        require_trunks(runs)
        found = members(runs)
        if not found:
            raise UserError(identifiable(runs, "surface") or identifiable(runs, "frontier") or NO_FORM)
        forms, trials = list(found), rolling(runs)
        start = prior(forms)
        errors, counts = table_of(trials, forms, start, float(runs.c.max()))
        weights = stacked(errors, counts, start)
        drawn = {form: found[form].draws(draws, seed) for form, w in zip(forms, weights, strict=True) if w > 0.005}
        return Combined(runs, found, dict(zip(forms, map(float, weights), strict=True)), trials,
                        rolling_error(errors, counts, weights), Scatter.of(found[forms[0]]), drawn)  # fmt: skip

    @property
    def last(self) -> float:
        """ln L of the best run."""
        return float(np.log(self.runs.loss.min()))

    @property
    def leading(self) -> Law:
        """The law of the form with the most weight."""
        return self.members[max(self.weights, key=lambda form: self.weights[form])].law

    def at(self, n, d, c, level: float = 0.9) -> Outlook:
        """The forecast of one new run at each of "points" N parameters, D tokens and C FLOPs."""
        n, d, c = (np.atleast_1d(np.asarray(v, float)) for v in (n, d, c))
        each = {form: member.log_loss(n, d, c) for form, member in self.members.items()}
        centre = sum(self.weights[form] * value for form, value in each.items())
        start = prior(each)
        parts = {
            "parameters": self._parameters(n, d, c),
            "scatter": self.scatter(c),
            "forms": SPREAD * np.sqrt(sum(w * (v - centre) ** 2 for w, v in zip(start, each.values(), strict=True))),
            "rolling": ROLLING * self.rolling * np.maximum(self.last - centre, 0.0),
        }
        half = t.ppf((1 + level) / 2, DEGREES) * np.sqrt(sum(value**2 for value in parts.values()))
        losses = {form: np.exp(value) for form, value in each.items()}
        return Outlook(np.exp(centre), np.exp(centre - half), np.exp(centre + half), losses, parts)

    def described(self, found: Outlook) -> dict[str, dict]:
        """Of each form: its loss at the first point, status, weight, and rolling error in % of the gain."""
        return {
            form: {
                "loss": float(found.by_form[form][0]),
                "status": member.law.status,
                "weight": round(self.weights[form], 4),
                "rolling": self._rolling_error(form),
            }
            for form, member in self.members.items()
        }

    def _rolling_error(self, form: str) -> float | None:
        """Root mean square error of one form in rolling validation, in % of the gain; None where it was not tried."""
        errors = [trial.errors[form] for trial in self.trials if form in trial.errors]
        return round(100 * float(np.sqrt(np.mean(np.square(errors)))), 2) if errors else None

    def _parameters(self, n, d, c) -> np.ndarray:
        """Standard deviation of the weighted forecast over the draws, from their 5 and 95 % quantiles."""
        total = sum(self.weights[form] * self.members[form].problem.log_loss(values, n, d, c)
                    for form, values in self.draws.items())  # fmt: skip
        low, high = np.quantile(total, [0.05, 0.95], axis=0)
        return (high - low) / 3.29

    def optimum(self, budget: float, cost: Cost | None = None) -> tuple[float, float] | None:
        """N and D that are best for a budget: N is the surfaces' geometric mean by weight. None without a surface."""
        found = {form: self.members[form].law for form in SURFACES if form in self.members}
        if not found:
            return None
        weights = np.array([self.weights[form] for form in found]) + 1e-9
        sizes = [np.log(optimum(law, budget, cost)[0]) for law in found.values()]
        n = float(np.exp(np.average(sizes, weights=weights)))
        return n, affordable(cost or (lambda n, d: 6 * n * d), n, budget)


NO_FORM = "no form of law fits these runs: spread sizes and budgets wider"
