"""What an import is made of: episodes that are still elsewhere, and how their frames and actions are to be stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from videowm.actions.tables import Table, categories, choose, numbers
from videowm.data.foreign_video import STEADY, Painter, Size, Video
from videowm.data.layout import check_width
from videowm.files import decode_text
from videowm.options import ImportOptions
from videowm.types import UserError

LARGEST = 2048  # pixels of a side
FEW = 16  # whole numbers of a column that look like codes
Notes = list[tuple[str, str]]  # (file or episode, what is to be said of it)


@dataclass(frozen=True)
class Rows:
    """What happens beside the frames of an episode; its n rows are n frames."""

    actions: np.ndarray  # float32 "n a", row i leads frame i to frame i+1
    rewards: np.ndarray  # float32 "n"
    dones: np.ndarray  # bool "n"
    states: np.ndarray  # float32 "n k"

    @classmethod
    def of(cls, actions: np.ndarray) -> Rows:
        """Actions alone."""
        none = np.zeros(len(actions), np.float32)
        return cls(actions, none, none > 0, np.zeros((len(actions), 0), np.float32))

    def at(self, rows: np.ndarray) -> Rows:
        """Some of the rows."""
        return Rows(self.actions[rows], self.rewards[rows], self.dones[rows], self.states[rows])


@dataclass(frozen=True)
class Take:
    """One episode that is still elsewhere."""

    name: str
    video: Video
    files: tuple[Path, ...]  # all that it is made of
    rows: Callable[[], Rows]
    caption: str
    first: int = 0  # its first frame within the video
    shown: np.ndarray | None = None  # its stored frames, counted from its first, int64 "n", rising; repeats allowed

    @property
    def frames(self) -> np.ndarray:
        """The video's frames that are stored, in order."""
        return self.first + self.shown


@dataclass(frozen=True)
class Plan:
    """All that an import will write."""

    takes: list[Take]
    name: str
    fps: float
    size: Size
    action_names: tuple[str, ...]
    held_out: int  # episodes for test, the last ones
    whole: bool  # whether every video is decoded to its end
    notes: Notes
    camera: str | None = None
    state_names: tuple[str, ...] = ()


def wanted_size(size: str | int) -> Size | None:
    """(H, W) of `HxW`, of one number for both, or None for `keep`.

    Raises:
        UserError: the text is none of these, or such frames cannot be encoded.
    """
    text = str(size)
    if text == "keep":
        return None
    parts = text.lower().split("x")
    if not (len(parts) in (1, 2) and all(p.isascii() and p.isdigit() and len(p) < 7 for p in parts)):
        raise UserError(f"size {text!r} is none: give HxW such as 96x128, one number for both, or keep")
    found = int(parts[0]), int(parts[-1])
    check_size(found)
    return found


def check_size(size: Size) -> None:
    """Refuse frames that cannot be encoded or read.

    Raises:
        UserError: a side is odd or not within 16 to 2048 pixels, or decord cannot read the width.
    """
    if min(size) < 16 or max(size) > LARGEST or size[0] % 2 or size[1] % 2:
        raise UserError(f"size {size[0]}x{size[1]} cannot be stored: give --size with even numbers, 16 to {LARGEST}")
    check_width(size[1])


def wanted_episodes(text: str | None, known: Sequence[int]) -> list[int]:
    """The numbers in `0,2,5-9`, in rising order; all of `known` where nothing is given.

    Raises:
        UserError: the text is no such list, or an episode is not there.
    """
    if text is None:
        return list(known)
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        ends = [first.strip(), (last or first).strip()]
        if not all(end.isascii() and end.isdigit() and len(end) < 10 for end in ends) or int(ends[0]) > int(ends[1]):
            raise UserError(f"episodes {text!r} is no list of numbers: give such as 0,2,5-9")
        last_known = max(known)
        if int(ends[1]) > last_known:
            raise UserError(f"there is no episode {ends[1]}: the last one is {last_known}")
        found |= set(range(int(ends[0]), int(ends[1]) + 1))
    if missing := sorted(found - set(known)):
        raise UserError(f"there is no episode {missing[0]}: leave it out of episodes {text!r}")
    return sorted(found)


def stored_size(videos: Sequence[tuple[str, Video]], options: ImportOptions) -> Size:
    """The one (H, W) that the frames of all videos get.

    Raises:
        UserError: sizes are kept and differ, or cannot be encoded.
    """
    size = wanted_size(options.size)
    sizes = {name: Painter(video, size, options.fit).size for name, video in videos}
    (first, found), *others = sizes.items()
    for name, other in others:
        if other != found:
            texts = "{}x{}".format(*other), "{}x{}".format(*found)
            raise UserError(f"{name} has frames of {texts[0]}, {first} of {texts[1]}: give one --size HxW for all")
    check_size(found)
    return found


def common_rate(videos: Sequence[tuple[str, Video]], wanted: float | None) -> float:
    """The rate of the stored frames: the wanted one, else the one that all videos have, within 1 %.

    Raises:
        UserError: none is wanted, and a video has frames at uneven times or another rate.
    """
    if wanted is not None:
        return wanted
    rate = Counter(video.fps for _, video in videos).most_common(1)[0][0]
    for name, video in videos:
        if not video.steady:
            gaps = 1000 * np.diff(video.times)
            raise UserError(
                f"the frames of {name} are {gaps.min():.0f} to {gaps.max():.0f} ms apart: give --fps "
                f"{round(video.fps) or 1} or another rate, at each of whose steps the frame that is shown is taken"
            )
        if not fits(video, rate):
            raise UserError(
                f"{name} has {video.fps:.4g} frames a second, {videos[0][0]} has {videos[0][1].fps:.4g}: give --fps "
                f"{round(min(video.fps, rate)) or 1} or another rate to which all are resampled"
            )
    return rate


def fits(video: Video, fps: float) -> bool:
    """Whether a video's frames can be stored as they are at `fps` frames a second."""
    return video.steady and abs(video.fps / fps - 1) <= STEADY


def rate_notes(videos: Sequence[tuple[str, Video]], fps: float) -> Notes:
    """What is to be said where a video's own rate is not the stored one."""
    notes = []
    for name, video in videos:
        if not fits(video, fps):
            own = f"{video.fps:.4g} fps" if video.steady else f"{video.fps:.4g} fps on average, at uneven times"
            notes.append((name, resampled_note(own, fps)))
        elif abs(video.fps / fps - 1) > 1e-6:
            notes.append((name, f"has {video.fps:.4g} fps, taken as {fps:.4g}"))
    return notes


def resampled_note(own: str, fps: float) -> str:
    """What is to be said of frames that get another rate."""
    return f"is resampled from {own} to {fps:.4g}: each step has the frame that is then shown, with that frame's action"


def full_rows(name: str, table: Table, video: Video) -> Table:
    """The table without a header of numbers, if its rows are one a frame or one between two.

    Raises:
        UserError: they are not, or the first row could be a header or an action.
    """
    frames, rows = len(video), len(table)
    if table.numbered and rows == frames + 1:
        return table.without_first_row()
    if table.numbered and rows == frames:
        raise UserError(
            f"the first row of {table.path} may be names or an action: name its columns, or write 0.0 for an action"
        )
    if rows in (frames - 1, frames):
        return table
    why = "give one row a frame, or one between two frames"
    if rows == frames + 1:
        why += " (is the first row a header, or the last one after the end?)"
    elif rows == frames - 2:
        why += " (does the table lack its first or last row?)"
    elif rows > frames and rows % frames == 0:
        why += f" (there are {rows // frames} rows a frame)"
    cut = f" (it {video.cut})" if video.cut else ""
    raise UserError(f"{name} has {frames} frames{cut} and {rows} actions: {why}")


def action_rows(
    tables: Sequence[tuple[str, Table]], options: ImportOptions
) -> tuple[tuple[str, ...], list[np.ndarray], Notes]:
    """The names of the actions of all episodes, their rows float32 "n a", and what is to be said of them.

    Raises:
        UserError: two tables differ in columns, or hold what is no finite number.
    """
    chosen = [choose(table, options.columns, options.one_hot) for _, table in tables]
    values = categories(chosen, options.one_hot)
    found = [numbers(table, values) for table in chosen]
    for (name, _), (names, _) in zip(tables, found):
        if names != found[0][0]:
            raise UserError(
                f"{name} has actions {', '.join(names)}, {tables[0][0]} has {', '.join(found[0][0])}: make them equal, "
                "or choose --columns that all have"
            )
    notes = [(table.path.name, note) for table in chosen for note in table.notes]
    names, rows = found[0][0], [rows for _, rows in found]
    return names, rows, notes + action_notes(names, rows)


def action_notes(names: Sequence[str], actions: Sequence[np.ndarray]) -> Notes:
    """What is odd about actions over all episodes: columns that never change, and ones that look like codes."""
    low, high = (np.stack([getattr(rows, end)(0) for rows in actions]) for end in ("min", "max"))
    still = [name for name, one, other in zip(names, low.min(0), high.max(0)) if one == other]
    notes = [("actions", f"never change in {', '.join(still)}")] if still else []
    for column, name in enumerate(names):
        values = np.unique(np.concatenate([np.unique(rows[:, column]) for rows in actions]))
        if "=" not in name and 2 < len(values) <= FEW and (values == np.arange(len(values))).all():
            notes.append(("actions", f"of {name} are the whole numbers 0 to {len(values) - 1}: if these are codes and "
                                     f"no amounts, use --one-hot {name}"))  # fmt: skip
    return notes


def resampled(take: Take, times: np.ndarray, fps: float) -> Take:
    """The take with the frames that are shown at each step of `fps`; `times` are its own frames', in seconds."""
    return replace(take, shown=replace(take.video, times=times - times[0]).sampled(fps))


def read_caption(path: Path) -> tuple[str, str | None]:
    """The words of a text file, and its encoding where that is not UTF-8; no words where there is no file.

    Raises:
        UserError: the file cannot be read as text.
    """
    try:
        text, encoding = decode_text(path.read_bytes()) if path.exists() else ("", "utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} is no text in UTF-8: save it as one, or remove it") from None
    return " ".join(text.split()), None if encoding == "utf-8" else encoding
