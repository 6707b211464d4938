"""`videowm generate`: roll a run out from a dataset's frames, under given actions and a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from videowm import config as configuration
from videowm.actions.group import check_actions
from videowm.actions.script import parse_actions
from videowm.actions.tables import NO_ACTIONS, TABLES, read_action_table
from videowm.data.dataset import Dataset
from videowm.data.starts import acted_dataset, starts_of
from videowm.device import default_device
from videowm.dit.sample import Sampler
from videowm.files import check_output
from videowm.options import GenerateOptions
from videowm.pipeline import WorldModelPipeline
from videowm.show import comparison_video
from videowm.types import UserError
from videowm.vae.codec import to_float, to_uint8
from videowm.worlds import find_world
from videowm.worlds.base import discovered


@dataclass(frozen=True)
class Generated:
    """A rollout: the context frames, then the predicted ones."""

    frames: np.ndarray  # uint8 "f H W 3"
    truth: np.ndarray | None  # uint8, as long or shorter; None where these actions were not played in the game
    actions: np.ndarray  # float32 "f-1 a"
    context_frames: int  # the first frames, which were given; as many as fit the autoencoder's time stride
    prompt: str | None  # as the model read it


def generate(run: Path, data: Path | None, out: Path | None, options: GenerateOptions) -> Generated:
    """Roll `run` out from frames of `data`, or of what it brought along; with `out` also write the comparison video.

    Raises:
        UserError: `--expand` comes without a prompt, `out` is no .mp4, or run, data and actions do not fit each other.
    """
    if out is not None:
        check_output(out, ".mp4")
    if options.expand and options.prompt is None:
        raise UserError("--expand was given without --prompt: give the prompt that is to be expanded")
    sampler = sampler_of(options)
    pipeline, dataset = WorldModelPipeline.open(run).to(default_device()), acted_dataset(run, data or starts_of(run))
    episode = dataset.split("test")[0] if options.episode is None else options.episode
    actions, truth = future(dataset, episode, pipeline.trained_on.world, options)
    context = to_float(dataset.frames(episode, range(options.start, options.start + options.context)))
    prompt = prompt_of(options, pipeline, context)
    made = pipeline(context[None], torch.tensor(actions)[None], sampler=sampler, prompt=prompt,
                    generator=torch.Generator().manual_seed(options.seed))  # fmt: skip
    left_out = options.context - made.context_frames
    found = Generated(to_uint8(made.frames[0]), None if truth is None else truth[left_out:], actions[left_out:],
                      made.context_frames, prompt)  # fmt: skip
    if out is not None:
        comparison_video(out, found.frames, found.truth, found.actions, pipeline.trained_on.action_names,
                         context=found.context_frames, fps=pipeline.trained_on.fps)  # fmt: skip
    return found


def sampler_of(options: GenerateOptions) -> Sampler:
    """How a latent step is drawn."""
    data = {"action_guidance": options.guidance, "text_guidance": options.text_guidance}
    if options.sampling_steps is not None:
        data["steps"] = options.sampling_steps
    for override in options.sampler:
        configuration.apply_override(data, override)
    return configuration.build(Sampler, data, where="--sampler")


def prompt_of(options: GenerateOptions, pipeline: WorldModelPipeline, context: torch.Tensor) -> str | None:
    """The prompt as the model reads it: the user's own, or what a server made of it and the last context frame."""
    if options.prompt is None or not options.expand:
        return options.prompt
    from videowm.caption import expand_prompt, make_endpoint

    pipeline.text_conditioning(options.prompt, 1, 1)  # a model without text is refused before a request is sent
    frame = to_uint8(context[-1:])[0]
    return expand_prompt(options.prompt, frame, make_endpoint(options.endpoint), cache=options.cache)


def future(
    dataset: Dataset, episode: int, world: str, options: GenerateOptions
) -> tuple[np.ndarray, np.ndarray | None]:
    """Actions "f-1 a" of context and future, and the true frames "f H W 3" where the actions are the episode's own.

    Raises:
        UserError: the episode is too short for the context, or the actions cannot be read or have the wrong size.
    """
    known, start = options.context - 1, options.start
    own = dataset.actions(episode)[start:]
    if len(own) < known:
        raise UserError(
            f"episode {episode} has {len(own)} actions from frame {start} on: too few for {options.context} frames"
        )
    if options.actions is None:
        actions = own[: known + options.frames]
        return actions, dataset.frames(episode, range(start, start + len(actions) + 1))
    if Path(options.actions).suffix.lower() in TABLES:
        names, given = read_action_table(Path(options.actions))
        if set(names) == set(dataset.action_names):  # a header may name them in another order
            given = given[:, [names.index(name) for name in dataset.action_names]]
    else:
        given = parse_actions(options.actions, named_actions(world, dataset.action_names))
    check_actions(torch.from_numpy(given), size=own.shape[1])
    return np.concatenate([own[:known], given]), None


def named_actions(world: str, names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """The action names of the world that a model was trained on; `names` are the parts of an action.

    Raises:
        UserError: the world is unknown or has no named actions, or the model none at all.
    """
    if tuple(names) == (NO_ACTIONS,):
        raise UserError(f"the model was trained on {world} without actions: give none")
    known = find_world(world)
    named = (known.named_actions(names) if known else discovered(names)) or {}
    if not named:
        raise UserError(f"the model's world {world!r} has no named actions: give a table ({', '.join(TABLES)})")
    return named
