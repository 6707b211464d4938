"""What the tests of playing share: opened models, also of time strides 1 and 2, and a stage to play on."""

from __future__ import annotations

import shutil
import threading
from dataclasses import asdict

import pytest


@pytest.fixture(scope="session")
def model(world_run):
    """The trained tiny world model, shaken so that actions and noise change its frames."""
    import torch

    from videowm.play.model import Model

    model = Model.open(world_run, torch.device("cpu"), threading.RLock())
    generator = torch.Generator().manual_seed(0)
    for parameter in model.pipeline.transformer.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def heads_for(pipeline):
    """Heads of random weights for a world model."""
    import torch

    from videowm.dit.heads import Heads

    torch.manual_seed(0)
    model = pipeline.transformer
    return Heads(model.hidden, model.tokens, model.config.actions, pipeline.time_stride, block=0, width=4, hidden=16,
                 transformer_hash=pipeline.config.transformer_hash).eval()  # fmt: skip


def agent_for(pipeline):
    """An agent of random weights that sees latents and features."""
    import torch

    from videowm.agents.agent import Agent, AgentConfig, hashes_of

    torch.manual_seed(1)
    shape, model = pipeline.transformer.config, pipeline.transformer
    config = AgentConfig("mlp", "memory", [shape.channels, shape.height, shape.width], [model.tokens, model.hidden],
                         [[0.0, 0.4, 0.0], [-0.3, 0.1, 0.0], [0.3, 0.1, 0.0]], ["gas", "left", "right"],
                         hidden=16)  # fmt: skip
    return Agent(config, {"hashes": hashes_of(pipeline)}).eval()


@pytest.fixture(scope="session")
def crew(model, dataset, tmp_path_factory):
    """The stage with heads, thus with a planner, and with an agent that learned with its model."""
    from dataclasses import replace

    from videowm.play.stage import Stage

    able = replace(model, heads=heads_for(model.pipeline))
    return Stage.of([able], dataset, tmp_path_factory.mktemp("crew"), {"runner": agent_for(model.pipeline)})


@pytest.fixture(scope="session")
def agent_folder(probed_run, tmp_path_factory):
    """An agent of the probed run on disk."""
    from videowm.pipeline import WorldModelPipeline

    folder = tmp_path_factory.mktemp("agents") / "runner"
    folder.mkdir()
    agent_for(WorldModelPipeline.open(probed_run)).save(folder)
    return folder


@pytest.fixture(scope="session")
def probed_run(worded_run, tmp_path_factory):
    """A copy of the tiny run with text, with heads, and with what `videowm probe` leaves in it."""
    from videowm import api
    from videowm.pipeline import WorldModelPipeline

    run = tmp_path_factory.mktemp("probed") / "world"
    shutil.copytree(worded_run, run)
    api.probe(run, run / "probe.png", api.ProbeOptions(factor=("speed",), clips=4))
    heads_for(WorldModelPipeline.open(run)).save(run)
    return run


@pytest.fixture(scope="session")
def with_stride(model):
    """A model of random weights whose autoencoder has another time stride, for the same recording."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler

    from videowm.actions.group import grouped_size
    from videowm.dit import DiT
    from videowm.dit.sample import Sampler
    from videowm.pipeline import WorldModelPipeline
    from videowm.play.model import Model
    from videowm.vae.codec import weights_hash
    from videowm.vae.patch import PatchAutoencoder

    def build(stride: int, **more) -> Model:
        torch.manual_seed(stride)
        vae = PatchAutoencoder(4, stride, 8, 16, 1).eval()
        about = asdict(model.pipeline.trained_on) | {"vae_hash": weights_hash(vae)} | more
        transformer = DiT(depth=1, channels=4, hidden=32, actions=grouped_size(3, stride), trained_on=about).eval()
        for parameter in transformer.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        pipeline = WorldModelPipeline(vae, transformer, FlowMatchEulerDiscreteScheduler(shift=1.0))
        return Model(f"stride-{stride}", pipeline, Sampler(2, "euler", context_level=0.0), 1, lock=model.lock)

    return build


@pytest.fixture(scope="session")
def stage(model, dataset, tmp_path_factory):
    """One model and the recording that it was trained on."""
    from videowm.play.stage import Stage

    return Stage.of([model], dataset, tmp_path_factory.mktemp("played"))
