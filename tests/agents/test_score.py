"""Scores in the real game: the same games for everybody, whoever plays them and in however many processes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from videowm.agents import tally
from videowm.agents.entry import Entry
from videowm.agents.games import FIRST_SEED, Games, GameSettings, game_seeds
from videowm.agents.tally import Played
from videowm.worlds import open_world


def test_games_do_not_depend_on_rows_or_processes(tmp_path, videowm):
    """Guards scores that no other machine repeats: the same frames, actions and rewards from two processes as here."""
    settings, seeds = GameSettings("carracing", script="random", held=2), game_seeds(4, 3)
    found = []
    for workers in (1, 2):
        with Games(settings, 3, workers) as games:
            begun, earned = games.begin(seeds)
            steps = [games.step(dict.fromkeys(range(3)), 3, look=True) for _ in range(2)]
            found.append((begun, earned, steps))
    (begun, earned, steps), (others, earned_there, steps_there) = found
    assert np.array_equal(begun, others) and np.array_equal(earned, earned_there) and len(set(earned.tolist())) > 1
    for one, other in zip(steps, steps_there):
        for row in range(3):
            assert all(np.array_equal(a, b) for a, b in zip(vars(one[row]).values(), vars(other[row]).values()))
            assert len(one[row].frames) == 3 and not one[row].over
    assert all(seed >= FIRST_SEED for seed in seeds) and game_seeds(4, 5)[:3] == seeds != game_seeds(5, 3)


def test_scripts_are_scored_to_the_digit(three, tmp_path, videowm):
    """Guards a return that lacks the fatal action's reward, games that differ between players, a cap that is passed,
    and a table that loses who was scored before. Every number of this game is known."""
    command = ["dream", "score", "driver", "--world", "three", "--frames", 40, "--out", tmp_path / "scores"]
    assert videowm(*command, "--episodes", 3, "--games", 2).code == 0
    path = tmp_path / "scores/players/driver/games.safetensors"
    before = path.read_bytes()
    assert videowm(*command, "--episodes", 3).code == 0 and path.read_bytes() == before
    assert videowm(*command, "--episodes", 5).code == 0  # goes on
    assert videowm(*command[:2], "still", *command[3:], "--episodes", 4).code == 0
    found = json.loads((tmp_path / "scores/scores.json").read_text())
    driver, still = (found["players"][name] for name in ("driver", "still"))
    assert driver["returns"] == [7.0] * 5 and still["returns"] == [7.0] * 4
    assert driver["mean"] == 7 and driver["interval"] == [7, 7] and driver["cut_off"] == 0 and driver["frames"] == 3
    assert found["pairs"] == [{"player": "driver", "than": "still", "games": 4, "mean": 0.0, "interval": [0.0, 0.0],
                               "sd": 0.0, "ahead": 0.5}]  # fmt: skip
    assert videowm(*command[:-4], "--frames", 2, "--out", tmp_path / "short", "--episodes", 2).code == 0
    short = json.loads((tmp_path / "short/scores.json").read_text())["players"]["driver"]
    assert short["returns"] == [3.0, 3.0] and short["cut_off"] == 1
    assert (tmp_path / "short/scores.png").stat().st_size > 1000
    other = videowm(*command[:-4], "--frames", 2, "--out", tmp_path / "scores", "--episodes", 2)
    assert other.code == 2 and "frames 40 there, 2 now" in other.errors[0]


def test_scripts_of_the_games():
    """Guards caps in other units than the published ones, an expert that is none, and random actions that the games'
    own spaces do not draw."""
    lasted = {}
    for script in ("still", "expert"):
        with Games(GameSettings("takecover", script=script), 1, 1) as games:
            for seed in game_seeds(1, 4):
                games.begin([seed])
                lasted[script, seed] = games.step({0: None}, 525, look=False)[0].rewards.sum()
    assert all(lasted["expert", seed] > 1.5 * lasted["still", seed] for seed in game_seeds(1, 4))
    doom, cars = open_world("takecover", 2), open_world("carracing")
    assert doom.longest == 1050 and cars.longest == 237 and open_world("carracing", 1).longest == 951
    drawn = np.stack([cars.random(np.random.default_rng(i)) for i in range(50)])
    assert drawn.min(0)[1:].min() >= 0 > -0.5 > drawn[:, 0].min() and drawn.max() <= 1
    assert {tuple(doom.random(np.random.default_rng(i)).tolist()) for i in range(50)} == {(0, 0), (0, 1), (1, 0)}


def test_an_agent_plays_the_real_game(agent, three_run, tmp_path, videowm, listed):
    """Guards an agent that sees anything but the game: played again it does the same, bit for bit, and what the heads
    foresee is of its own games. A step of the dream begins where the real game begins."""
    command = ["dream", "score", agent, "--episodes", 5, "--games", 3, "--frames", 30, "--dreams", 4,
               "--dream-temperatures", 0.5, 1]  # fmt: skip
    runs = [tmp_path / "a", tmp_path / "b"]
    for out in runs:
        assert videowm(*command, "--out", out).code == 0
    files = [Entry.read(out / "players/agent/games.safetensors") for out in runs]
    assert all(np.array_equal(a, b) for a, b in zip(vars(files[0].games).values(), vars(files[1].games).values()))
    games, found = files[0].games, json.loads((runs[0] / "scores.json").read_text())["players"]["agent"]
    assert found.keys() <= listed("A player") and found["mean"] == games.returns.mean()
    assert games.over.all() and set(games.lengths.tolist()) <= {18, 19, 20, 21}
    assert games.returns.tolist() == [2.0**n - 1 for n in games.lengths.tolist()]
    assert games.read.shape[1:] == (6, 6) and set(np.unique(games.actions)) <= {0.0, 1.0}
    assert np.array_equal(games.actions[:, :4], games.actions[:, :1].repeat(4, 1))  # held over a latent step
    assert found["heads"]["done_rate"] > 0 and sum(found["actions"].values()) == pytest.approx(1)
    assert set(found["dreams"]) == {"0.5", "1"} and found["dreams"]["1"]["mean"] != found["dreams"]["0.5"]["mean"]
    check_watched(agent, tmp_path / "watch.mp4", videowm, games)


def check_watched(agent, out, videowm, games) -> None:
    """Guards a film of another game than the scored one, or of a dream that begins elsewhere: until they part both
    show the same frames."""
    from videowm.data.video import open_video

    shown = videowm("dream", "watch", agent, "--out", out, "--frames", 30, "--game", 1, "--begin", 9)
    assert shown.code == 0 and f"earned {games.returns[1]:.6g} in the real game" in shown.out
    video = open_video(out)
    frames = video.read(range(13)).astype(int)
    real, dream = frames[:, 24:276, 2:250], frames[:, 24:276, 266:514]
    assert np.abs(real - dream)[:9].mean() < 3 < 10 < np.abs(real - dream)[9:].mean()


def test_tally_by_hand():
    """Guards reversals that count straight stretches twice, pairs of unlike games, and ends that are foreseen a step
    too late. Three games of 8, 6 and 3 actions; the second is cut off."""
    lengths, over = np.array([8, 6, 3]), np.array([True, False, True])
    steer = np.zeros((3, 8, 1), np.float32)
    steer[0, :, 0] = [1, 0, -1, -0.01, -1, 1, 0, 0]
    steer[1, :6, 0] = [1, 1, 0, 1, 0, 1]
    steer[2, :3, 0] = [-1, 1, -1]
    rewards = (np.arange(8) < lengths[:, None]).astype(np.float32)
    read = np.zeros((3, 2, 6), np.float32)
    read[..., 1] = 1  # certain that the game goes on
    read[0, 1, 1:] = [0, 0, 0, 0, 1]  # foreseen to the action
    games = Played(np.array([5, 6, 7]), np.array([0.5, 0, 0]), steer, rewards, lengths, over, read)
    assert games.returns.tolist() == [8.5, 6, 3]
    assert tally.reversals(games, (1.0,)).tolist() == [2, 0, 2]
    assert tally.habits(games, {"left": (-1.0,)}, ("steer",))["mean steer"] == pytest.approx(steer.sum() / 17)
    heads = tally.foreseen(games, 4)
    assert heads["done_recall"] == 0.5 and heads["done_precision"] == 1 and heads["done_delay"] == 0
    assert heads["done_rate"] == pytest.approx(2 / 4)  # of four known steps: the second game's last was cut off
    other = Played(np.array([7, 5]), np.zeros(2), steer[:2], rewards[:2], lengths[:2], over[:2], read[:2])
    more = {"mean": (8.5 - 6 + 3 - 8) / 2, "interval": pytest.approx([-5, 2.5]), "sd": pytest.approx(7.5 / 2**0.5)}
    assert tally.paired(games, other) == {"games": 2, **more, "ahead": 0.5}
    assert tally.paired(games, other, (1.0,), 2.0)["reversals"]["mean"] == pytest.approx(2 / 8 - 0 + 2 / 3 - 2 / 8)
    low, high = tally.interval(np.random.default_rng(0).normal(size=400))
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.1)


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["nobody", "--world", "takecover"], "no player is called 'nobody'"),
    (["still"], "no game is named"),
    (["still", "--world", "fourrooms"], "may go on for ever"),
    (["still", "--world", "takecover", "--dreams", 2], "leave out --dreams"),
])  # fmt: skip
def test_what_cannot_be_scored(arguments, sentence, tmp_path, videowm):
    """Guards tracebacks."""
    ended = videowm("dream", "score", *arguments, "--episodes", 1, "--out", tmp_path / "out")
    assert ended.code == 2 and len(ended.errors) == 1 and sentence in ended.errors[0], ended.errors


def test_what_is_solved_is_counted(tmp_path, videowm):
    """Guards a solved game that counts as one that was cut off, the most of a game that lost it again, and a table
    without them."""
    command = ["--world", "pusht", "--frames", 24, "--episodes", 3, "--out", tmp_path / "scores"]
    for player in ("still", "random"):
        assert videowm("dream", "score", player, *command).code == 0
    found = json.loads((tmp_path / "scores/scores.json").read_text())["players"]
    assert found["still"]["solved"]["mean"] == 0 and found["still"]["most"]["mean"] == found["still"]["mean"]
    assert found["random"]["most"]["mean"] >= found["random"]["mean"]
    assert "| solved [95 %] | most [95 %] |" in (tmp_path / "scores/scores.md").read_text()
    two = np.zeros((2, 3, 1), np.float32)
    games = Played(np.arange(2), np.full(2, 0.1), two, np.float32([[0.5, -0.4, 0.2], [0.4, 0.46, 0]]),
                   np.array([3, 2]), np.array([False, True]), two)  # fmt: skip
    np.testing.assert_allclose(tally.most(games), [0.6, 0.96], rtol=1e-6)
    other = replace(games, over=np.array([False, False]))
    assert tally.paired(games, other, solvable=True)["solved"]["mean"] == 0.5
