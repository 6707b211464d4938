"""What the loop and whatever it trains agree on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from videowm.files import is_full
from videowm.types import UserError

if TYPE_CHECKING:
    from videowm.train.gate import Verdict


class Draws:
    """Random numbers of one step: functions of (seed, step, slot), drawn for the global batch, cut to some slots."""

    def __init__(self, seed: int, step: int, slots: range, total: int, device) -> None:
        mixed = (seed * 1_000_003 + step) % 2**63
        self.generator = torch.Generator(device).manual_seed(mixed)
        self.step, self.slots, self.total, self.device = step, slots, total, device

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, float32 "slots *shape"."""
        whole = torch.randn(self.total, *shape, generator=self.generator, device=self.device)
        return whole[self.slots.start : self.slots.stop]

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), float32 "slots *shape"."""
        whole = torch.rand(self.total, *shape, generator=self.generator, device=self.device)
        return whole[self.slots.start : self.slots.stop]


class Task(Protocol):
    """One trainable thing. One loop serves all."""

    name: str
    seed: int
    model: nn.Module
    config: Any  # the whole configuration, with the loop's as `train`
    step_tokens: int | None = None  # processed in one step of the global batch, where there are tokens
    step_flops: Mapping[str, float] = MappingProxyType({})  # training FLOPs of it by kernel family, where counted

    @staticmethod
    def resolved(config: Any) -> Any:
        """The configuration with every number that follows from others; `self.config` is one."""
        return config

    def set_steps(self, steps: int) -> None:
        """Let the run have `steps` steps, which `train.minutes` led to. Called before the first step, if at all."""
        self.config = replace(self.config, train=replace(self.config.train, steps=steps))

    def to(self, device: torch.device) -> None:
        """Move what the task keeps on the run's device there. The loop calls it once, before the first step."""

    def vouch(self, step: int) -> None:
        """Return when the data of the first `step` steps are known to be sound. Called before a model is saved.

        Raises:
            UserError: they are damaged.
        """

    def load(self, step: int, slots: range) -> dict[str, Tensor]:
        """The samples of some slots of the global batch of `step`, on the CPU."""

    def loss(self, model: nn.Module, batch: dict[str, Tensor], draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over some samples, and more scalars to log.

        The loop averages the scalars over micro-batches and processes, so each call gives the same names.
        """

    def check(self, step: int) -> Verdict | None:
        """The gate's verdict on the model as it is after `step` steps; None where there is nothing to judge."""

    def evaluate(self) -> Iterator[tuple[str, Any]]:
        """Pairs (name, value) measured on the finished model; names are those of `videowm.metrics`."""

    def summary(self, metrics: dict[str, Any]) -> str:
        """One sentence on what `evaluate` measured, for whoever waits for the end of the training; may be empty."""
        return ""

    def export(self, out: Path) -> None:
        """Write the finished model."""

    def record_fields(self) -> dict[str, Any]:
        """Fields of `videowm.record.RunRecord` that the task alone can fill: params, frames, hashes, …"""


class Items(torch.utils.data.Dataset):
    """Samples by (step, slots), for a DataLoader that keeps their order."""

    def __init__(self, task: Task, steps: range, parts: list[range]) -> None:
        """`parts` are the slots of each accumulation step of a step."""
        self.task, self.steps, self.parts = task, steps, parts

    def __len__(self) -> int:
        return len(self.steps) * len(self.parts)

    def __getitem__(self, index: int) -> dict[str, Tensor] | UserError:
        """The samples, or the error that a worker process met: an exception would come back as a traceback's text."""
        step, part = divmod(index, len(self.parts))
        in_worker = torch.utils.data.get_worker_info() is not None
        try:
            samples = self.task.load(self.steps[step], self.parts[part])
            if in_worker:
                check_shared_memory(sum(tensor.nbytes for tensor in samples.values()))
        except UserError as error:
            if not in_worker:
                raise
            return error
        return samples


def check_shared_memory(size: int, folder: str = "/dev/shm") -> None:  # noqa: S108 - the kernel's own
    """Refuse to hand `size` bytes to the trainer where shared memory is full: the worker would lose them, unsaid.

    Raises:
        UserError: fewer than twice `size` bytes are free.
    """
    if not os.path.isdir(folder):
        return
    space = os.statvfs(folder)
    if (free := space.f_bavail * space.f_frsize) < 2 * size:
        raise UserError(
            f"{folder} has {free:,} bytes left and a batch needs {2 * size:,} there: free some, give the container "
            "more of it, or set train.workers=0 on a CPU"
        )


def loaded(loader: Iterable[dict[str, Tensor] | UserError]) -> Iterator[dict[str, Tensor]]:
    """The samples of a loader; an error or the end of a loading process is one sentence.

    Raises:
        UserError: a loading process met one, ended, or had no room.
    """
    try:
        for samples in loader:
            if isinstance(samples, UserError):
                raise samples
            yield samples
    except (OSError, RuntimeError) as error:
        if not is_full(error) and "DataLoader" not in str(error):
            raise
        raise UserError(
            f"a process that loads data gave none ({str(error).splitlines()[0]}): free memory and /dev/shm, run the "
            "same command again, or set train.workers=0 on a CPU"
        ) from None
