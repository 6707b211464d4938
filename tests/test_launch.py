"""`videowm.launch`: what accelerate is told is followed, or refused in one sentence before anything starts."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from scaling import dispatch
from videowm.launch import CHOICES, FOLLOWED, OPTIONAL, exit_code, launch
from videowm.types import UserError

PLAIN = {
    "compute_environment": "LOCAL_MACHINE", "distributed_type": "NO", "num_processes": 1, "use_cpu": True,
    "mixed_precision": "no", "downcast_bf16": "no", "tpu_env": [], "dynamo_config": {}, "num_machines": 1,
}  # fmt: skip


def sentence(words: list[str]) -> str:
    """What the launcher says of options of accelerate, in front of a verb that would need minutes."""
    with pytest.raises(UserError) as error:
        launch([*words, "train", "configs/world/quickstart.yaml"])
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"gradient_accumulation_steps": 4}, "give train.accumulate=4 instead"),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 2}}, "DEEPSPEED, expected NO or MULTI_G"),
        ({"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2}}, "distributed_type is FSDP"),
        ({"distributed_type": "MEGATRON_LM"}, "each process here holds the whole model"),
        ({"distributed_type": "MULTI_CPU", "num_processes": 2}, "one process on a CPU, but several were asked for"),
        ({"compute_environment": "AMAZON_SAGEMAKER"}, "expected LOCAL_MACHINE"),
        ({"mixed_precision": "fp16"}, "is fp16, expected no or bf16: give train.precision"),
        ({"mixed_precision": False}, "expected no or bf16"),
        ({"dynamo_config": {"dynamo_backend": "INDUCTOR"}}, "give train.compile=on instead"),
        ({"parallelism_config": {"parallelism_config_tp_size": 2}}, "parallelism_config is {'para"),
        ({"tpu_use_cluster": True}, "leave it out"),
        ({"nonsense": None}, "unknown key 'nonsense'"),
    ],
)  # fmt: skip
def test_a_configuration_is_followed_or_refused(change, expected, tmp_path, monkeypatch):
    """Guards accelerate's traceback, or silence, in place of a remedy: named on the command line, and as the user's
    own, where a sweep reads it before its first point starts."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    path = tmp_path / "accelerate/default_config.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(PLAIN))
    assert dispatch.processes() == 1
    path.write_text(yaml.safe_dump(PLAIN | change))
    with pytest.raises(UserError) as error:
        dispatch.processes()
    assert expected in str(error.value) and str(error.value).startswith(f"{path}: ")
    assert sentence(["--config_file", str(path)]) == str(error.value) == sentence([])


def test_a_damaged_configuration_is_one_sentence(tmp_path, monkeypatch):
    """Guards a traceback of what is to be mended, and a number of processes that is not the user's."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    path = tmp_path / "accelerate/default_config.yaml"
    path.parent.mkdir()
    for text in ("[", "just words", "num_processes: many", "num_processes: 0", "\x00"):
        path.write_text(text)
        with pytest.raises(UserError, match="is no configuration of accelerate: remove it, or write it again"):
            dispatch.processes()
    path.write_text("num_processes: 2")
    assert dispatch.processes() == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--use_deepspeed"], "use_deepspeed is True"),
        (["--use_fsdp", "--fsdp_version", "2"], "which is not followed: each process here holds the whole model"),
        (["--tpu"], "tpu is True"),
        (["--dynamo_backend", "inductor"], "give train.compile=on instead"),
        (["--mixed_precision", "fp8"], "mixed_precision is fp8, expected no or bf16"),
        (["--mixed_precision", "fp17"], "invalid choice: 'fp17'"),
        (["--cpu", "--num_processes", "2"], "one process on a CPU"),
        (["--no_python"], "give a verb of videowm"),
        (["--multi_gpu", "--num_processes", "1"], "accelerate cannot start: You need to use at least 2 processes"),
        (["--config_file", "nowhere.yaml"], "nowhere.yaml is no configuration of accelerate"),
    ],
)
def test_an_option_is_followed_or_refused(words, expected, tmp_path, monkeypatch):
    """Guards options that accelerate ends on with a traceback, that it ignores, or that training would ignore."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert expected in sentence(words)


def test_accumulation_reaches_the_training(monkeypatch, tmp_path):
    """Guards `--gradient_accumulation_steps`, which accelerate keeps from all but DeepSpeed: `train` must read it."""
    from accelerate.commands.launch import launch_command_parser

    from videowm.launch import chosen
    from videowm.train.config import TrainConfig
    from videowm.train.device import check_launcher

    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")  # to be taken back afterwards
    args = chosen(launch_command_parser(), ["--gradient_accumulation_steps", "4", "train", "x.yaml", "--profile"])
    assert (args.module, args.training_script, args.training_script_args) == (
        True, "videowm", ["train", "x.yaml", "--profile"]
    )  # fmt: skip
    check_launcher(TrainConfig(accumulate=4))
    with pytest.raises(UserError, match="give train.accumulate=4 instead"):
        check_launcher(TrainConfig(accumulate=2))


def test_every_key_of_accelerate_is_known():
    """Guards a key of a newer accelerate that nobody decided on: it would be refused as unknown to accelerate."""
    import dataclasses

    from accelerate.commands.config.config_args import ClusterConfig

    assert {field.name for field in dataclasses.fields(ClusterConfig)} <= FOLLOWED | CHOICES.keys() | OPTIONAL


def test_what_accelerate_cannot_set_up_is_one_sentence(fork, world_arguments, tmp_path):
    """Guards accelerate's own traceback while it is set up within a training, here two processes of no address."""
    ended = fork("train", "configs/world/quickstart.yaml", *world_arguments, f"out={tmp_path / 'run'}",
                 WORLD_SIZE="2", RANK="0", LOCAL_RANK="0", ACCELERATE_USE_CPU="true")  # fmt: skip
    _, stderr = ended.communicate()
    assert ended.returncode == 2 and "Traceback" not in stderr
    assert stderr.splitlines()[-1].startswith("videowm: accelerate cannot be set up: ") and "MASTER_" in stderr
    assert not (tmp_path / "run/config.yaml").exists()


def test_exit_codes():
    """Guards a process that a signal killed and whose launcher ends with 0 or a negative code."""
    assert [exit_code(code) for code in (2, -9, -15)] == [2, 137, 143]


CHILD = "from videowm.device import told_to_accelerate as told; print(told('--gradient_accumulation_steps'))"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["bin/accelerate", "launch", "--gradient_accumulation_steps", "4", "-m", "videowm"], "4"),
        (["lib/accelerate/commands/launch.py", "--gradient_accumulation_steps=8", "-m", "videowm"], "8"),
        (["bin/accelerate", "launch", "-m", "videowm"], "None"),
        (["bin/rocket", "launch", "--gradient_accumulation_steps", "4"], "None"),
    ],
)
def test_what_accelerate_keeps_to_itself_is_read(words, told, environment):
    """Guards an option that is ignored in silence: a real process with accelerate's command line starts the child."""
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}], check=True)"
    done = subprocess.run([sys.executable, "-c", parent, *words], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == told, done.stderr
