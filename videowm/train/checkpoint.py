"""Checkpoints that are either whole or not there: written aside, fsynced, listed with sha256, then renamed.

Safetensors and JSON only. Order and noise of a run are functions of (seed, step, sample), so a checkpoint holds no
generator state: weights, optimiser moments, the average and the step are all of it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from videowm.files import UMASK, is_full, sha256_of, sync
from videowm.train.kept import number, steps
from videowm.types import UserError

MANIFEST, STATE = "manifest.json", "state.json"


def save(
    directory: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], *, keep: int,
    keep_at: Sequence[int] = (),
) -> Path:  # fmt: skip
    """Write `directory/step-N` holding NAME.safetensors for each group and state.json.

    Of the others the `keep` newest stay, and for good those of the steps `keep_at`: runs branch off them.
    """
    target = directory / f"step-{step:08d}"
    if step in keep_at and intact(target):
        return target
    aside = directory / f".step-{step:08d}.{os.getpid()}"
    directory.mkdir(parents=True, exist_ok=True)
    for leftover in directory.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        aside.mkdir()
        for name, group in tensors.items():
            save_file({k: v.detach().cpu().contiguous() for k, v in group.items()}, aside / f"{name}.safetensors")
        (aside / STATE).write_text(json.dumps({"step": step, **state}))
        write_manifest(aside)
        if target.exists():  # an earlier, damaged one of the same step
            shutil.rmtree(target)
        os.replace(aside, target)
        sync(directory)
    except Exception as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise disk_error(error, directory) from error
    held = [path for path in steps(directory) if path == target or number(path) not in keep_at]
    newest = held.index(target) + 1
    for old in held[: max(0, newest - keep)] + held[newest:]:  # a later one is damaged, or the run had gone on from it
        shutil.rmtree(old, ignore_errors=True)
    return target


def disk_error(error: Exception, directory: Path) -> Exception:
    """A full disk becomes one sentence; anything else stays what it is."""
    if not is_full(error):
        return error
    held = steps(directory)
    last = f"the checkpoint {held[-1].name} is untouched" if held else "no checkpoint was there before"
    return UserError(f"no space left on the disk of {directory}: free some and run the same command again; {last}")


def write_manifest(directory: Path) -> None:
    """sha256 of every file, each forced to the disk before the manifest itself is."""
    listed = {}
    for file in sorted(directory.iterdir()):
        file.chmod(0o666 & ~UMASK)  # safetensors writes for the owner alone
        sync(file)
        listed[file.name] = sha256_of(file)
    (directory / MANIFEST).write_text(json.dumps(listed, indent=1))
    sync(directory / MANIFEST)
    sync(directory)


def intact(checkpoint: Path) -> bool:
    """Whether every file is there and is what was written."""
    try:
        listed = json.loads((checkpoint / MANIFEST).read_bytes())
        if not isinstance(listed, dict) or not {STATE, "model.safetensors"} <= listed.keys():
            return False
        return all(sha256_of(checkpoint / name) == digest for name, digest in listed.items())
    except (OSError, ValueError):
        return False


def latest(directory: Path, until: int | None = None) -> Path | None:
    """The newest intact checkpoint, of step `until` at most; damaged ones are passed over."""
    held = [path for path in steps(directory) if until is None or number(path) <= until]
    return next((path for path in reversed(held) if intact(path)), None)


def load(checkpoint: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensor groups and state of a checkpoint written by `save`."""
    groups = {file.stem: load_file(file) for file in checkpoint.glob("*.safetensors")}
    return groups, json.loads((checkpoint / STATE).read_text())


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and step counts as flat names `index.key`."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": torch.as_tensor(value) for i, entry in state.items() for key, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put the moments saved by `optimizer_tensors` back, in the memory order of their parameters.

    A fused optimiser walks through parameters and moments side by side, whatever their strides.
    """
    whole, parameters = optimizer.state_dict(), [p for group in optimizer.param_groups for p in group["params"]]
    whole["state"] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        like = parameters[int(index)]
        if value.shape == like.shape:
            value = torch.empty_like(like, dtype=value.dtype, device=value.device).copy_(value)
        whole["state"].setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(whole)
