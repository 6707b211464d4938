"""The benchmark that chooses an autoencoder: every candidate can be built, at about the same size."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from videowm import config as configuration
from videowm.train.tasks import VAERun
from videowm.vae.codec import DiffusersCodec, build_vae

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("vae_choice", ROOT / "benchmarks/vae_choice.py")
choice = importlib.util.module_from_spec(spec)
spec.loader.exec_module(choice)


@pytest.mark.parametrize("name", choice.candidates(None))
def test_every_candidate_is_built(name):
    """Guards an hour on a GPU that ends with a misspelt loss or class, and candidates of unequal size."""
    overrides = choice.candidates([name])[name]
    size = {"time": 4, "space": 8, "channels": 16}
    width = choice.width_for(overrides[0].partition("=")[2], 300_000, size)
    given = [f"vae.size.{key}={value}" for key, value in (size | {"width": width}).items()]
    config = configuration.load(VAERun, ROOT / "configs/vae/sized.yaml", [*given, *overrides])
    vae = build_vae(config.vae)
    assert sum(p.numel() for p in vae.parameters()) == pytest.approx(300_000, rel=0.45)
    assert DiffusersCodec(vae).stride == (4, 8, 8)
    assert all(buffer.device.type == "cpu" for buffer in vae.buffers())


def test_the_table_has_every_candidate():
    """Guards a table that stops at a candidate that failed: best first, ratios to the first measured, a reason."""
    scores = {key: value for m in choice.MEASURES for key, value in ((m, 20.0), (f"{m}_se", 0.5))}
    speeds = {"encode_frames_per_second": 100.0, "decode_frames_per_second": 50.0}
    rows = {
        "a": {"steps": 5, "parameters": 1_000_000, **scores, **speeds},
        "b": {"steps": 9, "parameters": 2_000_000, **scores, "psnr_moved": 21.0, "encode_frames_per_second": 50.0},
        "c": {"failed": "the gradient of step 3 is not finite"},
    }
    lines = choice.table(rows).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| b", "| a", "| c"]
    assert "50 (0.50x)" in lines[2] and "100 (1.00x)" in lines[3] and "not finite" in lines[4]
    assert len({line.count("|") for line in lines}) == 1
    with pytest.raises(SystemExit, match="unknown: nobody"):
        choice.candidates(["nobody"])
