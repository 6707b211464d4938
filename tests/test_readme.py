"""README says what is there: its commands parse, its tree is the tree."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from scaling.__main__ import parser as scaling_parser
from videowm.cli import parser as videowm_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.S)
COMMANDS = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
CONFIG_COMMANDS = [
    (path, line[2:].split("        ")[0])
    for path in sorted(ROOT.glob("configs/**/*.yaml"))
    for line in path.read_text().splitlines()[:1]
]


def parse(command: str) -> None:
    """Refuse a command that the program's own parsers do not take, or that names a file that is not there."""
    words = shlex.split(command)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), command
        return
    if words[:3] == ["accelerate", "launch", "-m"]:
        words = words[3:]
    if words[:3] == ["python", "-m", "scaling"]:
        scaling_parser().parse_args(words[3:])
    else:
        assert words[0] == "videowm", command
        videowm_parser().parse_args(words[1:])
    for word in words:
        if word.startswith(("configs/", "tests/")):
            assert (ROOT / word).exists(), command


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_commands_parse(command):
    """A renamed verb or option that README still shows."""
    parse(command)


@pytest.mark.parametrize(("path", "command"), CONFIG_COMMANDS)
def test_first_comment_of_every_config_is_its_command(path, command):
    """A configuration whose first comment names another file or verb than the one that runs it."""
    assert str(path.relative_to(ROOT)) in command
    parse(command)


def test_epilogs_and_help_parse():
    """An example in --help that the parser itself would refuse."""
    for parser in (videowm_parser(), scaling_parser()):
        for line in parser.description.splitlines():
            if line.startswith("  ") and not line.strip().startswith("python -m scaling fit table"):
                parse(re.split(r"\s{3,}", line.strip())[0])


def test_readme_tree_is_the_tree():
    """A module that README forgot, or one that it still lists."""
    tree = README.split("## Tree")[1].split("```")[1]
    listed, room = set(), ""
    for line in tree.splitlines():
        if line and not line.startswith(" "):
            room = line.split()[0]
            listed.add(room)
        elif line:
            listed.add(room + line.split()[0])
    for name in listed:
        assert (ROOT / name).exists(), name
    tracked = subprocess.run(["git", "ls-files", "videowm", "scaling"], cwd=ROOT, capture_output=True, text=True).stdout
    modules = {name for name in tracked.split() if name.endswith(".py") and not name.endswith("__init__.py")}
    assert modules == {name for name in listed if name.endswith(".py")}


def test_readme_picture_is_there():
    """README without its picture."""
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).exists(), path
