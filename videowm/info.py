"""`videowm info`: what a dataset, a latents folder or a run holds."""

from __future__ import annotations

import json
from pathlib import Path

from videowm.types import UserError


def info(path: Path, *, verify: bool = False) -> str:
    """A few lines for a person; the kind of directory is recognised by the file that completes it."""
    if (path / "meta" / "info.json").exists():
        return dataset_info(path, verify=verify)
    if (path / "latents.json").exists():
        return latents_info(path, verify=verify)
    if (path / "config.yaml").exists():
        return run_info(path)
    raise UserError(
        f"{path} is no dataset (meta/info.json), latents folder (latents.json) or run (config.yaml): name one of these"
    )


def dataset_info(path: Path, *, verify: bool) -> str:
    from videowm.data.captions import captions_of, captions_path, read_lines
    from videowm.data.dataset import Dataset

    dataset = Dataset(path)
    if verify:
        dataset.verify()
    frames = int(dataset.lengths.sum())
    height, width = dataset.size
    captions = [
        f"captions  {name}: {len(read_lines(captions_path(path, name)))} clips of {header['clip_frames']} frames, "
        f"by {header.get('model', 'the recorded state')}"
        + (" (of another dataset)" if header["dataset"] != dataset.hash else "")
        for name, header in captions_of(path).items()
    ]
    return "\n".join(
        [
            f"dataset   {path} ({dataset.name}, LeRobot {dataset.info['codebase_version']})",
            f"episodes  {dataset.num_episodes}: {len(dataset.split('train'))} train, {len(dataset.split('test'))} test",
            f"frames    {frames} of {height}x{width} at {dataset.fps:g} fps, {frames / dataset.fps / 60:.1f} minutes; "
            f"{dataset.lengths.min()} to {dataset.lengths.max()} an episode",
            f"actions   {', '.join(dataset.action_names)}",
            f"state     {', '.join(dataset.state_names) or 'none'}",
            f"caption   {dataset.caption(0)}",
            *captions,
            f"hash      {dataset.hash}" + (" (every file is as recorded)" if verify else ""),
        ]
    )


def latents_info(path: Path, *, verify: bool) -> str:
    from videowm.data.latents import LatentsIndex

    index = LatentsIndex.read(path)
    if verify:
        index.verify(path)
    c, h, w = index.shape
    played = index.played
    source = f", training clips from {played['episodes']} episodes played with seed {played['seed']}" if played else ""
    return "\n".join(
        [
            f"latents   {path} of {index.data} ({index.world}), {index.dtype}",
            f"clips     {index.clips['train']} train, {index.clips['test']} test, {index.frames} frames each{source}",
            f"shape     {index.steps} steps x {c} channels x {h} x {w}, strides {index.stride}",
            f"made by   VAE {index.vae_hash} ({index.vae}) from dataset {index.data_hash}",
        ]
    )


def run_info(path: Path) -> str:
    import yaml

    from videowm.train import checkpoint

    config = yaml.safe_load((path / "config.yaml").read_text())
    lines = [
        f"run       {path} (task: {config['task']}), {config['train']['steps']} steps of {config['train']['batch']}"
    ]
    if (path / "record.json").exists():
        record = json.loads((path / "record.json").read_text())
        lines += [
            f"finished  in {record['wall_seconds']:.0f} s of training on {record['device']}",
            f"params    {', '.join(f'{k} {v:,}' for k, v in record['params'].items())}",
        ]
        if "flops" in record:
            lines.append(f"compute   {record['flops']['train']:.4g} FLOPs, {record['tokens']['processed']:,} tokens")
        lines += [f"  {k:28s} {v:.5g}" for k, v in record["metrics"].items() if isinstance(v, float)]
    else:
        held = checkpoint.latest(path / "checkpoints")
        lines.append(f"unfinished, {'at ' + held.name if held else 'no checkpoint yet'}: the same command goes on")
    return "\n".join(lines)
