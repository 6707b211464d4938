"""A training step: ours beside diffusers' video transformers at equal parameters and tokens, and a plain GPT as bound.

Forward, mean squared error, backward and fused AdamW; bf16 autocast over fp32 weights; every model compiled block by
block. No clipping, moving average or data loading; random inputs stay on the device. Clips have 16 latent steps of 64
or 256 tokens. Times are CUDA events, the median over the timed stretch. FLOPs are of forward and backward, and MFU is
of the card's dense bf16 peak.

    python benchmarks/train_step.py --size B --tokens 64 --out train.json   # 130M, 1,024 tokens a clip
    python benchmarks/train_step.py --size tiny --tokens 16                 # on a CPU, seconds
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

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


def row_of(name: str, work: Work, options: argparse.Namespace) -> dict:
    """Measure one model."""
    model = build(name, work, timing.device()).train()
    if not (options.eager or timing.device().type == "cpu"):
        model.compile_blocks()
    step = training_step(model, work.batch(work.clips, timing.device()))
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


def verdicts(rows: list[dict]) -> list[str]:
    """Ours against the best peer and the GPT of each row group, beside the bars."""
    lines = []
    keys = ("size", "tokens", "mode", "text")
    for group in dict.fromkeys(tuple(r[key] for key in keys) for r in rows):
        ran = {r["model"]: r for r in rows if tuple(r[key] for key in keys) == group and "error" not in r}
        if "ours" not in ran:
            continue
        ours, bars = ran["ours"], BARS.get(group[:2], {})
        label = "{}, {} tokens a step, {}".format(*group)
        peers = sorted((ran[name] for name in PEERS if name in ran), key=lambda r: r["ktokens"])
        rivals = {"peer": peers[-1]} if peers else {}
        rivals |= {"gpt": ran["gpt"]} if "gpt" in ran else {}
        for kind, other in rivals.items():
            text = f"{label}: ours / {other['model']} in tokens/s{timing.apart(ours, other)}"
            ratio = ours["ktokens"] / other["ktokens"]
            lines.append(timing.bar(text, ratio, bars[kind]) if kind in bars else f"- {text}: {ratio:.3f}")
        names = {"mfu": "MFU %", "ktokens": "k tokens/s"}
        lines += [timing.bar(f"{label}: ours, {names[k]}", ours[k], bars[k]) for k in names if k in bars and ours[k]]
    return lines


def main(arguments: list[str] | None = None) -> list[dict]:
    options = timing.parser(__doc__, list(SIZES), list(MODELS))
    options.add_argument("--text", type=int, default=0, help="text tokens of the peers; 0: the fewest that each takes")
    options.add_argument("--kernels", type=int, default=0, help="print so many of each model's longest kernels")
    options = options.parse_args(arguments)
    if timing.device().type == "cuda":
        torch.set_float32_matmul_precision("high")
    keys = ("size", "tokens", "model", "mode", "text")
    results = timing.Results(options.out, keys)
    rate = timing.opening()
    mode = "eager" if options.eager or timing.device().type == "cpu" else "compiled"
    for size in options.size:
        for tokens in options.tokens:
            work = Work(size, tokens, text=options.text)
            for name in options.models:
                row = {"size": size, "tokens": tokens, "model": name, "mode": mode, "text": options.text}
                row |= {"clips": work.clips, "matmul_tflops": rate}
                timing.attempt(results, row, lambda name=name, work=work: row_of(name, work, options), options)
    return timing.report(results, COLUMNS, verdicts)


if __name__ == "__main__":
    main()
