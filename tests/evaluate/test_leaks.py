"""The counter of impossible events: on boxes where every event is known, and trained on a real game."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from videowm.evaluate.leaks import Laws, judge, slope_of
from videowm.evaluate.tracks import path_error
from videowm.metrics import metric_of, unit

ROOT = Path(__file__).parents[2]
LAWS = Laws(("imp",), ("fireball",), {"y": (16.0, 752.0)}, {"y": 32.0}, 1 / 15, 12.0, (64, 64))


def scene(frames: int = 40, speed: float = 8.0):
    """Three imps that stand, two fireballs one after the other, and a camera that walks to and fro; all exact."""
    y = 384 + speed * np.abs((np.arange(frames) + 10) % 20 - 10)
    found = []
    for t in range(frames):
        imps = [[33, 32 + (y[t] - place) / 15, 8, 4, 1] for place in (300, 380, 460)]
        away = 12 - t % 16  # frames until it is at the camera
        column = 32 + (y[t] - 520 - 4 * (t % 16)) / 15 * 12 / away if away > 2 else -9
        balls = [[33, column, 36 / away, 30 / away, 1]] if 0 < column < 64 and away > 2 else []
        found.append({"imp": np.float32(imps), "fireball": np.float32(balls).reshape(-1, 5)})
    return found, y[:, None]


def names(found, columns) -> list[str]:
    return sorted(event.what for event in judge(found, columns, LAWS))


def test_nothing_happens_where_nothing_does():
    """Guards a counter that is set off by the camera's motion, or by a fireball that passes or comes near."""
    for speed in (0.0, 8.0, 24.0):
        assert names(*scene(speed=speed)) == []


def test_a_lost_imp_is_counted_once():
    """Guards a loss that is counted in every frame, or in none; and one that a fireball before it explains."""
    found, columns = scene()
    for frame in found[20:]:
        frame["imp"] = frame["imp"][[0, 2]]
    assert names(found, columns) == ["imp_lost"]
    for i, frame in enumerate(found):
        hides = np.float32([[32, frame["imp"][:, 1].mean(), 20, 20, 1]])
        frame["fireball"] = hides[: int(i >= 20)]
    assert names(found, columns) == []


def test_a_bent_path_is_counted():
    """Guards a fit that follows every path: the same fireball turns in its fifth frame."""
    found, columns = scene(14, speed=0.0)
    for t in range(4, 14):
        found[t]["fireball"][:, 1] += 3 * (t - 3)
    assert names(found, columns) == ["fireball_bent"]


def test_a_lost_fireball_is_counted():
    """Guards a fireball that is gone in its flight, long before it is near."""
    found, columns = scene(14, speed=0.0)
    for t in range(3, 14):
        found[t]["fireball"] = found[t]["fireball"][:0]
    assert names(found, columns) == ["fireball_lost"]


def test_the_camera_keeps_to_its_bounds():
    """Guards walls that are not seen where the reading stays within them while the still things go on to move."""
    found, columns = scene(30, speed=0.0)
    far = columns.copy()
    far[15:] += 600
    assert "y_jump" in names(found, far)
    walking = columns + 24 * np.arange(30)[:, None]
    for frame, y in zip(found, walking[:, 0], strict=True):
        frame["imp"] = np.float32([[33, 32 + (y - place) / 15, 8, 4, 1] for place in range(300, 1400, 80)])
        frame["fireball"] = np.zeros((0, 5), np.float32)
    stuck = walking.clip(max=752)
    assert walking.max() > 1000 and names(found, stuck) == ["y_outside"]
    assert slope_of([found], [walking], ("imp",)) == pytest.approx(1 / 15, rel=0.02)


def test_a_straight_flight_fits():
    """Guards the formula: a flight past a moving camera has no error, a bent one that of its bend."""
    time = np.arange(7)
    camera = np.cumsum([0, 2, 2, -2, -2, 2, 0.0])
    column = 32 + (3 + 2 * time + 12 * camera) / (12 - time)
    points = list(zip(time.tolist(), column.tolist(), strict=True))
    assert path_error(points, camera, 12.0, 32.0) < 0.1
    points[-1] = (6, column[-1] + 3)
    assert path_error(points, camera, 12.0, 32.0) > 0.5


@pytest.fixture(scope="module")
def detector_run(tmp_path_factory) -> Path:
    """A detector after four steps on four recorded games."""
    from videowm.data.recording import record_episodes
    from videowm.train.loop import launch

    folder = tmp_path_factory.mktemp("leaks")
    record_episodes("takecover", folder / "data", episodes=4, frames=40, seed=1, test_share=1 / 4)
    tiny = ["train.steps=4", "train.batch=4", "train.trackers=[]", "detector.width=8", "planted=2"]
    launch(ROOT / "configs/detector/takecover.yaml",
           [f"out={folder / 'run'}", f"data={folder / 'data'}", *tiny])  # fmt: skip
    return folder / "run"


def test_a_detector_is_trained_and_counts(detector_run):
    """Guards the way from a recording to numbers: training, its own record, and the count in rollouts."""
    from videowm.evaluate.detector import Detector
    from videowm.evaluate.leaks import leaks
    from videowm.evaluate.scenes import Scenes

    metrics = json.loads((detector_run / "record.json").read_text())["metrics"]
    assert metrics["detector/frames"] > 30 and "leaks/imp_lost_false" in metrics and "leaks/y_outside_false" in metrics
    assert [name for name in metrics if metric_of(name) is None or not unit(name)] == []
    detector = Detector.open(detector_run)
    assert detector.findable.slope == pytest.approx(1 / 15, rel=0.1)
    video = torch.rand(2, 12, 3, 64, 64) * 2 - 1
    scenes = Scenes(*[video] * 6, torch.zeros(2, 11, 2), np.array([0, 1]), np.zeros(2, int), 4)
    counted = dict(leaks(scenes, detector))
    assert counted["leaks/events"] == counted["leaks/events_ceiling"] == counted["leaks/events_ceiling_real"]


def test_a_world_without_laws_is_refused(dataset, tmp_path, videowm):
    """Guards a detector of a world of which nothing can be counted: one sentence says what is missing."""
    said = videowm("train", ROOT / "configs/detector/takecover.yaml", f"data={dataset}", f"out={tmp_path / 'run'}")
    assert said.code == 2 and "says nothing of what can never happen" in said.errors[-1]


def test_the_benchmark_plants_and_counts(detector_run):
    """Guards a command of ten minutes that ends at its last step; and a player whom no wall stops any more."""
    spec = importlib.util.spec_from_file_location("leaks_benchmark", ROOT / "benchmarks/leaks.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    data = str(detector_run.parent / "data")
    result = benchmark.main([str(detector_run), "--data", data, "--episodes", "1", "--count", "1"])
    assert result["real"]["planted"]["y_outside"]["clips"] == 1 and result["frames"] > 20
    clip = benchmark.through_walls(1)[0]
    assert 10 < clip.frame < len(clip.frames) - 5
