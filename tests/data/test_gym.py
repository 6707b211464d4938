"""Any gymnasium environment is a world: actions, pictures, states, policies, ends, and what is refused."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from gymnasium import spaces

from videowm import api
from videowm.actions.script import opposite_actions
from videowm.cli import main
from videowm.data.dataset import Dataset
from videowm.data.played import PlayConfig, PlayedEpisodes, PlayedSource
from videowm.data.playing import attempts, game_seed, play_episode
from videowm.data.recording import Recording, record_episodes
from videowm.dit.saved import TrainedOn
from videowm.evaluate.counterfactual import Replay
from videowm.generation import named_actions
from videowm.play.controls import controls
from videowm.types import UserError
from videowm.worlds import find_world, open_world, world_class
from videowm.worlds.gym import colours, proportional
from videowm.worlds.gym_actions import columns_of

DOTS = {"image": "picture", "size": "32x64", "state": "x,spot"}


def test_actions_are_those_that_were_executed():
    """A recorded action that is not the one taken, by a wrong block, offset or rounding: there and back, every kind."""
    for space, width in (
        (spaces.Discrete(5, start=2), 5),
        (spaces.MultiDiscrete([3, 2, 4]), 9),
        (spaces.MultiBinary((2, 3)), 6),
        (spaces.Box(-0.1, 0.1, (2, 2), np.float64), 4),
        (spaces.Box(0, 255, (3,), np.uint8), 3),
        (spaces.Box(-np.inf, np.inf, (2,)), 2),
    ):
        columns = columns_of(space)
        space.seed(0)
        for _ in range(20):
            action = space.sample()
            vector = columns.vector(action)
            assert vector.dtype == np.float32 and vector.shape == (width,) == (len(columns.names),)
            back = columns.action(vector)
            assert space.contains(back)
            np.testing.assert_allclose(back, action, rtol=1e-6)
            np.testing.assert_array_equal(columns.vector(back), vector)
    low = columns_of(spaces.Box(-0.1, 0.1, (1,), np.float64))
    assert low.space.contains(low.action(np.array([0.1], np.float32))), "float32 of 0.1 lies above the limit"
    assert columns_of(spaces.Discrete(2), ["NOOP", "Fire gun"]).names == ("noop", "fire_gun")
    assert columns_of(spaces.Discrete(2), ["A", "a"]).names == ("action_0", "action_1"), "words that are not unique"


@pytest.mark.parametrize(
    "space",
    [spaces.Dict({"a": spaces.Discrete(2)}), spaces.Tuple([spaces.Discrete(2)]), spaces.Text(3),
     spaces.MultiDiscrete([[2, 2], [2, 2]])],
)  # fmt: skip
def test_other_action_spaces_are_refused(space):
    """A traceback, or a recording of half an action."""
    with pytest.raises(UserError, match="action space .* flatten it"):
        columns_of(space)


@pytest.mark.parametrize("action", [7, 1.5, np.nan, [0, 1], "left", None, -1])
def test_a_policy_is_held_to_the_space(action):
    """An action that the environment would clip, refuse or wrap: what was recorded would not be what was done."""
    columns = columns_of(spaces.Box(0, 1, (1,))) if action != 7 else columns_of(spaces.Discrete(3))
    with pytest.raises(UserError, match="is not in the environment's .*: correct the policy"):
        columns.vector(action)


def trained_on(names) -> TrainedOn:
    """What a model of `gym:nowhere:Gone-v0` remembers."""
    ones = [1.0] * len(names)
    return TrainedOn(latents_mean=[0.0], latents_std=[1.0], action_mean=ones, action_std=ones, action_names=list(names),
                     world="gym:nowhere:Gone-v0", fps=10.0, window=4, vae_hash="")  # fmt: skip


def test_named_actions_need_no_environment():
    """`--actions` of a model on a machine without the simulator: the names of the columns say it all."""
    names = columns_of(spaces.Discrete(3), ["NOOP", "LEFT", "RIGHT"]).names
    assert named_actions("gym:nowhere:Gone-v0", names)["right"] == (0, 0, 1)
    assert list(opposite_actions("gym:nowhere:Gone-v0", names, [0] * 3, [1] * 3)) == ["left", "right"]
    combined = named_actions("gym:x", columns_of(spaces.MultiDiscrete([3, 2])).names)
    assert len(combined) == 6 and combined["2,0"] == (0, 0, 1, 1, 0)
    assert named_actions("gym:x", columns_of(spaces.MultiBinary(2)).names)["none"] == (0, 0)
    with pytest.raises(UserError, match="no named actions"):
        named_actions("gym:x", columns_of(spaces.Box(0, 1, (2,))).names)
    offered = {control.name: control.keys for control in controls(trained_on(names))}
    assert offered["left"] == ["ArrowLeft", "KeyA"] and len(offered) == 3, "keys of a player"
    axes = opposite_actions("gym:x", ("axis_0",), [0.5], [0.25])
    assert list(axes.values()) == [(0.25,), (0.75,)]
    assert not find_world("gym:x").has("caption") and world_class("gym:x") is find_world("gym:x")


def test_a_recording_of_an_own_environment(dots):
    """Action i leads frame i to frame i+1, the fatal one too; states, rewards and ends stand beside their frame.

    Cannot pass by luck: the dot's place in every frame is computed from the actions before it.
    """
    out = record_episodes(dots, "data", episodes=4, frames=60, lossless=True, arguments=DOTS | {"start": 6})
    data = Dataset(out)
    assert data.name == dots and data.size == (32, 64) and data.fps == 12
    assert data.action_names == ("part0=0", "part0=1", "part0=2", "part1=0", "part1=1")
    assert data.state_names == ("x", "spot_0", "spot_1")
    for episode in range(4):
        frames, actions, states = data.frames(episode, range(data.lengths[episode])), data.actions(episode), None
        states = data.states(episode)
        steps = actions[:, :3].argmax(1) * 2
        np.testing.assert_array_equal(np.diff(states[:, 0]), steps)
        assert states[0, 0] in range(6, 10) and states[-1, 0] >= 40 > states[-2, 0], "the frame after the fatal action"
        seen = (frames[..., 0] > 100).any(1).argmax(1) * 48 / 64  # first column of the dot in its own pixels
        assert np.abs(seen - states[:, 0]).max() <= 1
        dones, rewards = data.column(episode, "next.done").ravel(), data.column(episode, "next.reward").ravel()
        assert dones[-2:].all() and not dones[:-2].any() and rewards[-1] == 0
        np.testing.assert_array_equal(rewards[:-1], steps / 2)
    again = Replay(data)
    assert [again.seed_of(i) for i in range(4)] == [game_seed(next(attempts(0, i))) for i in range(4)]
    assert list(again.world.forced_actions(data.action_names)) == ["0,0", "0,1", "1,0"]
    assert Recording.read(out).arguments == DOTS | {"start": 6}


def test_an_episode_is_a_function_of_its_seed_alone(dots, tmp_path):
    """Hidden state, global random numbers, and workers: the same bytes whoever plays what after what.

    Recorded, played for a training in memory, or for latents that are never stored as video.
    """
    settings = {"episodes": 4, "frames": 12, "group": 2, "arguments": DOTS}
    one, two = (record_episodes(dots, tmp_path / str(n), workers=n, **settings) for n in (1, 2))
    assert (one / "meta/files.json").read_bytes() == (two / "meta/files.json").read_bytes()
    world = open_world(dots, **DOTS)
    late, _, again = (play_episode(world, 0, number, 12) for number in (3, 0, 3))
    np.testing.assert_array_equal(late.frames, again.frames)
    np.testing.assert_array_equal(late.actions, Dataset(one).all_actions(3))
    memory = PlayedEpisodes(PlayConfig(dots, 4, frames=12, arguments=DOTS, workers=1))
    np.testing.assert_array_equal(memory.clip(3, 0, 12).frames, late.frames)
    clips = next(PlayedSource(Dataset(one), episodes=34, seed=7, workers=1).shards([1], 12, 4))
    assert [clip.episode for clip in clips] == [32, 33]
    np.testing.assert_array_equal(clips[1].frames, play_episode(world, 7, 33, 12).frames)
    held = [len(set(map(tuple, play_episode(open_world(dots, **DOTS, hold=n), 5, 0, 9).actions))) for n in (1, 8)]
    assert held[0] > held[1], "random actions are held"


def test_a_policy_of_the_users(dots):
    """A policy that is ignored, or one whose fault comes as a traceback."""
    out = record_episodes(dots, "data", episodes=1, frames=30, arguments=DOTS | {"policy": "dots_env:right"})
    actions = Dataset(out).actions(0)
    assert actions[:, 2].all() and 0 < actions[:, 4].mean() < 1
    for policy, sentence in (
        ("dots_env:wrong", r"\[7, 0\] is not in the environment's MultiDiscrete.*: correct the policy"),
        ("dots_env:broken", "policy dots_env:broken failed on gym:dots_env:Dots-v0 .KeyError: 'nothing'.: correct it"),
        ("dots_env:gone", "policy 'dots_env:gone' cannot be imported .AttributeError"),
        ("nowhere:act", "policy 'nowhere:act' cannot be imported .ModuleNotFoundError"),
        ("left", "policy 'left' is unknown: give random, module:function, or a .zip"),
        ("agent.zip", "agent.zip holds code .*: if you know who made it, add --trust, or play.trust=true"),
    ):
        with pytest.raises(UserError, match=sentence) as error:
            next(play(dots, policy))
        assert "\n" not in str(error.value)


def play(name: str, policy: str, **more):
    """The first actions of a policy."""
    world = open_world(name, **DOTS, policy=policy, **more)
    return world.driver(np.random.default_rng(0))


def test_trust_is_nobody_elses(dots, tmp_path):
    """A downloaded dataset whose recording says that its policy, a file of code, may be loaded."""
    out = record_episodes(dots, "data", episodes=1, frames=9, arguments=DOTS)
    note = json.loads((out / "meta/recording.json").read_text())
    (out / "meta/recording.json").write_text(json.dumps(note | {"arguments": DOTS | {"trust": True}}))
    assert Recording.read(out).open().trust is False
    with zipfile.ZipFile("agent.zip", "w") as archive:
        archive.writestr("data", "{}")
    with pytest.raises(UserError, match="is no agent of stable-baselines3 .PPO"):
        next(play(dots, "agent.zip", trust=True))
    with zipfile.ZipFile("agent.zip", "w") as archive:
        archive.writestr("data", json.dumps({"clip_range": 1}))
    with pytest.raises(UserError, match="agent.zip (needs stable-baselines3: pip install|cannot be loaded)"):
        next(play(dots, "agent.zip", trust=True))


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("gym:CartPoole-v1", {}, "no environment 'CartPoole-v1' is registered, did you mean 'CartPole-v1'"),
        ("gym:CartPole-v7", {}, "no environment 'CartPole-v7' is registered, did you mean 'CartPole-v1'"),
        ("gym:Zzzzz/Qqqqq-v0", {}, "is registered: install its package, and write gym:package:ID"),
        ("gym:not_there:A-v0", {}, "needs the package 'not_there', which is not installed"),
        ("CartPole-v1", {}, "unknown world 'CartPole-v1', did you mean 'gym:CartPole-v1'"),
        ("gym:CartPole-v1", {"colour": 3}, "cannot be made .TypeError: .*'colour'.*: correct its id and --world-args"),
        ("gym:CartPole-v1", {"state": "massppole"}, "has no state 'massppole'"),
        ("gym:CartPole-v1", {"state": "metadata"}, "the state 'metadata' of .* is no number"),
        ("gym:CartPole-v1", {"image": "observation"}, r"'observation' of .* is float32 \(4,\), expected uint8"),
        ("gym:CartPole-v1", {"image": "eye"}, "has no image 'eye'; known: observation, render"),
        ("gym:CartPole-v1", {"size": "63x64"}, "size '63x64' cannot be used: give HxW pixels such as 64x96"),
        ("gym:CartPole-v1", {"hold": 0}, "hold 0 cannot be used"),
    ],
)
def test_what_cannot_be_a_world_is_one_sentence(name, arguments, sentence):
    """A traceback of gymnasium's in place of what is wrong and what to write."""
    with pytest.raises(UserError, match=sentence) as error:
        open_world(name, **arguments)
    assert "\n" not in str(error.value)


def test_pictures_of_all_kinds():
    """Grey, channels first, alpha: a picture that comes out stretched, striped or in wrong colours."""
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    np.testing.assert_array_equal(colours(picture.transpose(2, 0, 1), "it"), picture)
    np.testing.assert_array_equal(colours(np.dstack([picture, picture[..., :1]]), "it"), picture)
    for grey in (picture[..., 0], picture[..., :1], picture[None, ..., 0]):
        np.testing.assert_array_equal(colours(grey, "it"), picture[..., :1].repeat(3, -1))
    for wrong in (picture / 255, picture[None].repeat(4, 0), np.zeros((4, 84, 84, 3), np.uint8)):
        with pytest.raises(UserError, match=r"expected uint8 \(H, W, 3\)"):
            colours(wrong, "it")
    assert [proportional(size) for size in ((210, 160), (400, 600), (64, 64), (500, 500))] == [
        (80, 64), (64, 96), (64, 64), (64, 64),
    ]  # fmt: skip


def test_frame_skip_adds_rewards_up():
    """A frame skip that shows every step, drops rewards, or goes on after the end."""
    one, three = open_world("gym:CartPole-v1", state="state"), open_world("gym:CartPole-v1", 3, state="state")
    for world in (one, three):
        world.reset(4)
    right = np.array([0, 1], np.float32)
    taken = [one.step(right) for _ in range(3)]
    assert three.step(right) == (3.0, False) and [reward for reward, _ in taken] == [1.0] * 3
    np.testing.assert_array_equal(one.state(), three.state())
    np.testing.assert_array_equal(one.render(), three.render())
    assert three.fps == one.fps / 3 and three.size == (64, 96)
    ends = [three.step(right) for _ in range(3)]
    assert ends[-1][1] and ends[-1][0] < 3, "it fell within the last frame"


def test_options_reach_the_world(tmp_path):
    """The command line: options that do not reach the world, and worlds that do not take them."""
    command = [
        "record",
        "gym:MountainCarContinuous-v0",
        "--out",
        str(tmp_path / "data"),
        "--episodes",
        "2",
        "--frames",
        "5",
    ]
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *command,
                "--size",
                "32x32",
                "--hold",
                "1",
                "--state",
                "observation,goal_velocity",
                "--world-args",
                "goal_velocity=0.25",
            ]
        )
    assert not ended.value.code
    data = Dataset(tmp_path / "data")
    assert data.size == (32, 32) and data.action_names == ("axis_0",) and len(np.unique(data.actions(0))) == 4
    assert data.state_names == ("observation_0", "observation_1", "goal_velocity")
    assert (data.states(0)[:, 2] == 0.25).all() and "gym:MountainCarContinuous-v0" in api.info(tmp_path / "data")
    with pytest.raises(UserError, match="world 'carracing' takes no argument 'size'"):
        api.record("carracing", tmp_path / "x", api.RecordOptions(episodes=1, size="64"))
