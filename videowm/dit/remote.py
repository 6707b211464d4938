"""How diffusers alone finds the classes of a saved world model: by files of two lines beside it, that import videowm.

`DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` runs these files, so it works wherever videowm is
installed, and elsewhere says that videowm is missing. `WorldModelPipeline` reads the same folder and runs none of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videowm import hub
from videowm.files import read_json, write_atomic, write_json

INDEX = "model_index.json"
PLACES = ("revision", "token", "cache_dir", "local_files_only", "force_download")  # of the hub's files
PIPELINE = ("pipeline", "WorldModelPipeline")
OWN = {"DiT": "videowm.dit", "PatchAutoencoder": "videowm.vae.patch"}  # class -> module of this package
NOTE = '"""For diffusers, which loads this file with trust_remote_code=True."""\n\n'


def add_code(folder: Path, remedy: str) -> None:
    """Put the files beside a saved pipeline, and name them in its model_index.json, which is written last.

    Raises:
        UserError: there is no model_index.json, or it is damaged.
    """
    index = read_json(folder / INDEX, remedy)
    for part, value in index.items():
        if isinstance(value, list) and value[1:] and value[1] in OWN and not part.startswith("_"):
            module, name = OWN[value[1]], value[1]
            write_code(folder / part / f"{file_of(module)}.py", module, name)
            index[part] = [file_of(module), name]
    write_code(folder / f"{PIPELINE[0]}.py", "videowm.pipeline", PIPELINE[1])
    write_json(folder / INDEX, index | {"_class_name": list(PIPELINE)})


def file_of(module: str) -> str:
    """The name of a module's file; no pipeline of diffusers has such a name."""
    return module.replace(".", "_")


def write_code(path: Path, module: str, name: str) -> None:
    """Write a file that only imports a class."""
    write_atomic(path, f'{NOTE}from {module} import {name}\n\n__all__ = ["{name}"]\n'.encode())


def local(source: str | Path, settings: dict[str, Any]) -> Path:
    """A folder, or the hub's repository of that name in this machine's cache; it takes its own out of `settings`.

    Raises:
        UserError: there is neither, or the hub cannot be reached.
    """
    if Path(source).is_dir():
        return Path(source)
    places = {key: settings.pop(key) for key in PLACES if key in settings}
    return hub.snapshot(str(source), ignore_patterns=["starts/*"], **places)


def without_code(index: Any) -> Any:
    """The content of a model_index.json that names this package's modules, so that no file of the folder is run.

    Of a tuple, which diffusers gives on some calls, the first is the content.
    """
    if isinstance(index, tuple):
        return (without_code(index[0]), *index[1:])
    plain = {key: own(value) if not key.startswith("_") else value for key, value in index.items()}
    return plain | {"_class_name": class_name(index)}


def own(value: Any) -> Any:
    """A part's library and class; of a class of this package, the module here."""
    part = isinstance(value, list | tuple) and len(value) == 2 and value[1] in OWN
    return [OWN[value[1]], value[1]] if part else value


def class_name(index: dict[str, Any]) -> Any:
    """The name of the pipeline's class."""
    name = index.get("_class_name")
    return name[-1] if isinstance(name, list | tuple) and name else name
