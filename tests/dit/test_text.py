"""Text in the network: in every step, computed once for a stream, and nothing to a model without."""

from __future__ import annotations

import pytest
import torch
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from videowm import config as configuration
from videowm.dit import DiT, flow
from videowm.dit.sample import Sampler
from videowm.dit.stream import LatentStream
from videowm.dit.text import ByteText, FrozenText, encoder_width
from videowm.types import UserError

STEPS = 5


@torch.no_grad()
def test_every_step_depends_on_its_own_text(spoken, said, inputs):
    """Guards a text that reaches no step, or another sample's: one sample's words change all of its steps, no other."""
    before = spoken(**inputs, text=said)
    tokens = said[0].clone()
    tokens[0, 1] += 1
    after = spoken(**inputs, text=(tokens, said[1]))
    assert torch.equal(after[1], before[1]) and (after[0] - before[0]).abs().flatten(1).amax(1).min() > 1e-4


@torch.no_grad()
def test_padding_says_nothing(spoken, said, inputs):
    """Guards a mask that is left out: whatever stands at the padding's places, the same bits come out."""
    tokens, mask = said
    if spoken.config.text["features"] is None:
        assert (tokens[~mask] == 0).all(), "bytes have one padding only"
        block = spoken.text_condition.encoder.blocks[0]
        tokens = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(3))
        words = [block(t, mask[:, None, None])[mask] for t in (tokens, tokens * mask[..., None])]
        torch.testing.assert_close(*words)
        return
    other = torch.where(mask[..., None], tokens, 9.0)
    assert torch.equal(spoken(**inputs, text=(other, mask)), spoken(**inputs, text=said))


@torch.no_grad()
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("parts", [(1, 1, 1, 1, 1), (3, 1, 1)])
def test_the_cache_gives_what_the_whole_sequence_gives(spoken, said, inputs, parts, static):
    """Guards words that are lost or read anew between steps: computed once, they serve a whole rollout."""
    cache, words, out, first = spoken.new_cache(2, 6), spoken.text_conditioning(*said), [], 0
    for count in parts:
        part = {k: v[:, first : first + count] for k, v in inputs.items()}
        if count == 1:
            modulations = spoken.modulations(part["level"], part["actions"], words)
            read = spoken.one_step(part["latents"], modulations, cache, words, static=static)
        out.append(spoken(**part, cache=cache, text=words, write=True))
        assert count > 1 or torch.allclose(read, out[-1], atol=1e-6)
        first += count
    torch.testing.assert_close(torch.cat(out, dim=1), spoken(**inputs, text=said), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("changed", ["latents", "level", "actions"])
def test_the_future_changes_nothing_before_it(spoken, said, inputs, changed):
    """Guards a leak through cross-attention: from the changed step on all differ, before it none."""
    other = inputs | {changed: inputs[changed].clone()}
    other[changed][:, 2] = 0.31
    before, after = (spoken(**given, text=said) for given in (inputs, other))
    assert torch.equal(after[:, :2], before[:, :2]) and (after != before)[:, 2:].flatten(2).any(2).all()


@pytest.mark.usefixtures("unchecked")
def test_blocks_compile_without_graph_breaks(spoken, said, inputs):
    """Guards a break that would leave the GPU waiting: one graph serves all blocks with cross-attention."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    with torch.no_grad():
        plain = spoken(**inputs, text=said)
        for module in (*spoken.blocks, spoken.head):
            module.compile(fullgraph=True, dynamic=False, backend=counter)
        torch.testing.assert_close(spoken(**inputs, text=said), plain, rtol=1e-5, atol=1e-5)
    assert counter.frame_count == 2
    spoken.uncompile()


def test_a_training_step_is_tensors_in_tensors_out(spoken, said, inputs):
    """Guards the call that CUDA graphs record: all inputs are tensors, and every parameter gets a gradient from it."""
    out = spoken.velocity(*inputs.values(), *said)
    assert torch.equal(out, spoken(**inputs, text=said))
    out.square().sum().backward()
    silent = [name for name, p in spoken.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    spoken.zero_grad(set_to_none=True)
    assert not silent


def test_cross_attention_starts_as_nothing(inputs):
    """Guards cross-attention that disturbs the start: a fresh network's blocks change nothing, though its gates are
    open."""
    fresh = DiT(1, 3, 4, 4, 5, hidden=32, heads=2, text={"features": 6, "length": 7, "into": "cross"})
    words = fresh.text_conditioning(torch.randn(2, 7, 6), torch.ones(2, 7, dtype=torch.bool))
    modulation = fresh.modulations(inputs["level"], inputs["actions"], words)[0]
    stream = (torch.randn(2, STEPS, 4, 32), torch.randn(2, STEPS, 4, 32), torch.zeros(2, STEPS, 1, 32))
    rotary = fresh.rotary.angles(torch.arange(STEPS))
    x, _, gate = fresh.blocks[0](*stream, modulation, rotary, None, None, words.blocks[0])
    assert torch.equal(x, stream[0]) and not gate.any()
    assert (modulation[:, :, 8] == 1).all() and not modulation[:, :, :8].any()


def streamed(model, text, empty, steps: int = 3, **settings) -> torch.Tensor:
    draw = torch.Generator().manual_seed(5)
    context, actions = torch.randn(2, 3, 3, 4, 4, generator=draw), torch.randn(2, 3 + steps, 5, generator=draw)
    noise = torch.randn(2, steps, 3, 4, 4, generator=draw)
    stream = LatentStream(model, context, actions[:, :3], sampler=Sampler(2, **settings), window=4, text=text,
                          empty=empty)  # fmt: skip
    return torch.cat([stream.step(actions[:, 3 + i, None], noise[:, i, None]) for i in range(steps)], 1)


def test_text_guidance(spoken, said):
    """Guards a weaker branch that has the text too, or a formula whose neutral scale is not 1.

    Guided against its own text, nothing changes; a scale of 1 is none; near 1 the result is near it.
    """
    empty = tuple(part[1:] for part in said)
    plain = streamed(spoken, said, empty)
    assert torch.equal(streamed(spoken, said, empty, text_guidance=1.0), plain)
    near, far = (streamed(spoken, said, empty, text_guidance=1 + size) for size in (1e-4, 0.5))
    assert 0 < (near - plain)[0].abs().max() < 1e-2 < (far - plain)[0].abs().max()
    torch.testing.assert_close(far[1], plain[1], rtol=1e-4, atol=1e-4)


def test_guidance_of_a_model_without_words(model, inputs):
    """Guards a scale that silently does nothing, and texts that reach the wrong kind of network."""
    with pytest.raises(UserError, match="text_guidance 2.0 needs a model with text"):
        streamed(model, None, None, text_guidance=2.0)
    with pytest.raises(ValueError, match="model without"):
        model(**inputs, text=(torch.zeros(2, 7, 6), torch.ones(2, 7, dtype=torch.bool)))


def test_bytes_are_those_of_byt5():
    """Guards ids of our own making: word by word the tokenizer's, long words in pieces, and an end that is cut off."""
    captions = ["", "a red car, turning", "Straße überallhinaus", "left " * 9]
    ids, mask = ByteText(6).encode(captions)
    cut = [[], ["a", "red", "car", ",", "turning"], ["Straße", "überallhina", "us"], ["left"] * 5]
    for row, seen, words in zip(ids, mask, cut, strict=True):
        theirs = [ByT5Tokenizer()(word)["input_ids"][:-1] for word in words] + [[1]]
        assert [piece[piece > 0].tolist() for piece in row[seen]] == theirs and not row[~seen].any()
    from videowm.train.words import TextConfig

    with pytest.raises(UserError, match="length: 0 is out of range"):
        configuration.build(TextConfig, {"length": 0})


def test_a_frozen_encoder(tmp_path):
    """Guards features of padding, of another caption, or of weights that train; and an encoder that is not there."""
    torch.manual_seed(0)
    config = T5Config(vocab_size=384, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(tmp_path)
    ByT5Tokenizer().save_pretrained(tmp_path)
    text = FrozenText.open(str(tmp_path), 24)
    tokens, mask = text.encode(["turn left", "", *["a"] * 40])
    assert tokens.shape == (42, 24, 16) and mask.sum(1).tolist() == [10, 1, *[2] * 40] and encoder_width(tmp_path) == 16
    alone = text.encode(["turn left"])[0][0]
    torch.testing.assert_close(alone[:10], tokens[0, :10], rtol=1e-2, atol=1e-2)
    assert (tokens[0, 0] != tokens[2, 0]).any() and not any(p.requires_grad for p in text.encoder.parameters())
    assert text.hash == FrozenText.open(str(tmp_path), 24).hash != FrozenText.open(str(tmp_path), 16).hash
    for name in ("no-such/encoder", str(tmp_path / "nothing")):
        with pytest.raises(
            UserError, match="no text encoder at .*: give bytes, a local folder, or a hub name"
        ) as error:
            FrozenText.open(name, 24)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("into", ["cross", "pooled"])
def test_words_are_learned(into):
    """Guards a path that carries words but no gradient to the encoder: two captions of which one word differs.

    The data are constant under each; after seconds the right caption is worth more than half of the loss.
    """
    torch.manual_seed(0)
    model = DiT(1, 2, 4, 4, 3, hidden=64, text={"features": None, "length": 12, "into": into})
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.99), weight_decay=0)
    words = ByteText(12).encode([f"a red car drives slowly, turning {side}" for side in ("left", "right")])

    def loss(said: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        latents = (2 * shown - 1).float().view(-1, 1, 1, 1, 1) + 0.3 * torch.randn(len(shown), 3, 2, 4, 4)
        level, noise = torch.rand(len(shown), 3) / 2 + 0.5, torch.randn_like(latents)
        text = tuple(part[said] for part in words)
        predicted = model(flow.noised(latents, noise, level), level, torch.zeros(len(shown), 3, 3), text=text)
        return flow.step_loss(predicted, flow.velocity(latents, noise)).mean()

    for _ in range(80):
        side = torch.randint(2, (32,))
        loss(side, side).backward()
        optimizer.step()
        optimizer.zero_grad()
    side = torch.arange(64) % 2
    with torch.no_grad():
        assert loss(side, side) < 0.5 < 2 < loss(1 - side, side)
