"""`videowm latents` and `videowm probe`: pictures of what a latent space means, and of what a network knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videowm import show
from videowm.data.dataset import Dataset
from videowm.data.starts import acted_dataset
from videowm.device import default_device
from videowm.dit.sample import sampler_of
from videowm.evaluate import explorer, probe_record
from videowm.evaluate.intervene import InterveneConfig, intervene
from videowm.evaluate.probe import Seen, look, probe
from videowm.evaluate.probe_record import latent_directions
from videowm.evaluate.reader import Reader, check_reader
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


def write_probe(runs: list[Path], out: Path, options: ProbeOptions) -> dict[str, Any]:
    """Write a picture of what is known in which layer, and JSON beside it and in every run; returns the JSON."""
    check_output(out, ".png")
    notes = [probed(run, options) for run in runs]
    write_atomic(out, known_figure(notes))
    note = finite({"runs": notes})
    write_json(out.with_suffix(".json"), note)
    return note


def probed(run: Path, options: ProbeOptions) -> dict[str, Any]:
    """What is known in which layer of a run; written into it, with the directions of its latents.

    Raises:
        UserError: options that do not fit the run or its recording.
    """
    pipeline = WorldModelPipeline.open(run).to(default_device())
    dataset = acted_dataset(run, options.data)
    seen = look(pipeline, dataset, clips=options.clips)
    other = look(pipeline, acted_dataset(run, options.test_data), clips=options.clips) if options.test_data else None
    rows = probe(seen, list(options.factor), other)
    tested = other or seen
    note = {"run": run.name, "transformer_hash": pipeline.config.transformer_hash,
            "vae_hash": pipeline.trained_on.vae_hash, "data": str(dataset.root), "data_hash": dataset.hash,
            "test_data": str(options.test_data) if other else None, "steps": len(tested.episode),
            "episodes": len(set(tested.episode.tolist())), "factors": rows,
            "interventions": interventions(run, pipeline, dataset, seen, rows, options)}  # fmt: skip
    names = [row["factor"] for row in rows]
    probe_record.write(run, finite(note), latent_directions(pipeline, seen, names))
    return note


def interventions(
    run: Path, pipeline: WorldModelPipeline, dataset: Dataset, seen: Seen, rows: list[dict[str, Any]],
    options: ProbeOptions,
) -> list[dict[str, Any]]:  # fmt: skip
    """How far pushes move the probed factors, where that is asked.

    Raises:
        UserError: the reader is of another recording, or episodes are too few or too short.
    """
    if not options.intervene:
        return []
    reader = Reader.open(options.reader).to(pipeline.device) if options.reader else None
    if reader is not None:
        check_reader(reader, dataset)
    config = InterveneConfig(strength=options.strength, moments=options.moments, horizon=options.horizon)
    remembered = [f"block {i}" for i in range(max(1, pipeline.transformer.depth - 1))]  # nothing remembers the last one
    best = {row["factor"]: max(range(len(remembered)), key=lambda i: row["r2"][remembered[i]]) for row in rows}
    return intervene(pipeline, dataset, seen, best, sampler_of(run), reader, config)


def known_figure(notes: list[dict[str, Any]]) -> bytes:
    """R² by depth, a column for each factor and a line for each run; below it what pushes do. As PNG."""
    names = [row["factor"] for row in notes[0]["factors"]]
    pushed = any(note["interventions"] for note in notes)
    figure, places = show.new_figure(1.2 + 2.6 * len(names), 5.4 if pushed else 3.0, 1 + pushed, len(names))
    for i, name in enumerate(names):
        for n, note in enumerate(notes):
            draw_known(places[i], note["factors"][i], f"C{n}", note["run"])
            if pushed:
                draw_pushed(places[len(names) + i], note["interventions"][i], f"C{n}")
        places[i].set(title=name.replace("_", " "), ylim=(min(0, places[i].get_ylim()[0]), 1))
    for axes in places:
        axes.set(xlim=(-0.05, 1.05), xticks=[0, 1])
        axes.set_xticklabels(["latents", "last block"])
    places[0].plot([], color="0.4", linewidth=0.9, linestyle=":", label="random weights")
    places[0].set_ylabel("R² on other episodes")
    places[0].legend(frameon=False, fontsize=7)
    if pushed:
        below = places[len(names)]
        below.plot([], color="0.4", linewidth=0.9, linestyle="--", label="★'s direction in other blocks")
        below.fill_between([], [], color="0.4", alpha=0.15, linewidth=0, label="random directions")
        below.set_ylabel("shift by a push, in deviations")
        below.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(-0.05, -0.1))
    return show.encode_figure(figure)


def draw_known(axes: Any, row: dict[str, Any], colour: str, label: str) -> None:
    """R² from the latents through the blocks of a run; dotted: a network of the same shape with random weights."""
    blocks = [source for source in row["r2"] if source.startswith("block")]
    values, errors = ([row[key][s] for s in ("latents", *blocks)] for key in ("r2", "r2_se"))
    places = [i / len(blocks) for i in range(len(values))]
    axes.errorbar(places, values, errors, color=colour, marker="o", markersize=3, linewidth=1.2, label=label)
    axes.axhline(row["r2"]["random"], color=colour, linewidth=0.9, linestyle=":")


def draw_pushed(axes: Any, push: dict[str, Any], colour: str) -> None:
    """The effect of each block's own direction, over the band of random ones; dashed: the best-read block's."""
    count = len(push["effect"])
    places = [(i + 1) / count for i in range(count)]
    axes.fill_between(places, [-size for size in push["random"]], push["random"], color=colour, alpha=0.15, linewidth=0)
    axes.plot(places, push["elsewhere"], color=colour, linewidth=0.9, linestyle="--")
    axes.errorbar(places, push["effect"], push["effect_se"], color=colour, marker="o", markersize=3, linewidth=1.2)
    axes.plot(places[push["block"]], push["effect"][push["block"]], "*", color=colour, markersize=9)
    axes.axhline(0, color="0.7", linewidth=0.7)


def labels(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each direction: its share of variance, and the state column that it follows best, with R²."""
    return [f"{n + 1}: {row['explained']:.0%}" + (f"  {row['best']} {row['r2']:.2f}" if row["best"] else "")
            for n, row in enumerate(rows)]  # fmt: skip
