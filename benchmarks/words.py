"""What words buy: no captions, original ones and recaptioned ones at equal compute, from the recording to the figure.

A describer is taught on another recording (`describer.py`), captions this one through an OpenAI-compatible server, and
the points of configs/sweep/captions.yaml are trained and evaluated. The same command again goes on where it was
stopped. OUT/words.json holds the numbers, OUT/words.png shows how far the frames follow a changed word.

    python benchmarks/words.py --out runs/words                # two GPUs
    python benchmarks/words.py --out runs/words-doom --world doomrooms --budget 5e15      # prompts of one to five facts
    python benchmarks/words.py --out /tmp/words --tiny         # all of it on 2 CPU cores

`--parts runs/evaluation/carracing` takes the recording, the autoencoder and the reader of benchmarks/evaluation.py.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from stages import ROOT, Stage, run, write_summary

from videowm.config import read

CLIP, GUIDANCE = 33, 2
COUNTS = tuple(f"text/{count}_facts_obeyed" for count in range(1, 6))
FACTS = ("text/turn_free", "text/speed_free", "text/walk_free", "text/turn", "text/speed", *COUNTS)
TITLES = {"text/turn": "turning left for right", "text/speed": "fast for slow", "text/walk": "ahead for standing",
          **{name: f"obeyed of {name[5]}" for name in COUNTS}}  # fmt: skip
PARTS = {"record": "data", "vae": "vae", "reader": "reader"}  # {stage: the folder that it makes}
KEPT = ("heldout/", "rollout/psnr_mean", "text/")
SWEEP = ROOT / "configs/sweep/captions.yaml"


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    episodes: int = 500
    frames: int = 301
    teach: int = 300  # episodes of the describer's own recording
    minutes: float = 5.0  # of teaching it
    batch: int = 32
    servers: int = 8
    clips: int = 256
    horizon: int = 32
    vae: list[str] = field(default_factory=lambda: ["configs/vae/base.yaml"])
    encode: list[str] = field(default_factory=list)
    reader: list[str] = field(default_factory=list)
    world: dict[str, object] = field(default_factory=dict)


FULL = {
    "carracing": Size(),
    "doomrooms": Size(
        episodes=1600, frames=261, servers=12, minutes=6,
        vae=["configs/vae/large.yaml", "vae.size.channels=32", "loss.noise=0.2", "train.minutes=3"],
        encode=["--frames", f"{CLIP}"],
        reader=["reader.width=64", "reader.features=128", "train.steps=6000", "train.batch=16"],
        world={"text.length": 64},
    ),
}  # fmt: skip
TINY = Size(
    episodes=12, frames=101, teach=24, minutes=2.0, batch=4, servers=1, clips=8, horizon=16,
    vae=["configs/vae/quickstart.yaml", "train.steps=60", "evaluate.clips=4"], reader=["train.steps=30"],
    world={"depth": 1, "budget": 4e10, "train.batch": 4, "heldout.clips": 8, "rollout.clips": 2},
)  # fmt: skip


def chain(
    out: Path, size: Size, workers: int, budget: float, parts: Path | None = None, world: str = "carracing"
) -> list[Stage]:
    """All commands, those first that the longest chain begins with; where `parts` are given, none that makes them."""
    home, lessons, latents = parts or out, out / "lessons", out / "latents"
    data, vae, reader = (home / name for name in PARTS.values())
    quiet = "train.trackers=[]"
    found = [
        Stage("lessons", [
            "videowm", "record", world, "--out", f"{lessons}", "--episodes", f"{size.teach}", "--frames",
            f"{size.frames}", "--seed", "7", "--test-share", "0.1", "--workers", f"{workers}"], gpu=False),
        Stage("record", [
            "videowm", "record", world, "--out", f"{data}", "--episodes", f"{size.episodes}", "--frames",
            f"{size.frames}", "--test-share", "0.2", "--workers", f"{workers}"], ("lessons",),
            gpu=False),
        Stage("teach", [
            "describer.py", "teach", f"{lessons}", "--out", f"{out}/describer", "--minutes", f"{size.minutes}",
            "--batch", f"{size.batch}", "--workers", f"{max(1, workers // 4)}"], ("lessons",)),
        Stage("vae", [
            "videowm", "train", *size.vae, f"data={data}", f"out={vae}", quiet], ("record",)),
        Stage("original captions", [
            "videowm", "caption", f"{data}", "--from-state", "--clip-frames", f"{CLIP}"], ("record",), gpu=False),
        Stage("describe", [
            "describer.py", "describe", f"{data}", "--model", f"{out}/describer", "--servers", f"{size.servers}"],
            ("teach", "record")),
        Stage("score", ["describer.py", "score", f"{data}"], ("describe", "original captions"), gpu=False),
        Stage("encode", [
            "videowm", "encode", f"{data}", "--vae", f"{vae}", "--out", f"{latents}", "--workers", f"{workers}",
            *size.encode], ("vae",)),
        Stage("reader", [
            "videowm", "train", f"configs/reader/{world}.yaml", f"data={data}", f"out={reader}", quiet,
            *size.reader], ("record",)),
    ]  # fmt: skip
    settings = {"latents": f"{latents}", "train.trackers": [], "budget": budget} | size.world
    sweep = [f"{SWEEP}", f"out={out}/sweep", *(f"set.{key}={json.dumps(value)}" for key, value in settings.items())]
    found.append(Stage("plan", ["scaling", "plan", *sweep], ("encode",), gpu=False))
    names = [point["name"] for point in read(SWEEP)["points"]]
    for name in reversed(names):  # what waits for the describer first
        captions = "describe" if name == "recaptioned" else "original captions"
        found.append(Stage(name, ["videowm", "train", f"{out}/sweep/plan/{name}.yaml"], ("plan", captions)))
    for name in names:
        guidance = [] if name == "none" else ["--text-guidance", f"{GUIDANCE}"]
        found.append(Stage(f"evaluate {name}", [
            "videowm", "evaluate", f"{out}/sweep/{name}", "--reader", f"{reader}", "--clips", f"{size.clips}",
            "--horizon", f"{size.horizon}", "--counterfactuals", "0", *guidance], (name, "reader")))  # fmt: skip
    found.append(Stage("report", ["scaling", "report", *sweep, "--no-wandb"],
                       tuple(f"evaluate {name}" for name in names), gpu=False))  # fmt: skip
    return [stage for stage in found if parts is None or stage.name not in PARTS]


def numbers(out: Path) -> dict[str, dict[str, float]]:
    """{point: metric, its error and bounds} of what is evaluated so far."""
    found = {}
    for name in (point["name"] for point in read(SWEEP)["points"]):
        if (out / "done" / f"evaluate-{name}").exists():
            metrics = json.loads((out / "sweep" / name / "evaluation.json").read_text())
            found[name] = {key: value for key, value in metrics.items()
                           if key.startswith(KEPT) and isinstance(value, int | float)}  # fmt: skip
    return found


def draw(found: dict[str, dict[str, float]], path: Path) -> None:
    """How far the frames follow a changed word, by point, with three standard errors, ceiling and floor."""
    from matplotlib.figure import Figure

    shown = [name for name in FACTS if any(name in metrics for metrics in found.values())]
    figure = Figure(figsize=(3.2 * len(shown), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        read = {point: metrics for point, metrics in found.items() if name in metrics}
        for place, metrics in enumerate(read.values()):
            axes.errorbar(place, metrics[name], 3 * metrics[f"{name}_se"], fmt="o", color="#1f4e9c", capsize=4)
            for bound, style in (("ceiling", "--"), ("floor", ":")):
                axes.hlines(metrics[f"{name}_{bound}"], place - 0.3, place + 0.3, color="#3a3a3c", linestyle=style)
        axes.set_xticks(range(len(read)), list(read))
        axes.set_title(TITLES[name.removesuffix("_free")] + ("\nwithout actions" if name.endswith("_free") else ""))
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("change that is read off, in standard deviations")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--world", choices=FULL, default="carracing")
    parser.add_argument("--budget", type=float, default=2e16, help="FLOPs of each world model")
    parser.add_argument("--parts", type=Path, help="folder with data, vae and reader (default: they are made)")
    parser.add_argument("--clips", type=int, default=Size.clips, help="held-out clips that words are changed for")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that play (default: cores)")
    parser.add_argument("--jobs", type=int, help="stages at a time that need a GPU (default: one a GPU)")
    parser.add_argument("--tiny", action="store_true", help="all of it, tiny, on a CPU")
    args = parser.parse_args()
    out, size = args.out.resolve(), TINY if args.tiny else replace(FULL[args.world], clips=args.clips)
    parts = args.parts and args.parts.resolve()
    for name, took in run(chain(out, size, args.workers, args.budget, parts, args.world), out, args.jobs):
        write_summary(out / "words.json", {name: took}, found := numbers(out))
        if any(fact in metrics for metrics in found.values() for fact in FACTS):
            draw(found, out / "words.png")
    print((out / "logs/score.log").read_text() if (out / "done/score").exists() else "no captions to score yet")


if __name__ == "__main__":
    main()
