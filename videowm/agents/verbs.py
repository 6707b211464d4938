"""`videowm dream`: its sub-verbs, each an argument parser and a call of `videowm.api`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Verb = Callable[[str, str, str], argparse.ArgumentParser]  # (name, help, example) -> its parser
SubVerb = Callable[[Callable, str, str], argparse.ArgumentParser]  # (function, help, example) -> its parser


def dream_verb(verb: Verb) -> None:
    """Add `videowm dream` and its sub-verbs."""
    p = verb(dream, "train an agent in the dream, score it in the real game, watch it",
             "videowm dream train runs/world --out runs/agent")  # fmt: skip
    whats = p.add_subparsers(dest="what", required=True, metavar="train|score|watch")

    def sub(function: Callable, help: str, example: str) -> argparse.ArgumentParser:
        name = function.__name__.removesuffix("_")
        q = whats.add_parser(name, help=help, description=help, epilog=f"example:\n  {example}")
        q.set_defaults(dreams=function)
        return q

    for add in (train_verb,):
        add(sub)


def train_verb(sub: SubVerb) -> None:
    """Learn in the dream."""
    sub(train, "train an agent in the dream of a world model with heads; the same command again resumes",
        "videowm dream train runs/world --out runs/agent")  # fmt: skip


def dream(args: argparse.Namespace) -> int:
    """Carry out one sub-verb and return its exit code."""
    return args.dreams(args) or 0


def train(args: argparse.Namespace) -> None:
    raise NotImplementedError("comes with videowm/agents/train.py")
