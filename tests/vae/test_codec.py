"""Any diffusers video autoencoder behind one protocol: shapes, lengths, causality, identity."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from videowm.data.dataset import Dataset
from videowm.types import UserError
from videowm.vae.codec import (
    DiffusersCodec,
    SizeConfig,
    VAEConfig,
    build_vae,
    load_vae,
    to_float,
    to_uint8,
    weights_hash,
)
from videowm.vae.sizes import SIZES

SMALL = {
    "AutoencoderKLCosmos": {
        "latent_channels": 4, "encoder_block_out_channels": [32] * 3, "decode_block_out_channels": [32] * 3,
        "num_layers": 1, "attention_resolutions": [], "resolution": 32, "patch_size": 4,
        "spatial_compression_ratio": 8, "temporal_compression_ratio": 4,
    },
    "AutoencoderKLLTXVideo": {
        "latent_channels": 4, "block_out_channels": [32] * 3, "decoder_block_out_channels": [32] * 3,
        "layers_per_block": [1] * 4, "decoder_layers_per_block": [1] * 4, "decoder_inject_noise": [False] * 4,
        "spatio_temporal_scaling": [True, True, False], "decoder_spatio_temporal_scaling": [True, True, False],
        "patch_size": 2, "patch_size_t": 1, "decoder_causal": True,
    },
    "AutoencoderKLWan": {
        "base_dim": 32, "z_dim": 4, "dim_mult": [1] * 3, "num_res_blocks": 1, "temperal_downsample": [False, True],
        "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4,
    },
}  # fmt: skip
STRIDES = {"AutoencoderKLCosmos": (4, 8, 8), "AutoencoderKLLTXVideo": (4, 8, 8), "AutoencoderKLWan": (2, 4, 4)}


@pytest.fixture(scope="module")
def frames(dataset):
    """Real frames "1 17 3 64 64"."""
    return to_float(Dataset(dataset).frames(0, range(17)))[None]


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_strides_are_those_that_come_out(name):
    """Guards a stride read from the wrong key of a model's configuration: they must be what encoding really does."""
    torch.manual_seed(0)
    codec = DiffusersCodec(build_vae(VAEConfig(name, args=SMALL[name])).eval())
    assert codec.stride == STRIDES[name] and codec.channels == 4
    time, height, width = codec.stride
    latents = codec.encode(torch.zeros(1, 1 + 2 * time, 3, 32, 64))
    assert latents.shape == (1, 3, 4, 32 // height, 64 // width)
    assert codec.decode(latents).shape == (1, 1 + 2 * time, 3, 32, 64)


@torch.no_grad()
def test_the_encoder_sees_no_future(codec, frames):
    """Guards a VAE that lets future frames into a latent step, which would make every prediction look good.

    Bit for bit, for a change in every frame; the step that holds the frame must change.
    """
    before = codec.encode(frames)
    for at in (1, 4, 5, 8, 16):
        other = frames.clone()
        other[:, at:] = -frames[:, at:]
        after, step = codec.encode(other), -(-at // 4)
        assert torch.equal(after[:, :step], before[:, :step])
        assert (after[:, step] != before[:, step]).any()


@torch.no_grad()
def test_the_decoder_sees_no_future(codec, frames):
    """Guards a rollout whose shown frames change once more is predicted: frames up to 4(j-1) never depend on step j."""
    latents = codec.encode(frames)
    before = codec.decode_raw(latents)
    for step in range(1, latents.shape[1]):
        other = latents.clone()
        other[:, step:] += 1
        after, known = codec.decode_raw(other), 4 * (step - 1) + 1
        assert torch.equal(after[:, :known], before[:, :known])
        assert (after[:, known] != before[:, known]).any()


@torch.no_grad()
def test_shorter_clips_are_beginnings(codec, frames):
    """Guards latents that depend on the clip's length: 9 frames give the first 3 of the 5 steps of 17 frames."""
    torch.testing.assert_close(codec.encode(frames[:, :9]), codec.encode(frames)[:, :3], rtol=1e-5, atol=1e-5)


def test_lengths_and_sizes_that_do_not_fit(codec):
    """Guards frames cut off or padded in silence by the autoencoder."""
    with pytest.raises(UserError, match="16 frames does not fit the time stride 4.* 13 and 17"):
        codec.encode(torch.zeros(1, 16, 3, 64, 64))
    with pytest.raises(UserError, match="60x64 do not fit .* stride 8: record or import them at 56x64 or 64x64"):
        codec.encode(torch.zeros(1, 5, 3, 60, 64))


def test_strides_that_are_only_a_label():
    """Guards a Cosmos with too few blocks, which halves the picture once less than its configuration says.

    The same check passes for the one with enough blocks.
    """
    few = SMALL["AutoencoderKLCosmos"] | {"encoder_block_out_channels": [32] * 2}
    with pytest.raises(UserError, match=r"latents \(2, 4, 16, 16\).*say \(2, 4, 8, 8\)"):
        DiffusersCodec(build_vae(VAEConfig("AutoencoderKLCosmos", args=few))).check_strides(64, 64)
    enough = VAEConfig("AutoencoderKLCosmos", args=SMALL["AutoencoderKLCosmos"])
    DiffusersCodec(build_vae(enough)).check_strides(64, 64)


def test_pixels_there_and_back():
    """Guards range and rounding: all 256 values come back exactly, and -1 and 1 are black and white."""
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(4, 8, 8, 3)
    x = to_float(pixels)
    assert x.shape == (4, 3, 8, 8) and x.min() == -1 and x.max() == 1
    np.testing.assert_array_equal(to_uint8(x), pixels)
    assert to_uint8(torch.tensor([-3.0, 3.0])[:, None, None, None].expand(2, 3, 1, 1)).tolist() == [
        [[[0] * 3]],
        [[[255] * 3]],
    ]


@torch.no_grad()
def test_decoded_frames_are_in_range(codec):
    """Guards frames outside [-1, 1]: latents far out make the raw decoder leave the range, decode never does."""
    latents = 50 * torch.randn(1, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert codec.decode_raw(latents).abs().max() > 1 and codec.decode(latents).abs().max() <= 1


def test_the_hash_names_weights_and_settings(codec, vae_run, tmp_path):
    """Guards a hash blind to what was trained: one weight moved changes it, saving and loading does not."""
    codec.vae.save_pretrained(tmp_path / "vae")
    again = load_vae(tmp_path)
    assert weights_hash(again) == codec.hash == json.loads((vae_run / "record.json").read_text())["hashes"]["vae"]
    with torch.no_grad():
        next(again.parameters()).view(-1)[0] += 1e-6
    assert weights_hash(again) != codec.hash


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (VAEConfig("AutoencoderKLCosmo"), "did you mean 'AutoencoderKLCosmos'"),
        (VAEConfig(args={"latent_chanels": 4}), "takes no 'latent_chanels', did you mean 'latent_channels'"),
        (VAEConfig(pretrained="no/such-model"), "no autoencoder at 'no/such-model'"),
        (VAEConfig(pretrained="x", args={"latent_channels": 4}), "vae.pretrained: x has its own size .* leave out"),
    ],
)
def test_what_cannot_be_built(config, expected):
    """Guards tracebacks for a misspelt class, argument or name."""
    with pytest.raises(UserError, match=expected) as error:
        build_vae(config)
    assert "\n" not in str(error.value)


def test_what_cannot_be_loaded(vae_run, tmp_path):
    """Guards a run that has not finished, and a folder of some other model."""
    with pytest.raises(UserError, match="no finished autoencoder"):
        load_vae(tmp_path)
    shutil.copytree(vae_run / "vae", tmp_path / "vae")
    settings = json.loads((tmp_path / "vae/config.json").read_text())
    (tmp_path / "vae/config.json").write_text(json.dumps(settings | {"_class_name": "UNet2DModel"}))
    with pytest.raises(UserError, match="'UNet2DModel', which is not a video autoencoder"):
        load_vae(tmp_path)


@pytest.mark.parametrize("name", SIZES)
def test_every_class_offers_the_strides_of_the_table(name):
    """Guards the table in VAEConfig: what it lists is built, encodes and decodes; what it does not list is refused."""
    row = next(line for line in VAEConfig.__doc__.splitlines() if line.strip().startswith(name))
    cells = re.split(r"\s{2,}", row.strip())[1:]
    for time, cell in zip((1, 2, 4, 8), cells, strict=True):
        for space in (4, 8, 16):
            config = VAEConfig(name, SizeConfig(time=time, space=space, channels=6, width=8))
            if cell == "any" or str(space) in cell.split():
                codec = DiffusersCodec(build_vae(config).eval())
                assert codec.stride == (time, space, space) and codec.channels == 6
                codec.check_strides(16, 32)
            else:
                with pytest.raises(UserError, match=f"strides of {time} in time and {space} in space"):
                    build_vae(config)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({"time": 3}, "powers of two"),
        ({"width": 12}, "multiple of 8"),
        ({"channels": 0}, "size.channels: 0"),
    ],
)
def test_sizes_that_are_refused(size, expected):
    """Guards tracebacks out of a class's own layers for strides, channels and widths that no class takes."""
    with pytest.raises(UserError, match=expected):
        build_vae(VAEConfig("AutoencoderKLCosmos", size=SizeConfig(**size)))


def test_a_decoder_that_does_not_give_the_frames_back():
    """Guards a patch longer than the time stride: the latents have the right shape, 5 frames of 3 come back."""
    args = SMALL["AutoencoderKLCosmos"] | {"temporal_compression_ratio": 2}
    with pytest.raises(UserError, match="decodes 3 frames of 32x32 to"):
        DiffusersCodec(build_vae(VAEConfig("AutoencoderKLCosmos", args=args))).check_strides(32, 32)


@torch.no_grad()
def test_wan_drops_no_frame():
    """Guards a class that encodes by fours: at a time stride of 2 it gave 3 latents of 7 frames, without a word."""
    codec = DiffusersCodec(build_vae(VAEConfig("AutoencoderKLWan", args=SMALL["AutoencoderKLWan"])).eval())
    frames = torch.rand(1, 9, 3, 16, 16) * 2 - 1
    encoded = codec.encode(frames[:, :7])
    assert encoded.shape[1] == 4
    torch.testing.assert_close(encoded, codec.encode(frames)[:, :4])


SCALES = {
    "AutoencoderKLCosmos": {"latents_mean": [3.0] * 4, "latents_std": [0.1] * 4, "scaling_factor": 0.5},
    "AutoencoderKLLTXVideo": {"scaling_factor": 0.5},
    "AutoencoderKLWan": {"latents_mean": [3.0] * 4, "latents_std": [0.1] * 4},
    "AutoencoderKLMagvit": {"scaling_factor": 0.5},
    "AutoencoderKLCogVideoX": {"scaling_factor": 0.5},
}
COGVIDEOX = {
    "latent_channels": 4, "block_out_channels": [16] * 3, "down_block_types": ["CogVideoXDownBlock3D"] * 3,
    "up_block_types": ["CogVideoXUpBlock3D"] * 3, "layers_per_block": 1, "norm_num_groups": 8,
}  # fmt: skip


def small(name: str, **more) -> VAEConfig:
    size = None if name == "AutoencoderKLCogVideoX" else SizeConfig(space=4, channels=4, width=8)
    return VAEConfig(name, size, args=more | (COGVIDEOX if size is None else {}))


@pytest.mark.parametrize("name", SCALES)
@torch.no_grad()
def test_pretrained_ones_of_every_class(name, tmp_path):
    """Guards a scaling applied twice, and strides lost on the way: whatever a class's own scaling says, latents are
    what its encoder gives, and decoding them is what its decoder gives. The clip of 13 frames has 4 latent steps.
    """
    codecs = []
    for folder, scales in (("plain", {}), ("scaled", SCALES[name])):
        torch.manual_seed(0)
        build_vae(small(name, **scales)).save_pretrained(tmp_path / folder)
        codecs.append(DiffusersCodec(build_vae(VAEConfig(pretrained=str(tmp_path / folder))).eval()))
    plain, scaled = codecs
    assert plain.stride == scaled.stride == (4, 4, 4) and scaled.channels == 4
    scaled.check_strides(16, 16)
    assert all(scaled.vae.config[key] == value for key, value in SCALES[name].items())
    frames = torch.rand(1, 13, 3, 16, 16) * 2 - 1
    latents = scaled.encode(frames)
    assert latents.shape == (1, 4, 4, 4, 4) and torch.equal(latents, plain.encode(frames))
    torch.testing.assert_close(latents, scaled.vae.encode(frames.movedim(1, 2)).latent_dist.mode().movedim(1, 2))
    decoded = scaled.decode_raw(latents)
    assert decoded.shape == frames.shape and torch.equal(decoded, plain.decode_raw(latents))
    own = scaled.vae.decode(latents[:, :3].movedim(1, 2)).sample.movedim(1, 2)
    torch.testing.assert_close(scaled.decode_raw(latents[:, :3]), own)


@torch.no_grad()
def test_an_ltx_decoder_that_denoises_too():
    """Guards a traceback: the decoder of LTX 0.9.1 and later asks for a noise level; it is told that there is none."""
    args = {"timestep_conditioning": True, "decoder_block_out_channels": [8] * 3}
    config = VAEConfig("AutoencoderKLLTXVideo", SizeConfig(channels=4, width=8), args=args)
    DiffusersCodec(build_vae(config).eval()).check_strides(16, 16)


def test_cudnn_has_no_part_in_its_attention():
    """Guards gradients that are NaN on a GPU: cuDNN's attention is off in both halves, and as it was afterwards."""
    vae, seen = build_vae(VAEConfig("AutoencoderKLCosmos", args=SMALL["AutoencoderKLCosmos"])), []
    for part in (vae.encoder, vae.decoder):
        part.mid_block.temp_attentions[0].register_forward_hook(
            lambda *_: seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        )
    before = torch.backends.cuda.cudnn_sdp_enabled()
    DiffusersCodec(vae).check_strides(32, 32)
    assert seen == [False, False] and torch.backends.cuda.cudnn_sdp_enabled() == before


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_pixels_are_not_rounded_to_bf16(name, frames):
    """Guards layers next to the pixels in half precision, whose rounding is to one side over a flat area: under
    autocast few decoded values are ones that bf16 has, and Cosmos' wavelets get frames of more than eight bits."""
    vae, clip = build_vae(VAEConfig(name, args=SMALL[name])), frames.movedim(1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        met = [vae.decode(vae.encode(clip).latent_dist.mode()).sample]
        if name == "AutoencoderKLCosmos":
            met.append(vae.encoder.patch_embed(clip))
    for x in met:
        assert x.dtype == torch.float32 and (x == x.bfloat16()).float().mean() < 0.1


def test_pixels_that_are_not_numbers(codec):
    """Guards latents that are NaN without a word: one bad pixel of a clip is refused, and counted."""
    frames = torch.zeros(1, 5, 3, 64, 64)
    frames[0, 2, 1, 3, 4] = torch.nan
    with torch.no_grad(), pytest.raises(UserError, match="1 of 61440 pixel values are not finite"):
        codec.encode(frames)


@pytest.mark.parametrize("what", ["image", "transformer", "reader", "cut config", "no weights", "cut", "other weights"])
def test_folders_of_something_else(vae_run, tmp_path, what):
    """Guards tracebacks, and weights drawn at random where a file lacks them: one sentence that names the folder."""
    import diffusers

    folder, expected = tmp_path / "other", "cannot be loaded"
    if what == "image":
        diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).save_pretrained(folder)
        expected = "'AutoencoderKL', which is not a video autoencoder"
    elif what in ("transformer", "reader"):
        folder.mkdir()
        (folder / "config.json").write_text('{"_class_name": "DiT"}' if what == "transformer" else '{"config": {}}')
        expected = "'DiT', which" if what == "transformer" else "None, which"
    else:
        shutil.copytree(vae_run / "vae", folder)
        weights = folder / "diffusion_pytorch_model.safetensors"
        if what == "cut config":
            (folder / "config.json").write_text('{"_class')
            expected = "config.json is damaged"
        elif what == "no weights":
            weights.unlink()
        elif what == "cut":
            weights.write_bytes(weights.read_bytes()[:1000])
        else:
            tensors = load_file(weights)
            save_file(dict(list(tensors.items())[:-1]), weights, metadata={"format": "pt"})
            expected = "do not fit its config.json .* and 0 more"
    with pytest.raises(UserError, match=expected) as error:
        load_vae(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
