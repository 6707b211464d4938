"""Read an offline run's .wandb file back: a leveldb log (blocks of 32 KiB) of protobuf records."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7
FULL, FIRST, LAST = 1, 2, 4  # kinds of a chunk; what lies between first and last is 3


def records(path: Path) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2 as wandb_protocol  # a second, which only its tests need

    data = path.read_bytes()
    assert data[:4] == b":W&B", f"{path} is no wandb file"
    at, whole = HEADER, b""
    while at + HEADER <= len(data):
        if (left := BLOCK - at % BLOCK) < HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        chunk = data[at + HEADER : at + HEADER + length]
        if kind == 0 or len(chunk) < length:  # padding, or cut off
            return
        at += HEADER + length
        whole = chunk if kind in (FULL, FIRST) else whole + chunk
        if kind in (FULL, LAST):
            record = wandb_protocol.Record()
            record.ParseFromString(whole)
            yield record


def values(items) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def load(path: Path) -> dict[str, Any]:
    """Project, configuration, summary and history of a run."""
    kept: dict[str, Any] = {"project": "", "config": {}, "summary": {}, "history": []}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            kept["project"] = record.run.project
            kept["config"] |= values(record.run.config.update)
        elif kind == "config":
            kept["config"] |= values(record.config.update)
        elif kind == "summary":
            kept["summary"] |= values(record.summary.update)
        elif kind == "history":
            kept["history"].append(values(record.history.item))
            kept["summary"] |= kept["history"][-1]
    return kept
