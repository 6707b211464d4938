"""Captions that a world makes of its simulator's states: of a recording's clips, or of those that were played."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from videowm.data.captions import ClipKey, clips_to_caption, encode_line, write_captions
from videowm.data.dataset import Dataset
from videowm.data.latents import FILE, Latents, LatentsIndex
from videowm.data.played import cores
from videowm.files import short_hash
from videowm.types import UserError
from videowm.worlds import World, find_world, open_world

PIECE = 512  # clips whose states are read at once
ALONE = 20_000  # stretches that one process captions; more are shared out over the cores
Stretch = tuple[ClipKey, np.ndarray, np.ndarray]  # states "f k" and actions "f-1 a" of its frames


def caption_from_state(data: str | Path, *, clip_frames: int) -> tuple[str, int]:
    """Caption every clip of a recorded world from its states and actions -> (name, number of captions).

    Of a folder of latents these are its newly played training clips, whose states `videowm encode --states` kept. Where
    `clip_frames` are fewer than a clip's, every stretch of that length gets words that begins with a latent step: what
    a training window of as many frames shows, and no more.

    The phrasing is a function of (episode, start), so the same command gives the same file.

    Raises:
        UserError: the world is unknown, has no captions or recorded other states, or no episode is as long as a clip.
            Or latents hold no played clips, no states, or clips of another length.
    """
    root = Path(data)
    if (root / FILE).is_file():
        latents = played_clips(root, clip_frames)
        world, digest = talking(root, latents.index.world, latents.index.state_names), played_hash(latents.index)
        starts = range(0, latents.index.frames - clip_frames + 1, latents.stride)
        stretches, count = of_latents(latents, clip_frames, starts), len(latents) * len(starts)
    else:
        dataset = Dataset(data)
        world, digest = talking(root, dataset.name, dataset.state_names), dataset.hash
        keys = clips_to_caption(dataset, clip_frames)
        stretches, count = of_recording(dataset, keys), len(keys)
    said = tqdm(all_in_words(world, stretches, count), total=count, desc="caption", unit="clip", dynamic_ncols=True)
    lines = list(said)
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


def all_in_words(world: World, stretches: Iterator[Stretch], count: int) -> Iterator[dict[str, object]]:
    """The lines of all stretches, in their order; many are shared out over the cores."""
    if count <= ALONE:
        yield from (in_words(world, *one) for one in stretches)
        return
    pieces = iter(lambda: list(islice(stretches, PIECE)), [])
    with ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn")) as pool:
        yield from chain.from_iterable(pool.map(partial(piece_in_words, world.name), pieces))


def piece_in_words(name: str, piece: list[Stretch]) -> list[dict[str, object]]:
    """The lines of some stretches, of the world of that name."""
    world = open_world(name)
    return [in_words(world, *one) for one in piece]


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
    frames, stride = latents.index.frames, latents.stride
    if clip_frames > frames or (frames - clip_frames) % stride:
        raise UserError(f"the clips of {folder} have {frames} frames: give --clip-frames {frames}, or fewer by a "
                        f"multiple of {stride}")  # fmt: skip
    return latents


def of_latents(latents: Latents, frames: int, starts: range) -> Iterator[Stretch]:
    """What the simulator knew of the clips of a folder of latents: of `frames` frames from each of `starts` on."""
    episodes, begins = (part.tolist() for part in latents.places())
    for first in range(0, len(latents), PIECE):
        clips = range(first, min(first + PIECE, len(latents)))
        for i, states, actions in zip(clips, latents.states(clips).numpy(), latents.recorded(clips).numpy()):
            for s in starts:
                key = ClipKey(episodes[i], begins[i] + s, frames)
                yield key, states[s : s + frames], actions[s : s + frames - 1]


def played_hash(index: LatentsIndex) -> str:
    """16 hex digits of what decides which clips were played."""
    return short_hash(f"{index.data_hash} {sorted(index.played.items())} {index.frames}")
