"""`python -m scaling plan|run|status|check-lr|fit|predict|report SWEEP.yaml`: arguments, and nothing else."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scaling import api
from videowm.arguments import Parser
from videowm.config import parse_args
from videowm.exits import carry_out
from videowm.types import UserError

FORMS = ("surface", "frontier", "second-order")
DESCRIPTION = """Plan, run and read scaling sweeps.

examples:
  python -m scaling plan configs/sweep/quickstart.yaml            what will be run, and how much it costs
  python -m scaling run configs/sweep/quickstart.yaml             run what is missing; again: does nothing
  python -m scaling run configs/sweep/quickstart.yaml --jobs 4    four points at once, shared out over the GPUs
  python -m scaling run configs/sweep/quickstart.yaml --slurm     submit what is missing as job arrays
  python -m scaling status configs/sweep/quickstart.yaml
  python -m scaling check-lr configs/sweep/takecover.yaml         does the best learning rate stay where the rule says
  python -m scaling check-lr configs/sweep/takecover.yaml --plan   what that costs
  python -m scaling fit study.yaml                                fit a law to the finished points
  python -m scaling fit table.csv --n params --c flops --loss loss --out law.json
  python -m scaling predict study.yaml --budget 1e17              freeze what the law says of a larger run
  python -m scaling report configs/sweep/quickstart.yaml"""
HELPS = {
    "plan": "resolve every point and count its FLOPs",
    "run": "run the points that have no record yet",
    "status": "say which points are done, stopped, running, queued, failed",
    "check-lr": "find the best learning rate at the widths and horizons of the sweep's check_lr",
    "fit": "fit a law to a sweep or to a table",
    "predict": "freeze a prediction, with its interval and hash, before the run exists",
    "report": "write report.html and log the curve to wandb",
}
EXAMPLES = {
    "check-lr": "example: python -m scaling check-lr configs/sweep/takecover.yaml --plan",
    "predict": "example: python -m scaling predict study.yaml --budget 1e17 --arm muon",
}
JOBS = "points at once, each on GPUs of its own, round robin (default: what the GPUs give); of each SLURM array (all)"
COLUMNS = ("n", "d", "c", "loss", "n_unit", "d_unit", "c_unit", "trunk", "where", "drop_highest")  # options of a CSV


def parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    top = Parser("python -m scaling", description=DESCRIPTION)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    options = {"run": run_options, "check-lr": check_options, "fit": fit_options, "predict": predict_options,
               "report": report_options}  # fmt: skip
    for name, text in HELPS.items():
        p = verbs.add_parser(name, help=text, description=text, epilog=EXAMPLES.get(name))
        p.add_argument("sweep", type=Path, help="sweep YAML, or a CSV table" if name == "fit" else "sweep YAML")
        p.add_argument("overrides", nargs="*", metavar="key=value",
                       help="settings of the sweep, such as cap=1e17 or set.train.clip=2")  # fmt: skip
        options.get(name, lambda _: None)(p)
    return top


def run_options(p: argparse.ArgumentParser) -> None:
    """Options of `run`."""
    p.add_argument("--jobs", type=int, metavar="N", help=JOBS)
    how = p.add_mutually_exclusive_group()
    how.add_argument("--slurm", action="store_true", help="submit one task a point, with the sweep's `slurm` options")
    how.add_argument("--only", metavar="POINT", action="append", help="this point of the last plan; may be repeated")


def check_options(p: argparse.ArgumentParser) -> None:
    """Options of `check-lr`."""
    p.add_argument("--jobs", type=int, metavar="N", help=JOBS)
    how = p.add_mutually_exclusive_group()
    how.add_argument("--plan", action="store_true", help="only say what would be run and what it costs")
    how.add_argument("--slurm", action="store_true", help="submit the points; the same without it then reads them")


def fit_options(p: argparse.ArgumentParser) -> None:
    """Options of `fit`, those of a table among them."""
    p.add_argument("--form", default="surface", choices=(*FORMS, "power"))
    p.add_argument("--out", type=Path, help="law.json to write")
    p.add_argument("--figure", type=Path, help="figure to write (.png, .svg)")
    p.add_argument("--y", default=api.LOSS, help="metric of a sweep's records (default: %(default)s)")
    p.add_argument("--bootstrap", type=int, default=1000, help="draws; 0: no intervals (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0)
    for name in ("n", "d", "c", "loss"):
        p.add_argument(f"--{name}", help=f"column of a table that holds {name.upper()}")
    for name in ("n", "d", "c"):
        p.add_argument(f"--{name}-unit", type=float, help="what 1 in that column is, such as 1e6 (default: 1)")
    p.add_argument("--trunk", help="column whose equal entries the bootstrap draws together")
    p.add_argument("--where", action="append", help='take only such rows, "C<1e16" or "dataset=rpj"; repeatable')
    p.add_argument("--drop-highest", type=int, help="leave out this many of the highest losses")


def predict_options(p: argparse.ArgumentParser) -> None:
    """Options of `predict`."""
    report_y(p)
    p.add_argument("--budget", type=float, action="append", required=True, help="training FLOPs; may be repeated")
    p.add_argument("--arm", help="of a grid with arms, the one whose runs are extrapolated")
    p.add_argument("--form", choices=FORMS, help="default: what predicts the highest budget best from the others")


def report_options(p: argparse.ArgumentParser) -> None:
    """Options of `report`."""
    report_y(p)
    p.add_argument("--no-wandb", action="store_true", help="do not log a summary run")


def report_y(p: argparse.ArgumentParser) -> None:
    """The metric on the vertical axis."""
    p.add_argument("--y", default=api.LOSS, help="any metric of the records (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Do what the arguments name; the exit code."""
    if args.verb == "fit" and args.sweep.suffix == ".csv":
        return run_table(args)
    if args.verb == "fit":
        return run_fit(args)
    sweep = api.load(args.sweep, args.overrides)
    if args.verb == "run":
        return run_points(args, sweep)
    if args.verb == "check-lr":
        return run_check(args, sweep)
    if args.verb == "plan":
        print(api.plan_table(sweep))
    elif args.verb == "status":
        print("\n".join(f"{name:16s} {state}" for name, state in api.status(sweep).items()))
    elif args.verb == "predict":
        options = api.PredictOptions(form=args.form, y=args.y, arm=args.arm)
        for budget in args.budget:
            path, prediction = api.predict(sweep, budget, options)
            print(f"{path}: {prediction}")
    else:
        made = api.report(sweep, api.ReportOptions(y=args.y, wandb=not args.no_wandb))
        print("\n".join([str(made.path), *made.notes]))
    return 0


def run_points(args: argparse.Namespace, sweep: api.SweepConfig) -> int:
    """`run`."""
    options = api.RunOptions(jobs=args.jobs, only=tuple(args.only or ()))
    if args.slurm:
        print(api.submit(sweep, options))
        return 0
    done = api.run(sweep, options)
    if done.left:
        print(
            f"{done.left} of {done.points} points are not done: mend what they report, run the same again",
            file=sys.stderr,
        )
        return 1
    but = f", {done.stopped} of them stopped by the action gate" if done.stopped else ""
    print(f"all {done.points} points of {args.sweep} are done{but}")
    return 0


def run_check(args: argparse.Namespace, sweep: api.SweepConfig) -> int:
    """`check-lr`."""
    options = api.RunOptions(jobs=args.jobs)
    if args.plan:
        print(api.plan_table(api.check_sweep(sweep)))
        return 0
    if args.slurm:
        print(api.submit_check(sweep, options))
        return 0
    verdict = api.check_lr(sweep, options)
    print(verdict)
    return 0 if verdict.passes else 1


def run_table(args: argparse.Namespace) -> int:
    """`fit TABLE.csv`."""
    if args.overrides:
        raise UserError(f"{args.overrides[0]}: a table has no settings: name them with a sweep")
    columns = {key: value for key in COLUMNS if (value := getattr(args, key)) is not None}
    print(api.summary(api.fit_table(args.sweep, api.TableOptions(**columns), fit_of(args))))
    return 0


def run_fit(args: argparse.Namespace) -> int:
    """`fit SWEEP.yaml`."""
    if given := [key for key in COLUMNS if getattr(args, key) is not None]:
        raise UserError(f"--{given[0].replace('_', '-')} is for a table: give {args.sweep} without it")
    print(api.fit(api.load(args.sweep, args.overrides), fit_of(args)))
    return 0


def fit_of(args: argparse.Namespace) -> api.FitOptions:
    """The options of a fit."""
    return api.FitOptions(args.form, args.y, args.bootstrap, args.seed, args.out, args.figure)


def main(argv: list[str] | None = None) -> None:
    """The command line; ends the process with its exit code."""
    args = parse_args(parser(), argv)
    carry_out("scaling", lambda: run(args), stopped="the same command goes on")


if __name__ == "__main__":
    main()
