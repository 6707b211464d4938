"""What a docstring owes its reader: short sentences, errors that are named, shapes of arrays in signatures."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "videowm").rglob("*.py"), *(ROOT / "scaling").rglob("*.py")])
SHAPED = ("actions", "dit", "evaluate", "pipeline.py", "vae")  # rooms whose signatures have shapes
COMPILED = {"dit/fused.py", "dit/attention.py", "dit/model.py", "dit/graph.py"}  # what compilers read stays plain
LONGEST = 25  # words
TABLES = {"VAEConfig"}  # its docstring holds a table


def documented(path: Path) -> list[ast.AST]:
    """The module, classes and functions of a file."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]


def sentences(text: str) -> list[list[str]]:
    """The words of each sentence; code and quotes count as one word, an entry of `Args:` is a sentence."""
    text = re.sub(r"(?m)^\s*>>> .*$", ".", text)
    text = re.sub(r'`[^`]*`|"[^"]*"', "X", text)
    text = re.sub(r"\n\s*\n|\n\s*(Args|Returns|Raises|Example|Yields):", " . ", text)
    text = re.sub(r"(?m)^\s{4,}\w[\w, *]*: ", ". ", text)
    return [sentence.split() for sentence in re.split(r"(?<=[.:;!?])\s+", " ".join(text.split()))]


def raises_user_error(function: ast.FunctionDef) -> bool:
    return any(isinstance(n, ast.Raise) and n.exc and "UserError" in ast.unparse(n.exc) for n in ast.walk(function))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docstrings(path):
    """Guards sentences that must be read twice, and errors that a caller finds out about in production."""
    for node in documented(path):
        text, name = ast.get_docstring(node) or "", getattr(node, "name", "module")
        if name not in TABLES:
            long = [" ".join(words) for words in sentences(text) if len(words) > LONGEST]
            assert not long, f"{name}: {long[0]}"
        if isinstance(node, ast.FunctionDef) and not name.startswith("_") and raises_user_error(node):
            assert "Raises" in text, f"{name} raises UserError and has no `Raises:`"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_arrays_have_shapes(path):
    """Guards a public signature that takes an array and does not say of which shape."""
    place = path.relative_to(ROOT).as_posix().partition("/")[2]
    if not path.is_relative_to(ROOT / "videowm") or not place.startswith(SHAPED) or place in COMPILED:
        return
    for node in documented(path):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            hints = [ast.unparse(a.annotation) for a in (*node.args.args, *node.args.kwonlyargs) if a.annotation]
            plain = [re.sub(r"\w+\[(Tensor|np\.ndarray),[^\]]*\]", "", hint) for hint in hints]
            bare = [hint for hint in plain if re.search(r"(?<![\[\w.])(Tensor|np\.ndarray)\b", hint)]
            assert not bare, f"{node.name} takes a {bare[0]} without a shape"
