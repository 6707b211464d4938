"""Curves over the horizon: what is refused, and the error of their means."""

from __future__ import annotations

import numpy as np
import pytest

from videowm.bootstrap import standard_error
from videowm.evaluate.curves import MetricCurve, mean_and_error, pairs
from videowm.evaluate.drift import drift
from videowm.evaluate.findings import sentences, table_rows, value_with_error
from videowm.evaluate.scores import r2
from videowm.files import finite


def test_what_says_nothing_is_refused():
    """Guards means over NaN, over clips of other lengths, and over other clips than the model's."""
    good, episode = np.ones((3, 4)), np.arange(3)
    with pytest.raises(FloatingPointError, match="x has 1 values that are not finite"):
        MetricCurve("x", np.where(np.eye(3, 4) * np.arange(4) == 2, np.nan, good), episode)
    with pytest.raises(FloatingPointError, match="x_floor has 12 values"):
        MetricCurve("x", good, episode, {"floor": good * np.inf})
    for other in (good[:, :3], good[:2], good[0]):
        with pytest.raises(ValueError, match="unequal clips"):
            MetricCurve("x", good, episode, {"ceiling": other})
    with pytest.raises(ValueError, match="unequal clips"):
        MetricCurve("x", good, np.arange(4))


def test_pairs_by_hand():
    """Guards names, and a mean over the wrong axis: clips differ by 1, frames by 10, the ceiling by 100."""
    values = np.arange(4)[:, None] + 10.0 * np.arange(3)
    got = dict(pairs(MetricCurve("a/b", values, np.arange(4) // 2, {"ceiling": values + 100}, first=2)))
    assert got["a/b"] == 11.5 and got["a/b_by_frame"] == [1.5, 11.5, 21.5] and got["a/b_ceiling"] == 111.5
    assert got["a/b_by_frame_ceiling"] == [101.5, 111.5, 121.5] and got["a/b_by_frame_first"] == 2
    assert all(f"{name}_se" in got for name in ("a/b", "a/b_by_frame", "a/b_ceiling", "a/b_by_frame_ceiling"))
    assert len(got["a/b_by_frame_se"]) == 3 and got["a/b_se"] > 0


def test_the_error_is_the_bootstrap_of_whole_episodes():
    """Guards clips drawn one by one, and episodes of unequal size: the error is `standard_error`'s."""
    rng = np.random.default_rng(0)
    values, episode = rng.normal(size=30), rng.integers(5, size=30)
    assert dict(mean_and_error("x", values, episode))["x_se"] == pytest.approx(standard_error(values, episode))


def test_one_episode_has_no_error():
    """Guards a number ± 0 where nobody knows how sure it is, and a scale between bounds that no error holds apart."""
    values, episode = np.arange(12.0).reshape(3, 4), np.zeros(3, int)
    curve = MetricCurve("fidelity/psnr", values, episode, {"ceiling": values + 9, "floor": values - 9})
    got = dict(pairs(curve)) | dict(drift(curve))
    assert np.isnan(got["fidelity/psnr_se"]) and np.isnan(got["fidelity/psnr_by_frame_se"]).all()
    assert got["drift/fidelity_psnr_area"] is None and got["fidelity/psnr"] == values.mean()
    shown = finite(got | {"about": {"episodes": 1}})
    assert value_with_error(shown, "fidelity/psnr") == "5.5" == value_with_error(got, "fidelity/psnr")
    assert table_rows(shown, "drift")[0]["kept on average"] == "one episode: no error is known"
    assert "±" not in " ".join(sentences(shown)) and "no error is known" in sentences(shown)[0]
    assert np.isnan(r2(values[..., None], values[..., None], episode)[1])
