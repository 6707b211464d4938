"""Distances between frames, and the error of a mean over episodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from videowm.evaluate.fidelity import finite, psnr, ssim, standard_error


def test_psnr_by_hand():
    """Guards the peak of 2 for frames in [-1, 1], and frames that mix: off by 0.2 is 20 dB, by 0.02 is 40 dB."""
    true = torch.zeros(1, 3, 3, 8, 8)
    off = torch.tensor([0.2, 0.02, 0.0])[None, :, None, None, None]
    assert psnr(true + off, true)[0].tolist() == pytest.approx([20, 40, 106.0206], abs=1e-3)


def test_ssim_is_one_for_equal_frames_only():
    """Guards axes mixed up: of two samples of three frames, the one frame that was disturbed is the one below 1."""
    true = torch.rand(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    other = true.clone()
    other[1, 2] += 0.5 * torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))
    got = ssim(other, true)
    assert got.shape == (2, 3) and got[1, 2] < 0.95
    got[1, 2] = 1
    torch.testing.assert_close(got, torch.ones(2, 3))


def test_the_error_of_a_mean_over_episodes():
    """Guards clips of one episode counted as independent: 40 copies of 10 values are no better than the 10 values.

    Without copies it is the textbook's s / sqrt(n), within the bootstrap's own error.
    """
    values = np.random.default_rng(0).normal(size=400)
    textbook = values.std(ddof=1) / 20
    assert standard_error(values, np.arange(400)) == pytest.approx(textbook, rel=0.1)
    ten = values[:10]
    single = standard_error(ten, np.arange(10))
    assert standard_error(np.repeat(ten, 40), np.repeat(np.arange(10), 40)) == pytest.approx(single)
    assert single > 3 * textbook


def test_what_is_not_a_number_is_said():
    """Guards a mean over NaN that passes for a result; finite values come back as they are."""
    values = torch.tensor([1.0, 2.0])
    assert finite("psnr", values) is values
    with pytest.raises(FloatingPointError, match="psnr has 1 values that are not finite"):
        finite("psnr", torch.tensor([1.0, float("nan")]))
