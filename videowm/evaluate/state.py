"""Whether the world in the rollout is in the state that the simulator was in."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64

from videowm.evaluate.curves import MetricCurve
from videowm.evaluate.readings import BOUND_VIDEOS, Readings


def state(readings: Readings) -> Iterator[MetricCurve]:
    """Absolute error of every state column by predicted frame, and their mean; in standard deviations of the column.

    The state read off the rollout against the simulator's. Ceilings: the reader's own error on the autoencoder's
    picture of the real frames, and on these themselves. Floor: a world that stands still.
    """
    columns = range(readings.actions, len(readings.names))
    if not columns:
        return

    def error(video: str) -> Float64[np.ndarray, "b w k"]:
        return np.abs(readings.read[video] - readings.true)

    bounds = {suffix: error(video) for suffix, video in BOUND_VIDEOS.items()}
    for name, chosen in {**{readings.names[i]: [i] for i in columns}, "error": list(columns)}.items():
        yield MetricCurve(
            f"state/{name}", error("dreamed")[..., chosen].mean(-1), readings.episode,
            {suffix: values[..., chosen].mean(-1) for suffix, values in bounds.items()}, readings.first,
        )  # fmt: skip
