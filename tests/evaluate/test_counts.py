"""Counts that last and counts that do not."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from videowm.evaluate.counts import changes, counts
from videowm.evaluate.readings import VIDEOS, Readings
from videowm.worlds.takecover import TakeCover


def test_changes_by_hand():
    """Guards appearances and disappearances that cancel: of 2, 3, 3, 1, 2 two come and two go in 4 steps."""
    got = changes(np.array([[2, 3, 3, 1, 2], [1, 1, 1, 1, 1]]))
    np.testing.assert_array_equal(got["appear"], [50, 0])
    np.testing.assert_array_equal(got["disappear"], [50, 0])


def test_a_world_that_forgets_is_told_from_one_that_lasts():
    """Guards errors in standard deviations instead of things, and of another column: half of the imps vanish."""
    reader = SimpleNamespace(readable=SimpleNamespace(mean=[0, 3.0], std=[1, 2.0]))
    imps = np.repeat(np.array([4, 2, 5, 3, 6, 1.0])[:, None], 9, 1)
    forgotten = imps - (imps // 2) * (np.arange(9) >= 5)
    standard = {name: np.stack([0 * imps, (imps + 0.3 - 3) / 2], -1) for name in VIDEOS}
    standard["dreamed"] = np.stack([0 * imps, (forgotten - 0.4 - 3) / 2], -1)
    readings = Readings(np.stack([0 * imps, (imps - 3) / 2], -1), standard, ["left", "imps"], np.zeros(2, bool),
                        np.zeros(2), 1, np.arange(6), 1)  # fmt: skip
    got = dict(counts(readings, reader, TakeCover.COUNTED))
    lost = (imps[:, 0] // 2).mean()
    assert got["count/imps_error_by_frame"] == pytest.approx([0] * 5 + [lost] * 4)
    assert got["count/imps_error_ceiling"] == 0 and got["count/imps_error_se"] > 0
    assert got["count/imps_disappear"] == pytest.approx(100 * lost / 8) and got["count/imps_appear"] == 0
    assert got["count/imps_disappear_true"] == 0 == got["count/imps_disappear_ceiling_real"]
    assert not any(name.startswith("count/fireballs") for name in got)
