"""What can be trained: a task's name is its module's, in `videowm.train.tasks` or an entry point `videowm.tasks`.

A module has `CONFIG`, a configuration class whose key `task` holds the name, and `TASK`, a `videowm.train.task.Task`
made from such a configuration. So a new trainable thing is a new file.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from videowm import config as configuration
from videowm.types import UserError


def modules() -> dict[str, str]:
    """Name -> module of every task; those of this package come first and cannot be replaced."""
    package = import_module("videowm.train.tasks")
    own = {found.name: f"{package.__name__}.{found.name}" for found in iter_modules(package.__path__)}
    return {point.name: point.value for point in entry_points(group="videowm.tasks")} | own


def config_class(name: Any, where: str = "configuration") -> type:
    """The configuration class of a task.

    Raises:
        UserError: no task has this name.
    """
    known = modules()
    if not isinstance(name, str) or name not in known:
        raise UserError(f"{where}: task is {name!r}, expected one of {', '.join(sorted(known))}")
    return import_module(known[name]).CONFIG


def build(data: dict[str, Any], where: str = "configuration") -> Any:
    """The checked configuration of a task from a plain mapping.

    Raises:
        UserError: no task has its name, or a key or a value in it cannot be used.
    """
    return configuration.build(config_class(data.get("task"), where), data, where=where)


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Any:
    """The checked configuration of a YAML file with overrides.

    Raises:
        UserError: the file cannot be read, or a key or a value in it cannot be used.
    """
    task = configuration.read(path, [text for text in overrides if text.partition("=")[0] == "task"]).get("task")
    return configuration.load(config_class(task, str(path)), path, overrides)


def build_task(config: Any) -> Any:
    """The task of a configuration, its weights drawn under its seed.

    Raises:
        UserError: a value is out of range, or what the configuration names is not there or does not fit.
    """
    import torch

    configuration.check(config)
    torch.manual_seed(config.seed)
    return import_module(modules()[config.task]).TASK(config)


def finished_task(run: str | Path, device: Any) -> Any:
    """The task of a finished run with its trained weights, ready to be evaluated.

    Raises:
        UserError: the run is not finished, or what its configuration names is gone.
    """
    task = build_task(load(Path(run) / "config.yaml"))
    task.restore(Path(run), device)
    return task
