"""Strict configuration: what is refused, what is converted, and that a dump is the configuration again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from videowm import config as configuration
from videowm.types import UserError


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1
    steps: int = 10
    betas: tuple[float, float] = (0.9, 0.99)


@dataclass(frozen=True)
class Outer:
    out: str
    kind: Literal["fast", "slow"] = "fast"
    inner: Inner = field(default_factory=Inner)
    hidden: int | None = None
    names: list[Literal["wandb", "tensorboard"]] = field(default_factory=list)
    args: dict[str, Any] = field(default_factory=dict)
    shown: bool = False
    where: Path | None = None


@dataclass(frozen=True)
class Switch:
    compile: Literal["auto", "on", "off"] = "auto"


def test_on_and_off_are_words(tmp_path):
    """Guards `compile=off` refused as False, which YAML makes of it; other choices stay strict."""
    path = tmp_path / "config.yaml"
    for text, value in (("compile: off", "off"), ("compile: on", "on"), ("compile: 'off'", "off"), ("{}", "auto")):
        path.write_text(text)
        assert configuration.load(Switch, path) == Switch(value)
        path.write_text(configuration.dump(Switch(value)))
        assert configuration.load(Switch, path) == Switch(value)
    assert configuration.load(Switch, path, ["compile=off"]) == Switch("off")
    with pytest.raises(UserError, match="1 is not a choice"):
        configuration.load(Switch, path, ["compile=1"])


def load(tmp_path, text: str, *overrides: str) -> Outer:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return configuration.load(Outer, path, overrides)


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("out: x\nkidn: slow", [], "unknown key 'kidn', did you mean 'kind'?"),
        ("out: x", ["inner.stesp=3"], "unknown key 'stesp', did you mean 'steps'?"),
        ("out: x", ["iner.steps=3"], "unknown key 'iner', did you mean 'inner'?"),
        ("out: x\nkind: slwo", [], "'slwo' is not a choice, did you mean 'slow'?"),
        ("out: x\nnames: [wadb]", [], "names[0]: 'wadb' is not a choice, did you mean 'wandb'?"),
        ("out: x\nnames: wandb", [], "names: expected list"),
        ("out: x\ninner: {steps: many}", [], "steps: expected int, got 'many'"),
        ("out: x\ninner: {steps: 1.5}", [], "steps: expected int, got 1.5"),
        ("out: x\ninner: {steps: true}", [], "steps: expected int, got True"),
        ("out: x\ninner: {lr: true}", [], "lr: expected float, got True"),
        ("out: x\ninner: {lr: fast}", [], "lr: expected float, got 'fast'"),
        ("out: x\ninner: {betas: [0.9]}", [], "betas: expected 2 values, got 1"),
        ("out: x\ninner: 3", [], "inner: expected keys of Inner, got 3"),
        ("out: x\nhidden: wide", [], "hidden: expected int, got 'wide'"),
        ("out: x\nargs: [1]", [], "args: expected a mapping, got [1]"),
        ("out: x\nshown: 1", [], "shown: expected bool, got 1"),
        ("out: 3", [], "out: expected str, got 3"),
        ("kind: slow", [], "key 'out' is missing"),
        ("out: x", ["kind"], "'kind' is not of the form key.sub=value"),
        ("out: x", ["out.sub=3"], "out is a value, it has no keys below it"),
        ("out: x\nnames: [wandb]", ["names.0=tensorboard"], "names is a list, of which no single entry can be set"),
        ("out: x", ["kind=[slow"], "the value is not valid YAML"),
        ("- 1\n- 2", [], "holds a list, expected `key: value` lines"),
        ("out: [x", [], "is not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, overrides, expected):
    """Guards a typo that is silently ignored: each is refused with the key, the expectation and the likely right word.

    The expected words differ from case to case, so an error raised for another reason does not pass.
    """
    with pytest.raises(UserError) as error:
        load(tmp_path, text, *overrides)
    assert expected in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_path_that_is_no_file(tmp_path, name):
    """Guards a traceback where a user names a run directory instead of its config.yaml, or nothing that exists."""
    with pytest.raises(UserError, match="YAML file"):
        configuration.load(Outer, tmp_path / name)


def test_values_are_converted_as_documented(tmp_path):
    """Guards YAML 1.1, where 1e-3 is text: floats and whole numbers in any notation, ints for floats."""
    got = load(tmp_path, "out: x\ninner: {lr: 1e-3, steps: 1e3, betas: [0, 1e-1]}\nhidden: null")
    assert got == Outer("x", inner=Inner(lr=0.001, steps=1000, betas=(0.0, 0.1)), hidden=None)
    assert [type(v) for v in (got.inner.lr, got.inner.steps, *got.inner.betas)] == [float, int, float, float]
    assert type(load(tmp_path, "out: x\ninner: {lr: 1}").inner.lr) is float


def test_overrides_win_and_leave_the_rest(tmp_path):
    """Guards an override that replaces its whole section: `kept` was given in the file, `changed` beside it."""
    text = "out: x\ninner: {lr: 0.5, steps: 7}\nargs: {kept: 1}"
    got = load(
        tmp_path, text, "inner.steps=9", "args.changed=[1, 2]", "kind=slow", "hidden=64", "where=a/b", "names=[wandb]"
    )
    assert got == Outer("x", "slow", Inner(0.5, 9), 64, ["wandb"], {"kept": 1, "changed": [1, 2]}, where=Path("a/b"))
    below = load(tmp_path, "out: x\nargs: {a.b: 1, a.c: 2}", "args.a.b=3").args
    assert below == {"a.b": 3, "a.c": 2}, "a mapping of dotted keys, as a sweep's `set` is"
    assert load(tmp_path, text, "hidden=null", "inner.lr=1e-4").inner == Inner(1e-4, 7)


def test_a_dump_is_the_configuration_again(tmp_path):
    """Guards `videowm train RUN/config.yaml`: every field is away from its default, so one left out is seen."""
    config = Outer("x", "slow", Inner(1e-7, 3, (0.1, 0.2)), 64, ["tensorboard"], {"a": {"b": None}}, True, Path("c/d"))
    assert load(tmp_path, configuration.dump(config)) == config


def test_digest_names_what_is_computed():
    """Guards a hash that depends on paths or on the process: the literal was computed once and must come again."""
    config = Outer("x", inner=Inner(steps=3))
    digest = configuration.digest(config, without=("out",))
    assert digest == configuration.digest(replace(config, out="elsewhere"), without=("out",)) == "b645dd09c3a96c22"
    assert digest != configuration.digest(replace(config, inner=Inner(steps=4)), without=("out",))
    assert configuration.digest(config) != configuration.digest(replace(config, out="elsewhere"))
