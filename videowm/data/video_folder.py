"""A folder of videos, each with a table of actions and perhaps a caption beside it, as episodes to import."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from videowm.actions.tables import NO_ACTIONS, TABLES, Table, read_table
from videowm.data.foreign_video import VIDEOS, Video, look
from videowm.data.layout import held_out
from videowm.data.takes import (
    Notes,
    Plan,
    Rows,
    Take,
    action_rows,
    common_rate,
    fits,
    full_rows,
    rate_notes,
    read_caption,
    resampled,
    stored_size,
    wanted_episodes,
)
from videowm.options import ImportOptions
from videowm.types import UserError


def plan_videos(src: Path, options: ImportOptions) -> Plan:
    """Every `a.mp4` with its actions in a table beside it, such as `a.csv`, and perhaps a caption in `a.txt`.

    Raises:
        UserError: the folder holds no videos, a file is damaged, or videos differ in what all must share.
    """
    if options.camera is not None:
        raise UserError(f"{src} is a folder of videos, which have no cameras: leave out --camera")
    paths = find_videos(src)
    paths = [paths[i] for i in wanted_episodes(options.episodes, range(len(paths)))]
    names = [path.relative_to(src).as_posix() for path in paths]
    notes: Notes = []
    videos: list[tuple[str, Video]] = []
    tables: list[tuple[str, Table]] = []
    for name, path in zip(names, paths):
        table = None if options.no_actions else read_table(table_beside(path), options.action_key)
        videos.append((name, look(path)))
        if table is not None:
            tables.append((name, full_rows(name, table, videos[-1][1])))
        notes += [(name, note) for note in videos[-1][1].notes]
    if options.no_actions:
        action_names, actions = (NO_ACTIONS,), [np.zeros((len(video), 1), np.float32) for _, video in videos]
    else:
        action_names, actions, said = action_rows(tables, options)
        notes += said
    size, fps = stored_size(videos, options), common_rate(videos, options.fps)
    notes += rate_notes(videos, fps)
    takes = [take_of(path, video, rows, fps, notes) for path, (_, video), rows in zip(paths, videos, actions)]
    share = 0.1 if options.test_share is None else options.test_share
    return Plan(takes, src.name, fps, size, action_names, held_out(len(takes), share), whole=True, notes=notes)


def find_videos(src: Path) -> list[Path]:
    """The videos of a folder and its subfolders, sorted, without hidden ones.

    Raises:
        UserError: there are none, there are LeRobot folders, or two would share one table.
    """
    inside = [path for path in src.rglob("*") if not any(p.startswith(".") for p in path.relative_to(src).parts)]
    if nested := sorted(path.parents[1] for path in inside if path.match("meta/info.json")):
        raise UserError(f"{src} holds the LeRobot folder {nested[0].relative_to(src)}: import that one")
    videos = sorted(path for path in inside if path.suffix.lower() in VIDEOS and path.is_file())
    if not videos:
        raise UserError(f"{src} holds no videos ({', '.join(VIDEOS)}) and no meta/info.json: give a folder that does")
    for one, other in zip(videos, videos[1:]):
        if one.with_suffix("") == other.with_suffix(""):
            raise UserError(f"{one.name} and {other.name} in {one.parent} share one name: rename one with its table")
    return videos


def table_beside(video: Path) -> Path:
    """The action table of a video: the one file of its name that is a table.

    Raises:
        UserError: no table stands beside the video, or more than one.
    """
    tables = [path for path in sorted(video.parent.iterdir())
              if path.suffix.lower() in TABLES and path.stem == video.stem]  # fmt: skip
    if len(tables) != 1:
        raise UserError(
            f"{video} has {len(tables)} action tables beside it: give one of {', '.join(TABLES)} of its name"
            + (", or --no-actions for videos without" if not tables else "")
        )
    return tables[0]


def take_of(path: Path, video: Video, actions: np.ndarray, fps: float, notes: Notes) -> Take:
    """A video with its actions and its caption; a word on the caption is added to `notes`."""
    words = path.with_suffix(".txt")
    caption, encoding = read_caption(words)
    if encoding:
        notes.append((words.name, f"its text is read as {encoding}"))
    tables = [p for p in path.parent.iterdir() if p.stem == path.stem and p.suffix.lower() in TABLES]
    files = (path, *sorted(tables), *([words] if words.exists() else []))
    if len(actions) < len(video):
        actions = np.concatenate([actions, actions[-1:]])  # leads to a frame that is not there
    take = Take(path.name, video, files, partial(Rows.of, actions), caption, shown=np.arange(len(video)))
    return take if fits(video, fps) else resampled(take, video.times, fps)
