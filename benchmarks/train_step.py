"""A training step: ours beside diffusers' video transformers at equal parameters and tokens, and a plain GPT as bound.

Forward, mean squared error, backward and fused AdamW; bf16 autocast over fp32 weights; every model compiled block by
block, and once more with forward and backward recorded as two CUDA graphs, which is how ours is trained. No clipping,
moving average or data loading; random inputs stay on the device. Clips have 16 latent steps of 64 or 256 tokens. Times
are CUDA events, the median over the timed stretch. FLOPs are of forward and backward, and MFU is of the card's dense
bf16 peak.

    python benchmarks/train_step.py --size B --tokens 64 --out train.json   # 130M, 1,024 tokens a clip
    python benchmarks/train_step.py --size tiny --tokens 16                 # on a CPU, seconds
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import timing
import torch
from peers import MODELS, PEERS, SIZES, Work, build, depth_of, parameters, training_flops
from torch import Tensor, nn
from torch.nn import functional as F

from videowm.train.flops import peak_flops

COLUMNS = {
    "size": ("size", ""), "tokens": ("tokens/step", "d"), "model": ("model", ""), "mode": ("mode", ""),
    "parameters": ("params M", ".1f"), "depth": ("depth", "d"), "clips": ("clips", "d"), "tflop": ("TFLOP/clip", ".3f"),
    "ms": ("ms/step", ".2f"), "ms_min": ("min", ".2f"), "ktokens": ("k tokens/s", ".0f"),
    "tflops": ("TFLOP/s", ".0f"), "mfu": ("MFU %", ".1f"), "gib": ("peak GiB", ".2f"),
    "first_s": ("first step s", ".0f"),
}  # fmt: skip
# Issue bars: ours against the best diffusers peer, against the GPT, MFU in %, k tokens/s (1.2 x the ST-DiT's 501k).
BARS = {
    ("S", 64): {"peer": 1.5},
    ("B", 64): {"peer": 1.3, "gpt": 0.92},
    ("B", 256): {"peer": 1.3, "ktokens": 601},
    ("L", 64): {"peer": 1.2, "mfu": 43},
}


def graphed(model: nn.Module, batch: tuple[Tensor, ...]) -> nn.Module:
    """Forward and backward as CUDA graphs, under autocast."""
    with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        return torch.cuda.make_graphed_callables(model, batch[:3])


def training_step(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> Callable[[], Tensor]:
    """One step as a function of nothing; returns the loss, still on the device."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    latents, level, actions, target = batch

    def step() -> Tensor:
        with torch.autocast(latents.device.type, torch.bfloat16):
            velocity = model(latents, level, actions)
        loss = F.mse_loss(velocity.float(), target)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def row_of(name: str, work: Work, mode: str, options: argparse.Namespace) -> dict:
    """Measure one model."""
    model, batch = build(name, work, timing.device()).train(), work.batch(work.clips, timing.device())
    if mode != "eager":
        model.compile_blocks()
    step = training_step(graphed(model, batch) if mode == "graphed" else model, batch)
    times = timing.measure(step, options.seconds)
    if not step().isfinite():
        raise ArithmeticError("the loss is not finite")
    if options.kernels:
        print(timing.kernels(step, options.kernels), flush=True)
    flops = training_flops(name, work)
    rate = work.clips / times.ms * 1e3
    peak = peak_flops(timing.device_name())
    row = vars(times) | {
        "parameters": parameters(model) / 1e6, "depth": depth_of(name, work), "tflop": flops / 1e12,
        "ktokens": rate * work.steps * work.tokens / 1e3, "tflops": rate * flops / 1e12,
        "mfu": 100 * rate * flops / peak if peak else None, "gib": timing.peak_gib(),
    }  # fmt: skip
    timing.say(f"  {row['ms']:.2f} ms, {row['ktokens']:.0f}k tokens/s, first step {row['first_s']:.0f} s")
    return row


def fastest(rows: list[dict], names: tuple[str, ...]) -> dict | None:
    return max((r for r in rows if r["model"] in names), key=lambda r: r["ktokens"], default=None)


def verdicts(rows: list[dict]) -> list[str]:
    """Ours, as it is trained, against the GPT and the best peer, compiled (the bars) and treated as ours is."""
    lines = []
    for size, tokens in dict.fromkeys((r["size"], r["tokens"]) for r in rows):
        ran = [r for r in rows if (r["size"], r["tokens"]) == (size, tokens) and "error" not in r]
        ours, bars = fastest(ran, ("ours", "ours-local")), BARS.get((size, tokens), {})
        if ours is None:
            continue
        for kind, names in {"peer": PEERS, "gpt": ("gpt",)}.items():
            for mode in ("eager", "compiled", "graphed"):
                other = fastest([r for r in ran if r["mode"] == mode], names)
                if other is None:
                    continue
                text = (f"{size}, {tokens} tokens a step: {ours['model']} ({ours['mode']}) / {other['model']} ({mode}) "
                        f"in tokens/s{timing.apart(ours, other)}")  # fmt: skip
                ratio, barred = ours["ktokens"] / other["ktokens"], kind in bars and mode == "compiled"
                lines.append(timing.bar(text, ratio, bars[kind]) if barred else f"- {text}: {ratio:.3f}")
        label, units = f"{size}, {tokens} tokens a step: {ours['model']}", {"mfu": "MFU %", "ktokens": "k tokens/s"}
        lines += [timing.bar(f"{label}, {units[k]}", ours[k], bars[k]) for k in units if k in bars and ours[k]]
    return lines


def modes_of(name: str, options: argparse.Namespace) -> list[str]:
    if options.eager or timing.device().type == "cpu":
        return ["eager"]
    return options.mode or ["graphed" if name.startswith("ours") else "compiled"]


def main(arguments: list[str] | None = None) -> list[dict]:
    options = timing.parser(__doc__, list(SIZES), list(MODELS))
    options.add_argument("--text", type=int, default=0, help="text tokens of the peers; 0: the fewest that each takes")
    options.add_argument("--mode", nargs="+", choices=("eager", "compiled", "graphed"), 
                         help="default: ours graphed, the others compiled; always eager on a CPU")  # fmt: skip
    options.add_argument("--kernels", type=int, default=0, help="print so many of each model's longest kernels")
    options = options.parse_args(arguments)
    if timing.device().type == "cuda":
        torch.set_float32_matmul_precision("high")
    keys = ("size", "tokens", "model", "mode", "text")
    results = timing.Results(options.out, keys)
    rate = timing.opening()
    for size in options.size:
        for tokens in options.tokens:
            work = Work(size, tokens, text=options.text)
            for name, mode in [(model, mode) for model in options.models for mode in modes_of(model, options)]:
                row = {"size": size, "tokens": tokens, "model": name, "mode": mode, "text": options.text}
                row |= {"clips": work.clips, "matmul_tflops": rate}
                timing.attempt(results, row, partial(row_of, name, work, mode, options), options)
    return timing.report(results, COLUMNS, verdicts)


if __name__ == "__main__":
    main()
