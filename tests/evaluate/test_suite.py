"""The verb as a user calls it: every number with its error, a page that holds the figures, and three clips."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import av
import pytest
import torch
import yaml

from videowm.evaluate.findings import sentences, table_rows, television
from videowm.evaluate.suite import ranked
from videowm.metrics import metric_of, unit
from videowm.page import curve_names, write_page


@pytest.fixture(scope="module")
def evaluated(world_run, reader_run, tmp_path_factory):
    """A tiny world model's run after `videowm evaluate` with a reader."""
    from videowm.cli import main

    run = shutil.copytree(world_run, tmp_path_factory.mktemp("evaluated") / "world")
    arguments = ["--reader", reader_run, "--clips", 4, "--horizon", 12, "--counterfactuals", 2, "--smaller", world_run]
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(run), *map(str, arguments)])
    assert not ended.value.code
    return run


def test_every_room_and_every_error(evaluated, reader_run, listed):
    """Guards a room that is never called, a number without its error, one that is not a number, and conditions that
    the reference forgot."""
    text = (evaluated / "evaluation.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    metrics = json.loads(text)
    assert [name for name in metrics if metric_of(name) is None or not unit(name)] == []
    rooms = {name.split("/")[0] for name in metrics}
    assert rooms >= {"fidelity", "control", "state", "drift", "counterfactual", "frechet", "surprise", "heldout",
                     "rollout", "reader", "about"}  # fmt: skip
    bare = re.compile("^(fidelity|control|state|counterfactual)/.*[a-z0-9]$")
    exact = re.compile("(_se|_first|loss_ratio_floor|/starts|/left_out|_clips|_seconds)$")
    for name in filter(bare.match, metrics):
        if not exact.search(name):
            assert f"{name}_se" in metrics, name
    assert "control/delta_psnr_ceiling" in metrics and metrics["control/delta_psnr_ceiling_clips"] == 2
    assert metrics["about"]["sampler"]["steps"] == 2 and set(metrics["about"]) == listed("evaluation.json")
    own = json.loads((reader_run / "record.json").read_text())["metrics"]
    assert metrics["reader/steer_r2"] == own["reader/steer_r2"]
    assert len(metrics["surprise/ranked_by_progress"]) == 4 and metrics["evaluate/seconds"] > 0
    assert metrics["about"]["clips"] == 4 and metrics["about"]["horizon"] == 12
    assert "evaluate with --clips" in metrics["frechet/reader_refused"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--horizon", 10], "do not fit the time stride 4"),
        (["--horizon", 400], "has no test episode of 405 frames or more"),
        (["--reader", "nowhere"], "nowhere holds no finished reader"),
        (["--features", "reader"], "need one: give --reader RUN"),
        (["--smaller", "nowhere"], "nowhere holds no finished world model"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(world_run, videowm, arguments, sentence):
    """Guards tracebacks, and hours of rollouts before them."""
    ended = videowm("evaluate", world_run, *arguments)
    assert ended.code == 2 and sentence in ended.errors[-1] and not (world_run / "evaluation.json").exists()


def test_latents_without_frames(world_run, videowm, tmp_path):
    """Guards a run whose configuration asks for no rollouts, because its latents have no frames: its losses only."""
    run = shutil.copytree(world_run, tmp_path / "world")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["rollout"]["clips"] = 0
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    assert videowm("evaluate", run).code == 0
    metrics = json.loads((run / "evaluation.json").read_text())
    assert {name.split("/")[0] for name in metrics} == {"heldout"} and not (run / "evaluation.html").exists()


def test_the_page_holds_what_was_measured(evaluated):
    """Guards a page with other numbers, without a figure, or that loads anything from elsewhere."""
    metrics, page = json.loads((evaluated / "evaluation.json").read_text()), (evaluated / "evaluation.html").read_text()
    assert f"{metrics['fidelity/psnr']:.4g}" in page and "evaluate with --clips" in page
    rooms = ("fidelity", "control", "state", "counterfactual", "drift")
    assert page.count("data:image/png;base64,") == 1 + sum(bool(curve_names(metrics, room)) for room in rooms)
    assert all((evaluated / f"evaluation/{name}.png").exists() for name in ("strip", "fidelity", "control", "drift"))
    assert page.count("data:video/mp4;base64,") == 3 and not re.search(r"(src|href)=\"(?!data:)", page)
    for name in ("best", "median", "worst"):
        with av.open(str(evaluated / f"evaluation/{name}.mp4")) as video:
            assert sum(1 for _ in video.decode(video=0)) == 5 + 12


def test_a_picture_that_cannot_be_drawn_costs_only_itself(perfect, tmp_path, caplog):
    """Guards hours of measurements lost for one figure: a bound of other length, no error, and nothing known of it."""
    metrics = {"fidelity/psnr": 9.5, "fidelity/psnr_by_frame": [9.0, 10.0], "control/r2_by_frame": [0.5, 0.25],
               "fidelity/psnr_by_frame_ceiling": [1.0, 2.0, 3.0], "control/r2_by_frame_se": [None, None]}  # fmt: skip
    page = write_page(tmp_path, metrics, perfect, ["steer", "gas", "brake"], 12.5).read_text()
    assert "the page goes without fidelity.png" in caplog.text and "9.5" in page
    assert page.count("data:image/png;base64,") == 2 and (tmp_path / "evaluation/control.png").exists()
    assert page.count("data:video/mp4;base64,") == 3


def test_tables_and_sentences_by_hand():
    """Guards a bound in another's column, and a row for every error."""
    metrics = {
        "about": {"clips": 4, "episodes": 2, "context": 5, "horizon": 12},
        "control/r2": 0.5,
        "control/r2_se": 0.1,
        "control/r2_floor": -1.0,
        "control/r2_floor_se": 0.2,
        "control/r2_ceiling": 0.75,
        "control/r2_by_frame": [1],
        "control/delay": 1,
        "control/delay_se": 0.25,
    }
    rows = {row["name"]: row for row in table_rows(metrics, "control")}
    assert set(rows["control/delay"]) == {"name", "value", "unit", "ceiling", "floor"}
    assert rows["control/r2"]["unit"] == "R²" and rows["control/delay"]["unit"] == "frames"
    assert set(rows) == {"control/r2", "control/delay"} and rows["control/r2"]["value"] == "0.5 ± 0.1"
    assert rows["control/r2"]["floor"] == "-1 ± 0.2" and rows["control/r2"]["ceiling"] == "0.75"
    said = " ".join(sentences(metrics))
    assert "tells nothing here" not in said
    assert "tells nothing here" in " ".join(sentences(metrics | {"drift/control_r2_area": None}))
    assert "is 0.5 ± 0.1 (ceiling 0.75, floor -1 ± 0.2)" in said and "1 ± 0.25 frames late" in said


def test_what_is_kept_and_when_half_is_lost():
    """Guards a half-life that was never reached or never measured shown as a number."""
    metrics = {}
    for name, area, half in (("a", 0.5, 7), ("b", 0.9, None), ("c", None, None)):
        metrics |= {f"drift/{name}_horizon": 64, f"drift/{name}_area": area, f"drift/{name}_half_life": half}
    shown = [list(row.values()) for row in table_rows(metrics, "drift")]
    assert shown == [["a", "0.5", "7"], ["b", "0.9", "not within 64"], ["c", "bounds not three errors apart", ""]]


def test_what_is_said_of_noise():
    """Guards a verdict on the wrong side of 1, and one where the error leaves it open."""
    values = {"error": (3.0, 0.2), "disagreement": (0.5, 0.1), "progress": (1.1, 0.2)}
    metrics = {f"surprise/television_{k}": v for k, (v, _) in values.items()}
    metrics |= {f"surprise/television_{k}_se": e for k, (_, e) in values.items()}
    error, disagreement, progress = television(metrics)
    assert "Raw error is drawn to" in error and "3 ± 0.2 times" in error
    assert "by disagreement, is not drawn to" in disagreement and "is not measurably drawn to" in progress


def test_best_and_worst(perfect):
    """Guards ranks turned round: clips with more and more noise are worse and worse."""
    amount = torch.tensor([3, 1, 7, 2, 6, 4, 5, 0.5])[:, None, None, None, None] / 50
    noisy = perfect.truth + amount * torch.randn(perfect.truth.shape, generator=torch.Generator().manual_seed(0))
    assert ranked(replace(perfect, dreamed=noisy)) == {"best": 7, "median": 5, "worst": 2}
