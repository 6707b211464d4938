"""Shortcut models: sizes that end at the data, the target of two half steps, and the step sizes of a sampler."""

from __future__ import annotations

import pytest
import torch

from videowm.dit import flow, shortcut
from videowm.dit.sample import Sampler
from videowm.dit.stream import LatentStream


def test_every_drawn_step_ends_at_the_data_or_on_its_grid():
    """Guards levels off the grid: a step of 2^p/16 begins at one of its multiples, the finest anywhere; all come."""
    draw = torch.Generator().manual_seed(0)
    uniform, level, where = (torch.rand(200, 8, generator=draw) for _ in range(3))
    power, at = shortcut.draw(uniform, level, where)
    assert set(power.flatten().tolist()) == {0, 1, 2, 3, 4}
    steps = (at / 2.0 ** (power - 4))[power > 0]
    assert torch.equal(steps, steps.round()) and steps.min() >= 1 and at.max() <= 1
    assert (at[power == 4] == 1).all() and len(at[power == 1].unique()) == 8
    assert torch.equal(at[power == 0], level[power == 0])


def test_the_target_is_the_mean_of_two_half_steps():
    """Guards the second half's place, level and size, by hand on a field that depends on all three."""
    x, level = torch.randn(1, 3, 1, 1, 1), torch.tensor([[1.0, 0.5, 0.7]])
    power, true = torch.tensor([[4.0, 2.0, 0.0]]), torch.full((1, 3, 1, 1, 1), 9.0)

    def field(x, level):
        return 2 * x + level[..., 0, None, None, None] + 10 * level[..., 1, None, None, None]

    found = shortcut.target(field, x, level, power, true)
    for i, (at, size, smaller) in enumerate([(1.0, 1.0, 0.75), (0.5, 0.25, 0.25)]):
        first = 2 * x[0, i] + at + 10 * smaller
        second = 2 * (x[0, i] - size / 2 * first) + at - size / 2 + 10 * smaller
        torch.testing.assert_close(found[0, i], (first + second) / 2)
    assert found[0, 2].item() == 9.0, "the finest step learns the data's own velocity"


def test_only_the_chosen_samples_step_far():
    """Guards samples mixed up: the others keep their level and their target, and their step size is 0."""
    draw = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 8, 3, 2, 4, 4, generator=draw)
    level, uniform, where = torch.rand(3, 8, 3, generator=draw)
    some = slice(1, None, 4)
    x, sized, goal = shortcut.learned(lambda x, level: 0 * x, latents, noise, level, some, uniform, where)
    others = [0, 2, 3, 4, 6, 7]
    assert torch.equal(sized[others], shortcut.level_with_step_size(level, 0)[others])
    assert torch.equal(goal[others], flow.velocity(latents, noise)[others])
    assert torch.equal(x[others], flow.noised(latents, noise, level)[others])
    far = sized[some][..., 1] > 0
    assert far.any() and (goal[some][far] == 0).all(), "two half steps of a network whose velocity is 0"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"steps": 1}, [4]), ({"steps": 4}, [2] * 4), ({"steps": 16}, [0] * 16), ({"steps": 3}, [0] * 3),
     ({"levels": [1, 0.5, 0.25, 0]}, [3, 2, 2]), ({"levels": [1, 0.6, 0.35, 0]}, [0] * 3),
     ({"steps": 2, "method": "heun"}, [0, 0])],
)  # fmt: skip
def test_step_sizes_of_a_sampler(settings, expected):
    """Guards a size that was never learned: only Euler steps of 1/16 to 1 have a size, the rest is flow matching."""
    assert Sampler(**{"method": "euler"} | settings).powers(shift=1.0) == expected


def test_a_stream_gives_the_step_size_and_remembers_without_one(awake):
    """Guards the cached rollout: one step from noise is x - v(1, whole way), and the past has step size 0."""
    model = awake(depth=2, channels=3, height=4, width=4, actions=5, hidden=32, heads=2, shortcut=True)
    draw = torch.Generator().manual_seed(5)
    context, actions, noise = (torch.randn(2, *shape, generator=draw) for shape in ((3, 3, 4, 4), (5, 5), (2, 3, 4, 4)))
    stream = LatentStream(model, context, actions[:, :3], sampler=Sampler(1, "euler", context_level=0), window=8)
    for i in range(2):
        out = stream.step(actions[:, 3 + i, None], noise[:, i, None])
        level = torch.zeros(2, 4 + i)
        level[:, -1] = 1
        sized = shortcut.level_with_step_size(level, 4 * level)
        with torch.no_grad():
            x = torch.cat([context, noise[:, i, None]], dim=1)
            velocity, plain = (model(x, at, actions[:, : 4 + i])[:, -1:] for at in (sized, level))
        torch.testing.assert_close(out, noise[:, i, None] - velocity, rtol=1e-4, atol=1e-4)
        assert (velocity - plain).abs().max() > 1e-2
        context = torch.cat([context, out], dim=1)
