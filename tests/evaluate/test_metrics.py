"""The registry of metrics: whatever was ever measured is described in it, and bounds are found beside their metric."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from videowm import metrics
from videowm.record import RunRecord

ROOT = Path(__file__).parents[2]


def undescribed(names) -> list[str]:
    """The names without a unit or a description."""
    found = {name: metrics.metric_of(name) for name in metrics.with_current_names(dict.fromkeys(names))}
    return [name for name, metric in found.items() if metric is None or not metric.unit or not metric.what]


def names_in(content) -> set[str]:
    """Every key of nested JSON that is shaped like a metric's name."""
    if isinstance(content, list):
        return set().union(*map(names_in, content))
    if not isinstance(content, dict):
        return set()
    own = {key for key in content if "/" in key and " " not in key}
    return own.union(*map(names_in, content.values()))


def test_every_committed_number_is_described():
    """Guards a metric renamed or removed while committed records and pages still hold it."""
    names = names_in(json.loads((ROOT / "benchmarks/evaluation.json").read_text()))
    names |= names_in(json.loads((ROOT / "benchmarks/words.json").read_text()))
    for path in (ROOT / "benchmarks/studies").glob("*/records/*.json"):
        names |= set(json.loads(path.read_text()).get("metrics", {}))
    assert len(names) > 800 and undescribed(names) == []


def test_every_number_of_a_run_is_described(world_run, vae_run, reader_run):
    """Guards a metric that a task logs or records and that no table knows: pages and sweeps would not know its unit."""
    for run in (world_run, vae_run, reader_run):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert undescribed({name for line in lines for name in line}) == []
        assert RunRecord.read(run).metrics and undescribed(RunRecord.read(run).metrics) == []


def test_every_entry_is_complete_and_its_module_exists():
    """Guards two entries of one name, an entry that an earlier family hides, and a module that was renamed."""
    names = [metric.name for metric in metrics.METRICS]
    assert len(set(names)) == len(names)
    for metric in metrics.METRICS:
        assert metric.what.endswith(".") and metric.unit and importlib.util.find_spec(metric.computed_in), metric
        assert metrics.find(metric.name.format("xyz")) is metric


@pytest.mark.parametrize(
    ("name", "base", "found"),
    [
        ("fidelity/psnr_by_frame_ceiling_se", "fidelity/psnr", "fidelity/psnr"),
        ("fidelity/psnr_to_vae_floor", "fidelity/psnr_to_vae", "fidelity/psnr_to_vae"),
        ("control/left_r2_floor_zero_se", "control/left_r2", "control/{}_r2"),
        ("state/speed_ceiling_real", "state/speed", "state/{}"),
        ("drift/state_speed_by_frame_first", "drift/state_speed", "drift/{}"),
        ("drift/fidelity_psnr_area_se", "drift/fidelity_psnr_area", "drift/{}_area"),
        ("text/turn_free_share_floor", "text/turn_free_share", "text/{}_free_share"),
        ("counterfactual/state_error_ceiling_real", "counterfactual/state_error", "counterfactual/{}_error"),
        ("reconstruction/moved_clips", "reconstruction/moved_clips", "reconstruction/moved_clips"),
    ],
)
def test_bounds_and_errors_belong_to_their_metric(name, base, found):
    """Guards a suffix cut off a real name, and a family of state columns that swallows its own bounds."""
    assert metrics.base_name(name) == base and metrics.metric_of(name).name == found


def test_better_and_beside():
    """Guards sweeps that maximise an error, and errors of `rollout/psnr_mean` looked for under a name without them."""
    assert all(
        map(metrics.lower_is_better, ("heldout/loss", "state/speed", "counterfactual/turn_error", "frechet/i3d"))
    )
    assert not any(map(metrics.lower_is_better, ("rollout/lead", "counterfactual/psnr", "text/turn", "what/ever")))
    assert metrics.beside("rollout/psnr_mean", "se") == "rollout/psnr_se"
    assert metrics.beside("rollout/psnr_mean", "floor") == "rollout/psnr_repeat_mean"
    assert metrics.beside("control/r2", "se") == "control/r2_se"


def test_old_names_are_read():
    """Guards records of before a renaming, whose number would be lost."""
    numbers = dict.fromkeys(("seed", "steps", "batch", "lr", "wall_seconds"), 1)
    data = {"name": "x", "device": "cpu", "params": {}, "metrics": {"heldout/loss_untold": 0.5}, **numbers}
    assert RunRecord.from_json(data).metrics == {"heldout/loss_without_text": 0.5}
