"""Figures of a fitted law: the runs, the law through them, and its interval beyond."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from scaling.fit import Bootstrap, fit, selection
from scaling.law import SURFACES, Cost, Law, Parabola, Runs, affordable, optimum
from scaling.law import budgets as budgets_of
from videowm.show import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scaling.combine import Combined
    from scaling.frozen import Prediction

CURVES = 7  # iso-N curves drawn at most; more of them hide the runs
AHEAD = 32.0  # the law is drawn this factor of compute beyond the largest run
NEAR = 3.0  # a parabola's lowest point this far outside the sizes is no estimate of anything
RED, GREY, BLUE = "#c1121f", "#8e8e93", "#1d4e89"
Cut = Mapping[str, Sequence[tuple[float, float | None]]]  # why -> compute, and loss where there is one


def law_figure(result: Bootstrap | Law, runs: Runs, *, targets: Runs | None = None, cost: Cost | None = None,
               predicted: Sequence[Prediction] = (), cut: Cut | None = None,
               mixed: Combined | None = None) -> Figure:  # fmt: skip
    """Loss against compute with the law.

    A surface shows iso-N curves and its frontier, the other forms the frontier runs they were fitted to. The band is
    the 90 % interval of one new run: beyond the runs that of `mixed`, all forms weighed, else that of a Bootstrap.
    `targets` are held-out runs, `predicted` what was frozen of them (budget, loss, interval), `cut` what no law sees.
    `cost(N, D)` places the curves of a surface; without it the runs' own C / 6ND is interpolated over N.
    """
    figure, (axes,) = new_figure()
    law = result.law if isinstance(result, Bootstrap) else result
    end = max(runs.c.max() * AHEAD, 0.0 if targets is None else targets.c.max(), *(p.budget for p in predicted))
    budgets = np.geomspace(runs.c.min(), end, 60)
    if law.form in SURFACES:
        _draw_surface(figure, axes, law, runs)
        cost = cost or measured_cost(runs)
        n, d = np.array([optimum(law, c, cost) for c in budgets]).T
        loss, band = law.predict(n, d), not mixed and isinstance(result, Bootstrap) and result.interval(n, d)
    else:
        _draw_frontier(axes, law, runs, budgets)
        n, d = np.median(runs.n), np.median(runs.d)
        loss, band = law.predict_c(budgets), not mixed and isinstance(result, Bootstrap) and result.interval_c(budgets)
    inside = budgets <= runs.c.max()
    axes.plot(budgets[inside], loss[inside], color="black", lw=1.4, zorder=4, label=_name(law))
    axes.plot(budgets[~inside], loss[~inside], color="black", lw=1.4, ls=(0, (4, 2)), zorder=4, label="beyond the runs")
    if mixed:
        _draw_mixed(axes, mixed, *(np.broadcast_to(v, budgets.shape)[~inside] for v in (n, d, budgets)))
    elif band is not False:
        axes.fill_between(budgets, *band, color="black", alpha=0.13, lw=0, zorder=3, label="90 % of new runs")
    draw_predictions(axes, predicted)
    if targets is not None:
        style = {"marker": "*", "s": 90, "color": "white", "edgecolor": RED, "linewidth": 1.2, "zorder": 6}
        axes.scatter(targets.c, targets.loss, **style, label="held out")
    draw_cut(axes, cut or {})
    shown = [runs.loss, loss, *([] if targets is None else [targets.loss]), *(p.interval for p in predicted)]
    _finish(axes, np.concatenate(shown))
    axes.set_xlim(budgets[0] / 1.6, end * 1.6)
    return figure


def _draw_mixed(axes, mixed: Combined, n: np.ndarray, d: np.ndarray, c: np.ndarray) -> None:
    """All forms weighed, beyond the runs."""
    found = mixed.at(n, d, c)
    axes.plot(c, found.loss, color=BLUE, lw=1.4, ls=(0, (4, 2)), zorder=4, label="all forms, weighed")
    axes.fill_between(c, found.low, found.high, color=BLUE, alpha=0.15, lw=0, zorder=3, label="90 % of new runs")


def draw_predictions(axes, predicted: Sequence[Prediction]) -> None:
    """Frozen predictions with their intervals."""
    for i, p in enumerate(predicted):
        bars = [[p.loss - p.interval[0]], [p.interval[1] - p.loss]]
        axes.errorbar([p.budget], [p.loss], yerr=bars, fmt="D", color=RED, mfc="white", ms=5, lw=1, capsize=3,
                      zorder=5, label=None if i else "predicted before")  # fmt: skip


def draw_cut(axes, cut: Cut) -> None:
    """Runs that were cut short, as crosses: at their loss, or at the top where they have none."""
    for (why, runs), colour in zip(cut.items(), (RED, GREY, "black"), strict=False):
        for has, place in ((False, axes.get_xaxis_transform()), (True, axes.transData)):
            at = [(c, 0.98 if loss is None else loss) for c, loss in runs if (loss is not None) == has]
            if at:
                axes.plot(*zip(*at, strict=True), "x", color=colour, transform=place, zorder=5, label=why)


def isoflop_figure(runs: Runs, law: Law | None, cost: Cost | None = None) -> Figure | None:
    """Loss against size at every budget that has three sizes, and the best size against compute; None without any.

    Lines are parabolas in ln N (2203.15556, approach 2), triangles their lowest points: open where the sizes do not
    enclose one, left out where none is near. Dashes are a fitted surface at the same budgets.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    label = budgets_of(runs.c)
    groups = [runs.keep(label == k) for k in range(label.max() + 1)]
    groups = [group for group in groups if len(np.unique(group.n)) >= 3]
    if not groups:
        return None
    cost = cost or measured_cost(runs)
    figure, (left, right) = new_figure(8.4, 3.4, columns=2)
    colours = ScalarMappable(LogNorm(runs.c.min(), runs.c.max() * 1.5), "viridis")
    for group in groups:
        found, colour = Parabola.of(group), colours.to_rgba(np.exp(np.log(group.c).mean()))
        n = np.geomspace(group.n.min(), group.n.max(), 60)
        left.plot(group.n, group.loss, "o", ms=4, color=colour, label=f"{found.c:.3g} FLOPs")
        left.plot(n, np.polyval(np.polyfit(np.log(group.n), group.loss, 2), np.log(n)), color=colour, lw=1)
        if law is not None and law.form in SURFACES:
            left.plot(n, law.predict(n, [affordable(cost, size, found.c) for size in n]), "--", color=colour, lw=0.9)
        if group.n.min() / NEAR < found.n < group.n.max() * NEAR:
            style = {"ms": 7, "color": colour, "mfc": "white" if found.edge else colour}
            left.plot(found.n, found.loss, "v", **style)
            right.plot(found.c, found.n, "v", **style)
    if law is not None and law.form in SURFACES:
        c = np.geomspace(runs.c.min(), runs.c.max() * AHEAD, 30)
        best = [optimum(law, budget, cost)[0] for budget in c]
        right.plot(c, best, "--", color="black", lw=1, label="surface, exact cost")
        right.legend(frameon=False, fontsize=8)
    left.set(xscale="log", yscale="log", xlabel="parameters N", ylabel="validation loss L")
    right.set(xscale="log", yscale="log", xlabel="training compute C (FLOPs)", ylabel="best N")
    plain_ticks(left.yaxis)
    left.legend(frameon=False, fontsize=7)
    return figure


def measured_cost(runs: Runs) -> Cost:
    """cost(N, D) = 6ND times the runs' own median C / 6ND at that size, interpolated in ln N, constant outside."""
    sizes = np.unique(runs.n)
    ratio = runs.c / (6 * runs.n * runs.d)
    factors = np.array([np.median(ratio[runs.n == size]) for size in sizes])
    return lambda n, d: 6 * n * d * np.exp(np.interp(np.log(n), np.log(sizes), np.log(factors)))


def _name(law: Law) -> str:
    return {
        "surface": "compute optimum of $E + A\\,N^{-\\alpha} + B\\,D^{-\\beta}$",
        "surface-0": "compute optimum of $A\\,N^{-\\alpha} + B\\,D^{-\\beta}$",
        "frontier": "$c + (C/a)^b$",
        "second-order": "$E + A\\,C^{\\alpha - \\gamma \\ln C}$",
        "power": "$A\\,C^b$",
    }[law.form]


def _draw_surface(figure, axes, law: Law, runs: Runs) -> None:
    """Runs coloured by size, and the law along D at a few of the sizes."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    colours = ScalarMappable(LogNorm(runs.n.min(), runs.n.max()), "viridis")
    sizes = np.unique(runs.n)
    chosen = sizes[np.unique(np.linspace(0, len(sizes) - 1, min(CURVES, len(sizes))).round().astype(int))]
    cost = measured_cost(runs)
    for size in chosen:
        near = np.abs(np.log(runs.n / size)) < 0.05
        data = np.geomspace(runs.d[near].min() / 3, runs.d[near].max() * 3, 60)
        flops = np.array([cost(size, d) for d in data])
        axes.plot(flops, law.predict(size, data), color=colours.to_rgba(size), lw=0.9, alpha=0.8, zorder=2)
    axes.scatter(runs.c, runs.loss, c=colours.to_rgba(runs.n), s=13, lw=0, zorder=5)
    decades = np.log10(runs.n.max() / runs.n.min())
    bar = figure.colorbar(colours, ax=axes, pad=0.02, aspect=28)
    bar.set_label("parameters N")
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2 else (1.0, 2.0, 5.0)))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _draw_frontier(axes, law: Law, runs: Runs, budgets: np.ndarray) -> None:
    """All runs, those that the law was fitted to, and the power law without E that it should beat."""
    used = selection(runs, law.form)[0] > 0
    axes.scatter(runs.c[~used], runs.loss[~used], color="#b8bec6", s=10, lw=0, zorder=2, label="other runs")
    axes.scatter(runs.c[used], runs.loss[used], color="#1d4e89", s=18, lw=0, zorder=5, label="lowest loss of a budget")
    if law.form != "power":
        power = fit(runs, "power").predict_c(budgets)
        axes.plot(budgets, power, color=RED, lw=0.9, ls=":", zorder=3, label="power law without E")


def _finish(axes, loss: np.ndarray) -> None:
    """Axes that hold every `loss`."""
    from matplotlib.ticker import NullLocator

    axes.set(xscale="log", yscale="log", xlabel="training compute C (FLOPs)", ylabel="validation loss L")
    low, high = loss.min(), loss.max()
    margin = (high / low) ** 0.06
    axes.set_ylim(low / margin, high * margin)
    plain_ticks(axes.yaxis)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(frameon=False, fontsize=8, loc="upper right", handlelength=1.6)


def plain_ticks(axis) -> None:
    """A few round numbers on a logarithmic axis that spans less than a decade."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def short(value: float) -> str:
    """12_000_000 -> 12M."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= 0.999 * unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"
