"""A transformer that is not at its blank start: adaLN-Zero would make every comparison hold by itself."""

from __future__ import annotations

import pytest
import torch

from videowm.dit import DiT


def awakened(**shape) -> DiT:
    """A `DiT` with every weight and bias drawn at random, so that every path through it carries numbers."""
    torch.manual_seed(1)
    model = DiT(**shape).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


@pytest.fixture(scope="session")
def model() -> DiT:
    """Two blocks of two heads over steps of 4x4 latents of 3 channels: 4 tokens a step, grouped actions of 5."""
    return awakened(depth=2, channels=3, height=4, width=4, actions=5, patch=2, hidden=32, heads=2)


@pytest.fixture
def awake():
    """Makes a transformer of any shape that is not at its start."""
    return awakened
