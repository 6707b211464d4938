"""The evaluation page: what was measured on one run, between ceiling and floor, and the clips to look at."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from videowm.evaluate.findings import sentences, table_rows
from videowm.evaluate.keeps import HeldOut
from videowm.evaluate.scenes import Scenes
from videowm.evaluate.suite import ranked
from videowm.files import write_atomic
from videowm.metrics import BOUNDS, unit
from videowm.show import comparison_video, encode_figure, encode_png, enlarge, grid, new_figure, outlined, text
from videowm.template import render
from videowm.types import UserError
from videowm.vae.codec import to_uint8

logger = logging.getLogger("videowm")
TEMPLATE = Path(__file__).with_name("page.html")
UNKNOWN = {"starts": None, "data": None, "reader": None, "sampler": {}}  # of numbers that came without a note
COLUMNS = 3  # curves side by side
SHOWN, CELL, BRIGHTER = 5, 256, 3  # stills of an autoencoder's page, pixels of each, and how much brighter errors are
INKS = (255, 214, 10), (100, 210, 255), (255, 55, 95), (48, 209, 88)  # of the boxes around things, by kind
BLUE, GREY, RED = "#1f4e9c", "#3a3a3c", "#d64541"
LINES = {  # suffix -> (colour, line)
    "ceiling": (GREY, "--"),
    "ceiling_real": (GREY, (0, (1, 2, 5, 2))),
    "floor": (RED, ":"),
    "floor_zero": (RED, (0, (1, 3))),
}
ROOMS = {
    "keeps": "What the autoencoder keeps, of the picture and of small things in it",
    "reconstruction": "How close held-out clips come back",
    "fidelity": "How close the picture is, frame by frame",
    "control": "Whether the actions were obeyed",
    "text": "Whether the text was obeyed",
    "state": "Whether the world is in the simulator's state",
    "counterfactual": "Other actions, against the real game",
    "decision": "Whether it is good to decide in",
    "count": "Whether things last",
    "returns": "Whether a view is remembered that was left and is seen again",
    "leaks": "What happens that cannot happen",
    "frechet": "Distance between sets of videos",
    "surprise": "What is predicted badly",
    "drift": "How fast it is lost: 1 is the ceiling, 0 the floor",
}
RANKS = {"surprise/ranked": "prediction error", "surprise/ranked_by_disagreement": "disagreement of budgets",
         "surprise/ranked_by_progress": "progress between budgets"}  # fmt: skip


def write_page(run: Path, metrics: dict[str, Any], scenes: Scenes, names: list[str], fps: float) -> Path:
    """Write evaluation.html and, in evaluation/, its figures and the best, median and worst clip; return the page."""
    folder = run / "evaluation"
    clips = {
        name: embedded(folder / f"{name}.mp4", lambda path, i=i: write_clip(path, scenes, i, names, fps))
        for name, i in ranked(scenes).items()
    }
    strip_png = embedded(folder / "strip.png", lambda path: write_atomic(path, strip(scenes)))
    return write(run, metrics, room_parts(folder, metrics), fps=f"{fps:.3g}", strip=strip_png,
                  clips={k: v for k, v in clips.items() if v})  # fmt: skip


def write_autoencoder_page(run: Path, metrics: dict[str, Any], held: HeldOut, decoded: Tensor) -> Path:
    """Write evaluation.html with evaluation/keeps.png, stills of clips "b f 3 H W" and of what was made of them."""
    folder = run / "evaluation"
    parts = room_parts(folder, metrics)
    parts[0]["figure"] = embedded(folder / "keeps.png", lambda path: write_atomic(path, stills(held, decoded)))
    return write(run, metrics, parts, clips=None)


def write(run: Path, metrics: dict[str, Any], rooms: list[dict[str, Any]], **more: Any) -> Path:
    """Write evaluation.html and return it."""
    page = render(
        TEMPLATE, title=f"Evaluation of {run.name}", sentences=sentences(metrics), rooms=rooms,
        about=UNKNOWN | metrics.get("about", {}),
        protocols={k: v for k, v in metrics.items() if k.endswith("_protocol")}, **more,
    )  # fmt: skip
    write_atomic(run / "evaluation.html", page)
    return run / "evaluation.html"


def room_parts(folder: Path, metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Of every room that was measured its title, its figure, the rows of its table and what was ranked."""
    parts = []
    for room, title in ROOMS.items():
        rows, names, path = table_rows(metrics, room), curve_names(metrics, room), folder / f"{room}.png"
        if names or rows:
            figure = embedded(path, lambda to, n=names: write_atomic(to, room_figure(metrics, n))) if names else None
            if points := metrics.get(f"{room}/reliability"):
                figure = embedded(path, lambda to, p=points: write_atomic(to, reliability_figure(p)))
            ranking = ranks(metrics) if room == "surprise" else {}
            parts.append({"title": title, "figure": figure, "rows": rows, "ranks": ranking})
    return parts


def embedded(path: Path, write: Callable[[Path], None]) -> str | None:
    """The file that `write` makes, in base64; None, and a warning, where it cannot be made: the page goes without."""
    try:
        write(path)
        return base64.b64encode(path.read_bytes()).decode()
    except UserError:  # a full disk will not hold the page either
        raise
    except Exception as error:  # noqa: BLE001 - one picture must not cost what was measured
        logger.warning("the page goes without %s: %s: %s", path.name, type(error).__name__, error)
        return None


def write_clip(path: Path, scenes: Scenes, i: int, names: list[str], fps: float) -> None:
    """Rollout `i` beside the truth, as mp4."""
    predicted, truth = (to_uint8(video[i]) for video in (scenes.dreamed, scenes.truth))
    comparison_video(path, predicted, truth, scenes.actions[i].numpy(), names, context=scenes.context, fps=fps)


def strip(scenes: Scenes) -> bytes:
    """Stills of the same clips as a PNG: the last frame of context, then predicted frames 1, 2, 4 … and the last."""
    frames = sorted({0, *(2**i for i in range(scenes.horizon.bit_length())), scenes.horizon})
    at = [scenes.context - 1 + frame for frame in frames]
    rows, labels = [], []
    for name, i in ranked(scenes).items():
        rows += [to_uint8(video[i, at]) for video in (scenes.truth, scenes.dreamed)]
        labels += [f"{name}: truth", "prediction"]
    columns = ["last given", *(f"frame {frame}" for frame in frames[1:])]
    return encode_png(grid(rows, labels, columns=columns, cell=96, margin=110, block=2))


def stills(held: HeldOut, decoded: Tensor) -> bytes:
    """Truth, reconstruction and error of evenly spread clips as a PNG, each in its frame with most boxes."""
    clips = np.unique(np.linspace(0, len(held.frames) - 1, SHOWN).round().astype(int)).tolist()
    size, inks = tuple(held.frames.shape[-2:]), dict(zip(held.kinds, INKS))
    rows, columns = [[], [], []], []
    for i in clips:
        boxes = held.boxes[i] if held.boxes else [{}] * held.frames.shape[1]
        j = int(np.argmax([sum(map(len, frame.values())) for frame in boxes]))
        truth, made = (to_uint8(video[i, j : j + 1])[0] for video in (held.frames, decoded))
        error = (BRIGHTER * np.abs(truth.astype(int) - made)).clip(0, 255).astype(np.uint8)
        for row, frame in zip(rows, (truth, made, error), strict=True):
            frame = enlarge(frame, CELL)
            for kind, ink in inks.items():
                frame = outlined(frame, boxes[j].get(kind, []), size=size, ink=ink)
            row.append(frame)
        columns.append(f"episode {held.episode[i]}, frame {held.first[i] + j}")
    labels = ["truth", "reconstruction", f"error x {BRIGHTER}"]
    picture = grid([np.stack(row) for row in rows], labels, columns=columns, cell=CELL, margin=110)
    for n, (kind, ink) in enumerate(inks.items()):
        picture = text(picture, (18, 28 + 18 * n), kind).copy()
        picture[32 + 18 * n : 42 + 18 * n, 4:14] = ink
    return encode_png(picture)


def ranks(metrics: dict[str, Any]) -> dict[str, str]:
    """The held-out clips that are predicted worst, by every signal that was measured."""
    found = {words: metrics[name] for name, words in RANKS.items() if name in metrics}
    return {words: ", ".join(f"{episode} ({value:.3g})" for _, episode, value in rows) for words, rows in found.items()}


def curve_names(metrics: dict[str, Any], room: str) -> list[str]:
    """The names of a room's curves, without those of bounds and errors."""
    names = (name for name in metrics if name.startswith(f"{room}/") and name.endswith("_by_frame"))
    return [name for name in names if isinstance(metrics[name], list)]


def room_figure(metrics: dict[str, Any], names: list[str]) -> bytes:
    """The curves of a room in a grid under one legend, as PNG."""
    rows = -(-len(names) // COLUMNS)
    width, height = 4.2 * COLUMNS, 2.8 * rows + 0.3
    margins = {"left": 0.75 / width, "bottom": 0.5 / height, "right": 1 - 0.1 / width, "top": 1 - 0.6 / height,
               "wspace": 0.28, "hspace": 0.36}  # fmt: skip
    figure, places = new_figure(width, height, rows, COLUMNS, margins)
    drawn = {}
    for axes, name in zip(places, names):
        drawn |= draw_curve(axes, metrics, name)
    for axes in places[len(names) :]:
        axes.set_visible(False)
    figure.legend(drawn.values(), drawn, loc="upper left", ncols=len(drawn), frameon=False, fontsize=9)
    return encode_figure(figure, dpi=90)


def reliability_figure(points: list[list[float]]) -> bytes:
    """How often games ended against the probability that was dreamed, as PNG: area by number, bars of one error."""
    figure, [axes] = new_figure(4.2, 3.6)
    chance, share, count = np.array(points, np.float64).T
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", lw=1.2, label="calibrated")
    axes.errorbar(chance, share, np.sqrt(share * (1 - share) / count), color=BLUE, lw=1.2, label="model")
    axes.scatter(chance, share, 8 * np.log1p(count), color=BLUE)
    axes.set(
        xlabel="probability of an end within a course, dreamed", ylabel="share that ended", xlim=(0, 1), ylim=(0, 1)
    )
    axes.grid(visible=True, color="#e6e6ea", linewidth=0.8)
    axes.legend(frameon=False, fontsize=9)
    return encode_figure(figure, dpi=90)


def draw_curve(axes, metrics: dict[str, Any], name: str) -> dict[str, Any]:
    """One curve with a band of one standard error, and its bounds; returns the lines by label."""
    values, error = (np.array(metrics.get(key), float) for key in (name, f"{name}_se"))
    frames = metrics.get(f"{name}_first", 1) + np.arange(len(values))
    lines = {"model": axes.plot(frames, values, color=BLUE, zorder=3)[0]}
    if np.isfinite(error).all():  # of one episode no error is known
        axes.fill_between(frames, values - error, values + error, color=BLUE, alpha=0.18, lw=0)
    for suffix, (colour, line) in LINES.items():
        if (bound := metrics.get(f"{name}_{suffix}")) is not None:
            lines[BOUNDS[suffix]] = axes.plot(frames, bound, color=colour, linestyle=line, lw=1.2, zorder=4)[0]
    if name.startswith("drift/"):  # bounds that lie close together make wild figures
        axes.set_ylim(max(-1, min(-0.1, *values)), min(2, max(1.1, *values)))
    axes.set_title(name.removesuffix("_by_frame"), fontsize=9)
    axes.set_xlabel("predicted frame", fontsize=8)
    axes.set_ylabel(unit(name), fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, color="#e6e6ea", linewidth=0.8)
    return lines
