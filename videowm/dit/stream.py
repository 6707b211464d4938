"""Autoregressive generation: context in once, then one latent step after the other, for as long as one likes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from videowm.dit import flow, shortcut
from videowm.dit.cache import KVCache
from videowm.dit.model import DiT, Tap
from videowm.dit.sample import METHODS, Sampler
from videowm.dit.text import TextConditioning, TextTokens
from videowm.types import UserError

Each = Callable[[int, Tensor], bool]  # (number of a finished step, its latents "b 1 c h w") -> whether to end there


class GuidanceBranch(NamedTuple):
    """The stream itself, or a weaker pass over the same latents, with less conditioning, that guides it."""

    scale: float
    level: float  # of the context, as it is remembered
    actions: bool = True  # False: without actions
    text: bool = True  # False: under the empty text


class LatentStream:
    """A batch of futures, continued one latent step at a time in memory that does not grow.

    Guidance is batched: beside every stream runs one without its actions, one without its text or one with a noised
    context, each with a cache of its own. Velocities are combined as v + (scale - 1) * (v - v_weaker), classifier-free
    guidance (arXiv 2207.12598, equation 6, w = scale - 1).

    Rows may begin anew from contexts of their own while the others go on (`reset`), as environments do.

    With `graph`, once the window is full, a whole latent step (all sampler steps and the pass that writes its keys) is
    one CUDA graph. After a reset it is another one, which masks what is not a row's own, until all windows are full.
    """

    @torch.no_grad()
    def __init__(
        self, model: DiT, context: Float[Tensor, "b t c h w"], actions: Float[Tensor, "b t g"], *,
        sampler: Sampler | None = None, shift: float = 1.0, window: int, generator: flow.Generators = None,
        graph: bool = False, text: TextTokens | None = None, empty: TextTokens | None = None, tap: Tap | None = None,
        past_noise: Float[Tensor, "b t c h w"] | None = None, keep: int | None = None,
    ) -> None:  # fmt: skip
        """Read the context: clean latents and their grouped actions.

        Args:
            sampler: how a latent step is drawn (default: `Sampler()`).
            shift: of the model's noise schedule, unless the sampler has its own.
            window: latent steps seen at once, the new one included; an older context is left out.
            generator: of the noise on the context, where the sampler wants some (default: seed 0 on the CPU).
            graph: capture the latent step on a GPU.
            text: of a model with text, one for each clip; `empty` is the empty one, a single row, for guidance.
            past_noise: the noise on the context itself, instead of a generator.
            tap: sees and may replace the residual streams (`videowm.dit.model.Tap`) of every pass: the context's,
                each sampler evaluation's, and the one that writes a finished step. Guidance branches follow one
                another along b, the guided stream first.
            keep: the block whose residual stream at its end stays in `kept` "b s d", of each row's newest finished
                step as it is remembered. A CUDA graph keeps it too.

        Raises:
            UserError: a guidance that the model cannot have, or `graph` beside `tap`.
        """
        if graph and tap is not None:
            raise UserError(
                "graph=True and a tap were given, but a CUDA graph replays no Python: leave out one of them"
            )
        self.model, self.sampler, self.tap = model, sampler or Sampler(), tap
        self.generator = generator or torch.Generator().manual_seed(0)
        device = context.device
        self.graphs: dict[bool, torch.cuda.CUDAGraph] = {}  # of full windows, and of others
        self.use_graph = graph and device.type == "cuda"
        self.levels = self.sampler.schedule(shift)
        self.branches = self.weaker_branches()
        self.remembers_noise = any(branch.level for branch in self.branches)
        b, self.window, self.was_reset = len(context), window, False
        self.cache = model.new_cache(b * len(self.branches), window, sinks=self.sampler.sinks)
        # The graph reads and writes these.
        self.noise = torch.zeros_like(context[:, :1])
        self.action = torch.zeros(b, 1, actions.shape[2], device=device)
        self.written = torch.zeros_like(self.noise)
        self.step_out = torch.zeros_like(self.noise)
        self.level = self.levels_of(b, device)
        self.network_level = self.network_level_of(self.level, shift)
        self.text = self.text_of(text, empty)
        self.keep = keep
        self.kept = None if keep is None else model.embed.weight.new_zeros(b, model.tokens, model.hidden)
        self.read(self.cache, context, actions, past_noise, torch.arange(len(self.level), device=device),
                  self.generator)  # fmt: skip

    def read(
        self, cache: KVCache, context: Float[Tensor, "r t c h w"], actions: Float[Tensor, "r t g"],
        past_noise: Float[Tensor, "r t c h w"] | None, rows: Int[Tensor, " all"], generator: flow.Generators,
    ) -> None:  # fmt: skip
        """Read contexts, as much as the window sees, into an empty cache; `rows` are theirs in all branches."""
        first, level = max(0, context.shape[1] - self.window + 1), self.level[rows, -1:]
        context, actions = context[:, first:], actions[:, first:]
        noise = self.past_noise(context, None if past_noise is None else past_noise[:, first:], generator)
        self.model(self.noised(context, noise, level), level.expand(-1, context.shape[1]), self.each_branch(actions),
                   cache, text=self.text.of_rows(rows), write=True,
                   tap=self.finishing(rows[: len(rows) // len(self.branches)]))  # fmt: skip

    def finishing(self, rows: Int[Tensor, " r"] | None = None) -> Tap | None:
        """The tap of a pass over finished steps, which also keeps the last one's features; of all rows, or of some."""
        if self.keep is None:
            return self.tap

        def tap(block: int, stream: Float[Tensor, "all t s d"]) -> Float[Tensor, "all t s d"]:
            if block == self.keep and rows is None:
                self.kept.copy_(stream[: len(self.kept), -1])  # the guided stream comes first
            elif block == self.keep:
                self.kept.index_copy_(0, rows, stream[: len(rows), -1])
            return stream if self.tap is None else self.tap(block, stream)

        return tap

    @torch.no_grad()
    def reset(
        self, rows: Sequence[int], context: Float[Tensor, "r t c h w"], actions: Float[Tensor, "r t g"],
        past_noise: Float[Tensor, "r t c h w"] | None = None,
    ) -> None:  # fmt: skip
        """Let some rows of the batch begin anew from contexts of their own, under their texts of before.

        Args:
            rows: their numbers, each once.
            context, actions, past_noise: as at the beginning, for these rows.

        Raises:
            UserError: rows that are not there or not of the contexts' number, or contexts shorter than the sinks.
        """
        b, sinks = len(self.noise), self.sampler.sinks
        if len(set(rows) & set(range(b))) != len(rows) or len(rows) != len(context):
            raise UserError(
                f"rows {list(rows)} cannot begin anew from {len(context)} contexts: give one for each row of 0 to "
                f"{b - 1}, each row once"
            )
        if min(context.shape[1], self.cache.held) < sinks:
            raise UserError(f"{sinks} sinks and a context of {context.shape[1]} latent steps do not fit: give "
                            f"{sinks} or more to all rows")  # fmt: skip
        device, branches = self.noise.device, len(self.branches)
        of_branch = torch.arange(branches, device=device)[:, None] * b
        every = (of_branch + torch.tensor(list(rows), device=device)).flatten()
        fresh = self.cache.fresh(len(every), min(context.shape[1], self.window - 1))
        own = self.generator
        if isinstance(own, Sequence):
            own = [own[row * len(own) // b] for row in rows]
        self.read(fresh, context, actions, past_noise, every, own)
        self.cache.reset(every, fresh)
        self.was_reset = True

    def weaker_branches(self) -> list[GuidanceBranch]:
        """The stream itself, then what guides it."""
        sampler = self.sampler
        branches = [GuidanceBranch(1.0, sampler.context_level)]
        if sampler.action_guidance != 1:
            branches.append(GuidanceBranch(sampler.action_guidance, sampler.context_level, actions=False))
        if sampler.text_guidance != 1:
            branches.append(GuidanceBranch(sampler.text_guidance, sampler.context_level, text=False))
        if sampler.history_guidance != 1:
            branches.append(GuidanceBranch(sampler.history_guidance, sampler.history_level))
        return branches

    def text_of(self, text: TextTokens | None, empty: TextTokens | None) -> TextConditioning:
        """The text conditioning of all branches, computed once for the whole stream.

        Raises:
            UserError: the sampler's text guidance is not 1, and the text or the empty text is missing.
        """
        if text is None or empty is None:
            if self.sampler.text_guidance != 1:
                raise UserError(f"sampler.text_guidance {self.sampler.text_guidance} needs a model with text: leave 1")
            return self.model.text_conditioning(*(text or ()))
        given = [text if b.text else [part.expand_as(like) for part, like in zip(empty, text)] for b in self.branches]
        return self.model.text_conditioning(*(torch.cat(parts) for parts in zip(*given)))

    def levels_of(self, b: int, device: torch.device) -> Float[Tensor, "all passes"]:
        """Levels of all passes of one latent step: the sampler's, then the finished step's; all = branches * b."""
        rows = [[*self.levels[:-1].tolist(), branch.level] for branch in self.branches for _ in range(b)]
        return torch.tensor(rows, device=device)

    def network_level_of(
        self, level: Float[Tensor, "all passes"], shift: float
    ) -> Float[Tensor, "all passes"] | Float[Tensor, "all passes 2"]:
        """The network's level input: the levels, for a shortcut model with each pass's step size."""
        if not self.model.config.shortcut:
            return level
        return shortcut.level_with_step_size(level, torch.tensor([*self.sampler.powers(shift), 0], device=level.device))

    def each_branch(self, actions: Float[Tensor, "b t g"]) -> Float[Tensor, "all t g"]:
        """The actions of all branches, zeros for one without; all = branches * b."""
        return torch.cat([actions if branch.actions else torch.zeros_like(actions) for branch in self.branches])

    def noised(
        self, latents: Float[Tensor, "b t c h w"], noise: Float[Tensor, "b t c h w"], level: Float[Tensor, "all 1"]
    ) -> Float[Tensor, "all t c h w"]:
        """Finished latents as the branches remember them; all = branches * b."""
        count = len(self.branches)
        return flow.noised(latents.repeat(count, 1, 1, 1, 1), noise.repeat(count, 1, 1, 1, 1), level)

    def past_noise(
        self, like: Float[Tensor, "b t c h w"], given: Float[Tensor, "b t c h w"] | None, generator: flow.Generators
    ) -> Float[Tensor, "b t c h w"]:
        """Noise for finished steps: the caller's or a new one; zeros where no branch remembers them noised."""
        if not self.remembers_noise:
            return torch.zeros_like(like)
        if given is not None:
            return given.to(like)
        return flow.normal(like.shape, generator, like.device)

    @torch.no_grad()
    def step(
        self, action: Float[Tensor, "b 1 g"], noise: Float[Tensor, "b 1 c h w"],
        past_noise: Float[Tensor, "b 1 c h w"] | None = None,
    ) -> Float[Tensor, "b 1 c h w"]:  # fmt: skip
        """The next latent step under a grouped action, from its starting noise.

        `past_noise` is the noise with which the finished step is remembered, instead of the generator's.
        """
        self.action.copy_(action)
        self.noise.copy_(noise)
        if self.remembers_noise:
            self.written.copy_(self.past_noise(self.written, past_noise, self.generator))
        full = self.cache.full
        if self.use_graph and full not in self.graphs and (full or self.was_reset):
            self.capture()
        if full in self.graphs:
            self.graphs[full].replay()
            self.cache.next_step += 1
        else:
            self.denoise()
            self.cache.advance(1)
        return self.step_out.clone()

    @torch.no_grad()
    def see(
        self, action: Float[Tensor, "b 1 g"], latents: Float[Tensor, "b 1 c h w"],
        past_noise: Float[Tensor, "b 1 c h w"] | None = None,
    ) -> None:  # fmt: skip
        """Remember the next latent step as it was given, under the grouped action that led to it: nothing is drawn.

        What follows, and `kept`, are those of a stream whose context had this step too.
        """
        self.action.copy_(action)
        self.step_out.copy_(latents)
        if self.remembers_noise:
            self.written.copy_(self.past_noise(self.written, past_noise, self.generator))
        modulations = self.model.modulations(self.network_level[:, -1:], self.each_branch(self.action), self.text)
        given = self.noised(self.step_out, self.written, self.level[:, -1:])
        self.model.one_step(given, [m[:, 0, None] for m in modulations], self.cache, self.text,
                            static=self.use_graph, tap=self.finishing())  # fmt: skip
        self.cache.advance(1)

    def select(self, rows: Sequence[int]) -> LatentStream:
        """A stream of its own that goes on from some rows of this one, in that order; a row may come several times."""
        b, other, device = len(self.noise), copy.copy(self), self.noise.device
        own = torch.tensor(list(rows), device=device)
        every = torch.cat([own + i * b for i in range(len(self.branches))])
        other.graphs, other.cache, other.text = {}, self.cache.select(every), self.text.of_rows(every)
        other.level, other.network_level = self.level[every], self.network_level[every]
        for name in ("noise", "action", "written", "step_out", *(["kept"] if self.keep is not None else [])):
            setattr(other, name, getattr(self, name)[own])
        return other

    @torch.no_grad()
    def take(self, other: LatentStream, rows: Int[Tensor, " b"]) -> None:
        """Go on from rows of a stream of the same model and sampler, in this one's own memory and under its text.

        As `select`, but a CUDA graph that this stream has recorded goes on to serve. The other may be this one.
        """
        every = torch.cat([rows + i * len(other.noise) for i in range(len(self.branches))])
        self.cache.take(other.cache, every)
        if self.keep is not None:
            self.kept.copy_(other.kept[rows])
        self.was_reset = True  # also record the graph for windows that are not full

    def denoise(self) -> None:
        """All passes of one latent step, from `noise` to `step_out`."""
        actions = self.each_branch(self.action).expand(-1, self.level.shape[1], -1)
        modulations = self.model.modulations(self.network_level, actions, self.text)
        b, count = len(self.noise), len(self.branches)

        def run(x: Float[Tensor, "b 1 c h w"], i: int, tap: Tap | None) -> Float[Tensor, "b 1 c h w"]:
            here = [m[:, i, None] for m in modulations]
            return self.model.one_step(x, here, self.cache, self.text, static=self.use_graph, tap=tap)

        def velocity(x: Float[Tensor, "b 1 c h w"], i: int) -> Float[Tensor, "b 1 c h w"]:
            first, *others = run(x.repeat(count, 1, 1, 1, 1), i, self.tap).split(b)
            guided = first
            for branch, other in zip(self.branches[1:], others, strict=True):
                guided = guided + (branch.scale - 1) * (first - other)
            return guided

        out = METHODS[self.sampler.method](velocity, self.noise, self.levels.tolist())
        self.step_out.copy_(out)
        run(self.noised(self.step_out, self.written, self.level[:, -1:]), -1, self.finishing())

    def capture(self) -> None:
        """Capture one latent step and the cache's advance as one CUDA graph.

        Each pass writes the present keys anew, so trial runs leave nothing; a capture computes nothing.
        """
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self.denoise()
                self.cache.prepare()
        torch.cuda.current_stream().wait_stream(side)
        graph, step = torch.cuda.CUDAGraph(), self.cache.next_step
        self.graphs[self.cache.full] = graph
        with torch.cuda.graph(graph):
            self.denoise()
            self.cache.advance(1)
        self.cache.next_step = step


def rollout(
    transformer: DiT, context: Float[Tensor, "b t c h w"], actions: Float[Tensor, "b all g"],
    noise: Float[Tensor, "b n c h w"], *, sampler: Sampler | None = None, shift: float = 1.0,
    window: int | None = None, generator: flow.Generators = None, text: TextTokens | None = None,
    empty: TextTokens | None = None, past_noise: Float[Tensor, "b all c h w"] | None = None, tap: Tap | None = None,
    each: Each | None = None,
) -> Float[Tensor, "b made c h w"]:  # fmt: skip
    """The n latent steps after a context of t, each predicted from those before it; all = t + n.

    Args:
        context: clean, normalised latents, at least one step.
        actions: grouped actions of context and future.
        noise: starting noise of the future steps.
        shift: of the schedule, unless the sampler has its own.
        window: latent steps seen at once, the new one included; None: all.
        generator: of the noise on finished steps, where the sampler wants some.
        text, empty: of a model with text: one for each context, and the empty one.
        past_noise: the noise on context and finished steps itself, instead of a generator.
        tap: as in `LatentStream`.
        each: called with the number (from 0) and the latents "b 1 c h w" of every finished step; True ends there.

    Raises:
        UserError: a guidance that the model cannot have.
    """
    known, count = context.shape[1], noise.shape[1]
    past = [None] * (known + count) if past_noise is None else past_noise.split(1, dim=1)
    stream = LatentStream(transformer, context, actions[:, :known], sampler=sampler, shift=shift,
                          window=window or known + count, generator=generator, text=text, empty=empty,
                          past_noise=None if past_noise is None else past_noise[:, :known], tap=tap)  # fmt: skip
    predicted: list[Tensor] = []
    for i in range(known, known + count):
        predicted.append(stream.step(actions[:, i, None], noise[:, i - known, None], past[i]))
        if each is not None and each(i - known, predicted[-1]):
            break
    return torch.cat(predicted, dim=1)
