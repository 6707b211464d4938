"""`train.minutes`: a number of steps that is found once, and a run that is then like any other of that many steps."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest
import torch
import yaml

from videowm import config as configuration
from videowm.record import RunRecord
from videowm.train import minutes, registry
from videowm.train.config import TrainConfig
from videowm.train.device import make_accelerator
from videowm.train.loop import Run, config_hash, launch
from videowm.train.task import Task
from videowm.types import UserError

ROOT = Path(__file__).parents[2]
WORLD = ROOT / "configs/world/quickstart.yaml"


@pytest.fixture
def arguments(world_arguments) -> list[str]:
    """Those of a tiny world model without a number of steps, with what hangs on that number."""
    without = [argument for argument in world_arguments if not argument.startswith("train.steps=")]
    return [*without, "train.ema=0.5", "train.lr=rule", "flow.drop_actions=0.2"]


def test_measuring_leaves_no_trace(arguments, tmp_path, same, capsys, monkeypatch):
    """Guards weights, moments, an average, a schedule or a rate by rule that the timed steps or their number leave.

    The run is, bit for bit, the one of as many `train.steps`. The same command again does nothing, and one that finds
    no record goes on with the same number: it is not measured a second time.
    """
    out, timed = tmp_path / "timed", ["train.minutes=0.02"]
    record = launch(WORLD, [f"out={out}", *arguments, *timed])
    written = yaml.safe_load((out / "config.yaml").read_text())["train"]
    assert written["steps"] == record.steps > 1 and written["minutes"] == 0.02 and written["lr"] == record.lr
    assert f"train.minutes 0.02: {record.steps:,} steps at " in capsys.readouterr().out
    launch(WORLD, [f"out={tmp_path / 'plain'}", *arguments, f"train.steps={record.steps}"])
    same(out, tmp_path / "plain")
    plain = json.loads((tmp_path / "plain/record.json").read_text())
    assert plain["config_hash"] == record.config_hash and plain["lr"] == record.lr

    monkeypatch.setattr(minutes, "measure", None)
    assert launch(WORLD, [f"out={out}", *arguments, *timed]) == record and "nothing to do" in capsys.readouterr().out
    (out / "record.json").unlink()
    assert launch(WORLD, [f"out={out}", *arguments, *timed]).steps == record.steps
    launch(out / "config.yaml", [f"out={tmp_path / 'again'}"])
    same(out, tmp_path / "again")
    with pytest.raises(UserError, match="holds another run: train.minutes is 0.02 there and 0.03 here"):
        launch(WORLD, [f"out={out}", *arguments, "train.minutes=0.03"])


class Slow(Task):
    """Fit a line in steps of 20 ms, of which the first one takes half a second."""

    name, seed, calls = "slow", 0, 0

    def __init__(self) -> None:
        self.model = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.BatchNorm1d(2))

    def load(self, step: int, slots: range) -> dict[str, torch.Tensor]:
        return {"x": torch.ones(len(slots), 1)}

    def loss(self, model, batch, draws):
        time.sleep(0.02 if self.calls else 0.5)
        self.calls += 1
        return (model(batch["x"]) - 3).square().mean(), {}


def test_the_steps_fill_what_is_left(tmp_path):
    """Guards a number of steps that is not the time's, and a first step, which compiles, that counts as speed.

    Of 3 s half a second goes to the first step, 40 ms to two more, 150 ms to those that are timed; the rest holds
    115 steps of 20 ms at most, and fewer on a busy machine.
    """
    config = TrainConfig(minutes=0.05, precision="fp32", trackers=[])
    run = Run(Slow(), config, tmp_path, make_accelerator(config, tmp_path))
    before = {name: value.clone() for name, value in run.task.model.state_dict().items()}
    steps, rate = minutes.measure(run)
    assert 5 < rate <= 50 and 5 < steps <= 115 and steps <= 2.31 * rate
    assert run.task.calls < 30 and run.step == 0 and run.config is config
    assert all(torch.equal(value, before[name]) for name, value in run.task.model.state_dict().items())
    assert not run.optimizer.state
    short = TrainConfig(minutes=0.005, precision="fp32", trackers=[])
    with pytest.raises(UserError, match="train.minutes 0.005 is over after the first steps, which took 1 s: give more"):
        minutes.measure(Run(Slow(), short, tmp_path, make_accelerator(short, tmp_path)))


@pytest.mark.parametrize(
    ("file", "overrides", "expected"),
    [
        ({"minutes": 2}, [], (2, None)),
        ({"minutes": 2, "steps": 7}, [], (2, 7)),
        ({"steps": 7}, ["train.minutes=3"], (3, None)),
        ({"minutes": 2, "steps": 7}, ["train.minutes=3"], (3, None)),
        ({"minutes": 2}, ["train.steps=5"], (None, 5)),
        ({"minutes": 2, "steps": 7}, ["train={steps: 5}"], (None, 5)),
        ({"minutes": 2, "steps": 7}, ["train.minutes=null"], (None, 7)),
    ],
)
def test_file_and_command_line(tmp_path, file, overrides, expected):
    """Guards a number of the file that outdoes the command line's, and a found number that is measured again."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"task": "vae", "out": str(tmp_path / "out"), "data": "data", "train": file}))
    config, measured = minutes.settle(registry.load(path, overrides), path, overrides)
    assert (config.train.minutes, None if measured else config.train.steps) == expected


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.steps=9"], "train.minutes 2 and train.steps 9 both set the run's length"),
        (["budget=1e9"], r"train.minutes 2 and budget 1e\+09 both set the run's length"),
        (
            ["train.trunk=true", "train.warmup=1", "train.cooldown=0"],
            "train.minutes 2 cannot set the length of a trunk",
        ),
        (["train.start={run: runs/trunk, step: 2}"], "cannot set the length of a trunk or a branch"),
        (["train.batch=rule"], "train.batch is rule, but without a budget"),
        (["out=OTHER"], "OTHER is not empty and holds no run"),
    ],
)
def test_what_is_refused_at_once(arguments, tmp_path, overrides, expected):
    """Guards two lengths of one run, and minutes that are measured before the mistake shows."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    overrides = [f"out={tmp_path / 'out'}", *arguments, "train.lr=1e-3", "train.minutes=2", *overrides]
    with pytest.raises(UserError, match=expected.replace("OTHER", str(other))) as error:
        launch(WORLD, [text.replace("OTHER", str(other)) for text in overrides])
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_processes_agree(arguments, tmp_path, fork):
    """Guards processes that train for different numbers of steps, of which the longer one waits for ever."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1]), "WORLD_SIZE": "2"}
    train = ["train", WORLD, *arguments, f"out={tmp_path / 'two'}", "train.minutes=0.02"]
    both = [fork(*train, RANK=rank, LOCAL_RANK=rank, **place) for rank in "01"]
    assert [process.wait() for process in both] == [0, 0], [process.communicate() for process in both]
    written = yaml.safe_load((tmp_path / "two/config.yaml").read_text())["train"]
    record = RunRecord.read(tmp_path / "two")
    assert record.steps == written["steps"] > 0 and record.execution.processes == 2


def test_the_hash_is_that_of_the_steps(world_run):
    """Guards a run by minutes that counts as another one than the same run by steps."""
    resolved = configuration.to_dict(configuration.read(world_run / "config.yaml"))
    train = resolved["train"]
    assert config_hash(resolved | {"train": train | {"minutes": 2.0}}) == config_hash(resolved)
    assert config_hash(resolved | {"train": train | {"minutes": 2.0, "steps": 5}}) != config_hash(resolved)
