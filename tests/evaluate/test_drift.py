"""Drift, by construction: known curves give known figures, and noise that grows moves each the right way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from videowm.evaluate.curves import MetricCurve
from videowm.evaluate.drift import drift
from videowm.evaluate.pictures import psnr

EPISODE = np.arange(12) // 2


def curve(values: np.ndarray, **more) -> MetricCurve:
    noise = np.random.default_rng(0).normal(size=(12, 1)) / 100
    bounds = {"ceiling": np.full(values.shape, 30.0) + noise, "floor": np.full(values.shape, 10.0) + noise}
    return MetricCurve("fidelity/psnr", values + noise, EPISODE, bounds, **more)


def test_a_line_by_hand():
    """Guards area, half-life and scale: 30.25 dB falling by 1 dB a frame, between 30 and 10."""
    line = np.tile(30.25 - np.arange(21), (12, 1))
    got = dict(drift(curve(line)))
    assert got["drift/fidelity_psnr_area"] == pytest.approx(0.5125)
    assert got["drift/fidelity_psnr_half_life"] == 12 and got["drift/fidelity_psnr_horizon"] == 21
    np.testing.assert_allclose(got["drift/fidelity_psnr_by_frame"], 1.0125 - np.arange(21) / 20)
    later = dict(drift(curve(line, first=3)))
    assert later["drift/fidelity_psnr_half_life"] == 14 and later["drift/fidelity_psnr_horizon"] == 23


def test_what_never_loses_half_says_so():
    """Guards a half-life made up at the end of the horizon."""
    got = dict(drift(curve(np.full((12, 8), 25.0))))
    assert got["drift/fidelity_psnr_half_life"] is None and got["drift/fidelity_psnr_horizon"] == 8
    assert got["drift/fidelity_psnr_area"] == pytest.approx(0.75)


def test_lower_is_better_is_the_same_scale():
    """Guards errors taken for scores: an error that rises from its ceiling to its floor drifts like the line."""
    flip = curve(np.tile(30.25 - np.arange(21), (12, 1)))
    error = MetricCurve("state/error", -flip.values, EPISODE, {k: -v for k, v in flip.bounds.items()})
    assert dict(drift(error))["drift/state_error_half_life"] == 12


def test_bounds_that_do_not_lie_apart_give_nothing():
    """Guards a scale without length, or upside down: a reader that reads nothing has no ceiling above its floor."""
    rng = np.random.default_rng(0)
    values, ceiling, floor = (rng.normal(size=(12, 8)) for _ in range(3))
    for bounds in ({"ceiling": ceiling, "floor": floor}, {"ceiling": floor - 5, "floor": floor},
                   {"ceiling": floor, "floor": floor}):  # fmt: skip
        got = dict(drift(MetricCurve("a/b", values, EPISODE, bounds)))
        assert got["drift/a_b_area"] is None and got["drift/a_b_half_life"] is None
    assert list(drift(MetricCurve("a/b", values, EPISODE, {"floor": floor}))) == []


def test_noise_that_grows_moves_every_figure_the_right_way(perfect):
    """Guards figures blind to drift, on real frames: the faster noise grows, the smaller area and half-life."""
    truth, generator = perfect.truth[:, :20], torch.Generator().manual_seed(0)
    noise = torch.randn(truth.shape, generator=generator)
    bounds = {"ceiling": psnr(truth + 0.02 * noise, truth), "floor": psnr(truth + noise, truth)}
    bounds = {k: v.double().numpy() for k, v in bounds.items()}
    figures = []
    for rate in (0.01, 0.03, 0.1):
        grown = truth + (0.02 + rate * torch.arange(20.0)[:, None, None, None]) * noise
        got = dict(drift(MetricCurve("a/b", psnr(grown, truth).double().numpy(), perfect.episode, bounds)))
        figures.append((got["drift/a_b_area"], got["drift/a_b_half_life"], got["drift/a_b_by_frame"][-1]))
    for one, two in zip(figures, figures[1:]):
        assert all(a > b for a, b in zip(one, two, strict=True)), figures
