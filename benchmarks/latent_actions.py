"""Actions discovered from video alone, against the true ones: recordings, codes, scores, and a world model on codes.

    python benchmarks/latent_actions.py --worlds takecover carracing carracing-noisy --jobs 3 --out runs/codes
    python benchmarks/latent_actions.py --worlds carracing --tiny --out /tmp/codes        # all of it on 2 CPU cores

Of each world codes of 8 values and of 4 numbers are learned; where things move by themselves also with a few labels.
With `--models` a world model is trained on each world's 8 codes. OUT/codes.json has the scores. The same command again
goes on where it was stopped. An autoencoder of time stride 1 (`--vae`) gives every frame a code.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

from label_share import QUIET, table_of
from stages import ROOT, Stage, options, run

from videowm.files import write_json

VAE = {"takecover": "takecover-2", "carracing": "carracing-2", "carracing-noisy": "carracing-2"}
KINDS = {"codes8": ["model.codes=8"], "code4": ["model.code=4"]}


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    episodes: dict[str, int] = field(
        default_factory=lambda: {"takecover": 600, "carracing": 300, "carracing-noisy": 300}
    )
    frames: int = 257
    codes: list[str] = field(default_factory=lambda: ["model.width=128", "train.batch=256", "train.steps=4000",
                                                      "train.lr=2e-3", "train.workers=4"])  # fmt: skip
    world: list[str] = field(default_factory=lambda: ["budget=1e15"])
    clips: int = 64


FULL = Size()
TINY = Size(dict.fromkeys(VAE, 5), 81, ["model.width=8", "model.blocks=1", "train.steps=8", "train.batch=4",
                                        "probe_clips=8", "heldout_clips=4"],
            ["depth=1", "hidden=32", "train.batch=4", "train.lr=2e-3", "budget=2e9", "heldout.clips=8",
             "rollout.clips=2"], 2)  # fmt: skip


def chain(world: str, out: Path, size: Size, args: argparse.Namespace) -> list[Stage]:
    """The recording of a world, its latents, and what is learned on them."""
    at, vae = out / world, (args.vae and args.vae.resolve()) or ROOT / "benchmarks/studies" / VAE[world] / "vae"
    found = [
        Stage(f"{world} record", ["videowm", "record", world, "--out", f"{at}/data", "--episodes",
                                  f"{size.episodes[world]}", "--frames", f"{size.frames}", "--test-share", "0.2",
                                  "--lossless", "--workers", f"{args.workers}"], gpu=False),
        Stage(f"{world} encode", ["videowm", "encode", f"{at}/data", "--vae", f"{vae}", "--out", f"{at}/latents",
                                  "--frames", "33"], (f"{world} record",)),
    ]  # fmt: skip
    labels = {f"{kind}-labels{share:g}": [*more, f"labels={share}"] for kind, more in KINDS.items()
              for share in args.labels}  # fmt: skip
    for kind, more in (KINDS | (labels if world == "carracing-noisy" else {})).items():
        found.append(Stage(f"{world} {kind}", [
            "videowm", "train", "configs/latent-actions/base.yaml", f"latents={at}/latents", f"out={at}/{kind}", QUIET,
            *size.codes, *more], (f"{world} encode",)))  # fmt: skip
    return found


def model_chain(world: str, out: Path, size: Size, source: str) -> list[Stage]:
    """A world model on a world's codes, and its evaluation."""
    at, base = out / world, "takecover" if world == "takecover" else "carracing"
    return [
        Stage(f"{world} world", ["videowm", "train", f"configs/world/{base}.yaml", f"latents={at}/latents",
                                 f"out={at}/world", f"actions={source}", "rollout.clips=16", QUIET, *size.world]),
        Stage(f"{world} evaluate", ["videowm", "evaluate", f"{at}/world", "--clips", f"{size.clips}", "--horizon", "32",
                                    "--counterfactuals", "0"], (f"{world} world",)),
    ]  # fmt: skip


def scores(out: Path, worlds: list[str]) -> dict[str, dict[str, float]]:
    """The metrics of every finished run."""
    paths = [path for world in worlds for path in sorted((out / world).glob("code*/record.json"))]
    found = {f"{path.parent.parent.name} {path.parent.name}": json.loads(path.read_text())["metrics"] for path in paths}
    for world in worlds:
        if (path := out / world / "world/evaluation.json").exists():
            kept = ("heldout/loss", "heldout/action_gap", "rollout/lead", "control/delta_psnr")
            measured = json.loads(path.read_text())
            found[f"{world} world"] = {key: measured[key] for name in kept for key in (name, f"{name}_se")
                                       if key in measured}  # fmt: skip
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = options(__doc__)
    found.add_argument("--worlds", nargs="+", choices=VAE, default=list(VAE))
    found.add_argument("--vae", type=Path, help="another autoencoder than that of the world's study")
    found.add_argument("--labels", type=float, nargs="*", default=[0.01], help="shares of labels in the noisy world")
    found.add_argument("--models", action="store_true", help="also train a world model on each world's 8 codes")
    return found


def main(words: list[str] | None = None) -> None:
    args = parser().parse_args(words)
    out, size, seconds = args.out.resolve(), TINY if args.tiny else FULL, {}
    seconds |= dict(run([stage for world in args.worlds for stage in chain(world, out, size, args)], out, args.jobs))
    label = {world: Stage(f"{world} label", ["videowm", "label", f"{out}/{world}/data", "--by",
                                             f"{out}/{world}/codes8"]) for world in args.worlds}  # fmt: skip
    if args.models:
        seconds |= dict(run(list(label.values()), out, args.jobs))
        after = [stage for world in args.worlds if (out / "done" / label[world].file).exists()
                 for stage in model_chain(world, out, size, table_of(out, label[world]))]  # fmt: skip
        seconds |= dict(run(after, out, args.jobs))
    path = out / "codes.json"
    before = json.loads(path.read_text()).get("seconds", {}) if path.exists() else {}
    write_json(path, {"scores": scores(out, args.worlds), "seconds": before | seconds})
    for name, found in scores(out, args.worlds).items():
        told = {key: round(value, 3) for key, value in found.items() if value is not None and key.endswith(
            ("_linear", "_mlp", "delta_psnr", "consistency", "perplexity"))}  # fmt: skip
        print(name, told, flush=True)


if __name__ == "__main__":
    main()
