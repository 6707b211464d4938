"""A finished run, opened once and shared by all players."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import torch

from videowm.actions.tables import NO_ACTIONS
from videowm.data.dataset import Dataset
from videowm.dit.heads import FOLDER as HEADS
from videowm.dit.heads import Heads
from videowm.dit.sample import Sampler, sampler_of
from videowm.evaluate import explorer, probe_record
from videowm.evaluate.explorer import Directions
from videowm.pipeline import WorldModelPipeline
from videowm.play.messages import Direction, Run
from videowm.record import RunRecord
from videowm.types import UserError

DIRECTIONS, CLIPS = 8, 32  # sliders, and about how many held-out clips they are found from


@dataclass
class Model:
    """A world model, how it draws a latent step, and what is known of it.

    `lock` is held while any model computes: an autoencoder's layers may keep a stream's past for the time of a call.
    """

    name: str
    pipeline: WorldModelPipeline
    sampler: Sampler
    depth: int
    flops: float | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)
    run: Path | None = None  # where a probe may have left its record
    found: tuple[Directions, list[Direction]] | None = None
    heads: Heads | None = None  # that read rewards and ends, where it has some

    @classmethod
    def open(cls, run: Path, device: torch.device, lock: threading.RLock) -> Model:
        """A finished run, in bf16 on a GPU.

        Raises:
            UserError: it is not finished, or damaged.
        """
        pipeline = WorldModelPipeline.open(run).to(device)
        if device.type == "cuda":
            pipeline.transformer.to(torch.bfloat16)
        record = RunRecord.read(run)
        has = (run / HEADS / "config.json").exists()
        heads = Heads.open(run, pipeline.config.transformer_hash).to(device) if has else None
        return cls(run.name, pipeline, sampler_of(run), pipeline.transformer.depth, record.flops.get("train"), lock,
                   run, heads=heads)  # fmt: skip

    @property
    def stride(self) -> int:
        """Frames of a latent step."""
        return self.pipeline.time_stride

    @property
    def context_frames(self) -> int:
        """Frames that fill the window of the first predicted step."""
        return 1 + self.stride * max(0, self.pipeline.trained_on.window - 2)

    def about(self) -> Run:
        """What the page says of it."""
        parameters = list(self.pipeline.transformer.parameters())
        trained_on = self.pipeline.trained_on
        return Run(name=self.name, depth=self.depth, parameters=sum(p.numel() for p in parameters), flops=self.flops,
                   stride=self.stride, steps=self.sampler.steps, text=self.pipeline.reads is not None,
                   guidance=trained_on.drop_actions > 0,
                   bytes=sum(p.numel() * p.element_size() for p in parameters))  # fmt: skip

    def directions(self, dataset: Dataset) -> tuple[Directions, list[Direction]]:
        """The principal directions of its latents over held-out clips, then those that a probe found; found once.

        Raises:
            UserError: no held-out episode is as long as a clip.
        """
        with self.lock:
            if self.found is None:
                explored = explorer.explore(self.pipeline.codec, dataset, clips=CLIPS)
                count = min(DIRECTIONS, *(n - 1 for n in explored.latents.shape))
                found = explorer.principal_directions(explored.latents, count)
                rows = explorer.correlations(explored, found)
                principal = [Direction(share=r["explained"], best=r["best"], r2=r["r2"]) for r in rows]
                self.found = self.with_probed(found, principal)
        return self.found

    def with_probed(self, found: Directions, rows: list[Direction]) -> tuple[Directions, list[Direction]]:
        """Directions and those of the probe's record that lies in the run, if there is one."""
        record = probe_record.read(self.run, self.pipeline.trained_on.vae_hash) if self.run else None
        if record is None:
            return found, rows
        probed, factors = record
        axes, std = (torch.cat([a, b.to(a)]) for a, b in ((found.axes, probed.axes), (found.std, probed.std)))
        more = [Direction(share=share, best=name, r2=score, probed=True)
                for share, (name, score) in zip(probed.explained, factors, strict=True)]  # fmt: skip
        return Directions(found.mean, axes, std, [*found.explained, *probed.explained]), [*rows, *more]


def check_together(models: list[Model], dataset: Dataset) -> None:
    """Refuse models that cannot play under the same keys, or not from this recording.

    Raises:
        UserError: worlds, actions or frames differ.
    """
    first = models[0].pipeline.trained_on
    for model in models[1:]:
        other = model.pipeline.trained_on
        if (other.world, other.action_names) != (first.world, first.action_names):
            raise UserError(
                f"{model.name} plays {other.world} ({', '.join(other.action_names)}), {models[0].name} {first.world} "
                f"({', '.join(first.action_names)}): name runs of one world"
            )
    if first.action_names == [NO_ACTIONS] and dataset.recorded.action_names != (NO_ACTIONS,):
        raise UserError(f"{models[0].name} was trained with actions=none, so no key would move it: play a run with "
                        "actions=recorded, or continue frames with videowm generate")  # fmt: skip
    if list(dataset.action_names) != list(first.action_names):
        raise UserError(
            f"{dataset.root} has the actions {', '.join(dataset.action_names)}, {models[0].name} takes "
            f"{', '.join(first.action_names)}: give --from a recording of {first.world}"
        )
    for model in models:
        shape, stride = model.pipeline.transformer.config, model.pipeline.codec.stride
        size = (shape.height * stride[1], shape.width * stride[2])
        if size != dataset.size:
            raise UserError(f"{dataset.root} has frames of {dataset.size}, {model.name} takes {size}: give another "
                            "--from")  # fmt: skip
