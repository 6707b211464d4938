"""Lengths of clips and of latents, the one relation that every room relies on."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from videowm.types import UserError, latent_steps, pixel_frames


@pytest.mark.parametrize(("frames", "stride", "steps"), [(1, 4, 1), (5, 4, 2), (33, 4, 9), (17, 8, 3), (6, 1, 6)])
def test_lengths_that_fit(frames, stride, steps):
    """Guards an off-by-one in 1 + k(t-1): both directions, against numbers counted by hand."""
    assert latent_steps(frames, stride) == steps
    assert pixel_frames(steps, stride) == frames


@pytest.mark.parametrize(("frames", "below", "above"), [(2, 1, 5), (4, 1, 5), (6, 5, 9), (32, 29, 33), (0, 1, 5)])
def test_lengths_that_do_not_fit_name_their_neighbours(frames, below, above):
    """Guards advice that does not work: the two lengths offered are the nearest that fit, and they do fit."""
    with pytest.raises(UserError, match=rf"{frames} frames.* are {below} and {above}$"):
        latent_steps(frames, 4)
    assert latent_steps(below, 4) + 1 == latent_steps(above, 4)


def test_shapes_in_signatures_are_checked():
    """Guards a check that checks nothing: an axis that does not fit its letter is refused, and so is a wrong result."""
    from videowm.dit.model import add_modulate

    x, part = torch.zeros(2, 3, 4, 8), torch.zeros(2, 3, 1, 8)
    assert add_modulate(x, x, part, part, part)[0].shape == x.shape
    with pytest.raises(TypeCheckError, match="parameters of videowm.dit.model.add_modulate"):
        add_modulate(x, x, part, part, torch.zeros(2, 5, 1, 8))
