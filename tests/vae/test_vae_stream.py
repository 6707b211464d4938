"""Decoding one latent step at a time: what whole clips give, in memory that does not grow."""

from __future__ import annotations

from functools import lru_cache

import diffusers
import pytest
import torch

from videowm.types import UserError, pixel_frames
from videowm.vae.causal import remembers
from videowm.vae.codec import DiffusersCodec, SizeConfig, VAEConfig, build_vae, load_vae
from videowm.vae.patch import PatchAutoencoder
from videowm.vae.stream import StreamDecoder, StreamEncoder, decoder_field, encoder_field

KINDS = {  # class: (size, vae.local); where that is set, vae.qk_norm too, as in the presets
    "AutoencoderKLCosmos": (SizeConfig(time=2, space=2, channels=4, width=8), 2),
    "AutoencoderKLLTXVideo": (SizeConfig(time=2, space=2, channels=4, width=8), None),
    "AutoencoderKLWan": (SizeConfig(time=2, space=2, channels=4, width=8), None),
    "AutoencoderKLMagvit": (SizeConfig(time=2, space=2, channels=4, width=8), None),
}


@lru_cache
def made(name: str) -> DiffusersCodec:
    size, local = KINDS[name]
    torch.manual_seed(0)
    return DiffusersCodec(build_vae(VAEConfig(name, size, local=local, qk_norm=local is not None)).eval())


def frames_of(steps: int, stride: int) -> torch.Tensor:
    return torch.rand(1, pixel_frames(steps, stride), 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("cached", [False, True], ids=["window", "cached"])
@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_streams_give_what_whole_clips_give(name, cached):
    """Guards a window that begins inside the field, where its first step is decoded as the first frame of a clip.

    Three steps after the window is full, so it really slides; and two steps less make another picture. Guards as well a
    layer that forgets, or one that still remembers, or rounds to bf16, when others use it.
    """
    codec = made(name)
    if cached and not remembers(codec.vae):
        pytest.skip("its layers keep nothing")
    time = codec.stride[0]
    window = decoder_field(codec) + 1
    decoder = StreamDecoder(codec, None if cached else window)
    latents = torch.randn(2, window + 3, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    whole = codec.decode(latents)
    streamed = [decoder.step(latent) for latent in latents.split(1, dim=1)]
    assert [part.shape[1] for part in streamed] == [1] + [time] * (latents.shape[1] - 1)
    torch.testing.assert_close(torch.cat(streamed, 1), whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(codec.decode(latents), whole, rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert codec.decode(latents).dtype == torch.float32
    assert not torch.equal(codec.decode(latents[:, -window + 2 :])[:, -time:], whole[:, -time:])


@pytest.mark.parametrize("name", ["AutoencoderKLCosmos", "AutoencoderKLLTXVideo", "PatchAutoencoder"])
@torch.no_grad()
def test_frames_stream_to_the_latents_of_whole_clips(name):
    """Guards an agent's eyes: a later step that is encoded as a clip's beginning, or behind too short a past.

    Cosmos' layers remember, LTX has a window that slides, the patches do not look back. A stream that begins again has
    forgotten.
    """
    torch.manual_seed(0)
    codec = DiffusersCodec(PatchAutoencoder(4, 2, 4, 8, 1)) if name == "PatchAutoencoder" else made(name)
    time, steps = codec.stride[0], 9 if name == "PatchAutoencoder" else encoder_field(codec) + 4
    frames, encoder = frames_of(steps, time).repeat(2, 1, 1, 1, 1), StreamEncoder(codec)
    assert steps < 30 and (encoder.window or 0) < steps - 1
    whole = codec.encode(frames)
    for _ in range(2):
        encoder.begin()
        streamed = [encoder.step(part) for part in (frames[:, :1], *frames[:, 1:].split(time, dim=1))]
        torch.testing.assert_close(torch.cat(streamed, 1), whole, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match=f"got 1 where {time} fit"):
        encoder.step(frames[:, :1])


@pytest.mark.parametrize("name", ["AutoencoderKLCosmos", "AutoencoderKLLTXVideo"])
@torch.no_grad()
def test_rows_begin_anew_while_others_go_on(name):
    """Guards a row that is decoded behind its former past, or swapped with another: each is a clip of its own, and all
    are decoded together again in the end. Cosmos' layers remember, LTX has a window."""
    codec = made(name)
    decoder, last, steps = StreamDecoder(codec), 0, decoder_field(codec) + 4
    latents = torch.randn(3, steps, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    began, out = [0, 0, 0], []
    for i in range(steps):
        for row in {2: [1], 3: [0, 2]}.get(i, []):
            decoder.reset([row], latents[row, None, i - 1 - row : i])
            began[row] = max(0, i - 1 - row)
        out.append(decoder.step(latents[:, i, None]))
        last = out[-1].shape[1]
    for row in range(3):
        alone = codec.decode(latents[row, None, began[row] :])[:, -last * (steps - 3) :]
        torch.testing.assert_close(torch.cat(out[3:], 1)[row, None], alone, rtol=0, atol=1e-5)
    assert len(decoder.cohorts) == 1 and decoder.cohorts[0].rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_no_class_sees_the_future(name):
    """Guards a class whose encoder or decoder looks ahead: bit for bit, whatever step is changed."""
    codec = made(name)
    time = codec.stride[0]
    frames, latents = frames_of(6, time), torch.randn(1, 6, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    encoded, decoded = codec.encode(frames), codec.decode_raw(latents)
    for step in range(1, 6):
        first = 1 + time * (step - 1)
        other = torch.cat([frames[:, :first], -frames[:, first:]], 1)
        assert torch.equal(codec.encode(other)[:, :step], encoded[:, :step])
        other = torch.cat([latents[:, :step], latents[:, step:] + 1], 1)
        assert torch.equal(codec.decode_raw(other)[:, :first], decoded[:, :first])


@pytest.mark.parametrize("name", ["AutoencoderKLLTXVideo", "AutoencoderKLCosmos"])
def test_many_steps_in_the_memory_of_a_window(name):
    """Guards a past that grows: what a stream holds has the same size after 80 steps as once its window was full."""
    codec = made(name)
    decoder, held = StreamDecoder(codec), []
    for _ in range(80):
        decoder.step(torch.randn(1, 1, 4, 4, 4))
        held.append(sum(x.untyped_storage().nbytes() for x in decoder.held))
    full = decoder_field(codec) + 1
    assert len(set(held[full + 1 :])) == 1 and len(held) - full > 30 and held[-1]


def test_an_attention_over_the_whole_past():
    """Guards a stream that promises to be exact where it cannot: Cosmos' middle block attends over all past steps,
    where it is not limited.

    A window is taken all the same when it is given.
    """
    torch.manual_seed(0)
    codec = DiffusersCodec(build_vae(VAEConfig("AutoencoderKLCosmos", KINDS["AutoencoderKLCosmos"][0])).eval())
    assert decoder_field(codec) is None
    with pytest.raises(UserError, match="more than 64 latent steps.*vae.local"):
        StreamDecoder(codec)
    latents = torch.randn(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for decoder in (StreamDecoder(codec, window=8), StreamDecoder(codec, otherwise=8)):
        assert decoder.step(latents).shape[1] == 1 and decoder.window == 8


def test_a_local_attention_is_saved_with_the_autoencoder(tmp_path, caplog):
    """Guards a limit or a normalisation that is lost on loading: the loaded autoencoder has the same hash and the same
    bounded field, also where diffusers alone has loaded it, as for a pipeline.

    Guards as well a warning of diffusers, which does not know the limit.

    Within the limit it is what the unlimited one is; beyond, it is not.
    """
    codec = made("AutoencoderKLCosmos")
    codec.vae.save_pretrained(tmp_path / "vae")
    with caplog.at_level("WARNING"):
        diffusers.utils.logging.enable_propagation()
        again = DiffusersCodec(load_vae(tmp_path).eval())
        diffusers.utils.logging.disable_propagation()
    assert not caplog.records
    plain = DiffusersCodec(diffusers.AutoencoderKLCosmos.from_pretrained(tmp_path / "vae").eval())
    assert plain.hash == again.hash == codec.hash
    assert decoder_field(plain) == decoder_field(again) == decoder_field(codec) is not None
    size = KINDS["AutoencoderKLCosmos"][0]
    whole = DiffusersCodec(build_vae(VAEConfig("AutoencoderKLCosmos", size, qk_norm=True)).eval())
    whole.vae.load_state_dict(codec.vae.state_dict())
    latents = torch.randn(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(codec.decode(latents[:, :2]), whole.decode(latents[:, :2]), rtol=0, atol=1e-6)
        assert (codec.decode(latents) - whole.decode(latents)).abs().max() > 1e-5
    assert whole.hash != codec.hash


@torch.no_grad()
def test_scores_of_normalised_queries_and_keys_cannot_grow():
    """Guards attention left as it was, in space, in time or in one half: queries and keys a thousand times as long
    change nothing; without the normalisation they do."""
    changes = {}
    for qk_norm in (True, False):
        torch.manual_seed(0)
        size = KINDS["AutoencoderKLCosmos"][0]
        codec = DiffusersCodec(build_vae(VAEConfig("AutoencoderKLCosmos", size, qk_norm=qk_norm)).eval())
        frames = frames_of(4, codec.stride[0])
        before = codec.decode(codec.encode(frames))
        for name, parameter in codec.vae.named_parameters():
            if "to_q" in name or "to_k" in name:
                parameter.mul_(1000)
        changes[qk_norm] = (codec.decode(codec.encode(frames)) - before).abs().max().item()
    assert changes[True] < 1e-5 < 1e-4 < changes[False]


def test_what_cannot_be_streamed():
    """Guards tracebacks and wrong pictures: a class that sees the future, and several steps at once."""
    args = {
        "latent_channels": 4, "block_out_channels": [16] * 3, "down_block_types": ["CogVideoXDownBlock3D"] * 3,
        "up_block_types": ["CogVideoXUpBlock3D"] * 3, "layers_per_block": 1, "norm_num_groups": 8,
    }  # fmt: skip
    future = DiffusersCodec(build_vae(VAEConfig("AutoencoderKLCogVideoX", args=args)).eval())
    with pytest.raises(UserError, match="AutoencoderKLCogVideoX sees the future"):
        decoder_field(future, 4)
    codec = made("AutoencoderKLLTXVideo")
    with pytest.raises(UserError, match="decodes 1 latent step at a time, got 2"):
        StreamDecoder(codec, window=4).step(torch.zeros(1, 2, 4, 4, 4))
    with pytest.raises(UserError, match="vae.local"):
        build_vae(VAEConfig("AutoencoderKLWan", KINDS["AutoencoderKLWan"][0], local=2))
    with pytest.raises(UserError, match="local: 0 is out of range"):
        build_vae(VAEConfig("AutoencoderKLCosmos", KINDS["AutoencoderKLCosmos"][0], local=0))
    with pytest.raises(UserError, match="vae.qk_norm for AutoencoderKLWan"):
        build_vae(VAEConfig("AutoencoderKLWan", KINDS["AutoencoderKLWan"][0], qk_norm=True))
