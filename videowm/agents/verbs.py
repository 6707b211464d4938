"""`videowm dream`: its sub-verbs, each an argument parser and a call of `videowm.api`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from videowm import api
from videowm.arguments import add_options, options_from

FROM = {"data": "--from"}  # recording that dreams begin in
Verb = Callable[[str, str, str], argparse.ArgumentParser]  # (name, help, example) -> its parser
SubVerb = Callable[[Callable, str, str], argparse.ArgumentParser]  # (function, help, example) -> its parser


def dream_verb(verb: Verb) -> None:
    """Add `videowm dream` and its sub-verbs."""
    p = verb(dream, "train an agent in the dream, score it in the real game, watch it",
             "videowm dream train runs/world --out runs/agent")  # fmt: skip
    whats = p.add_subparsers(dest="what", required=True, metavar="train|score|record|watch")

    def sub(function: Callable, help: str, example: str) -> argparse.ArgumentParser:
        name = function.__name__.removesuffix("_")
        q = whats.add_parser(name, help=help, description=help, epilog=f"example:\n  {example}")
        q.set_defaults(sub_verb=function)
        return q

    for add in (train_verb, score_verb, record_verb, watch_verb):
        add(sub)


def train_verb(sub: SubVerb) -> None:
    """Learn in the dream."""
    p = sub(train, "train an agent in the dream of a world model with heads; the same command again goes on",
            "videowm dream train runs/world --out runs/agent --minutes 10\n"
            "  videowm dream train runs/world --out runs/paper --agent linear --by cma --observation memory\n"
            "  videowm dream train runs/world --out runs/agent --dreams 1024 --sampler steps=3 method=euler"
            )  # fmt: skip
    p.add_argument("run", type=Path, help="run directory of a world model with heads")
    p.add_argument("--out", type=Path, required=True, help="folder of the agent to write")
    add_options(p, api.DreamTrainOptions, FROM)


def score_verb(sub: SubVerb) -> None:
    """Play the real game."""
    p = sub(score, "score a player in the real game, beside all others of the same folder; it goes on where it stopped",
            "videowm dream score random --world takecover\n"
            "  videowm dream score runs/agent --workers 16 --dreams 400 --dream-temperatures 0.5 1 1.5\n"
            "  videowm dream score plan:runs/world --futures 64 --horizon 32 --episodes 100"
            )  # fmt: skip
    p.add_argument("player", help="folder of an agent, plan:RUN, or random, still, driver or expert")
    add_options(p, api.DreamScoreOptions, FROM)


def record_verb(sub: SubVerb) -> None:
    """Play the real game, and keep it."""
    p = sub(record, "record a player's real games as a dataset, for a second round of training; it goes on where it "
            "stopped",
            "videowm dream record runs/agent --out data/round2 --episodes 200 --workers 16\n"
            "  videowm dream record plan:runs/world --out data/planned --random 0.2\n"
            "  videowm dream record random --world takecover --out data/random"
            )  # fmt: skip
    p.add_argument("player", help="folder of an agent, plan:RUN, or random, still, driver or expert")
    p.add_argument("--out", type=Path, required=True, help="dataset to write")
    add_options(p, api.DreamRecordOptions, FROM)


def watch_verb(sub: SubVerb) -> None:
    """Look at it."""
    p = sub(watch, "show a player in the real game and in its dream, side by side from the same moment",
            "videowm dream watch runs/agent --out watch.mp4\n"
            "  videowm dream watch plan:runs/world --game 3 --begin 40 --dream-temperature 0.5")  # fmt: skip
    p.add_argument("player", help="folder of an agent, or plan:RUN")
    p.add_argument("--out", type=Path, default=Path("watch.mp4"), help="video to write (default: %(default)s)")
    add_options(p, api.DreamWatchOptions)


def dream(args: argparse.Namespace) -> int:
    """Carry out one sub-verb and return its exit code."""
    return args.sub_verb(args) or 0


def train(args: argparse.Namespace) -> None:
    """What it earns in the dream."""
    about = api.dream_train(args.run, args.out, options_from(api.DreamTrainOptions, args, FROM))
    dream = about["dream"]
    print(f"{args.out}: {dream['return']:.6g} ± {dream['return_se']:.2g} over {dream['episodes']} dreams of "
          f"{dream['frames']:.0f} frames on average, after {about['latent_steps']:,} latent steps in "
          f"{about['seconds']:.0f} s")  # fmt: skip


def score(args: argparse.Namespace) -> None:
    """The table of all players."""
    from videowm.agents.standings import table

    print(table(api.dream_score(args.player, options_from(api.DreamScoreOptions, args, FROM))), end="")


def record(args: argparse.Namespace) -> None:
    """What there is now."""
    out = api.dream_record(args.player, args.out, options_from(api.DreamRecordOptions, args, FROM))
    print(api.info(out))


def watch(args: argparse.Namespace) -> None:
    """What was earned in both."""
    found = api.dream_watch(args.player, args.out, options_from(api.DreamWatchOptions, args))
    print(f"{args.out}: {found['frames']} frames; earned {found['real']:.6g} in the real game, {found['dream']:.6g} in "
          "the dream")  # fmt: skip
