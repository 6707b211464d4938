"""The compute axis of every law, against PyTorch's own counter and a published table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from videowm.data.clips import pick
from videowm.dit import DiT
from videowm.train.flops import (
    block_flops,
    causal_pairs,
    model_families,
    model_flops,
    parameters,
    peak_flops,
)
from videowm.train.tasks.world import drawn_frames

SIZES = [
    {"depth": 1, "channels": 4, "height": 8, "width": 8, "actions": 13, "patch": 2},
    {"depth": 4, "channels": 4, "height": 8, "width": 8, "actions": 13, "patch": 2, "local": 2},
    {"depth": 3, "channels": 8, "height": 6, "width": 4, "actions": 5, "patch": 1, "hidden": 96},
    {"depth": 2, "channels": 4, "height": 8, "width": 8, "actions": 13, "hidden": 96,
     "text": {"features": None, "length": 24, "into": "cross"}},
    {"depth": 3, "channels": 4, "height": 8, "width": 8, "actions": 13, "hidden": 64,
     "text": {"features": 20, "length": 11, "into": "cross"}},
    {"depth": 1, "channels": 4, "height": 8, "width": 8, "actions": 13,
     "text": {"features": 20, "length": 11, "into": "pooled"}},
    {"depth": 2, "channels": 4, "height": 8, "width": 8, "actions": 13, "shortcut": True},
]  # fmt: skip


def text_of(shape: dict) -> tuple[torch.Tensor, ...]:
    """A text of every place's length, where there is one."""
    if not (text := shape.get("text")):
        return ()
    places = (1, text["length"])
    tokens = torch.ones(*places, 12, dtype=torch.int16) if text["features"] is None else torch.ones(*places, 20)
    return tokens, torch.ones(places, dtype=torch.bool)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("steps", [1, 5])
def test_the_count_is_what_is_computed(shape, steps):
    """Guards a forgotten layer: step by step with the cache, exactly the pairs that the mask allows are computed, and a
    text once.

    Equality is exact, for each kernel family, and for several shapes and lengths, so no two errors cancel.
    """
    model = DiT(**shape).eval()
    cache = model.new_cache(1, steps)
    step = (torch.zeros(1, 1, shape["channels"], shape["height"], shape["width"]), torch.zeros(1, 1))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        words = model.text_conditioning(*text_of(shape))
        for _ in range(steps):
            model(*step, torch.zeros(1, 1, shape["actions"]), cache, text=words, write=True)
    assert counter.get_total_flops() == model_flops(model, steps)
    counts, families = counter.get_flop_counts()["Global"], model_families(model, steps)
    assert counts[torch.ops.aten.bmm] == families["attention"]
    assert sum(n for op, n in counts.items() if op is not torch.ops.aten.bmm) == families["matrix"]


def test_training_is_three_forward_passes():
    """Guards the factor 3 of the training compute: forward and backward without attention's mask, by the counter.

    One step has no masked pairs. The inputs need no gradient, so the embedding's part of the backward pass is missing.
    """
    model = DiT(**SIZES[0])
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        model(torch.zeros(1, 1, 4, 8, 8), torch.zeros(1, 1), torch.zeros(1, 1, 13)).square().sum().backward()
    assert 0.97 < counter.get_total_flops() / (3 * model_flops(model, 1)) <= 1


def test_pairs_by_hand():
    """Guards the triangle: steps of 2 tokens see 2, 4 and 6 tokens, so 3 steps have 4 + 8 + 12 pairs."""
    assert [causal_pairs(steps, 2) for steps in (1, 2, 3)] == [4, 12, 24]
    assert causal_pairs(3, 2, window=2) == 20


@pytest.mark.parametrize(
    ("depth", "width", "gmacs"), [(12, 384, 6.06), (12, 768, 23.01), (24, 1024, 80.71), (28, 1152, 118.64)]
)
def test_the_published_table(depth, width, gmacs):
    """Guards formulas that are wrong in the same way as our network: DiT-S, B, L and XL/2 at 256 px, in GMACs.

    32x32x4 latents in patches of 2 are 256 tokens of 16 numbers; the output also holds a variance (arXiv 2212.09748,
    table 4 and the authors' code).
    """
    blocks = depth * (block_flops(256, 256**2, width) + 12 * width**2)  # one condition vector, full attention
    ends = 2 * 256 * width * (16 + 32) + 4 * width**2
    assert (blocks + ends + 2 * (256 * width + width**2)) / 2e9 == pytest.approx(gmacs, rel=0.005)


@pytest.mark.parametrize("shape", SIZES)
def test_every_parameter_has_its_part(shape):
    """Guards N of the law: parts sum to the whole, and the body is 12 width² a block and two gains.

    A block's attention has 4 width² and two gains of a head's size, its MLP 8 width².
    """
    model = DiT(**shape)
    parts, width = parameters(model), model.hidden
    assert sum(parts.values()) == sum(p.numel() for p in model.parameters())
    assert parts["body"] == model.depth * (12 * width**2 + 2 * width // model.blocks[0].attention.heads)
    modulation = model.depth * model.parts * (width**2 + width) + 2 * width**2 + 2 * width
    assert parts["adaln"] == modulation + model.level_mlp[0].in_features * width + width + width**2 + width
    if "text" in shape and shape["text"]["into"] == "cross":
        own = sum(p.numel() for p in model.text_condition.parameters())
        heads = model.blocks[0].cross.heads
        assert parts["text"] == own + model.depth * (2 * width**2 + width // heads)
    assert ("text" in parts) == ("text" in shape)


def test_peak_by_name():
    """Guards a share of the wrong device's peak, and one where no peak is known."""
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12 and peak_flops("NVIDIA A100-SXM4-40GB") == 312e12
    assert peak_flops("Some CPU") is None


@pytest.mark.parametrize(("samples", "steps", "window"), [(50, 9, 4), (130, 9, 9), (470, 5, 2)])
def test_frames_are_counted_as_windows_are_drawn(samples, steps, window):
    """Guards repeats that are undercounted: half of the windows begin where their clip begins.

    40 clips, windows drawn as training draws them, many times; the mean is within 1 % of the expectation.
    """
    last, frames, found = steps - window, np.array([1] + [4] * (steps - 1)), []
    for seed in range(60):
        shown = np.zeros((40, steps), bool)
        for index in range(samples):
            clip, rng = pick(seed, index, 40)
            begin = int(rng.integers(last + 1)) if rng.random() < 0.5 else 0
            shown[clip, begin : begin + window] = True
        found.append((shown * frames).sum())
    assert drawn_frames(samples, 40, steps, window, 4) == pytest.approx(np.mean(found), rel=0.01)
