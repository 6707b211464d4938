"""What a video autoencoder is trained on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from videowm.limits import NonNegative
from videowm.types import UserError
from videowm.vae.critic import AdversarialConfig

ROUNDING = (2 / 255) ** 2 / 12  # squared error of rounding to 256 grey levels, of the range -1 to 1
MOVED = 0.1  # a pixel moved if it changed by more in some colour, of the range -1 to 1: 13 of 255 grey levels


@dataclass(frozen=True)
class VAELossConfig:
    """Weights of the loss terms; the mean squared error has weight 1, a term of weight 0 is not computed.

    l1: mean absolute error. kl: of N(latents, 1) from N(0, 1). ssim: 1 - SSIM (Wang et al. 2004, eq. 13).
    gradient: L1 between spatial differences. motion: MSE between frame differences. moved: squared error of the pixels
    that moved, over the number of all: each of them counts 1 + `moved` times. lpips: learned perceptual distance
    (Zhang et al. 2018, VGG) through the user's own installation of the package.

    `noise` is added to the latents that are decoded in training, in deviations of their channel within the batch. What
    a decoder can do without shrinks below it, so a world model has less to predict that does not matter.

    With `log` the logarithm of a clip's squared and absolute error counts, as in PSNR, so that no clip with large
    errors outweighs the others. That is, but for constants, twice a colour's negative log-likelihood at the variance
    that suits its clip best (Rybkin et al. 2021, arXiv:2006.13202). Other terms stay what they are: at an error of
    0.004 they take weights 250 times as large.
    """

    log: bool = False  # the logarithm of a clip's error counts instead of the error
    l1: NonNegative = 0.1  # mean absolute error
    kl: NonNegative = 0.0  # divergence of N(latents, 1) from N(0, 1)
    ssim: NonNegative = 0.0  # 1 - SSIM
    gradient: NonNegative = 0.0  # L1 between spatial differences
    motion: NonNegative = 0.0  # MSE between frame differences
    moved: NonNegative = 0.0  # squared error of the pixels that moved
    lpips: NonNegative = 0.0  # learned perceptual distance; needs the package lpips
    noise: NonNegative = 0.0  # of the decoded latents in training, in deviations of a channel; 0.2 is good
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)


def vae_loss(
    decoded: Float[Tensor, "b f 3 H W"], frames: Float[Tensor, "b f 3 H W"], latents: Float[Tensor, "b t c h w"],
    config: VAELossConfig, perceptual: nn.Module | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:  # fmt: skip
    """The weighted sum of the loss terms, and every term by its name, with the PSNR of the batch in dB.

    Args:
        decoded, frames: decoded and true frames in [-1, 1].
        latents: of the frames, not normalised.
        config: the terms' weights.
        perceptual: network of the term `lpips`, from `lpips_network`.
    """
    decoded, frames, latents = decoded.float(), frames.float(), latents.float()
    terms = {
        "l1": lambda: F.l1_loss(decoded, frames),
        "kl": lambda: latents.square().mean() / 2,  # per element, without its constant
        "ssim": lambda: 1 - similarity(decoded, frames),
        "gradient": lambda: sum(F.l1_loss(decoded.diff(dim=axis), frames.diff(dim=axis)) for axis in (-1, -2)) / 2,
        "motion": lambda: F.mse_loss(decoded.diff(dim=1), frames.diff(dim=1)),
        "moved": lambda: ((decoded - frames)[:, 1:].square().mean(2) * moved(frames)).sum() / frames[:, :, 0].numel(),
        "lpips": lambda: perceptual(decoded.flatten(0, 1), frames.flatten(0, 1)).mean(),
    }
    mse = F.mse_loss(decoded, frames)
    values = {name: term() for name, term in terms.items() if getattr(config, name)}
    weighted = {name: getattr(config, name) * value for name, value in values.items()}
    if config.log:
        weighted.pop("l1", None)
        error = decoded - frames
        errors = (error.square() + config.l1 * error.abs()).mean((1, 2, 3, 4))
        loss = (errors + ROUNDING).log().mean() + sum(weighted.values())
    else:
        loss = mse + sum(weighted.values())
    return loss, {"mse": mse, **values, "psnr": -10 * (mse.detach() / 4).log10()}


def moved(frames: Float[Tensor, "b f 3 H W"]) -> Bool[Tensor, "b f-1 H W"]:
    """Which pixels of frames in [-1, 1] changed since the frame before."""
    return (frames.diff(dim=1).abs() > MOVED).any(dim=2)


def lpips_network(net: str) -> nn.Module:
    """The frozen network `net` ("alex", "vgg") of the package lpips: pairs of frames "n 3 H W" in [-1, 1] -> "n 1 1 1".

    The package is no dependency.

    Raises:
        UserError: the package, or the weights that it loads, cannot be had.
    """
    try:
        import lpips

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return lpips.LPIPS(net=net, verbose=False).eval().requires_grad_(requires_grad=False)
    except (ImportError, OSError, RuntimeError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"LPIPS cannot be computed here ({said}): pip install lpips and let it load its weights once, or leave "
            "it out"
        ) from None


def similarity(
    decoded: Float[Tensor, "b f 3 H W"], frames: Float[Tensor, "b f 3 H W"], *, window: int = 7
) -> Float[Tensor, ""]:
    """Mean SSIM (Wang et al. 2004, eq. 13) of frames in [-1, 1], over a box window."""
    x, y = decoded.flatten(0, 1), frames.flatten(0, 1)

    def mean(z: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 h w"]:
        return F.avg_pool2d(z, window, stride=1)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # of the data range 2
    return torch.mean((2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2)))
