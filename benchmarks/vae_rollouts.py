"""Which latents does a world model predict best? Autoencoders by trial, world models of equal compute, paired rollouts.

    python benchmarks/vae_rollouts.py --data data/carracing --runs runs/trials --before runs/another-vae
    python benchmarks/vae_rollouts.py --runs runs/trials --table        (benchmarks/vae.json holds what it gave)

Every trial is configs/vae/base.yaml with a few keys changed. World models differ in latents and seed alone. All roll
out from the same held-out frames, so differences are taken clip by clip. The same command goes on where it was stopped.
On one H200 it takes about four minutes a trial with two seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from videowm import api
from videowm.bootstrap import standard_error
from videowm.data.dataset import Dataset
from videowm.evaluate import pictures
from videowm.evaluate.reconstruction import reconstructed, through
from videowm.evaluate.rollouts import RolloutConfig, held_out_starts, roll
from videowm.files import write_json
from videowm.pipeline import WorldModelPipeline
from videowm.record import RunRecord

FRAMES = 33  # of a clip; all but the first fill a world model's window
TRIALS = {
    "8 channels": {"vae.size.channels": 8, "loss.noise": 0},
    "16 channels": {"vae.size.channels": 16, "loss.noise": 0},
    "32 channels": {"loss.noise": 0},
    "48 channels": {"vae.size.channels": 48, "loss.noise": 0},
    "32 channels, noise 0.2": {},
    "32 channels, kl 0.01": {"loss.noise": 0, "loss.kl": 0.01},
    "16 channels, time stride 2": {"vae.size.channels": 16, "vae.size.time": 2, "loss.noise": 0},
    "8 channels, time stride 1": {"vae.size.channels": 8, "vae.size.time": 1, "loss.noise": 0},
}


def overrides(settings: dict) -> tuple[str, ...]:
    """Settings as the command line takes them."""
    return tuple(f"{key}={value}" for key, value in settings.items())


def world(name: str, vae: Path, args: argparse.Namespace, seed: int) -> Path:
    """A trained world model on the latents of an autoencoder."""
    latents, out = args.runs / name / "latents", args.runs / name / f"world-{seed}"
    folder = vae / "vae" if (vae / "vae").is_dir() else vae
    stride = json.loads((folder / "config.json").read_text()).get("time_stride", 4)
    api.encode(args.data, vae, latents, api.EncodeOptions(frames=FRAMES))
    window = (FRAMES - 1) // stride
    settings = {
        "latents": latents, "out": out, "seed": seed, "depth": args.depth, "window": window, "heldout.window": window,
        "budget": args.budget, "rollout.clips": 0,
    }  # fmt: skip
    api.train("configs/world/takecover.yaml", api.TrainOptions(overrides=(*overrides(settings), *args.world)))
    return out


@torch.no_grad()
def measured(run: Path, args: argparse.Namespace) -> dict:
    """Mean PSNR of each held-out rollout, of the autoencoder and of the repeated last frame, with the run's losses."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline, dataset = WorldModelPipeline.open(run).to(device), Dataset(args.data)
    config = RolloutConfig(clips=args.clips, context_frames=9, horizon=32, batch=24)
    start = held_out_starts(pipeline, dataset, config)
    videos = {
        "psnr": roll(pipeline, start, config),
        "ceiling": reconstructed(start.frames, through(pipeline.codec), config.batch),
        "floor": start.frames[:, 8:9].expand_as(start.frames),
    }
    scores = {key: pictures.psnr(video[:, 9:], start.frames[:, 9:]).mean(1).tolist() for key, video in videos.items()}
    metrics = RunRecord.read(run).metrics
    losses = {key: metrics[f"heldout/{key}"] for key in ("loss", "action_gap")}
    return {"episode": start.episode.tolist(), **scores, **losses}


def summary(runs: list[dict], before: list[dict]) -> dict[str, float]:
    """Lead over the repeated frame and its difference from `before`, paired by seed and clip, with standard errors."""
    leads, others = (np.array([np.subtract(r["psnr"], r["floor"]) for r in rows]) for rows in (runs, before))
    episode, both = np.array(runs[0]["episode"]), min(len(leads), len(others))
    difference = (leads[:both] - others[:both]).mean(0)
    return {
        "seeds": len(runs), "lead": leads.mean(), "lead_se": standard_error(leads.mean(0), episode),
        "difference": difference.mean(), "difference_se": standard_error(difference, episode),
        "ceiling": np.mean([r["ceiling"] for r in runs]), "action_gap": np.mean([r["action_gap"] for r in runs]),
    }  # fmt: skip


def table(found: dict[str, list[dict]]) -> str:
    """A Markdown table; differences are from the first row."""
    rows = ["| latents | lead, dB | difference | ceiling | action gap |", "|---|---|---|---|---|"]
    first = next(iter(found.values()))
    for name, runs in found.items():
        s = summary(runs, first)
        rows.append(f"| {name} | {s['lead']:.2f} ± {s['lead_se']:.2f} | {s['difference']:+.2f} ± "
                    f"{s['difference_se']:.2f} | {s['ceiling']:.1f} | {s['action_gap']:.2f} |")  # fmt: skip
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a recorded dataset")
    parser.add_argument("--runs", type=Path, required=True, help="folder of all runs and of rollouts.json")
    parser.add_argument("--before", type=Path, help="an autoencoder that the trials are compared with")
    parser.add_argument("--trials", nargs="*", default=list(TRIALS), choices=TRIALS, metavar="TRIAL")
    parser.add_argument("--budget", type=float, default=3e15, help="training FLOPs of a world model")
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument(
        "--vae", nargs="*", default=[], help="more overrides of the autoencoders, such as train.steps=9"
    )
    parser.add_argument("--world", nargs="*", default=[], help="the same of the world models")
    parser.add_argument("--table", action="store_true", help="only print the table of what was measured")
    args = parser.parse_args()
    path = args.runs / "rollouts.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for name in () if args.table else (["before"] if args.before else []) + args.trials:
        vae = args.before if name == "before" else args.runs / name / "vae"
        if name != "before":
            settings = overrides({"data": args.data, "out": vae} | TRIALS[name])
            api.train("configs/vae/base.yaml", api.TrainOptions(overrides=(*settings, *args.vae)))
        for seed in range(len(found.setdefault(name, [])), args.seeds):
            found[name].append(measured(world(name, vae, args, seed), args))
            write_json(path, found)
    print(table(found))


if __name__ == "__main__":
    main()
