"""Run what is missing: every point is one `accelerate launch`, and ends exactly once however often it is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml
from tqdm import tqdm

from scaling.plan import Point, SweepConfig, write_whole
from scaling.records import read_record
from videowm.train.lock import held
from videowm.train.trunk import covers


def state(point: Point) -> str:
    """done, running, failed or todo."""
    if done(point):
        return "done"
    if held(point.run):
        return "running"
    return "failed" if failures(point) else "todo"


def done(point: Point) -> bool:
    """Whether there is a record, and of a trunk one that goes as far, and keeps what, the plan now says."""
    record = read_record(point.run)
    if record is None or record.get("role") != "trunk":
        return record is not None
    return covers(point.run, record, point.steps, yaml.safe_load(point.config.read_text())["train"]["keep_at"])


def failures(point: Point) -> list[str]:
    """What the tries so far ended with, one line each."""
    path = point.config.with_suffix(".failed")
    return path.read_text().splitlines() if path.exists() else []


def launch_command(config: Path) -> list[str]:
    """`accelerate launch` under the user's own configuration where there is one, else on one process."""
    from accelerate.commands.config.config_args import default_json_config_file, default_yaml_config_file

    command = [sys.executable, "-m", "accelerate.commands.launch"]
    if not any(os.path.isfile(path) for path in (default_yaml_config_file, default_json_config_file)):
        threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count() or 1))
        command += ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
                    "--num_cpu_threads_per_process", threads]  # fmt: skip
    return [*command, "-m", "videowm", "train", str(config)]


def run(points: list[Point], sweep: SweepConfig) -> int:
    """Run every point that has no record, one after the other; return how many are not done."""
    for point in points:
        while state(point) != "done" and len(failures(point)) <= sweep.retries:
            attempt(point)
    return sum(state(point) != "done" for point in points)


def attempt(point: Point) -> None:
    """One try of a point; where another process already trains it, wait for that one."""
    if held(point.run):
        with tqdm(desc=f"{point.name}: trained by another process, waiting", unit="s") as bar:
            while held(point.run):
                time.sleep(1)
                bar.update(1)
        return
    print(f"point {point.name}: {point.flops:.3g} FLOPs, {point.steps} steps", flush=True)
    ended = subprocess.run(launch_command(point.config), check=False)
    if ended.returncode and not held(point.run):
        lines = [*failures(point), json.dumps({"exit": ended.returncode, "time": time.time()})]
        write_whole(point.config.with_suffix(".failed"), "\n".join(lines) + "\n")
