"""Does the best learning rate stay where the rule says, over widths and horizons? Run the check, read it, draw it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.dispatch import diverged, done, stopped
from scaling.grid import CheckConfig, rates
from scaling.plan import Point, SweepConfig, plan, resolve
from scaling.records import read_record
from videowm.files import write_atomic
from videowm.types import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWS = 1000


@dataclass(frozen=True)
class Curve:
    """Held-out losses of one width and horizon; those of runs that diverged or were stopped are infinite."""

    depth: int
    width: int
    tokens: float
    batch: int
    lr: float  # what the configuration gives, factor 1
    losses: np.ndarray  # "factors seeds"
    stopped: int = 0  # runs that the action gate stopped


def check_sweep(sweep: SweepConfig) -> SweepConfig:
    """The sweep's learning-rate check as a sweep of its own, in OUT/check-lr."""
    if sweep.check_lr is None:
        raise UserError(
            "the sweep has no check_lr: give it depths and tokens, such as {depths: [2, 4, 8], tokens: [2e7, 8e7]}"
        )
    points = rates(sweep.check_lr, resolve(sweep, {"name": "base"})[1])
    return replace(sweep, out=str(Path(sweep.out) / "check-lr"), points=points, grid=None)


def outcome(point: Point) -> float | None:
    """The held-out loss of a point, infinity where it diverged or was stopped, None where it has not been run.

    What the action gate stopped was never cooled down, so its loss is not that of a run at its rate.
    """
    if not done(point):
        return math.inf if diverged(point) else None
    loss = read_record(point.run)["metrics"]["heldout/loss"]
    return math.inf if stopped(point) or not math.isfinite(loss) else loss


def curves(check: CheckConfig, points: list[Point]) -> list[Curve]:
    """The outcomes of the points that `rates` listed, in its order: by width, horizon, factor, seed."""
    losses = [outcome(point) for point in points]
    if missing := losses.count(None):
        raise UserError(f"{missing} of {len(points)} points of the check are not done: run check-lr again")
    each, found = len(check.factors) * check.seeds, []
    cells = [(depth, tokens) for depth in check.depths for tokens in check.tokens]
    for i, (depth, tokens) in enumerate(cells):
        own = points[i * each : (i + 1) * each]
        values = np.reshape(losses[i * each : (i + 1) * each], (len(check.factors), check.seeds))
        found.append(Curve(depth, width_of(own[0]), tokens, own[0].batch, own[0].lr / check.factors[0], values,
                           stopped=sum(map(bool, map(stopped, own)))))  # fmt: skip
    return found


def width_of(point: Point) -> int:
    """Of the tokens of the point's network."""
    import yaml

    config = yaml.safe_load(point.config.read_text())
    return config.get("hidden") or 64 * config["depth"]


def best(factors: np.ndarray, losses: np.ndarray) -> tuple[float, bool]:
    """The factor at the vertex of a parabola in ln lr through the lowest loss and its two neighbours, between which it
    then lies, and whether the lowest is at an edge.

    At an edge, or beside a loss that is not finite, it is the lowest loss's own factor.
    """
    order = np.argsort(factors)
    factors, losses = factors[order], losses[order]
    i = int(np.argmin(losses))  # of equal ones the first, so what follows opens upwards
    around, edge = slice(i - 1, i + 2), i in (0, len(factors) - 1)
    if edge or not np.isfinite(losses[around]).all():
        return float(factors[i]), edge
    curvature, slope, _ = np.polyfit(np.log(factors[around] / factors[i]), losses[around], 2)
    return float(factors[i] * np.exp(-slope / (2 * curvature))), edge


def judge(check: CheckConfig, found: list[Curve], draws: int = DRAWS) -> dict[str, Any]:
    """What check-lr.json says: every curve's best factor with its 90 % interval over seeds, and how far it moves.

    A notch is the median step of the factors. It passes where the best factors of all curves lie within `tolerance`
    notches and none lies at the end of the factors, where the best may be outside.
    """
    factors = np.array(check.factors)
    notch = float(np.median(np.diff(np.log(np.sort(factors)))))
    drawn = np.random.default_rng(0).integers(check.seeds, size=(draws, len(found), check.seeds))
    rows, resampled = [], np.empty((len(found), draws))
    for i, curve in enumerate(found):
        factor, edge = best(factors, curve.losses.mean(1))
        resampled[i] = [best(factors, curve.losses[:, seeds].mean(1))[0] for seeds in drawn[:, i]]
        interval = [float(value) for value in np.quantile(resampled[i], [0.05, 0.95])]
        losses = [[value if math.isfinite(value) else None for value in row] for row in curve.losses.tolist()]
        rows.append({"depth": curve.depth, "width": curve.width, "tokens": curve.tokens, "batch": curve.batch,
                     "lr": curve.lr, "best_factor": factor, "best_lr": curve.lr * factor, "interval": interval,
                     "edge": edge, "losses": losses, "stopped": curve.stopped})  # fmt: skip
    moves = span(np.array([row["best_factor"] for row in rows])) / notch
    interval = [float(value) for value in np.quantile(span(resampled) / notch, [0.05, 0.95])]
    passes = bool(moves <= check.tolerance and not any(row["edge"] for row in rows))
    return {"factors": check.factors, "seeds": check.seeds, "curves": rows, "notch": math.exp(notch), "moves": moves,
            "moves_interval": interval, "tolerance": check.tolerance, "passes": passes}  # fmt: skip


def span(best_factors: np.ndarray) -> np.ndarray:
    """ln of the highest over the lowest, along the first axis."""
    return np.log(best_factors.max(0) / best_factors.min(0))


def read(sweep: SweepConfig, points: list[Point]) -> dict[str, Any]:
    """Judge the finished check of the sweep made by `check_sweep`; write check-lr.json and check-lr.png."""
    said = judge(sweep.check_lr, curves(sweep.check_lr, points))
    write_atomic(Path(sweep.out) / "check-lr.json", json.dumps(said, indent=1, allow_nan=False).encode())
    figure(said).savefig(Path(sweep.out) / "check-lr.png", dpi=200)
    return said


def todo(sweep: SweepConfig) -> tuple[list[Point], list[Point]]:
    """All points of the check, and those without an outcome: a run that diverged is not tried again."""
    points = plan(sweep)
    return points, [point for point in points if outcome(point) is None]


def sentences(said: dict[str, Any]) -> str:
    """The check as lines for a terminal."""
    lines = [f"{'width':>6s} {'tokens':>9s} {'batch':>6s} {'lr':>9s} {'best x':>7s}  90 % over seeds"]
    for row in said["curves"]:
        low, high = row["interval"]
        edge = "  at the end of the factors" if row["edge"] else ""
        diverged = sum(value is None for values in row["losses"] for value in values) - row["stopped"]
        lost = f"  {diverged} diverged" * bool(diverged)
        lost += f"  {row['stopped']} stopped by the action gate" * bool(row["stopped"])
        lines.append(
            f"{row['width']:6d} {row['tokens']:9.3g} {row['batch']:6d} {row['lr']:9.3g} {row['best_factor']:7.2f}  "
            f"[{low:.2f}, {high:.2f}]{edge}{lost}"
        )
    low, high = said["moves_interval"]
    lines.append(
        f"the best learning rate moves {said['moves']:.2f} notches of x{said['notch']:.3g} [{low:.2f}, {high:.2f}], "
        f"at most {said['tolerance']:g} allowed: {'passes' if said['passes'] else 'fails'}"
    )
    return "\n".join(lines)


def figure(said: dict[str, Any]) -> Figure:
    """Loss against factor, a curve each width (colour) and horizon (line); crosses at the top are runs without one."""
    from matplotlib import colormaps
    from matplotlib.ticker import FuncFormatter, NullLocator

    from scaling.figures import new_figure

    figure, (axes,) = new_figure(7.2, 3.8)
    order = np.argsort(said["factors"])
    factors = np.array(said["factors"])[order]
    depths = sorted({row["depth"] for row in said["curves"]})
    horizons = sorted({row["tokens"] for row in said["curves"]})
    for row in said["curves"]:
        colour = colormaps["viridis"](0.85 * depths.index(row["depth"]) / max(1, len(depths) - 1))
        losses = np.array(row["losses"], float)[order]  # None is NaN
        mean = losses.mean(1)
        line = ("-", "--", ":", "-.")[horizons.index(row["tokens"]) % 4]
        axes.plot(factors, mean, line, color=colour, marker="o", ms=3, lw=1.1,
                  label=f"width {row['width']}, {row['tokens']:.3g} tokens")  # fmt: skip
        axes.plot(np.repeat(factors, losses.shape[1]), losses.ravel(), ".", color=colour, ms=2, alpha=0.5)
        axes.axvline(row["best_factor"], color=colour, ls=line, lw=0.6, alpha=0.6)
        lost = factors[np.isnan(losses).any(1)]
        axes.plot(
            lost, np.full(len(lost), 0.97), "x", color=colour, transform=axes.get_xaxis_transform(), clip_on=False
        )
    axes.set(xscale="log", xlabel="learning rate in shares of the rule's", ylabel="held-out loss")
    axes.set_xticks(factors)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.legend(frameon=False, fontsize=7, loc="outside right upper")
    return figure
