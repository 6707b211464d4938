"""PatchAutoencoder: a PCA at first, causal, streamed without a past, trained by Muon too; and the PCA itself."""

from __future__ import annotations

import pytest
import torch

from videowm.evaluate.reconstruction import against_floor, training_pca
from videowm.train.config import TrainConfig
from videowm.train.muon import Muon
from videowm.train.optim import make_optimizer
from videowm.train.tasks.vae import Autoencoder
from videowm.types import UserError
from videowm.vae.codec import DiffusersCodec, SizeConfig, VAEConfig, build_vae
from videowm.vae.patch import PatchAutoencoder
from videowm.vae.pca import PCA, BlockPCA, from_blocks, to_blocks
from videowm.vae.stream import StreamDecoder


@pytest.fixture(params=[0, 1], ids=["grid", "fine"])
def vae(request) -> PatchAutoencoder:
    """Blocks of 2 frames x 4x4 pixels, 6 channels."""
    torch.manual_seed(0)
    return PatchAutoencoder(6, 2, 4, 16, 1, request.param).eval()


@pytest.fixture
def clips() -> list[torch.Tensor]:
    """Smooth clips, "2 5 3 16 24" in [-1, 1]: blocks of them have few strong components."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(4, 5, 3, 4, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse.flatten(0, 1), scale_factor=4, mode="bicubic")
    return list((smooth / 3).clamp(-1, 1).view(2, 2, 5, 3, 16, 24))


def test_blocks_there_and_back():
    """Guards an order of a block's pixels that is not the same in and out, and in the cut to half the block's side."""
    frames = torch.randn(2, 4, 3, 8, 12)
    blocks = to_blocks(frames, 2, 4)
    assert blocks.shape == (2, 2, 96, 2, 3)
    torch.testing.assert_close(from_blocks(blocks, 2, 4), frames, rtol=0, atol=0)
    torch.testing.assert_close(blocks[1, 1, :, 1, 2].view(2, 4, 4, 3)[1, 3, 0], frames[1, 3, :, 7, 8], rtol=0, atol=0)
    vae = PatchAutoencoder(6, 2, 4, 16, 1, 1)
    flat = blocks.flatten(0, 1)
    finer = vae.finer(flat)
    torch.testing.assert_close(finer, to_blocks(frames, 2, 2).flatten(0, 1), rtol=0, atol=0)
    torch.testing.assert_close(vae.coarser(finer), flat, rtol=0, atol=0)


def test_latent_noise_is_in_deviations(vae, clips):
    """Guards noise that an autoencoder escapes from by larger latents, and noise that does not reach the decoder."""
    model = Autoencoder(DiffusersCodec(vae))
    frames = clips[0]
    noise = 0.2 * torch.randn(2, 3, 6, 4, 6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        (clean, latents), (noisy, same) = model(frames), model(frames, noise)
        for layer in (vae.down.weight, vae.down.bias):
            layer.mul_(10)
        vae.up.weight.div_(10)
        larger, _ = model(frames, noise)
    torch.testing.assert_close(latents, same, rtol=0, atol=0)
    assert (noisy - clean).abs().mean() > 0.01
    torch.testing.assert_close(noisy, larger)


def test_components_are_those_of_the_data():
    """Guards the fit against numpy's decomposition of the centred rows, in batches of unequal size."""
    rows = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1]) + 1
    found = PCA.fit([rows[:150], rows[150:]], 3)
    _, values, directions = torch.linalg.svd(rows.double() - rows.double().mean(0), full_matrices=False)
    torch.testing.assert_close(found.deviations, (values[:3] / 200**0.5).float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((found.directions.T @ directions[:3].mT.float()).abs(), torch.eye(3), rtol=0, atol=1e-3)
    with pytest.raises(UserError, match="6 latent channels for blocks of 5 numbers"):
        PCA.fit([rows], 6)


@torch.no_grad()
def test_it_begins_as_the_pca(vae, clips):
    """Guards the linear path: before training, frames after the first come back as the PCA gives them, and latents
    have mean 0 and deviation 1 a channel."""
    pca = BlockPCA.fit(clips, 2, 4, 6)
    vae.begin_at(pca.later)
    codec = DiffusersCodec(vae)
    latents = torch.cat([codec.encode(clip)[:, 1:] for clip in clips])
    torch.testing.assert_close(latents.mean((0, 1, 3, 4)), torch.zeros(6), rtol=0, atol=1e-3)
    torch.testing.assert_close(latents.std((0, 1, 3, 4)), torch.ones(6), rtol=0, atol=0.02)
    torch.testing.assert_close(codec.decode(codec.encode(clips[0]))[:, 1:], pca.reconstruct(clips[0])[:, 1:], rtol=0,
                               atol=1e-4)  # fmt: skip


@torch.no_grad()
def test_each_step_sees_its_own_frames_only(vae):
    """Guards causality and the stream: a changed step changes its frames alone; one at a time gives the whole clip."""
    for parameter in vae.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    codec = DiffusersCodec(vae)
    frames = torch.rand(1, 7, 3, 8, 8) * 2 - 1
    latents = codec.encode(frames)
    other = frames.clone()
    other[:, 3:5] = 0
    assert [torch.equal(a, b) for a, b in zip(latents[0], codec.encode(other)[0])] == [True, True, False, True]
    stream = StreamDecoder(codec)
    parts = [stream.step(step) for step in latents.split(1, 1)]
    assert [part.shape[1] for part in parts] == [1, 2, 2, 2] and not stream.held
    torch.testing.assert_close(torch.cat(parts, 1), codec.decode(latents), rtol=0, atol=1e-5)


def test_muon_moves_the_matrices_of_its_blocks(vae):
    """Guards Muon on convolutions: 3x3 kernels move as matrices, biases and linear maps by AdamW; other classes say
    that they have none."""
    model = Autoencoder(DiffusersCodec(vae))
    optimizer = make_optimizer(model, TrainConfig(optimizer="muon", lr=0.1))
    assert isinstance(optimizer, Muon)
    moved = [p for group in optimizer.param_groups if group["orthogonal"] for p in group["params"]]
    assert {p.shape[2:] for p in moved} == {(3, 3), (1, 1)} and len(moved) == len(vae.matrices())
    for parameter in vae.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    before = moved[0].detach().clone()
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    model(torch.rand(1, 3, 3, 8, 8))[0].square().mean().backward()
    optimizer.step()
    change = (moved[0] - before).detach().flatten(1)
    singular = torch.linalg.svdvals(change) / (0.1 * 0.2 * max(change.shape) ** 0.5)
    assert 0.7 < singular.max() < 1.3  # of an orthogonal update; AdamW's first one has singular values of any size
    cosmos = build_vae(VAEConfig("AutoencoderKLCosmos", SizeConfig(channels=4, width=8)))
    with pytest.raises(UserError, match="muon for AutoencoderKLCosmos"):
        make_optimizer(Autoencoder(DiffusersCodec(cosmos)), TrainConfig(optimizer="muon"))


def test_the_floor_is_in_every_run(vae_run, codec, dataset):
    """Guards a report without its floor: the PCA of the training data, on the same clips, and the sentence of it."""
    import json

    from videowm.data.dataset import Dataset

    metrics = json.loads((vae_run / "record.json").read_text())["metrics"]
    for name in ("psnr", "psnr_moved", "gradients", "ssim"):
        assert metrics[f"reconstruction/{name}_floor"] > 0 and f"reconstruction/{name}_floor_se" in metrics
    pca = training_pca(codec, Dataset(dataset))
    assert pca.later.directions.shape == (768, 4) and pca.first.directions.shape == (192, 4)
    assert "dB above the PCA of the same latent shape (27.0 dB)" in against_floor(
        {"reconstruction/psnr": 30.0, "reconstruction/psnr_floor": 27.0}
    )
    assert "3.0 dB BELOW" in against_floor({"reconstruction/psnr": 24.0, "reconstruction/psnr_floor": 27.0})
