"""Predictions that are frozen before the run exists, and what became of them.

A prediction is a file with a sha256 over its content. It is written once. The report reads it and compares.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling.fit import baselines, bootstrap_fit, fit
from scaling.grid import Dial, expected_optimum, label
from scaling.law import Cost, Law, Runs, budgets, identifiable, optimum, require_extrapolation, score
from scaling.plan import bases, plan
from scaling.point import OptimumConfig, SweepConfig
from scaling.records import Finished, finished, runs_of, unstopped
from videowm.files import sha256_of, write_atomic
from videowm.types import UserError

REACHED = 0.9  # a run with this share of a budget counts as a run of it
NEAR = 1.2  # and one above this many times the budget is another target
CANDIDATES = ("surface", "frontier", "second-order")
LEVEL = 0.9


@dataclass(frozen=True)
class Forecast:
    """A law's loss at one budget, with its interval and the baselines."""

    form: str  # of the law
    status: str  # of the fit, "converged" or what is wrong with it
    params: dict[str, float]  # of the law
    n: float | None  # expected to be best at this budget; None where neither the law nor the sweep has a rule
    d: float | None  # tokens, likewise
    loss: float  # that is predicted
    interval: list[float]  # of one new run
    block: str  # what the bootstrap drew: "run" or "trunk"
    baselines: dict[str, float]  # "no further gain" is the lowest loss of the highest budget that was fitted


@dataclass(frozen=True, kw_only=True)
class Prediction(Forecast):
    """A frozen forecast, as its file holds it."""

    budget: float  # FLOPs
    y: str  # the metric
    arm: str | None  # of the sweep; None where it has none
    form_chosen: str  # why this form
    level: float  # of the interval
    depth: int | None  # whose parameters come closest to n
    held_out: bool  # no run of this budget had been finished
    runs: dict[str, str]  # sha256 of the records that were fitted, by name
    time: str  # when it was frozen
    sha256: str  # over all the rest

    def __str__(self) -> str:
        """The prediction as lines for a terminal."""
        interval = "{:.0%} [{:.4f}, {:.4f}]".format(self.level, *self.interval).replace("%", " %")
        size = "" if self.n is None else f" at N = {self.n:.3g} (depth {self.depth}), D = {self.d:.3g} tokens"
        others = ", ".join(f"{name} {value:.4f}" for name, value in self.baselines.items())
        late = "" if self.held_out else "\n  not held out: a run of this budget had been finished before"
        return (
            f"{self.y} at {self.budget:.3g} FLOPs: {self.loss:.4f}, {interval}{size}\n"
            f"  {self.form} law ({self.status}) on {len(self.runs)} runs; {self.form_chosen}\n  {others}\n"
            f"  frozen {self.time}, sha256 {self.sha256[:16]}{late}"
        )


def forecast(runs: Runs, budget: float, form: str, cost: Cost, rule: OptimumConfig | None = None,
             draws: int = 1000) -> Forecast:  # fmt: skip
    """Fit `form` to `runs` and extrapolate to `budget` FLOPs, at the compute optimum under `cost(N, D)`.

    Raises:
        UserError: the budget is not beyond the runs, there is no law, or its loss is no finite number.
    """
    result = bootstrap_fit(runs, form, draws, level=LEVEL)
    law, best = result.law, (None, None)
    require_extrapolation(law, budget)
    if form == "surface":
        best = optimum(law, budget, cost)
        loss, interval = law.predict(*best), result.interval(*best, level=LEVEL)
    else:
        best = expected_optimum(rule, budget, cost) if rule else best
        loss, interval = law.predict_c(budget), result.interval_c(budget, level=LEVEL)
    if not all(map(math.isfinite, (loss, *interval))):
        raise UserError(
            f"the {form} law gives {float(loss):.4g} [{interval[0]:.4g}, {interval[1]:.4g}] at {budget:.3g} FLOPs, "
            "which is no prediction: choose another form, or run more budgets"
        )
    return Forecast(form, law.status, law.params, *best, float(loss), [float(v) for v in interval], result.block,
                    baselines(runs, budget))  # fmt: skip


def choose_form(runs: Runs) -> tuple[str, str]:
    """The form that predicts the best run of the highest budget from the lower ones, and a sentence with the reason.

    Not a surface on which more parameters or data do harm: it has no best size to predict at.

    Raises:
        UserError: the runs identify no form.
    """
    candidates, without = CANDIDATES, ""
    if not identifiable(runs, "surface"):
        try:
            optimum(fit(runs, "surface"), runs.c.max())
        except UserError as reason:
            candidates, without = CANDIDATES[1:], f"; {reason}"
    labels = budgets(runs.c)
    below = runs.keep(labels < labels.max()) if labels.max() > 0 else runs
    top = np.flatnonzero(labels == labels.max())
    best = top[runs.loss[top].argmin()]
    laws = {form: fit(below, form) for form in candidates if not identifiable(below, form)}
    errors = {form: validation_error(law, runs, best) for form, law in laws.items()}
    if errors:
        form = min(errors, key=lambda name: abs(errors[name]))
        each = ", ".join(f"{name} {error:+.3g} %" for name, error in errors.items())
        why = f"chosen by the error at {runs.c[best]:.3g} FLOPs of a fit to the lower budgets: {each} of the loss"
        return form, why + without
    usable = [form for form in candidates if not identifiable(runs, form)]
    if not usable:
        raise UserError(identifiable(runs, "frontier"))
    why = "the first form that these runs identify: without their highest budget they identify none"
    return usable[0], why + without


def validation_error(law: Law, runs: Runs, at: int) -> float:
    """Error of the law at one run, in % of its loss."""
    predicted = law.predict(runs.n[at], runs.d[at]) if law.form == "surface" else law.predict_c(runs.c[at])
    return score(predicted, runs.loss[at], runs.loss[at]).loss_percent


def freeze(sweep: SweepConfig, budget: float, *, form: str | None = None, y: str = "heldout/loss",
           draws: int = 1000, arm: str | None = None) -> tuple[Path, Prediction]:  # fmt: skip
    """Write what the finished points below `budget` predict for it, once; the file and what it holds.

    Raises:
        UserError: there is no such arm, no finished point, no law, or another prediction of the same budget.
    """
    points, wanted = plan(sweep), bases(sweep)
    if (arm or "") not in wanted:
        raise UserError(f"arm {arm!r} is not one of the grid's ({', '.join(wanted) or 'none'}): give --arm")
    records = [record for record in unstopped(finished(points)) if record.arm == arm]
    used = [record for record in records if record.compute < REACHED * budget]
    if not used:
        raise UserError(f"{sweep.out} has no finished point below {budget:.3g} FLOPs: run the sweep first")
    runs = {point.name: point.run for point in points}
    sources = {record.name: sha256_of(runs[record.name] / "record.json") for record in used}
    path = Path(sweep.out) / "predictions" / file_name(budget, y, arm)
    if path.exists():
        return path, frozen(path, sources, form)
    table = runs_of(used, y)
    chosen, why = (form, "named by the user") if form else choose_form(table)
    dial = Dial.of(wanted[arm or ""])
    made = forecast(table, budget, chosen, dial.cost, sweep.grid and sweep.grid.optimum, draws)
    content = {
        "budget": budget, "y": y, "arm": arm, "form_chosen": why, "level": LEVEL, **asdict(made),
        "depth": made.n and dial.depth(made.n), "held_out": len(used) == len(records), "runs": sources,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip
    content["sha256"] = digest(content)
    publish_once(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path, read(path)


def file_name(budget: float, y: str, arm: str | None) -> str:
    metric = "" if y == "heldout/loss" else "-" + y.replace("/", "-")
    return (f"{arm}-" if arm else "") + label(budget) + metric + ".json"


def digest(content: dict[str, Any]) -> str:
    """sha256 over all of a prediction but the hash itself."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def publish_once(path: Path, text: str) -> None:
    """Write `text` whole or not at all, never over a file that is there: a link fails where a rename would replace.

    Raises:
        UserError: another call wrote the file at the same time.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    write_atomic(aside, text.encode())
    try:
        os.link(aside, path)
    except FileExistsError:
        raise UserError(f"{path} was written by another call just now: run the same command again to see it") from None
    finally:
        aside.unlink()


def read(path: Path) -> Prediction:
    """A frozen prediction.

    Raises:
        UserError: the file was changed.
    """
    try:
        content = json.loads(path.read_text())
        whole = content["sha256"] == digest(content)
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{path} does not match its own sha256, so it is not what was frozen: restore the file")
    return Prediction(**content)


def frozen(path: Path, sources: dict[str, str], form: str | None) -> Prediction:
    """The prediction in `path`, if the same command would make it again.

    Raises:
        UserError: the file froze another form, or was fitted to other records.
    """
    content = read(path)
    if form not in (None, content.form):
        raise UserError(f"{path} froze the form {content.form}, not {form}: a prediction is never overwritten")
    if content.runs != sources:
        changed = sorted({name for name, _ in content.runs.items() ^ sources.items()})
        raise UserError(
            f"{path} was fitted to other records ({', '.join(changed[:3])} differ): a prediction is never overwritten, "
            "predict another budget"
        )
    return content


# ---- what became of it ----------------------------------------------------------------------------------------------


def predictions(sweep: SweepConfig, y: str) -> list[Prediction]:
    """The frozen predictions of a sweep for one metric, by rising budget."""
    found = [read(path) for path in sorted((Path(sweep.out) / "predictions").glob("*.json"))]
    return sorted((one for one in found if one.y == y), key=lambda one: one.budget)


def measured(prediction: Prediction, records: Sequence[Finished]) -> Finished | None:
    """The finished run with the lowest loss at the budget that was predicted."""
    budget, y = prediction.budget, prediction.y
    records = [r for r in unstopped(records) if r.arm == prediction.arm and r.number(y) is not None]
    at = [r for r in records if REACHED <= r.compute / budget <= NEAR]
    return min(at, key=lambda record: record.metrics[y], default=None)


def comparison(predicted: Sequence[Prediction], records: Sequence[Finished]) -> list[dict[str, str]]:
    """One row a prediction: predicted against measured, beside both baselines."""
    return [compared(p, measured(p, records)) for p in predicted]


def compared(p: Prediction, record: Finished | None) -> dict[str, str]:
    """A prediction and the run of its budget, if there is one, as a row of the page's table."""
    low, high = p.interval
    value = None if record is None else record.metrics[p.y]
    row = {
        "FLOPs": f"{p.budget:.3g}",
        "form": p.form + ("" if p.status == "converged" else f" ({p.status})"),
        "predicted": f"{p.loss:.4f}",
        f"{100 * p.level:.0f} % interval": f"{low:.4f} to {high:.4f}",
        "held out": "yes" if p.held_out else "no",
        "measured": "not run yet" if record is None else f"{value:.4f} ({record.name})",
        "inside": "" if record is None else ("yes" if low <= value <= high else "no"),
    }
    last = p.baselines["no further gain"]
    for name, guess in {"error": p.loss, **p.baselines}.items():
        row[name] = "" if record is None else in_percent(guess, value, last)
    return row


def in_percent(predicted: float, true: float, last: float) -> str:
    """Signed error in % of the loss and of the gain."""
    result = score(predicted, true, last)
    gain = "no gain" if result.gain_percent is None else f"{result.gain_percent:+.1f} % of gain"
    return f"{result.loss_percent:+.2f} % of L, {gain}"
