"""Checkpoints: whole or not there, damaged ones passed over, a full disk said in one sentence."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from videowm.train import checkpoint
from videowm.types import UserError


def tensors(value: float, size: int = 1000) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"w": torch.full((size,), value)}, "optimizer": {"0.step": torch.tensor(value)}}


def test_there_and_back(tmp_path):
    """Guards tensors that are not contiguous, of any type or without dimensions, and the state beside them."""
    group = {"t": torch.arange(6.0).view(2, 3).t(), "b": torch.ones(3, dtype=torch.bfloat16), "i": torch.tensor(7)}
    path = checkpoint.save(tmp_path, 12, {"model": group}, {"seconds": 1.5}, keep=2)
    groups, state = checkpoint.load(path)
    assert all(torch.equal(groups["model"][k], v) and groups["model"][k].dtype == v.dtype for k, v in group.items())
    assert state == {"step": 12, "seconds": 1.5}
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}, "nothing that could run code"


def test_the_newest_are_kept(tmp_path):
    """Guards pruning of the wrong end, by names whose alphabetical order is the order of the steps."""
    for step in (5, 90, 100, 1000):
        checkpoint.save(tmp_path, step, tensors(step), {}, keep=2)
    assert [path.name for path in checkpoint.steps(tmp_path)] == ["step-00000100", "step-00001000"]
    assert checkpoint.latest(tmp_path).name == "step-00001000"


@pytest.mark.parametrize("name", ["step-abc", "step-", "step-00000009.bak", "step-²"])
def test_what_has_another_name_is_no_checkpoint(tmp_path, name):
    """Guards a traceback at a folder that somebody made beside the checkpoints; it is also left alone."""
    (tmp_path / name).mkdir()
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, tensors(step), {}, keep=1)
    assert checkpoint.latest(tmp_path).name == "step-00000003" and (tmp_path / name).is_dir()


def test_files_follow_the_umask(tmp_path, python):
    """Guards weights that only their owner can read: safetensors writes mode 0600, whatever the umask."""
    code = ("import os, sys, torch\nos.umask(0o027)\nfrom pathlib import Path\nfrom videowm.train import checkpoint\n"
            "checkpoint.save(Path(sys.argv[1]), 1, {'model': {'w': torch.ones(2)}}, {}, keep=1)")  # fmt: skip
    assert python("-c", code, tmp_path).returncode == 0
    files = list((tmp_path / "step-00000001").iterdir())
    assert len(files) == 3 and {path.stat().st_mode & 0o777 for path in files} == {0o640}


def damage(path: Path, how: str) -> None:
    file = path / "model.safetensors"
    if how == "flipped bit":
        content = bytearray(file.read_bytes())
        content[-100] ^= 1
        file.write_bytes(content)
    elif how == "cut off":
        os.truncate(file, file.stat().st_size - 8)
    elif how == "file gone":
        file.unlink()
    elif how == "state changed":
        (path / "state.json").write_text('{"step": 3}')
    elif how in ("[]", "{}", "3"):
        (path / "manifest.json").write_text(how)
    elif how == "manifest cut off":
        os.truncate(path / "manifest.json", 20)
    else:
        (path / "manifest.json").unlink()


HOW = ["flipped bit", "cut off", "file gone", "state changed", "manifest cut off", "manifest gone", "[]", "{}", "3"]


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_one_is_passed_over(tmp_path, how):
    """Guards a run that goes on from broken weights: the one before is used, and without any there is none.

    Each kind of damage is done to a checkpoint that was found intact just before.
    """
    for step in (1, 2):
        checkpoint.save(tmp_path, step, tensors(step), {}, keep=2)
    newest = checkpoint.latest(tmp_path)
    assert newest.name == "step-00000002"
    damage(newest, how)
    assert checkpoint.latest(tmp_path).name == "step-00000001"
    assert checkpoint.load(checkpoint.latest(tmp_path))[0]["model"]["w"][0] == 1
    damage(checkpoint.latest(tmp_path), how)
    assert checkpoint.latest(tmp_path) is None


def test_a_damaged_one_does_not_push_out_a_good_one(tmp_path):
    """Guards pruning by name alone: after the damaged step 9, step 4 saved with keep=1 must survive, and step 9 go."""
    damage(checkpoint.save(tmp_path, 9, tensors(9), {}, keep=1), "flipped bit")
    checkpoint.save(tmp_path, 4, tensors(4), {}, keep=1)
    assert [path.name for path in checkpoint.steps(tmp_path)] == ["step-00000004"]


def test_a_damaged_one_is_written_anew(tmp_path):
    """Guards a rename onto a directory that is there: the run comes to the same step again and replaces it."""
    damage(checkpoint.save(tmp_path, 2, tensors(1), {}, keep=2), "file gone")
    checkpoint.save(tmp_path, 2, tensors(5), {}, keep=2)
    assert checkpoint.load(checkpoint.latest(tmp_path))[0]["model"]["w"][0] == 5


def test_what_a_killed_save_left_is_no_checkpoint(tmp_path):
    """Guards a half-written directory: it is not found, and the next save removes it."""
    checkpoint.save(tmp_path, 1, tensors(1), {}, keep=2)
    leftover = tmp_path / ".step-00000002.12345"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    assert checkpoint.latest(tmp_path).name == "step-00000001"
    checkpoint.save(tmp_path, 2, tensors(2), {}, keep=2)
    assert not leftover.exists() and checkpoint.latest(tmp_path).name == "step-00000002"


def test_optimiser_there_and_back():
    """Guards moments lost on the way: after a round trip the next step moves the weights by the same bits."""

    def trained(steps: int, state: dict | None = None) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([weight], lr=0.1)
        if state is not None:
            weight.data.copy_(state["weight"])
            checkpoint.load_optimizer(optimizer, state["optimizer"])
        for _ in range(steps):
            weight.square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return weight, optimizer

    weight, optimizer = trained(3)
    state = {"weight": weight.detach().clone(), "optimizer": checkpoint.optimizer_tensors(optimizer)}
    assert torch.equal(trained(2, state)[0], trained(5)[0])
    assert not torch.equal(trained(2, state | {"optimizer": {}})[0], trained(5)[0]), "without moments it would differ"


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_largest_file_size(tmp_path, python):
    """Guards a traceback at the largest file size, a quota's like; safetensors gives its number in words only."""
    code = ("import resource, sys, torch\nfrom pathlib import Path\nfrom videowm.train import checkpoint\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
            "checkpoint.save(Path(sys.argv[1]), 1, {'model': {'w': torch.ones(1000)}}, {}, keep=1)")  # fmt: skip
    ended = python("-c", code, tmp_path)
    assert ended.stderr.splitlines()[-1].startswith("videowm.types.UserError: no space left on the disk"), ended.stderr


def test_a_full_disk(small_disk):
    """Guards a traceback and a lost checkpoint: one sentence, the checkpoint before loads, nothing half is left.

    The same save works again once there is room, so it was the disk that it failed on.
    """
    checkpoint.save(small_disk, 1, tensors(1), {}, keep=2)
    with pytest.raises(UserError, match="no space left on the disk.*step-00000001 is untouched") as error:
        checkpoint.save(small_disk, 2, tensors(2, size=400_000), {}, keep=2)
    assert "\n" not in str(error.value)
    assert [path.name for path in small_disk.iterdir()] == ["step-00000001"]
    assert checkpoint.load(checkpoint.latest(small_disk))[0]["model"]["w"][0] == 1
    checkpoint.save(small_disk, 2, tensors(2), {}, keep=2)
    assert checkpoint.latest(small_disk).name == "step-00000002"
