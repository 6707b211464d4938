"""A planner of PushT in a stand-in for a world model: a small network that foresees the table's own state.

    python benchmarks/standin.py --explore 0 0.5 0.8 1 --hands 0 0.02 --futures 16 64 --out pusht_standin.json

It sees no pictures, so what fails here is neither the autoencoder's fault nor that of heads. For each share of
exploring episodes a network learns from as many frames, and plans on the same games, with and without a goal's hand.
The file says what is covered in the end, how far the finger is from the T then, and how often at the table's edge.

Of moments after the driver's first pushes it also says how the network ranks a planner's futures, what the best of them
gains of what could be gained, and by how much pushes that meet the T are worth more than on the table, on average. What
is there already is not done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pushes import played, ranked, unlike
from torch import Tensor, nn

from videowm.agents import tally
from videowm.agents.courses import Numbers
from videowm.agents.games import game_seeds
from videowm.agents.plan import WEIGHTS
from videowm.files import as_json, write_atomic
from videowm.options import PlanOptions
from videowm.worlds.pusht import EDGE, SOLVED, TABLE, PushT

HELD, STEPS, SPREAD = 4, 6, 0.64  # frames of a push; pushes of a course; deviation of a planner's first draws
SCALE = (30.0, 30.0, 15.0, 15.0, 0.2, 0.2)  # of what is foreseen, units and a turn's cos and sin
FRAMES, BEGIN = 160, 32  # of an episode and a game; that the driver plays before a moment
BATCH, RATE = 512, 2e-3


def recorded(explore: float, episodes: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """States "f+1 6" and actions "f 2" of episodes that no scored game has."""
    for episode in range(episodes):
        world = PushT(explore=explore)
        world.reset(episode)
        player, states, actions = world.driver(np.random.default_rng([episode, 7])), [world.state()[:6]], []
        for action in islice(player, FRAMES):
            world.move(action)
            states.append(world.state()[:6])
            actions.append(action)
        world.close()
        yield np.stack(states), np.stack(actions)


def examples(episodes: Iterator[tuple[np.ndarray, np.ndarray]]) -> list[Tensor]:
    """Every state "n 6", the finger a frame before "n 2", the next pushes "n 4 2", and the state after them."""
    rows: list[tuple[np.ndarray, ...]] = []
    for states, actions in episodes:
        for t in range(1, len(actions) - HELD + 1):
            rows.append((states[t], states[t - 1, :2], actions[t : t + HELD], states[t + HELD]))
    return [torch.from_numpy(np.stack(column)) for column in zip(*rows)]


def turned(vectors: Tensor, state: Tensor) -> Tensor:
    """Vectors "n m 2" in the T's own axes."""
    cos, sin = state[:, 4, None], state[:, 5, None]
    return torch.stack([cos * vectors[..., 0] + sin * vectors[..., 1],
                        cos * vectors[..., 1] - sin * vectors[..., 0]], -1)  # fmt: skip


class Standin(nn.Sequential):
    """The state after four pushes."""

    def __init__(self, width: int = 256) -> None:
        layers: list[nn.Module] = [nn.Linear(26, width), nn.SiLU()]
        for _ in range(2):
            layers += [nn.Linear(width, width), nn.SiLU()]
        super().__init__(*layers, nn.Linear(width, 6))

    def moves(self, state: Tensor, before: Tensor, pushes: Tensor) -> Tensor:
        """How the state "n 6" changes, in units of SCALE, with the finger a frame before "n 2" and pushes "n 4 2"."""
        finger, block = state[:, :2], state[:, 2:4]
        beside = turned((finger - block)[:, None], state)[:, 0] / 100
        return self(torch.cat([(state[:, :4] - TABLE / 2) / 150, state[:, 4:], beside, (finger - before) / 15,
                               pushes.flatten(1), turned(pushes, state).flatten(1)], dim=1))  # fmt: skip

    @torch.no_grad()
    def dream(self, state: Tensor, before: Tensor, courses: Tensor) -> Tensor:
        """The states "n h 6" after each push of courses "n h 2", which the table would cut at 1."""
        found = []
        for push in courses.clamp(-1, 1).unbind(1):
            new = state + torch.tensor(SCALE) * self.moves(state, before, push[:, None].expand(-1, HELD, -1))
            new = torch.cat([new[:, :4], new[:, 4:] / new[:, 4:].norm(dim=1, keepdim=True)], dim=1)
            before, state = new[:, :2] - (new[:, :2] - state[:, :2]) / HELD, new
            found.append(state)
        return torch.stack(found, dim=1)


def trained(data: Sequence[Tensor], steps: int) -> Standin:
    """A network that has seen these examples."""
    torch.manual_seed(0)
    model = Standin()
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (steps - step) / (0.6 * steps))
        chosen = torch.randint(len(data[0]), (BATCH,))
        state, before, pushes, after = (part[chosen] for part in data)
        missed = model.moves(state, before, pushes) - (after - state) / torch.tensor(SCALE)
        missed.abs().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@dataclass
class Tables:
    """Tables that are played at the same time, and where their fingers were a frame before."""

    worlds: list[PushT]
    before: np.ndarray  # "n 2"

    @classmethod
    def begun(cls, seeds: Sequence[int], frames: int = 0) -> Tables:
        """The games of some seeds, after some frames of their driver."""
        worlds = [PushT() for _ in seeds]
        for world, seed in zip(worlds, seeds):
            world.reset(seed)
        tables = cls(worlds, np.stack([world.state()[:2] for world in worlds]))
        players = [world.driver(np.random.default_rng([seed, 1])) for world, seed in zip(worlds, seeds)]
        for _ in range(frames):
            tables.step([next(player) for player in players])
        return tables

    def step(self, actions: Sequence[np.ndarray]) -> None:
        """A frame, of those that are not solved."""
        for row, (world, action) in enumerate(zip(self.worlds, actions)):
            self.before[row] = world.state()[:2]
            if world.covered <= SOLVED:
                world.step(action)

    def states(self) -> np.ndarray:
        """What lies where, "n 6"."""
        return np.stack([world.state()[:6] for world in self.worlds])

    def dreamed(self, model: Standin, courses: Tensor) -> np.ndarray:
        """The states "n N h 6" that a network foresees under courses "n N h 2"."""
        state, before = (torch.from_numpy(part).repeat_interleave(courses.shape[1], 0)
                         for part in (self.states(), self.before))  # fmt: skip
        return model.dream(state, before, courses.flatten(0, 1)).unflatten(0, courses.shape[:2]).numpy()


def courses_of() -> tuple[Numbers, torch.Generator]:
    """What is drawn from, as in `robots.py physics`."""
    numbers = Numbers(torch.zeros(2), torch.full((2,), SPREAD), PlanOptions().hold)
    return numbers, torch.Generator().manual_seed(0)


def planned(model: Standin, futures: int, hand: float, seeds: Sequence[int]) -> dict[str, Any]:
    """Games of the planner: what it covers, where its finger ends, and what it solves."""
    tables, (numbers, generator) = Tables.begun(seeds), courses_of()
    plan = numbers.blank(len(seeds), STEPS)
    for _ in range(FRAMES // HELD):
        drawn = numbers.draw(plan, futures, generator)
        worth = torch.from_numpy(-unlike(tables.dreamed(model, numbers.actions(drawn)), hand).mean(2)).float()
        plan = numbers.refit(drawn, WEIGHTS["cem"](worth, PlanOptions(elite=0.001)))
        actions, plan = numbers.first(plan).numpy(), numbers.later(plan)
        for _ in range(HELD):
            tables.step(actions)
    ends = tables.states()
    covered = np.array([world.covered for world in tables.worlds])
    edge = (np.abs(ends[:, :2] - TABLE / 2) > TABLE / 2 - EDGE - 10).any(1)
    return {"covered": tally.about(covered), "solved": tally.about((covered > SOLVED).astype(float)),
            "finger_to_block": round(float(np.linalg.norm(ends[:, :2] - ends[:, 2:4], axis=1).mean()), 1),
            "at_the_edge": round(float(edge.mean()), 3)}  # fmt: skip


def believed(model: Standin, futures: int, seeds: Sequence[int]) -> dict[str, Any]:
    """How a planner's futures of some moments are ranked, and how much too well of those that meet the T it thinks."""
    tables, (numbers, generator) = Tables.begun(seeds, BEGIN), courses_of()
    courses = numbers.actions(numbers.draw(numbers.blank(len(seeds), STEPS), futures, generator))
    held = courses.repeat_interleave(HELD, dim=2).numpy()
    _, true = played(tables.worlds, lambda world, row, one: iter(held[row, one]), futures, HELD * STEPS, HELD)
    foreseen = tables.dreamed(model, courses)
    met = np.linalg.norm(true[:, :, -1, 2:4] - tables.states()[:, None, 2:4], axis=-1) > 1
    own, thought = (-unlike(states).mean(2) for states in (true, foreseen))
    ranks = ranked(own, thought, thought)
    missed = np.linalg.norm((foreseen - true)[..., :2], axis=-1).mean((0, 1))
    return {"rank": ranks["rank"], "gained_of_best": ranks["gained_of_best"],
            "thought_better_by": round(float((thought - own)[met].mean()), 4),
            "finger_missed": np.round(missed.astype(float), 2).tolist()}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Train, plan, print and write."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--explore", type=float, nargs="+", default=[0, 0.8])
    top.add_argument("--hands", type=float, nargs="+", default=[0, 0.02])
    top.add_argument("--futures", type=int, nargs="+", default=[16, 64])
    top.add_argument("--episodes", type=int, default=800, help="that a network learns from")
    top.add_argument("--steps", type=int, default=5000)
    top.add_argument("--games", type=int, default=48)
    top.add_argument("--out", type=Path, default=Path("standin.json"))
    args = top.parse_args(argv)
    torch.set_num_threads(1)
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    for explore in args.explore:
        name = f"explore {explore:g}, {args.episodes} episodes, {args.steps} steps, {args.games} games"
        if name in found:
            continue
        model = trained(examples(recorded(explore, args.episodes)), args.steps)
        found[name] = believed(model, 32, game_seeds(1, args.games))
        for hand in args.hands:
            for futures in args.futures:
                found[name][f"hand {hand:g}, {futures} futures"] = planned(model, futures, hand,
                                                                           game_seeds(0, args.games))  # fmt: skip
        print(name, json.dumps(found[name]), flush=True)
        write_atomic(args.out, as_json(found))


if __name__ == "__main__":
    main()
