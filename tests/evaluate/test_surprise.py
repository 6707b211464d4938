"""Surprise, and the noisy television: what is drawn to noise, and what is not."""

from __future__ import annotations

import torch

from videowm.data.latents import Latents
from videowm.evaluate.heldout import HeldoutConfig, bank_losses, make_bank
from videowm.evaluate.surprise import maps, reducible, share, surprise, velocities
from videowm.pipeline import WorldModelPipeline

CONFIG = HeldoutConfig(clips=8, window=4, context=2)
TELEVISION = (slice(0, 2), slice(6, 8))


def test_ranked_by_the_bank_s_own_losses(world_run, latents):
    """Guards errors of other triples than the held-out loss, and a rank turned round."""
    model, bank = WorldModelPipeline.open(world_run).transformer, make_bank(Latents.open(latents, "test"), CONFIG)
    losses = bank_losses(model, bank, bank.actions, 8)
    torch.testing.assert_close(maps(velocities(model, bank, 3), bank).mean((1, 2)).double(), losses.mean(1))
    got = dict(surprise(model, bank, 8))
    clip, episode, error = got["surprise/ranked"][0]
    assert error == losses.mean(1).max() and clip == losses.mean(1).argmax() and episode == bank.episode[clip]
    assert 1 / 8 <= got["surprise/top_tenth_share"] < 1


def test_noise_draws_error_but_not_what_can_be_learned(latents):
    """Guards curiosity that stares at noise. Three models predict a real bank's velocities: the world ever better with
    their budget, the television's noise only by its mean. Error is drawn to the television, the estimates are not."""
    bank = make_bank(Latents.open(latents, "test"), CONFIG)
    true = bank.noise - bank.latents[:, bank.context :]
    generator = torch.Generator().manual_seed(0)
    models = {}
    for name, left in (("1x", 1.0), ("4x", 0.6), ("16x", 0.3)):
        predicted = true + left * torch.randn(true.shape, generator=generator)
        noise = true[..., TELEVISION[0], TELEVISION[1]]
        predicted[..., TELEVISION[0], TELEVISION[1]] = 0.02 * torch.randn(noise.shape, generator=generator)
        models[name] = predicted
    got = {name: share(estimate, TELEVISION) for name, estimate in reducible(models, bank).items()}
    assert got["error"] > 3 and got["disagreement"] < 0.1 and got["progress"] < 0.3
