"""Fit a law to runs, with its error bars.

Every form of `scaling.law` is a sum of exponentials of linear functions, L = sum_k exp(F_k theta): theta holds one
log-coefficient per term and then the exponents, F_k is built from ln N, ln D, ln C. So one fitter serves all four:

1. variable projection: on a grid over the exponents the coefficients solve a non-negative least squares problem on
   (model - L) / L, which approximates the log-residual;
2. from the best cells, a damped Newton descent on `sum_i Huber_delta(ln model_i - ln L_i)`, delta = 1e-3. It is the SUM
   of Huber terms (Hoffmann et al. 2203.15556, eq. 3). Averaging them stops a quasi-Newton descent too early: Besiroglu
   et al. 2404.10102. `benchmarks/law_reference.py` is the published way, 29 % of whose starts reach the optimum.

N, D, C and L enter relative to their geometric means, so that units change no exponent. The descent works on many
weightings of the runs at once: on the 240 Chinchilla runs a fit takes 0.03 s, a bootstrap of 1,000 draws 0.7 s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.stats import norm, t

from scaling.law import FORMS, FORMULAS, SURFACES, Law, Runs, budgets, chinchilla_optimum, evaluate, identifiable
from videowm.types import UserError

DELTA = 1e-3  # Huber threshold on log-residuals, 2203.15556
LIMIT = (40.0, 8.0)  # log-coefficients and exponents a descent may reach: a hopeless draw must not overflow
BOX = (0.02, 3.0)  # exponents searched; a fit that ends outside has the status "edge"
OUTSIDE = 0.1  # curvature kept for residuals beyond DELTA, as a share of what makes each step a majorising one:
# 1.0 takes 56 steps on the Chinchilla table (240 runs, 24 starts), 0.1 takes 18
COLLINEAR = 500.0  # condition number of the scaled Jacobian at the optimum: 40 on the Chinchilla table, 60 to 130 on
# the OLMo and Gadre tables, 65 to 80 on 4 budgets x 5 sizes spanning +-4x, 290 on +-1.3x, 660 on +-1.1x
FEWEST = 3  # different sizes, and different amounts of data, that a bootstrap draw of a surface must hold


@dataclass(frozen=True)
class Problem:
    """A form on given runs in units-free coordinates: ln L ~ logsumexp_k(features[k] @ theta)."""

    form: str
    features: np.ndarray  # "terms runs params"; the first `terms` parameters are the log-coefficients
    target: np.ndarray  # "runs", ln L - mean
    centre: tuple[float, float, float, float]  # means of ln N, ln D, ln C, ln L

    @staticmethod
    def of(runs: Runs, form: str) -> Problem:
        logs = [np.log(column) for column in (runs.n, runs.d, runs.c, runs.loss)]
        centre = tuple(float(values.mean()) for values in logs)
        x, y, z, target = (values - mean for values, mean in zip(logs, centre, strict=True))
        shapes = exponents(form, x, y, z)
        terms = len(shapes)
        features = np.zeros((terms, len(runs), terms + len(shapes[0])))
        for k, columns in enumerate(shapes):
            features[k, :, k] = 1.0
            features[k, :, terms:] = np.stack(columns, axis=1)
        return Problem(form, features, target, centre)

    def log_loss(self, theta: np.ndarray, n, d, c) -> np.ndarray:
        """ln L at theta "... params" and "points" N, D, C: "... points"."""
        x, y, z = (np.log(np.atleast_1d(v)) - mean for v, mean in zip((n, d, c), self.centre[:3], strict=True))
        shapes = exponents(self.form, x, y, z)
        terms, total = len(shapes), None
        for k, columns in enumerate(shapes):
            part = theta[..., k, None] + sum(theta[..., terms + m, None] * columns[m] for m in range(len(columns)))
            total = part if total is None else np.logaddexp(total, part)
        return total + self.centre[3]

    def grid(self) -> np.ndarray:
        """Exponents to start from, "cells exponents"."""
        slopes = np.geomspace(*BOX, 32)
        if self.form in SURFACES:
            return np.stack(np.meshgrid(slopes, slopes, indexing="ij"), axis=-1).reshape(-1, 2)
        if self.form == "second-order":
            span = np.ptp(self.features[1, :, 2])  # of ln C: a curvature of 1/span doubles the slope over the range
            bends = np.linspace(-1, 1, 11) / span
            return np.stack(np.meshgrid(-slopes, bends, indexing="ij"), axis=-1).reshape(-1, 2)
        return -slopes[:, None]

    def params(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Parameters in the user's units from theta "... params"."""
        ln_n, ln_d, ln_c, ln_loss = self.centre
        t = np.moveaxis(theta, -1, 0)
        if self.form in SURFACES:
            *e, a, b, alpha, beta = t
            logs = (*(v + ln_loss for v in e), a + ln_loss + alpha * ln_n, b + ln_loss + beta * ln_d)
            return dict(zip(FORMS[self.form], (*np.exp(np.clip(logs, -690, 690)), alpha, beta), strict=True))
        if self.form == "frontier":
            log_a = np.clip(ln_c - (t[1] + ln_loss) / t[2], -690, 690)
            return {"c": np.exp(t[0] + ln_loss), "a": np.exp(log_a), "b": t[2]}
        if self.form == "second-order":  # slope t2 and curvature -t3 at the mean, moved to ln C = 0
            coefficient = np.clip(t[1] + ln_loss - t[2] * ln_c - t[3] * ln_c**2, -690, 690)
            alpha = t[2] + 2 * t[3] * ln_c
            return {"E": np.exp(t[0] + ln_loss), "A": np.exp(coefficient), "alpha": alpha, "gamma": t[3]}
        return {"A": np.exp(t[0] + ln_loss - t[1] * ln_c), "b": t[1]}


def exponents(form: str, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> list[list[np.ndarray]]:
    """What each exponent multiplies in ln of each term, at centred ln N, ln D, ln C "points": "terms exponents"."""
    o = 0 * x
    return {
        "surface": [[o, o], [-x, o], [o, -y]],
        "surface-0": [[-x, o], [o, -y]],
        "frontier": [[o], [z]],
        "second-order": [[o, o], [z, -(z**2)]],
        "power": [[z]],
    }[form]


def selection(runs: Runs, form: str, counts: np.ndarray | None = None) -> np.ndarray:
    """Weight of every run in the fit, "draws runs". `counts`: how often each draw holds each run (default: once).

    A surface takes every run as often as it was drawn; the others take the lowest loss drawn at each budget, once.
    """
    counts = np.ones((1, len(runs))) if counts is None else counts
    if form in SURFACES:
        return counts.astype(float)
    weights, budget = np.zeros(counts.shape), budgets(runs.c)
    for label in range(budget.max() + 1):
        at = np.flatnonzero(budget == label)
        loss = np.where(counts[:, at] > 0, runs.loss[at], np.inf)
        best = loss.argmin(axis=1)
        weights[np.arange(len(counts)), at[best]] = np.isfinite(loss.min(axis=1))
    return weights


def starts(problem: Problem, weights: np.ndarray, count: int = 24) -> np.ndarray:
    """Variable projection: the best `count` cells of the exponent grid, their coefficients by NNLS, as theta."""
    shapes, terms = problem.grid(), len(problem.features)
    columns = np.exp(np.einsum("knq,gq->gkn", problem.features[:, :, terms:], shapes) - problem.target)
    norm = np.sqrt((weights * columns**2).sum(-1))
    columns = columns / norm[..., None]
    gram = np.einsum("n,gkn,gln->gkl", weights, columns, columns) + 1e-12 * np.eye(terms)
    moment = np.einsum("n,gkn->gk", weights, columns)
    best, misfit = np.zeros((len(shapes), terms)), np.full(len(shapes), np.inf)
    for chosen in range(1, 2**terms):  # NNLS by trying every set of non-zero terms: exact, and there are at most 7
        on = [k for k in range(terms) if chosen >> k & 1]
        part = np.linalg.solve(gram[:, on][:, :, on], moment[:, on, None])[..., 0]
        left = weights.sum() - (part * moment[:, on]).sum(-1)
        better = (part >= 0).all(-1) & (left < misfit)
        misfit = np.where(better, left, misfit)
        full = np.zeros_like(best)
        full[:, on] = part
        best = np.where(better[:, None], full, best)
    log_coefficients = np.log(np.maximum(best / norm, 1e-6))
    order = np.argsort(misfit)[:count]
    return np.concatenate([log_coefficients, shapes], axis=1)[order]


def slope(problem: Problem, weights: np.ndarray, theta: np.ndarray):
    """Objective "draws", its gradient "draws params" and a curvature "draws params params" at theta "draws params"."""
    parts = np.einsum("knp,rp->krn", problem.features, theta)
    top = parts.max(0)
    share = np.exp(parts - top)
    total = share.sum(0)
    residual = top + np.log(total) - problem.target
    jacobian = np.einsum("krn,knp->rnp", share / total, problem.features)
    size = np.abs(residual)
    value = (weights * np.where(size <= DELTA, residual**2 / 2, DELTA * (size - DELTA / 2))).sum(-1)
    gradient = np.einsum("rn,rnp->rp", weights * np.clip(residual, -DELTA, DELTA), jacobian)
    bend = weights * np.where(size <= DELTA, 1.0, OUTSIDE * DELTA / np.maximum(size, DELTA))
    return value, gradient, np.matmul(jacobian.transpose(0, 2, 1) * bend[:, None], jacobian)


def descend(problem: Problem, weights: np.ndarray, theta: np.ndarray, steps: int = 400) -> tuple[np.ndarray, ...]:
    """Levenberg-Marquardt on every row of `theta` under the same row of `weights`; where it ended and the objective.

    A row rests when three accepted steps in a row gain less than 1e-9 of the objective, or when no step gains at all.
    """
    theta, eye = theta.copy(), np.eye(theta.shape[1])
    limit = np.where(np.arange(theta.shape[1]) < len(problem.features), *LIMIT)
    value, gradient, bend = slope(problem, weights, theta)
    damping, still = np.full(len(theta), 1e-2), np.zeros(len(theta), int)
    live = np.arange(len(theta))
    for _ in range(steps):
        diagonal = np.einsum("rpp->rp", bend[live])
        ridge = damping[live, None] * diagonal + 1e-12 * diagonal.max(-1, keepdims=True) + 1e-300
        step = np.linalg.solve(bend[live] + eye * ridge[:, None], gradient[live, :, None])[..., 0]
        trial = np.clip(theta[live] - np.clip(step, -1, 1), -limit, limit)
        new = slope(problem, weights[live], trial)
        better = new[0] < value[live]
        slow = better & (value[live] - new[0] <= 1e-9 * value[live])
        still[live] = np.where(slow, still[live] + 1, np.where(better, 0, still[live]))
        damping[live] *= np.where(better, 0.3, 4.0)
        moved = live[better]
        theta[moved], value[moved], gradient[moved], bend[moved] = (x[better] for x in (trial, *new))
        live = live[(still[live] < 3) & (damping[live] < 1e8) & (value[live] > 1e-28)]
        if not len(live):
            break
    return theta, value


# ---- one law --------------------------------------------------------------------------------------------------------


def fit(runs: Runs, form: str = "surface") -> Law:
    """The law of this form through these runs, without error bars; `bootstrap_fit` adds them.

    Raises:
        UserError: the runs cannot identify the law; the sentence names what is missing.
    """
    return solve(runs, form)[0]


def solve(runs: Runs, form: str) -> tuple[Law, Problem, np.ndarray, np.ndarray]:
    """The law, and what a bootstrap starts from: its problem, theta and the weights "1 runs".

    Raises:
        UserError: the runs cannot identify the law.
    """
    if reason := identifiable(runs, form):
        raise UserError(reason)
    problem, weights = Problem.of(runs, form), selection(runs, form)
    begin = starts(problem, weights[0])
    ends, values = descend(problem, np.repeat(weights, len(begin), axis=0), begin)
    theta, objective = ends[values.argmin()], float(values.min())
    status, reason = _status(problem, weights, theta)
    used = weights[0] > 0
    ranges = {k: [float(v[used].min()), float(v[used].max())] for k, v in (("n", runs.n), ("d", runs.d), ("c", runs.c))}
    params = {name: float(value) for name, value in problem.params(theta).items()}
    law = Law(form, params, objective, int(used.sum()), runs.dropped, status, reason, {}, ranges)
    return law, problem, theta, weights


def _status(problem: Problem, weights: np.ndarray, theta: np.ndarray) -> tuple[str, str]:
    """ "converged" and an empty reason, or what is wrong with the optimum and why."""
    terms = len(problem.features)
    parts = np.einsum("knp,p->kn", problem.features, theta)
    share = np.exp(parts - np.logaddexp.reduce(parts, axis=0)).max(-1)
    names = FORMS[problem.form]
    for k in range(terms):
        if share[k] < 1e-5:
            return "bound hit", f"{names[k]} went to zero: these runs show no such term"
    surface = problem.form in SURFACES
    slopes = {"alpha": theta[-2], "beta": theta[-1]} if surface else {"minus the slope in ln C": -theta[terms]}
    for name, value in slopes.items():
        if not BOX[0] < value < BOX[1]:
            return "edge", f"{name} = {value:.3g} left the searched range {BOX[0]} to {BOX[1]}"
    _, gradient, bend = (x[0] for x in slope(problem, weights, theta[None]))
    scale = np.sqrt(np.diag(bend))
    condition = np.sqrt(np.linalg.cond(bend / np.outer(scale, scale)))
    if condition > COLLINEAR:
        return "collinear", f"the terms trade off against each other (condition number {condition:.0f})"
    return "converged", ""


# ---- error bars -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bootstrap:
    """A law and its refits to resampled runs. Runs that share a trunk are drawn together, as one block."""

    law: Law  # with its intervals filled in
    draws: dict[str, np.ndarray]  # every parameter, "draws"
    noise: float  # standard deviation of one run's ln L around the law: sqrt(sum of squares / (points - params))
    dof: int  # degrees of freedom behind that number
    block: Literal["run", "trunk"]

    def interval(self, n, d, level: float = 0.9, of: Literal["run", "law"] = "run"):
        """(low, high) loss at N parameters and D tokens: of one new run, or of the law without a run's own noise."""
        centre = np.log(self.law.predict(n, d))
        params = {name: values.reshape(-1, *[1] * centre.ndim) for name, values in self.draws.items()}
        return self._around(centre, np.log(evaluate(self.law.form, params, n, d, None)), level, of)

    def interval_c(self, c, level: float = 0.9, of: Literal["run", "law"] = "run"):
        """(low, high) loss at compute C; a surface answers at the law's own optimal N and D under C = 6ND."""
        if self.law.form in SURFACES:
            return self.interval(*chinchilla_optimum(self.law.params, c), level=level, of=of)
        centre = np.log(self.law.predict_c(c))
        params = {name: values.reshape(-1, *[1] * centre.ndim) for name, values in self.draws.items()}
        return self._around(centre, np.log(evaluate(self.law.form, params, None, None, c)), level, of)

    def _around(self, centre, draws, level: float, of: str):
        """centre +- t sqrt(spread^2 + noise^2) in ln L, where t allows for a noise estimated from few runs.

        The spread comes from quantiles, since a few draws that barely identify the law would own a standard
        deviation. At level 0.9 it covered 93 % of 1,000 studies of 4 budgets x 5 sizes with 0.05 % noise, 32 times out.
        """
        tail = (1 - level) / 2
        low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
        spread = (high - low) / (2 * norm.ppf(1 - tail))
        half = t.ppf(1 - tail, self.dof) * np.hypot(spread, self.noise if of == "run" else 0.0)
        return np.exp(centre - half), np.exp(centre + half)


def bootstrap_fit(runs: Runs, form: str = "surface", draws: int = 1000, seed: int = 0, level: float = 0.9) -> Bootstrap:
    """A law with its intervals, from refits to resampled runs (Efron 1979): by trunk where there are any, else by run.

    Every draw starts at the law. Runs of one trunk share its luck, so they are drawn together (Cameron & Miller 2015).

    Args:
        runs: the finished runs.
        form: one of `scaling.law.FORMS`.
        draws: refits.
        seed: of the draws.
        level: of the intervals, between 0 and 1.

    Raises:
        UserError: there is no law, or almost no draw identifies one.
    """
    require_trunks(runs)
    law, problem, theta, weights = solve(runs, form)
    block = "run" if runs.trunk is None else "trunk"
    counts = resample(runs, form, draws, np.random.default_rng(seed))
    ends, _ = descend(problem, selection(runs, form, counts), np.tile(theta, (len(counts), 1)))
    values = problem.params(ends)
    residual = np.logaddexp.reduce(np.einsum("knp,p->kn", problem.features, theta), axis=0) - problem.target
    dof = law.num_points - len(theta)
    noise = float(np.sqrt((weights[0] * residual**2).sum() / dof))
    if runs.trunk is not None:  # t(blocks - 1), as for cluster-robust errors: Cameron & Miller 2015
        dof = max(1, min(dof, len(np.unique(runs.trunk)) - 1))
    tail = (1 - level) / 2
    intervals = {
        "level": level, "draws": draws, "block": block, "noise": noise,
        "params": {name: [float(q) for q in np.quantile(v, [tail, 1 - tail])] for name, v in values.items()},
        "se": {name: _deviation(v) for name, v in values.items()},
    }  # fmt: skip
    return Bootstrap(replace(law, intervals=intervals), values, noise, dof, block)


def require_trunks(runs: Runs) -> None:
    """Refuse runs that all share one trunk.

    Raises:
        UserError: they do.
    """
    if runs.trunk is not None and len(np.unique(runs.trunk)) < 2:
        raise UserError(
            f"all {len(runs)} runs share one trunk, so their scatter is not known: train a second one, name "
            "another column, or fit without a bootstrap"
        )


def _deviation(values: np.ndarray) -> float:
    """Standard deviation that does not overflow where a draw sent A or B to 1e300."""
    scale = np.abs(values).max()
    return float(scale * (values / scale).std(ddof=1))


def resample(runs: Runs, form: str, draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each draw holds each run, "draws runs". Draws that could identify no law are drawn again.

    Raises:
        UserError: almost no draw identifies the law, because runs or trunks are too few.
    """
    labels = np.arange(len(runs)) if runs.trunk is None else np.unique(runs.trunk, return_inverse=True)[1]
    blocks, kept = labels.max() + 1, []
    for _ in range(200):
        counts = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=draws)[:, labels]
        kept.append(counts[_holds_enough(runs, form, counts)])
        if sum(map(len, kept)) >= draws:
            return np.concatenate(kept)[:draws]
    raise UserError(
        f"{blocks} {'runs' if runs.trunk is None else 'trunks'} are too few to resample: almost no draw identifies "
        f"{FORMULAS[form]}; train more sizes, or fit without a bootstrap"
    )


def _holds_enough(runs: Runs, form: str, counts: np.ndarray) -> np.ndarray:
    def different(labels: np.ndarray) -> np.ndarray:
        return ((counts > 0) @ (labels[:, None] == np.unique(labels)) > 0).sum(-1)

    if form not in SURFACES:
        return different(budgets(runs.c)) >= len(FORMS[form])
    sizes, data = (different(np.round(np.log(values), 2)) for values in (runs.n, runs.d))
    return (sizes >= FEWEST) & (data >= FEWEST) & ((counts > 0).sum(-1) >= len(FORMS[form]))


def baselines(runs: Runs, c: float) -> dict[str, float]:
    """What a law has to beat at compute C: no further gain, and a power law without E through the frontier."""
    top = budgets(runs.c)
    return {
        "no further gain": float(runs.loss[top == top.max()].min()),
        "power law without E": float(fit(runs, "power").predict_c(c)),
    }


# ---- in words -------------------------------------------------------------------------------------------------------


def summary(law: Law) -> str:
    """The law as lines for a terminal."""
    head = f"{law.form} law  {FORMULAS[law.form]}"
    state = law.status + (f": {law.reason}" if law.reason else "")
    lines = [head, f"  {law.num_points} points, {law.dropped} dropped, objective {law.objective:.7g}, {state}"]
    bars = law.intervals
    for name, value in law.params.items():
        line = f"  {name:<6} {value:>12.6g}"
        if bars:
            low, high = bars["params"][name]
            line += f"   se {bars['se'][name]:<10.3g} {100 * bars['level']:.0f} % [{low:.5g}, {high:.5g}]"
        lines.append(line)
    if law.form in SURFACES:
        a = law.params["beta"] / (law.params["alpha"] + law.params["beta"])
        lines.append(f"  N_opt ~ C^{a:.3f}, D_opt ~ C^{1 - a:.3f} under C = 6ND")
    if bars:
        lines.append(
            f"  one run scatters {100 * bars['noise']:.2g} % around it ({bars['draws']} draws by {bars['block']})"
        )
    return "\n".join(lines)
