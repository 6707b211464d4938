"""Play straight to latents: the same whoever plays, however often it is stopped, and without video encoding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from videowm.data import played as played_module
from videowm.data.dataset import Dataset
from videowm.data.latents import Latents
from videowm.data.played import PlayedSource, cut
from videowm.data.recording import Recording, play_in_worker
from videowm.types import UserError
from videowm.vae.codec import to_float


@pytest.fixture
def play(dataset, encode, codec, vae_run, monkeypatch):
    """Encode with three played episodes, two of them a shard."""
    monkeypatch.setattr(played_module, "EPISODES", 2)

    def run(out, *, workers: int = 1, seed: int = 9, episodes: int = 3):
        played = PlayedSource(Dataset(dataset), episodes=episodes, seed=seed, workers=workers)
        return encode(out, codec, vae_run, played=played)

    return run


def test_played_latents_are_those_of_the_games_own_frames(play, dataset, latents, codec, tmp_path):
    """Guards frames of another episode or seed, actions that are shifted, and a test split that changes with it.

    Two workers, then one who goes on after a shard was lost: every file has the same bytes.
    """
    out = play(tmp_path / "two", workers=2)
    index = json.loads((out / "latents.json").read_text())
    assert index["played"] == {"episodes": 3, "seed": 9} and index["clips"] == {"train": 6, "test": 4}
    assert index["data_hash"] == Dataset(dataset).hash
    settings = Recording(**json.loads((dataset / "meta/recording.json").read_text()) | {"seed": 9})
    clip = play_in_worker(settings, 2, partial(cut, frames=33, stride=4))[1]
    shard = load_file(out / "train-00001.safetensors")
    assert shard["episode"].tolist() == [2, 2] and shard["start"].tolist() == [0, 32]
    np.testing.assert_array_equal(shard["actions"][1], clip.actions)
    with torch.no_grad():
        expected = codec.encode(to_float(clip.frames)[None])[0]
    torch.testing.assert_close(shard["latents"][1].float(), expected, rtol=2e-3, atol=2e-3)
    stored = [load_file(folder / "test-00000.safetensors")["latents"] for folder in (out, latents)]
    assert torch.equal(*stored) and len(Latents.open(out, "train")) == 6
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "latents.json").unlink()
    (out / "train-00000.safetensors").unlink()
    os.truncate(out / "train-00001.safetensors", 99)
    assert {path.name: path.read_bytes() for path in play(out).iterdir()} == before
    with pytest.raises(UserError, match="encoded with played .*'seed': 9.*'seed': 8"):
        play(out, seed=8)


def test_seeds_and_workers_that_cannot_be(play, tmp_path):
    """Guards training on the test episodes, which the dataset's own seed would play again, and tracebacks."""
    with pytest.raises(UserError, match="--seed 3 is the seed of"):
        play(tmp_path / "x", seed=3)
    for wrong in ({"workers": 0}, {"episodes": 0}):
        with pytest.raises(UserError):
            play(tmp_path / "x", **wrong)


def test_the_command_needs_no_video_encoder(python, dataset, vae_run, tmp_path):
    """Guards a machine that plays and encodes but has no PyAV: the import is blocked, the command must not notice.

    Guards as well what imports say to whoever only wants latents: nothing but progress is on stderr.
    """
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nsys.modules['av'] = None\nfrom videowm.cli import main\n"
        "if __name__ == '__main__':\n    main(sys.argv[1:])\n"
    )
    given = ["encode", dataset, "--vae", vae_run, "--out", tmp_path / "out", "--frames", 33, "--play", 2]
    ended = python(program, *given, "--seed", 5)
    assert ended.returncode == 0 and "Warning" not in ended.stderr, ended.stderr
    assert json.loads((tmp_path / "out/latents.json").read_text())["played"]["episodes"] == 2


@pytest.mark.parametrize("killed", [False, True], ids=["ended", "killed"])
def test_no_engine_outlives_its_players(tmp_path, killed):
    """Guards Doom's own processes, which stayed, and kept the output of whoever read it open."""
    program = tmp_path / "play.py"
    program.write_text(
        "import time\n"
        "from videowm.data.recording import Recording, play_ahead\n"
        "def keep(episode, number):\n"
        "    return number\n"
        "if __name__ == '__main__':\n"
        "    for number in play_ahead(Recording('takecover', 3, 1, 20, 4, 0.5, False, 3), [0, 1, 2], 1, keep):\n"
        "        print(number, flush=True)\n"
        f"        time.sleep({60 * killed})\n"
    )
    # Unbuffered: what readline read ahead would be missing from communicate's answer.
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout.readline() == b"0\n"
        played = [p for p in psutil.Process(process.pid).children(recursive=True) if p.name() == "vizdoom"]
        if killed:
            assert played
            process.kill()
        # An engine that holds it open would be waited for.
        assert process.communicate(timeout=60)[0] == (b"" if killed else b"1\n2\n")
    assert not psutil.wait_procs(played, timeout=20)[1]
