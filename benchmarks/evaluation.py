"""Every evaluator on trained models of three worlds, from the recording to the page.

Stages are `videowm` commands, one a GPU at a time; the same command again goes on where it was stopped, so a limit of
ten minutes a call is none. Each finished evaluation is copied to OUT/pages, its single numbers and every stage's
seconds to OUT/summary.json.

    python benchmarks/evaluation.py --out runs/evaluation         # world models of 25M; one GPU or more
    python benchmarks/evaluation.py --out /tmp/tiny --tiny        # all of it on 2 CPU cores
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stages import Stage, run, write_summary

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
    play={"carracing": 800, "takecover": 12000, "carracing-noisy": 300},
    frames=301,
    vae={
        "carracing": ["configs/vae/large.yaml"],
        "takecover": ["configs/vae/base.yaml"],
        "carracing-noisy": ["configs/vae/base.yaml", "train.steps=8000"],
    },
    reader=[],
    world=["depth=8"],
    noisy_budgets=(2e14, 6e14, 1.8e15),
    clips=64,
    horizons={"carracing": (256, 64), "takecover": (128, 32), "carracing-noisy": (32,)},
    counterfactuals=16,
)
TINY = Size(
    episodes=dict.fromkeys(FULL.episodes, 10),
    play=dict.fromkeys(FULL.play, 12),
    frames=101,
    vae=dict.fromkeys(FULL.vae, ["configs/vae/quickstart.yaml", "train.steps=60", "evaluate.clips=4"]),
    reader=["train.steps=30"],
    world=["depth=5", "train.batch=2", "train.lr=2e-3", "heldout.clips=16", "rollout.clips=2"],
    noisy_budgets=(1e10, 2e10, 4e10),
    clips=4,
    horizons={"carracing": (32, 16), "takecover": (32, 16), "carracing-noisy": (16,)},
    counterfactuals=1,
)


def chain(world: str, out: Path, size: Size, budget: float, workers: int) -> list[Stage]:
    """The commands of one world."""
    at, data, latents = out / world, out / world / "data", out / world / "latents"
    clip = "33" if world == "takecover" else "65"
    base = "takecover" if world == "takecover" else "carracing"
    share = "0.4" if world == "takecover" else "0.25"
    found = [
        Stage(f"{world} record", [
            "videowm", "record", world, "--out", f"{data}", "--episodes", f"{size.episodes[world]}", "--frames",
            f"{size.frames}", "--test-share", share, "--workers", f"{workers}"], gpu=False),
        Stage(f"{world} vae", [
            "videowm", "train", *size.vae[world], f"data={data}", f"out={at}/vae", QUIET], (f"{world} record",)),
        Stage(f"{world} reader", [
            "videowm", "train", f"configs/reader/{base}.yaml", f"data={data}", f"out={at}/reader", QUIET,
            *size.reader], (f"{world} record",)),
        Stage(f"{world} encode", [
            "videowm", "encode", f"{data}", "--vae", f"{at}/vae", "--out", f"{latents}", "--frames", clip, "--play",
            f"{size.play[world]}", "--seed", "1", "--workers", f"{workers}"], (f"{world} vae",)),
    ]  # fmt: skip
    noisy = world.endswith("-noisy")
    budgets = dict(zip(("small", "middle", "world"), size.noisy_budgets)) if noisy else {"world": budget}
    for name, flops in budgets.items():
        depth = [] if noisy else size.world[:1]
        found.append(Stage(f"{world} {name}", [
            "videowm", "train", f"configs/world/{base}.yaml", f"latents={latents}", f"out={at}/{name}",
            f"budget={flops}", QUIET, *depth, *size.world[1:]], (f"{world} encode",)))  # fmt: skip
    needs = (f"{world} reader", *(f"{world} {name}" for name in budgets))
    smaller = ["--smaller", f"{at}/small", f"{at}/middle"] if noisy else []
    for horizon in size.horizons[world]:
        count = size.counterfactuals if horizon == size.horizons[world][-1] else 0
        found.append(Stage(f"{world} evaluate-{horizon}", [
            "videowm", "evaluate", f"{at}/world", "--reader", f"{at}/reader", "--clips", f"{size.clips}", "--context",
            "5", "--horizon", f"{horizon}", "--counterfactuals", f"{count}", *smaller], needs,
            after=partial(keep, at / "world", out / "pages", f"{world}-{horizon}")))  # fmt: skip
        needs = (found[-1].name,)  # one after the other: both write into the run directory
    return found


def keep(run: Path, pages: Path, name: str) -> None:
    """Copy an evaluation's page, stills and numbers, which the next one would write over; the numbers last."""
    pages.mkdir(parents=True, exist_ok=True)
    for made, ending in (("evaluation.html", "html"), ("evaluation/strip.png", "png"), ("evaluation.json", "json")):
        shutil.copy2(run / made, pages / f"{name}.{ending}")


def numbers(pages: Path) -> dict[str, dict]:
    """The single numbers of every evaluation so far."""
    found = {page.stem: json.loads(page.read_text()) for page in sorted(pages.glob("*.json"))}
    return {name: {k: v for k, v in metrics.items() if not isinstance(v, list)} for name, metrics in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=3e16, help="FLOPs of each large world model")
    parser.add_argument("--worlds", nargs="+", choices=tuple(FULL.episodes), default=list(FULL.episodes))
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that play (default: cores)")
    parser.add_argument("--jobs", type=int, help="stages at a time that need a GPU (default: one a GPU)")
    parser.add_argument("--tiny", action="store_true", help="all of it, tiny, on a CPU")
    args = parser.parse_args()
    out = args.out.resolve()
    size, budget = (TINY, 5e11) if args.tiny else (FULL, args.budget)
    found = [stage for world in args.worlds for stage in chain(world, out, size, budget, args.workers)]
    for name, took in run(found, out, args.jobs):
        write_summary(out / "summary.json", {name: took}, numbers(out / "pages"))


if __name__ == "__main__":
    main()
