"""Control and state, by construction: what obeys, what does not, what answers late. Read by a really trained reader."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from videowm.evaluate.control import control, delay, delta_psnr, explained, loss_ratio
from videowm.evaluate.heldout import bank_losses, of_other_episode, shuffled
from videowm.evaluate.reader import Reader, targets
from videowm.evaluate.readings import read_scenes, standardised
from videowm.evaluate.scores import r2
from videowm.evaluate.state import state
from videowm.types import UserError


@pytest.fixture(scope="module")
def reader(reader_run) -> Reader:
    return Reader.open(reader_run)


@pytest.fixture(scope="module")
def readings(reader, scenes, recording):
    return read_scenes(reader, scenes, recording)


def means(curve) -> dict[str, float]:
    return {"": curve.values.mean()} | {k: v.mean() for k, v in curve.bounds.items()}


def test_only_predicted_frames_are_read_against_their_own_rows(readings, reader, scenes, recording):
    """Guards windows that reach into the context, and rows of other frames: both are found by hand."""
    assert readings.true.shape == (8, 20, 5) and readings.first == 1
    episode, first = int(scenes.episode[3]), int(scenes.first[3])
    row = targets(recording, episode, ["turn", "on_track"])[first + scenes.context + 7]
    np.testing.assert_allclose(readings.true[3, 7], standardised(reader, row))
    frames = scenes.dreamed[3:4, scenes.context + 7 : scenes.context + 12]
    np.testing.assert_allclose(
        readings.read["dreamed"][3, 7], standardised(reader, reader.read(frames))[0, 0], atol=1e-4
    )
    with pytest.raises(UserError, match="holds no window"):
        short = {k: getattr(scenes, k)[:, :8] for k in ("truth", "decoded", "dreamed", "shuffled", "zero")}
        read_scenes(reader, replace(scenes, **short), recording)


def test_the_truth_scores_the_ceiling_and_others_the_floor(reader, scenes, readings, recording):
    """Guards a score that does not tell obeying from not obeying: truth, another episode's and a repeated frame."""
    for dreamed, bound in (("truth", "ceiling_real"), ("decoded", "ceiling"), ("shuffled", "floor"),
                           ("zero", "floor_zero")):  # fmt: skip
        same = read_scenes(reader, replace(scenes, dreamed=getattr(scenes, dreamed)), recording)
        for curve in control(same):
            np.testing.assert_array_equal(curve.values, curve.bounds[bound])
    for curve in control(readings):
        got = means(curve)
        assert got["ceiling_real"] > got["floor"] + 0.15 and got["ceiling_real"] > got["floor_zero"]
    names = ("steer_r2", "gas_r2", "brake_r2", "r2", "accuracy")
    assert {c.name for c in control(readings)} == {f"control/{name}" for name in names}
    pooled = next(c for c in control(readings) if c.name == "control/r2")
    true, read = readings.true[..., :3], readings.read["dreamed"][..., :3]
    assert pooled.values.mean() == pytest.approx(r2(read, true, readings.episode)[0])


@pytest.mark.parametrize("late", [-1, 0, 1])
def test_a_rollout_that_answers_late_is_detected(reader, scenes, recording, late):
    """Guards a delay of the wrong sign, or none, and one that the autoencoder alone makes taken for the model's: every
    predicted frame is shown one frame later (or earlier)."""
    moved = scenes.truth.clone()
    moved[:, scenes.context :] = torch.roll(scenes.truth, late, dims=1)[:, scenes.context :]
    got = dict(delay(read_scenes(reader, replace(scenes, dreamed=moved, decoded=moved), recording)))
    assert got["control/delay"] == got["control/delay_ceiling"] == late and got["control/delay_se"] < 0.7


def test_classes_of_buttons_and_of_other_actions(readings):
    """Guards an accuracy of 1 for a guess: with buttons, the threshold is 0.5 in the button's own units."""
    buttons = np.random.default_rng(0).integers(0, 2, (4, 9, 5)).astype(float)
    made = replace(readings, true=buttons, binary=np.ones(5, bool), half=np.full(5, 0.5), episode=np.arange(4),
                   read=dict.fromkeys(readings.read, 0.9 * buttons + 0.05) | {"dreamed": 1 - buttons})  # fmt: skip
    curve = {c.name: c for c in control(made)}["control/accuracy"]
    assert curve.values.max() == 0 and curve.bounds["ceiling"].min() == 1
    still = replace(made, true=np.ones_like(buttons))
    assert list(control(still)) == [] and list(delay(still)) == []


def test_delta_psnr_by_hand(scenes, perfect):
    """Guards signs: a model that is right only under the true actions gains, one that ignores them does not."""
    cpu = torch.device("cpu")
    got = dict(delta_psnr(scenes, device=cpu))
    assert got["control/delta_psnr"] > 5 and len(got["control/delta_psnr_by_frame"]) == 24
    assert got["control/delta_psnr_se"] > 0
    blind = dict(delta_psnr(perfect, device=cpu))
    assert blind["control/delta_psnr"] == 0 == blind["control/delta_psnr_floor"]


def test_loss_ratio_is_the_record_s(world_run):
    """Guards a ratio of other losses than those in the record: 1 + gap / loss."""
    import json

    from videowm.train.registry import finished_task

    task = finished_task(world_run, torch.device("cpu"))
    metrics = json.loads((world_run / "record.json").read_text())["metrics"]
    true, wrong = (bank_losses(task.model, task.bank, a, 4).mean(1).numpy()
                   for a in (task.bank.actions, shuffled(task.bank)))  # fmt: skip
    got = dict(loss_ratio(true, wrong, task.bank.episode))
    ratio = 1 + metrics["heldout/action_gap"] / metrics["heldout/loss"]
    assert got["control/loss_ratio"] == pytest.approx(ratio, rel=1e-5) and got["control/loss_ratio_se"] > 0


def test_state_between_its_bounds(readings, reader, scenes, recording):
    """Guards errors against another row or column, and the probe's own error left out: the truth has the ceiling's."""
    curves = {c.name: c for c in state(readings)}
    assert set(curves) == {"state/turn", "state/on_track", "state/error"}
    turn = np.abs(readings.read["dreamed"][..., 3] - readings.true[..., 3])
    np.testing.assert_array_equal(curves["state/turn"].values, turn)
    got = means(curves["state/turn"])
    assert got["ceiling_real"] < got["floor"] and curves["state/turn"].sign == -1
    same = read_scenes(reader, replace(scenes, dreamed=scenes.truth), recording)
    for curve in state(same):
        np.testing.assert_array_equal(curve.values, curve.bounds["ceiling_real"])
    assert list(state(replace(readings, names=readings.names[:3]))) == []


def test_other_clips_are_of_other_episodes():
    """Guards a shuffle that leaves a clip its own actions; one episode alone gets another clip's."""
    for episode in ([0, 0, 1, 1], [0, 1, 1], [3, 3, 3, 3], [0, 0, 0, 1, 1, 2]):
        order = of_other_episode(np.array(episode))
        assert sorted(order) == list(range(len(episode))) and (order != np.arange(len(episode))).all()
    assert (np.array([0, 0, 1, 1])[of_other_episode(np.array([0, 0, 1, 1]))] != [0, 0, 1, 1]).all()
    assert explained(np.zeros((2, 3, 1)), np.array([[-1, 0, 1], [1, 0, -1.0]])[..., None]).mean() == pytest.approx(0)
