"""From a sweep file to points: which runs, their exact compute, and one configuration file each."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from scaling.grid import expand
from scaling.point import FEWEST_STEPS, Point, SweepConfig, planned, point_name
from scaling.records import read_record
from videowm import config as configuration
from videowm.files import write_atomic
from videowm.types import UserError

if TYPE_CHECKING:
    from videowm.train.tasks.world import WorldRun

REFUSED = 3  # exit code of this module after a `UserError`


def resolve(sweep: SweepConfig, overrides: dict[str, Any]) -> tuple[dict[str, Any], WorldRun]:
    """The base with the sweep's overrides and these, as written to a file and as checked, its steps not yet counted.

    Raises:
        UserError: the base is not a `task: world` configuration, or an override does not fit it.
    """
    from videowm.train import registry

    data = configuration.read(sweep.base)
    if data.get("task") != "world":
        raise UserError(f"{sweep.base}: a sweep's base must be a `task: world` configuration")
    name = point_name(overrides)
    differs = {
        **sweep.set,
        **{k: v for k, v in overrides.items() if k not in ("name", "arm")},
        "out": str(Path(sweep.out) / name),
    }
    for key, value in differs.items():
        configuration.apply_override(data, f"{key}={json.dumps(value)}")
    return data, registry.build(data, where=f"point {name}")


def bases(sweep: SweepConfig) -> dict[str, WorldRun]:
    """The base of every arm of the grid; without arms the base itself, as ""."""
    arms = (sweep.grid and sweep.grid.arms) or {"": {}}
    return {arm: resolve(sweep, {"name": "base", **overrides})[1] for arm, overrides in arms.items()}


def plan(sweep: SweepConfig) -> list[Point]:
    """Every point with its exact compute; writes its configuration file and OUT/plan.jsonl. The latents must exist.

    Raises:
        UserError: a setting cannot be used, a run directory holds another run, or the cap is passed.
    """
    listed = sweep.points if sweep.grid is None else expand(sweep.grid, bases(sweep), sweep.out)
    if not listed:
        raise UserError(
            "the sweep has a check_lr and no runs of its own: give it `points` or a `grid`, or call check-lr"
        )
    points = linked([write_point(sweep, overrides) for overrides in listed])
    spent = sum(point.spent for point in points)
    if sweep.cap is not None and spent > sweep.cap:
        raise UserError(
            f"the points would spend {spent:.3g} FLOPs, above the cap of {sweep.cap:.3g}: raise `cap`, or plan less"
        )
    lines = (json.dumps(configuration.to_dict(point)) + "\n" for point in points)
    write_atomic(Path(sweep.out) / "plan.jsonl", "".join(lines).encode())
    return points


def write_point(sweep: SweepConfig, overrides: dict[str, Any]) -> Point:
    """One point; writes its configuration file."""
    from videowm.train.tasks.world import with_steps

    data, run = resolve(sweep, overrides)
    name = point_name(overrides)
    path, run = Path(sweep.out) / "plan" / f"{name}.yaml", checked(name, with_steps(run))
    same_as_run(run)
    write_atomic(path, yaml.safe_dump(data, sort_keys=False).encode())
    return replace(point_of(name, path, run), arm=overrides.get("arm"))


def linked(points: list[Point]) -> list[Point]:
    """The points with what each starts from, and of a trunk what starts from it, within this plan."""
    names = {point.name for point in points}
    points = [point if point.after in names else replace(point, after=None) for point in points]
    leave = {name: tuple(point.run for point in points if point.after == name) for name in names}
    return [replace(point, branches=leave[point.name]) for point in points]


def plan_aside(sweep: SweepConfig) -> list[Point]:
    """`plan` in a process of its own, so that this one, which may wait for days, need not hold torch.

    Raises:
        UserError: the sweep cannot be planned.
    """
    if "torch" in sys.modules:
        return plan(sweep)
    text = json.dumps(configuration.to_dict(sweep))
    ended = subprocess.run([sys.executable, "-m", "scaling.plan"], input=text, stderr=subprocess.PIPE, text=True,
                           check=False)  # fmt: skip
    if ended.returncode == REFUSED:
        raise UserError(ended.stderr.strip().splitlines()[-1])
    if ended.returncode:
        sys.stderr.write(ended.stderr)
        raise UserError(f"the sweep could not be planned (exit code {ended.returncode}): mend what stands above")
    return planned(sweep)


def main() -> None:
    """Plan the sweep whose JSON comes on standard input."""
    try:
        plan(configuration.build(SweepConfig, json.load(sys.stdin)))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(REFUSED)


def checked(name: str, run: WorldRun) -> WorldRun:
    """Refuse what would be found out only when a branch looks for its start, or never.

    Raises:
        UserError: `train.keep_at` names a step outside the run, or `train.minutes` is set.
    """
    if run.train.minutes is not None:
        raise UserError(
            f"point {name}: train.minutes {run.train.minutes:g} gives no compute that could be planned: give a budget "
            "or train.steps"
        )
    if late := [step for step in run.train.keep_at if not 1 <= step <= run.train.steps]:
        raise UserError(
            f"point {name}: train.keep_at {late[0]} lies outside its {run.train.steps:,} steps, so no checkpoint would "
            "be kept: give a step of the run, or more steps"
        )
    return run


def same_as_run(run: WorldRun) -> None:
    """Refuse a point whose run directory is of another configuration: it would count as done.

    Where only the record is here, the record is compared. Latents may lie elsewhere, since records have their hashes.

    Raises:
        UserError: the directory, or its record, is of a run with another configuration.
    """
    from videowm.train.directory import check_same_run

    out = Path(run.out)
    if (out / "config.yaml").exists():
        check_same_run(out, configuration.to_dict(run), frozenset(["latents"]))
    elif (record := read_record(out)) and not run.train.trunk:
        wanted = {"steps": run.train.steps, "batch": run.train.batch, "lr": run.train.lr, "seed": run.seed}
        for key, value in wanted.items():
            there = getattr(record, key)
            if not math.isclose(there, value, rel_tol=1e-3):  # the rule rounds to four digits
                raise UserError(
                    f"{out} holds another run: {key} is {there} in its record and {value} here; choose another "
                    "out= or remove the directory"
                )


def point_of(name: str, path: Path, run: WorldRun) -> Point:
    """What one run will be."""
    from videowm.train.flops import clip_training_flops, parameters
    from videowm.train.tasks.world import meta_model

    model, start, directory = meta_model(run), run.train.start, Path(run.out)
    samples = run.train.steps * run.train.batch
    flops = clip_training_flops(model, run.window, run.flow.shortcut) * samples
    own = run.train.steps - (start.step if start else 0)
    return Point(name, directory, path, flops, parameters(model), samples * run.window * model.tokens, run.train.steps,
                 Path(start.run).name if start else None, flops * own / run.train.steps, run.train.batch,
                 run.train.lr)  # fmt: skip


def table(points: list[Point], speeds: Speeds) -> str:
    """The plan as a person reads it: what every point costs, and what is short of steps."""
    width = max(16, *(len(p.name) for p in points))
    head = f"{'FLOPs':>10s} {'spent':>10s} {'N body':>10s} {'tokens':>10s} {'batch':>6s} {'lr':>9s} {'steps':>8s}"
    rows = [f"{'point':{width}s} {head} {'hours':>8s}"]
    hours = [speeds.hours(p) for p in points]
    for p, h in zip(points, hours, strict=True):
        rows.append(f"{p.name:{width}s} {p.flops:10.3g} {p.spent:10.3g} {p.params['body']:10.3g} {p.tokens:10.3g} "
                    f"{p.batch:6d} {p.lr:9.3g} {p.steps:8d} {shown(h):>8s}")  # fmt: skip
    whole = None if None in hours else sum(hours)
    rows.append(f"{'total':{width}s} {'':10s} {sum(p.spent for p in points):10.3g} {'':47s} {shown(whole):>8s}")
    if short := [p.name for p in points if p.steps < FEWEST_STEPS]:
        rows.append(f"fewer than {FEWEST_STEPS:,} steps, too few for a law: {', '.join(short)}")
    return "\n".join(rows)


def shown(hours: float | None) -> str:
    return "unknown" if hours is None else f"{hours:.3g}"


@dataclass(frozen=True)
class Speeds:
    """FLOP/s by size, as finished points of the sweep reached them on this device, else one number or nothing."""

    measured: list[tuple[float, float]]  # (N body, FLOP/s)
    given: float | None

    @staticmethod
    def of(sweep: SweepConfig, points: list[Point]) -> Speeds:
        from videowm.device import default_device
        from videowm.train.device import device_name

        here = device_name(default_device())
        records = [r for p in points if (r := read_record(p.run)) and r.device == here and r.wall_seconds]
        return Speeds([(r.params["body"], r.flops["spent"] / r.wall_seconds) for r in records], sweep.speed)

    def hours(self, point: Point) -> float | None:
        """Of training alone; evaluation comes on top."""
        size = point.params["body"]
        near = min(self.measured, key=lambda pair: abs(math.log(pair[0] / size)), default=(size, self.given))[1]
        return near and point.spent / near / 3600


if __name__ == "__main__":
    main()
