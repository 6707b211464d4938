"""Latents on disk: every clip of a dataset encoded once, with statistics and the hash of the VAE that made them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from videowm.data.clips import stretches
from videowm.data.dataset import Dataset
from videowm.data.played import PlayedSource
from videowm.types import Clip, UserError, VideoCodec, latent_steps

SHARD = 64  # clips a file
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Part:
    """Which of several encoding processes this one is; each makes its own shards, the first writes the index."""

    process: int = 0
    processes: int = 1

    def share(self, shards: int) -> range:
        """This process's shards, whatever is there already: so no shard falls between two processes."""
        return range(self.process, shards, self.processes)

    def bar(self, split: str, sizes: list[int], missing: list[int], unit: str) -> tqdm:
        """Progress over this process's share, shown by the first one."""
        total = sum(sizes[number] for number in self.share(len(sizes)))
        done = total - sum(sizes[number] for number in missing)
        whose = f" (process 1 of {self.processes})" if self.processes > 1 else ""
        return tqdm(total=total, initial=done, desc=f"encode {split}{whose}", unit=unit, dynamic_ncols=True,
                    disable=self.process > 0)  # fmt: skip


def encode_dataset(
    dataset: Dataset,
    codec: VideoCodec,
    out: Path,
    *,
    frames: int,
    vae: str,
    to_frames,
    batch: int = 4,
    dtype: str = "fp16",
    played: PlayedSource | None = None,
    part: Part = Part(),  # noqa: B008 - frozen
) -> dict[str, Any] | None:
    """Encode both splits into `out`; shards already there are kept. `to_frames` turns uint8 clips into codec input.

    With `played` the training clips come from newly played episodes: no frame of them went through video encoding,
    whose loss is in the test split only. The index is None in all processes but the first.
    """
    steps = latent_steps(frames, codec.stride[0])
    if batch < 1:
        raise UserError(f"batch {batch} cannot be used: give the number of clips encoded at once, 1 or more")
    made_by = {"data": str(dataset.root), "data_hash": dataset.hash, "vae": vae, "vae_hash": codec.hash,
               "frames": frames, "dtype": dtype, "played": played and played.note}  # fmt: skip
    if (out / "latents.json").exists():
        return check_made_by(out, json.loads((out / "latents.json").read_text()), made_by)
    out.mkdir(parents=True, exist_ok=True)
    sources = {"train": played or Stored(dataset, "train"), "test": Stored(dataset, "test")}
    if not all(source.sizes(frames) for source in sources.values()):
        raise UserError(f"{dataset.root} has no train and test episodes of {frames} frames: encode with fewer --frames")
    shape = (0, steps, codec.channels, *(n // k for n, k in zip(dataset.size, codec.stride[1:])))
    empty = torch.zeros(shape, dtype=DTYPES[dtype])  # a shard's episodes may all be too short
    paths: list[Path] = []
    for split, source in sources.items():
        sizes = source.sizes(frames)
        numbered = [out / f"{split}-{number:05d}.safetensors" for number in range(len(sizes))]
        paths += numbered
        missing = [number for number in part.share(len(sizes)) if not shard_matches(numbered[number], made_by)]
        with part.bar(split, sizes, missing, source.unit) as bar:
            for number, clips in zip(missing, source.shards(missing, frames), strict=True):
                write_shard(numbered[number], encode_shard(codec, clips, to_frames, batch, empty, dataset), made_by)
                bar.update(sizes[number])
    if part.process > 0:
        return None
    wait_for(paths, made_by)
    test = next(sources["test"].shards([0], frames))[:batch]
    return write_index(out, dataset, codec, steps, made_by | rounding_cost(codec, test, to_frames, empty.dtype))


def wait_for(paths: list[Path], made_by: dict[str, Any], *, seconds: float = 0.5) -> None:
    """Until the other processes' shards are there; whoever started them ends this one when one of them fails."""
    left = paths
    while left := [path for path in left if not shard_matches(path, made_by)]:
        time.sleep(seconds)


@torch.no_grad()
def rounding_cost(codec: VideoCodec, clips: list[Clip], to_frames, dtype: torch.dtype) -> dict[str, float | None]:
    """What storing latents in `dtype` costs on some clips.

    rounding_rms: error of the stored latents, relative to their spread. rounding_db: PSNR of the frames decoded from
    them against those decoded from latents as they were encoded; None where nothing is rounded.
    """
    latents = codec.encode(to_frames(np.stack([clip.frames for clip in clips])))
    stored = latents.to(dtype).to(latents.dtype)
    if torch.equal(stored, latents):
        return {"rounding_rms": 0.0, "rounding_db": None}
    error = (codec.decode(stored).float() - codec.decode(latents).float()).square().mean().clamp_min(1e-12)
    relative = (stored - latents).float().square().mean().sqrt() / latents.float().std().clamp_min(1e-6)
    return {"rounding_rms": relative.item(), "rounding_db": 10 * (4 / error).log10().item()}


class Stored:
    """The clips of a split as they lie on disk."""

    unit = "clip"

    def __init__(self, dataset: Dataset, split: str) -> None:
        self.dataset, self.split = dataset, split

    def parts(self, frames: int) -> list[list[tuple[int, int]]]:
        where = stretches(self.dataset, self.split, frames)
        return [where[i : i + SHARD] for i in range(0, len(where), SHARD)]

    def sizes(self, frames: int) -> list[int]:
        """Clips of each shard."""
        return [len(part) for part in self.parts(frames)]

    def shards(self, numbers: list[int], frames: int) -> Iterator[list[Clip]]:
        """The clips of each of the shards `numbers`."""
        parts = self.parts(frames)
        for number in numbers:
            yield [self.dataset.clip(episode, start, frames) for episode, start in parts[number]]


@torch.no_grad()
def encode_shard(
    codec: VideoCodec, clips: list[Clip], to_frames, batch: int, empty: Tensor, dataset: Dataset
) -> dict[str, Tensor]:
    """Latents "n t c h w" in the type of `empty` "0 t c h w", actions "n f-1 a", episode "n" and start "n"."""
    parts = [np.stack([clip.frames for clip in clips[i : i + batch]]) for i in range(0, len(clips), batch)]
    latents = [codec.encode(to_frames(part)).to("cpu", empty.dtype) for part in parts]
    for i, part in enumerate(latents):
        if not torch.isfinite(part).all():
            clip = clips[i * batch]
            raise UserError(
                f"latents of episode {clip.episode} from frame {clip.start} on are not finite in {empty.dtype}: train "
                "the autoencoder again, or encode with --dtype fp32"
            )
    shape = (len(clips), -1, len(dataset.action_names)) if clips else (0, 0, len(dataset.action_names))
    return {
        "latents": torch.cat([empty, *latents]),
        "actions": torch.from_numpy(np.array([clip.actions for clip in clips], np.float32).reshape(shape)),
        "episode": torch.tensor([clip.episode for clip in clips], dtype=torch.int64),
        "start": torch.tensor([clip.start for clip in clips], dtype=torch.int64),
    }


def write_shard(path: Path, tensors: dict[str, Tensor], made_by: dict[str, Any]) -> None:
    """Whole or not there."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file({k: v.contiguous() for k, v in tensors.items()}, aside, metadata={"made_by": json.dumps(made_by)})
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def shard_matches(path: Path, made_by: dict[str, Any]) -> bool:
    """Whether a shard of an interrupted call is there; one of another VAE or dataset is refused."""
    if not path.exists():
        return False
    try:
        with safe_open(path, "pt") as file:
            theirs = json.loads(file.metadata()["made_by"])
    except (SafetensorError, TypeError, KeyError, ValueError):  # cut off when the machine stopped
        return False
    check_made_by(path, theirs, made_by)
    return True


def check_made_by(path: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    for key in ("vae_hash", "data_hash", "frames", "dtype", "played"):
        if theirs.get(key) != ours.get(key):
            raise UserError(
                f"{path} was encoded with {key} {theirs.get(key)!r}, this call has {ours[key]!r}: "
                "choose another --out or remove the folder"
            )
    return theirs


def write_index(out: Path, dataset: Dataset, codec: VideoCodec, steps: int, made_by: dict[str, Any]) -> dict[str, Any]:
    """Statistics over the training clips and latents.json, last."""
    train = [part for part in map(load_file, sorted(out.glob("train-*.safetensors"))) if len(part["latents"])]
    if not train:
        raise UserError(f"no played episode has {made_by['frames']} frames: encode with fewer --frames, or --play more")
    latents = torch.cat([shard["latents"].float() for shard in train])
    actions = torch.cat([shard["actions"] for shard in train]).flatten(0, 1).double()
    files = sorted(out.glob("*.safetensors"))
    index = {
        "schema": 1,
        **made_by,
        "stride": list(codec.stride),
        "steps": steps,
        "shape": list(latents.shape[2:]),
        "mean": latents.mean(dim=(0, 1, 3, 4)).tolist(),
        "std": latents.std(dim=(0, 1, 3, 4)).clamp_min(1e-6).tolist(),
        "action_mean": actions.mean(0).tolist(),
        "action_std": actions.std(0).clamp_min(1e-3).tolist(),
        "action_names": list(dataset.action_names),
        "world": dataset.name,
        "fps": dataset.fps,
        "clips": {split: sum(clip_count(f) for f in files if f.name.startswith(split)) for split in ("train", "test")},
        "files": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
    }
    for left in out.glob(".*.safetensors.*"):  # of calls that were killed
        left.unlink(missing_ok=True)
    aside = out / f".latents.json.{os.getpid()}"
    aside.write_text(json.dumps(index, indent=1))
    os.replace(aside, out / "latents.json")
    return index


def clip_count(path: Path) -> int:
    with safe_open(path, "pt") as file:
        return file.get_slice("latents").get_shape()[0]


def read_index(folder: Path) -> dict[str, Any]:
    """latents.json of a finished folder."""
    try:
        return json.loads((folder / "latents.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} holds no finished latents (no latents.json): run videowm encode first") from None
    except (ValueError, UnicodeDecodeError):
        raise UserError(f"{folder}/latents.json is damaged: run videowm encode again into an empty folder") from None


@dataclass(frozen=True)
class Latents:
    """The clips of one split in memory; latents as they were stored, since float32 is twice that for every training."""

    latents: Tensor  # "n t c h w", see `normalised`
    actions: Tensor  # float32 "n f-1 a", each of mean 0 and variance 1
    episode: Tensor  # int64 "n"
    start: Tensor  # int64 "n", index of the clip's first frame within the episode
    index: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path, split: str) -> Latents:
        """Read and normalise a split; a file that is not what was written is refused."""
        folder = Path(folder)
        index = read_index(folder)
        names = sorted(name for name in index["files"] if name.startswith(f"{split}-"))
        for name in names:
            path = folder / name
            if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != index["files"][name]:
                raise UserError(f"{path} is missing or not the file that was encoded: run videowm encode again")
        parts = [part for name in names if len((part := load_file(folder / name))["latents"])]
        whole = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        actions = (whole["actions"] - torch.tensor(index["action_mean"])) / torch.tensor(index["action_std"])
        if not torch.isfinite(actions).all():
            raise UserError(f"{folder} holds actions that are not finite: encode a dataset with finite actions")
        return cls(whole["latents"], actions, whole["episode"], whole["start"], index)

    @property
    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the training clips, float32 "c 1 1"."""
        return tuple(torch.tensor(self.index[key])[:, None, None] for key in ("mean", "std"))

    @property
    def stride(self) -> int:
        """Time stride: actions per latent step."""
        return self.index["stride"][0]

    def __len__(self) -> int:
        return len(self.latents)


def normalised(latents: Tensor, scale: Sequence[Tensor]) -> Tensor:
    """Stored latents "... c h w" in float32, of mean 0 and variance 1 per channel by `Latents.scale`."""
    mean, std = scale
    return (latents.float() - mean) / std
