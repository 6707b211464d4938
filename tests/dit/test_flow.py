"""The straight path between data and noise, its levels and its sampler, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from videowm import config as configuration
from videowm.dit import flow
from videowm.dit.sample import METHODS, Sampler, schedule
from videowm.types import UserError


def test_ends_and_slope_of_the_path():
    """Guards a sign or an end mixed up: level 0 is data, 1 is noise, the slope is the velocity, and it points back."""
    data, noise = torch.randn(2, 2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    level = torch.tensor([[0.0, 1.0, 0.25], [0.5, 0.0, 1.0]], dtype=torch.float64)
    x = flow.noised(data, noise, level)
    assert torch.equal(x[0, 0], data[0, 0]) and torch.equal(x[0, 1], noise[0, 1])
    torch.testing.assert_close(x[0, 2], 0.75 * data[0, 2] + 0.25 * noise[0, 2])
    slope = (flow.noised(data, noise, level + 1e-6) - x) / 1e-6
    torch.testing.assert_close(slope, flow.velocity(data, noise), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(x - level[..., None, None, None] * flow.velocity(data, noise), data)


def test_one_euler_step_along_the_true_velocity_arrives():
    """Guards the sampler's sign: the true velocity is constant, so any number of steps ends exactly on the data."""
    data, noise = torch.randn(2, 1, 1, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    for steps in (1, 7):
        out = METHODS["euler"](lambda x, i: flow.velocity(data, noise), noise, schedule(steps).tolist())
        torch.testing.assert_close(out, data, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(("method", "gain"), [("euler", 2), ("heun", 4)])
def test_the_error_falls_with_the_order(shift, method, gain):
    """Guards a sampler of a lower order, and a step from the wrong end: against dx/dlevel = x cos(level), solved.

    Twice the steps must halve Euler's error and quarter Heun's, four times in a row.
    """
    start = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    exact = math.exp(-math.sin(1.0))
    errors = []
    for steps in (64, 128, 256, 512):
        levels = schedule(steps, shift).double().tolist()
        out = METHODS[method](lambda x, i, at=levels: x * math.cos(at[i]), start, levels)
        errors.append(abs(out.item() - exact))
    ratios = [a / b for a, b in zip(errors[:-1], errors[1:], strict=True)]
    assert all(0.95 * gain < ratio < 1.05 * gain for ratio in ratios), ratios


@pytest.mark.parametrize(("method", "expected"), [("euler", [0, 1, 2, 3]), ("heun", [0, 1, 1, 2, 2, 3, 3])])
def test_where_the_network_is_asked(method, expected):
    """Guards evaluations at clean data, where the noise cannot be known, and levels left out or asked twice."""
    seen = []
    METHODS[method](lambda x, i: seen.append(i) or torch.zeros_like(x), torch.zeros(1), schedule(4).tolist())
    assert seen == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"steps": 0}, "steps: 0 is out of range"),
        ({"levels": [1.0, 0.5, 0.7, 0.0]}, "levels must fall from 1 to 0"),
        ({"levels": [0.9, 0.0]}, "levels must fall from 1 to 0"),
        ({"levels": [1.0]}, "levels must fall from 1 to 0"),
        ({"context_level": 1.5}, "context_level: 1.5 is out of range"),
        ({"sinks": -1}, "sinks: -1 is out of range"),
    ],
)
def test_samplers_that_cannot_be(settings, expected):
    """Guards noise shown as a prediction, and schedules that end somewhere else than at clean data."""
    with pytest.raises(UserError, match=expected):
        configuration.check(Sampler(**settings))


@pytest.mark.parametrize("shift", [1.0, 2.0, 0.5])
def test_schedule(shift):
    """Guards the ends and SD3's shift: exactly 1 and 0, falling, and the middle of two steps is shift / (1 + shift)."""
    levels = schedule(2, shift)
    assert levels[0] == 1 and levels[2] == 0 and levels.dtype == torch.float32
    assert levels[1].item() == pytest.approx(shift / (1 + shift), rel=1e-6)
    assert (schedule(50, shift).diff() < 0).all() and len(schedule(50, shift)) == 51


def test_the_shift_is_that_of_the_diffusers_scheduler():
    """Guards a pipeline folder whose scheduler says something else than what is sampled with."""
    import numpy as np
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=2.5)
    theirs.set_timesteps(sigmas=np.linspace(1, 0, 9)[:-1])
    torch.testing.assert_close(theirs.sigmas, schedule(8, 2.5), rtol=1e-6, atol=1e-6)


def test_training_levels_by_hand():
    """Guards the logit-normal: the median draw is sigmoid(location), a draw one deviation up adds `scale` within it.

    Draws at the very ends of (0, 1) stay finite, rise, and are neither 0 nor 1, which would be data or noise itself.
    """
    uniform = torch.tensor([[0.5, 0.8413447], [0.1586553, 0.5]])  # the median and one standard deviation either way
    level = flow.training_levels(uniform, location=-0.4, scale=1.5)
    low, median, high = (1 / (1 + math.exp(0.4 - shift)) for shift in (-1.5, 0, 1.5))
    torch.testing.assert_close(level, torch.tensor([[median, high], [low, median]]), rtol=1e-5, atol=1e-6)
    ends = flow.training_levels(torch.tensor([[0.0, 0.5, 1 - 2**-24]]), location=0.0, scale=2.5)[0]
    assert 0 < ends[0] < ends[1] < ends[2] < 1


def test_the_loss_of_a_step_is_a_mean():
    """Guards a sum, and steps that mix: step 1 is off by 3 everywhere, so its loss is 9 and the other's is 0."""
    predicted = torch.zeros(2, 2, 3, 4, 4, dtype=torch.bfloat16)
    predicted[:, 1] = 3
    loss = flow.step_loss(predicted, torch.zeros(2, 2, 3, 4, 4))
    assert loss.dtype == torch.float32 and loss.tolist() == [[0, 9], [0, 9]]
