"""What a run says of its speed."""

from __future__ import annotations

import json

import pytest
import torch

from videowm.record import RunRecord
from videowm.train import meter as metering
from videowm.train.meter import WARMUP, Meter, Span, in_words

RATES = {"samples_per_second", "tokens_per_second", "mfu", "wait", "memory_gib"}


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves on."""

    class Clock:
        now = 0.0

        def perf_counter(self) -> float:
            return self.now

    monkeypatch.setattr(metering, "time", clock := Clock())
    return clock


def test_rates_are_of_steady_steps(clock):
    """Guards compilation, checkpoints and evaluation in the rates: steps of 2 s, 0.5 s of it waiting, and all else.

    Every first step takes 50 s, and every checkpoint 1,000 s, so that one of them counted would show.
    """

    def batches():
        for step in range(WARMUP + 4):
            clock.now += 10 if step < WARMUP else 0.5
            yield step

    meter = Meter(torch.device("cpu"), 1, samples=8, tokens=80, flops=None)
    for step in meter.batches(batches()):
        clock.now += 40 if step < WARMUP else 1.5
        meter.step()
        if step in (0, WARMUP, WARMUP + 1):
            clock.now += 1000
            meter.leave_out()
        if step == WARMUP - 1:
            assert {k for k, v in meter.read().items() if v is not None} == {"memory_gib"}
        if step == WARMUP + 1:
            steady = meter.read()
            assert steady["wait"] == 0.25 and steady["samples_per_second"] == 4 and steady["tokens_per_second"] == 40
    assert meter.since == Span(2, 4.0, 1.0) and meter.whole == Span(4, 8.0, 2.0)


def test_mfu_needs_a_known_device():
    """Guards a share of nothing: on a CPU there is no peak, and without tokens there are none a second."""
    rates = Meter(torch.device("cpu"), 1, samples=8, tokens=None, flops=1e9).rates(Span(2, 4.0, 0.0))
    assert rates["mfu"] is None and rates["tokens_per_second"] is None
    assert rates["samples_per_second"] == 4 and rates["wait"] == 0 and rates["memory_gib"] > 0.01


def test_every_run_says_them(world_run):
    """Guards rates that are missing: of four steps the fourth is steady, in metrics.jsonl and in the record alike."""
    rows = [json.loads(line) for line in (world_run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    record = json.loads((world_run / "record.json").read_text())
    assert all(row.keys() >= RATES for row in [*rows, record])
    assert [row["tokens_per_second"] is None for row in rows] == [True, True, True, False]
    assert record["tokens_per_second"] == rows[3]["tokens_per_second"] > 0 and record["mfu"] is None
    assert rows[3]["tokens_per_second"] == pytest.approx(rows[3]["samples_per_second"] * 5 * 16)  # window and tokens
    assert 0 <= record["wait"] < 1 and record["memory_gib"] > 0.1
    words = in_words(RunRecord.read(world_run))
    assert words.startswith("world: 4 steps in") and " tokens/s, " in words


def test_speed_outlives_a_kill(world_run, stopped, train_world, capsys):
    """Guards a record without a speed when the run was stopped while it was evaluated: it comes from the checkpoint."""
    out = stopped(4)
    record = train_world(out, "train.save_every=1", "train.keep=9", "train.ema=0.5")
    assert record["wait"] == json.loads((world_run / "record.json").read_text())["wait"]
    assert in_words(RunRecord.from_json(record)) in capsys.readouterr().out
