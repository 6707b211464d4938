"""`python -m videowm train` under `kill -9`, a full disk and several processes: real processes, the command line."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked import Forked, ranks

from videowm.train import checkpoint

ROOT = Path(__file__).parents[2]
STEPS = 24
TRAIN = ["train", "configs/world/quickstart.yaml"]
LONGER = [f"train.steps={STEPS}", "train.save_every=1", "train.keep=2", "hidden=128", "train.ema=0.1"]


def overrides(train_world_arguments: list[str], out: Path) -> list[str]:
    return [*train_world_arguments, *LONGER, f"out={out}"]


def published(out: Path) -> int:
    """The newest step whose directory has its final name."""
    held = checkpoint.steps(out / "checkpoints")
    return int(held[-1].name.removeprefix("step-")) if held else 0


def being_written(out: Path) -> list[str]:
    folder = out / "checkpoints"
    return [name for name in os.listdir(folder) if name.startswith(".step-")] if folder.exists() else []


def wait_for(process: Forked, happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing happened for 90 seconds"
        time.sleep(0.0005)


def stop_in_a_save(process: Forked, out: Path) -> None:
    """Halt the process while a checkpoint is being written; go on until one is caught."""
    while True:
        wait_for(process, lambda: bool(being_written(out)))
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.01)
        if being_written(out):
            return
        process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def killed(tmp_path_factory, world_arguments, fork) -> tuple[Path, list[int], list[str]]:
    """A run that was killed four times, one of them within a save, and finished by the same command.

    Returns its directory, the newest step after each kill and what lay half-written after the kill in a save.
    """
    out = tmp_path_factory.mktemp("killed") / "world"
    rng, after, half = random.Random(0), [], []
    for kill in range(4):
        process = fork(*TRAIN, *overrides(world_arguments, out))
        beyond = published(out) + rng.randint(1, 3)
        wait_for(process, lambda beyond=beyond: published(out) >= beyond)
        if kill == 2:
            stop_in_a_save(process, out)
            half = being_written(out)
        else:
            time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.wait()
        after.append(published(out))
    process = fork(*TRAIN, *overrides(world_arguments, out))
    assert process.wait() == 0, process.communicate()
    return out, after, half


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, train_world) -> Path:
    """The same run in one go."""
    out = tmp_path_factory.mktemp("uninterrupted") / "world"
    train_world(out, *LONGER)
    return out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_the_step_in_work(tmp_path, world_arguments, fork, number):
    """Guards steps since the last checkpoint, lost to scancel, Ctrl-C or a time limit, and samples lost with them.

    Nothing is saved before step 1000. As launchers do, the signal goes to the whole group, the workers that load data
    among them, and twice; one line says what happened, and no traceback.
    """
    out = tmp_path / "world"
    more = ["train.steps=1000", "train.save_every=1000", "train.workers=2", f"out={out}"]
    process = fork(*TRAIN, *world_arguments, *more, session=True)
    metrics = out / "metrics.jsonl"
    wait_for(process, lambda: metrics.exists() and metrics.read_text().count("\n") > 3)
    os.killpg(process.pid, number)
    os.killpg(process.pid, number)
    said, errors = process.communicate(timeout=20)
    step = published(out)
    assert process.returncode == 128 + number, errors
    assert 3 < step < 1000 and checkpoint.latest(out / "checkpoints") is not None and "Traceback" not in errors
    assert [f"stopped by {number.name} after step {step}, which is saved" in line for line in said.splitlines()] == [
        True
    ]
    rows = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert rows == list(range(1, step + 1))


def test_four_kills_leave_no_trace(killed, uninterrupted, same):
    """Guards resume as it is needed, after `kill -9`: weights, losses and measured values are the same, bit for bit.

    Every kill came after new steps and before the last, one while a checkpoint was half-written, so each resume had
    something to do. The other run was never stopped, and ran in another process.
    """
    out, after, half = killed
    assert after[0] > 0 and all(a < b for a, b in zip(after, after[1:])) and after[-1] < STEPS
    assert half, "no kill fell within a save"
    same(out, uninterrupted)
    for name in ("model", "optimizer", "average"):
        last = f"checkpoints/step-{STEPS:08d}/{name}.safetensors"
        assert (out / last).read_bytes() == (uninterrupted / last).read_bytes()


def test_metrics_after_four_kills(killed):
    """Guards lines lost or doubled by a kill between logging and saving: every step once, in order, then one result."""
    rows = [json.loads(line) for line in (killed[0] / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [*range(1, STEPS + 1), STEPS]
    assert ["loss" in row for row in rows] == [True] * STEPS + [False]


def test_kills_leave_no_litter(killed, uninterrupted):
    """Guards directories that fill up: the killed run holds the same files as the other one."""
    names = [{path.relative_to(run).as_posix() for path in run.rglob("*")} for run in (killed[0], uninterrupted)]
    assert names[0] == names[1]


def test_the_bank_is_the_same_in_every_process(killed, latents):
    """Guards a held-out bank drawn from something that a process owns: another process's hash is made here again."""
    from videowm.data.latents import Latents
    from videowm.evaluate.heldout import HeldoutConfig, make_bank

    bank = make_bank(Latents.open(latents, "test"), HeldoutConfig(clips=4, window=4, context=2))
    assert json.loads((killed[0] / "record.json").read_text())["hashes"]["bank"] == bank.hash


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_processes_are_one(tmp_path, world_arguments, train_world, fork):
    """Guards a global batch that is not shared out by slots: two processes log the losses that one logs.

    `accelerate launch --cpu --num_processes 2` runs one process, so they are started as torchrun does. Each process has
    half the samples; without averaging the losses or the gradients would differ in the first digits. A tracker is on:
    one that ended the process group at the run's end would leave a process waiting.
    """
    short = ["train.steps=3", "train.clip=0.05"]
    train_world(tmp_path / "one", *short)
    train = [*TRAIN, *world_arguments, *short, f"out={tmp_path / 'two'}", "train.trackers=[tensorboard]"]
    both = [fork(*train, **rank) for rank in ranks(2)]
    assert [process.wait() for process in both] == [0, 0], [process.communicate() for process in both]
    rows = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("one", "two")
    ]
    assert len(rows[0]) == len(rows[1]) == 4
    for one, two in zip(*rows, strict=True):
        for name in {"loss", "grad_norm", "heldout/loss"} & set(one):
            assert two[name] == pytest.approx(one[name], rel=1e-4), (name, one["step"])
    halves = json.loads((tmp_path / "two/record.json").read_text())
    assert (
        halves["tokens"]["processed"] == json.loads((tmp_path / "one/record.json").read_text())["tokens"]["processed"]
    )


def test_a_full_disk(tmp_path, world_arguments, fork):
    """Guards a run lost to a full disk: one sentence, exit code 2, and the same command goes on once there is room.

    The disk is a real file system of 2 MB; a checkpoint of this run takes more than a third of it, so the third save
    (old ones go only after the new one is whole) cannot fit.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        command = [*world_arguments, f"out={disk / 'world'}", "hidden=64", "train.save_every=1"]
        process = fork(*TRAIN, *command)
        _, errors = process.communicate()
        said = [line for line in errors.splitlines() if line.startswith("videowm: ")]
        assert process.returncode == 2 and len(said) == 1 and "no space left" in said[0], errors
        assert "Traceback" not in errors
        assert checkpoint.latest(disk / "world/checkpoints") is not None
        subprocess.run(["mount", "-o", "remount,size=30m", disk], check=True)
        assert fork(*TRAIN, *command).wait() == 0 and (disk / "world/record.json").exists()
    finally:
        subprocess.run(["umount", disk], check=True)
