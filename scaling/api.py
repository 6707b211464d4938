"""Scaling studies from Python: plan, run, check, fit, predict and report a sweep. The command line maps to these.

    from scaling import api

    sweep = api.load("configs/sweep/quickstart.yaml", ["cap=1e17"])
    print(api.plan_table(sweep))
    outcome = api.run(sweep, api.RunOptions(jobs=2))
    fitted = api.fit(sweep, api.FitOptions(form="frontier", out=Path("law.json")))
    page = api.report(sweep, api.ReportOptions(no_wandb=True))

Every function raises `videowm.types.UserError`, one sentence, where the sweep, an option or a file cannot be used.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scaling.point import Point, SweepConfig, load_sweep, planned
from videowm import config as configuration
from videowm.limits import Count, Flops, Positive, Seed, Whole
from videowm.options import EvaluateOptions
from videowm.types import UserError

if TYPE_CHECKING:
    from scaling.check import Verdict
    from scaling.frozen import Prediction
    from scaling.law import Law, Runs
    from scaling.seal import Seal
    from scaling.simulate import Proposal
    from scaling.verify import Finding

logger = logging.getLogger("scaling")
Form = Literal["surface", "surface-0", "frontier", "second-order", "power"]
PredictableForm = Literal["surface", "surface-0", "frontier", "second-order"]
LOSS = "heldout/loss"


@dataclass(frozen=True)
class CheckOptions:
    """How the runs of a learning-rate check are run."""

    jobs: Count | None = None  # runs at once, or tasks of a SLURM array at once (default: what the GPUs give, or all)


@dataclass(frozen=True)
class RunOptions:
    """How the points of a sweep are run."""

    jobs: Count | None = None  # points at once, or tasks of a SLURM array at once (default: what the GPUs give, or all)
    only: tuple[str, ...] = ()  # names of points of the last plan (default: all)


@dataclass(frozen=True)
class MeasureOptions:
    """How all finished points of a sweep are measured later."""

    jobs: Count | None = None  # points at once (default: one a GPU)
    heads: tuple[str, ...] = ()  # overrides of configs/heads/base.yaml, by which points without heads get some


@dataclass(frozen=True)
class Outcome:
    """What a call of `run` ended with, in numbers of points."""

    points: int
    left: int  # not done
    stopped: int  # by their action gate; they count as done


@dataclass(frozen=True)
class FitOptions:
    """How a law is fitted."""

    form: Form = "surface"  # of the law
    y: str = LOSS  # metric of a sweep's records
    bootstrap: Whole = 1000  # draws; 0: no intervals
    seed: Seed = 0  # of the bootstrap's draws
    out: Path | None = None  # law.json to write; of a sweep with arms, each arm's name is added
    figure: Path | None = None  # .png, .pdf or .svg to write; likewise
    page: Path | None = None  # .html to write, with forms weighed and intervals; likewise


@dataclass(frozen=True)
class TableOptions:
    """Which columns and rows of a CSV hold the runs. One of `d` and `c` may be missing: C = 6ND."""

    n: str = "N"  # column of the parameters
    d: str | None = None  # column of the data
    c: str | None = None  # column of the training FLOPs
    loss: str = "loss"  # column of the loss
    n_unit: Positive = 1.0  # what 1 in the column of N is, such as 1e6
    d_unit: Positive = 1.0  # what 1 in the column of D is
    c_unit: Positive = 1.0  # what 1 in the column of C is
    trunk: str | None = None  # column whose equal entries the bootstrap draws together
    where: tuple[str, ...] = ()  # take only rows that meet all of these, such as "C<1e16"
    drop_highest: Whole = 0  # leave out this many of the highest losses


@dataclass(frozen=True)
class Fitted:
    """Laws by arm (None where a sweep has no arms), and sentences on arms and on points that no law sees."""

    laws: dict[str | None, Law]
    notes: list[str]

    def __str__(self) -> str:
        """All of it as lines for a terminal."""
        laws = [summary(law) if arm is None else f"arm {arm}: {summary(law)}" for arm, law in self.laws.items()]
        return "\n".join([*laws, *self.notes])


@dataclass(frozen=True)
class Page:
    """A report, and sentences on arms, on points that no law sees and on pictures that could not be drawn."""

    path: Path
    notes: list[str]


@dataclass(frozen=True)
class PredictOptions:
    """What is predicted, and by which law."""

    form: PredictableForm | None = None  # of the law (default: combined, by rolling validation)
    y: str = LOSS  # metric that is predicted
    arm: str | None = None  # of a grid with arms, the one whose runs are extrapolated


@dataclass(frozen=True)
class DesignOptions:
    """What a study may cost, and how near it should come."""

    flops: Flops = 3e16  # training FLOPs of all runs together
    error: Positive = 5.0  # wished at 10 times the highest budget, in % of the gain, in half of all studies
    scatter: Positive = 0.01  # standard deviation of one run's ln L
    studies: Count = 30  # simulated for each grid


@dataclass(frozen=True)
class SealOptions:
    """Where a target's seed is drawn from."""

    arm: str | None = None  # of a grid with arms, the one whose prediction is sealed
    drand: str = "https://api.drand.sh"  # server of the public beacon; empty: draw from the commit
    calendar: str = ""  # OpenTimestamps calendar, such as https://a.pool.opentimestamps.org; empty: no timestamp


@dataclass(frozen=True)
class ReportOptions:
    """What the page shows."""

    y: str = LOSS  # any metric of the records
    no_wandb: bool = False  # do not log a summary run


@dataclass(frozen=True)
class EmergenceOptions:
    """Where the table of abilities is written."""

    out: Path | None = None  # folder (default: that of the runs)


def load(path: str | Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """The sweep of a YAML file with `key=value` overrides."""
    return load_sweep(path, tuple(overrides))


def plan(sweep: SweepConfig) -> list[Point]:
    """Every point with its exact compute; writes OUT/plan.jsonl and a configuration file for each point."""
    from scaling import plan as planning

    return planning.plan(sweep)


def plan_table(sweep: SweepConfig) -> str:
    """`plan`, as a table for a terminal: FLOPs, size, tokens, batch, learning rate, steps and hours of every point."""
    from scaling import plan as planning

    points = planning.plan(sweep)
    return planning.table(points, planning.Speeds.of(sweep, points))


def run(sweep: SweepConfig, options: RunOptions = RunOptions()) -> Outcome:  # noqa: B008 - frozen
    """Run every point that has no record yet on this machine, and wait. The same call again goes on."""
    from scaling import dispatch, local

    points = chosen(sweep, options)
    left = local.run(points, sweep, options.jobs)
    return Outcome(len(points), left, sum(bool(dispatch.stopped(point)) for point in points))


def evaluate(
    sweep: SweepConfig,
    options: EvaluateOptions,
    how: MeasureOptions = MeasureOptions(),  # noqa: B008
) -> list[str]:
    """Measure all finished points that were not measured yet, as `videowm evaluate` does; sentences on what failed.

    With `options.decisions` points without heads get some first. The same call again goes on.
    """
    from scaling.evaluate import evaluate as measure

    for each in (options, how):
        configuration.check(each)
    return measure(planned(sweep), options, Path(sweep.out), jobs=how.jobs, heads=how.heads)


def submit(sweep: SweepConfig, options: RunOptions = RunOptions()) -> str:  # noqa: B008
    """Submit what is missing to SLURM as job arrays; a sentence on what was submitted."""
    from scaling import slurm

    return slurm.submit(chosen(sweep, options), sweep, options.jobs)


def chosen(sweep: SweepConfig, options: RunOptions) -> list[Point]:
    """The points that the options name, all of a fresh plan where they name none.

    Raises:
        UserError: an option is out of range, or the sweep has no point of a name in `only`.
    """
    configuration.check(options)
    if not options.only:
        from scaling.plan import plan_aside

        return plan_aside(sweep)
    points = planned(sweep)
    if unknown := set(options.only) - {point.name for point in points}:
        raise UserError(f"{sweep.out} has no point {sorted(unknown)[0]!r}: choose from what `status` lists")
    return [point for point in points if point.name in options.only]


def status(sweep: SweepConfig) -> dict[str, str]:
    """The state of every point by its name: done, stopped, running, queued, diverged, failed or todo."""
    from scaling import slurm

    return slurm.states(plan(sweep), sweep)


def check_sweep(sweep: SweepConfig) -> SweepConfig:
    """The learning-rate check of a sweep as a sweep of its own, in OUT/check-lr: `plan_table` counts its cost."""
    from scaling import check

    return check.check_sweep(sweep)


def check_lr(sweep: SweepConfig, options: CheckOptions = CheckOptions()) -> Verdict:  # noqa: B008
    """Whether the best learning rate stays put over all widths and horizons of the sweep's check_lr.

    Runs what is missing of the check, and writes OUT/check-lr/check-lr.json and a figure.
    """
    from scaling import check, local

    configuration.check(options)
    checked = check.check_sweep(sweep)
    points, missing = check.todo(checked)
    if missing:
        local.run(missing, checked, options.jobs)
    return check.read(checked, points)


def submit_check(sweep: SweepConfig, options: CheckOptions = CheckOptions()) -> str:  # noqa: B008
    """Submit what is missing of the learning-rate check to SLURM; `check_lr` then judges it."""
    from scaling import check, slurm

    configuration.check(options)
    checked = check.check_sweep(sweep)
    return slurm.submit(check.todo(checked)[1], checked, options.jobs)


def fit(sweep: SweepConfig, options: FitOptions = FitOptions()) -> Fitted:  # noqa: B008
    """A law of the finished points, or one for each arm and how far the arms lie apart."""
    from scaling import arms
    from scaling.records import by_arm, finished, runs_of
    from scaling.summary import left_out

    configuration.check(options)
    points = plan(sweep)
    records = finished(points)
    groups = by_arm(records) or {None: []}
    laws = {
        arm: fit_runs(runs_of(found, options.y), of_arm(options, arm if len(groups) > 1 else None))
        for arm, found in groups.items()
    }
    return Fitted(laws, [*arms.sentences(records, options.y), *left_out(points)])


def of_arm(options: FitOptions, arm: str | None) -> FitOptions:
    """The options with the arm's name in the names of the files."""
    named = {key: path and path.with_stem(f"{path.stem}-{arm}")
             for key, path in (("out", options.out), ("figure", options.figure), ("page", options.page))}  # fmt: skip
    return options if arm is None else replace(options, **named)


def fit_table(path: str | Path, table: TableOptions, options: FitOptions = FitOptions()) -> Law:  # noqa: B008
    """A law of the runs in a CSV."""
    from scaling.table import read_table

    configuration.check(table)
    return fit_runs(read_table(path, **asdict(table)), configuration.check(options))


def fit_runs(runs: Runs, options: FitOptions = FitOptions()) -> Law:  # noqa: B008
    """A law of these runs; writes law.json and a figure where the options name them.

    Copies, wrong units and outliers are left out, each with a warning that names its row.
    """
    from scaling.doubt import doubted
    from scaling.fit import bootstrap_fit
    from scaling.fit import fit as fit_law
    from videowm.files import write_atomic

    runs, doubts = doubted(runs)
    for doubt in doubts:
        logger.warning("%s", doubt)
    if options.bootstrap:
        result = bootstrap_fit(runs, options.form, options.bootstrap, options.seed)
        law = result.law
    else:
        result = law = fit_law(runs, options.form)
    if options.out:
        write_atomic(options.out, law.to_json().encode())
    if options.figure:
        from scaling.figures import law_figure

        law_figure(result, runs).savefig(options.figure, dpi=200)
    if options.page:
        from scaling.lawpage import write_page

        write_page(options.page, runs, doubts, title=options.page.stem, draws=min(options.bootstrap, 200))
    return law


def summary(law: Law) -> str:
    """A law as lines for a terminal: formula, parameters with their errors, and what is wrong with the fit."""
    from scaling.fit import summary as lines

    return lines(law)


def predict(sweep: SweepConfig, budget: float, options: PredictOptions = PredictOptions()) -> tuple[Path, Prediction]:  # noqa: B008
    """Freeze what the finished points predict for a budget of FLOPs; the file in OUT/predictions and what it holds.

    A prediction that is there already is read and never overwritten.
    """
    from scaling.predict import freeze

    return freeze(sweep, budget, **asdict(configuration.check(options)))


def design(law: str | Path, options: DesignOptions = DesignOptions()) -> tuple[Proposal, list[Proposal]]:  # noqa: B008
    """The cheapest grid that comes as near as wished where a law.json's surface is true, and all that were simulated.

    Raises:
        UserError: the file is no surface.
    """
    from scaling.law import SURFACES, Law
    from scaling.simulate import best, proposals

    configuration.check(options)
    try:
        truth = Law.from_json(Path(law).read_text())
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{law} cannot be read as a law.json ({error}): write one with `fit --out`") from None
    if truth.form not in SURFACES:
        raise UserError(f"{law} holds a {truth.form} law, which knows no sizes: fit the form 'surface'")
    found = list(proposals(truth, options.flops, options.scatter, options.studies))
    return best(found, options.error), found


def seal(sweep: SweepConfig, budget: float, options: SealOptions = SealOptions()) -> tuple[Path, Seal, list[str]]:  # noqa: B008
    """Draw the seed of a prediction's target from the committed prediction and a later public beacon, once.

    Returns the file, what it holds, and sentences on what was not to be had. The next `plan` gives the seed and the
    prediction's hash to the target's run.
    """
    from scaling.seal import seal as draw

    return draw(sweep, budget, options.arm, drand=options.drand or None, calendar=options.calendar or None)


def verify(folder: str | Path) -> dict[Path, list[Finding]]:
    """What files and git prove of the order of predictions and targets in a folder, and what must be trusted."""
    from scaling.verify import verify as check

    return check(folder)


def emergence(folder: str | Path, options: EmergenceOptions = EmergenceOptions()) -> tuple[str, list[Path]]:  # noqa: B008
    """At which compute each ability appears in the runs of a folder: the table as Markdown, and the files written."""
    from scaling import emergence as emerging

    folder = Path(folder)
    found = emerging.emergence(emerging.runs_in(folder))
    return emerging.markdown(found), emerging.write(options.out or folder, found)


def report(sweep: SweepConfig, options: ReportOptions = ReportOptions()) -> Page:  # noqa: B008
    """Write OUT/report.html, its figures and tables in OUT/report, and a wandb summary."""
    from scaling import report as reporting
    from scaling.publish import publish

    path, notes = reporting.report(sweep, y=configuration.check(options).y)
    if not options.no_wandb:
        publish(sweep, y=options.y)
    return Page(path, notes)
