"""How far dreamed pushes lead away from the table's own: finger and T, as heads read them off dreamed latents.

`robots.py drift` is its command line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from videowm.agents.eyes import Eyes
from videowm.agents.games import game_seeds
from videowm.agents.imagine import Imagination
from videowm.agents.plan import Planner
from videowm.agents.player import Seen
from videowm.dit.heads import Heads
from videowm.dit.stream import LatentStream
from videowm.files import as_json, write_atomic
from videowm.record import RunRecord
from videowm.worlds.pusht import GOAL, PushT, pushes

POSE = ("finger_x", "finger_y", "block_x", "block_y", "block_cos", "block_sin")
LAY = 1.0  # units; a T that was moved by less was not pushed


@torch.no_grad()
def poses(heads: Heads, latents: torch.Tensor) -> np.ndarray:
    """Finger x, y, block x, y, cos, sin "n 6" in the table's units, read off latents "n c h w"."""
    about, state = heads.config, heads.see(latents).cpu().numpy()
    columns = [list(about.state).index(name) for name in POSE]
    return (state * about.state_std + about.state_mean)[:, columns]


def copy_body(body: Any, other: Any) -> None:
    """Put one body of a space where another one is; the angle first, since it turns about the middle of mass."""
    other.angle = body.angle
    other.position, other.velocity, other.angular_velocity = body.position, body.velocity, body.angular_velocity


def copied(world: PushT, inner: PushT) -> PushT:
    """The inner table, laid as the other one."""
    copy_body(world.finger, inner.finger)
    copy_body(world.block, inner.block)
    return inner


def unlike(state: np.ndarray, hand: float = 0.0) -> np.ndarray:
    """How far the T lies from its goal, and the finger from the T, as a `StateGoal` has it, of states "… 6 or more"."""
    weight, wanted = np.array(list(PushT.GOAL.values())), [*GOAL[:2], np.cos(GOAL[2]), np.sin(GOAL[2])]
    apart = np.linalg.norm(state[..., :2] - state[..., 2:4], axis=-1)
    return (
        np.linalg.norm((state[..., 2:6] - wanted) / weight, axis=-1)
        + hand * np.maximum(0, apart - PushT.NEAR) / weight[0]
    )


def moments(eyes: Eyes, seeds: list[int], frames: int) -> list[PushT]:
    """Tables on which the driver has played some frames, which the eyes have seen."""
    worlds = [PushT() for _ in seeds]
    for world, seed in zip(worlds, seeds):
        world.reset(seed)
    eyes.begin(np.stack([world.render() for world in worlds]), seeds)
    drivers = [world.driver(np.random.default_rng([seed, 1])) for world, seed in zip(worlds, seeds)]
    for _ in range(frames // eyes.stride):
        both = [[step(world, next(driver)) for _ in range(eyes.stride)] for world, driver in zip(worlds, drivers)]
        eyes.see(*(np.stack([np.stack([pair[i] for pair in one]) for one in both]) for i in range(2)))
    return worlds


def step(world: PushT, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A frame after an action, and that action."""
    world.move(action)
    return world.render(), action


def played(worlds: list[PushT], acts: Callable[[PushT, int, int], Any], each: int, frames: int, stride: int) -> Any:
    """Actions "n N f a" of N players of every table, and where all lies after each latent step, "n N h 6"."""
    inner, actions, states = PushT(), [], []
    inner.reset(0)
    for row, world in enumerate(worlds):
        for one in range(each):
            taken, seen = [], []
            for action in islice(acts(copied(world, inner), row, one), frames):
                inner.move(action)
                taken.append(action)
                seen.append(inner.state()[:6])
            actions.append(taken)
            states.append(seen[stride - 1 :: stride])
    inner.close()
    return (np.array(one, np.float32).reshape(len(worlds), each, len(one[0]), -1) for one in (actions, states))


@torch.no_grad()
def dreamed(imagination: Imagination, present: LatentStream, actions: np.ndarray, noise: Any) -> np.ndarray:
    """The poses "n N h 6" that heads read off the dreams under actions "n N f a"; futures of a row share its noise."""
    n, each = actions.shape[:2]
    row = torch.arange(n).repeat_interleave(each)
    given = torch.from_numpy(actions).flatten(0, 1).to(imagination.device)
    grouped, stream, made = imagination.pipeline.group(given)[:, 1:], present.select(row.tolist()), []
    for i in range(grouped.shape[1]):
        latents = stream.step(grouped[:, i, None], *(part[row.to(part.device), i, None] for part in noise))
        made.append(poses(imagination.heads, latents[:, 0]))
    return np.stack(made, 1).reshape(n, each, len(made), len(POSE))


def compared(now: np.ndarray, true: np.ndarray, dream: np.ndarray) -> dict[str, Any]:
    """Errors of dreamed poses "n N h 6" by step, and how much of the true movement from `now` "n 1 1 6" they follow."""
    found: dict[str, Any] = {}
    for name, part in (("finger", slice(0, 2)), ("block", slice(2, 4))):
        moved, missed = true[..., part] - now[..., part], dream[..., part] - true[..., part]
        found[name] = by_step(np.linalg.norm(missed, axis=-1))
        found[f"{name}_if_still"] = by_step(np.linalg.norm(moved, axis=-1))
        found[f"{name}_gain"] = by_step((missed * moved).sum(-1) + (moved**2).sum(-1), over=(moved**2).sum(-1))
    angle, turned = (np.arctan2(state[..., 5], state[..., 4]) for state in (dream, true))
    found["turn_degrees"] = by_step(np.abs((angle - turned + np.pi) % (2 * np.pi) - np.pi) * 180 / np.pi)
    lay = np.linalg.norm(true[:, :, -1, 2:4] - now[:, :, 0, 2:4], axis=-1) < LAY
    found["pushed"] = round(float(1 - lay.mean()), 4)
    gone = np.linalg.norm(dream[..., 2:4] - now[..., 2:4], axis=-1)
    found["block_moved_by_nothing"] = by_step(gone[lay]) if lay.any() else None
    return found


def by_step(values: np.ndarray, over: np.ndarray | float = 1.0) -> list[float]:
    """The mean of values "… h" at each latent step, or their share of others."""
    whole = np.mean(np.broadcast_to(over, values.shape).reshape(-1, values.shape[-1]), 0)
    return np.round(values.reshape(-1, values.shape[-1]).mean(0) / np.maximum(whole, 1e-9), 3).tolist()


def straight(world: PushT, angle: float) -> np.ndarray:
    """A full push that goes past or through the T, by an angle off its middle."""
    way = np.array(world.block.local_to_world(world.block.center_of_gravity)) - np.array(world.finger.position)
    turned = np.arctan2(way[1], way[0]) + angle
    return np.float32([np.cos(turned), np.sin(turned)])


def of_run(run: Any, planner: Planner, args: argparse.Namespace) -> dict[str, Any]:
    """The drift of one run."""
    imagination, seeds, each = planner.imagination, game_seeds(args.seed, args.episodes), args.futures[0]
    eyes, stride = Eyes(run, device=args.device), planner.imagination.stride
    worlds, frames = moments(eyes, seeds, args.begin), planner.steps * stride
    seen: Seen = replace(eyes.seen(range(len(seeds))), memory=None)
    present, now = imagination.present(seen), np.stack([world.state()[:6] for world in worlds])
    noise = imagination.noise(present, planner.steps)
    drawn = planner.courses.draw(planner.courses.blank(len(seeds), planner.steps), each, planner.generator)
    courses = planner.courses.actions(drawn)
    held = courses.repeat_interleave(stride, dim=2).numpy()
    rng = np.random.default_rng(args.seed)
    angles = rng.uniform(-0.5, 0.5, (len(seeds), each))
    kinds = {"driver": lambda world, row, one: pushes(world.look, np.random.default_rng([row, one]), one / each),
             "planner": lambda world, row, one: iter(held[row, one]),
             "straight": lambda world, row, one: iter([straight(world, angles[row, one])] * frames)}  # fmt: skip
    now, read = (state[:, None, None] for state in (now, poses(imagination.heads, seen.latents[:, -1])))
    at_first = compared(now, now, read)
    found = {"read": {key: at_first[key][0] for key in ("finger", "block", "turn_degrees")}}
    for kind, acts in kinds.items():
        actions, true = played(worlds, acts, each, frames, stride)
        dream = dreamed(imagination, present, actions, noise)
        found[kind] = compared(now, true, dream)
        if kind == "planner":
            worth = imagination.returns(present, courses, noise, goal=planner.goal).numpy()
            found[kind] |= ranked(*(-unlike(state, args.hand).mean(2) for state in (true, dream)), worth)
    return found


def ranked(true: np.ndarray, dream: np.ndarray, worth: np.ndarray) -> dict[str, float | None]:
    """How well dreams rank the futures "n N" of a moment, and what the best of them is worth on the table."""
    order = [spearmanr(*pair).statistic for pair in zip(true, worth) if min(map(np.ptp, pair)) > 1e-6]
    taken = np.take_along_axis(true, worth.argmax(1)[:, None], 1)
    gained = (taken[:, 0] - true.mean(1)).mean() / max(1e-9, (true.max(1) - true.mean(1)).mean())
    return {"rank": round(float(np.mean(order)), 4) if order else None, "gained_of_best": round(float(gained), 4),
            "planner_reads_otherwise_by": round(float(np.abs(dream - worth).max()), 4)}  # fmt: skip


def drift(args: argparse.Namespace, planner_of: Callable[[Any], Planner]) -> dict[str, Any]:
    """All runs, written after each of them."""
    found: dict[str, Any] = {}
    for run in args.runs:
        record = RunRecord.read(run)
        found[run.name] = {"flops": record.flops.get("train"), "action_gap": record.metrics.get("heldout/action_gap"),
                           **of_run(run, planner_of(run), args)}  # fmt: skip
        write_atomic(args.out, as_json(found))
    print(json.dumps(found))
    return found
