"""Predictions that are frozen before the run exists, and what became of them.

A prediction is a file with a sha256 over its content. It is written once. The report reads it and compares.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from scaling.combine import Combined
from scaling.doubt import doubted
from scaling.fit import baselines, bootstrap_fit
from scaling.frozen import Forecast, Prediction, digest, file_name, publish_once, read
from scaling.grid import Dial, expected_optimum
from scaling.law import SURFACES, Cost, Runs, optimum, require_extrapolation, score
from scaling.plan import bases, plan
from scaling.point import OptimumConfig, SweepConfig
from scaling.records import Finished, finished, runs_of, unstopped
from videowm.files import sha256_of
from videowm.record import code_commit
from videowm.types import UserError

REACHED = 0.9  # a run with this share of a budget counts as a run of it
NEAR = 1.2  # and one above this many times the budget is another target
COMBINED = "combined"  # all forms that the runs identify, weighed by rolling validation
LEVEL = 0.9
BESIDE = ("surface", "surface-0", "frontier")  # stand beside every combined forecast


def forecast(runs: Runs, budget: float, form: str, cost: Cost, rule: OptimumConfig | None = None,
             draws: int = 1000) -> Forecast:  # fmt: skip
    """Fit `form`, or all forms as "combined", to `runs`; extrapolate to `budget` FLOPs, at the optimum of `cost(N, D)`.

    Raises:
        UserError: the budget is not beyond the runs, there is no law, or its loss is no finite number.
    """
    made = (
        combined(runs, budget, cost, rule, draws) if form == COMBINED else single(runs, budget, form, cost, rule, draws)
    )
    if not all(map(math.isfinite, (made.loss, *made.interval))):
        raise UserError(
            f"the {form} law gives {made.loss:.4g} [{made.interval[0]:.4g}, {made.interval[1]:.4g}] at {budget:.3g} "
            "FLOPs, which is no prediction: choose another form, or run more budgets"
        )
    if not made.interval[0] < made.interval[1]:
        raise UserError(
            f"the interval at {budget:.3g} FLOPs has no width, as if runs had no scatter: check the table for copies"
        )
    return made


def single(runs: Runs, budget: float, form: str, cost: Cost, rule: OptimumConfig | None, draws: int) -> Forecast:
    """The forecast of one form, with the interval of its bootstrap: it holds no error of the form."""
    result = bootstrap_fit(runs, form, draws, level=LEVEL)
    law = result.law
    require_extrapolation(budget, law.fitted_range["c"][1])
    if form in SURFACES:
        best = optimum(law, budget, cost)
        loss, interval = law.predict(*best), result.interval(*best, level=LEVEL)
    else:
        best = expected_optimum(rule, budget, cost) if rule else (None, None)
        loss, interval = law.predict_c(budget), result.interval_c(budget, level=LEVEL)
    return Forecast(form, law.status, law.params, *best, float(loss), [float(v) for v in interval], result.block,
                    baselines(runs, budget))  # fmt: skip


def combined(runs: Runs, budget: float, cost: Cost, rule: OptimumConfig | None, draws: int) -> Forecast:
    """The forecast of all forms, weighed by rolling validation."""
    require_extrapolation(budget, float(runs.c.max()))
    mixed = Combined.of(runs, draws)
    best = mixed.optimum(budget, cost) or (expected_optimum(rule, budget, cost) if rule else (None, None))
    size = best if best[0] else (float(np.median(runs.n)), float(np.median(runs.d)))  # no surface asks for them
    found = mixed.at(*size, budget, LEVEL)
    width = {name: float(value[0]) for name, value in found.parts.items()}
    interval, block = [float(found.low[0]), float(found.high[0])], "run" if runs.trunk is None else "trunk"
    return Forecast(COMBINED, "converged", {}, *best, float(found.loss[0]), interval, block, baselines(runs, budget),
                    mixed.described(found), width)  # fmt: skip


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
    table, doubts = doubted(runs_of(used, y))
    chosen, why = (form, "named by the user") if form else (COMBINED, "forms weighed by rolling validation")
    dial = Dial.of(wanted[arm or ""])
    made = forecast(table, budget, chosen, dial.cost, sweep.grid and sweep.grid.optimum, draws)
    content = {
        "budget": budget, "y": y, "arm": arm, "form_chosen": why, "level": LEVEL, **asdict(made),
        "depth": made.n and dial.depth(made.n), "held_out": len(used) == len(records), "runs": sources,
        "doubts": [doubt.of(used[doubt.row].name) for doubt in doubts],
        "code": code_commit(), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip
    content["sha256"] = digest(content)
    publish_once(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path, read(path)


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
        "inside": "" if record is None else f"{'yes' if low <= value <= high else 'no'}, of ± {p.half_width:.1f} %",
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
