"""Dreams that are begun, stepped and ended row by row: what the environments are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from videowm import config as configuration
from videowm.config import suggest
from videowm.data.starts import acted_dataset
from videowm.device import default_device
from videowm.dit import flow
from videowm.dit.heads import Heads
from videowm.dit.sample import sampler_of
from videowm.dit.stream import LatentStream
from videowm.limits import Count, NonNegative, Share
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError, pixel_frames
from videowm.vae.codec import to_float, to_uint8
from videowm.vae.stream import StreamDecoder

OPTIONS = ("episode", "frame")  # of a reset


@dataclass(frozen=True)
class DreamConfig:
    """What an environment shows, takes and draws. The defaults draw as the model was trained to."""

    observation: Literal["frames", "latents", "memory"] = "frames"  # memory: latents and the network's own features
    action: Literal["step", "frame"] = "step"  # one action for a latent step, held over its frames, or one a frame
    actions: Literal["auto", "named", "box"] = "auto"  # the world's named actions, or its numbers; auto: names if any
    horizon: Count = 512  # frames after which an episode is cut off; whole latent steps of it
    split: Literal["train", "test"] = "train"  # episodes that dreams begin in
    begin: Literal["any", "first"] = "any"  # frame of it: any one with a full context before it, or the first of these
    context: Count | None = None  # latent steps before a dream; None: as many as the model sees
    temperature: NonNegative = 1.0  # factor of the starting noise; 0 draws what is most expected
    past_level: Share | None = None  # noise on what was dreamed; None: the model's own sampler's
    end_temperature: NonNegative = 1.0  # of the end's probabilities; 0: the likeliest, more than 1 evens them out


@dataclass(frozen=True)
class Step:
    """What a latent step of every row gave."""

    reward: np.ndarray  # float32 "n"
    end: np.ndarray  # int "n": 0 the game goes on, i its i-th action ended it
    death: np.ndarray  # float32 "n", the probability of an end, before any temperature
    chance: np.ndarray  # float32 "n", that with which the end was drawn


class Dreams:
    """Rows of dreams of one world model, each with random numbers of its own.

    A row that ended shows what was last seen before its fatal action: the frame after it does not exist.

    Attributes:
        frame: each row's newest frame, uint8 "n H W 3"; zeros where none is drawn.
        latents: each row's newest latents, float32 "n c h w", normalised.
        memory: the network's features of each row's newest step, float32 "n s d".
    """

    def __init__(
        self, run: str | Path, config: DreamConfig, rows: int, *, data: str | Path | None = None, frames: bool = True,
        device: str | None = None,
    ) -> None:  # fmt: skip
        """Open a finished run with heads.

        Args:
            run: the world model.
            config: see `DreamConfig`.
            rows: dreams at the same time.
            data: recording that dreams begin in; None: that of the training.
            frames: whether frames are drawn, which costs time.
            device: None: a GPU where there is one. There each latent step is a CUDA graph in bf16.

        Raises:
            UserError: the run is not finished or has no heads, or no episode is as long as the context.
        """
        configuration.check(config)
        self.config, self.run = config, Path(run)
        self.pipeline = WorldModelPipeline.open(run)
        self.heads = Heads.open(run, self.pipeline.config.transformer_hash)
        self.device = torch.device(device) if device else default_device()
        for part in (self.pipeline, self.heads):
            part.to(self.device)
        if self.graph:
            self.pipeline.transformer.to(torch.bfloat16)
        self.dataset = acted_dataset(self.run, Path(data) if data is not None else None)
        own = sampler_of(self.run)
        self.sampler = own if config.past_level is None else replace(own, context_level=config.past_level)
        self.count, self.frames = rows, frames
        steps = config.context or max(1, self.pipeline.trained_on.window - 1)
        self.context = pixel_frames(steps, self.stride)  # frames
        lengths = self.dataset.lengths
        self.episodes = [e for e in self.dataset.split(config.split) if lengths[e] >= self.context]
        if not self.episodes:
            raise UserError(f"{self.dataset.root} has no {config.split} episode of {self.context} frames, the context "
                            "of a dream: give a lower context, or a recording with longer ones")  # fmt: skip
        self.generators = [torch.Generator() for _ in range(rows)]
        self.stream: LatentStream | None = None

    @property
    def graph(self) -> bool:
        """Whether each latent step is a CUDA graph."""
        return self.device.type == "cuda"

    @property
    def stride(self) -> int:
        """Frames of a latent step."""
        return self.pipeline.time_stride

    @property
    def horizon(self) -> int:
        """Latent steps of an episode, at most."""
        return max(1, self.config.horizon // self.stride)

    def place(self, random: np.random.Generator, options: Mapping[str, Any] | None) -> tuple[int, int]:
        """Episode and frame where a dream begins: the given ones, or drawn.

        Raises:
            UserError: an option is unknown, or the episode or the frame is not there or has too little before it.
        """
        options = dict(options or {})
        for key in options:
            if key not in OPTIONS:
                raise UserError(f"a dream has no option {key!r} of a reset{suggest(key, OPTIONS)}")
        episode = options.get("episode")
        if episode is None:
            episode = self.episodes[int(random.integers(len(self.episodes)))]
        elif not (isinstance(episode, int | np.integer) and 0 <= episode < len(self.dataset.lengths)):
            raise UserError(
                f"{self.dataset.root} has no episode {episode!r}: give 0 to {len(self.dataset.lengths) - 1}"
            )
        first, last = self.context - 1, int(self.dataset.lengths[episode]) - 1
        if last < first:
            raise UserError(f"episode {episode} of {self.dataset.root} has {last + 1} frames and a dream's context "
                            f"{self.context}: choose a longer one, or give a lower context")  # fmt: skip
        frame = options.get("frame")
        if frame is None:
            frame = int(random.integers(first, last + 1)) if self.config.begin == "any" else first
        elif not (isinstance(frame, int | np.integer) and first <= frame <= last):
            raise UserError(f"frame {frame!r} of episode {episode} cannot begin a dream that has {self.context} frames "
                            f"before it: give {first} to {last}")  # fmt: skip
        return int(episode), int(frame)

    @torch.no_grad()
    def begin(self, rows: Sequence[int], randoms: Sequence[np.random.Generator],
              options: Sequence[Mapping[str, Any] | None]) -> list[tuple[int, int]]:  # fmt: skip
        """Let some rows begin anew, all of them at first; returns the episode and frame of each.

        Raises:
            UserError: a place cannot begin a dream.
        """
        places = [self.place(random, option) for random, option in zip(randoms, options)]
        for row, random in zip(rows, randoms):
            self.generators[row].manual_seed(int(random.integers(2**63 - 1)))
        clips = [self.dataset.clip(episode, frame - self.context + 1, self.context) for episode, frame in places]
        frames, actions = (np.stack([getattr(clip, name) for clip in clips]) for name in ("frames", "actions"))
        self.start(rows, *self.pipeline.beginning(to_float(frames), torch.from_numpy(actions)))
        return places

    @torch.no_grad()
    def start(
        self, rows: Sequence[int], context: Float[Tensor, "r t c h w"], grouped: Float[Tensor, "r t g"],
        past_noise: Float[Tensor, "r t c h w"] | None = None,
    ) -> None:  # fmt: skip
        """Let some rows begin anew from normalised latents and their grouped actions, all of them at first.

        `past_noise` is the noise with which the context is remembered, instead of the generators'.
        """
        if self.stream is None or len(rows) == self.count and not self.graph:
            self.open(context, grouped, past_noise)  # the same bits again; a recorded graph is too dear for that
        else:
            with self.pipeline.transformer.uncompiled():  # else every new number of rows is compiled anew
                self.stream.reset(rows, context, grouped, past_noise)
        self.latents[list(rows)] = context[:, -1].float()
        if self.frames:
            shown = self.decoder.reset(rows, self.pipeline.denormalise(context))
            self.frame[list(rows)] = to_uint8(shown[:, -1:])[:, 0]
        self.keep()

    def open(
        self, context: Float[Tensor, "n t c h w"], grouped: Float[Tensor, "n t g"],
        past_noise: Float[Tensor, "n t c h w"] | None,
    ) -> None:  # fmt: skip
        """The stream and decoder of all rows."""
        text = self.pipeline.text_conditioning(None, self.count, 1)
        if self.graph:
            self.pipeline.transformer.compile_blocks()
        with self.pipeline.transformer.uncompiled():  # the context is read once: a compilation would not pay
            self.stream = LatentStream(
                self.pipeline.transformer, context, grouped, sampler=self.sampler, shift=self.pipeline.shift,
                window=self.pipeline.trained_on.window, generator=self.generators, graph=self.graph,
                keep=self.heads.config.block, past_noise=past_noise, **text)  # fmt: skip
        self.decoder = StreamDecoder(self.pipeline.codec, otherwise=self.pipeline.trained_on.window)
        self.latents = torch.zeros_like(context[:, -1]).float()
        self.frame = np.zeros((self.count, *self.dataset.size, 3), np.uint8)

    @torch.no_grad()
    def step(self, actions: Float[np.ndarray, "n k a"] | Float[Tensor, "n k a"]) -> Step:
        """The next latent step of every row. What it earns and whether it ends is read before it is drawn."""
        given = torch.as_tensor(actions, dtype=torch.float32, device=self.device)
        grouped = self.pipeline.group(given)[:, 1:]
        read = self.heads.read(self.stream.kept[:, None], grouped)
        end, chance = self.draw_end(read.logits[:, 0].float().cpu())
        drawn = self.stream.step(grouped, self.noise(1) * self.config.temperature, self.past_noise(1))
        goes_on = torch.from_numpy(end == 0).to(self.device)
        self.latents = torch.where(goes_on[:, None, None, None], drawn[:, 0].float(), self.latents)
        if self.frames:
            self.show(to_uint8(self.decoder.step(self.pipeline.denormalise(drawn))), end)
        self.keep(goes_on)
        return Step(read.reward[:, 0].float().cpu().numpy(), end, read.death[:, 0].float().cpu().numpy(), chance)

    def show(self, frames: np.ndarray, end: Int[np.ndarray, " n"]) -> None:
        """Each row's newest frame: the step's last one, or the one in which the fatal action was taken."""
        for row, place in enumerate(end.tolist()):
            if place != 1:
                self.frame[row] = frames[row, -1 if place == 0 else place - 2]

    def keep(self, goes_on: Tensor | None = None) -> None:
        """Each row's features, where they are asked for; a row that ended has those of before."""
        if self.config.observation != "memory":
            return
        kept = self.stream.kept.float()
        self.memory = kept.clone() if goes_on is None else torch.where(goes_on[:, None, None], kept, self.memory)

    def noise(self, steps: int) -> Float[Tensor, "n {steps} c h w"]:
        """Normal noise of some latent steps of every row."""
        return flow.normal((self.count, steps, *self.latents.shape[1:]), self.generators, self.device)

    def past_noise(self, steps: int) -> Float[Tensor, "n {steps} c h w"] | None:
        """The noise with which finished steps of every row are remembered; None: the stream draws it."""
        return None

    def uniform(self) -> Float[Tensor, " n"]:
        """A number from 0 to 1 for each row, on the CPU."""
        return torch.cat([torch.rand(1, generator=generator) for generator in self.generators])

    def draw_end(self, logits: Float[Tensor, "n k+1"]) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Whether and by which action each row's game ends, and with which probability at the temperature."""
        drawn = self.uniform()
        if self.config.end_temperature == 0:
            end = logits.argmax(-1).numpy()
            return end, (end > 0).astype(np.float32)
        chances = (logits / self.config.end_temperature).softmax(-1)
        end = (drawn[:, None] >= chances.cumsum(-1)[:, :-1]).sum(-1).numpy()
        return end, 1 - chances[:, 0].numpy()
