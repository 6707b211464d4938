"""The reference of configurations: every key with type, limits, default and comment, read from the code."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass

from videowm.config import is_required, nested_class, to_dict, type_name
from videowm.limits import ranges


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
        if nested := nested_class(hint):
            yield from keys(nested, f"{name}.")
        else:
            limits = "; ".join(dict.fromkeys(map(str, ranges(hint))))
            yield Key(name, type_name(hint), limits, default_of(field), comments.get(field.name, ""))


def default_of(field: dataclasses.Field) -> str:
    """The default of a field as YAML writes it; "required" where it has none."""
    if is_required(field):
        return "required"
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return json.dumps(to_dict(value)) if isinstance(value, list | dict | tuple | bool | None) else str(value)


@functools.cache
def field_comments(cls: type) -> dict[str, str]:
    """The comment at the end of each field's line in the source of the class and of those that it extends.

    It is the one line of documentation of a key.
    """
    sources = "".join(inspect.getsource(one) for one in reversed(cls.__mro__[:-1]))
    return dict(re.findall(r"(?m)^    (\w+): .*?  # (.*)$", sources))
