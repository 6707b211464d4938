"""Rewards and ends of clips, as shards of latents hold them, and as targets of latent steps.

Row i of an episode is frame i, the action then taken, what it earned and whether it ended the game. The frame after a
fatal action does not exist. So nothing can be read off it: what a latent step earns, and whether the game ends within
it, are told by the steps before it and by its actions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from videowm.types import Clip


def as_tensors(clips: list[Clip], frames: int, stride: int, actions: int, states: int) -> dict[str, Tensor]:
    """Rewards and ends of n clips of f frames, as a shard holds them: rewards and dones "n f-1+k", k the time stride.

    Rows that an episode does not have are zeros: `rows` "n" says how many it has. `next_actions` "n k a" are those
    after the clip. Where fewer were taken the last one is repeated: zeros would tell that the game is over. `states`
    "n f k" are kept where a state has k > 0 numbers.
    """
    rewards = np.zeros((len(clips), frames - 1 + stride), np.float32)
    dones, following = rewards.astype(np.uint8), np.zeros((len(clips), stride, actions), np.float32)
    for i, found in enumerate(clip.outcomes for clip in clips):
        rewards[i, : len(found.rewards)], dones[i, : len(found.dones)] = found.rewards, found.dones
        more = found.actions[frames - 1 :]
        following[i, : len(more)], following[i, len(more) :] = more, found.actions[-1]
    found = {"rewards": rewards, "dones": dones, "next_actions": following}
    if states:
        found["states"] = np.array([clip.outcomes.states for clip in clips], np.float32).reshape(-1, frames, states)
    rows = torch.tensor([len(clip.outcomes.rewards) for clip in clips], dtype=torch.int64)
    return {name: torch.from_numpy(values) for name, values in found.items()} | {"rows": rows}


class Targets(NamedTuple):
    """What happens in the latent step after each of t steps."""

    reward: Tensor  # float32 "b t", the sum over the actions up to the one that ended the game
    end: Tensor  # int64 "b t": 0 the game goes on, i the i-th action of the step ended it
    known: Tensor  # bool "b t", whether all of it was recorded
    rows: Tensor  # int64 "b t", the clip's rows up to the end of the step, or of the episode


def targets(rewards: Float[Tensor, "b n"], dones: Int[Tensor, "b n"], rows: Int[Tensor, " b"], stride: int) -> Targets:
    """The targets of t = n / k latent steps: those of step i are led by rows k*i .. k*i+k-1, k the time stride."""
    reward, done = (part.unflatten(1, (-1, stride)) for part in (rewards, dones.bool()))
    place = torch.arange(1, stride + 1, device=dones.device)
    end = torch.where(done, place, 0).amax(-1)  # one row ends a game, and no row follows it
    last = torch.arange(1, rewards.shape[1] // stride + 1, device=dones.device) * stride
    begun = rows[:, None] > last - stride
    known = (rows[:, None] >= last) | (end > 0) & begun
    return Targets(reward.sum(-1), end, known, torch.minimum(rows[:, None], last))
