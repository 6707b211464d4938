"""A player's returns in the dream, of games that begin and are cut off as the real ones are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from videowm.agents.contest import Contest
from videowm.agents.player import Seen
from videowm.dream.rows import DreamConfig, Dreams
from videowm.options import DreamScoreOptions


class DreamedGames:
    """Dreams of one player, opened once for all temperatures, since a GPU compiles them.

    Raises:
        UserError: the run has no heads, or no episodes are held out.
    """

    def __init__(self, contest: Contest, options: DreamScoreOptions) -> None:
        self.contest, self.options = contest, options
        config = DreamConfig(observation="memory", horizon=contest.longest, split="test", begin="first", context=1)
        self.dreams = Dreams(contest.run, config, options.dreams, data=options.data, frames=False,
                             device=options.device)  # fmt: skip

    def returns(self, temperature: float) -> np.ndarray:
        """What the player earns, float64 "n"; each dream begins at the first frame of a held-out episode."""
        dreams, count = self.dreams, self.options.dreams
        dreams.config = replace(dreams.config, temperature=temperature)
        places = [{"episode": dreams.episodes[i % len(dreams.episodes)]} for i in range(count)]
        dreams.begin(range(count), [np.random.default_rng([self.options.seed, i]) for i in range(count)], places)
        return played(self.contest, dreams, count)


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
