"""Latents on disk: what is in them, what they are refused for, and that an interrupted call goes on."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import ranks
from safetensors.torch import load_file

from videowm.actions.group import group_actions
from videowm.data.checks import first_uses
from videowm.data.clips import pick
from videowm.data.dataset import Dataset
from videowm.data.encode import write_shard
from videowm.data.latents import Latents, LatentsIndex, Origin, normalised
from videowm.data.mixture import Mixture
from videowm.parts import Part
from videowm.types import UserError
from videowm.vae.codec import DiffusersCodec, load_vae, to_float


@pytest.fixture
def folder(latents, tmp_path):
    """A copy of the encoded recording that a test may damage."""
    return shutil.copytree(latents, tmp_path / "latents")


@pytest.fixture
def other_codec(vae_run, tmp_path) -> DiffusersCodec:
    """Another autoencoder: one weight is moved."""
    vae = load_vae(vae_run).eval()
    with torch.no_grad():
        next(vae.parameters()).view(-1)[0] += 0.01
    return DiffusersCodec(vae)


def test_shards_hold_the_recording(latents, dataset, codec):
    """Guards latents beside the wrong actions: each clip is encoded here again from where the shard says it is."""
    recording = Dataset(dataset)
    for split, count in (("train", 8), ("test", 4)):
        shard = load_file(latents / f"{split}-00000.safetensors")
        where = [(int(e), int(s)) for e, s in zip(shard["episode"], shard["start"], strict=True)]
        assert where == [(e, s) for e in recording.split(split) for s in (0, 32)] and len(where) == count
        for row, (episode, start) in enumerate(where):
            np.testing.assert_array_equal(shard["actions"][row], recording.actions(episode)[start : start + 32])
        clip = recording.clip(*where[-1], 33)
        with torch.no_grad():
            encoded = codec.encode(to_float(clip.frames)[None])[0]
        torch.testing.assert_close(shard["latents"][-1].float(), encoded, rtol=2e-3, atol=2e-3)


def test_half_precision_costs_little(encode, codec, vae_run, latents, tmp_path):
    """Guards a storage type that spoils the latents: the error is below 0.1 % of their spread, and it is not zero.

    bf16 has three bits less and must be worse, so it is really the stored type that is measured.
    """
    exact = load_file(encode(tmp_path / "32", codec, vae_run, dtype="fp32") / "train-00000.safetensors")["latents"]
    errors = {}
    for dtype, folder in (("fp16", latents), ("bf16", encode(tmp_path / "bf", codec, vae_run, dtype="bf16"))):
        stored = load_file(folder / "train-00000.safetensors")["latents"]
        errors[dtype] = ((stored.float() - exact).square().mean().sqrt() / exact.std()).item()
    assert 0 < errors["fp16"] < 1e-3 < errors["bf16"] < 1e-2


def test_opened_latents_are_normalised(latents):
    """Guards statistics of the wrong axes or split: training latents have mean 0 and deviation 1 in each channel.

    Held-out latents are normalised by the same numbers, so theirs are near, and not exact.
    """
    train, test = Latents.open(latents, "train"), Latents.open(latents, "test")
    stored, grouped = train.whole()
    assert stored.dtype == torch.float16 and stored.shape == (8, 9, 4, 8, 8) and train.stride == 4
    channels = normalised(stored, train.scale).double().transpose(0, 2).flatten(1)
    assert channels.mean(1).abs().max() < 1e-4 and (channels.std(1) - 1).abs().max() < 1e-3
    assert not grouped[:, 0].any() and (grouped[:, 1:, -1] == 1).all()
    actions = grouped[:, 1:, :-1].double().reshape(-1, 3)
    assert actions.mean(0).abs().max() < 1e-4 and (actions.std(0) - 1).abs().max() < 1e-3
    raw = load_file(latents / "test-00000.safetensors")["latents"]
    assert torch.equal(test.whole()[0], raw)
    mean, std = (torch.tensor(getattr(train.index, key))[:, None, None] for key in ("mean", "std"))
    torch.testing.assert_close(normalised(raw, test.scale) * std + mean, raw.float(), rtol=1e-4, atol=1e-4)


def test_the_same_call_again_does_nothing(encode, codec, vae_run, folder):
    """Guards encoding twice: no file is touched, and the index comes back."""
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    encode(folder, codec, vae_run)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("interrupted", ["before the index", "one shard missing", "one shard cut off"])
def test_an_interrupted_call_goes_on(encode, codec, vae_run, latents, folder, interrupted):
    """Guards a folder that depends on how often it was started: all files have the bytes of the uninterrupted call's.

    A shard that is whole is kept as it is, one that was cut off when the machine stopped is made anew.
    """
    (folder / "latents.json").unlink()
    kept, lost = folder / "train-00000.safetensors", folder / "test-00000.safetensors"
    if interrupted == "one shard missing":
        lost.unlink()
    elif interrupted == "one shard cut off":
        os.truncate(lost, 100)
    before = kept.stat().st_mtime_ns
    encode(folder, codec, vae_run)
    assert kept.stat().st_mtime_ns == before
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {p.name: p.read_bytes() for p in latents.iterdir()}


@pytest.mark.parametrize("finished", [True, False])
def test_latents_of_another_autoencoder_are_refused(encode, other_codec, vae_run, folder, finished):
    """Guards shards of two autoencoders in one folder, whether the first call had finished or not."""
    if not finished:
        (folder / "latents.json").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="was encoded with vae_hash .* choose another --out"):
        encode(folder, other_codec, vae_run)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(("key", "settings"), [("frames", {"frames": 17}), ("dtype", {"dtype": "fp32"})])
def test_latents_of_other_settings_are_refused(encode, codec, vae_run, folder, key, settings):
    """Guards a folder whose name promises something else than it holds."""
    with pytest.raises(UserError, match=f"was encoded with {key}"):
        encode(folder, codec, vae_run, **settings)


@pytest.mark.parametrize("how", ["flipped bit", "cut off", "gone"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_damaged_shard_is_refused(folder, split, how):
    """Guards training on broken numbers, which safetensors reads without a word."""
    path = folder / f"{split}-00000.safetensors"
    if how == "gone":
        path.unlink()
    elif how == "cut off":
        os.truncate(path, path.stat().st_size - 1)
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path.name} is missing or not the file that was encoded"):
        opened = Latents.open(folder, split)
        assert how == "flipped bit", "what a header tells is refused at once"
        opened.check(range(1))


def test_an_index_that_is_not_there_or_damaged(folder, tmp_path):
    """Guards tracebacks for a folder that was never encoded and for a file that was cut off."""
    with pytest.raises(UserError, match="no finished latents"):
        LatentsIndex.read(tmp_path)
    os.truncate(folder / "latents.json", 30)
    with pytest.raises(UserError, match="latents.json is damaged"):
        LatentsIndex.read(folder)


def test_clips_that_are_too_long(encode, codec, vae_run, tmp_path):
    """Guards an empty folder: no recorded episode has 73 frames, and 70 fit no time stride."""
    with pytest.raises(UserError, match="no train and test episodes of 73 frames"):
        encode(tmp_path / "long", codec, vae_run, frames=73)
    with pytest.raises(UserError, match="70 frames does not fit the time stride 4.*69 and 73"):
        encode(tmp_path / "long", codec, vae_run, frames=70)
    with pytest.raises(UserError, match="batch 0 cannot be used"):
        encode(tmp_path / "long", codec, vae_run, batch=0)


def test_a_channel_that_says_nothing(folder, codec, encode, vae_run):
    """Guards a division by zero: a channel that is constant over the recording is normalised to a finite number."""
    index = LatentsIndex.read(folder)
    origin = Origin(**{name: getattr(index, name) for name in Origin.__dataclass_fields__})
    (folder / "latents.json").unlink()
    for split in ("train", "test"):
        path = folder / f"{split}-00000.safetensors"
        tensors = load_file(path)
        tensors["latents"][:, :, 1] = 0.5
        write_shard(path, tensors, origin)
    encode(folder, codec, vae_run)
    assert json.loads((folder / "latents.json").read_text())["std"][1] > 0
    assert torch.isfinite(Latents.open(folder, "test").whole()[0]).all()


def test_several_processes_go_on_together(encode, codec, vae_run, dataset, fork, tmp_path):
    """Guards shards that no process makes, or that two make, when some were there: two processes end what was killed.

    Of three shards one is whole, one was cut off and one only begun. Every file has the bytes that one uninterrupted
    process writes, the index included, the whole shard is not touched, and nothing else is left.
    """
    alone, out = encode(tmp_path / "alone", codec, vae_run, frames=5), tmp_path / "two"
    shutil.copytree(alone, out)
    (out / "latents.json").unlink()
    os.truncate(out / "train-00000.safetensors", 1000)
    os.rename(
        out / "test-00000.safetensors", out / f".test-00000.safetensors.{2**22 + 1}.tmp.safetensors"
    )  # of no process
    whole = (out / "train-00001.safetensors").stat().st_mtime_ns
    encode_it = ["encode", dataset, "--vae", vae_run, "--out", out, "--frames", 5]
    both = [fork(*encode_it, **rank) for rank in ranks(2)]
    stdout, stderr = ("".join(texts) for texts in zip(*(process.communicate() for process in both), strict=True))
    assert [process.returncode for process in both] == [0, 0], stderr
    assert stdout.count("made by VAE") == 1 and "fp16 costs" in stdout
    assert "encode train (process 1 of 2)" in stderr
    names = {"train-00000.safetensors", "train-00001.safetensors", "test-00000.safetensors", "latents.json"}
    assert {path.name for path in out.iterdir()} == {path.name for path in alone.iterdir()} == names
    assert all((out / name).read_bytes() == (alone / name).read_bytes() for name in names)
    assert (out / "train-00001.safetensors").stat().st_mtime_ns == whole
    check_reading(out)


def test_parts_give_the_bytes_of_the_whole(encode, codec, vae_run, tmp_path, capfd):
    """Guards shards that no part makes, or two, and statistics that depend on who made what.

    One part was killed and is made again. A shard that another part lost is made by the last. Other settings are
    refused. A lost shard of a finished folder is made again by whichever part it belongs to.
    """
    out, alone = tmp_path / "parts", encode(tmp_path / "alone", codec, vae_run, frames=5)
    assert encode(out, codec, vae_run, frames=5, part=Part(1, 2)) and not (out / "latents.json").exists()
    assert "without 2 it is unfinished" in "".join(capfd.readouterr())
    with pytest.raises(UserError, match="parts was encoded with frames 5, this call has 9"):
        encode(out, codec, vae_run, frames=9, part=Part(2, 2))
    (out / "train-00000.safetensors").unlink()
    (out / ".part-2-of-2").write_text(f"{socket.gethostname()} {2**22 + 1}")
    encode(out, codec, vae_run, frames=5, part=Part(2, 2))
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in alone.iterdir()}
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "train-00001.safetensors").unlink()
    for number in (1, 2):
        encode(out, codec, vae_run, frames=5, part=Part(number, 2))
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in alone.iterdir()}
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"train-00001.safetensors"}


def check_reading(folder: Path) -> None:
    """Windows of clips in two shards are cut where their header says, with the actions of their clip."""
    opened = Latents.open(folder, "train")
    parts = [load_file(folder / name) for name in opened.names]
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    assert len(parts) == 2 and len(opened) == len(whole["latents"]) == 68
    clips, starts = [67, 3, 64, 63, 3], [1, 0, 0, 1, 1]
    latents, actions = opened.windows(clips, starts, 1)
    mean, std = opened.index.action_scale
    grouped = group_actions((whole["actions"] - mean) / std, 4)
    for row, (clip, start) in enumerate(zip(clips, starts)):
        assert torch.equal(latents[row, 0], whole["latents"][clip, start])
        assert torch.equal(actions[row, 0], grouped[clip, start])
    assert torch.equal(torch.stack(opened.places()), torch.stack([whole["episode"], whole["start"]]))
    assert torch.equal(opened.episodes(clips), whole["episode"][clips])
    shards, samples = first_uses(Mixture([opened]), 7)
    order = [pick(7, i, 68)[0] // 64 for i in range(68)]
    assert shards.tolist() == list(dict.fromkeys(order)) and samples.tolist() == [order.index(s) for s in shards]


def test_a_shard_is_hashed_once_a_host(folder):
    """Guards hashing at every start, and a file that was written anew and passes for the one that was checked.

    A bit that flips while inode, size and time stay is what `videowm info --verify` is for: it reads everything.
    """
    path = folder / "train-00000.safetensors"
    Latents.open(folder, "train").check([0])
    stamp, content = path.stat().st_mtime_ns, bytearray(path.read_bytes())
    content[-1] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(stamp, stamp))
    Latents.open(folder, "train").check([0])  # remembered: this process opened the folder anew
    os.utime(path, ns=(stamp, stamp + 1))
    with pytest.raises(UserError, match="not the file that was encoded"):
        Latents.open(folder, "train").check([0])
    os.utime(path, ns=(stamp, stamp))
    with pytest.raises(UserError, match="not the file that was encoded"):
        LatentsIndex.read(folder).verify(folder)
    with pytest.raises(UserError, match="not the file that was encoded"):
        Latents.open(folder, "train").check([0])


def test_nothing_of_a_damaged_shard_is_saved(folder, train_world, tmp_path):
    """Guards a checkpoint or a model with numbers of a damaged shard: training reads it before its hash is known."""
    for split in ("test", "train"):
        path = folder / f"{split}-00000.safetensors"
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(UserError, match=f"{path.name} is missing or not the file that was encoded"):
            train_world(tmp_path / split, f"latents={folder}")
        assert not (tmp_path / split / "checkpoints").exists() and not (tmp_path / split / "record.json").exists()
        path.write_bytes(whole)


def test_a_shard_that_vanishes_while_training_is_one_sentence(folder, tmp_path):
    """Guards a traceback, or a process that the system ends, where a file becomes shorter after it was opened."""
    opened = Latents.open(folder, "train")
    os.truncate(folder / "train-00000.safetensors", 5000)
    with pytest.raises(UserError, match="train-00000.safetensors is missing or not the file"):
        opened.windows([7], [0], 9)


def test_the_cost_of_rounding_is_in_the_index(encode, codec, vae_run, latents, tmp_path):
    """Guards a storage type whose cost nobody sees: bf16 costs more than fp16, and fp32 nothing."""
    cost = {"fp16": LatentsIndex.read(latents)}
    for dtype in ("bf16", "fp32"):
        cost[dtype] = LatentsIndex.read(encode(tmp_path / dtype, codec, vae_run, dtype=dtype))
    assert 0 < cost["fp16"].rounding_rms < 1e-3 < cost["bf16"].rounding_rms < 1e-2
    assert 120 > cost["fp16"].rounding_db > cost["bf16"].rounding_db > 40
    assert cost["fp32"].rounding_db is None and cost["fp32"].rounding_rms == 0


def test_latents_that_are_not_finite(encode, vae_run, tmp_path):
    """Guards statistics that are NaN: an autoencoder with one broken weight is refused before a shard is written."""
    vae = load_vae(vae_run).eval()
    with torch.no_grad():
        vae.down.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="latents of episode 0 from frame 0 on are not finite"):
        encode(tmp_path / "nan", DiffusersCodec(vae), vae_run)
    assert not (tmp_path / "nan").exists()
