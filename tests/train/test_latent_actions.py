"""Discovered actions: codes that tell planted actions, tables of them, models on them, and keys."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from videowm import api
from videowm.actions.latent import CodeConfig
from videowm.data.action_table import ActionTable
from videowm.data.dataset import Dataset
from videowm.data.latents import Latents, LatentsIndex
from videowm.dit.saved import TrainedOn
from videowm.evaluate import codes
from videowm.evaluate.coder import CodedOn, Coder
from videowm.evaluate.rollouts import RolloutConfig, starting_points
from videowm.options import LabelOptions
from videowm.play.controls import controls
from videowm.play.model import Model
from videowm.play.stage import Stage
from videowm.train.loop import launch
from videowm.types import UserError
from videowm.worlds import find_world

ROOT = Path(__file__).parents[2]
TINY = ["train.trackers=[]", "train.precision=fp32", "train.steps=4", "train.batch=8", "model.width=8",
        "model.blocks=1", "probe_clips=8", "heldout_clips=4"]  # fmt: skip


def planted(count: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Latent steps "b 6 2 4 4" that each of three one-hot actions moves in its own way, and these, "b 5 2 3"."""
    random, effect = torch.Generator().manual_seed(seed), torch.randn(3, 2, 4, 4, generator=torch.manual_seed(9))
    done = torch.randint(3, (count, 5), generator=random)
    start = torch.randn(count, 1, 2, 4, 4, generator=random)
    moved = torch.cat([torch.zeros_like(start), effect[done].cumsum(1)], dim=1)
    return start + moved, np.eye(3, dtype=np.float32)[done.numpy()][:, :, None].repeat(2, 2)


@pytest.fixture(scope="module")
def coder() -> Coder:
    """Two numbers that learned for seconds what the planted actions do."""
    torch.manual_seed(0)
    about = CodedOn("w", "vae", "hash", 11, 2, (2, 4, 4), [0.0, 0.0], [1.0, 1.0], ["a", "b", "c"])
    made = Coder(CodeConfig(code=2, past=1, width=8, blocks=1), about)
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    for step in range(120):
        latents, _ = planted(16, step)
        predicted, _, price = made(latents, torch.randn(16, 5, 2))
        optimizer.zero_grad()
        ((predicted - latents[:, 1:]).square().mean() + 1e-3 * price).backward()
        optimizer.step()
    return made.eval()


def found(coder: Coder, count: int, seed: int) -> codes.Coded:
    latents, actions = planted(count, seed)
    return codes.Coded(latents, coder.network.codes(latents), actions, np.arange(count))


def test_planted_actions_are_discovered(coder, monkeypatch):
    """Guards codes that nobody can read actions off, probes that see their own test, and effects of a state."""
    monkeypatch.setattr(codes, "STEPS", 120)
    train, test = found(coder, 40, 1000), found(coder, 20, 1001)
    told = dict(codes.probes(coder, train, test))
    assert told["latent/action_accuracy_mlp"] > 0.95 > 0.6 > told["latent/action_accuracy_mlp_floor"]
    assert told["latent/code_r2_linear"] > 0.95 and told["latent/b_r2_mlp"] > 0.9
    same, errors = dict(codes.consistency(coder, test)), dict(codes.errors(coder, test))
    assert same["latent/consistency"] > 0.9 and errors["latent/loss"] < 0.1 * errors["latent/loss_floor"]
    shuffled = codes.Coded(test.latents, test.code.roll(7, 0).roll(2, 1), test.actions, test.episode)
    assert dict(codes.probes(coder, train, shuffled))["latent/action_accuracy_mlp"] < 0.6


def test_one_hot_codes_by_hand():
    """Guards values that are drawn where the likeliest is asked for, a lost gradient, and a price of the wrong sign."""
    from videowm.actions.latent import chosen, imbalance

    logits = torch.tensor([[0.0, 2.0, 1.0]], requires_grad=True)
    with torch.no_grad():
        assert chosen(logits).tolist() == [[0, 1, 0]]
    drawn = chosen(logits.expand(3000, 3), torch.rand(3000, 3, generator=torch.manual_seed(0)))
    expected = torch.softmax(logits, -1)[0]
    torch.testing.assert_close(drawn.mean(0), expected, atol=0.03, rtol=0)
    drawn[:, 0].sum().backward()
    assert logits.grad[0, 0] > 0 > logits.grad[0, 1]
    assert imbalance(torch.zeros(5, 4)) == pytest.approx(0, abs=1e-6)
    assert imbalance(torch.tensor([[99.0, 0, 0, 0]])) == pytest.approx(np.log(4), abs=1e-4)
    assert imbalance(99 * torch.eye(4)) == pytest.approx(0, abs=1e-4)


def test_combinations_are_those_of_most_frames():
    """Guards a class of the first frame alone, and numbers that differ between training and held-out steps."""
    left, right, none = [1, 0], [0, 1], [0, 0]
    train = np.array([[[left, left, right]], [[none, none, none]]], np.float32)
    test = np.array([[[right, right, left]], [[none, right, none]]], np.float32)
    a, b = codes.combinations(train, test)
    assert a[0, 0] not in (b[0, 0], b[1, 0]) and a[1, 0] == b[1, 0] and {a[0, 0], a[1, 0], b[0, 0]} == {0, 1, 2}


@pytest.fixture(scope="module")
def run(latents, tmp_path_factory) -> Path:
    """Four codes of the CarRacing latents after four steps, with labels of a quarter of the episodes."""
    out = tmp_path_factory.mktemp("codes") / "run"
    launch(ROOT / "configs/latent-actions/base.yaml",
           [f"latents={latents}", f"out={out}", "model.codes=4", "labels=0.25", *TINY])  # fmt: skip
    return out


def test_codes_become_actions(run, dataset, latents, train_world, tmp_path):
    """Guards rows beside their latent steps, a table that is made twice, and a model that knows no such actions."""
    data = shutil.copytree(dataset, tmp_path / "data")
    made = api.label(data, LabelOptions(by=run))
    assert made.labelled == 6 and f"actions={made.name}" in made.summary and made.name.startswith("latent/")
    assert api.label(data, LabelOptions(by=run)).name == made.name
    recording = Dataset(data)
    table = ActionTable.open(data, made.name, recording.hash)
    assert table.names == ("code0", "code1", "code2", "code3") and (table.values.sum(1) == 1).all()
    folder = shutil.copytree(latents, tmp_path / "latents")
    shutil.copytree(data / "actions", folder / "actions")
    own, index = Latents.open(folder, "test", actions=made.name), LatentsIndex.read(folder)
    stored, _ = own.windows([0], [0], index.steps)
    mean, std = own.scale
    expected = Coder.open(run).network.codes((stored.float() - mean) / std)[0]
    episode, start = (int(part[0]) for part in own.places())
    rows = table.rows(np.array([episode]), np.array([start]), 32)[0].reshape(8, 4, 4)
    assert (rows == rows[:, :1]).all() and (rows[:, 0] == expected.numpy()).all(1).mean() > 0.8  # fp16 moves some
    record = train_world(tmp_path / "world", f"latents={folder}", f"actions={made.name}", "train.steps=2",
                         "rollout.clips=0")  # fmt: skip
    assert record["actions"] == made.name and np.isfinite(record["metrics"]["heldout/loss"])
    model = Model.open(tmp_path / "world", torch.device("cpu"), threading.RLock())
    stage = Stage.of([model], dataset, tmp_path)
    assert stage.dataset().source == made.name and len(stage.hello.controls) == 4
    assert f"was trained with actions={made.name}" in stage.hello.real
    where = starting_points(recording.acting(table), RolloutConfig(clips=4, context_frames=5, horizon=8), 4)
    assert where and not any(start % 4 for _, start in where)


def test_buttons_are_buttons_again(run, dataset, latents):
    """Guards buttons that pass for numbers, once they were scaled and scaled back."""
    random, split = np.random.default_rng(0), Latents.open(latents, "train")
    pressed = [(random.random((69, 3)) < 0.37).astype(np.float32) for _ in Dataset(dataset).lengths]
    table = ActionTable.of("labelled", ["a", "b", "c"], pressed, [0, 1, 2])
    done = codes.coded(Coder.open(run), replace(split, table=table), 3)
    grouped = done.actions.reshape(3, 32, 3)
    for row, episode in enumerate(done.episode):
        assert any((grouped[row] == pressed[episode][start : start + 32]).all() for start in (0, 32))


def test_the_record_of_a_run(run):
    """Guards scores that are missing or not finite, and labels that nobody counts."""
    from videowm.record import RunRecord

    record = RunRecord.read(run)
    assert record.share["episodes"] == 1 and record.share["share"] == 0.25
    named = ("latent/delta_psnr", "latent/perplexity", "latent/consistency", "latent/steer_r2_linear",
             "latent/action_r2_mlp", "latent/code_accuracy_linear", "latent/loss_floor")  # fmt: skip
    assert all(np.isfinite(record.metrics[name]) for name in named)
    assert not any("action_accuracy" in name for name in record.metrics)  # CarRacing's are no buttons


def test_codes_are_on_the_number_keys():
    """Guards a code of the world's own actions, and a page on which nothing is done while no key is pressed."""
    names = [f"code{i}" for i in range(10)]
    about = {"latents_mean": [0.0], "latents_std": [1.0], "world": "carracing", "fps": 12.5, "window": 4,
             "vae_hash": "", "drop_actions": 0.0, "text": None, "action_std": [1.0] * 10}  # fmt: skip
    found = controls(TrainedOn(action_names=names, action_mean=[0.05] * 3 + [0.55] + [0.05] * 6, **about))
    assert (found[0].name, found[0].action, found[0].keys) == ("code3", [0, 0, 0, 1, *[0] * 6], ["Digit4"])
    assert [control.name for control in found[1:4]] == ["code0", "code1", "code2"]
    assert {key for control in found for key in control.keys} == {f"Digit{i}" for i in range(1, 10)}
    world = find_world("carracing")
    assert world.named_actions(names)["code2"][2] == 1 and world.named_actions(["latent0", "latent1"]) == {}
    assert world.named_actions(["steer", "gas", "brake"]) == world.NAMED_ACTIONS
    assert list(world.forced_actions(names)) == names[:3]
    numbers = TrainedOn(action_names=["latent0"], action_mean=[0.5], **about | {"action_std": [1.0]})
    assert [control.name for control in controls(numbers)] == ["none", "latent0-", "latent0+"]


@pytest.mark.parametrize(("more", "sentence"), [
    (["model.width=9"], "give 2 codes or more, and a multiple of 8"),
    (["window=99"], "does not fit the 9 latent steps"),
    (["labels=2"], "out of range"),
])  # fmt: skip
def test_refusals(more, sentence, latents, tmp_path):
    """Guards tracebacks."""
    with pytest.raises(UserError, match=sentence):
        launch(ROOT / "configs/latent-actions/base.yaml", [f"latents={latents}", f"out={tmp_path}", *TINY, *more])
