"""Prompts of several facts: what obeys scores the ceiling, what does not listen the floor without a prompt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from videowm import worlds
from videowm.data.dataset import Dataset
from videowm.evaluate.reader import Reader
from videowm.evaluate.rollouts import RolloutConfig
from videowm.evaluate.scenes import make_scenes
from videowm.evaluate.text_facts import facts_in, prompts_of, shares, text_facts
from videowm.metrics import metric_of
from videowm.pipeline import WorldModelPipeline
from videowm.worlds.carracing import CarRacing
from videowm.worlds.doomrooms import PASSAGE, ROOMS, DoomRooms, room_at


class Told(CarRacing):
    """A car whose side and road are facts that the tiny reader can tell."""

    def facts(self, states):
        side = "turning left" if states[:, 4].mean() > 0 else "turning right"
        return {"side": side, "road": "on the road" if states[:, 6].mean() > 0.5 else "off the road"}

    def sentence(self, facts, rng):
        return f"A car {' and '.join(facts.values())}."

    def states_from(self, read):
        states = np.zeros((len(read["turn"]), len(self.state_names)), np.float32)
        states[:, 4], states[:, 6] = read["turn"], read["on_track"]
        return states


@pytest.fixture
def told(monkeypatch):
    """The recording's world states facts."""
    monkeypatch.setitem(worlds.BUILT_IN, "carracing", f"{__name__}:Told")


def test_a_prompt_names_what_it_counts(told, perfect, recording, reader_run):
    """Guards prompts of more or other facts than they are counted for, and facts of another stretch than is read."""
    reader = Reader.open(reader_run)
    prompts = prompts_of(perfect, recording, reader, seed=0)
    first = int(perfect.first[1]) + perfect.context + reader.config.lag
    rows = slice(first, first + perfect.horizon - reader.config.frames + 1)
    assert prompts.facts[1] == Told().facts(recording.states(int(perfect.episode[1]))[rows])
    one, both = prompts.told(1), prompts.told(2)
    assert {prompt.count(" and ") for prompt in one} == {0} and len({"road" in prompt for prompt in one}) == 2
    for prompt, whole, facts, named in zip(one, both, prompts.facts, prompts.named(1), strict=True):
        assert whole == f"A car {facts['side']} and {facts['road']}."
        assert prompt == f"A car {facts['side' if named[0] else 'road']}."
    assert prompts.told(2, np.arange(len(both))[::-1]) == both[::-1]
    found = prompts.obeyed(facts_in(perfect.truth[:, perfect.context :], prompts.world, reader))
    numbers = dict(shares(prompts, {1: found, 2: found}))
    assert numbers["text/2_facts_obeyed"] == pytest.approx(found.mean()) and found.mean() > 0
    assert numbers["text/2_facts_all"] == pytest.approx(found.all(1).mean())
    assert numbers["text/1_facts_obeyed"] == pytest.approx(found[prompts.named(1)].mean())
    assert dict(shares(prompts, {1: ~found}))["text/1_facts_obeyed"] == pytest.approx(
        1 - numbers["text/1_facts_obeyed"]
    )
    assert prompts_of(replace(perfect, context=perfect.context + perfect.horizon - 4), recording, reader, 0) is None


def test_what_does_not_listen_is_at_the_floor(told, worded_run, worded, reader_run):
    """Guards other noise, starts or actions between prompts: a deaf model shows the same under all of them."""
    pipeline, dataset, reader = WorldModelPipeline.open(worded_run), Dataset(worded / "data"), Reader.open(reader_run)
    config = RolloutConfig(clips=2, context_frames=5, horizon=8, batch=2)
    scenes = make_scenes(pipeline, dataset, config)
    assert "drop_actions" in dict(text_facts(pipeline, dataset, scenes, config, reader))["text/obeyed_refused"]
    pipeline.trained_on = replace(pipeline.trained_on, drop_actions=0.1)
    for block in pipeline.transformer.blocks:
        block.cross.project.weight.data.zero_()
    pipeline.transformer.text_condition.pool.weight.data.zero_()
    found = dict(text_facts(pipeline, dataset, scenes, config, reader))
    for name in ("text/obeyed", "text/2_facts_all", "text/side_obeyed"):
        assert found[name] == found[f"{name}_floor"] == found[f"{name}_floor_empty"]
        assert f"{name}_ceiling_real_se" in found
    assert all(metric_of(name).computed_in == "videowm.evaluate.text_facts" for name in found)


def walked(rooms: list[str], *, turn: float, speed: float, frames: int = 32) -> np.ndarray:
    """States of somebody who stands in each of the rooms for a while and turns by `turn` radians in all."""
    place = np.array([ROOMS[name] for name in rooms], float).repeat(frames // len(rooms), axis=0)
    heading = np.linspace(0, turn, len(place))
    look = np.stack([-np.sin(heading), np.cos(heading)], 1)
    numbers = [[room_at(*point)] for point in place]
    return np.concatenate([place, heading[:, None], look, speed * look, numbers], 1).astype(np.float32)


def test_the_facts_of_dooms_rooms_are_true_and_can_be_read():
    """Guards sides that are swapped, rooms of the wrong end, captions that say what is not so, and phrases that turn
    on a reader's error."""
    world, rng = DoomRooms(), np.random.default_rng(0)
    states = walked(["red walls", "the lockers"], turn=np.pi / 2, speed=5.0)
    facts = world.facts(states)
    assert list(facts.values())[:2] == ["mostly walking ahead", "turning left"]
    assert list(facts.values())[2:4] == ["from the room with red walls", "to the room with the lockers"]
    assert facts["turned"] == "in all a quarter of a turn to the left"
    back = world.facts(walked(["the lockers"], turn=-np.pi, speed=-5.0))
    assert back["walk"] == "mostly walking backwards" and back["turned"] == "in all half a turn to the right"
    passage = np.float32([[352, -176, 0, 0, 1, 0, 0, PASSAGE]]).repeat(9, 0)
    assert world.facts(passage)["start"] == "from a dark passage" and world.facts(passage)["turn"] == "hardly turning"
    counts = set()
    for number in range(60):
        caption = world.caption(states, np.zeros((31, 3)), np.random.default_rng(number))
        counts.add(said := sum(phrase in caption for phrase in facts.values()))
        assert caption.count(",") == said - 1
    assert counts == {1, 2, 3, 4, 5}
    whole = world.sentence(facts, rng)
    for fact in DoomRooms.FACTS:
        assert fact.side_of(whole) == 1 and fact.side_of(fact.changed(whole, fact.low[0])) == -1
    errors = [0, 12, 0.1, 0.1, 0.1, 1, 1, 0]
    read = {name: states[:, i] + rng.normal(0, errors[i], 32) for i, name in enumerate(world.state_names)}
    assert world.facts(world.states_from(read)) == facts and world.states_from({"x": states[:, 0]}) is None
    for few in range(1, 7):
        assert world.states_from({name: values[:few] for name, values in read.items()}).shape == (few, 8)
