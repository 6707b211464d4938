"""Recording: the same bytes however it was run, and actions that lead from frame to frame."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import videowm.types
from videowm.data.dataset import Dataset
from videowm.data.playing import play_episode
from videowm.data.recording import Recording, record_episodes
from videowm.files import visible
from videowm.parts import Part
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


def test_parts_give_the_bytes_of_the_whole(lossy, tmp_path, capfd, settings):
    """Guards groups that no part records, or two, and a dataset that is finished by none: as jobs on several hosts.

    The second part is killed and started again; what it left is of no process. Other settings are refused.
    """
    out = tmp_path / "parts"
    record_episodes("carracing", out, **settings, part=Part(1, 2))
    assert "part 1 of 2" in (said := "".join(capfd.readouterr())) and "without 2 the dataset is unfinished" in said
    first = {path: path.stat().st_mtime_ns for path in visible(out, "videos/*/*/*.mp4")}
    assert len(first) == 2 and not (out / "meta/info.json").exists()
    with pytest.raises(UserError, match="seed 7 there, 8 now"):
        record_episodes("carracing", out, **(settings | {"seed": 8}), part=Part(2, 2))
    (out / ".part-2-of-2").write_text(f"{socket.gethostname()} {2**22 + 1}")
    (out / "data/chunk-000/.file-001.parquet.4194305.tmp.parquet").write_bytes(b"half")
    record_episodes("carracing", out, **settings, part=Part(2, 2))
    assert contents(out) == contents(lossy)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in first.items())
    record_episodes("carracing", out, **settings, part=Part(2, 2))
    assert "already recorded" in "".join(capfd.readouterr())
    visible(out, "videos/*/*/*.mp4")[1].unlink()
    with pytest.raises(UserError, match="file-001.mp4 of .* is missing or damaged: give --part 1/1"):
        record_episodes("carracing", out, **settings, part=Part(1, 2))


def test_kill_and_run_again_gives_the_same_bytes(lossy, tmp_path, settings):
    """Guards half-written groups, leftovers and orphans after kill -9: resuming must equal never having stopped."""
    out = tmp_path / "killed"
    program = script(tmp_path, out, **settings, workers=2)
    process = subprocess.Popen([sys.executable, program], env=ENVIRONMENT)
    while not visible(out, "data/*/*.parquet"):
        assert process.poll() is None, "the recording ended before it could be killed"
        time.sleep(0.01)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (out / "data/chunk-000/.file-009.parquet.1.tmp.parquet").write_bytes(b"half")
    with pytest.raises(UserError, match="run the same record command again"):
        Dataset(out)
    kept = {path: path.stat().st_mtime_ns for path in visible(out, "videos/*/*/*.mp4")}
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


def test_what_is_lost_or_damaged_is_made_again(lossy, tmp_path, capfd, settings):
    """Guards "record it again" that says "already recorded": a lost video, a changed bit and a cut table come back.

    Captions that were added since stay as they are, and so does the hash that latents are made from.
    """
    out = shutil.copytree(lossy, tmp_path / "data")
    videos = sorted(out.glob("videos/*/*/*.mp4"))
    videos[0].unlink()
    content = bytearray(videos[1].read_bytes())
    content[len(content) // 2] ^= 1
    videos[1].write_bytes(content)
    os.truncate(out / "meta/episodes/chunk-000/file-000.parquet", 99)
    added = {"captions.jsonl": b'{"episode_index": 0, "caption": "mine"}\n', "captions/abc.jsonl": b"{}\n"}
    (out / "captions").mkdir()
    for name, text in added.items():
        (out / name).write_bytes(text)
    record_episodes("carracing", out, **settings)
    assert contents(out) == contents(lossy) | added
    assert "3 files are missing or damaged" in "".join(capfd.readouterr())


def test_a_second_recording_is_refused(lossy, tmp_path, settings):
    """Guards two recordings into one folder, of which one removed the files that the other was writing."""
    out = tmp_path / "both"
    program = script(tmp_path, out, **settings)
    with subprocess.Popen([sys.executable, program], env=ENVIRONMENT) as first:
        while not visible(out, "data/*/*.parquet"):
            assert first.poll() is None, "the first recording ended too early"
            time.sleep(0.01)
        with pytest.raises(UserError, match="another process is recording into .*both: wait for it"):
            record_episodes("carracing", out, **settings)
    assert first.returncode == 0 and contents(out) == contents(lossy)


def test_interrupted_recordings_say_what_is_kept(tmp_path):
    """Guards Ctrl-C: tracebacks of the workers, a promise of checkpoints that there are not, and a lost first part."""
    out, options = tmp_path / "data", ["--episodes", "40", "--frames", "30", "--workers", "2"]
    command = [sys.executable, "-m", "videowm", "record", "carracing", "--out", str(out), *options]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while not visible(out, "data/*/*.parquet"):
            assert process.poll() is None, "the recording ended before it could be interrupted"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[1].splitlines()
    kept = 10 * len(list(out.glob("data/*/*.parquet")))
    assert process.returncode == 130 and not any("Traceback" in line for line in said)
    assert f"stopped; {kept} of 40 episodes are kept in {out}" in said[-1] and 0 < kept < 40
    assert not (out / ".lock").exists()


WRONG = [{"episodes": 0}, {"episodes": -1}, {"frames": 1}, {"workers": 0}, {"test_share": 2}, {"seed": -1}, 
         {"group": 0}, {"frame_skip": 0}, {"arguments": {"gravity": 2}}]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_senseless_settings_are_one_sentence(wrong, tmp_path, settings):
    """Guards tracebacks from numpy or multiprocessing for a wrong number; the sentence names it, nothing is written."""
    [(name, value)] = wrong.items()
    with pytest.raises(UserError, match=f"{name}.* {value}|no argument 'gravity'"):
        record_episodes("carracing", tmp_path / "x", **(settings | wrong))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("where", ["file", "file/below", "loop", "n" * 300])
def test_places_that_cannot_be_written(where, tmp_path, settings):
    """Guards tracebacks for a file, a folder below a file, a circle of links, and a name that is too long."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="is a file|cannot be written") as error:
        record_episodes("carracing", tmp_path / where, **settings)
    assert "\n" not in str(error.value) and (tmp_path / "file").read_text() == "mine"


def test_settings_of_older_recordings_are_read(lossy, tmp_path):
    """Guards recordings from before worlds had arguments, and a traceback for a note that was cut."""
    note = tmp_path / "meta/recording.json"
    note.parent.mkdir()
    text = (lossy / "meta/recording.json").read_text()
    assert "arguments" not in text, "the bytes, and so the hash, of a recording without arguments stay"
    note.write_text(text)
    assert Recording.read(tmp_path) == Recording.read(lossy) and Recording.read(lossy).arguments == {}
    for damaged in (text[:50], "[]", text.replace('"episodes": 5', '"episodes": "many"'), text.replace("seed", "sed")):
        note.write_text(damaged)
        with pytest.raises(UserError, match="recording.json"):
            Recording.read(tmp_path)


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
