"""What a probe leaves in a run: probe.json, and in probe.safetensors the directions that its latents' factors have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from videowm.evaluate.explorer import Directions
from videowm.evaluate.intervene import direction
from videowm.evaluate.probe import Seen
from videowm.files import write_atomic, write_json
from videowm.pipeline import WorldModelPipeline

FILE, NOTE = "probe.safetensors", "probe.json"


def latent_directions(pipeline: WorldModelPipeline, seen: Seen, names: list[str]) -> Directions:
    """Where the autoencoder's latents go as each factor rises; of unit length, as they are before normalisation."""
    shape = pipeline.transformer.config
    latents = seen.sources["latents"].unflatten(1, (1, shape.channels, shape.height, shape.width))
    flat = pipeline.denormalise(latents.to(pipeline.device)).flatten(1).cpu()
    found = torch.stack([direction(flat, seen.factors[:, seen.names.index(name)]) for name in names])
    axes = found / found.norm(dim=1, keepdim=True).clamp_min(1e-12)
    along, whole = (flat - flat.mean(0)) @ axes.T, flat.var(0).sum().clamp_min(1e-12)
    return Directions(flat.mean(0), axes, along.std(0), (along.var(0) / whole).tolist())


def write(run: Path, note: dict[str, Any], found: Directions) -> None:
    """Both files, each whole or not there."""
    tensors: dict[str, Tensor] = {"mean": found.mean, "axes": found.axes, "std": found.std}
    about = {"vae_hash": str(note["vae_hash"]), "explained": json.dumps(found.explained),
             "factors": json.dumps([[row["factor"], row["r2"]["latents"]] for row in note["factors"]])}  # fmt: skip
    write_atomic(run / FILE, save({name: value.contiguous() for name, value in tensors.items()}, about))
    write_json(run / NOTE, note)


def read(run: Path, vae_hash: str) -> tuple[Directions, list[tuple[str, float]]] | None:
    """The directions of a run's latents, each with its factor and the R² of its probe; None where there are none.

    None also where they are another autoencoder's.
    """
    if not (run / FILE).exists():
        return None
    with safe_open(run / FILE, "pt") as file:
        about, (mean, axes, std) = file.metadata(), map(file.get_tensor, ("mean", "axes", "std"))
    if about["vae_hash"] != vae_hash:
        return None
    return Directions(mean, axes, std, json.loads(about["explained"])), [tuple(f) for f in json.loads(about["factors"])]
