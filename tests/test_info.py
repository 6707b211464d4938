"""`videowm info` of runs: what was measured, with units, and that every file is checked."""

from __future__ import annotations

import shutil

import pytest

from videowm.info import info
from videowm.types import UserError


def test_a_run_with_units(world_run, vae_run):
    """Guards numbers without a unit, and a verification that checks nothing: whole runs pass it."""
    shown = info(world_run, verify=True)
    assert "dB" in next(line for line in shown.splitlines() if "rollout/psnr_mean" in line)
    assert shown.splitlines()[-1] == "verified  configuration, record, weights and checkpoints"
    assert "verified" in info(vae_run, verify=True) and "verified" not in info(vae_run)


@pytest.mark.parametrize(
    "name",
    ["vae/diffusion_pytorch_model.safetensors", "config.yaml",
     "record.json", "checkpoints/step-00000002/model.safetensors", "checkpoints/step-00000003/manifest.json"],
)  # fmt: skip
def test_a_damaged_run_does_not_pass(world_run, tmp_path, name):
    """Guards damage that nobody sees until a video looks wrong: 64 zeroed bytes in any file of a run."""
    run = shutil.copytree(world_run, tmp_path / "run")
    content = bytearray((run / name).read_bytes())
    content[-96:-32] = bytes(64)
    (run / name).write_bytes(content)
    with pytest.raises(UserError, match=r"^[^\n]+$"):
        info(run, verify=True)
