"""README and the configurations say what is there: commands, rooms, pictures, links."""

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
CONFIG_COMMANDS = [
    (path, line[2:].split("        ")[0])
    for path in sorted(ROOT.glob("configs/**/*.yaml"))
    for line in path.read_text().splitlines()[:1]
]


def parse(command: str) -> None:
    """Refuse a command that the program's own parsers do not take, or that names a file that is not there."""
    words = shlex.split(command)
    if words[:3] == ["python", "-m", "videowm.launch"]:
        words = ["videowm", *words[words.index("train") :]]
    if words[:3] == ["python", "-m", "scaling"]:
        scaling_parser().parse_args(words[3:])
    else:
        assert words[0] == "videowm", command
        videowm_parser().parse_args(words[1:])
    for word in words:
        if word.startswith(("configs/", "tests/")):
            assert (ROOT / word).exists(), command


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


def test_readme_names_every_room():
    """A room that README forgot, or one that it still lists."""
    listed = {line.split()[0] for line in README.split("## Rooms")[1].split("```")[1].splitlines() if line}
    assert [name for name in listed if not (ROOT / name).is_dir()] == []
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    parents = {Path(name).parts[:-1] for name in tracked}
    rooms = {parts[0] for parts in parents if parts} | {
        f"videowm/{p[1]}" for p in parents if p[:1] == ("videowm",) and p[1:]
    }
    assert {f"{room}/" for room in rooms if not room.startswith(".")} == listed


def test_readme_can_be_read_to_its_end():
    """A README that grows until nobody reads it."""
    assert len(README.splitlines()) <= 150
