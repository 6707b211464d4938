"""What the loop and whatever it trains agree on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from videowm.train.gate import Verdict


class Draws:
    """Random numbers of one step: functions of (seed, step, slot), drawn for the global batch, cut to some slots."""

    def __init__(self, seed: int, step: int, slots: range, total: int, device) -> None:
        mixed = (seed * 1_000_003 + step) % 2**63
        self.generator = torch.Generator(device).manual_seed(mixed)
        self.step, self.slots, self.total, self.device = step, slots, total, device

    def normal(self, *shape: int) -> Tensor:
        """Standard normal "slots *shape"."""
        whole = torch.randn(self.total, *shape, generator=self.generator, device=self.device)
        return whole[self.slots.start : self.slots.stop]

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), "slots *shape"."""
        whole = torch.rand(self.total, *shape, generator=self.generator, device=self.device)
        return whole[self.slots.start : self.slots.stop]


class Task(Protocol):
    """One trainable thing. One loop serves all."""

    name: str
    seed: int
    model: nn.Module
    step_tokens: int | None = None  # processed in one step of the global batch, where there are tokens
    step_flops: Mapping[str, float] = MappingProxyType({})  # training FLOPs of it by kernel family, where counted

    def to(self, device: torch.device) -> None:
        """The device of the run, told before the first step; what is to lie there may move there."""

    def load(self, step: int, slots: range) -> dict[str, Tensor]:
        """The samples of some slots of the global batch of `step`, on the CPU."""

    def loss(self, model: nn.Module, batch: dict[str, Tensor], draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over the given samples, and more to log."""

    def check(self, step: int) -> Verdict | None:
        """What the gate sees in the model as it is after `step` steps; None where it has nothing to look at."""

    def evaluate(self) -> Iterator[tuple[str, Any]]:
        """What is measured on the finished model: pairs (name, value)."""

    def export(self, out: Path) -> None:
        """Write the finished model."""

    def record(self) -> dict[str, Any]:
        """What record.json says beyond what the loop knows."""


class Items(torch.utils.data.Dataset):
    """Samples by (step, slots), for a DataLoader that keeps their order."""

    def __init__(self, task: Task, steps: range, parts: list[range]) -> None:
        """`parts` are the slots of each accumulation step of a step."""
        self.task, self.steps, self.parts = task, steps, parts

    def __len__(self) -> int:
        return len(self.steps) * len(self.parts)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        step, part = divmod(index, len(self.parts))
        return self.task.load(self.steps[step], self.parts[part])
