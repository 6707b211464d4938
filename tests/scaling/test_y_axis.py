"""Any measured name as the y-axis of a sweep: found beside the record, refused where it does not compare."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from made import finished_run, write_record

from scaling import slurm
from scaling.panels import against_compute, best_of_budgets, metric_names
from scaling.point import SweepConfig
from scaling.records import finished, runs_of
from scaling.report import cut_short, law_of
from scaling.summary import as_csv, data_rows, paired_error, precision, sentences, table_rows
from videowm.metrics import lower_is_better
from videowm.record import Execution
from videowm.train.config import DIVERGED
from videowm.types import UserError

GAP = {"heldout/action_gap": 0.2, "heldout/action_gap_se": 0.1}


@pytest.fixture
def points(tmp_path) -> list[SimpleNamespace]:
    """Four finished and evaluated points, two of each budget; accuracy rises where the loss falls."""
    made = []
    for i, accuracy in enumerate((0.4, 0.5, 0.7, 0.6)):
        run = tmp_path / f"p{i}"
        run.mkdir()
        measured = {"heldout/loss": 1 - accuracy, "heldout/loss_se": 0.01, **GAP}
        write_record(run, params={"body": 10 + i}, flops={"train": 1e12 if i < 2 else 4e12, "spent": 1e11},
                     metrics=measured)  # fmt: skip
        later = {"heldout/loss": 5.0, "control/accuracy": accuracy, "control/accuracy_se": 0.02,
                 "control/accuracy_ceiling": 0.9, "control/accuracy_floor": 0.3, "drift/a_half_life": None,
                 "about": {"starts": "s", "reader": "r"}}  # fmt: skip
        (run / "evaluation.json").write_text(json.dumps(later))
        made.append(SimpleNamespace(name=run.name, run=run, arm=None, branches=()))
    return made


def change(run: Path, **more) -> None:
    path = run / "evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def test_what_was_measured_later_is_found(points):
    """Guards a second number under the name of the record's own, which a law may have been fitted to."""
    records = finished(points)
    assert runs_of(records, "control/accuracy").loss.tolist() == [0.4, 0.5, 0.7, 0.6]
    assert runs_of(records).loss.tolist() == pytest.approx([0.6, 0.5, 0.3, 0.4])


def test_the_best_is_the_highest_where_higher_is_better(points):
    """Guards pictures of the worst models, a law of the loss through accuracies, and a figure that fails on them."""
    records = finished(points)
    for y in ("control/accuracy", "heldout/loss"):
        assert [r.name for r in best_of_budgets(records, y)] == ["p1", "p2"]
    assert "No law is fitted" in law_of(records, "control/accuracy")[1]
    axes = against_compute(records, "control/accuracy").axes[0]
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn["ceiling"] == [0.9, 0.9] and drawn["floor"] == [0.3, 0.3] and [0.5, 0.7] in drawn.values()
    assert metric_names(records) == ["heldout/loss", "control/accuracy"], "bounds and errors have no panel of their own"
    assert lower_is_better("state/error") and lower_is_better("frechet/reader")
    assert not lower_is_better("control/loss_ratio") and not lower_is_better("drift/state_error_area")


def test_what_does_not_compare_is_refused(points):
    """Guards curves over other starts or readers, points never evaluated, and names that hold no number."""
    change(points[2].run, about={"starts": "other", "reader": "r"})
    with pytest.raises(UserError, match="different starts s and other: evaluate all points alike"):
        runs_of(finished(points), "control/accuracy")
    assert len(runs_of(finished(points))) == 4
    assert metric_names(finished(points)) == ["heldout/loss"], "and the page does without its figure"
    with pytest.raises(UserError, match="is None, a y-axis needs a number"):
        runs_of(finished(points), "drift/a_half_life")
    with pytest.raises(UserError, match="did you mean 'control/accuracy'"):
        runs_of(finished(points), "control/acuracy")
    (points[0].run / "evaluation.json").unlink()
    with pytest.raises(UserError, match="p0 has no 'control/accuracy'"):
        runs_of(finished(points), "control/accuracy")
    (points[1].run / "evaluation.json").write_text("{")
    with pytest.raises(UserError, match=r"is damaged \(not JSON\): run videowm evaluate"):
        finished(points)


def test_a_stopped_run_is_shown_and_not_fitted(points):
    """Guards a law through runs that the action gate cut short, and a page or a status that hides them."""
    path = points[1].run / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"stopped": "action gate"}))
    records = finished(points)
    assert [r.name for r in records] == ["p0", "p1", "p2", "p3"] and len(runs_of(records)) == 3
    assert [r.name for r in best_of_budgets(records, "heldout/loss")] == ["p0", "p2"]
    lost = SimpleNamespace(run=path.parents[1] / "lost", flops=2e12, branches=())
    lost.run.mkdir()
    (lost.run / DIVERGED).write_text("")
    done = [SimpleNamespace(run=point.run, flops=0.0, branches=()) for point in points]
    axes = against_compute(records, "heldout/loss", cut=cut_short([*done, lost], records, "heldout/loss")).axes[0]
    crosses = {line.get_label(): (*line.get_xydata()[0], line.get_marker()) for line in axes.lines}
    assert crosses["action gate"] == (1e12, 0.5, "x") and crosses["diverged"] == (2e12, 0.98, "x")
    assert {"action gate", "diverged"} <= {text.get_text() for text in axes.get_legend().texts}
    states = slurm.states(points, SweepConfig(base="", out=str(points[0].run.parent)))
    assert list(states.values()) == ["done", "stopped by its action gate", "done", "done"]


def test_arms_have_lines_of_their_own(points):
    """Guards one line through the best of all arms, which no arm is."""
    for i, point in enumerate(points):
        point.arm = "ab"[i % 2]
    figure = against_compute(finished(points), "heldout/loss")
    lines = [list(line.get_ydata()) for line in figure.axes[0].lines if line.get_alpha()]
    assert lines == [pytest.approx([0.6, 0.3]), pytest.approx([0.5, 0.4])]
    assert {text.get_text() for text in figure.axes[0].get_legend().texts} == {"a", "b"}


def test_a_page_of_runs_without_rollouts(points):
    """Guards `rollout.clips: 0`, which measures no PSNR: the sentences and the table then do without it.

    One run with two frames of it has its columns, empty for the others.
    """
    records = finished(points)
    said = sentences(records, "heldout/loss", {record.name: record.name for record in records})
    assert len(said) == 2 and "4 times the training compute" in said[0] and "2 standard errors" in said[1]
    assert not [name for row in table_rows(records) for name in row if "PSNR" in name]
    records[2] = replace(records[2], metrics=records[2].metrics | {"rollout/psnr": [20.0, 19.0]})
    records[1] = replace(records[1], stopped="action gate")
    rows = table_rows(records)
    assert [row["PSNR +1"] for row in rows] == ["", "", "20.00", ""] and rows[1]["point"] == "p1 (stopped)"
    lines = as_csv(data_rows(records)).splitlines()
    assert len(lines) == 5 and "control/accuracy_floor" in lines[0].split(",") and "0.02" in lines[1].split(",")


def test_how_precise_a_study_is():
    """Guards a scatter of seeds that holds the difference between sizes too, and an error that forgets the pairing."""
    rng, losses = np.random.default_rng(0), {}
    records = []
    for depth, level in ((1, 0.5), (2, 0.3)):
        for seed in range(200):
            losses[depth] = level * np.exp(0.01 * rng.standard_normal())
            records.append(finished_run(depth=depth, seed=seed, metrics={"heldout/loss": losses[depth]}))
    (said,) = precision(records, records[-1:])
    scatter = float(re.search(r"scatter by ([0-9.]+)%", said)[1])
    assert 0.9 < scatter < 1.1 and "(400 runs of 2 sizes and budgets)" in said
    hard = rng.lognormal(size=300)  # some episodes are ten times as hard as others, for every model
    one, other = 2 * hard, hard * np.exp(0.02 * rng.standard_normal(300))
    expected = 0.02 * np.sqrt((other**2).sum()) / other.sum()  # of a ratio whose noise is each episode's own
    assert paired_error(list(one), list(other)) == pytest.approx(expected, rel=0.1)
    best = [replace(r, metrics=r.metrics | {"heldout/loss_by_episode": list(x)}) for r, x in zip(records, (one, other))]
    assert f"± {paired_error(list(one), list(other)):.2%}" in precision([], best)[0]
    best[1] = replace(best[1], hashes={"bank": "another"})
    assert precision([], best) == []


def test_a_number_without_an_error_has_none_on_the_page(points):
    """Guards a page that divides by an error nobody knows: with one held-out episode it is null, and once was 0."""
    for error in (None, 0.0):
        for point in points:
            metrics = {"heldout/loss": 0.5, "heldout/loss_se": error, "heldout/action_gap": 0.2,
                       "heldout/action_gap_se": error, "rollout/psnr": [20.0], "rollout/psnr_mean": 20.0,
                       "rollout/psnr_se": error, "rollout/lead": 1.5, "rollout/lead_se": error}  # fmt: skip
            write_record(point.run, metrics=metrics)
        records = finished(points)
        lines = sentences(records, "heldout/loss", {record.name: record.name for record in records})
        assert lines[-1].endswith("is 0.2000 higher.") and "1.50" in lines[1]
        if error is None:
            assert "±" not in " ".join(lines) and table_rows(records)[0]["loss"] == "0.5000"
        assert against_compute(records, "rollout/psnr_mean") and as_csv(data_rows(records))


def test_a_branch_of_another_precision_is_no_run(points):
    """Guards a trunk in bf16 and its branch in fp32 fitted as one run. Old records, which do not say, still read."""
    for point, kind in zip(points, ("bf16", "fp32"), strict=False):
        trunk = {"trunk": "p0"} if point.name == "p1" else {"role": "trunk"}
        write_record(point.run, execution=Execution(kind), **trunk)
    with pytest.raises(UserError, match="p1 was trained in fp32 and its trunk p0 in bf16"):
        finished(points)
    write_record(points[0].run, role="trunk")
    assert [record.name for record in finished(points)] == ["p1", "p2", "p3"]
