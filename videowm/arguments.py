"""Command-line options made from dataclasses of options, and a parser whose errors are one line.

A field `clip_frames: Count = 65  # frames of a clip` becomes `--clip-frames N`, with that comment as its help. Values
are converted and checked by `videowm.config`, like those of a file.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_args, get_origin

from videowm.config import Place, alternatives, convert, is_required
from videowm.reference import field_comments

T = TypeVar("T")
METAVARS = {int: "N", float: "X", Path: "PATH", str: "TEXT"}
Flags = Mapping[str, str]  # name of a field -> its flag, where that is another than the name's own


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that shows examples as they are written, and reports an error in one line."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **({"formatter_class": argparse.RawDescriptionHelpFormatter} | more))

    def error(self, message: str) -> NoReturn:
        """Print one line on stderr and exit with code 2."""
        program = self.prog.removeprefix("python -m ").split()[0]
        print(f"{program}: {' '.join(message.split())}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def parse_args(top: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """The arguments of a command. Its `overrides` may also follow its options, which argparse alone refuses."""
    args, late = top.parse_known_args(argv)
    if late and not (hasattr(args, "overrides") and all("=" in word and word[0] != "-" for word in late)):
        top.error(f"unrecognized arguments: {' '.join(late)}")
    if late:
        args.overrides += late
    return args


def add_options(parser: argparse.ArgumentParser, cls: type, flags: Flags = types.MappingProxyType({})) -> None:
    """Add one option for every field of the dataclass `cls`, those of nested option classes too."""
    comments = field_comments(cls)
    for field, hint in fields_of(cls):
        if dataclasses.is_dataclass(hint):
            add_options(parser, hint, flags)
            continue
        kind, many = plain_type(hint)
        settings: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": help_of(field, comments)}
        if kind is bool:
            settings["action"] = "store_true"
        else:
            choices = get_args(kind) if get_origin(kind) is Literal else ()
            settings["metavar"] = f"{{{','.join(choices)}}}" if choices else METAVARS[kind]
            settings["required"] = is_required(field)
        if many:
            settings |= {"nargs": "+", "action": "extend"}  # so that the flag may also be repeated
        parser.add_argument(flag_of(field.name, flags), **settings)


def options_from(cls: type[T], args: argparse.Namespace, flags: Flags = types.MappingProxyType({})) -> T:
    """The options that a user gave, as the dataclass `cls`; the others keep their defaults.

    Raises:
        UserError: a value has the wrong type or is out of range; the sentence names the flag.
    """
    values: dict[str, Any] = {}
    for field, hint in fields_of(cls):
        if dataclasses.is_dataclass(hint):
            values[field.name] = options_from(hint, args, flags)
        elif hasattr(args, field.name):
            flag = Place("", cls, flag_of(field.name, flags))
            values[field.name] = convert(hint, getattr(args, field.name), flag)
    return cls(**values)


def fields_of(cls: type) -> Iterator[tuple[dataclasses.Field, Any]]:
    """The fields of a dataclass with their resolved annotations."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return ((field, hints[field.name]) for field in dataclasses.fields(cls))


def plain_type(hint: Any) -> tuple[Any, bool]:
    """The type of one value of a field, and whether the field takes several: `tuple[Path, ...]` is (Path, True)."""
    hint = next(arg for arg in alternatives(hint) if arg is not type(None))
    if get_origin(hint) is Annotated:
        return plain_type(get_args(hint)[0])
    if get_origin(hint) is tuple:
        return plain_type(get_args(hint)[0])[0], True
    return hint, False


def flag_of(name: str, flags: Flags) -> str:
    """The flag of a field."""
    return flags.get(name, f"--{name.replace('_', '-')}")


def help_of(field: dataclasses.Field, comments: dict[str, str]) -> str:
    """The help of a field: its comment, and its default unless the comment states one."""
    text = comments[field.name].replace("%", "%%")
    silent = is_required(field) or field.default is None or field.default in (False, ()) or "default:" in text
    return text if silent else f"{text} (default: {field.default})"
