"""How well heads read rewards and ends: of real latents, and of rollouts of the world model itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from torch import Tensor

from videowm.data.latents import Latents, normalised
from videowm.data.outcomes import Targets
from videowm.dit import DiT
from videowm.dit.heads import Heads, Reading, features_of
from videowm.dit.sample import Sampler
from videowm.dit.stream import LatentStream
from videowm.dit.text import TextTokens
from videowm.evaluate.curves import Pairs, mean_and_error
from videowm.evaluate.scores import r2

BINS = 10  # of a reliability figure


@dataclass(frozen=True)
class Frozen:
    """A world model as heads see it: how it remembers, draws and reads an empty text."""

    model: DiT
    sampler: Sampler
    shift: float
    window: int
    text: dict[str, TextTokens]  # what a stream takes, of one row; empty without text

    def rows(self, count: int) -> dict[str, TextTokens]:
        """The empty text of several rows."""
        return {name: tuple(part.expand(count, *part.shape[1:]) if name == "text" else part for part in tokens)
                for name, tokens in self.text.items()}  # fmt: skip

    def features(
        self, latents: Float[Tensor, "b t c h w"], actions: Float[Tensor, "b t g"], block: int,
        level: Float[Tensor, "b t"], noise: Float[Tensor, "b t c h w"],
    ) -> Float[Tensor, "b t s d"]:  # fmt: skip
        """The residual stream at the end of a block, under the empty text."""
        return features_of(self.model, latents, actions, block, level, noise, self.rows(len(latents)).get("text"))


@dataclass(frozen=True)
class Readings:
    """What heads said of the step after each of t steps of n clips, beside what was recorded."""

    reward: np.ndarray  # "n t"
    chances: np.ndarray  # "n t k+1", of no end and of an end by the i-th action
    true: Targets  # "n t", as arrays
    episode: np.ndarray  # "n"

    @property
    def death(self) -> Float[np.ndarray, "n t"]:
        """The probability of an end within the step."""
        return 1 - self.chances[..., 0]


@dataclass(frozen=True)
class Clips:
    """Held-out clips of t steps with what happened after each of them; those cut where games ended come last."""

    latents: Tensor  # float32 "n t c h w", normalised
    actions: Tensor  # "n t g"
    following: Tensor  # "n t g", of the step after each step
    targets: Targets
    episode: np.ndarray


def held_out(regular: Latents, final: Latents, count: int, context: int) -> Clips:
    """Up to `count` clips of each kind, spread evenly; steps that see fewer than `context` steps are not counted.

    Every step of an episode counts once: of a clip that was cut at the end those that no other clip shows.

    Raises:
        UserError: the latents have no rewards and ends.
    """
    found = []
    for latents in (regular, final):
        chosen = np.unique(np.linspace(0, len(latents) - 1, min(count, len(latents)), dtype=int))
        if len(chosen):
            stored, actions = latents.windows(chosen, np.zeros_like(chosen), latents.index.steps)
            following, about = following_of(latents, regular, chosen)
            about.known[:, : context - 1] = False
            found.append((normalised(stored, latents.scale), actions, following, *about, latents.episodes(chosen)))
    latents, actions, following, *about, episode = map(torch.cat, zip(*found))
    return Clips(latents, actions, following, Targets(*about), episode.numpy())


def following_of(latents: Latents, regular: Latents, chosen: Int[np.ndarray, " b"]) -> tuple[Tensor, Targets]:
    """Of some clips the actions "b t g" after each step, and what they do.

    Of clips that were cut where games ended, only what no regular clip of the same episode shows counts as known.
    """
    found, following = latents.outcomes(chosen)
    if latents is regular or not len(chosen):
        return following, found
    shown: dict[int, int] = {}
    for episode, start in zip(*(part.tolist() for part in regular.places())):
        shown[episode] = max(shown.get(episode, 0), start + latents.index.frames - 1 + latents.stride)
    episodes, start = (part[chosen] for part in latents.places())
    limit = torch.tensor([shown.get(episode, 0) for episode in episodes.tolist()])
    return following, found._replace(known=found.known & (start[:, None] + found.rows > limit[:, None]))


def read_real(frozen: Frozen, heads: Heads, clips: Clips, batch: int) -> Readings:
    """What heads read of the clips as they were recorded, remembered as a rollout remembers its steps."""
    steps, found = clips.latents.shape[1], []
    generator, level = torch.Generator().manual_seed(0), frozen.sampler.context_level
    for latents, actions, following in parts(clips, batch, heads.device):
        read = []
        for last in range(steps):  # a step sees no more than the window, and the same as in a rollout
            seen = slice(max(0, last + 1 - frozen.window), last + 1)
            noise = torch.randn(latents[:, seen].shape, generator=generator).to(latents.device)
            levels = torch.full(noise.shape[:2], level, device=latents.device)
            features = frozen.features(latents[:, seen], actions[:, seen], heads.config.block, levels, noise)
            read.append(heads.read(features[:, -1:], following[:, last, None]))
        found.append(joined(read))
    return readings(found, clips)


@torch.no_grad()
def read_dreams(frozen: Frozen, heads: Heads, clips: Clips, batch: int, context: int) -> Readings:
    """What heads read while the model goes on by itself after `context` steps, under the recorded actions."""
    found, steps, generator = [], clips.latents.shape[1], torch.Generator().manual_seed(0)
    for latents, actions, following in parts(clips, batch, heads.device):
        stream = LatentStream(frozen.model, latents[:, :context], actions[:, :context], sampler=frozen.sampler,
                              shift=frozen.shift, window=frozen.window, generator=generator, keep=heads.config.block,
                              **frozen.rows(len(latents)))  # fmt: skip
        read = [heads.read(stream.kept[:, None], following[:, context - 1, None])]
        for step in range(context, steps):
            noise = torch.randn(latents[:, :1].shape, generator=generator).to(latents.device)
            stream.step(actions[:, step, None], noise)
            read.append(heads.read(stream.kept[:, None], following[:, step, None]))
        found.append(joined(read))
    return readings(found, clips, first=context - 1)


def parts(clips: Clips, batch: int, device: torch.device) -> Iterable[list[Tensor]]:
    """Latents, their actions and the following ones, some clips at a time, on the device."""
    for i in range(0, len(clips.latents), batch):
        yield [part[i : i + batch].to(device) for part in (clips.latents, clips.actions, clips.following)]


def joined(read: list[Reading]) -> tuple[Tensor, Tensor]:
    """Rewards "b t" and chances "b t k+1" of several steps, on the CPU."""
    return (torch.cat([one.reward for one in read], 1).cpu(),
            torch.cat([one.logits.softmax(-1) for one in read], 1).cpu())  # fmt: skip


def readings(found: list[tuple[Tensor, Tensor]], clips: Clips, first: int = 0) -> Readings:
    """Readings of the steps from `first` on, beside what was recorded of them."""
    reward, chances = (torch.cat(part).numpy() for part in zip(*found))
    return Readings(reward, chances, Targets(*(part[:, first:].numpy() for part in clips.targets)), clips.episode)


def auroc(score: Float[np.ndarray, " n"], happened: Bool[np.ndarray, " n"]) -> float | None:
    """The chance that something that happened has a higher score than something that did not; ties count half."""
    positives = int(happened.sum())
    if not 0 < positives < len(happened):
        return None
    ranks = rankdata(score)[happened].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * (len(happened) - positives)))


def reliability(chance: Float[np.ndarray, " n"], happened: Bool[np.ndarray, " n"]) -> list[list[float]]:
    """Of each tenth of probabilities that occurs: the mean one, the share that happened, and how many there are."""
    place = (chance * BINS).astype(int).clip(0, BINS - 1)
    return [[float(chance[place == i].mean()), float(happened[place == i].mean()), int((place == i).sum())]
            for i in range(BINS) if (place == i).any()]  # fmt: skip


def off_by(points: list[list[float]]) -> float:
    """How far the shares of a reliability figure are off their probabilities, mean over what they stand for.

    This is the expected calibration error (Guo et al. 2017, arXiv 1706.04599, equation 3).
    """
    chance, share, count = np.array(points, np.float64).reshape(-1, 3).T
    return float(np.average(np.abs(chance - share), weights=count))


def delays(read: Readings) -> Float[np.ndarray, " m"]:
    """Of every clip with an end that is foreseen anywhere: how many frames later than it was it is read to be."""
    stride, found = read.chances.shape[-1] - 1, []
    for death, chances, end, known in zip(read.death, read.chances, read.true.end, read.true.known):
        seen, true = np.flatnonzero((death > 0.5) & known), np.flatnonzero((end > 0) & known)
        if len(seen) and len(true):
            said = seen[0] * stride + 1 + chances[seen[0], 1:].argmax()
            found.append(said - (true[0] * stride + end[true[0]]))
    return np.array(found, np.float64)


def report(kind: str, read: Readings) -> Pairs:
    """Scores of readings, named heads/KIND_…; what cannot be known of so few is None.

    The floor of the Brier score (Brier 1950) is that of the base rate.
    """
    known, name = read.true.known, f"heads/{kind}"
    episode = np.repeat(read.episode[:, None], known.shape[1], 1)[known]
    reward, true = read.reward[known], read.true.reward[known]
    chance, happened = read.death[known], read.true.end[known] > 0
    score, error = r2(reward[:, None, None], true[:, None, None], episode)
    yield f"{name}_reward_r2", score
    yield f"{name}_reward_r2_se", error
    yield from mean_and_error(f"{name}_reward_error", np.abs(reward - true), episode)
    said, hits = chance > 0.5, int(((chance > 0.5) & happened).sum())
    yield f"{name}_done_rate", float(happened.mean())
    yield f"{name}_done_precision", hits / int(said.sum()) if said.any() else None
    yield f"{name}_done_recall", hits / int(happened.sum()) if happened.any() else None
    yield f"{name}_done_auroc", auroc(chance, happened)
    yield from mean_and_error(f"{name}_done_brier", (chance - happened) ** 2, episode)
    yield from mean_and_error(f"{name}_done_brier_floor", (happened.mean() - happened) ** 2, episode)
    yield f"{name}_done_reliability", reliability(chance, happened)
    late = delays(read)
    yield f"{name}_done_delay", float(late.mean()) if len(late) else None
    yield f"{name}_done_delay_spread", float(np.abs(late).mean()) if len(late) else None
