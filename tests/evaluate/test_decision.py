"""Decision fidelity: what real courses earn, how they are ranked, and that every number is where it belongs."""

from __future__ import annotations

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from scaling.evaluate import evaluate, given
from scaling.point import Point
from scaling.records import finished
from videowm import cli, worlds
from videowm.data.dataset import Dataset
from videowm.dit.sample import Sampler
from videowm.evaluate.choices import FOLDER, Choices, DecisionConfig, courses, play_choices
from videowm.evaluate.counterfactual import Replay
from videowm.evaluate.decision import Judgement, longest_repeat, missed
from videowm.evaluate.decision import scores as scores_of
from videowm.evaluate.outcomes import off_by
from videowm.evaluate.rollouts import RolloutConfig
from videowm.measure import decisions
from videowm.metrics import metric_of
from videowm.options import EvaluateOptions
from videowm.page import room_parts
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError


@pytest.fixture(scope="module")
def replay(three_data):
    """The game of tests/three.py, brought back to any moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(worlds.BUILT_IN, "three", "three:Three")
        yield Replay(Dataset(three_data))


def test_what_real_courses_earn(replay):
    """Guards an outcome credited to the action before, a fatal action without its reward, and frames behind an end.

    From frame 10 the actions earn 2 ** 10, 2 ** 11, … To fall at once earns the first alone and leaves one frame.
    """
    episode, length = 3, int(replay.dataset.lengths[3])
    stay, fall = np.zeros((4, 1), np.float32), np.full((4, 1), -1, np.float32)
    _, rewards, end, frames = replay.outcome(episode, 10, stay, 4, watch=True)
    assert rewards.tolist() == [1024, 2048, 4096, 8192] and end == 0 and len(frames) == 5
    assert frames[:, 0, -1, 0].tolist() == [100, 110, 120, 130, 140]
    actions, rewards, end, frames = replay.outcome(episode, 10, np.concatenate([stay[:1], fall[:3]]), 4, watch=True)
    assert rewards.tolist() == [1024, 2048, 0, 0] and end == 2 and len(frames) == 2
    last = length - 1
    actions, rewards, end, frames = replay.outcome(episode, last, 7, 4, watch=False)
    assert rewards.tolist() == [2.0**last, 0, 0, 0] and end == 1 and frames is None
    assert actions.tolist() == [[last]] * 4, "the scripted player's only action goes on"


def test_courses_are_all_kinds_and_repeat(replay):
    """Guards random numbers that differ between two models, and moments that share their courses."""
    config = DecisionConfig()
    made = [courses(replay, config, 8, moment) for moment in (0, 0, 1)]
    assert [len(m) for m in made] == [16] * 3 and sum(isinstance(c, int) for c in made[0]) == 2
    assert all(np.array_equal(a, b) for a, b in zip(made[0], made[1]))
    assert not all(np.array_equal(a, b) for a, b in zip(made[0], made[2]))
    held = [c for c in made[0] if not isinstance(c, int)]
    assert all(c.shape == (8, 1) and c.dtype == np.float32 for c in held)
    assert [c[0, 0] for c in held[:3]] == [0, 1, -1] and all(np.ptp(c) == 0 for c in held[:3])


def test_a_step_counts_as_far_as_it_is_reached():
    """Guards a score that goes on behind a death: by hand 10 + 0.5 * 20 + 0.5 * 0.8 * 40, and 1 - 0.5 * 0.8 * 1."""
    judged = Judgement.of(np.array([[10.0, 20, 40]]), np.array([[0.5, 0.2, 0]]))
    assert judged.earns[0] == pytest.approx(10 + 10 + 16) and judged.dies[0] == pytest.approx(0.6)


def hand_made() -> Choices:
    """Four moments in two episodes, three courses of two actions; in the last moment all earn the same."""
    rewards = np.array([[[1, 1], [0, 0], [2, 4]], [[3, 0], [0, 1], [0, 0]], [[5, 5], [5, 0], [0, 0]], [[1, 0]] * 3])
    end = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 2], [0, 0, 0]])
    actions = np.zeros((4, 3, 2, 1), np.float32)
    return Choices(np.array([0, 0, 1, 1]), np.arange(4), actions, rewards.astype(np.float32), end, [])


def test_scores_by_hand():
    """Guards a regret of 0 for a random pick, a sign, and moments without a choice in a correlation.

    Who knows all has regret 0, who knows nothing 1, who always takes the worst more than 1.
    """
    choices, every = hand_made(), np.arange(4)
    knows = dict(scores_of("", Judgement(choices.earned, choices.died + 0.0), choices, every))
    assert knows["decision/regret"] == 0 and knows["decision/auroc"] == 1
    assert knows["decision/spearman"] == pytest.approx(1) and knows["decision/kendall"] == pytest.approx(1)
    none = dict(scores_of("_floor", Judgement(choices.earned * 0, choices.died * 0.0), choices, every))
    assert none["decision/regret_floor"] == pytest.approx(1) and none["decision/auroc_floor"] == 0.5
    assert none["decision/spearman_floor"] == 0 and none["decision/regret_floor_se"] < 1e-9
    worst = dict(scores_of("", Judgement(-choices.earned, 1.0 - choices.died), choices, every))
    lost, random = 6 + 3 + 10 + 0, (6 - 8 / 3) + (3 - 4 / 3) + (10 - 15 / 3)
    assert worst["decision/regret"] == pytest.approx(lost / random) and worst["decision/spearman"] == pytest.approx(-1)
    assert worst["decision/auroc"] == 0 and worst["decision/regret_se"] > 0
    ties = missed(np.array([[1.0, 1, 0]]), np.array([[4.0, 0, 9]]))
    assert ties.tolist() == [[9 - 2, 9 - 13 / 3]]


def test_longest_repeat_by_hand():
    """Guards a floor that counts changes, or the first run alone."""
    actions = np.array([[[0, 1, 1, 1, 0], [0, 0, 1, 0, 1], [2, 2, 2, 2, 2]]], np.float32)[..., None]
    assert longest_repeat(actions).tolist() == [[3, 2, 5]]


def test_a_model_is_measured(replay, three_heads, three_run, monkeypatch, tmp_path):
    """Guards names that nobody described, a ceiling that is told of an end by missing video, and noise of its own.

    The game is deterministic and its end is seen. So heads foresee by the real video which courses end, except falls,
    which no recording shows.
    """
    monkeypatch.setitem(worlds.BUILT_IN, "three", "three:Three")
    monkeypatch.setattr("videowm.measure.DecisionConfig", lambda **given: DecisionConfig(
        courses=5, seconds=0.8, ceiling=3, rows=24, **given))  # fmt: skip
    pipeline, config = WorldModelPipeline.open(three_run), RolloutConfig(sampler=Sampler(1, "euler"))
    pipeline.register_to_config(transformer_hash=None)  # as of the pipeline that an evaluation builds
    options = EvaluateOptions(decisions=6, futures=2)
    found = [decisions(three_run, pipeline, replay.dataset, config, options) for _ in range(2)]
    for metrics in found:
        assert metrics.pop("decision/seconds") > 0
    assert found[0] == found[1] or all(np.array_equal(found[0][k], found[1][k], equal_nan=True) for k in found[0])
    metrics = found[0]
    assert all(metric_of(name) for name in metrics) and metrics["decision/moments"] == 6
    assert 0 < metrics["decision/died"] < 1 and 0.5 < metrics["decision/open"] < 1
    for name in ("regret", "spearman", "kendall", "auroc"):
        assert {f"decision/{name}{end}" for end in ("", "_se", "_floor", "_floor_repeat", "_ceiling")} <= set(metrics)
    assert metrics["decision/brier"] >= 0 and sum(n for *_, n in metrics["decision/reliability"]) == 30
    whole = metrics["decision/error_shared"] ** 2 + metrics["decision/error_relative"] ** 2
    assert np.isfinite(whole) and metrics["decision/error_relative_floor"] > 0
    assert torch.is_grad_enabled() and metrics["decision/futures"] == 2
    [room] = room_parts(tmp_path, metrics)
    assert room["figure"] is not None and (tmp_path / "decision.png").stat().st_size > 2000


def test_how_far_chance_is_off():
    """Guards tenths that count alike whatever they hold, and errors of both signs that cancel."""
    assert off_by([[0.05, 0.05, 90], [0.5, 0.7, 6], [0.9, 0.7, 4]]) == pytest.approx(0.02)


def test_what_the_game_did_is_kept(replay, monkeypatch):
    """Guards models of another time stride that are asked something else, and a damaged file that is taken for whole.

    Several processes play what one does. They are asked for by four moments each.
    """
    config = DecisionConfig(4, courses=3, seconds=0.8, ceiling=2)
    folder = replay.dataset.root / FOLDER
    before = set(folder.glob("*")) if folder.exists() else set()
    first = play_choices(replay, config, 9, 4)
    assert first.actions.shape == (4, 3, 8, 1) and len(first.videos) == 2 and first.end[0, 2] == 1
    (kept,) = set(folder.glob("*")) - before
    monkeypatch.setattr(replay.world, "reset", lambda seed: pytest.fail("the game is played though it is known"))
    again = play_choices(replay, config, 9, 2)
    monkeypatch.undo()
    kept.write_bytes(kept.read_bytes()[:-99])
    monkeypatch.setattr("videowm.evaluate.choices.EACH", 2)
    monkeypatch.setattr("videowm.evaluate.choices.cores", lambda: 2)
    monkeypatch.setattr("videowm.evaluate.choices.ProcessPoolExecutor", forked)
    for other in (again, play_choices(replay, config, 9, 1)):
        for name in ("episode", "frame", "actions", "rewards", "end"):
            assert np.array_equal(getattr(other, name), getattr(first, name)), name
        assert all(np.array_equal(a, b) for one, two in zip(other.videos, first.videos) for a, b in zip(one, two))


def forked(workers, context, start):
    """Processes that know the game of the tests, as they are forked from them."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), start)


def test_a_run_without_heads_cannot_decide(world_run, recording):
    """Guards a traceback at the end of a long evaluation."""
    pipeline = WorldModelPipeline.open(world_run)
    with pytest.raises(UserError, match="has no heads that read rewards and ends"):
        decisions(world_run, pipeline, recording, RolloutConfig(), EvaluateOptions(decisions=2))
    assert decisions(world_run, pipeline, recording, RolloutConfig(), EvaluateOptions()) == {}


def begin(words: list[str], log: Path, environment: dict[str, str]) -> int:
    """The command in this process."""
    try:
        cli.main(words)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_finished_points_get_heads_and_decisions_once(three_run, tmp_path, monkeypatch, capsys):
    """Guards a sweep whose y-axis nobody can fill: one point is measured with heads of its own, one is not finished.

    The second call has nothing to do, and `scaling` finds the numbers. A failing point is named.
    """
    monkeypatch.setitem(worlds.BUILT_IN, "three", "three:Three")
    run = tmp_path / "p"
    shutil.copytree(three_run, run, ignore=shutil.ignore_patterns("heads"))
    points = [Point(name, tmp_path / name, tmp_path / f"{name}.yaml", 1e9, {}, 1, 8) for name in ("p", "unfinished")]
    options = EvaluateOptions(decisions=2)
    small = ["train.trackers=[]", "train.precision=fp32", "train.steps=2", "train.batch=4", "context=2", "clips=2"]
    assert evaluate(points, options, tmp_path, jobs=1, heads=small, begin=begin) == []
    assert (tmp_path / "heads/p/record.json").exists()
    (record,) = finished(points)
    assert record.number("decision/moments") == 2 and record.number("decision/regret") is not None
    fails = evaluate(points, options, tmp_path, jobs=1, begin=lambda *_: pytest.fail("it was measured before"))
    assert fails == []
    asked = []
    other = EvaluateOptions(decisions=2, futures=1)
    assert evaluate(points, other, tmp_path, jobs=1, begin=lambda words, *_: asked.append(words)) == []
    assert asked == [["evaluate", f"{run}", "--decisions", "2", "--futures", "1"]], "other options measure anew"
    shutil.rmtree(run / "heads")
    (sentence,) = evaluate(points, options, tmp_path, jobs=1, heads=["train.steps=-1"], begin=begin)
    assert sentence.startswith("p failed: ") and "train.steps" in capsys.readouterr().err
    with pytest.raises(UserError, match="has no finished point to measure"):
        evaluate(points[1:], options, tmp_path)


def test_options_are_handed_on():
    """Guards a measurement that was asked for otherwise."""
    assert given(EvaluateOptions()) == []
    options = EvaluateOptions(reader=Path("r"), text_guidance=2.0, counterfactuals=0, smaller=(Path("a"), Path("b")))
    words = ["--reader", "r", "--counterfactuals", "0", "--text-guidance", "2.0", "--smaller", "a", "b"]
    assert given(options) == words
