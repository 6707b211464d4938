"""Trunks and branches: a branch is the run in one go, whatever is killed, added later or missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from videowm.train import checkpoint
from videowm.types import UserError

SCHEDULE = ["train.warmup=2", "train.save_every=3"]
TRUNK = [*SCHEDULE, "train.trunk=true", "train.cooldown=0"]
LEAVES = {7: 5, 10: 8}  # length of a branch: where it leaves, its cooldown of 0.25 begins at 6 and 8


def branch(trunk: Path, steps: int) -> list[str]:
    start = f"train.start={{run: {trunk}, step: {LEAVES[steps]}}}"
    return [*SCHEDULE, "train.cooldown=0.25", f"train.steps={steps}", start]


def last(run: Path, steps: int) -> list[bytes]:
    folder = run / f"checkpoints/step-{steps:08d}"
    return [(folder / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer")]


@pytest.fixture(scope="module")
def trunk(train_world, tmp_path_factory) -> Path:
    """A trunk that keeps step 5, with a checkpoint every third step of which only the newest is held."""
    out = tmp_path_factory.mktemp("trunk") / "trunk"
    train_world(out, *TRUNK, "train.steps=6", "train.keep_at=[5]", "train.keep=1")
    return out


@pytest.fixture(scope="module")
def one_go(train_world, tmp_path_factory) -> dict[int, Path]:
    """The runs that the branches are compared with, trained from scratch."""
    folder = tmp_path_factory.mktemp("one_go")
    for steps in LEAVES:
        train_world(folder / str(steps), *SCHEDULE, "train.cooldown=0.25", f"train.steps={steps}")
    return {steps: folder / str(steps) for steps in LEAVES}


@pytest.fixture
def own(trunk, tmp_path) -> Path:
    """A copy of the trunk that a test may change."""
    return shutil.copytree(trunk, tmp_path / "trunk")


def test_a_trunk_keeps_and_does_not_evaluate(trunk):
    """Guards the kept step against pruning (step 3, not kept, is gone), and a trunk that a law could be fitted to."""
    record = json.loads((trunk / "record.json").read_text())
    assert record["role"] == "trunk" and record["metrics"] == {} and not (trunk / "transformer").exists()
    assert [path.name for path in checkpoint.steps(trunk / "checkpoints")] == ["step-00000005", "step-00000006"]


def test_a_branch_is_the_run_in_one_go(trunk, one_go, train_world, tmp_path):
    """Guards anything that does not go along, and a schedule that has moved: bits of weights, moments and losses.

    The compute of the path is that of the run in one go; what was spent is the share of the two steps of its own.
    """
    record = train_world(tmp_path / "branch", *branch(trunk, 7))
    assert last(tmp_path / "branch", 7) == last(one_go[7], 7)
    whole = json.loads((one_go[7] / "record.json").read_text())
    assert record["metrics"] == whole["metrics"] and record["trunk"] == "trunk" and record["role"] == "run"
    assert record["flops"]["train"] == whole["flops"]["train"] == whole["flops"]["spent"]
    assert record["flops"]["spent"] * 7 == whole["flops"]["train"] * 2
    rows = [json.loads(line) for line in (tmp_path / "branch/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [6, 7]


def test_a_branch_resumes_to_the_same_bits(trunk, one_go, train_world, tmp_path):
    """Guards a branch that starts at the trunk again, or from scratch: stopped after step 6, its trunk gone by then."""
    out = tmp_path / "branch"
    train_world(out, *branch(trunk, 7), "train.save_every=1")
    shutil.rmtree(out / "checkpoints/step-00000007")
    for made in (out / "record.json", out / "model_index.json"):
        made.unlink()
    train_world(out, *branch(tmp_path / "gone", 7))
    assert last(out, 7) == last(one_go[7], 7)


def test_a_trunk_goes_on(own, trunk, one_go, train_world, tmp_path):
    """Guards work lost when a larger budget is planned later: step 5 stays byte for byte, step 8 is added, not more."""
    kept = last(own, 5)
    record = train_world(own, *TRUNK, "train.steps=8", "train.keep_at=[8]", "train.keep=1")
    assert record["steps"] == 8 and last(own, 5) == kept
    rows = [json.loads(line)["step"] for line in (own / "metrics.jsonl").read_text().splitlines()]
    assert rows == [*range(1, 9)], "steps 1 to 6 were not done again"
    train_world(tmp_path / "branch", *branch(own, 10))
    assert last(tmp_path / "branch", 10) == last(one_go[10], 10)


def test_a_trunk_goes_back_for_a_step(own, train_world, capsys):
    """Guards a budget planned between two others: step 2 was passed by without keeping it, and comes out of step 0.

    The checkpoints that other branches left from are not written again; asked once more there is nothing to do.
    """
    before = (own / "checkpoints/step-00000005/manifest.json").stat().st_mtime_ns
    arguments = [*TRUNK, "train.steps=6", "train.keep_at=[2, 5]", "train.keep=1"]
    train_world(own, *arguments)
    kept = [path.name for path in checkpoint.steps(own / "checkpoints")]
    assert kept == ["step-00000002", "step-00000005", "step-00000006"]
    assert (own / "checkpoints/step-00000005/manifest.json").stat().st_mtime_ns == before
    train_world(own, *arguments)
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["train.lr=0.1"], "was trained otherwise: train.lr is 0.004 there and 0.1 here"),
        (["train.warmup=0.2"], "train.warmup is 2.0 there and 0.2 here"),
        (["seed=1"], "seed is 0 there and 1 here"),
        (["train.start.step=4"], "keeps no intact checkpoint of step 4: add the step to its train.keep_at"),
        (["train.start.step=6", "train.steps=6"], "train.start.step 6 lies within the cooldown, .* at step 5"),
        (["train.start.run=nowhere"], "train.start.run nowhere holds no run"),
        (["train.trunk=true", "train.cooldown=0.1"], "a trunk has no length of its own"),
    ],
)
def test_a_wrong_start_is_one_sentence(trunk, train_world, tmp_path, change, sentence):
    """Guards a branch of something else, which trains without a sign: refused before its directory is made."""
    with pytest.raises(UserError, match=sentence):
        train_world(tmp_path / "branch", *branch(trunk, 7), *change)
    assert not (tmp_path / "branch").exists()


def test_a_damaged_checkpoint_is_no_start(own, train_world, tmp_path):
    """Guards branches of broken weights, which safetensors itself would load."""
    file = own / "checkpoints/step-00000005/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="no intact checkpoint of step 5"):
        train_world(tmp_path / "branch", *branch(own, 7))
