"""From a sweep file to points: which runs, their exact compute, and one configuration file each."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml

from scaling.grid import FEWEST_STEPS, CheckConfig, GridConfig, expand
from scaling.records import read_record
from videowm import config as configuration
from videowm.files import write_atomic
from videowm.limits import Count, Flops, Positive, Range
from videowm.types import UserError

if TYPE_CHECKING:
    from videowm.train.tasks.world import WorldRun


@dataclass(frozen=True)
class SweepConfig:
    """A sweep: a base configuration and the points that differ from it."""

    base: str  # configuration of a `task: world` run
    out: str  # sweep directory; every point gets a run directory in it
    points: list[dict[str, Any]] = field(default_factory=list)  # dotted overrides of each, and its optional `name`
    grid: GridConfig | None = None  # instead of points: budgets and sizes
    check_lr: CheckConfig | None = None  # what `check-lr` runs, in OUT/check-lr
    set: dict[str, Any] = field(default_factory=dict)  # dotted overrides of all points
    title: str = "Quality against compute"  # of the report
    strip_clips: Count = 4  # starts shown in the report's strip
    strip_frames: Count = 48  # frames each of them is rolled out
    strip_at: list[Positive] = field(default_factory=list)  # multiples of the least compute that it shows; empty: all
    retries: Annotated[int, Range(at_least=0, at_most=100)] = 1  # further tries of a point that stands still
    speed: Flops | None = None  # FLOP/s to estimate hours with, until points of this sweep have been timed
    cap: Flops | None = None  # FLOPs that all points together may spend
    slurm: dict[str, Any] = field(default_factory=dict)  # options of sbatch by their long names, for `run --slurm`


@dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    name: str
    run: Path  # its run directory
    config: Path  # its configuration file
    flops: float  # planned training FLOPs
    params: dict[str, int]
    tokens: int  # processed
    steps: int
    after: str | None = None  # name of the point whose checkpoint this one goes on from
    spent: float = 0.0  # FLOPs of its own steps; `flops` is the whole path's
    batch: int = 0
    lr: float = 0.0
    arm: str | None = None
    branches: tuple[Path, ...] = ()  # of a trunk: run directories of what starts from it


def load_sweep(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> SweepConfig:
    sweep = configuration.load(SweepConfig, path, overrides)
    names = [point_name(point) for point in sweep.points]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{path}: two points are named {sorted(twice)[0]!r}: give each its own `name`")
    if (names and sweep.grid) or not (names or sweep.grid or sweep.check_lr):
        raise UserError(f"{path}: a sweep needs a `grid`, or at least one entry in `points`, and not both")
    return sweep


def point_name(point: dict[str, Any]) -> str:
    """The point's `name`, else its overrides in words."""
    return str(point.get("name") or "_".join(f"{k.split('.')[-1]}{v}" for k, v in sorted(point.items())))


def resolve(sweep: SweepConfig, overrides: dict[str, Any]) -> tuple[dict[str, Any], WorldRun]:
    """The base with the sweep's overrides and these: as written to a file, and checked, its steps not yet counted."""
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
    """Resolve every point, write its configuration file and plan.jsonl; the latents must exist."""
    from videowm.train.tasks.world import with_steps

    out, points = Path(sweep.out), []
    listed = sweep.points if sweep.grid is None else expand(sweep.grid, bases(sweep), sweep.out)
    if not listed:
        raise UserError(
            "the sweep has a check_lr and no runs of its own: give it `points` or a `grid`, or call check-lr"
        )
    for overrides in listed:
        data, run = resolve(sweep, overrides)
        name = point_name(overrides)
        path, run = out / "plan" / f"{name}.yaml", checked(name, with_steps(run))
        same_as_run(run)
        points.append(replace(point_of(name, path, run), arm=overrides.get("arm")))
        write_atomic(path, yaml.safe_dump(data, sort_keys=False).encode())
    spent = sum(point.spent for point in points)
    if sweep.cap is not None and spent > sweep.cap:
        raise UserError(
            f"the points would spend {spent:.3g} FLOPs, above the cap of {sweep.cap:.3g}: raise `cap`, or plan less"
        )
    names = {point.name for point in points}
    points = [point if point.after in names else replace(point, after=None) for point in points]
    leave = {name: tuple(point.run for point in points if point.after == name) for name in names}
    points = [replace(point, branches=leave[point.name]) for point in points]
    lines = (json.dumps(configuration.to_dict(point)) + "\n" for point in points)
    write_atomic(out / "plan.jsonl", "".join(lines).encode())
    return points


def checked(name: str, run: WorldRun) -> WorldRun:
    """Refuse what would be found out only when a branch looks for its start."""
    if late := [step for step in run.train.keep_at if not 1 <= step <= run.train.steps]:
        raise UserError(
            f"point {name}: train.keep_at {late[0]} lies outside its {run.train.steps:,} steps, so no checkpoint would "
            "be kept: give a step of the run, or more steps"
        )
    return run


def same_as_run(run: WorldRun) -> None:
    """Refuse a point whose run directory, or record where only that is here, is of another configuration: it would
    count as done. Latents may lie elsewhere, since records have their hashes."""
    from videowm.train.directory import check_same_run

    out = Path(run.out)
    if (out / "config.yaml").exists():
        check_same_run(out, configuration.to_dict(run), frozenset(["latents"]))
    elif (record := read_record(out)) and not run.train.trunk:
        asked = {"steps": run.train.steps, "batch": run.train.batch, "lr": run.train.lr, "seed": run.seed}
        for key, value in asked.items():
            if not math.isclose(record.get(key, value), value, rel_tol=1e-3):  # the rule rounds to four digits
                raise UserError(
                    f"{out} holds another run: {key} is {record[key]} in its record and {value} here; choose another "
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


def planned(sweep: SweepConfig) -> list[Point]:
    """The points as the last `plan` wrote them."""
    path = Path(sweep.out) / "plan.jsonl"
    if not path.exists():
        raise UserError(f"{path} is not there: call `python -m scaling plan` first")
    points = (json.loads(line) for line in path.read_text().splitlines())
    return [Point(**point | {key: Path(point[key]) for key in ("run", "config")}
                  | {"branches": tuple(map(Path, point["branches"]))}) for point in points]  # fmt: skip


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
        import torch

        from scaling.records import read_record
        from videowm.train.device import device_name

        here = device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        records = [r for p in points if (r := read_record(p.run)) and r["device"] == here and r["wall_seconds"]]
        return Speeds([(r["params"]["body"], r["flops"]["spent"] / r["wall_seconds"]) for r in records], sweep.speed)

    def hours(self, point: Point) -> float | None:
        """Of training alone; evaluation comes on top."""
        size = point.params["body"]
        near = min(self.measured, key=lambda pair: abs(math.log(pair[0] / size)), default=(size, self.given))[1]
        return near and point.spent / near / 3600
