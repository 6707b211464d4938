"""Does a probed direction do what it reads? It is added to the residual stream of a rollout, and the factor is read.

Directions are fitted on some held-out episodes, and added in others. Controls are random mixtures of the states' own
deviations, of the same length, and the best-read block's direction added in the other blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from videowm.bootstrap import mean_and_resamples, spread
from videowm.data.clips import even_clips
from videowm.data.dataset import Dataset
from videowm.dit.model import Tap
from videowm.dit.sample import Sampler
from videowm.dit.stream import LatentStream
from videowm.evaluate.probe import Seen, fitted, flat, folds, standardised
from videowm.evaluate.reader import Reader
from videowm.limits import Count, Positive, Seed
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError, pixel_frames
from videowm.vae.codec import to_float

LATENTS, READER = "a linear probe of the latents", "the reader"
OWN, BEST = 0, 1  # kinds of directions: fitted in the block itself, or in the best-read one; then random ones


@dataclass(frozen=True)
class InterveneConfig:
    """How far, how often and for how long states are pushed."""

    strength: Positive = 2.0  # length of what is added, in standard deviations of the states along the direction
    moments: Count = 32  # clips of other held-out episodes than those that the directions are fitted on
    horizon: Count = 16  # frames of a rollout, in whole latent steps
    random: Count = 8  # random directions
    rows: Count = 64  # rollouts at once
    seed: Seed = 0


class PushedStream(LatentStream):
    """A rollout that remembers pushed steps: in some blocks an offset is added to the newest step and all later ones.

    Only passes over finished steps are pushed, in which states are what probes read. In a pass of the sampler the same
    offset is taken for a part of the noise, which is removed.

    Args:
        offsets: "b s d" by block.
    """

    def __init__(self, *inputs: Any, offsets: dict[int, Float[Tensor, "b s d"]], **settings: Any) -> None:
        self.offsets = offsets
        super().__init__(*inputs, **settings)

    def finishing(self, rows: Int[Tensor, " r"] | None = None) -> Tap:
        """The tap of passes over finished steps; a guided rollout's branches follow one another along the batch."""

        def push(block: int, x: Float[Tensor, "all t s d"]) -> Float[Tensor, "all t s d"]:
            if block not in self.offsets:
                return x
            offset = self.offsets[block].to(x)
            return torch.cat([x[:, :-1], x[:, -1:] + offset.repeat(len(x) // len(offset), 1, 1)[:, None]], dim=1)

        return push


def direction(states: Float[Tensor, "n d"], factor: Float[np.ndarray, " n"]) -> Float[Tensor, " d"]:
    """Where states go as a factor rises by its standard deviation: least squares of each number on the factor.

    Of a linear probe these are the pattern, not the weights, which also cancel what disturbs the reading (Haufe et al.
    2014, NeuroImage 87, equation 6).
    """
    y = torch.from_numpy((factor - factor.mean()) / max(factor.std(), 1e-12)).to(states)
    return (states - states.mean(0)).T @ y / len(y)


def pushes(
    states: Float[Tensor, "n d"], found: Float[Tensor, " d"], config: InterveneConfig
) -> Float[Tensor, "kinds d"]:
    """The direction, then random mixtures of the states' deviations, all of one length."""
    away = states - states.mean(0)
    unit = found / found.norm().clamp_min(1e-12)
    length = config.strength * (away @ unit).std()
    draw = torch.randn(config.random, len(away), generator=torch.Generator().manual_seed(config.seed)).to(away)
    every = torch.cat([unit[None], draw @ away])
    return length * every / every.norm(dim=1, keepdim=True).clamp_min(1e-12)


def offsets(
    seen: Seen, fit: Int[np.ndarray, " m"], factor: Float[np.ndarray, " n"], best: int, config: InterveneConfig
) -> Float[Tensor, "blocks kinds d"]:
    """For every block what is added there: its own direction, the best block's, and random ones; rows `fit` count."""
    states = [seen.sources[f"block {i}"][fit] for i in range(len(seen.units))]
    own = [pushes(x, direction(x, factor[fit]), config) for x in states]
    return torch.stack([torch.cat([each[:1], own[best][:1], each[1:]]) for each in own])


Gauge = Callable[[Tensor], np.ndarray]  # latents "b t c h w" of a context and its future -> the factor, "b"


def gauge_of(
    name: str, seen: Seen, fit: Int[np.ndarray, " m"], pipeline: WorldModelPipeline, reader: Reader | None, steps: int
) -> tuple[Gauge, str]:
    """What reads a factor off the last `steps` latent steps of a rollout, in its standard deviations; and its name.

    Raises:
        UserError: the rollout is shorter than the reader's window.
    """
    y = standardised(seen, [name])
    if reader is None or name not in reader.readable.state:
        linear = fitted(seen.sources["latents"][fit].double().numpy(), y[fit], folds(seen.episode)[fit])
        return lambda z: linear(flat(z[:, -steps:]).double().numpy()).reshape(len(z), steps).mean(1), LATENTS
    column = reader.readable.names.index(name)
    frames, std = steps * pipeline.time_stride, seen.factors[:, seen.names.index(name)].std()
    if frames < reader.config.frames:
        raise UserError(f"a horizon of {frames} frames holds no window of the reader's {reader.config.frames}: give "
                        f"--horizon {reader.config.frames} or more")  # fmt: skip

    def read(latents: Float[Tensor, "b t c h w"]) -> Float[np.ndarray, " b"]:
        video = pipeline.codec.decode(pipeline.denormalise(latents))[:, -frames:]
        return reader.read(video)[..., column].double().mean(1).numpy() / std

    return read, READER


@dataclass(frozen=True)
class Moment:
    """A clip's beginning, its actions and the noise of its rollouts; a batch of one."""

    context: Tensor  # "1 t c h w", normalised
    actions: Tensor  # "1 all g", of context and future
    noise: Tensor  # "1 n c h w"
    past: Tensor  # "1 all c h w", on what is remembered
    text: dict[str, Any]


def moments_of(
    pipeline: WorldModelPipeline, dataset: Dataset, episodes: set[int], config: InterveneConfig
) -> tuple[list[Moment], Int[np.ndarray, " m"]]:
    """Moments of the recording's held-out clips of these episodes, each with its episode.

    Raises:
        UserError: no such episode is as long as a window and the horizon.
    """
    known, steps = max(1, pipeline.trained_on.window - 1), steps_of(pipeline, config)
    frames, draw = pixel_frames(known + steps, pipeline.time_stride), torch.Generator().manual_seed(config.seed)
    every = even_clips(dataset, frames=frames, split="test", count=2 * config.moments)
    where = [(episode, start) for episode, start in every if episode in episodes][: config.moments]
    if not where:
        raise UserError(f"no second held-out episode has {frames} frames, and directions are tested on other episodes: "
                        "record longer ones, or give a shorter --horizon")  # fmt: skip
    found = []
    for episode, start in where:
        clip = dataset.clip(episode, start, frames)
        latents, actions = pipeline.beginning(to_float(clip.frames[None]), torch.tensor(clip.actions[None]))
        noise = torch.randn(latents.shape, generator=draw).to(latents)
        past = torch.randn(latents.shape, generator=draw).to(latents)
        text = pipeline.text_conditioning(None, 1, 1)
        found.append(Moment(latents[:, :known], actions, noise[:, known:], past, text))
    return found, np.array([episode for episode, _ in where])


def steps_of(pipeline: WorldModelPipeline, config: InterveneConfig) -> int:
    """Latent steps of the horizon."""
    return -(-config.horizon // pipeline.time_stride)


def pushed(
    pipeline: WorldModelPipeline, moment: Moment, adds: Float[Tensor, "r blocks d"], sampler: Sampler
) -> Float[Tensor, "r t c h w"]:
    """The moment's future, with its context, under the same noise for each of r offsets in the blocks."""
    model, count, known = pipeline.transformer, len(adds), moment.context.shape[1]

    def rows(x: Shaped[Tensor, "one t *rest"]) -> Shaped[Tensor, "r t *rest"]:
        return x.expand(count, *x.shape[1:])

    places = adds.to(moment.context.device).unflatten(-1, (model.tokens, model.hidden))
    offsets = {i: places[:, i] for i in range(places.shape[1]) if places[:, i].any()}
    text = {name: tuple(map(rows, part)) if name == "text" else part for name, part in moment.text.items()}
    past, actions = rows(moment.past), rows(moment.actions)
    stream = PushedStream(model, rows(moment.context), actions[:, :known], sampler=sampler, shift=pipeline.shift,
                          window=pipeline.trained_on.window, past_noise=past[:, :known], offsets=offsets,
                          **text)  # fmt: skip
    steps = [stream.step(actions[:, i, None], rows(moment.noise)[:, i - known, None], past[:, i, None])
             for i in range(known, actions.shape[1])]  # fmt: skip
    return torch.cat([rows(moment.context), *steps], dim=1)


@torch.no_grad()
def moved(
    pipeline: WorldModelPipeline, moment: Moment, adds: Float[Tensor, "blocks kinds d"], gauge: Gauge,
    sampler: Sampler, config: InterveneConfig,
) -> Float[np.ndarray, "blocks kinds"]:  # fmt: skip
    """Half the difference of the factor between a push forward and one back, of each kind in each block.

    In standard deviations of the factor.
    """
    blocks, kinds, _ = adds.shape
    alone = torch.zeros(blocks, kinds, blocks, adds.shape[-1])
    for block in range(blocks):
        alone[block, :, block] = adds[block]
    flat_adds = alone.flatten(0, 1)
    every = torch.cat([flat_adds, -flat_adds])
    read = [gauge(pushed(pipeline, moment, part, sampler)) for part in every.split(config.rows)]
    forward, back = np.split(np.concatenate(read), 2)
    return ((forward - back) / 2).reshape(blocks, kinds)


def scored(moves: Float[np.ndarray, "m blocks kinds"], episode: Int[np.ndarray, " m"], best: int) -> dict[str, Any]:
    """Effects by block, with bootstrap errors over episodes; "above" is what exceeds the random directions' size."""
    drawn = np.einsum("dm,mbk->dbk", mean_and_resamples(episode), moves)
    size = np.abs(drawn[..., 2:]).mean(-1)
    above = drawn[..., OWN] - size
    error, own_error = spread(above[1:], episode), spread(drawn[1:, :, OWN], episode)
    clear = above[0] / np.maximum(error, 1e-12)
    return {"effect": drawn[0, :, OWN].tolist(), "effect_se": own_error.tolist(), "random": size[0].tolist(),
            "above": above[0].tolist(), "above_se": error.tolist(), "errors_above": clear.tolist(),
            "elsewhere": drawn[0, :, BEST].tolist(), "block": best, "moments": len(episode)}  # fmt: skip


def intervene(
    pipeline: WorldModelPipeline, dataset: Dataset, seen: Seen, best: dict[str, int], sampler: Sampler,
    reader: Reader | None, config: InterveneConfig,
) -> list[dict[str, Any]]:  # fmt: skip
    """For each factor the effects of pushing along its direction in every block, and of the controls.

    `best` says in which block each is read best, of all but the last: nothing that comes later remembers that one.

    Raises:
        UserError: episodes are too few or too short, or the horizon is shorter than the reader's window.
    """
    fit = np.flatnonzero(folds(seen.episode) % 2 == 0)
    others = set(dataset.split("test")) - set(seen.episode[fit].tolist())  # those not looked at too: moments are few
    moments, episode = moments_of(pipeline, dataset, others, config)
    rows = []
    for name, block in best.items():
        adds = offsets(seen, fit, seen.factors[:, seen.names.index(name)], block, config)
        gauge, by = gauge_of(name, seen, fit, pipeline, reader, steps_of(pipeline, config))
        moves = np.stack([moved(pipeline, moment, adds, gauge, sampler, config) for moment in moments])
        rows.append({"factor": name, "read_by": by, **scored(moves, episode, block)})
    return rows
