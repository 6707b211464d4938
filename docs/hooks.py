"""Pages that mkdocs makes at build time: the start page from README, the reference from the code.

Every page of the reference is a function here that returns Markdown; `tests/test_reference.py` holds them to the code.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import typing
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RANGE = re.compile(r"Annotated\[(\w+), Range\([^)]*\)\]")
FIELDS = re.compile(r"<!-- fields: ([\w.]+)\.(\w+)(?: without (\w+))? -->")
LINK = re.compile(r"(?<!!)\[([^]]+)\]\(([^)#:]+)(#[^)]*)?\)")


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table; pipes and line breaks within a cell are escaped."""
    lines = [list(head), ["---"] * len(list(head)), *(list(row) for row in rows)]
    cells = ([" ".join(str(cell).split()).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def code(text: str) -> str:
    """`text` as code; nothing where there is none."""
    return f"`{text}`" if text else ""


def capital(text: str) -> str:
    """`text` with its first letter as a capital."""
    return text[:1].upper() + text[1:]


def first_sentence(text: str | None) -> str:
    """The first paragraph of a docstring in one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


def configurations() -> dict[str, type]:
    """Heading -> class of every file that a user writes: each task, and a sweep."""
    from scaling.point import SweepConfig
    from videowm.train import registry

    tasks = {f"task: {name}": registry.config_class(name) for name in registry.modules()}
    return tasks | {"sweep": SweepConfig}


def configuration_page() -> str:
    """Every key of every configuration, with type, limits, default and what it does."""
    from videowm.reference import keys

    parts = [
        "# Configuration",
        "A configuration is a YAML file that holds only what differs from the defaults. Dotted overrides follow the "
        "file on the command line: `videowm train FILE train.lr=1e-3`. An unknown key or a value out of its limits is "
        "refused when the file is read. Numbers are finite; `null` is written for a key that may be empty.",
    ]
    for name, cls in configurations().items():
        rows = [(code(k.name), RANGE.sub(r"\1", k.type), k.limits, code(k.default), k.comment) for k in keys(cls)]
        parts += [f"## {name}", first_sentence(cls.__doc__), table(("key", "type", "limits", "default", "what"), rows)]
    return "\n\n".join(parts) + "\n"


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every verb of both programs: its full command, and its parser."""
    from scaling.__main__ import parser as scaling_parser
    from videowm.cli import parser as videowm_parser

    for program, top in (("videowm", videowm_parser()), ("python -m scaling", scaling_parser())):
        yield from verbs(program, top)


def verbs(command: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The verbs beneath a parser, those of verbs too."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for name, verb in (pair for group in groups for pair in group.choices.items()):
        inner = list(verbs(f"{command} {name}", verb))
        yield from inner or [(f"{command} {name}", verb)]


def option_row(action: argparse.Action, parser: argparse.ArgumentParser) -> tuple[str, str]:
    """One argument as a person writes it, and its help."""
    formatter = argparse.HelpFormatter(parser.prog)
    written = formatter._format_action_invocation(action).replace("'", "")
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    return code(written), text + (" (required)" if action.required and action.option_strings else "")


def cli_page() -> str:
    """Every verb of both programs with its options."""
    parts = [
        "# Command line",
        "Errors that a user can mend are one sentence and exit code 2. `videowm --help` has examples.",
    ]
    for command, parser in parsers():
        actions = [a for a in parser._actions if not isinstance(a, argparse._HelpAction)]
        rows = [option_row(action, parser) for action in actions]
        parts += [f"## {command}", capital(parser.description or "") + "."]
        parts += [table(("option", "what"), rows)] if rows else []
    return "\n\n".join(parts) + "\n"


def metrics_page() -> str:
    """Every metric of the registry, a table for each room."""
    from videowm.metrics import BESIDE, BOUNDS, METRICS

    suffixes = [(code(f"_{suffix}"), label) for suffix, label in BOUNDS.items()]
    suffixes += [(code(f"_{suffix}"), BESIDE_WORDS.get(suffix, suffix)) for suffix in BESIDE]
    parts = [
        "# Metrics",
        "Evaluators yield pairs of a name and a value. `record.json` and `evaluation.json` hold them. A name with `{}` "
        "stands for a family: an action, a column of the state, or a network takes its place.",
        "A recorded name may end in a suffix:",
        table(("suffix", "what"), suffixes),
    ]
    rooms: dict[str, list] = {}
    for metric in METRICS:
        rooms.setdefault(metric.name.split("/")[0] if "/" in metric.name else "of training", []).append(metric)
    for room, metrics in rooms.items():
        rows = [(code(m.name), m.what, m.unit, m.better or "", m.ceiling or "", m.floor or "", code(m.computed_in))
                for m in metrics]  # fmt: skip
        head = ("metric", "what", "unit", "better", "ceiling", "floor", "computed in")
        parts += [f"## {room}", table(head, rows)]
    return "\n\n".join(parts) + "\n"


BESIDE_WORDS = {
    "se": "bootstrap standard error over held-out episodes",
    "by_frame": "the curve over predicted frames",
    "first": "the predicted frame that a curve begins with",
    "clips": "how many clips it was measured on",
    "protocol": "how it was measured",
    "refused": "why it was not measured",
}


def fields_table(cls: type, without: str | None) -> str:
    """Every field of the dataclass that a file holds, with its type and the comment beside it; `without` one."""
    from videowm.config import type_name
    from videowm.reference import field_comments

    hints = typing.get_type_hints(cls, include_extras=True)
    comments = {k: v for base in reversed(cls.__mro__[:-1]) for k, v in field_comments(base).items()}
    rows = [(code(f.name), RANGE.sub(r"\1", type_name(hints[f.name])), comments.get(f.name, ""))
            for f in dataclasses.fields(cls) if f.name != without]  # fmt: skip
    return table(("key", "type", "what"), rows)


def files_page() -> str:
    """The page on files; a line `fields: module.Class without FIELD` in it becomes the table of that class."""
    text = (DOCS / "reference" / "files.md").read_text()
    return FIELDS.sub(lambda match: fields_table(getattr(import_module(match[1]), match[2]), match[3]), text)


def start_page() -> str:
    """README as the site's first page: links are relative to docs/."""
    text = (ROOT / "README.md").read_text()
    return re.sub(r"\]\(docs/", "](", text)


GENERATED = {
    "index.md": start_page,
    "reference/configuration.md": configuration_page,
    "reference/cli.md": cli_page,
    "reference/metrics.md": metrics_page,
}


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for path, page in GENERATED.items():
        files.append(File.generated(config, path, content=page()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Tables from the code; a link to a file outside docs/, which the site does not hold, becomes its path."""
    source = DOCS / page.file.src_uri
    if page.file.src_uri == "reference/files.md":
        markdown = files_page()

    def outside(match: re.Match) -> str:
        target = (source.parent / match[2]).resolve()
        if target.is_relative_to(DOCS) or not target.exists():
            return match[0]
        return f"{match[1]} (`{target.relative_to(ROOT)}`)"

    return LINK.sub(outside, markdown)
