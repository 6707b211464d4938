"""Which clip comes when."""

from __future__ import annotations

import numpy as np
import pytest

from videowm.data.clips import ClipStream, even_clips
from videowm.data.dataset import Dataset
from videowm.types import UserError


@pytest.fixture(scope="module")
def recording(dataset) -> Dataset:
    return Dataset(dataset)


def test_clips_are_a_function_of_seed_and_index(recording):
    """Guards an order that depends on what was read before: read backwards, every clip is the same."""
    one, two = (ClipStream(recording, frames=9, split="train", seed=5) for _ in range(2))
    forth = [one[i] for i in range(12)]
    back = [two[i] for i in reversed(range(12))][::-1]
    for a, b in zip(forth, back, strict=True):
        assert (a.episode, a.start) == (b.episode, b.start)
        np.testing.assert_array_equal(a.frames, b.frames)
    other = ClipStream(recording, frames=9, split="train", seed=6)
    assert [(c.episode, c.start) for c in forth] != [(other[i].episode, other[i].start) for i in range(12)]


def test_a_pass_visits_every_stretch(recording):
    """Guards episodes that are never trained on, or held-out ones that are: one pass over 4 episodes of 69 frames."""
    stream = ClipStream(recording, frames=23, split="train", seed=0)
    assert len(stream) == 12
    visited = [stream[i] for i in range(12)]
    counts = np.bincount([clip.episode for clip in visited], minlength=6)
    assert counts.tolist() == [3, 3, 3, 3, 0, 0]
    assert all(0 <= clip.start <= 69 - 23 and len(clip.frames) == 23 for clip in visited)


def test_clips_start_anywhere(recording):
    """Guards starts that are cut off at the episode's end: 60 of 69 frames can start at 0 to 9, all equally likely.

    Cut off, 51 of 60 clips would start at 9. Of 1,000 draws each start has 100 +- 9.5, so 60 to 140 is over 4 sigma.
    """
    stream = ClipStream(recording, frames=60, split="train", seed=0)
    counts = np.bincount([stream.where(i)[1] for i in range(1000)])
    assert len(counts) == 10 and counts.min() > 60 and counts.max() < 140


def test_a_clip_s_actions_are_those_between_its_frames(recording):
    """Guards an off-by-one between frames and actions of a clip."""
    clip = ClipStream(recording, frames=9, split="train", seed=1)[3]
    np.testing.assert_array_equal(clip.frames, recording.frames(clip.episode, range(clip.start, clip.start + 9)))
    np.testing.assert_array_equal(clip.actions, recording.actions(clip.episode)[clip.start : clip.start + 8])


def test_even_clips(recording):
    """Guards held-out clips that crowd at the beginning: three an episode, from its first frame to its last."""
    assert even_clips(recording, frames=9, split="test", count=6) == [(e, s) for e in (4, 5) for s in (0, 30, 60)]


def test_as_many_even_clips_as_asked_for(recording):
    """Guards an evaluation of a few clips that takes one of every held-out episode, and a clip that counts twice."""
    many = [even_clips(recording, frames=33, split="train", count=n) for n in (2, 3, 6)]
    assert [len(clips) for clips in many] == [2, 3, 6] and {e for e, _ in many[2]} == {0, 1, 2, 3}
    assert even_clips(recording, frames=69, split="test", count=6) == [(4, 0), (5, 0)]


def test_clips_alone_in_their_episodes(recording):
    """Guards an evaluation that only sees how episodes begin, which is all that one clip of each from frame 0 shows."""
    where = [(start / (recording.lengths[e] - 9)) for e, start in
             even_clips(recording, frames=9, split="train", count=4)]  # fmt: skip
    assert where[0] < 0.1 and 0.2 < where[2] < 0.3 and 0.8 < where[3] < 0.9 and 0.6 < where[1] < 0.7


def test_episodes_that_are_too_short(recording):
    """Guards an endless loop or an index error: no episode has 70 frames."""
    with pytest.raises(UserError, match="no train episode of 70 frames"):
        ClipStream(recording, frames=70, split="train", seed=0)
    with pytest.raises(UserError, match="no test episode of 70 frames"):
        even_clips(recording, frames=70, split="test", count=1)
