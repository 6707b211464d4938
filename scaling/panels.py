"""Figures of what was measured: any metric against compute, all of them in small, PSNR over the rollout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from scaling.figures import RED, Cut, draw_cut, draw_predictions, plain_ticks
from scaling.fit import selection
from scaling.records import Finished, by_arm, check_metric, is_loss, runs_of, unstopped
from videowm.metrics import beside as name_beside
from videowm.metrics import lower_is_better, single, unit
from videowm.show import new_figure
from videowm.types import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scaling.predict import Prediction

BLUE, DARK = "#1f4e9c", "#3a3a3c"
ARMS = (BLUE, "#d98324", "#3c8d5a", "#8a4f9e", "#4d9db4", "#a0522d")


def best_of_budgets(records: Sequence[Finished], y: str) -> list[Finished]:
    """The best of every budget, by rising compute: what the pictures show of a grid."""
    records, runs = unstopped(records), runs_of(records, y)
    runs = runs if lower_is_better(y) else replace(runs, loss=-runs.loss)
    return [record for record, weight in zip(records, selection(runs, "frontier")[0], strict=True) if weight > 0]


def beside(record: Finished, y: str, suffix: str) -> float | None:
    """The metric's standard error, ceiling or floor in this record; None where it is not known."""
    return record.number(name_beside(y, suffix))


def metric_names(records: Sequence[Finished]) -> list[str]:
    """Every number that compares over all unstopped records and differs between them, without errors and bounds."""
    records = unstopped(records)

    def shown(name: str) -> bool:
        try:
            check_metric(records, name)
        except UserError:  # missing somewhere, or measured on other starts
            return False
        values = [record.metrics[name] for record in records]
        return bool(np.isfinite(values).all()) and len(set(values)) > 1

    names = [name for name in single(records[0].metrics) if not name.startswith("evaluate/")]
    return [name for name in names if shown(name)]


def draw_metric(axes, records: Sequence[Finished], y: str) -> None:
    """Every run with its standard error, a line through the best of each budget, ceiling and floor; arms by colour."""
    from matplotlib.ticker import NullFormatter

    alone = len(by_arm(records)) == 1
    for colour, (arm, found) in zip(ARMS * len(records), by_arm(unstopped(records)).items(), strict=False):
        c, values = (np.array(v) for v in zip(*((r.compute, r.metrics[y]) for r in found), strict=True))
        error = [beside(record, y, "se") or 0.0 for record in found]
        axes.errorbar(c, values, yerr=error, fmt="o", ms=4, lw=1, color=colour, capsize=2, zorder=3, label=arm)
        best = best_of_budgets(found, y)
        line = [(r.compute, r.metrics[y]) for r in best]
        axes.plot(*zip(*line, strict=True), color=colour, lw=1, alpha=0.6)
        for suffix, style in (("ceiling", "--"), ("floor", ":")):
            bound = [beside(record, y, suffix) for record in best]
            if None not in bound:
                colour = (DARK if suffix == "ceiling" else RED) if alone else colour
                axes.plot([x for x, _ in line], bound, color=colour, ls=style, lw=1.1, label=suffix)
    axes.set(xscale="log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, which="major", color="#e6e6ea", lw=0.7)


def against_compute(records: Sequence[Finished], y: str, predicted: Sequence[Prediction] = (),
                    cut: Cut | None = None) -> Figure:  # fmt: skip
    """The metric of every point against its compute, and what was cut short."""
    figure, (axes,) = new_figure(6.4, 4.0)
    draw_metric(axes, records, y)
    kept = unstopped(records)
    for record in best_of_budgets(kept, y) if len(kept) > 8 else kept:
        at = (record.compute, record.metrics[y])
        axes.annotate(record.name, at, xytext=(7, 6), textcoords="offset points", fontsize=8)
    draw_predictions(axes, predicted)
    draw_cut(axes, cut or {})
    axes.set(xlabel="training compute (FLOPs)", ylabel=f"{y} ({unit(y)})" if unit(y) else y)
    if is_loss(y):
        axes.set_yscale("log")
        plain_ticks(axes.yaxis)
    c = [*(record.compute for record in records), *(p.budget for p in predicted)]
    c += [flops for runs in (cut or {}).values() for flops, _ in runs]
    axes.set_xlim(min(c) / 1.6, max(c) * 2.2)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8)
    return figure


def panels(records: Sequence[Finished]) -> Figure | None:
    """All metrics of `metric_names`, each against compute; None where no number moves."""
    names = metric_names(records)
    if not names:
        return None
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = new_figure(2.9 * columns, 2.2 * rows, rows, columns)
    for one, name in zip(axes, names, strict=False):
        draw_metric(one, records, name)
        one.set_title(name, fontsize=8)
        one.tick_params(labelsize=7)
    for one in axes[len(names) :]:
        one.set_axis_off()
    figure.supxlabel("training compute (FLOPs)", fontsize=8)
    return figure


def horizon_figure(records: Sequence[Finished], names: dict[str, str]) -> Figure:
    """PSNR over the rollout of every point, between the VAE's ceiling and the repeated frame's floor.

    `names` is what the points are called here, by their own name.
    """
    from matplotlib import colormaps

    figure, (axes,) = new_figure(7.6, 4.0)
    last = records[-1].metrics
    frames = np.arange(1, len(last["rollout/psnr"]) + 1)
    axes.plot(frames, last["rollout/psnr_vae"], color=DARK, ls="--", label="VAE reconstruction (ceiling)")
    for i, record in enumerate(reversed(records)):
        shade = colormaps["Blues"](0.95 - 0.6 * i / max(1, len(records) - 1))
        axes.plot(frames, record.metrics["rollout/psnr"], color=shade, label=names[record.name])
    axes.plot(frames, last["rollout/psnr_repeat"], color=RED, ls=":", label="last frame repeated (floor)")
    axes.set(xlabel="predicted frame", ylabel="PSNR against the truth (dB)")
    axes.grid(visible=True, which="major", color="#e6e6ea", lw=0.7)
    figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    return figure
