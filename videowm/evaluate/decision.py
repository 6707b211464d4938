"""Is the model good to decide in? The dream ranks courses of actions by its own heads, where the real game knows.

No agent is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from videowm.bootstrap import group_counts, spread
from videowm.dit.heads import Heads
from videowm.dit.stream import LatentStream
from videowm.evaluate.choices import Choices, DecisionConfig, play_choices
from videowm.evaluate.counterfactual import Replay
from videowm.evaluate.curves import Pairs, mean_and_error
from videowm.evaluate.outcomes import Frozen, auroc, reliability
from videowm.pipeline import WorldModelPipeline
from videowm.types import pixel_frames
from videowm.vae.codec import to_float

DRAWS = 200  # resamples of scores that no weighted mean gives


@dataclass(frozen=True)
class Judgement:
    """How much somebody thinks that each course earns, and how likely it is that the game ends in it; "M K" each."""

    earns: np.ndarray
    dies: np.ndarray

    @classmethod
    def of(cls, reward: Float[np.ndarray, "*shape t"], death: Float[np.ndarray, "*shape t"]) -> Judgement:
        """From what heads read of t steps: a step's reward counts as far as the game is likely to get there."""
        alive = np.cumprod(1 - death, axis=-1)
        before = np.concatenate([np.ones_like(alive[..., :1]), alive[..., :-1]], axis=-1)
        return cls((before * reward).sum(-1), 1 - alive[..., -1])


def contexts(
    pipeline: WorldModelPipeline, replay: Replay, choices: Choices, moments: Sequence[int], context: int
) -> tuple[Float[Tensor, "b t c h w"], Float[Tensor, "b t g"]]:
    """Latents and grouped actions before some moments."""
    clips = [replay.dataset.clip(int(choices.episode[i]), int(choices.frame[i]) - context + 1, context)
             for i in moments]  # fmt: skip
    frames, actions = (np.stack([getattr(clip, name) for clip in clips]) for name in ("frames", "actions"))
    return pipeline.beginning(to_float(frames), torch.from_numpy(actions))


def grouped(pipeline: WorldModelPipeline, actions: Float[np.ndarray, "b n a"]) -> Float[Tensor, "b t g"]:
    """The transformer's actions of courses that follow a context."""
    return pipeline.group(torch.from_numpy(actions).to(pipeline.device))[:, 1:]


@torch.no_grad()
def dream_choices(
    pipeline: WorldModelPipeline, frozen: Frozen, heads: Heads, replay: Replay, choices: Choices,
    config: DecisionConfig, context: int,
) -> tuple[Float[np.ndarray, "M K m t"], Float[np.ndarray, "M K m t"]]:  # fmt: skip
    """Rewards and probabilities of an end that heads read in m dreams of every course.

    All courses of a moment have the same noise, so that only their actions tell them apart.
    """
    moments, k = choices.actions.shape[:2]
    sampler = frozen.sampler
    if config.past_level is not None:
        sampler = replace(sampler, context_level=config.past_level)
    each, generator, found = k * config.futures, torch.Generator().manual_seed(config.seed), []
    for first in range(0, moments, max(1, config.rows // each)):
        chosen = range(first, min(moments, first + max(1, config.rows // each)))
        past, acted = (x.repeat_interleave(each, 0) for x in contexts(pipeline, replay, choices, chosen, context))
        actions = choices.actions[first : first + len(chosen)].reshape(-1, *choices.actions.shape[2:])
        future = grouped(pipeline, actions.repeat(config.futures, axis=0))
        stream = LatentStream(frozen.model, past, acted, sampler=sampler, shift=frozen.shift,
                              window=frozen.window, generator=generator, keep=heads.config.block,
                              **frozen.rows(len(past)))  # fmt: skip
        read = []
        for step in range(future.shape[1]):
            one = heads.read(stream.kept[:, None], future[:, step, None])
            read.append(one._replace(logits=one.logits / config.end_temperature))
            if step + 1 < future.shape[1]:  # what the last step looks like nobody asks
                noise = torch.randn(len(chosen), 1, config.futures, *past.shape[2:], generator=generator)
                noise = noise.expand(-1, k, -1, -1, -1, -1).flatten(0, 2)[:, None]
                stream.step(future[:, step, None], config.temperature * noise.to(past.device))
        shape = (len(chosen), k, config.futures, -1)
        found.append([torch.cat([getattr(one, name) for one in read], 1).float().cpu().view(shape).numpy()
                      for name in ("reward", "death")])  # fmt: skip
    return tuple(np.concatenate(part) for part in zip(*found))


@torch.no_grad()
def watch_choices(
    pipeline: WorldModelPipeline, frozen: Frozen, heads: Heads, replay: Replay, choices: Choices,
    moments: Sequence[int], context: int,
) -> tuple[Float[np.ndarray, "m K t"], Float[np.ndarray, "m K t"]]:  # fmt: skip
    """The same of heads that see the real video of some moments through the autoencoder, as far as it goes.

    Behind the fatal action there is no video. There a step counts as the mean one, so that its lack tells nothing.
    """
    stride, length, found = pipeline.time_stride, choices.actions.shape[2], []
    for moment, videos in zip(moments, choices.videos):
        past = replay.dataset.clip(int(choices.episode[moment]), int(choices.frame[moment]) - context + 1, context)
        whole = [np.concatenate([past.frames, video[1:], np.repeat(video[-1:], length + 1 - len(video), axis=0)])
                 for video in videos]  # fmt: skip
        actions = np.concatenate([np.tile(past.actions, (len(videos), 1, 1)), choices.actions[moment]], axis=1)
        latents, acted = pipeline.beginning(to_float(np.stack(whole)), torch.from_numpy(actions))
        known, generator, read = latents.shape[1] - length // stride, torch.Generator().manual_seed(0), []
        for step in range(known, latents.shape[1]):
            seen = slice(max(0, step - frozen.window), step)
            noise = torch.randn(latents[:, seen].shape, generator=generator).to(latents.device)
            level = torch.full(noise.shape[:2], frozen.sampler.context_level, device=latents.device)
            features = frozen.features(latents[:, seen], acted[:, seen], heads.config.block, level, noise)
            read.append(heads.read(features[:, -1:], acted[:, step, None]))
        reward, death = (torch.cat([getattr(one, name) for one in read], 1).float().cpu().numpy()
                         for name in ("reward", "death"))  # fmt: skip
        complete = np.array([(len(video) - 1) // stride for video in videos])
        there = np.arange(reward.shape[1]) <= complete[:, None]
        found.append((np.where(there, reward, heads.config.reward_mean), np.where(there, death, 0)))
    return tuple(np.stack(part) for part in zip(*found))


def longest_repeat(actions: Float[np.ndarray, "M K n a"]) -> Float[np.ndarray, "M K"]:
    """How many frames each course holds one action at the longest."""
    same = (np.diff(actions, axis=2) == 0).all(-1)
    run = longest = np.zeros(same.shape[:2])
    for column in np.moveaxis(same, 2, 0):
        run = (run + 1) * column
        longest = np.maximum(longest, run)
    return longest + 1


def correlations(judged: Float[np.ndarray, "M K"], earned: Float[np.ndarray, "M K"],
                 measure: Callable) -> Float[np.ndarray, " M"]:  # fmt: skip
    """The rank correlation in each moment; 0 where somebody thinks all courses alike."""
    return np.array([0.0 if np.ptp(a) == 0 else measure(a, b).statistic for a, b in zip(judged, earned)])


def missed(judged: Float[np.ndarray, "M K"], earned: Float[np.ndarray, "M K"]) -> Float[np.ndarray, "M 2"]:
    """In each moment what the chosen course earns less than the best, and what a random one does; ties are averaged."""
    top = judged == judged.max(1, keepdims=True)
    best = earned.max(1)
    return np.stack([best - (earned * top).sum(1) / top.sum(1), best - earned.mean(1)], axis=1)


def resampled(score: Callable[[Int[np.ndarray, " m"]], float | None], episode: Int[np.ndarray, " M"]) -> float:
    """The standard deviation of a score when whole episodes of moments are drawn with replacement."""
    names = np.unique(episode)
    places = [np.flatnonzero(episode == name) for name in names]
    found = []
    for counts in group_counts(len(names), draws=DRAWS):
        value = score(np.concatenate([np.tile(p, n) for p, n in zip(places, counts) if n]))
        found += [] if value is None else [value]
    return float(spread(np.array(found), episode)) if len(found) > 1 else float("nan")


def scores(suffix: str, judged: Judgement, choices: Choices, moments: Int[np.ndarray, " m"]) -> Pairs:
    """How well somebody ranks the courses of some moments and foresees ends; the names end in `suffix`."""
    episode = choices.episode[moments]
    earned, died = choices.earned[moments], choices.died[moments]
    open_ = np.ptp(earned, axis=1) > 0  # moments in which it matters what is chosen
    for name, measure in (("spearman", spearmanr), ("kendall", kendalltau)):
        values = correlations(judged.earns[open_], earned[open_], measure)
        if len(values):
            yield from mean_and_error(f"decision/{name}{suffix}", values, episode[open_])
    loss = missed(judged.earns, earned)

    def regret(rows: Int[np.ndarray, " r"]) -> float | None:
        lost, random = loss[rows].sum(0)
        return float(lost / random) if random > 0 else None

    def foreseen(rows: Int[np.ndarray, " r"]) -> float | None:
        return auroc(judged.dies[rows].ravel(), died[rows].ravel())

    everything = np.arange(len(moments))
    for name, score in (("regret", regret), ("auroc", foreseen)):
        yield f"decision/{name}{suffix}", score(everything)
        yield f"decision/{name}{suffix}_se", resampled(score, episode)


def about(judged: Judgement, choices: Choices) -> Pairs:
    """What only a judgement in units of the game has: calibration, and what its error is made of."""
    died, off = choices.died, judged.earns - choices.earned
    base = died.mean()
    yield from mean_and_error("decision/brier", ((judged.dies - died) ** 2).mean(1), choices.episode)
    yield from mean_and_error("decision/brier_floor", ((base - died) ** 2).mean(1), choices.episode)
    yield "decision/reliability", reliability(judged.dies.ravel(), died.ravel())
    shared = off.mean(1, keepdims=True)
    around = choices.earned - choices.earned.mean(1, keepdims=True)
    yield "decision/error_shared", float(np.sqrt((shared**2).mean()))
    yield "decision/error_relative", float(np.sqrt(((off - shared) ** 2).mean()))
    yield "decision/error_relative_floor", float(np.sqrt((around**2).mean()))
    yield "decision/moments", len(died)
    yield "decision/died", float(base)
    yield "decision/open", float((np.ptp(choices.earned, axis=1) > 0).mean())


def decision(
    pipeline: WorldModelPipeline, frozen: Frozen, heads: Heads, replay: Replay, config: DecisionConfig
) -> Pairs:
    """Everything about deciding: the dream, heads on the real video (ceiling), and two floors.

    Raises:
        UserError: no held-out episode is as long as a context, or an episode cannot be played again.
    """
    context = pixel_frames(max(1, frozen.window - 1), pipeline.time_stride)
    choices = play_choices(replay, config, context, pipeline.time_stride)
    reward, death = dream_choices(pipeline, frozen, heads, replay, choices, config, context)
    every = np.arange(len(choices.episode))
    dreams = Judgement.of(reward, death)
    judged = Judgement(dreams.earns.mean(-1), dreams.dies.mean(-1))
    yield from scores("", judged, choices, every)
    yield from about(judged, choices)
    alone = Judgement(reward[:, :, 0, 0], death[:, :, 0, 0])  # before anything is dreamed
    yield from scores("_floor", alone, choices, every)
    held = longest_repeat(choices.actions)
    yield from scores("_floor_repeat", Judgement(held, held), choices, every)
    moments = np.linspace(0, len(every) - 1, len(choices.videos), dtype=int)
    watched = watch_choices(pipeline, frozen, heads, replay, choices, moments, context)
    yield from scores("_ceiling", Judgement.of(*watched), choices, moments)
