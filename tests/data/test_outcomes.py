"""Rewards and ends in the latents, on a game of three steps in which every number is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from three import Plain

from videowm import worlds
from videowm.data import played as played_module
from videowm.data import recording
from videowm.data.dataset import Dataset
from videowm.data.encode import encode_dataset
from videowm.data.latents import Latents
from videowm.data.played import PlayedSource
from videowm.data.recording import play_in_worker, record_episodes
from videowm.types import Outcomes, UserError
from videowm.vae.codec import to_float


@pytest.fixture
def encoded(tmp_path, monkeypatch):
    """Record the game and encode it: six episodes, two held out, in clips of three frames."""
    monkeypatch.setitem(worlds.BUILT_IN, "three", "three:Three")
    # A new process would not know the game, so episodes are played in this one.
    monkeypatch.setattr(played_module, "play_ahead", lambda settings, numbers, workers, keep: (
        play_in_worker(settings, number, keep) for number in numbers))  # fmt: skip
    recording._worlds.clear()

    def make(*, length: int, stride: int, most: int = 9, played: bool = False, states: bool = False):
        data = tmp_path / f"data-{length}-{most}"
        record_episodes("three", data, episodes=6, frames=most, test_share=1 / 3, arguments={"length": length})
        source = PlayedSource(Dataset(data), episodes=4, seed=5, workers=1) if played else None
        out = tmp_path / f"latents-{length}-{stride}-{most}-{played}"
        encode_dataset(Dataset(data), Plain(stride), out, frames=3, vae="plain", to_frames=to_float, dtype="fp32",
                       played=source, states=states)  # fmt: skip
        return out

    return make


def told(latents: Latents, clip: int) -> tuple[list, list, list, list]:
    """Rewards, ends, whether they are known, and the raw actions that lead there, of the steps after a clip's steps."""
    targets, grouped = latents.outcomes([clip])
    mean, std = latents.index.action_scale
    actions = grouped[0, :, :-1] * std.item() + mean.item()
    return *(part[0].tolist() for part in targets[:3]), actions.round().tolist()


@pytest.mark.parametrize("played", [False, True], ids=["recorded", "played"])
def test_every_number_of_three_steps(encoded, played):
    """Guards the outcome credited to the action before, the fatal action dropped, a reward shifted by a latent step.

    With a time stride of 1 the three actions 0, 1 and 2 earn 1, 2 and 4. The third is fatal, and leads to no frame.
    """
    folder = encoded(length=3, stride=1, played=played, states=played)
    for split, final in (("train", False), ("train", True), ("test", False), ("test", True)):
        latents = Latents.open(folder, split, final=final)
        assert len(latents) == (4 if split == "train" else 2)
        assert told(latents, 1) == ([1, 2, 4], [0, 0, 1], [True] * 3, [[0], [1], [2]])
        if played:
            assert latents.index.state_names == ["at"] and latents.states([1, 0]).tolist() == [[[0], [1], [2]]] * 2
        else:
            with pytest.raises(UserError, match="holds no states: encode with --states"):
                latents.states([0])


def test_the_fatal_action_within_a_step_of_two(encoded):
    """Guards an end at the wrong frame of a step, actions behind the end, and rewards from beyond it.

    Of four actions the last is the second one of its step, so its step earns 4 + 8. In the clip that is cut at the
    end of an even episode it is the first of its step, which then earns 8 alone; the action that never was is no zero.
    """
    folder = encoded(length=4, stride=2)
    regular, final = Latents.open(folder, "train"), Latents.open(folder, "train", final=True)
    whole = [3, 12], [0, 2], [True, True], [[0, 1], [2, 3]]
    assert told(regular, 0) == whole and len(regular) == 4
    assert told(final, 0) == ([6, 8], [0, 1], [True, True], [[1, 2], [3, 3]])
    assert told(final, 1) == whole
    stored, _ = final.windows([0, 1], [0, 0], 2)
    brightness = (stored[:, :, 0, 0, 0] + 1) * 127.5
    assert brightness.round().tolist() == [[10, 30], [0, 20]], "frames 1 and 3, frames 0 and 2"


def test_what_was_not_recorded_is_unknown(encoded):
    """Guards an episode that the recording cut off counted as one that goes on, or that ended."""
    latents = Latents.open(encoded(length=9, stride=2, most=3), "train")
    rewards, ends, known, _ = told(latents, 0)
    assert rewards[0] == 3 and ends == [0, 0] and known == [True, False]
    assert len(Latents.open(latents.folder, "train", final=True)) == 0


def test_rows_behind_an_end_do_not_count():
    """Guards worlds that show their end: the row of the last frame repeats the action, and its end is no second one."""
    rewards, dones = np.array([1, 2, 0], np.float32), np.array([False, True, True])
    none = np.zeros((3, 1), np.float32)
    found = Outcomes.of(none, rewards, dones, none, 0, 3, 4)
    assert found.rewards.tolist() == [1, 2] and found.dones.tolist() == [False, True]


def test_old_latents_say_so(encoded):
    """Guards a traceback over latents from before rewards were kept; a world model trains on them as before."""
    folder = encoded(length=3, stride=1)
    for path in folder.glob("*.safetensors"):
        kept = {name: t for name, t in load_file(path).items() if name in ("latents", "actions", "episode", "start")}
        save_file(kept, path)
    latents = Latents.open(folder, "train")
    assert torch.isfinite(latents.whole()[0]).all()
    for ask in (lambda: latents.outcomes([0]), lambda: Latents.open(folder, "train", final=True)):
        with pytest.raises(UserError, match="holds no rewards and ends.*encode a recording that has them into another"):
            ask()
