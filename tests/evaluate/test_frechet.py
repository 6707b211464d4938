"""The Fréchet distance: its mathematics, what its halves are, and that it grows with what is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from videowm.evaluate.features import I3D, ReaderFeatures, VideoMAE, open_features
from videowm.evaluate.frechet import frechet, frechet_distance, halves
from videowm.evaluate.reader import Reader
from videowm.types import UserError


def test_gaussians_by_hand():
    """Guards the root of the product, a distance instead of its square, and a sample's covariance over n.

    Two samples with equal covariances differ by the squared shift; scaled by 3, by the sum of (3 - 1)² variances; and
    scipy's own matrix root agrees on samples whose covariances do not commute.
    """
    import scipy.linalg

    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + [3, 0, 4, 0]) == pytest.approx(25)
    centred = x - x.mean(0)
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * x.var(0, ddof=1).sum())
    y = rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4))
    c1, c2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    by_hand = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2).real)
    assert frechet_distance(x, y) == pytest.approx(by_hand)


def test_halves_share_no_episode():
    """Guards clips of one episode on both sides, which would make real against real too small."""
    episode = np.repeat(np.arange(7), [1, 5, 2, 2, 3, 3, 4])
    for seed in range(20):
        one, two = halves(episode, np.random.default_rng(seed))
        assert sorted([*one, *two]) == list(range(20)) and not set(episode[one]) & set(episode[two])
        assert len(one) == len(two) == 10  # or the smaller half falls below the number of features


class Moments:
    """Features simple enough to reason about: mean and spread of a video's pixels, by its halves."""

    name, hash, resolution = "moments", "x", (64, 64)

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        return torch.stack([video.mean((1, 2, 3, 4)), video.diff(dim=-1).abs().mean((1, 2, 3, 4))], 1)


@pytest.fixture(scope="module")
def many(perfect):
    """Each scene four times, brighter and darker, so that every half has some clips."""
    gain = torch.tensor([0.7, 0.8, 0.9, 1.0]).repeat(8)[:, None, None, None, None]
    videos = {k: v.repeat_interleave(4, 0) * gain for k, v in vars(perfect).items()
              if isinstance(v, torch.Tensor) and v.ndim == 5}  # fmt: skip
    return replace(perfect, **videos, episode=perfect.episode.repeat(4), first=perfect.first.repeat(4))


def blurred(video: torch.Tensor, sigma: int) -> torch.Tensor:
    flat = video.flatten(0, 1)
    return F.avg_pool2d(F.pad(flat, [sigma] * 4, mode="reflect"), 2 * sigma + 1, 1).unflatten(0, video.shape[:2])


def test_near_its_floor_for_the_truth_and_growing_with_blur(many):
    """Guards a number that rests on the number of clips: the truth as dream is exactly real against real."""
    got = [dict(frechet(replace(many, dreamed=many.truth), Moments()))]
    assert got[0]["frechet/moments"] == got[0]["frechet/moments_real"] and got[0]["frechet/moments_se"] > 0
    got += [dict(frechet(replace(many, dreamed=blurred(many.truth, s)), Moments())) for s in (1, 3)]
    values = [one["frechet/moments"] for one in got]
    assert values[0] < values[1] < values[2]
    protocol = got[0]["frechet/moments_protocol"]
    assert protocol["clips"] == 32 and protocol["dimension"] == 2 and protocol["frames"] == 24
    assert protocol["network"] == "x" and sum(protocol["clips_a_side"]) == 32 and protocol["interval_90"][0] < 0


def test_fewer_clips_than_features_are_refused(many, reader_run):
    """Guards covariances that cannot be estimated: 16 clips a side against the reader's 32 features."""
    with pytest.raises(UserError, match="fewer than the 32 features of reader: evaluate with --clips 64"):
        list(frechet(many, ReaderFeatures(Reader.open(reader_run))))
    with pytest.raises(UserError, match="two episodes or more"):
        list(frechet(replace(many, episode=np.zeros(32, int)), Moments()))


class TinyI3D(nn.Module):
    """The signature of the published file, with features that can be checked by hand."""

    def forward(self, x, rescale: bool = True, resize: bool = True, return_features: bool = False):
        if rescale or resize or not return_features:
            return x.mean((2, 3, 4)) * 0 - 1
        return torch.cat([x.mean((2, 3, 4)), x[:, :, 0].mean((2, 3))], 1)


def test_a_torchscript_file(perfect, tmp_path):
    """Guards axes and settings of a foreign network: channels first, resized here, features and not logits."""
    path = tmp_path / "i3d_torchscript.pt"
    torch.jit.script(TinyI3D()).save(path)
    features = open_features(str(path), None, torch.device("cpu"))
    video = perfect.truth[:2, :12]
    got = features(video)
    assert isinstance(features, I3D) and got.shape == (2, 6) and len(features.hash) == 16
    torch.testing.assert_close(got[:, :3], video.mean((1, 3, 4)), atol=2e-3, rtol=0)
    torch.testing.assert_close(got[:, 3:], video[:, 0].mean((2, 3)), atol=2e-3, rtol=0)
    with pytest.raises(UserError, match="I3D needs 10 frames"):
        features(video[:, :8])
    path.write_text("no network")
    with pytest.raises(UserError, match="no TorchScript file"):
        open_features(str(path), None, torch.device("cpu"))
    with pytest.raises(UserError, match="no feature network at"):
        open_features(str(tmp_path / "other.pt"), None, torch.device("cpu"))


def test_videomae_from_a_folder(perfect, tmp_path):
    """Guards frames of another number, range or size than the network was trained with."""
    from transformers import VideoMAEConfig, VideoMAEModel

    settings = {"image_size": 32, "patch_size": 16, "num_frames": 4, "hidden_size": 24, "num_hidden_layers": 1}
    model = VideoMAEModel(VideoMAEConfig(**settings, num_attention_heads=2, intermediate_size=32)).eval()
    model.save_pretrained(tmp_path / "mae")
    features = open_features(str(tmp_path / "mae"), None, torch.device("cpu"))
    got = features(perfect.truth[:2, :12])
    assert isinstance(features, VideoMAE) and got.shape == (2, 24) and features.resolution == (32, 32)
    assert not torch.allclose(got[0], got[1])
    with pytest.raises(UserError, match="VideoMAE takes 4 frames"):
        features(perfect.truth[:2, :3])
    with pytest.raises(UserError, match="no VideoMAE at"):
        open_features(str(tmp_path / "nothing"), None, torch.device("cpu"))
    with pytest.raises(UserError, match="need one: give --reader"):
        open_features("reader", None, torch.device("cpu"))
