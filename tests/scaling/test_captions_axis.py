"""The sweeps over captions: what is compared costs the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from scaling.plan import load_sweep, plan

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "runs"), [("captions", {"none": False, "raw": True, "recaptioned": True}), ("text", {"cross": True})]
)
def test_runs_with_and_without_words_cost_the_same(latents, tmp_path, name, runs):
    """Guards words that are free of charge, and files that no longer load: more parameters, fewer steps, one budget."""
    base = ROOT / "configs/world/captions.yaml"
    sweep = load_sweep(ROOT / f"configs/sweep/{name}.yaml",
                       [f"out={tmp_path}", f"base={base}", f"set={{latents: {latents}}}"])  # fmt: skip
    points = {point.name: point for point in plan(sweep)}
    budget = yaml.safe_load(base.read_text())["budget"]
    for point in points.values():
        assert point.flops == pytest.approx(float(budget), abs=point.flops / point.steps)
    assert {name: "text" in points[name].params for name in runs} == runs
    cheaper, dearer = ("none", "raw") if name == "captions" else ("pooled", "cross")
    assert points[dearer].steps < 0.95 * points[cheaper].steps
    assert len({point.params["body"] for point in points.values()}) == 1
