"""The action gate in the loop: it stops what does nothing, lets the rest pass unchanged, and is not passed twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from videowm.train import checkpoint

AS_IN_THE_RUN = ("train.save_every=1", "train.keep=9", "train.ema=0.5")
STOP = ("train.gate.failing=stop", "train.gate.after=0.5", "train.gate.errors=1e9")  # no run passes this


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def record_of(run: Path) -> dict:
    return json.loads((run / "record.json").read_text())


@pytest.fixture(scope="module")
def gated(train_world, tmp_path_factory) -> Path:
    """A run of four steps that is stopped after two."""
    out = tmp_path_factory.mktemp("gated") / "world"
    train_world(out, *AS_IN_THE_RUN, *STOP)
    return out


def test_a_run_is_stopped(gated, world_run, train_world, capsys):
    """Guards a gate that only speaks, planned compute in the record, and a stopped run that is trained again."""
    record, whole = record_of(gated), record_of(world_run)
    assert record["stopped"] and record["steps"] == 2 and record["planned"]["steps"] == 4
    assert record["flops"]["train"] == record["flops"]["spent"] == whole["flops"]["train"] // 2
    assert record["metrics"]["heldout/loss"] > 0 and (gated / "model_index.json").exists()
    assert [row["step"] for row in rows(gated)] == [1, 2, 2] and "not yet obeyed" in rows(gated)[1]["gate"]
    before = {path: path.stat().st_mtime_ns for path in gated.rglob("*") if path.is_file()}
    assert train_world(gated, *AS_IN_THE_RUN, *STOP) == record
    assert "stopped by the action gate: nothing to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in gated.rglob("*") if path.is_file()}


def test_a_kill_before_the_record_does_not_open_the_gate(gated, train_world, tmp_path):
    """Guards a checkpoint of the step at which a run was stopped: a resume from it would go on to the end."""
    assert [checkpoint.number(path) for path in checkpoint.steps(gated / "checkpoints")] == [1]
    out = shutil.copytree(gated, tmp_path / "world")
    (out / "record.json").unlink()
    again = train_world(out, *AS_IN_THE_RUN, *STOP)
    assert again["metrics"] == record_of(gated)["metrics"] and again["steps"] == 2
    assert [row["step"] for row in rows(out)] == [1, 2, 2]


@pytest.mark.parametrize("failing", ["off", "warn"])
def test_the_gate_changes_nothing(world_run, train_world, tmp_path, same, capsys, failing):
    """Guards draws consumed, a model left in eval mode, and a gate that looks where it was told not to.

    The other run has the default gate, which has looked after step 1; here it looks after 2, or not at all.
    """
    out = tmp_path / "world"
    train_world(out, *AS_IN_THE_RUN, *STOP[1:], f"train.gate.failing={failing}")
    same(out, world_run)
    assert [row["step"] for row in rows(out) if "gate" in row] == {"off": [], "warn": [2]}[failing]
    assert ("not yet obeyed" in capsys.readouterr().out) is (failing == "warn")


def test_a_resume_behind_the_gate_is_not_judged(world_run, stopped, train_world):
    """Guards a second look after a resume: step 2 was passed, and `stop` is asked for only now."""
    out = stopped(2)
    record = train_world(out, *AS_IN_THE_RUN, *STOP)
    assert record["steps"] == 4 and "stopped" not in record


def test_a_trunk_warns_and_its_branch_is_stopped(train_world, tmp_path):
    """Guards a trunk that ends before its branches leave it, and branches that no gate ever sees."""
    common = ["train.warmup=1", "train.save_every=9", "train.gate.failing=stop", "train.gate.errors=1e9"]
    trunk = train_world(tmp_path / "trunk", *common, "train.trunk=true", "train.cooldown=0", "train.steps=3",
                        "train.keep_at=[3]")  # fmt: skip
    assert trunk["steps"] == 3 and "stopped" not in trunk and "gate" in rows(tmp_path / "trunk")[0]
    start = f"train.start={{run: {tmp_path / 'trunk'}, step: 3}}"
    branch = train_world(tmp_path / "branch", *common, start, "train.cooldown=0.5", "train.steps=6")
    assert branch["steps"] == 4 and branch["stopped"] and branch["flops"]["spent"] * 4 == branch["flops"]["train"]


def test_an_older_run_has_no_gate(world_run, stopped, train_world, same):
    """Guards runs begun before there was a gate: their configuration says nothing of it, and they go on."""
    out = stopped(3)
    config = yaml.safe_load((out / "config.yaml").read_text())
    del config["train"]["gate"]
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    train_world(out, *AS_IN_THE_RUN)
    same(out, world_run)


@pytest.mark.usefixtures("unchecked")
def test_what_was_compiled_is_there_again():
    """Guards a gate that compiles for every shape of the bank, or leaves the rest of the run uncompiled."""
    from torch._dynamo.testing import CompileCounter

    from videowm.dit import DiT

    model, counter = DiT(depth=2, channels=4, height=4, width=4, actions=3, hidden=32), CompileCounter()
    for block in model.blocks:
        block.compile(backend=counter, dynamic=False)
    inputs = [torch.randn(2, 3, 4, 4, 4), torch.rand(2, 3), torch.randn(2, 3, 3)]
    before = model(*inputs)
    assert counter.frame_count
    compiled = counter.frame_count
    with model.uncompiled():
        assert not model.compiled
        model(*(x[:, :2] for x in inputs))
        assert counter.frame_count == compiled
    assert torch.equal(model(*inputs), before) and counter.frame_count == compiled
    model(*(x[:, :2] for x in inputs))
    assert counter.frame_count > compiled
