"""Samples of a run: the same wherever latents and frames lie."""

from __future__ import annotations

import pytest
import torch

from videowm import config as configuration
from videowm.data.clips import pick
from videowm.data.latents import normalised
from videowm.pipeline import WorldModelPipeline
from videowm.train.flops import model_flops
from videowm.train.loop import launch
from videowm.train.registry import build_task
from videowm.train.rule import batch_by_rule, rate_by_rule
from videowm.train.task import Draws
from videowm.train.tasks.reader import ReaderRun
from videowm.train.tasks.vae import VAERun
from videowm.train.tasks.world import WorldRun, WorldTask, with_steps
from videowm.types import UserError


@pytest.fixture(scope="module")
def config(world_run) -> WorldRun:
    return configuration.load(WorldRun, world_run / "config.yaml")


def test_resident_samples_are_the_loaded_ones(config):
    """Guards windows of other clips or steps: gathered on the device, gathered by a loader, and cut one by one.

    Actions are their clip's too, and half of the windows or more do not begin their clip, so an offset is seen.
    """
    tasks = {choice: WorldTask(configuration.build(WorldRun, configuration.to_dict(config) | {"resident": choice}))
             for choice in ("on", "off", "auto")}  # fmt: skip
    for task in tasks.values():
        task.to(torch.device("cpu"))
    on, off = tasks["on"], tasks["off"]
    assert tasks["auto"].resident is None, "on a CPU nothing is gained"
    starts = []
    for step in range(8):
        where = on.load(step, range(1, 4))
        assert where.keys() == {"clip", "start"} and all(v.dtype == torch.int64 for v in where.values())
        loaded, (stored, grouped) = off.load(step, range(1, 4)), off.latents.whole()
        assert loaded["latents"].dtype == torch.float16, "half the bytes on the way to the device"
        wholes = normalised(stored, off.latents.scale), grouped
        for resident, read, whole in zip(on.samples(where), off.samples(loaded), wholes, strict=True):
            assert torch.equal(resident, read) and read.shape[:2] == (3, config.window)
            for row, slot in zip(read, range(1, 4), strict=True):
                clip, rng = pick(config.seed, step * config.train.batch + slot, len(off.latents))
                start = int(rng.integers(9 - config.window + 1)) if rng.random() < 0.5 else 0
                assert torch.equal(row, whole[clip, start : start + config.window])
                starts.append(start)
    assert len(set(starts)) > 2


def test_resident_frames_are_the_read_ones(dataset, vae_run):
    """Guards clips of other episodes or frames, rows of another clip, and decoding all of a dataset for one step."""
    cpu = torch.device("cpu")
    vae = configuration.read(vae_run / "config.yaml") | {"data": str(dataset)}
    reader = {"task": "reader", "out": "x", "data": str(dataset), "clip": 9}
    for kind, data, count in ((VAERun, vae, vae["frames"]), (ReaderRun, reader, 9)):
        short = {"steps": 1, "batch": 5, "warmup": 0}
        on, off, auto = (build_task(configuration.build(kind, data | {"resident": choice, "train": short}))
                         for choice in ("on", "off", "auto"))  # fmt: skip
        for task in (on, off, auto):
            task.to(cpu)
        assert auto.resident.frames is None, "it would read more than it needs"
        for step in range(3):
            held, read = on.load(step, range(1, 5)), off.load(step, range(1, 5))
            assert held["first"].shape == (4,) and held.keys() - {"first"} == read.keys() - {"frames"}
            assert torch.equal(on.resident.of(held, count), read["frames"]) and read["frames"].shape[:2] == (4, count)
            assert all(torch.equal(held[name], read[name]) for name in held.keys() & read.keys())
        enough = build_task(configuration.build(kind, data | {"train": {"steps": 10_000}}))
        enough.to(cpu)
        assert torch.equal(enough.resident.frames, on.resident.frames)


def test_latent_noise_is_a_function_of_the_step(dataset, vae_run):
    """Guards noise from a generator of its own: a resumed run would see another."""
    settings = configuration.read(vae_run / "config.yaml") | {"data": str(dataset), "loss": {"noise": 0.2}}
    task = build_task(configuration.build(VAERun, settings))
    task.to(torch.device("cpu"))
    batch, slots = task.load(0, range(2)), range(2)
    losses = [task.loss(task.model, batch, Draws(0, step, slots, 2, "cpu"))[0].item() for step in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_the_rule_becomes_numbers(train_world, tmp_path):
    """Guards a run whose own configuration still says `rule`, and a batch that spends another budget than was asked."""
    record = train_world(tmp_path / "ruled", "budget=1.6e8", "train.batch=rule", "train.lr=rule",
                         "train.rule={tokens: 4096, batch: 640, lr: 1e-3}", "train.parametrisation=mup")  # fmt: skip
    written = configuration.load(WorldRun, tmp_path / "ruled/config.yaml")
    tokens, rule = record["tokens"]["target"], written.train.rule
    assert record["flops"]["train"] == pytest.approx(1.6e8, rel=0.1)
    asked = 1.6e8 * tokens / record["flops"]["train"]  # of the budget, which whole steps spend almost
    assert written.train.batch == record["batch"] == batch_by_rule(asked, 5 * 16, rule) > 1
    assert written.train.lr == record["lr"] == rate_by_rule(32, asked, "mup", rule) != 1e-3
    given = [f"train.batch={record['batch']}", f"train.lr={record['lr']}", "train.parametrisation=mup"]
    again = train_world(tmp_path / "ruled", "budget=1.6e8", *given)  # the same run, whatever the rule says by now
    assert again == record


def test_no_rule_without_a_number_of_tokens(config, vae_run):
    """Guards a batch that follows from itself, and other tasks than world models that get no number."""
    ruled = configuration.to_dict(config)
    ruled["train"] |= {"batch": "rule", "start": None}
    with pytest.raises(UserError, match="without a budget no number of tokens"):
        with_steps(configuration.build(WorldRun, ruled))
    with pytest.raises(UserError, match="not to task vae"):
        launch(vae_run / "config.yaml", ["train.lr=rule", f"out={vae_run}-ruled"])


def test_a_shortcut_model_is_trained_counted_and_opened(train_world, tmp_path):
    """Guards FLOPs without the two half steps, samples that depend on the number of processes, a lost setting.

    Also a logged shortcut loss that is NaN where a micro-batch holds no such sample.
    """
    record = train_world(tmp_path / "far", "flow.shortcut=2", "train.batch=4")
    config = configuration.load(WorldRun, tmp_path / "far/config.yaml")
    pipeline = WorldModelPipeline.open(tmp_path / "far")
    model = pipeline.transformer
    assert model.config.shortcut and model.level_mlp[0].in_features == 512
    assert record["flops"]["train"] == 4 * model_flops(model, config.window) * 4 * config.train.steps

    task, device = WorldTask(config), torch.device("cpu")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)

    def loss(slots: range) -> float:
        draws = Draws(0, 0, slots, 4, device)
        return task.loss(model, task.load(0, slots), draws)[0].item()

    def shortcut_loss(slots: range) -> float:
        return task.loss(model, task.load(0, slots), Draws(0, 0, slots, 4, device))[1]["shortcut/loss"].item()

    with torch.no_grad():
        parts = [loss(range(i, i + 1)) for i in range(4)]
        shortcuts = [shortcut_loss(range(i, i + 1)) for i in range(4)]
        assert shortcuts[1] == shortcuts[3] == 0 < shortcuts[0], "every second sample learns to step far"
        assert sum(shortcuts) / 4 == pytest.approx(shortcut_loss(range(4)), rel=1e-5)
        assert sum(parts) / 4 == pytest.approx(loss(range(4)), rel=1e-5)
        assert sum(parts[1:]) / 3 == pytest.approx(loss(range(1, 4)), rel=1e-5)
    with pytest.raises(UserError, match="flow.shortcut 3 does not divide train.batch 4"):
        train_world(tmp_path / "odd", "flow.shortcut=3", "train.batch=4")
