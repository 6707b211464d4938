"""PushT in imagination: policies in the dream and on the real table, and the futures of a decision."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import pushes
import pusht_package
import robots
import standin
import torch

from videowm.data.dataset import Dataset
from videowm.data.encode import encode_dataset
from videowm.data.recording import record_episodes
from videowm.train.loop import launch
from videowm.vae.codec import to_float

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pushing(codec, vae_run, world_sizes, tmp_path_factory) -> Path:
    """A tiny world model of PushT with heads that read all of its pose."""
    folder = tmp_path_factory.mktemp("pushing")
    data = Dataset(record_episodes("pusht", folder / "data", episodes=6, frames=24, test_share=1 / 3))
    encode_dataset(data, codec, folder / "latents", vae=str(vae_run), to_frames=to_float, frames=17, states=True)
    small = ["train.trackers=[]", "train.precision=fp32", "train.steps=3", "train.batch=2"]
    launch(ROOT / "configs/world/quickstart.yaml",
           [f"out={folder / 'world'}", f"latents={folder / 'latents'}", *world_sizes, "window=4", "heldout.window=4",
            "rollout.clips=0", *small])  # fmt: skip
    launch(ROOT / "configs/heads/base.yaml",
           [f"out={folder / 'heads'}", f"world={folder / 'world'}", "hidden=16", "width=4", "context=2", "clips=2",
            f"state=[{','.join(pushes.POSE)}]", *small])  # fmt: skip
    return folder / "world"


def test_policies_are_judged_and_futures_drawn(pushing, tmp_path, capsys):
    """Guards commands of minutes on a GPU that end at once, that begin anew, and a dream from other starts."""
    small = ["--device", "cpu", "--horizon", "8", "--sampling-steps", "1", "--futures", "3"]
    command = [
        "judge",
        str(pushing),
        "--episodes",
        "2",
        "--frames",
        "8",
        "--out",
        str(tmp_path / "judged.json"),
        *small,
    ]
    robots.main(command)
    found = json.loads((tmp_path / "judged.json").read_text())["runs"]["world"]
    assert len(found["policies"]) == 8 and set(found["correlations"]) == set(robots.MEASURES)
    still = found["policies"]["still"]
    assert still["real"]["earned"] == still["real"]["most"] and still["real"]["solved"] == [0, 0]
    assert {len(values) for where in still.values() for values in where.values()} == {2}
    before = (tmp_path / "judged.json").read_bytes()
    capsys.readouterr()
    robots.main(command)
    assert (tmp_path / "judged.json").read_bytes() == before and "planner 3 {" not in capsys.readouterr().out
    for goal in ("state", "latents"):
        out = tmp_path / f"{goal}.png"
        robots.main(["picture", str(pushing), "--begin", "8", "--goal", goal, "--out", str(out), *small])
        assert np.asarray(Image.open(out)).shape[1] > 500


def test_drift_is_measured_against_the_table(pushing, tmp_path, monkeypatch):
    """Guards dreams and tables that stand at other moments, steps or futures: a dream of true poses misses nothing."""
    kept, played, dreamed = [], pushes.played, pushes.dreamed
    monkeypatch.setattr(pushes, "played", lambda *given: kept.append(tuple(played(*given))) or kept[-1])
    command = ["drift", str(pushing), "--episodes", "2", "--begin", "8", "--horizon", "8", "--futures", "3"]
    robots.main([*command, "--sampling-steps", "1", "--device", "cpu", "--out", str(tmp_path / "drift.json")])
    found = json.loads((tmp_path / "drift.json").read_text())["world"]
    assert len(found["straight"]["finger"]) == 2 and found["straight"]["finger"][0] > 0
    assert found["planner"]["rank"] is None or abs(found["planner"]["rank"]) <= 1
    monkeypatch.setattr(
        pushes, "dreamed", lambda *given: kept[-1][1] if dreamed(*given).shape == kept[-1][1].shape else 0
    )
    robots.main([*command, "--sampling-steps", "1", "--device", "cpu", "--out", str(tmp_path / "true.json")])
    for kind in ("driver", "planner", "straight"):
        true = json.loads((tmp_path / "true.json").read_text())["world"][kind]
        assert true["finger"] == true["block"] == true["turn_degrees"] == [0, 0] and true["finger_gain"] == [1, 1]
        assert min(true["finger_if_still"]) > 1


def test_where_a_push_leads_by_hand():
    """Guards errors of another step, a gain upside down, and a T that is moved by nothing."""
    now, true = np.zeros((1, 1, 1, 6)), np.zeros((1, 2, 2, 6))
    now[..., 4] = true[..., 4] = 1
    true[0, :, :, 0], true[0, 0, :, 2] = [10, 20], [0, 8]
    dream = true.copy()
    dream[0, :, :, 0], dream[0, 1, 1, 3], dream[0, 0, 0, 4:] = [5, 10], 3, [0, 1]
    found = pushes.compared(now, true, dream)
    assert found["finger"] == [5, 10] and found["finger_if_still"] == [10, 20] and found["finger_gain"] == [0.5, 0.5]
    assert found["block"] == [0, 1.5] and found["turn_degrees"] == [45, 0] and found["pushed"] == 0.5
    assert found["block_moved_by_nothing"] == [0, 3]
    ranks = pushes.ranked(np.array([[1.0, 2, 3]]), np.array([[3.0, 2, 1]]), np.array([[3.0, 2, 1]]))
    assert ranks["rank"] == -1 and ranks["gained_of_best"] == -1 and ranks["planner_reads_otherwise_by"] == 0


def test_a_stand_in_foresees_pushes_and_plans(monkeypatch, tmp_path):
    """Guards examples of another frame, and a push that is foreseen in the table's axes but moved in the T's.

    The finger beside a T that it never meets: a network that says nothing moves lets everything lie.
    """
    states, actions = next(standin.recorded(1.0, 1))
    state, before, pushed, after = standin.examples(iter([(states, actions)]))
    assert len(state) == 156 and torch.equal(state[0], torch.from_numpy(states[1]))
    assert torch.equal(before[5], torch.from_numpy(states[5, :2])) and torch.equal(
        after[5], torch.from_numpy(states[10])
    )
    assert torch.equal(pushed[5], torch.from_numpy(actions[6:10]))
    quarter = torch.tensor([[0.0, 0, 0, 0, 0, 1]])
    torch.testing.assert_close(standin.turned(torch.tensor([[[0.0, 1]]]), quarter), torch.tensor([[[1.0, 0]]]))
    model = standin.Standin(8)
    torch.nn.init.zeros_(model[-1].weight), torch.nn.init.zeros_(model[-1].bias)
    torch.testing.assert_close(model.dream(state[:3], before[:3], torch.ones(3, 2, 2))[:, 1], state[:3])
    monkeypatch.setattr(standin, "FRAMES", 16)
    out = ["--out", str(tmp_path / "standin.json")]
    standin.main(["--explore", "1", "--episodes", "2", "--steps", "2", "--games", "2", "--futures", "3", *out])
    (found,) = json.loads((tmp_path / "standin.json").read_text()).values()
    assert set(found["hand 0.02, 3 futures"]) == {"covered", "solved", "finger_to_block", "at_the_edge"}
    assert -1 <= found["rank"] <= 1


def test_correlations_by_hand():
    """Guards a correlation over starts instead of policies, ranks that are none, and intervals of something else."""
    real = np.array([[0.0, 0.2], [0.2, 0.4], [0.6, 0.8]])
    dream = np.array([[1.0, 1.0], [1.0, 3.0], [100.0, 100.0]])
    blank = np.zeros((3, 2))
    judged = {str(i): {"real": {"earned": real[i], "most": blank[i], "solved": blank[i]},
                       "dream": {"earned": dream[i], "covered": -dream[i], "most": blank[i], "solved": blank[i]}}
              for i in range(3)}  # fmt: skip
    found = robots.correlations(judged)
    assert found["earned, by heads"]["spearman"][0] == 1 and found["covered, as read"]["spearman"][0] == -1
    expected = np.corrcoef([1, 2, 100], [0.1, 0.3, 0.7])[0, 1]
    assert found["earned, by heads"]["pearson"][0] == pytest.approx(expected, abs=1e-4)
    assert found["earned, by heads"]["pearson"][1] < expected <= found["earned, by heads"]["pearson"][2] + 1e-4
    assert found["solved, by heads"]["pearson"] == [None, None, None]


def test_the_driver_with_eyes_is_the_scripted_one():
    """Guards a driver that takes the finger for the T: it acts on what is read as the script on the truth."""
    from videowm.worlds.pusht import PushT, pushes

    world = PushT()
    world.reset(3)
    state = world.state()
    finger, place = robots.split(state[:6].astype(float))
    np.testing.assert_allclose(place, world.look()[1], atol=1e-4)
    ours, theirs = (next(pushes(look, np.random.default_rng(0), 0.2)) for look in (lambda: (finger, place), world.look))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_a_game_that_came_near_is_known_from_its_actions():
    """Guards a game that is played again from another start: the expert solves this one, and comes near before."""
    world = robots.PushT()
    world.reset(2)
    actions, script, over = [], world.expert(np.random.default_rng(2)), False
    while not over:
        actions.append(next(script))
        _, over = world.step(actions[-1])
    assert robots.came_near(2, np.stack(actions)) and not robots.came_near(2, np.stack(actions)[:20])


def test_planning_with_the_game_itself(tmp_path):
    """Guards an inner game that does not begin where the real one is: it must foresee what the real one then does."""
    world, inner = robots.PushT(), robots.PushT()
    world.reset(5)
    inner.reset(6)
    course = np.float32([[0.5, -0.5], [1, 0.2]])
    for action in course:
        world.step(action)
    robots.nearness(world, inner, course)
    for action in course:
        for _ in range(robots.HELD):
            world.step(action)
    np.testing.assert_allclose(inner.state()[:6], world.state()[:6], atol=1)  # it forgets how hard they press
    robots.main(["physics", "--futures", "2", "--episodes", "2", "--frames", "8", "--out", str(tmp_path / "p.json")])
    (found,) = json.loads((tmp_path / "p.json").read_text()).values()
    assert len(found["earned"]) == 2 and found["solved"] == [0, 0] and found["most"] >= found["earned"]


def test_without_gym_pusht_nothing_is_compared(capsys):
    """Guards a traceback where the package is not there; what it said of one game is in tests/data/test_worlds.py."""
    assert pusht_package.main([]) is None and "has no gym-pusht" in capsys.readouterr().out
