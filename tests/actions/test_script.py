"""Actions as a user writes them."""

from __future__ import annotations

import numpy as np
import pytest

from videowm.actions.script import MOST, opposite_actions, parse_actions
from videowm.types import UserError

NAMED = {"left": (-1.0, 0.5), "gas": (0.0, 1.0)}


def test_words():
    """Guards counts and order: a count repeats its own action, a bare name is one."""
    got = parse_actions("left*2 gas left", NAMED)
    assert got.dtype == np.float32
    assert got.tolist() == [[-1, 0.5], [-1, 0.5], [0, 1], [-1, 0.5]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lefft*3", "unknown action 'lefft', did you mean 'left'"),
        ("gas*0", "number of actions above 0"),
        ("gas*-1", "number of actions above 0"),
        ("gas*x", "number of actions above 0"),
        ("gas*", "number of actions above 0"),
        ("gas*²", "number of actions above 0"),
        ("gas*00", "number of actions above 0"),
        ("gas**8", "number of actions above 0"),
        ("*8", "unknown action ''"),
        ("gas*" + "9" * 30, f"more than {MOST} actions"),
        (f"gas*{MOST} gas", f"more than {MOST} actions"),
        ("", "no actions"),
        ("  ", "no actions"),
    ],
)
def test_words_that_are_wrong(text, expected):
    """Guards a misspelt action that is left out in silence, and counts that are a traceback or fill the memory."""
    with pytest.raises(UserError, match=expected):
        parse_actions(text, NAMED)


def test_opposite_actions():
    """Guards a report that ends with KeyError 'left', for a world without such a name or for imported data."""
    of_three = {"names": ("steer", "gas", "brake"), "mean": (0.1, 0.2, 0.0), "std": (1e-3, 0.5, 0.2)}
    assert list(opposite_actions("carracing", **of_three)) == ["left", "right"]
    imported = opposite_actions("robot", **of_three)
    assert list(imported) == ["gas -0.3", "gas 0.7"], "steer never changes in these data"
    np.testing.assert_allclose(list(imported.values()), [[0.1, -0.3, 0], [0.1, 0.7, 0]])
    other = opposite_actions("carracing", ("joint", "grip"), (0, 0), (1, 1))
    assert list(other) == ["joint -1", "joint 1"], "a robot's data may have the name of a world"
    with pytest.raises(UserError, match="no action of robot varies"):
        opposite_actions("robot", ("a", "b"), (0.0, 1.0), (1e-3, 1e-3))
