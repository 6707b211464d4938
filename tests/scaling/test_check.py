"""The learning-rate check: a planted optimum is found, a moved one is refused, and real runs go through it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from made import write_record

from scaling import check
from scaling.__main__ import main
from scaling.plan import plan
from scaling.point import FEWEST_STEPS, CheckConfig, load_sweep
from videowm.train.config import DIVERGED
from videowm.train.loop import launch
from videowm.types import UserError

ROOT = Path(__file__).parents[2]
CHECK = {"depths": [1, 2, 4], "tokens": [2e5, 8e5], "seeds": 2, "force": True}


@pytest.fixture(scope="session")
def check_file(world_arguments, tmp_path_factory) -> Path:
    """A sweep whose check has three depths and two horizons, of tiny clips, by the rule."""
    folder = tmp_path_factory.mktemp("check")
    common = {k: yaml.safe_load(v) for k, v in (argument.split("=", 1) for argument in world_arguments)}
    sweep = {
        "base": str(ROOT / "configs/world/quickstart.yaml"),
        "out": str(folder / "out"),
        "set": common | {"hidden": None, "train.lr": "rule", "train.batch": "rule", "train.parametrisation": "mup"},
        "check_lr": CHECK,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return path


def planted(sweep, best_at, diverged=(), stopped=()) -> list:
    """Write records of all points whose loss is a parabola in ln lr with its lowest at the factor `best_at(depth, D)`,
    with a little noise by seed; the points named in `diverged` and `stopped` end as such runs do."""
    points = plan(sweep)
    for i, point in enumerate(points):
        depth, horizon, factor = (float(part[1:]) for part in point.name.split("-")[1:4])
        point.run.mkdir(parents=True, exist_ok=True)
        if point.name in diverged:
            (point.run / DIVERGED).write_text("{}")
            continue
        noise = 1e-4 * np.random.default_rng(i).normal()
        loss = 0.5 + 0.01 * np.log(factor / best_at(depth, horizon)) ** 2 + noise
        halted = {"stopped": "action gate", "metrics": {"heldout/loss": 0.1}} if point.name in stopped else {}
        planned = {"steps": point.steps, "batch": point.batch, "lr": point.lr, "seed": int("-s1" in point.name)}
        write_record(point.run, **{"metrics": {"heldout/loss": loss}} | planned | halted)
    return points


def test_the_plan_of_a_check(check_file):
    """Guards runs whose factor, seed, horizon or batch is not what their name says, and rollouts nobody looks at."""
    points = plan(check.check_sweep(load_sweep(check_file)))
    assert len(points) == 3 * 2 * 5 * 2 and {p.run.parent.name for p in points} == {"check-lr"}
    by_name = {p.name: p for p in points}
    one, twice = by_name["lr-d4-D1-x1"], by_name["lr-d4-D4-x2-s1"]
    assert twice.batch == 2 * one.batch and twice.lr == pytest.approx(2 * one.lr * 4**-0.0453, rel=1e-3)
    assert one.tokens == pytest.approx(2e5, rel=0.01) and twice.tokens == pytest.approx(8e5, rel=0.01)
    config = yaml.safe_load(twice.config.read_text())
    assert config["seed"] == 1 and config["rollout"]["clips"] == 0
    assert by_name["lr-d1-D1-x0.25"].lr == pytest.approx(one.lr / 4), "µP: the same at every width"
    sweep = load_sweep(check_file, ["check_lr.force=false"])
    with pytest.raises(UserError, match=f"fewer than {FEWEST_STEPS:,}"):
        plan(check.check_sweep(sweep))
    with pytest.raises(UserError, match="no runs of its own"):
        plan(sweep)


def test_a_planted_optimum_is_found(check_file, tmp_path, capsys):
    """Guards a vertex in lr instead of ln lr, seeds taken for factors, and diverged runs that raise or are lost."""
    arguments = ["check-lr", str(check_file), f"out={tmp_path}"]
    sweep = check.check_sweep(load_sweep(check_file, arguments[2:]))
    points = planted(sweep, lambda depth, horizon: 1.3, diverged=("lr-d4-D4-x4", "lr-d4-D4-x4-s1", "lr-d2-D1-x4-s1"))
    assert check.todo(sweep)[1] == []
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0 and "passes" in capsys.readouterr().out
    said = json.loads((tmp_path / "check-lr/check-lr.json").read_text())
    assert [row["best_factor"] for row in said["curves"]] == pytest.approx([1.3] * 6, rel=0.03)
    assert all(low <= row["best_factor"] <= high for row in said["curves"] for low, high in [row["interval"]])
    assert [row["losses"][4] for row in said["curves"]].count([None, None]) == 1
    assert said["curves"][5]["width"] == 256 and said["moves"] < 0.1
    assert (tmp_path / "check-lr/check-lr.png").stat().st_size > 10_000
    (points[0].run / "record.json").unlink()
    with pytest.raises(UserError, match="1 of 60 points"):
        check.curves(sweep.check_lr, points)


def test_a_stopped_run_is_no_loss(check_file, tmp_path):
    """Guards the loss of a run that the action gate stopped early: read as any other, the lowest is the best rate."""
    sweep = check.check_sweep(load_sweep(check_file, [f"out={tmp_path}"]))
    planted(sweep, lambda depth, horizon: 1.3, stopped=("lr-d2-D1-x0.25", "lr-d2-D1-x0.25-s1"))
    said = check.read(sweep, check.todo(sweep)[0])
    row = next(row for row in said.curves if row.depth == 2 and row.tokens == 2e5)
    assert said.passes and row.losses[0] == [None, None] and row.stopped == 2
    assert row.best_factor == pytest.approx(1.3, rel=0.03)
    assert str(said).count("  2 stopped by the action gate") == 1 and "diverged" not in str(said)
    assert check.Verdict.read(tmp_path / "check-lr/check-lr.json") == said


@pytest.mark.parametrize(
    ("best_at", "passes"),
    [
        (lambda depth, horizon: (depth / 2) ** -0.45, True),  # 0.9 notches over 4 times the width
        (lambda depth, horizon: (depth / 2) ** -0.6, False),  # 1.2
        (lambda depth, horizon: 0.5 if horizon == 4 else 1.05, False),  # the horizon alone moves it
        (lambda depth, horizon: 4.4, False),  # the best may lie outside
    ],
)
def test_an_optimum_that_moves_fails(check_file, tmp_path, best_at, passes):
    """Guards a check that passes whatever happens: widths, horizons and the ends of the factors each count."""
    sweep = check.check_sweep(load_sweep(check_file, [f"out={tmp_path}"]))
    assert check.read(sweep, planted(sweep, best_at)).passes is passes


def test_best_of_few():
    """Guards fits through infinite losses, and a best rate that was measured to be worse than another."""
    factors, inf = np.array([0.25, 0.5, 1.0, 2.0, 4.0]), np.inf
    assert check.best(factors, np.array([3.0, 2.0, inf, inf, inf])) == (0.5, False)
    assert check.best(factors, np.array([inf, inf, inf, 2.0, 1.0])) == (4.0, True)
    assert check.best(factors, np.array([1.0, 9.0, 9.0, 9.0, 9.0]))[1]
    skewed = np.array([0.717, 0.690, 0.676, 0.665, 0.699])  # seen: the three lowest losses' parabola is best beyond 4
    for order in (np.arange(5), np.array([3, 0, 4, 1, 2])):
        factor, edge = check.best(factors[order], skewed[order])
        assert 1.5 < factor < 2 and not edge
    flat = check.judge(CheckConfig([1], [1.0], seeds=1), [check.RateCurve(1, 64, 1.0, 1, 1.0, [[0.5]] * 5)])
    assert flat.curves[0].edge and not flat.passes, "no optimum is to be seen"
    assert flat.moves_interval is flat.curves[0].interval is None, "one seed says nothing of others"
    assert "nan" not in str(flat) and "[" not in str(flat)


def test_real_runs(check_file, tmp_path, capsys):
    """Guards the way through plan, training and records; one run at a rate that is none, so its gradient overflows."""
    overrides = [f"out={tmp_path}", "check_lr.depths=[1,2]", "check_lr.tokens=[6e3]", "check_lr.seeds=1",
                 "check_lr.factors=[0.5,1,1e12]", "set.hidden=32"]  # fmt: skip
    sweep = check.check_sweep(load_sweep(check_file, overrides))
    points = plan(sweep)
    assert len(points) == 2 * 3
    for point in points:
        if point.name.endswith("e+12"):
            with pytest.raises(UserError, match="is not finite"):
                launch(point.config, [])
        else:
            launch(point.config, [])
    with pytest.raises(SystemExit):
        main(["check-lr", str(check_file), *overrides])
    said = capsys.readouterr().out
    assert said.count("1 diverged") == 2 and "allowed" in said
