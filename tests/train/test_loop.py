"""The training loop within one process: resume, accumulation, workers, refusals."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from videowm.data.clips import pick
from videowm.train import checkpoint
from videowm.train.config import TrainConfig
from videowm.train.loop import train
from videowm.train.task import Draws, Task
from videowm.types import UserError

AS_IN_THE_RUN = ("train.save_every=1", "train.keep=9", "train.ema=0.5")


def test_two_steps_and_resume_are_four(world_run, stopped, train_world, same):
    """Guards anything forgotten by a checkpoint: weights, moments, average, schedule, order and noise.

    The last checkpoint of the resumed run has the bytes of the uninterrupted one's, every file of it. Each step moves
    the weights, so a resume that skips the steps does not pass.
    """
    out = stopped(2)
    train_world(out, *AS_IN_THE_RUN)
    same(out, world_run)
    for name in ("model", "optimizer", "average"):
        files = [run / f"checkpoints/step-00000004/{name}.safetensors" for run in (out, world_run)]
        assert files[0].read_bytes() == files[1].read_bytes()
        before = (world_run / f"checkpoints/step-00000003/{name}.safetensors").read_bytes()
        assert before != files[1].read_bytes()


def test_the_average_is_what_is_exported(world_run):
    """Guards `ema`: the exported weights are the checkpoint's average, and that is not the last weights."""
    groups, _ = checkpoint.load(world_run / "checkpoints/step-00000004")
    exported = load_file(world_run / "transformer/diffusion_pytorch_model.safetensors")
    assert exported.keys() == groups["average"].keys()
    assert all(torch.equal(exported[k], v) for k, v in groups["average"].items())
    assert not torch.equal(exported["blocks.0.up.weight"], groups["model"]["blocks.0.up.weight"])
    steps = [checkpoint.load(world_run / f"checkpoints/step-0000000{i}")[0] for i in (3, 4)]
    half = torch.lerp(steps[0]["average"]["embed.bias"], steps[1]["model"]["embed.bias"], 1 / 2)  # 0.5 of 4 steps
    torch.testing.assert_close(steps[1]["average"]["embed.bias"], half)


@pytest.mark.parametrize("change", ["workers", "resident", "checkpointing", "log"])
def test_how_a_run_is_executed_changes_nothing(world_run, stopped, train_world, same, change):
    """Guards results that depend on workers, where latents lie, recomputing or logging, changed in a run."""
    out = stopped(2)
    overrides = {"workers": "train.workers=2", "resident": "resident=on", "checkpointing": "train.checkpointing=true",
                 "log": "train.log_every=4"}  # fmt: skip
    train_world(out, *AS_IN_THE_RUN, overrides[change])
    if change != "log":
        return same(out, world_run)
    return close(out, world_run, atol=0)


def test_accumulation_changes_nothing(stopped, train_world, tmp_path):
    """Guards results that depend on accumulation, changed in a run.

    It adds the same numbers in another order. Adam divides by the size of a gradient, so of the smallest ones the
    rounding shows: weights, which move by 8e-3, agree to 1e-5 and not to the bit. Muon's half precision would hide it.
    """
    adamw = (*AS_IN_THE_RUN, "train.optimizer=adamw")
    train_world(tmp_path / "whole", *adamw)
    out = stopped(2, run=tmp_path / "whole")
    train_world(out, *adamw, "train.accumulate=2")
    close(out, tmp_path / "whole", atol=1e-5)


def close(run: Path, other: Path, atol: float) -> None:
    """The weights of two world models are the same, to `atol`."""
    one, two = (load_file(folder / "transformer/diffusion_pytorch_model.safetensors") for folder in (run, other))
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=0, atol=atol)


def test_the_damaged_newest_checkpoint_is_passed_over(world_run, stopped, train_world, same):
    """Guards a run that stops for good, or goes on from broken weights: step 3 is damaged, step 2 is gone on from."""
    out = stopped(3)
    file = out / "checkpoints/step-00000003/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    train_world(out, *AS_IN_THE_RUN)
    same(out, world_run)


def test_metrics_hold_every_step_once(world_run, stopped, train_world):
    """Guards lines doubled by a resume: from step 2 of a run that had logged 4 steps and half a line more."""
    out = stopped(2)
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    train_world(out, *AS_IN_THE_RUN)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if "heldout/loss" in row] == [4] and len(rows) == 5


def test_a_finished_run_is_left_alone(world_run, train_world, capsys):
    """Guards training again by mistake: the record comes back as it is, and no file is touched."""
    before = {path: path.stat().st_mtime_ns for path in world_run.rglob("*") if path.is_file()}
    record = train_world(world_run, *AS_IN_THE_RUN)
    assert record == json.loads((world_run / "record.json").read_text()) and "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in world_run.rglob("*") if path.is_file()} == before


def test_a_run_repeats_from_its_own_configuration(world_run, tmp_path, same):
    """Guards settings that config.yaml does not hold: RUN/config.yaml with another `out` gives the same bytes."""
    from videowm.train.loop import launch

    launch(world_run / "config.yaml", [f"out={tmp_path / 'again'}"])
    same(tmp_path / "again", world_run)


def test_a_budget_sets_the_steps(train_world, tmp_path):
    """Guards compute that is planned and not done: the record's FLOPs are within half a step of the budget."""
    record = train_world(tmp_path / "world", "budget=2.3e8", "rollout.horizon=4")
    step = record["flops"]["train"] / record["steps"]
    assert record["steps"] > 1 and abs(record["flops"]["train"] - 2.3e8) <= step / 2
    assert yaml.safe_load((tmp_path / "world/config.yaml").read_text())["train"]["steps"] == record["steps"]


@pytest.mark.parametrize("where", ["at once", "on the device"])
def test_a_gradient_that_is_not_a_number_stops_before_the_update(world_run, tmp_path, monkeypatch, where):
    """Guards NaN weights in a checkpoint: the loss of step 2 (the third) is NaN, so what is left is step 2, finite.

    On the device it is noticed only after step 3, whose gradient is finite and must not move the weights either: they
    are still those of step 2, and neither a checkpoint nor a line of metrics is written.
    """
    from videowm import config as configuration
    from videowm.train import loop
    from videowm.train.registry import build_task
    from videowm.train.tasks.world import WorldRun

    class Broken:
        def __getattr__(self, name):
            return getattr(task, name)

        def loss(self, model, batch, draws):
            value, metrics = task.loss(model, batch, draws)
            self.calls = self.__dict__.get("calls", 0) + 1
            return value * (float("nan") if self.calls == 3 else 1), metrics

    overrides = [f"out={tmp_path / 'nan'}", "train.save_every=2", "train.log_every=4", "train.gate.failing=off"]
    task = build_task(configuration.load(WorldRun, world_run / "config.yaml", overrides))
    monkeypatch.setattr(loop.Run, "patient", where == "on the device")
    broken = Broken()
    with pytest.raises(UserError, match="gradient of step 2 is not finite.*lower train.lr"):
        train(broken, task.config.train, tmp_path / "nan", configuration.to_dict(task.config))
    found = checkpoint.latest(tmp_path / "nan/checkpoints")
    assert found.name == "step-00000002"
    expected = (world_run / "checkpoints/step-00000002/model.safetensors").read_bytes()
    assert (found / "model.safetensors").read_bytes() == expected
    assert not (tmp_path / "nan/record.json").exists() and not (tmp_path / "nan/metrics.jsonl").exists()
    assert broken.calls == {"at once": 3, "on the device": 4}[where]
    saved = load_file(found / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in task.model.state_dict().items())


class Line(Task):
    """Fit a line: a task whose model can be compiled, counting the graphs."""

    name, seed = "line", 0

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = Compilable()

    def load(self, step: int, slots: range) -> dict[str, torch.Tensor]:
        return {"x": torch.linspace(-1, 1, 8)[list(slots), None] + step}

    def loss(self, model, batch, draws):
        return (model(batch["x"]) - 3 * batch["x"] + draws.normal(1)).square().mean(), {}

    def evaluate(self):
        yield "at_one", float(self.model(torch.ones(1, 1)).detach())

    def export(self, out: Path) -> None:
        save_file(self.model.state_dict(), out / "line.safetensors")

    def record_fields(self) -> dict:
        return {}


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(1, 16), torch.nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x).tanh())


class Compilable(torch.nn.Sequential):
    """A layer, compiled by a compiler that counts and needs no C++ on the machine."""

    def __init__(self) -> None:
        super().__init__(Layer())
        from torch._dynamo.testing import CompileCounter

        self.counter = CompileCounter()

    def compile_blocks(self, *, graph: bool) -> None:
        self[0].compile(backend=self.counter, fullgraph=True, dynamic=False)

    def uncompile(self) -> None:
        self[0]._compiled_call_impl = None


def test_compiled_training_is_the_same(tmp_path):
    """Guards `compile`: on, off and auto (off on a CPU) agree, one graph is made, and none for evaluation's shape."""
    records, graphs = {}, {}
    for choice in ("on", "off", "auto"):
        task, config = Line(), TrainConfig(steps=6, compile=choice, trackers=[], precision="fp32")
        records[choice] = train(task, config, tmp_path / choice, {"train": dataclasses.asdict(config)}).metrics
        graphs[choice] = task.model.counter.frame_count
    assert graphs == {"on": 1, "off": 0, "auto": 0}
    assert records["off"] == records["auto"] and records["on"]["at_one"] == pytest.approx(
        records["off"]["at_one"], 1e-5
    )
    assert records["off"]["at_one"] != pytest.approx(float(Line().model(torch.ones(1, 1)).detach()), 1e-3)


def test_a_model_that_cannot(vae_run, tmp_path):
    """Guards an option that is taken and does nothing: an autoencoder has no compiled blocks and recomputes nothing."""
    from videowm.train.loop import launch

    class Plain(Line):
        def __init__(self) -> None:
            self.model = torch.nn.Linear(1, 1)

    for change, expected in (
        ({"compile": "on"}, "compile is on, but"),
        ({"checkpointing": True}, "cannot compute act"),
    ):
        config = TrainConfig(trackers=[], precision="fp32", **change)
        with pytest.raises(UserError, match=f"train.{expected}|train.checkpointing is true.*{expected}"):
            train(Plain(), config, tmp_path / "line", {"train": dataclasses.asdict(config)})
    with pytest.raises(UserError, match="train.checkpointing is true, but the model of task vae"):
        launch(vae_run / "config.yaml", [f"out={tmp_path / 'vae'}", "train.checkpointing=true"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.lr=0.1"], "holds another run: train.lr is 0.004 there and 0.1 here"),
        (["window=4"], "holds another run: window is 5 there and 4 here"),
        (["train.batch=3", "train.accumulate=2", "out=OTHER"], "train.batch 3 cannot be split over 1 processes x 2"),
        (["train.batch=0", "out=OTHER"], "train.batch: 0 is out of range"),
        (["train.accumulate=0", "out=OTHER"], "train.accumulate: 0 is out of range"),
        (["train.log_every=0", "out=OTHER"], "train.log_every: 0 is out of range"),
        (["window=10", "out=OTHER"], "window 10 does not fit the 9 latent steps"),
        (["window=1", "out=OTHER"], "window 1 does not fit"),
        (["patch=3", "out=OTHER"], "patch 3 does not divide the latents of 8x8: give patch=2"),
        (["hidden=100", "out=OTHER"], "hidden 100: give"),
        (["hidden=null", "depth=0", "out=OTHER"], "depth: 0 is out of range"),
        (["train.keep_at=[2,99]", "out=OTHER"], r"train.keep_at \[99\] lies beyond the run's 4 steps"),
        (["heldout.window=10", "out=OTHER"], "heldout.window 10 .* clips of 9 latent steps"),
        (["heldout.context=4", "out=OTHER"], "heldout.context 4 does not fit"),
        (["rollout.horizon=6", "out=OTHER"], "horizon 6 do not fit the time stride 4"),
        (["rollout.horizon=68", "out=OTHER"], "no test episode of 73 frames"),
        (["latents=missing", "out=OTHER"], "missing holds no finished latents"),
    ],
)
def test_what_is_refused_at_once(world_run, train_world, tmp_path, overrides, expected):
    """Guards a mistake that shows after hours of training, as a traceback, or not at all.

    Each is refused before a directory is made or changed, and for its own reason.
    """
    overrides = [o.replace("OTHER", str(tmp_path / "other")) for o in overrides]
    with pytest.raises(UserError, match=expected):
        train_world(world_run, *AS_IN_THE_RUN, *overrides)
    assert not (tmp_path / "other").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: a CPU is never waited for")
def test_a_step_waits_for_nothing(world_run, tmp_path):
    """Guards a host that waits for the GPU in every step: after the first, which makes the state, any wait raises."""
    from videowm import config as configuration
    from videowm.train.device import make_accelerator
    from videowm.train.loop import Run
    from videowm.train.registry import build_task
    from videowm.train.tasks.world import WorldRun

    task = build_task(configuration.load(WorldRun, world_run / "config.yaml", [f"out={tmp_path}"]))
    run = Run(task, task.config.train, tmp_path, make_accelerator(task.config.train, tmp_path))
    try:
        for batch in run.batches():
            run.update(batch)
            torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.step == 4 and run.guard.failed() is None


def test_a_directory_of_something_else(train_world, tmp_path):
    """Guards writing a run among other files; what a killed start leaves behind, all hidden, does not count."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        train_world(tmp_path)
    (tmp_path / "notes.txt").rename(tmp_path / ".config.123")
    assert train_world(tmp_path, "train.steps=1")["steps"] == 1


def test_an_autoencoder_that_changed_since(vae_run, codec, encode, train_world, tmp_path):
    """Guards a world model exported with a VAE that never saw its latents: refused before training starts."""
    from videowm.vae.codec import load_vae

    vae = load_vae(vae_run)
    vae.save_pretrained(tmp_path / "vae")
    folder = encode(tmp_path / "latents", codec, tmp_path / "vae")
    with torch.no_grad():
        next(vae.parameters()).add_(0.01)
    vae.save_pretrained(tmp_path / "vae")
    with pytest.raises(UserError, match="made by another autoencoder than .*/vae holds now"):
        train_world(tmp_path / "world", f"latents={folder}")
    assert not (tmp_path / "world").exists()


def test_two_processes_in_one_directory(train_world, tmp_path, python):
    """Guards two trainers that overwrite each other, and a lock that outlives its process or blocks its children."""
    from videowm.train.lock import RunLock, held

    lock = RunLock(tmp_path / "world")
    assert held(tmp_path / "world")
    ended = python("-c", "import sys; from pathlib import Path; from videowm.train.lock import RunLock; "
                   "RunLock(Path(sys.argv[1]))", tmp_path / "world")  # fmt: skip
    assert ended.returncode and "another process is training in" in ended.stderr
    with pytest.raises(UserError, match="another process is training"):
        train_world(tmp_path / "world")
    lock.release()
    assert not held(tmp_path / "world")


def test_looking_at_a_lock_is_in_nobodys_way(tmp_path):
    """Guards a trainer that fails because a launcher looked at that moment, and two looks that see one another."""
    import fcntl
    import threading

    from videowm.train.lock import RunLock, held

    RunLock(tmp_path).release()
    look = (tmp_path / ".lock").open("r+")
    fcntl.flock(look, fcntl.LOCK_SH)
    assert not held(tmp_path)
    threading.Timer(0.1, look.close).start()
    lock = RunLock(tmp_path)
    assert look.closed and held(tmp_path)
    lock.release()


def test_a_run_that_another_process_ended_meanwhile(world_run, train_world, tmp_path, monkeypatch):
    """Guards a second training of a run whose record appears between the look at it and the lock."""
    from videowm.train import loop

    out = tmp_path / "world"

    class Late(loop.RunLock):
        def __init__(self, run: Path) -> None:
            shutil.copytree(world_run, run, dirs_exist_ok=True)
            super().__init__(run)

    monkeypatch.setattr(loop, "RunLock", Late)
    record = train_world(out, *AS_IN_THE_RUN)
    assert record == json.loads((world_run / "record.json").read_text())
    assert (out / "metrics.jsonl").read_text() == (world_run / "metrics.jsonl").read_text()
    from videowm.train.lock import held

    assert not held(out)


def test_an_evaluation_without_a_record_is_made_once(world_run, stopped, train_world, same):
    """Guards a run without its last line of metrics, or with two: it was killed just before its record was written."""
    out = stopped(4)
    train_world(out, *AS_IN_THE_RUN)
    same(out, world_run)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 5


def test_a_killed_process_frees_its_directory_though_its_child_lives(tmp_path, environment):
    """Guards a resume that is refused because a data worker of the killed trainer is still there for some seconds."""
    from videowm.train.lock import held

    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom videowm.train.lock import RunLock\n"
        "lock = RunLock(Path(sys.argv[1]))\nchild = os.fork()\n"
        "child or print(os.getpid(), flush=True)\ntime.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], env=environment, stdout=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    try:
        assert held(tmp_path)
        process.kill()
        process.wait()
        assert Path(f"/proc/{child}").exists() and not held(tmp_path)
    finally:
        subprocess.run(["kill", "-9", str(child)], check=True)
        process.stdout.close()


def test_noise_is_a_function_of_seed_step_and_slot():
    """Guards noise that depends on the number of processes: half the slots are half of the whole draw."""
    whole = Draws(3, 7, range(4), 4, "cpu")
    parts = [Draws(3, 7, range(s, s + 2), 4, "cpu") for s in (0, 2)]
    for draw in (lambda d: d.normal(2, 3), lambda d: d.uniform(5), lambda d: d.uniform()):
        assert torch.equal(draw(whole), torch.cat([draw(part) for part in parts]))
    first = Draws(3, 7, range(4), 4, "cpu").normal(2)
    assert not torch.equal(first, Draws(3, 8, range(4), 4, "cpu").normal(2))
    assert not torch.equal(first, Draws(4, 7, range(4), 4, "cpu").normal(2))


def test_every_clip_comes_once_a_pass():
    """Guards clips that are left out or come twice: three passes over 7 are three different orders of all of them."""
    passes = [[pick(0, 7 * epoch + i, 7)[0] for i in range(7)] for epoch in range(3)]
    assert all(sorted(order) == list(range(7)) for order in passes) and len(set(map(tuple, passes))) == 3
    assert pick(0, 9, 7)[1].random() == pick(0, 9, 7)[1].random() != pick(0, 10, 7)[1].random()
