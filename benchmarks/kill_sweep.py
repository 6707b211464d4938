"""Kill a sweep at random, again and again: every point must end exactly once.

    python benchmarks/kill_sweep.py --where local --trials 10
    python benchmarks/kill_sweep.py --where slurm --trials 10      (as root, with Debian's slurm-wlm and munge)

A trial is a sweep of 24 tiny points: 2 trunks with 5 branches each, 12 runs on their own. At 10 random moments
`kill -9` hits a launcher (the sweep's own, or that of a SLURM task) or a worker (`accelerate` or the process that
trains); a launcher that is gone is started again. A trial passes when there are 24 records with 24 different
configurations, and every point has logged each of its steps exactly once. The table goes to
benchmarks/kill_sweep.json, a trial at a time; trials that stand there are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
POINTS, KILLS = 24, 10
STEPS, BRANCH_AT = 60, 40
VAE = ["vae.size.width=16", "vae.size.layers=1", "vae.size.channels=4"]
WORLD = {
    "hidden": 32, "depth": 1, "budget": None, "window": 5, "train.batch": 4, "train.trackers": [], "train.warmup": 5,
    "train.precision": "fp32", "train.log_every": 1, "train.save_every": 10, "heldout.clips": 4, "heldout.window": 4,
    "heldout.context": 2, "rollout.clips": 2, "rollout.context_frames": 5, "rollout.horizon": 4,
    "rollout.sampler.steps": 2, "rollout.batch": 2,
}  # fmt: skip


def prepare(folder: Path) -> Path:
    """A recording of six episodes, an autoencoder after three steps, its latents."""
    data, vae, latents = folder / "data", folder / "vae", folder / "latents"
    tiny = [*VAE, "train.steps=3", "train.batch=2",
            "train.trackers=[]", "evaluate.clips=2", "evaluate.frames=9"]  # fmt: skip
    for verb in (
        ["record", "carracing", "--out", data, "--episodes", 6, "--frames", 69, "--seed", 3, "--test-share", 1 / 3],
        ["train", ROOT / "configs/vae/quickstart.yaml", f"data={data}", f"out={vae}", *tiny],
        ["encode", data, "--vae", vae, "--out", latents, "--frames", 33],
    ):
        subprocess.run([sys.executable, "-m", "videowm", *map(str, verb)], check=True, cwd=ROOT)
    return latents


def write_sweep(folder: Path, latents: Path, seed: int) -> Path:
    """24 points whose seeds differ."""
    points = []
    for trunk in range(2):
        name = f"trunk{trunk}"
        common = {"seed": 1000 * seed + 100 * trunk}
        points.append({"name": name, **common, "train.steps": BRANCH_AT, "train.keep_at": [BRANCH_AT],
                       "train.trunk": True, "train.cooldown": 0})  # fmt: skip
        start = {"run": str(folder / "out" / name), "step": BRANCH_AT}
        points += [{"name": f"{name}-{n}", **common, "train.steps": n, "train.start": start} for n in range(50, 55)]
    points += [
        {"name": f"alone{i}", "seed": 1000 * seed + i, "train.steps": STEPS} for i in range(POINTS - len(points))
    ]
    sweep = {"base": str(ROOT / "configs/world/quickstart.yaml"), "out": str(folder / "out"), "points": points,
             "set": WORLD | {"latents": str(latents)}, "retries": 3, "slurm": {"partition": "main"}}  # fmt: skip
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return path


def processes(sweep: Path) -> dict[str, list[int]]:
    """The living launchers and workers of this sweep, by their command lines."""
    found: dict[str, list[int]] = {"launcher": [], "worker": []}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if "scaling" in words and str(sweep) in words:
                found["launcher"].append(int(path.parent.name))
            elif words[0].endswith(Path(sys.executable).name) and any(f"{sweep.parent}/out/plan/" in w for w in words):
                found["worker"].append(int(path.parent.name))
    return found


class Local:
    """The sweep's own launcher, started again whenever it is gone."""

    def __init__(self, sweep: Path, log: Path, jobs: int) -> None:
        self.command = [sys.executable, "-m", "scaling", "run", str(sweep), "--jobs", str(jobs)]
        self.log, self.process, self.started = log, None, 0

    def tend(self) -> bool:
        """Whether the sweep is done."""
        if self.process is not None and (code := self.process.poll()) is not None:
            if code == 0:
                return True
            self.process = None
        if self.process is None:
            self.started += 1
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(self.command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        return False


class Slurm:
    """`run --slurm` whenever the queue is empty; what waits after a requeue is let go at once."""

    def __init__(self, sweep: Path, log: Path, jobs: int) -> None:
        self.command = [sys.executable, "-m", "scaling", "run", str(sweep), "--slurm", "--jobs", str(jobs)]
        self.log, self.started = log, 0

    def tend(self) -> bool:
        held = subprocess.run(["squeue", "-h", "-r", "-o", "%A"], capture_output=True, text=True, check=True).stdout
        if held.split():
            return False
        self.started += 1
        ended = subprocess.run(self.command, cwd=ROOT, capture_output=True, text=True, check=True)
        with self.log.open("a") as log:
            log.write(ended.stdout)
        return f"{POINTS} done" in ended.stdout


def trial(where: type, folder: Path, latents: Path, seed: int, jobs: int) -> dict:
    """One sweep with its kills: what was hit, and what came out."""
    rng, began = random.Random(seed), time.monotonic()
    sweep = write_sweep(folder, latents, seed)
    launcher = where(sweep, folder / "launcher.log", jobs)
    kills = {"launcher": 0, "worker": 0}
    kind, at = "worker", time.monotonic() + rng.uniform(5, 12)
    while not launcher.tend():
        time.sleep(0.5)
        alive = processes(sweep)[kind] if time.monotonic() >= at else []
        if alive and sum(kills.values()) < KILLS:
            with suppress(ProcessLookupError):
                os.kill(rng.choice(alive), signal.SIGKILL)
                kills[kind] += 1
            kind, at = rng.choice(["launcher", "worker"]), time.monotonic() + rng.uniform(3, 9)
    return {"seed": seed, "kills": kills, "launches": launcher.started, **outcome(folder / "out"),
            "seconds": round(time.monotonic() - began)}  # fmt: skip


def outcome(out: Path) -> dict:
    """Records, different ones among them, and points that logged each of their steps exactly once."""
    records = [json.loads(path.read_text()) for path in sorted(out.glob("*/record.json"))]
    exact = 0
    for record in records:
        lines = map(json.loads, (out / record["name"] / "metrics.jsonl").read_text().splitlines())
        first = BRANCH_AT if record["trunk"] else 0
        exact += [line["step"] for line in lines if "loss" in line] == list(range(first + 1, record["steps"] + 1))
    distinct = len({record["config_hash"] for record in records})
    return {"records": len(records), "distinct": distinct, "every step once": exact}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--where", choices=("local", "slurm"), required=True)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2, help="points at once")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    os.environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    with tempfile.TemporaryDirectory(prefix="kill_sweep_") as name:
        folder, cluster = Path(name), ROOT / "tests/scaling/slurm.sh"
        whole = json.loads(args.out.read_text()) if args.out.exists() else {}
        rows = whole[args.where] = [row for row in whole.get(args.where, []) if sum(row["kills"].values()) == KILLS]
        if args.where == "slurm":
            os.environ["SLURM_CONF"] = str(folder / "slurm/slurm.conf")
            subprocess.run([cluster, "up", folder / "slurm", "17917", "17918"], check=True)
        try:
            latents = prepare(folder)
            for seed in sorted(set(range(args.trials)) - {row["seed"] for row in rows}):
                (folder / f"trial{seed}").mkdir()
                where = {"local": Local, "slurm": Slurm}[args.where]
                rows.append(trial(where, folder / f"trial{seed}", latents, seed, args.jobs))
                print(rows[-1], flush=True)
                rows.sort(key=lambda row: row["seed"])
                args.out.write_text(json.dumps(whole, indent=1) + "\n")
        finally:
            if args.where == "slurm":
                subprocess.run([cluster, "down", folder / "slurm"], check=True)
    passed = sum(row["records"] == row["distinct"] == row["every step once"] == POINTS for row in rows)
    print(f"{args.where}: {passed} of {len(rows)} trials ended with {POINTS} different results, every step logged once")
    sys.exit(passed != len(rows))


if __name__ == "__main__":
    main()
