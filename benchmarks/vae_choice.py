"""Which video autoencoder: candidates of equal size, trained for the same minutes on the same data, measured alike.

Each candidate is configs/vae/sized.yaml with overrides, as wide as brings it nearest to `--params`. First all of them
are timed for a few steps, side by side as they will train; that gives each its number of steps in `--minutes`. Then
they train, and are measured on held-out episodes. Encoding and decoding speed is measured last, one alone. The table
and the JSON are written anew after each. The same command again goes on.

On one H100, about 10 minutes each, four side by side (run from the repository root, needs a recorded dataset):

    python benchmarks/vae_choice.py --data data/carracing --out runs/vae-choice --minutes 10 --side-by-side 4
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch

from videowm.data.clips import even_clips
from videowm.data.dataset import Dataset
from videowm.train.loop import device_name, write_json
from videowm.vae.codec import DiffusersCodec, SizeConfig, VAEConfig, build_vae, load_vae, to_float, vae_class

CLASSES = {"cosmos": "AutoencoderKLCosmos", "ltx": "AutoencoderKLLTXVideo", "wan": "AutoencoderKLWan",
           "magvit": "AutoencoderKLMagvit"}  # fmt: skip
RATES = ("6e-3", "2e-3")  # the best one differs from class to class
LOSSES = {  # on the first class and rate; every other candidate has l1 0.1 and kl 1e-3
    "no-l1": ["loss.l1=0"], "no-kl": ["loss.kl=0"], "ssim": ["loss.ssim=0.1"], "gradient": ["loss.gradient=0.1"],
    "motion": ["loss.motion=1"], "all": ["loss.ssim=0.1", "loss.gradient=0.1", "loss.motion=1"],
    "adversarial": ["loss.adversarial.weight=0.5"], "adversarial-0.1": ["loss.adversarial.weight=0.1"],
    "lpips": ["loss.lpips=0.1"], "local": ["vae.local=8"],
}  # fmt: skip
MEASURES = ("psnr", "ssim", "psnr_motion", "psnr_moved")
TIMED = (10, 40)  # steps between which a candidate is timed


def candidates(only: list[str] | None) -> dict[str, list[str]]:
    """Name -> overrides of the configuration."""
    found = {f"{short}-{rate}": [f"vae.model={model}", f"train.lr={rate}"]
             for short, model in CLASSES.items() for rate in RATES}  # fmt: skip
    first = next(iter(found.values()))
    found |= {f"cosmos-{name}": first + overrides for name, overrides in LOSSES.items()}
    if unknown := set(only or ()) - set(found):
        raise SystemExit(f"unknown: {', '.join(unknown)}; known: {', '.join(found)}")
    return {name: found[name] for name in only or found}


def width_for(model: str, target: int, size: dict[str, int]) -> int:
    """The width whose parameter count is nearest to `target`."""
    vae_class(model)  # imported now: on the meta device diffusers would make its constants there

    def parameters(width: int) -> int:
        with torch.device("meta"):
            vae = build_vae(VAEConfig(model, SizeConfig(width=width, **size)))
        return sum(p.numel() for p in vae.parameters())

    above = bisect_left(range(8, 264, 8), target, key=parameters)
    return min((8 * max(1, above), 8 * (above + 1)), key=lambda width: abs(parameters(width) - target))


def train(args: argparse.Namespace, name: str, overrides: list[str], steps: int, out: Path) -> str | None:
    """One training run to its end; the last line it said where it failed."""
    size = {"time": args.stride[0], "space": args.stride[1], "channels": args.channels}
    model = overrides[0].partition("=")[2]
    command = [
        sys.executable, "-m", "videowm", "train", "configs/vae/sized.yaml", f"data={args.data}", f"out={out}",
        *(f"vae.size.{key}={value}" for key, value in size.items()),
        f"vae.size.width={width_for(model, args.params, size)}", f"train.steps={steps}", f"train.batch={args.batch}",
        f"train.workers={args.workers}", "train.trackers=[]", "train.log_every=10", "train.save_every=2000",
        f"evaluate.clips={args.clips}", f"evaluate.frames={args.frames}", f"frames={args.train_frames}", *overrides,
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return (ended.stderr.strip().splitlines() or ["no word"])[-1] if ended.returncode else None


def seconds_a_step(run: Path, batch: int) -> float:
    """Between the two TIMED steps of a run that logs every 10."""
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    elapsed = {row["step"]: row["step"] / row["samples_per_second"] for row in logged if "samples_per_second" in row}
    first, last = TIMED
    return (elapsed[last] - elapsed[first]) * batch / (last - first)


def in_parallel(args: argparse.Namespace, jobs: dict[str, tuple[list[str], int]], out: Path):
    """Yield (name, failure or None) of training jobs as they end, some at a time."""
    with ThreadPoolExecutor(args.side_by_side) as pool:
        futures = {
            pool.submit(train, args, name, overrides, steps, out / name): name
            for name, (overrides, steps) in jobs.items()
        }
        for future in as_completed(futures):
            yield futures[future], future.result()


@torch.no_grad()
def speed(run: Path, args: argparse.Namespace) -> dict[str, float]:
    """Frames a second of encoding and decoding, the best of five, on real frames."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    codec = DiffusersCodec(load_vae(run).to(device).eval())
    dataset = Dataset(args.data)
    where = even_clips(dataset, frames=args.frames, split="test", count=args.batch)[: args.batch]
    frames = to_float(np.stack([dataset.clip(e, s, args.frames).frames for e, s in where]), device)
    latents, found = codec.encode(frames), {}
    for name, work in {"encode": lambda: codec.encode(frames), "decode": lambda: codec.decode(latents)}.items():
        seconds = []
        for _ in range(6):  # the first one warms up
            began = time.perf_counter()
            work().sum().item()
            seconds.append(time.perf_counter() - began)
        found[f"{name}_frames_per_second"] = frames.shape[0] * frames.shape[1] / min(seconds[1:])
    return found | {"speed_device": device_name(device)}


def table(rows: dict[str, dict]) -> str:
    """Markdown, best on the moved pixels first; speeds also as ratios to the first candidate's."""
    head = ["", "parameters, M", "steps", *(f"{m} (dB)" if "psnr" in m else m for m in MEASURES),
            "encode f/s", "decode f/s"]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    reference = next((row for row in rows.values() if "decode_frames_per_second" in row), {})
    for name, row in sorted(rows.items(), key=lambda item: -item[1].get("psnr_moved", -1e9)):
        cells = [name, f"{row['parameters'] / 1e6:.2f}" if "parameters" in row else "", str(row.get("steps", ""))]
        cells += [f"{row[m]:.2f} ± {row[m + '_se']:.2f}" if m in row else row.get("failed", "") for m in MEASURES]
        for key in ("encode_frames_per_second", "decode_frames_per_second"):
            cells.append(f"{row[key]:.0f} ({row[key] / reference[key]:.2f}x)" if key in row else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--minutes", type=float, default=10, help="of training each, while others train beside it")
    p.add_argument("--side-by-side", type=int, default=4)
    p.add_argument("--only", nargs="*", help=f"of {', '.join(candidates(None))}")
    p.add_argument("--params", type=int, default=3_000_000)
    p.add_argument("--stride", type=int, nargs=2, default=(4, 8), help="in time and space")
    p.add_argument("--channels", type=int, default=16)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--workers", type=int, default=2, help="loading processes of each")
    p.add_argument("--train-frames", type=int, default=9)
    p.add_argument("--frames", type=int, default=33, help="of the clips that are measured")
    p.add_argument("--clips", type=int, default=96)
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    wanted = candidates(args.only)
    results = args.out / "vae_choice.json"
    rows: dict[str, dict] = json.loads(results.read_text())["candidates"] if results.exists() else {}

    def save() -> None:
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        write_json(results, {"settings": settings, "candidates": rows})
        (args.out / "vae_choice.md").write_text(table(rows) + "\n")

    untimed = {name: (overrides, TIMED[1]) for name, overrides in wanted.items() if name not in rows}
    for name, failure in in_parallel(args, untimed, args.out / "timed"):
        seconds = None if failure else seconds_a_step(args.out / "timed" / name, args.batch)
        rows[name] = {"failed": failure} if failure else {"steps": max(TIMED[1], round(60 * args.minutes / seconds))}
        save()
    todo = {name: (wanted[name], rows[name]["steps"]) for name in wanted if "steps" in rows[name]}
    for name, failure in in_parallel(args, todo, args.out):
        if failure:
            rows[name] |= {"failed": failure}
        else:
            record = json.loads((args.out / name / "record.json").read_text())
            scores = {key.partition("/")[2]: value for key, value in record["metrics"].items()}
            rows[name] |= scores | {"parameters": record["params"]["vae"], "device": record["device"],
                                    "train_seconds": record["wall_seconds"]}  # fmt: skip
        save()
    for name in wanted:
        if "psnr" in rows[name] and "speed_device" not in rows[name]:
            rows[name] |= speed(args.out / name, args)
            save()
    print(table(rows))


if __name__ == "__main__":
    main()
