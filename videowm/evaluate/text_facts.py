"""How many facts of a prompt are obeyed: prompts of one fact to all that the world states, and what is read back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from videowm.data.dataset import Dataset
from videowm.evaluate.curves import Pairs, mean_and_error
from videowm.evaluate.heldout import of_other_episode
from videowm.evaluate.reader import Reader
from videowm.evaluate.rollouts import RolloutConfig, roll, start_from
from videowm.evaluate.scenes import Scenes
from videowm.pipeline import WorldModelPipeline
from videowm.worlds import World, find_world, open_world

Facts = list[dict[str, str]]  # of every clip: name of a fact -> its phrase


@dataclass(frozen=True)
class Prompts:
    """What is true of the predicted frames of b clips, and in which order a clip's prompts take these facts up."""

    world: World
    facts: Facts
    order: np.ndarray  # int "b n", numbers of facts
    episode: np.ndarray  # "b"

    @property
    def names(self) -> list[str]:
        """The facts, in the order of a sentence."""
        return list(self.facts[0])

    def named(self, count: int) -> Bool[np.ndarray, "b n"]:
        """Which facts a clip's prompt of `count` facts names."""
        return self.order.argsort(1) < count

    def told(self, count: int, of: Int[np.ndarray, " b"] | None = None) -> list[str]:
        """A prompt of `count` facts for every clip; with `of` "b" the same facts as they are in these clips."""
        chosen = [self.facts[i] for i in (range(len(self.facts)) if of is None else of)]
        return [
            self.world.sentence({f: facts[f] for f, yes in zip(self.names, row) if yes}, np.random.default_rng(0))
            for facts, row in zip(chosen, self.named(count), strict=True)
        ]

    def obeyed(self, found: Facts) -> Bool[np.ndarray, "b n"]:
        """Which of the true facts are among those that were `found`."""
        return np.array([[one[name] == true[name] for name in self.names]
                         for one, true in zip(found, self.facts, strict=True)])  # fmt: skip


def prompts_of(scenes: Scenes, dataset: Dataset, reader: Reader, seed: int) -> Prompts | None:
    """Prompts that the rollouts of `scenes` can obey, since they are true of how the game went on from there.

    A room that is named lies within reach, and all facts of a prompt go together. The facts are of the rows that the
    reader tells of. None where the world states no facts, the reader reads too few columns, or the horizon is short.
    """
    known, windows = find_world(dataset.name), scenes.horizon - reader.config.frames + 1
    if known is None or not known.has("facts") or dataset.state_names != known.state_names or windows < 2:
        return None
    world, some = open_world(dataset.name), np.zeros((2, len(reader.readable.names)))
    if world.states_from(dict(zip(reader.readable.names, some.T))) is None:
        return None
    begins = scenes.first + scenes.context + reader.config.lag
    facts = [world.facts(dataset.states(int(e))[b : b + windows]) for e, b in zip(scenes.episode, begins, strict=True)]
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(len(facts[0])), (len(facts), 1)), axis=1)
    return Prompts(world, facts, order, scenes.episode)


def facts_in(video: Float[Tensor, "b h 3 H W"], world: World, reader: Reader) -> Facts:
    """The facts that the reader's states say of each video."""
    names = reader.readable.names
    return [world.facts(world.states_from(dict(zip(names, rows.numpy().T)))) for rows in reader.read(video)]


def shares(prompts: Prompts, obeyed: dict[int, Bool[np.ndarray, "b n"]], bound: str = "") -> Pairs:
    """Shares obeyed by number of facts, by fact and over all; `obeyed` is by the number of facts in the prompt."""
    named = {count: prompts.named(count) for count in obeyed}
    each = {count: (obeyed[count] & named[count]).sum(1) / count for count in obeyed}
    for count, share in each.items():
        yield from mean_and_error(f"text/{count}_facts_obeyed{bound}", share, prompts.episode)
        yield from mean_and_error(f"text/{count}_facts_all{bound}", share == 1, prompts.episode)
    yield from mean_and_error(f"text/obeyed{bound}", np.mean(list(each.values()), 0), prompts.episode)
    for i, name in enumerate(prompts.names):
        right = np.concatenate([obeyed[count][named[count][:, i], i] for count in obeyed])
        whose = np.concatenate([prompts.episode[named[count][:, i]] for count in obeyed])
        yield from mean_and_error(f"text/{name}_obeyed{bound}", right, whose)


@torch.no_grad()
def text_facts(
    pipeline: WorldModelPipeline, dataset: Dataset, scenes: Scenes, config: RolloutConfig, reader: Reader
) -> Pairs:
    """The share of a prompt's facts that the reader finds in the rollout, by the number of facts in the prompt.

    Actions are absent, since these alone bring most facts about. Ceilings: the reader on the real continuation
    through the autoencoder, and on it as it is. Floors: the rollout under the same facts of another episode's clip,
    and under no prompt; some facts hold anyway, as the room that the context shows.
    """
    prompts = prompts_of(scenes, dataset, reader, config.seed)
    if prompts is None:
        return
    if not pipeline.trained_on.drop_actions:
        yield "text/obeyed_refused", "prompts decide nothing beside actions: train with flow.drop_actions above 0"
        return
    where = list(zip(scenes.episode.tolist(), scenes.first.tolist(), strict=True))
    start, counts = start_from(pipeline, dataset, where, config), range(1, len(prompts.names) + 1)

    def found(video: Float[Tensor, "b h 3 H W"]) -> Bool[np.ndarray, "b n"]:
        return prompts.obeyed(facts_in(video, prompts.world, reader))

    def dreamed(told: list[str]) -> Bool[np.ndarray, "b n"]:
        rolled = roll(pipeline, start, config, prompts=told, with_actions=False)
        return found(rolled[:, scenes.context :])

    other = of_other_episode(scenes.episode)
    bounds = {
        "": {n: dreamed(prompts.told(n)) for n in counts},
        "_ceiling": dict.fromkeys(counts, found(scenes.future("decoded"))),
        "_ceiling_real": dict.fromkeys(counts, found(scenes.future("truth"))),
        "_floor": {n: dreamed(prompts.told(n, other)) for n in counts},
        "_floor_empty": dict.fromkeys(counts, dreamed([""] * len(where))),
    }
    for bound, obeyed in bounds.items():
        yield from shares(prompts, obeyed, bound)
