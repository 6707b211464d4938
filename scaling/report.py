"""One self-contained page that a paper could use: strip, law, every metric, what was predicted, what it cost."""

from __future__ import annotations

import base64
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from scaling import check, futures
from scaling.arms import sentences as arm_sentences
from scaling.combine import Combined
from scaling.dispatch import diverged
from scaling.figures import AHEAD, Cut, isoflop_figure, law_figure, measured_cost
from scaling.fit import Bootstrap, bootstrap_fit, fit
from scaling.fit import summary as law_summary
from scaling.grid import Dial
from scaling.law import Cost, Law, Runs, identifiable, optimum
from scaling.panels import against_compute, best_of_budgets, horizon_figure, panels
from scaling.plan import bases, plan
from scaling.point import Point, SweepConfig, planned
from scaling.predict import REACHED, Prediction, comparison, in_percent, measured, predictions
from scaling.records import Finished, by_arm, finished, is_loss, rolled, runs_of, unstopped
from scaling.summary import as_csv, costs, data_rows, left_out, precision, sentences, table_rows
from scaling.verify import verify
from videowm.files import write_atomic
from videowm.show import encode_figure
from videowm.template import render
from videowm.types import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
logger = logging.getLogger("scaling")
TEMPLATE = Path(__file__).with_name("report.html")
DRAWS = 100  # refits of the combined forecast
FIGURES = ("loss", "isoflop", "panels", "horizon", "check-lr", "headline")  # with numbers, that a page may have


@dataclass
class Parts:
    """The pictures of a page, each made on its own: one that fails is a sentence, and the page has the others."""

    files: dict[str, bytes] = field(default_factory=dict)  # name -> content
    failed: dict[str, str] = field(default_factory=dict)  # name of a picture -> why it could not be made

    def attempt(self, name: str, make: Callable[[], T]) -> T | None:
        """What `make` returns; None where it fails."""
        try:
            return make()
        except Exception as error:  # noqa: BLE001 - no page fails for one picture
            first = next(iter(str(error).splitlines()), "")
            why = first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"
            self.failed[name] = f"The picture {name!r} could not be made: {why.rstrip('.')}."
            logger.debug("the picture %s failed", name, exc_info=True)
            return None

    def figure(self, name: str, make: Callable[[], Figure | None]) -> None:
        """Add a figure as PNG and SVG, if `make` returns one."""

        def files() -> dict[str, bytes]:
            made = make()
            return {} if made is None else {f"{name}.{kind}": encode_figure(made, kind) for kind in ("png", "svg")}

        self.files |= self.attempt(name, files) or {}

    def video(self, name: str, make: Callable[[], futures.Picture]) -> None:
        """Add a picture that has a still and a moving version."""
        made = self.attempt(name, make)
        if made is not None:
            self.files |= {f"{name}.png": made.png, f"{name}.mp4": made.mp4}

    def embedded(self) -> dict[str, str]:
        """The pictures as the page holds them, base64."""
        shown = {name: data for name, data in self.files.items() if name.endswith(("png", "mp4"))}
        return {name: base64.b64encode(data).decode() for name, data in shown.items()}


@dataclass(frozen=True)
class Study:
    """The numbers of a page."""

    sweep: SweepConfig
    y: str
    points: list[Point]
    records: list[Finished]
    best: list[Finished]  # of every budget, by rising compute
    predicted: list[Prediction]
    names: dict[str, str]  # what the page calls the points
    cost: Cost | None  # exact FLOPs at N and D; None without a grid
    law: Bootstrap | Law | None
    why_not: str | None  # why there is no law
    mixed: Combined | None = None  # all forms of the runs that no prediction holds out

    @staticmethod
    def of(sweep: SweepConfig, y: str) -> Study:
        """Read the finished points and fit a law to them.

        Raises:
            UserError: no point is finished, or `y` is not measured in all of them.
        """
        points = plan(sweep)
        records = finished(points)
        if not unstopped(records):
            stopped = f" (the action gate stopped {len(records)})" if records else ""
            raise UserError(f"{sweep.out} has no finished point yet{stopped}: python -m scaling run SWEEP.yaml")
        best, predicted = best_of_budgets(records, y), predictions(sweep, y)
        cost = None if sweep.grid is None else Dial.of(next(iter(bases(sweep).values()))).cost
        law, why_not = law_of(records, y, predicted, cost)
        mixed = law and combined_of(held_out(records, y, predicted)[0])
        return Study(sweep, y, points, records, best, predicted, short_names(sweep, records), cost, law, why_not, mixed)

    @property
    def fitted(self) -> Law | None:
        """The law without its bootstrap."""
        return self.law.law if isinstance(self.law, Bootstrap) else self.law


def report(sweep: SweepConfig, *, y: str = "heldout/loss") -> tuple[Path, list[str]]:
    """Write report.html and, in report/, its pictures and the table as CSV; the page, and sentences for a terminal.

    Raises:
        UserError: no point is finished, or `y` is not measured in all of them.
    """
    study, parts = Study.of(sweep, y), Parts()
    verdict = parts.attempt("check-lr", lambda: check_of(sweep))
    draw_figures(study, parts, verdict)
    draw_rollouts(study, parts)
    parts.files["points.csv"] = as_csv(data_rows(study.records)).encode()
    write_files(Path(sweep.out) / "report", parts.files)
    path = Path(sweep.out) / "report.html"
    write_atomic(path, page(study, parts, verdict))
    notes = [*arm_sentences(study.records, y), *left_out(study.points), *parts.failed.values()]
    return path, notes


def draw_figures(study: Study, parts: Parts, verdict: check.Verdict | None) -> None:
    """The figures that are drawn from numbers."""
    records, y, law = study.records, study.y, study.law
    cut = cut_short(study.points, records, y)
    parts.figure("panels", lambda: panels(records))
    if law is None:
        parts.figure("loss", lambda: against_compute(records, y, study.predicted, cut))
    else:
        runs, targets = held_out(records, y, study.predicted)
        parts.figure("loss", lambda: law_figure(law, runs, targets=targets, cost=study.cost,
                                                predicted=study.predicted, cut=cut, mixed=study.mixed))  # fmt: skip
        parts.figure("isoflop", lambda: isoflop_figure(runs, study.fitted, study.cost))
    if verdict:
        parts.figure("check-lr", lambda: check.figure(verdict))
    if rolled(study.best):
        parts.figure("horizon", lambda: horizon_figure(rolled(study.best), study.names))


def draw_rollouts(study: Study, parts: Parts) -> None:
    """The pictures that models draw: strip, two futures, and the headline of stills above the figure of the loss."""
    shown = {study.names[record.name]: record.name for record in strip_of(study.sweep, study.best)}
    made = parts.attempt("strip", lambda: futures.roll_points(study.sweep, shown))
    if made is None:
        return
    parts.video("strip", lambda: futures.strip(made))
    moving = parts.attempt("headline", lambda: futures.moving_headline(made))
    parts.files |= {} if moving is None else {"headline.webp": moving}
    parts.video("futures", lambda: futures.two_futures(made))
    if "loss.png" in parts.files:
        headline = parts.attempt("headline", lambda: futures.headline(made, parts.files["loss.png"]))
        parts.files |= {} if headline is None else {"headline.png": headline}


def page(study: Study, parts: Parts, verdict: check.Verdict | None) -> bytes:
    """The page as HTML."""
    sweep, records, best = study.sweep, study.records, study.best
    shown = {name: data for name, data in parts.embedded().items() if name != "headline.png"}
    return render(
        TEMPLATE, title=sweep.title, summary=sentences(best, study.y, study.names), rows=table_rows(records), y=study.y,
        why_not=study.why_not, law=study.fitted and law_summary(study.fitted), files=shown, failed=parts.failed,
        lost=left_out(study.points), predicted=comparison(study.predicted, records), best=best[-1],
        strip_frames=sweep.strip_frames, costs=costs(study.points, check_points(sweep)), check=verdict and str(verdict),
        arms=arm_sentences(records, study.y), precision=precision(records if sweep.grid else [], best, verdict),
        beside=beside(study), order=order_lines(study),
    )  # fmt: skip


def order_lines(study: Study) -> list[str]:
    """What is proven of the order of predictions and targets; empty without a prediction."""
    if not study.predicted:
        return []
    return [line for path, found in verify(study.sweep.out).items() for line in (path.name, *map(str, found))]


def short_names(sweep: SweepConfig, records: list[Finished]) -> dict[str, str]:
    """What pictures and sentences call the points: their own names, in a grid multiples of the least compute."""
    if sweep.grid is None:
        return {record.name: record.name for record in records}
    least = records[0].compute
    ratios = {record.name: record.compute / least for record in records}
    return {name: f"{ratio:.2g}x" if ratio < 99.5 else f"{ratio:.0f}x" for name, ratio in ratios.items()}


def strip_of(sweep: SweepConfig, best: list[Finished]) -> list[Finished]:
    """Those of the best, of which not only the record is here, that are nearest to the multiples of compute that the
    strip shows; without any multiples, all."""
    here = [record for record in best if (Path(sweep.out) / record.name / "model_index.json").exists()]
    if not sweep.strip_at or not here:
        return here
    least = best[0].compute
    shown = {}
    for ratio in sorted(sweep.strip_at):
        nearest = min(here, key=lambda record, ratio=ratio: abs(math.log(record.compute / least / ratio)))
        shown[nearest.name] = nearest
    return list(shown.values())


def law_of(records: list[Finished], y: str, predicted: Sequence[Prediction] = (),
           cost: Cost | None = None) -> tuple[Bootstrap | Law | None, str | None]:  # fmt: skip
    """The fitted surface, else the frontier, of the runs that no prediction holds out; or why there is none.

    A surface without a best size at every budget that is drawn, as where more parameters do harm, is no law of compute.
    """
    if not is_loss(y):
        return None, f"No law is fitted: its form is that of a loss, and {y} is none."
    if len(found := by_arm(records)) > 1:
        each = "`python -m scaling fit` gives one for each"
        return None, f"No law is drawn: the runs are of {len(found)} arms, and {each}."
    runs = held_out(records, y, predicted)[0]
    if reason := identifiable(runs, "frontier"):
        return None, reason
    form = "surface" if has_optima(runs, cost) else "frontier"
    try:
        return bootstrap_fit(runs, form), None
    except UserError:  # too few to resample
        return fit(runs, form), None


def combined_of(runs: Runs) -> Combined | None:
    """All forms weighed; None where the runs are too few."""
    try:
        return Combined.of(runs, DRAWS)
    except UserError:
        return None


def beside(study: Study) -> list[dict[str, str]]:
    """What every form says today of each predicted budget, from the runs that were not held out, a row each."""
    rows = []
    for p in study.predicted if study.mixed else ():
        best = study.mixed.optimum(p.budget, study.cost) if p.n is None else (p.n, p.d)
        if best is None:
            continue
        found, record = study.mixed.at(*best, p.budget), measured(p, study.records)
        half = 50 * float((found.high - found.low)[0] / found.loss[0])
        losses = {f"combined (± {half:.1f} %)": found.loss} | found.by_form
        for form, loss in losses.items():
            error = record and in_percent(float(loss[0]), record.metrics[p.y], p.baselines["no further gain"])
            rows.append({"FLOPs": f"{p.budget:.3g}", "form": form, "predicted": f"{loss[0]:.4f}", "error": error or ""})
    return rows


def has_optima(runs: Runs, cost: Cost | None) -> bool:
    """Whether a surface fits these runs, and has a best size from their least compute to the end of the figure."""
    if identifiable(runs, "surface"):
        return False
    law, cost = fit(runs, "surface"), cost or measured_cost(runs)
    try:
        return all(optimum(law, c, cost) for c in (runs.c.min(), AHEAD * runs.c.max()))
    except UserError:
        return False


def held_out(records: list[Finished], y: str, predicted: Sequence[Prediction]) -> tuple[Runs, Runs | None]:
    """The runs below every predicted budget, and those at one."""
    runs = runs_of(records, y)
    below = runs.c < REACHED * min((p.budget for p in predicted), default=math.inf)
    targets = [r for p in predicted if (r := measured(p, records))]
    return runs.keep(below), runs_of(targets, y) if targets else None


def cut_short(points: list[Point], records: list[Finished], y: str) -> Cut:
    """The runs that no law sees: those that diverged have no metric, stopped ones have that of their last step."""
    cut = {"diverged": [(point.flops, None) for point in points if diverged(point)]}
    for record in records:
        if why := record.stopped:
            cut.setdefault(why, []).append((record.compute, record.number(y)))
    return cut


def check_of(sweep: SweepConfig) -> check.Verdict | None:
    """What `check-lr` found, where it was run to its end."""
    path = Path(sweep.out) / "check-lr" / "check-lr.json"
    return check.Verdict.read(path) if sweep.check_lr and path.exists() else None


def check_points(sweep: SweepConfig) -> dict[str, list[Point]]:
    """The runs of the learning-rate check, where they were planned."""
    if sweep.check_lr is None or not (Path(sweep.out) / "check-lr" / "plan.jsonl").exists():
        return {}
    return {"learning-rate check": planned(check.check_sweep(sweep))}


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """The files of this page, each whole. Figures that only an earlier page had go: they would show other numbers."""
    for name, data in files.items():
        write_atomic(folder / name, data)
    for name in {f"{figure}.{kind}" for figure in FIGURES for kind in ("png", "svg")} - set(files):
        (folder / name).unlink(missing_ok=True)
