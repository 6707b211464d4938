"""What an autoencoder keeps of motion, by hand and through a real one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from videowm.data.dataset import Dataset
from videowm.evaluate.reconstruction import ReconstructionConfig, measures, reconstruction


def moving_square() -> torch.Tensor:
    """Two clips "2 3 3 16 16": in the first a square of 4x4 goes one pixel to the right a frame, the second stands."""
    frames = torch.full((2, 3, 3, 16, 16), -0.5)
    for i in range(3):
        frames[0, i, :, 4:8, 4 + i : 8 + i] = 0.5
    return frames


def test_motion_by_hand():
    """Guards axes and masks: in each frame pair the two columns of 4 that change are the moved pixels, 16 of 512.

    The last frame is off by 0.2 in all of them, so the moved pixels' error is 0.04 / 2; all other pixels are off by
    0.05 in every frame, which neither the differences nor the moved pixels see.
    """
    frames = moving_square()
    moved = frames[0].diff(dim=0).abs().amax(1) > 0.1
    assert moved.sum(dim=(1, 2)).tolist() == [8, 8]
    decoded = frames.clone()
    decoded[0, :] += 0.05 * ~(moved[0] | moved[1])
    decoded[0, 2] += 0.2 * moved[1]
    scores = measures(decoded, frames)
    assert scores["psnr_moved"][0].item() == pytest.approx(10 * torch.tensor(4 / (0.04 / 2)).log10().item(), abs=1e-3)
    motion = 0.04 * 8 / 256
    both = (10 * torch.tensor(4 / motion).log10().item() + 100 + 10 * torch.tensor(4.0).log10().item()) / 2
    assert scores["psnr_motion"][0].item() == pytest.approx(both, abs=1e-2)
    assert torch.isnan(scores["psnr_moved"][1]) and torch.isfinite(scores["psnr_motion"]).all()


def test_a_frozen_reconstruction_scores_badly_on_what_moved():
    """Guards a measure that still backgrounds lift: repeating the first frame costs the moved pixels far more."""
    frames = moving_square()[:1]
    scores = measures(frames[:, :1].expand_as(frames), frames)
    assert scores["psnr_moved"].item() < scores["psnr"].item() - 10


class Standing(Dataset):
    """A recording whose last held-out episode stands still."""

    def clip(self, episode, start, frames):
        clip = super().clip(episode, start, frames)
        if episode == self.split("test")[-1]:
            clip.frames[:] = clip.frames[:1]
        return clip


def test_clips_without_motion_are_left_out_and_counted(codec, dataset):
    """Guards a mean that is NaN for one clip that stands still: four clips of two episodes, two of them moved.

    The moved clips are those of one episode, so the error of their mean is unknown.
    """
    config = ReconstructionConfig(clips=4, frames=9)
    got = dict(reconstruction(codec, Standing(dataset), config))
    whole = dict(reconstruction(codec, Dataset(dataset), config))
    assert (got["reconstruction/clips"], got["reconstruction/moved_clips"]) == (4, 2)
    assert whole["reconstruction/moved_clips"] == 4
    names = ("psnr", "ssim", "psnr_motion", "psnr_moved")
    assert all(torch.isfinite(torch.tensor(got[f"reconstruction/{name}"])) for name in names)
    unknown = [name for name in names if np.isnan(got[f"reconstruction/{name}_se"])]
    assert unknown == ["psnr_moved"] and whole["reconstruction/psnr_moved_se"] > 0
    assert whole["reconstruction/psnr_moved"] < whole["reconstruction/psnr"]
    assert whole["reconstruction/psnr_moved"] != got["reconstruction/psnr_moved"]
