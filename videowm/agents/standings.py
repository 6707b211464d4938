"""All players of a folder beside each other: scores.json, a table and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from videowm.agents import tally
from videowm.agents.entry import Entry
from videowm.files import atomic, write_atomic, write_json
from videowm.worlds import World, find_world

SCHEMA = 1
FILE, TABLE, FIGURE = "scores.json", "scores.md", "scores.png"


def write_standings(out: Path, entries: Sequence[Entry]) -> dict[str, Any]:
    """Write all three, and return the content of scores.json."""
    protocol = entries[0].about["protocol"]
    world = find_world(protocol["world"]) or World
    ranked = sorted(entries, key=lambda entry: -entry.games.returns.mean())
    found = {
        "schema": SCHEMA, "protocol": protocol, "players": {e.name: about(e, world, protocol) for e in ranked},
        "pairs": [{"player": one.name, "than": other.name, **more} for one, other in combinations(ranked, 2)
                  if (more := tally.paired(one.games, other.games, world.STEERING, protocol["fps"],
                                       solvable=world.solvable))],
    }  # fmt: skip
    write_json(out / FILE, found)
    write_atomic(out / TABLE, table(found).encode())
    with atomic(out / FIGURE) as aside:
        draw(ranked, found, aside)
    return found


def about(entry: Entry, world: type[World], protocol: dict[str, Any]) -> dict[str, Any]:
    """All that is said of one player."""
    games, names = entry.games, world.action_names
    found = {"games": len(games.seeds), **tally.about(games.returns), "median": float(np.median(games.returns)),
             "cut_off": float(1 - games.over.mean()), "frames": float(games.lengths.mean()),
             "earned_before": float(games.earned.mean()), **entry.about["player"]}  # fmt: skip
    if world.STEERING:
        rates = tally.reversals(games, world.STEERING) * protocol["fps"] / games.lengths
        found["reversals"] = tally.about(rates)  # a second
    if world.solvable:
        found["solved"], found["most"] = tally.about(games.over.astype(float)), tally.about(tally.most(games))
    found["actions"] = tally.habits(games, world.named_actions(names), names)
    before = games.earned.mean()  # is real in both
    for temperature, values in entry.dreams.items():
        dream = tally.about(values + before)
        found.setdefault("dreams", {})[temperature] = dream | {"less_real": dream["mean"] - found["mean"]}
    if games.read.shape[1]:
        found["heads"] = tally.foreseen(games, games.read.shape[2] - 2)
    return found | {"returns": games.returns.tolist()}


def table(found: dict[str, Any]) -> str:
    """Markdown: the players, the best first, then every pair. Of a solvable world what is solved, and more digits."""
    protocol = found["protocol"]
    solvable = any("solved" in one for one in found["players"].values())
    digits = 3 if solvable else 1
    lines = [f"{protocol['world']}, frame skip {protocol['frame_skip']}, at most {protocol['frames']} frames, "
             f"seed {protocol['seed']}", "",
             "| player | games | mean [95 %] | sd | median | cut off | reversals/s | done recall | in the dream |"
             + " solved [95 %] | most [95 %] |" * solvable, "|" + "---|" * (9 + 2 * solvable)]  # fmt: skip
    for name, one in found["players"].items():
        dreams = ", ".join(f"{d['mean']:.{digits - 1}f} (t {t})" for t, d in one.get("dreams", {}).items())
        recall = one.get("heads", {}).get("done_recall")
        cells = [name, one["games"], with_interval(one, digits), f"{one['sd']:.{digits}f}",
                 f"{one['median']:.{digits}f}", f"{one['cut_off']:.1%}",
                 f"{one['reversals']['mean']:.2f}" if "reversals" in one else "",
                 "" if recall is None else f"{recall:.2f}", dreams]  # fmt: skip
        cells += [with_interval(one[key], digits) for key in ("solved", "most") if solvable]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "| player | more than | by [95 %] | ahead in | reversals/s |" + " solved |" * solvable,
              "|" + "---|" * (5 + solvable)]  # fmt: skip
    lines += [f"| {pair['player']} | {pair['than']} | {with_interval(pair, digits)} | {pair['ahead']:.0%} | "
              f"{with_interval(pair['reversals'], 2) if 'reversals' in pair else ''} |"
              + (f" {with_interval(pair['solved'], digits)} |" if solvable else "")
              for pair in found["pairs"]]  # fmt: skip
    return "\n".join(lines) + "\n"


def with_interval(one: dict[str, Any], digits: int = 1) -> str:
    """A mean and its interval."""
    mean, low, high = (f"{value:.{digits}f}" for value in (one["mean"], *one["interval"]))
    return f"{mean} [{low}, {high}]"


def draw(ranked: Sequence[Entry], found: dict[str, Any], path: Path) -> None:
    """Every game a dot, the mean with its interval above them, and in the dream a cross for each temperature."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.6 + 0.5 * len(ranked)), layout="constrained")
    axis, random = figure.add_subplot(), np.random.default_rng(0)
    for place, entry in enumerate(reversed(ranked)):
        values, one = entry.games.returns, found["players"][entry.name]
        axis.scatter(values, place + random.uniform(-0.3, 0.3, len(values)), s=3, color="tab:blue", alpha=0.3, lw=0)
        axis.plot(one["interval"], [place, place], color="black", lw=3, solid_capstyle="butt")
        axis.plot(one["mean"], place, "o", color="black")
        for dream in one.get("dreams", {}).values():
            axis.plot(dream["mean"], place, "x", color="tab:red")
    axis.set_yticks(range(len(ranked)), [entry.name for entry in reversed(ranked)])
    axis.set_xlabel("return of a game; black: mean, 95 %" + ("; red: in the dream" if any(
        "dreams" in one for one in found["players"].values()) else ""))  # fmt: skip
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, format="png")
