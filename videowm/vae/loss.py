"""What a video autoencoder is trained on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class VAELossConfig:
    """Weights of the loss terms; the mean squared error has weight 1.

    The posterior is a Gaussian around the latents with the fixed deviation `noise`: what the decoder must tolerate
    is what the world model may get wrong. `kl` pulls the latents towards the unit Gaussian, so `noise` has a scale.
    """

    l1: float = 0.1
    noise: float = 0.0
    kl: float = 0.0


def vae_loss(
    decoded: Tensor, frames: Tensor, latents: Tensor, config: VAELossConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """MSE and L1 between decoded and true frames "b f 3 H W" in [-1, 1], and the KL of the latents "b t c h w".

    Also the PSNR of the batch in dB.
    """
    decoded, frames = decoded.float(), frames.float()
    mse = F.mse_loss(decoded, frames)
    kl = latents.float().square().mean() / 2  # of N(latents, noise) from N(0, 1), per element, without its constant
    loss = mse + config.l1 * F.l1_loss(decoded, frames) + config.kl * kl
    return loss, {"mse": mse, "kl": kl, "psnr": -10 * (mse.detach() / 4).log10()}
