"""The one place where actions meet latent steps."""

from __future__ import annotations

import pytest
import torch

from videowm.actions.group import check_actions, drop_actions, group_actions, grouped_size
from videowm.types import UserError


def test_groups_of_four_by_hand():
    """Guards actions that lead to the wrong step: 9 frames at stride 4, action i written as (i, 100 + i).

    Step 0 has none, step 1 holds actions 0..3, step 2 holds 4..7; the last number says whether they are there.
    """
    actions = torch.tensor([[[float(i), 100.0 + i] for i in range(8)]])
    grouped = group_actions(actions, 4)
    assert grouped.tolist() == [
        [
            [0, 0, 0, 0, 0, 0, 0, 0, 0],
            [0, 100, 1, 101, 2, 102, 3, 103, 1],
            [4, 104, 5, 105, 6, 106, 7, 107, 1],
        ]
    ]
    assert grouped.shape[-1] == grouped_size(2, 4) == 9


def test_a_clip_that_goes_on():
    """Guards `first`: grouping a later stretch with the actions before it gives the same steps as grouping it all."""
    actions = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))
    whole = group_actions(actions, 4)
    assert torch.equal(group_actions(actions[:, 4:], 4, first=actions[:, :4]), whole[:, 1:])
    assert not torch.equal(group_actions(actions[:, 4:], 4), whole[:, 1:]), "without `first` the head is empty"


def test_one_frame_has_one_empty_step():
    """Guards the shortest clip: no action at all is one step of zeros, flag included."""
    assert torch.equal(group_actions(torch.zeros(2, 0, 3), 4), torch.zeros(2, 1, 13))


def test_a_length_that_does_not_fit():
    """Guards groups filled up in silence: 7 actions (8 frames) at stride 4 are refused with the lengths that fit."""
    with pytest.raises(UserError, match="8 frames does not fit the time stride 4.*5 and 9"):
        group_actions(torch.zeros(1, 7, 2), 4)


def test_dropped_actions_are_marked_as_absent():
    """Guards the unconditional branch: only the marked sample loses its actions, and its flag with them."""
    grouped = group_actions(torch.ones(2, 8, 2), 4)
    dropped = drop_actions(grouped, torch.tensor([True, False]))
    assert dropped[0].abs().sum() == 0 and torch.equal(dropped[1], grouped[1])


@pytest.mark.parametrize(
    ("actions", "frames", "size", "expected"),
    [
        (torch.zeros(8, 3), 10, 3, "8 actions were given for 10 frames, expected 9"),
        (torch.zeros(9, 3), 10, 2, r"shape \(9, 3\), expected \(frames - 1, 2\)"),
        (torch.zeros(9), 10, None, r"shape \(9,\)"),
        (torch.tensor([[0.0], [float("nan")]]), None, 1, r"action 1 is \[nan\], expected finite"),
        (torch.tensor([[float("inf")], [0.0]]), 3, 1, r"action 0 is \[inf\], expected finite"),
    ],
)
def test_actions_that_do_not_fit(actions, frames, size, expected):
    """Guards a wrong length, size or value that goes on in silence: each is named with what was expected."""
    with pytest.raises(UserError, match=expected):
        check_actions(actions, frames=frames, size=size)


def test_actions_that_fit():
    """Guards a check that refuses everything: the right length and size pass."""
    check_actions(torch.zeros(9, 3), frames=10, size=3)
