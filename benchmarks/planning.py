"""Planning in the dream: what a decision costs, and what it is worth in the real game.

    python benchmarks/planning.py speed RUN --rows 28 --futures 16 64 256 1024 --horizons 16 32 --out plan_speed.json
    python benchmarks/planning.py score RUN --futures 1 16 64 256 1024 --horizons 16 32 --workers 16 --out scores
    python benchmarks/planning.py late RUN --delays 1 2 --futures 64 --horizons 16 --workers 16 --out scores

`speed` times decisions of many games at once, from recorded moments. `score` plays the real game with every number of
futures and every horizon, the cheap ones first. `late` does so with an eye that is some latent steps late: once blind
for what it misses, and once dreaming itself forward. Both write into one folder of `videowm dream score`, where the
table compares all of them on the same games. The world model is opened, and recorded on a GPU, once. After
`--stop-after` seconds no further setting is begun; the same command goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videowm.agents.contest import Contest, contest_of
from videowm.agents.entry import Entry
from videowm.agents.imagine import Imagination
from videowm.agents.plan import Delayed, Planner, imagination_of
from videowm.agents.player import Player, Seen
from videowm.agents.score import begun, with_games
from videowm.agents.standings import table, write_standings
from videowm.data.clips import even_clips
from videowm.data.dataset import Dataset
from videowm.data.starts import dataset_of
from videowm.files import as_json, write_atomic
from videowm.options import DreamScoreOptions, PlanOptions
from videowm.types import pixel_frames
from videowm.vae.codec import to_float


@dataclass
class Timed:
    """A player whose decisions are timed; the first few are left out, since a GPU records its graphs then."""

    player: Player
    seconds: list[float] = field(default_factory=list)
    wants: str = "past"

    def act(self, seen: Seen) -> np.ndarray:
        """What the player does."""
        began = time.perf_counter()
        action = self.player.act(seen)
        self.seconds.append(time.perf_counter() - began)
        return action

    @property
    def median(self) -> float | None:
        """Seconds of a decision of all games that are left; None before there were a few."""
        return round(statistics.median(self.seconds[-len(self.seconds) // 2 :]), 4) if len(self.seconds) > 2 else None


def settings(args: argparse.Namespace) -> list[PlanOptions]:
    """Every number of futures at every horizon, the cheapest first."""
    pairs = sorted(itertools.product(args.futures, args.horizons), key=lambda pair: pair[0] * pair[1])
    return [PlanOptions(by=args.by, futures=futures, horizon=horizon, iterations=args.iterations, batch=args.batch,
                        sampling_steps=args.sampling_steps, goal=args.goal, actions=args.actions,
                        elite=args.elite, goal_hand=args.hand)
            for futures, horizon in pairs]  # fmt: skip


def opened(args: argparse.Namespace) -> Imagination:
    """The world model, once for all settings."""
    imagination = imagination_of(args.run, settings(args)[0], device=args.device)
    imagination.graph = imagination.graph and not args.eager
    return imagination


def moments(imagination: Imagination, run: Path, data: Path | None, rows: int) -> Seen:
    """A full window before each of some recorded moments."""
    dataset = Dataset(data or dataset_of(run))
    window = pixel_frames(max(1, imagination.pipeline.trained_on.window - 1), imagination.stride)
    where = even_clips(dataset, frames=window, split="test", count=rows)
    clips = [dataset.clip(*where[i % len(where)], window) for i in range(rows)]
    frames, actions = (np.stack([getattr(clip, name) for clip in clips]) for name in ("frames", "actions"))
    return Seen(*imagination.pipeline.beginning(to_float(frames), torch.from_numpy(actions)))


def speed(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a decision of `rows` games; the window is full, and plans are kept from decision to decision."""
    imagination = opened(args)
    seen, found = moments(imagination, args.run, args.data, args.rows), []
    for one in settings(args):
        planner = Timed(Planner(imagination, one))
        for _ in range(args.decisions):
            planner.act(seen)
        found.append({"futures": one.futures, "horizon": one.horizon, "seconds": planner.median,
                      "first_seconds": round(planner.seconds[0], 2)})  # fmt: skip
        print(found[-1], flush=True)
    return {"run": args.run.name, "rows": args.rows, "iterations": args.iterations, "speed": found}


def players(args: argparse.Namespace, imagination: Imagination) -> Iterator[tuple[Player, PlanOptions, int, bool]]:
    """Every planner that is scored, its delay in latent steps, and whether it dreams itself forward."""
    delays = [(0, False)] + [(d, predict) for d in getattr(args, "delays", ()) for predict in (False, True)]
    for (delay, predict), options in itertools.product(delays, settings(args)):
        imagination.generator.manual_seed(args.seed)
        player = Planner(imagination, options, seed=args.seed)
        late = Delayed(player, delay, imagination, predict=predict) if delay else player
        yield late, options, delay, predict


def score(args: argparse.Namespace) -> dict[str, Any]:
    """Scores of every setting, in one folder."""
    began, times = time.perf_counter(), {}
    for player, plan, delay, predict in players(args, opened(args)):
        if args.stop_after is not None and time.perf_counter() - began > args.stop_after:
            break
        options = DreamScoreOptions(episodes=args.episodes, games=args.games, workers=args.workers, seed=args.seed,
                                    frames=args.frames, plan=plan, delay=delay, predict=predict, out=args.out,
                                    device=args.device)  # fmt: skip
        contest, timed = named(contest_of(f"plan:{args.run}", options)), Timed(player)
        with_games(replace(contest, player=timed), begun(contest, args.out), args.out, options)
        times[contest.name] = timed.median
        print(contest.name, "seconds a decision:", timed.median, "in all:", round(time.perf_counter() - began),
              flush=True)  # fmt: skip
    standings = write_standings(args.out, Entry.all_of(args.out))
    print(table(standings))
    return {"run": args.run.name, "seconds": times}


def named(contest: Contest) -> Contest:
    """The contest under a name that also holds the iterations."""
    plan = contest.identity["plan"]
    return replace(
        contest,
        name=f"{contest.name}-{plan['iterations']}it-{plan['sampling_steps']}ev"
        + (f"-hand{plan['goal_hand']:g}" if plan.get("goal_hand") else ""),
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = top.add_subparsers(dest="verb", required=True)
    for name, function in (("speed", speed), ("score", score), ("late", score)):
        p = verbs.add_parser(name)
        p.set_defaults(function=function)
        p.add_argument("run", type=Path)
        p.add_argument("--futures", type=int, nargs="+", default=[64])
        p.add_argument("--horizons", type=int, nargs="+", default=[32])
        p.add_argument("--by", default="cem")
        p.add_argument("--iterations", type=int, default=1)
        p.add_argument("--sampling-steps", type=int, default=2)
        p.add_argument("--batch", type=int, default=2048)
        p.add_argument("--goal", default="reward", help="reward, latents or state")
        p.add_argument("--hand", type=float, default=PlanOptions().goal_hand, help="as goal_hand")
        p.add_argument("--elite", type=float, default=PlanOptions().elite, help="share of the courses that cem takes")
        p.add_argument("--actions", default="auto", help="auto, named or box")
        p.add_argument("--device")
        p.add_argument("--eager", action="store_true", help="record no graphs")
        p.add_argument("--out", type=Path)
        if name == "speed":
            p.add_argument("--rows", type=int, default=28)
            p.add_argument("--decisions", type=int, default=8)
            p.add_argument("--data", type=Path)
            continue
        p.add_argument("--episodes", type=int, default=32)
        p.add_argument("--games", type=int, default=32)
        p.add_argument("--workers", type=int, default=1)
        p.add_argument("--frames", type=int)
        p.add_argument("--seed", type=int, default=0)
        p.add_argument("--stop-after", type=float)
        if name == "late":
            p.add_argument("--delays", type=int, nargs="+", default=[1, 2])
    return top


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write."""
    args = parser().parse_args(argv)
    if args.verb != "speed" and args.out is None:
        args.out = Path("scores") / "plan"
    found = args.function(args)
    print(json.dumps(found))
    if args.out is not None:
        path = args.out if args.verb == "speed" else args.out / f"{args.verb}_seconds.json"
        write_atomic(path, as_json(found))


if __name__ == "__main__":
    main()
