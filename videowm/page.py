"""The evaluation page: what was measured on one run, between ceiling and floor, and the clips to look at."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from videowm.evaluate.scenes import Scenes
from videowm.evaluate.suite import ranked
from videowm.show import comparison_video
from videowm.vae.codec import to_uint8

TEMPLATE = Path(__file__).with_name("page.html")
COLUMNS = 3  # curves side by side
BLUE, GREY, RED = "#1f4e9c", "#3a3a3c", "#d64541"
BOUNDS = {  # suffix -> (colour, line, label)
    "ceiling": (GREY, "--", "ceiling"),
    "ceiling_real": (GREY, (0, (1, 2, 5, 2)), "ceiling on real video"),
    "floor": (RED, ":", "floor"),
    "floor_zero": (RED, (0, (1, 3)), "floor without actions"),
}
ROOMS = {
    "fidelity": "How close the picture is, frame by frame",
    "control": "Whether the actions were obeyed",
    "text": "Whether the words were obeyed",
    "state": "Whether the world is in the simulator's state",
    "counterfactual": "Other actions, against the real game",
    "count": "Whether things last",
    "frechet": "Distance between sets of videos",
    "surprise": "What is predicted badly",
    "drift": "How fast it is lost: 1 is the ceiling, 0 the floor",
}


def write_page(run: Path, metrics: dict[str, Any], scenes: Scenes, names: list[str], fps: float) -> Path:
    """Write evaluation.html and, in evaluation/, the best, median and worst clip; return the page."""
    import jinja2

    clips = write_clips(run / "evaluation", scenes, names, fps)
    shown = {room: curve_names(metrics, room) for room in ROOMS}
    rooms = [
        {
            "title": title,
            "figure": room_figure(metrics, shown[room]) if shown[room] else None,
            "rows": table_rows(metrics, room),
        }
        for room, title in ROOMS.items()
        if shown[room] or table_rows(metrics, room)
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(TEMPLATE.read_text()).render(
        run=run.name, sentences=sentences(metrics), rooms=rooms, about=metrics["about"],
        protocols={k: v for k, v in metrics.items() if k.endswith("_protocol")},
        clips={name: base64.b64encode(path.read_bytes()).decode() for name, path in clips.items()},
    )  # fmt: skip
    path = run / "evaluation.html"
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(page)
    os.replace(aside, path)
    return path


def write_clips(folder: Path, scenes: Scenes, names: list[str], fps: float) -> dict[str, Path]:
    """The best, median and worst rollout beside the truth, as mp4."""
    paths = {}
    for name, i in ranked(scenes).items():
        paths[name] = folder / f"{name}.mp4"
        predicted, truth = (to_uint8(video[i]) for video in (scenes.dreamed, scenes.truth))
        comparison_video(paths[name], predicted, truth, scenes.actions[i].numpy(), names, context=scenes.context,
                         fps=fps)  # fmt: skip
    return paths


def curve_names(metrics: dict[str, Any], room: str) -> list[str]:
    """The names of a room's curves, without those of bounds and errors."""
    return [
        n for n, v in metrics.items() if n.startswith(f"{room}/") and n.endswith("_by_frame") and isinstance(v, list)
    ]


def room_figure(metrics: dict[str, Any], names: list[str]) -> str:
    """The curves of a room in a grid, a PNG as base64."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = -(-len(names) // COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(4.2 * COLUMNS, 2.8 * rows), dpi=90, squeeze=False,
                                layout="constrained")  # fmt: skip
    for axes, name in zip(grid.flat, names):
        draw_curve(axes, metrics, name)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


def draw_curve(axes, metrics: dict[str, Any], name: str) -> None:
    """One curve with a band of one standard error, and its bounds."""
    values, error = (np.array(metrics[key]) for key in (name, f"{name}_se"))
    frames = metrics.get(f"{name}_first", 1) + np.arange(len(values))
    axes.plot(frames, values, color=BLUE, label="model", zorder=3)
    axes.fill_between(frames, values - error, values + error, color=BLUE, alpha=0.18, lw=0)
    for suffix, (colour, line, label) in BOUNDS.items():
        if (bound := metrics.get(f"{name}_{suffix}")) is not None:
            axes.plot(frames, bound, color=colour, linestyle=line, lw=1.2, label=label, zorder=4)
    axes.set_title(name.removesuffix("_by_frame"), fontsize=9)
    axes.set_xlabel("predicted frame", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e6e6ea", linewidth=0.8)
    axes.legend(frameon=False, fontsize=7)


def table_rows(metrics: dict[str, Any], room: str) -> list[dict[str, str]]:
    """One row a number of the room: value ± error, ceilings, floors."""
    names = [n for n in metrics if n.startswith(f"{room}/") and not n.endswith(("_se", "_first", *BOUNDS))]
    rows = []
    for name in names:
        if isinstance(metrics[name], list | dict | str):
            continue
        bounds = {label: with_error(metrics, f"{name}_{suffix}") for suffix, (*_, label) in BOUNDS.items()}
        rows.append({"name": name, "value": with_error(metrics, name), **bounds})
    return rows


def with_error(metrics: dict[str, Any], name: str) -> str:
    value, error = metrics.get(name), metrics.get(f"{name}_se")
    if name not in metrics:
        return ""
    if value is None:
        return "none"
    return f"{value:.4g} ± {error:.2g}" if error is not None else f"{value:.4g}"


def sentences(metrics: dict[str, Any]) -> list[str]:
    """What the page says first, in sentences made of measured numbers."""
    about, said = metrics["about"], []
    said.append(
        f"{about['clips']} held-out starts of {about['episodes']} episodes, {about['context']} frames of context and "
        f"{about['horizon']} predicted; ± is the bootstrap standard error over episodes."
    )
    for name, what in (
        ("fidelity/psnr", "PSNR of the rollout is {} dB"),
        ("control/r2", "R² of the requested actions, read off the rollout, is {}"),
        (
            "text/turn",
            "Told to turn left, not right, the rollout turns more by {} standard deviations",
        ),
        ("state/error", "The state read off the rollout is off by {} standard deviations"),
        ("counterfactual/psnr", "Under forced actions the rollout is at {} dB from the real game"),
    ):
        if name in metrics:
            bounds = [f"{k} {with_error(metrics, f'{name}_{k}')}" for k in ("ceiling", "floor")]
            said.append(f"{what.format(with_error(metrics, name))} ({', '.join(bounds)}).")
    said += [text for name, text in metrics.items() if name.endswith("_refused")]
    if "control/delay" in metrics:
        said.append(f"Actions show {with_error(metrics, 'control/delay')} frames late.")
    return said
