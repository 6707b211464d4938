"""Autoregressive generation: context in once, then one latent step after the other, for as long as one likes."""

from __future__ import annotations

import torch
from torch import Tensor

from videowm.dit import flow
from videowm.dit.model import DiT
from videowm.dit.sample import METHODS, Sampler


class LatentStream:
    """A batch of futures that are being continued.

    Guidance is batched: beside every stream runs one without its actions, or one with a noised context, each with a
    cache of its own, and their velocities are combined as v + (scale - 1) * (v - v_weaker).

    With `graph`, once the window is full, a whole latent step (all sampler steps and the pass that writes its keys) is
    one CUDA graph.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: DiT,
        context: Tensor,
        actions: Tensor,
        *,
        sampler: Sampler | None = None,
        shift: float = 1.0,
        window: int,
        generator: torch.Generator | None = None,
        graph: bool = False,
    ) -> None:
        """Read the context: clean latents "b t c h w" and their grouped actions "b t g".

        Args:
            window: latent steps seen at once, the new one included; an older context is left out.
            generator: of the noise on the context, where the sampler wants some (default: seed 0 on the CPU).
            graph: capture the latent step on a GPU.
        """
        self.model, self.sampler = model, sampler or Sampler()
        self.generator = generator or torch.Generator().manual_seed(0)
        device = context.device
        self.graph: torch.cuda.CUDAGraph | None = None
        self.use_graph = graph and device.type == "cuda"
        self.levels = self.sampler.schedule(shift)
        self.branches = self.weaker_branches()
        self.remembers_noise = any(level for _, level, _ in self.branches)
        b, known = context.shape[:2]
        first = max(0, known - window + 1)
        context, actions = context[:, first:], actions[:, first:]
        self.cache = model.new_cache(b * len(self.branches), window, sinks=self.sampler.sinks)
        # The graph reads and writes these.
        self.noise = torch.zeros_like(context[:, :1])
        self.action = torch.zeros(b, 1, actions.shape[2], device=device)
        self.written = torch.zeros_like(self.noise)
        self.step_out = torch.zeros_like(self.noise)
        self.level = self.levels_of(b, device)
        levels = self.level[:, -1:].expand(-1, context.shape[1])
        context = self.noised(context, self.draw(context), levels)
        model(context, levels, self.each_branch(actions), self.cache, write=True)

    def weaker_branches(self) -> list[tuple[float, float, bool]]:
        """(scale, level of the context, whether actions are given) of the stream itself and of what guides it."""
        sampler = self.sampler
        branches = [(1.0, sampler.context_level, True)]
        if sampler.action_guidance != 1:
            branches.append((sampler.action_guidance, sampler.context_level, False))
        if sampler.history_guidance != 1:
            branches.append((sampler.history_guidance, sampler.history_level, True))
        return branches

    def levels_of(self, b: int, device: torch.device) -> Tensor:
        """Levels "branches*b n+1" of all passes of one latent step: the sampler's, then the one that is written."""
        rows = [[*self.levels[:-1].tolist(), context] for _, context, _ in self.branches for _ in range(b)]
        return torch.tensor(rows, device=device)

    def each_branch(self, actions: Tensor) -> Tensor:
        """Actions "b t g" -> "branches*b t g", zero where a branch goes without."""
        return torch.cat([actions if given else torch.zeros_like(actions) for _, _, given in self.branches])

    def noised(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Finished latents "b t c h w" as each branch remembers them, "branches*b t c h w"."""
        count = len(self.branches)
        return flow.noised(latents.repeat(count, 1, 1, 1, 1), noise.repeat(count, 1, 1, 1, 1), level)

    def draw(self, like: Tensor) -> Tensor:
        """Noise for finished steps, where some branch wants it."""
        if not self.remembers_noise:
            return torch.zeros_like(like)
        return torch.randn(like.shape, generator=self.generator, device=self.generator.device).to(like.device)

    @torch.no_grad()
    def step(self, action: Tensor, noise: Tensor) -> Tensor:
        """The next latent step "b 1 c h w" under the grouped action "b 1 g", from the starting noise "b 1 c h w"."""
        self.action.copy_(action)
        self.noise.copy_(noise)
        if self.remembers_noise:
            self.written.copy_(self.draw(self.written))
        if self.graph is None and self.use_graph and self.cache.full:
            self.capture()
        if self.graph is not None:
            self.graph.replay()
            self.cache.next_step += 1
        else:
            self.denoise()
            self.cache.advance(1)
        return self.step_out.clone()

    def denoise(self) -> None:
        """All passes of one latent step, from `noise` to `step_out`."""
        actions = self.each_branch(self.action).expand(-1, self.level.shape[1], -1)
        modulations = self.model.modulations(self.level, actions)
        b, count = len(self.noise), len(self.branches)

        def run(x: Tensor, i: int) -> Tensor:
            return self.model.one_step(x, [m[:, i, None] for m in modulations], self.cache, static=self.use_graph)

        def velocity(x: Tensor, i: int) -> Tensor:
            first, *others = run(x.repeat(count, 1, 1, 1, 1), i).split(b)
            guided = first
            for (scale, _, _), other in zip(self.branches[1:], others, strict=True):
                guided = guided + (scale - 1) * (first - other)
            return guided

        out = METHODS[self.sampler.method](velocity, self.noise, self.levels.tolist())
        self.step_out.copy_(out)
        run(self.noised(self.step_out, self.written, self.level[:, -1:]), -1)

    def capture(self) -> None:
        """Record one latent step and the cache's advance as one CUDA graph.

        Each pass writes the present keys anew, so trial runs leave nothing; a capture computes nothing.
        """
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self.denoise()
                self.cache.prepare()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        step = self.cache.next_step
        with torch.cuda.graph(self.graph):
            self.denoise()
            self.cache.advance(1)
        self.cache.next_step = step
