"""Captions that a world makes of its simulator's states: of a recording's clips, or of those that were played."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from videowm.data.captions import ClipKey, clips_to_caption, encode_line, write_captions
from videowm.data.dataset import Dataset
from videowm.data.latents import FILE, Latents, LatentsIndex
from videowm.files import short_hash
from videowm.types import UserError
from videowm.worlds import World, find_world, open_world

PIECE = 512  # clips whose states are read at once
Stretch = tuple[ClipKey, np.ndarray, np.ndarray]  # states "f k" and actions "f-1 a" of its frames


def caption_from_state(data: str | Path, *, clip_frames: int) -> tuple[str, int]:
    """Caption every clip of a recorded world from its states and actions -> (name, number of captions).

    Of a folder of latents these are its newly played training clips, whose states `videowm encode --states` kept.
    The phrasing is a function of (episode, start), so the same command gives the same file.

    Raises:
        UserError: the world is unknown, has no captions or recorded other states, or no episode is as long as a clip.
            Or latents hold no played clips, no states, or clips of another length.
    """
    root = Path(data)
    if (root / FILE).is_file():
        latents = played_clips(root, clip_frames)
        world, digest = talking(root, latents.index.world, latents.index.state_names), played_hash(latents.index)
        stretches, count = of_latents(latents), len(latents)
    else:
        dataset = Dataset(data)
        world, digest = talking(root, dataset.name, dataset.state_names), dataset.hash
        keys = clips_to_caption(dataset, clip_frames)
        stretches, count = of_recording(dataset, keys), len(keys)
    lines = [in_words(world, *one) for one in
             tqdm(stretches, total=count, desc="caption", unit="clip", dynamic_ncols=True)]  # fmt: skip
    content = short_hash(*map(encode_line, lines))  # a world that learns new phrasings makes a new file
    header = {"schema": 1, "source": "state", "dataset": digest, "world": world.name, "clip_frames": clip_frames}
    return write_captions(root, header | {"content": content}, lines), len(lines)


def talking(root: Path, name: str, state_names: Iterable[str]) -> World:
    """The world of that name, whose states can be put into words.

    Raises:
        UserError: it is unknown, has no captions, or other states were recorded.
    """
    known = find_world(name)
    if known is None or not known.has("caption") or tuple(state_names) != tuple(known.state_names):
        raise UserError(
            f"{root} ({name}) has no recorded states that its world can put into words: caption it with "
            "--base-url and --model"
        )
    return open_world(name)


def in_words(world: World, key: ClipKey, states: np.ndarray, actions: np.ndarray) -> dict[str, object]:
    """The line of a clip."""
    rng = np.random.default_rng([key.episode, key.start])
    short = world.caption(states, actions, rng)
    words = {"short": short, "detailed": f"{short} {world.details(states, actions, rng)}"}
    return {**key._asdict(), **words, "source": "state"}


def of_recording(dataset: Dataset, keys: list[ClipKey]) -> Iterator[Stretch]:
    """What the simulator knew of a recording's clips."""
    for key in keys:
        rows = slice(key.start, key.start + key.frames)
        yield key, dataset.states(key.episode)[rows], dataset.actions(key.episode)[rows][:-1]


def played_clips(folder: Path, clip_frames: int) -> Latents:
    """The training clips of a folder of latents.

    Raises:
        UserError: they were not newly played, or are of another length.
    """
    latents = Latents.open(folder, "train")
    if not latents.index.played:
        raise UserError(f"{folder} was encoded from {latents.index.data}: caption that recording, its clips are these")
    if clip_frames != latents.index.frames:
        raise UserError(f"the clips of {folder} have {latents.index.frames} frames: give --clip-frames "
                        f"{latents.index.frames}")  # fmt: skip
    return latents


def of_latents(latents: Latents) -> Iterator[Stretch]:
    """What the simulator knew of the clips of a folder of latents."""
    episodes, starts = (part.tolist() for part in latents.places())
    for first in range(0, len(latents), PIECE):
        clips = range(first, min(first + PIECE, len(latents)))
        for i, states, actions in zip(clips, latents.states(clips).numpy(), latents.recorded(clips).numpy()):
            yield ClipKey(episodes[i], starts[i], latents.index.frames), states, actions


def played_hash(index: LatentsIndex) -> str:
    """16 hex digits of what decides which clips were played."""
    return short_hash(f"{index.data_hash} {sorted(index.played.items())} {index.frames}")
