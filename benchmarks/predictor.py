"""What the predictor's choices buy: sampler steps, noise on the past, local blocks, few-step training; over 256 frames.

Arms are trained on one latents folder at equal FLOPs by the project's own loop, then rolled out from held-out starts.
Everything is judged in the decoder's own pictures of the true latents, so the autoencoder's error is left out:

    psnr[k]      dB in the k-th quarter of the horizon
    frechet[k]   Fréchet distance (arXiv 1706.08500, eq. 6) between latent steps of rollouts in that quarter and true
                 ones, over their mean-pooled 2x2 latents and the change from the step before
    sharpness    mean absolute difference of neighbouring pixels, over the truth's

    python benchmarks/predictor.py prepare --data DATA --vae VAE --out starts.safetensors      # on a CPU, minutes
    python benchmarks/predictor.py train --latents LATENTS --out RUNS --arms base local1       # a GPU
    python benchmarks/predictor.py measure --runs RUNS --starts starts.safetensors --out predictor.json

The same command again goes on. `timeout 500 python ...` ends a training after the step in work, which is saved; kill -9
costs 2,000 steps at most. `measure` saves every row, and leaves out arms that are not trained to their end.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from safetensors.torch import load_file, save_file
from scipy.linalg import sqrtm
from torch import Tensor

from videowm.dit.sample import Sampler
from videowm.dit.stream import LatentStream

BASE = ["task=world", "depth=4", "hidden=256", "window=16", "patch=2", "budget=4e14", "train.batch=32", "train.lr=2e-3",
        "train.trackers=[]", "train.log_every=100", "train.save_every=2000", "heldout.window=16", "heldout.context=8",
        "heldout.clips=130", "rollout.clips=0"]  # fmt: skip
ARMS = {
    "base": [], "seed1": ["seed=1"], "local1": ["local=1"], "local2": ["local=2"], "local4": ["local=4"],
    "drop": ["flow.drop_actions=0.1"], "scale1": ["flow.scale=1"], "scale2": ["flow.scale=2"],
    "window8": ["window=8"], "shortcut": ["flow.shortcut=4"],
}  # fmt: skip
STEPS, QUARTERS = (1, 2, 3, 4, 6, 8, 10, 16, 32), 4


def clean(steps: int, method: str = "euler", **more) -> Sampler:
    """A sampler that leaves the past as it is, unless told otherwise."""
    return Sampler(steps, method, **{"context_level": 0.0} | more)


SETTINGS = {
    **{f"euler {n}": clean(n) for n in STEPS},
    "heun 3": clean(3, "heun"), "heun 5": clean(5, "heun"),
    "shift 2, euler 4": clean(4, shift=2.0), "shift 3, euler 10": clean(10, shift=3.0),
    "shift 0.5, euler 4": clean(4, shift=0.5),
    **{f"noised past {x}": clean(10, context_level=x) for x in (0.02, 0.05, 0.1, 0.2, 0.3)},
    **{f"noised past {x}, euler {n}": clean(n, context_level=x) for n in (1, 2, 4) for x in (0.1, 0.3)},
    **{f"noised past {x}, heun 5": clean(5, "heun", context_level=x) for x in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)},
    "action guidance 1.5, noised past 0.3, heun 5": clean(5, "heun", context_level=0.3, action_guidance=1.5),
    "sinks 2": clean(10, sinks=2),
    "history guidance 1.5": clean(10, history_guidance=1.5),
    "history guidance 2": clean(10, history_guidance=2.0),
    "history guidance 1.5 from 0.5": clean(10, history_guidance=1.5, history_level=0.5),
    "action guidance 1.5": clean(10, action_guidance=1.5), "action guidance 2": clean(10, action_guidance=2.0),
}  # fmt: skip


def prepare(args: argparse.Namespace) -> None:
    """Held-out episodes in the VAE's latents, whole, with their actions."""
    from videowm.data.dataset import Dataset
    from videowm.vae.codec import DiffusersCodec, load_vae, to_float

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset, codec = Dataset(args.data), DiffusersCodec(load_vae(args.vae).to(device).eval())
    frames = args.context + args.horizon
    episodes = [e for e in dataset.split("test") if dataset.lengths[e] >= frames]
    latents, actions = [], []
    for episode in episodes:
        clip = dataset.clip(episode, 0, frames)
        with torch.no_grad():
            latents.append(codec.encode(to_float(clip.frames, device)[None])[0].half().cpu())
        actions.append(torch.from_numpy(clip.actions.copy()))
    save_file({"latents": torch.stack(latents), "actions": torch.stack(actions)}, args.out)
    print(f"{args.out}: {len(episodes)} starts of {latents[0].shape[0]} latent steps")


def train(args: argparse.Namespace) -> None:
    """Train the arms that have no record yet; a shortcut model at the same FLOPs, its own targets' included."""
    from videowm import config as configuration
    from videowm.train.loop import train as learn
    from videowm.train.registry import build_task
    from videowm.train.tasks.world import WorldRun

    for arm in args.arms:
        began = time.perf_counter()
        data: dict = {}
        for override in [*BASE, *ARMS[arm], f"latents={args.latents}", f"out={args.out / arm}", *args.set]:
            configuration.apply_override(data, override)
        config = configuration.build(WorldRun, data, where=arm)
        task = build_task(config)
        record = learn(task, task.config.train, Path(config.out), configuration.to_dict(task.config))
        print(f"{arm}: held-out {record.metrics['heldout/loss']:.4f}, {record.steps} steps, "
              f"{time.perf_counter() - began:.0f} s", flush=True)  # fmt: skip


class Judge:
    """Rollouts against the truth, decoded by the VAE that made both."""

    def __init__(self, pipeline, starts: Path, context: int, device: torch.device) -> None:
        self.pipeline, self.context = pipeline.to(device), context
        held = load_file(starts)
        latents = pipeline.normalise(held["latents"].to(device).float())
        self.true, self.actions = latents, pipeline.group(held["actions"].to(device))
        self.frames, self.real = self.decode(latents), self.features(latents)

    def decode(self, latents: Tensor) -> Tensor:
        """Predicted frames "b f 3 H W" in [-1, 1], float16, of the whole rollout."""
        known = 1 + self.pipeline.time_stride * (self.context - 1)
        with torch.no_grad():
            parts = [self.pipeline.codec.decode(self.pipeline.denormalise(part)).half() for part in latents.split(8)]
        return torch.cat(parts)[:, known:]

    def features(self, latents: Tensor) -> list[np.ndarray]:
        """For each quarter of the horizon: pooled latents and their change, float64 "n d"."""
        pooled = rearrange(
            reduce(latents, "b t c (h p) (w q) -> b t c h w", "mean", h=2, w=2), "b t c h w -> b t (c h w)"
        )
        both = torch.cat([pooled, pooled - pooled.roll(1, 1)], dim=-1)[:, self.context :].double().cpu()
        return [part.flatten(0, 1).numpy() for part in both.chunk(QUARTERS, dim=1)]

    def judge(self, latents: Tensor) -> dict:
        frames = self.decode(latents)
        error = (frames.float() - self.frames.float()).square().mean(dim=(2, 3, 4)).clamp(min=1e-8)
        psnr = 10 * torch.log10(4 / error)
        everything = np.concatenate(self.real)
        return {
            "psnr": [float(part.mean()) for part in psnr.chunk(QUARTERS, dim=1)],
            "psnr16": float(psnr[:, :16].mean()),
            "frechet": [frechet(part, everything) for part in self.features(latents)],
            "sharpness": [s / r for s, r in zip(sharpness(frames), sharpness(self.frames))],
        }


def sharpness(frames: Tensor) -> list[float]:
    return [
        float(part.float().diff(dim=-1).abs().mean() + part.float().diff(dim=-2).abs().mean())
        for part in frames.chunk(QUARTERS, dim=1)
    ]


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Squared distance of the two normal distributions that fit the rows of a and b."""
    (m, c), (n, d) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (a, b))
    return float(((m - n) ** 2).sum() + np.trace(c + d) - 2 * np.trace(sqrtm(c @ d).real))


@torch.no_grad()
def roll(judge: Judge, sampler: Sampler, window: int, seed: int = 0) -> Tensor:
    """Latents "b t c h w": the context, then what the model makes of the true actions."""
    model, known = judge.pipeline.transformer, judge.context
    actions = judge.actions
    noise = torch.randn(judge.true.shape, generator=torch.Generator().manual_seed(seed)).to(judge.true.device)
    stream = LatentStream(model, judge.true[:, :known], actions[:, :known], sampler=sampler, window=window,
                          shift=judge.pipeline.scheduler.config.shift)  # fmt: skip
    steps = [stream.step(actions[:, i, None], noise[:, i, None]) for i in range(known, actions.shape[1])]
    return torch.cat([judge.true[:, :known], *steps], dim=1)


def measure(args: argparse.Namespace) -> None:
    """Every arm under the settings asked for; saved after each."""
    from videowm.pipeline import WorldModelPipeline

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    for arm in args.arms:
        names = [name for name in (SETTINGS if arm in args.full else args.settings) if f"{arm}: {name}" not in results]
        if not (args.runs / arm / "record.json").exists():
            print(f"{arm}: not trained to its end, left out", flush=True)
        if not names or not (args.runs / arm / "record.json").exists():
            continue
        pipeline = WorldModelPipeline.open(args.runs / arm)
        judge = Judge(pipeline, args.starts, args.context, device)
        if not results:
            repeated = judge.true[:, args.context - 1, None].expand_as(judge.true)
            results |= {"truth": judge.judge(judge.true), "repeat": judge.judge(repeated)}
        record = json.loads((args.runs / arm / "record.json").read_text())
        facts = {"loss": record["metrics"]["heldout/loss"], "gap": record["metrics"]["heldout/action_gap"],
                 "flops": record["flops"]["train"], "steps": record["steps"]}  # fmt: skip
        for name in names:
            began = time.perf_counter()
            latents = roll(judge, SETTINGS[name], pipeline.trained_on.window)
            row = facts | judge.judge(latents) | {"sampler": asdict(SETTINGS[name])}
            results[f"{arm}: {name}"] = row
            print(line(f"{arm}: {name}", row), f"{time.perf_counter() - began:.1f} s", flush=True)
            aside = args.out.with_suffix(".new")
            aside.write_text(json.dumps(results, indent=1))
            os.replace(aside, args.out)
    for name in ("truth", "repeat") if results else ():
        print(line(name, results[name]))


def line(name: str, row: dict) -> str:
    parts = {k: " ".join(f"{x:.2f}" for x in row[k]) for k in ("psnr", "frechet", "sharpness")}
    return (f"{name:40s} 16 frames {row['psnr16']:5.2f} dB | quarters {parts['psnr']} dB | Fréchet {parts['frechet']} "
            f"| sharpness {parts['sharpness']}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("prepare", "train", "measure"))
    for name in ("data", "vae", "latents", "runs", "starts", "out"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--full", nargs="*", default=["base"], help="arms measured under every setting")
    parser.add_argument(
        "--settings", nargs="*", choices=SETTINGS, default=["euler 1", "euler 2", "euler 4", "euler 10"]
    )
    parser.add_argument("--set", nargs="*", default=[], help="overrides of every arm, such as budget=1e12")
    parser.add_argument("--context", type=int, default=None)
    parser.add_argument("--horizon", type=int, default=256)
    args = parser.parse_args()
    # prepare counts context in frames, the others in latent steps
    args.context = args.context or (9 if args.verb == "prepare" else 3)
    globals()[args.verb](args)


if __name__ == "__main__":
    main()
