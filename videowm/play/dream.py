"""One player's dream: a stream of one model, and what is needed to begin anew from any moment of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from videowm.dit.sample import Sampler
from videowm.evaluate.explorer import Directions
from videowm.pipeline import VideoStream
from videowm.play.messages import Tune
from videowm.play.model import Model
from videowm.vae.codec import to_float, to_uint8

LOOKED_BACK = 4  # latent steps that are decoded to show a moved one, where the autoencoder looks back


class Dream:
    """Rows of futures of one start, all of one model, continued one latent step at a time without a clock.

    Attributes:
        latents: the newest normalised latents "r t c h w", as many as the model's window keeps.
        grouped: the transformer's actions of these, "r t g".
    """

    def __init__(self, model: Model) -> None:
        self.model, self.pipeline = model, model.pipeline
        self.tune, self.temperature = Tune(), 1.0
        self.generator = torch.Generator()

    def check(self, tune: Tune) -> Sampler:
        """The sampler of some settings.

        Raises:
            UserError: the model has no text, or was not trained for guidance.
        """
        own = self.model.sampler
        steps = {} if tune.steps is None else {"steps": tune.steps, "levels": None}
        sampler = replace(own, action_guidance=tune.guidance, **steps)
        self.pipeline.check_sampler(sampler)
        self.pipeline.text_conditioning(tune.prompt or None, 1, 1)
        return sampler

    def start(self, frames: UInt8[np.ndarray, "f H W 3"], actions: Float32[np.ndarray, "n a"], seed: int) -> None:
        """Begin behind some frames and the n = f-1 actions between them."""
        count = min(len(frames), self.model.context_frames)
        given = to_float(frames[None, -count:]), torch.tensor(actions[None, len(actions) - count + 1 :])
        with self.model.lock, torch.no_grad():
            self.latents = self.pipeline.context(given[0], 1)
            self.grouped = self.pipeline.grouped(*given, 1)
            self.generator.manual_seed(seed)
            self.open()

    def open(self) -> None:
        """A stream from the remembered latents on, with the present settings. The caller holds the model's lock."""
        pipeline, rows = self.pipeline, len(self.latents)
        text = pipeline.text_conditioning(self.tune.prompt or None, rows, 1)
        self.stream = VideoStream(pipeline, self.latents, self.grouped, text, generator=self.generator,
                                  sampler=self.check(self.tune), graph=rows == 1)  # fmt: skip

    def retune(self, tune: Tune) -> None:
        """Go on from here with other settings.

        Raises:
            UserError: the model cannot have them.
        """
        self.check(tune)
        self.tune = tune
        with self.model.lock:
            self.open()

    def play(self, actions: Float32[np.ndarray, "r n a"], *, alike: bool = False) -> UInt8[np.ndarray, "r n H W 3"]:
        """The next frames under one action each; n is a multiple of the time stride, r the rows.

        `alike` gives all rows the same noise, so that only their actions or pasts tell them apart.
        """
        given, k = torch.from_numpy(np.ascontiguousarray(actions)), self.model.stride
        with self.model.lock:
            parts = [self.step(part, alike=alike) for part in given.split(k, dim=1)]
        return np.concatenate(parts, axis=1)

    def step(self, actions: Float[Tensor, "r k a"], *, alike: bool) -> UInt8[np.ndarray, "r k H W 3"]:
        """One latent step."""
        noise = self.temperature_of(self.draw(alike=alike))
        past = self.draw(alike=alike) if self.stream.stream.remembers_noise else None
        frames = self.stream.step(actions, noise, past)
        keep = max(1, self.pipeline.trained_on.window - 1)
        grouped = self.pipeline.group(actions.to(self.grouped.device))[:, 1:]
        self.latents = torch.cat([self.latents, self.stream.last], dim=1)[:, -keep:]
        self.grouped = torch.cat([self.grouped, grouped], dim=1)[:, -keep:]
        return to_uint8(frames)

    def temperature_of(self, noise: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Starting noise, scaled: 0 draws what is most expected, more than 1 what is less likely."""
        return noise * self.tune.temperature

    def draw(self, *, alike: bool) -> Float[Tensor, "r 1 c h w"]:
        """Noise for one step of every row."""
        shape = self.stream.last.shape
        drawn = torch.randn((1, *shape[1:]) if alike else shape, generator=self.generator)
        return drawn.expand(shape).to(self.stream.last.device)

    def select(self, rows: Sequence[int]) -> Dream:
        """A dream of its own that goes on from some rows of this one; a row may come several times."""
        other = Dream(self.model)
        other.tune = self.tune
        other.generator.set_state(self.generator.get_state())
        with self.model.lock:
            other.latents, other.grouped = self.latents[list(rows)], self.grouped[list(rows)]
            other.stream = self.stream.select(rows)
        return other

    def coordinates(self, found: Directions) -> list[float]:
        """Where row 0's newest latent step is along the directions, in standard deviations from the mean."""
        with self.model.lock:
            own = self.pipeline.denormalise(self.latents[:1, -1:]).flatten() - found.mean
            return ((found.axes @ own) / found.std.clamp_min(1e-12)).tolist()

    def shift(self, found: Directions, values: dict[int, float]) -> Float[Tensor, "1 1 c h w"]:
        """What sets row 0's newest latent step to these coordinates, to be added to latents that are not normalised.

        The shortest such shift: directions that were probed need not be at right angles to others.
        """
        own, chosen = self.coordinates(found), list(values)
        axes = found.axes[chosen]
        missing = torch.tensor([value - own[i] for i, value in values.items()]).to(axes) * found.std[chosen]
        return (torch.linalg.pinv(axes) @ missing).view(1, 1, *self.latents.shape[2:])

    @torch.no_grad()
    def moved_frame(self, found: Directions, values: dict[int, float]) -> UInt8[np.ndarray, "1 H W 3"]:
        """Row 0's newest frame as it would be at these coordinates; the dream itself stays."""
        codec = self.pipeline.codec
        with self.model.lock:
            latents = self.pipeline.denormalise(self.latents[:1, -LOOKED_BACK:]).clone()
            latents[:, -1:] += self.shift(found, values)
            frames = codec.decode(latents) if codec.looks_back else codec.decode(latents[:, -1:], begins=False)
            return to_uint8(frames[0, -1:])

    def moved(self, found: Directions, values: dict[int, float]) -> Dream:
        """Two futures: as it is, and with the remembered latents moved so that the newest has these coordinates."""
        other = Dream(self.model)
        other.tune = self.tune
        other.generator.set_state(self.generator.get_state())
        with self.model.lock:
            moved = self.pipeline.normalise(self.pipeline.denormalise(self.latents[:1]) + self.shift(found, values))
            other.latents = torch.cat([self.latents[:1], moved])
            other.grouped = self.grouped[:1].repeat(2, 1, 1)
            other.open()
        return other
