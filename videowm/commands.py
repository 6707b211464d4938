"""The verbs that need a model: encode, latents, generate, evaluate, quickstart."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch

from videowm import config as configuration
from videowm.actions.group import check_actions
from videowm.actions.script import parse_actions, read_actions
from videowm.data.dataset import Dataset
from videowm.data.latents import Part, encode_dataset
from videowm.data.played import PlayedSource
from videowm.dit.sample import Sampler
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError
from videowm.vae.codec import DiffusersCodec, load_vae, to_float, to_uint8
from videowm.worlds import find_world


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def encode(args: argparse.Namespace) -> None:
    """Encode a dataset once; what is there already is kept. Under torchrun or accelerate launch, by shares."""
    rank, processes, local = (int(os.environ.get(key, n)) for key, n in
                              (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))  # fmt: skip
    where = device()
    if where.type == "cuda":
        where = torch.device("cuda", local % torch.cuda.device_count())
    codec = DiffusersCodec(load_vae(args.vae).to(where).eval())
    dataset = Dataset(args.data)
    played = None
    if args.play is not None:
        played = PlayedSource(dataset, episodes=args.play, seed=args.seed, workers=args.workers)
    batch = args.batch if args.batch is not None else 64 if where.type == "cuda" else 4
    index = encode_dataset(dataset, codec, args.out, frames=args.frames, vae=str(args.vae), batch=batch,
                           dtype=args.dtype, played=played, part=Part(rank, processes),
                           to_frames=lambda pixels: to_float(pixels, where))  # fmt: skip
    if rank == 0:
        lossless = index.get("rounding_db") is None
        cost = "" if lossless else f", {args.dtype} costs {index['rounding_rms']:.1e} ({index['rounding_db']:.0f} dB)"
        print(f"{args.out}: clips of {args.frames} frames, {index['clips']}, made by VAE {index['vae_hash']}{cost}")


def latents(args: argparse.Namespace) -> None:
    """Principal directions of a latent space: a picture of each being moved, and what it follows, as JSON beside."""
    from videowm import show
    from videowm.evaluate import explorer
    from videowm.files import write_json

    if args.out.suffix != ".png":
        raise UserError(f"{args.out}: expected a name that ends in .png")
    codec = DiffusersCodec(load_vae(args.vae).to(device()).eval())
    dataset = Dataset(args.data)
    explored = explorer.explore(codec, dataset, clips=args.clips)
    found = explorer.principal_directions(explored.latents, args.directions)
    rows = explorer.correlations(explored, found)
    labels = [f"{n + 1}: {row['explained']:.0%}" + (f"  {row['best']} {row['r2']:.2f}" if row["best"] else "")
              for n, row in enumerate(rows)]  # fmt: skip
    columns = ["as it is", *(f"{value:+d} sd" if value else "mean" for value in explorer.VALUES)]
    pictures = explorer.moved_pictures(codec, explored.shown, found)
    picture = show.grid(list(pictures), labels, columns=columns, cell=96, margin=170)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    aside = args.out.with_name(f".{args.out.name}.{os.getpid()}")
    aside.write_bytes(show.encode_png(picture))
    os.replace(aside, args.out)
    note = {"vae": str(args.vae), "vae_hash": codec.hash, "data": str(args.data), "data_hash": dataset.hash,
            "steps": len(explored.latents), "episodes": len(set(explored.episode.tolist())),
            "directions": rows}  # fmt: skip
    write_json(args.out.with_suffix(".json"), note)
    for label, row in zip(labels, rows):
        print(label + (f" ± {row['r2_se']:.2f}" if row["best"] else ""))
    print(f"{args.out}: share of variance, then the state column of the highest R² over {note['episodes']} episodes")


def generate(args: argparse.Namespace) -> None:
    """Roll a run out from a dataset's frames, and a prompt; writes an mp4 of truth, prediction and difference."""
    from videowm.show import comparison_video

    if args.out.suffix != ".mp4":
        raise UserError(f"{args.out}: expected a name that ends in .mp4")
    sampler = sampler_of(args)
    pipeline = WorldModelPipeline.open(args.run).to(device())
    dataset = Dataset(args.data)
    episode = dataset.split("test")[0] if args.episode is None else args.episode
    clip_actions, true_frames = future(args, dataset, episode, pipeline)
    context = to_float(dataset.frames(episode, range(args.start, args.start + args.context)))
    out = pipeline(
        context[None], torch.tensor(clip_actions)[None], sampler=sampler, prompt=prompt_of(args, pipeline, context),
        generator=torch.Generator().manual_seed(args.seed),
    )  # fmt: skip
    predicted = to_uint8(out.frames[0])
    left_out = args.context - out.context_frames
    true_frames = None if true_frames is None else true_frames[left_out:]
    comparison_video(args.out, predicted, true_frames, clip_actions[left_out:], pipeline.trained_on.action_names,
                     context=out.context_frames, fps=pipeline.trained_on.fps)  # fmt: skip
    print(f"{args.out}: {out.context_frames} context frames, {len(predicted) - out.context_frames} predicted")


def sampler_of(args: argparse.Namespace) -> Sampler:
    """How a latent step is drawn, from the options."""
    data = {"action_guidance": args.guidance, "text_guidance": args.text_guidance}
    if args.sampling_steps is not None:
        data["steps"] = args.sampling_steps
    for override in args.sampler:
        configuration.apply_override(data, override)
    return configuration.build(Sampler, data, where="--sampler")


def prompt_of(args: argparse.Namespace, pipeline: WorldModelPipeline, context: torch.Tensor) -> str | None:
    """The prompt for the model: the user's, or with --expand what a server made of it and the start frame."""
    if args.prompt is None or not args.expand:
        if args.expand:
            raise UserError("--expand was given without --prompt: give the prompt that is to be expanded")
        return args.prompt
    from videowm.caption import expand_prompt, make_endpoint

    pipeline.text_conditioning(args.prompt, 1, 1)  # a model without text is refused before anyone is asked
    expanded = expand_prompt(args.prompt, to_uint8(context[-1:])[0], make_endpoint(args), cache=args.cache)
    print(f"prompt: {expanded}")
    return expanded


def future(args, dataset: Dataset, episode: int, pipeline: WorldModelPipeline) -> tuple[np.ndarray, np.ndarray | None]:
    """Actions for context and future, and the true frames where the actions are the episode's own."""
    known = args.context - 1
    if args.start < 0:
        raise UserError(f"--start {args.start} cannot be used: give the number of a frame, 0 or more")
    own = dataset.actions(episode)[args.start :]
    if len(own) < known:
        raise UserError(
            f"episode {episode} has {len(own)} actions from frame {args.start} on: too few for {args.context} frames"
        )
    if args.actions is None:
        actions = own[: known + args.frames]
        frames = dataset.frames(episode, range(args.start, args.start + len(actions) + 1))
        return actions, frames
    if Path(args.actions).suffix in (".csv", ".npy", ".npz"):
        given = read_actions(Path(args.actions))
    else:
        given = parse_actions(args.actions, named_actions(pipeline.trained_on.world))
    check_actions(torch.from_numpy(given), size=own.shape[1])
    return np.concatenate([own[:known], given]), None


def named_actions(world: str) -> dict[str, tuple[float, ...]]:
    """The action names of the world that a model was trained on."""
    known = find_world(world)
    if known is None or not known.NAMED_ACTIONS:
        raise UserError(f"the model's world {world!r} has no named actions: give a table (.csv, .npy, .npz)")
    return known.NAMED_ACTIONS


def evaluate(args: argparse.Namespace) -> None:
    """Measure a finished run: the evaluators of its configuration, and of a world model everything else."""
    from videowm.evaluate.findings import bounds, value_with_error
    from videowm.files import write_json
    from videowm.measure import measure_world
    from videowm.metrics import single
    from videowm.train.registry import finished_task
    from videowm.train.tasks.world import WorldTask

    if not (args.run / "record.json").exists():
        raise UserError(f"{args.run} holds no finished run (no record.json): finish it with videowm train")
    task = finished_task(args.run, device())
    rolled = isinstance(task, WorldTask) and (args.clips or task.config.rollout.clips)
    more = measure_world(args, task) if rolled else {}
    metrics = dict(task.evaluate()) | more
    write_json(args.run / "evaluation.json", metrics)
    for name in single(metrics):
        between = "  ".join(f"{label} {shown}" for label, shown in bounds(metrics, name).items())
        print(f"{name:44s} {value_with_error(metrics, name):20s} {between}".rstrip())


def quickstart(args: argparse.Namespace) -> None:
    from videowm.quickstart import main

    main(args.out, workers=args.workers)
