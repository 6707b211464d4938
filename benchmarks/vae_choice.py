"""Which video autoencoder: candidates of equal size, trained for the same minutes on the same data, measured alike.

Each candidate is configs/vae/sized.yaml with overrides, as wide as brings it nearest to `--params`. First each is timed
for a few steps, one a GPU; that gives its number of steps in `--minutes` of one alone (`--steps` gives all the same
instead). Then they train, `--side-by-side` over the GPUs there are (which takes as long as one after the other), and
are measured on held-out episodes. Encoding and decoding speed is measured last, one alone. The table and the JSON are
written anew after each. The same command again goes on, each candidate from its last checkpoint: after `--stop-after`
seconds or a signal (as from `timeout 500`), that is the step in work; after kill -9, at most a twentieth of its steps
is lost.

Run from the repository root, needs a recorded dataset):

    python benchmarks/vae_choice.py --data data/carracing --out runs/vae-choice --side-by-side 8 --stop-after 500
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import os
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import timing
import torch

from scaling.dispatch import logged
from scaling.local import POLL, StopOnSignal, last_lines, share_gpus, visible_gpus
from videowm.data.clips import even_clips
from videowm.data.dataset import Dataset
from videowm.files import write_json
from videowm.train.device import device_name
from videowm.vae.codec import DiffusersCodec, SizeConfig, VAEConfig, build_vae, load_vae, to_float, vae_class

CLASSES = {"cosmos": "AutoencoderKLCosmos", "ltx": "AutoencoderKLLTXVideo", "wan": "AutoencoderKLWan",
           "magvit": "AutoencoderKLMagvit"}  # fmt: skip
RATES = ("2e-3", "6e-3")  # the best one differs from class to class
ABLATED = "ltx-2e-3"
LOSSES = {  # on that one; every other candidate but the -log ones has l1 0.1 and kl 1e-6
    "no-l1": ["loss.l1=0"], "no-kl": ["loss.kl=0"], "kl-1e-3": ["loss.kl=1e-3"],
    "ssim": ["loss.ssim=0.1"], "gradient": ["loss.gradient=0.1"],
    "motion": ["loss.motion=1"], "moved": ["loss.moved=2"],
    "all": ["loss.ssim=0.1", "loss.gradient=0.1", "loss.motion=1"],
    "adversarial": ["loss.adversarial.weight=0.5"], "adversarial-0.1": ["loss.adversarial.weight=0.1"],
    "lpips": ["loss.lpips=0.1"],
}  # fmt: skip
MEASURES = ("psnr", "ssim", "psnr_motion", "psnr_moved")
TIMED = (10, 40)  # steps between which a candidate is timed
# in a table
SETTLED = ("data", "minutes", "steps", "params", "stride", "channels", "batch", "train_frames", "frames", "clips")
GRACE = 60.0  # s that a training has for the step in work and its checkpoint


def candidates(only: list[str] | None) -> dict[str, list[str]]:
    """Name -> overrides of the configuration."""
    found = {f"{short}-{rate}": [f"vae.model={model}", f"train.lr={rate}"]
             for short, model in CLASSES.items() for rate in RATES}  # fmt: skip
    found["cosmos-local"] = [*found["cosmos-2e-3"], "vae.local=3"]
    found["cosmos-norm"] = [*found["cosmos-local"], "vae.qk_norm=true"]
    for short in CLASSES:  # the loss of the presets, and cosmos as they have it
        name = "cosmos-norm" if short == "cosmos" else f"{short}-2e-3"
        found[f"{short}-log"] = [*found[name], "loss.log=true", "loss.l1=0", "loss.kl=2.5e-4"]
    found |= {f"ltx-{name}": found[ABLATED] + overrides for name, overrides in LOSSES.items()}
    if unknown := set(only or ()) - set(found):
        raise SystemExit(f"unknown: {', '.join(unknown)}; known: {', '.join(found)}")
    return {name: found[name] for name in only or found}


@lru_cache
def width_for(model: str, target: int, **size: int) -> int:
    """The width whose parameter count is nearest to `target`."""
    vae_class(model)  # imported now: on the meta device diffusers would make its constants there

    def parameters(width: int) -> int:
        with torch.device("meta"):
            vae = build_vae(VAEConfig(model, SizeConfig(width=width, **size)))
        return sum(p.numel() for p in vae.parameters())

    above = bisect_left(range(8, 264, 8), target, key=parameters)
    return min((8 * max(1, above), 8 * (above + 1)), key=lambda width: abs(parameters(width) - target))


def command(args: argparse.Namespace, overrides: list[str], *more: str) -> list[str]:
    """The training of one candidate."""
    size = {"time": args.stride[0], "space": args.stride[1], "channels": args.channels}
    model = overrides[0].partition("=")[2]
    return [
        sys.executable, "-m", "videowm", "train", "configs/vae/sized.yaml", f"data={args.data}",
        *(f"vae.size.{key}={value}" for key, value in size.items()),
        f"vae.size.width={width_for(model, args.params, **size)}", f"train.batch={args.batch}",
        "train.trackers=[]", "resident=on", "train.log_every=10",
        f"evaluate.clips={args.clips}", f"evaluate.frames={args.frames}", f"frames={args.train_frames}",
        *overrides, *more,
    ]  # fmt: skip


def seconds_a_step(run: Path, batch: int) -> float:
    """Mean between the two TIMED steps of a run that logs the speed of every 10."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first, last = TIMED
    rates = [line["samples_per_second"] for line in lines if first < line["step"] <= last]
    return float(np.mean([batch / rate for rate in rates if rate]))


def begin(call: list[str], log: Path, gpu: str | None, threads: int) -> subprocess.Popen | None:
    """A training whose output goes to `log`; None while one that a killed call left behind still holds it."""
    with log.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held by all processes that write there
        except BlockingIOError:
            return None
        env = {"OMP_NUM_THREADS": str(threads)} | os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
        return subprocess.Popen(call, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0)


def in_parallel(
    jobs: dict[str, list[str]], out: Path, count: int, over: Callable[[], bool]
) -> Iterator[tuple[str, str | None]]:
    """Run trainings to their end, `count` at a time on the GPUs there are: yield (name, failure or None) of each.

    Once it is `over`, those that run save the step in work and end, and nothing more is yielded.
    """
    slots, threads = share_gpus(visible_gpus(), count, 1), max(1, (os.cpu_count() or 1) // count)
    waiting, running, told = list(jobs), {}, set()
    out.mkdir(parents=True, exist_ok=True)
    try:
        while (waiting or running) and not over():
            for name in [name for name in waiting if len(running) < count]:
                log = out / f"{name}.log"
                before = log.stat().st_size if log.exists() else 0
                process = slots and begin([*jobs[name], f"out={out / name}"], log, slots[0], threads)
                if process:
                    running[name] = process, slots.pop(0), before
                elif slots and name not in told:
                    timing.say(f"{name} is still trained by a call that was killed: waiting for it")
                    told.add(name)
            waiting = [name for name in waiting if name not in running]
            time.sleep(POLL)
            for name in [name for name, (process, *_) in running.items() if process.poll() is not None]:
                process, slot, before = running.pop(name)
                slots.append(slot)
                yield name, failure(process.returncode, out / f"{name}.log", before)
    finally:
        end([process for process, *_ in running.values()])


def end(processes: list[subprocess.Popen]) -> None:
    """Ask trainings to save the step in work and to end; kill those that do not."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def failure(code: int, log: Path, before: int) -> str | None:
    """The last thing that a training said which did not come to its end."""
    return f"{last_lines(log, before).splitlines()[-1].strip(' |')} (exit code {code})" if code else None


@torch.no_grad()
def speed(run: Path, args: argparse.Namespace) -> dict[str, float]:
    """Frames a second of encoding and decoding, the best of five, on real frames."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    codec = DiffusersCodec(load_vae(run).to(device).eval())
    dataset = Dataset(args.data)
    where = even_clips(dataset, frames=args.frames, split="test", count=args.batch)
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


def rank(item: tuple[str, dict]) -> tuple[int, float]:
    """Best on the moved pixels first, then what is not measured yet, what failed last."""
    row = item[1]
    if "failed" in row or "psnr" not in row:
        return (2 if "failed" in row else 1), 0.0
    return 0, -row.get("psnr_moved", -math.inf)


def table(rows: dict[str, dict]) -> str:
    """Markdown, by `rank`; speeds also as ratios to the first candidate's that has them."""
    head = ["", "parameters, M", "steps", *(f"{m} (dB)" if "psnr" in m else m for m in MEASURES),
            "encode f/s", "decode f/s"]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    reference = next((row for row in rows.values() if "decode_frames_per_second" in row), {})
    for name, row in sorted(rows.items(), key=rank):
        cells = [name, f"{row['parameters'] / 1e6:.2f}" if "parameters" in row else "", str(row.get("steps", ""))]
        if "reached" in row:
            cells[-1] = f"{row['reached']} of {row['steps']}"
        digits = {m: 3 if m == "ssim" else 2 for m in MEASURES}
        scores = [f"{row[m]:.{n}f} ± {row[m + '_se']:.{n}f}" if m in row else "" for m, n in digits.items()]
        if "failed" in row:
            scores[0] = "failed: " + row["failed"].replace("|", "/")[:160]
        cells += scores
        for key in ("encode_frames_per_second", "decode_frames_per_second"):
            cells.append(f"{row[key]:.0f} ({row[key] / reference[key]:.2f}x)" if key in row else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


class Choice:
    """The rows of the table by candidate, each saved as soon as it changes."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.wanted, self.path = args, candidates(args.only), args.out / "vae_choice.json"
        self.settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
        self.settings["stride"] = list(args.stride)
        self.rows: dict[str, dict] = {}
        args.out.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            there = json.loads(self.path.read_text())
            self.rows = there["candidates"]
            if differs := [k for k in SETTLED if there["settings"][k] != self.settings[k]]:
                was, now = (settings[differs[0]] for settings in (there["settings"], self.settings))
                raise SystemExit(f"{self.path} was made with {differs[0]} {was}, not {now}: choose another --out")

    def put(self, name: str, **row: object) -> None:
        """Add to a row; what failed or was not ended before is so no more."""
        kept = {key: value for key, value in self.rows.get(name, {}).items() if key not in ("failed", "reached")}
        rows = self.rows | {name: kept | row}
        self.rows = {known: rows[known] for known in candidates(None) if known in rows}  # the first one is the measure
        write_json(self.path, {"settings": self.settings, "candidates": self.rows})
        aside = self.args.out / ".vae_choice.md"
        aside.write_text(table(self.rows) + "\n")
        os.replace(aside, self.path.with_suffix(".md"))

    def time(self, over: Callable[[], bool]) -> None:
        """How many steps each makes in `--minutes`, each alone on a GPU; those that failed are tried again."""
        if self.args.steps:
            for name in self.wanted:
                self.put(name, steps=self.args.steps)
            return
        alone = min(self.args.side_by_side, max(1, len(visible_gpus())))
        trunk = ["train.trunk=true", "train.warmup=4", "train.cooldown=0"]  # so nothing is evaluated
        jobs = {name: command(self.args, overrides, *trunk, f"train.steps={TIMED[1]}")
                for name, overrides in self.wanted.items() if "steps" not in self.rows.get(name, {})}  # fmt: skip
        for name, failed in in_parallel(jobs, self.args.out / "timed", alone, over):
            if failed:
                self.put(name, failed=failed)
                timing.say(f"{name} failed: {failed}")
                continue
            seconds = seconds_a_step(self.args.out / "timed" / name, self.args.batch)
            self.put(name, steps=max(TIMED[1], round(60 * self.args.minutes / seconds)))
            timing.say(f"{name}: {1e3 * seconds:.0f} ms a step, {self.rows[name]['steps']} steps")

    def train(self, over: Callable[[], bool]) -> None:
        """Train and measure what is not measured yet."""
        steps = {name: self.rows[name]["steps"] for name in self.unmeasured() if "steps" in self.rows.get(name, {})}
        jobs = {name: command(self.args, self.wanted[name], f"train.steps={n}", f"train.save_every={max(1, n // 20)}")
                for name, n in steps.items()}  # fmt: skip
        for name, failed in in_parallel(jobs, self.args.out, self.args.side_by_side, over):
            if failed:
                self.put(name, failed=failed)
                timing.say(f"{name} failed: {failed}")
                continue
            record = json.loads((self.args.out / name / "record.json").read_text())
            scores = {key.partition("/")[2]: value for key, value in record["metrics"].items()}
            self.put(name, **scores, parameters=record["params"]["vae"], device=record["device"],
                     train_seconds=record["wall_seconds"])  # fmt: skip
            timing.say(f"{name}: {scores['psnr']:.2f} dB after {steps[name]} steps")
        for name in steps:
            if name in self.unmeasured() and "failed" not in self.rows[name]:
                self.put(name, reached=logged(self.args.out / name))

    def speeds(self, over: Callable[[], bool]) -> None:
        """Encoding and decoding, one alone."""
        for name in self.wanted:
            if "psnr" in self.rows.get(name, {}) and "speed_device" not in self.rows[name] and not over():
                self.put(name, **speed(self.args.out / name, self.args))

    def unmeasured(self) -> list[str]:
        return [name for name in self.wanted if "psnr" not in self.rows.get(name, {})]


def options() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--minutes", type=float, default=10, help="of training each, as on a GPU alone")
    p.add_argument("--steps", type=int, help="of training each, instead of --minutes")
    p.add_argument("--side-by-side", type=int, default=4, help="trainings at a time, round robin over the GPUs")
    p.add_argument("--stop-after", type=float, help="seconds until all is saved and this call ends, with its table")
    p.add_argument("--only", nargs="*", help=f"of {', '.join(candidates(None))}")
    p.add_argument("--params", type=int, default=3_000_000)
    p.add_argument("--stride", type=int, nargs=2, default=(4, 8), help="in time and space")
    p.add_argument("--channels", type=int, default=16)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--train-frames", type=int, default=9)
    p.add_argument("--frames", type=int, default=33, help="of the clips that are measured")
    p.add_argument("--clips", type=int, default=96)
    return p


def main(arguments: list[str] | None = None) -> None:
    args = options().parse_args(arguments)
    choice = Choice(args)
    with StopOnSignal() as stop:
        late = lambda: stop.asked or time.perf_counter() - timing.BEGAN > (args.stop_after or math.inf)  # noqa: E731
        choice.time(late)
        choice.train(late)
        choice.speeds(late)
    print(table(choice.rows))
    if left := choice.unmeasured():
        print(f"{len(left)} of {len(choice.wanted)} candidates are not measured: the same command goes on")


if __name__ == "__main__":
    main()
