"""Strict configuration: what is refused, what is converted, and that a dump is the configuration again."""

from __future__ import annotations

import typing
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from videowm import config as configuration
from videowm import reference
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
        ("out: x", ["inner.stesp=3"], "unknown key 'inner.stesp', did you mean 'inner.steps'?"),
        ("out: x", ["stesp=3"], "unknown key 'stesp', did you mean 'inner.steps'?"),
        ("out: x", ["qqq=3"], "unknown key 'qqq'; known: args, hidden, inner,"),
        ("out: x", ["iner.steps=3"], "unknown key 'iner', did you mean 'inner'?"),
        ("out: x\nkind: slwo", [], "'slwo' is not a choice, did you mean 'slow'?"),
        ("out: x\nnames: [wadb]", [], "names[0]: 'wadb' is not a choice, did you mean 'wandb'?"),
        ("out: x\nnames: wandb", [], "names: expected list"),
        ("out: x\ninner: {steps: many}", [], "inner.steps: expected int, got 'many'"),
        ("out: x\ninner: {steps: 1.5}", [], "inner.steps: expected int, got 1.5"),
        ("out: x\ninner: {steps: true}", [], "inner.steps: expected int, got True"),
        ("out: x\ninner: {lr: true}", [], "inner.lr: expected float, got True"),
        ("out: x\ninner: {lr: fast}", [], "inner.lr: expected float, got 'fast'"),
        ("out: x\ninner: {betas: [0.9]}", [], "inner.betas: expected 2 values, got 1"),
        ("out: x\ninner: 3", [], "inner: expected keys of Inner, got 3"),
        ("out: x\nhidden: wide", [], "hidden: expected int, got 'wide'"),
        ("out: x\nargs: [1]", [], "args: expected a mapping, got [1]"),
        ("out: x\nshown: 1", [], "shown: expected bool, got 1"),
        ("out: 3", [], "out: expected str, got 3"),
        ("kind: slow", [], "key 'out' is missing"),
        ("out: x\ninner: {lr: .nan}", [], "inner.lr: nan is not a finite number"),
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
    assert digest == configuration.digest(replace(config, out="elsewhere"), without=("out",)) == "f83628267aab7176"
    deeper = replace(config, inner=replace(config.inner, lr=0.7))
    assert configuration.digest(config, without=("inner.lr",)) == configuration.digest(deeper, without=("inner.lr",))
    assert digest != configuration.digest(replace(config, inner=Inner(steps=4)), without=("out",))
    assert configuration.digest(config) != configuration.digest(replace(config, out="elsewhere"))


def test_a_file_that_was_cut_is_not_complete(tmp_path):
    """Guards a run's config.yaml that was half copied and then read as complete, with defaults for what is missing.

    Each shorter text is refused, or is the whole configuration without its last line end; none gives another one.
    """
    path, config = tmp_path / "config.yaml", Outer("x", "slow", Inner(1e-7, 3, (0.1, 0.2)), 64)
    whole = configuration.dump(config)
    for length in range(len(whole)):
        path.write_text(whole[:length])
        try:
            assert configuration.load(Outer, path) == config and length == len(whole) - 1
        except UserError as error:
            assert "\n" not in str(error)
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is cut off"):
        configuration.load(Outer, path)


@pytest.mark.parametrize("text", ["x/a #b", "a: b", "2026-11-30", "1e5", "{x", "null"])
def test_text_is_taken_as_it_stands(tmp_path, text):
    """Guards `out="x/a #b"` that trains in x/a: an override of a text key is that text, whatever YAML makes of it."""
    assert load(tmp_path, "out: y", f"out={text}").out == text
    assert load(tmp_path, "out: y", "out='quoted'").out == "quoted"
    assert load(tmp_path, "out: y", "where=null").where is None


def run_classes() -> dict[str, tuple[type, dict[str, Any]]]:
    """Every configuration class that a file is read into, with the least that one must hold."""
    from scaling.point import SweepConfig
    from videowm.train import registry

    least = {"vae": {"data": "d"}, "reader": {"data": "d"}, "world": {"latents": "d"}}
    runs = {task: (registry.config_class(task), {"task": task, "out": "x", **more}) for task, more in least.items()}
    return runs | {"sweep": (SweepConfig, {"base": "b", "out": "x", "points": [{"depth": 1}]})}


GIVEN = {"play": {"world": "takecover", "episodes": 2}, "train.start": {"run": "r", "step": 1},
         "grid": {"budgets": [1e12], "optimum": {"tokens_per_parameter": 20}},
         "check_lr": {"depths": [1], "tokens": [1e6]}, "grid.optimum": {"tokens_per_parameter": 20},
         "grid.target_optimum": {"tokens_per_parameter": 20}}  # fmt: skip
TRIED = [-1, 0, float("nan"), float("inf"), 1e30, "word", [-1], [99, "word"]]


@pytest.mark.parametrize("kind", ["vae", "world", "reader", "sweep"])
def test_every_key_takes_or_refuses_every_value(kind):
    """Guards nonsense that is accepted, and tracebacks: whatever stands at a key, it is refused by one sentence that
    names the key, or the configuration holds it."""
    cls, least = run_classes()[kind]
    keys = [key.name for key in reference.keys(cls)]
    assert len(keys) > 20
    refused = 0
    for name in keys:
        for value in TRIED:
            data = {key: value for key, value in least.items() if not (name.startswith("play") and key == "data")}
            *parents, last = name.split(".")
            inner = data
            for i, parent in enumerate(parents):
                known = deepcopy(GIVEN.get(".".join(parents[: i + 1]), {}))
                inner = inner.setdefault(parent, known)
            inner[last] = value
            try:
                configuration.build(cls, data)
            except UserError as error:
                refused += 1
                said = str(error)
                assert last in said and "\n" not in said and len(said) < 400, (name, value, said)
    assert refused > 4 * len(keys)


def numbers_without_range(hint: Any) -> bool:
    """Whether a number may stand somewhere in a hint that no range limits."""
    if typing.get_origin(hint) is typing.Annotated:
        return False
    if typing.get_args(hint) and typing.get_origin(hint) is not Literal:
        return any(numbers_without_range(inner) for inner in typing.get_args(hint))
    return hint in (int, float)


def all_classes(cls: type) -> set[type]:
    """A configuration class and all that stand below it."""
    below = {configuration.nested_class(hint) for hint in typing.get_type_hints(cls).values()} - {None}
    return {cls}.union(*(all_classes(one) for one in below))


def test_every_number_has_a_range_and_every_key_a_comment():
    """Guards a key that is added without limits, or without the comment that the reference is made from."""
    classes = set().union(*(all_classes(cls) for cls, _ in run_classes().values()))
    assert len(classes) > 15
    for cls in classes:
        for name, hint in typing.get_type_hints(cls, include_extras=True).items():
            assert not numbers_without_range(hint), f"{cls.__name__}.{name} has no range"
    for cls, _ in run_classes().values():
        assert not [key.name for key in reference.keys(cls) if not key.comment]


@pytest.mark.parametrize(
    ("kind", "key", "values", "expected"),
    [
        ("world", "train.clip", [-1], "at least 0"), ("world", "train.lr", [0, -1, float("nan")], "train.lr"),
        ("world", "train.warmup", [float("inf"), -1], "train.warmup"),
        ("world", "train.cooldown", [2, -1], "at most 1"),
        ("world", "train.weight_decay", [-1], "at least 0"), ("world", "train.ema", [2, -1, float("nan")], "train.ema"),
        ("world", "flow.drop_actions", [2], "at most 1"), ("world", "flow.scale", [0, -1], "above 0"),
        ("world", "flow.shift", [float("nan"), 0], "flow.shift"), ("world", "hidden", [0, -8], "at least 1"),
        ("world", "budget", [0, -1, float("inf"), float("nan")], "budget"), ("world", "local", [0, -3], "at least 1"),
        ("world", "patch", [0, -1], "at least 1"), ("world", "seed", [-1, 1e30], "seed"),
        ("world", "train.keep_at", [[0], [-1]], "train.keep_at[0]"), ("vae", "loss.kl", [-1], "at least 0"),
        ("world", "train.betas", [[2, 3], [0.9, 1]], "below 1"), ("world", "heldout.clips", [0], "at least 1"),
        ("world", "heldout.batch", [0], "at least 1"), ("world", "rollout.horizon", [0], "at least 1"),
        ("world", "rollout.batch", [0], "at least 1"), ("vae", "evaluate.clips", [0], "at least 1"),
        ("sweep", "cap", [float("nan"), -1], "cap"), ("sweep", "speed", [0, -1], "above 0"),
        ("sweep", "retries", [-1], "at least 0"), ("sweep", "strip_clips", [0], "at least 1"),
    ],
)  # fmt: skip
def test_what_was_once_accepted(kind, key, values, expected):
    """Guards what once trained uphill, trained to nothing, or was found after the training."""
    cls, least = run_classes()[kind]
    for value in values:
        data = deepcopy(least)
        *parents, last = key.split(".")
        inner = data
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
        with pytest.raises(UserError) as error:
            configuration.build(cls, data)
        assert key in str(error.value) and expected in str(error.value)
