"""`python -m scaling VERB SWEEP.yaml`: arguments become calls of `scaling.api`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from scaling import api
from videowm.arguments import Parser, add_options, options_from, parse_args
from videowm.exits import carry_out
from videowm.options import EvaluateOptions
from videowm.types import UserError

DESCRIPTION = """Plan, run and read scaling sweeps.

examples:
  python -m scaling plan configs/sweep/quickstart.yaml            what will be run, and how much it costs
  python -m scaling run configs/sweep/quickstart.yaml             run what is missing; again: does nothing
  python -m scaling run configs/sweep/quickstart.yaml --jobs 4    four points at once, shared out over the GPUs
  python -m scaling run configs/sweep/quickstart.yaml --slurm     submit what is missing as job arrays
  python -m scaling status configs/sweep/quickstart.yaml
  python -m scaling evaluate study.yaml --reader runs/reader --decisions 128     measure all finished points later
  python -m scaling check-lr configs/sweep/takecover.yaml         is the rule's learning rate the best one
  python -m scaling check-lr configs/sweep/takecover.yaml --plan   what that costs
  python -m scaling fit study.yaml                                fit a law to the finished points
  python -m scaling fit table.csv --n params --c flops --loss loss --out law.json
  python -m scaling fit table.csv --c flops --page law.html       with forms weighed, interval and figure
  python -m scaling design law.json --flops 3e16 --error 5        which grid tells as much
  python -m scaling predict study.yaml --budget 1e17              freeze the law's loss of a larger run
  python -m scaling seal study.yaml --budget 1e17                 draw the target's seed from the committed prediction
  python -m scaling verify benchmarks/studies/takecover           did predictions come first
  python -m scaling emergence benchmarks/decisions/takecover      at which compute each ability appears
  python -m scaling report configs/sweep/quickstart.yaml"""


def parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    top = Parser("python -m scaling", description=DESCRIPTION)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(function: Callable, name: str, text: str, *options: type, source: str = "sweep YAML") -> Parser:
        p = verbs.add_parser(name, help=text, description=text)
        p.set_defaults(function=function)
        p.add_argument("sweep", type=Path, help=source)
        p.add_argument("overrides", nargs="*", default=[], metavar="key=value",
                       help="settings of the sweep, such as cap=1e17 or set.train.clip=2")  # fmt: skip
        for cls in options:
            add_options(p, cls)
        return p

    verb(plan, "plan", "resolve every point and count its FLOPs")
    p = verb(run_points, "run", "run the points that have no record yet", api.RunOptions)
    p.add_argument("--slurm", action="store_true", help="submit one task a point, with the sweep's `slurm` options")
    verb(measure, "evaluate", "measure all finished points that were not measured yet, as videowm evaluate does",
         EvaluateOptions, api.MeasureOptions)  # fmt: skip
    verb(status, "status", "print which points are done, stopped, running, queued or failed")
    p = verb(check_lr, "check-lr", "find the best learning rate at the widths and horizons of the sweep's check_lr",
             api.CheckOptions)  # fmt: skip
    p.add_argument("--plan", action="store_true", help="only print what would be run and what it costs")
    p.add_argument("--slurm", action="store_true", help="submit the points; the same without it then reads them")
    verb(fit, "fit", "fit a law to a sweep or to a table", api.FitOptions, api.TableOptions, source="sweep YAML or CSV")
    p = verb(predict, "predict", "freeze a prediction, with its interval and hash, before the run exists",
             api.PredictOptions)  # fmt: skip
    p.add_argument("--budget", type=float, action="append", required=True, help="training FLOPs; may be repeated")
    verb(design, "design", "propose the grid of a study for its FLOPs and a wished error", api.DesignOptions,
         source="law.json of a surface, taken for true")  # fmt: skip
    p = verb(seal, "seal", "draw a target's seed from its committed prediction and a public beacon", api.SealOptions)
    p.add_argument("--budget", type=float, action="append", required=True, help="training FLOPs; may be repeated")
    verb(verify, "verify", "say what is proven of the order of predictions and targets, and what must be trusted",
         source="sweep YAML, or folder with predictions and records")  # fmt: skip
    verb(emergence, "emergence", "say at which compute each ability appears: table, figure and JSON",
         api.EmergenceOptions, source="sweep YAML, or folder with records and evaluations")  # fmt: skip
    verb(report, "report", "write report.html and log the curve to wandb", api.ReportOptions)
    return top


def plan(args: argparse.Namespace) -> None:
    """The plan as a table."""
    print(api.plan_table(api.load(args.sweep, args.overrides)))


def run_points(args: argparse.Namespace) -> int:
    """Run here or submit; what is done and what is not."""
    sweep, options = api.load(args.sweep, args.overrides), options_from(api.RunOptions, args)
    if args.slurm:
        print(api.submit(sweep, options))
        return 0
    done = api.run(sweep, options)
    if done.left:
        left = f"{done.left} of {done.points} points are not done: mend what they report, run the same again"
        print(left, file=sys.stderr)
        return 1
    but = f", {done.stopped} of them stopped by the action gate" if done.stopped else ""
    print(f"all {done.points} points of {args.sweep} are done{but}")
    return 0


def measure(args: argparse.Namespace) -> int:
    """Measure; exit code 1 where a point failed."""
    options, how = options_from(EvaluateOptions, args), options_from(api.MeasureOptions, args)
    failed = api.evaluate(api.load(args.sweep, args.overrides), options, how)
    print("\n".join(failed) or "all finished points are measured", file=sys.stderr if failed else sys.stdout)
    return int(bool(failed))


def status(args: argparse.Namespace) -> None:
    """The state of every point, a line each."""
    for name, state in api.status(api.load(args.sweep, args.overrides)).items():
        print(f"{name:16s} {state}")


def check_lr(args: argparse.Namespace) -> int:
    """The verdict of the learning-rate check; exit code 1 where it fails."""
    sweep, options = api.load(args.sweep, args.overrides), options_from(api.CheckOptions, args)
    if args.plan:
        print(api.plan_table(api.check_sweep(sweep)))
    elif args.slurm:
        print(api.submit_check(sweep, options))
    else:
        verdict = api.check_lr(sweep, options)
        print(verdict)
        return 0 if verdict.passes else 1
    return 0


def fit(args: argparse.Namespace) -> None:
    """Print the law, or one for each arm.

    Raises:
        UserError: a table comes with overrides, or a sweep with options that are for tables.
    """
    options, columns = options_from(api.FitOptions, args), options_from(api.TableOptions, args)
    if args.sweep.suffix == ".csv":
        if args.overrides:
            raise UserError(f"{args.overrides[0]}: a table has no settings: name them with a sweep")
        print(api.summary(api.fit_table(args.sweep, columns, options)))
        return
    if given := [name for name in vars(columns) if hasattr(args, name)]:
        raise UserError(f"--{given[0].replace('_', '-')} is for a table: give {args.sweep} without it")
    print(api.fit(api.load(args.sweep, args.overrides), options))


def predict(args: argparse.Namespace) -> None:
    """Every prediction, and where it is frozen."""
    sweep, options = api.load(args.sweep, args.overrides), options_from(api.PredictOptions, args)
    for budget in args.budget:
        path, prediction = api.predict(sweep, budget, options)
        print(f"{path}: {prediction}")


def design(args: argparse.Namespace) -> None:
    """The proposed grid as settings of a sweep, and every grid that was simulated."""
    options = options_from(api.DesignOptions, args)
    chosen, found = api.design(args.sweep, options)
    heads = f"{'FLOPs':>9s} {'runs':>5s} {'budgets':>8s} {'sizes':>6s} {'seeds':>6s}"
    print(f"{heads}  error at 10x in % of the gain: half of all studies, nine in ten")
    for one in found:
        grid, mark = one.design, "  <- proposed" if one is chosen else ""
        row = f"{one.flops:9.3g} {one.runs:5d} {len(grid.budgets):8d} {grid.sizes:6d} {grid.seeds[0]:6d}"
        print(f"{row}  {one.median:.1f}, {one.most:.1f}{mark}")
    if chosen.median > options.error:
        print(f"no grid of {options.flops:.3g} FLOPs comes within {options.error:g} %: the nearest is proposed")
    print(chosen.design)


def seal(args: argparse.Namespace) -> None:
    """Every seal, and what was not to be had."""
    sweep, options = api.load(args.sweep, args.overrides), options_from(api.SealOptions, args)
    for budget in args.budget:
        path, found, notes = api.seal(sweep, budget, options)
        print("\n".join([f"{path}: seed {found.seed}, commit {found.commit[:12]}", *notes]))


def verify(args: argparse.Namespace) -> int:
    """What is known of every prediction; exit code 1 where something contradicts another."""
    folder = args.sweep if args.sweep.is_dir() else api.load(args.sweep, args.overrides).out
    found = api.verify(folder)
    for path, findings in found.items():
        print("\n".join([str(path), *map(str, findings)]))
    return int(any(finding.word == "BROKEN" for findings in found.values() for finding in findings))


def emergence(args: argparse.Namespace) -> None:
    """The table, and where it is."""
    folder = args.sweep if args.sweep.is_dir() else api.load(args.sweep, args.overrides).out
    table, files = api.emergence(folder, options_from(api.EmergenceOptions, args))
    print("\n".join([table, *map(str, files)]))


def report(args: argparse.Namespace) -> None:
    """Where the page is, and what it leaves out."""
    page = api.report(api.load(args.sweep, args.overrides), options_from(api.ReportOptions, args))
    print("\n".join([str(page.path), *page.notes]))


def run(args: argparse.Namespace) -> int:
    """Carry out one verb; its exit code."""
    return args.function(args) or 0


def main(argv: list[str] | None = None) -> None:
    """The command line; ends the process with its exit code."""
    args = parse_args(parser(), argv)
    carry_out("scaling", lambda: run(args), stopped="the same command goes on")


if __name__ == "__main__":
    main()
