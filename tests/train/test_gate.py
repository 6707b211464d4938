"""The action gate: when it looks, what it lets through, and what a stopped run's record says."""

from __future__ import annotations

import pytest

from videowm import config as configuration
from videowm.record import RunRecord
from videowm.train.config import GateConfig
from videowm.train.gate import cut_short, judge
from videowm.types import UserError


@pytest.mark.parametrize(("gap", "error", "passed"), [(0.4, 0.1, True), (0.2, 0.1, False), (-0.4, 0.1, False),
                                                       (0.0, 0.0, False), (0.1, 0.0, True)])  # fmt: skip
def test_three_standard_errors(gap, error, passed):
    """Guards a run let through by noise, or because shuffled actions lower the loss; and one without any spread."""
    verdict = judge({"heldout/action_gap": gap, "heldout/action_gap_se": error}, 100, GateConfig())
    assert verdict.passed is passed and ("not yet obeyed" in verdict.sentence) is not passed
    assert "step 100" in verdict.sentence


@pytest.mark.parametrize("error", [float("nan"), None])
def test_an_unknown_error_never_passes(error):
    """Guards a gate that lets through a gap of 1e-9, or of 5, where one held-out episode leaves its error unknown."""
    for gap in (1e-9, 5.0):
        verdict = judge({"heldout/action_gap": gap, "heldout/action_gap_se": error}, 100, GateConfig())
        assert not verdict.passed and "hold out two episodes" in verdict.sentence and "nan" not in verdict.sentence


def test_when_it_looks():
    """Guards a look before the first step, or after the last."""
    assert [GateConfig().step(n) for n in (1, 4, 1000)] == [1, 1, 100] and GateConfig(after=1).step(7) == 7
    for wrong in ({"after": 0.0}, {"after": 1.5}, {"errors": -1.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            configuration.check(GateConfig(**wrong))


def test_a_stopped_run_counts_what_it_did():
    """Guards planned FLOPs and tokens in the record of a run that was stopped, and a record changed in place."""
    record = RunRecord("r", 0, 1000, 8, 0.1, 1.0, "CPU", {}, {}, flops={"train": 5000, "spent": 5000, "encode": None},
                       tokens={"target": 2000, "processed": 3000}, frames={"seen": 4000, "unique": 900})  # fmt: skip
    short = cut_short(record, 100)
    assert short.steps == 100 and short.flops == {"train": 500, "spent": 500, "encode": None}
    assert short.tokens == {"target": 200, "processed": 300} and short.frames == {"seen": 400, "unique": 400}
    assert short.planned["flops/train"] == 5000 and short.stopped and record.steps == 1000
    assert record.flops["train"] == 5000
    branch = cut_short(record, 500, began=400)
    assert branch.flops == {"train": 2500, "spent": 500, "encode": None}
    with pytest.raises(ValueError, match="cannot have been done"):
        cut_short(record, 400, began=400)
