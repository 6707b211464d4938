"""The scaling study of a world, from the recording to the checked prediction: a chain of `videowm` and `scaling`.

    python benchmarks/study.py --world takecover --out runs/study --until predict    # law, frozen prediction
    # commit runs/study/sweep/predictions, then: python -m scaling seal runs/study/sweep.yaml --budget 4e16
    python benchmarks/study.py --world takecover --out runs/study                    # targets, report
    python benchmarks/study.py --world takecover --out /tmp/study --tiny             # all of it on 2 CPU cores

The same command again goes on where it was stopped. OUT/sweep holds records and figures; a point whose record is there
is not trained again. On another machine of the same kind and software the records and `--vae` are enough to go on:
recordings and latents follow from their seeds, and a bank that differs by one bit is refused.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from stages import ROOT, Stage, run

from scaling.law import Law, optimum
from scaling.local import visible_gpus
from videowm.config import read
from videowm.types import UserError

STEPS = ("record", "vae", "encode", "caption", "caption-played", "check", "study", "fit", "predict", "targets",
         "report")  # fmt: skip
SMALL_VAE = ["configs/vae/base.yaml", "vae.size.channels=16", "vae.size.width=128"]  # light enough to be kept beside it


@dataclass(frozen=True)
class Size:
    """How much of everything; `sweep` are settings of the sweep."""

    episodes: int
    frames: int
    clip: int
    play: int
    budgets: tuple[float, float]  # that are predicted
    cap: float  # FLOPs with these
    share: float = 0.5
    vae: list[str] = field(default_factory=lambda: SMALL_VAE)
    sweep: dict[str, object] = field(default_factory=dict)
    words: bool = False  # captions from the state, of recorded and of played clips
    window: int = 29  # frames that a training window shows; played clips have a caption for each


FULL = {
    "takecover": Size(episodes=800, frames=261, clip=33, play=12_000, budgets=(4e16, 1.28e17), cap=2.2e17),
    "carracing": Size(episodes=800, frames=301, clip=65, play=4500, budgets=(4e16, 1.28e17), cap=2.2e17, share=0.375),
    "doomrooms": Size(episodes=800, frames=261, clip=33, play=10_000, budgets=(4e17, 1.28e18), cap=2.3e18, words=True,
                      vae=["configs/vae/large.yaml", "vae.size.channels=32", "loss.noise=0.2", "train.steps=6500"]),
}  # fmt: skip
SMALL = {
    "grid": {"budgets": [1e10, 2e10, 4e10, 8e10], "sizes": [1, 2, 3], "optimum": {"tokens_per_parameter": 1.0},
             "force": True},
    "check_lr": {"depths": [1, 2, 3], "tokens": [2e4, 4e4], "factors": [0.5, 1, 2], "seeds": 1, "force": True},
    "set": {"train.batch": 4, "train.lr": 2e-3, "train.trackers": [], "heldout.clips": 16, "heldout.batch": 16,
            "rollout.clips": 2, "rollout.batch": 2},
    "strip_frames": 16,
}  # fmt: skip
TINY = {
    world: Size(episodes=8, frames=101, clip=33, play=24 if full.play else 0, budgets=(1.6e11, 3.2e11), cap=1e13,
                vae=["configs/vae/quickstart.yaml", "train.steps=60", "evaluate.clips=4"], sweep=SMALL,
                words=full.words)
    for world, full in FULL.items()
}  # fmt: skip


def write_sweep(world: str, out: Path, size: Size) -> Path:
    """configs/sweep/WORLD.yaml as OUT/sweep.yaml, with this study's folders."""
    settings = read(ROOT / f"configs/sweep/{world}.yaml") | size.sweep
    settings["set"] = settings.get("set", {}) | {"latents": f"{out}/latents"}
    path = out / "sweep.yaml"
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(settings | {"out": f"{out}/sweep"}, sort_keys=False))
    return path


def has_best_sizes(law: Path) -> bool:
    try:
        optimum(Law.from_json(law.read_text()), 1e16)
    except (OSError, UserError):
        return False
    return True


def chain(world: str, out: Path, size: Size, workers: int, jobs: int | None, vae: str | None) -> list[Stage]:
    """All commands, to be run one at a time: those of `scaling` share out the GPUs themselves.

    Nothing needs `check` and `fit`: a rule found wrong and a surface that is not identified are findings, no ends.
    """
    data, sweep, law = f"{out}/data", f"{write_sweep(world, out, size)}", f"{out}/law.json"
    play = ["--play", f"{size.play}", "--seed", "1", *["--states"] * size.words] if size.play else []
    share = [] if jobs is None else ["--jobs", f"{jobs}"]
    gpus = len(visible_gpus())
    spread = [] if gpus < 2 else ["torch.distributed.run", "--standalone", "--nproc_per_node", f"{gpus}", "-m"]
    with_targets = [f"grid.targets={json.dumps(size.budgets)}", f"cap={size.cap}"]
    if has_best_sizes(Path(law)):  # else targets are as large as the sweep expects
        with_targets.append(f"grid.target_optimum={json.dumps({'law': law})}")
    budgets = [word for budget in size.budgets for word in ("--budget", f"{budget}")]
    commands = {
        "record": ["videowm", "record", world, "--out", data, "--episodes", f"{size.episodes}", "--frames",
                   f"{size.frames}", "--test-share", f"{size.share}", "--lossless", "--workers", f"{workers}"],
        "vae": ["videowm", "train", *size.vae, f"data={data}", f"out={out}/vae", "train.trackers=[]"],
        "encode": [*spread, "videowm", "encode", data, "--vae", vae or f"{out}/vae", "--out", f"{out}/latents",
                   "--frames", f"{size.clip}", "--workers", f"{max(1, workers // max(1, gpus))}", *play],
        "caption": ["videowm", "caption", data, "--from-state", "--clip-frames", f"{size.clip}"],
        "caption-played": ["videowm", "caption", f"{out}/latents", "--from-state", "--clip-frames", f"{size.window}"],
        "check": ["scaling", "check-lr", sweep, *share],
        "study": ["scaling", "run", sweep, *share],
        "fit": ["scaling", "fit", sweep, "--out", law, "--figure", f"{out}/law.png"],
        "predict": ["scaling", "predict", sweep, *budgets],
        "targets": ["scaling", "run", sweep, *with_targets, *share],
        "report": ["scaling", "report", sweep, *with_targets, "--no-wandb"],
    }  # fmt: skip
    unused = {"vae": vae is not None, "caption": not size.words, "caption-played": not (size.words and size.play)}
    commands = {name: command for name, command in commands.items() if not unused.get(name)}
    found, before = [], ()
    for name, arguments in commands.items():
        found.append(Stage(name, arguments, before))
        before = before if name in ("check", "fit") else (name,)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=FULL, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--until", choices=STEPS, default=STEPS[-1])
    parser.add_argument("--vae", help="run or folder of an autoencoder; none is trained then")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that play (default: cores)")
    parser.add_argument("--jobs", type=int, help="points at once (default: one a GPU)")
    parser.add_argument("--tiny", action="store_true", help="all of it, tiny, on a CPU")
    args = parser.parse_args()
    out, size = args.out.resolve(), (TINY if args.tiny else FULL)[args.world]
    for until in ("fit", args.until):  # the targets' size follows from the law
        last = min(STEPS.index(until), STEPS.index(args.until))
        found = chain(args.world, out, size, args.workers, args.jobs, args.vae)
        for name, _ in run([stage for stage in found if STEPS.index(stage.name) <= last], out, jobs=1):
            if name in ("fit", "predict", "report"):
                print((out / f"logs/{name}.log").read_text(), flush=True)
        if not (out / "done/study").exists():  # stopped, or failed
            break


if __name__ == "__main__":
    main()
