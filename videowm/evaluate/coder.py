"""A finished network that discovers actions: what it was made on, and the codes that it gives to whole episodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from videowm.actions.latent import CodeConfig, CodeNetwork
from videowm.evaluate.saved import Saved
from videowm.types import UserError
from videowm.vae.codec import DiffusersCodec, load_vae, to_float

KIND = "latent"  # of its tables of actions


@dataclass(frozen=True)
class CodedOn:
    """The latents that a coder was trained on; saved with it."""

    world: str
    vae: str  # run directory, diffusers folder or hub name
    vae_hash: str
    frames: int  # of a clip
    stride: int  # frames of a latent step
    shape: tuple[int, int, int]  # (c, h, w) of a latent step
    mean: list[float]  # of the training latents, per channel
    std: list[float]  # likewise
    actions: list[str]  # names of the recorded actions


class Coder(Saved):
    """Latent steps "b t c h w", normalised -> what follows each, through a code of a few bits or numbers."""

    kind, parts = "latent-actions", {"config": CodeConfig, "about": CodedOn}

    def __init__(self, config: CodeConfig, about: CodedOn) -> None:
        super().__init__()
        self.config, self.about = config, about
        self.network = CodeNetwork(config, tuple(about.shape), len(about.actions))

    def forward(
        self, latents: Float[Tensor, "b t c h w"], noise: Float[Tensor, "b t-1 k"] | None = None
    ) -> tuple[Float[Tensor, "b t-1 c h w"], Float[Tensor, "b t-1 a"], Float[Tensor, ""]]:
        """As `CodeNetwork.forward`."""
        return self.network(latents, noise)

    def codec(self) -> DiffusersCodec:
        """The autoencoder of its latents.

        Raises:
            UserError: it is gone, or another one.
        """
        codec = DiffusersCodec(load_vae(self.about.vae).eval())
        if codec.hash != self.about.vae_hash:
            raise UserError(f"{self.about.vae} is another autoencoder than the one these actions were discovered with: "
                            "restore it, or train on latents of the present one")  # fmt: skip
        return codec

    def scale(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the training latents, float32 "c 1 1"."""
        return tuple(torch.tensor(values, device=device)[:, None, None] for values in (self.about.mean, self.about.std))

    @torch.no_grad()
    def rows(
        self, codec: DiffusersCodec, frames: UInt8[np.ndarray, "f H W 3"], batch: int = 16
    ) -> Float[np.ndarray, "f a"]:
        """The code of every row of an episode as an action, the same for the rows of one latent step.

        Latent steps are counted from the episode's first frame on. Clips are cut as they are encoded, and behind the
        end of the episode its last frame stands.

        Raises:
            UserError: the autoencoder does not take frames of this size.
        """
        length, clip = self.about.frames, self.about.frames - 1
        if len(frames) < 2:
            return np.zeros((len(frames), len(self.config.names)), np.float32)
        at = np.arange(0, len(frames) - 1, clip)[:, None] + np.arange(length)
        device, found = next(self.parameters()).device, []
        mean, std = self.scale(device)
        for part in np.array_split(at, -(-len(at) // batch)):
            pixels = to_float(frames[np.minimum(part, len(frames) - 1)]).to(device)
            latents = (codec.encode(pixels).float() - mean) / std
            found.append(self.network.codes(latents).flatten(0, 1).cpu().numpy())
        rows = np.concatenate(found).repeat(self.about.stride, axis=0)
        return np.concatenate([rows, rows[-1:]])[: len(frames)]
