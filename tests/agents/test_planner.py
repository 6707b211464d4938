"""Planning: what courses are said to earn, which one is begun, and a player whose eye is late."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import planning

from videowm.agents.courses import Numbers
from videowm.agents.entry import Entry
from videowm.agents.goal import StateGoal, hand_of, weights_of
from videowm.agents.imagine import Imagination, tree
from videowm.agents.plan import Delayed, Planner
from videowm.agents.player import Seen
from videowm.dit.sample import Sampler
from videowm.evaluate.decision import Judgement
from videowm.options import PlanOptions
from videowm.types import UserError

NONE, ONE, FALL = 0.0, 1.0, -1.0  # the game's actions, in its order of names
QUICK = PlanOptions(futures=12, horizon=12, iterations=2, hold=0.5, sampling_steps=1)


@pytest.fixture
def imagination(three_heads, three_run) -> Imagination:
    """The world model of the game in tests/three.py, shaken so that actions and noise change its dreams."""
    found = Imagination.open(three_run, device="cpu", steps=2)
    generator = torch.Generator().manual_seed(0)
    for part in (found.pipeline.transformer, found.heads):
        for parameter in part.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return found


@pytest.fixture
def seen(imagination) -> Seen:
    """Two games of two latent steps."""
    shape, draw = imagination.pipeline.transformer.config, torch.Generator().manual_seed(4)
    latents = torch.randn(2, 2, shape.channels, shape.height, shape.width, generator=draw)
    return Seen(latents, torch.randn(2, 2, shape.actions, generator=draw))


def by_action(imagination: Imagination, reward: float, death: float) -> None:
    """Let the heads read `reward` times the step's action, and `death` as the probability that a fall is fatal."""
    heads, about = imagination.heads, imagination.pipeline.trained_on
    first, second, last = heads.layers[0], heads.layers[2], heads.layers[4]
    with torch.no_grad():
        for layer in (first, second, last):
            layer.weight.zero_()
            layer.bias.zero_()
        # SiLU is the identity far above 0: units 0 and 1 pass 100 more than the action in the game's units.
        column = heads.config.width * heads.config.tokens
        first.weight[0, column], first.bias[0] = about.action_std[0], 100 + about.action_mean[0]
        second.weight[0, 0] = 1
        last.weight[0, 0] = reward / heads.config.reward_std
        last.bias[0] = (-100 * reward - heads.config.reward_mean) / heads.config.reward_std
        # The logit of an end falls by 40 from a fall to none: a fall is fatal, nothing else.
        last.weight[2, 0] = -40
        last.bias[1], last.bias[3:] = 0, -1e9
        last.bias[2] = 40 * 99 + math.log(death / (1 - death)) + math.log(heads.config.end_weight)


@pytest.mark.parametrize("graph", [False, True])
def test_returns_are_those_of_courses_dreamed_one_by_one(imagination, seen, graph):
    """Guards rows that get another row's past or noise, parts of a batch that are cut wrongly, courses that share more
    than their beginning, and a reward of the wrong step: each course is dreamed alone, and judged as decisions are.

    With `graph` the futures lie in streams of few widths, as on a GPU.
    """
    courses = torch.randint(2, (2, 5, 3, 1), generator=torch.Generator().manual_seed(1)).float()
    nodes = [len(parent) for parent, *_ in tree(torch.tensor([0] * 5 + [1] * 5), courses.flatten(0, 1))]
    assert nodes[0] == 4 < nodes[1] < nodes[2] <= 10
    imagination.batch, imagination.graph = (128, True) if graph else (4, False)
    present = imagination.present(seen)
    noise = imagination.noise(present, 2)
    together = imagination.returns(present, courses, noise, beyond=2.0)
    assert together.std(1).min() > 1e-3, "courses differ"
    for row in range(2):
        for course in range(5):
            stream = present.select([row])
            acted, read = imagination.grouped(courses[row, course][None]), []
            for step in range(3):
                read.append(imagination.heads.read(stream.kept[:, None], acted[:, step, None]))
                if step < 2:
                    stream.step(acted[:, step, None], *(part[row, None, step, None] for part in noise))
            judged = Judgement.of(*(torch.cat([getattr(one, name) for one in read], 1).detach().numpy()
                                    for name in ("reward", "death")))  # fmt: skip
            expected = judged.earns + 2.0 * (1 - judged.dies)
            assert together[row, course].item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-3)


def test_returns_by_hand(imagination, seen):
    """Guards a reward that counts behind an end, and a living game's worth that a dead one gets.

    One action earns 3,000 a step and a fall is fatal with 0.75: a fall and two of them earn -3,000 + 0.25 * 2 * 3,000.
    """
    by_action(imagination, reward=3e3, death=0.75)
    courses = torch.tensor([[[ONE] * 3, [FALL, ONE, ONE], [NONE] * 3, [ONE, ONE, FALL]]])[..., None].repeat(2, 1, 1, 1)
    present = imagination.present(seen)
    for beyond, expected in ((0.0, [9e3, -1.5e3, 0, 3e3]), (8e3, [17e3, 500, 8e3, 5e3])):
        found = imagination.returns(present, courses, imagination.noise(present, 2), beyond=beyond)
        torch.testing.assert_close(found, torch.tensor([expected] * 2), rtol=1e-3, atol=1)


@pytest.mark.parametrize("kind", ["latents", "state"])
def test_nearness_to_a_goal_is_that_of_courses_dreamed_one_by_one(imagination, seen, tmp_path, kind):
    """Guards a nearness of another step or course, and a goal that is no picture's: each course is dreamed alone."""
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "goal.png")
    options = replace(QUICK, goal=kind, goal_picture=str(tmp_path / "goal.png"))
    planner = Planner(imagination, options)
    courses = torch.tensor([[[ONE] * 3, [FALL, ONE, ONE], [ONE, ONE, FALL]]])[..., None].repeat(2, 1, 1, 1)
    present = imagination.present(seen)
    noise = imagination.noise(present, 3)
    found = imagination.returns(present, courses, noise, goal=planner.goal)
    assert found.max() < 0 and found.std(1).min() > 1e-5 and planner.beyond == 0
    for course in range(3):
        stream, near = present.select([1]), 0.0
        for step in range(3):
            acted = imagination.grouped(courses[1, course][None])[:, step, None]
            made = stream.step(acted, *(part[1, None, step, None] for part in noise))
            near += planner.goal.nearness(made[:, 0]).item() / 3
        assert found[1, course].item() == pytest.approx(near, rel=1e-3)
    assert planner.act(seen).shape == (2, 1)


def test_a_hand_comes_near_by_hand(imagination):
    """Guards a hand that is judged in standard deviations, counts more than its share, or goes on when it is near."""
    names = ("finger_x", "finger_y", "block_x", "block_y", "block_cos", "block_sin")
    about = {"state": names, "state_mean": (250.0, 260, 240, 255, 0, 0), "state_std": (80.0, 90, 70, 60, 1, 1)}
    raw = torch.tensor([[100.0, 200, 400, 200, 1, 0], [300, 200, 250, 200, 1, 0]])
    state = (raw - torch.tensor(about["state_mean"])) / torch.tensor(about["state_std"])
    heads = SimpleNamespace(config=SimpleNamespace(**about), device="cpu", see=lambda latents: state)
    hand = hand_of("pusht", heads)
    torch.testing.assert_close(hand.lacking(state), torch.tensor([200 / 60, 0]), atol=1e-5, rtol=0)
    wanted, weight = state[1], weights_of("pusht", heads)
    near = StateGoal(heads, wanted, weight, hand, 0.5).nearness(state[..., None, None])
    torch.testing.assert_close(near, torch.tensor([-150 / 60 - 0.5 * 200 / 60, 0]), atol=1e-4, rtol=0)
    without = StateGoal(heads, wanted, weight).nearness(state[..., None, None])
    assert without[0].item() == pytest.approx(-150 / 60, abs=1e-4)
    assert hand_of("three", imagination.heads) is None and hand_of(None, heads) is None


def test_goals_that_cannot_be_used(imagination, monkeypatch, tmp_path):
    """Guards tracebacks over a picture that is none or of another size, a world without a goal, and blind heads."""
    (tmp_path / "no.png").write_text("no")
    Image.fromarray(np.zeros((32, 64, 3), np.uint8)).save(tmp_path / "small.png")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "goal.png")
    for picture, sentence in (("no.png", "cannot be read as a picture"), ("small.png", "expected.*64, 64")):
        with pytest.raises(UserError, match=sentence):
            Planner(imagination, replace(QUICK, goal="latents", goal_picture=str(tmp_path / picture)))
    with pytest.raises(UserError, match="'three' has no goal of its own"):
        Planner(imagination, replace(QUICK, goal="latents"))
    monkeypatch.setattr(imagination.heads, "look", None)
    with pytest.raises(UserError, match="read no state"):
        Planner(imagination, replace(QUICK, goal="state", goal_picture=str(tmp_path / "goal.png")))


@pytest.mark.parametrize("settings", [{"by": "cem"}, {"by": "mppi"}, {"by": "cem", "actions": "box"}])
def test_the_best_action_is_found(imagination, seen, settings):
    """Guards weights upside down: one action pays and a fall is fatal; then a fall pays and is not."""
    by_action(imagination, reward=3.0, death=0.99)
    planner = Planner(imagination, replace(QUICK, futures=32, **settings))
    action = planner.act(seen)
    assert action.dtype == np.float32 and action.shape == (2, 1)
    if settings.get("actions") == "box":  # as many deviations as courses may go
        best = imagination.pipeline.trained_on.action_mean[0] + 2 * imagination.pipeline.trained_on.action_std[0]
        assert (action > 0.6 * best).all()
    else:
        assert (action == ONE).all()
        by_action(imagination, reward=-3.0, death=1e-6)
        assert (Planner(imagination, replace(QUICK, futures=32, **settings)).act(seen) == FALL).all()


def test_a_seed_is_a_decision_and_one_future_is_a_guess(imagination, seen):
    """Guards noise of the global generator; and that no fewer than two courses can be imagined."""
    one, same, other = (Planner(Imagination(imagination.pipeline, imagination.heads, Sampler(1, "euler"), seed=seed),
                                replace(QUICK, actions="box"), seed=seed) for seed in (1, 1, 2))  # fmt: skip
    first = one.act(seen)
    assert np.array_equal(first, same.act(seen)) and not np.array_equal(first, other.act(seen))
    guess = Planner(imagination, replace(QUICK, futures=1, horizon=1, iterations=1))
    assert set(guess.act(seen)[:, 0]) <= {NONE, ONE, FALL}


def test_a_plan_stays_with_its_game(imagination, seen):
    """Guards plans of rows that ended and gave their place to another, and one that a new game inherits."""
    planner = Planner(imagination, QUICK)
    planner.act(replace(seen, games=(4, 7)))
    (row,) = planner.remembered(Seen(seen.latents[1:], seen.grouped[1:]), (7,))
    assert torch.equal(row, planner.plans[7]) and row.shape == (3, 3)
    new = planner.remembered(Seen(seen.latents[:1, :1], seen.grouped[:1, :1]), (7,))
    assert torch.equal(new, torch.full((1, 3, 3), 1 / 3))


def test_a_plan_of_numbers_is_kept_among_its_courses():
    """Guards a plan that is lost where no drawn course is as good; and one future alone, which would never move."""
    courses = Numbers(torch.zeros(2), torch.ones(2), 0.8)
    plan = torch.cat([torch.rand(3, 4, 2), torch.ones(3, 4, 2)], dim=-1)
    drawn = courses.draw(plan, 5, torch.Generator().manual_seed(0))
    assert torch.equal(drawn[:, 0], plan[..., :2]) and (drawn[:, 1:] != plan[:, None, :, :2]).all()
    assert (courses.draw(plan, 1, torch.Generator().manual_seed(0))[:, 0] != plan[..., :2]).all()


class Watching:
    """A player who does nothing, and keeps what it was shown."""

    wants = "memory"

    def act(self, seen: Seen) -> np.ndarray:
        self.seen = seen
        return np.zeros((len(seen.latents), 1), np.float32)


def test_a_delayed_player_sees_the_past_or_expects_the_present(imagination, seen):
    """Guards an eye that is not late, a prediction under other actions than those taken, and features of another step.

    A delay of none shows the present. One longer than the game shows its first step.
    """
    imagination.sampler = replace(imagination.sampler, context_level=0.0)
    shown = {}
    for steps, predict in ((0, True), (1, False), (1, True), (9, False)):
        player = Watching()
        Delayed(player, steps, imagination, predict=predict).act(seen)
        shown[steps, predict] = player.seen
    old = Seen(seen.latents[:, :1], seen.grouped[:, :1])
    assert torch.equal(shown[0, True].latents, seen.latents)
    assert torch.equal(shown[1, False].latents, old.latents) and torch.equal(shown[9, False].latents, old.latents)
    torch.testing.assert_close(shown[1, False].memory, imagination.present(old).kept)
    expected = shown[1, True]
    assert torch.equal(expected.latents[:, :1], old.latents) and torch.equal(expected.grouped, seen.grouped)
    torch.testing.assert_close(expected.memory, imagination.present(expected).kept, rtol=1e-3, atol=1e-3)
    other = imagination.ahead(old, -seen.grouped[:, 1:])
    assert not torch.allclose(other.latents[:, 1], expected.latents[:, 1], atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"futures": 0}, "futures.*at least 1"),
        ({"by": "guess"}, "'guess' is not a choice"),
        ({"elite": 0.0}, "above 0"),
    ],
)
def test_bad_settings_are_one_sentence(imagination, settings, sentence):
    """Guards tracebacks over settings that cannot be."""
    with pytest.raises(UserError, match=sentence):
        Planner(imagination, PlanOptions(**settings))


def test_a_run_without_heads_cannot_plan(world_run):
    """Guards a planner without rewards and ends."""
    with pytest.raises(UserError, match="has no heads that read rewards and ends"):
        Planner.open(world_run, QUICK, device="cpu")


def test_planners_and_late_ones_are_scored_in_the_real_game(three_heads, three_run, monkeypatch, tmp_path, capsys):
    """Guards a command of minutes on a GPU that ends at once; scores that another call does not repeat to the digit;
    and a prediction of what a delay hides that changes nothing."""
    from videowm import worlds

    monkeypatch.setitem(worlds.BUILT_IN, "three", "three:Three")
    command = ["late", three_run, "--futures", 3, "--horizons", 8, "--delays", 1, "--episodes", 2, "--games", 2]
    for out in "ab":
        planning.main([*map(str, command), "--frames", "40", "--device", "cpu", "--out", str(tmp_path / out)])
    names = sorted(path.name for path in (tmp_path / "a/players").iterdir())
    assert len(names) == 3 and [("late1" in name, "predicting" in name) for name in names] == [
        (False, False), (True, False), (True, True)
    ]  # fmt: skip
    first, again = (
        [Entry.read(tmp_path / out / "players" / name / "games.safetensors").games for name in names] for out in "ab"
    )
    for one, two in zip(first, again):
        assert np.array_equal(one.actions, two.actions) and np.array_equal(one.returns, two.returns)
    assert first[1].actions.tobytes() != first[2].actions.tobytes()
    assert set(first[0].lengths.tolist()) <= set(range(1, 22)) and "plan-world-cem-3x8" in capsys.readouterr().out


def test_a_decision_is_timed(three_heads, three_run, tmp_path):
    """Guards a benchmark that does not start, and moments that it cannot find."""
    planning.main(["speed", str(three_run), "--rows", "3", "--futures", "2", "--horizons", "8", "--decisions", "3",
                   "--device", "cpu", "--out", str(tmp_path / "speed.json")])  # fmt: skip
    (found,) = json.loads((tmp_path / "speed.json").read_text())["speed"]
    assert found["futures"] == 2 and 0 < found["seconds"] < 60
