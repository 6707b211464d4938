"""Latents on disk, read: every clip of a dataset encoded once, with statistics and the hash of the VAE that made them.

A folder holds shards `train-00000.safetensors`, … and `test-00000.safetensors`, …, and `latents.json`, which is written
last. `encode.py` writes what is read here.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from videowm import config as configuration
from videowm.actions.group import group_actions, grouped_size
from videowm.data.action_table import ActionTable, find_source, source_name
from videowm.data.digests import Digests
from videowm.data.outcomes import Targets, targets
from videowm.data.positions import REMEDY, damaged, raw, read_into
from videowm.files import read_json, write_json
from videowm.limits import Count, NonNegative, Positive
from videowm.types import UserError

FILE = "latents.json"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NUMBERS = {"F32": torch.float32, "I64": torch.int64, "U8": torch.uint8}
FORMATS = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}  # the same in a shard's header
SPLITS = ("train", "test")
FINAL = "final_"  # before the names of what a shard holds of clips cut where games ended
PIECE = 256  # clips read at once where all are
# What two calls that make one folder must share.
DECIDING = ("vae_hash", "data_hash", "frames", "dtype", "played", "state_names")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a shard of latents was made of and how. Every shard holds it, and so does the index."""

    data: str  # folder of the dataset
    data_hash: str  # of the dataset
    vae: str  # run directory, diffusers folder or hub name
    vae_hash: str  # of the autoencoder
    frames: Count  # of a clip
    dtype: Literal["fp32", "fp16", "bf16"]  # as which latents are stored
    played: dict[str, int] | None = None  # episodes and seed of newly played training clips; None: recorded ones
    state_names: list[str] = field(default_factory=list)  # of the numbers of a kept state; none where none is kept

    def check_same(self, other: Origin, path: Path) -> None:
        """Compare with the origin of what lies at `path`.

        Raises:
            UserError: they differ in the autoencoder, the data or the settings.
        """
        for key in DECIDING:
            ours, theirs = getattr(self, key), getattr(other, key)
            if ours != theirs:
                raise UserError(
                    f"{path} was encoded with {key} {theirs!r}, this call has {ours!r}: "
                    "choose another --out or remove the folder"
                )


@dataclass(frozen=True, kw_only=True)
class LatentsIndex(Origin):
    """The content of latents.json, which completes a folder of latents."""

    rounding_rms: NonNegative | None = None  # error of storing in `dtype`, relative to the latents' spread
    rounding_db: float | None = None  # PSNR of frames decoded from rounded latents; None where nothing is rounded
    stride: tuple[Count, Count, Count]  # (time, height, width) pixels of a latent element
    steps: Count  # latent steps of a clip
    shape: tuple[Count, Count, Count]  # (c, h, w) of a latent step
    mean: list[float]  # of the training latents, per channel
    std: list[Positive]  # likewise
    action_mean: list[float]  # of the training clips' actions, per element
    action_std: list[Positive]  # likewise
    action_names: list[str]  # of the elements of an action
    world: str  # the game
    fps: Positive  # frames a second
    clips: dict[str, int] = field(default_factory=dict)  # split -> count
    files: dict[str, str] = field(default_factory=dict)  # name of a shard -> its sha256

    def __post_init__(self) -> None:
        sizes = {"mean": self.shape[0], "std": self.shape[0]}
        sizes |= dict.fromkeys(("action_mean", "action_std"), len(self.action_names))
        for name, size in sizes.items():
            if len(getattr(self, name)) != size:
                raise UserError(f"{name} has {len(getattr(self, name))} values, expected {size}")
        if set(self.clips) != set(SPLITS) or not all(type(count) is int and count > 0 for count in self.clips.values()):
            raise UserError(f"clips is {self.clips!r}, expected a count of train and test clips")
        for name, digest in self.files.items():
            if not isinstance(digest, str) or Path(name).name != name:
                raise UserError(f"files holds {name!r}: {digest!r}, expected a shard's name and sha256")
        if not all(self.shards(split) for split in SPLITS):
            raise UserError("files names no shard of train or of test")

    @classmethod
    def read(cls, folder: str | Path) -> LatentsIndex:
        """The index of a finished folder.

        Raises:
            UserError: the folder is unfinished, or the file is damaged.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise UserError(f"{folder} holds no finished latents (no {FILE}): run videowm encode first")
        data = read_json(path, REMEDY)
        try:
            return configuration.build(cls, {key: data[key] for key in data if key in cls.__dataclass_fields__}, "it")
        except UserError as error:
            raise UserError(f"{path} is damaged ({error}): {REMEDY}") from None

    def write(self, folder: Path) -> None:
        """Write latents.json, whole or not at all."""
        write_json(folder / FILE, {"schema": 1} | configuration.to_dict(self))

    def shards(self, split: str) -> list[str]:
        """The names of a split's shards, in their order."""
        return sorted(name for name in self.files if name.startswith(f"{split}-"))

    def verify(self, folder: Path) -> None:
        """Read every shard and compare it with its sha256.

        Raises:
            UserError: a shard is missing or not the file that was encoded.
        """
        digests = Digests(folder)
        for name in self.files:
            self.check(folder / name, digests, again=True)

    def check(self, path: Path, digests: Digests, *, again: bool = False) -> None:
        """Compare one shard with its sha256; `again`: read it whatever is remembered of it.

        Raises:
            UserError: the shard is missing or not the file that was encoded.
        """
        try:
            sound = digests.of(path, again=again) == self.files[path.name]
        except OSError:
            sound = False
        if not sound:
            raise damaged(path)

    @cached_property
    def tensors(self) -> dict[str, tuple[str, list[int], int]]:
        """What a shard holds of each clip: name -> (number format, shape, bytes)."""
        held = {
            "latents": (FORMATS[self.dtype], [self.steps, *self.shape]),
            "actions": ("F32", [self.frames - 1, len(self.action_names)]),
            "episode": ("I64", []),
            "start": ("I64", []),
        }
        return {name: with_bytes(*kind) for name, kind in held.items()}

    @cached_property
    def outcomes(self) -> dict[str, tuple[str, list[int], int]]:
        """What a shard with rewards and ends holds beside `tensors` of each clip, likewise."""
        rows, stride = self.frames - 1 + self.stride[0], self.stride[0]
        held = {
            "rewards": ("F32", [rows]),
            "dones": ("U8", [rows]),
            "rows": ("I64", []),
            "next_actions": ("F32", [stride, len(self.action_names)]),
        }
        if self.state_names:
            held["states"] = ("F32", [self.frames, len(self.state_names)])
        return {name: with_bytes(*kind) for name, kind in held.items()}

    def source(self, folder: str | Path, name: str | None) -> ActionTable | None:
        """The table of a source of actions, below the folder of these latents or their recording; None: recorded ones.

        Raises:
            UserError: there is no such source, or it says nothing of clips that were played and not recorded.
        """
        table = find_source(name, self.action_names, (folder, self.data), self.data_hash)
        if table is not None and len(table.first) and self.played:
            raise UserError(f"actions {name!r} are of recorded episodes, and {folder} holds newly played ones: encode "
                            "without --play")  # fmt: skip
        return table

    def acting(self, table: ActionTable | None) -> LatentsIndex:
        """The same with the names and statistics of a source's actions."""
        if table is None:
            return self
        return replace(self, action_names=list(table.names), action_mean=table.mean.tolist(),
                       action_std=table.std.tolist())  # fmt: skip

    @property
    def latent_scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the training latents, float32 "c 1 1"."""
        return tuple(torch.tensor(values)[:, None, None] for values in (self.mean, self.std))

    @property
    def action_scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the training actions, float32 "a"."""
        return torch.tensor(self.action_mean), torch.tensor(self.action_std)


def with_bytes(dtype: str, shape: list[int]) -> tuple[str, list[int], int]:
    """A tensor's number format and shape, and its bytes."""
    return dtype, shape, math.prod(shape) * int(dtype.strip("BFIU")) // 8


@dataclass(frozen=True)
class Latents:
    """The clips of one split on disk. Opening reads the headers of shards; what a batch needs is read by position.

    Nothing is kept in memory, so the size of a folder does not matter. The system keeps what was read, once for all
    processes of a host. Where the disk has to be asked, positioned reads were 2 to 17 times faster than a memory map.
    A file that became shorter is a sentence here, and SIGBUS there.
    """

    folder: Path
    names: list[str]  # of the shards
    counts: np.ndarray  # int64 "shards", clips of each
    begins: np.ndarray  # int64 "shards n", byte where each of `LatentsIndex.tensors`, then `.outcomes` begins; or 0
    index: LatentsIndex
    digests: Digests
    table: ActionTable | None = None  # the source of actions; None: what was recorded, which the shards hold

    @classmethod
    def open(cls, folder: str | Path, split: str, *, final: bool = False, actions: str | None = None) -> Latents:
        """Open a split, "train" or "test". What shards hold is compared with their sha256 by `check` alone.

        With `final` these are the clips that were cut where games ended, which may be none. `actions` is their source.

        Raises:
            UserError: the folder is unfinished, a shard is missing, cut off or of another shape, or it is from before
                such clips were cut. Or there is no such source of actions.
        """
        folder = Path(folder)
        index = LatentsIndex.read(folder)
        names = index.shards(split)
        headers = np.array([read_header(folder / name, index, FINAL * final) for name in names], np.int64)
        if not final and headers[:, 0].sum() != index.clips[split]:
            raise UserError(f"{folder / FILE} lists {index.clips[split]} {split} clips, the shards hold "
                            f"{headers[:, 0].sum()}: {REMEDY}")  # fmt: skip
        return cls(folder, names, headers[:, 0], headers[:, 1:], index, Digests(folder), index.source(folder, actions))

    @cached_property
    def ends(self) -> np.ndarray:
        """Clips up to the end of each shard, int64 "shards"."""
        return np.cumsum(self.counts)

    @property
    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the training clips, float32 "c 1 1"."""
        return self.index.latent_scale

    @cached_property
    def described(self) -> LatentsIndex:
        """The index with the names and statistics of the source's actions; of the shards `index` alone speaks."""
        return self.index.acting(self.table)

    @property
    def source(self) -> str:
        """The source of actions: `recorded`, `none`, or KIND/HASH."""
        return source_name(self.table, self.index.action_names)

    @property
    def stride(self) -> int:
        """Time stride: actions per latent step."""
        return self.index.stride[0]

    @property
    def nbytes(self) -> int:
        """Bytes that `whole` takes."""
        grouped = 4 * self.index.steps * grouped_size(len(self.described.action_names), self.stride)
        return len(self) * (self.index.tensors["latents"][2] + grouped)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def shards_of(self, clips: np.ndarray) -> np.ndarray:
        """The number of the shard that holds each of the clips "b", int64 "b"."""
        return np.searchsorted(self.ends, clips, side="right")

    def check(self, shards: Sequence[int]) -> None:
        """Compare shards with their sha256, each once a host.

        Raises:
            UserError: one is missing or not the file that was encoded.
        """
        for shard in shards:
            self.index.check(self.folder / self.names[shard], self.digests)

    def windows(self, clips: Sequence[int], starts: Sequence[int], steps: int) -> tuple[Tensor, Tensor]:
        """Latents as they are stored "b s c h w" and grouped actions float32 "b s g" of some windows.

        Args:
            clips: number of each window's clip.
            starts: its first latent step within the clip.
            steps: latent steps of a window.

        Raises:
            UserError: a shard is missing or shorter than it was, or an action is not finite.
        """
        clips, starts = np.asarray(clips, np.int64), np.asarray(starts, np.int64)
        index, shards = self.index, self.shards_of(clips)
        latents = torch.empty(len(clips), steps, *index.shape, dtype=DTYPES[index.dtype])
        actions = torch.empty(len(clips), index.frames - 1, len(index.action_names))
        whole, each = index.tensors["latents"][2], index.tensors["actions"][2]
        rows = clips - (self.ends - self.counts)[shards]
        first = self.begins[shards, 0] + rows * whole + starts * (whole // index.steps)
        acted = self.begins[shards, 1] + rows * each
        for shard, *at, z, a in zip(shards.tolist(), first.tolist(), acted.tolist(), raw(latents), raw(actions)):
            read_into(self.folder / self.names[shard], zip(at, (z, a)))
        step = torch.from_numpy(starts)[:, None] + torch.arange(steps)
        return latents, self.grouped(self.sourced(clips, actions))[torch.arange(len(clips))[:, None], step]

    def sourced(self, clips: np.ndarray, stored: Tensor) -> Tensor:
        """Actions "b n a" of some clips, from their first frame on, by the source; `stored` ones are as recorded."""
        if self.table is None:
            return stored
        return torch.from_numpy(self.table.rows(*(part[clips] for part in self.placed), stored.shape[1]))

    def grouped(self, actions: Tensor) -> Tensor:
        """Actions "b n a" as they are stored -> normalised ones, float32 "b t g", grouped by latent step.

        Raises:
            UserError: an action is not finite.
        """
        actions = normalised(actions, self.described.action_scale)
        if not torch.isfinite(actions).all():
            raise UserError(f"{self.folder} holds actions that are not finite: encode a dataset with finite actions")
        return group_actions(actions, self.stride)

    def outcomes(self, clips: Sequence[int]) -> tuple[Targets, Tensor]:
        """What happens in the step after each of the t steps of some clips, and grouped actions "b t g" of these steps.

        Raises:
            UserError: the latents have no rewards and ends, or a shard is missing or shorter than it was.
        """
        clips, index = np.asarray(clips, np.int64), self.index
        wanted = [index.tensors["actions"], *list(index.outcomes.values())[:4]]
        held = [torch.empty(len(clips), *(shape or [1]), dtype=NUMBERS[kind]) for kind, shape, _ in wanted]
        shards = self.shards_of(clips)
        rows, begins = clips - (self.ends - self.counts)[shards], self.begins[shards][:, [1, 4, 5, 6, 7]]
        if len(clips) and not begins.all():
            raise without_outcomes(self.folder)
        each = np.array([size for *_, size in wanted])
        for shard, at, *memory in zip(shards.tolist(), (begins + rows[:, None] * each).tolist(), *map(raw, held)):
            read_into(self.folder / self.names[shard], zip(at, memory))
        actions, rewards, dones, count, following = held
        grouped = self.grouped(self.sourced(clips, torch.cat([actions, following], dim=1)))[:, 1:]
        return targets(rewards, dones, count[:, 0], self.stride), grouped

    def states(self, clips: Sequence[int]) -> Tensor:
        """The simulator's state at every frame of some clips, float32 "b f k" in the order of `index.state_names`.

        Raises:
            UserError: the latents hold no states, or a shard is missing or shorter than it was.
        """
        if not self.index.state_names:
            raise UserError(f"{self.folder} holds no states: encode with --states into another --out")
        return self._numbers(clips, 8, self.index.outcomes["states"])

    def recorded(self, clips: Sequence[int]) -> Tensor:
        """The recorded actions between the frames of some clips, float32 "b f-1 a", as the game took them.

        Raises:
            UserError: a shard is missing or shorter than it was.
        """
        return self._numbers(clips, 1, self.index.tensors["actions"])

    def _numbers(self, clips: Sequence[int], column: int, held: tuple[str, list[int], int]) -> Tensor:
        """One tensor of some clips, "b 1" of single numbers: its place in `begins`, and its type, shape and bytes."""
        clips, (kind, shape, size) = np.asarray(clips, np.int64), held
        found = torch.empty(len(clips), *(shape or [1]), dtype=NUMBERS[kind])
        shards = self.shards_of(clips)
        places = self.begins[shards, column] + size * (clips - (self.ends - self.counts)[shards])
        for shard, place, memory in zip(shards, places.tolist(), raw(found)):
            read_into(self.folder / self.names[shard], [(place, memory)])
        return found

    def whole(self, device: torch.device | str = "cpu", chosen: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """Latents as they are stored "n t c h w" and grouped actions float32 "n t g" of all or chosen clips "n"."""
        chosen = np.arange(len(self)) if chosen is None else chosen
        held = [part.new_empty(len(chosen), *part.shape[1:], device=device)
                for part in self.windows([], [], self.index.steps)]  # fmt: skip
        for first in range(0, len(chosen), PIECE):
            clips = chosen[first : first + PIECE]
            for tensor, part in zip(held, self.windows(clips, np.zeros_like(clips), self.index.steps)):
                tensor[first : first + PIECE] = part
        return tuple(held)

    def places(self) -> tuple[Tensor, Tensor]:
        """Episode and first frame within it of every clip, int64 "n" each."""
        found = torch.empty(2, len(self), dtype=torch.int64)
        for name, begins, end, count in zip(self.names, self.begins.tolist(), self.ends, self.counts):
            read_into(self.folder / name, zip(begins[2:4], raw(found[:, end - count : end])))
        return tuple(found)

    @cached_property
    def placed(self) -> tuple[np.ndarray, np.ndarray]:
        """The same as arrays, read once."""
        return tuple(part.numpy() for part in self.places())

    def episodes(self, clips: Sequence[int]) -> Tensor:
        """The episodes of some clips "b", int64 "b"."""
        return self._numbers(clips, 2, self.index.tensors["episode"])[:, 0]


def without_outcomes(folder: Path) -> UserError:
    """The sentence for latents without rewards and ends."""
    return UserError(f"{folder} holds no rewards and ends, it is older than they are or its recording has none: encode "
                     "a recording that has them into another --out")  # fmt: skip


def read_header(path: Path, index: LatentsIndex, kind: str = "") -> list[int]:
    """The clips of a shard, and the byte at which each of its tensors begins, 0 for rewards and ends that are unknown.

    `kind` is `FINAL` for the clips that were cut where games ended.

    Raises:
        UserError: it is missing, cut off, holds tensors of other shapes, or no such clips.
    """
    try:
        with path.open("rb") as file:
            size, length = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, size)))
        if kind and f"{kind}latents" not in header:
            raise without_outcomes(path.parent)
        count, begins = header[f"{kind}latents"]["shape"][0], []
        for name, (dtype, shape, each) in (index.tensors | index.outcomes).items():
            if name in index.outcomes and f"{kind}{name}" not in header:
                begins.append(0)
                continue
            begin, end = header[f"{kind}{name}"]["data_offsets"]
            begins.append(8 + length + begin)
            found = header[f"{kind}{name}"]["dtype"], header[f"{kind}{name}"]["shape"], end - begin
            if found != (dtype, [count, *shape], count * each) or not 0 <= begin <= end <= size - 8 - length:
                raise ValueError(name)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise damaged(path) from None
    return [count, *begins]


def normalised(values: Tensor, scale: Sequence[Tensor]) -> Tensor:
    """Stored values in float32, of mean 0 and variance 1 by their mean and deviation `scale`; the only such formula."""
    mean, std = scale
    return (values.float() - mean) / std
