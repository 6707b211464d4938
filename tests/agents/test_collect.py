"""A player's real games as a dataset: the same bytes however it was made, and games that can be played again."""

from __future__ import annotations

import hashlib
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from videowm.agents.collect import Collector
from videowm.agents.games import FIRST_SEED
from videowm.data.dataset import Dataset
from videowm.data.played import PlayedSource
from videowm.data.recording import Recording
from videowm.evaluate.counterfactual import Replay
from videowm.types import UserError
from videowm.worlds import open_world


def content(folder: Path) -> dict[str, str]:
    """What every file of a dataset holds."""
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip


def test_a_players_games_are_a_dataset(tmp_path, videowm):
    """Guards bytes that depend on processes or on an interruption, games that cannot be played again, and frames,
    states or rewards that are a row late: the replayed game has to agree in all of them."""
    command = ["dream", "record", "expert", "--world", "takecover", "--episodes", 3, "--games", 2, "--seed", 4,
               "--frames", 24, "--random", 0.3, "--lossless", "--test-share", 0.34]  # fmt: skip
    here, there = tmp_path / "here", tmp_path / "there"
    assert videowm(*command, "--out", here).code == 0
    assert videowm(*command, "--out", there, "--workers", 2).code == 0
    before = content(here)
    assert content(there) == before and len(before) > 8
    (here / "videos/observation.image/chunk-000/file-001.mp4").unlink()
    assert videowm(*command, "--out", here).code == 0 and content(here) == before
    other = videowm(*command, "--random", 0.2, "--out", here)
    assert other.code == 2 and "was recorded with other settings" in other.errors[-1]
    data = Dataset(here)
    replay, world = Replay(data), open_world("takecover")
    assert data.lengths.max() == 24 and data.split("test") == [2]
    for episode in range(3):
        seed = replay.seed_of(episode)
        assert seed < FIRST_SEED
        world.reset(seed)
        frames, rewards = data.frames(episode, range(3)), data.column(episode, "next.reward")
        for i, action in enumerate(data.all_actions(episode)[:3]):
            assert np.array_equal(world.render(), frames[i]) and world.step(action)[0] == rewards[i]
    with pytest.raises(UserError, match="was not played by the world's driver"):
        PlayedSource(data, episodes=2, seed=9, workers=1)


def test_an_agents_games_are_a_dataset(agent, three, three_run, three_data, tmp_path, videowm):
    """Guards an agent that plays otherwise once some of its games are there, a share of random decisions that is not
    kept, and games of the data that the world model has seen."""
    command = ["dream", "record", agent, "--episodes", 5, "--games", 2, "--seed", 0, "--frames", 30]
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    assert videowm(*command, "--random", 0, "--out", calm).code == 0
    assert videowm(*command, "--random", 1, "--out", wild).code == 0
    data, before = Dataset(calm), content(calm)
    (calm / "data/chunk-000/file-001.parquet").unlink()
    assert videowm(*command, "--random", 0, "--out", calm).code == 0 and content(calm) == before
    assert set(data.lengths.tolist()) <= {18, 19, 20, 21}
    ends = [data.column(episode, "next.done") for episode in range(5)]
    assert all(done[-1] and not done[:-1].any() for done in ends)
    for folder, kinds in ((calm, {0.0, 1.0}), (wild, {0.0, 1.0, -1.0})):
        played = Dataset(folder)
        actions = [played.all_actions(episode)[:, 0] for episode in range(5)]
        assert set(np.concatenate(actions).tolist()) <= kinds
        assert all(len(set(part.tolist())) == 1 for a in actions for part in np.split(a, range(4, len(a), 4)))
    assert min(Dataset(wild).lengths) <= 12  # a random decision was to fall, which the agent never does
    collector = Collector(SimpleNamespace(run=three_run), None, Recording.read(calm), calm)
    assert {next(Recording.read(three_data).game_seeds(i)) for i in range(16)} < collector.known
    first, second = islice(collector.seeds(0), 2)
    collector.known.add(first)
    assert next(collector.seeds(0)) == second != first
