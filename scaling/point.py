"""What a sweep is: its configuration, and the points that a plan makes of it. Imports neither torch nor numpy."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from videowm import config as configuration
from videowm.limits import Count, Flops, Positive, Range
from videowm.types import UserError

FEWEST_STEPS = 1000  # a shorter run is mostly warmup and cooldown, and tells little about a longer one
OF_THE_GRID = frozenset({"depth", "seed", "budget", "name", "out", "train.steps", "train.start", "train.trunk"})
RESERVED = frozenset({"check-lr", "heads", "plan", "predictions", "report", "wandb"})  # folders beside the runs
Depth = Annotated[int, Range(at_least=1, at_most=10**4)]
Tries = Annotated[int, Range(at_least=0, at_most=100)]
Factor = Annotated[float, Range(at_least=1, at_most=1e6)]


@dataclass(frozen=True)
class OptimumConfig:
    """Where the best size of a budget is expected: one of the two."""

    tokens_per_parameter: Positive | None = None  # D = ratio x N
    law: str | None = None  # law.json of a surface

    def __post_init__(self) -> None:
        if (self.tokens_per_parameter is None) == (self.law is None):
            raise UserError("grid.optimum needs one of tokens_per_parameter and law: give a number or a law.json")


@dataclass(frozen=True)
class GridConfig:
    """The runs of a study by their budgets. Sizes are depths; nothing else of the base configuration moves."""

    budgets: list[Flops]  # training FLOPs
    targets: list[Flops] = field(default_factory=list)  # budgets to predict: one run each, at the expected optimum
    optimum: OptimumConfig | None = None  # where the best size of a budget is expected
    target_optimum: OptimumConfig | None = None  # of targets, such as the fitted law; None: `optimum`
    sizes: list[Depth] | None = None  # depths, the same at every budget; else `per_budget` around the optimum
    per_budget: Count = 5  # sizes of a budget
    spread: Factor = 4.0  # the sizes span N/spread ... N*spread
    seeds: Count = 1  # runs that differ in nothing but their seed
    seeds_at_lowest: Count | None = None  # at the lowest budget; None: as everywhere
    # One long run for each size and seed is cooled down at every budget. Under the rule, budgets that share such a
    # trunk also share the batch and the rate, which are those of one number of tokens, in steps of 4 times.
    trunks: bool = True  # false: every run is its own, with the batch and the rate of its own tokens
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)  # every run once under each arm's dotted overrides
    force: bool = False  # take runs below 1,000 steps too

    def __post_init__(self) -> None:
        if not self.budgets:
            raise UserError("grid.budgets is empty: give at least one number of FLOPs")
        if self.optimum is None and (self.sizes is None or (self.targets and self.target_optimum is None)):
            raise UserError("grid.optimum is missing: give tokens_per_parameter or law, around which sizes are chosen")
        for arm, overrides in self.arms.items():
            folder_name(arm, "grid.arms")
            if not isinstance(overrides, dict) or not OF_THE_GRID.isdisjoint(overrides):
                raise UserError(
                    f"grid.arms.{arm} is {overrides!r}: give dotted overrides such as {{train.optimizer: muon}}, but "
                    f"not of {', '.join(sorted(OF_THE_GRID))}, which the grid sets"
                )


@dataclass(frozen=True)
class CheckConfig:
    """Runs that find the best learning rate over widths and horizons, in shares of the base's own (`check-lr`)."""

    depths: list[Depth]  # sizes to check
    tokens: list[Positive]  # target tokens of a run, one value a horizon
    factors: list[Positive] = field(default_factory=lambda: [0.25, 0.5, 1.0, 2.0, 4.0])  # of the base's learning rate
    seeds: Count = 2  # runs at every rate
    force: bool = False  # take runs below 1,000 steps too

    def __post_init__(self) -> None:
        if not self.depths or not self.tokens:
            raise UserError("check_lr.depths and check_lr.tokens are empty: give one number or more in each")
        if len(set(self.factors)) < 3:
            raise UserError(f"check_lr.factors {self.factors} show no optimum: give three or more different ones")


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
    retries: Tries = 1  # further tries of a point that failed before it got any further
    speed: Flops | None = None  # FLOP/s to estimate hours with, until points of this sweep have been timed
    cap: Flops | None = None  # FLOPs that all points together may spend
    slurm: dict[str, Any] = field(default_factory=dict)  # options of sbatch by their long names, for `run --slurm`

    def __post_init__(self) -> None:
        for key, overrides in {"set": self.set, **{f"points[{i}]": p for i, p in enumerate(self.points)}}.items():
            if "out" in overrides:
                raise UserError(
                    f"{key}.out is {overrides['out']!r}, but a point's run directory is OUT/NAME: give the point a "
                    "`name`, or the sweep another `out`"
                )
        names = [point_name(point) for point in self.points]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UserError(f"two points are named {sorted(twice)[0]!r}: give each its own `name`")


@dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    name: str
    run: Path  # its run directory
    config: Path  # its configuration file
    flops: float  # planned training FLOPs
    params: dict[str, int]  # parameters by part
    tokens: int  # processed
    steps: int
    after: str | None = None  # name of the point whose checkpoint this one goes on from
    spent: float = 0.0  # FLOPs of its own steps; `flops` is the whole path's
    batch: int = 0  # clips a step
    lr: float = 0.0
    arm: str | None = None
    branches: tuple[Path, ...] = ()  # of a trunk: run directories of what starts from it


def load_sweep(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> SweepConfig:
    """The sweep of a YAML file with `key=value` overrides.

    Raises:
        UserError: the file, a key or a value cannot be used.
    """
    sweep = configuration.load(SweepConfig, path, overrides)
    if (sweep.points and sweep.grid) or not (sweep.points or sweep.grid or sweep.check_lr):
        raise UserError(f"{path}: a sweep needs a `grid`, or at least one entry in `points`, and not both")
    return sweep


def point_name(point: dict[str, Any]) -> str:
    """The point's `name`, else its overrides in words; the name of its run directory.

    Raises:
        UserError: it is not one component of a path.
    """
    words = "_".join(f"{key.split('.')[-1]}{value}" for key, value in sorted(point.items()))
    return folder_name(str(point.get("name") or words), "points")


def folder_name(name: str, where: str) -> str:
    """`name`, if a folder of the sweep can be called so.

    Raises:
        UserError: the name is reserved, too long, begins with a dot or holds '/'.
    """
    if not re.fullmatch(r"[^./\x00-\x1f][^/\x00-\x1f]{0,149}", name) or name in RESERVED:
        raise UserError(
            f"{where}: a point cannot be named {name!r}: give a `name` without '/', of at most 150 letters, that does "
            f"not begin with a dot and is none of {', '.join(sorted(RESERVED))}"
        )
    return name


def label(budget: float) -> str:
    """3e14, 1.28e13."""
    return re.sub(r"e\+0*", "e", f"{budget:.4g}")


def planned(sweep: SweepConfig) -> list[Point]:
    """The points as the last `plan` wrote them.

    Raises:
        UserError: nothing was planned yet.
    """
    path = Path(sweep.out) / "plan.jsonl"
    if not path.exists():
        raise UserError(f"{path} is not there: call `python -m scaling plan` first")
    return [point_of_json(json.loads(line)) for line in path.read_text().splitlines()]


def point_of_json(data: dict[str, Any]) -> Point:
    """A point from a line of plan.jsonl."""
    paths = {"run": Path(data["run"]), "config": Path(data["config"])}
    return Point(**data | paths | {"branches": tuple(map(Path, data["branches"]))})
