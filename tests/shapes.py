"""The check of shapes in signatures, under test only: jaxtyping's arrays, by beartype, in the rooms that have them.

`tests/conftest.py` installs it before any room is imported. A test that compiles a network, or hands over wrong shapes
on purpose, takes the fixture `unchecked`.

jaxtyping's own import hook wraps every function, which breaks generators under `torch.no_grad` and masks of
FlexAttention. This one wraps functions with a shape in their signature, and no generators or inner functions.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray, jaxtyped

SHAPE = re.compile(r"\w\[[\w.]+, '")  # Float[Tensor, 'b t']


def is_array(annotation: Any) -> bool:
    """Whether an annotation is, or holds, an array with a shape."""
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return True
    return any(is_array(part) for part in get_args(annotation))


def arrays_only(function: Callable) -> Callable:
    """The function with its arrays checked by beartype, and none of its other annotations."""
    function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if is_array(hint)}
    return beartype(function)


checked = jaxtyped(typechecker=arrays_only)


class Decorate(ast.NodeTransformer):
    """Puts `checked` around functions with shapes, within their other decorators."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        notes = [node.returns, *(a.annotation for a in ast.walk(node.args) if isinstance(a, ast.arg))]
        if any(note and SHAPE.search(ast.unparse(note)) for note in notes) and not yields(node):
            node.decorator_list.append(ast.parse("__import__('shapes').checked", mode="eval").body)
        return node


def yields(node: ast.FunctionDef) -> bool:
    """Whether a function is a generator."""
    return any(isinstance(inner, ast.Yield | ast.YieldFrom) for inner in ast.walk(node))


class Loader(SourceFileLoader):
    """Loads a module with `Decorate`; nothing is cached on disk."""

    def get_code(self, fullname: str):
        path = self.get_filename(fullname)
        tree = ast.fix_missing_locations(Decorate().visit(ast.parse(self.get_data(path), path)))
        return compile(tree, path, "exec", dont_inherit=True)


class Finder(MetaPathFinder):
    """Finds the modules of some packages, but for those in `without`."""

    def __init__(self, packages: list[str], without: list[str]) -> None:
        self.packages, self.without = packages, without

    def find_spec(self, fullname: str, path=None, target=None):
        inside = any(f"{fullname}.".startswith(f"{package}.") for package in self.packages)
        if not inside or fullname in self.without:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


def install(packages: list[str], without: list[str]) -> None:
    """Check shapes in everything that is imported of `packages` from now on."""
    sys.meta_path.insert(0, Finder(packages, without))
