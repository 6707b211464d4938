"""The configurations that come with the package, found without a checkout."""

from __future__ import annotations

import shutil
from pathlib import Path

from videowm.types import UserError

PACKAGE = Path(__file__).parent


def folder() -> Path:
    """The folder of the configurations: installed with the package, or of the checkout.

    Raises:
        UserError: neither is there.
    """
    found = next((path for path in (PACKAGE / "configs", PACKAGE.parent / "configs") if path.is_dir()), None)
    if found is None:
        raise UserError(f"{PACKAGE / 'configs'} is missing: install videowm again, or run it from a checkout")
    return found


def names() -> dict[str, Path]:
    """Name, such as "world/quickstart", -> file of every configuration."""
    paths = sorted(folder().rglob("*.yaml"))
    return {path.relative_to(folder()).with_suffix("").as_posix(): path for path in paths}


def find(name: str | Path) -> Path | None:
    """The file of a name such as "world/quickstart", "world/quickstart.yaml" or "configs/world/quickstart.yaml"."""
    return names().get(Path(name).as_posix().removeprefix("configs/").removesuffix(".yaml"))


def resolve(path: str | Path) -> Path:
    """`path`, or the shipped file where there is no such path and it begins with configs/."""
    path = Path(path)
    if path.parts[:1] != ("configs",) or path.exists():
        return path
    return find(path) or path


def require(name: str) -> Path:
    """The file of a name.

    Raises:
        UserError: there is no such configuration.
    """
    path = find(name)
    if path is None:
        raise UserError(f"no configuration is named {name!r}: choose one of {', '.join(names())}")
    return path


def copy(name: str, to: Path | None = None) -> Path:
    """Copy a configuration to the file or folder `to`, by default to configs/NAME.yaml here; returns the copy.

    Raises:
        UserError: there is no such configuration, or the copy is there already.
    """
    source = require(name)
    to = Path("configs") / source.relative_to(folder()) if to is None else to
    to = to / source.name if to.is_dir() else to
    if to.exists():
        raise UserError(f"{to} is there already: name another file")
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, to)
    return to
