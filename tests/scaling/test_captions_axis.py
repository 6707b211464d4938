"""The sweep over captions: what is compared costs the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from scaling.plan import plan
from scaling.point import load_sweep

ROOT = Path(__file__).parents[2]


def test_runs_with_and_without_words_cost_the_same(latents, tmp_path):
    """Guards words that are free of charge, and files that no longer load: more parameters, fewer steps, one budget."""
    base = ROOT / "configs/world/captions.yaml"
    sweep = load_sweep(ROOT / "configs/sweep/captions.yaml",
                       [f"out={tmp_path}", f"base={base}", f"set={{latents: {latents}}}"])  # fmt: skip
    points = {point.name: point for point in plan(sweep)}
    budget = yaml.safe_load(base.read_text())["budget"]
    for point in points.values():
        assert point.flops == pytest.approx(float(budget), abs=point.flops / point.steps)
    assert {name for name, point in points.items() if "text" not in point.params} == {"none"}
    steps = [points[name].steps for name in ("raw", "pooled", "none")]
    assert steps[0] < 0.95 * steps[1] < 0.95**2 * steps[2] and points["recaptioned"].steps == steps[0]
    assert len({point.params["body"] for point in points.values()}) == 1
