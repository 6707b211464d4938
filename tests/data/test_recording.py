"""Recording: the same bytes however it was run, and actions that lead from frame to frame."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import videowm.types
from videowm.data.dataset import Dataset
from videowm.data.recording import play_episode, record_episodes
from videowm.types import UserError
from videowm.worlds.carracing import CarRacing

# Subprocesses find the package wherever these tests found it.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(videowm.types.__file__).parents[1])}
START = """
from videowm.data.recording import record_episodes
if __name__ == '__main__':
    record_episodes('carracing', {out!r}, {args})
"""


def contents(root: Path) -> dict[str, bytes]:
    """Every file of a dataset, bit for bit."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def script(folder: Path, out: Path, before: str = "", **settings) -> Path:
    """A program that records; spawned workers import it anew, so it must be a file."""
    path = folder / "program.py"
    args = ", ".join(f"{key}={value!r}" for key, value in settings.items())
    path.write_text(before + START.format(out=str(out), args=args))
    return path


def test_workers_do_not_change_a_byte(lossy, tmp_path, settings):
    """Guards order, shared state and encoder threads: a second process must not show in any file."""
    parallel = record_episodes("carracing", tmp_path / "two", **settings, workers=2)
    assert contents(parallel) == contents(lossy)


def test_kill_and_run_again_gives_the_same_bytes(lossy, tmp_path, settings):
    """Guards half-written groups, leftovers and orphans after kill -9: resuming must equal never having stopped."""
    out = tmp_path / "killed"
    program = script(tmp_path, out, **settings, workers=2)
    process = subprocess.Popen([sys.executable, program], env=ENVIRONMENT)
    while not any(out.glob("data/*/*.parquet")):
        assert process.poll() is None, "the recording ended before it could be killed"
        time.sleep(0.01)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (out / "data/chunk-000/.file-009.parquet.1.tmp.parquet").write_bytes(b"half")
    with pytest.raises(UserError, match="run the same record command again"):
        Dataset(out)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("videos/*/*/*.mp4")}
    record_episodes("carracing", out, **settings)
    assert contents(out) == contents(lossy)
    assert any(path.stat().st_mtime_ns == stamp for path, stamp in kept.items()), "a finished group is not played again"
    deadline = time.time() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.time() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers), "workers must leave when their parent is killed"


def test_finished_recording_costs_nothing_and_other_settings_are_refused(lossy, tmp_path, capfd, settings):
    """Guards a second run that plays everything again, or mixes two recordings in one folder."""
    before, start = contents(lossy), time.time()
    record_episodes("carracing", lossy, **settings)
    assert time.time() - start < 1 and contents(lossy) == before
    assert "already recorded" in "".join(capfd.readouterr())
    with pytest.raises(UserError, match="seed 7 there, 8 now"):
        record_episodes("carracing", lossy, **(settings | {"seed": 8}))
    (tmp_path / "thesis.txt").write_text("chapter one")
    with pytest.raises(UserError, match="holds something else"):
        record_episodes("carracing", tmp_path, **settings)


@pytest.mark.parametrize("wrong", [{"episodes": 0}, {"frames": 1}, {"workers": 0}, {"test_share": 1.5}, {"seed": -1}])
def test_senseless_settings_are_one_sentence(wrong, tmp_path, settings):
    """Guards tracebacks from numpy or multiprocessing for a wrong number."""
    with pytest.raises(UserError):
        record_episodes("carracing", tmp_path / "x", **(settings | wrong))
    assert not (tmp_path / "x").exists()


def test_full_disk_is_one_sentence_and_leaves_nothing_half_written(tmp_path, settings):
    """Guards truncated files: the system's file size limit fails the write in the way that a full disk does."""
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    program = script(tmp_path, tmp_path / "out", limit, **settings)
    result = subprocess.run([sys.executable, program], capture_output=True, text=True, env=ENVIRONMENT)
    assert "UserError: no room for" in result.stderr.splitlines()[-1]
    assert [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()] == ["recording.json"]


def test_stored_actions_lead_from_frame_to_frame(exact, settings):
    """Guards the alignment: the real game, replayed with action i after frame i, must show frame i+1, bit for bit.

    Cannot pass by luck: the same replay shifted by one action must differ.
    """
    data = Dataset(exact)
    for episode in (0, 4):
        frames, actions = data.frames(episode, range(40)), data.actions(episode)
        assert actions.shape == (39, 3) and actions.dtype == np.float32
        for shift, equal in ((0, True), (1, False)):
            world = CarRacing()
            world.reset(int(np.random.default_rng([settings["seed"], episode]).integers(2**31)))
            seen = [world.render()]
            for action in actions[shift:]:
                world.step(action)
                seen.append(world.render())
            assert np.array_equal(np.stack(seen), frames[: len(seen)]) is equal


def test_an_episode_ends_when_the_game_ends():
    """Guards rows after the end: a car out of the playfield ends its episode with done in the last row only."""

    class Runaway(CarRacing):
        def driver(self, rng):
            while True:
                state = self.state()
                steer = np.clip(1.6 * (state[2] + np.pi / 2) + 0.1 * state[4], -1, 1)
                yield np.array([steer, 0.6, 0], np.float32)

    episode = play_episode(Runaway(frame_skip=2), 0, 0, 400)
    assert 65 <= len(episode.frames) < 400
    assert episode.dones[-1] and not episode.dones[:-1].any()
    assert episode.rewards[-1] < -50
    assert len({len(column) for column in (episode.frames, episode.actions, episode.rewards, episode.states)}) == 1
