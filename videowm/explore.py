"""`videowm latents`: a picture of what each principal direction of a latent space means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videowm import show
from videowm.data.dataset import Dataset
from videowm.device import default_device
from videowm.evaluate import explorer
from videowm.files import check_output, write_atomic, write_json
from videowm.options import LatentsOptions
from videowm.vae.codec import DiffusersCodec, load_vae


def write_directions(vae: str, data: Path, out: Path, options: LatentsOptions) -> dict[str, Any]:
    """Write the picture `out` and the same as JSON beside it; returns what the JSON holds."""
    check_output(out, ".png")
    codec, dataset = DiffusersCodec(load_vae(vae).to(default_device()).eval()), Dataset(data)
    explored = explorer.explore(codec, dataset, clips=options.clips)
    found = explorer.principal_directions(explored.latents, options.directions)
    rows = explorer.correlations(explored, found)
    columns = ["as it is", *(f"{value:+d} sd" if value else "mean" for value in explorer.VALUES)]
    pictures = explorer.moved_pictures(codec, explored.shown, found)
    picture = show.grid(list(pictures), labels(rows), columns=columns, cell=96, margin=170)
    write_atomic(out, show.encode_png(picture))
    note = {"vae": str(vae), "vae_hash": codec.hash, "data": str(data), "data_hash": dataset.hash,
            "steps": len(explored.latents), "episodes": len(set(explored.episode.tolist())),
            "directions": rows}  # fmt: skip
    write_json(out.with_suffix(".json"), note)
    return note


def labels(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each direction: its share of variance, and the state column that it follows best, with R²."""
    return [f"{n + 1}: {row['explained']:.0%}" + (f"  {row['best']} {row['r2']:.2f}" if row["best"] else "")
            for n, row in enumerate(rows)]  # fmt: skip
