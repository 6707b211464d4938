"""One player's file of scores: all that it did, and what it says of itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from videowm.agents import tally
from videowm.agents.tally import Played
from videowm.files import write_atomic
from videowm.types import UserError

REMEDY = "remove it, and score that player again"
PLAYERS, FILE = "players", "games.safetensors"  # folder of all players, each with a folder of its own; its file


@dataclass(frozen=True)
class Entry:
    """A player's file: its games, its returns in dreams by temperature, and what it says of itself."""

    name: str
    games: Played
    dreams: dict[str, np.ndarray]
    about: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Entry:
        """The content of a file.

        Raises:
            UserError: it is damaged.
        """
        try:
            with safe_open(path, "np") as file:
                found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
                about = json.loads((file.metadata() or {})["about"])
            dreams = {key.removeprefix("dream/"): found.pop(key) for key in list(found) if key.startswith("dream/")}
            return cls(path.parent.name, Played(**found), dreams, about)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({str(error).splitlines()[0]}): {REMEDY}") from None

    @classmethod
    def all_of(cls, out: Path) -> list[Entry]:
        """The players of a folder of scores, by name.

        Raises:
            UserError: a file is damaged.
        """
        return [cls.read(path) for path in sorted((out / PLAYERS).glob(f"*/{FILE}"))]

    def write(self, out: Path) -> None:
        """Write it into a folder of scores, whole or not at all."""
        tensors = tally.as_tensors(self.games)
        tensors |= {f"dream/{key}": torch.from_numpy(values) for key, values in self.dreams.items()}
        write_atomic(out / PLAYERS / self.name / FILE, save(tensors, {"about": json.dumps(self.about)}))
