"""Frames that are no squares, of an environment of gymnasium: from the recording to the report."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from scaling.__main__ import main as scaling
from videowm import show
from videowm.data.dataset import Dataset
from videowm.data.latents import LatentsIndex
from videowm.limits import check_fit, fitting, frame_size, unfit
from videowm.types import UserError

ROOT = Path(__file__).parents[1]
RECORD = ["--episodes", 6, "--frames", 30, "--hold", 2, "--test-share", 0.5, "--image", "picture", "--size", "48x64"]
SWEEP = ["strip_clips=1", "strip_frames=4", "points=[{name: 1x}]"]


def test_the_whole_way_at_48x64(dots, videowm, vae_arguments, world_sizes):
    """A verb that takes squares only, or pictures of other proportions than the frames.

    The world is one of gymnasium with states, so evaluations play it again.
    """
    configs = ROOT / "configs"
    sweep = [str(configs / "sweep/quickstart.yaml"), "out=sweep", f"base={configs / 'world/quickstart.yaml'}",
             *(f"set.{setting}" for setting in ("latents=latents", *world_sizes)), *SWEEP]  # fmt: skip
    for command in (
        ["record", dots, "--out", "data", *RECORD, "--state", "x,spot", "--policy", "dots_env:slow"],
        ["train", configs / "vae/quickstart.yaml", "data=data", "out=vae", *vae_arguments],
        ["encode", "data", "--vae", "vae", "--frames", 17, "--out", "latents"],
        ["train", configs / "world/quickstart.yaml", "latents=latents", "out=sweep/1x", *world_sizes],
    ):
        ended = videowm(*command)
        assert not ended.code, ended.errors
    assert Dataset("data").size == (48, 64) and LatentsIndex.read("latents").shape[1:] == (6, 8)
    for verb in ("plan", "report"):
        with pytest.raises(SystemExit) as stopped:
            scaling([verb, *sweep, *(["--no-wandb"] if verb == "report" else [])])
        assert not stopped.value.code
    generate = ["generate", "sweep/1x", "--from", "data", "--context", 5, "--out", "clip.mp4"]
    assert videowm(*generate, "--frames", 8).code == 0
    assert size_of("clip.mp4") == (22 + 192 + 2 + 34, 3 * (256 + 6) - 6)
    assert videowm(*generate, "--actions", "2,1*4 0,0*4").code == 0
    ended = videowm("evaluate", "sweep/1x", "--clips", 2, "--horizon", 4, "--context", 5, "--counterfactuals", 2)
    assert ended.code == 0, ended.errors
    found = json.loads(Path("sweep/1x/evaluation.json").read_text())
    metrics = found.get("metrics", found)
    assert np.isfinite(metrics["counterfactual/psnr"]) and "counterfactual/game_refused" not in metrics
    assert proportions("sweep/1x/evaluation/strip.png", margin=110, cell=96, columns=4)
    assert proportions("sweep/report/strip.png", margin=56, cell=128, columns=5)


def size_of(path: str) -> tuple[int, int]:
    """(H, W) of a video."""
    with av.open(path) as video:
        return video.streams.video[0].height, video.streams.video[0].width


def proportions(path: str, *, margin: int, cell: int, columns: int) -> bool:
    """Whether a strip has stills of three quarters of `cell` in height."""
    width, height = Image.open(path).size
    rows = (height - 24) // (cell * 3 // 4 + 4)
    assert width == margin + columns * (cell + 4), (width, height)
    return (height - 24 - rows * (cell * 3 // 4 + 4)) % 12 == 0 and rows >= 2


def test_stills_and_videos_keep_their_proportions():
    """A picture of 48x64 frames that is stretched; and a large one that is thinned out instead of averaged."""
    frames = np.full((2, 48, 64, 3), (255, 0, 0), np.uint8)
    for drawn in (show.grid([frames], ["row"], columns=["", ""], cell=96),
                  show.side_by_side({"": frames}, cell=96)[0]):  # fmt: skip
        red = (drawn == (255, 0, 0)).all(-1)
        rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red[red.any(1)][0])
        assert len(rows) == 72 and len(columns) % 96 == 0
    lines = np.zeros((3, 256, 128, 3), np.uint8)
    lines[:, ::2] = 255
    small = show.enlarge(lines, 64)
    assert small.shape == (3, 64, 32, 3) and abs(small.astype(int) - 127.5).max() < 1
    many = show.draw_actions(frames, np.ones((1, 40), np.float32), [f"button_{i}" for i in range(40)])
    assert many.shape == (2, 48 + 34, 64, 3)


def test_which_sizes_fit():
    """A size that is refused only when the world model is trained, without one that would do."""
    assert fitting((84, 64), 16) == "80x64 or 96x64" and fitting((10, 10), 16) == "16x32"
    assert fitting((32, 40), 16) == "32x32 or 32x64" and fitting((40, 50), 8) == "40x40 or 40x56", "decord's widths"
    assert unfit((96, 128)) is None and unfit((64, 64), 16) is None
    assert "do not fit a space stride of 8 and patches of 2" in unfit((84, 64)) and "patch=1" not in unfit((84, 64))
    assert "72x64 do not fit" in unfit((72, 64)) and unfit((72, 64)).endswith("as they are, world models need patch=1")
    check_fit((96, 128), 8)
    with pytest.raises(UserError, match="100x128 do not fit .* stride 8: record or import them at 96x128 or 104x128"):
        check_fit((100, 128), 8)
    assert frame_size("96X128") == (96, 128) and frame_size("64") == (64, 64)
    for wrong in ("", "64x", "x", "64x64x3", "-64", "6.5", "65", "8x64", "4096", "６４"):
        with pytest.raises(UserError, match="give HxW pixels such as 64x96"):
            frame_size(wrong)
