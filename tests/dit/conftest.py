"""A transformer that is not at its blank start: adaLN-Zero would make every comparison hold by itself."""

from __future__ import annotations

import pytest
import torch

from videowm.dit import DiT
from videowm.dit.text import ByteText


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


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """What `model` and `spoken` take, of two clips of five steps, each step with a level of its own."""
    generator = torch.Generator().manual_seed(2)
    return {
        "latents": torch.randn(2, 5, 3, 4, 4, generator=generator),
        "level": torch.rand(2, 5, generator=generator),
        "actions": torch.randn(2, 5, 5, generator=generator),
    }


SPOKEN = {
    "cross": {"features": 6, "length": 7, "into": "cross"},
    "pooled": {"features": 6, "length": 7, "into": "pooled"},
    "bytes": {"features": None, "length": 6, "into": "cross"},
}


@pytest.fixture(scope="session", params=SPOKEN)
def spoken(request) -> DiT:
    """The same with a text: features through cross-attention or pooled, or bytes that its own encoder reads."""
    shape = {"depth": 2, "channels": 3, "height": 4, "width": 4, "actions": 5, "patch": 2, "hidden": 32, "heads": 2}
    return awakened(**shape, text=SPOKEN[request.param])


@pytest.fixture
def said(spoken):
    """Two texts as `spoken` takes them, of 3 and 5 words."""
    features = spoken.config.text["features"]
    if features is None:
        return ByteText(6).encode(["a left", "two rights, really"])
    tokens = torch.randn(2, 7, features, generator=torch.Generator().manual_seed(7))
    return tokens, torch.arange(7) < torch.tensor([[3], [5]])
