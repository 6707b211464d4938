"""The Python API: light to import, checked options, useful results; and what the package brings with it."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
import typing
import zipfile
from pathlib import Path

import numpy as np
import pytest

from videowm import api, arguments, cli, options, reference, shipped
from videowm import config as configuration
from videowm.record import RunRecord
from videowm.types import UserError

ROOT = Path(__file__).parents[1]
CLASSES = [found for name, found in vars(options).items() if name.endswith("Options")]


def test_importing_it_is_light(python):
    """Guards seconds before the first call, and a command line that loads PyTorch to print a help text."""
    modules = python("-c", "import sys, videowm.api; print(*sys.modules)").stdout.split()
    assert "videowm.api" in modules and "videowm.options" in modules
    assert not {"torch", "diffusers", "scipy", "wandb", "accelerate", "decord", "gymnasium", "PIL"} & set(modules)


def test_every_function_says_what_it_takes_gives_and_raises():
    """Guards a public function without types, or without the sentence on errors that its callers need."""
    functions = [getattr(api, name) for name in api.__all__ if inspect.isfunction(getattr(api, name))]
    assert len(functions) >= 16
    for function in functions:
        assert "Raises:" in function.__doc__ and "return" in typing.get_type_hints(function, vars(names()))
        assert set(function.__annotations__) == {*inspect.signature(function).parameters, "return"}


def names():
    """What the annotations of the API name and only type checkers import."""
    from types import SimpleNamespace

    from videowm.caption import Captioned
    from videowm.generation import Generated
    from videowm.label import Labelled
    from videowm.publish import Pushed

    named = (Captioned, Generated, Labelled, Pushed, RunRecord)
    return SimpleNamespace(**vars(api) | {cls.__name__: cls for cls in named})


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_option_has_a_line_and_a_flag(cls):
    """Guards an option that the reference or the command line forgets: each has its comment and, given, its value."""
    keys = {key.name.split(".")[-1]: key for key in reference.keys(cls)}
    assert keys and all(key.comment for key in keys.values())
    parser = arguments.Parser("x")
    arguments.add_options(parser, cls)
    for name in keys:
        assert f"--{name.replace('_', '-')}" in parser.format_help()


def test_options_are_what_was_typed():
    """Guards values that stay text, nested options that are lost, and defaults that differ from the API's."""
    parser = arguments.Parser("x")
    arguments.add_options(parser, api.GenerateOptions, cli.FROM)
    typed = "--start 3 --guidance 2 --sampler sinks=2 shift=1 --model m --cache ~/x --expand"
    made = arguments.options_from(api.GenerateOptions, parser.parse_args(typed.split()), cli.FROM)
    assert made == api.GenerateOptions(
        start=3, guidance=2.0, sampler=("sinks=2", "shift=1"), endpoint=api.EndpointOptions(model="m"),
        cache=Path("~/x"), expand=True,
    )  # fmt: skip
    assert isinstance(made.guidance, float)
    assert arguments.options_from(api.GenerateOptions, parser.parse_args([]), cli.FROM) == api.GenerateOptions()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (api.RecordOptions(episodes=0), "episodes: 0 is out of range"),
        (api.CaptionOptions(endpoint=api.EndpointOptions(timeout=-1)), "timeout: -1.0 is out of range"),
        (api.EncodeOptions(dtype="fp8"), "'fp8' is not a choice"),
        (api.GenerateOptions(seed=2**64), "seed: 1.84e+19 is out of range"),
        (api.GenerateOptions(context="nine"), "context: expected int"),
        (api.EvaluateOptions(clips=0), "clips: 0 is out of range"),
    ],
)
def test_options_are_checked(given, words):
    """Guards a value out of range that is found only when the work is half done, from Python as from the shell."""
    with pytest.raises(UserError, match=re.escape(f"{type(given).__name__}: ") + ".*" + re.escape(words)):
        configuration.check(given)


def test_paths_may_be_text():
    """Guards a caller's text that fails later as no Path."""
    assert configuration.check(api.EvaluateOptions(reader="runs/reader", smaller=["a"])) == api.EvaluateOptions(
        reader=Path("runs/reader"), smaller=(Path("a"),)
    )


def test_generate_returns_frames(world_run, dataset, tmp_path):
    """Guards a library call that only writes a video: the frames come back, the first of them the recorded ones."""
    wanted = api.GenerateOptions(context=6, frames=8, sampling_steps=1)
    made = api.generate(world_run, dataset, options=wanted)
    assert made.frames.shape == made.truth.shape == (5 + 8, 64, 64, 3) and made.frames.dtype == np.uint8
    assert made.context_frames == 5 and made.actions.shape == (12, 3) and made.prompt is None
    assert np.abs(made.truth[:5].astype(int) - made.frames[:5]).mean() < np.abs(made.truth[:5].astype(int) - 255).mean()
    again = api.generate(str(world_run), str(dataset), str(tmp_path / "clip.mp4"), wanted)
    assert np.array_equal(again.frames, made.frames) and (tmp_path / "clip.mp4").stat().st_size > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_train_returns_the_record(world_run, capsys):
    """Guards a loose dict, or nothing, where the run is finished already."""
    record = api.train(world_run / "config.yaml")
    assert record == RunRecord.read(world_run) and record.metrics["heldout/loss"] > 0


def test_encode_and_import_return_their_folder(dataset, vae_run, latents):
    """Guards a call that returns nothing to go on with; latents that are there already are kept."""
    before = {path.name: path.stat().st_mtime_ns for path in latents.iterdir()}
    assert api.encode(dataset, vae_run, latents, api.EncodeOptions(frames=33)) == latents
    assert {path.name: path.stat().st_mtime_ns for path in latents.iterdir()} == before


def test_configurations_without_a_checkout(videowm, tmp_path, monkeypatch):
    """Guards README's commands where there is no checkout: a path under configs/ is found, a file here comes first."""
    monkeypatch.chdir(tmp_path)
    listed = videowm("config", "list").out.splitlines()
    assert len(listed) == len(list((ROOT / "configs").rglob("*.yaml"))) and all("configs/" in line for line in listed)
    text = (ROOT / "configs/world/quickstart.yaml").read_text()
    for name in ("world/quickstart", "configs/world/quickstart.yaml"):
        assert videowm("config", "show", name).out == text
    assert "depht" in videowm("train", "configs/world/quickstart.yaml", "depht=3").errors[-1]
    assert videowm("config", "copy", "world/quickstart").out == "configs/world/quickstart.yaml\n"
    Path("configs/world/quickstart.yaml").write_text("task: world\nhere: 1\n")
    assert "unknown key 'here'" in videowm("train", "configs/world/quickstart.yaml").errors[-1]
    ended = videowm("config", "copy", "world/quickstart")
    assert ended.code == 2 and "is there already" in ended.errors[-1]
    assert shipped.resolve("world/quickstart.yaml") == Path("world/quickstart.yaml")  # no name is guessed
    assert "no configuration at configs/x/y.yaml" in videowm("train", "configs/x/y.yaml").errors[-1]


def test_keys_in_a_terminal(videowm):
    """Guards a user without the documentation: every key is listed with its limits, default and comment."""
    from videowm.train.registry import config_class

    said = videowm("config", "keys", "world").out
    for key in reference.keys(config_class("world")):
        assert f"{key.name} ({key.type}" in said and key.comment in said


def test_version(videowm, python):
    """Guards a version that loads PyTorch to be printed, or leaves out what a report of a fault needs."""
    import diffusers
    import torch

    ended = videowm("--version")
    assert ended.code == 0
    assert ended.out.startswith(f"videowm {cli.__version__} (torch {torch.__version__}, diffusers ")
    assert diffusers.__version__ in ended.out and len(ended.out.splitlines()) == 1


def test_the_wheel_holds_everything(tmp_path):
    """Guards a package, a page or a configuration that an installation from a wheel does not have."""
    pytest.importorskip("setuptools", minversion="77")
    files = subprocess.run(
        ["git", "ls-files", "videowm", "scaling", "configs"], cwd=ROOT, capture_output=True, text=True
    )
    tracked = {name for name in files.stdout.split() if (ROOT / name).exists()}
    for name in [*tracked, "pyproject.toml", "README.md", "LICENSE"]:
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_bytes((ROOT / name).read_bytes())
    code = "from setuptools.build_meta import build_wheel; import sys; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=tmp_path / "src", check=True, capture_output=True)
    inside = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    wanted = {f"videowm/{name}" if name.startswith("configs/") else name for name in tracked}
    assert len(wanted) > 100 and wanted <= inside
    assert "videowm/py.typed" in wanted and "videowm/configs/world/quickstart.yaml" in wanted


def test_options_are_frozen():
    """Guards one default object that a call changes for all later ones."""
    assert len(CLASSES) >= 10
    assert all(cls.__dataclass_params__.frozen and dataclasses.is_dataclass(cls) for cls in CLASSES)
