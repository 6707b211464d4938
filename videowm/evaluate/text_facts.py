"""How many facts of a prompt are obeyed: prompts of one fact to all that the world states, and what is read back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
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
BOUNDS = ("ceiling", "ceiling_real", "floor", "floor_empty")


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

    def told(self, count: int, of: np.ndarray | None = None) -> list[str]:
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


def shares(
    prompts: Prompts, obeyed: dict[int, Bool[np.ndarray, "b n"]], suffix: str, bound: str = ""
) -> Iterator[tuple[str, object]]:
    """Shares obeyed by number of facts, by fact and over all; `obeyed` is by the number of facts in the prompt."""
    named = {count: prompts.named(count) for count in obeyed}
    each = {count: (obeyed[count] & named[count]).sum(1) / count for count in obeyed}
    for count, share in each.items():
        yield from mean_and_error(f"text/{count}_facts_obeyed{suffix}{bound}", share, prompts.episode)
        yield from mean_and_error(f"text/{count}_facts_all{suffix}{bound}", share == 1, prompts.episode)
    yield from mean_and_error(f"text/obeyed{suffix}{bound}", np.mean(list(each.values()), 0), prompts.episode)
    for i, name in enumerate(prompts.names):
        right = np.concatenate([obeyed[count][named[count][:, i], i] for count in obeyed])
        whose = np.concatenate([prompts.episode[named[count][:, i]] for count in obeyed])
        yield from mean_and_error(f"text/{name}_obeyed{suffix}{bound}", right, whose)


@torch.no_grad()
def text_facts(
    pipeline: WorldModelPipeline, dataset: Dataset, scenes: Scenes, config: RolloutConfig, reader: Reader
) -> Pairs:
    """The share of a prompt's facts that the reader finds in the rollout, by the number of facts in the prompt.

    Actions are absent (`_free`) where the model was trained to do without; else they are the true ones, which alone
    bring about most facts. Ceilings: the reader on the real continuation through the autoencoder, and on it as it is.
    Floors: the rollout under the same facts of another episode's clip, and under no prompt; some facts hold anyway, as
    the room that the context shows.
    """
    prompts = prompts_of(scenes, dataset, reader, config.seed)
    if prompts is None:
        return
    free = pipeline.trained_on.drop_actions > 0
    where = list(zip(scenes.episode.tolist(), scenes.first.tolist(), strict=True))
    start, counts = start_from(pipeline, dataset, where, config), range(1, len(prompts.names) + 1)

    def found(video: Float[Tensor, "b h 3 H W"]) -> Bool[np.ndarray, "b n"]:
        return prompts.obeyed(facts_in(video, prompts.world, reader))

    def dreamed(told: list[str]) -> Bool[np.ndarray, "b n"]:
        rolled = roll(pipeline, start, config, prompts=told, with_actions=not free)
        return found(rolled[:, scenes.context :])

    other = of_other_episode(scenes.episode)
    still = found(scenes.future("decoded")), found(scenes.future("truth")), dreamed([""] * len(where))
    yield from shares(prompts, {n: dreamed(prompts.told(n)) for n in counts}, suffix := "_free" if free else "")
    floor = {n: dreamed(prompts.told(n, other)) for n in counts}
    for bound, values in zip(BOUNDS, (*still[:2], floor, still[2]), strict=True):
        by_count = values if isinstance(values, dict) else dict.fromkeys(counts, values)
        yield from shares(prompts, by_count, suffix, f"_{bound}")
