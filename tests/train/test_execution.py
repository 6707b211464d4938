"""How a run is executed: precision, the launcher's options, folders that cannot be written, shared memory."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import yaml

from videowm import config as configuration
from videowm.record import RunRecord
from videowm.train.config import TrainConfig
from videowm.train.device import check_launcher, chosen_precision
from videowm.train.loop import config_hash, launch, say_unknown_errors
from videowm.train.task import check_shared_memory
from videowm.types import UserError

AS_IN_THE_RUN = ("train.save_every=1", "train.keep=9", "train.ema=0.5")


def test_the_record_says_how(world_run):
    """Guards a record without precision, processes and versions, and one that its own type cannot read."""
    import torch

    record = RunRecord.read(world_run)
    assert record.execution.precision == "fp32" and record.execution.processes == 1
    assert record.execution.versions["torch"] == torch.__version__ and set(record.execution.versions) == {
        "torch", "diffusers", "cuda"
    }  # fmt: skip
    assert record.to_json() == json.loads((world_run / "record.json").read_text())
    assert record.steps == 4 and record.trunk is None and not record.stopped and not record.more


def test_the_hash_is_of_what_is_computed(world_run):
    """Guards a hash that changes with workers, trackers or paths, and one that does not with what is learned."""
    resolved = configuration.to_dict(configuration.read(world_run / "config.yaml"))
    assert RunRecord.read(world_run).config_hash == config_hash(resolved)
    train = resolved["train"]
    for key, value in (("workers", 3), ("trackers", ["wandb"]), ("log_every", 7), ("accumulate", 2)):
        assert config_hash(resolved | {"train": train | {key: value}}) == config_hash(resolved)
    assert config_hash(resolved | {"out": "x", "latents": "y"}) == config_hash(resolved)
    for changed in ({"train": train | {"lr": 1.0}}, {"train": train | {"precision": "bf16"}}, {"depth": 7}):
        assert config_hash(resolved | changed) != config_hash(resolved)


def test_a_run_is_of_one_precision(world_run, train_world, tmp_path):
    """Guards a bf16 trunk and an fp32 branch that count as one run; "auto" of an old run's file is accepted."""
    trunk = ["train.warmup=1", "train.cooldown=0", "train.trunk=true", "train.steps=2", "train.keep_at=[2]"]
    train_world(tmp_path / "trunk", *trunk)
    path = tmp_path / "trunk/config.yaml"
    written = configuration.read(path)
    assert written["train"]["precision"] == "fp32"
    branch = ["train.warmup=1", "train.cooldown=0.5", "train.steps=4", f"train.start={{run: {path.parent}, step: 2}}"]
    written["train"]["precision"] = "bf16"
    path.write_text(yaml.safe_dump(written))
    with pytest.raises(UserError, match="train.precision is 'bf16' there and 'fp32' here"):
        train_world(tmp_path / "branch", *branch)
    written["train"]["precision"] = "auto"
    path.write_text(yaml.safe_dump(written))
    assert train_world(tmp_path / "branch", *branch)["trunk"] == "trunk"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("USE_FSDP", "true", "FSDP"),
        ("USE_DEEPSPEED", "true", "DeepSpeed"),
        ("USE_MEGATRON_LM", "true", "Megatron"),
        ("DYNAMO_BACKEND", "INDUCTOR", "train.compile=on"),
        ("GRADIENT_ACCUMULATION_STEPS", "4", "train.accumulate=4"),
        ("MIXED_PRECISION", "fp16", "fp16"),
        ("MIXED_PRECISION", "bf16", "train.precision fp32"),
    ],
)
def test_options_of_the_launcher(monkeypatch, name, value, expected):
    """Guards options of accelerate that are ignored in silence: each is refused, and what agrees is not."""
    config = TrainConfig(precision="fp32")
    check_launcher(config)
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(UserError, match=expected) as error:
        check_launcher(config)
    assert "\n" not in str(error.value)
    agreeing = {"GRADIENT_ACCUMULATION_STEPS": "1", "MIXED_PRECISION": "no", "DYNAMO_BACKEND": "NO"}
    monkeypatch.setenv(f"ACCELERATE_{name}", agreeing.get(name, "false"))
    check_launcher(config)


def test_one_process_for_several(monkeypatch):
    """Guards `accelerate launch --cpu --num_processes 2`, which starts one process without a word."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    check_launcher(TrainConfig())
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(UserError, match="starts one process on a CPU"):
        check_launcher(TrainConfig())
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_launcher(TrainConfig())


def test_auto_follows_the_launcher(monkeypatch):
    """Guards `--mixed_precision bf16` that does nothing, and a launcher's silent "no" that makes a GPU's run fp32."""
    before = chosen_precision(TrainConfig())
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert chosen_precision(TrainConfig()) == before
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    check_launcher(TrainConfig())
    assert chosen_precision(TrainConfig()) == "bf16" and chosen_precision(TrainConfig(precision="fp32")) == "fp32"


@pytest.mark.parametrize("kind", ["a file", "below a file", "a circle of links", "a long name"])
def test_folders_that_cannot_be_written(train_world, tmp_path, kind):
    """Guards tracebacks of the system: each is one sentence with the folder's name."""
    out = {"a file": tmp_path / "file", "below a file": tmp_path / "file/run", "a circle of links": tmp_path / "circle",
           "a long name": tmp_path / ("x" * 256)}[kind]  # fmt: skip
    (tmp_path / "file").write_text("mine")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(UserError, match="cannot be written|is a file") as error:
        train_world(out)
    assert "\n" not in str(error.value) and (tmp_path / "file").read_text() == "mine"


def test_exported_weights_follow_the_umask(world_run, vae_run):
    """Guards a model that a group cannot read: safetensors writes for the owner alone."""
    from videowm.files import UMASK

    weights = [path for run in (world_run, vae_run) for path in run.rglob("*.safetensors")]
    assert len(weights) > 3 and {path.stat().st_mode & 0o777 for path in weights} == {0o666 & ~UMASK}


def test_a_damaged_run_is_refused_or_goes_on(stopped, world_run, train_world, same):
    """Guards tracebacks at damaged small files: a resume passes over them, and a cut config.yaml is not complete."""
    out = stopped(2)
    (out / "checkpoints/step-abc").mkdir()
    with (out / "metrics.jsonl").open("ab") as file:
        file.write(b"\x00\xff garbage\n3\n[]\n")
    whole = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="config.yaml is cut off"):
        train_world(out, *AS_IN_THE_RUN)
    (out / "config.yaml").write_text(whole)
    train_world(out, *AS_IN_THE_RUN)
    same(out, world_run)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": 1}', '{"metrics": 3}'])
def test_a_damaged_record(world_run, train_world, tmp_path, content):
    """Guards a traceback where record.json was cut or zeroed: one sentence, and what to do."""
    out = shutil.copytree(world_run, tmp_path / "world")
    (out / "record.json").write_text(content)
    with pytest.raises(UserError, match="record.json is damaged.*train again"):
        train_world(out, *AS_IN_THE_RUN)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["rollout.horizon=0"], "rollout.horizon: 0 is out of range"),
        (["rollout.batch=0"], "rollout.batch: 0 is out of range"),
        (["flow.shift=0"], "flow.shift: 0.0 is out of range"),
        (["rollout.sampler.action_guidance=2"], "action guidance 2 .*flow.drop_actions"),
        (["rollout.sampler.text_guidance=2"], "text guidance 2 .*text.drop"),
        (["rollout.context_frames=6"], "context_frames 6 .* time stride 4"),
    ],
)
def test_what_rollouts_need_is_said_before_the_training(train_world, tmp_path, overrides, expected):
    """Guards a whole run lost to what its evaluation refuses."""
    with pytest.raises(UserError, match=expected):
        train_world(tmp_path / "world", *overrides)
    assert not (tmp_path / "world").exists()


def test_what_a_reconstruction_needs_is_said_before_the_training(vae_run, tmp_path):
    """Guards an autoencoder that is trained and then has no clip to be measured on."""
    with pytest.raises(UserError, match="evaluate.clips: 0 is out of range"):
        launch(vae_run / "config.yaml", [f"out={tmp_path / 'vae'}", "evaluate.clips=0"])


def test_one_held_out_episode_is_said():
    """Guards numbers that look certain: without any known standard error one line says why."""
    said: list[str] = []

    class Log:
        say = staticmethod(said.append)

    say_unknown_errors({"a": 1.0, "a_se": 0.1, "b_se": float("nan")}, Log)
    say_unknown_errors({"a": 1.0}, Log)
    assert not said
    say_unknown_errors({"a": 1.0, "a_se": float("nan"), "a_by_step": [1.0]}, Log)
    assert len(said) == 1 and "hold out two or more" in said[0]


def test_full_shared_memory(world_arguments, fork, tmp_path):
    """Guards a training that hangs for ever: a worker cannot pass its samples on, and nobody says so.

    /dev/shm is a real file system of 64 KB here, in a mount namespace of the process's own.
    """
    check_shared_memory(1)
    with pytest.raises(UserError, match="train.workers=0"):
        check_shared_memory(2**60, str(tmp_path))
    small = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/dev/shm"]
    if subprocess.run(["unshare", "-m", *small], capture_output=True).returncode:
        pytest.skip("/dev/shm cannot be replaced here")
    process = fork("train", "configs/world/quickstart.yaml", *world_arguments, f"out={tmp_path / 'world'}",
                   "train.workers=1", "train.batch=64", before=small)  # fmt: skip
    _, errors = process.communicate()
    said = [line for line in errors.splitlines() if line.startswith("videowm: ")]
    assert process.returncode == 2 and len(said) == 1 and "/dev/shm" in said[0], errors
