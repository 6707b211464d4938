"""The transformer: what it sees, what it does not see, and what it is at the start."""

from __future__ import annotations

import pytest
import torch

from videowm.dit import DiT
from videowm.dit.attention import KVCache, Rotary, block_causal_mask, rotate

STEPS = 5


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "latents": torch.randn(2, STEPS, 3, 4, 4, generator=generator),
        "level": torch.rand(2, STEPS, generator=generator),
        "actions": torch.randn(2, STEPS, 5, generator=generator),
    }


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
@pytest.mark.parametrize("parts", [(1, 1, 1, 1, 1), (3, 1, 1), (1, 4), (2, 3)])
def test_the_cache_gives_what_the_whole_sequence_gives(model, inputs, parts):
    """Guards positions, masks and order in the cache, for one and several steps at a time."""
    cache, out, first = KVCache(model.depth), [], 0
    for count in parts:
        part = {k: v[:, first : first + count] for k, v in inputs.items()}
        read = model(**part, cache=cache)
        out.append(model(**part, cache=cache, write=True))
        assert torch.equal(read, out[-1]), "reading must not depend on writing"
        first += count
    torch.testing.assert_close(torch.cat(out, dim=1), model(**inputs), rtol=1e-5, atol=1e-5)
    assert cache.steps == list(range(STEPS)) and cache.next_step == STEPS


@torch.no_grad()
def test_reading_leaves_the_cache_alone(model, inputs):
    """Guards denoising that appends at every sampler step: the held keys are the very same tensors afterwards."""
    cache = KVCache(model.depth)
    model(**{k: v[:, :2] for k, v in inputs.items()}, cache=cache, write=True)
    held, steps = list(cache.keys), list(cache.steps)
    model(**{k: v[:, 2:3] for k, v in inputs.items()}, cache=cache)
    assert all(a is b for a, b in zip(cache.keys, held, strict=True)) and cache.steps == steps


@torch.no_grad()
def test_a_window_forgets_whole_steps(model, inputs):
    """Guards a window counted in tokens: after five steps a window of two holds steps 3 and 4, and their keys only."""
    windowed, whole = KVCache(model.depth, window=2), KVCache(model.depth)
    for i in range(STEPS):
        step = {k: v[:, i, None] for k, v in inputs.items()}
        model(**step, cache=windowed, write=True)
        if i < 2:  # until something is forgotten, both see the same
            model(**step, cache=whole, write=True)
            assert torch.equal(windowed.keys[1], whole.keys[1])
    assert windowed.steps == [3, 4] and windowed.keys[1].shape[2] == 2 * model.tokens


def test_mask_by_hand():
    """Guards a transposed mask or wrong token order: two cached steps and two new ones of two tokens, written out."""
    mask = block_causal_mask(torch.tensor([2, 3]), torch.tensor([0, 1, 2, 3]), tokens=2)
    rows = ["111111..", "111111..", "11111111", "11111111"]
    assert mask.tolist() == [[c == "1" for c in row] for row in rows]


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
    tokens = torch.randn(1, 2, 4, 64)
    rotary = fresh.rotary.angles(torch.arange(2))
    assert torch.equal(fresh.blocks[0](tokens, torch.randn(1, 2, 64), rotary, None, None, 0, write=False), tokens)


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
