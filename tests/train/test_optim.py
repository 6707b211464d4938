"""Learning rate, decay and average, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from videowm.dit import DiT
from videowm.train.config import TrainConfig
from videowm.train.optim import Average, Guard, make_optimizer, parameter_groups, wsd


def test_schedule_by_hand():
    """Guards off-by-ones at both corners: 10 steps, 20 % up (rise 2: 1/3, 2/3), flat, 40 % down as 1 - sqrt(i / 5)."""
    got = [wsd(step, 10, 0.2, 0.4) for step in range(10)]
    falling = [1 - math.sqrt(i / 5) for i in (1, 2, 3, 4)]
    assert got == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, *falling], abs=1e-12)


def test_schedule_moves_with_the_run():
    """Guards a schedule in steps instead of fractions: never 0, and the same shape for a run ten times as long."""
    assert [wsd(s, 5, 0, 0) for s in range(5)] == [1] * 5
    assert all(0 < wsd(s, steps, 0.1, 0.2) <= 1 for steps in (1, 2, 7, 100) for s in range(steps))
    assert wsd(95, 100, 0.1, 0.2) == pytest.approx(wsd(959, 1000, 0.1, 0.2), abs=0.02)


def test_average_by_hand():
    """Guards the average's length and start: 4 steps are a weight of 1/4, from the first weights 0 to 1, 1 and 2."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average, values = Average(model, 4), []
    for weight in (1.0, 1.0, 2.0):
        torch.nn.init.constant_(model.weight, weight)
        average.update(model)
        values.append(average.values["weight"].item())
    assert values == pytest.approx([0.25, 0.4375, 0.828125])
    assert Average(model, 0.3).weight == 1, "shorter than a step is the weights themselves"


def test_only_matrices_decay():
    """Guards decayed biases and gains: without a gradient a step of AdamW moves what decays, and nothing else."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    for parameter in model.parameters():
        torch.nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    make_optimizer(model, TrainConfig(lr=0.1, weight_decay=0.5)).step()
    moved = {name: p.unique().tolist() for name, p in model.named_parameters()}
    assert moved.pop("0.weight") == pytest.approx([0.95])
    assert set(moved) == {"0.bias", "1.weight", "1.bias"} and all(v == [1.0] for v in moved.values())


def test_gains_of_a_text_do_not_decay():
    """Guards gains of cross-attention that decay because they are two-dimensional, and moments that change places.

    Without decay the groups are those of before: a checkpoint's moments go by the parameters' order in them.
    """
    shape = {"features": None, "length": 16, "into": "cross"}
    model = DiT(2, 3, 4, 4, 5, hidden=32, heads=2, text=shape)
    gains = [p for name, p in model.named_parameters() if name.endswith("gains") and p.ndim == 2]
    assert len(gains) == 1
    decay = {
        id(p): g["weight_decay"] for g in parameter_groups(model, TrainConfig(weight_decay=0.5)) for p in g["params"]
    }
    assert decay[id(gains[0])] == 0 and decay[id(model.text_condition.keys_values.weight)] == 0.5
    by_shape = [p for still in (False, True) for p in model.parameters() if (p.ndim < 2) is still]
    order = [p for group in parameter_groups(model, TrainConfig()) for p in group["params"]]
    assert len(order) == len(by_shape) and all(a is b for a, b in zip(order, by_shape))


def test_an_update_that_is_not_finite_is_left_out_on_the_device():
    """Guards weights and moments after a gradient that is not a number, and a later finite one that moves them again.

    Before it, updates are those of AdamW without a guard, to the bit; it is the third, and told only when asked.
    """
    weight, plain = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    guarded, other = (torch.optim.AdamW([p], lr=0.1, fused=True) for p in (weight, plain))
    guard = Guard(guarded, torch.device("cpu"))
    for value in (1.0, 0.5, float("inf"), 2.0):
        weight.grad = torch.full((3,), value)
        guard.see(weight.grad.norm())
        guarded.step()
        if value <= 1:
            plain.grad = torch.full((3,), value)
            other.step()
            assert guard.failed() is None and torch.equal(weight, plain)
    assert guard.failed() == (2, float("inf")) and torch.equal(weight, plain)
    assert all(torch.equal(guarded.state[weight][k], v) for k, v in other.state[plain].items())
