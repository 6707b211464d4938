"""What can be trained: a task's name is its module's, in `videowm.train.tasks` or an entry point `videowm.tasks`.

In the name of a task a hyphen stands for an underscore of the module's.

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


def own_modules() -> dict[str, str]:
    """Name -> module of the tasks of this package."""
    package = import_module("videowm.train.tasks")
    return {
        found.name.replace("_", "-"): f"{package.__name__}.{found.name}" for found in iter_modules(package.__path__)
    }


def modules() -> dict[str, str]:
    """Name -> module of every task; those of this package come first and cannot be replaced."""
    return {point.name: point.value for point in entry_points(group="videowm.tasks")} | own_modules()


def module_of(name: Any) -> Any:
    """The module of a task, None for an unknown name. Installed packages, a slow search, are asked last."""
    if not isinstance(name, str):
        return None
    found = own_modules().get(name) or modules().get(name)
    return found and import_module(found)


def config_class(name: Any, where: str = "configuration") -> type:
    """The configuration class of a task.

    Raises:
        UserError: no task has this name.
    """
    module = module_of(name)
    if module is None:
        raise UserError(f"{where}: task is {name!r}, expected one of {', '.join(sorted(modules()))}")
    return module.CONFIG


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
    data = configuration.read(path, [text for text in overrides if text.partition("=")[0] == "task"])
    return configuration.complete(config_class(data.get("task"), str(path)), data, overrides, where=str(path))


def resolved(config: Any) -> Any:
    """A configuration with every number that its task makes of others.

    Raises:
        UserError: a value is out of range, or what the configuration names is not there or does not fit.
    """
    configuration.check(config)
    return module_of(config.task).TASK.resolved(config)


def build_task(config: Any) -> Any:
    """The task of a configuration, its weights drawn under its seed.

    Raises:
        UserError: a value is out of range, or what the configuration names is not there or does not fit.
    """
    import torch

    configuration.check(config)
    torch.manual_seed(config.seed)
    return module_of(config.task).TASK(config)


def finished_task(run: str | Path, device: Any) -> Any:
    """The task of a finished run with its trained weights, ready to be evaluated.

    Raises:
        UserError: the run is not finished, or what its configuration names is gone.
    """
    task = build_task(load(Path(run) / "config.yaml"))
    task.restore(Path(run), device)
    return task
