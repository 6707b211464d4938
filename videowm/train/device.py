"""What a run is executed on, and how: precision, compilation, activations computed again."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from videowm.types import UserError

if TYPE_CHECKING:
    from videowm.train.config import TrainConfig
    from videowm.train.task import Task


def compiles(config: TrainConfig, task: Task, device: torch.device) -> bool:
    """Whether the model's blocks are to be compiled."""
    able = hasattr(task.model, "compile_blocks")
    if config.compile == "on" and not able:
        raise UserError(f"train.compile is on, but the model of task {task.name} cannot be compiled: leave it out")
    return able and (config.compile == "on" or (config.compile == "auto" and device.type == "cuda"))


def recompute_activations(task: Task) -> None:
    """Turn on activation checkpointing (arXiv 1604.06174), in diffusers' way."""
    if not getattr(task.model, "_supports_gradient_checkpointing", False):
        raise UserError(
            f"train.checkpointing is true, but the model of task {task.name} cannot compute activations again: "
            "leave it out"
        )
    task.model.enable_gradient_checkpointing()


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees, for the next step: it would give it back and have it mapped anew, page by page.

    Whether it does depends on what was freed before, so the same training was up to a quarter slower without.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, at most; larger tensors are mapped each time
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


def make_accelerator(config: TrainConfig, out: Path) -> Accelerator:
    cuda = torch.cuda.is_available()
    if not cuda:
        keep_freed_memory()
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if cuda or torch.cpu._is_avx512_bf16_supported() else "fp32"
    accelerator = Accelerator(
        cpu=not cuda,
        mixed_precision="no" if precision == "fp32" else precision,
        log_with=list(config.trackers) or None,
        project_dir=out,
    )
    set_seed(0)  # nothing depends on it: models draw their weights under the task's own seed
    return accelerator


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()})"
