"""`videowm push` and `pull`: a run or a dataset as the hub keeps it, with a card; on the hub, or in a folder here.

What goes of a run: weights and configurations, config.yaml, record.json, evaluation.json, a strip of pictures and
README.md. No checkpoint, no optimiser and no log goes, and paths of this machine are shortened to their last part.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videowm import config as configuration
from videowm import hub
from videowm.card import dataset_card, model_card
from videowm.data.dataset import Dataset
from videowm.data.starts import STARTS, acted_dataset, write_starts
from videowm.files import read_json, visible, write_atomic, write_json
from videowm.options import PullOptions, PushOptions
from videowm.record import RunRecord
from videowm.types import UserError

PARTS = ("vae", "transformer", "scheduler", "text_encoder", "tokenizer", "heads")
PICTURES = ("evaluation/strip.png", "evaluation/keeps.png")
LOCAL = "folder:"
ABSOLUTE = re.compile(r"(/|~|[A-Za-z]:[\\/]|\\\\)\S")
REMEDY = "restore the file, or train again"


@dataclass(frozen=True)
class Pushed:
    """What was pushed."""

    where: str  # address of the commit, or the folder
    files: int
    size: int  # bytes
    shortened: list[str]  # files in which paths of this machine were shortened


def push(source: Path, to: str, options: PushOptions) -> Pushed:
    """Push a finished run or a dataset to the hub as user/name, or into a new folder as folder:DIR.

    Raises:
        UserError: it is neither or unfinished, an option does not fit it, or the hub or the folder cannot be written.
    """
    folder = Path(to.removeprefix(LOCAL)) if to.startswith(LOCAL) else None
    if folder is None:
        hub.check_name(to)
    elif folder.is_file() or (folder.is_dir() and visible(folder, "*")):
        raise UserError(f"{folder} already holds something: give a new or empty folder")
    with tempfile.TemporaryDirectory(prefix="videowm-push-") as work:
        staged = Path(work) / "staged"
        data = (source / "meta/info.json").exists()
        name = to if folder is None else folder.name
        shortened = stage_dataset(source, staged, name, options) if data else stage_run(source, staged, name, options)
        paths = [path for path in visible(staged, "**/*") if path.is_file()]
        size = sum(path.stat().st_size for path in paths)
        if folder is None:
            tag = "v3.0" if data else None  # by which lerobot knows the layout's version
            where = hub.push(staged, to, kind="dataset" if data else "model", private=options.private,
                             revision=options.revision, tag=tag)  # fmt: skip
        else:
            where = str(place(staged, folder))
    return Pushed(where, len(paths), size, shortened)


def place(staged: Path, folder: Path) -> Path:
    """Copy what is staged into a new folder, whole or not at all."""
    aside = folder.with_name(f".{folder.name}.push")
    shutil.rmtree(aside, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with hub.speaking(str(folder)):
        shutil.copytree(staged, aside)
        if folder.exists():
            folder.rmdir()
        aside.rename(folder)
    return folder


def pull(name: str, out: Path, options: PullOptions) -> Path:
    """Download a run or a dataset that was pushed; returns the new folder `out`, whole.

    Raises:
        UserError: no repository has that name, it cannot be reached, `out` holds something, or a file is damaged.
    """
    hub.pull(name, out, revision=options.revision, check=check_pulled)
    return out


def check_pulled(folder: Path) -> None:
    """Compare a dataset with what was written; of a world model see that it is whole.

    Raises:
        UserError: a file is missing, cut or changed.
    """
    if (folder / "meta/files.json").is_file():
        Dataset(folder).verify()
    elif (folder / "model_index.json").is_file():
        from videowm.dit.saved import check_folder

        check_folder(folder)


def stage_dataset(root: Path, staged: Path, name: str, options: PushOptions) -> list[str]:
    """Put links to a dataset's files and its card into `staged`.

    Raises:
        UserError: an option is for runs, or a file is missing or changed.
    """
    if options.dtype or options.starts or options.trained_on:
        raise UserError(f"{root} is a dataset: --dtype, --starts and --trained-on are for runs, so leave them out")
    data = Dataset(root)
    if data.info.get("splits") is not None and (root / "meta/files.json").is_file():
        data.verify()
    for path in [path for path in visible(root, "**/*") if path.is_file()]:
        inside = path.relative_to(root)
        if not any(part.startswith(".") for part in inside.parts):
            link(path, staged / inside)
    if not (root / "README.md").exists():
        write_atomic(staged / "README.md", dataset_card(root, name, license=options.license).encode())
    return []


def stage_run(run: Path, staged: Path, name: str, options: PushOptions) -> list[str]:
    """Put what goes of a finished run into `staged`; returns the files in which paths were shortened.

    Raises:
        UserError: the run is unfinished, a trunk, or of a task whose models are not for others.
    """
    record = RunRecord.read(run)
    if record is None or not (run / "config.yaml").exists():
        raise UserError(f"{run} holds no finished run (no record.json) and no dataset: finish it with videowm train")
    config = configuration.read(run / "config.yaml")
    task = config.get("task")
    if record.is_trunk or task not in ("world", "vae"):
        raise UserError(f"{run} is {'a trunk' if record.is_trunk else f'a run of task {task}'}: push a world model, an "
                        "autoencoder or a dataset")  # fmt: skip
    if options.starts and task != "world":
        raise UserError(f"{run} is an autoencoder, which starts no rollout: leave out --starts")
    stage_model(run, staged, task, options.dtype)
    evaluated = read_json(run / "evaluation.json", REMEDY) if (run / "evaluation.json").exists() else {}
    write_json(staged / "record.json", read_json(run / "record.json", REMEDY))
    if evaluated:
        write_json(staged / "evaluation.json", evaluated)
    if picture := next((run / path for path in PICTURES if (run / path).exists()), None):
        link(picture, staged / "strip.png")
    if options.starts:
        write_starts(acted_dataset(run, options.data), staged / STARTS, options.starts)
    shortened = [str(path.relative_to(staged)) for path in visible(staged, "**/*.json") if shorten_file(path)]
    plain = shorter(config)
    write_atomic(staged / "config.yaml", configuration.dump(plain).encode())
    card = model_card(staged, name, plain, record, record.metrics | evaluated, license=options.license,
                      trained_on=options.trained_on, dtype=options.dtype or "fp32")  # fmt: skip
    write_atomic(staged / "README.md", card.encode())
    return sorted([*shortened, *(["config.yaml"] if plain != config else [])])


def stage_model(run: Path, staged: Path, task: str, dtype: str | None) -> None:
    """Put weights and configurations of a run into `staged`; weights in another number format are written anew.

    The hashes of these are their own, so a model that is loaded is still checked.
    """
    from videowm.dit import remote

    if dtype is not None and dtype != "fp32":
        save_in(run, staged, task, dtype)
    else:
        for path in [path for part in PARTS for path in visible(run / part, "*")]:
            link(path, staged / path.relative_to(run))
        if task == "world":
            link(run / remote.INDEX, staged / remote.INDEX)
    if task == "world":
        remote.add_code(staged, REMEDY)


def save_in(run: Path, staged: Path, task: str, dtype: str) -> None:
    """Save a run's model in half precision; heads stay as they are, and name the network that they now read."""
    from videowm.data.latents import DTYPES
    from videowm.dit.heads import FOLDER, Heads
    from videowm.pipeline import WorldModelPipeline
    from videowm.vae.codec import load_vae, weights_hash

    if task == "vae":
        load_vae(run).to(DTYPES[dtype]).save_pretrained(staged / "vae")
        return
    pipeline = WorldModelPipeline.open(run)
    heads = Heads.open(run, pipeline.config.transformer_hash) if (run / FOLDER).exists() else None
    pipeline.to(DTYPES[dtype])
    statistics = dict(pipeline.transformer.config.trained_on) | {"vae_hash": weights_hash(pipeline.vae)}
    pipeline.transformer.register_to_config(trained_on=statistics)
    pipeline.save_pretrained(staged)
    if heads is not None:
        heads.register_to_config(transformer_hash=pipeline.config.transformer_hash)
        heads.save(staged)


def link(path: Path, to: Path) -> None:
    """A link at `to` to a file; of JSON and Python, which may be changed there, a copy."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".json", ".py") and path.parent.name != "meta":
        shutil.copyfile(path, to)
    else:
        to.symlink_to(path.resolve())


def shorten_file(path: Path) -> bool:
    """Shorten the paths of this machine in a JSON file, and drop where diffusers loaded it from; whether any was."""
    if path.is_symlink():
        return False
    content = read_json(path, REMEDY)
    plain = shorter(content)
    if plain != content:
        write_json(path, plain)
    return plain != content


def shorter(content: Any) -> Any:
    """Nested content in which absolute paths are their last part alone."""
    if isinstance(content, dict):
        return {key: shorter(value) for key, value in content.items() if key != "_name_or_path"}
    if isinstance(content, list):
        return [shorter(value) for value in content]
    return re.split(r"[\\/]", content.rstrip("\\/"))[-1] if is_path(content) else content


def is_path(value: Any) -> bool:
    """Whether a value is an absolute path."""
    return isinstance(value, str) and "\n" not in value and bool(ABSOLUTE.match(value))
