"""From a sweep file to points: which runs, their exact compute, and one configuration file each."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from videowm import config as configuration
from videowm.types import UserError


@dataclass(frozen=True)
class SweepConfig:
    """A sweep: a base configuration and the points that differ from it."""

    base: str  # configuration of a `task: world` run
    out: str  # sweep directory; every point gets a run directory in it
    points: list[dict[str, Any]]  # dotted overrides of each point, and its optional `name`
    set: dict[str, Any] = field(default_factory=dict)  # dotted overrides of all points
    title: str = "Quality against compute"
    strip_clips: int = 4  # starts shown in the report's strip
    strip_frames: int = 48  # frames each of them is rolled out
    retries: int = 1  # further tries of a point that failed


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


def load_sweep(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> SweepConfig:
    sweep = configuration.load(SweepConfig, path, overrides)
    names = [point_name(point) for point in sweep.points]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{path}: two points are named {sorted(twice)[0]!r}: give each its own `name`")
    if not names:
        raise UserError(f"{path}: a sweep needs at least one entry in `points`")
    return sweep


def point_name(point: dict[str, Any]) -> str:
    """The point's `name`, else its overrides in words."""
    return str(point.get("name") or "_".join(f"{k.split('.')[-1]}{v}" for k, v in sorted(point.items())))


def plan(sweep: SweepConfig) -> list[Point]:
    """Resolve every point, write its configuration file and plan.jsonl; the latents must exist."""
    from videowm.train.flops import model_flops, parameters
    from videowm.train.tasks import TASKS, meta_model, with_steps

    out, points = Path(sweep.out), []
    for overrides in sweep.points:
        name = point_name(overrides)
        data = configuration.read(sweep.base)
        if data.get("task") != "world":
            raise UserError(f"{sweep.base}: a sweep's base must be a `task: world` configuration")
        differs = {**sweep.set, **{k: v for k, v in overrides.items() if k != "name"}, "out": str(out / name)}
        for key, value in differs.items():
            configuration.apply_override(data, f"{key}={json.dumps(value)}")
        run = with_steps(configuration.build(TASKS["world"], data, where=f"point {name}"))
        model = meta_model(run)
        samples = run.train.steps * run.train.batch
        path = out / "plan" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, yaml.safe_dump(data, sort_keys=False))
        points.append(Point(name, out / name, path, 3.0 * model_flops(model, run.window) * samples, parameters(model),
                            samples * run.window * model.tokens, run.train.steps))  # fmt: skip
    write_whole(out / "plan.jsonl", "".join(json.dumps(configuration.to_dict(point)) + "\n" for point in points))
    return points


def write_whole(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text)
    os.replace(aside, path)


def table(points: list[Point]) -> str:
    """The plan as a person reads it."""
    rows = [f"{'point':16s} {'FLOPs':>10s} {'N body':>10s} {'tokens':>10s} {'steps':>8s}"]
    for p in points:
        rows.append(f"{p.name:16s} {p.flops:10.3g} {p.params['body']:10.3g} {p.tokens:10.3g} {p.steps:8d}")
    rows.append(f"{'total':16s} {sum(p.flops for p in points):10.3g}")
    return "\n".join(rows)
