"""What a run says: metrics.jsonl is the truth; wandb and TensorBoard mirror it, and may fail."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb_offline
from accelerate import Accelerator

from videowm.train.log import Log, keep_until, wandb_settings

CONFIG = "configs/world/quickstart.yaml"
TRACKED = ['train.trackers=["wandb","tensorboard"]', "train.log_every=1"]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, world_arguments, fork) -> Path:
    """A run, in a process of its own, tracked by both trackers, wandb offline."""
    out = tmp_path_factory.mktemp("tracked") / "world"
    ended = fork("train", CONFIG, *world_arguments, *TRACKED, f"out={out}", WANDB_PROJECT="elsewhere")
    _, errors = ended.communicate()
    assert ended.returncode == 0 and "no tracking" not in errors, errors
    return out


def training_rows(run: Path) -> list[dict]:
    return [row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "loss" in row]


def test_wandb_offline_mirrors_the_metrics(tracked):
    """Guards a tracker that was started and told nothing: every logged loss, and the configuration, are read back."""
    [run] = tracked.glob("wandb/offline-run-*/run-*.wandb")
    kept = wandb_offline.load(run)
    assert kept["project"] == "elsewhere" and run.stem.endswith((tracked / ".tracking-id").read_text())
    assert kept["config"]["depth"] == 1 and kept["config"]["train.batch"] == 4
    losses = [(int(row["_step"]), row["loss"]) for row in kept["history"] if "loss" in row]
    assert losses == [(row["step"], pytest.approx(row["loss"])) for row in training_rows(tracked)]
    assert len(losses) == 4
    record = json.loads((tracked / "record.json").read_text())
    assert kept["summary"]["heldout/loss"] == pytest.approx(record["metrics"]["heldout/loss"])


def test_names_at_the_tracker(tmp_path, monkeypatch):
    """Guards runs that are all called by their task, a sweep that is no group, and a run trained anew under its old id.

    The id lies in the run directory: it stays over a resume, and goes with the directory.
    """
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    out = tmp_path / "sweep/deep"
    out.mkdir(parents=True)
    first = wandb_settings(out, "world")
    assert (first["name"], first["group"], first["job_type"]) == ("deep", None, "world")
    (tmp_path / "sweep/plan.jsonl").touch()
    again = wandb_settings(out, "world")
    assert again["group"] == "sweep" and again["id"] == first["id"]
    (out / ".tracking-id").unlink()
    assert wandb_settings(out, "world")["id"] != first["id"]
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    assert wandb_settings(out, "world")["group"] == "mine"


def test_tensorboard_mirrors_the_metrics(tracked):
    """Guards an event file that holds nothing: the losses in it are those of metrics.jsonl."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [folder] = {path.parent for path in tracked.rglob("events.out.tfevents.*") if path.parent.name == "videowm"}
    events = EventAccumulator(str(folder)).Reload().Scalars("loss")
    rows = training_rows(tracked)
    assert [event.step for event in events] == [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [event.value for event in events] == pytest.approx([row["loss"] for row in rows])


def test_an_unreachable_server_stops_nothing(tmp_path, world_arguments, fork):
    """Guards a run that hangs or dies with its tracker: online against a closed port, it ends in time, all measured.

    TensorBoard, asked for after wandb, works.
    """
    began, out = time.monotonic(), tmp_path / "world"
    ended = fork("train", CONFIG, *world_arguments, *TRACKED, f"out={out}", WANDB_MODE="online",
                 WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY="0" * 40, WANDB_INIT_TIMEOUT="4")  # fmt: skip
    _, errors = ended.communicate()
    assert ended.returncode == 0 and time.monotonic() - began < 60, errors
    assert "no tracking with wandb" in errors
    assert len(training_rows(out)) == 4 and list(out.rglob("events.out.tfevents.*"))


class Failing:
    """A tracker whose server went away after some steps."""

    name = "failing"

    def __init__(self) -> None:
        self.seen: list[int] = []

    def log(self, values: dict, step: int) -> None:
        self.seen.append(step)
        if step == 2:
            raise ConnectionError("the server is gone\nand this is its long answer")

    def finish(self) -> None:
        raise ConnectionError("still gone")


def test_a_tracker_that_fails_later_is_left_out(tmp_path, caplog):
    """Guards a run that dies in the middle: the failing tracker is told nothing more, the other goes on."""
    log = Log(Accelerator(cpu=True), tmp_path, steps=3, first=0, name="x", config={}, trackers=[])
    failing, fine = Failing(), SimpleNamespace(name="fine", log=lambda values, step: seen.append(step))
    fine.finish, seen = lambda: seen.append("closed"), []
    log.trackers = [failing, fine]
    with caplog.at_level(logging.WARNING, "videowm"):
        for step in (1, 2, 3):
            log.write(step, {"loss": 1.0, "curve": [1, 2]})
        log.trackers.append(failing)
        log.close()
    assert failing.seen == [1, 2] and seen == [1, 2, 3, "closed"]
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [1, 2, 3]
    assert [r.getMessage() for r in caplog.records] == [
        "no tracking with failing from step 2 on: the server is gone",
        "tracking with failing did not close: still gone",
    ]


def test_lines_after_the_resumed_step_go(tmp_path):
    """Guards doubled, half and damaged lines: those beyond step 2, the half one and those without a step or a loss go.

    The one without a loss is an evaluation: a run that was killed before its record evaluates again.
    """
    path, kept = tmp_path / "metrics.jsonl", '{"step": 1, "loss": 1}\n{"step": 2, "loss": NaN}\n'
    damage = '3\nnull\n[1]\n{"step": "x", "loss": 1}\n\x00garbage\n'
    later = '{"lr": 3}\n{"step": 2, "at_one": 3}\n{"step": 3, "loss": 1}\n{"step": 2, "lo'
    path.write_text(kept + damage + later)
    keep_until(path, 2)
    assert path.read_text() == kept and list(tmp_path.iterdir()) == [path]
    path.write_bytes(b"\xff\xfe\x00" + b"[" * 100_000 + b"\n" + kept.encode())
    keep_until(path, 2)
    assert path.read_text() == kept
    keep_until(tmp_path / "none.jsonl", 2)
    assert not (tmp_path / "none.jsonl").exists()
