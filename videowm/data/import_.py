"""Bring foreign recordings into a dataset: a LeRobot folder, or a folder of videos with action tables.

What can be refused cheaply is refused before anything is written: tables, time stamps, sizes and names are read first.
Then the episodes are written one by one, one frame in memory at a time. Every frame is decoded once, strictly, because
decoders pass over damage without a word.

An import that is repeated keeps the episodes that were made of the same files with the same options, and no others.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from videowm.actions.tables import NO_ACTIONS
from videowm.data import layout
from videowm.data.dataset import Dataset
from videowm.data.foreign_video import Painter, Reel
from videowm.data.layout import Layout
from videowm.data.lerobot import plan_lerobot, untouched
from videowm.data.takes import Notes, Plan, Take, wanted_size
from videowm.data.video_folder import plan_videos
from videowm.files import (
    read_json,
    remove_leftovers,
    sha256_of,
    short_hash,
    visible,
    write_atomic,
    write_json,
    writing,
)
from videowm.limits import unfit
from videowm.lock import FolderLock
from videowm.options import ImportOptions
from videowm.types import Episode, UserError

NOTE = "meta/import.json"


def import_dataset(src: str | Path, out: str | Path, options: ImportOptions = ImportOptions()) -> Path:
    """Check foreign recordings and write them as a dataset; returns `out`.

    The same call again goes on with an import that was interrupted or damaged, or does nothing.

    Args:
        src: LeRobot folder, or a folder of videos with action tables.
        out: new folder, or one of the same import.
        options: what is taken, and how frames are stored.

    Raises:
        UserError: the source is damaged or no source, `out` holds something else, or the disk is full.
    """
    src, out = Path(src), Path(out)
    wanted_size(options.size)
    if not src.is_dir():
        raise UserError(f"no folder at {src}: give a LeRobot dataset or a folder of videos with action tables")
    settings = {"src": src.name} | json.loads(json.dumps(dataclasses.asdict(options)))
    with writing(out):
        if is_imported(out, settings, src):
            tqdm.write(f"{out} is already imported from {src}")
            return out
        if src.resolve() in out.resolve().parents:
            raise UserError(f"{out} lies within {src}, where it would be taken for a source: give another --out")
        foreign = (src / "meta/info.json").exists()
        plan = (plan_lerobot if foreign else plan_videos)(src, options)
        lock = FolderLock(out, f"another process is importing into {out}: wait for it, or give another --out")
        try:
            remove_leftovers(out)
            if foreign and untouched(src, options, plan):
                copy_lerobot(src, out, plan, settings)
            else:
                write_plan(out, plan, options, settings, src)
        finally:
            lock.remove()
    tqdm.write(f"{out}: {taken(plan, src, options)}")
    return out


def is_imported(out: Path, settings: dict[str, Any], src: Path) -> bool:
    """Whether `out` is a finished, whole import with these settings.

    Raises:
        UserError: `out` holds something else, was imported with other settings, or the source has changed since.
    """
    note = out / NOTE
    if not note.is_file():
        if out.is_file() or visible(out, "*"):
            raise UserError(f"{out} already holds something: give a new or empty folder")
        return False
    if not (out / "meta/info.json").is_file():
        return False
    try:
        Dataset(out).verify()
    except UserError:
        return False
    present = read_json(note, "remove it")
    if differing := [f"{key} {present.get(key)} there, {value} now" for key, value in settings.items()
                     if present.get(key) != value]:  # fmt: skip
        raise UserError(f"{out} was imported with other settings ({'; '.join(differing)}): give another --out")
    if present.get("source") != listing(src):
        raise UserError(f"files of {src} have changed since they were imported to {out}: give another --out")
    return True


def listing(src: Path) -> str:
    """A hash over the names and sizes of all files of a source."""
    paths = [path for path in sorted(src.rglob("*")) if path.is_file()]
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(src).parts)]
    return short_hash(*(f"{path.relative_to(src).as_posix()} {path.stat().st_size}\n" for path in paths))


def write_plan(out: Path, plan: Plan, options: ImportOptions, settings: dict[str, Any], src: Path) -> None:
    """Write the episodes of a plan that are not there yet, and finish the dataset."""
    shared = Layout(plan.name, plan.fps, plan.size, plan.action_names, plan.state_names, options.lossless, group=1)
    origins = origins_of(plan, shared, options)
    missing = clean(out, origins, shared)
    note_down(out, settings, src)
    with tqdm(total=sum(len(plan.takes[i].shown) for i in missing), unit=" frames", desc="import") as bar:
        reel: Reel | None = None
        try:
            for number in missing:
                take = plan.takes[number]
                if reel is None or reel.video is not take.video:
                    reel = Reel(take.video, Painter(take.video, plan.size, options.fit))
                write_take(out, number, take, reel, shared, origins[number], bar, whole=plan.whole)
        except KeyboardInterrupt:
            kept = sum(layout.origin_of(out / shared.paths(i)[0]) == origin for i, origin in enumerate(origins))
            text = f"{kept} of {len(origins)} episodes are kept in {out}, the same command goes on from there"
            raise KeyboardInterrupt(text) from None
    note_down(out, settings, src, plan, options)
    layout.finish(out, shared, plan.held_out / len(plan.takes))


def write_take(
    out: Path, number: int, take: Take, reel: Reel, shared: Layout, origin: str, bar: tqdm, *, whole: bool
) -> None:
    """Write one episode as a file group; with `whole`, its video is decoded to the end before that counts."""

    def pictures() -> Iterator[np.ndarray]:
        for picture in reel.read(take.frames):
            bar.update()
            yield picture
        if whole:
            reel.finish()

    rows = take.rows().at(take.shown)
    episode = Episode(pictures(), rows.actions, rows.rewards, rows.dones, rows.states, take.caption)
    layout.write_group(out, number, [episode], shared, origin)


def origins_of(plan: Plan, shared: Layout, options: ImportOptions) -> list[str]:
    """For each episode a hash over all that decides its bytes."""
    hashes = {path: sha256_of(path) for take in plan.takes for path in take.files}
    common = f"{shared} {options.fit} {options.no_actions} {options.columns} {options.one_hot} {options.action_key}"
    return [
        short_hash(common, *(hashes[path] for path in take.files), take.caption, str(take.first), take.shown.tobytes())
        for take in plan.takes
    ]


def clean(out: Path, origins: list[str], shared: Layout) -> list[int]:
    """Make `out` an unfinished import that holds nothing but episodes with their `origins` -> those it lacks.

    Captions that were added stay.
    """
    (out / "meta/info.json").unlink(missing_ok=True)
    places = [tuple(out / part for part in shared.paths(number)) for number in range(len(origins))]
    kept = {number for number, (data, video) in enumerate(places)
            if video.is_file() and layout.origin_of(data) == origins[number]}  # fmt: skip
    kept -= damaged(out, places)
    (out / "meta/files.json").unlink(missing_ok=True)
    keep = {path for number in kept for path in places[number]}
    for pattern in ("data/**/*.parquet", "videos/**/*.mp4", "meta/episodes/**/*.parquet"):
        for path in visible(out, pattern):
            if path not in keep:
                path.unlink()
    return [number for number in range(len(origins)) if number not in kept]


def damaged(out: Path, places: list[tuple[Path, ...]]) -> set[int]:
    """Episodes of a finished import whose files are no longer as they were written."""
    try:
        files = read_json(out / "meta/files.json", "")
    except UserError:
        return set()
    names = [[path.relative_to(out).as_posix() for path in pair] for pair in places]
    return {number for number, pair in enumerate(names)
            if any(name in files and layout.fingerprint(out / name) != files[name] for name in pair
                   if (out / name).is_file())}  # fmt: skip


def note_down(
    out: Path, settings: dict[str, Any], src: Path, plan: Plan | None = None, options: ImportOptions | None = None
) -> None:
    """Write meta/import.json: the settings, and of a finished import what was taken and what is to be said of it."""
    done = {"source": listing(src)}
    if plan is not None:
        done |= {"taken": taken(plan, src, options), "warnings": warnings(plan.notes)}
        for line in [*done["warnings"], *filter(None, [unfit(plan.size)])]:
            tqdm.write(f"note: {line}")
    write_json(out / NOTE, settings | done)


def warnings(notes: Notes) -> list[str]:
    """One line for each thing that is to be said, with the first file that it is true of and the number of others."""
    files: dict[str, list[str]] = {}
    for name, text in notes:
        files.setdefault(text, []).append(name)
    return [f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {text}"
            for text, names in files.items()]  # fmt: skip


def taken(plan: Plan, src: Path, options: ImportOptions) -> str:
    """What an import took, in one line."""
    frames, sizes = sum(len(take.shown) for take in plan.takes), {take.video.size for take in plan.takes}
    before, after = ", ".join(sorted("{}x{}".format(*size) for size in sizes)), "{}x{}".format(*plan.size)
    aspect = any(size[0] * plan.size[1] != size[1] * plan.size[0] for size in sizes)
    fit = {"stretch": "stretched", "crop": "cropped", "pad": "padded"}[options.fit]
    change = after if before == after else f"{before} -> {after}" + f" ({fit})" * aspect
    actions = "no actions" if plan.action_names == (NO_ACTIONS,) else f"actions {', '.join(plan.action_names)}"
    camera = f", camera {plan.camera}" if plan.camera else ""
    count = f"{len(plan.takes)} episode{'s' * (len(plan.takes) > 1)}"
    return (f"{count} ({plan.held_out} held out), {frames} frames from {src}{camera}, "
            f"size {change}, {plan.fps:.5g} fps, {actions}")  # fmt: skip


def copy_lerobot(src: Path, out: Path, plan: Plan, settings: dict[str, Any]) -> None:
    """Copy a LeRobot v3 dataset with one of its videos, after every frame was decoded once."""
    clean(out, [], Layout(plan.name, plan.fps, plan.size, plan.action_names))
    note_down(out, settings, src)
    data = Dataset(src, plan.camera)
    for video in {take.video.path: take.video for take in plan.takes}.values():
        Reel(video, Painter(video, None, "stretch")).finish()
        write_atomic(out / video.path.relative_to(src), video.path.read_bytes())
    for pattern in ("data/*/*.parquet", "meta/stats.json", "meta/tasks.parquet"):
        for path in visible(src, pattern):
            write_atomic(out / path.relative_to(src), path.read_bytes())
    if (captions := src / "captions.jsonl").exists():
        layout.write_captions(out, captions.read_bytes())
    note_down(out, settings, src, plan, ImportOptions())
    layout.seal(out, one_video(data, out))


def one_video(data: Dataset, out: Path) -> dict[str, Any]:
    """Write meta/episodes without the videos that are not imported; returns info.json to match."""
    features = data.info["features"]
    others = [key for key, feature in features.items() if feature["dtype"] == "video" and key != data.video_key]
    gone = tuple(f"{kind}/{key}/" for key in others for kind in ("videos", "stats"))
    for path in visible(data.root, "meta/episodes/*/*.parquet"):
        table = pq.read_table(path)
        table = table.drop_columns([name for name in table.column_names if name.startswith(gone)]) if gone else table
        layout.write_table(out / path.relative_to(data.root), table)
    return data.info | {"features": {key: feature for key, feature in features.items() if key not in others}}
