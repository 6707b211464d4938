"""Generation step by step: guidance, noise on what is remembered, and paths that must agree."""

from __future__ import annotations

import pytest
import torch

from videowm.dit.sample import Sampler
from videowm.dit.stream import LatentStream
from videowm.types import UserError

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
    stream.graphs = dict.fromkeys((False, True), Replay(stream)) if static else {}
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


@pytest.mark.parametrize(
    "settings", [{}, {"history_guidance": 1.5, "context_level": 0.1}, {"sinks": 1, "action_guidance": 2.0}], ids=str
)
def test_a_step_that_was_given(model, given, settings):
    """Guards a step that is remembered otherwise than one that was drawn, or as a part of the context would be.

    One stream draws steps until its window slides, another one sees them: what is kept and comes next is the same.
    """
    sampler, past = Sampler(3, **CLEAN | settings), torch.randn(2, 9, 3, 4, 4, generator=torch.manual_seed(6))
    context, acted = given["context"], given["actions"]

    def begun(known: int, latents: torch.Tensor, window: int = WINDOW) -> LatentStream:
        return LatentStream(model, latents[:, :known], acted[:, :known], sampler=sampler, window=window,
                            past_noise=past[:, :known], keep=1)  # fmt: skip

    drawing, seeing, whole = begun(3, context), begun(3, context), context
    for i in range(3, 7):
        drawn = drawing.step(acted[:, i, None], given["noise"][:, i - 3, None], past[:, i, None])
        seeing.see(acted[:, i, None], drawn, past[:, i, None])
        torch.testing.assert_close(seeing.kept, drawing.kept, rtol=1e-4, atol=1e-5)
        whole = torch.cat([whole, drawn], dim=1)
    then = [s.step(acted[:, 7, None], given["noise"][:, 4, None], past[:, 7, None]) for s in (drawing, seeing)]
    torch.testing.assert_close(*then, rtol=1e-4, atol=1e-5)
    read, seen = begun(7, whole, window=9), begun(1, whole, window=9)
    for i in range(1, 7):
        assert not torch.allclose(seen.kept, read.kept, atol=1e-3)
        seen.see(acted[:, i, None], whole[:, i, None], past[:, i, None])
    torch.testing.assert_close(seen.kept, read.kept, rtol=1e-4, atol=1e-5)


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


def draws(shape: tuple[int, ...], count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


RESETS = {4: ([1], 2), 6: ([0, 3], 3), 7: ([1], 1)}  # before a step: the rows that begin anew, and from how many steps


def with_resets(model, resets: dict, only: int | None = None, *, static: bool, **settings) -> torch.Tensor:
    """Nine steps of four rows (or of one, alone from its last beginning on) of which some begin anew."""
    rows = slice(None) if only is None else slice(only, only + 1)
    contexts, actions, noises = draws((4, 3, 3, 4, 4), 10), draws((4, 3, 5), 10), draws((4, 1, 3, 4, 4), 10)
    began, known = next(((at, n) for at, (who, n) in reversed(resets.items()) if only in who), (0, 3))

    def beginning(at: int, where, known: int) -> tuple[torch.Tensor, ...]:
        return contexts[at][where, :known], actions[at][where, :known], contexts[9 - at][where, :known]

    context, before, past = beginning(began, rows, known)
    stream = LatentStream(model, context, before, sampler=Sampler(2, **settings), window=WINDOW, past_noise=past)
    stream.use_graph = static
    stream.graphs = dict.fromkeys((False, True), Replay(stream)) if static else {}
    out = []
    for i in range(began, 9):
        if only is None and i in resets:
            who, known = resets[i]
            stream.reset(who, *beginning(i, who, known))
        out.append(stream.step(actions[i][rows, :1], noises[i][rows], noises[9 - i][rows]))
    return torch.cat(out, dim=1)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("settings", [{"history_guidance": 1.5}, {"sinks": 1, "action_guidance": 2.0}], ids=str)
def test_rows_begin_anew_while_others_go_on(model, monkeypatch, settings, static):
    """Guards a row that sees what it was before, another row's keys, sinks or actions, or positions that are not its
    own: each row is what it is alone, from its last beginning on; row 2 never begins anew."""
    monkeypatch.setattr(model, "windows", [2, None])
    together = with_resets(model, RESETS, static=static, **settings)
    for row in range(4):
        alone = with_resets(model, RESETS, row, static=False, **settings)
        torch.testing.assert_close(together[row, None, -alone.shape[1] :], alone, rtol=1e-4, atol=1e-4)
    never = with_resets(model, {}, static=static, **settings)
    torch.testing.assert_close(never[2], together[2], rtol=1e-4, atol=1e-4)
    assert all((never[row] - together[row]).abs()[-2:].max() > 1e-2 for row in (0, 1, 3))


@pytest.mark.parametrize("settings", [{}, {"action_guidance": 2.0}, {"sinks": 1, "context_level": 0.1}])
@pytest.mark.parametrize("static", [False, True])
def test_rows_that_are_taken_go_on_as_those_selected(model, given, settings, static):
    """Guards a memory, a clock, features or a past that a stream keeps from before it took others' rows: a recorded
    graph serves the next decision. It had gone three steps further, and its windows were full."""
    options = {"sampler": Sampler(3, **CLEAN | settings), "window": WINDOW, "keep": 1}
    base, rows = LatentStream(model, given["context"], given["actions"][:, :3], **options), torch.tensor([1, 0, 1])
    taking = base.select([0, 0, 1])
    taking.use_graph, taking.graphs = static, dict.fromkeys((False, True), Replay(taking)) if static else {}
    for i in range(3):
        taking.step(given["actions"][rows, i, None], given["noise"][rows, i, None])
    taking.take(base, rows)
    selected = base.select(rows.tolist())
    torch.testing.assert_close(taking.kept, selected.kept)
    past = torch.randn(3, 1, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    for i in range(3, 6):
        one, two = (s.step(given["actions"][rows, i, None], given["noise"][rows, i, None], past)
                    for s in (taking, selected))  # fmt: skip
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    selected = taking.select([2, 2, 0])
    selected.use_graph = False
    taking.take(taking, torch.tensor([2, 2, 0]))
    one, two = (s.step(given["actions"][rows, 6, None], given["noise"][rows, 5, None], past)
                for s in (taking, selected))  # fmt: skip
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(taking.kept, selected.kept, rtol=1e-4, atol=1e-4)


def test_a_text_stays_with_its_row(spoken, said):
    """Guards a row that begins anew under another row's text."""
    context, actions, noise = torch.randn(2, 3, 3, 4, 4), torch.randn(2, 3, 5), torch.randn(2, 1, 3, 4, 4)
    settings = {"sampler": Sampler(2, **CLEAN), "window": WINDOW}
    stream = LatentStream(spoken, context, actions, text=said, **settings)
    stream.step(actions[:, :1], noise)
    stream.reset([1], context[1:], actions[1:])
    alone = LatentStream(spoken, context[1:], actions[1:], text=tuple(part[1:] for part in said), **settings)
    out, expected = stream.step(actions[:, :1], noise), alone.step(actions[1:, :1], noise[1:])
    torch.testing.assert_close(out[1:], expected, rtol=1e-4, atol=1e-4)


def test_rows_that_cannot_begin_anew(model, given):
    """Guards a row that silently keeps its past: one that is not there, named twice, or without a context."""
    stream = LatentStream(model, given["context"], given["actions"][:, :3], sampler=Sampler(1, sinks=2), window=WINDOW)
    for rows in ([2], [-1], [0, 0], [0, 1]):
        with pytest.raises(UserError, match=r"cannot begin anew from 1 contexts: give one for each row of 0 to 1"):
            stream.reset(rows, given["context"][:1], given["actions"][:1, :3])
    with pytest.raises(UserError, match="2 sinks and a context of 1 latent steps do not fit"):
        stream.reset([0], given["context"][:1, :1], given["actions"][:1, :1])
