"""What a sweep's page says in words and tables: every number of it is a record's."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import numpy as np

from scaling.dispatch import diverged, stopped
from scaling.law import budgets
from scaling.plan import Point
from scaling.records import read_record, rolled, unstopped

HORIZONS = (1, 4, 8, 16, 32, 64)  # predicted frames that are columns of the table


def sentences(records: list[dict[str, Any]], y: str, names: dict[str, str]) -> list[str]:
    """What the page says first, of the best of each budget; `names` is what the points are called here."""
    first, best = records[0], records[-1]
    ratio = best["flops"]["train"] / first["flops"]["train"]
    a, b = first["metrics"], best["metrics"]
    gap = b["heldout/action_gap"] / b["heldout/action_gap_se"]
    said = [f"{ratio:.0f} times the training compute takes {y} from {a[y]:.4f} to {b[y]:.4f} on held-out episodes."]
    if len(rolled([first, best])) == 2:
        leads = [f"{m['rollout/lead']:.2f} ± {m['rollout/lead_se']:.2f} dB" for m in (a, b)]
        said.append(
            f"Over {len(b['rollout/psnr'])} rolled-out frames {names[best['name']]} leads the repeated last frame by "
            f"{leads[1]} in PSNR; {names[first['name']]} by {leads[0]}."
        )
    return [
        *said,
        f"With another episode's actions the held-out loss of {names[best['name']]} is {b['heldout/action_gap']:.4f} "
        f"higher, {gap:.0f} standard errors.",
    ]


def precision(records: list[dict[str, Any]], best: list[dict[str, Any]]) -> list[str]:
    """How much the seeds of a grid's `records` scatter, and how well the bank tells the best of one budget from the
    next's; what of it is known."""
    groups: dict[tuple, list[float]] = {}
    for r in unstopped(records):
        groups.setdefault((r.get("arm"), r["depth"], r["steps"]), []).append(math.log(r["metrics"]["heldout/loss"]))
    seeds, said = [found for found in groups.values() if len(found) > 1], []
    if seeds:
        freedom = sum(len(found) - 1 for found in seeds)
        scatter = math.sqrt(sum(np.var(found) * len(found) for found in seeds) / freedom)
        said.append(f"Runs that differ in nothing but their seed scatter by {scatter:.2%} of the loss "
                    f"({sum(map(len, seeds))} runs of {len(seeds)} sizes and budgets).")  # fmt: skip
    known = [(r["hashes"]["bank"], shares) for r in best if (shares := r["metrics"].get("heldout/loss_by_episode"))]
    errors = [paired_error(a, b) for (bank, a), (other, b) in zip(known, known[1:]) if bank == other]
    if errors:
        said.append(f"On the clips that they share, the loss of a budget's best run against the next one's is known to "
                    f"± {np.median(errors):.2%} (median of {len(errors)}; standard error over {len(known[0][1])} "
                    "episodes).")  # fmt: skip
    return said


def paired_error(one: list[float], other: list[float], draws: int = 1000) -> float:
    """Bootstrap standard error of ln(L / L') over the episodes that both were measured on, from what each adds to L."""
    drawn = np.random.default_rng(0).integers(len(one), size=(draws, len(one)))
    ratios = np.log(np.asarray(one)[drawn].sum(1) / np.asarray(other)[drawn].sum(1))
    return float(ratios.std(ddof=1))


def left_out(points: list[Point]) -> list[str]:
    """Lines on the points that no law sees because they diverged or were stopped."""
    names = {
        "diverged": [point.name for point in points if diverged(point)],
        "stopped by the action gate": [point.name for point in points if stopped(point)],
    }
    return [f"{why}, so in no fit: {', '.join(found)}" for why, found in names.items() if found]


def table_rows(records: list[dict[str, Any]]) -> list[dict[str, str]]:
    """One row a point, as the table shows it."""
    rows, longest = [], max((len(r["metrics"]["rollout/psnr"]) for r in rolled(records)), default=0)
    for r in records:
        psnr = r["metrics"].get("rollout/psnr", [])
        at = {f"PSNR +{h}": f"{psnr[h - 1]:.2f}" if h <= len(psnr) else "" for h in HORIZONS if h <= longest}
        rows.append(
            {
                "point": r["name"] + (" (stopped)" if r.get("stopped") else ""),
                "depth": r["depth"],
                "N (body)": f"{r['params']['body']:,}",
                "D (tokens)": f"{r['tokens']['target']:,}",
                "FLOPs": f"{r['flops']['train']:.3g}",
                "steps": f"{r['steps']:,}",
                "seconds": f"{r['wall_seconds']:.0f}",
                "MFU": f"{r['mfu']:.1%}" if r["mfu"] else "n/a",
                "loss": f"{r['metrics']['heldout/loss']:.4f} ± {r['metrics']['heldout/loss_se']:.4f}",
                "action gap": f"{r['metrics']['heldout/action_gap']:.4f} ± {r['metrics']['heldout/action_gap_se']:.4f}",
                **at,
                "frames seen / unique": f"{r['frames']['seen']:,} / {r['frames']['unique']:,}",
            }
        )
    return rows


def data_rows(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a point, unrounded, with every number that it was measured to have: what points.csv holds."""
    rows = []
    for r in records:
        numbers = {name: v for name, v in r["metrics"].items() if isinstance(v, int | float)}
        about = {"point": r["name"], "arm": r.get("arm") or "", "trunk": r.get("trunk") or "", "seed": r["seed"],
                 "stopped": r.get("stopped") or "", "N": r["params"]["body"], "D": r["tokens"]["target"],
                 "C": r["flops"]["train"], "spent": r["flops"]["spent"], "steps": r["steps"],
                 "seconds": r["wall_seconds"], "mfu": r["mfu"], "frames_seen": r["frames"]["seen"],
                 "frames_unique": r["frames"]["unique"]}  # fmt: skip
        rows.append(about | numbers)
    return rows


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Rows as CSV; a column that one row lacks is empty there."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def costs(points: list[Point], others: dict[str, list[Point]]) -> list[dict[str, str]]:
    """What was spent, a row a budget, then trunks, `others` by their name, and the whole; from records alone."""
    read = [record for point in points if (record := read_record(point.run))]
    branches = [record for record in read if record.get("role") != "trunk"]
    label = budgets(np.array([record["flops"]["train"] for record in branches]))
    groups = {}
    for k in range(label.max() + 1):
        found = [record for record, one in zip(branches, label, strict=True) if one == k]
        middle = math.exp(np.mean([math.log(record["flops"]["train"]) for record in found]))
        groups[f"runs of {middle:.3g} FLOPs"] = found
    groups["trunks"] = [record for record in read if record.get("role") == "trunk"]
    groups |= {name: [r for p in more if (r := read_record(p.run))] for name, more in others.items()}
    groups["all"] = [record for found in groups.values() for record in found]
    return [cost_row(name, found) for name, found in groups.items() if found]


def cost_row(name: str, records: list[dict[str, Any]]) -> dict[str, str]:
    spent, seconds = (
        sum(values) for values in zip(*((r["flops"]["spent"], r["wall_seconds"]) for r in records), strict=True)
    )
    timed = [record for record in records if record["mfu"]]
    mfu = np.average([r["mfu"] for r in timed], weights=[r["flops"]["spent"] for r in timed]) if timed else None
    return {
        "": name,
        "runs": f"{len(records):,}",
        "FLOPs spent": f"{spent:.3g}",
        "hours": f"{seconds / 3600:.3g}",
        "MFU": "n/a" if mfu is None else f"{mfu:.1%}",
        "device": ", ".join(sorted({record["device"] for record in records})),
    }
