"""What players see of real games: frames through the autoencoder, and the world model's memory of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from videowm.agents.player import Seen
from videowm.device import default_device
from videowm.dit.heads import FOLDER, Heads, Reading
from videowm.dit.sample import sampler_of
from videowm.dit.stream import LatentStream
from videowm.pipeline import WorldModelPipeline
from videowm.vae.codec import to_float
from videowm.vae.stream import StreamEncoder


class Eyes:
    """Rows of real games as a world model sees them: all begin together, and each latent step is seen once.

    The network remembers real steps as it remembers dreamed ones, with the sampler's noise on the past, which each row
    draws from its own generator. So `Seen.memory` is what `DreamEnv` shows as "memory".

    Args:
        run: a finished world model; with heads the network remembers too, and foresees ends.
        memory: whether the network must remember.
        device: None: a GPU where there is one.

    Raises:
        UserError: the run is not finished, its autoencoder cannot be streamed, or memory is wanted without heads.
    """

    def __init__(self, run: str | Path, *, memory: bool = False, device: str | None = None) -> None:
        self.pipeline, self.sampler = WorldModelPipeline.open(run), sampler_of(Path(run))
        self.device = torch.device(device) if device else default_device()
        self.heads: Heads | None = None
        if memory or (Path(run) / FOLDER).exists():
            self.heads = Heads.open(run, self.pipeline.config.transformer_hash).to(self.device)
        self.pipeline.to(self.device)
        if self.device.type == "cuda":  # as dreams are
            self.pipeline.transformer.to(torch.bfloat16)
        self.keeps = max(1, self.pipeline.trained_on.window - 1)  # latent steps
        self.encoder = StreamEncoder(self.pipeline.codec, otherwise=self.pipeline.trained_on.window)
        self.stream: LatentStream | None = None

    @property
    def stride(self) -> int:
        """Frames of a latent step."""
        return self.pipeline.time_stride

    def begin(self, frames: UInt8[np.ndarray, "n H W 3"], seeds: Sequence[int]) -> None:
        """Forget all, and see the first frames of new games, whose noise on the past follows from `seeds`."""
        self.encoder.begin()
        self.latents = self.encoded(frames[:, None])
        names = self.pipeline.trained_on.action_names
        self.grouped = self.pipeline.group(torch.zeros(len(frames), 0, len(names), device=self.device))
        if self.heads is None:
            return
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.stream = LatentStream(
            self.pipeline.transformer, self.latents, self.grouped, sampler=self.sampler, shift=self.pipeline.shift,
            window=self.pipeline.trained_on.window, generator=generators, keep=self.heads.config.block,
            **self.pipeline.text_conditioning(None, len(frames), 1))  # fmt: skip

    def see(self, frames: UInt8[np.ndarray, "n k H W 3"], actions: Float[np.ndarray, "n k a"]) -> None:
        """See the next latent step's frames, and the actions that led to them."""
        latents, grouped = self.encoded(frames), self.actions_of(actions)
        self.latents = torch.cat([self.latents, latents], dim=1)[:, -self.keeps :]
        self.grouped = torch.cat([self.grouped, grouped], dim=1)[:, -self.keeps :]
        if self.stream is not None:
            self.stream.see(grouped, latents)

    def seen(self, rows: Sequence[int]) -> Seen:
        """What some rows have seen."""
        chosen = list(rows)
        memory = None if self.stream is None else self.stream.kept[chosen].float()
        return Seen(self.latents[chosen], self.grouped[chosen], memory, tuple(rows))

    @torch.no_grad()
    def foresee(self, actions: Float[np.ndarray, "n k a"]) -> Reading | None:
        """What heads read of the step to come under some actions, "n 1"; None without heads."""
        if self.heads is None:
            return None
        return self.heads.read(self.stream.kept[:, None], self.actions_of(actions))

    def encoded(self, frames: UInt8[np.ndarray, "n f H W 3"]) -> Float[Tensor, "n 1 c h w"]:
        """The normalised latent step of some frames."""
        return self.pipeline.normalise(self.encoder.step(to_float(frames, self.device)))

    def actions_of(self, actions: Float[np.ndarray, "n k a"]) -> Float[Tensor, "n 1 g"]:
        """The transformer's action of a step."""
        given = torch.from_numpy(np.ascontiguousarray(actions, np.float32)).to(self.device)
        return self.pipeline.group(given)[:, 1:]
