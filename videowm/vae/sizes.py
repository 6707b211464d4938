"""Arguments of each class for given strides, channels and width: the tokenizer as an axis of a sweep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from videowm.config import suggest
from videowm.types import UserError


def cosmos(time: int, space: int, channels: int, width: int, layers: int) -> dict[str, Any]:
    """A Haar patch, which is cheap, takes the whole time stride, and blocks what remains in space."""
    patch = min(time, space)
    blocks = 2 + max(halvings(space) - halvings(patch), halvings(time) - halvings(patch))
    return {
        "latent_channels": channels, "num_layers": layers, "attention_resolutions": [], "resolution": 64,
        "encoder_block_out_channels": widths(width, blocks), "decode_block_out_channels": widths(width, blocks),
        "patch_size": patch, "spatial_compression_ratio": space, "temporal_compression_ratio": time,
        "latents_mean": None, "latents_std": None,
    }  # fmt: skip


def patch(time: int, space: int, channels: int, width: int, layers: int) -> dict[str, Any]:
    """All is done on the latent grid, so every stride is offered."""
    return {"latent_channels": channels, "time_stride": time, "space_stride": space, "width": width, "layers": layers}


def ltx(time: int, space: int, channels: int, width: int, layers: int) -> dict[str, Any]:
    """Blocks halve time and space together, a patch takes the rest of space."""
    halved = halvings(time)
    blocks = halved + 1
    scaling = [True] * halved + [False]
    return {
        "latent_channels": channels, "block_out_channels": widths(width, blocks),
        "decoder_block_out_channels": widths(width, blocks), "down_block_types": ["LTXVideoDownBlock3D"] * blocks,
        "downsample_type": ["conv"] * blocks, "upsample_residual": [False] * blocks, "upsample_factor": [1] * blocks,
        "layers_per_block": [layers] * (blocks + 1), "decoder_layers_per_block": [layers] * (blocks + 1),
        "decoder_inject_noise": [False] * (blocks + 1), "spatio_temporal_scaling": scaling,
        "decoder_spatio_temporal_scaling": scaling, "patch_size": space // time, "patch_size_t": 1,
        "decoder_causal": True,
    }  # fmt: skip


def wan(time: int, space: int, channels: int, width: int, layers: int) -> dict[str, Any]:
    """Every block but the last halves space, the last of them time as well."""
    halved = halvings(space)
    return {
        "base_dim": width, "z_dim": channels, "dim_mult": [1, *[2] * halved], "num_res_blocks": layers,
        "temperal_downsample": [i >= halved - halvings(time) for i in range(halved)],
        "latents_mean": [0.0] * channels, "latents_std": [1.0] * channels,
        "scale_factor_temporal": time, "scale_factor_spatial": space,
    }  # fmt: skip


def magvit(time: int, space: int, channels: int, width: int, layers: int) -> dict[str, Any]:
    """As Wan, with group norms per frame."""
    halved, both = halvings(space), halvings(time)
    kinds = ["Spatial"] * (halved - both) + ["SpatialTemporal"] * both
    return {
        "latent_channels": channels, "block_out_channels": widths(width, halved + 1), "layers_per_block": layers,
        "down_block_types": [f"{kind}DownBlock3D" for kind in [*kinds, "Spatial"]],
        "up_block_types": [f"{kind}UpBlock3D" for kind in [*kinds[::-1], "Spatial"]], "norm_num_groups": 8,
    }  # fmt: skip


# class -> its arguments, and the (time, space) strides that it offers: see the table of VAEConfig
SIZES: dict[str, tuple[Callable[..., dict[str, Any]], Callable[[int, int], bool]]] = {
    "PatchAutoencoder": (patch, lambda time, space: True),
    "AutoencoderKLCosmos": (cosmos, lambda time, space: time <= space),
    "AutoencoderKLLTXVideo": (ltx, lambda time, space: time <= space),
    "AutoencoderKLWan": (wan, lambda time, space: time <= min(4, space)),
    "AutoencoderKLMagvit": (magvit, lambda time, space: time <= min(4, space)),
}


def sized(model: str, *, time: int, space: int, channels: int, width: int, layers: int) -> dict[str, Any]:
    """The arguments of `model` for these strides (powers of two), latent channels, width and layers a block.

    Raises:
        UserError: the class has no sizes or does not offer these strides, or the width is no multiple of 8.
    """
    if model not in SIZES:
        raise UserError(f"vae.size: {model!r} is sized by its own vae.args only{suggest(model, SIZES)}")
    make, offered = SIZES[model]
    powers = not any(n & (n - 1) for n in (time, space)) and space > 1
    if not offered(time, space) or not (powers or model == "PatchAutoencoder"):
        raise UserError(
            f"vae.size: {model} does not offer strides of {time} in time and {space} in space: give powers of two, "
            "time no larger than space, and at most 4 for Wan and Magvit"
        )
    if width % 8:
        raise UserError(f"vae.size.width {width} cannot be used: give a multiple of 8")
    return make(time, space, channels, width, layers)


def widths(width: int, blocks: int) -> list[int]:
    """The first block is `width` wide, the others twice that: as in the quickstart's autoencoder."""
    return [width, *[2 * width] * (blocks - 1)]


def halvings(stride: int) -> int:
    return stride.bit_length() - 1
