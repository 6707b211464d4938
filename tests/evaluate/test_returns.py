"""Views that are left and seen again, in a hand-made game of which every picture is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from videowm import worlds
from videowm.data.dataset import Dataset
from videowm.data.recording import record_episodes
from videowm.dit.sample import Sampler
from videowm.evaluate import courses
from videowm.evaluate.courses import LOOK, SETTLE
from videowm.evaluate.returns import Field, half_life, kept, near, pose, returns, scores
from videowm.evaluate.returns import Returned as Result
from videowm.evaluate.rollouts import RolloutConfig
from videowm.metrics import metric_of
from videowm.pipeline import WorldModelPipeline
from videowm.worlds import World

CONFIG = RolloutConfig(context_frames=5, sampler=Sampler(1), batch=2)
CIRCLE, PLACES = 20, 9  # frames of a whole turn; places to stand in a row


class Ring(World):
    """Somebody who turns and walks between two walls; each place and side has a picture of its own."""

    name, size, fps, action_names, state_names = "ring", (64, 64), 10.0, ("turn", "walk", "idle"), ("place", "side")
    NAMED_ACTIONS = {
        "stay": (0, 0, 0),
        "left": (-1, 0, 0),
        "right": (1, 0, 0),
        "forward": (0, 1, 0),
        "back": (0, -1, 0),
    }

    def reset(self, seed):
        self.place, self.side = seed % PLACES, seed % CIRCLE

    def step(self, action):
        self.side = (self.side + round(float(action[0]))) % CIRCLE
        self.place = min(max(self.place + round(float(action[1])), 0), PLACES - 1)
        return 0.0, False

    def state(self):
        return np.array([self.place, self.side], np.float32)

    def render(self):
        view = np.random.default_rng([self.place, self.side]).integers(0, 255, (8, 8, 3))
        return view.repeat(8, 0).repeat(8, 1).astype(np.uint8)


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    """Episodes of that game; looks of two lengths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(worlds.BUILT_IN, "ring", f"{__name__}:Ring")
        patch.setattr(courses, "WAITS", (0, 8))
        out = tmp_path_factory.mktemp("recorded") / "ring"
        yield Dataset(record_episodes("ring", out, episodes=6, frames=70, seed=1, test_share=0.5))


@pytest.fixture(scope="module")
def field(ring, world_run) -> Field:
    return Field(WorldModelPipeline.open(world_run), ring, CONFIG, 3)


def test_courses_leave_a_view_and_come_back(field, ring):
    """Guards a course that is a frame too long, a context of other frames than come before, and walks that a wall
    stopped: what counts as back is at the same place and side in the simulator."""
    assert [(c.name, c.back) for c in field.courses] == [
        ("look_0", 2 * LOOK), ("look_8", 2 * LOOK + 8), ("turn", CIRCLE), ("walk", 8 + SETTLE)
    ]  # fmt: skip
    for course in field.courses:
        videos = field.rolled(course)
        assert torch.equal(videos.real[:, course.back - 1], videos.view[:, 0]), course.name
        assert not torch.equal(videos.real[:, 3], videos.view[:, 0])
        stood = np.stack([ring.states(field.places[i][0])[field.places[i][1]] for i in videos.rows])
        np.testing.assert_array_equal(videos.states[:, course.back - 1], stood)
        free = stood[:, 0] < PLACES - courses.WALK if course.name == "walk" else True
        assert np.all(free) and videos.dreamed.shape == videos.real.shape == videos.decoded.shape
    episode, frame = field.places[0]
    stored = ring.frames(episode, [frame]).astype(float)
    shown = (field.start.frames[0, field.before].movedim(0, -1).numpy() + 1) * 127.5
    assert ((shown - stored[0]) ** 2).mean() < 60, "the last frame before standing still, up to the compression"


def test_a_perfect_memory_keeps_all_and_a_wrong_view_nothing(field):
    """Guards bounds that are swapped, and a gap or a half-life of other frames than those behind the return."""
    look = field.courses[0]
    videos, stay = field.rolled(look), field.rolled(field.stay)

    def seen(dreamed, course=look) -> Result:
        return Result(course, videos.episode, near(replace(videos, dreamed=dreamed), look, stay, 4, 2), {})

    other = np.array([next(j for j in range(3) if videos.episode[j] != e) for e in videos.episode])
    late = videos.real.clone()
    late[:, : look.back - 1] = 0  # what was shown before the return does not count
    assert kept([seen(videos.decoded)])[0] == pytest.approx(1)
    assert kept([seen(videos.real[other])])[0] < 0, "a sharp view of elsewhere is farther than the mean of them"
    mean = torch.stack([videos.real[torch.from_numpy(videos.episode != e)].mean(0) for e in videos.episode])
    assert kept([seen(mean)])[0] == pytest.approx(0, abs=1e-6)
    assert seen(late).psnr[""].min() > 90 and seen(videos.decoded).psnr["real"].min() > 90
    never = dict(scores([seen(stay.dreamed)], ""))
    assert set(never) >= {"returns/psnr_ceiling_se", "returns/psnr_floor", "returns/kept_se", "returns/gap_se"}
    still = [seen(videos.decoded), seen(videos.decoded, replace(look, steps=(("left", 40),)))]
    assert dict(half_life(still, 10.0))["returns/half_life"] is None
    gone = [still[0], replace(seen(videos.real[other]), course=still[1].course)]
    assert dict(half_life(gone, 10.0)) == {"returns/half_life": 4.0, "returns/half_life_se": 0, "returns/longest": 4.0}


def test_all_of_it_is_described(ring, world_run, three_run, three_data, monkeypatch):
    """Guards numbers that no table knows, and a traceback where a world has no courses or no view comes back."""
    pipeline = WorldModelPipeline.open(world_run)
    found = dict(returns(pipeline, ring, CONFIG, 2, None))
    assert found["returns/turn_seconds"] == CIRCLE / pipeline.trained_on.fps
    assert all(metric_of(name).unit for name in found) and found["returns/starts"] == 2
    monkeypatch.setitem(worlds.BUILT_IN, "three", "three:Three")
    pipeline = WorldModelPipeline.open(three_run)
    refused = dict(returns(pipeline, Dataset(three_data), CONFIG, 2, None))
    assert "no actions named left and right" in refused["returns/game_refused"] and len(refused) == 1
    monkeypatch.setattr(courses, "comes_back", lambda *_: False)
    assert "shows the same view again from moments of 0" in str(dict(returns(pipeline, ring, CONFIG, 2, None)))


def test_a_pose_is_read_behind_the_return(field):
    """Guards states of other frames: what reads the truth off the real frames has no error there, but in others."""
    look = field.courses[0]
    videos = field.rolled(look)

    class Reading:
        """Reads the place that a frame's picture was drawn for."""

        class config:  # noqa: N801
            frames, lag = 2, 1

        class readable:  # noqa: N801
            state, actions, mean, std = ["place", "side"], [], [0.0, 0.0], [1.0, 1.0]

        def read(self, video):
            known = {tuple(f[0, ::8, ::8].flatten().tolist()): s for v, states in zip(videos.real, videos.states)
                     for f, s in zip(v, states)}  # fmt: skip
            rows = [[known[tuple(f[0, ::8, ::8].flatten().tolist())] for f in v[1:]] for v in video]
            return torch.tensor(np.array(rows))

    got = pose(replace(videos, dreamed=videos.real, decoded=videos.real), look, Reading(), ("place", "side"))
    assert not got[""].any() and got["floor"].min() > 0
