"""What a video autoencoder is trained on, by hand."""

from __future__ import annotations

import pytest
import torch

from videowm.vae.loss import VAELossConfig, vae_loss


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
