"""Several folders of latents as one set: the same clips, one order, one scale."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from videowm import config
from videowm.data.action_table import ActionTable
from videowm.data.dataset import Dataset
from videowm.data.latents import FILE, Latents
from videowm.data.mixture import Mixture, clips_of_share
from videowm.data.starts import acted_dataset
from videowm.files import sha256_of
from videowm.record import RunRecord
from videowm.train.registry import finished_task
from videowm.train.tasks.world import drawn_frames
from videowm.types import UserError


@pytest.fixture(scope="module")
def second(latents, tmp_path_factory) -> Path:
    """Another recording's latents, as it were: three of the clips, twice as large, with statistics of their own."""
    folder = tmp_path_factory.mktemp("second") / "latents"
    shutil.copytree(latents, folder)
    path = folder / "train-00000.safetensors"
    tensors = {name: tensor[:3].clone() for name, tensor in load_file(path).items()}
    save_file(tensors | {"latents": 2 * tensors["latents"]}, path)
    index = json.loads((folder / FILE).read_text())
    index["files"][path.name], index["clips"]["train"], index["data_hash"] = sha256_of(path), 3, "another"
    index |= {key: [1.0 + value for value in index[key]] for key in ("mean", "std", "action_mean", "action_std")}
    (folder / FILE).write_text(json.dumps(index))
    return folder


def test_clips_of_two_folders(latents, second):
    """Guards clips of the wrong folder, of a wrong order, or by statistics that the model does not know; and shards
    that are never checked."""
    mixed, first = Mixture.open([str(latents), str(second)]), Latents.open(latents, "train")
    assert len(mixed) == 11 and mixed.index.mean == first.index.mean
    chosen, starts = [9, 0, 8, 7, 2], [1, 0, 4, 2, 3]
    found, actions = mixed.windows(chosen, starts, 5)
    for row, (clip, start) in enumerate(zip(chosen, starts)):
        z, a = first.windows([clip % 8], [start], 5)
        assert torch.equal(found[row], z[0] * (1 + clip // 8)) and torch.equal(actions[row], a[0])
    whole, every = mixed.whole(), mixed.windows(range(11), [0] * 11, 9)
    assert all(torch.equal(a, b) for a, b in zip(whole, every)) and mixed.nbytes == sum(t.nbytes for t in whole)
    assert mixed.shards_of([0, 10, 7]).tolist() == [0, 1, 0]
    mixed.check([0, 1])
    broken = Mixture([*mixed.parts[:1], Latents.open(second, "train")])
    broken.parts[1].index.files["train-00000.safetensors"] = "0" * 64
    broken.check([0])
    with pytest.raises(UserError, match="not the file that was encoded"):
        broken.check([1])


def test_a_share_of_the_episodes(latents, second, dataset):
    """Guards clips outside the share that a labeller of the same seed learns from, and those that are never drawn."""
    few, every = (Mixture.open([str(latents)], share=share, seed=3) for share in (0.5, 1.0))
    own = every.parts[0].placed[0]
    assert (
        set(own[few.rows[0]]) == set(Dataset(dataset).labelled_episodes(0.5, 3))
        and len(few) == 4
        and every.chosen is None
    )
    drawn = [few.pick(0, index)[0] for index in range(8)]
    assert sorted(drawn) == sorted([0, 1, 2, 3] * 2) and sorted(few.first_pass(0)[0]) == [0, 1, 2, 3]
    whole, windows = few.whole(), every.windows(few.rows[0], [0] * 4, 9)
    assert all(torch.equal(a, b) for a, b in zip(whole, windows)) and few.nbytes == sum(t.nbytes for t in whole)
    assert all(torch.equal(a, b) for a, b in zip(whole, few.windows(range(4), [0] * 4, 9)))
    with pytest.raises(UserError, match="changed since"):
        Mixture.open([str(latents), str(second)], share=0.5)


def test_a_model_of_a_share(latents, dataset, train_world, tmp_path):
    """Guards frames that were never seen in the record, and a model of labels that is judged by labels."""
    folder, data = shutil.copytree(latents, tmp_path / "latents"), Dataset(dataset)
    rows = [2 * data.all_actions(episode) + 1 for episode in range(data.num_episodes)]
    table = ActionTable.of("labelled", data.action_names, rows, data.split("train"))
    table.save(folder, data.hash, {})
    own = [f"latents={folder}", f"actions={table.name}", "share=0.25", "train.steps=2", "rollout.clips=0"]
    record = train_world(tmp_path / "few", *own)
    episodes = data.labelled_episodes(0.25, 0)
    assert record["share"] == {"share": 0.25, "episodes": 1, "hours": data.hours(episodes)}
    assert record["frames"]["unique"] == round(drawn_frames(8, 2, 9, 5, 4)) <= 2 * 33 < record["frames"]["seen"]
    task = finished_task(tmp_path / "few", "cpu")
    assert task.dataset().source == acted_dataset(tmp_path / "few").source == "recorded"
    mean, std = task.latents.described.action_scale
    assert torch.equal(mean, torch.from_numpy(table.mean))
    clip, first = task.bank.where[0]
    true = Latents.open(latents, "test")
    true = replace(true, index=replace(true.index, action_mean=table.mean.tolist(), action_std=table.std.tolist()))
    torch.testing.assert_close(task.bank.actions[:1], true.windows([clip], [first], 4)[1])
    with pytest.raises(UserError, match="share 0.25 is of recorded episodes"):
        index = replace(true.index, played={"episodes": 1, "seed": 1})
        clips_of_share(replace(true, index=index), 0.25, 0)


@pytest.mark.parametrize("mix", [None, [1, 1], [5, 2], [1, 4]])
def test_the_order_of_a_mixture(latents, second, mix):
    """Guards shares that drift, a clip that comes again before its folder's others came, and a shard that is saved
    before it was checked: all against the stream itself."""
    mixed, count = Mixture.open([str(latents), str(second)], mix), 67
    stream = [mixed.pick(5, i)[0] for i in range(count)]
    for samples in range(count):
        own = [sum(clip < 8 for clip in stream[:samples]), sum(clip >= 8 for clip in stream[:samples])]
        assert mixed.drawn(5, samples) == own
        assert mix is None or abs(own[0] - samples * mix[0] / sum(mix)) < max(mix)
    for low, high in pairwise([0, 8, 11]) if mix else [(0, 11)]:
        own = [clip for clip in stream if low <= clip < high]
        passes = [own[i : i + high - low] for i in range(0, len(own) - high + low + 1, high - low)]
        assert passes and all(sorted(one) == list(range(low, high)) for one in passes)
    clips, samples = mixed.first_pass(5)
    assert samples.tolist() == sorted(samples) and sorted(clips) == list(range(11))
    assert [stream.index(clip) for clip in clips] == samples.tolist()
    draws = {mixed.pick(5, i)[1].random() for i in range(count)}
    assert len(draws) == count and mixed.pick(5, 3)[1].random() in draws


def test_training_on_two_folders(latents, second, world_run, train_world, tmp_path):
    """Guards a record that hides where frames came from, held-out clips that change with what is added, and
    latents on the device that are others than those on disk."""
    both = f"latents=[{latents},{second}]"
    off, on = (train_world(tmp_path / where, "train.steps=2", both, "mix=[1,3]", f"resident={where}")
               for where in ("off", "on"))  # fmt: skip
    first = RunRecord.read(world_run).to_json()
    assert "sources" not in first and off["hashes"] == first["hashes"]
    assert [source["seen"] / off["frames"]["seen"] for source in off["sources"]] == [0.25, 0.75]
    assert [source["clips"] for source in off["sources"]] == [8, 3] and off["sources"][1]["data"] == "another"
    assert on["metrics"]["heldout/loss"] == off["metrics"]["heldout/loss"]
    assert off["frames"]["unique"] < off["frames"]["seen"]
    assert config.read(tmp_path / "off/config.yaml")["latents"] == [str(latents), str(second)]


def test_heads_on_two_folders(three_run, three_heads):
    """Guards ends of one recording that pass for shown in another, whose episodes have the same numbers."""
    from videowm.train import registry

    alone = config.read(three_run / "config.yaml")["latents"]
    own = [f"world={three_run}", f"out={three_heads}", "context=2", "hidden=32", "width=8"]
    one, two = (registry.build_task(registry.load("configs/heads/base.yaml", [*own, *more]))
                for more in ([], [f"latents=[{alone},{alone}]"]))  # fmt: skip
    assert two.targets.known.sum() == 2 * one.targets.known.sum() > 0
    batch = two.load(0, range(16))
    assert batch["latents"].shape[0] == 16 and np.isfinite(batch["reward"].numpy()).all()


@pytest.mark.parametrize(("more", "sentence"), [
    (["latents=[]"], "names no folder"),
    (["latents=[{latents},{three}]"], "has world 'three' and"),
    (["latents=[{latents},{latents}]", "mix=[1]"], "mix has 1 numbers for 2 folders"),
    (["latents=[{latents},gone]"], "gone holds no finished latents"),
    (["mix=[0]"], "out of range"),
])  # fmt: skip
def test_what_cannot_be_mixed(more, sentence, latents, three_run, train_world, tmp_path):
    """Guards tracebacks, and a model that is trained on another game's clips."""
    places = {"latents": latents, "three": three_run.parent / "latents"}
    with pytest.raises(UserError, match=sentence):
        train_world(tmp_path / "out", *(text.format(**places) for text in more))
