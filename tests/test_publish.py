"""Push and pull: the hub's real client against a server of its protocol, and folders of the hub's layout."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from diffusers.utils import dynamic_modules_utils
from hub_server import HubServer
from huggingface_hub import constants

from videowm import api
from videowm.data.dataset import Dataset
from videowm.data.starts import dataset_of
from videowm.dit.heads import Heads
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError
from videowm.vae.codec import load_vae, weights_hash

WEIGHTS = "diffusion_pytorch_model.safetensors"
OF_A_WORLD = {
    "README.md", "config.yaml", "model_index.json", "pipeline.py", "record.json", "scheduler/scheduler_config.json",
    "transformer/config.json", f"transformer/{WEIGHTS}", "transformer/videowm_dit.py", "vae/config.json",
    f"vae/{WEIGHTS}", "vae/videowm_vae_patch.py",
}  # fmt: skip


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of its own for the client of this process, with its cache."""
    server = HubServer()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("HF_TOKEN", "dummy")
    at(monkeypatch, server.url)
    yield server
    server.close()


def at(monkeypatch, url: str) -> None:
    """Let the client speak to another address."""
    huggingface_hub.close_session()
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", url)  # of its plain functions, which diffusers calls
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def front_matter(card: str) -> dict:
    """The YAML at the beginning of a card."""
    return yaml.safe_load(card.split("---\n")[1])


def rolled(pipeline: WorldModelPipeline) -> torch.Tensor:
    """Frames that a pipeline makes of a grey picture."""
    return pipeline(
        torch.zeros(1, 1, 3, 64, 64), torch.zeros(1, 4, 3), generator=torch.Generator().manual_seed(0)
    ).frames


def test_a_world_model_goes_to_the_hub_and_back(hub, world_run, tmp_path):
    """Guards what must not go (checkpoints, paths of this machine), and a model that comes back another."""
    done = api.push(world_run, "user/world", api.PushOptions(license="mit", trained_on="user/cars"))
    files = hub.files("user/world")
    assert set(files) == OF_A_WORLD and done.files == len(files) and done.where.startswith(hub.url)
    assert "config.yaml" in done.shortened and "vae/config.json" in done.shortened
    for name, content in files.items():
        assert name.endswith(WEIGHTS) or str(Path.home()).encode() not in content and b"/tmp" not in content, name
    pulled = api.pull("user/world", tmp_path / "pulled")
    expected = rolled(WorldModelPipeline.open(world_run))
    assert torch.equal(rolled(WorldModelPipeline.open(pulled)), expected)
    (pulled / "record.json").unlink()
    assert torch.equal(rolled(WorldModelPipeline.from_pretrained(pulled)), expected)
    assert torch.equal(rolled(WorldModelPipeline.from_pretrained("user/world")), expected)
    assert torch.equal(rolled(DiffusionPipeline.from_pretrained("user/world", trust_remote_code=True)), expected)
    weights = (pulled / f"vae/{WEIGHTS}").read_bytes()
    (pulled / f"vae/{WEIGHTS}").write_bytes(weights[:-400] + bytes(400))
    with pytest.raises(UserError, match="the autoencoder .* has the hash"):
        WorldModelPipeline.from_pretrained(pulled)


def test_the_card_says_what_was_measured(hub, world_run):
    """Guards a card whose numbers are not the record's, or without its licence, its bounds or its limits."""
    api.push(world_run, "user/world", api.PushOptions(license="mit", trained_on="user/cars"))
    card, record = hub.files("user/world")["README.md"].decode(), json.loads((world_run / "record.json").read_text())
    said = front_matter(card)
    assert said["license"] == "mit" and said["datasets"] == ["user/cars"] and said["library_name"] == "diffusers"
    assert "carracing" in said["tags"] and "heldout/loss" in said["metrics"]
    loss, ceiling = record["metrics"]["heldout/loss"], record["metrics"]["rollout/psnr_vae_mean"]
    assert re.search(rf"`heldout/loss` \| {loss:.4g} ± ", card)
    assert re.search(rf"`rollout/psnr_mean` \| .* \| dB \| {ceiling:.4g} ± ", card)
    for part in (f"{record['flops']['train']:.3g}", record["device"], "does not measurably obey", "64x64 pixels",
                 'from_pretrained("user/world")', "trust_remote_code", "pip install videowm"):  # fmt: skip
        assert part in card, part
    assert "strip.png" not in card


@pytest.mark.parametrize("name, sentence", [("record.json", "no finished run"), ("config.yaml", "no finished run")])
def test_no_card_of_an_unfinished_run(world_run, tmp_path, name, sentence):
    """Guards a card whose numbers are still to come; nothing is made."""
    run = shutil.copytree(world_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    (run / name).unlink()
    with pytest.raises(UserError, match=sentence):
        api.push(run, f"folder:{tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def test_a_dataset_goes_to_the_hub_and_back(hub, dataset, tmp_path):
    """Guards a dataset that is another, or without the tag by which lerobot knows its version."""
    api.push(dataset, "user/cars", api.PushOptions(private=True))
    assert hub.repositories["dataset", "user/cars"].private
    assert hub.files("user/cars", "dataset", "v3.0") == hub.files("user/cars", "dataset")
    assert "LeRobot" in front_matter(hub.files("user/cars", "dataset")["README.md"].decode())["tags"]
    pulled = Dataset(api.pull("user/cars", tmp_path / "cars"))
    assert pulled.hash == Dataset(dataset).hash and "69" in (tmp_path / "cars/README.md").read_text()
    with pytest.raises(UserError, match="is a dataset: --dtype"):
        api.push(dataset, "user/cars", api.PushOptions(dtype="fp16"))


def test_an_autoencoder_is_loaded_by_its_name(hub, vae_run):
    """Guards an autoencoder that `--vae user/name` does not find."""
    api.push(vae_run, "user/vae")
    assert weights_hash(load_vae("user/vae")) == weights_hash(load_vae(vae_run))
    assert "PatchAutoencoder" in hub.files("user/vae")["README.md"].decode()


def test_an_interrupted_push_goes_on(hub, world_run):
    """Guards a model of which half is seen, and weights that are uploaded twice."""
    hub.cut_after = 1
    with pytest.raises(UserError, match="refuses the key for user/world .403"):
        api.push(world_run, "user/world")
    assert not hub.files("user/world") and len(hub.uploads) == 1
    hub.cut_after = None
    api.push(world_run, "user/world", api.PushOptions(revision="first"))
    assert set(hub.files("user/world", revision="first")) == OF_A_WORLD and not hub.files("user/world")
    assert len(hub.uploads) == len(set(hub.uploads)) == 2


def test_a_pull_is_whole_or_not_there(hub, dataset, tmp_path):
    """Guards a folder with half of the files, a download that begins again, and one over another folder."""
    api.push(dataset, "user/cars")
    name, whole = next((n, c) for n, c in hub.files("user/cars", "dataset").items() if n.endswith(".mp4"))
    hub.files("user/cars", "dataset").pop(name)  # as a file that went away meanwhile: the listing is older
    out = tmp_path / "cars"
    with pytest.raises(UserError, match="missing or changed"):
        api.pull("user/cars", out)
    assert not out.exists()
    hub.repositories["dataset", "user/cars"].commit("main", hub.files("user/cars", "dataset") | {name: whole})
    api.pull("user/cars", out)
    hub.fail = 500
    assert api.pull("user/cars", out) == out  # it is there: nothing is asked
    with pytest.raises(UserError, match="already holds something"):
        api.pull("user/others", out)


def test_what_is_wrong_is_one_sentence(hub, world_run, dataset, tmp_path, monkeypatch):
    """Guards tracebacks of the client: names, keys, an address where nobody answers, a hub out of order."""
    with pytest.raises(UserError, match="'world' names no repository: give user/name"):
        api.push(world_run, "world")
    with pytest.raises(UserError, match="there is no repository user/none at .*correct the name"):
        api.pull("user/none", tmp_path / "none")
    with pytest.raises(UserError, match="there is no repository user/none"):
        WorldModelPipeline.from_pretrained("user/none")
    with pytest.raises(UserError, match="refuses the key for another/world .403.: log in"):
        api.push(world_run, "another/world")
    api.push(dataset, "user/cars")
    with pytest.raises(UserError, match="user/cars has no such revision"):
        api.pull("user/cars", tmp_path / "cars", api.PullOptions(revision="none"))
    monkeypatch.setenv("HF_TOKEN", "wrong")
    for call in (lambda: api.push(world_run, "user/world"), lambda: api.pull("user/cars", tmp_path / "cars")):
        with pytest.raises(UserError, match="refuses the key for user/.* .401.: log in with `hf auth login`"):
            call()
    at(monkeypatch, "http://127.0.0.1:9")
    for call in (lambda: api.push(world_run, "user/world"), lambda: api.pull("user/cars", tmp_path / "cars")):
        with pytest.raises(UserError, match="http://127.0.0.1:9 cannot be reached for user/"):
            call()
    assert not list(tmp_path.glob("cars"))


def test_a_full_disk_is_one_sentence(hub, dataset, tmp_path):
    """Guards a traceback, or half a dataset, where the room ends; with room the same command goes on."""
    api.push(dataset, "user/cars")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        with pytest.raises(UserError, match="no room for"):
            api.pull("user/cars", tmp_path / "cars")
        assert not (tmp_path / "cars").exists()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    api.pull("user/cars", tmp_path / "cars")


def test_a_folder_that_needs_nothing_else(world_run, dataset, tmp_path, videowm):
    """Guards a model in half precision that is not checked, or that cannot begin without its dataset."""
    out = tmp_path / "demos/cars"
    done = videowm("push", world_run, f"folder:{out}", "--dtype", "fp16", "--starts", 2, "--from", dataset)
    assert done.code == 0 and str(out) in done.out and "shortened" in done.out, done.errors
    sizes = [(folder / f"transformer/{WEIGHTS}").stat().st_size for folder in (out, world_run)]
    assert 0.4 < sizes[0] / sizes[1] < 0.6
    half, whole = (rolled(WorldModelPipeline.open(folder)) for folder in (out, world_run))
    assert 0 < (half - whole).abs().mean() < 0.002
    moved = shutil.copytree(out, tmp_path / "elsewhere")
    starts = Dataset(moved / "starts")
    assert len(starts.split("test")) == 2 and not starts.split("train") and starts.lengths.tolist() == [69, 69]
    made = videowm("generate", moved, "--out", tmp_path / "clip.mp4", "--frames", 8)
    assert made.code == 0 and "9 context frames, 8 predicted" in made.out, made.errors
    measured = videowm("evaluate", moved, "--clips", 2, "--horizon", 4, "--counterfactuals", 0)
    assert measured.code == 0 and "fidelity/psnr" in measured.out and "rollout/lead" in measured.out, measured.errors
    assert "decisions need whole ones" in videowm("evaluate", moved, "--decisions", 2).errors[-1]
    assert (moved / "evaluation.html").exists() and dataset_of(moved) == moved / "starts"
    weights = bytearray((moved / f"vae/{WEIGHTS}").read_bytes())
    weights[-200:] = bytes(200)
    (moved / f"vae/{WEIGHTS}").write_bytes(weights)
    assert "the autoencoder" in videowm("generate", moved).errors[0]
    assert "already holds something" in videowm("push", world_run, f"folder:{out}").errors[0]
    assert "name a dataset with --from" in videowm("generate", world_run).errors[0]


def test_heads_go_along(three_heads, three_run, tmp_path):
    """Guards a pushed model that has lost its heads, or whose heads still name the network before it was rounded."""
    own = Heads.open(three_run, WorldModelPipeline.open(three_run).config.transformer_hash).state_dict()
    for dtype in (None, "fp16"):
        out = tmp_path / f"pushed-{dtype}"
        api.push(three_run, f"folder:{out}", api.PushOptions(dtype=dtype))
        pushed = Heads.open(out, WorldModelPipeline.open(out).config.transformer_hash).state_dict()
        assert all(torch.equal(pushed[name], value) for name, value in own.items())


def test_the_environment_names_the_hub(hub, dataset, tmp_path, python):
    """Guards a command that speaks to another hub than HF_ENDPOINT, or without HF_TOKEN."""
    settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "dummy", "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0",
                "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
    done = python("-m", "videowm", "push", dataset, "user/cars", **settings)
    assert done.returncode == 0 and os.path.basename(hub.url) in done.stdout, done.stderr
    assert "meta/info.json" in hub.files("user/cars", "dataset")
