"""What a few labels are worth: world models on labels learned from a share of the episodes, at equal compute.

    python benchmarks/label_share.py --world takecover --vae benchmarks/studies/takecover-2/vae --out runs/labels
    python benchmarks/label_share.py --world carracing --tiny --out /tmp/labels       # all of it on 2 CPU cores

For each share a labeller learns from its episodes and labels the others. One world model is trained on these labels,
and one on the episodes of the share alone. Two more have all recorded actions, or none. All are judged under the
recorded actions of held-out episodes. OUT/labels.json has the numbers, OUT/labels.png the curve. The same command again
goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages import ROOT, Stage, log_of, options, run

from videowm.data.dataset import Dataset
from videowm.files import write_atomic, write_json
from videowm.record import RunRecord

SHARES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
NUMBERS = ("heldout/loss", "heldout/action_gap", "rollout/lead", "control/delta_psnr", "control/accuracy",
           "control/accuracy_floor", "control/accuracy_ceiling", "control/r2", "decision/regret")  # fmt: skip
SOURCES = {"labels": "labels of the share", "alone": "the share alone", "all": "all labels", "none": "no actions"}
QUIET = "train.trackers=[]"


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    episodes: int
    frames: int
    clip: int
    test: float = 0.2  # share of the episodes that is held out
    budget: float = 1e15  # FLOPs of each world model
    clips: int = 64  # rollouts of each
    horizon: int = 32
    label: list[str] = field(default_factory=list)
    reader: list[str] = field(default_factory=list)
    world: list[str] = field(default_factory=list)
    vae: list[str] = field(default_factory=lambda: ["configs/vae/base.yaml"])


FULL = {"takecover": Size(800, 261, 33), "carracing": Size(500, 301, 65)}
SMALL = {"label": ["train.steps=8", "reader.width=8", "heldout_clips=4"], "reader": ["train.steps=8"],
         "world": ["depth=1", "hidden=32", "train.batch=4", "train.lr=2e-3", "heldout.clips=8", "rollout.clips=2"],
         "vae": ["configs/vae/quickstart.yaml", "train.steps=3", "evaluate.clips=2"]}  # fmt: skip
TINY = {world: Size(6, 81, 33, 0.34, 2e9, 2, 16, **SMALL) for world in FULL}


def name_of(share: float) -> str:
    return f"{share:g}"


def first_chain(world: str, out: Path, size: Size, vae: str | None, shares: list[float], workers: int) -> list[Stage]:
    """Recording, latents, the reader that judges, and the labels of every share."""
    data = f"{out}/data"
    found = [Stage("record", ["videowm", "record", world, "--out", data, "--episodes", f"{size.episodes}", "--frames",
                              f"{size.frames}", "--test-share", f"{size.test}", "--lossless", "--workers",
                              f"{workers}"], gpu=False)]  # fmt: skip
    if vae is None:
        found.append(
            Stage("vae", ["videowm", "train", *size.vae, f"data={data}", f"out={out}/vae", QUIET], ("record",))
        )
    found += [
        Stage("encode", ["videowm", "encode", data, "--vae", vae or f"{out}/vae", "--out", f"{out}/latents", "--frames",
                         f"{size.clip}"], ("record",) if vae else ("vae",)),
        Stage("reader", ["videowm", "train", f"configs/reader/{world}.yaml", f"data={data}", f"out={out}/reader", QUIET,
                         *size.reader], ("record",)),
    ]  # fmt: skip
    before: tuple[str, ...] = ()
    for share in shares:
        name, run_ = name_of(share), f"{out}/label-{name_of(share)}"
        found += [
            Stage(f"learn {name}", ["videowm", "train", "configs/label/base.yaml", f"data={data}", f"out={run_}",
                                    f"share={share}", QUIET, *size.label], ("record",)),
            # One after another, since each writes into the recording.
            Stage(f"label {name}", ["videowm", "label", data, "--by", run_], (f"learn {name}", *before)),
        ]  # fmt: skip
        before = (f"label {name}",)
    return found


def table_of(out: Path, stage: Stage) -> str:
    """The source of actions that a finished `videowm label` printed last."""
    return re.findall(r"actions=((?:labelled|latent)/\w+)", log_of(out, stage).read_text())[-1]


def models(out: Path, labels: dict[float, str]) -> dict[str, list[str]]:
    """Name -> overrides of every world model."""
    found = {"all": ["actions=recorded"], "none": ["actions=none"]}
    for share, name in labels.items():
        found[f"labels-{name_of(share)}"] = [f"actions={name}"]
        found[f"alone-{name_of(share)}"] = [f"share={share}"]
    return found


def second_chain(world: str, out: Path, size: Size, labels: dict[float, str], decisions: int) -> list[Stage]:
    """The world models, heads where decisions are judged, and their evaluations."""
    found = []
    for name, more in models(out, labels).items():
        run_ = f"{out}/world-{name}"
        found.append(Stage(f"world {name}", [
            "videowm", "train", f"configs/world/{world}.yaml", f"out={run_}", f"latents={out}/latents", QUIET,
            f"budget={size.budget}", "rollout.clips=16", *size.world, *more]))  # fmt: skip
        before = f"world {name}"
        judged = ["--decisions", f"{decisions}"] if decisions and name != "none" else []
        if judged:
            found.append(Stage(f"heads {name}", ["videowm", "train", "configs/heads/base.yaml", f"world={run_}",
                                                 f"out={out}/heads-{name}", QUIET], (before,)))  # fmt: skip
            before = f"heads {name}"
        found.append(Stage(f"evaluate {name}", [
            "videowm", "evaluate", run_, "--reader", f"{out}/reader", "--clips", f"{size.clips}", "--horizon",
            f"{size.horizon}", "--counterfactuals", "0", *judged], (before,)))  # fmt: skip
    return found


def row(out: Path, name: str, whole: float) -> dict[str, Any]:
    """What a world model was trained on, and its numbers. `whole` are the hours of all training episodes."""
    source, _, text = name.partition("-")
    share = {"all": 1.0, "none": 0.0}.get(source) if not text else float(text)
    measured = json.loads((out / f"world-{name}" / "evaluation.json").read_text())
    found = {number: measured.get(number) for number in NUMBERS}
    found |= {f"{number}_se": measured[f"{number}_se"] for number in NUMBERS if f"{number}_se" in measured}
    about: dict[str, Any] = {"source": source, "share": share, "hours": share * whole if not text else None}
    if text:
        labeller = RunRecord.read(out / f"label-{text}").metrics
        about["hours"] = labeller["label/hours"]
        if source == "labels":
            about["labeller"] = {key: value for key, value in labeller.items() if key.endswith(("_accuracy", "_r2"))}
    return about | found


def figure(rows: list[dict[str, Any]], y: str) -> bytes:
    """Control as a share of that of all labels, against the share that was labelled, as PNG."""
    import io

    from matplotlib.figure import Figure

    drawing = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = drawing.subplots()
    full = next(row[y] for row in rows if row["source"] == "all")
    for source, color in (("labels", "#d62728"), ("alone", "#1f77b4")):
        own = sorted((row for row in rows if row["source"] == source and row[y] is not None), key=lambda r: r["hours"])
        points = [(r["hours"], r[y] / full, (r.get(f"{y}_se") or 0) / abs(full)) for r in own]
        if points:
            x, value, error = zip(*points)
            axes.errorbar(x, value, yerr=error, marker="o", capsize=2, color=color, label=SOURCES[source])
    axes.axhline(1, color="0.3", linewidth=1, label=SOURCES["all"])
    axes.axhline(0, color="0.7", linewidth=1, linestyle=":", label=SOURCES["none"])
    axes.set(xscale="log", xlabel="hours of video with labels", ylabel=f"{y}, as a share of all labels'")
    axes.legend(frameon=False)
    drawing.savefig(held := io.BytesIO(), format="png", dpi=120)
    return held.getvalue()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = options(__doc__)
    found.add_argument("--world", choices=FULL, required=True)
    found.add_argument("--vae", help="run or folder of an autoencoder; none is trained then")
    found.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    found.add_argument("--episodes", type=int, help="recorded (default: 800 of TakeCover, 500 of CarRacing)")
    found.add_argument("--budget", type=float, help="FLOPs of each world model (default: 1e15)")
    found.add_argument("--decisions", type=int, default=0, help="moments at which decisions are judged; 0: none")
    found.add_argument("--y", default="control/delta_psnr", help="what the figure shows")
    return found


def main(words: list[str] | None = None) -> None:
    args = parser().parse_args(words)
    out, size = args.out.resolve(), (TINY if args.tiny else FULL)[args.world]
    given = {"episodes": args.episodes, "budget": args.budget}
    size = Size(**vars(size) | {key: value for key, value in given.items() if value is not None})
    vae = args.vae and str((ROOT / args.vae).resolve() if (ROOT / args.vae).exists() else args.vae)
    first = first_chain(args.world, out, size, vae, args.shares, args.workers)
    seconds = dict(run(first, out, args.jobs))
    if not all((out / "done" / stage.file).exists() for stage in first):
        return
    labels = {share: table_of(out, next(stage for stage in first if stage.name == f"label {name_of(share)}"))
              for share in args.shares}  # fmt: skip
    seconds |= dict(run(second_chain(args.world, out, size, labels, args.decisions), out, args.jobs))
    data = Dataset(out / "data")
    whole = data.hours(data.split("train"))
    rows = [row(out, name, whole) for name in models(out, labels) if (out / f"done/evaluate-{name}").exists()]
    before = json.loads((out / "labels.json").read_text()).get("seconds", {}) if (out / "labels.json").exists() else {}
    write_json(out / "labels.json", {"world": args.world, "budget": size.budget, "episodes": len(data.split("train")),
                                     "hours": whole, "rows": rows, "seconds": before | seconds})  # fmt: skip
    if any(one["source"] == "all" and one[args.y] for one in rows):
        write_atomic(out / "labels.png", figure(rows, args.y))
    for one in rows:
        print(f"{one['source']:8s} {one['share']:<7g} {one['hours']:.3f} h  {args.y} {one[args.y]}", flush=True)


if __name__ == "__main__":
    main()
