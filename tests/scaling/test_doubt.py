"""Tables with a fault: each is named by its row, and no law comes of it that says nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from scaling import predict
from scaling.combine import Combined
from scaling.doubt import doubted
from scaling.law import Runs, evaluate
from scaling.table import read_table
from videowm.types import UserError

STUDY = Path(__file__).parents[2] / "benchmarks/studies/takecover/points.csv"
EPOCH = Path(__file__).parent / "data/epoch_chinchilla_svg_extracted_data.csv"
TAKECOVER = read_table(STUDY, n="N", d="D", c="C", loss="heldout/loss")
ROW = some.integers(0, len(TAKECOVER) - 1)
LITTLE = settings(
    max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


def changed(row: int, **times: float) -> Runs:
    """TakeCover's runs with columns of one row multiplied."""
    columns = {name: getattr(TAKECOVER, name).copy() for name in times}
    for name, factor in times.items():
        columns[name][row] *= factor
    return replace(TAKECOVER, **columns)


@LITTLE
@given(ROW, some.sampled_from(["n", "d", "c", "loss"]), some.sampled_from([1e-6, 1e-3, 1e3, 1e6]))
def test_a_wrong_unit_is_named_with_its_row(row, column, factor):
    """Guards one N in millions, which predicted half of the loss, one D in billions, which predicted 0, and one C wrong
    by 1e12, which nobody saw. The rows that are left are exactly the others."""
    kept, doubts = doubted(changed(row, **{column: factor}))
    assert [doubt.row for doubt in doubts] == [row] and f"row {row + 1} is left out" in str(doubts[0])
    assert (kept.loss == np.delete(TAKECOVER.loss, row)).all() and kept.dropped == 1


@LITTLE
@given(ROW, some.floats(3, 20), some.integers(1, 40))
def test_copies_and_a_diverged_run_are_named(row, times, copies):
    """Guards intervals that shrink because rows were pasted twice, and one loss x10 that a fit calls converged."""
    runs = changed(row, loss=times)
    again = np.concatenate([np.arange(len(runs)), np.full(copies, (row + 1) % len(runs))])
    table = Runs(runs.n[again], runs.d[again], runs.c[again], runs.loss[again])
    kept, doubts = doubted(table)
    assert {doubt.kind for doubt in doubts} == {"copy", "outlier"} and len(doubts) == copies + 1
    assert (kept.loss == np.delete(TAKECOVER.loss, row)).all()


def test_a_sound_table_is_left_alone():
    """Guards a doubt that costs runs: not one of TakeCover's 24 is doubted, nor of Chinchilla's 240."""
    assert doubted(TAKECOVER)[1] == []
    assert doubted(read_table(EPOCH, n="Model Size", c="Training FLOP", drop_highest=5))[1] == []
    flops = TAKECOVER.c * np.where(np.arange(len(TAKECOVER)) < 8, 1e6, 1)
    with pytest.raises(UserError, match="8 of 24 rows do not fit the rest"):
        doubted(replace(TAKECOVER, c=flops))


@LITTLE
@given(some.data())
def test_a_forecast_is_finite_and_has_a_width(data):
    """Guards NaN, infinity and a width of 0 in a frozen file: whatever the table, it is a sentence or a prediction."""
    count = data.draw(some.integers(1, 10))
    draw = lambda low, high: np.array(data.draw(some.lists(some.floats(low, high), min_size=count, max_size=count)))  # noqa: E731
    n, c = np.exp(draw(10, 20)), np.exp(draw(30, 38))
    loss = data.draw(some.sampled_from([np.full(count, 0.5), 0.2 + (c / 1e13) ** -0.3, draw(0.1, 3)]))
    try:
        said = predict.forecast(
            Runs(n, c / (6 * n), c, loss), 30 * c.max(), "combined", lambda n, d: 6 * n * d, draws=8
        )
    except UserError as error:
        assert "Traceback" not in str(error)
    else:
        assert np.isfinite([said.loss, *said.interval]).all() and said.interval[0] < said.loss < said.interval[1]


def test_one_trunk_has_no_scatter():
    """Guards a combined interval from runs that share all of their luck."""
    c = np.repeat(3.2e14 * 3.16 ** np.arange(4), 5)
    n = np.sqrt(c / 120) * np.tile(np.geomspace(0.25, 4, 5), 4)
    truth = {"E": 0.5, "A": 2.7195883, "B": 2.6598515, "alpha": 0.35, "beta": 0.25}
    runs = Runs(n, c / (6 * n), c, evaluate("surface", truth, n, c / (6 * n), None), trunk=np.full(20, "t"))
    with pytest.raises(UserError, match="share one trunk"):
        Combined.of(runs, draws=5)
