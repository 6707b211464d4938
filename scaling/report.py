"""One self-contained page: quality against compute, the strip, two futures, and every point in a table."""

from __future__ import annotations

import base64
import csv
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from scaling import futures
from scaling.fit import fit, selection
from scaling.law import Law, identifiable
from scaling.plan import SweepConfig, plan, write_whole
from scaling.predict import comparison, measured, predictions
from scaling.records import by_arm, falls, finished, runs_of, unstopped
from videowm.types import UserError

HORIZONS = (1, 4, 8, 16, 32, 64)  # predicted frames that are columns of the table
TEMPLATE = Path(__file__).with_name("report.html")


def report(sweep: SweepConfig, *, y: str = "heldout/loss") -> Path:
    """Write report.html and, beside it in report/, its figures, videos and the table as CSV; return the page."""
    import jinja2

    records = finished(plan(sweep))
    if not unstopped(records):
        stopped = f" (the action gate stopped {len(records)})" if records else ""
        raise UserError(f"{sweep.out} has no finished point yet{stopped}: python -m scaling run SWEEP.yaml")
    law, why_not = law_of(records, y)
    best, predicted = best_of_budgets(records, y), predictions(sweep, y)
    shown = futures.pictures(sweep, best)
    curves = {"loss": loss_figure(records, y, law, predicted)}
    if rolled(best):
        curves["horizon"] = horizon_figure(rolled(best))
    rows = table_rows(records)
    folder = Path(sweep.out) / "report"
    files = {f"{name}.png": png for name, png in curves.items()}
    files |= {f"{name}.{kind}": getattr(p, kind) for name, p in shown.items() for kind in ("png", "mp4")}
    files["points.csv"] = as_csv(rows).encode()
    write_files(folder, files)
    embedded = {name.replace(".", "_"): base64.b64encode(data).decode() for name, data in files.items()}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(TEMPLATE.read_text()).render(
        title=sweep.title, summary=summary(best, y), rows=rows, why_not=why_not, law=law, files=embedded, y=y,
        predicted=comparison(predicted, records), best=best[-1], strip_frames=sweep.strip_frames,
    )  # fmt: skip
    path = Path(sweep.out) / "report.html"
    write_whole(path, page)
    return path


def best_of_budgets(records: list[dict[str, Any]], y: str) -> list[dict[str, Any]]:
    """The best of every budget, by rising compute: what the pictures show of a grid."""
    records, runs = unstopped(records), runs_of(records, y)
    runs = runs if falls(y) else replace(runs, loss=-runs.loss)
    return [record for record, weight in zip(records, selection(runs, "frontier")[0], strict=True) if weight > 0]


def law_of(records: list[dict[str, Any]], y: str) -> tuple[Law | None, str | None]:
    """The fitted frontier, or the plain sentence why there is none."""
    if not y.startswith("heldout/loss"):
        return None, f"No law is fitted: its form is that of a loss, and {y} is none."
    if len(found := by_arm(records)) > 1:
        return (
            None,
            f"No law is drawn: the runs are of {len(found)} arms, and `python -m scaling fit` gives one for each.",
        )
    runs = runs_of(records, y)
    reason = identifiable(runs, "frontier")
    return (None, reason) if reason else (fit(runs, "frontier"), None)


def rolled(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those whose configuration asked for rollouts."""
    return [record for record in records if "rollout/psnr" in record["metrics"]]


def summary(records: list[dict[str, Any]], y: str) -> list[str]:
    """What the page says first, in sentences made of measured numbers."""
    first, best = records[0], records[-1]
    ratio = best["flops"]["train"] / first["flops"]["train"]
    a, b = first["metrics"], best["metrics"]
    gap = b["heldout/action_gap"] / b["heldout/action_gap_se"]
    said = [f"{ratio:.0f} times the training compute takes {y} from {a[y]:.4f} to {b[y]:.4f} on held-out episodes."]
    if len(rolled([first, best])) == 2:
        leads = [f"{m['rollout/lead']:.2f} ± {m['rollout/lead_se']:.2f} dB" for m in (a, b)]
        said.append(
            f"Over {len(b['rollout/psnr'])} rolled-out frames {best['name']} leads the repeated last frame by "
            f"{leads[1]} in PSNR; {first['name']} by {leads[0]}."
        )
    return [
        *said,
        f"With another episode's actions the held-out loss of {best['name']} is {b['heldout/action_gap']:.4f} higher, "
        f"{gap:.0f} standard errors.",
    ]


def table_rows(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a point, all that the table and the CSV show."""
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


def as_csv(rows: list[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        aside = folder / f".{name}.{os.getpid()}"
        aside.write_bytes(data)
        os.replace(aside, folder / name)


def new_axes(width: float = 6.4, height: float = 4.0):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(width, height), dpi=150)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, which="major", color="#e6e6ea", linewidth=0.8)
    return figure, axes


def as_png(figure) -> bytes:
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    plt.close(figure)
    return buffer.getvalue()


def loss_figure(records: list[dict[str, Any]], y: str, law: Law | None, predicted: list[dict[str, Any]]) -> bytes:
    """The held-out loss of every point against its compute, the law where there is one, and what was predicted.

    Stopped points are crosses beside the curve.
    """
    import numpy as np
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure, axes = new_axes()
    for record in records:
        if record.get("stopped") and y in record["metrics"]:
            axes.plot(record["flops"]["train"], record["metrics"][y], "x", color="#8e8e93", label=record["stopped"])
    records = unstopped(records)
    c = np.array([r["flops"]["train"] for r in records])
    loss = np.array([r["metrics"][y] for r in records])
    error = [r["metrics"].get(f"{y}_se", 0.0) for r in records]
    axes.errorbar(c, loss, yerr=error, fmt="o", color="#1f4e9c", capsize=3, zorder=3)
    if law is None:
        axes.plot(c, loss, color="#1f4e9c", linewidth=1, alpha=0.5)
    else:
        grid = np.geomspace(c.min(), c.max() * 2, 100)
        axes.plot(grid, law.predict_c(grid), color="#1f4e9c", linewidth=1.2)
    few = best_of_budgets(records, y) if len(records) > 8 else records
    for record in few:
        at = (record["flops"]["train"], record["metrics"][y])
        axes.annotate(record["name"], at, xytext=(7, 6), textcoords="offset points", fontsize=9)
    draw_predictions(axes, predicted, records)
    draw_bounds(axes, c, records, y)
    axes.set(xscale="log", xlabel="training compute (FLOPs)", ylabel=y)
    if y.startswith("heldout/loss"):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter() if loss.max() / loss.min() < 4 else NullFormatter())
    axes.set_xlim(c.min() / 1.6, max([c.max(), *(p["budget"] for p in predicted)]) * 2.2)
    return as_png(figure)


def draw_bounds(axes, c, records: list[dict[str, Any]], y: str) -> None:
    """The ceiling and the floor of every point, where the metric has them."""
    for suffix, colour, line in (("ceiling", "#3a3a3c", "--"), ("floor", "#d64541", ":")):
        bound = [r["metrics"].get(f"{y}_{suffix}") for r in records]
        if None not in bound:
            axes.plot(c, bound, color=colour, linestyle=line, linewidth=1.2, label=suffix)
            axes.legend(frameon=False, fontsize=8)


def draw_predictions(axes, predicted: list[dict[str, Any]], records: list[dict[str, Any]]) -> None:
    """Open where frozen, with the interval; filled where the run was measured."""
    for p in predicted:
        bars = [[p["loss"] - p["interval"][0]], [p["interval"][1] - p["loss"]]]
        axes.errorbar([p["budget"]], [p["loss"]], yerr=bars, fmt="D", color="#d64541", mfc="white", capsize=3, zorder=4)
        if record := measured(p, records):
            at = (record["flops"]["train"], record["metrics"][p["y"]])
            axes.plot(*at, "D", color="#d64541", markersize=4, zorder=5)


def horizon_figure(records: list[dict[str, Any]]) -> bytes:
    """PSNR over the rollout of every point, between the VAE's ceiling and the repeated frame's floor."""
    import numpy as np
    from matplotlib import colormaps

    figure, axes = new_axes()
    last = records[-1]["metrics"]
    frames = np.arange(1, len(last["rollout/psnr"]) + 1)
    axes.plot(frames, last["rollout/psnr_vae"], color="#3a3a3c", linestyle="--", label="VAE reconstruction (ceiling)")
    for i, record in enumerate(reversed(records)):
        shade = colormaps["Blues"](0.95 - 0.6 * i / max(1, len(records) - 1))
        axes.plot(frames, record["metrics"]["rollout/psnr"], color=shade, label=record["name"])
    axes.plot(frames, last["rollout/psnr_repeat"], color="#d64541", linestyle=":", label="last frame repeated (floor)")
    axes.set(xlabel="predicted frame", ylabel="PSNR against the truth (dB)")
    axes.legend(frameon=False, fontsize=8)
    return as_png(figure)
