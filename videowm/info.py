"""`videowm info`: what a dataset, a latents folder or a run holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from videowm.metrics import metric_of
from videowm.record import RunRecord
from videowm.types import UserError

if TYPE_CHECKING:
    from videowm.data.dataset import Dataset


def info(path: Path, *, verify: bool = False) -> str:
    """A few lines for a person; the kind of directory is recognised by the file that completes it.

    Raises:
        UserError: the directory is of none of the three kinds, or its files are damaged.
    """
    if (path / "meta" / "info.json").exists():
        return dataset_info(path, verify=verify)
    if (path / "latents.json").exists():
        return latents_info(path, verify=verify)
    if (path / "config.yaml").exists():
        return run_info(path, verify=verify)
    raise UserError(
        f"{path} is no dataset (meta/info.json), latents folder (latents.json) or run (config.yaml): name one of these"
    )


def dataset_info(path: Path, *, verify: bool) -> str:
    """What a dataset holds, and which captions are beside it."""
    from videowm.data.action_table import sources
    from videowm.data.captions import captions_of, captions_path, read_lines
    from videowm.data.dataset import Dataset

    dataset = Dataset(path)
    listed = (path / "meta/files.json").exists()
    if verify and listed:
        dataset.verify()
    frames = int(dataset.lengths.sum())
    height, width = dataset.size
    captions = [
        f"captions  {name}: {len(read_lines(captions_path(path, name)))} clips of {header['clip_frames']} frames, "
        f"by {header.get('model', 'the recorded state')}"
        + (" (of another dataset)" if header["dataset"] != dataset.hash else "")
        for name, header in captions_of(path).items()
    ]
    lines = [
        f"dataset   {path} ({dataset.name}, LeRobot {dataset.info['codebase_version']})",
        f"episodes  {dataset.num_episodes}: {len(dataset.split('train'))} train, {len(dataset.split('test'))} test",
        f"frames    {frames} of {height}x{width} at {dataset.fps:g} fps, {frames / dataset.fps / 60:.1f} minutes; "
        f"{dataset.lengths.min()} to {dataset.lengths.max()} an episode",
        f"actions   {', '.join(dataset.action_names)}",
        f"sources   {', '.join(sources(dataset.action_names, path))}",
        f"state     {', '.join(dataset.state_names) or 'none'}",
        f"caption   {dataset.caption(0)}",
        *captions,
        f"hash      {dataset.hash}" + (" (every file is as recorded)" if verify and listed else ""),
    ]
    return "\n".join([*lines, *remarks(dataset)] if verify else lines)


def remarks(dataset: Dataset) -> list[str]:
    """A line for everything about a dataset that looks wrong, or one that says that nothing does."""
    from videowm.data.doctor import examine

    found = examine(dataset)
    if not (dataset.root / "meta/files.json").exists():
        found.insert(0, "no meta/files.json, so no file could be compared with what was written: import it to get one")
    return [f"warning   {sentence}" for sentence in found] or ["looks     right: counts, splits, actions and pictures"]


def latents_info(path: Path, *, verify: bool) -> str:
    """What a folder of latents holds and what it was made of."""
    from videowm.data.latents import LatentsIndex

    index = LatentsIndex.read(path)
    if verify:
        index.verify(path)
    c, h, w = index.shape
    played = index.played
    source = f", training clips from {played['episodes']} episodes played with seed {played['seed']}" if played else ""
    lines = [
        f"latents   {path} of {index.data} ({index.world}), {index.dtype}",
        f"clips     {index.clips['train']} train, {index.clips['test']} test, {index.frames} frames each{source}",
        f"shape     {index.steps} steps x {c} channels x {h} x {w}, strides {index.stride}",
        f"made by   VAE {index.vae_hash} ({index.vae}) from dataset {index.data_hash}",
    ]
    return "\n".join(lines)


def run_info(path: Path, *, verify: bool) -> str:
    """What a run is trained for, how far it is, and what was measured.

    Raises:
        UserError: the configuration or another file of the run is damaged.
    """
    from videowm import config as configuration
    from videowm.train import checkpoint

    config, record = configuration.read(path / "config.yaml"), RunRecord.read(path)
    train = config.get("train")
    if not isinstance(train, dict) or not {"steps", "batch"} <= train.keys():
        raise UserError(f"{path}/config.yaml is damaged (no train.steps or train.batch): restore the file")
    if verify:
        verify_run(path, record)
    lines = [f"run       {path} (task: {config.get('task')}), {train['steps']} steps of {train['batch']}"]
    if record is None:
        held = checkpoint.latest(path / "checkpoints")
        lines.append(f"unfinished, {'at ' + held.name if held else 'no checkpoint yet'}: the same command goes on")
    else:
        lines += record_lines(record)
    return "\n".join([*lines, "verified  configuration, record, weights and checkpoints"] if verify else lines)


def record_lines(record: RunRecord) -> list[str]:
    """A record for a person: time, size, compute, and every metric that is one number, with its unit."""
    lines = [
        f"finished  in {record.wall_seconds:.0f} s of training on {record.device}",
        f"params    {', '.join(f'{part} {count:,}' for part, count in record.params.items())}",
    ]
    if record.flops.get("train") is not None and "processed" in record.tokens:
        lines.append(f"compute   {record.flops['train']:.4g} FLOPs, {record.tokens['processed']:,} tokens")
    for name, value in record.metrics.items():
        if isinstance(value, float):
            metric = metric_of(name)
            lines.append(f"  {name:28s} {value:.5g} {metric.unit if metric else ''}".rstrip())
    return lines


def verify_run(path: Path, record: RunRecord | None) -> None:
    """Check all that a run holds.

    Raises:
        UserError: the configuration cannot be used, weights are not those of the training, or a checkpoint is damaged.
    """
    from videowm.train import checkpoint, registry

    task = registry.load(path / "config.yaml").task
    damaged = [held.name for held in checkpoint.steps(path / "checkpoints") if not checkpoint.intact(held)]
    if damaged:
        raise UserError(f"{path}/checkpoints holds damaged ones ({', '.join(damaged)}): remove them")
    if record is None or record.is_trunk:
        return
    if task == "world":
        from videowm.pipeline import WorldModelPipeline

        WorldModelPipeline.open(path)
    elif task == "reader":
        from videowm.evaluate.reader import Reader

        Reader.open(path)
    elif task == "vae":
        from videowm.vae.codec import DiffusersCodec, load_vae

        if DiffusersCodec(load_vae(str(path))).hash != record.hashes.get("vae"):
            raise UserError(f"{path}/vae is not the autoencoder that was trained there: restore the folder")
