"""The pages do what they show: their commands run, in order, tiny; what they name is there.

A page runs in a directory of its own. What an equal command made on an earlier page is linked, not made again. A block
whose title begins with "needs" runs too where it can be made tiny, on what earlier pages made. Of the rest the options
are parsed, the files looked for, and the configurations read with their overrides.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import shlex
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from chat_server import ChatServer
from test_layers import LAYERS, ROOMS

from scaling.__main__ import main as scaling
from scaling.__main__ import parser as scaling_parser
from scaling.plan import plan
from scaling.point import load_sweep
from videowm.arguments import parse_args
from videowm.cli import main as videowm
from videowm.cli import parser as videowm_parser
from videowm.train import registry
from videowm.train.loop import launch

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted(ROOT.glob("docs/guides/*.md")), *sorted(ROOT.glob("docs/how-to/*.md"))]
WRITTEN = [*PAGES, ROOT / "docs/results.md", *sorted(ROOT.glob("docs/explanations/*.md"))]
FENCE = re.compile(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', re.M | re.S)
ENDPOINT = "http://127.0.0.1:8000/v1"

# What makes a command tiny: numbers of options that it has, and what is put behind it.
NUMBERS = {"--episodes": "6", "--play": "2", "--workers": "1", "--clips": "4", "--horizon": "8"}
STAND_IN = {"gym:ALE/Pong-v5": "gym:MountainCar-v0"}  # ale-py is no part of the installation
LEFT_OUT = {"--world-args", "--page"}  # of a block that needs something: with the value behind
TRAIN = ["train.steps=3", "train.trackers=[]", "train.precision=fp32", "train.log_every=1"]
VAE = [
    *TRAIN, "train.batch=2", "evaluate.clips=2", "evaluate.frames=9", "frames=9", "vae.size.width=16",
    "vae.size.layers=1", "vae.size.channels=4",
]  # fmt: skip
WORLD = [
    *TRAIN, "depth=1", "hidden=32", "budget=null", "window=5", "train.batch=4", "heldout.clips=4", "heldout.window=4",
    "heldout.context=2", "rollout.clips=2", "rollout.context_frames=5", "rollout.horizon=4", "rollout.batch=2",
    "rollout.sampler.steps=2",
]  # fmt: skip
EVALUATE = ["--clips", "2", "--horizon", "8"]
SWEEP = [
    "strip_clips=1", "strip_frames=4", "points=[{name: 1x}]",
    *(f"set.{setting}" for setting in WORLD),
]  # fmt: skip
BEHIND = {
    "record": ["--frames", "69", "--test-share", "0.34"],
    "encode": ["--frames", "33"],
    "evaluate runs/world --reader": ["--counterfactuals", "1", *EVALUATE],
    "evaluate": ["--counterfactuals", "0", *EVALUATE],
    "latents": ["--clips", "2", "--directions", "1"],
    "train configs/vae/quickstart.yaml data=null": [*VAE, "play.episodes=3", "play.frames=20", "play.test_share=0.34"],
    "train configs/vae/sized.yaml": [*VAE, "train.steps=1", "evaluate.clips=1"],
    "train configs/vae/": VAE,
    "generate runs/captioned": ["--frames", "8"],
    "train configs/world/": WORLD,
    "train my-world.yaml": WORLD,
    "train configs/heads/": [*TRAIN, "train.batch=2", "clips=2", "context=2"],
    "train configs/latent-actions/": [*TRAIN, "train.batch=4", "model.width=8", "probe_clips=4", "heldout_clips=2"],
    "train configs/reader/": [*TRAIN, "train.batch=2", "heldout_clips=2", "reader.width=8"],
    "train": TRAIN,
    "dream train": [
        "--dreams",
        "4",
        "--generations",
        "1",
        "--population",
        "4",
        "--starts",
        "8",
        "--context",
        "2",
        "--horizon",
        "8",
    ],  # fmt: skip
    "dream score runs/agent": ["--frames", "8", "--dreams", "2"],
    "dream score": ["--frames", "8"],
    "dream record": ["--frames", "34"],
    "dream watch": ["--frames", "8", "--begin", "5"],
    "plan configs/sweep/quickstart.yaml": SWEEP,
    "run configs/sweep/quickstart.yaml": SWEEP,
    "status configs/sweep/quickstart.yaml": SWEEP,
    "report configs/sweep/quickstart.yaml": [*SWEEP, "--no-wandb"],
    "fit": ["--bootstrap", "20"],
    "design": ["--studies", "1"],
}


def tiny(words: list[str]) -> list[str]:
    """The arguments of a verb with smaller numbers."""
    words = [NUMBERS.get(before, word) for before, word in zip(["", *words], words)]
    behind = next((more for start, more in BEHIND.items() if " ".join(words).startswith(start)), [])
    if any(word.startswith("train.minutes=") for word in words):  # which find the steps
        words = [*words, "train.minutes=0.01"]
        behind = [word for word in behind if not word.startswith("train.steps=")]
    return words if behind and behind[0] in words else [*words, *behind]


def can_be_tiny(words: list[str]) -> bool:
    """Whether a command of a block that needs something can be carried out here."""
    name, arguments = program(words)
    if name == "scaling":
        return arguments[0] == "fit" and arguments[1].endswith(".csv")
    slow = {"--part", "--decisions"} & set(arguments)  # parts of one folder, and courses that the game plays
    return arguments[0] in ("record", "train", "encode") and not slow


def stand_in(words: list[str]) -> list[str]:
    """A command without what is not here."""
    kept = [word for before, word in zip(["", *words], words) if not {before, word} & LEFT_OUT]
    return [STAND_IN.get(word, word) for word in kept]


def commands(block: str) -> list[list[str]]:
    """The commands of a block as words, without comments."""
    return [words for line in block.splitlines() if (words := shlex.split(line, comments=True))]


def program(words: list[str]) -> tuple[str, list[str]]:
    """Which program a command is, and its arguments; what starts processes is left out."""
    if words[0] == "sbatch":
        words = shlex.split(words[words.index("--wrap") + 1])
    if words[:3] == ["python", "-m", "videowm.launch"]:
        words = ["videowm", *words[words.index("train") :]]
    if words[0] in ("accelerate", "torchrun"):
        words = ["videowm", *words[words.index("-m") + 2 :]]
    if words[:3] == ["python", "-m", "scaling"]:
        return "scaling", words[3:]
    return words[0], words[1:]


def parse(words: list[str]) -> None:
    """Refuse a command that its program's own parser does not take, that names a file that is not there, or a key that
    its configuration does not have."""
    name, arguments = program(words)
    parser = {"scaling": scaling_parser, "videowm": videowm_parser}[name]()
    args = parse_args(parser, arguments)
    for word in arguments:
        assert not word.startswith(("configs/", "tests/", "benchmarks/")) or (ROOT / word).exists(), word
    path = getattr(args, "sweep" if name == "scaling" else "config", None)
    if path is not None and path.suffix == ".yaml" and path.exists():
        load_sweep(path, args.overrides) if name == "scaling" else registry.load(path, args.overrides)


@dataclass
class Made:
    """What a command found and what it made, as paths of the page and where they are."""

    found: list[str]
    outputs: dict[str, Path]


def paths(arguments: list[str]) -> list[str]:
    """The paths among arguments that are there now."""
    values = (argument.split("=", 1)[-1] for argument in arguments)
    return [value for value in values if value and Path(value).exists()]


def link(outputs: dict[str, Path]) -> None:
    """Let what an earlier page made be here too, unless this page made its own."""
    for place, made in outputs.items():
        if not Path(place).exists():
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            Path(place).symlink_to(made)


@dataclass
class Reader:
    """Whoever follows the pages: runs their blocks, and remembers what each command made."""

    url: str
    made: dict[tuple[str, ...], Made] = field(default_factory=dict)

    def follow(self, page: Path) -> None:
        """Carry out a page's blocks in order, in the present directory."""
        for name in ("configs", "tests", "benchmarks"):
            Path(name).symlink_to(ROOT / name)
        scope: dict[str, object] = {"__name__": "page"}
        for language, title, block in FENCE.findall(page.read_text()):
            if language == "bash":
                for words in commands(block):
                    self.attempt(words) if title.startswith("needs") else self.run(words)
            elif title:
                Path(title).write_text(block)
            elif language == "python":
                exec(compile(block, str(page), "exec"), scope)
            elif language == "yaml":
                assert yaml.safe_load(block), page

    def attempt(self, words: list[str]) -> None:
        """One command of a block that needs something: run where it can be, else parsed."""
        parse(words)
        if not can_be_tiny(words):
            return
        inputs = {
            word.split("=", 1)[-1]
            for before, word in zip(words, words[1:])
            if before != "--out" and not word.startswith("out=")
        } | {"runs/vae", "data/carracing"}  # which latents name
        for made in self.made.values():
            link({place: where for place, where in made.outputs.items() if place in inputs})
        name, arguments = program(stand_in(words))
        self.once(name, tiny(arguments))

    def run(self, words: list[str]) -> None:
        """One command, within this process."""
        name, arguments = program([self.url if word == ENDPOINT else word for word in words])
        if name == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.M), words
        elif words == ["pip", "install", "-e", "."]:
            install(Path.cwd())
        else:
            parse(words)
            self.once(name, tiny(arguments))

    def once(self, name: str, arguments: list[str]) -> None:
        """Run a command, or link what an equal one made on an earlier page."""
        earlier = self.made.get(key := (name, *arguments))
        if earlier is not None:
            assert [path for path in earlier.found if not Path(path).exists()] == [], key
            link(earlier.outputs)
            return
        found = paths(arguments)
        if (name, arguments[0]) == ("scaling", "run"):  # in this process, without the seconds that another imports for
            for point in plan(load_sweep(*arguments[1:2], arguments[2:])):
                launch(point.config, [])
        with pytest.raises(SystemExit) as ended:
            {"scaling": scaling, "videowm": videowm}[name](arguments)
        assert not ended.value.code, shlex.join(key)
        outputs = set(paths(arguments)) - set(found)
        if name == "scaling":
            outputs |= {str(path) for path in Path("runs/quickstart").glob("*")}
        self.made[key] = Made(found, {path: Path(path).resolve() for path in outputs})


def install(folder: Path) -> None:
    """What `pip install -e .` does with the entry points of a pyproject.toml."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = (f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
              for group, points in project["entry-points"].items())  # fmt: skip
    (info / "entry_points.txt").write_text("\n".join(groups))
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()


@pytest.fixture(scope="module")
def reader():
    """One reader of all pages, and an OpenAI-compatible server for what they ask."""
    with ChatServer(lambda handler, *_: handler.good()) as server:
        yield Reader(server.url)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_can_be_followed(page, reader, tmp_path, monkeypatch):
    """A command of a page that fails when it is pasted: a wrong order, option, path, name or import."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    reader.follow(page)


def sentences(text: str) -> list[str]:
    """The sentences of a page's prose: no code, tables, headings, or addresses of links."""
    text = re.sub(r"<!--.*?-->", "", FENCE.sub("\n\n", text), flags=re.S)
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"^(\||#).*$", "", text, flags=re.M)
    text = re.sub(r"^(\s*([-*]|\d+\.) )", r"\n\n", text, flags=re.M)
    return [part for block in text.split("\n\n") for part in re.split(r"(?<=[.!?:;])\s+", " ".join(block.split()))]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_is_written_in_short_sentences(page):
    """A sentence that has to be read twice; and links and pictures that lead nowhere."""
    text = page.read_text()
    assert [s for s in sentences(text) if len(s.split()) > 25] == []
    made = {"reference/configuration.md", "reference/cli.md", "reference/metrics.md", "index.md"}
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", FENCE.sub("", text)):
        path = (page.parent / target).resolve()
        assert path.exists() or path.relative_to(ROOT / "docs").as_posix() in made, target


def test_the_design_page_has_the_layers():
    """A page on who may import whom that is not what the test of imports enforces."""
    page = (ROOT / "docs/explanations/design.md").read_text().split("| layer | rooms |")[1].split("\n\n")[0]
    shown = [set(re.findall(r"`(\w+)`", line)) for line in page.splitlines()[2:]]
    assert shown == [layer & set(ROOMS.values()) - {"__main__"} for layer in LAYERS]


def test_what_the_pages_name_is_there(hooks):
    """A page that names a file, a module, a configuration key or a metric that is gone."""
    from videowm.reference import keys

    known = {key.name for cls in hooks.configurations().values() for key in keys(cls)}
    known |= {key.rpartition(".")[0] for key in known}
    prose = [FENCE.sub("", page.read_text()) for page in WRITTEN]
    names = {name for text in prose for name in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)}
    assert sorted(name for name in names if not is_there(name, known)) == [] and len(names) > 200


def is_there(name: str, known: set[str]) -> bool:
    """Whether a name in a page's prose, if it is one of a file, a module, a metric or a key of `known`, exists."""
    from videowm.metrics import METRICS, metric_of

    room, key = name.split("/")[0], re.split("[=:]", name)[0]
    if re.fullmatch(r"(videowm|scaling|benchmarks|configs|tests|docs)/[\w./-]+", name):
        return (ROOT / name).exists()
    if re.fullmatch(r"(videowm|scaling)(\.\w+)+", name):
        return exists(name)
    if re.fullmatch(r"\w+/\w+", name) and room in {metric.name.split("/")[0] for metric in METRICS}:
        return metric_of(name) is not None
    if re.fullmatch(r"\w+(\.\w+)+", key) and key.split(".")[0] in {k.split(".")[0] for k in known if "." in k}:
        return key in known
    return True


def exists(name: str) -> bool:
    """Whether a dotted name of videowm is a module, or something in one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.import_module(".".join(parts[:cut]))
            return all((found := getattr(found, part, None)) is not None for part in parts[cut:])
    return False
