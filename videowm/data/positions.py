"""Pieces of a shard's file, read by position straight into the memory of tensors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from videowm.types import UserError

REMEDY = "run the same videowm encode command again"


def raw(tensor: Tensor) -> np.ndarray:
    """The memory of a tensor "n ...", uint8 "n bytes", to be written to; a copy of nothing."""
    return tensor.flatten(1).view(torch.uint8).numpy()


def read_into(path: Path, wanted: Iterable[tuple[int, np.ndarray]]) -> None:
    """Fill pieces of memory with the bytes of a file from given places on.

    Raises:
        UserError: the file is missing or ends too early.
    """
    try:
        with path.open("rb", buffering=0) as file:
            for place, memory in wanted:
                file.seek(place)
                if file.readinto(memory) != memory.nbytes:
                    raise damaged(path)
    except OSError:
        raise damaged(path) from None


def damaged(path: Path) -> UserError:
    """The sentence for a shard that cannot be used."""
    return UserError(f"{path} is missing or not the file that was encoded: {REMEDY}")
