"""The words and tables of a sweep's page: every number of them is a record's."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.dispatch import diverged, stopped
from scaling.law import budgets
from scaling.point import Point
from scaling.records import Finished, read_record, rolled, unstopped
from videowm import bootstrap
from videowm.record import RunRecord

if TYPE_CHECKING:
    from scaling.check import Verdict

HORIZONS = (1, 4, 8, 16, 32, 64)  # predicted frames that are columns of the table


def sentences(records: Sequence[Finished], y: str, names: dict[str, str]) -> list[str]:
    """The first sentences of the page, on the best of each budget. `names` is what the page calls the points."""
    first, best = records[0], records[-1]
    ratio = best.compute / first.compute
    lines = [
        f"{ratio:.0f} times the training compute takes {y} from {first.metrics[y]:.4f} to {best.metrics[y]:.4f} on "
        "held-out episodes."
    ]
    return [*lines, *lead_sentence(first, best, names), *gap_sentence(best, names)]


def lead_sentence(first: Finished, best: Finished, names: dict[str, str]) -> list[str]:
    """How far the rollouts lead the repeated last frame; empty without rollouts."""
    if len(rolled([first, best])) < 2 or None in (first.number("rollout/lead"), best.number("rollout/lead")):
        return []
    low, high = (with_error(record, "rollout/lead", ".2f") for record in (first, best))
    return [
        f"Over {len(best.metrics['rollout/psnr'])} predicted frames, the PSNR of {names[best.name]} is {high} dB above "
        f"that of the repeated last frame. For {names[first.name]} it is {low} dB."
    ]


def gap_sentence(best: Finished, names: dict[str, str]) -> list[str]:
    """What wrong actions cost; empty where it was not measured, and without its error where that is not known."""
    gap, error = (best.number(f"heldout/action_gap{suffix}") for suffix in ("", "_se"))
    if gap is None:
        return []
    errors = f", {gap / error:.0f} standard errors" if error else ""
    return [f"With another episode's actions the held-out loss of {names[best.name]} is {gap:.4f} higher{errors}."]


def with_error(record: Finished, name: str, digits: str = ".4f") -> str:
    """A metric with its standard error where that is known; empty where there is no such number."""
    value, error = record.number(name), record.number(f"{name}_se")
    if value is None:
        return ""
    known = error is not None and math.isfinite(error)
    return f"{value:{digits}}" + (f" ± {error:{digits}}" if known else "")


def precision(records: Sequence[Finished], best: Sequence[Finished], verdict: Verdict | None = None) -> list[str]:
    """How far seeds scatter in a grid's `records` and its learning-rate check, and how well the bank tells the `best`
    of neighbouring budgets apart; empty where neither is known."""
    return [*scatter_sentence(records, verdict), *pairing_sentence(best)]


def scatter_sentence(records: Sequence[Finished], verdict: Verdict | None = None) -> list[str]:
    """The scatter of runs that differ in nothing but their seed, in ln L: of the grid, and of the check of rates."""
    groups: dict[tuple, list[float]] = {}
    for curve in verdict.curves if verdict else ():
        for factor, losses in zip(verdict.factors, curve.losses, strict=True):
            groups[curve.depth, curve.tokens, factor] = [math.log(loss) for loss in losses if loss]
    for r in unstopped(records):
        groups.setdefault((r.arm, r.depth, r.steps), []).append(math.log(r.metrics["heldout/loss"]))
    seeds = [found for found in groups.values() if len(found) > 1]
    if not seeds:
        return []
    freedom = sum(len(found) - 1 for found in seeds)
    scatter = math.sqrt(sum(np.var(found) * len(found) for found in seeds) / freedom)
    return [f"Runs that differ in nothing but their seed scatter by {scatter:.2%} of the loss "
            f"({sum(map(len, seeds))} runs of {len(seeds)} sizes and budgets)."]  # fmt: skip


def pairing_sentence(best: Sequence[Finished]) -> list[str]:
    """How well the loss of a budget's best run is known against the next one's."""
    known = [(r.hashes["bank"], shares) for r in best if (shares := r.metrics.get("heldout/loss_by_episode"))]
    errors = [paired_error(a, b) for (bank, a), (other, b) in zip(known, known[1:]) if bank == other and len(a) > 1]
    if not errors:
        return []
    return [f"On the clips that they share, the loss of a budget's best run against the next one's is known to "
            f"± {np.median(errors):.2%} (median of {len(errors)}; standard error over {len(known[0][1])} "
            "episodes)."]  # fmt: skip


def paired_error(one: Sequence[float], other: Sequence[float], draws: int = 1000) -> float:
    """Bootstrap standard error of ln(L / L') over the episodes that both were measured on, from what each adds to L."""
    episodes = np.arange(len(one))
    weights = bootstrap.weights(episodes, draws=draws)
    return float(bootstrap.spread(np.log((weights @ np.asarray(one)) / (weights @ np.asarray(other))), episodes))


def left_out(points: Sequence[Point]) -> list[str]:
    """Lines on the points that no law sees because they diverged or were stopped."""
    names = {
        "diverged": [point.name for point in points if diverged(point)],
        "stopped by the action gate": [point.name for point in points if stopped(point)],
    }
    return [f"{why}, so in no fit: {', '.join(found)}" for why, found in names.items() if found]


def table_rows(records: Sequence[Finished]) -> list[dict[str, Any]]:
    """One row a point, as the table shows it."""
    longest = max((len(r.metrics["rollout/psnr"]) for r in rolled(records)), default=0)
    return [table_row(record, longest) for record in records]


def table_row(r: Finished, longest: int) -> dict[str, Any]:
    """One point; `longest` is the longest rollout of all, in frames."""
    psnr = r.metrics.get("rollout/psnr") or []
    return {
        "point": r.name + (" (stopped)" if r.stopped else ""),
        "depth": r.depth,
        "N (body)": f"{r.params['body']:,}",
        "D (tokens)": f"{r.tokens['target']:,}",
        "FLOPs": f"{r.compute:.3g}",
        "steps": f"{r.steps:,}",
        "seconds": f"{r.wall_seconds:.0f}",
        "MFU": f"{r.mfu:.1%}" if r.mfu else "n/a",
        "loss": with_error(r, "heldout/loss"),
        "action gap": with_error(r, "heldout/action_gap"),
        **{f"PSNR +{h}": f"{psnr[h - 1]:.2f}" if h <= len(psnr) else "" for h in HORIZONS if h <= longest},
        "frames seen / unique": f"{r.frames['seen']:,} / {r.frames['unique']:,}",
    }


def data_rows(records: Sequence[Finished]) -> list[dict[str, Any]]:
    """One row a point, unrounded, with every number that it was measured to have: what points.csv holds."""
    rows = []
    for r in records:
        numbers = {name: value for name in r.metrics if (value := r.number(name)) is not None}
        about = {"point": r.name, "arm": r.arm or "", "trunk": r.trunk or "", "seed": r.seed,
                 "stopped": r.stopped or "", "N": r.params["body"], "D": r.tokens["target"], "C": r.compute,
                 "spent": r.flops["spent"], "steps": r.steps, "seconds": r.wall_seconds, "mfu": r.mfu,
                 "frames_seen": r.frames["seen"], "frames_unique": r.frames["unique"]}  # fmt: skip
        rows.append(about | numbers)
    return rows


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV; a column that one row lacks is empty there."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def costs(points: Sequence[Point], others: dict[str, list[Point]]) -> list[dict[str, str]]:
    """What was spent, a row a budget, then trunks, `others` by their name, and the whole; from records alone."""
    read = [record for point in points if (record := read_record(point.run))]
    branches = [record for record in read if not record.is_trunk]
    label = budgets(np.array([record.flops["train"] for record in branches]))
    groups = {}
    for k in range(label.max() + 1):
        found = [record for record, one in zip(branches, label, strict=True) if one == k]
        middle = math.exp(np.mean([math.log(record.flops["train"]) for record in found]))
        groups[f"runs of {middle:.3g} FLOPs"] = found
    groups["trunks"] = [record for record in read if record.is_trunk]
    groups |= {name: [r for p in more if (r := read_record(p.run))] for name, more in others.items()}
    groups["all"] = [record for found in groups.values() for record in found]
    return [cost_row(name, found) for name, found in groups.items() if found]


def cost_row(name: str, records: Sequence[RunRecord]) -> dict[str, str]:
    """What some runs spent together; the MFU is weighted by FLOPs."""
    timed = [record for record in records if record.mfu]
    mfu = np.average([r.mfu for r in timed], weights=[r.flops["spent"] for r in timed]) if timed else None
    return {
        "": name,
        "runs": f"{len(records):,}",
        "FLOPs spent": f"{sum(record.flops['spent'] for record in records):.3g}",
        "hours": f"{sum(record.wall_seconds for record in records) / 3600:.3g}",
        "MFU": "n/a" if mfu is None else f"{mfu:.1%}",
        "device": ", ".join(sorted({record.device for record in records})),
    }
