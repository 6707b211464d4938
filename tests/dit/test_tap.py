"""Residual streams at the ends of blocks: the ones of a plain transformer, and free to be replaced."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from videowm.dit.attention import block_causal_mask
from videowm.dit.sample import Sampler
from videowm.dit.stream import LatentStream
from videowm.types import UserError

STEPS = 5


class Record:
    """A tap that keeps what it sees and changes nothing."""

    def __init__(self) -> None:
        self.seen: dict[int, list[torch.Tensor]] = {}

    def __call__(self, i: int, x: torch.Tensor) -> torch.Tensor:
        self.seen.setdefault(i, []).append(x)
        return x

    def streams(self) -> list[torch.Tensor]:
        """By block, all steps that passed: "b t s d"."""
        return [torch.cat(self.seen[i], dim=1) for i in sorted(self.seen)]


def plain(model, latents, level, actions, text=None) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The network as it is written in books: residual streams at the ends of blocks, and the velocity."""
    words = model.text_conditioning(*(text or ()))
    modulations = model.modulations(level, actions, words)
    rotary, t = model.rotary.angles(torch.arange(latents.shape[1])), latents.shape[1]

    def norm(x, shift, scale):
        return F.rms_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift

    x, streams = model.embed(rearrange(latents, "b t c (h p) (w q) -> b t (h w) (p q c)", p=2, q=2)), []
    for i, block in enumerate(model.blocks):
        shift1, scale1, gate1, shift2, scale2, gate2, *third = modulations[i].unbind(2)
        mask = block_causal_mask(t, model.tokens, model.windows[i])
        h = x + gate1 * block.attention(norm(x, shift1, scale1), rotary, mask, None)
        if third:
            h = h + third[2] * block.cross(norm(h, *third[:2]), words.blocks[i])
        x = h + gate2 * block.down(F.gelu(block.up(norm(h, shift2, scale2)), approximate="tanh"))
        streams.append(x)
    patches = model.head.unembed(norm(x, *modulations[-1].unbind(2)))
    return streams, rearrange(patches, "b t (h w) (p q c) -> b t c (h p) (w q)", h=2, w=2, p=2, q=2)


@torch.no_grad()
def test_the_streams_are_those_of_the_plain_network(spoken, said, inputs):
    """Guards a stream without the MLP's update, which the next block adds: every block's, with text, and the output.

    A tap that changes nothing gives the bits of a call without one.
    """
    tap = Record()
    out = spoken(**inputs, text=said, tap=tap)
    streams, expected = plain(spoken, **inputs, text=said)
    assert len(tap.streams()) == len(streams) == 2
    for seen, true in zip(tap.streams(), streams, strict=True):
        torch.testing.assert_close(seen, true, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(out, spoken(**inputs, text=said))


@torch.no_grad()
@pytest.mark.parametrize("parts", [(1, 1, 1, 1, 1), (3, 1, 1)])
def test_the_streams_with_a_cache(model, inputs, parts):
    """Guards a tap that the cached path forgets: step by step the same streams as of the whole clip."""
    tap, cache, first = Record(), model.new_cache(2, STEPS), 0
    for count in parts:
        model(**{k: v[:, first : first + count] for k, v in inputs.items()}, cache=cache, write=True, tap=tap)
        first += count
    streams, _ = plain(model, **inputs)
    for seen, true in zip(tap.streams(), streams, strict=True):
        torch.testing.assert_close(seen, true, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("cached", [False, True])
def test_what_a_tap_returns_goes_on(model, inputs, cached):
    """Guards a tap whose answer is dropped: the last block's stream set to 0 leaves the head's shift alone."""

    def silence(i, x):
        return torch.zeros_like(x) if i == 1 else x

    given = {k: v[:, :1] for k, v in inputs.items()}
    out = model(**given, cache=model.new_cache(2, STEPS) if cached else None, tap=silence)
    shift = model.modulations(given["level"], given["actions"])[-1][:, :, 0]
    expected = model.unpatched(model.head.unembed(shift).expand(-1, -1, model.tokens, -1))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert (out - model(**given)).abs().max() > 1e-3


def test_a_tap_lets_gradients_through(model, inputs):
    """Guards a probe or a steering vector that cannot be trained: its gradient arrives, with blocks computed twice."""
    push = torch.zeros(32, requires_grad=True)
    model.enable_gradient_checkpointing()
    try:
        model(**inputs, tap=lambda i, x: x + push if i == 0 else x).square().sum().backward()
    finally:
        model.disable_gradient_checkpointing()
        model.zero_grad(set_to_none=True)
    assert push.grad.abs().min() > 0


def test_a_tap_in_a_rollout(model):
    """Guards passes without their tap: context, each evaluation of the sampler, and the pass that writes the step.

    With action guidance every pass holds both branches. A CUDA graph cannot call a tap.
    """
    draw = torch.Generator().manual_seed(5)
    context, actions, noise = (torch.randn(2, *shape, generator=draw) for shape in ((3, 3, 4, 4), (4, 5), (1, 3, 4, 4)))

    def roll(tap):
        sampler = Sampler(2, "euler", context_level=0.0, action_guidance=2.0)
        stream = LatentStream(model, context, actions[:, :3], sampler=sampler, window=4, tap=tap)
        return stream.step(actions[:, 3:], noise)

    tap = Record()
    out = roll(tap)
    assert [x.shape for x in tap.seen[0]] == [(4, 3, 4, 32)] + 3 * [(4, 1, 4, 32)] and len(tap.seen[1]) == 4
    assert torch.equal(out, roll(None))
    assert (roll(lambda i, x: x + 1) - out).abs().max() > 1e-3
    with pytest.raises(UserError, match="graph=True and a tap were given"):
        LatentStream(model, context, actions[:, :3], window=4, graph=True, tap=tap)
