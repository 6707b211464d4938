"""`videowm latents` and `videowm probe`: pictures of what a latent space means, and of what a network knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videowm import show
from videowm.data.dataset import Dataset
from videowm.data.starts import dataset_of
from videowm.device import default_device
from videowm.evaluate import explorer
from videowm.evaluate.probe import look, probe
from videowm.files import check_output, finite, write_atomic, write_json
from videowm.options import LatentsOptions, ProbeOptions
from videowm.pipeline import WorldModelPipeline
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


def write_probe(run: Path, out: Path, options: ProbeOptions) -> dict[str, Any]:
    """Write a picture of what is known in which layer, and the same as JSON beside it; returns what the JSON holds."""
    check_output(out, ".png")
    pipeline = WorldModelPipeline.open(run).to(default_device())
    dataset = Dataset(options.data or dataset_of(run))
    seen = look(pipeline, dataset, clips=options.clips)
    rows = probe(seen, list(options.factor))
    note = {"run": run.name, "transformer_hash": pipeline.config.transformer_hash, "data": str(dataset.root),
            "data_hash": dataset.hash, "steps": len(seen.episode), "episodes": len(set(seen.episode.tolist())),
            "factors": rows}  # fmt: skip
    write_atomic(out, known_figure(rows))
    write_json(out.with_suffix(".json"), finite(note))
    return note


def known_figure(rows: list[dict[str, Any]]) -> bytes:
    """R² of every source, a group of bars for each factor, as PNG."""
    sources = list(rows[0]["r2"])
    figure, places = show.new_figure(max(5.0, 1.5 + 0.25 * len(sources) * len(rows)), 3.6)
    width = 0.8 / len(sources)
    for i, source in enumerate(sources):
        values = [max(0.0, row["r2"][source] or 0.0) for row in rows]
        places[0].bar([n + width * i for n in range(len(rows))], values, width, label=source)
    places[0].set_xticks([n + 0.4 for n in range(len(rows))], [row["factor"] for row in rows])
    places[0].set(ylim=(0, 1), ylabel="R² on other episodes")
    places[0].legend(frameon=False, fontsize=7, ncols=4)
    return show.encode_figure(figure)


def labels(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each direction: its share of variance, and the state column that it follows best, with R²."""
    return [f"{n + 1}: {row['explained']:.0%}" + (f"  {row['best']} {row['r2']:.2f}" if row["best"] else "")
            for n, row in enumerate(rows)]  # fmt: skip
