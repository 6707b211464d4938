"""What a video autoencoder is trained on, by hand."""

from __future__ import annotations

import pytest
import torch

from videowm.vae.loss import VAELossConfig, moved, vae_loss


def test_terms_by_hand():
    """Guards weights and the PSNR's peak of 2: off by 0.2 everywhere, so MSE 0.04 and PSNR 10 log10(4 / 0.04) = 20.

    Latents are 3 everywhere, so their KL from the unit Gaussian is 9 / 2 but for its constant.
    """
    frames, latents = torch.zeros(2, 5, 3, 8, 8), torch.full((2, 2, 4, 1, 1), 3.0)
    loss, metrics = vae_loss(frames + 0.2, frames, latents, VAELossConfig(l1=0.5, kl=0.01))
    assert loss.item() == pytest.approx(0.04 + 0.5 * 0.2 + 0.01 * 4.5)
    assert metrics["mse"].item() == pytest.approx(0.04) and metrics["psnr"].item() == pytest.approx(20.0)
    without, _ = vae_loss(frames + 0.2, frames, latents, VAELossConfig(l1=0, kl=0))
    assert without.item() == pytest.approx(0.04)


def test_log_of_each_clip():
    """Guards a logarithm of the batch: errors of 0.2 and 0.02 count as their logarithms' mean, and pull equally hard.

    A perfect clip has a finite loss. The KL term keeps its weight.
    """
    frames, latents = torch.zeros(2, 5, 3, 8, 8), torch.full((2, 2, 4, 1, 1), 3.0)
    off = torch.tensor([0.2, 0.02])
    decoded = off.view(2, 1, 1, 1, 1).expand_as(frames).clone().requires_grad_()
    loss, metrics = vae_loss(decoded, frames, latents, VAELossConfig(log=True, l1=0.5, kl=0.01))
    errors = off.square() + 0.5 * off + (2 / 255) ** 2 / 12
    assert loss.item() == pytest.approx(errors.log().mean().item() + 0.01 * 4.5, rel=1e-5)
    assert metrics["mse"].item() == pytest.approx((0.04 + 0.0004) / 2)
    loss, _ = vae_loss(decoded, frames, latents, VAELossConfig(log=True, l1=0))
    loss.backward()
    pulls = decoded.grad.flatten(1).norm(dim=1) * off  # of a logarithm falls as 1 / error
    assert pulls[0].item() == pytest.approx(pulls[1].item(), rel=0.02)
    perfect, _ = vae_loss(frames, frames, latents, VAELossConfig(log=True))
    assert perfect.isfinite()


def test_terms_that_see_more_than_single_pixels():
    """Guards axes mixed up: a ramp along the width has no motion, a ramp along time no gradient, each by hand.

    An offset changes neither; SSIM is 1 for the truth itself and lower for the ramp.
    """
    frames, latents = torch.zeros(1, 5, 3, 16, 16), torch.zeros(1, 2, 4, 1, 1)
    weights = VAELossConfig(l1=0, ssim=1, gradient=2, motion=3)
    wide = torch.arange(16.0).div(100).expand_as(frames)
    _, terms = vae_loss(wide, frames, latents, weights)
    assert terms["gradient"].item() == pytest.approx(0.01 / 2) and terms["motion"].item() == 0 < terms["ssim"].item()
    late = torch.arange(5.0).div(10).view(5, 1, 1, 1).expand_as(frames)
    loss, terms = vae_loss(late, frames, latents, weights)
    assert terms["gradient"].item() == 0 and terms["motion"].item() == pytest.approx(0.01)
    assert loss.item() == pytest.approx((terms["mse"] + terms["ssim"] + 0.03).item())
    _, terms = vae_loss(frames, frames, latents, weights)
    assert terms["ssim"].item() == pytest.approx(0) and terms["mse"].item() == 0


def test_pixels_that_moved_count_again():
    """Guards a mask that is late, or of another size: one pixel of 64 jumps at the third of five frames and stays.

    Off by 0.2 there in every frame after the jump; what it jumped by in blue alone is movement too.
    """
    frames = torch.zeros(1, 5, 3, 8, 8)
    frames[:, 2:, 2, 4, 6] = 0.5
    decoded = frames.clone()
    decoded[:, 2:, :, 4, 6] += 0.2
    assert moved(frames).nonzero().tolist() == [[0, 1, 4, 6]]
    loss, terms = vae_loss(decoded, frames, torch.zeros(1, 2, 4, 1, 1), VAELossConfig(l1=0, moved=2))
    assert terms["moved"].item() == pytest.approx(0.04 / (5 * 64))
    assert loss.item() == pytest.approx(3 * 0.04 / (5 * 64) + 2 * 0.04 / (5 * 64))
