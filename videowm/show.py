"""Pictures and videos that people look at: labelled strips, comparison videos, figures; mp4 and PNG as bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from videowm.actions.tables import NO_ACTIONS
from videowm.files import check_output, write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BACKGROUND, INK, FAINT = (255, 255, 255), (28, 28, 30), (140, 140, 146)
FONT = ImageFont.load_default
WIDTH = 10  # of a bar that shows an action, in pixels


def cell_of(size: tuple[int, int], cell: int) -> tuple[int, int]:
    """The size (H', W') at which frames of `size` (H, W) are shown: the longer side is `cell` pixels."""
    return tuple(max(1, round(side * cell / max(size))) for side in size)


def enlarge(frames: np.ndarray, cell: int) -> np.ndarray:
    """uint8 "… H W 3" to "… H' W' 3" of `cell_of`: enlarged by the nearest pixel, made smaller by area."""
    size = cell_of(frames.shape[-3:-1], cell)
    if max(size) < max(frames.shape[-3:-1]):
        small = [Image.fromarray(frame).resize(size[::-1], Image.Resampling.BOX)
                 for frame in frames.reshape(-1, *frames.shape[-3:])]  # fmt: skip
        return np.stack([np.asarray(frame) for frame in small]).reshape(*frames.shape[:-3], *size, 3)
    rows, columns = (np.arange(n) * old // n for n, old in zip(size, frames.shape[-3:-1]))
    return frames[..., rows, :, :][..., columns, :]


def outlined(frame: np.ndarray, boxes: list[tuple[slice, slice]], *, size: tuple[int, int], ink=INK) -> np.ndarray:
    """An enlarged picture with thin lines around `boxes` (rows, columns), in pixels of the original's `size` (H, W)."""
    picture = Image.fromarray(frame)
    for rows, columns in boxes:
        top, bottom = (n * frame.shape[0] // size[0] for n in (rows.start, rows.stop))
        left, right = (n * frame.shape[1] // size[1] for n in (columns.start, columns.stop))
        ImageDraw.Draw(picture).rectangle((left - 1, top - 1, right, bottom), outline=ink)
    return np.asarray(picture)


def text(canvas: np.ndarray, at: tuple[int, int], words: str, *, size: int = 13, ink=INK) -> np.ndarray:
    """Write words on a uint8 picture "H W 3" at (x, y)."""
    picture = Image.fromarray(canvas)
    ImageDraw.Draw(picture).text(at, words, fill=ink, font=FONT(size))
    return np.asarray(picture)


def grid(
    rows: list[np.ndarray], labels: list[str], *, columns: list[str], cell: int, margin: int = 56, block: int = 0,
    notes: Sequence[str] = (),
) -> np.ndarray:  # fmt: skip
    """A picture of labelled rows "f H W 3" of stills, a header above each column; a gap after every `block` rows.

    The longer side of a still is `cell` pixels; all are of one size. Labels have `margin` pixels, or what they need.
    Beneath each block stands its note, if there is one.
    """
    margin = max(margin, *(8 + int(FONT(13).getlength(label)) for label in labels))
    (height, width), gap, top = cell_of(rows[0].shape[-3:-1], cell), 4, 24
    between = 12 + 12 * bool(notes)
    tops = [top + r * (height + gap) + (r // block * between if block else 0) for r in range(len(rows))]
    canvas = np.full(
        (tops[-1] + height + gap + between * bool(notes), margin + len(columns) * (width + gap), 3),
        BACKGROUND,
        np.uint8,
    )
    for y, row in zip(tops, rows, strict=True):
        for i, frame in enumerate(enlarge(row, cell)):
            x = margin + i * (width + gap)
            canvas[y : y + height, x : x + width] = frame
    for y, label in zip(tops, labels, strict=True):
        canvas = text(canvas, (2, y + height // 2 - 8), label)
    for note, y in zip(notes, tops[max(block, 1) - 1 :: max(block, 1)]):
        canvas = text(canvas, (margin, y + height + gap), note, size=12)
    for i, label in enumerate(columns):
        canvas = text(canvas, (margin + i * (width + gap) + 2, 5), label, ink=FAINT, size=12)
    return canvas


def side_by_side(videos: dict[str, np.ndarray], *, cell: int) -> np.ndarray:
    """Videos "f H W 3" of one length and size, by their label, next to each other under these: "f H' W' 3".

    The longer side of each is `cell` pixels.
    """
    (high, wide), gap, top = cell_of(next(iter(videos.values())).shape[-3:-1], cell), 6, 22
    height, width = top + high + 2, len(videos) * (wide + gap) - gap
    canvas = np.full((height + height % 2, width + width % 2, 3), BACKGROUND, np.uint8)
    for i, label in enumerate(videos):
        canvas = text(canvas, (i * (wide + gap) + 2, 4), label)
    frames = np.repeat(canvas[None], len(next(iter(videos.values()))), axis=0)
    for i, video in enumerate(videos.values()):
        x = i * (wide + gap)
        frames[:, top : top + high, x : x + wide] = enlarge(video, cell)
    return frames


def draw_actions(frames: np.ndarray, actions: np.ndarray, names: list[str]) -> np.ndarray:
    """Below every frame "f H W 3", a bar for each number of the action that leads on from it (the last has none).

    Of very many numbers the first are drawn, for which there is room; nothing of data without actions.
    """
    if tuple(names) == (NO_ACTIONS,):
        return frames
    width = frames.shape[2]
    names, actions = names[: width // 8], actions[:, : width // 8]
    each = width // len(names)
    panel = np.full((len(frames), 34, width, 3), BACKGROUND, np.uint8)
    scale = np.maximum(np.abs(actions).max(axis=0), 1.0)
    header = panel[0]
    for j, name in enumerate(names):
        header = text(header, (j * each + 3, 1), name[: each // 6], size=11, ink=FAINT)
    panel[:] = header
    for i, action in enumerate(actions[: len(frames)]):
        for j, value in enumerate(action / scale):
            middle, reach = j * each + each // 2, int(value * (each // 2 - 3))
            low, high = sorted((middle, middle + reach))
            panel[i, 17 : 17 + WIDTH, low : high + 1] = (214, 69, 65)
            panel[i, 14:30, middle] = FAINT
    return np.concatenate([frames, panel], axis=1)


def comparison_video(path: Path, predicted: np.ndarray, truth: np.ndarray | None, actions: np.ndarray, names: list[str],
                     *, context: int, fps: float, cell: int = 256) -> None:  # fmt: skip
    """Write an mp4 of truth, prediction and their difference, with the actions drawn below.

    Args:
        predicted: uint8 "f H W 3", `context` given frames first.
        truth: uint8 of the same shape, or None where the future under these actions was not recorded.
        actions: float "f-1 a".
    """
    shown = {"prediction": predicted}
    if truth is not None:
        truth = truth[: len(predicted)]
        difference = np.abs(predicted.astype(np.int16) - truth.astype(np.int16)).astype(np.uint8)
        shown = {"truth": truth, "prediction": predicted, "difference": difference}
    frames = draw_actions(side_by_side(shown, cell=cell), actions, names)
    for i in range(min(context, len(frames))):
        frames[i] = text(frames[i], (frames.shape[2] - 62, 4), "context", ink=FAINT)
    write_mp4(path, frames, fps)


def encode_mp4(frames: np.ndarray, fps: float) -> bytes:
    """H.264 mp4 of uint8 frames "f H W 3" (even height and width) that every browser plays.

    One thread, no B-frames, no macroblock tree and no look-ahead for it: with any, x264 may give other bytes next time.
    """
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {
            "crf": "18",
            "preset": "veryfast",
            "x264-params": "threads=1:bframes=0:mbtree=0:rc-lookahead=0",
        }
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def encode_webp(frames: np.ndarray, fps: float, *, quality: int = 75) -> bytes:
    """A moving WebP of uint8 frames "f H W 3" that begins again at its end: a README shows it, where no mp4 plays."""
    first, *others = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    first.save(buffer, "WEBP", save_all=True, append_images=others, duration=round(1000 / fps), loop=0, quality=quality)
    return buffer.getvalue()


def write_mp4(path: Path, frames: np.ndarray, fps: float) -> None:
    """Whole or not there."""
    check_output(path, ".mp4")
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=255)
    write_atomic(path, encode_mp4(frames, fps))


def new_figure(
    width: float = 5.6, height: float = 3.8, rows: int = 1, columns: int = 1, margins: dict[str, float] | None = None
) -> tuple[Figure, list[Any]]:
    """A figure and its axes row by row, in the look of all figures of a page.

    Its margins (as of `Figure.subplots_adjust`) are found, which takes as long as drawing, unless they are given.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=None if margins else "constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw=margins).ravel().tolist()
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def encode_figure(figure: Figure, kind: str = "png", *, dpi: int = 150) -> bytes:
    """A figure as PNG or SVG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi)
    return buffer.getvalue()


def encode_png(picture: np.ndarray) -> bytes:
    """A PNG of uint8 "H W 3" at the usual compression: the best takes 10 times as long for 5 % fewer bytes."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
