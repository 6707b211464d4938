"""Text control by construction: what obeys scores the ceiling, what does not listen exactly nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from videowm.data.dataset import Dataset
from videowm.evaluate.reader import Reader, targets
from videowm.evaluate.rollouts import RolloutConfig
from videowm.evaluate.scenes import make_scenes
from videowm.evaluate.text_control import TextRollouts, captions_of, roll_with_text, text
from videowm.pipeline import WorldModelPipeline
from videowm.worlds.carracing import CarRacing

CAR = CarRacing.FACTS


@pytest.fixture(scope="module")
def reader(reader_run) -> Reader:
    return Reader.open(reader_run)


def test_every_caption_says_every_fact_once(recording):
    """Guards phrases that the world no longer uses: each of its captions has each fact, in one phrase of the list."""
    world, rng, said = CarRacing(), np.random.default_rng(0), set()
    for number in range(400):
        states = recording.states(int(rng.integers(6)))[(first := int(rng.integers(40))) : first + 24].copy()
        states[:, 3] *= rng.uniform(0.3, 2)  # other speeds and turns than the few that were recorded
        states[:, 4] = states[:, 4] * rng.uniform(0, 4) + rng.uniform(-1, 1)
        caption = world.caption(states, np.zeros((23, 3)), np.random.default_rng(number))
        for fact in CAR:
            found = [p for p in (*fact.low, *fact.high, *fact.others) if p in caption]
            assert len(found) == 1, (caption, found)
            said.add(found[0])
            for phrase, side in ((fact.low[0], -1), (fact.high[0], 1)):
                changed = fact.changed(caption, phrase)
                assert fact.side_of(changed) == side and changed.replace(phrase, found[0]) == caption
    assert said == {p for fact in CAR for p in (*fact.low, *fact.high, *fact.others)}


def test_captions_are_of_the_predicted_frames(perfect, recording):
    """Guards words about the context, or about another start: with the heading of just these frames turned over,
    left is right."""
    captions = captions_of(perfect, recording)
    assert len(captions) == len(perfect.episode) and captions == captions_of(perfect, recording)
    for caption, episode, first in zip(captions, perfect.episode, perfect.first):
        spin = recording.states(int(episode))[first + 4 : first + 29, 4]
        left, right = (spin > 0.5).mean(), (spin < -0.5).mean()
        side = 0 if left + right < 0.2 or max(left, right) <= 1.5 * min(left, right) else np.sign(left - right)
        assert CAR[0].side_of(caption) == side


def constructed(perfect, recording) -> tuple[TextRollouts, torch.Tensor, torch.Tensor]:
    """Captions that sort the clips by how they really turn; futures of a left and of a right one for each of them."""
    turn = np.array([
        targets(recording, int(e), ["turn"])[f + 5 : f + 29, -1].mean() for e, f in zip(perfect.episode, perfect.first)
    ])  # fmt: skip
    order, half = torch.from_numpy(turn.argsort()), len(turn) // 2
    captions = [""] * len(turn)
    for rank, clip in enumerate(order.tolist()):
        captions[clip] = f"A car, {CAR[0].high[0] if rank >= half else CAR[0].low[0]}."
    future = perfect.future("truth")
    right, left = future[order[:half]].repeat(2, 1, 1, 1, 1), future[order[half:]].repeat(2, 1, 1, 1, 1)
    return TextRollouts(captions, {"turn": left}, {"turn": right}, (future, future.roll(1, 0))), left, right


def test_obeying_is_the_ceiling_and_not_listening_nothing(perfect, recording, reader):
    """Guards a sign, a scale or a ceiling of another kind: real clips of what was said score just the real ceiling."""
    made, left, right = constructed(perfect, recording)
    (curve,) = text(made, perfect, reader, CAR)
    assert curve.name == "text/turn", "the reader knows no speed"
    assert curve.values.mean() == pytest.approx(curve.bounds["ceiling_real"].mean(), rel=1e-4)
    assert curve.bounds["ceiling_real"].mean() > 0.3
    assert abs(curve.bounds["floor"].mean()) < 1e-4, "the same videos in another order"
    (deaf,) = text(TextRollouts(made.captions, {"turn": left}, {"turn": left}, made.other), perfect, reader, CAR)
    assert not deaf.values.any()
    (wrong,) = text(TextRollouts(made.captions, {"turn": right}, {"turn": left}, made.other), perfect, reader, CAR)
    np.testing.assert_allclose(wrong.values, -curve.values)
    same = [CAR[0].changed(caption, CAR[0].high[0]) for caption in made.captions]
    assert not list(text(TextRollouts(same, made.high, made.low, made.other), perfect, reader, CAR)), (
        "nothing to compare with"
    )


def test_only_the_fact_is_changed(worded_run, worded):
    """Guards other noise, starts or actions between the videos: a model that cannot hear gives the same bits.

    One that hears does not; and without actions it sees others than with them.
    """
    pipeline, dataset = WorldModelPipeline.open(worded_run), Dataset(worded / "data")
    pipeline.trained_on = replace(pipeline.trained_on, drop_actions=0.1)
    generator = torch.Generator().manual_seed(0)
    for parameter in pipeline.transformer.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    config = RolloutConfig(clips=2, context_frames=5, horizon=8, batch=2)
    scenes = make_scenes(pipeline, dataset, config)
    made, free = (
        roll_with_text(pipeline, dataset, scenes, config, with_actions=with_actions) for with_actions in (True, False)
    )
    assert made.high["turn"].shape == scenes.future("truth").shape
    for videos in (made, free):
        assert not torch.equal(videos.high["turn"], videos.low["turn"])
        assert not torch.equal(videos.high["speed"], videos.low["speed"])
    assert not torch.equal(made.high["turn"], free.high["turn"])
    for block in pipeline.transformer.blocks:
        block.cross.project.weight.data.zero_()
    pipeline.transformer.text_condition.pool.weight.data.zero_()
    deaf, dreamed = (
        roll_with_text(pipeline, dataset, scenes, config, with_actions=True),
        make_scenes(pipeline, dataset, config).dreamed,
    )
    assert torch.equal(deaf.high["turn"], deaf.low["turn"]) and torch.equal(deaf.other[0], dreamed[:, 5:])


def test_the_verb(worded_run, reader_run, tmp_path, videowm):
    """Guards a room that is never called, and models with text that `--smaller` could not run.

    With a reader every fact is measured, or it is written why not.
    """
    run = shutil.copytree(worded_run, tmp_path / "run")
    given = ["--reader", reader_run, "--clips", 4, "--horizon", 12, "--counterfactuals", 0, "--text-guidance", 2,
             "--smaller", worded_run]  # fmt: skip
    assert not videowm("evaluate", run, *given).code
    metrics = json.loads((run / "evaluation.json").read_text())
    assert "text/turn_ceiling" in metrics or "text/turn_refused" in metrics
    assert (
        metrics["text/guidance"] == 2 and metrics["heldout/loss_without_text"] > 0 and "heldout/text_gap_se" in metrics
    )
