"""Surprise, and the noisy television: what is drawn to noise, and what is not."""

from __future__ import annotations

import torch

from videowm.data.latents import Latents
from videowm.evaluate.heldout import HeldoutConfig, bank_losses, bank_velocities, make_bank
from videowm.evaluate.surprise import among_latents, learnable, maps, surprise
from videowm.pipeline import WorldModelPipeline
from videowm.worlds.noisy import NoisyCarRacing

CONFIG = HeldoutConfig(clips=8, window=4, context=2)
TELEVISION = (slice(0, 2), slice(6, 8))


def test_ranked_by_the_bank_s_own_losses(world_run, latents):
    """Guards errors of other triples than the held-out loss, and a rank turned round."""
    model, bank = WorldModelPipeline.open(world_run).transformer, make_bank(Latents.open(latents, "test"), CONFIG)
    losses = bank_losses(model, bank, bank.actions, 8)
    torch.testing.assert_close(
        maps(bank_velocities(model, bank, bank.actions, 3), bank).mean((1, 2)).double(), losses.mean(1)
    )
    got = dict(surprise(losses.mean(1).numpy(), bank))
    clip, episode, error = got["surprise/ranked"][0]
    assert error == losses.mean(1).max() and clip == losses.mean(1).argmax() and episode == bank.episode[clip]
    assert 1 / 8 <= got["surprise/top_tenth_share"] < 1


class Knowing(torch.nn.Module):
    """A model that knows the bank: the world it predicts the better the larger its budget, the television's noise
    only by its mean."""

    text_condition = None

    def __init__(self, bank, left: float, seed: int) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        true = bank.noise - bank.latents[:, bank.context :]
        generator = torch.Generator().manual_seed(seed)
        self.predicted = true + left * torch.randn(true.shape, generator=generator)
        noise = true[..., TELEVISION[0], TELEVISION[1]]
        self.predicted[..., TELEVISION[0], TELEVISION[1]] = 0.02 * torch.randn(noise.shape, generator=generator)
        self.context = bank.context

    def forward(self, x, level, actions):
        m = x.shape[1] - 1 - self.context
        return self.predicted[:, m, None].expand(-1, x.shape[1], -1, -1, -1)


def test_noise_draws_error_but_not_what_can_be_learned(latents):
    """Guards curiosity that stares at noise: error is drawn to the television, disagreement and progress are not."""
    assert among_latents(NoisyCarRacing.NOISE, (4, 8, 8)) == TELEVISION
    bank = make_bank(Latents.open(latents, "test"), CONFIG)
    models = [Knowing(bank, left, seed) for seed, left in enumerate((1.0, 0.6, 0.3))]
    got = dict(learnable(models, bank, 8, TELEVISION))
    assert got["surprise/television_error"] > 3 and got["surprise/television_error_se"] > 0
    assert got["surprise/television_disagreement"] < 0.1 and got["surprise/television_progress"] < 0.3
    assert len(got["surprise/ranked_by_progress"]) == 8
    assert not any(name.startswith("surprise/television") for name in dict(learnable(models, bank, 8)))
