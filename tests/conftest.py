"""What several rooms are tested on: a real recording, a tiny real autoencoder, its latents and a world model on them.

Everything is made once per session by the program's own commands, with real parts only.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import shapes
from forked import Forked
from jaxtyping import config as checks

# Before any of these is imported; Triton compiles the functions of videowm.dit.fused itself.
SHAPED = ["videowm.actions", "videowm.agents", "videowm.dit", "videowm.evaluate", "videowm.pipeline", "videowm.vae"]
shapes.install(SHAPED, without=["videowm.dit.fused"])

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests share the cores with other processes
os.environ.setdefault("WANDB_MODE", "offline")
os.environ["HF_HUB_OFFLINE"] = "1"
CACHE = tempfile.TemporaryDirectory()  # what videowm remembers of files
os.environ["VIDEOWM_CACHE"] = CACHE.name

ROOT = Path(__file__).parents[1]
TINY_VAE = [
    "vae.size.channels=4", "vae.size.width=16", "vae.size.layers=1", "train.steps=3", "train.batch=2",
    "train.trackers=[]", "train.precision=fp32", "evaluate.clips=2", "evaluate.frames=9",
]  # fmt: skip
TINY_WORLD = [
    "hidden=32", "depth=1", "budget=null", "window=5", "train.steps=4", "train.batch=4", "train.trackers=[]",
    "train.precision=fp32", "train.log_every=1", "heldout.clips=4", "heldout.window=4", "heldout.context=2",
    "rollout.clips=2", "rollout.context_frames=5", "rollout.horizon=4", "rollout.sampler.steps=2", "rollout.batch=2",
]  # fmt: skip


LONGEST = [
    "docs",
    "slurm",
    "sweep",
    "grid",
    "worlds",
    "recording",
    "kill",
    "suite",
    "check",
    "model",
    "reference",
    "benchmarks",
    "law",
    "text_control",
    "played",
    "vae_stream",
    "cli",
    "caption",
    "log",
    "latents",
    "damage",
]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Imports of a whole session make no garbage, which Python would look for among all that they make."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: with a long one left at the end, one of two workers would idle."""
    first = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path.stem, len(first)))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One thread, as in the subprocesses: sums in another order are other bits."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def few_clips_for_components() -> None:
    """Principal components of few clips: tiny recordings have no more, and each training computes them."""
    from videowm.evaluate import reconstruction

    reconstruction.PCA_CLIPS = 8


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Signatures are not checked: for a compiler, which cannot look through the checks, and for wrong shapes."""
    checks.update("jaxtyping_disable", True)
    yield
    checks.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """Six recorded CarRacing episodes of 69 frames, two of them held out."""
    from videowm.data.recording import record_episodes

    out = tmp_path_factory.mktemp("recorded") / "carracing"
    return record_episodes("carracing", out, episodes=6, frames=69, seed=3, test_share=1 / 3)


@pytest.fixture(scope="session")
def vae_run(dataset, tmp_path_factory) -> Path:
    """A run of `task: vae`: the quickstart's autoencoder, narrower, after three steps."""
    from videowm.train.loop import launch

    out = tmp_path_factory.mktemp("runs") / "vae"
    launch(ROOT / "configs/vae/quickstart.yaml", [f"out={out}", f"data={dataset}", *TINY_VAE])
    return out


@pytest.fixture(scope="session")
def vae_arguments() -> list[str]:
    """What the command line takes to train a tiny autoencoder, but for `out` and `data`."""
    return TINY_VAE


@pytest.fixture(scope="session")
def codec(vae_run):
    """The codec of `vae_run`."""
    from videowm.vae.codec import DiffusersCodec, load_vae

    return DiffusersCodec(load_vae(vae_run).eval())


@pytest.fixture(scope="session")
def encode(dataset):
    """Encode the recording into `out` with a codec that was loaded from `vae`."""
    from videowm.data.dataset import Dataset
    from videowm.data.encode import encode_dataset
    from videowm.vae.codec import to_float

    def run(out: Path, codec, vae: Path, **settings) -> Path:
        settings = {"frames": 33, "dtype": "fp16", "batch": 4} | settings
        encode_dataset(Dataset(dataset), codec, out, vae=str(vae), to_frames=to_float, **settings)
        return out

    return run


@pytest.fixture(scope="session")
def latents(encode, codec, vae_run, tmp_path_factory) -> Path:
    """The recording encoded by `vae_run`: 8 training and 4 held-out clips of 9 latent steps."""
    return encode(tmp_path_factory.mktemp("latents") / "carracing", codec, vae_run)


@pytest.fixture(scope="session")
def world_sizes() -> list[str]:
    """What the command line takes to train a tiny world model, but for `out` and `latents`."""
    return TINY_WORLD


@pytest.fixture(scope="session")
def world_arguments(latents) -> list[str]:
    """What the command line takes to train a tiny world model, but for `out`."""
    return [f"latents={latents}", *TINY_WORLD]


@pytest.fixture(scope="session")
def train_world(world_arguments):
    """Train a tiny world model in `out` by the program's own command, within this process; returns its record."""
    from videowm.train.loop import launch

    def train(out: Path, *overrides: str) -> dict:
        return launch(ROOT / "configs/world/quickstart.yaml", [f"out={out}", *world_arguments, *overrides]).to_json()

    return train


@pytest.fixture(scope="session")
def world_run(train_world, tmp_path_factory) -> Path:
    """A finished run of `task: world`, all four of its checkpoints kept, weights averaged."""
    out = tmp_path_factory.mktemp("runs") / "world"
    train_world(out, "train.save_every=1", "train.keep=9", "train.ema=0.5")
    return out


@pytest.fixture(scope="session")
def three_data(tmp_path_factory) -> Iterator[Path]:
    """Episodes of the game in tests/three.py that end at frame 17 to 20, four of them held out."""
    from videowm import worlds
    from videowm.data.recording import record_episodes

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(worlds.BUILT_IN, "three", "three:Three")
        out = tmp_path_factory.mktemp("recorded") / "three"
        arguments = {"length": 18, "spread": 4}
        yield record_episodes("three", out, episodes=16, frames=40, test_share=1 / 4, arguments=arguments)


@pytest.fixture(scope="session")
def three_run(three_data, codec, vae_run, tmp_path_factory) -> Path:
    """A tiny world model of that game."""
    from videowm.data.dataset import Dataset
    from videowm.data.encode import encode_dataset
    from videowm.train.loop import launch
    from videowm.vae.codec import to_float

    folder = tmp_path_factory.mktemp("three")
    encode_dataset(Dataset(three_data), codec, folder / "latents", vae=str(vae_run), to_frames=to_float, frames=17,
                   states=True)  # fmt: skip
    own = ["window=4", "heldout.window=4", "train.steps=8", "rollout.clips=0", f"latents={folder / 'latents'}"]
    launch(ROOT / "configs/world/quickstart.yaml", [f"out={folder / 'world'}", *TINY_WORLD, *own])
    return folder / "world"


@pytest.fixture(scope="session")
def three_heads(three_run) -> Path:
    """The same world model with heads, which are trained for seconds; returns the heads' own run."""
    from videowm.train.loop import launch

    out = three_run.parent / "heads"
    small = ["train.trackers=[]", "train.precision=fp32", "train.steps=150", "train.batch=8", "train.lr=3e-3",
             "hidden=32", "width=8", "context=2", "level=0.05", "state=[at]"]  # fmt: skip
    launch(ROOT / "configs/heads/base.yaml", [f"out={out}", f"world={three_run}", *small])
    return out


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The environment of a subprocess that imports the working tree."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_SILENT": "true"}


@pytest.fixture(scope="session")
def python(environment):
    """Run this interpreter with some arguments to the end; its output comes back as text."""

    def run(*arguments, timeout: float = 120, **more) -> subprocess.CompletedProcess:
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            command, env=environment | more, cwd=ROOT, capture_output=True, text=True, timeout=timeout
        )

    return run


@pytest.fixture(scope="session")
def fork(environment):
    """Start `python -m MODULE ...` as a process of its own that need not import torch (see `forked`)."""
    started = []

    def start(*arguments, module: str = "videowm", session: bool = False, before=None, **more) -> Forked:
        started.append(Forked(module, list(arguments), environment | more, session=session, before=before))
        return started[-1]

    yield start
    for process in started:
        process.close()


@pytest.fixture
def videowm(capsys):
    """Call the command line within this process: exit code, what it printed, and its error lines."""
    from videowm.cli import main

    def call(*arguments) -> SimpleNamespace:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=exit.value.code, out=out, errors=[e for e in err.splitlines() if e.strip()])

    return call


TINY = """
import numpy as np
from videowm.worlds import World


class Tiny(World):
    name, size, action_names = "tiny", (64, 64), ("across", "down")
    fps = 10.0

    def __init__(self, gray: int = 60) -> None:
        self.gray = gray

    def reset(self, seed: int) -> None:
        self.place = np.random.default_rng(seed).uniform(8, 56, 2)

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        self.place = (self.place + 4 * action[::-1]) % 64
        return 0.0, False

    def render(self) -> np.ndarray:
        picture = np.full((64, 64, 3), self.gray, np.uint8)
        row, column = self.place.astype(int)
        picture[max(row - 6, 0) : row + 6, max(column - 6, 0) : column + 6] = 220
        return picture


class Crooked(Tiny):
    name = "crooked"

    def render(self) -> np.ndarray:
        return super().render() / 255


class Misnamed(Tiny):
    name = "somebody"


class Half(World):
    name, size, action_names = "half", (64, 64), ()
"""
POINTS = """[videowm.worlds]
tiny = tiny_package:Tiny
crooked = tiny_package:Crooked
other = tiny_package:Misnamed
half = tiny_package:Half
function = tiny_package:np
gone = tiny_package:Gone
broken = tiny_package.missing:World
"""


@pytest.fixture(scope="session")
def tiny_package(tmp_path_factory):
    """Another package, installed beside ours for the session: a world of only the core, and some that are broken."""
    folder = tmp_path_factory.mktemp("site-packages")
    (folder / "tiny_package.py").write_text(TINY)
    installed = folder / "tiny_package-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(POINTS)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


DOTS = '''
import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Dots(gym.Env):
    """A dot that two parts of an action move; it ends at the right edge. Its picture is an observation only."""

    metadata = {"render_fps": 12}
    action_space = spaces.MultiDiscrete([3, 2])
    observation_space = spaces.Dict({"picture": spaces.Box(0, 255, (32, 48), np.uint8), "x": spaces.Box(-1, 99, (1,))})
    born = 0

    def __init__(self, start=4):
        self.start, self.log = start, []
        Dots.born += 1

    def observed(self):
        picture = np.zeros((32, 48), np.uint8)
        picture[8 * self.y + 4 : 8 * self.y + 8, self.x : self.x + 4] = 200
        return {"picture": picture, "x": np.array([self.x], np.float32)}, {"spot": (self.x, self.y), "word": "none"}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.y = self.start + int(self.np_random.integers(4)), int(np.random.randint(3))
        return self.observed()

    def step(self, action):
        assert self.action_space.contains(action)
        self.log.append(action.tolist())
        self.x += 2 * int(action[0])
        self.y = max(0, min(3, self.y + 2 * int(action[1]) - 1))
        observation, info = self.observed()
        return observation, float(action[0]), self.x >= 40, False, info


gym.register("Dots-v0", Dots)


def right(observation, info, rng):
    assert observation["picture"].shape == (32, 48) and info["spot"][0] == observation["x"][0]
    return np.array([2, rng.integers(2)])


def slow(observation, info, rng):
    return np.array([rng.random() < 0.4, rng.integers(2)], int)


def wrong(observation, info, rng):
    return [7, 0]


def broken(observation, info, rng):
    raise KeyError("nothing")
'''


@pytest.fixture
def dots(tmp_path, monkeypatch):
    """The folder of a module `dots_env` that registers an environment, as the present one; returns the world's name."""
    import gymnasium as gym

    (tmp_path / "dots_env.py").write_text(DOTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield "gym:dots_env:Dots-v0"
    sys.modules.pop("dots_env", None)
    gym.registry.pop("Dots-v0", None)


@pytest.fixture(scope="session")
def worded(dataset, codec, vae_run, tmp_path_factory) -> Path:
    """A copy of the recording with captions from its state and for every second clip as a model gives them, and its
    latents."""
    from videowm.data.captions import Captions, captions_path, header_name
    from videowm.data.dataset import Dataset
    from videowm.data.encode import encode_dataset
    from videowm.data.state_captions import caption_from_state
    from videowm.files import write_json
    from videowm.vae.codec import to_float

    folder = tmp_path_factory.mktemp("worded")
    data = shutil.copytree(dataset, folder / "data")
    caption_from_state(data, clip_frames=17)
    header = {"schema": 1, "source": "model", "dataset": Dataset(data).hash, "clip_frames": 17, "model": "m"}
    path = captions_path(data, header_name(header))
    clips = list(Captions.open(data, "state"))[::2]
    lines = [{"episode": e, "start": s, "frames": f, "short": f"model {e} {s}", "detailed": f"model {e} {s} at length",
              "source": "model"} for e, s, f in clips]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(path.with_suffix(".json"), header)
    encode_dataset(Dataset(data), codec, folder / "latents", vae=str(vae_run), to_frames=to_float, frames=33,
                   dtype="fp16", batch=4)  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def train_worded(worded, train_world):
    """Train a tiny world model with words in `out`, by the program's own command; returns its record."""
    words = ["text.length=64", "text.drop=0.25", "text.synthetic=0.5"]

    def train(out: Path, *overrides: str) -> dict:
        return train_world(out, f"latents={worded / 'latents'}", *words, *overrides)

    return train


@pytest.fixture(scope="session")
def worded_run(train_worded, tmp_path_factory) -> Path:
    """A finished run of `task: world` with the byte encoder; two of its four steps are kept."""
    out = tmp_path_factory.mktemp("runs") / "worded"
    train_worded(out, "train.save_every=2")
    return out


def weights(run: Path) -> bytes:
    """The exported transformer, byte for byte."""
    return (run / "transformer/diffusion_pytorch_model.safetensors").read_bytes()


def lines(run: Path) -> list[dict]:
    """The steps in metrics.jsonl; the evaluation's line at the end has no training loss."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


@pytest.fixture(scope="session")
def same():
    """Whether two finished runs hold the same model, learned by the same losses and measured the same."""

    def check(run: Path, other: Path) -> None:
        assert weights(run) == weights(other)
        losses = [[(row["step"], row["loss"], row["grad_norm"], row["lr"]) for row in lines(r)] for r in (run, other)]
        assert losses[0] == losses[1]
        records = [json.loads((r / "record.json").read_text()) for r in (run, other)]
        assert records[0]["metrics"] == records[1]["metrics"] and records[0]["hashes"] == records[1]["hashes"]

    return check


@pytest.fixture(scope="session")
def hooks():
    """docs/hooks.py, which makes the reference."""
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs/hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def listed(hooks):
    """The keys of a file that the reference's page on files lists in the tables below its heading."""
    page = hooks.files_page()

    def keys(heading: str) -> set[str]:
        section = re.split(r"\n#", page.split(f"\n### {heading}\n")[1])[0]
        rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
        return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}

    return keys
