"""Which room may know which: read from the source, so that an import within a function counts too."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"types", "metric_table"},
    {"limits", "files", "lock", "bootstrap", "metrics", "device", "shipped", "template"},
    {"config", "record", "options", "parts", "hub"},
    {"reference", "worlds"},
    {"arguments", "exits", "actions"},
    {"data", "vae", "dit"},
    {"keywords"},
    {"pipeline"},
    {"evaluate"},
    {"train"},
    {
        "api",
        "show",
        "page",
        "measure",
        "endpoint",
        "caption",
        "info",
        "label",
        "generation",
        "explore",
        "publish",
        "card",
        "quickstart",
        "launch",
        "cli",
        "__main__",
        "dream",
        "agents",
        "play",
    },
]
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}


@cache
def imports(path: Path) -> set[str]:
    """The modules that a file imports anywhere, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str | None:
    """The room of videowm that a dotted name belongs to."""
    parts = module.split(".")
    return parts[1] if parts[0] == "videowm" and len(parts) > 1 else None


def module_name(path: Path) -> str:
    """The dotted name of a file; of a package's `__init__` the package's."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def circles(known: dict[str, set[str]]) -> list[list[str]]:
    """The sets of modules that reach each other (Tarjan 1972), each sorted."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in known[name]:
            if other not in order:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == order[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            found.extend([sorted(group)] * (len(group) > 1))

    for name in known:
        if name not in order:
            visit(name)
    return found


FILES = sorted((ROOT / "videowm").rglob("*.py"))
ROOMS = {path: path.relative_to(ROOT / "videowm").parts[0].removesuffix(".py") for path in FILES}


def test_every_file_is_in_a_room():
    """Guards a new module that no rule speaks of; and that the files were found at all."""
    assert set(ROOMS.values()) <= {*RANK, "__init__"} and len(FILES) > 25
    assert {room(m) for path in FILES for m in imports(path)} - {None} <= {*RANK, "__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path):
    """Guards a lower room that knows a higher one, and siblings that know one another; nobody knows `scaling`."""
    own = ROOMS[path]
    for module in imports(path):
        assert module.split(".")[0] != "scaling", f"{path} imports {module}"
        other = room(module)
        if other in RANK and own in RANK and other != own:
            rank, theirs = RANK[own], RANK[other]
            top = rank == theirs == len(LAYERS) - 1  # what users call may call one another
            assert theirs < rank or top, f"{path.relative_to(ROOT)} imports {module}"


def test_only_one_module_imports_decord():
    """Guards readers opened beside `data/video.py`, the one place that knows decord's traps."""
    users = [path.relative_to(ROOT).as_posix() for path in FILES if any(m.startswith("decord") for m in imports(path))]
    assert users == ["videowm/data/video.py"]


def test_only_one_module_imports_fcntl():
    """Guards a module that cannot be imported on Windows."""
    users = [path.relative_to(ROOT).as_posix() for path in FILES if "fcntl" in imports(path)]
    assert users == ["videowm/lock.py"]


HEAVY = {"torch", "matplotlib", "pandas"}
LIGHT = {  # module -> what importing it must not load; those that may load more come last
    "scaling.__main__": HEAVY,
    "scaling.point": HEAVY,
    "scaling.law": HEAVY,
    "scaling.fit": HEAVY,
    "scaling.api": HEAVY,
    "scaling.local": HEAVY,  # it waits for days
    "scaling.slurm": HEAVY,
    "videowm.agents.games": {"torch"},  # each process that plays imports it
    "videowm.api": {"torch"},
    "videowm.cli": {"torch"},
    "videowm.train.config": {"torch"},
    "videowm.worlds": {"torch"},
    "videowm.data.played": {"torch"},  # each process that plays imports it
    "videowm.quickstart": {"torch"},
}


def test_light_modules(python):
    """Guards seconds of start-up and hundreds of megabytes, lost to an import far below: really imported, one after the
    other, and looked at. A test of the source alone sees one file's top."""
    code = f"import importlib, sys\nfor name in {list(LIGHT)}: importlib.import_module(name); print(name, *sys.modules)"
    ended = python("-c", code)
    loaded = {name: set(modules) for name, *modules in map(str.split, ended.stdout.splitlines())}
    assert ended.returncode == 0 and loaded.keys() == LIGHT.keys(), ended.stderr
    assert {name: heavy & loaded[name] for name, heavy in LIGHT.items() if heavy & loaded[name]} == {}


GRAPH = {module_name(path): path for path in sorted([*FILES, *(ROOT / "scaling").rglob("*.py")])}


def used(path: Path) -> set[str]:
    """The modules of GRAPH that a file imports; `from package import module` is an import of that module alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in GRAPH else node.module for name in inner.values()}
    return found & set(GRAPH)


def test_no_circle_of_imports():
    """Guards rooms that cannot be read, or changed, one without the other. Imports within functions and under
    TYPE_CHECKING count."""
    assert len(GRAPH) > 90 and "scaling.fit" in GRAPH and "videowm.train" in GRAPH
    known = {name: used(path) - {name} for name, path in GRAPH.items()}
    assert known["scaling.report"] >= {"scaling.fit", "scaling.plan", "scaling.check"}
    assert circles(known) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_configuration_loads(path):
    """Guards files that promise a run and hold a typo, and a first comment without the command that it answers to."""
    from scaling.point import SweepConfig
    from videowm import config as configuration
    from videowm.train import registry

    kind = path.parent.name
    if kind == "sweep":
        sweep = configuration.load(SweepConfig, path)
        assert (sweep.points or sweep.grid) and (ROOT / sweep.base).exists()
        command = "scaling"
    else:
        config = registry.load(path)
        assert config.task == kind and config.out
        command = "videowm train"
    first = path.read_text().splitlines()[0]
    assert first.startswith("#") and command in first and path.relative_to(ROOT).as_posix() in first


def test_configurations_were_found():
    """Guards a test of every file that finds none."""
    assert {path.parent.name for path in CONFIGS} >= {"vae", "world"}
