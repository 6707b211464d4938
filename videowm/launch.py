"""`python -m videowm.launch`: `accelerate launch` for the verbs of videowm, with one sentence for what is not followed.

    python -m videowm.launch --config_file accelerate.yaml train configs/world/quickstart.yaml depth=6

Options are those of `accelerate launch`. They and the configuration file are checked before anything starts.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from videowm.device import ONE_ON_CPU
from videowm.exits import carry_out
from videowm.types import UserError

FOLLOWED = frozenset({
    "config_file", "quiet", "cpu", "use_cpu", "multi_gpu", "num_processes", "num_machines", "machine_rank", "gpu_ids",
    "num_cpu_threads_per_process", "enable_cpu_affinity", "same_network", "main_process_ip", "main_process_port", "tee",
    "log_dir", "role", "rdzv_backend", "rdzv_conf", "max_restarts", "monitor_interval", "debug", "mpirun_config",
    "mpirun_hostfile", "main_training_function", "training_script", "training_script_args",
})  # fmt: skip
CHOICES = {
    "compute_environment": ("LOCAL_MACHINE",),
    "distributed_type": ("NO", "MULTI_GPU", "MULTI_CPU"),
    "mixed_precision": ("no", "bf16"),
}
OPTIONAL = frozenset({  # keys of a configuration file that say nothing where they are off
    "fp8_config", "deepspeed_config", "fsdp_config", "parallelism_config", "megatron_lm_config", "dynamo_config",
    "dynamo_backend", "downcast_bf16", "tpu_name", "tpu_zone", "tpu_use_cluster", "tpu_use_sudo", "command_file",
    "commands", "tpu_vm", "tpu_env",
})  # fmt: skip
OFF = (None, False, "", "no", "NO", [], {})
REMEDIES = {  # by the first letters of an option
    "gradient_accumulation_steps": "give train.accumulate={value} instead",
    "dynamo": "give train.compile=on instead",
    "fp8": "give train.precision=bf16 instead",
    "mixed_precision": "give train.precision, bf16 or fp32, instead",
    "module": "give a verb of videowm, such as train",
    "no_python": "give a verb of videowm, such as train",
    "": "each process here holds the whole model, so leave it out",
}


def default_file() -> Path | None:
    """The user's own default configuration of accelerate, None where there is none."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = Path(os.environ.get("HF_HOME", os.path.join(cache, "huggingface"))).expanduser() / "accelerate"
    return next((path for path in (home / "default_config.yaml", home / "default_config.json") if path.exists()), None)


def read(path: Path) -> dict[str, Any]:
    """The configuration of accelerate in a file, checked.

    Raises:
        UserError: the file is damaged, or it holds a key or a value that is not followed here.
    """
    try:
        content = yaml.safe_load(path.read_text())
        if int(content.get("num_processes", 1)) < 1:
            raise ValueError
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        raise UserError(
            f"{path} is no configuration of accelerate: remove it, or write it again with `accelerate config`"
        ) from None
    check(content, str(path))
    unknown = next((key for key in content if key not in FOLLOWED | CHOICES.keys() | OPTIONAL), None)
    if unknown is not None:
        raise UserError(f"{path}: unknown key {unknown!r} of accelerate's configuration: leave it out")
    return content


def check(settings: Mapping[str, Any], where: str) -> None:
    """Refuse settings of accelerate that are not followed here.

    Raises:
        UserError: the sentence names the first, with what to do instead.
    """
    for name, expected in CHOICES.items():
        if settings.get(name) not in (None, *expected):
            refuse(where, name, settings[name], f", expected {' or '.join(expected)}")
    for name, value in settings.items():
        if name not in FOLLOWED | CHOICES.keys() and value not in OFF:
            refuse(where, name, value, ", which is not followed")
    on_cpu = settings.get("use_cpu") or settings.get("cpu")
    if on_cpu and (settings.get("num_processes") or 1) > 1 and not {"mpirun_config", "mpirun_hostfile"} & set(settings):
        raise UserError(f"{where}: {ONE_ON_CPU}")


def refuse(where: str, name: str, value: Any, expected: str) -> NoReturn:
    """Raise the sentence on one setting.

    Raises:
        UserError: always.
    """
    remedy = next(text for start, text in REMEDIES.items() if name.startswith(start))
    shown = f"{value!r:.60}" if isinstance(value, dict | list) else value
    raise UserError(f"{where}: {name} is {shown}{expected}: {remedy.format(value=value)}")


def wrong(message: str) -> NoReturn:
    """What a parser calls that cannot go on.

    Raises:
        UserError: always.
    """
    raise UserError(f"accelerate launch: {message}; see python -m videowm.launch --help")


def chosen(parser: ArgumentParser, words: list[str]) -> Any:
    """The options of `accelerate launch` in `words`, set up to start a verb of videowm.

    Raises:
        UserError: an option is unknown or not followed, or no verb was given.
    """
    parser.error = wrong  # type: ignore[method-assign]  # its own prints a page of usage
    args = parser.parse_args(words)
    usual = vars(parser.parse_args(["train"]))
    given = {name: value for name, value in vars(args).items() if value != usual[name] and name != "nondefault"}
    steps = given.pop("gradient_accumulation_steps", None)
    if steps is not None:  # accelerate hands it on to DeepSpeed alone; `train` compares it with train.accumulate
        os.environ["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] = str(steps)
    check(given, "accelerate launch")
    args.module, args.training_script_args = True, [args.training_script, *args.training_script_args]
    args.training_script = "videowm"
    return args


def launch(words: list[str]) -> int:
    """Start a verb as `accelerate launch` does, and return its exit code.

    Raises:
        UserError: accelerate is configured in a way that is not followed here, or it cannot start.
    """
    from subprocess import CalledProcessError

    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    args = chosen(launch_command_parser(), words)
    path = Path(args.config_file) if args.config_file else default_file()
    if path is not None:
        read(path)
    try:
        launch_command(args)
    except CalledProcessError as error:
        return exit_code(error.returncode)
    except ChildFailedError as error:
        return exit_code(error.get_first_failure()[1].exitcode)
    except Exception as error:  # whatever accelerate cannot do, such as a card or a package that is not there
        message = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(f"accelerate cannot start: {message:.300}; see `accelerate config`") from error
    return 0


def exit_code(code: int) -> int:
    """A process's exit code; one that a signal ended as a shell reports it."""
    return code if code > 0 else 128 - code


if __name__ == "__main__":
    carry_out("videowm", lambda: launch(sys.argv[1:]), stopped="the same command goes on")
