"""Agents that learn in the dream of the game in tests/three.py, on a CPU within seconds."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from videowm import api
from videowm.agents import improve, train
from videowm.agents.agent import Agent, Components
from videowm.agents.evolve import Evolution
from videowm.agents.improve import Improvement, Rollouts
from videowm.agents.player import Seen
from videowm.agents.practice import Practice
from videowm.agents.train import begun, measured, opened
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError

LINEAR = {"agent": "linear", "by": "cma", "population": 4, "components": 3}


@pytest.fixture(scope="module")
def run(three_heads, three_run):
    """The world model of the game in tests/three.py, with heads."""
    return three_run


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Few steps before an update, and few updates before all dreams begin anew."""
    monkeypatch.setattr(improve, "STEPS", 4)
    monkeypatch.setattr(improve, "RESTART", 2)


def options(**more) -> api.DreamTrainOptions:
    small = {"dreams": 8, "starts": 8, "context": 2, "horizon": 16, "hidden": 16, "device": "cpu"}
    return api.DreamTrainOptions(**small | more)


def planted(run, **more) -> tuple[Practice, Agent]:
    """Dreams that never end and earn 1 a step and the action on top, which is 0, 1 or -1; and a new agent."""
    o = options(**more)
    practice = opened(run, o)
    heads, actions = practice.heads, practice.pipeline.trained_on
    heads.register_to_config(reward_mean=0.0, reward_std=1.0)
    first, _, second, _, last = heads.layers
    with torch.no_grad():
        for parameter in heads.layers.parameters():
            parameter.zero_()
        first.weight[0, -practice.stride - 1 : -1], first.bias[0] = actions.action_std[0] / practice.stride, 100
        second.weight[0, 0], last.weight[0, 0], last.bias[0] = 1, 1, actions.action_mean[0] - 99
        last.bias[1] = 50  # no end
    return practice, begun(run, practice, o)


def test_generations_find_the_best_action(run):
    """Guards a sign turned around, and candidates that are told what others earned: the best action is known.

    All weights 0 take the first action, which earns 1 a step. The best one earns 2, thus 8 in 4 steps.
    """
    practice, agent = planted(run, **LINEAR)
    learner = Evolution(agent, practice, 4)
    learner.finish()
    assert measured(agent, practice)["return"] == pytest.approx(4, abs=0.1)
    practice.alike = 4
    for _ in range(8):
        earned = learner.advance()
    assert earned["best"] == pytest.approx(8, abs=0.1) and learner.steps == 8 * 4 * 8
    learner.finish()
    assert measured(agent, practice)["return"] > 7


def test_updates_find_the_best_action(run, monkeypatch):
    """Guards a policy whose actions are not those that are played, and an agent that is not the policy."""
    monkeypatch.setattr(improve, "RATE", 1e-2)
    practice, agent = planted(run, observation="memory", dreams=16)
    learner = Improvement(agent, practice)
    first = learner.advance()["return"]
    for _ in range(7):
        learner.advance()
    learner.finish()
    assert first < 5 and measured(agent, practice)["return"] > 7


def test_candidates_meet_the_same_dreams(run):
    """Guards candidates that differ in luck: under the same actions every block sees the same, bit for bit."""
    practice = opened(run, options())
    practice.alike = 2
    practice.reseed(1)
    played = practice.play(lambda p: torch.zeros(8, p.stride, 1))
    assert np.array_equal(*played.returns.reshape(2, 4)) and len(set(played.returns[:4].tolist())) > 1
    assert torch.equal(*practice.latents.unflatten(0, (2, 4)))


@pytest.mark.parametrize("more", [LINEAR | {"observation": "memory"}, {"generations": 4}])
def test_a_stopped_training_goes_on_to_the_same_digits(run, more, tmp_path, monkeypatch):
    """Guards a checkpoint that lacks something: stopped after 2 of 4 rounds and called again, all is the same."""
    o = options(**{"generations": 4} | more)
    whole = api.dream_train(run, tmp_path / "whole", o)
    kind = Evolution if o.by == "cma" else Improvement
    advance = kind.advance

    def stop(self, left):
        if self.rounds == 2:
            raise KeyboardInterrupt
        return advance(self, left)

    monkeypatch.setattr(train, "SAVE_EVERY", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "advance", stop)
        with pytest.raises(KeyboardInterrupt):
            api.dream_train(run, tmp_path / "parts", o)
    assert "dream" not in json.loads((tmp_path / "parts/agent.json").read_text())
    parts = api.dream_train(run, tmp_path / "parts", o)
    assert parts["weights"] == whole["weights"] and parts["dream"] == whole["dream"]
    curves = ([{k: v for k, v in row.items() if k != "seconds"} for row in a["curve"]] for a in (whole, parts))
    assert next(curves) == next(curves) and len(whole["curve"]) == 4
    before = (tmp_path / "parts/checkpoint.safetensors").stat().st_mtime_ns
    assert api.dream_train(run, tmp_path / "parts", o) == parts
    assert (tmp_path / "parts/checkpoint.safetensors").stat().st_mtime_ns == before, "nothing was done again"


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """The folder of a linear agent on latents and features."""
    out = tmp_path_factory.mktemp("agents") / "linear"
    api.dream_train(run, out, options(**LINEAR, generations=2, observation="memory"))
    return out


def test_a_saved_agent_acts_as_before(trained, run):
    """Guards an agent that comes back with other weights, and one that goes to a world model it has never seen."""
    pipeline = WorldModelPipeline.open(run)
    agent, again = (Agent.open(trained, pipeline) for _ in range(2))
    seen = Seen(torch.randn(5, 2, *agent.config.latents), torch.zeros(5, 2, 4), torch.randn(5, *agent.config.memory))
    acted = agent.act(seen)
    assert acted.shape == (5, 1) and acted.dtype == np.float32 and np.array_equal(acted, again.act(seen))
    assert set(acted.flatten().tolist()) <= {0.0, 1.0, -1.0} and agent.wants == "memory"
    pipeline.register_to_config(transformer_hash="another")
    with pytest.raises(UserError, match="learned with another transformer .*give the run that it was trained in"):
        Agent.open(trained, pipeline)


def test_a_damaged_agent_is_refused(trained, tmp_path):
    """Guards weights of one training beside the description of another."""
    for name in ("agent.json", "agent.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    weights = bytearray((tmp_path / "agent.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "agent.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match="is not what agent.json describes: train it again"):
        Agent.open(tmp_path)
    with pytest.raises(UserError, match="agent.json is missing"):
        Agent.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"by": "cma"}, "give --agent linear"),
        (LINEAR | {"population": 3}, "8 dreams cannot be shared by a population of 3: give 3 or more"),
        ({"sampler": ("stepz=3",)}, "did you mean"),
    ],
)
def test_what_cannot_be_is_refused(run, tmp_path, more, said):
    """Guards a traceback, or minutes of training, for what a user wrote."""
    with pytest.raises(UserError, match=said):
        api.dream_train(run, tmp_path / "agent", options(**more))


def test_other_options_do_not_go_on(trained, run):
    """Guards a curve of two trainings, and a folder of something else that is written over."""
    with pytest.raises(UserError, match="was begun with seed=0, not 1"):
        api.dream_train(run, trained, options(**LINEAR, generations=3, observation="memory", seed=1))
    with pytest.raises(UserError, match="holds something else"):
        api.dream_train(run, run, options())


def test_components_are_the_planted_ones():
    """Guards components that are not scaled, in another order, or mixed between latents and features."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(40, 40, generator=generator))[0]
    drawn = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    hidden = torch.linalg.qr(drawn - drawn.mean(0))[0].float() * 30**0.5  # uncorrelated, of deviation 1
    latents = hidden[:, :2] * torch.tensor([5.0, 2.0]) @ axes[:2] + 7
    features = hidden[:, 2:] * 3 @ axes[2:3, :20] / axes[2, :20].norm()
    reads = Components([40, 20], 1)
    reads.fit(torch.cat([latents, features], 1))
    read = reads(torch.cat([latents, features], 1))
    np.testing.assert_allclose(read.abs(), hidden[:, [0, 2]].abs(), atol=1e-4)


def test_advantages_are_those_of_the_library():
    """Guards the recursion: where ends are certain and values 0 around them, the library's own buffer says the same."""
    from gymnasium import spaces
    from stable_baselines3.common.buffers import RolloutBuffer

    seen, action = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3)
    settings = {"device": "cpu", "gamma": 0.9, "gae_lambda": 0.8, "n_envs": 5}
    random, ours = np.random.default_rng(0), Rollouts(6, seen, action, **{**settings, "device": torch.device("cpu")})
    theirs, began = RolloutBuffer(6, seen, action, **settings), np.ones(5)
    for step in range(6):
        row, reward, value = (random.normal(size=s).astype(np.float32) for s in ((5, 2), 5, 5))
        over = random.random(5) < 0.3
        theirs.add(row, np.zeros(5), reward, began, torch.from_numpy(value), torch.zeros(5))
        ours.put(step, torch.from_numpy(row), reward=torch.from_numpy(reward), value=torch.from_numpy(value),
                 over=torch.from_numpy(over), alive=torch.from_numpy(~over).float(), action=torch.zeros(5),
                 log_prob=torch.zeros(5))  # fmt: skip
        began = over
    last = torch.from_numpy(random.normal(size=5).astype(np.float32))
    theirs.compute_returns_and_advantage(last, over)
    ours.finish(last)
    np.testing.assert_allclose(ours.rows["advantage"], theirs.advantages, atol=1e-5)
    batches = list(ours.get(7))
    assert sum(len(batch.returns) for batch in batches) == 30
    assert sorted(torch.cat([b.returns for b in batches]).tolist()) == sorted(ours.returns.flatten().tolist())
