"""Whether things last: how many there are, and how often one appears or is gone, against the simulator."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num

from videowm.evaluate.curves import MetricCurve, Pairs, mean_and_error, pairs
from videowm.evaluate.drift import drift
from videowm.evaluate.reader import Reader
from videowm.evaluate.readings import BOUND_VIDEOS, Readings


def whole(rows: Float[np.ndarray, "b w"]) -> Float[np.ndarray, "b w"]:
    """Readings as counts: the nearest whole number, 0 or more."""
    return np.rint(rows).clip(0)


def changes(count: Num[np.ndarray, "b w"]) -> dict[str, Float[np.ndarray, " b"]]:
    """How many things appear and disappear per 100 frames, "b" each, of counts "b w"."""
    step = np.diff(count, axis=1)
    return {"appear": 100 * step.clip(0, None).mean(1), "disappear": 100 * (-step).clip(0, None).mean(1)}


def counts(readings: Readings, reader: Reader, counted: tuple[str, ...]) -> Pairs:
    """Absolute error of the columns `counted` by predicted frame, and what appears and disappears per 100 frames.

    Ceilings: the reader's own error on the autoencoder's picture of the real video, and on the real video. Floor: the
    last context frame repeated, where nothing comes or goes. Of the changes there is no better or worse: `_true` is
    the simulator's own number, and what the reader sees on real video (`_ceiling_real`) shows how much of it flickers.
    """
    if readings.true.shape[1] < 2:
        return
    for name in counted:
        if name not in readings.names:
            continue
        i = readings.names.index(name)
        mean, std = reader.readable.mean[i], reader.readable.std[i]
        true = whole(readings.true[..., i] * std + mean)
        read = {video: whole(rows[..., i] * std + mean) for video, rows in readings.read.items()}
        bounds = {suffix: np.abs(read[video] - true) for suffix, video in BOUND_VIDEOS.items()}
        error = np.abs(read["dreamed"] - true)
        curve = MetricCurve(f"count/{name}_error", error, readings.episode, bounds, readings.first)
        yield from pairs(curve)
        yield from drift(curve)
        shown = {"": read["dreamed"], "_true": true, "_ceiling": read["decoded"], "_ceiling_real": read["truth"],
                 "_floor": read["repeat"]}  # fmt: skip
        for suffix, count in shown.items():
            for what, rate in changes(count).items():
                yield from mean_and_error(f"count/{name}_{what}{suffix}", rate, readings.episode)
