"""What a run is executed on, and how: precision, processes, compilation, activations computed again."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import diffusers
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, set_seed

from videowm.device import ONE_ON_CPU, told_to_accelerate
from videowm.record import Execution, code_commit
from videowm.types import UserError

if TYPE_CHECKING:
    from videowm.train.config import TrainConfig
    from videowm.train.task import Task


def compiles(config: TrainConfig, task: Task, device: torch.device) -> bool:
    """Whether the model's blocks are to be compiled.

    Raises:
        UserError: train.compile is on and the model cannot be compiled.
    """
    able = hasattr(task.model, "compile_blocks")
    if config.compile == "on" and not able:
        raise UserError(f"train.compile is on, but the model of task {task.name} cannot be compiled: leave it out")
    return able and (config.compile == "on" or (config.compile == "auto" and device.type == "cuda"))


def recompute_activations(task: Task) -> None:
    """Turn on activation checkpointing (arXiv 1604.06174), in diffusers' way.

    Raises:
        UserError: the model cannot compute activations again.
    """
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
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, at most; larger tensors are mapped each time
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


def use_gpu() -> bool:
    """Whether this run computes on a GPU: there is one, and accelerate was not started with --cpu."""
    return torch.cuda.is_available() and not flag("ACCELERATE_USE_CPU")


def computes_bf16() -> bool:
    """Whether the device of this run computes bf16 itself; a T4 or V100 only imitates it, slowly, and Apple's in part.

    Such a device trains in fp32: fp16 needs a loss scale, whose overflows look like a gradient that diverged.
    """
    if use_gpu():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return not on_apple() and torch.cpu._is_avx512_bf16_supported()


def on_apple() -> bool:
    """Whether this run computes on Apple's GPU (MPS)."""
    return not use_gpu() and torch.backends.mps.is_available() and not flag("ACCELERATE_USE_CPU")


# How a launcher says to its processes how many they are.
SIZES = {"WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"}


def flag(name: str) -> bool:
    """Whether an environment variable that `accelerate launch` sets is true."""
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")


def check_launcher(config: TrainConfig) -> None:
    """Refuse options of `accelerate launch` that training here does not follow; they would be ignored in silence.

    Raises:
        UserError: sharded training, accelerate's own compilation or accumulation, or an unknown precision is set; or
            several processes were asked for on a CPU, and accelerate started one.
    """
    if flag("ACCELERATE_USE_CPU") and "MASTER_ADDR" in os.environ and not SIZES & os.environ.keys():
        raise UserError(ONE_ON_CPU)
    sharded = {"FSDP": "FSDP", "DEEPSPEED": "DeepSpeed", "MEGATRON_LM": "Megatron-LM",
               "PARALLELISM_CONFIG": "a parallelism_config"}  # fmt: skip
    for name, what in sharded.items():
        if flag(f"ACCELERATE_USE_{name}"):
            raise UserError(
                f"accelerate was started with {what}, but each process here holds the whole model: leave it out"
            )
    if (backend := os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")).lower() not in ("no", ""):
        raise UserError(f"accelerate's --dynamo_backend is {backend}, expected no: give train.compile=on instead")
    told = told_to_accelerate("--gradient_accumulation_steps")  # which it hands on to DeepSpeed alone
    parts = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS") or told or "1"
    if parts not in ("1", str(config.accumulate)):
        raise UserError(
            f"accelerate's --gradient_accumulation_steps is {parts}, train.accumulate {config.accumulate}: give "
            f"train.accumulate={parts} instead"
        )
    mixed = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if mixed not in ("no", "bf16") or (mixed == "bf16" and config.precision == "fp32"):
        raise UserError(
            f"accelerate's --mixed_precision is {mixed}, train.precision {config.precision}: give one precision, "
            "bf16 or fp32, as train.precision"
        )


def chosen_precision(config: TrainConfig) -> str:
    """The precision of a run, "fp32" or "bf16". "auto" is bf16 where the launcher sets it or the device computes it.

    `accelerate launch` sets "no" where nobody chose, so that alone decides nothing.

    Raises:
        UserError: bf16 is asked for on a GPU that does not compute it.
    """
    asked = "bf16" if os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16" else "auto"
    asked = asked if config.precision == "auto" else config.precision
    if asked == "bf16" and (use_gpu() or on_apple()) and not computes_bf16():
        raise UserError("bf16 was asked for, which this GPU does not compute: leave train.precision=auto, for fp32")
    return ("bf16" if computes_bf16() else "fp32") if asked == "auto" else asked


def make_accelerator(config: TrainConfig, out: Path) -> Accelerator:
    """The accelerator of a run. Processes wait a week for one another: the first one alone evaluates, for hours.

    Raises:
        UserError: accelerate cannot be set up as its configuration or its environment variables say.
    """
    gpu = use_gpu() or on_apple()
    if not gpu:
        keep_freed_memory()
    precision = "no" if chosen_precision(config) == "fp32" else "bf16"
    try:
        accelerator = Accelerator(cpu=not gpu, mixed_precision=precision, log_with=list(config.trackers) or None,
                                  project_dir=out,
                                  kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=7))])  # fmt: skip
    except (ImportError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        message = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(f"accelerate cannot be set up: {message:.300}; see `accelerate config` and the environment "
                        "variables ACCELERATE_*, RANK, WORLD_SIZE and MASTER_*") from error  # fmt: skip
    set_seed(0)  # nothing depends on it: models draw their weights under the task's own seed
    return accelerator


def execution(config: TrainConfig, accelerator: Accelerator, out: Path) -> Execution:
    """How the run in `out` is executed, for its record. It was begun when its configuration was written."""
    begun = time.gmtime((out / "config.yaml").stat().st_mtime)
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "cuda": torch.version.cuda}
    return Execution(chosen_precision(config), accelerator.num_processes, versions,
                     time.strftime("%Y-%m-%dT%H:%M:%SZ", begun), code_commit())  # fmt: skip


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU with its threads and instruction set."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"{platform.processor()} GPU (MPS)"
    return f"CPU ({torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()})"
