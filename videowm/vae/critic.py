"""A critic of clips, trained beside the autoencoder: what it can tell from real ones is to be mended.

One optimiser and one loss serve both. The critic judges the autoencoder through a copy of its weights that takes no
gradient. The critic's own loss is on decoded frames that pass none on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from videowm.limits import NonNegative, Positive, Share, Size
from videowm.types import UserError

# AdamW's steps do not depend on the size of a gradient, but the clipping of all gradients together does. The critic's
# has a norm of about 2 at first, twice what a run clips at; so small, it leaves the autoencoder's steps alone.
QUIET = 0.01


@dataclass(frozen=True)
class AdversarialConfig:
    """The adversarial term. `weight` is in units of the other terms' pull on the decoded frames; 0: there is no critic.

    The critic learns from the first step on, at `rate` times the run's learning rate; the autoencoder listens to it
    from the share `start` of the run on.
    """

    weight: NonNegative = 0.0  # against the pull of all other terms; 0: there is no critic
    start: Share = 0.5  # share of the run from which on the autoencoder listens to the critic
    width: Size = 32  # channels of the critic's first layer, a multiple of 8
    rate: Positive = 0.1  # learning rate of the critic, in learning rates of the run

    def __post_init__(self) -> None:
        if self.width % 8:
            raise UserError(f"loss.adversarial.width {self.width} cannot be used: give a multiple of 8")


class Critic(nn.Module):
    """Patch discriminator (arXiv 1611.07004, section 3.2) whose patches lie in space and time."""

    def __init__(self, width: int = 32, stages: int = 3) -> None:
        super().__init__()
        sizes = [3, *(width * 2**i for i in range(stages))]
        layers: list[nn.Module] = []
        for i, (into, out) in enumerate(zip(sizes, sizes[1:])):
            layers.append(nn.Conv3d(into, out, (3, 4, 4), stride=(1, 2, 2), padding=1))
            layers += [nn.GroupNorm(8, out)] if i else []
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, nn.Conv3d(sizes[-1], 1, 3, padding=1))

    def forward(self, frames: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f i j"]:
        """How real each patch of frames in [-1, 1] looks; a patch is 8 x 8 pixels of one frame."""
        return self.layers(rearrange(frames, "b f c h w -> b c f h w"))[:, 0].float()


def critic_loss(
    critic: Critic, decoded: Float[Tensor, "b f 3 H W"], frames: Float[Tensor, "b f 3 H W"]
) -> Float[Tensor, ""]:
    """Hinge loss of telling true from decoded frames (arXiv 1705.02894, eq. 3); no gradient reaches the decoder."""
    real, false = critic(torch.cat([frames, decoded.detach()])).chunk(2)
    return F.relu(1 - real).mean() + F.relu(1 + false).mean()


def adversarial_loss(critic: Critic, decoded: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, " b"]:
    """How false each decoded clip looks (arXiv 1705.02894, eq. 4); no gradient reaches the critic."""
    still = {name: parameter.detach() for name, parameter in critic.named_parameters()}
    return -functional_call(critic, still, (decoded,)).mean(dim=(1, 2, 3))


def balance(
    loss: Float[Tensor, ""], adversarial: Float[Tensor, " b"], decoded: Float[Tensor, "b f 3 H W"]
) -> Float[Tensor, " b"]:
    """Factors with which each clip's adversarial term pulls at its frames as hard as all other terms do.

    VQGAN's weight (arXiv 2012.09841, eq. 7), with the frames in place of the decoder's last layer: every class of
    autoencoder has that layer elsewhere. Each clip has its own factor, so it does not matter how a batch is split.
    """
    terms = (loss, adversarial.mean())
    pulls = [torch.autograd.grad(term, decoded, retain_graph=True)[0].flatten(1).norm(dim=1) for term in terms]
    return (pulls[0] / (pulls[1] + 1e-6)).clamp(max=1e4).detach()


def with_critic(
    critic: Critic, decoded: Float[Tensor, "b f 3 H W"], frames: Float[Tensor, "b f 3 H W"],
    loss: Float[Tensor, ""], weight: float,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:  # fmt: skip
    """The loss of autoencoder and critic together, and its new terms. At `weight` 0 only the critic learns more."""
    judged = critic_loss(critic, decoded, frames)
    total, terms = loss + QUIET * judged, {"critic": judged}
    if weight:
        false = adversarial_loss(critic, decoded)
        total = total + weight * (balance(loss, false, decoded) * false).mean()
        terms["adversarial"] = false.mean()
    return total, terms
