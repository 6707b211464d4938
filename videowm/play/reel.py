"""What was played, kept for as long as there is room, and written as an episode and as an mp4."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from videowm.data.dataset import Dataset
from videowm.data.layout import Layout, finish, write_group
from videowm.files import visible, writing
from videowm.lock import FolderLock
from videowm.show import draw_actions, side_by_side, write_mp4
from videowm.types import Episode, UserError

LONGEST = 2048  # frames that are kept; older ones are forgotten
CELL = 256  # pixels of a view in the mp4


@dataclass
class Reel:
    """Frames of every view by its name, one more than actions, from the newest start on."""

    names: list[str]
    frames: dict[str, deque] = field(init=False)
    actions: deque = field(init=False)

    def __post_init__(self) -> None:
        self.frames = {name: deque(maxlen=LONGEST + 1) for name in self.names}
        self.actions = deque(maxlen=LONGEST)

    def start(self, frame: UInt8[np.ndarray, "H W 3"]) -> None:
        """Forget all, and begin at a frame that all views share."""
        self.actions.clear()
        for frames in self.frames.values():
            frames.clear()
            frames.append(frame)

    def add(self, actions: Float32[np.ndarray, "n a"], views: dict[str, UInt8[np.ndarray, "n H W 3"]]) -> None:
        """What followed."""
        self.actions.extend(actions)
        for name, frames in views.items():
            self.frames[name].extend(np.array(frames))  # a view would keep the futures that were not picked

    def whole(self) -> Iterator[tuple[str, UInt8[np.ndarray, "f H W 3"]]]:
        """The views that were played all along, with a frame for every action."""
        for name, frames in self.frames.items():
            if len(frames) == len(self.actions) + 1:
                yield name, np.stack(list(frames)[:-1])

    def save(self, out: Path, source: Dataset, caption: str) -> list[Path]:
        """Write each view as an episode of the dataset OUT/VIEW, and all of them as one mp4; returns the paths.

        Raises:
            UserError: nothing was played, or another process writes there.
        """
        if len(self.actions) < 2:
            raise UserError("nothing was played since the start, so nothing can be saved: play a few frames first")
        actions, views = np.stack(list(self.actions)), dict(self.whole())
        written = [save_episode(out / name, frames, actions, source, caption) for name, frames in views.items()]
        video = draw_actions(side_by_side(views, cell=CELL), actions, list(source.action_names))
        name = time.strftime("played-%Y%m%d-%H%M%S")
        path = next(p for i in range(1000) if not (p := out / f"{name}{f'-{i}' * (i > 0)}.mp4").exists())
        with writing(out):
            write_mp4(path, video, source.fps)
        return [path, *written]


def save_episode(
    root: Path, frames: UInt8[np.ndarray, "f H W 3"], actions: Float32[np.ndarray, "f a"], source: Dataset,
    caption: str,
) -> Path:  # fmt: skip
    """Add an episode to the dataset `root`, which is begun where there is none.

    Raises:
        UserError: another process writes there, or the folder holds something else.
    """
    layout = Layout(source.name, source.fps, source.size, tuple(source.action_names), group=1)
    with writing(root):
        lock = FolderLock(root, f"another process is writing into {root}: wait for it")
        try:
            check_folder(root, layout)
            count = len(visible(root, "data/*/*.parquet"))
            write_group(root, count, [episode(frames, actions, caption)], layout)
            finish(root, layout, test_share=0.1)
        finally:
            lock.remove()
    return root


def check_folder(root: Path, layout: Layout) -> None:
    """Refuse a folder that holds other things than episodes of this layout.

    Raises:
        UserError: it does.
    """
    others = [path for path in root.iterdir() if path.name != ".lock"]
    if not (root / "meta/info.json").exists():
        if others and not all(path.name in ("data", "videos", "meta", "captions.jsonl") for path in others):
            raise UserError(f"{root} holds something else than played episodes: give another --out")
        return
    present = Dataset(root)
    if (present.name, present.size, present.action_names) != (layout.name, layout.size, layout.action_names):
        raise UserError(f"{root} holds episodes of {present.name}, {present.size}: give another --out")


def episode(frames: Sequence, actions: Sequence, caption: str) -> Episode:
    """Played frames with the action that was taken at each; a dream has neither rewards nor states."""
    count = len(frames)
    return Episode(np.asarray(frames), np.asarray(actions, np.float32), np.zeros(count, np.float32),
                   np.zeros(count, bool), np.zeros((count, 0), np.float32), caption)  # fmt: skip
