"""Generation step by step: guidance, noise on what is remembered, and paths that must agree."""

from __future__ import annotations

import pytest
import torch

from videowm.dit.sample import Sampler
from videowm.dit.stream import LatentStream

WINDOW = 4
CLEAN = {"context_level": 0.0}


@pytest.fixture
def given() -> dict[str, torch.Tensor]:
    """Two contexts of three steps, actions of nine steps, starting noise of six."""
    draw = torch.Generator().manual_seed(5)
    shapes = {"context": (2, 3, 3, 4, 4), "actions": (2, 9, 5), "noise": (2, 6, 3, 4, 4)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def streamed(model, given, *, static: bool = False, **settings) -> torch.Tensor:
    stream = LatentStream(
        model, given["context"], given["actions"][:, :3], sampler=Sampler(3, **CLEAN | settings), window=WINDOW
    )
    stream.use_graph = static  # without a GPU: the path that a graph records, run as it is
    stream.graph = Replay(stream) if static else None
    steps = [stream.step(given["actions"][:, i, None], given["noise"][:, i - 3, None]) for i in range(3, 9)]
    return torch.cat(steps, dim=1)


class Replay:
    """What a CUDA graph does: the same passes on the same buffers, and no line of Python between them."""

    def __init__(self, stream: LatentStream) -> None:
        self.stream = stream

    def replay(self) -> None:
        step = self.stream.cache.next_step
        self.stream.denoise()
        self.stream.cache.advance(1)
        self.stream.cache.next_step = step


@pytest.mark.parametrize("settings", [{}, {"action_guidance": 2.0}, {"sinks": 1, "context_level": 0.1}])
def test_the_path_of_the_graph_is_the_same(model, given, settings):
    """Guards whole buffers with a mask, which a graph needs, against the parts in use."""
    one, two = (streamed(model, given, static=static, **settings) for static in (False, True))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["action_guidance", "history_guidance"])
def test_a_guidance_of_one_is_none(model, given, name):
    """Guards a formula whose neutral scale is 0 or 2: near 1 the result is near that without, in proportion."""
    plain = streamed(model, given)
    near, far = (streamed(model, given, **{name: 1 + size}) for size in (1e-4, 0.5))
    assert torch.equal(streamed(model, given, **{name: 1.0}), plain)
    assert 0 < (near - plain).abs().max() < 1e-2 < (far - plain).abs().max()


def test_guidance_by_hand(model, given):
    """Guards branches that swap their parts: one step of one evaluation is v + (scale - 1) (v - v without actions)."""
    settings = {"window": WINDOW, "sampler": Sampler(1, action_guidance=3.0, **CLEAN)}
    stream = LatentStream(model, given["context"], given["actions"][:, :3], **settings)
    out = stream.step(given["actions"][:, 3, None], given["noise"][:, 0, None])
    velocity = []
    for actions in (given["actions"][:, :4], torch.zeros_like(given["actions"][:, :4])):
        level = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(2, 4)
        with torch.no_grad():
            x = torch.cat([given["context"], given["noise"][:, :1]], dim=1)
            velocity.append(model(x, level, actions)[:, -1:])
    with_actions, without = velocity
    expected = given["noise"][:, :1] - (with_actions + 2 * (with_actions - without))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_noise_on_what_is_remembered(model, given):
    """Guards a context level that is never applied to the latents, or noise drawn anew each time: the seed decides."""
    one, same = (streamed(model, given, context_level=0.3) for _ in range(2))
    assert torch.equal(one, same)
    assert (one - streamed(model, given)).abs().max() > 1e-3


def test_half_precision_is_near(awake, given):
    """Guards a path that silently loses more than bfloat16 must: within 5 % of float32 for one pass of the network."""
    model = awake(depth=2, channels=3, height=4, width=4, actions=5, hidden=32, heads=2)
    inputs = (given["context"], torch.rand(2, 3), given["actions"][:, :3])
    with torch.no_grad():
        whole, half = model(*inputs), model.to(torch.bfloat16)(*inputs)
    assert half.dtype == torch.float32 and 1e-5 < ((half - whole).norm() / whole.norm()).item() < 0.05
