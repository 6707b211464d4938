"""Train latent actions: two latent steps -> a small code of what happened between them -> the later step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from videowm.actions.latent import CodeConfig
from videowm.actions.tables import NO_ACTIONS
from videowm.data.latents import Latents, LatentsIndex, normalised
from videowm.data.mixture import Mixture
from videowm.evaluate.coder import CodedOn, Coder
from videowm.evaluate.codes import coded, scored
from videowm.limits import Count, Positive, Seed, Share, Size
from videowm.train.config import TrainConfig
from videowm.train.task import Draws, Task
from videowm.types import UserError

EVERY = 4  # with labels, one of so many samples has some


@dataclass(frozen=True)
class LatentActionsRun:
    """`task: latent-actions`: discover the actions of video by what a small code must tell of the next latent step."""

    task: Literal["latent-actions"]  # what is trained
    out: str  # run directory
    latents: str  # folder that `videowm encode` wrote
    labels: Share = 0.0  # of the training episodes whose recorded actions the code is to tell too; 0: none are seen
    label_weight: Positive = 1.0  # of their error
    seed: Seed = 0  # of weights, order and noise, and of which episodes have labels
    window: Size = 5  # latent steps a sample
    heldout_clips: Count = 128  # clips of held-out episodes on which it is measured
    probe_clips: Count = 512  # training clips whose true actions the probes are fitted on
    model: CodeConfig = field(default_factory=CodeConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


class LatentActionsTask(Task):
    """Predict the next latent step from earlier ones and a code of itself."""

    name = "latent-actions"

    def __init__(self, config: LatentActionsRun) -> None:
        self.config, self.seed = config, config.seed
        self.latents = Mixture.open([config.latents])
        index = self.latents.index
        self.refuse_misfits(index)
        self.labelled = Mixture.open([config.latents], share=config.labels, seed=config.seed) if config.labels else None
        self.model = Coder(config.model, coded_on(index))
        self.model.codec()  # an autoencoder that is gone is refused now, not at the end
        self.scale = self.latents.scale

    def refuse_misfits(self, index: LatentsIndex) -> None:
        """Refuse a window that does not fit, and labels where there are none.

        Raises:
            UserError: one of these.
        """
        config = self.config
        if not 2 <= config.window <= index.steps:
            raise UserError(f"window {config.window} does not fit the {index.steps} latent steps of {config.latents}: "
                            f"give 2 to {index.steps}")  # fmt: skip
        if config.labels and index.action_names == [NO_ACTIONS]:
            raise UserError(f"labels {config.labels:g}: {config.latents} holds no recorded actions: give labels=0")

    def to(self, device: torch.device) -> None:
        """The statistics of the latents lie on the device."""
        self.scale = tuple(values.to(device) for values in self.latents.scale)

    def load(self, step: int, slots: range) -> dict[str, Tensor]:
        """Windows of the encoded clips; with labels, those of every fourth slot are of labelled episodes."""
        batch, last = self.config.train.batch, self.latents.index.steps - self.config.window
        clips, starts, known = [], [], []
        for slot in slots:
            known.append(self.labelled is not None and slot % EVERY == 0)
            number = step * batch + slot
            clip, rng = self.labelled.pick(self.seed, number // EVERY) if known[-1] else self.latents.pick(
                self.seed, number)  # fmt: skip
            clips.append(int(self.labelled.rows[0][clip]) if known[-1] else clip)
            starts.append(int(rng.integers(last + 1)))
        latents, actions = self.latents.windows(clips, starts, self.config.window)
        return {"latents": latents, "actions": actions, "known": torch.tensor(known)}

    def loss(self, model: nn.Module, batch: dict[str, Tensor], draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of the next step, the price of a continuous code, and the error of labelled actions."""
        latents, config = normalised(batch["latents"], self.scale), self.config
        code, shape = config.model, (latents.shape[1] - 1, config.model.size)
        predicted, told, price = model(latents, draws.normal(*shape) if code.code else draws.uniform(*shape))
        error = (predicted.float() - latents[:, 1:]).square().mean()
        logged = {"latent/error": error.detach(), "latent/price": price.detach()}
        weight = code.kl if code.code else code.balance * max(0.0, 1 - 2 * draws.step / config.train.steps)
        loss = error + weight * price + 0 * told.sum()  # every parameter has a gradient, on many devices
        if self.labelled is not None:
            true = batch["actions"][:, 1:, :-1].unflatten(-1, (self.latents.stride, -1)).mean(2)
            off = (told.float() - true).square().mean((1, 2)) * batch["known"]
            labels = off.sum() * EVERY / len(off)  # whose mean over micro-batches is the batch's
            loss, logged = loss + config.label_weight * labels, logged | {"latent/label_loss": labels.detach()}
        return loss, logged

    @torch.no_grad()
    def evaluate(self) -> Iterator[tuple[str, Any]]:
        """What the codes tell of held-out clips, with probes that were fitted on training clips."""
        config, model = self.config, self.model.eval()
        device, codec = next(model.parameters()).device, model.codec()
        codec.vae.to(device)
        train, test = (coded(model, Latents.open(config.latents, split), count)
                       for split, count in (("train", config.probe_clips), ("test", config.heldout_clips)))  # fmt: skip
        yield from scored(model, train, test, codec)

    def summary(self, metrics: dict[str, Any]) -> str:
        """One sentence on the codes."""
        gained = f"one step is {metrics['latent/delta_psnr']:.2f} dB better under its own code than under another"
        told = metrics.get("latent/action_accuracy_linear")
        if told is not None:
            return f"{gained}, and a code tells {told:.0%} of the true actions"
        told = metrics.get("latent/action_r2_linear")
        return gained if told is None else f"{gained}, and codes tell the true actions with R² {told:.2f}"

    def export(self, out: Path) -> None:
        self.model.save(out)

    def restore(self, run: Path, device: torch.device) -> None:
        """Take the trained weights of a finished run, ready to be evaluated."""
        self.model.load_state_dict(Coder.open(run).state_dict())
        self.model.to(device).eval()

    def record_fields(self) -> dict[str, Any]:
        """Parameters, frames seen, labelled episodes, and hashes of data, autoencoder and model."""
        config, index = self.config, self.latents.index
        seen = config.train.steps * config.train.batch * (1 + self.latents.stride * (config.window - 1))
        share = {} if self.labelled is None else {"share": {"share": config.labels, **self.labelled.extent}}
        return {
            "params": {"latent-actions": sum(p.numel() for p in self.model.parameters())},
            "frames": {"seen": seen},
            **share,
            "hashes": {"data": index.data_hash, "vae": index.vae_hash, "latent-actions": self.model.hash},
        }


def coded_on(index: LatentsIndex) -> CodedOn:
    """What is to be known of the latents, to give codes to other ones of the same autoencoder."""
    return CodedOn(index.world, index.vae, index.vae_hash, index.frames, index.stride[0], tuple(index.shape),
                   index.mean, index.std, list(index.action_names))  # fmt: skip


CONFIG, TASK = LatentActionsRun, LatentActionsTask
