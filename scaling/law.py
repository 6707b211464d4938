"""Scaling laws: the forms, whether given runs can identify one, the compute optimum, IsoFLOP parabolas, the score.

Forms, with the paper and equation they follow:

    surface       L(N, D) = E + A/N^alpha + B/D^beta          Hoffmann et al. 2203.15556, eq. 2;
    surface-0     L(N, D) = A/N^alpha + B/D^beta              with E = 0
    frontier      L(C) = c + (C/a)^b, b < 0                   Hu et al. 2309.17080 (GAIA-1), section 6
    second-order  L(C) = E + A C^(alpha - gamma ln C)         RoboJEPA 2610.10515
    power         L(C) = A C^b                                no irreducible loss: a baseline, always too optimistic

Fitting them to runs is in `scaling.fit`. numpy and scipy only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from videowm.types import UserError

Cost = Callable[[float, float], float]  # N, D -> training FLOPs
SAME_BUDGET = 1.5  # runs within this factor of compute count as one budget
FORMS = {
    "surface": ("E", "A", "B", "alpha", "beta"),
    "surface-0": ("A", "B", "alpha", "beta"),
    "frontier": ("c", "a", "b"),
    "second-order": ("E", "A", "alpha", "gamma"),
    "power": ("A", "b"),
}
SURFACES = ("surface", "surface-0")  # forms that know N and D apart
FORMULAS = {
    "surface": "L(N, D) = E + A/N^alpha + B/D^beta",
    "surface-0": "L(N, D) = A/N^alpha + B/D^beta",
    "frontier": "L(C) = c + (C/a)^b",
    "second-order": "L(C) = E + A C^(alpha - gamma ln C)",
    "power": "L(C) = A C^b",
}


@dataclass(frozen=True)
class Runs:
    """Finished runs, every column of shape "runs": parameters, data, training compute and final validation loss."""

    n: np.ndarray  # parameters
    d: np.ndarray  # tokens (or whatever unit of data the study counts)
    c: np.ndarray  # FLOPs spent, counted exactly
    loss: np.ndarray
    trunk: np.ndarray | None = None  # runs that branch from one trunk share an id
    hashes: tuple[str, ...] = ()  # hash of validation bank + VAE + latent statistics of each run
    dropped: int = 0  # runs left out on purpose before these

    def __post_init__(self):
        for name in ("n", "d", "c", "loss"):
            object.__setattr__(self, name, np.atleast_1d(np.asarray(getattr(self, name), float)))
        if self.trunk is not None:
            object.__setattr__(self, "trunk", np.asarray(self.trunk))
        columns = (self.n, self.d, self.c, self.loss, self.trunk, self.hashes or None)
        if len({len(column) for column in columns if column is not None}) > 1:
            raise UserError("runs have columns of different lengths: give every run an N, a D, a C and a loss")

    def __len__(self) -> int:
        return len(self.loss)

    def keep(self, mask: np.ndarray) -> Runs:
        """The runs where `mask` is true. They do not count as dropped: they may be another set's target."""
        pick = {k: None if v is None else v[mask] for k, v in vars(self).items() if k not in ("hashes", "dropped")}
        hashes = tuple(h for h, kept in zip(self.hashes, mask, strict=True) if kept) if self.hashes else ()
        return Runs(**pick, hashes=hashes, dropped=self.dropped)


@dataclass(frozen=True)
class Law:
    """A fitted law, the content of law.json."""

    form: str  # its name
    params: dict[str, float]  # by their letters
    objective: float  # sum of Huber terms on log-residuals
    num_points: int  # runs the optimum was fitted to
    dropped: int  # runs that were left out
    status: str  # "converged", or what is wrong with the optimum
    reason: str = ""  # a sentence, where the status is another
    intervals: dict = field(default_factory=dict)  # {"level", "params": {name: [lo, hi]}, "se": {name: se}}
    fitted_range: dict[str, list[float]] = field(default_factory=dict)  # {"n" | "d" | "c": [lowest, highest]}

    def predict(self, n, d):
        """Loss at N parameters and D tokens, numbers or arrays that broadcast.

        Raises:
            UserError: the law is not a surface.
        """
        if self.form not in SURFACES:
            raise UserError(f"a {self.form} law depends on compute only: use predict_c(C), or fit the form 'surface'")
        return evaluate(self.form, self.params, n, d, None)

    def predict_c(self, c):
        """Loss at C FLOPs; of a surface at its optimum under C = 6ND (use `optimum` for an exact cost)."""
        if self.form in SURFACES:
            return self.predict(*chinchilla_optimum(self.params, c))
        return evaluate(self.form, self.params, None, None, c)

    def to_json(self) -> str:
        """The content of law.json."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str) -> Law:
        """The law of a law.json; ValueError or TypeError where the text is none."""
        return Law(**json.loads(text))


def evaluate(form: str, params: dict, n, d, c):
    """The formula itself. Parameters may be arrays (one value per bootstrap draw) if they broadcast with N, D, C."""
    p = params
    if form in SURFACES:
        return (
            p.get("E", 0.0) + p["A"] / np.asarray(n, float) ** p["alpha"] + p["B"] / np.asarray(d, float) ** p["beta"]
        )
    c = np.asarray(c, float)
    if form == "frontier":
        return p["c"] + (c / p["a"]) ** p["b"]
    if form == "second-order":
        return p["E"] + p["A"] * c ** (p["alpha"] - p["gamma"] * np.log(c))
    return p["A"] * c ** p["b"]


# ---- is there a law in these runs at all ----------------------------------------------------------------------------


def budgets(c: np.ndarray) -> np.ndarray:
    """Index of the compute budget of every run: a new one begins SAME_BUDGET above the cheapest run of the last."""
    index, first, label = np.empty(len(c), int), None, -1
    for i in np.argsort(c, kind="stable"):
        if first is None or c[i] > first * SAME_BUDGET:
            first, label = c[i], label + 1
        index[i] = label
    return index


def unusable(runs: Runs) -> str | None:
    """One sentence why no law at all may be fitted to these values, or None."""
    for name, values in (("N", runs.n), ("D", runs.d), ("C", runs.c), ("loss", runs.loss)):
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(bad):
            return (
                f"run {bad[0]} has {name} = {values[bad[0]]:g}, and a law needs finite positive numbers: "
                "leave diverged runs out by name, so that the report can list them"
            )
    kinds = sorted(set(runs.hashes))
    if len(kinds) > 1:
        return (
            f"the runs carry {len(kinds)} different hashes ({kinds[0][:12]}, {kinds[1][:12]}, ...), so their losses "
            "are not measured with the same ruler: evaluate them again on one validation bank and VAE"
        )
    return None


def identifiable(runs: Runs, form: str = "surface") -> str | None:
    """One plain sentence why this law cannot be identified from these runs, or None when it can."""
    if form not in FORMS:
        return f"unknown form {form!r}: choose one of {', '.join(FORMS)}"
    size, formula = len(FORMS[form]), FORMULAS[form]
    if reason := unusable(runs):
        return reason
    points = len(runs) if form in SURFACES else len(set(budgets(runs.c)))
    noun = "run" if form in SURFACES else "compute budget"
    if form in ("frontier", "second-order") and points < 4:
        return (
            f"{points} {noun}{'s' * (points != 1)} cannot tell the irreducible loss from the slope of {formula}: "
            f"train at {max(4, size + 1)} or more budgets, spaced about x3.2"
        )
    if points < size + 1:
        return (
            f"{points} {noun}{'s' * (points != 1)} cannot fix the {size} parameters of {formula}: "
            f"at least {size + 1} are needed"
        )
    if form in SURFACES and (reason := _surface_gap(runs)):
        return reason
    if np.ptp(np.log(runs.loss)) < 1e-9:
        return f"all {len(runs)} runs have one loss of {runs.loss[0]:.4g}, so nothing falls with compute: name another"
    return None


def _surface_gap(runs: Runs) -> str | None:
    """What the grid of sizes and data of a surface lacks."""
    ratio = runs.d / runs.n
    if ratio.max() / ratio.min() < 1.05:
        return (
            f"all {len(runs)} runs have one D/N of about {np.median(ratio):.3g}, so A/N^alpha and B/D^beta cannot be "
            "separated: train several sizes per compute budget"
        )
    x, y = np.log(runs.n), np.log(runs.d)
    for values, name in ((x, "model sizes N"), (y, "amounts of data D")):
        distinct = 1 + int((np.diff(np.sort(values)) > 0.01).sum())
        if distinct < 3:
            return f"{distinct} different {name} cannot fix a power and an offset: at least 3 are needed"
    if np.sqrt(max(0.0, 1 - np.corrcoef(x, y)[0, 1] ** 2)) < 0.02:
        return (
            "N and D follow one power of each other over all runs, so A/N^alpha and B/D^beta cannot be separated: "
            "train several sizes per compute budget"
        )
    return None


# ---- the compute optimum --------------------------------------------------------------------------------------------


def chinchilla_optimum(params: dict, budget):
    """N and D of the lowest loss under C = 6ND: N = G (C/6)^a, D = (C/6)^b / G (2203.15556, eq. 4)."""
    alpha, beta = params["alpha"], params["beta"]
    g = (alpha * params["A"] / (beta * params["B"])) ** (1 / (alpha + beta))
    n = g * (np.asarray(budget, float) / 6) ** (beta / (alpha + beta))
    return n, np.asarray(budget, float) / (6 * n)


def optimum(law: Law, budget: float, cost: Cost | None = None) -> tuple[float, float]:
    """N parameters and D tokens of the lowest loss for `budget` FLOPs.

    Args:
        law: a surface.
        budget: training FLOPs.
        cost: exact FLOPs of N and D, rising with D; None: 6ND (2203.15556, eq. 4).

    Raises:
        UserError: the law is no surface, or no size is best.
    """
    if law.form not in SURFACES:
        raise UserError(f"a {law.form} law does not know N and D apart: fit the form 'surface' for a compute optimum")
    for name in ("alpha", "beta", "A", "B"):
        if not law.params[name] > 0:
            value = f"{name} = {law.params[name]:.3g}"
            raise UserError(f"the surface has {value}, so no size is best for a budget: fit more runs")
    n, d = (float(value) for value in chinchilla_optimum(law.params, budget))
    if cost is None:
        return n, d

    def loss(log_n: float) -> float:
        data = affordable(cost, np.exp(log_n), budget)
        return np.inf if data is None else float(law.predict(np.exp(log_n), data))

    scan = np.log(n) + np.linspace(-np.log(1e3), np.log(1e3), 61)
    losses = np.array([loss(x) for x in scan])
    at = int(losses.argmin())
    if not np.isfinite(losses[at]) or at in (0, len(scan) - 1):
        raise UserError(
            f"no optimum for {budget:g} FLOPs within a factor 1,000 of N = {n:.3g}: check that cost(N, D) counts FLOPs"
        )
    best = minimize_scalar(loss, bounds=(scan[at - 1], scan[at + 1]), method="bounded", options={"xatol": 1e-9})
    n = float(np.exp(best.x))
    return n, affordable(cost, n, budget)


def affordable(cost: Callable, n: float, budget: float) -> float | None:
    """The D that spends `budget` at size n, or None where even the least data costs more."""

    def excess(log_d: float) -> float:
        return np.log(cost(n, np.exp(log_d))) - np.log(budget)

    low = high = np.log(budget / (6 * n))
    for _ in range(20):
        if excess(low) <= 0 <= excess(high):
            return float(np.exp(brentq(excess, low, high, xtol=1e-13))) if high > low else float(np.exp(low))
        low, high = low - (excess(low) > 0) * 2.0, high + (excess(high) < 0) * 2.0
    return None


# ---- IsoFLOP parabolas ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parabola:
    """Loss against ln N at one budget and its vertex (2203.15556, approach 2)."""

    c: float
    n: float
    d: float
    loss: float
    edge: bool  # the vertex is not enclosed by the sizes that were run

    @staticmethod
    def of(runs: Runs) -> Parabola:
        x = np.log(runs.n)
        mean = x.mean()
        bend, slope, offset = np.polyfit(x - mean, runs.loss, 2)
        vertex = -slope / (2 * bend) if bend > 0 else np.nan
        inside = x.min() - mean < vertex < x.max() - mean
        ends = np.argmin(runs.loss) in (np.argmin(x), np.argmax(x))
        d = np.exp(np.polyval(np.polyfit(x - mean, np.log(runs.d), 2), vertex))
        loss = offset + slope * vertex / 2
        c = np.exp(np.log(runs.c).mean())
        return Parabola(float(c), float(np.exp(mean + vertex)), float(d), float(loss), bool(ends or not inside))


# ---- the score of a prediction --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """A prediction against the run it predicted. A positive error means that the prediction was too high."""

    predicted: float
    measured: float
    loss_percent: float  # error in % of the measured loss
    gain_percent: float | None  # error in % of (last rung - measured); None when the target gained nothing


def score(predicted: float, measured: float, last: float) -> Score:
    """`last` is the lowest loss of the largest fitted budget: what "no further gain" would have predicted."""
    predicted, measured = float(predicted), float(measured)
    error, gain = predicted - measured, float(last) - measured
    return Score(predicted, measured, 100 * error / measured, 100 * error / gain if gain > 0 else None)


def require_extrapolation(c: float, seen: float) -> None:
    """Refuse a budget of `c` FLOPs that is not beyond the highest fitted one, `seen`: there nothing is predicted.

    Raises:
        UserError: `c` lies within the fitted range.
    """
    if c <= seen * SAME_BUDGET:
        raise UserError(
            f"the target at C = {c:.3g} is not beyond the fitted range (up to {seen:.3g}): "
            "predict a larger run, or leave the top budgets out of the fit with c_max"
        )
