"""The paths of a GPU against the plain one: relative L2 distances, each beside what it may be.

Fused kernels, compiled FlexAttention, CUDA graphs and bf16 must compute what the same network computes on a CPU in
float32, gradients included, for every kind of mask. Exit code 1 where one does not.

    python benchmarks/exact.py --out exact.json      # a GPU; a minute or two, most of it compilation
    TRITON_INTERPRET=1 python benchmarks/exact.py --interpreted      # a CPU; the fused operations alone, seconds
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import timing
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from videowm.dit import DiT
from videowm.dit.attention import Rotary, fused, rotate, unit
from videowm.dit.sample import Sampler
from videowm.dit.stream import LatentStream
from videowm.dit.text import ByteText

LOCAL = (None, 1, 3)  # latent steps that three of four blocks see; 3 does not fit the blocks of the kernel
TEXTS = [{"features": None, "length": 64, "into": into} for into in ("cross", "pooled")]
FLOAT32, BFLOAT16 = 1e-5, 3e-2


def distance(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return ((a - b).norm() / b.norm()).item()


Row = tuple[str, float, float]  # what, its distance, how much it may be
STEPS = [(2, 3, 5, 96), (2, 2, 16, 128), (1, 1, 70, 192), (9, 16, 64, 384)]  # b, t, s, d
HEADS = [(2, 12, 2, 16, 2), (3, 128, 3, 64, 8)]  # b, l, n, k, side of the grid


def operations(device: torch.device, steps: list = STEPS, heads: list = HEADS) -> Iterator[Row]:
    """The fused operations in float32, odd sizes included: worst distance over outputs and gradients."""
    for b, t, s, d in steps:
        given = [torch.randn(b, t, s, d, device=device) for _ in range(2)]
        given += [x.contiguous() for x in torch.randn(b, t, 3, 1, d, device=device).unbind(2)]

        def plain(x, update, gate, shift, scale):
            x = x + gate * update
            return x, F.rms_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift

        yield f"add_modulate {b, t, s, d}", worst(fused.add_modulate, plain, given), FLOAT32
    for b, length, n, size, side in heads:
        angles = Rotary(size, side, side).angles(torch.arange(length // side**2, device=device))
        given = [torch.randn(b, length, 3, n, size, device=device), torch.rand(2, size, device=device) + 0.5]

        def plain_heads(qkv, gains, angles=angles):
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            return rotate(unit(q, gains[0]), *angles), rotate(unit(k, gains[1]), *angles), v

        def fused_heads(qkv, gains, angles=angles):
            return [x.transpose(1, 2) for x in fused.norm_rotate(qkv, gains, *angles)]

        yield f"norm_rotate {b, length, n, size}", worst(fused_heads, plain_heads, given), FLOAT32


def worst(one, other, given: list[Tensor]) -> float:
    """Largest distance over the outputs of two functions and the gradients of what they were given."""
    answers, weights = [], None
    for function in (one, other):
        leaves = [x.clone().requires_grad_() for x in given]
        out = function(*leaves)
        weights = weights or [torch.randn_like(x) for x in out]
        torch.autograd.backward(list(out), weights)
        answers.append([*out, *(x.grad for x in leaves)])
    return max(distance(a, b) for a, b in zip(*answers))


def network(local: int | None, text: dict | None) -> DiT:
    torch.manual_seed(0)
    model = DiT(4, 4, 16, 16, 5, hidden=128, local=local, text=text)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7 * parameter.shape[-1] ** -0.5)
    return model


def answer(model: DiT, batch: list[Tensor], *, half: bool) -> tuple[Tensor, Tensor]:
    """Velocity, and all gradients as one vector."""
    model.zero_grad()
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        out = model(*batch[:3], text=tuple(batch[3:]) or None)
    out.float().square().mean().backward()
    return out, torch.cat([p.grad.flatten() for p in model.parameters()])


def networks(device: torch.device) -> Iterator[Row]:
    """Clips of 12 steps of 64 tokens through the whole network, by every path, against the CPU's."""
    clips = [torch.randn(2, 12, 4, 16, 16), torch.rand(2, 12), torch.randn(2, 12, 5)]
    said = ByteText(64).encode(["a red car turns left", "the road " * 20])
    for local, text in [*((local, None) for local in LOCAL), *((None, text) for text in TEXTS)]:
        batch = [*clips, *(said if text else ())]
        there = [x.to(device) for x in batch]
        torch._dynamo.reset()
        plain = network(local, text)
        true = answer(plain, batch, half=False)
        for path in ("eager", "compiled", "graphed"):
            model = copy.deepcopy(plain).to(device).train()
            if path != "eager":
                model.compile_blocks(graph=path == "graphed")
            for half in (False, True):
                model.graphs = {} if path == "graphed" else None
                got = answer(model, there, half=half)
                for what, a, b in zip(("output", "gradient"), got, true):
                    kind = f"text {text['into']}" if text else f"local {local}"
                    name = f"{kind}, {path}, {'bf16' if half else 'float32'}, {what}"
                    yield name, distance(a, b), BFLOAT16 if half else 10 * FLOAT32


def streams(device: torch.device) -> Iterator[Row]:
    """Four rollouts of 12 steps in float32 as CUDA graphs, two of which begin anew on the way, against each alone."""
    context, actions = torch.randn(4, 3, 4, 16, 16), torch.randn(4, 20, 5)
    noises, past = torch.randn(4, 20, 4, 16, 16), torch.randn(4, 20, 4, 16, 16)
    for local, sinks in ((None, 0), (3, 0), (None, 1)):
        settings, model = {"sampler": Sampler(2, sinks=sinks), "window": 5}, network(local, None).eval()

        def begun(model: DiT, rows: list[int], settings=settings, **more) -> LatentStream:
            at = model.embed.weight.device
            given = (part[rows].to(at) for part in (context, actions[:, :3]))
            return LatentStream(model, *given, **settings, past_noise=past[rows, :3].to(at), **more)

        graphed = begun(copy.deepcopy(model).to(device), [0, 1, 2, 3], graph=True)
        alone, worst_of = {row: begun(model, [row]) for row in range(4)}, 0.0
        for i in range(3, 15):
            if again := {9: [1], 10: [0, 2]}.get(i, []):
                graphed.reset(again, context[again].to(device), actions[again, :3].to(device), past[again, :3])
                alone |= {row: begun(model, [row]) for row in again}
            parts = (actions[:, i, None], noises[:, i, None], past[:, i, None])
            together = graphed.step(*(part.to(device) for part in parts))
            for row, one in alone.items():
                expected = one.step(*(part[row, None] for part in parts))
                worst_of = max(worst_of, distance(together[row, None], expected))
        kinds = len(graphed.graphs)
        yield f"rows that begin anew, local {local}, sinks {sinks}, {kinds} graphs", worst_of, 100 * FLOAT32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--interpreted", action="store_true")
    args = parser.parse_args()
    if fused is None or not (args.interpreted or torch.cuda.is_available()):
        sys.exit("exact.py compares a GPU with a CPU: there is no GPU, or no Triton, here")
    torch.backends.cuda.matmul.allow_tf32 = False
    device, found = timing.device(), []
    rows = chain(operations(device), networks(device), streams(device))
    for name, value, most in operations(device, STEPS[:1], HEADS[:1]) if args.interpreted else rows:
        found.append({"what": name, "distance": value, "at most": most, "right": value <= most})
        print(f"{name:48s} {value:.1e}  at most {most:.0e}{'' if value <= most else '  FAILED'}", flush=True)
        if args.out:
            args.out.write_text(json.dumps({"device": timing.device_name(), "versions": timing.versions(),
                                            "command": timing.command(), "distances": found}, indent=1))  # fmt: skip
    failed = sum(not row["right"] for row in found)
    print(f"{timing.device_name()}; {timing.versions()}: {failed} of {len(found)} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
