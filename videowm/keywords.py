"""The keywords that pipelines of diffusers share, as a world model takes them.

A latent step is what other pipelines call a step: it is drawn whole, from noise to data, before the next one begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor

from videowm.config import suggest
from videowm.dit.flow import Generators, normal
from videowm.dit.sample import Sampler
from videowm.types import UserError

Checked = Shaped[Tensor, " ..."]  # any shape comes in; the function refuses one that does not fit
OutputType = Literal["pt", "np", "pil", "latent"]
OFFLOAD = (
    "a rollout calls parts of the networks, which {} does not bring to the device: leave it out and give "
    "pipeline.to(device), with a smaller batch where memory is short"
)


@dataclass
class WorldModelOutput(BaseOutput):
    """A rollout's result, context included."""

    frames: Any  # by default "b f 3 H W" in [-1, 1]; see `output_type`
    latents: Float[Tensor, "b t c h w"]  # normalised
    context_frames: int  # of all frames, those of the context


def with_steps(sampler: Sampler | None, steps: int | None) -> Sampler | None:
    """The sampler with `num_inference_steps` as its steps.

    Raises:
        UserError: the sampler has levels of its own.
    """
    if steps is None:
        return sampler
    if sampler is not None and sampler.levels is not None:
        raise UserError(f"num_inference_steps {steps} and sampler.levels {sampler.levels} are both given: give one")
    return replace(sampler or Sampler(), steps=steps)


def check_output_type(kind: str) -> None:
    """Refuse an unknown one before anything is computed.

    Raises:
        UserError: it is none of `OutputType`.
    """
    if kind not in (kinds := get_args(OutputType)):
        raise UserError(f"output_type is {kind!r}, expected one of {', '.join(kinds)}{suggest(kind, kinds)}")


def converted(frames: Float[Tensor, "b f 3 H W"], kind: OutputType) -> Any:
    """Frames in [-1, 1] as they are ("pt"), as float arrays "b f H W 3" in [0, 1] ("np"), or as lists of pictures."""
    if kind == "pt":
        return frames
    return VideoProcessor().postprocess_video(rearrange(frames.float(), "b f c H W -> b c f H W"), kind)


def check_generators(generator: Generators, rows: int) -> None:
    """Refuse a list of generators that does not have one for each context.

    Raises:
        UserError: there are more or fewer.
    """
    if isinstance(generator, Sequence) and len(generator) != rows:
        raise UserError(f"{len(generator)} generators were given for {rows} contexts: give one for each, or one in all")


def drawn_or_given(what: str, noise: Checked | None, like: Checked, generator: Generators = None) -> Tensor:
    """Standard normal noise shaped and placed like `like`: the caller's, if its shape fits, or newly drawn.

    Raises:
        UserError: noise of another shape was given.
    """
    noise = normal(like.shape, generator, like.device) if noise is None else noise
    if noise.shape != like.shape:
        raise UserError(f"{what} of shape {tuple(noise.shape)} was given, expected {tuple(like.shape)}")
    return noise.to(like.device)


@dataclass(frozen=True)
class OnStepEnd:
    """A caller's function that looks on, called at the end of every predicted latent step.

    It gets the pipeline, the number of the predicted step (from 0) and that of the latent step in the clip. With them
    come the tensors that it asked for: "latents" "b 1 c h w". It may set `pipeline._interrupt = True`, which ends the
    rollout.

    Raises:
        UserError: it asks for a tensor that there is not.
    """

    pipeline: Any
    function: Callable[[Any, int, int, dict[str, Tensor]], dict[str, Tensor] | None] | None
    tensors: Sequence[str]
    context: int  # latent steps

    def __post_init__(self) -> None:
        if isinstance(self.function, PipelineCallback | MultiPipelineCallbacks):
            object.__setattr__(self, "tensors", self.function.tensor_inputs)
        if wrong := [name for name in self.tensors if name not in self.pipeline._callback_tensor_inputs]:
            raise UserError(
                f"callback_on_step_end_tensor_inputs names {wrong[0]!r}, but a latent step has latents alone: give "
                "['latents']"
            )

    def __call__(self, step: int, latents: Float[Tensor, "b 1 c h w"]) -> bool:
        """Call the function; whether the rollout ends here.

        Raises:
            UserError: it returns other latents: the step is finished, and the next ones already see it.
        """
        if self.function is not None:
            given = dict.fromkeys(self.tensors, latents)
            returned = self.function(self.pipeline, step, self.context + step, given) or {}
            if returned.get("latents", latents) is not latents:
                raise UserError(
                    "callback_on_step_end returned other latents, but a finished step stays as it is: change the "
                    "residual stream with a tap instead"
                )
        return self.pipeline._interrupt


class WithoutOffload:
    """What diffusers would bring to the device at each forward pass of a whole network is refused."""

    def enable_model_cpu_offload(self, *_: Any, **__: Any) -> None:
        """Refused.

        Raises:
            UserError: always.
        """
        raise UserError(OFFLOAD.format("enable_model_cpu_offload"))

    def enable_sequential_cpu_offload(self, *_: Any, **__: Any) -> None:
        """Refused.

        Raises:
            UserError: always.
        """
        raise UserError(OFFLOAD.format("enable_sequential_cpu_offload"))
