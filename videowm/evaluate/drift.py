"""How fast a rollout loses what it could have: the same definition for every metric that has a ceiling and a floor."""

from __future__ import annotations

import numpy as np

from videowm.bootstrap import clear_of_zero, mean_and_resamples, spread
from videowm.evaluate.curves import MetricCurve, Pairs

CLEAR = 3.0  # standard errors that ceiling and floor must lie apart


def drift(curve: MetricCurve) -> Pairs:
    """The curve on the scale from floor 0 to ceiling 1, its area and its half-life.

    q(h) = (m(h) - F) / (C - F), with ceiling C and floor F averaged over the horizon and the clips. So neither's
    own course bends the scale. The area is the mean of q over the horizon. The half-life is the first predicted frame
    with q of 1/2 or less: half of the distance is lost; None when that never happens within `drift/…_horizon` frames
    (for its error such draws count with the horizon's length). All None where ceiling and floor do not lie three
    standard errors apart, or where no error is known because there is one episode.
    """
    if not {"ceiling", "floor"} <= set(curve.bounds):
        return
    name, weights = f"drift/{curve.name.replace('/', '_')}", mean_and_resamples(curve.episode)
    top, bottom = (weights @ curve.bounds[k].mean(1) for k in ("ceiling", "floor"))
    distance = curve.sign * (top - bottom)
    q = (weights @ curve.values - bottom[:, None]) / (top - bottom)[:, None] if distance.all() else None
    last = curve.first + curve.values.shape[1] - 1
    yield f"{name}_horizon", last
    if q is None or not clear_of_zero(distance[0], spread(distance[1:], curve.episode), CLEAR):
        yield from ((f"{name}_{what}", None) for what in ("area", "area_se", "half_life", "half_life_se"))
        return
    yield f"{name}_by_frame", q[0].tolist()
    yield f"{name}_by_frame_se", spread(q[1:], curve.episode).tolist()
    yield f"{name}_by_frame_ceiling", [1.0] * q.shape[1]
    yield f"{name}_by_frame_floor", [0.0] * q.shape[1]
    yield f"{name}_by_frame_first", curve.first
    yield f"{name}_area", float(q[0].mean())
    yield f"{name}_area_se", float(spread(q[1:].mean(1), curve.episode))
    lost = q <= 0.5
    half = np.where(lost.any(1), curve.first + lost.argmax(1), last)
    yield f"{name}_half_life", int(half[0]) if lost[0].any() else None
    yield f"{name}_half_life_se", float(spread(half[1:], curve.episode))
