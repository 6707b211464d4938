"""The validation loss: fixed, stratified, the same twice, and sensitive to actions and to their alignment."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from videowm.actions.group import group_actions
from videowm.bootstrap import standard_error
from videowm.data.dataset import Dataset
from videowm.data.encode import write_index, write_shard
from videowm.data.latents import Latents, Origin, normalised
from videowm.evaluate.heldout import HeldoutConfig, bank_losses, chosen_windows, heldout, make_bank, shuffled
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError

CONFIG = HeldoutConfig(clips=32, window=5, context=2)


@pytest.fixture(scope="module")
def driven(dataset, codec, vae_run, tmp_path_factory):
    """A latents folder whose movement its actions decide: v' = 0.7 v + (the 4 x 3 numbers that lead to the step).

    The files, the autoencoder and the recording are real; only the numbers in the shards are made up.
    """
    out, rng = tmp_path_factory.mktemp("driven"), np.random.default_rng(0)
    recording = Dataset(dataset)
    origin = Origin(data=str(dataset), data_hash=recording.hash, vae=str(vae_run), vae_hash=codec.hash, frames=33,
                    dtype="fp32")  # fmt: skip
    patterns = rng.normal(size=(12, 4, 8, 8)) / 12**0.5
    for split, clips in (("train", 96), ("test", 32)):
        actions = rng.normal(size=(clips, 32, 3)).astype(np.float32)
        value = [rng.normal(size=(clips, 12))]
        for step in range(8):
            value.append(0.7 * value[-1] + actions[:, 4 * step : 4 * step + 4].reshape(clips, 12))
        latents = np.einsum("tnj,jchw->ntchw", np.stack(value), patterns) + 0.1 * rng.normal(size=(clips, 9, 4, 8, 8))
        number = torch.arange(clips)
        shard = {"latents": torch.tensor(latents, dtype=torch.float32), "actions": torch.from_numpy(actions)}
        write_shard(out / f"{split}-00000.safetensors", shard | {"episode": number, "start": 0 * number}, origin)
    write_index(out, recording, codec, 9, origin)
    return out


@pytest.fixture(scope="module")
def trained(driven, train_world, tmp_path_factory) -> SimpleNamespace:
    """A transformer after 250 steps on `driven`, and the bank of its held-out clips."""
    out = tmp_path_factory.mktemp("runs") / "driven"
    sizes = ["hidden=64", "patch=8", "train.steps=250", "train.batch=16", "train.log_every=250"]
    record = train_world(out, f"latents={driven}", *sizes, "heldout.clips=32", "heldout.window=5")
    test = Latents.open(driven, "test")
    return SimpleNamespace(
        model=WorldModelPipeline.open(out).transformer, bank=make_bank(test, CONFIG), record=record, test=test
    )


def difference(trained, actions: torch.Tensor) -> tuple[float, float]:
    """How much these actions raise the loss over the right ones, and the standard error of that."""
    raised = bank_losses(trained.model, trained.bank, actions, 32) - bank_losses(
        trained.model, trained.bank, trained.bank.actions, 32
    )
    return float(raised.mean()), standard_error(raised.mean(1).numpy(), trained.bank.episode)


def test_actions_of_another_clip_raise_the_loss(trained):
    """Guards a model, or a measurement, that is blind to actions: the gap in the record is far beyond chance."""
    metrics = trained.record["metrics"]
    assert metrics["heldout/action_gap"] > 5 * metrics["heldout/action_gap_se"] > 0
    gap, error = difference(trained, shuffled(trained.bank))
    assert gap == pytest.approx(metrics["heldout/action_gap"], rel=1e-5) and error > 0


@pytest.mark.parametrize("shift", [-1, 1])
def test_actions_one_frame_off_raise_the_loss(trained, shift):
    """Guards the alignment of actions and frames: one frame earlier or later, every action is in a wrong place.

    Neighbouring actions are independent here, so no smoothness hides the error; the right ones are the reference.
    """
    right = trained.test.whole()[1][:, 1:, :-1].unflatten(2, (4, 3)).flatten(1, 2)
    clips = [clip for clip, _ in trained.bank.where]
    assert torch.equal(group_actions(right, 4)[clips, :5], trained.bank.actions)
    gap, error = difference(trained, group_actions(torch.roll(right, shift, dims=1), 4)[clips, :5])
    assert gap > 3 * error > 0


def test_dropped_actions_raise_the_loss(trained):
    """Guards a group's flag that says nothing: without any actions the loss rises as well."""
    gap, error = difference(trained, torch.zeros_like(trained.bank.actions))
    assert gap > 3 * error > 0


def test_the_same_checkpoint_twice_is_the_same_number(trained):
    """Guards a loss that moves by itself: every value is equal, not close; and the record holds these very values."""
    one, two = (dict(heldout(trained.model, trained.bank)) for _ in range(2))
    assert one == two
    assert one["heldout/loss"] == pytest.approx(trained.record["metrics"]["heldout/loss"], rel=1e-6)
    assert 0 < one["heldout/loss"] < 1 and one["heldout/loss_se"] > 0


def test_the_batch_size_does_not_matter(trained):
    """Guards samples that mix, or a last batch that counts more: 32 at once, or 5 by 5 with 2 left over."""
    values = [dict(heldout(trained.model, trained.bank, batch=batch)) for batch in (32, 5)]
    for name in ("heldout/loss", "heldout/loss_se", "heldout/action_gap"):
        assert values[1][name] == pytest.approx(values[0][name], rel=1e-6)
    assert values[1]["heldout/loss_by_step"] == pytest.approx(values[0]["heldout/loss_by_step"], rel=1e-6)


def test_the_loss_by_hand(trained):
    """Guards context that is noised, a target that is not, or the wrong step: one triple written out on its own."""
    bank, clip, m = trained.bank, 3, 1
    target = bank.context + m
    clean, level, noise = bank.latents[clip, : target + 1], bank.levels[clip, m], bank.noise[clip, m]
    x = torch.cat([clean[:-1], ((1 - level) * clean[-1] + level * noise)[None]])[None]
    levels = torch.tensor([[0.0] * target + [level]])
    with torch.no_grad():
        got = trained.model(x, levels, bank.actions[clip, None, : target + 1])[0, -1]
    by_hand = (got - (noise - clean[-1])).square().mean()
    assert bank_losses(trained.model, bank, bank.actions, 32)[clip, m].item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_the_mean_and_its_parts_agree(trained):
    """Guards a bucket, step or episode that is left out: the loss is the mean over steps, and over levels weighted by
    counts, and the sum of what the episodes add."""
    values = dict(heldout(trained.model, trained.bank))
    assert len(values["heldout/loss_by_episode"]) == len(set(trained.bank.episode))
    assert sum(values["heldout/loss_by_episode"]) == pytest.approx(values["heldout/loss"], rel=1e-5)
    assert np.mean(values["heldout/loss_by_step"]) == pytest.approx(values["heldout/loss"])
    counts = np.histogram(trained.bank.levels.numpy(), bins=8, range=(0, 1))[0]
    assert counts.sum() == 96 and (counts == 12).all()
    assert np.average(values["heldout/loss_by_level"], weights=counts) == pytest.approx(values["heldout/loss"])


def test_levels_are_stratified(trained):
    """Guards levels drawn at will, which would make the loss noisy: each of the 96 strata of (0, 1) holds one level.

    Levels are spread over clips and steps: sorted along neither, as they would be without the permutation.
    """
    levels = trained.bank.levels
    assert (levels.flatten() * levels.numel()).floor().int().sort().values.tolist() == list(range(96))
    assert (levels[1:, 0] < levels[:-1, 0]).any() and (levels[:, 1:] < levels[:, :-1]).any()


def test_the_bank_is_independent_of_the_model(trained, driven):
    """Guards a bank that depends on the model's seed or on what was drawn before: its hash stays, whatever is drawn.

    Another seed gives another bank, so the hash is not blind. (Other processes: `tests/train/test_kill.py`.)
    """
    torch.manual_seed(123)
    torch.randn(1000)
    again = make_bank(Latents.open(driven, "test"), CONFIG)
    assert again.hash == trained.bank.hash
    assert make_bank(trained.test, replace(CONFIG, seed=1)).hash != again.hash
    assert trained.record["hashes"]["bank"] == again.hash


def test_windows_hold_their_own_actions(trained):
    """Guards latents and actions cut at different places: every window is found in a clip, with the clip's actions."""
    test, bank = trained.test, trained.bank
    stored, grouped = test.whole()
    for row in range(len(bank.latents)):
        clip = int(bank.episode[row])
        assert torch.equal(bank.latents[row], normalised(stored[clip, :5], test.scale))
        assert torch.equal(bank.actions[row], grouped[clip, :5])


def test_windows_where_games_begin_alike_are_left_out(latents):
    """Guards a bank that training may have seen: of the windows of 4 steps those from frame 16 on stay."""
    test = Latents.open(latents, "test")
    every, late = (chosen_windows(test, replace(CONFIG, window=4, after=after)) for after in (0, 16))
    begins = {window: int(test.places()[1][window[0]]) + 4 * window[1] for window in every}
    assert set(late) == {window for window in every if begins[window] >= 16} and 0 < len(late) < len(every)
    with pytest.raises(UserError, match=r"heldout.after 9999 leaves no held-out clip"):
        chosen_windows(test, replace(CONFIG, after=9999))


def test_shuffled_actions_are_another_episode_s(trained, latents):
    """Guards a shuffle that leaves clips their own actions: in the real bank of two episodes none does."""
    bank = make_bank(Latents.open(latents, "test"), HeldoutConfig(clips=8, window=4, context=2))
    assert sorted(set(bank.episode.tolist())) == [4, 5]
    wrong = shuffled(bank)
    for row, episode in enumerate(bank.episode):
        source = [i for i in range(len(bank.episode)) if torch.equal(wrong[row], bank.actions[i])]
        assert source and all(bank.episode[i] != episode for i in source)
