"""A small network in a finished run, beside what it is built of and was trained on."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import ClassVar, Self

from safetensors.torch import load_file, save_file
from torch import nn

from videowm.files import short_hash_of
from videowm.types import UserError


class Saved(nn.Module):
    """A network that is built of dataclasses, which it keeps as attributes of the same names.

    Attributes:
        kind: its task, and the name of its weights' file.
        parts: name -> class of what it is built of, in order.
    """

    kind: ClassVar[str]
    parts: ClassVar[dict[str, type]]

    @property
    def hash(self) -> str:
        """sha256 (16 digits) over configuration and weights."""
        about = json.dumps([asdict(getattr(self, name)) for name in self.parts], sort_keys=True)
        weights = (name.encode() + value.cpu().numpy().tobytes() for name, value in sorted(self.state_dict().items()))
        return short_hash_of(chain([about], weights))

    def save(self, out: Path) -> None:
        """Write weights and config.json into a run."""
        save_file({k: v.contiguous().cpu() for k, v in self.state_dict().items()}, out / f"{self.kind}.safetensors")
        note = {name: asdict(getattr(self, name)) for name in self.parts} | {"hash": self.hash}
        (out / "config.json").write_text(json.dumps(note, indent=1))

    @classmethod
    def open(cls, run: str | Path) -> Self:
        """The network of a finished run of its task.

        Raises:
            UserError: the run is not finished, or its weights changed since.
        """
        weights, kind = Path(run) / f"{cls.kind}.safetensors", cls.kind
        if not (Path(run) / "record.json").exists() or not weights.exists():
            raise UserError(f"{run} holds no finished {kind}: train one with a configuration of `task: {kind}` first")
        note = json.loads((Path(run) / "config.json").read_text())
        network = cls(*(part(**note[name]) for name, part in cls.parts.items()))
        network.load_state_dict(load_file(weights))
        if network.hash != note["hash"]:
            raise UserError(f"{weights} is not what was trained there: train the {kind} again")
        return network.eval()
