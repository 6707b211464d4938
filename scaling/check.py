"""Does the best learning rate stay put over widths and horizons? Run the check, judge it, draw it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from scaling.dispatch import diverged, done, stopped
from scaling.grid import rates
from scaling.plan import plan, resolve
from scaling.point import CheckConfig, Point, SweepConfig
from scaling.records import read_record
from videowm import bootstrap
from videowm.files import read_json, write_json
from videowm.show import new_figure
from videowm.types import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWS = 1000
Losses = list[list[float | None]]  # "factors seeds"; None: diverged or stopped

TOLERANCE = 1.0  # notches (steps of the factors) that the best factor may move between curves


@dataclass(frozen=True)
class RateCurve:
    """Held-out losses of one width and horizon over learning rates, and the best rate; JSON of check-lr.json."""

    depth: int
    width: int
    tokens: float  # of a run
    batch: int
    lr: float  # what the configuration has, factor 1
    losses: Losses
    stopped: int = 0  # runs that the action gate stopped
    best_factor: float = math.nan
    best_lr: float = math.nan
    interval: list[float] | None = None  # 90 % of the best factor over seeds; None with one seed
    edge: bool = False  # the best factor is the lowest or highest that was run

    def array(self) -> np.ndarray:
        """The losses, float "factors seeds"; infinite where a run diverged or was stopped."""
        return np.array([[math.inf if loss is None else loss for loss in row] for row in self.losses])

    def line(self) -> str:
        """The curve as a line of the terminal's table."""
        diverged = sum(loss is None for row in self.losses for loss in row) - self.stopped
        interval = "" if self.interval is None else "[{:.2f}, {:.2f}]".format(*self.interval)
        return (
            f"{self.width:6d} {self.tokens:9.3g} {self.batch:6d} {self.lr:9.3g} {self.best_factor:7.2f}  {interval}"
            + "  at the end of the factors" * self.edge
            + (f"  {diverged} diverged" if diverged else "")
            + (f"  {self.stopped} stopped by the action gate" if self.stopped else "")
        )


@dataclass(frozen=True)
class Verdict:
    """What the check found; the content of check-lr.json."""

    factors: list[float]
    seeds: int
    curves: list[RateCurve]
    notch: float  # ratio of two neighbouring factors (median)
    moves: float  # notches between the lowest and the highest best factor
    moves_interval: list[float] | None  # 90 % over seeds; None with one seed
    tolerance: float  # notches allowed
    passes: bool

    @staticmethod
    def read(path: Path) -> Verdict:
        """The verdict in a check-lr.json.

        Raises:
            UserError: the file is damaged.
        """
        data = read_json(path, "run check-lr again")
        try:
            return Verdict(**data | {"curves": [RateCurve(**row) for row in data["curves"]]})
        except (KeyError, TypeError):
            raise UserError(f"{path} is no verdict of check-lr: run check-lr again") from None

    def __str__(self) -> str:
        """The verdict as lines for a terminal."""
        head = f"{'width':>6s} {'tokens':>9s} {'batch':>6s} {'lr':>9s} {'best x':>7s}  90 % over seeds"
        interval = "" if self.moves_interval is None else " [{:.2f}, {:.2f}]".format(*self.moves_interval)
        last = (
            f"the best learning rate moves {self.moves:.2f} notches of x{self.notch:.3g}{interval}, "
            f"at most {self.tolerance:g} allowed: {'passes' if self.passes else 'fails'}"
        )
        return "\n".join([head, *(curve.line() for curve in self.curves), last])


def check_sweep(sweep: SweepConfig) -> SweepConfig:
    """The sweep's learning-rate check as a sweep of its own, in OUT/check-lr.

    Raises:
        UserError: the sweep has no check_lr, or its runs are too short.
    """
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
    loss = read_record(point.run).metrics["heldout/loss"]
    return math.inf if stopped(point) or loss is None or not math.isfinite(loss) else loss


def todo(sweep: SweepConfig) -> tuple[list[Point], list[Point]]:
    """All points of the check, and those without an outcome: a run that diverged is not tried again."""
    points = plan(sweep)
    return points, [point for point in points if outcome(point) is None]


def curves(check: CheckConfig, points: list[Point]) -> list[RateCurve]:
    """The outcomes of the points that `rates` listed, in its order: by width, horizon, factor, seed.

    Raises:
        UserError: points of the check are not done.
    """
    losses = [outcome(point) for point in points]
    if missing := losses.count(None):
        raise UserError(f"{missing} of {len(points)} points of the check are not done: run check-lr again")
    each, found = len(check.factors) * check.seeds, []
    cells = [(depth, tokens) for depth in check.depths for tokens in check.tokens]
    for i, (depth, tokens) in enumerate(cells):
        own = points[i * each : (i + 1) * each]
        values = [loss if math.isfinite(loss) else None for loss in losses[i * each : (i + 1) * each]]
        rows = [values[k : k + check.seeds] for k in range(0, each, check.seeds)]
        halted = sum(bool(stopped(point)) for point in own)
        lr = own[0].lr / check.factors[0]
        found.append(RateCurve(depth, width_of(own[0]), tokens, own[0].batch, lr, rows, halted))
    return found


def width_of(point: Point) -> int:
    """Of the tokens of the point's network."""
    config = yaml.safe_load(point.config.read_text())
    return config.get("hidden") or 64 * config["depth"]


def best(factors: np.ndarray, losses: np.ndarray) -> tuple[float, bool]:
    """The factor of the lowest loss, and whether it is at an edge of the factors; both arrays are "factors".

    It is the vertex of a parabola in ln lr through the lowest loss and its two neighbours, and lies between these.
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


def judge(check: CheckConfig, found: list[RateCurve], draws: int = DRAWS) -> Verdict:
    """Every curve's best factor with its 90 % interval over seeds, and how far it moves between curves.

    A notch is the median step of the factors. The check passes where the best factors of all curves lie within
    `TOLERANCE` notches and none lies at an end of the factors. At an end, the best may be outside.
    """
    factors = np.array(check.factors)
    notch = float(np.median(np.diff(np.log(np.sort(factors)))))
    resampled = np.array([resampled_best(factors, curve, draws, seed=i) for i, curve in enumerate(found)])
    judged = []
    for curve, drawn in zip(found, resampled, strict=True):
        factor, edge = best(factors, curve.array().mean(1))
        judged.append(replace(curve, best_factor=factor, best_lr=curve.lr * factor, edge=edge,
                              interval=interval_of(drawn, check.seeds)))  # fmt: skip
    moves = float(span(np.array([curve.best_factor for curve in judged])) / notch)
    passes = bool(moves <= TOLERANCE and not any(curve.edge for curve in judged))
    return Verdict(check.factors, check.seeds, judged, math.exp(notch), moves,
                   interval_of(span(resampled) / notch, check.seeds), TOLERANCE, passes)  # fmt: skip


def resampled_best(factors: np.ndarray, curve: RateCurve, draws: int, seed: int) -> np.ndarray:
    """The curve's best factor for seeds drawn with replacement, "draws"."""
    losses = curve.array()
    counts = bootstrap.group_counts(losses.shape[1], draws=draws, seed=seed)
    drawn = [losses[:, np.repeat(np.arange(len(row)), row)].mean(1) for row in counts]
    return np.array([best(factors, means)[0] for means in drawn])


def interval_of(drawn: np.ndarray, seeds: int) -> list[float] | None:
    """Its 90 % interval; None with one seed, whose scatter is not known."""
    return [float(value) for value in np.quantile(drawn, [0.05, 0.95])] if seeds > 1 else None


def span(best_factors: np.ndarray) -> np.ndarray:
    """ln of the highest over the lowest, along the first axis."""
    return np.log(best_factors.max(0) / best_factors.min(0))


def read(sweep: SweepConfig, points: list[Point]) -> Verdict:
    """Judge the finished check of the sweep made by `check_sweep`; write check-lr.json and check-lr.png."""
    verdict = judge(sweep.check_lr, curves(sweep.check_lr, points))
    write_json(Path(sweep.out) / "check-lr.json", asdict(verdict))
    figure(verdict).savefig(Path(sweep.out) / "check-lr.png", dpi=200)
    return verdict


def figure(verdict: Verdict) -> Figure:
    """Loss against factor, a curve each width (colour) and horizon (line); crosses at the top are runs without one."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    made, (axes,) = new_figure(7.2, 3.8)
    order = np.argsort(verdict.factors)
    factors = np.array(verdict.factors)[order]
    depths = sorted({curve.depth for curve in verdict.curves})
    horizons = sorted({curve.tokens for curve in verdict.curves})
    for curve in verdict.curves:
        shade = 0.85 * depths.index(curve.depth) / max(1, len(depths) - 1)
        draw_curve(axes, curve, order, factors, shade, ("-", "--", ":", "-.")[horizons.index(curve.tokens) % 4])
    axes.set(xscale="log", xlabel="learning rate in shares of the rule's", ylabel="held-out loss")
    axes.set_xticks(factors)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    made.legend(frameon=False, fontsize=7, loc="outside right upper")
    return made


def draw_curve(axes: Any, curve: RateCurve, order: np.ndarray, factors: np.ndarray, shade: float, line: str) -> None:
    """One curve over rising `factors`, its runs, and its best factor."""
    from matplotlib import colormaps

    colour, losses = colormaps["viridis"](shade), curve.array()[order]
    losses[np.isinf(losses)] = np.nan
    label = f"width {curve.width}, {curve.tokens:.3g} tokens"
    axes.plot(factors, losses.mean(1), line, color=colour, marker="o", ms=3, lw=1.1, label=label)
    axes.plot(np.repeat(factors, losses.shape[1]), losses.ravel(), ".", color=colour, ms=2, alpha=0.5)
    axes.axvline(curve.best_factor, color=colour, ls=line, lw=0.6, alpha=0.6)
    lost = factors[np.isnan(losses).any(1)]
    axes.plot(lost, np.full(len(lost), 0.97), "x", color=colour, transform=axes.get_xaxis_transform(), clip_on=False)
