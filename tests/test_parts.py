"""Who works on which part: nobody twice, nobody after a living one, and whoever was killed is followed."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from videowm import parts
from videowm.parts import WHOLE, Claim, Part, exactly_once, refuse_parts
from videowm.types import UserError


def slurm(monkeypatch, **values: int) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))


def test_each_item_belongs_to_one_part():
    """Guards shares that overlap or leave something out, more parts than items included."""
    for count in (1, 2, 3, 8):
        shares = [Part(number, count).share(range(5)) for number in range(1, count + 1)]
        assert sorted(i for share in shares for i in share) == list(range(5))


def test_parts_by_hand_and_of_a_slurm_array(monkeypatch):
    """Guards a task that takes another's share: arrays that begin at 3, that step by 2, and a part given by hand."""
    assert Part.current(None) == WHOLE and Part.current("3/8") == Part(3, 8)
    slurm(monkeypatch, ID=3, MIN=0, MAX=7, STEP=1, COUNT=8)
    assert Part.current(None) == Part(4, 8) and Part.current("1/1") == WHOLE
    slurm(monkeypatch, ID=7, MIN=3, MAX=8, STEP=2, COUNT=3)  # --array=3-8:2
    assert Part.current(None) == Part(3, 3)
    slurm(monkeypatch, ID=3, MIN=1, MAX=7, STEP=1, COUNT=3)  # --array=1,3,7
    with pytest.raises(UserError, match="task 3 is one of 3 from 1 to 7 .* no even row: give --part K/N"):
        Part.current(None)
    for wrong in ("0/3", "4/3", "3", "1/2/3", "a/b", ""):
        with pytest.raises(UserError, match=f"--part {wrong}: expected K/N"):
            Part.current(wrong)


def test_a_part_is_worked_on_by_one(tmp_path, monkeypatch):
    """Guards two jobs on one part, on parts of another number, or on the whole; and a folder locked by a dead one."""
    mine, living = tmp_path / ".part-1-of-2", f"{socket.gethostname()} {os.getppid()}"
    mine.write_text(living)
    with pytest.raises(UserError, match=f"process {os.getppid()} of .* makes part 1 of 2 of .*: wait for it"):
        Part(1, 2).working(tmp_path).__enter__()
    with pytest.raises(UserError, match="makes part 1 of 2"):
        Part(1, 3).working(tmp_path).__enter__()
    with pytest.raises(UserError, match="makes part 1 of 2"):
        refuse_parts(tmp_path)
    with Part(2, 2).working(tmp_path):
        assert (tmp_path / ".part-2-of-2").exists()
    assert Part(1, 2).left(tmp_path) == [1]
    monkeypatch.setattr(parts, "DEAD", 0.3)
    for dead in (f"{socket.gethostname()} {2**22 + 1}", "elsewhere 7"):
        mine.write_text(dead)
        with Part(1, 2).working(tmp_path):
            assert mine.read_text() == f"{socket.gethostname()} {os.getpid()}"
        assert Part(2, 2).left(tmp_path) == [] and not mine.exists()


def test_another_host_lives_while_it_touches_its_file(tmp_path, monkeypatch):
    """Guards a job that is taken for dead because its process is not one of this host."""
    monkeypatch.setattr(parts, "BEAT", 0.1)
    with Claim.take(tmp_path / ".part-1-of-2"):
        (tmp_path / ".part-1-of-2").write_text("elsewhere 7")
        with pytest.raises(UserError, match="process 7 of elsewhere makes part 1 of 2"):
            refuse_parts(tmp_path)


def test_a_failed_part_is_not_made(tmp_path):
    """Guards a part that counts as made although its work ended with an error; and a file left behind."""
    with pytest.raises(ZeroDivisionError), Part(1, 2).working(tmp_path):
        1 / 0  # noqa: B018
    assert Part(1, 2).left(tmp_path) == [1, 2] and not list(tmp_path.iterdir())


def test_the_end_is_made_once(tmp_path):
    """Guards two parts that end at the same moment and both finish: of eight at once one works, all wait for it."""
    done, start, worked = tmp_path / "done", threading.Barrier(8), []

    def work() -> None:
        worked.append(1)
        done.touch()

    def end() -> None:
        start.wait()
        exactly_once(tmp_path / ".finishing", done.exists, work)
        assert done.exists()

    threads = [threading.Thread(target=end) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worked == [1] and not (tmp_path / ".finishing").exists()
