"""What the documentation says of configurations: every key with type, limits, default and comment, from the code."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from videowm.config import to_dict, type_name
from videowm.limits import Range


@dataclass(frozen=True)
class Key:
    """One line of the reference: a dotted key, what it may hold, its default, and the comment beside it."""

    name: str
    type: str
    limits: str
    default: str
    comment: str


def keys(cls: type, prefix: str = "") -> Iterator[Key]:
    """Every key of a configuration class, nested ones with dots, in the order of the source."""
    hints, comments = typing.get_type_hints(cls, include_extras=True), field_comments(cls)
    for field in dataclasses.fields(cls):
        hint, name = hints[field.name], prefix + field.name
        nested = nested_class(hint)
        if nested is not None:
            yield from keys(nested, f"{name}.")
            continue
        base, limits = (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())
        yield Key(name, type_name(base), limits_in(hint, limits), default_of(field), comments.get(field.name, ""))


def nested_class(hint: Any) -> type | None:
    """The configuration class that a hint names, alone or in a union with None."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((option for option in options if dataclasses.is_dataclass(option)), None)


def limits_in(hint: Any, limits: tuple[Any, ...]) -> str:
    """The ranges of a hint in words, those within a union or list too."""
    inner = [a for arg in get_args(hint) if get_origin(arg) is Annotated for a in get_args(arg)[1:]]
    return "; ".join(dict.fromkeys(str(limit) for limit in (*limits, *inner) if isinstance(limit, Range)))


def default_of(field: dataclasses.Field) -> str:
    """The default of a field as YAML writes it; "required" where it has none."""
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    return json.dumps(to_dict(value)) if isinstance(value, list | dict | tuple | bool | None) else str(value)


def field_comments(cls: type) -> dict[str, str]:
    """The comment at the end of each field's line in the class's source, the one line of documentation of a key."""
    found, lines = {}, inspect.getsource(cls).splitlines()
    for line in lines:
        if match := re.match(r"    (\w+): .*?  # (.*)$", line):
            found[match[1]] = match[2]
    return found
