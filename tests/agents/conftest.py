"""The game of tests/three.py, and an agent of its dream."""

from __future__ import annotations

import pytest

from videowm.agents.agent import Agent, AgentConfig, hashes_of
from videowm.pipeline import WorldModelPipeline


@pytest.fixture
def three(monkeypatch):
    """The game of tests/three.py among the worlds."""
    from videowm import worlds

    monkeypatch.setitem(worlds.BUILT_IN, "three", "three:Three")


@pytest.fixture
def agent(three_run, three_heads, tmp_path):
    """An untrained agent of that game's dream that sees the network's features."""
    import torch

    pipeline = WorldModelPipeline.open(three_run)
    shape, model = pipeline.transformer.config, pipeline.transformer
    config = AgentConfig("mlp", "memory", [shape.channels, shape.height, shape.width], [model.tokens, model.hidden],
                         [[0.0], [1.0]], ["none", "one"], hidden=8)  # fmt: skip
    torch.manual_seed(3)
    Agent(config, {"run": str(three_run), "hashes": hashes_of(pipeline)}).save(tmp_path / "agent")
    return tmp_path / "agent"
