"""A player's returns in the dream, of games that begin and are cut off as the real ones are."""

from __future__ import annotations

import numpy as np
import torch

from videowm.agents.contest import Contest
from videowm.agents.player import Seen
from videowm.dream.rows import DreamConfig, Dreams
from videowm.options import DreamScoreOptions


def dream_returns(contest: Contest, count: int, temperature: float, options: DreamScoreOptions) -> np.ndarray:
    """What a player earns in `count` dreams, float64; each begins at the first frame of a held-out episode.

    Raises:
        UserError: the run has no heads, or no episodes are held out.
    """
    config = DreamConfig(observation="memory", horizon=contest.longest, split="test", begin="first", context=1,
                         temperature=temperature)  # fmt: skip
    dreams = Dreams(contest.run, config, count, data=options.data, frames=False, device=options.device)
    places = [{"episode": dreams.episodes[i % len(dreams.episodes)]} for i in range(count)]
    dreams.begin(range(count), [np.random.default_rng([options.seed, i]) for i in range(count)], places)
    return played(contest, dreams, count)


def played(contest: Contest, dreams: Dreams, count: int) -> np.ndarray:
    """The returns of dreams that were begun; what comes after an end does not count."""
    earned, alive = np.zeros(count), np.ones(count, bool)
    keeps = max(1, dreams.pipeline.trained_on.window - 1)
    names = len(dreams.pipeline.trained_on.action_names)
    latents = dreams.latents[:, None]
    grouped = dreams.pipeline.group(torch.zeros(count, 0, names, device=dreams.device))
    for _ in range(dreams.horizon):
        if not alive.any():
            break
        action = contest.player.act(Seen(latents, grouped, dreams.memory))
        held = np.repeat(np.float32(action)[:, None], dreams.stride, axis=1)
        made = dreams.step(held)
        earned[alive] += made.reward[alive]
        alive &= made.end == 0
        following = dreams.pipeline.group(torch.from_numpy(held).to(dreams.device))[:, 1:]
        latents = torch.cat([latents, dreams.latents[:, None]], dim=1)[:, -keeps:]
        grouped = torch.cat([grouped, following], dim=1)[:, -keeps:]
    return earned
