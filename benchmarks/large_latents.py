"""A tiny world model on latents of 1, 20 and 200 GB: seconds to the first step, memory, speed.

The folders are made up: sparse files of the real layout, with random numbers in a few blocks of every shard. Shards
repeat, so that their sha256 need not be computed over 200 GB. Each training is `videowm train` in a process of its own,
with one thread; its memory is watched from outside. It runs once on a host that never read the folder (cold) and once
on one that has checked all of it (warm). For 1 GB the batches are compared with those that all latents in memory give.

    python benchmarks/large_latents.py --gb 1 20 200 --folder /tmp/large --out large.json     # 3 minutes on 2 cores
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import timing
import torch
from safetensors.torch import load_file, save_file

from videowm.actions.group import group_actions
from videowm.data.clips import pick
from videowm.data.digests import Digests, key_of
from videowm.data.latents import LatentsIndex, Origin
from videowm.files import sha256_of
from videowm.train.registry import load
from videowm.train.tasks.world import WorldTask
from videowm.vae.codec import DiffusersCodec, SizeConfig, VAEConfig, build_vae

ROOT = Path(__file__).parents[1]
CLIPS, STEPS, SHAPE, ACTIONS = 64, 17, (16, 16, 16), 3  # of a shard; 128 x 128 pixels at strides 4, 8, 8
CONTENTS = 8  # different shards
COLUMNS = {
    "gb": ("GB", "g"), "hashes": ("hashes", ""), "shards": ("shards", "d"), "clips": ("clips", "d"),
    "first_s": ("first step s", ".1f"), "first_cpu_s": ("CPU s until then", ".1f"), "steps_s": ("steps/s", ".1f"),
    "step_cpu_ms": ("CPU ms a step", ".0f"), "peak": ("peak MB", ".0f"), "anonymous": ("of it anonymous MB", ".0f"),
    "saved_s": ("saved s", ".1f"), "batches": ("batches", ""),
}  # fmt: skip


def content(number: int, path: Path) -> None:
    """A shard with random actions and a block of random latents in every fourth clip; the rest of it is zeros."""
    rng = np.random.default_rng(number)
    latents = np.zeros((CLIPS, STEPS, *SHAPE), np.float16)
    latents[number % 4 :: 4, 2 * number, 0] = rng.normal(size=SHAPE[1:])
    actions = rng.normal(size=(CLIPS, 4 * STEPS - 4, ACTIONS)).astype(np.float32)
    rows = {"latents": latents, "actions": actions, "episode": np.arange(CLIPS), "start": np.zeros(CLIPS, np.int64)}
    save_file({name: torch.from_numpy(row) for name, row in rows.items()}, path, metadata={"made_by": "made up"})


def pieces(path: Path) -> list[tuple[int, bytes]]:
    """The blocks of a file that are not zero, and where they are."""
    data = path.read_bytes()
    blocks = ((i, data[i : i + 4096]) for i in range(0, len(data), 4096))
    return [(i, block) for i, block in blocks if block.count(0) < len(block)]


def make(folder: Path, gb: float) -> LatentsIndex:
    """A folder of latents of that size, and a tiny autoencoder that could have made it."""
    if (folder / "latents.json").exists():
        return LatentsIndex.read(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)  # folders of all sizes share it
    codec = DiffusersCodec(build_vae(VAEConfig(size=SizeConfig(channels=SHAPE[0], width=16, layers=1))))
    codec.vae.save_pretrained(folder.parent / "vae")
    files, kinds = {}, []
    for number in range(CONTENTS):
        path = folder.parent / f"content-{number}.safetensors"
        content(number, path)
        kinds.append((sha256_of(path), path.stat().st_size, pieces(path)))
    shards = max(11, round(gb * 1e9 / kinds[0][1]))
    test = max(1, shards // 11)
    for number in range(shards):
        split, place = ("test", number) if number < test else ("train", number - test)
        name = f"{split}-{place:05d}.safetensors"
        digest, size, blocks = kinds[number % CONTENTS]
        with (folder / name).open("wb") as file:
            file.truncate(size)
            for at, block in blocks:
                file.seek(at)
                file.write(block)
        files[name] = digest
    origin = Origin(data="made up", data_hash="0" * 16, vae=str(folder.parent / "vae"), vae_hash=codec.hash,
                    frames=4 * STEPS - 3, dtype="fp16")  # fmt: skip
    index = LatentsIndex(
        **asdict(origin), stride=tuple(codec.stride), steps=STEPS, shape=SHAPE, mean=[0.01] * SHAPE[0],
        std=[0.3] * SHAPE[0], action_mean=[0.1] * ACTIONS, action_std=[0.9] * ACTIONS, action_names=["a", "b", "c"],
        world="made-up", fps=10.0, clips={"train": CLIPS * (shards - test), "test": CLIPS * test}, files=files,
    )  # fmt: skip
    index.write(folder)
    return index


def remembered(folder: Path, index: LatentsIndex) -> None:
    """What this host remembers after it has checked all of the folder."""
    digests = Digests(folder)
    for name, digest in index.files.items():
        digests.remember(key_of(folder / name), digest)


def arguments(folder: Path, out: Path, steps: int) -> list[str]:
    return [
        f"latents={folder}", f"out={out}", "budget=null", "depth=1", "hidden=64", "patch=4", f"train.steps={steps}",
        "train.batch=8", "train.lr=1e-3", "train.precision=fp32", "train.log_every=1", "train.trackers=[]",
        "rollout.clips=0", "heldout.clips=16",
    ]  # fmt: skip


def memory(pid: int) -> tuple[float, float]:
    """Peak of the resident memory of a process, and what of it is anonymous now, MB."""
    about = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return tuple(int(about[key].split()[0]) / 1e3 for key in ("VmHWM", "RssAnon"))


def cpu_seconds(pid: int) -> float:
    """What a process has taken of the processors so far; other processes do not change it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def train(folder: Path, out: Path, steps: int, cache: Path, package: Path) -> dict[str, Any]:
    """Train in a process of its own, and watch it."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "videowm", "train", str(ROOT / "configs/world/quickstart.yaml")]
    more = {"VIDEOWM_CACHE": str(cache), "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    began, log, seen, most, cpu = time.perf_counter(), out / "metrics.jsonl", [], [0.0, 0.0], []
    with subprocess.Popen([*command, *arguments(folder, out, steps)], env=os.environ | more, text=True, cwd=package,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:  # fmt: skip
        while process.poll() is None:
            try:
                most, spent = [max(pair) for pair in zip(most, memory(process.pid))], cpu_seconds(process.pid)
            except (OSError, KeyError):  # it has just ended
                continue
            lines = log.read_bytes().count(b"\n") if log.exists() else 0
            new = min(lines, steps) - len(seen)
            seen, cpu = seen + [time.perf_counter() - began] * new, cpu + [spent] * new
            time.sleep(0.01)
        if process.returncode:
            raise SystemExit(process.stderr.read())
    half = len(seen) // 2  # the first steps make room for themselves
    return {
        "first_s": seen[0], "first_cpu_s": cpu[0], "peak": most[0], "anonymous": most[1],
        "steps_s": (len(seen) - 1 - half) / max(seen[-1] - seen[half], 1e-9),
        "step_cpu_ms": 1e3 * (cpu[-1] - cpu[half]) / (len(cpu) - 1 - half),
        "saved_s": time.perf_counter() - began - seen[-1],
    }  # fmt: skip


def same_batches(folder: Path, out: Path, steps: int) -> str:
    """Whether the run's batches are bit for bit those that were cut from all latents in memory."""
    config = load(ROOT / "configs/world/quickstart.yaml", arguments(folder, out, steps))
    task, index = WorldTask(config), LatentsIndex.read(folder)
    parts = [load_file(folder / name) for name in index.shards("train")]
    latents, actions = (torch.cat([part[name] for part in parts]) for name in ("latents", "actions"))
    mean, std = (torch.tensor(values)[:, None, None] for values in (index.mean, index.std))
    grouped = group_actions((actions - torch.tensor(index.action_mean)) / torch.tensor(index.action_std), 4)
    digests = [hashlib.sha256(), hashlib.sha256()]
    for step in range(steps):
        for pair in zip(digests, (task.samples(task.load(step, range(8))), in_memory(config, step, latents, grouped))):
            digest, (z, a) = pair
            z = z if digest is digests[0] else (z.float() - mean) / std
            digest.update(z.numpy().tobytes() + a.numpy().tobytes())
    one, other = (digest.hexdigest()[:16] for digest in digests)
    return one if one == other else f"{one} is not {other}"


def in_memory(config: Any, step: int, latents: torch.Tensor, grouped: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The windows of a step, as they were cut when all lay in memory."""
    rows = []
    for slot in range(8):
        clip, rng = pick(config.seed, step * 8 + slot, len(latents))
        rows.append((clip, int(rng.integers(STEPS - config.window + 1)) if rng.random() < 0.5 else 0))
    clip, start = torch.tensor(rows).unbind(1)
    at = clip[:, None], start[:, None] + torch.arange(config.window)
    return latents[at], grouped[at]


def main(given: list[str] | None = None) -> list[dict]:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--gb", nargs="+", type=float, default=[1, 20, 200])
    options.add_argument("--folder", type=Path, required=True, help="where the latents are made; 1 GB of real disk")
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--package", type=Path, default=ROOT, help="another checkout, whose videowm trains")
    options.add_argument("--out", type=Path, help="JSON")
    options = options.parse_args(given)
    rows = []
    for gb in options.gb:
        folder = options.folder.resolve() / f"{gb:g}gb"
        index = make(folder, gb)
        for hashes in ("cold", "warm"):
            cache = options.folder.resolve() / f"cache-{gb:g}-{hashes}"
            shutil.rmtree(cache, ignore_errors=True)
            if hashes == "warm":
                os.environ["VIDEOWM_CACHE"] = str(cache)
                remembered(folder, index)
            out = options.folder.resolve() / f"run-{gb:g}"
            row = {"gb": gb, "hashes": hashes, "shards": len(index.files), "clips": sum(index.clips.values())}
            row |= train(folder, out, options.steps, cache, options.package.resolve())
            row["batches"] = same_batches(folder, out, options.steps) if gb <= 1 and hashes == "cold" else None
            rows.append(row)
            timing.say(", ".join(f"{key} {value}" for key, value in row.items()))
    print(timing.markdown(rows, COLUMNS))
    if options.out:
        about = {"command": timing.command(), "versions": timing.versions(), "date": timing.CALL, "rows": rows}
        options.out.write_text(json.dumps(about, indent=1) + "\n")
    return rows


if __name__ == "__main__":
    main()
