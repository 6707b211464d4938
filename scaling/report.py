"""One self-contained page that a paper could use: strip, law, every metric, what was predicted, what it cost."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling import check, futures
from scaling.arms import sentences as arm_sentences
from scaling.dispatch import diverged
from scaling.figures import AHEAD, Cut, isoflop_figure, law_figure, measured_cost
from scaling.fit import Bootstrap, bootstrap_fit, fit
from scaling.fit import summary as law_summary
from scaling.grid import Dial
from scaling.law import Cost, Law, Runs, identifiable, optimum
from scaling.panels import against_compute, best_of_budgets, horizon_figure, panels
from scaling.plan import Point, SweepConfig, bases, plan, planned
from scaling.predict import REACHED, comparison, measured, predictions
from scaling.records import by_arm, finished, rolled, runs_of, unstopped
from scaling.summary import as_csv, costs, data_rows, left_out, precision, sentences, table_rows
from videowm.files import write_atomic
from videowm.types import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("report.html")
FIGURES = ("loss", "isoflop", "panels", "horizon", "check-lr", "headline")  # with numbers, that a page may have


def report(sweep: SweepConfig, *, y: str = "heldout/loss") -> Path:
    """Write report.html and, beside it in report/, its figures, videos and the table as CSV; return the page."""
    import jinja2

    points = plan(sweep)
    records = finished(points)
    if not unstopped(records):
        stopped = f" (the action gate stopped {len(records)})" if records else ""
        raise UserError(f"{sweep.out} has no finished point yet{stopped}: python -m scaling run SWEEP.yaml")
    best, predicted = best_of_budgets(records, y), predictions(sweep, y)
    names = short_names(sweep, records)
    cost = None if sweep.grid is None else Dial.of(next(iter(bases(sweep).values()))).cost
    law, why_not = law_of(records, y, predicted, cost)
    checked = check_of(sweep)
    figures = figures_of(points, records, y, law, predicted, cost)
    if checked:
        figures["check-lr"] = check.figure(checked)
    if rolled(best):
        figures["horizon"] = horizon_figure(rolled(best), names)
    files = {f"{name}.{kind}": drawn(figure, kind) for name, figure in figures.items() for kind in ("png", "svg")}
    shown, stills = futures.pictures(sweep, {names[record["name"]]: record["name"] for record in strip_of(sweep, best)})
    files |= {f"{name}.{kind}": getattr(p, kind) for name, p in shown.items() for kind in ("png", "mp4")}
    files["points.csv"] = as_csv(data_rows(records)).encode()
    embedded = {name: base64.b64encode(data).decode() for name, data in files.items() if name.endswith(("png", "mp4"))}
    if stills is not None:
        files["headline.png"] = futures.headline(stills, files["loss.png"])
    write_files(Path(sweep.out) / "report", files)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(TEMPLATE.read_text()).render(
        title=sweep.title, summary=sentences(best, y, names), rows=table_rows(records), why_not=why_not, y=y,
        law=law and law_summary(law.law if isinstance(law, Bootstrap) else law), files=embedded, lost=left_out(points),
        predicted=comparison(predicted, records), best=best[-1], strip_frames=sweep.strip_frames,
        costs=costs(points, check_points(sweep)), check=checked and check.sentences(checked),
        arms=arm_sentences(records, y), precision=precision(records if sweep.grid else [], best),
    )  # fmt: skip
    path = Path(sweep.out) / "report.html"
    write_atomic(path, page.encode())
    return path


def short_names(sweep: SweepConfig, records: list[dict[str, Any]]) -> dict[str, str]:
    """What pictures and sentences call the points: their own names, in a grid multiples of the least compute."""
    if sweep.grid is None:
        return {record["name"]: record["name"] for record in records}
    least = records[0]["flops"]["train"]
    ratios = {record["name"]: record["flops"]["train"] / least for record in records}
    return {name: f"{ratio:.2g}x" if ratio < 99.5 else f"{ratio:.0f}x" for name, ratio in ratios.items()}


def strip_of(sweep: SweepConfig, best: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the best, of which not only the record is here, that are nearest to the multiples of compute that the
    strip shows; without any multiples, all."""
    here = [record for record in best if (Path(sweep.out) / record["name"] / "model_index.json").exists()]
    if not sweep.strip_at or not here:
        return here
    least = best[0]["flops"]["train"]
    nearest = [
        min(here, key=lambda record: abs(math.log(record["flops"]["train"] / least / ratio)))
        for ratio in sorted(sweep.strip_at)
    ]
    return list({record["name"]: record for record in nearest}.values())


def law_of(records: list[dict[str, Any]], y: str, predicted: list[dict[str, Any]] = (),
           cost: Cost | None = None) -> tuple[Bootstrap | Law | None, str | None]:  # fmt: skip
    """The fitted surface, else the frontier, of the runs that no prediction holds out; or why there is none.

    A surface without a best size at every budget that is drawn, as where more parameters do harm, is no law of compute.
    """
    if not y.startswith("heldout/loss"):
        return None, f"No law is fitted: its form is that of a loss, and {y} is none."
    if len(found := by_arm(records)) > 1:
        return (
            None,
            f"No law is drawn: the runs are of {len(found)} arms, and `python -m scaling fit` gives one for each.",
        )
    runs = held_out(records, y, predicted)[0]
    if reason := identifiable(runs, "frontier"):
        return None, reason
    form = "surface" if has_optima(runs, cost) else "frontier"
    try:
        return bootstrap_fit(runs, form), None
    except UserError:  # too few to resample
        return fit(runs, form), None


def has_optima(runs: Runs, cost: Cost | None) -> bool:
    """Whether a surface fits these runs, and has a best size from their least compute to the end of the figure."""
    if identifiable(runs, "surface"):
        return False
    law, cost = fit(runs, "surface"), cost or measured_cost(runs)
    try:
        return all(optimum(law, c, cost) for c in (runs.c.min(), AHEAD * runs.c.max()))
    except UserError:
        return False


def held_out(records: list[dict[str, Any]], y: str, predicted: list[dict[str, Any]]) -> tuple[Runs, Runs | None]:
    """The runs below every predicted budget, and those at one."""
    runs = runs_of(records, y)
    below = runs.c < REACHED * min((p["budget"] for p in predicted), default=math.inf)
    targets = [r for p in predicted if (r := measured(p, records))]
    return runs.keep(below), runs_of(targets, y) if targets else None


def cut_short(points: list[Point], records: list[dict[str, Any]], y: str) -> Cut:
    """The runs that no law sees: those that diverged have no metric, stopped ones have that of their last step."""
    cut = {"diverged": [(point.flops, None) for point in points if diverged(point)]}
    for record in records:
        if why := record.get("stopped"):
            cut.setdefault(why, []).append((record["flops"]["train"], record["metrics"].get(y)))
    return cut


def figures_of(points: list[Point], records: list[dict[str, Any]], y: str, law: Bootstrap | Law | None,
               predicted: list[dict[str, Any]], cost: Cost | None) -> dict[str, Figure]:  # fmt: skip
    """The figures of the page that are drawn from numbers, by name."""
    cut, made = cut_short(points, records, y), {"panels": panels(records)}
    if law is None:
        made["loss"] = against_compute(records, y, predicted, cut)
    else:
        runs, targets = held_out(records, y, predicted)
        made["loss"] = law_figure(law, runs, targets=targets, cost=cost, predicted=predicted, cut=cut)
        made["isoflop"] = isoflop_figure(runs, law.law if isinstance(law, Bootstrap) else law, cost)
    return {name: figure for name, figure in made.items() if figure is not None}


def check_of(sweep: SweepConfig) -> dict[str, Any] | None:
    """What `check-lr` found, where it was run to its end."""
    path = Path(sweep.out) / "check-lr" / "check-lr.json"
    return json.loads(path.read_text()) if sweep.check_lr and path.exists() else None


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


def drawn(figure: Figure, kind: str) -> bytes:
    """The figure as PNG or SVG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=150)
    return buffer.getvalue()
