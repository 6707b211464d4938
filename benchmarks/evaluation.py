"""Every evaluator on trained models of three worlds, from the recording to the page.

Stages are `videowm` commands, each world a lane of its own, lanes shared out over the GPUs; the same command again goes
on where it was stopped, so a limit of ten minutes a call is none. Each finished evaluation is copied to OUT/pages, its
single numbers and every stage's seconds to OUT/summary.json.

    python benchmarks/evaluation.py --out runs/evaluation --until encode   # recordings to latents
    python benchmarks/evaluation.py --out runs/evaluation                  # world models of 25M, evaluations
    python benchmarks/evaluation.py --out /tmp/tiny --tiny                 # all of it on 2 CPU cores, 5 minutes
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from scaling.local import share_gpus, visible_gpus

ROOT = Path(__file__).parents[1]
STAGES = ("record", "vae", "reader", "encode", "world", "evaluate")
QUIET = "train.trackers=[]"


@dataclass(frozen=True)
class Size:
    """How much of everything; every field but `budget` is what an option of a stage says."""

    episodes: dict[str, int]
    play: dict[str, int]
    frames: int
    vae: dict[str, list[str]]
    reader: list[str]
    world: list[str]
    noisy_budgets: tuple[float, float, float]
    clips: int
    horizons: dict[str, tuple[int, ...]]
    counterfactuals: int


FULL = Size(
    episodes={"carracing": 400, "takecover": 600, "carracing-noisy": 160},
    play={"carracing": 600, "takecover": 4000, "carracing-noisy": 300},
    frames=301,
    vae={
        "carracing": ["configs/vae/large.yaml"],
        "takecover": ["configs/vae/base.yaml", "train.steps=11000"],
        "carracing-noisy": ["configs/vae/base.yaml", "train.steps=11000"],
    },
    reader=[],
    world=["depth=8"],
    noisy_budgets=(2e14, 6e14, 1.8e15),
    clips=64,
    horizons={"carracing": (256, 64), "takecover": (128, 64), "carracing-noisy": (32,)},
    counterfactuals=16,
)
TINY = Size(
    episodes=dict.fromkeys(FULL.episodes, 10),
    play=dict.fromkeys(FULL.play, 12),
    frames=101,
    vae=dict.fromkeys(FULL.vae, ["configs/vae/quickstart.yaml", "train.steps=60", "evaluate.clips=4"]),
    reader=["train.steps=30"],
    world=["depth=1", "train.batch=4", "train.lr=2e-3", "heldout.clips=16", "rollout.clips=2"],
    noisy_budgets=(1e10, 2e10, 4e10),
    clips=4,
    horizons={"carracing": (32, 16), "takecover": (32, 16), "carracing-noisy": (16,)},
    counterfactuals=1,
)


@dataclass(frozen=True)
class Stage:
    """One command of `videowm`; finished where `made` exists."""

    name: str
    kind: str
    made: Path
    arguments: list[str]


def stages(world: str, out: Path, size: Size, budget: float, workers: int) -> list[Stage]:
    """The commands of one world, in order."""
    at, data, latents = out / world, out / world / "data", out / world / "latents"
    clip = "33" if world == "takecover" else "65"
    base = "takecover" if world == "takecover" else "carracing"
    share = "0.4" if world == "takecover" else "0.25"
    found = [
        Stage("record", "record", data / "meta/info.json", [
            "record", world, "--out", f"{data}", "--episodes", f"{size.episodes[world]}", "--frames", f"{size.frames}",
            "--test-share", share, "--workers", f"{workers}"]),
        Stage("vae", "vae", at / "vae/record.json", [
            "train", *size.vae[world], f"data={data}", f"out={at}/vae", QUIET]),
        Stage("reader", "reader", at / "reader/record.json", [
            "train", f"configs/reader/{base}.yaml", f"data={data}", f"out={at}/reader", QUIET, *size.reader]),
        Stage("encode", "encode", latents / "latents.json", [
            "encode", f"{data}", "--vae", f"{at}/vae", "--out", f"{latents}", "--frames", clip, "--play",
            f"{size.play[world]}", "--seed", "1", "--workers", f"{workers}"]),
    ]  # fmt: skip
    noisy = world.endswith("-noisy")
    budgets = dict(zip(("small", "middle", "world"), size.noisy_budgets)) if noisy else {"world": budget}
    for name, flops in budgets.items():
        depth = [] if noisy else size.world[:1]
        found.append(Stage(name, "world", at / name / "record.json", [
            "train", f"configs/world/{base}.yaml", f"latents={latents}", f"out={at}/{name}", f"budget={flops}", QUIET,
            *depth, *size.world[1:]]))  # fmt: skip
    smaller = ["--smaller", f"{at}/small", f"{at}/middle"] if noisy else []
    for horizon in size.horizons[world]:
        count = size.counterfactuals if horizon == size.horizons[world][-1] else 0
        found.append(Stage(f"evaluate-{horizon}", "evaluate", out / f"pages/{world}-{horizon}.json", [
            "evaluate", f"{at}/world", "--reader", f"{at}/reader", "--clips", f"{size.clips}", "--context", "5",
            "--horizon", f"{horizon}", "--counterfactuals", f"{count}", *smaller]))  # fmt: skip
    return found


def run_lane(world: str, lane: list[Stage], out: Path, seconds: dict[str, float], gpu: str | None) -> None:
    """Run what is not finished of a lane, in order, on one GPU; what it prints is in OUT/logs."""
    environment = os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
    for stage in lane:
        if stage.made.exists():
            continue
        log = out / "logs" / f"{world}-{stage.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        with log.open("ab") as file:
            command = [sys.executable, "-m", "videowm", *stage.arguments]
            done = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment,
                                  check=False)  # fmt: skip
        seconds[f"{world} {stage.name}"] = round(time.perf_counter() - began, 1)
        print(f"{world:16s} {stage.name:14s} {time.perf_counter() - began:6.1f} s  exit {done.returncode}", flush=True)
        if done.returncode:
            print(log.read_text(errors="replace")[-1500:], flush=True)
            return
        if stage.kind == "evaluate":
            keep(out / world / "world", out / "pages", f"{world}-{stage.name.removeprefix('evaluate-')}")


def keep(run: Path, pages: Path, name: str) -> None:
    """Copy an evaluation's page, stills and numbers, which the next one would write over; the numbers last."""
    pages.mkdir(parents=True, exist_ok=True)
    for made, ending in (("evaluation.html", "html"), ("evaluation/strip.png", "png"), ("evaluation.json", "json")):
        shutil.copy2(run / made, pages / f"{name}.{ending}")


def write_summary(out: Path, seconds: dict[str, float]) -> None:
    """Seconds of every stage so far, and the single numbers of every evaluation."""
    path = out / "summary.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    numbers = {}
    for found in sorted((out / "pages").glob("*.json")):
        metrics = json.loads(found.read_text())
        numbers[found.stem] = {k: v for k, v in metrics.items() if not isinstance(v, list)}
    path.write_text(json.dumps({"seconds": before.get("seconds", {}) | seconds, "numbers": numbers}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="last kind of stage (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=3e16, help="FLOPs of each large world model")
    parser.add_argument("--worlds", nargs="+", choices=tuple(FULL.episodes), default=list(FULL.episodes))
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="that play, of each world (default: cores)")
    parser.add_argument("--tiny", action="store_true", help="all of it, tiny, on a CPU")
    args = parser.parse_args()
    out, seconds, threads = args.out.resolve(), {}, []
    out.mkdir(parents=True, exist_ok=True)
    for world, gpu in zip(args.worlds, share_gpus(visible_gpus(), len(args.worlds), 1), strict=True):
        lane = stages(world, out, *((TINY, 4e10) if args.tiny else (FULL, args.budget)), args.workers)
        lane = [stage for stage in lane if STAGES.index(stage.kind) <= STAGES.index(args.until)]
        threads.append(threading.Thread(target=run_lane, args=(world, lane, out, seconds, gpu)))
        threads[-1].start()
    for thread in threads:
        thread.join()
        write_summary(out, seconds)


if __name__ == "__main__":
    main()
