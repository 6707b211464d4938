"""`record.json`: one finished run, typed. `scaling`, reports and `videowm info` read nothing else of a run."""

from __future__ import annotations

import dataclasses
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videowm.files import read_json, write_json
from videowm.metrics import with_current_names
from videowm.types import UserError

SCHEMA = 1
FILE = "record.json"
LEFT_OUT = (
    "depth",
    "tokens",
    "frames",
    "sources",
    "share",
    "flops",
    "text",
    "actions",
    "stopped",
    "planned",
    "prediction",
)  # from the file, where empty


@dataclass(frozen=True)
class Execution:
    """How a run was executed. A trunk and its branch must agree in `precision`."""

    precision: str | None = None  # "fp32" or "bf16", what "auto" became; None in records from before it was kept
    processes: int | None = None  # that shared each batch
    versions: dict[str, str | None] = field(default_factory=dict)  # of torch, diffusers, cuda
    started: str | None = None  # UTC time at which the run directory was begun
    code: str | None = None  # git commit of videowm, "+" behind it where files were changed; None outside git

    @classmethod
    def from_json(cls, data: Any) -> Execution:
        """The content of a file. Keys that this version does not have are passed over."""
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in data.items() if k in known}) if isinstance(data, dict) else cls()


@dataclass(frozen=True)
class RunRecord:
    """One finished run. Unknown keys of a file are kept in `more`, missing optional ones have their default."""

    name: str  # of the run directory
    seed: int  # of the task
    steps: int  # optimiser steps, of a branch those of its trunk included
    batch: int  # samples a step, over all processes
    lr: float  # peak learning rate
    wall_seconds: float  # of training alone
    device: str  # name of the GPU, or the CPU's threads and instruction set
    params: dict[str, int]  # parameters by part
    metrics: dict[str, Any]  # name -> number, list over frames or bins, or None; see `videowm.metrics`
    hashes: dict[str, str] = field(default_factory=dict)  # data, vae, bank, …
    config_hash: str = ""  # of the configuration without paths and what only executes it
    role: str = "run"  # or "trunk", which others start from
    trunk: str | None = None  # name of the run that this one branched off
    depth: int | None = None  # of a world model
    tokens: dict[str, int] = field(default_factory=dict)  # target, processed
    frames: dict[str, int] = field(default_factory=dict)  # seen, unique
    sources: list[dict[str, Any]] = field(default_factory=list)  # of several folders of latents, what was seen of each
    share: dict[str, float] = field(default_factory=dict)  # of the training episodes that is seen; hours
    flops: dict[str, float | None] = field(default_factory=dict)  # train (whole path), spent (own steps), encode
    samples_per_second: float | None = None  # of all processes
    tokens_per_second: float | None = None  # likewise
    mfu: float | None = None  # model FLOPs utilisation, 0 to 1
    wait: float | None = None  # share of the time spent waiting for data
    memory_gib: float | None = None  # peak of the first process, GiB
    text: dict[str, Any] | None = None  # captions that were used
    actions: str | None = None  # source of a world model's actions: recorded, none, or KIND/HASH
    stopped: str | None = None  # what ended the run before its planned end
    planned: dict[str, float] = field(default_factory=dict)  # of a stopped run
    prediction: str | None = None  # sha256 of the frozen prediction that the run is the target of
    execution: Execution = field(default_factory=Execution)  # how it was executed, below
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def is_trunk(self) -> bool:
        """Whether the run is only there for others to start from."""
        return self.role == "trunk"

    @classmethod
    def read(cls, run: str | Path) -> RunRecord | None:
        """The record of a run directory; None where the run is unfinished.

        Raises:
            UserError: the file is damaged.
        """
        path = Path(run) / FILE
        return cls.from_json(read_json(path, REMEDY), path) if path.exists() else None

    @classmethod
    def from_json(cls, data: dict[str, Any], where: str | Path = FILE) -> RunRecord:
        """A record from the content of its file.

        Raises:
            UserError: a key is missing, or one that is a mapping holds something else.
        """
        known = {f.name: f for f in dataclasses.fields(cls) if f.name != "more"}
        values = {key: value for key, value in data.items() if key in known and value is not None}
        values["execution"] = Execution.from_json(data.get("execution"))
        missing = [name for name, f in known.items() if name not in values and no_default(f)]
        if missing:
            raise UserError(f"{where} is damaged (no {missing[0]!r}): {REMEDY}")
        mappings = [name for name in ("params", "metrics", "hashes", "tokens", "frames", "flops") if name in values]
        if wrong := [name for name in mappings if not isinstance(values[name], dict)]:
            raise UserError(f"{where} is damaged ({wrong[0]} is {values[wrong[0]]!r}): {REMEDY}")
        values["metrics"] = with_current_names(values["metrics"])
        more = {key: value for key, value in data.items() if key not in known and key != "schema"}
        return cls(**values, more=more)

    def to_json(self) -> dict[str, Any]:
        """The content of the file; a part that a run of this kind does not have is left out."""
        data = dataclasses.asdict(self)
        more = data.pop("more")
        return {"schema": SCHEMA, **more, **{k: v for k, v in data.items() if v or k not in LEFT_OUT}}

    def write(self, run: str | Path) -> None:
        """Write record.json into a run directory, whole or not at all."""
        write_json(Path(run) / FILE, self.to_json())


REMEDY = "restore it, or remove the run directory and train again"


def code_commit() -> str | None:
    """The git commit of this code, with "+" behind it where files were changed; None outside git."""
    here = Path(__file__).parent
    words = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(words, cwd=here, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def no_default(f: dataclasses.Field) -> bool:
    """Whether a field must be in the file."""
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
