"""Clips of several recordings, encoded by one autoencoder, as one set to train on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from videowm.data.action_table import ActionTable
from videowm.data.clips import permutation, pick
from videowm.data.dataset import Dataset
from videowm.data.latents import Latents, LatentsIndex
from videowm.types import UserError

ALIKE = ("vae_hash", "world", "frames", "dtype", "shape", "stride", "action_names")  # of folders that are mixed
Statistics = tuple[list[float], list[float], list[float], list[float]]  # mean, std, action_mean, action_std


def listed(folders: str | Sequence[str]) -> list[str]:
    """One folder of latents or several, as a configuration names them.

    Raises:
        UserError: none is named.
    """
    if not folders and not isinstance(folders, str):
        raise UserError("latents names no folder: give one that videowm encode wrote")
    return [folders] if isinstance(folders, str) else list(folders)


def statistics_of(index: LatentsIndex) -> Statistics:
    """A folder's own."""
    return index.mean, index.std, index.action_mean, index.action_std


def opened(
    folder: str, split: str, statistics: Statistics | None = None, *, final: bool = False, actions: str | None = None
) -> Latents:
    """A split of a folder, as `Latents.open`, normalised by other statistics than its own where some are given.

    Those of actions are for recorded ones; another source brings its own.

    Raises:
        UserError: the folder is unfinished or damaged, or has no such source of actions.
    """
    latents = Latents.open(folder, split, final=final, actions=actions)
    if statistics is None:
        return latents
    names = ("mean", "std", "action_mean", "action_std") if latents.table is None else ("mean", "std")
    return replace(latents, index=replace(latents.index, **dict(zip(names, statistics))))


@dataclass(frozen=True)
class Mixture:
    """The training clips of some folders, numbered one folder after another, and the order in which they are drawn.

    All are normalised by the same statistics. Each pass goes over all clips. With `mix` each folder has passes of its
    own: of sum(mix) samples mix[i] are of folder i.
    """

    parts: list[Latents]
    mix: list[int] | None = None
    chosen: list[np.ndarray] | None = None  # of each part, its own numbers of the clips that count; None: all

    @classmethod
    def open(
        cls, folders: Sequence[str], mix: list[int] | None = None, statistics: Statistics | None = None, *,
        final: bool = False, actions: str | None = None, share: float = 1.0, seed: int = 0,
    ) -> Mixture:  # fmt: skip
        """Open the training split of some folders.

        Args:
            folders: of latents, of one autoencoder and one form.
            mix: samples of each folder in turn; None: by size.
            statistics: to normalise by; None: those of the first folder.
            final: the clips that were cut where games ended, instead of the regular ones.
            actions: their source.
            share: of each recording's training episodes, whose clips alone are there, as `videowm label` chooses them.
            seed: of that choice.

        Raises:
            UserError: one is unfinished or unlike the first, `mix` has not a number for each, or a share has no clips.
        """
        if mix is not None and len(mix) != len(folders):
            raise UserError(f"mix has {len(mix)} numbers for {len(folders)} folders of latents: give one for each")
        first = LatentsIndex.read(folders[0])
        statistics = statistics or statistics_of(first)
        for folder in folders[1:]:
            refuse_unlike(folders[0], first, folder, LatentsIndex.read(folder))
        parts = [opened(folder, "train", statistics, final=final, actions=actions) for folder in folders]
        return cls(parts, mix, None if share == 1 else [clips_of_share(part, share, seed) for part in parts])

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """Of each part, its own numbers of the clips that are there."""
        return self.chosen or [np.arange(len(part)) for part in self.parts]

    @property
    def index(self) -> LatentsIndex:
        """That of the first folder, with the statistics of all."""
        return self.parts[0].index

    @property
    def described(self) -> LatentsIndex:
        """The same with the names and statistics of the source's actions."""
        return self.parts[0].described

    @property
    def table(self) -> ActionTable | None:
        """The first folder's source of actions; None: what was recorded."""
        return self.parts[0].table

    @property
    def source(self) -> str:
        """The name of that source."""
        return self.parts[0].source

    @property
    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation by which all are normalised, float32 "c 1 1"."""
        return self.parts[0].scale

    @property
    def stride(self) -> int:
        """Time stride: actions per latent step."""
        return self.parts[0].stride

    @property
    def nbytes(self) -> int:
        """Bytes that `whole` takes."""
        return sum(part.nbytes // len(part) * len(own) for part, own in zip(self.parts, self.rows))

    @cached_property
    def firsts(self) -> np.ndarray:
        """The number of each part's first clip, int64 "parts", and behind it how many clips there are."""
        return np.cumsum([0, *map(len, self.rows)])

    @property
    def extent(self) -> dict[str, float]:
        """How many recorded episodes have clips here, and how many hours of video these are."""
        found = [np.unique(part.placed[0][rows]).tolist() for part, rows in zip(self.parts, self.rows)]
        hours = sum(Dataset(part.index.data).hours(own) for part, own in zip(self.parts, found))
        return {"episodes": sum(map(len, found)), "hours": hours}

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def part_of(self, clips: Sequence[int]) -> np.ndarray:
        """The number of the part that holds each of the clips "b", int64 "b"."""
        return np.searchsorted(self.firsts[1:], np.asarray(clips, np.int64), side="right")

    def split(self, clips: Sequence[int]) -> Iterator[tuple[Latents, np.ndarray, np.ndarray]]:
        """Of each part that holds some of the clips: it, their places among these, and their numbers within it."""
        clips, part = np.asarray(clips, np.int64), self.part_of(clips)
        for number in np.unique(part):
            rows = np.flatnonzero(part == number)
            yield self.parts[number], rows, self.rows[number][clips[rows] - self.firsts[number]]

    def windows(self, clips: Sequence[int], starts: Sequence[int], steps: int) -> tuple[Tensor, Tensor]:
        """As `Latents.windows`."""
        starts = np.asarray(starts, np.int64)
        found = [(rows, part.windows(own, starts[rows], steps)) for part, rows, own in self.split(clips)]
        if len(found) < 2:
            return found[0][1] if found else self.parts[0].windows([], [], steps)
        order = torch.from_numpy(np.argsort(np.concatenate([rows for rows, _ in found])))
        return tuple(torch.cat(column)[order] for column in zip(*(tensors for _, tensors in found)))

    def whole(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """As `Latents.whole`."""
        held = [part.new_empty(len(self), *part.shape[1:], device=device)
                for part in self.windows([], [], self.index.steps)]  # fmt: skip
        for part, rows, first in zip(self.parts, self.rows, self.firsts):
            for tensor, own in zip(held, part.whole(device, rows)):
                tensor[first : first + len(rows)] = own
        return tuple(held)

    @cached_property
    def shards(self) -> np.ndarray:
        """The number of each part's first shard, int64 "parts"."""
        return np.cumsum([0, *(len(part.names) for part in self.parts[:-1])])

    def shards_of(self, clips: Sequence[int]) -> np.ndarray:
        """The number of the shard that holds each of the clips "b", int64 "b"; shards too go on from part to part."""
        found = np.empty(len(clips), np.int64)
        for number, (part, rows, own) in zip(np.unique(self.part_of(clips)), self.split(clips)):
            found[rows] = self.shards[number] + part.shards_of(own)
        return found

    def check(self, shards: Sequence[int]) -> None:
        """As `Latents.check`."""
        for shard in shards:
            number = int(np.searchsorted(self.shards, shard, side="right")) - 1
            self.parts[number].check([shard - self.shards[number]])

    def pick(self, seed: int, index: int) -> tuple[int, np.random.Generator]:
        """The clip of sample `index` of an endless stream, and a generator of the sample's own."""
        if self.mix is None:
            return pick(seed, index, len(self))
        turn, place = divmod(index, sum(self.mix))
        before = np.cumsum([0, *self.mix])
        part = int(np.searchsorted(before, place, side="right")) - 1
        own, _ = pick(seed, turn * self.mix[part] + int(place - before[part]), len(self.rows[part]))
        return int(self.firsts[part]) + own, np.random.default_rng((seed, 1, index))

    def first_pass(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Every clip once, in the order in which samples first use them, and these samples, int64 "n" each."""
        if self.mix is None:
            return permutation(seed, 0, len(self)), np.arange(len(self))
        before, clips, samples = np.cumsum([0, *self.mix]), [], []
        for number, (part, count) in enumerate(zip(self.rows, self.mix)):
            turn, place = np.divmod(np.arange(len(part)), count)
            clips.append(self.firsts[number] + permutation(seed, 0, len(part)))
            samples.append(turn * before[-1] + before[number] + place)
        clips, samples = np.concatenate(clips), np.concatenate(samples)
        order = np.argsort(samples)
        return clips[order], samples[order]

    def drawn(self, seed: int, samples: int) -> list[int]:
        """How many of the first samples are of each part."""
        if self.mix is None:
            passes, again = divmod(samples, len(self))
            rest = self.part_of(permutation(seed, passes, len(self))[:again])
            return (passes * np.diff(self.firsts) + np.bincount(rest, minlength=len(self.parts))).tolist()
        turns, rest = divmod(samples, sum(self.mix))
        before = np.cumsum([0, *self.mix[:-1]])
        return (turns * np.array(self.mix) + np.clip(rest - before, 0, self.mix)).tolist()


def clips_of_share(latents: Latents, share: float, seed: int) -> np.ndarray:
    """The numbers of the clips of the training episodes of a share, int64 "n".

    Raises:
        UserError: the clips are newly played ones, their recording changed, or no episode of the share is long enough.
    """
    index, dataset = latents.index, Dataset(latents.index.data)
    if index.played:
        raise UserError(f"share {share:g} is of recorded episodes, and {latents.folder} holds newly played ones: "
                        "encode without --play")  # fmt: skip
    if dataset.hash != index.data_hash:
        raise UserError(f"{dataset.root} changed since {latents.folder} was made of it: encode it again")
    rows = np.flatnonzero(np.isin(latents.placed[0], dataset.labelled_episodes(share, seed)))
    if not len(rows):
        raise UserError(f"share {share:g} of {latents.folder} has no episode of {index.frames} frames: give a larger "
                        "share, or encode shorter clips")  # fmt: skip
    return rows


def refuse_unlike(first: str, own: LatentsIndex, folder: str, other: LatentsIndex) -> None:
    """Refuse a folder that cannot be mixed with the first.

    Raises:
        UserError: it was made by another autoencoder, of another game, or in another form.
    """
    for key in ALIKE:
        if (there := getattr(other, key)) != (here := getattr(own, key)):
            raise UserError(f"latents {folder} has {key} {there!r} and {first} has {here!r}: encode both alike, with "
                            "one autoencoder")  # fmt: skip
