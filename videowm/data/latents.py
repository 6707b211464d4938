"""Latents on disk, read: every clip of a dataset encoded once, with statistics and the hash of the VAE that made them.

A folder holds shards `train-00000.safetensors`, … and `test-00000.safetensors`, …, and `latents.json`, which is written
last. `encode.py` writes what is read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from videowm import config as configuration
from videowm.files import read_json, sha256_of, write_json
from videowm.limits import Count, NonNegative, Positive
from videowm.types import UserError

FILE = "latents.json"
REMEDY = "run the same videowm encode command again"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SPLITS = ("train", "test")
DECIDING = ("vae_hash", "data_hash", "frames", "dtype", "played")  # what two calls that make one folder must share


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a shard of latents was made of and how. Every shard holds it, and so does the index."""

    data: str  # folder of the dataset
    data_hash: str
    vae: str  # run directory, diffusers folder or hub name
    vae_hash: str
    frames: Count  # of a clip
    dtype: Literal["fp32", "fp16", "bf16"]
    played: dict[str, int] | None = None  # episodes and seed of newly played training clips; None: recorded ones

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
    std: list[Positive]
    action_mean: list[float]  # of the training clips' actions, per element
    action_std: list[Positive]
    action_names: list[str]
    world: str
    fps: Positive
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

    def verify(self, folder: Path, splits: Sequence[str] = SPLITS) -> None:
        """Compare every shard of some splits with its sha256.

        Raises:
            UserError: a shard is missing or not the file that was encoded.
        """
        for name in [name for split in splits for name in self.shards(split)]:
            path = folder / name
            if not path.is_file() or sha256_of(path) != self.files[name]:
                raise UserError(f"{path} is missing or not the file that was encoded: {REMEDY}")


@dataclass(frozen=True)
class Latents:
    """The clips of one split in memory; latents as they were stored, since float32 is twice that for every training."""

    latents: Tensor  # "n t c h w", see `normalised`
    actions: Tensor  # float32 "n f-1 a", each of mean 0 and variance 1
    episode: Tensor  # int64 "n"
    start: Tensor  # int64 "n", index of the clip's first frame within the episode
    index: LatentsIndex

    @classmethod
    def open(cls, folder: str | Path, split: str) -> Latents:
        """Read a split, "train" or "test", and normalise its actions.

        Raises:
            UserError: the folder is unfinished, a file is missing or not what was written, or actions are not finite.
        """
        folder = Path(folder)
        index = LatentsIndex.read(folder)
        index.verify(folder, [split])
        parts = [part for name in index.shards(split) if len((part := load_file(folder / name))["latents"])]
        whole = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        actions = (whole["actions"] - torch.tensor(index.action_mean)) / torch.tensor(index.action_std)
        if not torch.isfinite(actions).all():
            raise UserError(f"{folder} holds actions that are not finite: encode a dataset with finite actions")
        return cls(whole["latents"], actions, whole["episode"], whole["start"], index)

    @property
    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the training clips, float32 "c 1 1"."""
        return tuple(torch.tensor(values)[:, None, None] for values in (self.index.mean, self.index.std))

    @property
    def stride(self) -> int:
        """Time stride: actions per latent step."""
        return self.index.stride[0]

    def __len__(self) -> int:
        return len(self.latents)


def normalised(latents: Tensor, scale: Sequence[Tensor]) -> Tensor:
    """Stored latents "... c h w" in float32, of mean 0 and variance 1 per channel by `Latents.scale`."""
    mean, std = scale
    return (latents.float() - mean) / std
