"""Latents on disk: every clip of a dataset encoded once, with statistics and the hash of the VAE that made them."""

from __future__ import annotations

import hashlib
import json
import os
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
from videowm.types import UserError, VideoCodec, latent_steps

SHARD = 64  # clips a file
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


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
) -> dict[str, Any]:
    """Encode both splits into `out`; shards already there are kept. `to_frames` turns uint8 clips into codec input."""
    steps = latent_steps(frames, codec.stride[0])
    made_by = {"data": str(dataset.root), "data_hash": dataset.hash, "vae": vae, "vae_hash": codec.hash,
               "frames": frames, "dtype": dtype}  # fmt: skip
    if (out / "latents.json").exists():
        return check_made_by(out, json.loads((out / "latents.json").read_text()), made_by)
    out.mkdir(parents=True, exist_ok=True)
    jobs = [(split, n, clips) for split in ("train", "test") for n, clips in shards(stretches(dataset, split, frames))]
    if not any(split == "train" for split, _, _ in jobs) or not any(split == "test" for split, _, _ in jobs):
        raise UserError(f"{dataset.root} has no train and test episodes of {frames} frames: encode with fewer --frames")
    with tqdm(total=sum(len(clips) for *_, clips in jobs), desc="encode", unit="clip", dynamic_ncols=True) as bar:
        for split, number, clips in jobs:
            path = out / f"{split}-{number:05d}.safetensors"
            if not shard_matches(path, made_by):
                write_shard(path, encode_shard(dataset, codec, clips, frames, to_frames, batch, DTYPES[dtype]), made_by)
            bar.update(len(clips))
    return write_index(out, dataset, codec, steps, made_by)


def shards(clips: list[tuple[int, int]]) -> list[tuple[int, list[tuple[int, int]]]]:
    return [(i // SHARD, clips[i : i + SHARD]) for i in range(0, len(clips), SHARD)]


@torch.no_grad()
def encode_shard(dataset, codec, clips, frames: int, to_frames, batch: int, dtype: torch.dtype) -> dict[str, Tensor]:
    latents = []
    for i in range(0, len(clips), batch):
        pixels = np.stack([dataset.clip(episode, start, frames).frames for episode, start in clips[i : i + batch]])
        latents.append(codec.encode(to_frames(pixels)).to("cpu", dtype))
    actions = np.stack([dataset.actions(episode)[start : start + frames - 1] for episode, start in clips])
    where = torch.tensor(clips, dtype=torch.int64)
    return {
        "latents": torch.cat(latents),
        "actions": torch.from_numpy(actions),
        "episode": where[:, 0].contiguous(),
        "start": where[:, 1].contiguous(),
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
    for key in ("vae_hash", "data_hash", "frames", "dtype"):
        if theirs.get(key) != ours[key]:
            raise UserError(
                f"{path} was encoded with {key} {theirs.get(key)!r}, this call has {ours[key]!r}: "
                "choose another --out or remove the folder"
            )
    return theirs


def write_index(out: Path, dataset: Dataset, codec: VideoCodec, steps: int, made_by: dict[str, Any]) -> dict[str, Any]:
    """Statistics over the training clips and latents.json, last."""
    train = [load_file(path) for path in sorted(out.glob("train-*.safetensors"))]
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
    """The clips of one split in memory, normalised: per latent channel and per action to mean 0, variance 1."""

    latents: Tensor  # float32 "n t c h w"
    actions: Tensor  # float32 "n f-1 a"
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
        parts = [load_file(folder / name) for name in names]
        whole = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        mean, std = (torch.tensor(index[key])[:, None, None] for key in ("mean", "std"))
        actions = (whole["actions"] - torch.tensor(index["action_mean"])) / torch.tensor(index["action_std"])
        if not torch.isfinite(actions).all():
            raise UserError(f"{folder} holds actions that are not finite: encode a dataset with finite actions")
        return cls((whole["latents"].float() - mean) / std, actions, whole["episode"], whole["start"], index)

    @property
    def stride(self) -> int:
        """Time stride: actions per latent step."""
        return self.index["stride"][0]

    def __len__(self) -> int:
        return len(self.latents)
