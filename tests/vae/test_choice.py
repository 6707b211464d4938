"""The benchmark that chooses an autoencoder: every candidate can be built, at about the same size."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from videowm import config as configuration
from videowm.train.tasks.vae import VAERun
from videowm.vae.codec import DiffusersCodec, build_vae

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import vae_choice as choice

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", choice.candidates(None))
def test_every_candidate_is_built(name):
    """Guards an hour on a GPU that ends with a misspelt loss or class, and candidates of unequal size."""
    overrides = choice.candidates([name])[name]
    size = {"time": 4, "space": 8, "channels": 16}
    width = choice.width_for(overrides[0].partition("=")[2], 300_000, **size)
    given = [f"vae.size.{key}={value}" for key, value in (size | {"width": width}).items()]
    config = configuration.load(VAERun, ROOT / "configs/vae/sized.yaml", [*given, *overrides])
    vae = build_vae(config.vae)
    assert sum(p.numel() for p in vae.parameters()) == pytest.approx(300_000, rel=0.45)
    assert DiffusersCodec(vae).stride == (4, 8, 8)
    assert all(buffer.device.type == "cpu" for buffer in vae.buffers())


def test_the_table_has_every_candidate():
    """Guards a table that stops at a candidate that failed: best first, ratios to the first measured, one reason."""
    scores = {key: value for m in choice.MEASURES for key, value in ((m, 20.0), (f"{m}_se", 0.5))}
    speeds = {"encode_frames_per_second": 100.0, "decode_frames_per_second": 50.0}
    rows = {
        "c": {"failed": "the gradient of step 3 | is not finite", "steps": 7},
        "d": {"steps": 70, "reached": 7},
        "a": {"steps": 5, "parameters": 1_000_000, **scores, **speeds},
        "b": {"steps": 9, "parameters": 2_000_000, **scores, "psnr_moved": 21.0, "encode_frames_per_second": 50.0},
    }
    lines = choice.table(rows).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| b", "| a", "| d", "| c"]
    assert "50 (0.50x)" in lines[2] and "100 (1.00x)" in lines[3]
    assert "7 of 70" in lines[4] and lines[5].count("failed: the gradient of step 3 / is not finite") == 1
    assert len({line.count("|") for line in lines}) == 1
    with pytest.raises(SystemExit, match="unknown: nobody"):
        choice.candidates(["nobody"])


def trainings(script: str, names: str) -> dict[str, list[str]]:
    """Commands that stand for trainings; their last argument is out=RUN."""
    return {name: [sys.executable, "-c", script] for name in names}


def test_trainings_are_spread_over_the_gpus(tmp_path, monkeypatch):
    """Guards a machine of many GPUs whose first one trains everything, and a failure that says nothing."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    said = "import os, sys, time; print(sys.argv[1][-1], os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(0.5)"
    jobs = trainings(said, "abcd") | trainings("raise SystemExit('no rate')", "e")
    ended = dict(choice.in_parallel(jobs, tmp_path, 4, lambda: False))
    assert ended == dict.fromkeys("abcd") | {"e": "no rate (exit code 1)"}
    gpus = [(tmp_path / f"{name}.log").read_text().split()[1] for name in "abcd"]
    assert sorted(gpus) == ["5", "5", "7", "7"]


def test_a_call_that_is_over_leaves_nothing_running(tmp_path):
    """Guards a training that is killed before it has saved, one that a stop makes a failure, and two in one run."""
    saves = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(143)))\n"
    log, began = tmp_path / "a.log", time.monotonic()
    started = lambda: log.exists() and "ready" in log.read_text()  # noqa: E731
    jobs = trainings(saves + "print('ready', flush=True)\nwhile True: time.sleep(0.05)", "abc")
    assert list(choice.in_parallel(jobs, tmp_path, 1, started)) == []
    assert log.read_text().split() == ["ready", "saved"] and not (tmp_path / "b.log").exists()
    left = choice.begin([sys.executable, "-c", "import time; time.sleep(1)"], log, None, 1)  # as kill -9 leaves it
    assert choice.begin(["true"], log, None, 1) is None
    assert list(choice.in_parallel(trainings("", "a"), tmp_path, 1, lambda: False)) == [("a", None)]
    assert left.wait() == 0 and time.monotonic() - began > 1
