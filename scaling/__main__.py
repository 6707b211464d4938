"""`python -m scaling plan|run|status|check-lr|fit|predict|report SWEEP.yaml`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from videowm.config import parse_args
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


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser("python -m scaling", description=DESCRIPTION, formatter_class=raw)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    helps = {
        "plan": "resolve every point and count its FLOPs",
        "run": "run the points that have no record yet",
        "status": "say which points are done, stopped, running, queued, failed",
        "check-lr": "find the best learning rate at the widths and horizons of the sweep's check_lr",
        "predict": "freeze a prediction, with its interval and hash, before the run exists",
        "report": "write report.html and log the curve to wandb",
    }
    for name, text in helps.items():
        p = verbs.add_parser(name, help=text, description=text, epilog=EXAMPLES.get(name))
        p.add_argument("sweep", type=Path, help="sweep YAML")
        p.add_argument("overrides", **OVERRIDES)
        if name == "run":
            run_options(p)
        if name == "check-lr":
            check_options(p)
        if name in ("predict", "report"):
            p.add_argument("--y", default="heldout/loss", help="any metric of the records (default: %(default)s)")
        if name == "predict":
            p.add_argument(
                "--budget", type=float, action="append", required=True, help="training FLOPs; may be repeated"
            )
            p.add_argument("--arm", help="of a grid with arms, the one whose runs are extrapolated")
            p.add_argument(
                "--form", choices=FORMS, help="default: what predicts the highest budget best from the others"
            )
        if name == "report":
            p.add_argument("--no-wandb", action="store_true", help="do not log a summary run")
    p = verbs.add_parser(
        "fit", help="fit a law to a sweep or to a table", description="fit a law to a sweep or a table"
    )
    p.add_argument("source", type=Path, help="sweep YAML or CSV")
    p.add_argument("overrides", **OVERRIDES)
    p.add_argument("--form", default="surface", choices=(*FORMS, "power"))
    p.add_argument("--out", type=Path, help="law.json to write")
    p.add_argument("--figure", type=Path, help="figure to write (.png, .svg)")
    p.add_argument("--y", default="heldout/loss", help="metric of a sweep's records (default: %(default)s)")
    p.add_argument("--bootstrap", type=int, default=1000, help="draws; 0: no intervals (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0)
    for name in TABLE[:4]:
        p.add_argument(f"--{name}", help=f"column of a table that holds {name.upper()}")
    for name in ("n", "d", "c"):
        p.add_argument(f"--{name}-unit", type=float, help="what 1 in that column is, such as 1e6 (default: 1)")
    p.add_argument("--trunk", help="column whose equal entries the bootstrap draws together")
    p.add_argument("--where", action="append", help='take only such rows, "C<1e16" or "dataset=rpj"; repeatable')
    p.add_argument("--drop-highest", type=int, help="leave out this many of the highest losses")
    return top


TABLE = ("n", "d", "c", "loss", "n_unit", "d_unit", "c_unit", "trunk", "where", "drop_highest")  # options of a CSV
EXAMPLES = {
    "check-lr": "example: python -m scaling check-lr configs/sweep/takecover.yaml --plan",
    "predict": "example: python -m scaling predict study.yaml --budget 1e17 --arm muon",
}
OVERRIDES = {
    "nargs": "*", "metavar": "key=value", "help": "settings of the sweep, such as cap=1e17 or set.train.clip=2",
}  # fmt: skip
JOBS = "points at once, each on GPUs of its own, round robin (default: what the GPUs give); of each SLURM array (all)"


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


def run(args: argparse.Namespace) -> int:
    if args.verb == "fit":
        return run_fit(args)
    from scaling import slurm
    from scaling.plan import Speeds, load_sweep, plan, table

    sweep = load_sweep(args.sweep, args.overrides)
    if args.verb == "report":
        return run_report(args, sweep)
    if args.verb == "predict":
        from scaling.predict import freeze, sentence

        for budget in args.budget:
            print(sentence(*freeze(sweep, budget, form=args.form, y=args.y, arm=args.arm)))
        return 0
    if args.verb == "run":
        return run_points(args, sweep)
    if args.verb == "check-lr":
        return run_check(args, sweep)
    points = plan(sweep)
    if args.verb == "plan":
        print(table(points, Speeds.of(sweep, points)))
    if args.verb == "status":
        for name, state in slurm.states(points, sweep).items():
            print(f"{name:16s} {state}")
    return 0


def require_jobs(jobs: int | None) -> None:
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs} cannot be used: give 1 or more")


def run_points(args: argparse.Namespace, sweep) -> int:
    from scaling import dispatch, local, slurm
    from scaling.plan import plan, planned

    require_jobs(args.jobs)
    points = planned(sweep) if args.only else plan(sweep)
    if args.only:
        if unknown := set(args.only) - {point.name for point in points}:
            raise UserError(f"{args.sweep} has no point {sorted(unknown)[0]!r}: choose from what `status` lists")
        points = [point for point in points if point.name in args.only]
    if args.slurm:
        print(slurm.submit(points, sweep, [str(args.sweep), *args.overrides], args.jobs))
        return 0
    left = local.run(points, sweep, args.jobs)
    if left:
        print(
            f"{left} of {len(points)} points are not done: mend what they report, run the same again", file=sys.stderr
        )
    else:
        stopped = sum(bool(dispatch.stopped(point)) for point in points)
        but = f", {stopped} of them stopped by the action gate" if stopped else ""
        print(f"all {len(points)} points of {args.sweep} are done{but}")
    return 1 if left else 0


def run_check(args: argparse.Namespace, sweep) -> int:
    from scaling import check, local, slurm
    from scaling.plan import Speeds, table

    require_jobs(args.jobs)
    sweep = check.check_sweep(sweep)
    points, missing = check.todo(sweep)
    if args.plan:
        print(table(points, Speeds.of(sweep, points)))
        return 0
    if args.slurm:
        print(slurm.submit(missing, sweep, [str(args.sweep), *args.overrides, f"out={sweep.out}"], args.jobs))
        return 0
    if missing:
        local.run(missing, sweep, args.jobs)
    said = check.read(sweep, points)
    print(check.sentences(said))
    return 0 if said["passes"] else 1


def run_report(args: argparse.Namespace, sweep) -> int:
    from scaling.arms import sentences
    from scaling.plan import planned
    from scaling.publish import publish
    from scaling.records import finished
    from scaling.report import report
    from scaling.summary import left_out

    path = report(sweep, y=args.y)
    points = planned(sweep)
    print("\n".join([str(path), *sentences(finished(points), args.y), *left_out(points)]))
    if not args.no_wandb:
        publish(sweep, y=args.y)
    return 0


def run_fit(args: argparse.Namespace) -> int:
    from scaling import fit

    mapping = {k: v for k in TABLE if (v := getattr(args, k)) is not None}
    if args.source.suffix == ".csv":
        if args.overrides:
            raise UserError(f"{args.overrides[0]}: a table has no settings: name them with a sweep")
        law = fit.fit_table(args.source, form=args.form, out=args.out, figure=args.figure, bootstrap=args.bootstrap,
                            seed=args.seed, **mapping)  # fmt: skip
    elif mapping:
        raise UserError(f"--{next(iter(mapping)).replace('_', '-')} is for a table: give {args.source} without it")
    else:
        return fit_sweep(args)
    print(fit.summary(law))
    return 0


def fit_sweep(args: argparse.Namespace) -> int:
    """A law of the finished points, or one for each arm and how far the arms lie apart."""
    from scaling import arms, fit
    from scaling.plan import load_sweep, plan
    from scaling.records import by_arm, finished, runs_of
    from scaling.summary import left_out

    points = plan(load_sweep(args.source, args.overrides))
    records = finished(points)
    groups = by_arm(records) or {None: []}
    for arm, found in groups.items():
        named = {}
        for key in ("out", "figure"):
            path = getattr(args, key)
            named[key] = path and (path.with_stem(f"{path.stem}-{arm}") if len(groups) > 1 else path)
        law = fit.fit_runs(runs_of(found, args.y), form=args.form, bootstrap=args.bootstrap, seed=args.seed, **named)
        print(fit.summary(law) if arm is None else f"arm {arm}: {fit.summary(law)}")
    for line in [*arms.sentences(records, args.y), *left_out(points)]:
        print(line)
    return 0


def main(argv: list[str] | None = None) -> None:
    try:
        sys.exit(run(parse_args(parser(), argv)))
    except UserError as error:
        print(f"scaling: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("scaling: stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
