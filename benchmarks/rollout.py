"""Autoregressive rollouts: ours with cache and CUDA graph, beside diffusers' Wan with a recomputed window and a graph.

A frame here is one latent step; decoding it is not counted. Ours sees 16 finished steps beside the new one, takes the
sampler's steps and one more pass that writes the finished step's keys; bf16 weights, compiled blocks, one graph a
latent step. Wan has equal parameters, a window of 16 steps, one noise level for all of it (telling context and new
step apart would cost it more) and no pass to write; its 10 forwards are one graph. Each of our rows is checked
by what the sampler adds to its starting noise, in relative L2 distance:

- the graphed step against Euler's method over the plain model on the whole sequence, nothing cached or compiled;
- two more graphed steps against a stream with a cache but neither graph nor compilation.

It is right if it is no further from the fp32 answer than 1.5 x the plain model in bf16 is. How far off a stream would
be that had forgotten the oldest of the 16 steps stands beside it (2.6 x at 33M on a CPU).

    python benchmarks/rollout.py --out rollout.json      # all rows
    python benchmarks/rollout.py --size tiny             # on a CPU, seconds
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import cycle

import timing
import torch
from diffusers.utils import logging
from peers import SIZES, Work, build, depth_of, on_meta, parameters
from torch import Tensor

from videowm.dit import DiT
from videowm.dit.sample import Sampler, schedule
from videowm.dit.stream import LatentStream

CONTEXT = 16  # finished latent steps that are seen
TOLERANCE = 1.5  # times the error of the plain model in bf16, against fp32
# (size, tokens a step, streams, sampler steps) -> bar of the issue in frames/s of all streams
OURS = {
    ("B", 64, 1, 10): 120, ("B", 256, 1, 10): 80, ("B", 64, 32, 10): 1500, ("S", 64, 1, 3): 335, ("S", 64, 32, 3): None,
    ("L", 64, 1, 10): 60, ("L", 256, 1, 10): 38, ("L", 64, 32, 10): None, ("tiny", 64, 1, 3): None,
    ("tiny", 64, 2, 3): None,
}  # fmt: skip
WAN = [("B", 64, 1, 10), ("B", 256, 1, 10), ("tiny", 64, 1, 3)]
COLUMNS = {
    "size": ("size", ""), "tokens": ("tokens/step", "d"), "streams": ("streams", "d"), "steps": ("sampler steps", "d"),
    "model": ("model", ""), "mode": ("mode", ""), "parameters": ("params M", ".1f"), "ms": ("ms/latent step", ".2f"),
    "ms_min": ("min", ".2f"), "ms_mean": ("mean", ".2f"), "fps": ("latent steps/s, all streams", ".1f"),
    "gib": ("peak GiB", ".2f"), "first_s": ("first step s", ".0f"), "off_plain": ("vs plain bf16", ".1e"),
    "off_bf16": ("plain bf16 vs fp32", ".1e"), "times": ("error / that", ".2f"),
    "times_blind": ("one step less / that", ".2f"), "right": ("right", ""),
}  # fmt: skip


def distance(a: Tensor, b: Tensor) -> float:
    """Relative L2 distance of `a` from `b`."""
    return ((a - b).norm() / b.norm()).item()


@torch.no_grad()
def plain_step(model: DiT, context: Tensor, actions: Tensor, noise: Tensor, levels: list[float]) -> Tensor:
    """One latent step "b 1 c h w" by Euler's method, the whole sequence through the model at every level."""
    x = noise
    for now, after in zip(levels, levels[1:]):
        level = torch.zeros(actions.shape[:2], device=noise.device)
        level[:, -1] = now
        x = x + (after - now) * model(torch.cat([context, x], dim=1), level, actions)[:, -1:]
    return x


def euler(steps: int) -> Sampler:
    """What is timed: every step one evaluation, the past left as it is."""
    return Sampler(steps, "euler", context_level=0.0)


def model_in(dtype: torch.dtype, work: Work) -> DiT:
    """Our model, always with the same weights, rounded to bf16."""
    return build("ours", work, timing.device()).net.to(torch.bfloat16).to(dtype).eval()


def check(added: list[Tensor], work: Work, context: Tensor, actions: Tensor, noises: Tensor, steps: int) -> dict:
    """Judge what a stream added to its noise, "b 1 c h w" at each of its first steps, by the plain model."""
    levels, end, few = schedule(steps).tolist(), CONTEXT + 1, slice(min(2, len(context)))  # the first two streams
    context, actions, noises = context[few], actions[few], noises[few]
    noise, answers = noises[:, :1], {}
    for dtype in (torch.bfloat16, torch.float32):
        plain = model_in(dtype, work)
        blind = plain_step(plain, context[:, 1:], actions[:, 1:end], noise, levels) - noise
        answers[dtype] = [plain_step(plain, context, actions[:, :end], noise, levels) - noise]
        slow = LatentStream(plain, context, actions[:, :CONTEXT], sampler=euler(steps), window=end)
        answers[dtype] += [step(slow, actions, noises, i) for i in range(len(added))][1:]
    rounded, exact = answers.values()
    costs = [distance(a, b) for a, b in zip(rounded, exact)]
    times = max(distance(a[few], b) / cost for a, b, cost in zip(added, exact, costs))
    return {
        "off_plain": distance(added[0][few], rounded[0]),
        "off_bf16": costs[0],
        "times": times,
        "times_blind": distance(blind, exact[0]) / costs[0],
        "right": "yes" if times <= TOLERANCE else "NO",
    }


def step(stream: LatentStream, actions: Tensor, noises: Tensor, i: int) -> Tensor:
    """Take step `i` after the context; what it added to its noise, "b 1 c h w"."""
    return stream.step(actions[:, CONTEXT + i, None], noises[:, i, None]) - noises[:, i, None]


def ours(work: Work, streams: int, steps: int, options: argparse.Namespace) -> dict:
    """Measure our stream of `streams` rollouts, once it is found right."""
    model = model_in(torch.bfloat16, work)
    if compiled(options):
        model.compile_blocks()
    context, _, _, noises = work.batch(streams, timing.device())
    actions = torch.randn(streams, 2 * CONTEXT, work.actions, device=timing.device())
    began = time.perf_counter()
    stream = LatentStream(model, context, actions[:, :CONTEXT], sampler=euler(steps), window=CONTEXT + 1, graph=True)
    added = [step(stream, actions, noises, i) for i in range(3)]
    first = {"first_s": time.perf_counter() - began}
    off = check(added, work, context, actions, noises, steps)
    timing.say(f"  right: {off['right']}; {off['off_plain']:.1e} from plain bf16, itself {off['off_bf16']:.1e} "
               f"from fp32; {off['times']:.2f} x that error, one step less: {off['times_blind']:.2f} x")  # fmt: skip
    turn = cycle(range(CONTEXT))
    return vars(timing.measure(lambda: step(stream, actions, noises, next(turn)), options.seconds)) | first | off


class Window:
    """Wan's rollout: the whole window goes through the model at every sampler step."""

    @torch.no_grad()
    def __init__(self, model: torch.nn.Module, work: Work, streams: int, steps: int) -> None:
        self.model, self.levels = model, schedule(steps).tolist()
        self.latents, _, actions, _ = work.batch(streams, timing.device())
        self.latents, self.actions = self.latents.bfloat16(), actions.bfloat16()
        self.level = [torch.full(actions.shape[:2], level, device=timing.device()) for level in self.levels[:-1]]
        self.noise = torch.randn_like(self.latents[:, -1:])
        self.graph = captured(self.denoise) if timing.device().type == "cuda" else None

    @torch.no_grad()
    def denoise(self) -> None:
        """All passes of one latent step, from `noise` to the window's last place, then on by one."""
        x = self.noise
        for i, level in enumerate(self.level):
            self.latents[:, -1:] = x
            velocity = self.model(self.latents, level, self.actions)[:, -1:]
            x = x + (self.levels[i + 1] - self.levels[i]) * velocity
        self.latents[:, -1:] = x
        self.latents.copy_(self.latents.roll(-1, dims=1))

    def step(self, noise: Tensor) -> Tensor:
        """The next latent step "b 1 c h w" from its noise."""
        self.noise.copy_(noise)
        if self.graph is not None:
            self.graph.replay()
        else:
            self.denoise()
        return self.latents[:, -2:-1].clone()


def captured(run: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """`run` as one CUDA graph, after two runs on a stream beside, which compile what is to be compiled."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def wan(work: Work, streams: int, steps: int, options: argparse.Namespace) -> dict:
    """Measure diffusers' Wan on its window of 16 latent steps."""
    model = build("wan", work, timing.device()).to(torch.bfloat16).eval()
    if compiled(options):
        model.compile_blocks()
    began = time.perf_counter()
    window, noises = Window(model, work, streams, steps), work.batch(streams, timing.device())[3].bfloat16()
    turn = cycle(range(CONTEXT))
    first = {"first_s": time.perf_counter() - began}
    times = timing.measure(lambda: window.step(noises[:, next(turn), None]), options.seconds)
    if not window.latents.isfinite().all():
        raise ArithmeticError("the rollout is not finite")
    return vars(times) | first


def compiled(options: argparse.Namespace) -> bool:
    return not options.eager and timing.device().type == "cuda"


def row_of(model: str, case: tuple[str, int, int, int], options: argparse.Namespace) -> dict:
    """Measure one rollout."""
    size, tokens, streams, steps = case
    work = Work(size, tokens, steps=CONTEXT)
    row = (ours if model == "ours" else wan)(work, streams, steps, options)
    count = parameters(on_meta(model, work, depth_of(model, work)))
    row |= {"parameters": count / 1e6, "fps": 1e3 * streams / row["ms"], "gib": timing.peak_gib()}
    timing.say(f"  {row['ms']:.2f} ms a latent step, {row['fps']:.1f} latent steps/s, first {row['first_s']:.0f} s")
    return row


def verdicts(rows: list[dict]) -> list[str]:
    """Ours beside the bars, and beside Wan where it ran."""
    ran = {(r["model"], r["size"], r["tokens"], r["streams"], r["steps"]): r for r in rows if "error" not in r}
    lines = []
    for case, least in OURS.items():
        if ("ours", *case) not in ran:
            continue
        fps = ran["ours", *case]["fps"]
        text = "{}, {} tokens a step, {} streams, {} sampler steps".format(*case)
        if ran["ours", *case]["right"] != "yes":
            lines.append(f"- {text}: **WRONG**, {ran['ours', *case]['times']:.2f} x the error of plain bf16")
        text += ": latent steps/s"
        lines.append(timing.bar(text, fps, least) if least else f"- {text}: {fps:.1f}")
        if ("wan", *case) in ran:
            other = ran["wan", *case]
            lines.append(f"- {text}, ours / Wan: {fps / other['fps']:.2f}{timing.apart(ran['ours', *case], other)}")
    return lines


def main(arguments: list[str] | None = None) -> list[dict]:
    options = timing.parser(__doc__, list(SIZES), ["ours", "wan"]).parse_args(arguments)
    logging.set_verbosity_error()  # diffusers warns of every cast of weights
    results = timing.Results(options.out, ("size", "tokens", "streams", "steps", "model", "mode"))
    rate = timing.opening()
    graph = "graph" if timing.device().type == "cuda" else "no graph"
    mode = f"compiled, {graph}" if compiled(options) else f"eager, {graph}"
    for case in OURS:
        size, tokens, streams, steps = case
        for model in options.models:
            if size not in options.size or tokens not in options.tokens or (model == "wan" and case not in WAN):
                continue
            row = {"size": size, "tokens": tokens, "streams": streams, "steps": steps, "model": model, "mode": mode}
            measured = lambda model=model, case=case: row_of(model, case, options)  # noqa: E731
            timing.attempt(results, row | {"matmul_tflops": rate}, measured, options)
    return timing.report(results, COLUMNS, verdicts)


if __name__ == "__main__":
    main()
