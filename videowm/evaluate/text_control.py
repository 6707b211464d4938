"""Whether the text was obeyed: one fact of the caption is changed, and the reader looks for it in the frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from videowm.data.dataset import Dataset
from videowm.evaluate.curves import MetricCurve, Pairs, mean_and_error, pairs
from videowm.evaluate.drift import drift
from videowm.evaluate.reader import Reader
from videowm.evaluate.readings import standardised
from videowm.evaluate.rollouts import RolloutConfig, Start, roll, start_from
from videowm.evaluate.scenes import Scenes
from videowm.pipeline import WorldModelPipeline
from videowm.worlds import Fact, find_world, open_world, world_class


@dataclass(frozen=True)
class TextRollouts:
    """Videos "b h 3 H W" of predicted frames from the same starts, noise and actions under different captions."""

    captions: list[str]  # of what really happened in the predicted frames
    high: dict[str, Tensor]  # by fact: what was dreamed under the caption with its high phrase
    low: dict[str, Tensor]
    other: tuple[Tensor, Tensor]  # under the captions of two other clips, whatever they hold


def captions_of(scenes: Scenes, dataset: Dataset) -> list[str]:
    """Short captions of the predicted stretches, made from the simulator's states; the phrasing follows the start."""
    where = list(zip(scenes.episode.tolist(), scenes.first.tolist(), strict=True))
    return in_words(dataset, where, scenes.context, scenes.horizon)


def in_words(dataset: Dataset, where: list[tuple[int, int]], context: int, horizon: int) -> list[str]:
    """Captions with all facts of the world, of the `horizon` frames behind the `context` ones from each moment on."""
    world, said = open_world(dataset.name), []
    for episode, first in where:
        begin, end = first + context - 1, first + context + horizon
        rng, states = np.random.default_rng([episode, first]), dataset.states(episode)[begin:end]
        whole = world.sentence(world.facts(states), rng)  # where a caption may leave facts out
        said.append(whole or world.caption(states, dataset.actions(episode)[begin : end - 1], rng))
    return said


@torch.no_grad()
def roll_with_text(pipeline: WorldModelPipeline, dataset: Dataset, scenes: Scenes, config: RolloutConfig, *,
         with_actions: bool) -> TextRollouts:  # fmt: skip
    """Roll every start out under its caption with each fact changed; with or without actions."""
    where = list(zip(scenes.episode.tolist(), scenes.first.tolist(), strict=True))
    start, captions = start_from(pipeline, dataset, where, config), captions_of(scenes, dataset)

    def dreamed(prompts: list[str], start: Start = start) -> Float[Tensor, "b h 3 H W"]:
        return roll(pipeline, start, config, prompts=prompts, with_actions=with_actions)[:, scenes.context :]

    n, facts = len(captions), world_class(dataset.name).FACTS
    high, low = ({f.name: dreamed([f.changed(c, getattr(f, side)[0]) for c in captions]) for f in facts}
                 for side in ("high", "low"))  # fmt: skip
    drawn = np.random.default_rng(config.seed)
    other = tuple(dreamed([captions[i] for i in drawn.permutation(n)]) for _ in range(2))
    return TextRollouts(captions, high, low, other)


def text(
    made: TextRollouts, scenes: Scenes, reader: Reader, facts: tuple[Fact, ...], suffix: str = ""
) -> Iterator[MetricCurve]:
    """How much more of a fact is read off the frames when the caption holds it, in standard deviations.

    Ceilings: the reader on the autoencoder's picture of real clips, and on these themselves, those that have the one
    fact against those that have the other. Floor: two captions of other clips, drawn without regard to the fact.
    """
    for fact in facts:
        side = np.array([fact.side_of(caption) for caption in made.captions])
        shown = [reader.readable.names.index(name) for name in fact.columns if name in reader.readable.names]
        if not shown or not {-1, 1} <= set(side.tolist()):
            continue

        def read(video: Float[Tensor, "b h 3 H W"], column: int = shown[0]) -> Float64[np.ndarray, "b w"]:
            return standardised(reader, reader.read(video))[..., column]

        # The mean over clips of these weights times a reading is one group's mean minus the other's.
        weights = len(side) * np.select([side > 0, side < 0], [1 / (side > 0).sum(), -1 / (side < 0).sum()])[:, None]
        bounds = {
            "ceiling": weights * read(scenes.future("decoded")),
            "ceiling_real": weights * read(scenes.future("truth")),
            "floor": read(made.other[0]) - read(made.other[1]),
        }
        gained = read(made.high[fact.name]) - read(made.low[fact.name])
        yield MetricCurve(f"text/{fact.name}{suffix}", gained, scenes.episode, bounds, first=1 + reader.config.lag)


def text_control(
    pipeline: WorldModelPipeline, dataset: Dataset, scenes: Scenes, config: RolloutConfig, reader: Reader
) -> Pairs:
    """All of it under the true actions and, of a model that can do without them, as `_free` under none.

    Nothing where the world has no facts, or the dataset other states than the world.
    """
    world = find_world(dataset.name)
    facts = world.FACTS if world else ()
    if not facts or dataset.state_names != world.state_names:
        return
    yield "text/guidance", config.sampler.text_guidance
    kinds = {"": True} | ({"_free": False} if pipeline.trained_on.drop_actions else {})
    for suffix, with_actions in kinds.items():
        made = roll_with_text(pipeline, dataset, scenes, config, with_actions=with_actions)
        for curve in text(made, scenes, reader, facts, suffix):
            yield from pairs(curve)
            yield from drift(curve)
            yield from mean_and_error(f"{curve.name}_share", (curve.values.mean(1) > 0).astype(float), curve.episode)
            yield f"{curve.name}_share_floor", 0.5
    for fact in facts:
        sides = [fact.side_of(caption) for caption in made.captions]
        if not {-1, 1} <= set(sides):
            found = f"{sides.count(1)} have {fact.high[0]!r} and {sides.count(-1)} {fact.low[0]!r}"
            why = f"no {fact.name} is read: of {len(sides)} starts {found}: evaluate with more --clips"
            yield f"text/{fact.name}_refused", why
