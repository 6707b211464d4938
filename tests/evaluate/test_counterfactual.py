"""The real game played again: recorded actions give the recorded frames, others another future."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from videowm.data.dataset import Dataset
from videowm.data.recording import record_episodes
from videowm.dit.sample import Sampler
from videowm.evaluate.control import delta_psnr
from videowm.evaluate.counterfactual import (
    Replay,
    counterfactual,
    counterfactual_state,
    forced_rollouts,
    play_random,
)
from videowm.evaluate.reader import Reader
from videowm.evaluate.reconstruction import reconstructed, through
from videowm.evaluate.rollouts import RolloutConfig
from videowm.evaluate.scenes import make_scenes, random_actions
from videowm.evaluate.suite import Instruments, against_the_game
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError
from videowm.vae.codec import to_float

CONFIG = RolloutConfig(clips=2, context_frames=5, horizon=8, sampler=Sampler(1), batch=2)


@pytest.fixture(scope="module")
def replay(recording) -> Replay:
    return Replay(recording)


def test_recorded_actions_give_the_recorded_frames(replay, recording):
    """Guards another seed, a frame or an action too early or late: states are equal, frames up to the compression.

    One frame off, or one action off, is 10 dB and more away from the stored video.
    """
    episode, frame = 4, 20
    actions = recording.actions(episode)[frame : frame + 12]
    real = replay.future(episode, frame, actions)
    np.testing.assert_array_equal(real.states, recording.states(episode)[frame : frame + 13])
    stored = recording.frames(episode, range(frame, frame + 13)).astype(float)
    error = ((real.frames - stored) ** 2).mean((1, 2, 3))
    assert error.shape == (13,) and (10 * np.log10(255**2 / error)).min() > 35


@pytest.mark.parametrize("world", ["carracing", "takecover"])
def test_a_lossless_recording_comes_back_bit_for_bit(world, tmp_path):
    """Guards frames that only look alike, in both games; the episode is not the first, so that its seed matters."""
    out = record_episodes(world, tmp_path / "data", episodes=2, frames=30, seed=11, test_share=0.5, lossless=True)
    dataset = Dataset(out)
    last = int(dataset.lengths[1]) - 1
    real = Replay(dataset).future(1, 7, dataset.actions(1)[7:last])
    np.testing.assert_array_equal(real.frames, dataset.frames(1, range(7, last + 1)))
    np.testing.assert_array_equal(real.states, dataset.states(1)[7:])


def test_an_episode_that_was_drawn_anew_comes_back(tmp_path):
    """Guards the game of the attempt that was dropped: all games of TakeCover begin in the same state."""
    dataset = Dataset(record_episodes("takecover", tmp_path / "data", episodes=2, frames=40, seed=23, test_share=0.5))
    replay = Replay(dataset)
    dropped, kept, *_ = replay.candidates(1)
    assert 0 < replay.agreement(1, dropped) < dataset.lengths[1] == replay.agreement(1, kept)
    real = replay.future(1, 20, dataset.actions(1)[20:])
    np.testing.assert_array_equal(real.states, dataset.states(1)[20:])


def test_other_actions_give_another_future(replay, recording):
    """Guards forced actions that are not played: left turns the car left of right, the brake stops it."""
    named = replay.world.NAMED_ACTIONS
    real = {n: replay.future(5, 10, np.tile(np.float32(named[n]), (16, 1))) for n in ("left", "right", "brake")}
    for future in real.values():
        np.testing.assert_array_equal(future.frames[0], real["left"].frames[0])
    heading = {name: future.states[-1, 2] - future.states[0, 2] for name, future in real.items()}
    assert heading["left"] > heading["brake"] > heading["right"]
    assert real["brake"].states[-1, 3] < real["left"].states[-1, 3]


def test_a_recording_of_another_game_is_refused(recording, tmp_path):
    """Guards a future of another track: a seed that is not the recording's, and a dataset nobody recorded here."""
    copy = shutil.copytree(recording.root, tmp_path / "data")
    note = copy / "meta/recording.json"
    note.write_text(note.read_text().replace('"seed": 3', '"seed": 4'))
    wrong = Replay(Dataset(copy))
    wrong.candidates = lambda episode: iter([1, 2])  # two of the hundred seeds that would all be tried
    with pytest.raises(UserError, match="no game passes more than 0 of its .* record it with this version"):
        wrong.reset(4)
    note.unlink()
    with pytest.raises(UserError, match="was not recorded here"):
        Replay(Dataset(copy))


def test_forced_rollouts_and_their_bounds(world_run, replay):
    """Guards rollouts of other starts or lengths, and bounds: a dream that is the real future through the autoencoder
    scores the ceiling, one that goes on as recorded gains nothing."""
    pipeline = WorldModelPipeline.open(world_run)
    made, left_out = forced_rollouts(pipeline, replay, CONFIG)
    assert [b.name for b in made] == ["left", "right", "brake"] and left_out == 0
    assert all(b.real.shape == b.dreamed.shape == b.decoded.shape == (2, 8, 3, 64, 64) for b in made)
    assert torch.equal(made[0].recorded, made[1].recorded) and not torch.equal(made[0].real, made[1].real)
    assert not torch.equal(made[0].dreamed, made[1].dreamed)
    cpu = torch.device("cpu")
    perfect = [replace(b, dreamed=b.decoded) for b in made]
    curves = {c.name: c for c in counterfactual(perfect, device=cpu)}
    assert curves["counterfactual/psnr"].values.shape == (6, 8) and "counterfactual/brake_gain" in curves
    np.testing.assert_array_equal(curves["counterfactual/psnr"].values, curves["counterfactual/psnr"].bounds["ceiling"])
    blind = [replace(b, dreamed=b.uninformed) for b in made]
    gain = {c.name: c for c in counterfactual(blind, device=cpu)}["counterfactual/gain"]
    assert np.abs(gain.values).max() == 0 < np.abs(gain.bounds["ceiling"]).max()
    best = [replace(b, dreamed=b.decoded, uninformed=b.recorded) for b in made]
    gain = {c.name: c for c in counterfactual(best, device=cpu)}["counterfactual/gain"]
    np.testing.assert_array_equal(gain.values, gain.bounds["ceiling"])


def test_the_ceiling_of_delta_psnr(world_run, replay, recording):
    """Guards a ceiling of other actions, starts or frames: the real game under the scenes' random actions is found by
    hand, and a model that dreams it, and the truth under the true actions, is at the ceiling exactly."""
    pipeline, cpu = WorldModelPipeline.open(world_run), torch.device("cpu")
    scenes = make_scenes(pipeline, recording, replace(CONFIG, clips=4))
    played = play_random(pipeline, replay, scenes, CONFIG, 3)
    assert played.clips.tolist() == [0, 2, 1]
    actions = random_actions(scenes.actions[:, 4:], CONFIG.seed)
    assert actions.shape == (4, 8, 3) and {tuple(a) for a in actions[2].tolist()} <= {
        tuple(a) for a in scenes.actions.flatten(0, 1).tolist()
    }
    real = replay.future(int(scenes.episode[2]), int(scenes.first[2]) + 4, actions[2].numpy())
    video = torch.cat([scenes.truth[2:3, :5], to_float(real.frames[None, 1:])], dim=1)
    torch.testing.assert_close(played.decoded[1], reconstructed(video, through(pipeline.codec), 1)[0, 5:])
    few = {k: v[played.clips] for k, v in vars(scenes).items() if k != "context"}
    few["random"] = torch.cat([few["truth"][:, :5], played.decoded], dim=1)
    perfect = replace(scenes, **few | {"dreamed": few["decoded"]})
    got = dict(delta_psnr(perfect, replace(played, clips=np.arange(3)), device=cpu))
    assert got["control/delta_psnr"] == got["control/delta_psnr_ceiling"] != 0 == got["control/delta_psnr_floor"]
    np.testing.assert_array_equal(got["control/delta_psnr_by_frame"], got["control/delta_psnr_by_frame_ceiling"])
    assert got["control/delta_psnr_ceiling_se"] > 0 and got["control/delta_psnr_ceiling_clips"] == 3


def test_games_that_end_are_replaced(world_run, recording):
    """Guards numbers of fewer starts than were asked for while others would do, and of one alone, without an error."""
    pipeline, replay = WorldModelPipeline.open(world_run), Replay(recording)
    play, ends = replay.future, {4}
    replay.future = lambda episode, *what: None if episode in ends else play(episode, *what)
    with pytest.raises(UserError, match="starts of 1 held-out episodes .* 2 are needed"):
        forced_rollouts(pipeline, replay, CONFIG)
    ends.clear()
    begun = []
    replay.future = lambda *what: begun.append(what) if not begun else play(*what)  # the first game ends
    made, left_out = forced_rollouts(pipeline, replay, CONFIG)
    assert left_out == 1 and begun[0][0] == 4 and sorted(made[0].episode.tolist()) == [4, 5]


def test_what_cannot_be_played_again_is_said(world_run, recording, tmp_path):
    """Guards an evaluation that is lost with the game, or silent about it: of an imported dataset the rest is there."""
    copy = Dataset(shutil.copytree(recording.root, tmp_path / "data"))
    (copy.root / "meta/recording.json").unlink()
    pipeline = WorldModelPipeline.open(world_run)
    scenes = make_scenes(pipeline, copy, CONFIG)
    got = dict(against_the_game(scenes, pipeline, copy, CONFIG, Instruments(counterfactuals=2)))
    assert "was not recorded here" in got["counterfactual/game_refused"]
    assert "control/delta_psnr" in got and not any(n.endswith(("ceiling", "gain")) for n in got)
    unasked = dict(against_the_game(scenes, pipeline, copy, CONFIG, Instruments(counterfactuals=0)))
    assert set(got) - set(unasked) == {"counterfactual/game_refused"}
    with pytest.raises(UserError, match="lasts 8 frames under random actions"):
        stuck = Replay(recording)
        stuck.future = lambda *_: None  # a game that always ends
        play_random(pipeline, stuck, scenes, CONFIG, 2)


def test_state_under_forced_actions(world_run, replay, recording, reader_run):
    """Guards states of other frames: the true row of a window is found in the game played again; a dream that is the
    real future has the probe's own error, one that was not told has the floor's."""
    made, _ = forced_rollouts(WorldModelPipeline.open(world_run), replay, CONFIG)
    reader, names = Reader.open(reader_run), recording.state_names
    perfect = [replace(b, dreamed=b.real) for b in made]
    curves = {c.name: c for c in counterfactual_state(perfect, reader, names)}
    turn = curves["counterfactual/turn_error"]
    assert turn.values.shape == (6, 4)
    assert set(curves) == {f"counterfactual/{name}_error" for name in ("turn", "on_track", "state")}
    np.testing.assert_array_equal(turn.values, turn.bounds["ceiling_real"])
    left, window = made[0], 2
    heading = left.states[1, :, names.index("heading")]
    column = reader.readable.names.index("turn")
    read = reader.read(left.real)[1, window, column].item()
    by_hand = abs(read - (heading[window + 2] - heading[window + 1])) / reader.readable.std[column]
    assert turn.values[1, window] == pytest.approx(by_hand, rel=1e-3)
    blind = {c.name: c for c in counterfactual_state([replace(b, dreamed=b.uninformed) for b in made], reader, names)}
    error = blind["counterfactual/state_error"]
    np.testing.assert_array_equal(error.values, error.bounds["floor"])
