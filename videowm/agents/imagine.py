"""What a frozen world model expects of courses of actions: many futures of many games, in one batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from videowm.agents.player import Seen
from videowm.device import default_device
from videowm.dit import flow
from videowm.dit.heads import Heads
from videowm.dit.sample import Sampler, sampler_of
from videowm.dit.stream import LatentStream
from videowm.pipeline import WorldModelPipeline

NARROWER = 4  # a recorded batch serves as few as a quarter of its rows; below that a narrower one is recorded
NARROWEST = 16


class Imagination:
    """A world model with heads, and how it dreams.

    On a GPU each latent step of `batch` futures is one CUDA graph, which is recorded once and then serves every
    decision: the futures' memories are copied into it.

    Args:
        pipeline, heads: on one device.
        sampler: how a latent step is drawn.
        temperature: factor of the starting noise.
        batch: futures at the same time.
        seed: of all noise.
    """

    def __init__(
        self, pipeline: WorldModelPipeline, heads: Heads, sampler: Sampler, *, temperature: float = 1.0,
        batch: int = 2048, seed: int = 0,
    ) -> None:  # fmt: skip
        self.pipeline, self.heads, self.sampler = pipeline, heads, sampler
        self.temperature, self.batch = temperature, batch
        self.device = pipeline.transformer.embed.weight.device
        self.graph = self.device.type == "cuda"
        self.generator = torch.Generator().manual_seed(seed)
        self.recorded: dict[int, LatentStream] = {}
        if self.graph:
            pipeline.transformer.compile_blocks()

    @classmethod
    def open(
        cls, run: str | Path, *, device: str | None = None, steps: int | None = None, **settings: Any
    ) -> Imagination:
        """Of a finished run with heads; in bf16 on a GPU.

        Args:
            run: the world model.
            device: None: a GPU where there is one.
            steps: Euler's steps of a latent step; None: as the run was evaluated.
            settings: as of the class.

        Raises:
            UserError: the run is not finished or has no heads.
        """
        where = torch.device(device) if device else default_device()
        pipeline = WorldModelPipeline.open(run).to(where)
        heads = Heads.open(run, pipeline.config.transformer_hash).to(where)
        if where.type == "cuda":
            pipeline.transformer.to(torch.bfloat16)
        return cls(pipeline, heads, faster(sampler_of(Path(run)), steps), **settings)

    @property
    def stride(self) -> int:
        """Frames of a latent step."""
        return self.pipeline.time_stride

    @torch.no_grad()
    def present(self, seen: Seen) -> LatentStream:
        """A stream that goes on from what players have seen; `kept` holds the features of the newest step."""
        text = self.pipeline.text_conditioning(None, len(seen.latents), 1)
        return LatentStream(self.pipeline.transformer, seen.latents.to(self.device), seen.grouped.to(self.device),
                            sampler=self.sampler, shift=self.pipeline.shift, window=self.pipeline.trained_on.window,
                            generator=self.generator, graph=self.graph, keep=self.heads.config.block,
                            **text)  # fmt: skip

    def grouped(self, actions: Float[Tensor, "m h a"]) -> Float[Tensor, "m h g"]:
        """The transformer's actions of h latent steps, each action held over the frames of its step."""
        return self.pipeline.group(actions.to(self.device).repeat_interleave(self.stride, dim=1))[:, 1:]

    def noise(self, present: LatentStream, steps: int) -> tuple[Tensor, Tensor]:
        """Starting noise of some steps, and the noise with which they are remembered; "n steps c h w" each."""
        shape = (len(present.noise), steps, *present.noise.shape[2:])
        start, past = (flow.normal(shape, self.generator, self.device) for _ in range(2))
        return self.temperature * start, past

    @torch.no_grad()
    def ahead(self, seen: Seen, grouped: Float[Tensor, "n t g"]) -> Seen:
        """What players will have seen after some more steps under known actions, as far as one dream can tell.

        Without any steps that is what they have seen, with the features of the newest step.
        """
        stream, known = self.present(seen), seen.latents.to(self.device)
        start, past = self.noise(stream, grouped.shape[1])
        grouped = grouped.to(self.device)
        dreamed = [stream.step(*(part[:, i, None] for part in (grouped, start, past))) for i in range(grouped.shape[1])]
        acted = torch.cat([seen.grouped.to(self.device), grouped], dim=1)
        return Seen(torch.cat([known, *dreamed], dim=1), acted, stream.kept, seen.games)

    @torch.no_grad()
    def returns(
        self, present: LatentStream, courses: Float[Tensor, "n N h a"], noise: tuple[Tensor, Tensor], *,
        beyond: float = 0.0,
    ) -> Float[Tensor, "n N"]:  # fmt: skip
        """What each of N courses of every row is expected to earn over h latent steps, on the CPU.

        A step's reward counts as far as the game is likely to get there. All courses of a row have its noise, so that
        only their actions tell them apart.

        Args:
            present: from `present`.
            courses: the game's actions, each held over a latent step.
            noise: from `noise`, of at least h - 1 steps.
            beyond: what a game that has not ended by then is worth.
        """
        n, each = courses.shape[:2]
        grouped, row = self.grouped(courses.flatten(0, 1)), torch.arange(n, device=self.device).repeat_interleave(each)
        parts = zip(row.split(self.batch), grouped.split(self.batch))
        return torch.cat([self.follow(present, *part, noise, beyond).cpu() for part in parts]).view(n, each)

    def follow(
        self, present: LatentStream, row: Int[Tensor, " m"], grouped: Float[Tensor, "m h g"],
        noise: tuple[Tensor, Tensor], beyond: float,
    ) -> Float[Tensor, " m"]:  # fmt: skip
        """Expected returns of one batch of courses; `row` says whose each is."""
        count, width = len(row), self.width(len(row))
        padded = torch.arange(width, device=self.device).clamp_max(count - 1)
        row, grouped = row[padded], grouped[padded]
        stream = self.fork(present, row)
        earned, alive = torch.zeros(width, device=self.device), torch.ones(width, device=self.device)
        for step in range(grouped.shape[1]):
            here = grouped[:, step, None]
            if step:
                stream.step(grouped[:, step - 1, None], *(part[row, step - 1, None] for part in noise))
            read = self.heads.read(stream.kept[:, None], here)
            earned += alive * read.reward[:, 0]
            alive *= 1 - read.death[:, 0]
        return (earned + beyond * alive)[:count]

    def width(self, count: int) -> int:
        """How many rows the stream for `count` futures has: on a GPU one of few, since each is recorded."""
        width = self.batch if self.graph else count
        while self.graph and count <= width // NARROWER and width // NARROWER >= NARROWEST:
            width //= NARROWER
        return width

    def fork(self, present: LatentStream, row: Int[Tensor, " m"]) -> LatentStream:
        """A stream of as many futures, each from the present of its row."""
        if not self.graph:
            return present.select(row.tolist())
        if len(row) not in self.recorded:
            self.recorded[len(row)] = present.select(row.tolist())
        self.recorded[len(row)].take(present, row)
        return self.recorded[len(row)]


def faster(sampler: Sampler, steps: int | None) -> Sampler:
    """A sampler of so many of Euler's steps, for planning; None: as it is."""
    return sampler if steps is None else replace(sampler, method="euler", steps=steps, levels=None)
