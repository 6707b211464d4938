"""Strict typed configuration: YAML -> dataclasses, dotted overrides, did-you-mean, dump, hash. Imports no torch.

A configuration is a frozen dataclass beside the class that it configures. A YAML file holds only what differs from
the defaults. An unknown key, a wrong type or a number outside its `videowm.limits.Range` is a `UserError`. It names
the dotted key, what was expected and the likely right one.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import reprlib
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from videowm import shipped
from videowm.files import short_hash
from videowm.limits import LARGEST, Range
from videowm.types import UserError

T = TypeVar("T")
RESOLVED = "# every key with its value; the last line is three dots"  # first line of what `dump` writes


def load(cls: type[T], path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> T:
    """Read a YAML file and `key.sub=value` overrides (values in YAML syntax) into the dataclass `cls`."""
    return complete(cls, read(path), overrides, where=str(path))


def complete(cls: type[T], data: dict[str, Any], overrides: Iterable[str], where: str) -> T:
    """`data`, as `read` gives it, with the overrides applied, as the dataclass `cls`."""
    for override in overrides:
        apply_override(data, override, cls)
    return build(cls, data, where=where)


def read(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> dict[str, Any]:
    """The plain mapping of a YAML file with the overrides applied, not yet checked against a dataclass.

    A path such as configs/world/quickstart.yaml that is not there is that of the package.

    Raises:
        UserError: the file is missing, cut off, not valid YAML or not a mapping, or an override does not fit it.
    """
    try:
        text = shipped.resolve(path).read_text()
        if text.startswith(RESOLVED) and not text.rstrip().endswith("\n..."):
            raise UserError(f"{path} is cut off (its last line is not three dots): restore it, or train elsewhere")
        data = yaml.load(text, UniqueKeys)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise UserError(f"no configuration at {path} ({error.strerror}): give the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path} is not valid YAML ({first}): correct the file") from None
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a {type(data).__name__}, expected `key: value` lines")
    for override in overrides:
        apply_override(data, override)
    return data


SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, ten times as fast, where it was built


class UniqueKeys(SafeLoader):
    """Refuses a key that stands twice in one mapping, and aliases, with which a short file can grow without limit."""

    def get_single_node(self) -> yaml.Node | None:
        """The document, in which an alias is the node of its anchor once more."""
        top, seen = super().get_single_node(), set()
        left = [] if top is None else [top]
        while left:
            node = left.pop()
            if node in seen:
                raise yaml.YAMLError(f"an alias of the value in line {node.start_mark.line + 1}: write the value out")
            seen.add(node)
            if isinstance(node, yaml.CollectionNode):
                pairs = isinstance(node, yaml.MappingNode)
                left += [part for pair in node.value for part in pair] if pairs else node.value
        return top

    def construct_mapping(self, node, deep=False):  # noqa: FBT002 - PyYAML's signature
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.YAMLError(f"key {key.value!r} stands twice, again in line {key.start_mark.line + 1}")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def apply_override(data: dict[str, Any], override: str, cls: type | None = None) -> None:
    """Set `a.b=value` in the nested mapping `data`, which becomes a `cls`. Text keys take the value as it stands.

    Raises:
        UserError: the override is not `key=value`, its value is not YAML, or its key leads through a list or a plain
            value.
    """
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise UserError(f"override {override!r} is not of the form key.sub=value")
    (*parents, last), hint = keys_of(cls, key)
    try:
        value = text if takes_text(hint, text) else parse_scalar(text)
    except yaml.YAMLError:
        raise UserError(f"override {override!r}: the value is not valid YAML") from None
    for parent in parents:
        inner = data.setdefault(parent, {})
        if isinstance(inner, list):
            raise UserError(
                f"override {override!r}: {parent} is a list, of which no single entry can be set: give all of it, as "
                f"{parent}='[...]', or change the file"
            )
        if not isinstance(inner, dict):
            raise UserError(f"override {override!r}: {parent} is a value, it has no keys below it")
        data = inner
    data[last] = value


def keys_of(hint: Any, key: str) -> tuple[list[str], Any]:
    """The keys of a dotted one and the type there. Below a `dict[str, Any]` the rest is one key, as in `set`."""
    first, dot, rest = key.partition(".")
    hint = next((arg for arg in alternatives(hint) if arg is not type(None)), None)
    below = typing.get_type_hints(hint).get(first) if dataclasses.is_dataclass(hint) else None
    if get_origin(hint) is dict:
        below = get_args(hint)[1] if dot else Any
        if below is Any:
            return [key], Any
    if not dot:
        return [first], below
    keys, last = keys_of(below, rest)
    return [first, *keys], last


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union; of any other hint that alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def takes_text(hint: Any, text: str) -> bool:
    """Whether a key holds text, or a list of texts, and `text` is meant literally: no list, quoted, empty or a null."""
    lists = {option for option in alternatives(hint) if option == list[str]}
    options = set(alternatives(hint)) - lists
    if lists and text.startswith("["):
        return False
    if not options <= {str, Path, type(None)} or not options & {str, Path}:
        return False
    return text[:1] not in ("", "'", '"') and not (type(None) in options and text in ("null", "~"))


def parse_scalar(text: str) -> Any:
    """YAML value of `text`; unlike YAML 1.1, `1e-3` is a number."""
    value = yaml.load(text, SafeLoader)  # noqa: S506
    return as_number(value) if isinstance(value, str) else value


def as_number(value: str) -> Any:
    try:
        return float(value) if any(ch.isdigit() for ch in value) else value
    except ValueError:
        return value


@dataclass(frozen=True)
class Place:
    """Where a value stands: the file (empty on the command line), the dotted key, and the class of the whole file."""

    file: str
    top: type
    key: str = ""

    def below(self, key: Any) -> Place:
        return dataclasses.replace(self, key=f"{self.key}.{key}" if self.key else str(key))

    def item(self, index: int) -> Place:
        return dataclasses.replace(self, key=f"{self.key}[{index}]")

    def __str__(self) -> str:
        return f"{self.file}: {self.key}" if self.file else self.key


def build(cls: type[T], data: dict[str, Any], where: str = "configuration") -> T:
    """Check the nested mapping `data` against the dataclass `cls` and return an instance.

    Raises:
        UserError: a key is unknown or missing, or a value has another type or lies outside its range.
    """
    return built(cls, data, Place(where, cls))


@cache
def types_of(cls: type) -> dict[str, Any]:
    """The type of every key of a dataclass, ranges included; resolving them takes longer than checking."""
    return typing.get_type_hints(cls, include_extras=True)


def built(cls: type[T], data: dict[str, Any], where: Place) -> T:
    """An instance of the dataclass `cls` that stands at `where`.

    Raises:
        UserError: a key is unknown or missing, or its value has the wrong type or lies out of range.
    """
    hints = types_of(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values = {}
    for key, value in data.items():
        place = where.below(key)
        if key not in fields:
            raise UserError(f"{where.file}: unknown key {brief(place.key)}{nearest(place, fields)}")
        values[key] = convert(hints[key], value, place)
    for name, field in fields.items():
        if is_required(field) and name not in values:
            key = where.below(name).key
            raise UserError(f"{where.file}: key {key!r} is missing (a {type_name(hints[name])}): give it")
    return cls(**values)


def is_required(field: dataclasses.Field) -> bool:
    """Whether a field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def every_key(cls: type, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a configuration class, groups of keys included."""
    for name, hint in typing.get_type_hints(cls).items():
        yield prefix + name
        if nested := nested_class(hint):
            yield from every_key(nested, f"{prefix}{name}.")


def nested_class(hint: Any) -> type | None:
    """The configuration class that a hint names, alone or in a union with None."""
    return next((option for option in alternatives(hint) if dataclasses.is_dataclass(option)), None)


def nearest(place: Place, siblings: Iterable[str]) -> str:
    """The tail of the sentence about an unknown key: the most similar key of the whole file, else its siblings."""

    def likeness(known: str) -> float:
        parts = [text.rpartition(".") for text in (place.key, known)]
        last = difflib.SequenceMatcher(None, parts[0][2], parts[1][2]).ratio()
        apart = 0.01 * known.count(".") + 0.1 if parts[0][0] != parts[1][0] else 0.0
        return max(last - apart, difflib.SequenceMatcher(None, place.key, known).ratio() - 0.2)

    best = max(every_key(place.top), key=likeness)
    return f", did you mean {best!r}?" if likeness(best) >= 0.55 else f"; known: {', '.join(sorted(siblings))}"


def suggest(word: str, known: Iterable[Any]) -> str:
    """The tail of an error sentence: the likely right word, else the list of the known ones."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(map(str, known)))}"


def brief(value: Any) -> str:
    """A value in an error sentence: one line, long ones cut in the middle."""
    shorter = reprlib.Repr()
    shorter.maxstring, shorter.maxother = 120, 120
    return shorter.repr(value)


def convert(hint: Any, value: Any, where: Place) -> Any:
    """`value` as the annotated type `hint`, within its range; int becomes float where a float is wanted.

    Raises:
        UserError: the value has the wrong type, is not one of the choices, or is out of range.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return within(args[1:], convert(args[0], value, where), where)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected keys of {hint.__name__}, got {brief(value)}")
        return built(hint, value, where)
    if origin in (Union, types.UnionType):
        return convert_union(args, value, where)
    if origin is Literal:
        if isinstance(value, bool) and (word := "on" if value else "off") in args:
            value = word  # to YAML 1.1 these words are booleans
        if value not in args:
            raise UserError(f"{where}: {brief(value)} is not a choice{suggest(value, args)}")
        return value
    if origin in (list, tuple):
        return convert_sequence(hint, origin, args, value, where)
    if origin is dict or hint is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected a mapping, got {brief(value)}")
        return dict(value)
    return convert_plain(hint, value, where)


def within(limits: tuple[Any, ...], value: Any, where: Place) -> Any:
    """`value`, if it lies within every `Range` of an annotation.

    Raises:
        UserError: the value lies outside a range.
    """
    for limit in limits:
        if isinstance(limit, Range) and isinstance(value, int | float) and not limit.holds(value):
            raise UserError(f"{where}: {value!r} is out of range, expected a number that is {limit}")
    return value


def convert_union(args: tuple, value: Any, where: Place) -> Any:
    """`value` as the first type of a union that takes it.

    Raises:
        UserError: no type of the union takes the value.
    """
    if value is None and type(None) in args:
        return None
    options = [arg for arg in args if arg is not type(None)]
    if len(options) == 1:
        return convert(options[0], value, where)
    refused = []
    for option in options:
        try:
            return convert(option, value, where)
        except UserError as error:
            refused.append(str(error))
    if outside := [text for text in refused if "is out of range" in text]:
        raise UserError(outside[0])
    raise UserError(f"{where}: expected {' or '.join(map(type_name, args))}, got {brief(value)}")


def convert_sequence(hint: Any, origin: type, args: tuple, value: Any, where: Place) -> Any:
    """`value` as a list or tuple whose items have their annotated types.

    Raises:
        UserError: the value is no sequence, has the wrong length, or holds an item that does not convert.
    """
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{where}: expected {type_name(hint)}, got {brief(value)}")
    if origin is tuple and args[-1] is not Ellipsis:
        if len(value) != len(args):
            raise UserError(f"{where}: expected {len(args)} values, got {len(value)}: {brief(value)}")
        return tuple(convert(arg, v, where.item(i)) for i, (arg, v) in enumerate(zip(args, value, strict=True)))
    return origin(convert(args[0], v, where.item(i)) for i, v in enumerate(value))


def convert_plain(hint: Any, value: Any, where: Place) -> Any:
    """`value` as a plain type. Text that is a number becomes one, and text becomes a Path where one is wanted.

    Raises:
        UserError: the value has another type, is not finite, or is a whole number above 2**53 in magnitude.
    """
    if hint is Any:
        return value
    if hint is float:
        value = as_number(value) if isinstance(value, str) else value
        if isinstance(value, int) and not isinstance(value, bool):
            value = float(min(max(value, -(10**300)), 10**300))
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{where}: {value!r} is not a finite number")
    if hint is int:
        if isinstance(value, str | float) and as_number(str(value)) == (number := as_int(value)):
            value = number
        if isinstance(value, int) and abs(value) > LARGEST:
            raise UserError(f"{where}: {value:.3g} is out of range, expected a whole number of at most 2**53")
    if hint is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{where}: expected {type_name(hint)}, got {brief(value)}")
    return value


def as_int(value: str | float) -> int | None:
    """Whole numbers written as 1e6 or 1000.0 are integers; everything else is not."""
    try:
        return int(float(value)) if float(value) == int(float(value)) else None
    except (ValueError, OverflowError):
        return None


def check(config: T) -> T:
    """The same configuration, if every value has the type and range of its annotation, as one from a file has.

    Raises:
        UserError: a value has not.
    """
    return build(type(config), to_dict(config), where=type(config).__name__)


def type_name(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        return type_name(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join("none" if arg is type(None) else type_name(arg) for arg in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    return getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint).replace("typing.", "")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested mapping of a configuration, fit for YAML and JSON."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return str(value) if isinstance(value, Path) else value

    return plain(config)


def dump(config: Any) -> str:
    """A resolved configuration, or the mapping of one, as YAML; `load` of it gives the same object."""
    return f"{RESOLVED}\n{yaml.safe_dump(to_dict(config), sort_keys=False, explicit_end=True)}"


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> dotted keys; an empty mapping is a value."""
    out: dict[str, Any] = {}
    for key, value in data.items():
        out |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return out


def digest(config: Any, *, without: Iterable[str] = ()) -> str:
    """Hash (16 digits) of a configuration, or of the mapping of one, without the named dotted keys."""
    left_out = set(without)
    data = {key: value for key, value in flatten(to_dict(config)).items() if key not in left_out}
    return short_hash(json.dumps(data, sort_keys=True))
