"""The world model as one diffusers pipeline: VAE, transformer, scheduler, text encoder; saved as one folder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.utils import logging as diffusers_logging
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from videowm import config as configuration
from videowm import keywords
from videowm.actions.group import check_actions, group_actions, grouped_size
from videowm.data.latents import normalised
from videowm.dit import DiT, remote
from videowm.dit.flow import Generators
from videowm.dit.model import Tap
from videowm.dit.sample import Sampler
from videowm.dit.saved import REMEDY, TrainedOn, check_folder, check_hash, loading, network_hash
from videowm.dit.stream import LatentStream, rollout
from videowm.dit.text import ByteText, FrozenText, TextEncoder, TextTokens
from videowm.files import read_json, share
from videowm.keywords import Checked, OutputType, WorldModelOutput, drawn_or_given
from videowm.types import UserError, pixel_frames
from videowm.vae.codec import DiffusersCodec, unwarned, weights_hash
from videowm.vae.stream import StreamDecoder


class WorldModelPipeline(keywords.WithoutOffload, DiffusionPipeline):
    """Continue a video under given actions.

    Example:
        >>> pipeline = WorldModelPipeline.from_pretrained("runs/world")
        >>> video = pipeline(frames, actions, generator=torch.Generator().manual_seed(0)).frames
    """

    _optional_components = ["text_encoder", "tokenizer"]
    _callback_tensor_inputs = ["latents"]
    _interrupt = False

    def __init__(
        self, vae: nn.Module, transformer: DiT, scheduler: FlowMatchEulerDiscreteScheduler,
        text_encoder: nn.Module | None = None, tokenizer: Any = None, transformer_hash: str | None = None,
    ) -> None:  # fmt: skip
        """Put the parts together.

        Args:
            text_encoder, tokenizer: of a frozen encoder; one that was trained lies in the transformer.
            transformer_hash: of the weights as they were saved; None: unknown, as in runs from before it was kept.

        Raises:
            UserError: the transformer is not the one that was saved, or the VAE not the one of the training.
        """
        super().__init__()
        self.register_modules(vae=vae, transformer=transformer, scheduler=scheduler, text_encoder=text_encoder,
                              tokenizer=tokenizer)  # fmt: skip
        self.register_to_config(transformer_hash=transformer_hash)
        self.codec = DiffusersCodec(vae)
        self.trained_on = TrainedOn(**transformer.config.trained_on)
        check_hash("transformer", transformer, transformer_hash, network_hash)
        check_hash("autoencoder", vae, self.trained_on.vae_hash, weights_hash)
        self.reads: TextEncoder | None = None
        if shape := transformer.config.text:
            length = shape["length"]
            self.reads = FrozenText(text_encoder, tokenizer, length) if text_encoder else ByteText(length)

    def save_pretrained(self, folder: str | Path, **settings: Any) -> None:
        """Save all parts in one folder, as diffusers does, with a hash of the transformer; files follow the umask."""
        self.register_to_config(transformer_hash=network_hash(self.transformer))
        super().save_pretrained(folder, **settings)
        remote.add_code(Path(folder), REMEDY)
        share(Path(folder))

    @classmethod
    def load_config(cls, *folder: Any, **settings: Any) -> Any:
        """As diffusers does, for classes of this package: no code that lies in the folder is run."""
        return remote.without_code(super().load_config(*folder, **settings))

    @classmethod
    def from_pretrained(cls, folder: str | Path, **settings: Any) -> WorldModelPipeline:
        """Load a saved pipeline (as diffusers does) from a folder or the hub; no record is needed.

        Raises:
            UserError: there is none, a file is missing, cut or damaged, or the weights changed since they were saved.
        """
        check_folder(folder := remote.local(folder, settings))
        with loading(folder), unwarned():
            return super().from_pretrained(folder, **{"low_cpu_mem_usage": False} | settings)

    @classmethod
    def open(cls, run: str | Path) -> WorldModelPipeline:
        """Load a finished run.

        Raises:
            UserError: there is none, or it is damaged (see `from_pretrained`).
        """
        run = Path(run)
        if not (run / "model_index.json").exists() or not (run / "record.json").exists():
            raise UserError(f"{run} holds no finished world model (no record.json): finish it with videowm train")
        if remote.class_name(read_json(run / "model_index.json", REMEDY)) != cls.__name__:
            raise UserError(f"{run} holds no world model: name the run directory of a task: world")
        diffusers_logging.disable_progress_bar()
        return cls.from_pretrained(run)

    @property
    def time_stride(self) -> int:
        """Frames per latent step, k."""
        return self.codec.stride[0]

    @property
    def shift(self) -> float:
        """The noise schedule's shift, which is all that a scheduler decides here; the sampler does the rest.

        Raises:
            UserError: the scheduler is of another class, or has a setting that the sampler does not follow.
        """
        scheduler, expected = self.scheduler, FlowMatchEulerDiscreteScheduler
        if type(scheduler) is not expected:
            raise UserError(f"a {type(scheduler).__name__} cannot draw latent steps: give a {expected.__name__} with a "
                            "shift, and how to sample as sampler=Sampler(...)")  # fmt: skip
        plain = expected(shift=scheduler.config.shift, num_train_timesteps=scheduler.config.num_train_timesteps).config
        for key, value in plain.items():
            if not key.startswith("_") and scheduler.config.get(key, value) != value:
                raise UserError(f"the scheduler's {key}={scheduler.config[key]!r} is not followed here: leave it at "
                                f"{value!r}, and choose how to sample with sampler=Sampler(...)")  # fmt: skip
        return scheduler.shift

    def normalise(self, latents: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
        """The VAE's latents as the transformer takes them: mean 0, deviation 1 a channel over the training data."""
        return normalised(latents, [values[:, None, None] for values in self.statistics("latents", latents)])

    def denormalise(self, latents: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
        """Latents of the transformer as the VAE takes them."""
        mean, std = self.statistics("latents", latents)
        return latents * std[:, None, None] + mean[:, None, None]

    def statistics(self, kind: str, like: Shaped[Tensor, " ..."]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Mean and standard deviation of "latents" (by channel) or "action", on the device of `like`."""
        values = (getattr(self.trained_on, f"{kind}_{what}") for what in ("mean", "std"))
        return tuple(torch.tensor(numbers, device=like.device) for numbers in values)

    def group(self, actions: Float[Tensor, "b n a"]) -> Float[Tensor, "b t g"]:
        """The transformer's actions from raw ones: normalised, k of them a latent step; n = k * (t - 1)."""
        return group_actions(normalised(actions, self.statistics("action", actions)), self.time_stride)

    def without_actions(self, latents: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t g"]:
        """The transformer's actions for latents without any, as training drops them: all zeros.

        Raises:
            UserError: the model was never trained without actions.
        """
        if not self.trained_on.drop_actions:
            raise UserError(
                "this model was never trained without actions: give the actions, or train it with flow.drop_actions=0.1"
            )
        return latents.new_zeros(*latents.shape[:2], grouped_size(len(self.trained_on.action_names), self.time_stride))

    def check(self, frames: Checked, actions: Checked) -> None:
        """Refuse frames and actions that do not belong together.

        Raises:
            UserError: shapes that do not fit, numbers that are not finite, or no action for the future.
        """
        if frames.ndim != 5 or actions.ndim != 3 or len(frames) != len(actions):
            raise UserError(
                f"frames {tuple(frames.shape)} and actions {tuple(actions.shape)} given, "
                "expected (b, f, 3, H, W) and (b, n, a) with the same b"
            )
        self.check_frames(frames)
        for one in actions:
            check_actions(one, size=len(self.trained_on.action_names))
        if actions.shape[1] < frames.shape[1]:
            raise UserError(
                f"{actions.shape[1]} actions for {frames.shape[1]} context frames leave nothing to predict: give "
                f"{frames.shape[1] - 1} actions for the context and one for every frame to predict"
            )

    def check_frames(self, frames: Checked) -> None:
        """Refuse frames, as "b f 3 H W", of another size than the model's, or that are not finite.

        Raises:
            UserError: the frames have another size, or hold numbers that are not finite.
        """
        shape = self.transformer.config
        expected = (3, shape.height * self.codec.stride[1], shape.width * self.codec.stride[2])
        if tuple(frames.shape[2:]) != expected or not torch.isfinite(frames).all():
            raise UserError(
                f"frames of {tuple(frames.shape[2:])} from {frames.min():g} to {frames.max():g} were given, "
                f"expected {expected} and finite numbers from -1 to 1"
            )

    def text_conditioning(self, prompt: str | list[str] | None, rows: int, futures: int) -> dict[str, TextTokens]:
        """The text of every future and the empty one, as `LatentStream` takes them; no prompt is the empty one.

        Raises:
            UserError: a prompt for a model without text, or another number of prompts than contexts.
        """
        prompts = [prompt or ""] * rows if prompt is None or isinstance(prompt, str) else list(prompt)
        if self.reads is None:
            if any(prompts):
                raise UserError("this model was trained without text, so a prompt does nothing: leave it out")
            return {}
        if len(prompts) != rows:
            raise UserError(f"{len(prompts)} prompts were given for {rows} contexts: give one for each, or one for all")
        tokens, mask = (part.to(self._execution_device) for part in self.reads.encode(["", *prompts]))
        text = tuple(part[1:].repeat_interleave(futures, 0) for part in (tokens, mask))
        return {"text": text, "empty": (tokens[:1], mask[:1])}

    def check_sampler(self, sampler: Sampler | None) -> None:
        """Refuse guidance on a condition that training never dropped: without it the prediction is wrong, not weaker.

        Raises:
            UserError: a setting is out of range, or a guidance is not 1 and training never dropped its condition.
        """
        if sampler is None:
            return
        configuration.check(sampler)
        if sampler.text_guidance != 1 and not (self.trained_on.text or {}).get("drop"):
            raise UserError(
                f"text guidance {sampler.text_guidance:g} needs a model that was trained with captions and without: "
                "train it with text.drop=0.1, or leave the guidance at 1"
            )
        if sampler.action_guidance != 1 and not self.trained_on.drop_actions:
            raise UserError(
                f"action guidance {sampler.action_guidance:g} needs a model that was trained without actions as well: "
                "train it with flow.drop_actions=0.1, or leave the guidance at 1"
            )

    def context(self, frames: Float[Tensor, "b f 3 H W"], futures: int) -> Float[Tensor, "all t c h w"]:
        """Normalised latents of the last frames that fit the time stride; all = b * futures.

        Raises:
            UserError: `futures` is less than 1.
        """
        if futures < 1:
            raise UserError(f"{futures} futures cannot be rolled out: give 1 or more")
        frames = frames[:, self.left_out(frames) :].to(self._execution_device)
        return self.normalise(self.codec.encode(frames)).repeat_interleave(futures, 0)

    def left_out(self, frames: Float[Tensor, "b f 3 H W"]) -> int:
        """How many of the first frames do not fit the time stride k: the VAE takes 1 + k * i frames."""
        return (frames.shape[1] - 1) % self.time_stride

    def grouped(
        self, frames: Float[Tensor, "b f 3 H W"], actions: Float[Tensor, "b n a"], futures: int
    ) -> Float[Tensor, "all t g"]:
        """The transformer's actions from the first used frame on; all = b * futures.

        Whole latent steps are predicted, so the last action is repeated up to the end of one.
        """
        actions = actions[:, self.left_out(frames) :].to(self._execution_device)
        padding = -actions.shape[1] % self.time_stride
        actions = torch.cat([actions, actions[:, -1:].expand(-1, padding, -1)], dim=1)
        return self.group(actions).repeat_interleave(futures, 0)

    def start(
        self, frames: Float[Tensor, "b f 3 H W"], actions: Float[Tensor, "b n a"] | None = None, *,
        generator: Generators = None, sampler: Sampler | None = None, futures: int = 1,
        graph: bool = False, prompt: str | list[str] | None = None, tap: Tap | None = None,
    ) -> VideoStream:  # fmt: skip
        """Begin a video that goes on for as long as it is stepped: what a player, or an agent, needs.

        Args:
            frames: context in [-1, 1], at least one.
            actions: n = f-1 between the context frames; None: without actions, as training drops them.
            generator, sampler, futures, prompt, tap: as in a call.
            graph: on a GPU, compile the network and record a latent step as a CUDA graph: seconds at first, then fast.

        Raises:
            UserError: inputs that do not belong together, or that this model was not trained for.

        Example:
            >>> stream = pipeline.start(frames[:, :1])
            >>> next_frames = stream.step(actions)  # "b k a" -> "b k 3 H W", k the VAE's time stride
        """
        self.check_sampler(sampler)
        keywords.check_generators(generator, len(frames))
        context, grouped = self.beginning(frames, actions, futures)
        text = self.text_conditioning(prompt, len(frames), futures)
        return VideoStream(self, context, grouped, text, generator=generator, sampler=sampler, graph=graph,
                           tap=tap)  # fmt: skip

    def beginning(
        self, frames: Float[Tensor, "b f 3 H W"], actions: Float[Tensor, "b n a"] | None, futures: int = 1
    ) -> tuple[Float[Tensor, "all t c h w"], Float[Tensor, "all t g"]]:
        """Normalised latents of a context, and its grouped actions; all = b * futures.

        Raises:
            UserError: frames and actions that do not belong together, or none that the model was never trained without.
        """
        if actions is None and frames.shape[1] == 1:  # nothing led to the first frame
            actions = torch.zeros(len(frames), 0, len(self.trained_on.action_names))
        if actions is None:
            self.check_frames(frames)
        elif actions.shape[1] != frames.shape[1] - 1:
            raise UserError(f"{actions.shape[1]} actions were given between {frames.shape[1]} frames, "
                            f"expected {frames.shape[1] - 1}")  # fmt: skip
        else:
            self.check(frames, torch.cat([actions, actions.new_zeros(len(actions), 1, actions.shape[2])], dim=1))
        context = self.context(frames, futures)
        return context, self.without_actions(context) if actions is None else self.grouped(frames, actions, futures)

    @torch.no_grad()
    def __call__(
        self, frames: Float[Tensor, "b f 3 H W"], actions: Float[Tensor, "b n a"] | None, *,
        generator: Generators = None, noise: Float[Tensor, "all steps c h w"] | None = None,
        past_noise: Float[Tensor, "all t c h w"] | None = None, sampler: Sampler | None = None, futures: int = 1,
        prompt: str | list[str] | None = None, horizon: int | None = None, tap: Tap | None = None,
        num_inference_steps: int | None = None, output_type: OutputType = "pt", return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> WorldModelOutput | tuple:  # fmt: skip
        """Roll out the future of `frames` under `actions`.

        Args:
            frames: context in [-1, 1], at least one. The VAE takes 1 + k * i frames; earlier ones are left out.
            actions: n >= f; f-1 actions between the context frames, then one for every frame to predict.
                None: without actions, as training drops them.
            generator: source of the noise, on the CPU or the pipeline's device. With a list of one for each context
                every context's frames are those of a call with it alone, up to rounding.
            noise: the starting noise itself, instead of a generator; all = b * futures.
            past_noise: the noise with which past steps are remembered, context included, likewise.
            sampler: how a latent step is drawn (default: 5 steps of Heun's).
            futures: rollouts from each context, each from noise of its own.
            prompt: what is to be seen, one for all contexts or one each, of a model with text.
            horizon: frames to predict without actions; with actions their number decides.
            tap: sees and may replace the residual streams at the ends of blocks, as in `LatentStream`.
            num_inference_steps: `sampler.steps`, by the name that diffusers has for it.
            output_type: of the frames: "pt" in [-1, 1]; "np" float "b f H W 3" in [0, 1]; "pil" a list of pictures for
                each future; "latent" the latents, and nothing is decoded.
            return_dict: False gives the output's fields as a tuple.
            callback_on_step_end, callback_on_step_end_tensor_inputs: see `videowm.keywords.OnStepEnd`.
        Returns:
            context and predicted frames, n+1 in all (fewer by the context frames left out); the futures of a context
            follow one another.
        Raises:
            UserError: inputs that do not belong together, or that this model was not trained for.
        """
        sampler = keywords.with_steps(sampler, num_inference_steps)
        self.check_sampler(sampler)
        keywords.check_output_type(output_type)
        keywords.check_generators(generator, len(frames))
        if actions is None:
            self.check_frames(frames)
        else:
            self.check(frames, actions)
            horizon = actions.shape[1] + 1 - frames.shape[1]
        if horizon is None or horizon < 1:
            raise UserError(f"horizon {horizon} without actions predicts nothing: give 1 frame or more")
        text = self.text_conditioning(prompt, len(frames), futures)
        k, context, self._interrupt = self.time_stride, self.context(frames, futures), False
        each = keywords.OnStepEnd(self, callback_on_step_end, callback_on_step_end_tensor_inputs, context.shape[1])
        steps = -(-horizon // k)  # whole latent steps are predicted; what is too much is cut off below
        start = torch.cat([context, context.new_zeros(len(context), steps, *context.shape[2:])], dim=1)
        grouped = self.without_actions(start) if actions is None else self.grouped(frames, actions, futures)
        noise = drawn_or_given("noise", noise, start[:, context.shape[1] :], generator)
        if past_noise is not None:
            past_noise = drawn_or_given("past_noise", past_noise, start)
        predicted = rollout(self.transformer, context, grouped, noise, sampler=sampler,
                            shift=self.shift, window=self.trained_on.window,
                            generator=generator, past_noise=past_noise, tap=tap, each=each, **text)  # fmt: skip
        latents, known, out = torch.cat([context, predicted], dim=1), pixel_frames(context.shape[1], k), None
        if output_type != "latent":
            out = keywords.converted(self.codec.decode(self.denormalise(latents))[:, : known + horizon], output_type)
        output = WorldModelOutput(latents if out is None else out, latents, known)
        return output if return_dict else output.to_tuple()


class VideoStream:
    """A video in the making: one latent step's frames at a time, in memory that does not grow.

    Frames equal those of a call up to rounding where the autoencoder looks back only so far (`videowm.vae.stream`);
    where it looks back on everything, it sees the model's own window.
    """

    @torch.no_grad()
    def __init__(
        self, pipeline: WorldModelPipeline, context: Float[Tensor, "b t c h w"],
        actions: Float[Tensor, "b t g"], text: dict[str, TextTokens], *,
        generator: Generators, sampler: Sampler | None, graph: bool, tap: Tap | None = None,
    ) -> None:  # fmt: skip
        """Use `start`; from clean, normalised latents, their grouped actions and a text's conditioning."""
        self.pipeline, self.generator = pipeline, generator
        if graph and context.is_cuda:
            pipeline.transformer.compile_blocks()
        self.stream = LatentStream(pipeline.transformer, context, actions, sampler=sampler,
                                   shift=pipeline.shift, window=pipeline.trained_on.window,
                                   generator=generator, graph=graph, tap=tap, **text)  # fmt: skip
        self.decoder = StreamDecoder(pipeline.codec, otherwise=pipeline.trained_on.window)
        self.last = context[:, -1:]
        for step in context.split(1, dim=1):
            self.decoder.step(pipeline.denormalise(step))

    @torch.no_grad()
    def step(
        self, actions: Float[Tensor, "b k a"] | None, noise: Float[Tensor, "b 1 c h w"] | None = None,
        past_noise: Float[Tensor, "b 1 c h w"] | None = None,
    ) -> Float[Tensor, "b k 3 H W"]:  # fmt: skip
        """The next frames in [-1, 1] under the actions that lead to them.

        Args:
            actions: one for each frame; k is the autoencoder's time stride. None: without actions.
            noise, past_noise: the starting noise, and that on the finished step, instead of the generator's.

        Raises:
            UserError: actions or noise that do not fit.
        """
        b, k = len(self.last), self.pipeline.time_stride
        if actions is None:
            grouped = self.pipeline.without_actions(self.last)
        elif tuple(actions.shape[:2]) != (b, k):
            raise UserError(f"actions {tuple(actions.shape)} were given, expected ({b}, {k}, a): one a frame")
        else:
            for one in actions:
                check_actions(one, size=len(self.pipeline.trained_on.action_names))
            grouped = self.pipeline.group(actions.to(self.last.device))[:, 1:]  # the first group is a clip's beginning
        noise = drawn_or_given("noise", noise, self.last, self.generator)
        self.last = self.stream.step(grouped, noise, past_noise)
        return self.decoder.step(self.pipeline.denormalise(self.last))

    @torch.no_grad()
    def reset(
        self, rows: Sequence[int], frames: Float[Tensor, "r f 3 H W"], actions: Float[Tensor, "r n a"] | None = None
    ) -> None:
        """Let some rows begin anew, as environments do, while the others go on; a row's prompt stays.

        Args:
            rows: their numbers among the b videos, each once.
            frames: a context for each of them, as for `WorldModelPipeline.start`.
            actions: n = f-1 between the frames; None: without actions, as training drops them.

        Raises:
            UserError: inputs that do not belong together, or rows that are not there.
        """
        context, grouped = self.pipeline.beginning(frames, actions)
        self.stream.reset(rows, context, grouped)
        self.decoder.reset(rows, self.pipeline.denormalise(context))

    def select(self, rows: Sequence[int]) -> VideoStream:
        """A stream of its own that goes on from some rows of this one, in that order; a row may come several times."""
        other = copy.copy(self)
        other.stream, other.decoder = self.stream.select(rows), self.decoder.select(rows)
        other.last = self.last[list(rows)]
        return other
