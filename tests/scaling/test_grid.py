"""A grid end to end: planned, trained as trunks and branches, fitted, predicted, extended, reported."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from made import finished_run

from scaling import dispatch, predict, records, summary
from scaling.__main__ import parser, run
from scaling.grid import Dial, depths, expected_optimum, label
from scaling.plan import Speeds, plan, resolve, table
from scaling.point import GridConfig, OptimumConfig, load_sweep, planned
from scaling.report import law_of, report, strip_of
from scaling.seal import Seal, draw
from scaling.table import read_table
from videowm.arguments import parse_args
from videowm.train.loop import launch
from videowm.types import UserError

ROOT = Path(__file__).parents[2]
GRID = {"budgets": [4e8, 8e8, 1.6e9, 3.2e9], "sizes": [1, 2, 3], "seeds_at_lowest": 2, "force": True}


@pytest.fixture(scope="session")
def grid_file(world_arguments, tmp_path_factory) -> Path:
    """Three sizes of width 32 at four budgets, two seeds at the lowest."""
    folder = tmp_path_factory.mktemp("grid")
    common = {k: yaml.safe_load(v) for k, v in (argument.split("=", 1) for argument in world_arguments)}
    sweep = {
        "base": str(ROOT / "configs/world/quickstart.yaml"),
        "out": str(folder / "out"),
        "grid": GRID,
        "set": common,
        "strip_clips": 1,
        "strip_frames": 8,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return path


@pytest.fixture(scope="session")
def trained(grid_file) -> Path:
    """The grid, each point trained by its own configuration file within this process."""
    points = plan(load_sweep(grid_file))
    for point in points:
        launch(point.config, [])
    return grid_file


def test_the_plan_of_a_grid(grid_file):
    """Guards runs that are missing, doubled, out of order, or that cost other than they spend."""
    points = plan(load_sweep(grid_file))
    names = [point.name for point in points]
    sizes = [(d, s) for d in (1, 2, 3) for s in ("", "-s1")]
    assert sorted(names[:6]) == sorted(f"d{d}-trunk{s}" for d, s in sizes)
    branches = {f"d{d}-{label(c)}" for d in (1, 2, 3) for c in GRID["budgets"]} | {f"d{d}-4e8-s1" for d in (1, 2, 3)}
    assert set(names[6:]) == branches and len(names) == 6 + 15
    for point in points[6:]:
        depth, budget = re.match(r"d(\d)-([0-9.e]+)", point.name).groups()
        assert point.after == f"d{depth}-trunk" + point.name.partition("-s")[1] + point.name.partition("-s")[2]
        assert point.flops == pytest.approx(float(budget), abs=point.flops / point.steps / 2 * 1.001)
        assert 0.2 - 1 / point.steps < point.spent / point.flops <= 0.2 + 1e-9
    separate = load_sweep(grid_file, ["grid.trunks=false"])
    assert sum(p.spent for p in points) < 0.7 * sum(p.spent for p in plan(separate)), "what trunks are for"


def test_a_grid_by_the_rule(grid_file, tmp_path):
    """Guards trunks shared by runs of different batch or rate, and plans that change when a target joins them.

    Batches double where the tokens of a run cross into the next four times; only runs with one batch share a trunk.
    Without trunks every run has the batch of its own tokens.
    """
    data = yaml.safe_load(grid_file.read_text())
    data["set"] |= {"train.lr": "rule", "train.batch": "rule", "train.rule": {"tokens": 4096, "batch": 320}}
    ruled = tmp_path / "ruled.yaml"
    ruled.write_text(yaml.safe_dump(data | {"out": str(tmp_path / "out")}))
    points = plan(load_sweep(ruled, ["grid.seeds_at_lowest=1"]))
    by_name, trunks = {p.name: p for p in points}, {}
    for point in (p for p in points if p.after):
        trunk = by_name[point.after]
        assert (point.batch, point.lr) == (trunk.batch, trunk.lr)
        ratio = point.batch * (point.tokens / point.steps / point.batch) / (320 * (point.tokens / 4096) ** 0.5)
        assert 0.45 < ratio < 2.2 and yaml.safe_load(point.config.read_text())["train"]["batch"] == point.batch
        trunks.setdefault(point.after, set()).add(point.name)
    assert len({p.batch for p in points}) >= 3 and max(map(len, trunks.values())) == 2
    assert re.search(rf"{points[0].name} .* {points[0].batch} +{points[0].lr:.3g} ", table(points, Speeds([], None)))
    target = ["grid.targets=[6e9]", "grid.optimum={tokens_per_parameter: 1}"]
    more = plan(load_sweep(ruled, ["grid.seeds_at_lowest=1", *target]))
    again = {p.name: (p.batch, p.lr, p.after) for p in more}
    assert all(again[p.name] == (p.batch, p.lr, p.after) for p in points)
    for point in plan(load_sweep(ruled, ["grid.trunks=false"])):
        wanted = 320 * (point.tokens / 4096) ** 0.5 * point.steps * point.batch / point.tokens
        assert point.after is None and abs(point.batch - wanted) < 0.6


def test_sizes_stand_around_the_optimum(grid_file):
    """Guards the rule's algebra on exact costs: D/N is the ratio, the budget is spent, sizes span it evenly."""
    dial = Dial.of(resolve(load_sweep(grid_file, ["set.hidden=null"]), {"name": "base"})[1])
    assert dial.n[0] == pytest.approx(12 * 64**2, rel=0.05) and (np.diff(dial.n) > 0).all()
    for depth in (2, 5):
        assert dial.cost(dial.n[depth - 1], 1e6) == pytest.approx(1e6 * dial.per_token[depth - 1])
    rule = OptimumConfig(tokens_per_parameter=40)
    n, d = expected_optimum(rule, 1e15, dial.cost)
    assert d / n == pytest.approx(40) and dial.cost(n, d) == pytest.approx(1e15, rel=1e-6)
    chosen = depths(GridConfig([1e15], optimum=rule, targets=[1e17]), dial, 1e15)
    assert 4 <= len(chosen) <= 5 and dial.n[chosen[0] - 1] < n / 2 and dial.n[chosen[-1] - 1] > 2 * n
    assert len(depths(GridConfig([1e15], optimum=rule, targets=[1e17]), dial, 1e17)) == 1


def test_trained_as_planned_and_fitted_by_trunk(trained, capsys):
    """Guards a plan on another axis than the records, trunks among the fitted, and branches taken for independent."""
    points = plan(load_sweep(trained))
    for point in points:
        record = records.read_record(point.run)
        assert (point.flops, point.spent) == (record.flops["train"], record.flops["spent"])
    found = records.finished(points)
    assert len(found) == 15 and all("heldout/loss" in record.metrics for record in found)
    assert len(np.unique(records.runs_of(found).trunk)) == 6
    run(parser().parse_args(["fit", str(trained), "--form", "power", "--bootstrap", "50"]))
    assert "draws by trunk" in (said := capsys.readouterr().out) and "4 points" in said
    lower = "grid.budgets=[4e8,8e8,1.6e9]"
    run(parse_args(parser(), ["fit", str(trained), "--form", "power", "--bootstrap", "0", lower]))
    assert "3 points" in capsys.readouterr().out


def test_frozen_then_measured(trained, capsys, listed):
    """Guards the whole promise: written before, printed again as it was, no longer held out once a run has been seen.

    The target is then planned as a further budget: the trunk goes on, and the run from it is compared.
    """
    sweep = load_sweep(trained)
    path, said = predict.freeze(sweep, 6e9, form="frontier", draws=50)
    kept = path.read_bytes()
    assert set(json.loads(kept)) == listed("predictions/BUDGET.json")
    assert said.held_out and len(said.runs) == 15 and path.name == "6e9.json" and said.block == "trunk"
    run(parser().parse_args(["predict", str(trained), "--budget", "6e9"]))
    assert f"sha256 {said.sha256[:16]}" in capsys.readouterr().out and path.read_bytes() == kept
    with pytest.raises(UserError, match="not beyond the fitted range"):
        predict.freeze(sweep, 4e9, form="frontier", draws=50)
    larger = load_sweep(trained, ["grid.targets=[6e9]", "grid.optimum={tokens_per_parameter: 1}"])
    drawn = Seal(said.sha256, "c" * 40, None, draw(said.sha256, "c" * 40))
    path.with_suffix(".seal").write_text(json.dumps(vars(drawn)))
    sealed = [yaml.safe_load(p.config.read_text()) for p in plan(larger) if p.name.endswith(f"-s{drawn.seed}")]
    assert len(sealed) == 2, "the target and a trunk of its own"
    assert {(run["seed"], run["prediction"]) for run in sealed} == {(drawn.seed, said.sha256)}
    path.with_suffix(".seal").unlink()
    before = {p.name: p.run for p in plan(sweep)}
    assert {dispatch.state(point) for point in plan(sweep)} == {"done"}
    (target,) = (point for point in plan(larger) if point.name not in before)
    (trunk,) = (point for point in plan(larger) if point.name == target.after)
    assert dispatch.state(trunk) == dispatch.state(target) == "todo", "the trunk has further to go"
    for point in plan(larger):
        launch(point.config, [])
    (row,) = predict.comparison(predict.predictions(larger, "heldout/loss"), records.finished(plan(larger)))
    assert row["measured"].endswith(f"({target.name})") and "% of L" in row["error"]
    assert predict.freeze(larger, 6e9)[1] == said, "the target is not among what it was predicted from"
    assert not predict.freeze(larger, 6.2e9, form="frontier", draws=50)[1].held_out
    folder = Path(larger.out) / "report"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "check-lr.svg").write_text("of an earlier page")
    path, notes = report(larger)
    page = path.read_text()
    assert not [note for note in notes if "could not be made" in note]
    found, frozen = records.finished(plan(larger)), predict.predictions(larger, "heldout/loss")
    law, _ = law_of(found, "heldout/loss", frozen)
    assert law.law.fitted_range["c"][1] < 4e9 and len(found) == 16, "what was predicted is not among what is fitted"
    rows = summary.costs(plan(larger), {})
    assert [row["runs"] for row in rows] == ["6", "3", "3", "3", "1", "6", "22"]
    spent = sum(records.read_record(point.run).flops["spent"] for point in plan(larger))
    assert rows[-1]["FLOPs spent"] == f"{spent:.3g}" and f"<td>{spent:.3g}</td>" in page
    assert (folder / "notes.txt").exists() and not (folder / "check-lr.svg").exists()
    made = {path.name for path in folder.iterdir()}
    assert {"loss.svg", "isoflop.svg", "panels.svg", "strip.mp4", "headline.png", "headline.webp"} <= made
    assert page.count("data:image/png;base64,") == 6 and law.law.form in page
    table = read_table(folder / "points.csv", n="N", d="D", c="C", loss="heldout/loss")
    assert np.array_equal(table.loss, records.runs_of(found).loss) and np.array_equal(table.c, records.runs_of(found).c)
    assert page.count("<td>not run yet</td>") == 0 and f"({target.name})</td>" in page and "-trunk<" not in page


def test_the_strip_shows_the_multiples_that_were_asked_for(trained, tmp_path):
    """Guards six rows where three were asked for, the nearest multiple taken by difference and not by ratio, and a page
    that ends at a run whose model is on another machine."""
    sweep = load_sweep(trained, ["strip_at=[1, 3, 32]", f"out={tmp_path}"])
    best = [finished_run(str(c), flops={"train": c}) for c in (1.0, 2.0, 5.0, 10.0, 32.0)]
    for record in best[:-1]:
        (tmp_path / record.name).mkdir()
        (tmp_path / record.name / "model_index.json").touch()
    assert [record.name for record in strip_of(sweep, best)] == ["1.0", "2.0", "10.0"]
    assert strip_of(replace(sweep, strip_at=[]), best) == best[:-1]


def test_hours_from_what_was_measured(trained):
    """Guards times from another size or from nothing: the FLOP/s of the nearest record, else `speed`, else none."""
    sweep = load_sweep(trained)
    points = plan(sweep)
    point = next(p for p in points if p.name == "d2-1.6e9")
    assert Speeds([(point.params["body"] * 4, 1.0), (point.params["body"] * 1.1, 1e9)], None).hours(point) == (
        pytest.approx(point.spent / 1e9 / 3600)
    )
    assert Speeds([], 1e10).hours(point) == pytest.approx(point.spent / 1e10 / 3600)
    assert Speeds([], None).hours(point) is None and "unknown" in table(points, Speeds([], None))
    assert len(Speeds.of(sweep, points).measured) >= 15 and "unknown" not in table(points, Speeds.of(sweep, points))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["cap=1e9"], "above the cap of 1e+09: raise `cap`"),
        (["grid.force=false"], "steps, fewer than 1,000: give larger budgets"),
        (["grid.sizes=null"], "grid.optimum is missing"),
        (["grid.optimum={}"], "grid.optimum needs one of"),
        (["grid.optimum={law: nowhere.json}", "grid.sizes=null"], "nowhere.json cannot be read"),
        (["grid.budgets=[]"], "grid.budgets is empty"),
        (["points=[{depth: 1}]"], "needs a `grid`, or at least one entry in `points`, and not both"),
        (["grid.budget=[1e9]"], "unknown key 'grid.budget', did you mean 'grid.budgets'"),
    ],
)
def test_a_wrong_grid_is_one_sentence(grid_file, overrides, sentence):
    """Guards compute spent on what was not meant: each is refused before anything is trained."""
    with pytest.raises(UserError, match=re.escape(sentence)):
        plan(load_sweep(grid_file, overrides))


def test_a_trunk_that_nothing_is_left_to_start_from_is_not_trained_again(trained, tmp_path):
    """Records alone, brought to another machine: the budget of all trunks spent once more, or no page of them."""
    sweep = replace(load_sweep(trained), out=str(tmp_path / "moved"))
    for point in plan(load_sweep(trained)):
        if not point.branches:
            (tmp_path / "moved" / point.name).mkdir(parents=True)
            shutil.copy(point.run / "record.json", tmp_path / "moved" / point.name)
    moved = plan(sweep)
    assert {dispatch.state(point) for point in moved} == {"done"} == {dispatch.state(p) for p in planned(sweep)}
    assert "no model to draw with" in report(sweep)[0].read_text()
    one = next(point for point in moved if point.after)
    (one.run / "record.json").unlink()
    assert {p.name for p in moved if dispatch.state(p) == "todo"} == {one.name, one.after}
