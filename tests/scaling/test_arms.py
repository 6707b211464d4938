"""Arms at equal compute: planned, told apart where they differ, and not where they do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from made import finished_run, write_record

from scaling import arms
from scaling.__main__ import main
from scaling.plan import plan
from scaling.point import load_sweep
from scaling.predict import freeze
from scaling.records import Finished
from videowm import config as configuration
from videowm.train.config import DIVERGED
from videowm.types import UserError

ROOT = Path(__file__).parents[2]
ARMS = {"adamw": {}, "muon": {"train.optimizer": "muon"}, "short": {"window": 3}}


@pytest.fixture(scope="module")
def sweep_file(world_arguments, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("arms")
    common = {k: yaml.safe_load(v) for k, v in (argument.split("=", 1) for argument in world_arguments)}
    grid = {"budgets": [4e8, 1.6e9], "sizes": [1, 2], "force": True, "arms": ARMS}
    base, common = str(ROOT / "configs/world/quickstart.yaml"), common | {"train.optimizer": "adamw"}
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"base": base, "out": str(folder / "out"), "set": common, "grid": grid}))
    return path


def test_every_point_once_an_arm_at_equal_compute(sweep_file):
    """Guards arms that spend unlike, share a trunk, or are trained without their overrides."""
    points = plan(load_sweep(sweep_file))
    assert len(points) == 3 * (2 + 4) and len({p.name for p in points}) == len(points)
    for point in points:
        config = yaml.safe_load(point.config.read_text())
        assert point.name.startswith(f"{point.arm}-d") and (point.after or point.arm).startswith(point.arm)
        assert config["train"].get("optimizer", "adamw") == ("muon" if point.arm == "muon" else "adamw")
        assert config["window"] == (3 if point.arm == "short" else 5)
        if point.after:
            budget = float(point.name.rpartition("-")[2])
            assert point.flops == pytest.approx(budget, abs=point.flops / point.steps)
    steps = {p.name.removeprefix(f"{p.arm}-"): p.steps for p in points if p.arm == "adamw"}
    short = {p.name.removeprefix("short-"): p.steps for p in points if p.arm == "short"}
    assert steps.keys() == short.keys() and all(short[name] > steps[name] for name in steps)


def test_what_the_grid_sets_is_no_arm(sweep_file):
    """Guards an arm that silently moves what all arms are to share, and predictions from mixed arms."""
    with pytest.raises(UserError, match=r"grid.arms.deep is \{'depth': 3\}"):
        load_sweep(sweep_file, ["grid.arms={deep: {depth: 3}}"])
    with pytest.raises(UserError, match=r"arm None is not one of the grid's \(adamw, muon, short\)"):
        freeze(load_sweep(sweep_file), 1e10)


def test_fit_gives_a_law_for_each_arm(sweep_file, tmp_path, capsys):
    """Guards one law through the runs of several arms, an arm's file over another's, and points lost unsaid."""
    overrides = [f"out={tmp_path}", "grid.arms={a: {}, b: {window: 3}}", "grid.budgets=[4e8,8e8,1.6e9]"]
    data = yaml.safe_load(sweep_file.read_text())
    for override in overrides:
        configuration.apply_override(data, override)
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(data))
    for point in plan(load_sweep(path)):
        point.run.mkdir()
        if point.name == "b-d2-8e8":
            (point.run / DIVERGED).write_text("{}")
        elif point.after:
            loss = (1.0 if point.arm == "a" else 1.1) * (point.flops / 1e9) ** -0.1
            write_record(point.run, trunk=point.after, params=point.params, flops={"train": point.flops},
                         steps=point.steps, batch=point.batch, lr=point.lr, tokens={"target": point.tokens},
                         metrics={"heldout/loss": loss})  # fmt: skip
    with pytest.raises(SystemExit):
        main(["fit", str(path), "--form", "power", "--bootstrap", "0", "--out", str(tmp_path / "law.json")])
    said = capsys.readouterr().out
    laws = [json.loads((tmp_path / f"law-{arm}.json").read_text()) for arm in "ab"]
    assert laws[0]["num_points"] == 3 and laws[1]["params"]["A"] / laws[0]["params"]["A"] == pytest.approx(
        1.1, rel=0.02
    )
    assert "arm b against a: heldout/loss +9.5" in said and "5 pairs on 2 trunks" in said
    assert "diverged, so in no fit: b-d2-8e8" in said


def study(effect: float, seed: int = 0, noise: float = 1e-3, banks: str = "xx") -> list[Finished]:
    """Records of two arms, 5 sizes on 3 budgets: run noise in both, and a trunk's own difference between the arms."""
    rng, records = np.random.default_rng(seed), []
    for depth in range(1, 6):
        trunk = noise * rng.normal()
        for budget in (1, 3, 9):
            loss = 0.6 - 0.02 * np.log(budget) + 0.05 / depth
            for arm, gap, bank in (("a", 0.0, banks[0]), ("b", effect + trunk, banks[1])):
                value = loss * np.exp(gap + noise / 10 * rng.normal())
                records.append(finished_run(f"{arm}-d{depth}-{budget}", arm=arm, trunk=f"{arm}-d{depth}-trunk",
                                            hashes={"bank": bank}, metrics={"heldout/loss": value}))  # fmt: skip
    return records


def test_a_planted_difference_is_found():
    """Guards the sign, the pairing and the size of an effect that unpaired losses, 10 times as far apart, hide."""
    records = study(-0.005)
    (line,) = arms.sentences(list(reversed(records)), "heldout/loss")
    assert "arm a against b" in line and "they differ" in line and "15 pairs on 5 trunks" in line
    gap = arms.compare(records[::2], records[1::2], "heldout/loss")
    assert gap.mean == pytest.approx(-0.005, abs=0.0015) and gap.differ


def test_no_difference_is_not_found_too_often():
    """Guards branches taken for independent: of 200 studies without an effect about 10 % may show one.

    Drawn by run instead of by trunk, 35 to 50 % of these do.
    """
    found = [arms.compare(s[::2], s[1::2], "heldout/loss", draws=300).differ for s in (study(0, i) for i in range(200))]
    assert 0.04 < np.mean(found) < 0.17


def test_other_banks_do_not_compare():
    """Guards losses of two tokenizers read as a difference."""
    (line,) = arms.sentences(study(0, banks="xy"), "heldout/loss")
    assert "different banks" in line
