"""Curves over the horizon: what is refused, and the error of their means."""

from __future__ import annotations

import numpy as np
import pytest

from videowm.bootstrap import standard_error
from videowm.evaluate.curves import Curve, pairs, resampled


def test_what_says_nothing_is_refused():
    """Guards means over NaN, over clips of other lengths, and over other clips than the model's."""
    good, episode = np.ones((3, 4)), np.arange(3)
    with pytest.raises(FloatingPointError, match="x has 1 values that are not finite"):
        Curve("x", np.where(np.eye(3, 4) * np.arange(4) == 2, np.nan, good), episode)
    with pytest.raises(FloatingPointError, match="x_floor has 12 values"):
        Curve("x", good, episode, {"floor": good * np.inf})
    for other in (good[:, :3], good[:2], good[0]):
        with pytest.raises(ValueError, match="unequal clips"):
            Curve("x", good, episode, {"ceiling": other})
    with pytest.raises(ValueError, match="unequal clips"):
        Curve("x", good, np.arange(4))


def test_pairs_by_hand():
    """Guards names, and a mean over the wrong axis: clips differ by 1, frames by 10, the ceiling by 100."""
    values = np.arange(4)[:, None] + 10.0 * np.arange(3)
    got = dict(pairs(Curve("a/b", values, np.arange(4) // 2, {"ceiling": values + 100}, first=2)))
    assert got["a/b"] == 11.5 and got["a/b_by_frame"] == [1.5, 11.5, 21.5] and got["a/b_ceiling"] == 111.5
    assert got["a/b_by_frame_ceiling"] == [101.5, 111.5, 121.5] and got["a/b_by_frame_first"] == 2
    assert all(f"{name}_se" in got for name in ("a/b", "a/b_by_frame", "a/b_ceiling", "a/b_by_frame_ceiling"))
    assert len(got["a/b_by_frame_se"]) == 3 and got["a/b_se"] > 0


def test_weights_are_the_bootstrap_of_whole_episodes():
    """Guards clips drawn one by one, and episodes of unequal size: the error is `standard_error`'s, bit for bit."""
    rng = np.random.default_rng(0)
    values, episode = rng.normal(size=30), rng.integers(5, size=30)
    error = (resampled(episode) @ values).std(ddof=1)
    assert error == pytest.approx(standard_error(values, episode), rel=1e-9)
