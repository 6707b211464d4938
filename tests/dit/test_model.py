"""The transformer: what it sees, what it does not see, and what it is at the start."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from videowm.dit import DiT
from videowm.dit.attention import Rotary, attention, block_causal_blocks, block_causal_mask, rotate, unit
from videowm.types import UserError

STEPS = 5


@torch.no_grad()
@pytest.mark.parametrize("changed", ["latents", "level", "actions"])
@pytest.mark.parametrize("at", range(1, STEPS))
def test_the_future_changes_nothing_before_it(model, inputs, changed, at):
    """Guards a leak of what is yet to be predicted: bit for bit, for each of the three inputs and each step.

    The changed step itself must come out different, so a network that ignores the input does not pass.
    """
    before = model(**inputs)
    other = inputs | {changed: inputs[changed].clone()}
    other[changed][:, at] = 0.31
    after = model(**other)
    assert torch.equal(after[:, :at], before[:, :at])
    assert (after[:, at] != before[:, at]).flatten(1).any(1).all()


@torch.no_grad()
@pytest.mark.parametrize("changed", ["latents", "level", "actions"])
def test_the_past_is_seen(model, inputs, changed):
    """Guards a mask that hides too much: a change in the first step reaches every later one."""
    other = inputs | {changed: inputs[changed].clone()}
    other[changed][:, 0] = 0.31
    differs = (model(**other) != model(**inputs)).flatten(2).any(2)
    assert differs.all()


@torch.no_grad()
def test_all_of_a_step_is_seen(model, inputs):
    """Guards attention that is causal within a step too: a change in the last patch reaches the first."""
    other = inputs | {"latents": inputs["latents"].clone()}
    other["latents"][:, 0, :, 2:, 2:] += 1
    moved = (model(**other) - model(**inputs))[:, 0, :, :2, :2]
    assert moved.abs().flatten(1).amax(1).min() > 1e-4


@torch.no_grad()
def test_samples_do_not_mix(model, inputs):
    """Guards axes mixed up in a rearrange: one sample of a batch alone gives what it gives among others."""
    alone = model(**{k: v[1:] for k, v in inputs.items()})
    torch.testing.assert_close(alone, model(**inputs)[1:], rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("local", [None, 2])
@pytest.mark.parametrize("parts", [(1, 1, 1, 1, 1), (3, 1, 1), (5,)])
def test_the_cache_gives_what_the_whole_sequence_gives(model, inputs, parts, local, static, monkeypatch):
    """Guards positions, masks, rings and order in the cache: as part of the buffers, and all under a mask."""
    monkeypatch.setattr(model, "windows", [local, None])
    cache, out, first = model.new_cache(2, 6), [], 0
    for count in parts:
        part = {k: v[:, first : first + count] for k, v in inputs.items()}
        if count == 1:
            read = model.one_step(
                part["latents"], model.modulations(part["level"], part["actions"]), cache, static=static
            )
        out.append(model(**part, cache=cache, write=True))
        assert count > 1 or torch.allclose(read, out[-1], atol=1e-6), "reading must not depend on writing"
        first += count
    whole = model(**inputs)
    torch.testing.assert_close(torch.cat(out, dim=1), whole, rtol=1e-5, atol=1e-5)
    assert cache.next_step == STEPS
    if local:
        monkeypatch.undo()
        assert (whole[:, 2:] - model(**inputs)[:, 2:]).abs().max() > 1e-3, "a local block must see less"


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def remembered(model, inputs, window: int, sinks: int) -> torch.Tensor:
    """A rollout's memory as it is defined, in lists: keys are turned for every query, as that one sees them."""
    cache = [[] for _ in range(model.depth)]
    out = []
    for i in range(STEPS):
        part = {k: v[:, i, None] for k, v in inputs.items()}
        modulations = model.modulations(part["level"], part["actions"])
        _, x, _ = model.stream(part["latents"])
        seen = [j for j in range(i + 1) if i - j < window - (sinks if i >= window else 0) or j < sinks]
        at = {j: j if j >= sinks or i < window else i - window + 1 + j for j in seen}
        for block, modulation, held in zip(model.blocks, modulations, cache):
            shift1, scale1, gate1, shift2, scale2, gate2 = modulation.unbind(2)
            qkv = block.attention.qkv(modulate(x, shift1, scale1).flatten(1, 2))
            query, key, value = rearrange(qkv, "b l (three n k) -> three b n l k", three=3, n=block.attention.heads)
            gains = block.attention.gains.view(2, -1)
            query, key = unit(query, gains[0]), unit(key, gains[1])
            held.append((key, value))
            keys = [rotate(held[j][0], *model.rotary.angles(torch.tensor([at[j]]))) for j in seen]
            query = rotate(query, *model.rotary.angles(torch.tensor([i])))
            mixed = attention(query, torch.cat(keys, 2), torch.cat([held[j][1] for j in seen], 2), None)
            attended = block.attention.project(rearrange(mixed, "b n l k -> b l (n k)"))
            x = x + gate1 * attended[:, None]
            x = x + gate2 * block.down(F.gelu(block.up(modulate(x, shift2, scale2)), approximate="tanh"))
        out.append(model.unpatched(model.head.unembed(modulate(x, *modulations[-1].unbind(2)))))
    return torch.cat(out, dim=1)


@torch.no_grad()
@pytest.mark.parametrize(("window", "sinks"), [(3, 0), (2, 0), (3, 1), (4, 2), (9, 1)])
def test_a_sliding_window_with_and_without_sinks(model, inputs, window, sinks):
    """Guards rings that overwrite the wrong step and sinks whose positions stay behind: against lists, step by step."""
    cache, out = model.new_cache(2, window, sinks=sinks), []
    for i in range(STEPS):
        out.append(model(**{k: v[:, i, None] for k, v in inputs.items()}, cache=cache, write=True))
    out = torch.cat(out, dim=1)
    torch.testing.assert_close(out, remembered(model, inputs, window, sinks), rtol=1e-5, atol=1e-5)
    if window < STEPS:
        assert (out - model(**inputs)).abs()[:, -1].max() > 1e-3, "a window must forget"
        other = remembered(model, inputs, window, 1 - sinks if sinks < 2 and window > 2 else 0)
        assert window == 2 or (out - other).abs()[:, -1].max() > 1e-3, "sinks must matter"


@torch.no_grad()
def test_sinks_do_not_wear_out(model, inputs):
    """Guards keys that are turned on from their last place, so that rounding adds up: 300 slides later as at first.

    And memory that grows: every buffer keeps its size.
    """
    cache = model.new_cache(2, 3, sinks=1)
    part = {k: v[:, :1] for k, v in inputs.items()}
    sizes = [k.shape for k in cache.keys + cache.values]
    for _ in range(300):
        model(**part, cache=cache, write=True)
    kept, turned = cache.kept[0], cache.keys[0][:, :, : model.tokens]
    angles = cache.rotary.forward_in_time(torch.tensor([298]))
    torch.testing.assert_close(turned, rotate(kept, *angles))
    assert [k.shape for k in cache.keys + cache.values] == sizes and cache.next_step == 300


def test_several_steps_only_at_the_beginning(model, inputs):
    """Guards positions that start again at 0 in the middle of a rollout."""
    cache = model.new_cache(2, 6)
    model(**{k: v[:, :2] for k, v in inputs.items()}, cache=cache, write=True)
    with pytest.raises(ValueError, match="one after the other"):
        model(**{k: v[:, 2:4] for k, v in inputs.items()}, cache=cache)
    with pytest.raises(UserError, match="3 sinks leave no room in a window of 4 latent steps: give 2 at most"):
        model.new_cache(1, 4, sinks=3)


def test_mask_by_hand():
    """Guards a transposed mask or wrong token order: three steps of two tokens that see two steps, written out."""
    rows = ["11....", "11....", "1111..", "1111..", "..1111", "..1111"]
    assert block_causal_mask(3, 2, 2).tolist() == [[c == "1" for c in row] for row in rows]
    assert block_causal_mask(3, 2)[-1].all()


@torch.no_grad()
@pytest.mark.parametrize("local", [None, 2])
def test_flex_attention_is_the_same_attention(local):
    """Guards a block mask that hides other pairs than the boolean one (uncompiled; there is no gradient on a CPU)."""
    query, key, value = torch.randn(3, 1, 1, 4 * 128, 16, generator=torch.Generator().manual_seed(0))
    blocks = attention(query, key, value, block_causal_blocks(4, 128, local, torch.device("cpu")))
    plain = attention(query, key, value, block_causal_mask(4, 128, local))
    torch.testing.assert_close(blocks, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_blocks_compile_without_graph_breaks(inputs, awake):
    """Guards a break that would leave the GPU waiting: fullgraph raises at one. One graph serves all blocks."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    model, counter = awake(depth=3, channels=3, height=4, width=4, actions=5, hidden=32, heads=2), CompileCounter()
    with torch.no_grad():
        plain = model(**inputs)
        for module in (*model.blocks, model.head):
            module.compile(fullgraph=True, dynamic=False, backend=counter)
        torch.testing.assert_close(model(**inputs), plain, rtol=1e-5, atol=1e-5)
    assert counter.frame_count == 2, "blocks share one graph, the head has the other"
    model.uncompile()


@pytest.mark.usefixtures("unchecked")
def test_compiled_training_on_a_cpu_is_the_same(inputs, awake):
    """Guards `train.compile=on` on a CPU, where FlexAttention has no gradient: two steps move the weights alike.

    Of the two blocks one looks back over two steps, the other over all.
    The compiler is the one that needs no C++ on the machine; it traces the backward pass as the real one does.
    """
    torch._dynamo.reset()
    trained = []
    for compiled in (False, True):
        model = awake(depth=2, channels=3, height=4, width=4, actions=5, hidden=32, heads=2, local=2).train()
        before = model.embed.weight.clone()
        if compiled:
            model.compile_blocks(backend="aot_eager")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(2):
            model(**inputs).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        model.uncompile()
        trained.append(model.state_dict())
        assert (model.embed.weight - before).abs().max() > 1e-4
    torch.testing.assert_close(trained[1], trained[0], rtol=1e-4, atol=1e-6)


def test_only_differences_of_steps_reach_the_scores():
    """Guards a rollout that drifts because its steps count on: scores of steps (0, 3) equal those of (40, 43)."""
    rotary, generator = Rotary(16, 2, 2), torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 4, 16, generator=generator)

    def scores(q: int, k: int) -> torch.Tensor:
        turned = [rotate(x, *rotary.angles(torch.tensor([s]))) for x, s in ((query, q), (key, k))]
        return turned[0] @ turned[1].mT

    torch.testing.assert_close(scores(3, 0), scores(43, 40), rtol=1e-4, atol=1e-4)
    assert (scores(3, 0) - scores(4, 0)).abs().max() > 0.05


def test_patches_of_a_step_are_told_apart(model):
    """Guards positions that name only the time: equal patches in other places of the picture give other scores."""
    cos, sin = model.rotary.angles(torch.arange(2))
    rows = torch.cat([cos, sin], dim=-1)
    assert len(torch.unique(rows, dim=0)) == 2 * model.tokens


def test_the_start_is_nothing():
    """Guards adaLN-Zero: a fresh network predicts exactly zero and its blocks change nothing, whatever it is given."""
    fresh = DiT(depth=1, channels=3, height=4, width=4, actions=5)
    out = fresh(torch.randn(1, 2, 3, 4, 4), torch.rand(1, 2), torch.randn(1, 2, 5))
    assert torch.equal(out, torch.zeros(1, 2, 3, 4, 4))
    stream = (torch.randn(1, 2, 4, 64), torch.randn(1, 2, 4, 64), torch.zeros(1, 2, 1, 64))
    modulation = fresh.modulations(torch.rand(1, 2), torch.randn(1, 2, 5))[0]
    x, _, gate = fresh.blocks[0](*stream, modulation, fresh.rotary.angles(torch.arange(2)), None)
    assert torch.equal(x, stream[0]) and not gate.any()


def test_depth_is_the_one_dial():
    """Guards the ladder: width 64 and one head for every block, unless a width is given."""
    assert [(DiT(d).hidden, DiT(d).blocks[0].attention.heads) for d in (1, 2, 4)] == [(64, 1), (128, 2), (256, 4)]
    assert (DiT(2, hidden=96).hidden, DiT(2, hidden=96).blocks[0].attention.heads) == (96, 1)


def test_save_and_load(model, inputs, tmp_path):
    """Guards settings left out of config.json: the loaded network gives the same bits."""
    model.save_pretrained(tmp_path)
    loaded = DiT.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    with torch.no_grad():
        assert torch.equal(loaded(**inputs), model(**inputs))


@pytest.mark.usefixtures("unchecked")
@torch._dynamo.config.patch(recompile_limit=2)  # torch's own is 8
def test_more_shapes_than_torch_recompiles(awake):
    """Guards a long process: a block compiled for many lengths, one after the other, goes on compiling."""
    torch._dynamo.reset()
    model = awake(depth=1, channels=3, height=4, width=4, actions=5, hidden=32, heads=2)
    model.compile_blocks(backend="eager")
    for t in range(2, 5):
        inputs = torch.randn(1, t, 3, 4, 4), torch.rand(1, t), torch.randn(1, t, 5)
        with torch.no_grad():
            compiled = model(*inputs)
            with model.uncompiled():
                torch.testing.assert_close(compiled, model(*inputs))
