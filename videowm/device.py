"""Where a command computes, and which of several processes it is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from videowm.types import UserError

if TYPE_CHECKING:
    import torch

ONE_ON_CPU = (
    "accelerate starts one process on a CPU, but several were asked for: use torchrun --nproc_per_node, or "
    "--num_processes 1"
)
LAUNCHERS = ("/accelerate", "/accelerate-launch", "accelerate/commands/launch.py")  # with what their path ends


@dataclass(frozen=True)
class Process:
    """One of the processes that torchrun or accelerate launch started; alone without them."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # among the processes of this machine

    @classmethod
    def current(cls) -> Process:
        """This process, as RANK, WORLD_SIZE and LOCAL_RANK describe it.

        Raises:
            UserError: one of these variables holds no whole number, or the rank is not below the count.
        """
        process = cls(whole("RANK", 0), whole("WORLD_SIZE", 1), whole("LOCAL_RANK", 0))
        if process.rank >= process.count:
            raise UserError(
                f"RANK is {process.rank} and WORLD_SIZE {process.count}: start with torchrun, or unset both"
            )
        return process


def whole(name: str, default: int) -> int:
    """The whole number in an environment variable.

    Raises:
        UserError: the variable is set to something other than a whole number.
    """
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"the environment variable {name} is {text!r}, expected a whole number: unset it")
    return int(text)


def default_device(process: Process | None = None) -> torch.device:
    """The GPU of this process where there is one, of NVIDIA, AMD or Apple, else the CPU."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    local = 0 if process is None else process.local_rank
    return torch.device("cuda", local % torch.cuda.device_count())


def computing_float64(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, on the CPU where its own device computes no float64 and lacks functions: Apple's (MPS)."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor


def told_to_accelerate(option: str) -> str | None:
    """What `accelerate launch` was given for an option that it keeps to itself, off its own command line; else None."""
    import psutil

    try:
        parent = psutil.Process().parent()
        words = parent.cmdline() if parent else []
    except psutil.Error:
        return None
    if not any(word.endswith(LAUNCHERS) for word in words[:4]):
        return None
    for word, following in zip(words, [*words[1:], ""]):
        name, _, value = word.partition("=")
        if name == option:
            return value or following
    return None
