"""Train the video autoencoder: clips -> the same clips."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from videowm.data.clips import ClipStream, even_clips
from videowm.data.dataset import Dataset
from videowm.data.played import PlayConfig, PlayedEpisodes
from videowm.data.resident import Resident, ResidentFrames
from videowm.dit.graph import capture
from videowm.evaluate.reconstruction import ReconstructionConfig, against_floor, reconstruction, training_pca
from videowm.limits import Count, Seed
from videowm.train.config import TrainConfig
from videowm.train.task import Draws, Task
from videowm.types import UserError, latent_steps
from videowm.vae.codec import DiffusersCodec, VAEConfig, build_vae, load_vae, to_float
from videowm.vae.critic import Critic, with_critic
from videowm.vae.loss import VAELossConfig, lpips_network, vae_loss
from videowm.vae.patch import PatchAutoencoder
from videowm.vae.pca import BlockPCA

logger = logging.getLogger("videowm")


@dataclass(frozen=True)
class VAERun:
    """`task: vae`: train a video autoencoder on the clips of a dataset, or of episodes that are played for it."""

    task: Literal["vae"]  # what is trained
    out: str  # run directory
    data: str | None = None  # dataset that `videowm record` or `import` wrote
    play: PlayConfig | None = None  # in place of data: episodes that are played at the start and kept in memory
    seed: Seed = 0  # of weights and order
    frames: Count = 9  # frames a clip, 1 + k * time stride
    resident: Resident = "auto"  # frames on the device, decoded once; auto: where they fit and enough are read
    vae: VAEConfig = field(default_factory=VAEConfig)
    loss: VAELossConfig = field(default_factory=VAELossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: ReconstructionConfig = field(default_factory=ReconstructionConfig)

    def __post_init__(self) -> None:
        if (self.data is None) == (self.play is None):
            raise UserError("an autoencoder needs one of data and play: give a dataset, or data=null and play.world")


class VAETask(Task):
    """Reconstruct clips."""

    name = "vae"

    def __init__(self, config: VAERun) -> None:
        self.config, self.seed = config, config.seed
        self.dataset = PlayedEpisodes(config.play) if config.play else Dataset(config.data)
        self.codec = DiffusersCodec(build_vae(config.vae))
        for frames in (config.frames, config.evaluate.frames):
            latent_steps(frames, self.codec.stride[0])
        self.codec.check_strides(*self.dataset.size)
        self.clips = ClipStream(self.dataset, frames=config.frames, split="train", seed=config.seed)
        self.resident = ResidentFrames(self.dataset, "train")
        self.pca: BlockPCA | None = None
        if isinstance(self.codec.vae, PatchAutoencoder) and config.vae.pretrained is None:
            self.pca = training_pca(self.codec, self.dataset)
            self.codec.vae.begin_at(self.pca.later)
        even_clips(self.dataset, frames=config.evaluate.frames, split="test", count=1)  # now, not after training
        adversarial = config.loss.adversarial
        self.model = Autoencoder(self.codec, Critic(adversarial.width) if adversarial.weight else None)
        self.model.rates = {"critic.": adversarial.rate}
        self.perceptual = lpips_network("vgg") if config.loss.lpips else None

    def to(self, device: torch.device) -> None:
        """The perceptual network is no part of the model: it learns nothing and is in no checkpoint."""
        self.perceptual = self.perceptual and self.perceptual.to(device)
        torch.backends.cudnn.benchmark = True  # convolutions of one shape all along: the fastest kernel is looked for
        config = self.config
        self.resident.settle(config.resident, device, config.train.steps * config.train.batch * config.frames)

    def load(self, step: int, slots: range) -> dict[str, Tensor]:
        return self.resident.load(self.clips, [step * self.config.train.batch + slot for slot in slots])

    def loss(self, model: nn.Module, batch: dict[str, Tensor], draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        frames = to_float(self.resident.of(batch, self.config.frames))
        decoded, latents = model(frames, *self.noise(frames, draws))
        loss, terms = vae_loss(decoded, frames, latents, self.config.loss, self.perceptual)
        if self.model.critic is None:
            return loss, terms
        adversarial = self.config.loss.adversarial
        listens = draws.step >= adversarial.start * self.config.train.steps
        loss, more = with_critic(self.model.critic, decoded, frames, loss, adversarial.weight if listens else 0.0)
        return loss, terms | more

    def noise(self, frames: Tensor, draws: Draws) -> list[Tensor]:
        """What is added to the latents of frames "b f 3 H W" in deviations of their channels; empty: nothing."""
        if not self.config.loss.noise:
            return []
        time, down, across = self.codec.stride
        steps, (height, width) = latent_steps(frames.shape[1], time), frames.shape[3:]
        return [self.config.loss.noise * draws.normal(steps, self.codec.channels, height // down, width // across)]

    def evaluate(self) -> Iterator[tuple[str, Any]]:
        yield from reconstruction(self.codec, self.dataset, self.config.evaluate, self.pca)

    def summary(self, metrics: dict[str, Any]) -> str:
        return against_floor(metrics)

    def export(self, out: Path) -> None:
        self.codec.vae.save_pretrained(out / "vae")

    def restore(self, run: Path, device: torch.device) -> None:
        """Take the trained weights of a finished run, ready to be evaluated."""
        self.codec.vae.load_state_dict(load_vae(run).state_dict())
        self.model.to(device).eval()

    def record_fields(self) -> dict[str, Any]:
        """Parameters, frames seen, and hashes of data and model."""
        return {
            "params": {"vae": sum(p.numel() for p in self.codec.vae.parameters())},
            "frames": {"seen": self.config.train.steps * self.config.train.batch * self.config.frames},
            "hashes": {"data": self.dataset.hash, "vae": self.codec.hash},
        }


class Autoencoder(nn.Module):
    """Frames in, frames out: the one call that a training step makes."""

    def __init__(self, codec: DiffusersCodec, critic: Critic | None = None) -> None:
        super().__init__()
        self.vae = codec.vae
        self.critic = critic  # trained with it, and not asked in `forward`
        self.codec = [codec]  # in a list: its weights are registered once, as `vae`
        self.graphs: dict[torch.Size, Callable[..., tuple[Tensor, Tensor]]] | None = None  # by shape, where recorded

    def matrices(self) -> set[str]:
        """Names of the weights that Muon moves.

        Raises:
            UserError: the autoencoder's class does not tell.
        """
        if not isinstance(self.vae, PatchAutoencoder):
            raise UserError(f"train.optimizer muon for {type(self.vae).__name__}: leave it out, it is for "
                            "PatchAutoencoder")  # fmt: skip
        return {f"vae.{name}" for name in self.vae.matrices()}

    def compile_blocks(self, *, graph: bool) -> None:
        """With `graph`, on a GPU, a training step is two CUDA graphs; nothing else is compiled."""
        self.graphs = {} if graph and next(self.vae.parameters()).is_cuda else None

    def uncompile(self) -> None:
        self.graphs = None

    def forward(self, frames: Tensor, *noise: Tensor) -> tuple[Tensor, Tensor]:
        """Frames "b f 3 H W", perhaps noise "b t c h w" in deviations of a channel -> decoded frames, latents."""
        if self.graphs is None or not torch.is_grad_enabled():
            return self.reconstruct(frames, *noise)
        if frames.shape not in self.graphs:
            try:
                self.graphs[frames.shape] = capture(self.codec[0].vae, self.reconstruct, (frames, *noise))
            except RuntimeError as error:  # an autoencoder that looks at its numbers between kernels
                logger.warning("not recorded as a CUDA graph (%s): training is slower", str(error).splitlines()[0])
                self.graphs = None
                return self.reconstruct(frames, *noise)
        return self.graphs[frames.shape](frames, *noise)

    def reconstruct(self, frames: Tensor, *noise: Tensor) -> tuple[Tensor, Tensor]:
        """The same as plain PyTorch."""
        codec = self.codec[0]
        latents = codec.encode(frames)
        deviation = latents.detach().float().std((0, 1, 3, 4), keepdim=True)  # scaling latents up is no way out
        return codec.decode_raw(sum((deviation * part for part in noise), latents)), latents


CONFIG, TASK = VAERun, VAETask
