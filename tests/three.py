"""A game of three steps in which every number is known, and an autoencoder whose latents are its frames."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from videowm.worlds import World


class Three(World):
    """At frame i the scripted player takes the action i, which earns 2 ** i. The action at frame `length` - 1 is fatal.

    The picture of frame i has the value 10 * i everywhere. There is no picture after the fatal action. With `spread`
    that many lengths, from `length` on, follow from the seed, and the picture's left column is as bright as it is long.
    To fall ends the game at once; the player never does.
    """

    name, size, action_names, state_names = "three", (64, 64), ("at",), ("at",)
    NAMED_ACTIONS = {"none": (0.0,), "one": (1.0,), "fall": (-1.0,)}
    fps = 10.0

    def __init__(self, length: int = 3, spread: int = 1) -> None:
        self.shortest_game, self.spread = length, spread

    def reset(self, seed: int) -> None:
        self.at, self.length = 0, self.shortest_game + seed % self.spread

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        self.at += 1
        return 2.0 ** (self.at - 1), self.at >= self.length or bool(action[0] < 0)

    def state(self) -> np.ndarray:
        return np.array([self.at], np.float32)

    def render(self) -> np.ndarray:
        assert self.at < self.length, "the frame after the fatal action does not exist"
        picture = np.full((*self.size, 3), 10 * self.at, np.uint8)
        if self.spread > 1:
            picture[:, :16] = 60 * (self.length - self.shortest_game)
        return picture

    def driver(self, rng: np.random.Generator):
        while True:
            yield np.array([self.at], np.float32)


class Plain:
    """Latent step i is the brightness of the last frame that it holds, one value for every 8x8 pixels."""

    channels, hash = 1, "plain"

    def __init__(self, stride: int) -> None:
        self.stride = (stride, 8, 8)

    def encode(self, frames: Tensor) -> Tensor:
        return frames[:, :: self.stride[0], :1, ::8, ::8].clone()

    def decode(self, latents: Tensor) -> Tensor:
        whole = latents.repeat_interleave(8, -2).repeat_interleave(8, -1).expand(-1, -1, 3, -1, -1)
        repeated = whole[:, 1:].repeat_interleave(self.stride[0], 1)
        return torch.cat([whole[:, :1], repeated], dim=1).clamp(-1, 1)
