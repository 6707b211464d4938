"""Distances between frames, and the error of a mean over episodes."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from videowm.bootstrap import standard_error
from videowm.evaluate.fidelity import fidelity
from videowm.evaluate.pictures import finite, gradients, lpips, ms_ssim, psnr, scales, ssim
from videowm.types import UserError


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


def test_a_blurred_frame_has_smaller_gradients():
    """Guards frames that mix, and a ratio turned over: half the contrast is half the gradients, in one frame alone."""
    true = torch.rand(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    other = true.clone()
    other[1, 2] *= 0.5
    expected = torch.ones(2, 3)
    expected[1, 2] = 0.5
    torch.testing.assert_close(gradients(other, true), expected)


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


def test_ms_ssim_uses_the_scales_that_fit():
    """Guards a window larger than the coarsest picture, and exponents that no longer sum to 1."""
    assert [len(scales((n, n))) for n in (16, 64, 128, 256)] == [1, 3, 4, 5]
    assert sum(scales((64, 64))) == pytest.approx(1)
    with pytest.raises(UserError, match="11x11 or more"):
        scales((8, 64))
    true = torch.rand(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    other = true.clone()
    other[1, 2] += 0.5 * torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(1))
    got = ms_ssim(other, true)
    assert got.shape == (2, 3) and got[1, 2] < 0.99
    got[1, 2] = 1
    torch.testing.assert_close(got, torch.ones(2, 3))


def test_truth_reconstruction_and_repeated_frame(scenes):
    """Guards bounds of other frames: a model that dreams the reconstruction scores the ceiling, one that repeats the
    last frame the floor, the truth above both; and batches that change a value."""
    cpu = torch.device("cpu")
    few = {k: v[:3, :9] for k, v in vars(scenes).items() if isinstance(v, torch.Tensor)} | {"episode": np.arange(3)}
    scenes = replace(scenes, **few)
    for dreamed, bound in (("decoded", "ceiling"), ("repeat", "floor")):
        same = replace(scenes, dreamed=getattr(scenes, dreamed))
        curves = {c.name: c for c in fidelity(same, device=cpu, batch=2)}
        assert {"fidelity/psnr", "fidelity/ssim", "fidelity/ms_ssim", "fidelity/ssim_to_vae"} <= set(curves)
        for name in ("psnr", "ssim", "ms_ssim"):
            curve = curves[f"fidelity/{name}"]
            np.testing.assert_array_equal(curve.values, curve.bounds[bound])
            assert curve.values.shape == (3, 4)
            if bound == "floor":
                to_vae = curves[f"fidelity/{name}_to_vae"]
                np.testing.assert_array_equal(to_vae.values, to_vae.bounds["floor"])
    assert ssim(scenes.future("truth"), scenes.future("truth")).min() > 0.9999 > curve.bounds["ceiling"].max()
    assert curve.bounds["ceiling"].mean() > curve.bounds["floor"].mean()


def test_lpips_is_left_out_where_it_is_not_installed(scenes):
    """Guards a dependency by accident, and a number made up: the package is not here, so no name says LPIPS."""
    assert importlib.util.find_spec("lpips") is None and lpips(torch.device("cpu")) is None
