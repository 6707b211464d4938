"""What a frozen world model expects of courses of actions: many futures of many games, in one batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from videowm.agents.goal import Goal
from videowm.agents.player import Seen
from videowm.device import default_device
from videowm.dit import flow
from videowm.dit.heads import Heads
from videowm.dit.sample import Sampler, sampler_of
from videowm.dit.stream import LatentStream
from videowm.pipeline import WorldModelPipeline

NARROWER = 4  # a recorded batch serves as few as a quarter of its rows; below that a narrower one is recorded
NARROWEST = 32


class Imagination:
    """A world model with heads, and how it dreams.

    Courses of one row that begin alike share what is dreamed of them. On a GPU each latent step of `batch` futures is
    one CUDA graph, which is recorded once and then serves every decision: the futures' memories are copied into it.

    Args:
        pipeline, heads: on one device.
        sampler: how a latent step is drawn.
        temperature: factor of the starting noise.
        batch: futures at the same time.
        seed: of all noise.
        graph: whether steps are recorded, on a GPU.
    """

    def __init__(
        self, pipeline: WorldModelPipeline, heads: Heads, sampler: Sampler, *, temperature: float = 1.0,
        batch: int = 2048, seed: int = 0, graph: bool = True,
    ) -> None:  # fmt: skip
        self.pipeline, self.heads, self.sampler = pipeline, heads, sampler
        self.temperature, self.batch = temperature, batch
        self.device = pipeline.transformer.embed.weight.device
        self.graph = graph and self.device.type == "cuda"
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
                            generator=self.generator, keep=self.heads.config.block, **text)  # fmt: skip

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
        beyond: float = 0.0, goal: Goal | None = None,
    ) -> Float[Tensor, "n N"]:  # fmt: skip
        """What each of N courses of every row is expected to earn over h latent steps, on the CPU.

        A step's reward counts as far as the game is likely to get there. All courses of a row have its noise, so that
        only their actions tell them apart.

        Args:
            present: from `present`.
            courses: the game's actions, each held over a latent step.
            noise: from `noise`, of at least h - 1 steps, with a goal of h.
            beyond: what a game that has not ended by then is worth.
            goal: a course is worth the mean nearness of its steps, and no reward.
        """
        n, each = courses.shape[:2]
        row = torch.arange(n).repeat_interleave(each)
        parts = zip(row.split(self.batch), courses.flatten(0, 1).split(self.batch))
        return torch.cat([self.follow(present, *part, noise, beyond, goal).cpu() for part in parts]).view(n, each)

    def follow(
        self, present: LatentStream, row: Int[Tensor, " m"], courses: Float[Tensor, "m h a"],
        noise: tuple[Tensor, Tensor], beyond: float, goal: Goal | None,
    ) -> Float[Tensor, " m"]:  # fmt: skip
        """Expected returns of one batch of courses; `row` says whose each is."""
        earned, alive = (torch.full((len(row),), value, device=self.device) for value in (0.0, 1.0))
        grouped, row, stream, held = self.grouped(courses), row.to(self.device), present, 0
        branches = [[part.to(self.device) for part in step] for step in tree(row.cpu(), courses)]
        for step, (parent, course, node) in enumerate(branches):
            padded = torch.arange(self.width(len(parent)), device=self.device).clamp_max(len(parent) - 1)
            acted = grouped[course[padded], step, None]
            if goal is None:
                read = self.heads.read(stream.kept[parent[padded], None], acted)
                earned += alive * read.reward[node, 0]
                alive *= 1 - read.death[node, 0]
                if step + 1 == len(branches):
                    break
            if len(parent) != held:  # else each goes on in its place
                stream, held = self.fork(stream, parent[padded]), len(parent)
            made = stream.step(acted, *(part[row[course[padded]], step, None] for part in noise))
            if goal is not None:
                earned += goal.nearness(made[:, 0])[node] / len(branches)
        return earned + beyond * alive

    def width(self, count: int) -> int:
        """How many rows the stream for `count` futures has: on a GPU one of few, since each is recorded."""
        width = self.batch if self.graph else count
        while self.graph and count <= width // NARROWER and width // NARROWER >= NARROWEST:
            width //= NARROWER
        return width

    def fork(self, stream: LatentStream, row: Int[Tensor, " m"]) -> LatentStream:
        """A stream of as many futures, each from a row of another one."""
        if not self.graph:
            return stream.select(row.tolist())
        if len(row) not in self.recorded:
            self.recorded[len(row)] = stream.select(row.tolist())
            self.recorded[len(row)].use_graph = row.is_cuda
        self.recorded[len(row)].take(stream, row)
        return self.recorded[len(row)]


def tree(row: Int[Tensor, " m"], courses: Float[Tensor, "m h a"]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What must be dreamed once for all courses of a row that begin alike, step by step.

    Yields:
        of each node of the step: its node of the step before (at first the row), and a course through it; then each
        course's node.
    """
    weight = torch.linspace(1, 2, courses.shape[2], dtype=torch.float64).sqrt()  # so that unlike actions differ
    number = torch.unique(courses.double() @ weight, return_inverse=True)[1]
    for step in number.unbind(1):
        keys, node = torch.unique(row * (len(courses) * courses.shape[1]) + step, return_inverse=True)
        course = torch.empty_like(keys).scatter_(0, node, torch.arange(len(courses)))
        yield row[course], course, node
        row = node


def faster(sampler: Sampler, steps: int | None) -> Sampler:
    """A sampler of so many of Euler's steps, for planning; None: as it is."""
    return sampler if steps is None else replace(sampler, method="euler", steps=steps, levels=None)
