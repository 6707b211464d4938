"""Encode a dataset once: shards of latents, each whole or not there, and their index. `latents.py` reads them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from videowm.data.clips import final_start, stretches
from videowm.data.dataset import Dataset
from videowm.data.digests import Digests
from videowm.data.latents import DTYPES, FILE, FINAL, SPLITS, LatentsIndex, Origin
from videowm.data.outcomes import as_tensors
from videowm.data.played import PlayedSource
from videowm.device import Process
from videowm.files import as_json, atomic, read_json, remove_leftovers, sha256_of, short_hash, visible, write_new
from videowm.limits import check_fit, unfit
from videowm.parts import WHOLE, Part, exactly_once, forget_parts, refuse_parts
from videowm.types import Clip, UserError, VideoCodec, latent_steps

SHARD = 64  # clips a file
SETTINGS = ".settings.json"  # of parts that are being made


def encode_dataset(
    dataset: Dataset, codec: VideoCodec, out: Path, *, frames: int, vae: str,
    to_frames: Callable[[np.ndarray], Tensor], batch: int = 4, dtype: str = "fp16",
    played: PlayedSource | None = None, process: Process = Process(), part: Part = WHOLE,  # noqa: B008 - frozen
    states: bool = False,
) -> LatentsIndex | None:  # fmt: skip
    """Encode both splits into `out`; the same call again makes only the shards that are missing or damaged.

    Of several parts, the one that ends last writes the index.

    With `played` the training clips come from newly played episodes: no frame of them went through video encoding,
    whose loss is in the test split only.

    Args:
        dataset: what is encoded.
        codec: the autoencoder.
        out: the folder of the latents.
        frames: frames of a clip, 1 + k * time stride.
        vae: where the autoencoder was opened from, for the index.
        to_frames: turns clips uint8 "b f H W 3" into the codec's input.
        batch: clips that are encoded at once.
        dtype: the type that latents are stored in.
        played: newly played training episodes.
        process: which of several this one is; each makes its own shards, the first writes the index.
        part: the shards that are made by this call; others make theirs, on this host or on another.
        states: whether the simulator's state of every frame is kept too.

    Returns:
        The index; None in all processes but the first, and where other parts are not made yet.

    Raises:
        UserError: neither `frames` nor the frames' size fits the autoencoder, or `out` holds other latents. Or the
            dataset is damaged or has no states to keep, or the disk is full.
    """
    if states and not (dataset.state_names and dataset.has_outcomes):
        raise UserError(f"{dataset.root} has no states that could be kept: encode without --states")
    latent_steps(frames, codec.stride[0])
    check_fit(dataset.size, codec.stride[1])
    if process.rank == 0 and (note := unfit(dataset.size, codec.stride[1])):
        tqdm.write(note)
    if batch < 1:
        raise UserError(f"batch {batch} cannot be used: give the number of clips encoded at once, 1 or more")
    origin = Origin(data=str(dataset.root), data_hash=dataset.hash, vae=vae, vae_hash=codec.hash, frames=frames,
                    dtype=dtype, played=played and played.note,
                    state_names=list(dataset.state_names) if states else [])  # fmt: skip
    work = Encoding(dataset, codec, out, origin, to_frames, batch, played, process, part)
    if part == WHOLE:
        refuse_parts(out)
    claims = part != WHOLE and work.index is None and process.rank == 0
    with part.working(out) if claims else nullcontext():
        work.agree()
        work.make_missing()
        if process.rank > 0:
            return None
        work.wait()
    return work.finish() if part == WHOLE else work.finish_parts()


class Encoding:
    """One folder of latents in the making: which shards it has, what is missing, and how that is made."""

    def __init__(
        self, dataset: Dataset, codec: VideoCodec, out: Path, origin: Origin,
        to_frames: Callable[[np.ndarray], Tensor], batch: int, played: PlayedSource | None, process: Process,
        part: Part,
    ) -> None:  # fmt: skip
        self.dataset, self.codec, self.out, self.origin, self.part = dataset, codec, out, origin, part
        self.to_frames, self.batch, self.frames, self.process = to_frames, batch, origin.frames, process
        self.index = finished_index(out, origin)
        self.listed = self.index.files if self.index else {}
        self.sound: set[Path] = set()  # shards that were made or checked here
        self.made = False  # whether one was made
        self.sources = {"train": played or Stored(dataset, "train"), "test": Stored(dataset, "test")}
        self.sizes = {split: source.sizes(self.frames) for split, source in self.sources.items()}
        if not all(self.sizes.values()):
            raise UserError(
                f"{dataset.root} has no train and test episodes of {self.frames} frames: encode with fewer --frames"
            )
        self.steps = latent_steps(self.frames, codec.stride[0])
        shape = (0, self.steps, codec.channels, *(n // k for n, k in zip(dataset.size, codec.stride[1:])))
        self.empty = torch.zeros(shape, dtype=DTYPES[origin.dtype])  # a shard's episodes may all be too short

    def path(self, split: str, number: int) -> Path:
        """The file of a shard."""
        return self.out / f"{split}-{number:05d}.safetensors"

    def intact(self, path: Path) -> bool:
        """Whether a shard is there, whole, and the one that the index lists or that this call would make."""
        if path not in self.sound and path.is_file():
            listed = sha256_of(path) == self.listed.get(path.name)
            self.sound |= {path} if listed or is_shard(path, self.origin) else set()
        return path in self.sound

    def agree(self) -> None:
        """Write down the settings for the other parts, or compare with theirs.

        Raises:
            UserError: they encode with other settings.
        """
        path = self.out / SETTINGS
        if self.part != WHOLE and self.index is None and not write_new(path, as_json(asdict(self.origin))):
            self.origin.check_same(Origin(**read_json(path, "remove the folder")), self.out)

    def share(self, split: str) -> range:
        """This process's shards, whatever is there already: so no shard falls between two processes."""
        mine = self.part.share(range(len(self.sizes[split])))
        return mine[self.process.rank :: self.process.count]

    def make_missing(self) -> None:
        """Make those of this process's shards that are not there or not whole. All are looked at before one is made."""
        missing = {split: [i for i in self.share(split) if not self.intact(self.path(split, i))] for split in SPLITS}
        for split, numbers in missing.items():
            self.make(split, numbers)

    def make(self, split: str, missing: list[int]) -> None:
        """Encode the shards of a split that are missing of this process's share; the first process shows progress."""
        source, sizes = self.sources[split], self.sizes[split]
        if not missing:
            return
        total, count = sum(sizes[i] for i in self.share(split)), self.process.count
        whose = f" ({self.part})" * (self.part != WHOLE) + f" (process 1 of {count})" * (count > 1)
        with tqdm(total=total, initial=total - sum(sizes[i] for i in missing), desc=f"encode {split}{whose}",
                  unit=source.unit, dynamic_ncols=True, disable=self.process.rank > 0) as bar:  # fmt: skip
            for number, clips in zip(missing, source.shards(missing, self.frames, self.codec.stride[0]), strict=True):
                path = self.path(split, number)
                write_shard(path, self.tensors(clips), self.origin)
                self.sound.add(path)
                self.made = True
                bar.update(sizes[number])

    def tensors(self, clips: list[Clip]) -> dict[str, Tensor]:
        """What a shard holds: the clips that follow one another, and by names with `FINAL` those cut where games ended.

        Raises:
            UserError: a latent is not finite in the stored type.
        """
        found = self.encode([clip for clip in clips if not clip.final])
        if self.dataset.has_outcomes:
            final = self.encode([clip for clip in clips if clip.final])
            found |= {f"{FINAL}{name}": tensor for name, tensor in final.items()}
        return found

    @torch.no_grad()
    def encode(self, clips: list[Clip]) -> dict[str, Tensor]:
        """Latents "n t c h w" in the stored type, actions "n f-1 a", episode "n", start "n", and what actions did.

        Raises:
            UserError: a latent is not finite in the stored type.
        """
        groups = [clips[i : i + self.batch] for i in range(0, len(clips), self.batch)]
        latents = [self.codec.encode(self.to_frames(pixels(group))).to("cpu", self.empty.dtype) for group in groups]
        for group, part in zip(groups, latents):
            if not torch.isfinite(part).all():
                raise UserError(
                    f"latents of episode {group[0].episode} from frame {group[0].start} on are not finite in "
                    f"{part.dtype}: train the autoencoder again, or encode with --dtype fp32"
                )
        size = len(self.dataset.action_names)
        shape = (len(clips), self.frames - 1, size)
        found = {}
        if self.dataset.has_outcomes:
            found = as_tensors(clips, self.frames, self.codec.stride[0], size, len(self.origin.state_names))
        return found | {
            "latents": torch.cat([self.empty, *latents]),
            "actions": torch.from_numpy(np.array([clip.actions for clip in clips], np.float32).reshape(shape)),
            "episode": torch.tensor([clip.episode for clip in clips], dtype=torch.int64),
            "start": torch.tensor([clip.start for clip in clips], dtype=torch.int64),
        }

    def wait(self, *, seconds: float = 0.5) -> None:
        """Until the other processes' shards are there; whoever started them ends this one when one of them fails."""
        left = [self.path(split, number) for split, sizes in self.sizes.items()
                for number in self.part.share(range(len(sizes)))]  # fmt: skip
        while left := [path for path in left if not self.intact(path)]:
            time.sleep(seconds)

    def finish_parts(self) -> LatentsIndex | None:
        """The index, once all parts are made; of those that end at the same time one writes it."""
        if self.index is not None and not self.made:
            return self.index
        if self.index is None and (left := self.part.left(self.out)):
            tqdm.write(f"{self.part} of {self.out} is encoded; without {', '.join(map(str, left))} it is unfinished")
            return None

        def complete() -> None:
            self.part, self.process = WHOLE, Process()  # whatever another part lost or damaged is made here
            self.make_missing()
            self.finish()

        exactly_once(self.out / ".finishing", lambda: self.index is None and (self.out / FILE).exists(), complete)
        return LatentsIndex.read(self.out)

    def finish(self) -> LatentsIndex:
        """Write the index, or bring the hashes of shards that were made again into the one that is there."""
        remove_leftovers(self.out)
        forget_parts(self.out)
        (self.out / SETTINGS).unlink(missing_ok=True)
        if self.index is None:
            test = next(self.sources["test"].shards([0], self.frames, self.codec.stride[0]))[: self.batch]
            cost = rounding_cost(self.codec, pixels(test), self.to_frames, self.empty.dtype)
            return write_index(self.out, self.dataset, self.codec, self.steps, self.origin, **cost)
        index = replace(self.index, files={name: sha256_of(self.out / name) for name in self.listed})
        if index != self.index:  # another device rounds in another way
            index.write(self.out)
        return index


def finished_index(out: Path, origin: Origin) -> LatentsIndex | None:
    """The index that `out` has; None where there is none or it is damaged, so that this call makes it again.

    Raises:
        UserError: the folder holds latents of another autoencoder, dataset or setting.
    """
    try:
        index = LatentsIndex.read(out)
    except UserError:
        return None
    origin.check_same(index, out / FILE)
    return index


@torch.no_grad()
def rounding_cost(
    codec: VideoCodec, clips: np.ndarray, to_frames: Callable[[np.ndarray], Tensor], dtype: torch.dtype
) -> dict[str, float | None]:
    """What storing latents in `dtype` costs on some clips uint8 "b f H W 3".

    rounding_rms: error of the stored latents, relative to their spread. rounding_db: PSNR of the frames decoded from
    them against those decoded from latents as they were encoded; None where nothing is rounded.
    """
    latents = codec.encode(to_frames(clips))
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
        """The clips (episode, start) of each shard."""
        where = stretches(self.dataset, self.split, frames)
        return [where[i : i + SHARD] for i in range(0, len(where), SHARD)]

    def sizes(self, frames: int) -> list[int]:
        """Clips of each shard."""
        return [len(part) for part in self.parts(frames)]

    def shards(self, numbers: list[int], frames: int, stride: int) -> Iterator[list[Clip]]:
        """The clips of each of the shards `numbers`, with the rows of `stride` frames behind them.

        The clip that is cut where an episode's game ended comes with the first clip of that episode.

        Raises:
            UserError: a file that these clips are in is not what was recorded.
        """
        parts = [self.parts(frames)[number] for number in numbers]
        self.dataset.verify_episodes({episode for part in parts for episode, _ in part})
        for part in parts:
            clips = [self.dataset.outcome_clip(episode, start, frames, stride) for episode, start in part]
            yield clips + [clip for e, start in part if start == 0 for clip in self.final(e, frames, stride)]

    def final(self, episode: int, frames: int, stride: int) -> list[Clip]:
        """The clip that is cut where the game ended, if it did."""
        if not self.dataset.has_outcomes:
            return []
        start = final_start(self.dataset.column(episode, "next.done"), frames, stride, episode)
        if start is None:
            return []
        return [replace(self.dataset.outcome_clip(episode, start, frames, stride), final=True)]


def pixels(clips: list[Clip]) -> np.ndarray:
    """The frames of some clips, uint8 "b f H W 3"."""
    return np.stack([clip.frames for clip in clips])


def write_shard(path: Path, tensors: dict[str, Tensor], origin: Origin) -> None:
    """Write a shard, whole or not at all, with a hash of its content."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    note = noted(origin) | {"content": content_hash(origin, tensors)}
    with atomic(path) as aside:
        save_file(tensors, aside, metadata={"made_by": json.dumps(note)})  # one key: several come in any order


def noted(origin: Origin) -> dict[str, Any]:
    """What a shard says of its origin: as before there were states, where there are none."""
    return {key: value for key, value in asdict(origin).items() if key != "state_names" or value}


def content_hash(origin: Origin, tensors: dict[str, Tensor]) -> str:
    """16 hex digits of all that a shard holds."""
    parts: list[str | bytes] = [json.dumps(noted(origin))]
    for name, tensor in sorted(tensors.items()):
        content = tensor.flatten().view(torch.uint8).numpy().tobytes()
        parts += [name, str(tensor.dtype), str(tuple(tensor.shape)), content]
    return short_hash(*parts)


def is_shard(path: Path, origin: Origin) -> bool:
    """Whether a file is a whole shard of `origin`; one that was cut off or damaged since is not.

    Raises:
        UserError: the shard is whole, but of another autoencoder, dataset or setting.
    """
    try:
        with safe_open(path, "pt") as file:
            note = json.loads(file.metadata()["made_by"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        content = note.pop("content", None)
        theirs = Origin(**note)
    except (SafetensorError, OSError, TypeError, KeyError, ValueError, AttributeError):
        return False
    sound = content == content_hash(theirs, tensors)
    if sound or content is None:  # shards had no such hash at first
        origin.check_same(theirs, path)
    return sound


def write_index(
    out: Path, dataset: Dataset, codec: VideoCodec, steps: int, origin: Origin, **cost: float | None
) -> LatentsIndex:
    """Make the statistics over the training clips, and write latents.json.

    Args:
        out: a folder with all of its shards.
        dataset: what they were made of.
        codec: what made them.
        steps: latent steps of a clip.
        origin: what the shards hold of where they are from.
        cost: `rounding_cost`.

    Raises:
        UserError: no training clip is as long as asked for.
    """
    files = {split: visible(out, f"{split}-*.safetensors") for split in SPLITS}
    clips = {split: sum(shape_of(path)[0] for path in paths) for split, paths in files.items()}
    if not clips["train"]:
        raise UserError(f"no played episode has {origin.frames} frames: encode with fewer --frames, or --play more")
    (mean, std), (action_mean, action_std) = statistics(files["train"])
    digests = Digests(out)
    index = LatentsIndex(
        **asdict(origin), **cost, stride=tuple(codec.stride), steps=steps, shape=tuple(shape_of(files["train"][0])[2:]),
        mean=mean.tolist(), std=std.clamp_min(1e-6).tolist(), action_mean=action_mean.tolist(),
        action_std=action_std.clamp_min(1e-3).tolist(), action_names=list(dataset.action_names), world=dataset.name,
        fps=dataset.fps, clips=clips,
        files={path.name: digests.of(path, again=True) for path in sorted(sum(files.values(), []))},
    )  # fmt: skip
    index.write(out)
    return index


def shape_of(path: Path) -> list[int]:
    """The shape of a shard's latents, (n, t, c, h, w)."""
    with safe_open(path, "pt") as file:
        return file.get_slice("latents").get_shape()


def statistics(paths: list[Path]) -> list[tuple[Tensor, Tensor]]:
    """Mean and deviation, float64, of the latents by channel and of the actions by element, over all clips of shards.

    Shards are read one after the other and added up in their order: memory and digits do not depend on how many there
    are, or on who made which. Means and squared deviations of parts are joined as in Chan et al. 1979.
    """
    totals: list[list[Tensor | float]] = [[0, 0.0, 0.0], [0, 0.0, 0.0]]  # count, mean, sum of squared deviations
    for part in map(load_file, paths):
        channels = part["latents"].double().transpose(0, 2).flatten(1)
        for total, values in zip(totals, (channels, part["actions"].double().flatten(0, 1).T)):
            if not (more := values.shape[1]):
                continue
            count, mean, squares = total
            step = values.mean(1) - mean
            squares = squares + values.var(1, correction=0) * more + step**2 * (count * more / (count + more))
            total[:] = count + more, mean + step * (more / (count + more)), squares
    return [(mean, (squares / max(count - 1, 1)).sqrt()) for count, mean, squares in totals]
