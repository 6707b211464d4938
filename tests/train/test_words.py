"""Captions in training: which one a window takes, what is drawn, one run end to end with each kind of encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from videowm import config as configuration
from videowm.data.clips import pick
from videowm.data.dataset import Dataset
from videowm.data.encode import encode_dataset
from videowm.data.latents import Latents
from videowm.data.played import PlayedSource
from videowm.data.playing import play_episode
from videowm.data.state_captions import caption_from_state, played_hash
from videowm.data.window_captions import FORMS, WRITERS, WindowCaptions, captions_beside
from videowm.dit.sample import Sampler
from videowm.pipeline import WorldModelPipeline
from videowm.train.tasks.world import WorldRun, WorldTask
from videowm.types import UserError
from videowm.vae.codec import to_float
from videowm.worlds import open_world


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> Path:
    """A tiny T5 encoder with ByT5's tokenizer in a folder."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    config = T5Config(vocab_size=384, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(folder)
    ByT5Tokenizer().save_pretrained(folder)
    return folder


def task(run: Path, **changes) -> WorldTask:
    data = configuration.to_dict(configuration.load(WorldRun, run / "config.yaml"))
    text = data["text"] | changes.pop("text", {})
    return WorldTask(configuration.build(WorldRun, data | {"text": text} | changes))


def test_a_window_takes_the_caption_of_the_frames_that_it_shares_most(worded):
    """Guards latent steps counted as frames, and clips of another episode: every window against the definition."""
    latents, sources = Latents.open(worded / "latents", "train"), captions_beside(worded / "data", [])
    found, (episode, start) = WindowCaptions.of(latents, sources, 5, [""]), latents.places()
    assert set(sources) == set(WRITERS)
    assert found.captions[0] == "" and len(set(found.captions)) == len(found.captions)
    seen = set()
    for clip in range(len(latents)):
        for step in range(5):
            frames = {int(start[clip]) + f for f in ([0] if step == 0 else []) + list(
                range(max(1, 1 + 4 * (step - 1)), 4 * (step + 4) + 1))}  # fmt: skip
            for w, writer in enumerate(WRITERS):
                shared = {k: len(frames & set(range(k.start, k.start + k.frames))) for k in sources[writer]
                          if k.episode == episode[clip]}  # fmt: skip
                for f, form in enumerate(FORMS):
                    said = found.captions[found.table[clip, step, w, f]]
                    best = max(shared.values(), default=0)
                    assert said in ({getattr(sources[writer][k], form) for k, n in shared.items() if n == best}
                                    if best else {""})  # fmt: skip
                    seen.add(said)
    assert "" not in seen or len(seen) > 8


def test_the_mix(worded_run):
    """Guards shares that are swapped or depend on one another, and draws that are no function of (seed, step, slot).

    And the order of data: with words the same windows come as without.
    """
    spoken = task(worded_run)
    steps = range(60)
    loaded = [spoken.load(step, range(4)) for step in steps]
    drawn = torch.cat([batch["drawn"] for batch in loaded])
    words = torch.cat([batch["words"] for batch in loaded])
    assert torch.equal(spoken.load(7, range(4))["words"], loaded[7]["words"])
    assert torch.equal(spoken.load(7, range(2, 4))["words"], loaded[7]["words"][2:])
    empty = drawn[:, 0].mean().item()
    assert empty == pytest.approx(0.25, abs=0.09)
    assert drawn[:, 2].mean().item() == pytest.approx(0.75 * 0.5, abs=0.1)
    assert torch.equal(drawn[:, 0] > 0, (words[:, 0, 0] == 1)), "an empty caption is its end alone"
    model = torch.tensor([bytes(row[0, :5].sub(3).clamp_min(0).tolist()) == b"model" for row in words])
    assert torch.equal(model, drawn[:, 1] > 0) and 0.2 < model.float().mean() < 0.6
    for share, expected in ((0.0, 0), (1.0, 1)):
        only = task(worded_run, text={"synthetic": share, "drop": 0.0})
        both = (only.text.windows.table[..., 0] > 0).all(-1)
        for step in range(20):
            for slot in range(4):
                clip, rng = pick(only.seed, step * 4 + slot, len(only.latents))
                start = int(rng.integers(5)) if rng.random() < 0.5 else 0
                if both[clip, start]:
                    assert only.load(step, range(slot, slot + 1))["drawn"][0, 1] == expected
    silent = task(worded_run, text={})
    silent.text = None
    for step in range(4):
        assert torch.equal(silent.load(step, range(4))["latents"], loaded[step]["latents"])


def test_resident_words_are_the_loaded_ones(worded_run):
    """Guards captions of other samples where only their numbers leave the loader."""
    on, off = task(worded_run, resident="on"), task(worded_run, resident="off")
    for one in (on, off):
        one.to(torch.device("cpu"))
    for step in range(4):
        where = on.load(step, range(4))
        assert where.keys() == {"clip", "start", "caption", "drawn"}
        (resident, shares), (loaded, same) = (
            on.text_conditioning(where),
            off.text_conditioning(off.load(step, range(4))),
        )
        assert all(torch.equal(a, b) for a, b in zip(resident["text"], loaded["text"], strict=True))
        assert shares == same and set(shares) == {"text/empty", "text/synthetic", "text/short"}


def test_a_run_with_words(worded_run, train_worded, world_run, tmp_path, same):
    """Guards words that are left out of record, log, checkpoint or exported folder: half a run resumes to the same."""
    record = json.loads((worded_run / "record.json").read_text())
    plain = json.loads((world_run / "record.json").read_text())
    assert record["params"]["text"] > 0 and record["params"]["body"] == plain["params"]["body"]
    assert record["flops"]["train"] > plain["flops"]["train"] and record["hashes"]["bank"] == plain["hashes"]["bank"]
    assert record["text"]["encoder"] == "bytes" and set(record["text"]["captions"]) == set(WRITERS)
    assert "text" not in plain and "text" not in plain["params"] and "heldout/text_gap" in record["metrics"]
    line = json.loads((worded_run / "metrics.jsonl").read_text().splitlines()[0])
    assert {"text/empty", "text/synthetic", "text/short"} <= line.keys()
    stopped = shutil.copytree(worded_run, tmp_path / "run")
    for left in ("record.json", "model_index.json"):
        (stopped / left).unlink()
    shutil.rmtree(stopped / "checkpoints/step-00000004")
    train_worded(stopped, "train.save_every=2")
    same(worded_run, stopped)


def test_activations_computed_again(worded_run, train_worded, tmp_path, same):
    """Guards words that checkpointing cuts off from their gradient: the same bits with less memory."""
    train_worded(tmp_path / "run", "train.checkpointing=true")
    same(worded_run, tmp_path / "run")


def opened(run: Path, dataset: Path) -> tuple[WorldModelPipeline, torch.Tensor, torch.Tensor]:
    pipeline, recording = WorldModelPipeline.open(run), Dataset(dataset)
    generator = torch.Generator().manual_seed(0)
    for parameter in pipeline.transformer.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return pipeline, to_float(recording.frames(4, range(5)))[None], torch.tensor(recording.actions(4))[None, :12]


def test_prompts(worded_run, dataset):
    """Guards a prompt that is lost on the way to the network, in a call and in a stream, and one for another row."""
    pipeline, frames, actions = opened(worded_run, dataset)
    frames, actions = frames.expand(2, -1, -1, -1, -1), actions.expand(2, -1, -1)
    noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    given = {"noise": noise, "sampler": Sampler(2)}
    none, empty, both = (pipeline(frames, actions, **given, prompt=p).frames for p in (None, "", ["", "a red car"]))
    assert torch.equal(none, empty) and torch.equal(both[0], none[0]) and not torch.equal(both[1, 5:], none[1, 5:])
    stream = pipeline.start(frames, actions[:, :4], sampler=Sampler(2), prompt=["", "a red car"])
    steps = [stream.step(actions[:, 4 + 4 * i : 8 + 4 * i], noise[:, i, None]) for i in range(2)]
    torch.testing.assert_close(torch.cat(steps, 1), both[:, 5:], rtol=1e-4, atol=1e-4)
    guided = pipeline(frames, actions, noise=noise, sampler=Sampler(2, text_guidance=3.0), prompt=["", "a red car"])
    torch.testing.assert_close(guided.frames[0], none[0], rtol=1e-4, atol=1e-4)
    assert (guided.frames[1] - both[1]).abs().max() > 1e-3
    with pytest.raises(UserError, match="3 prompts were given for 2 contexts"):
        pipeline(frames, actions, **given, prompt=["a", "b", "c"])


def test_a_prompt_to_a_model_without_text(world_run, dataset):
    """Guards a prompt that silently does nothing."""
    pipeline, frames, actions = opened(world_run, dataset)
    with pytest.raises(UserError, match="trained without text, so a prompt does nothing: leave it out"):
        pipeline(frames, actions, prompt="a red car")
    with pytest.raises(UserError, match="text guidance 2 needs a model that was trained with captions"):
        pipeline(frames, actions, sampler=Sampler(2, text_guidance=2.0))


def test_a_run_with_a_frozen_encoder(train_worded, worded, encoder, dataset, tmp_path):
    """Guards features computed twice, a folder that needs the encoder elsewhere, and a prompt that is another one's.

    The second run computes nothing: its encoder is never asked for the training captions.
    """
    shutil.rmtree(worded / "latents/text", ignore_errors=True)
    train_worded(tmp_path / "run", f"text.encoder={encoder}", "text.length=64", "text.into=pooled", "train.steps=2")
    files = list((worded / "latents/text").rglob("*.safetensors"))
    assert len(files) == 2, "training and held-out captions"
    stamps = [file.stat().st_mtime_ns for file in files]
    again = task(tmp_path / "run")
    assert [file.stat().st_mtime_ns for file in files] == stamps
    assert len(list((worded / "latents/text").rglob("*.safetensors"))) == 2
    fresh = again.text.encoder.encode(again.text.windows.captions[:3])
    torch.testing.assert_close(fresh[0], again.text.tokens[0][:3], rtol=1e-2, atol=1e-2)
    moved = shutil.copytree(tmp_path / "run", tmp_path / "moved", ignore=shutil.ignore_patterns("checkpoints"))
    shutil.move(encoder, hidden := encoder.with_name("hidden"))
    try:
        pipeline, frames, actions = opened(moved, dataset)
    finally:
        shutil.move(hidden, encoder)
    generator = torch.Generator().manual_seed(0)
    one, two = (pipeline(frames, actions, sampler=Sampler(1), generator=generator.manual_seed(0), prompt=p).frames
                for p in ("left", "right"))  # fmt: skip
    assert not torch.equal(one[:, 5:], two[:, 5:])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["text.captions=[nobody]"], "no captions are called 'nobody'"),
        (["text.encoder=no/such"], "no text encoder at 'no/such'"),
        (["text.drop=2"], "text.drop: 2.0 is out of range"),
        (["text.length=0"], "text.length: 0 is out of range"),
        (["text.into=somewhere"], "'somewhere' is not a choice"),
    ],
)
def test_what_a_user_may_write(train_worded, tmp_path, overrides, expected):
    """Guards tracebacks, and runs that begin without what they are to be told."""
    with pytest.raises(UserError, match=expected):
        train_worded(tmp_path / "run", *overrides)
    assert not (tmp_path / "run").exists()


def test_no_captions_at_all(latents, train_world, tmp_path):
    """Guards a run with words that no one wrote."""
    with pytest.raises(UserError, match="has no captions: make some with videowm caption, or leave `text` out"):
        train_world(tmp_path / "run", "text={}")


def test_two_captions_of_a_kind(worded):
    """Guards a choice between two models' captions that nobody made."""
    data = worded / "data"
    name, _ = caption_from_state(data, clip_frames=33)
    try:
        with pytest.raises(UserError, match="two captions by 'state' are beside .*: name one in text.captions"):
            captions_beside(data, [])
        assert next(iter(captions_beside(data, [name])["state"])).frames == 33
    finally:
        for path in data.glob(f"captions/{name}*"):
            path.unlink()
    assert np.all([k.frames == 17 for c in captions_beside(data, []).values() for k in c])


def test_words_of_clips_that_were_played(worded, codec, vae_run, train_world, tmp_path):
    """Guards words of other clips: played ones are in no recording, their words lie beside the latents."""
    data = Dataset(worded / "data")
    played = PlayedSource(data, episodes=2, seed=9, workers=1)
    out = tmp_path / "latents"
    encode_dataset(data, codec, out, vae=str(vae_run), to_frames=to_float, frames=33, played=played, states=True)
    with pytest.raises(UserError, match="clips without captions: encode with --states, then run videowm"):
        train_world(tmp_path / "run", f"latents={out}", "text={}")
    with pytest.raises(UserError, match="have 33 frames: give --clip-frames 33, or fewer by a multiple of 4"):
        caption_from_state(out, clip_frames=18)
    name, count = caption_from_state(out, clip_frames=33)
    latents = Latents.open(out, "train")
    assert count == len(latents) and caption_from_state(out, clip_frames=33) == (name, count)
    episodes = {i: play_episode(open_world(data.name), 9, i, int(data.lengths.max())) for i in (0, 1)}
    written = captions_beside(out, [], played_hash(latents.index))["state"]
    for (episode, start, frames), caption in written.items():
        taped = episodes[episode]
        rows = slice(start, start + frames)
        rng = np.random.default_rng([episode, start])
        said = open_world(data.name).caption(taped.states[rows], taped.actions[rows][:-1], rng)
        assert caption.short == said
    record = train_world(tmp_path / "run", f"latents={out}", "text.length=64", "text.captions=[state]")
    assert record["text"]["captions"]["state"]["clips"] == count
    with pytest.raises(UserError, match="caption that recording"):
        caption_from_state(worded / "latents", clip_frames=33)
    name, count = caption_from_state(out, clip_frames=29)
    assert count == 2 * len(latents)
    source = {"state": captions_beside(out, [name], played_hash(latents.index))["state"]}
    found = WindowCaptions.of(latents, source, 8, [""])
    for clip, (episode, start) in enumerate(zip(*(part.tolist() for part in latents.places()))):
        for step in (0, 1):  # the last frame of the window is the last one that its caption knows
            first, taped = start + 4 * step, episodes[episode]
            said = open_world(data.name).caption(
                taped.states[first : first + 29], taped.actions[first : first + 28],
                np.random.default_rng([episode, first]),
            )  # fmt: skip
            assert found.captions[found.choose(clip, step, synthetic=False, short=True)[0]] == said
