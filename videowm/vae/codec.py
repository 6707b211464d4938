"""Any diffusers video autoencoder behind the `VideoCodec` protocol."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import diffusers
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Shaped, UInt8
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from videowm.config import check, suggest
from videowm.files import short_hash_of
from videowm.limits import LARGEST_SIZE, Count, Range, Size, check_fit
from videowm.types import UserError, latent_steps, pixel_frames
from videowm.vae.cosmos import adapt
from videowm.vae.patch import PatchAutoencoder
from videowm.vae.sizes import sized

# class -> how (time stride, space stride) are read from the model's own configuration
STRIDES = {
    "PatchAutoencoder": lambda c: (c.time_stride, c.space_stride),
    "AutoencoderKLCosmos": lambda c: (c.temporal_compression_ratio, c.spatial_compression_ratio),
    "AutoencoderKLLTXVideo": lambda c: (
        c.patch_size_t * 2 ** sum(c.spatio_temporal_scaling),
        c.patch_size * 2 ** sum(c.spatio_temporal_scaling),
    ),
    "AutoencoderKLWan": lambda c: (2 ** sum(c.temperal_downsample), 2 ** (len(c.dim_mult) - 1) * (c.patch_size or 1)),
    "AutoencoderKLMagvit": lambda c: (
        2 ** c.down_block_types.count("SpatialTemporalDownBlock3D"),
        2 ** (len(c.block_out_channels) - 1),
    ),
    "AutoencoderKLCogVideoX": lambda c: (c.temporal_compression_ratio, 2 ** (len(c.block_out_channels) - 1)),
}
# All but cuDNN's: its backward pass gives NaN where all scores of a query are below about -89 (pytorch issue 196678,
# torch 2.11, H100 and H200), and Cosmos' attention in time, whose first step sees itself alone, comes to -300.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
EXACT = ("encoder.patch_embed", "decoder.conv_out", "decoder.unpatch_embed")  # see `exact`
CHUNK = {"AutoencoderKLWan": 4, "AutoencoderKLMagvit": 4}  # frames after the first are encoded by four


@dataclass(frozen=True)
class SizeConfig:
    """Strides, latent channels and size of an autoencoder, whatever its class."""

    time: Size = 4  # time stride, a power of two
    space: Size = 8  # space stride, a power of two
    channels: Size = 8  # latent channels
    width: Size = 32  # of the first block, the others twice that; of all blocks of PatchAutoencoder; a multiple of 8
    layers: Annotated[int, Range(at_least=1, at_most=64)] = 1  # residual layers a block; of PatchAutoencoder's encoder


@dataclass(frozen=True)
class VAEConfig:
    """Which autoencoder: a class of a given size, or the folder or hub name of a saved one.

    The default, `videowm.vae.patch`, begins at the PCA of the training data. The other classes are diffusers'.

    `size` fills in what a class needs for its strides, `args` are the class's own arguments on top. Strides offered:

        class                  time 1      time 2      time 4      time 8
        PatchAutoencoder       any         any         any         any
        AutoencoderKLCosmos    4 8 16      4 8 16      4 8 16      8 16
        AutoencoderKLLTXVideo  4 8 16      4 8 16      4 8 16      8 16
        AutoencoderKLWan       4 8 16      4 8 16      4 8 16      -
        AutoencoderKLMagvit    4 8 16      4 8 16      4 8 16      -

    AutoencoderKLCogVideoX loads and trains, but sees the future: it takes `args` only.
    """

    model: str = "PatchAutoencoder"  # class, of this package or of diffusers
    size: SizeConfig | None = None
    args: dict[str, Any] = field(default_factory=dict)  # arguments of the class, beside those that `size` gives
    pretrained: str | None = None  # folder or hub name of a saved autoencoder to begin with
    local: Count | None = None  # latent steps that Cosmos' attention in time sees; None: the whole past
    qk_norm: bool = False  # queries and keys of mean square 1 in Cosmos' attention, whose scores else grow without end


def build_vae(config: VAEConfig) -> nn.Module:
    """The autoencoder of a configuration: fresh weights, or those of `pretrained`.

    Raises:
        UserError: the class or a saved autoencoder is not known, or it cannot be built with these arguments.
    """
    check(config)
    if config.pretrained is not None:
        if config.size is not None or config.args:
            raise UserError(
                f"vae.pretrained: {config.pretrained} has its own size and arguments: leave out vae.size and vae.args"
            )
        return exact(adapt(load_vae(config.pretrained), local=config.local, qk_norm=config.qk_norm))
    cls = vae_class(config.model)
    defaults = {name: p.default for name, p in inspect.signature(cls.__init__).parameters.items() if name != "self"}
    for key, value in config.args.items():
        if key not in defaults:
            raise UserError(f"vae.args: {config.model} takes no {key!r}{suggest(key, defaults)}")
        check_argument(f"vae.args.{key}", value, defaults[key])
    size = {} if config.size is None else sized(config.model, **asdict(config.size))
    try:
        vae = cls(**size | config.args)
    except Exception as error:  # noqa: BLE001 - each class fails in its own ways where its arguments do not fit
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"vae.args: {config.model} cannot be built of {config.args} ({reason}): give as many entries in every list "
            "as there are blocks, and sizes that its norms divide"
        ) from None
    return exact(adapt(vae, local=config.local, qk_norm=config.qk_norm))


def check_argument(name: str, value: Any, default: Any) -> None:
    """Refuse a value of another kind than the class's default, and sizes that no network has.

    Raises:
        UserError: the value is of another kind, not finite, or no size from 1 to `LARGEST_SIZE`; 0 counts as one where
            it is the default.
    """
    if value is None or default is None:
        return
    if isinstance(default, list | tuple):
        if not isinstance(value, list | tuple):
            raise UserError(f"{name}: expected a list such as {list(default)[:4]}, got {value!r}")
        for one in value if default else ():
            check_argument(name, one, default[0])
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, bool) and not isinstance(value, bool):
        raise UserError(f"{name}: expected true or false, got {value!r}")
    if isinstance(default, str) and not isinstance(value, str):
        raise UserError(f"{name}: expected a word such as {default!r}, got {value!r}")
    if isinstance(default, float) and not (number and math.isfinite(value)):
        raise UserError(f"{name}: expected a finite number, got {value!r}")
    least = 0 if default == 0 else 1
    if type(default) is int and not (number and least <= value <= LARGEST_SIZE and value == int(value)):
        raise UserError(f"{name}: expected a whole number from {least} to {LARGEST_SIZE}, got {value!r}")


def exact(vae: nn.Module) -> nn.Module:
    """The layers next to the pixels compute in fp32 under autocast too.

    In bf16 a pixel is off by up to half a grey level, to the same side over a flat area. Once training is far on, the
    sum of these errors in the gradient of a bias is as large as the gradient itself.
    """

    def in_fp32(forward: Callable[..., Any], x: Float[Tensor, "*shape"], *rest: Any, **more: Any) -> Any:
        if not torch.is_autocast_enabled(x.device.type):
            return forward(x, *rest, **more)
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float(), *rest, **more)

    modules = dict(vae.named_modules())
    for module in (modules[name] for name in EXACT if name in modules):
        module.forward = partial(in_fp32, module.forward)
    return vae


def vae_class(name: str) -> type[nn.Module]:
    """The class of that name, of this package or of diffusers.

    Raises:
        UserError: no class of that name is in `STRIDES`.
    """
    if name not in STRIDES:
        raise UserError(f"vae.model: {name!r} is not a video autoencoder known here{suggest(name, STRIDES)}")
    return PatchAutoencoder if name == PatchAutoencoder.__name__ else getattr(diffusers, name)


def load_vae(source: str | Path) -> nn.Module:
    """A saved autoencoder: a diffusers folder, a run directory that holds one in `vae/`, or a hub name.

    Raises:
        UserError: there is none, its files are damaged or do not fit, or its class is not known here.
    """
    folder = Path(source)
    if not folder.is_dir():
        return load_from_hub(str(source))
    folder = folder / "vae" if (folder / "vae" / "config.json").exists() else folder
    if not (folder / "config.json").exists():
        raise UserError(f"{source} holds no finished autoencoder (no vae/config.json): train it, or name another")
    try:
        name = json.loads((folder / "config.json").read_text()).get("_class_name")
    except (ValueError, AttributeError):
        raise UserError(f"{folder}/config.json is damaged: save the autoencoder again") from None
    return load_weights(name, folder)


def load_from_hub(name: str) -> nn.Module:
    """A hub repository's `vae` folder, or the repository itself where that is the autoencoder.

    Raises:
        UserError: no autoencoder has that name, or its weights cannot be loaded.
    """
    reason = ""
    for place in ({"subfolder": "vae"}, {}):
        try:
            config = diffusers.AutoModel.load_config(name, **place)
        except (OSError, ValueError) as error:
            reason = reason or str(error).splitlines()[0]
        else:
            return load_weights(config.get("_class_name"), name, **place)
    raise UserError(f"no autoencoder at {name!r} ({reason}): give a folder, or a hub name while online")


def load_weights(name: str | None, source: str | Path, **place: str) -> nn.Module:
    """The weights of class `name` at `source`, every one of them: diffusers would draw a missing one at random.

    Raises:
        UserError: the class is not in `STRIDES`, the weights cannot be read, or they do not fit its configuration.
    """
    if name not in STRIDES:
        raise UserError(
            f"{source} holds a {name!r}, which is not a video autoencoder known here: give one of {', '.join(STRIDES)}"
        )
    try:
        with unwarned():  # what else it would warn of is looked at below
            vae, found = vae_class(name).from_pretrained(source, **place, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"the {name} at {source} cannot be loaded ({reason}): save or download it again") from None
    if wrong := [*found["missing_keys"], *found["unexpected_keys"]]:
        raise UserError(
            f"the weights at {source} do not fit its config.json ({wrong[0]} and {len(wrong) - 1} more are missing "
            "or unknown): save or download it again"
        )
    return vae


@contextmanager
def unwarned() -> Iterator[None]:
    """Loading without diffusers' warning of `local` and `qk_norm`, settings of ours."""
    told = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers.utils.logging.set_verbosity(told)


def weights_hash(model: nn.Module) -> str:
    """Hash (16 digits) of the configuration and every weight in float32, whatever the device."""
    config = {k: v for k, v in dict(model.config).items() if not k.startswith("_")}
    parts: Iterator[bytes | str] = (
        part
        for name, tensor in sorted(model.state_dict().items())
        for part in (name, tensor.detach().float().cpu().contiguous().numpy().tobytes())
    )
    return short_hash_of(chain([json.dumps(config, sort_keys=True, default=str)], parts))


class DiffusersCodec:
    """`VideoCodec` over a video autoencoder saved as diffusers does. Latents are the posterior's mode, as they come.

    The scaling that a class carries in its configuration (`scaling_factor`, `latents_mean`, `latents_std`) is for
    pipelines of its own: neither `encode` nor `decode` of diffusers applies it, and neither do these. Latents are
    normalised once, by the statistics measured over the encoded training clips (`videowm.data.latents`).
    """

    def __init__(self, vae: nn.Module) -> None:
        self.vae = adapt(vae)  # who loads it with diffusers alone does not
        time, space = STRIDES[type(vae).__name__](vae.config)
        self.stride = (time, space, space)
        self.channels = vae.config.get("latent_channels") or vae.config.get("z_dim")

    @property
    def hash(self) -> str:
        """Hash (16 digits) of configuration and weights."""
        return weights_hash(self.vae)

    def check(self, frames: Float[Tensor, "b f 3 H W"]) -> None:
        """Refuse frames whose length or size does not fit the strides."""
        latent_steps(frames.shape[1], self.stride[0])
        self.check_size(frames)

    def check_size(self, frames: Float[Tensor, "b f 3 H W"]) -> None:
        """Refuse frames whose size does not fit the space strides.

        Raises:
            UserError: height or width is no multiple of its space stride.
        """
        check_fit(tuple(frames.shape[-2:]), self.stride[1])

    def check_finite(self, frames: Float[Tensor, "b f 3 H W"]) -> None:
        """Refuse pixels that are not finite: one of them spreads over everything that its receptive field reaches.

        Raises:
            UserError: a pixel is NaN or infinite.
        """
        if not torch.isfinite(frames).all():
            raise UserError(
                f"{int((~torch.isfinite(frames)).sum())} of {frames.numel()} pixel values are not finite: "
                "give frames in [-1, 1]"
            )

    @torch.no_grad()
    def check_strides(self, height: int, width: int) -> None:
        """Refuse an autoencoder that does not compress frames of `height` x `width` by its configuration's strides.

        Some classes carry their strides as a label only, so one clip is encoded and decoded.

        Raises:
            UserError: the layers fail on such a clip, or its latents or decoded frames have another shape.
        """
        time, down, _ = self.stride
        frames = torch.zeros(1, 1 + time, 3, height, width)
        self.check(frames)
        expected = (2, self.channels, height // down, width // down)
        try:
            got, back = tuple((latents := self.encode(frames)).shape[1:]), tuple(self.decode_raw(latents).shape[1:])
        except (RuntimeError, ValueError, IndexError) as error:  # what its layers raise when they do not fit
            raise UserError(
                f"vae.args: {type(self.vae).__name__} cannot take {1 + time} frames of {height}x{width} at strides "
                f"{self.stride} ({str(error).splitlines()[0]}): give strides and blocks that it offers (see VAEConfig)"
            ) from None
        if got != expected:
            raise UserError(
                f"vae.args: the autoencoder makes latents {got} (t c h w) of {1 + time} frames, its own strides say "
                f"{expected}: give as many blocks as the strides need"
            )
        if back != tuple(frames.shape[1:]):
            raise UserError(
                f"vae.args: the autoencoder decodes {1 + time} frames of {height}x{width} to {back} (f 3 H W): give "
                "its decoder the encoder's strides, and no patch longer than the time stride"
            )

    def encode(self, frames: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b t c h w"]:
        """Latents of frames in [-1, 1], t = 1 + (f-1) / time stride.

        Raises:
            UserError: length or size does not fit the strides, or a pixel is not finite.
        """
        self.check(frames)
        if not torch.is_grad_enabled():  # in training the loop looks at the gradient, and a look here costs a wait
            self.check_finite(frames)
        steps = latent_steps(frames.shape[1], self.stride[0])
        if missing := (1 - frames.shape[1]) % CHUNK.get(type(self.vae).__name__, 1):  # it would drop the last frames
            frames = torch.cat([frames, frames[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
        return self.encode_raw(frames)[:, :steps]

    def encode_raw(self, frames: Float[Tensor, "b f 3 H W"], *, begins: bool = True) -> Float[Tensor, "b t c h w"]:
        """As `encode`, unchecked. A stream needs it, whose later steps have no first frame (then `begins` is false)."""
        more: dict[str, Any] = {} if self.looks_back else {"begins": begins}
        with sdpa_kernel(ATTENTION):
            output = self.vae.encode(rearrange(frames, "b f c H W -> b c f H W").to(self.vae.dtype), **more)
        latents = output.latent_dist.mode() if "latent_dist" in output else output.latent
        return self.in_full(rearrange(latents, "b c t h w -> b t c h w"))

    def in_full(self, values: Shaped[Tensor, " ..."]) -> Shaped[Tensor, " ..."]:
        """In float32 what a network in half precision gives; what autocast gives stays as it is."""
        return values if self.vae.dtype == torch.float32 else values.float()

    @property
    def looks_back(self) -> bool:
        """Whether frames depend on latent steps before their own."""
        return not isinstance(self.vae, PatchAutoencoder)

    def decode(self, latents: Float[Tensor, "b t c h w"], *, begins: bool = True) -> Float[Tensor, "b f 3 H W"]:
        """Frames in [-1, 1], f = 1 + time stride * (t-1).

        Latents that do not begin a video (`begins`), of an autoencoder that does not look back, give time stride * t.
        """
        return self.decode_raw(latents, begins=begins).clamp(-1, 1)

    def decode_raw(self, latents: Float[Tensor, "b t c h w"], *, begins: bool = True) -> Float[Tensor, "b f 3 H W"]:
        """As `decode`, not clipped. A training loss needs it, whose gradient a clip would end."""
        frames = None
        if isinstance(self.vae, diffusers.AutoencoderKLCogVideoX) and latents.shape[1] % 2 == 0:
            frames = pixel_frames(latents.shape[1], self.stride[0])
            # Of an even number it makes stride - 1 frames too many.
            latents = torch.cat([latents, latents[:, -1:]], dim=1)
        more: dict[str, Any] = {} if self.looks_back else {"begins": begins}
        if self.vae.config.get("timestep_conditioning"):  # LTX decoders that can also denoise: 0 is clean
            more = {"temb": latents.new_zeros(len(latents))}
        with sdpa_kernel(ATTENTION):
            latents = rearrange(latents, "b t c h w -> b c t h w").to(self.vae.dtype)
            decoded = self.vae.decode(latents, **more).sample
        return self.in_full(rearrange(decoded, "b c f H W -> b f c H W")[:, :frames])


def to_float(
    frames: UInt8[Tensor, "... f H W 3"] | UInt8[np.ndarray, "... f H W 3"], device: torch.device | None = None
) -> Float[Tensor, "... f 3 H W"]:
    """Frames as they are on disk, 0 to 255, as a network takes them: float32 in [-1, 1], channels before rows."""
    x = torch.as_tensor(frames, device=device)
    return rearrange(x.float() / 127.5 - 1, "... f H W c -> ... f c H W")


def to_uint8(frames: Float[Tensor, "... f 3 H W"]) -> UInt8[np.ndarray, "... f H W 3"]:
    """Frames of a network, in [-1, 1] and clipped to it, as they are on disk: 0 to 255, colours last."""
    x = ((frames.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return rearrange(x, "... f c H W -> ... f H W c").cpu().numpy()
