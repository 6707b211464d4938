"""PushT in imagination: policies judged there and on the real table, and the futures that a planner considers.

    python benchmarks/robots.py judge RUN [RUN ...] --episodes 100 --frames 160 --workers 16 --out judged.json
    python benchmarks/robots.py picture RUN --goal state --out futures.png
    python benchmarks/robots.py drift RUN [RUN ...] --episodes 24 --futures 16 --out drift.json
    python benchmarks/robots.py near scores/pusht --out near.json
    python benchmarks/robots.py physics --futures 1 4 16 64 --episodes 100 --workers 16 --out physics.json

`judge` plays policies of different skill from the same starts, once on the real table through the autoencoder and once
in the dream that begins with the same first picture. None sees the game's own state: a driver acts on the state that
the heads read, more or less clumsily. What a policy earns in the dream is said by the heads, and by how much of the
painted T the T covers that they read. Pearson's and Spearman's correlations over policies have 95 % intervals of a
bootstrap over starts. Several runs, such as those of a sweep, show them against compute. A policy that is finished is
not played again.

`picture` shows a moment, the goal, and how some of the imagined futures end; the framed one is taken.

`drift` compares dreamed pushes with the table's own from the same moments, by latent step: the driver's, a planner's
first draws, and straight ones through the T. It says how far finger and T are missed, and by how much if nothing moved.
The gain is the share of the true movement that the dream follows. A planner's futures are ranked by both.

`near` plays the games of a folder of scores again, and says in how many the T came within 20 units and 20 degrees of
its goal. That is what stable-worldmodel calls a success; 95 % of the area is a success here.

`physics` plans with the game itself in the place of a dream, by the same search and the true state: what a perfect
world model would give.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pushes import copied, drift, poses, unlike
from scipy.stats import rankdata

from videowm.agents import tally
from videowm.agents.courses import Numbers
from videowm.agents.entry import Entry
from videowm.agents.eyes import Eyes
from videowm.agents.games import Games, GameSettings, game_seeds
from videowm.agents.goal import goal_picture
from videowm.agents.plan import WEIGHTS, Planner, imagination_of
from videowm.agents.player import Player, Seen, Wants
from videowm.agents.score import joined, nothing
from videowm.agents.wave import play_wave
from videowm.bootstrap import group_counts
from videowm.dit import flow
from videowm.dit.heads import Heads
from videowm.files import as_json, write_atomic
from videowm.options import PlanOptions
from videowm.record import RunRecord
from videowm.vae.codec import to_uint8
from videowm.worlds.pusht import GOAL, PushT, coverage, pushes

NOISES = (0.0, 0.25, 0.5, 0.75, 1.0)
MEASURES = {"earned, by heads": ("earned", "earned"), "covered, as read": ("covered", "earned"),
            "most covered, as read": ("most", "most"), "solved, by heads": ("solved", "solved")}  # fmt: skip
DRAWS = 1000
ELITE = 0.001  # the best course alone: those to the left and to the right of the T have no mean that is any good
HELD, SPREAD = 4, 0.64  # frames of a decision, and deviation of the recorded actions, where no model says them


def split(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finger "2" and T "3" (x, y, angle) of a read pose "6"."""
    return pose[:2], np.array([*pose[2:4], np.arctan2(pose[5], pose[4])])


@dataclass
class Driver:
    """The scripted driver with eyes: it acts on the state that heads read, once a latent step."""

    heads: Heads
    noise: float
    seed: int = 0
    wants: Wants = "latents"
    read: dict[int, np.ndarray] = field(default_factory=dict)  # by game
    scripts: dict[int, Iterator[np.ndarray]] = field(default_factory=dict)

    def act(self, seen: Seen) -> np.ndarray:
        """A push for each game."""
        now = poses(self.heads, seen.latents[:, -1])
        for game, pose in zip(seen.games, now):
            self.read[game] = pose
            if seen.latents.shape[1] == 1:
                rng = np.random.default_rng([self.seed, game])
                self.scripts[game] = pushes(lambda game=game: split(self.read[game]), rng, self.noise)
        return np.stack([next(self.scripts[game]) for game in seen.games])


@dataclass
class Blind:
    """Random pushes of a size, 0 for none."""

    size: float
    seed: int = 0
    wants: Wants = "latents"
    drawn: dict[int, np.random.Generator] = field(default_factory=dict)  # by game

    def act(self, seen: Seen) -> np.ndarray:
        """A push for each game."""
        if seen.latents.shape[1] == 1:
            self.drawn |= {game: np.random.default_rng([self.seed, game]) for game in seen.games}
        return self.size * np.float32([self.drawn[game].uniform(-1, 1, 2) for game in seen.games])


def policies(run: Path, heads: Heads, args: argparse.Namespace) -> dict[str, Player]:
    """Everybody who is judged, by name."""
    found: dict[str, Player] = {"still": Blind(0.0), "random": Blind(1.0)}
    found |= {f"driver {noise:g}": Driver(heads, noise, args.seed) for noise in NOISES}
    for count in args.futures:
        found[f"planner {count}"] = Planner.open(run, plan_of(args, count), device=args.device, seed=args.seed)
    return found


def plan_of(args: argparse.Namespace, futures: int) -> PlanOptions:
    """How a planner of the command line searches."""
    return PlanOptions(futures=futures, horizon=args.horizon, iterations=1, sampling_steps=args.sampling_steps,
                       actions="box", goal=args.goal, goal_hand=args.hand, batch=args.batch, elite=ELITE)  # fmt: skip


def really(eyes: Eyes, player: Player, seeds: Sequence[int], args: argparse.Namespace) -> dict[str, list[float]]:
    """What the player earns, the most it had covered, and what it solved on the real table; one number a start."""
    with Games(GameSettings("pusht"), len(seeds), args.workers) as games:
        played = joined(nothing(), play_wave(games, seeds, args.frames, player=player, eyes=eyes))
    return listed({"earned": played.returns, "most": tally.most(played), "solved": played.over})


@torch.no_grad()
def imagined(eyes: Eyes, player: Player, seeds: Sequence[int], args: argparse.Namespace) -> dict[str, list[float]]:
    """The same in the dream that begins with the same pictures, as heads say it; and what the read T covers."""
    with Games(GameSettings("pusht"), len(seeds), args.workers) as games:
        frames, earned = games.begin(seeds)
    eyes.begin(frames, seeds)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    alive, best, rows = np.ones(len(seeds)), np.zeros(len(seeds)), range(len(seeds))
    for _ in range(args.frames // eyes.stride):
        action = np.float32(player.act(eyes.seen(rows)))
        grouped = eyes.actions_of(np.repeat(action[:, None], eyes.stride, axis=1))
        said = eyes.heads.read(eyes.stream.kept[:, None], grouped)
        earned = earned + alive * said.reward[:, 0].float().cpu().numpy()
        alive = alive * (1 - said.death[:, 0].float().cpu().numpy())
        made = eyes.stream.step(grouped, flow.normal(eyes.latents[:, :1].shape, generators, eyes.device)).float()
        eyes.latents = torch.cat([eyes.latents, made], dim=1)[:, -eyes.keeps :]
        eyes.grouped = torch.cat([eyes.grouped, grouped], dim=1)[:, -eyes.keeps :]
        covered = np.array([coverage(split(pose)[1]) for pose in poses(eyes.heads, made[:, 0])])
        best = np.maximum(best, covered)
    return listed({"earned": earned, "covered": covered, "most": best, "solved": 1 - alive})


def listed(found: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """As a file holds them."""
    return {key: np.round(values.astype(float), 5).tolist() for key, values in found.items()}


def correlations(judged: dict[str, Any]) -> dict[str, Any]:
    """Pearson and Spearman of the policies' means, dreamed and real, with intervals over starts."""
    found = {}
    for name, (dreamed, real) in MEASURES.items():
        pair = [np.array([one[where][key] for one in judged.values()])
                for where, key in (("dream", dreamed), ("real", real))]  # fmt: skip
        counts = group_counts(pair[0].shape[1], draws=DRAWS)
        weights = np.vstack([np.ones(counts.shape[1]), counts]).T
        means = [values @ weights / len(weights) for values in pair]
        pearson = together(*means)
        spearman = together(*(rankdata(one, axis=0) for one in means))
        found[name] = {"pearson": with_interval(pearson), "spearman": with_interval(spearman),
                       "dream": means[0][:, 0].tolist(), "real": means[1][:, 0].tolist()}  # fmt: skip
    return found


def together(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's correlation over policies "p", of each column of "p d"; NaN where nothing varies."""
    one, other = (values - values.mean(0) for values in (one, other))
    with np.errstate(invalid="ignore"):
        return (one * other).sum(0) / np.sqrt((one**2).sum(0) * (other**2).sum(0))


def with_interval(values: np.ndarray) -> list[float | None]:
    """The number, then the ends of the bootstrap's 95 % interval."""
    known = values[1:][np.isfinite(values[1:])]
    ends = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
    return [None if np.isnan(value) else round(float(value), 4) for value in (values[0], *ends)]


def judge(args: argparse.Namespace) -> dict[str, Any]:
    """All policies of all runs, written after each of them."""
    protocol = {"episodes": args.episodes, "frames": args.frames, "seed": args.seed, "goal": args.goal,
                "horizon": args.horizon, "sampling_steps": args.sampling_steps}  # fmt: skip
    before = json.loads(args.out.read_text()) if args.out.exists() else {}
    found = before if before.get("protocol") == protocol else {"protocol": protocol, "runs": {}}
    seeds = game_seeds(args.seed, args.episodes)
    for run in args.runs:
        eyes = Eyes(run, memory=True, device=args.device)
        about = found["runs"].setdefault(run.name, {"policies": {}})
        about["flops"] = RunRecord.read(run).flops.get("train")
        for name, player in policies(run, eyes.heads, args).items():
            if name not in about["policies"]:
                about["policies"][name] = {"real": really(eyes, player, seeds, args),
                                           "dream": imagined(eyes, player, seeds, args)}  # fmt: skip
                means = {where: {key: round(float(np.mean(values)), 3) for key, values in one.items()}
                         for where, one in about["policies"][name].items()}  # fmt: skip
                print(run.name, name, means, flush=True)
                write_atomic(args.out, as_json(found))
        about["correlations"] = correlations(about["policies"])
        write_atomic(args.out, as_json(found))
        for name, one in about["correlations"].items():
            print(f"{run.name} {name}: Pearson {one['pearson']}, Spearman {one['spearman']}")
    return found


@torch.no_grad()
def picture(args: argparse.Namespace) -> None:
    """The futures of one decision, after some of the planner's own."""
    imagination = imagination_of(args.runs[0], plan_of(args, args.futures[0]), device=args.device, seed=args.seed)
    planner = Planner(imagination, plan_of(args, args.futures[0]), seed=args.seed)
    eyes, seeds = Eyes(args.runs[0], device=args.device), game_seeds(args.seed, args.game + 1)[args.game :]
    with Games(GameSettings("pusht"), 1, 1) as games:
        play_wave(games, seeds, args.begin, player=planner, eyes=eyes)
    seen = replace(eyes.seen([0]), memory=None)
    present, plan = imagination.present(seen), planner.remembered(seen, (0,))
    noise = imagination.noise(present, planner.steps)
    drawn = planner.courses.draw(plan, args.futures[0], planner.generator)
    courses = planner.courses.actions(drawn)
    worth = imagination.returns(present, courses, noise, goal=planner.goal)
    taken = planner.courses.refit(drawn, WEIGHTS["cem"](worth, planner.options))
    order = worth[0].argsort(descending=True)
    shown = order[torch.linspace(0, len(order) - 1, args.shown).long()]
    mean = taken[:, None, :, : len(planner.courses.mean)]
    every = torch.cat([courses[:, shown], planner.courses.actions(mean)], dim=1)
    values = imagination.returns(present, every, noise, goal=planner.goal)[0]
    now, ends = decoded(imagination, seen, every[0], noise)
    wanted = goal_picture(None, imagination.pipeline)
    draw(args.out, now, wanted, ends, values.tolist())


def decoded(imagination: Any, seen: Seen, courses: torch.Tensor, noise: Any) -> tuple[np.ndarray, np.ndarray]:
    """The present frame "H W 3", and the frames in the middle and at the end of each course "m 2 H W 3"."""
    stream = imagination.present(seen).select([0] * len(courses))
    grouped, pipeline = imagination.grouped(courses), imagination.pipeline
    past, *noise = (part.expand(len(courses), -1, -1, -1, -1) for part in (seen.latents.to(stream.noise), *noise))
    made = []
    for step in range(grouped.shape[1]):
        made.append(stream.step(*(part[:, step, None] for part in (grouped, *noise))).float().clone())
    frames = to_uint8(pipeline.codec.decode(pipeline.denormalise(torch.cat([past, *made], dim=1))))
    ahead = len(made) * imagination.stride
    return frames[0, -1 - ahead], frames[:, [-1 - ahead // 2, -1]]


def draw(path: Path, now: np.ndarray, wanted: np.ndarray, ends: np.ndarray, worth: Sequence[float]) -> None:
    """Now and the goal; then every future in its middle and at its end, the best first; the last, framed, is taken."""
    from matplotlib.figure import Figure

    columns = 1 + len(ends)
    figure = Figure(figsize=(1.5 * columns, 3.4), layout="constrained")
    axes = figure.subplots(2, columns)
    pictures = [(now, wanted, "now, and the goal", "0.8")]
    pictures += [(*pair, f"{value:.2f}", "0.8") for pair, value in zip(ends[:-1], worth)]
    pictures.insert(1, (*ends[-1], f"taken, {worth[-1]:.2f}", "#d62728"))
    for column, (upper, lower, title, colour) in enumerate(pictures):
        for row, frame in enumerate((upper, lower)):
            axis = axes[row, column]
            axis.imshow(frame)
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set(edgecolor=colour, linewidth=2.5 if colour.startswith("#") else 0.8)
        axes[0, column].set_title(title, fontsize=8)
    figure.savefig(path, dpi=120)


def near(args: argparse.Namespace) -> dict[str, Any]:
    """Of every player the share of games that came so near, with its interval."""
    found = {}
    for entry in Entry.all_of(args.runs[0]):
        games = entry.games
        came = [came_near(int(seed), actions[:length])
                for seed, actions, length in zip(games.seeds, games.actions, games.lengths)]  # fmt: skip
        found[entry.name] = {"games": len(came), **tally.about(np.array(came, float))}
        print(entry.name, found[entry.name], flush=True)
    write_atomic(args.out, as_json(found))
    return found


def came_near(seed: int, actions: np.ndarray) -> bool:
    """Whether these actions "n 2" of a game ever brought the T within 20 units and 20 degrees of its goal."""
    world = PushT()
    world.reset(seed)
    for action in actions:
        world.step(action)
        place = world.look()[1]
        turn = (place[2] - GOAL[2] + np.pi) % (2 * np.pi) - np.pi
        if np.hypot(*(place[:2] - GOAL[:2])) < 20 and abs(turn) < np.pi / 9:
            return True
    return False


def physics(args: argparse.Namespace) -> dict[str, Any]:
    """What a planner whose dreams are the game's own physics gets done, for each number of futures."""
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    seeds = game_seeds(args.seed, args.episodes)
    for count in args.futures:
        name = f"{count} futures, {args.horizon} frames, {args.frames} in all" + f", hand {args.hand:g}" * (
            args.hand > 0
        )
        if len(found.get(name, {}).get("earned", ())) >= len(seeds):
            continue
        with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
            played = np.array(pool.starmap(foreseen, [(seed, count, args) for seed in seeds]))
        found[name] = listed(dict(zip(("earned", "most", "solved"), played.T)))
        print(name, {key: tally.about(values) for key, values in zip(found[name], played.T)}, flush=True)
        write_atomic(args.out, as_json(found))
    return found


def foreseen(seed: int, futures: int, args: argparse.Namespace) -> tuple[float, float, bool]:
    """One game of that planner: what is covered in the end, the most that was, and whether it was solved."""
    world, inner, steps = PushT(), PushT(), -(-args.horizon // HELD)
    world.reset(seed)
    inner.reset(seed)
    torch.set_num_threads(1)
    courses, generator = Numbers(torch.zeros(2), torch.full((2,), SPREAD), PlanOptions().hold), torch.Generator()
    plan, best, over = courses.blank(1, steps), world.covered, False
    generator.manual_seed(seed)
    for _ in range(args.frames // HELD):
        drawn = courses.draw(plan, futures, generator)
        acted = courses.actions(drawn)[0].numpy()
        worth = torch.tensor([[nearness(world, inner, course, args.hand) for course in acted]])
        plan = courses.refit(drawn, WEIGHTS["cem"](worth, PlanOptions(elite=ELITE)))
        action, plan = courses.first(plan)[0].numpy(), courses.later(plan)
        for _ in range(HELD):
            if not over:
                _, over = world.step(action)
                best = max(best, world.covered)
    return world.covered, best, over


def nearness(world: PushT, inner: PushT, course: np.ndarray, hand: float = 0.0) -> float:
    """Minus the mean distance from the goal, as a `StateGoal` has it, over the steps of a course "h 2"."""
    copied(world, inner)
    missed = []
    for action in course:
        for _ in range(HELD):
            inner.move(action)
        missed.append(unlike(inner.state(), hand))
    return -float(np.mean(missed))


def drifts(args: argparse.Namespace) -> dict[str, Any]:
    """How far the dreams of runs lead away from the table."""
    plan = plan_of(args, args.futures[0])
    return drift(args, lambda run: Planner.open(run, plan, device=args.device, seed=args.seed))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = top.add_subparsers(dest="verb", required=True)
    does = {"judge": judge, "picture": picture, "drift": drifts, "near": near, "physics": physics}
    for name, function in does.items():
        p = verbs.add_parser(name)
        p.set_defaults(function=function)
        p.add_argument("runs", type=Path, nargs="*" if name == "physics" else "+")
        p.add_argument("--futures", type=int, nargs="*", default=[16])
        p.add_argument("--horizon", type=int, default=24)
        p.add_argument("--sampling-steps", type=int, default=2)
        p.add_argument("--batch", type=int, default=2048)
        p.add_argument("--goal", default="state", choices=["reward", "latents", "state"])
        p.add_argument("--hand", type=float, default=PlanOptions().goal_hand, help="as goal_hand")
        p.add_argument("--seed", type=int, default=0)
        p.add_argument("--device")
        suffix = ".png" if name == "picture" else ".json"
        p.add_argument("--out", type=Path, default=Path(name).with_suffix(suffix))
        if name in ("judge", "physics"):
            p.add_argument("--episodes", type=int, default=100)
            p.add_argument("--frames", type=int, default=160)
            p.add_argument("--workers", type=int, default=1)
        elif name == "drift":
            p.add_argument("--episodes", type=int, default=24, help="moments")
            p.add_argument("--begin", type=int, default=32, help="frames that the driver plays before")
        elif name == "picture":
            p.add_argument("--game", type=int, default=0)
            p.add_argument("--begin", type=int, default=40, help="frames that the planner plays before")
            p.add_argument("--shown", type=int, default=6, help="futures besides the one that is taken")
    return top


def main(argv: list[str] | None = None) -> None:
    """Judge, or draw."""
    args = parser().parse_args(argv)
    args.function(args)


if __name__ == "__main__":
    main()
