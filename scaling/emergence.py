"""Which ability appears at which compute: one table over all runs of a study, read through the registry of metrics.

An ability is there at a budget where its metric is three standard errors above its floor, and stays so at every larger
one. Of several floors the hardest counts. A metric without a floor is compared with the least budget instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scaling.fit import fit
from scaling.law import Runs, budgets, identifiable
from scaling.panels import best_of_budgets
from scaling.records import Finished, check_metric, unstopped
from videowm.bootstrap import clear_of_zero
from videowm.files import as_json, finite, read_json, write_atomic
from videowm.metrics import BOUNDS, base_name, find, metric_of, with_current_names
from videowm.metrics import beside as name_beside
from videowm.record import RunRecord
from videowm.show import encode_figure, new_figure
from videowm.types import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLEAR = 3.0  # standard errors
FOLLOWS = 0.9  # R² in logarithms from which on a row is said to follow a power law
LEAST = "the least budget"
ABILITIES = {  # what it is called -> metrics, by pattern, in the order of the table
    "leads a still picture": "rollout/lead",
    "is sharp": "fidelity/gradients",
    "looks real": "frechet/*",
    "obeys actions": "control/r2",
    "tells other futures": "counterfactual/gain",
    "obeys text": "text/obeyed",
    "knows the state": "state/error",
    "counts": "count/*_error",
    "keeps the world's laws": "leaks/events",
    "remembers a view": "returns/kept",
    "knows its chances": "decision/calibration",
    "decides": "decision/regret",
}

DIFFERENCES = {("rollout/lead", "ceiling"): ("rollout/psnr_vae_mean", "rollout/psnr_repeat_mean")}  # bounds


@dataclass(frozen=True)
class Cell:
    """An ability at one budget."""

    c: float  # training FLOPs of the run
    run: str
    value: float
    error: float | None  # standard error
    floor: float | None
    ceiling: float | None
    clear: bool  # above the floor by three standard errors


@dataclass(frozen=True)
class Row:
    """An ability over all budgets."""

    ability: str
    metric: str
    unit: str
    floor: str  # what the floor is
    cells: list[Cell]  # by rising budget
    rank: float | None  # Spearman's correlation of how good it is with compute, over all runs
    exponent: float | None = None  # of C, where the distance to the ceiling is a power of it
    r2: float | None = None  # of that power, in logarithms
    no_law: str = ""  # why there is none

    @property
    def first(self) -> float | None:
        """The least compute from which on all cells are clear."""
        late = [i for i, cell in enumerate(self.cells) if not cell.clear]
        start = late[-1] + 1 if late else 0
        return self.cells[start].c if start < len(self.cells) else None

    @property
    def law(self) -> str:
        """The law as the table shows it."""
        if self.exponent is None:
            return f"none: {self.no_law}"
        return f"C^{self.exponent:.2f}, R² {self.r2:.2f}" + " (no law)" * (self.r2 < FOLLOWS)


@dataclass(frozen=True)
class Emergence:
    """The table, and what it leaves out."""

    rows: list[Row]
    left_out: dict[str, str] = field(default_factory=dict)  # metric -> why

    def to_json(self) -> bytes:
        """The content of emergence.json."""
        rows = [asdict(row) | {"first": row.first, "law": row.law} for row in self.rows]
        return as_json(finite({"schema": 1, "rows": rows, "left_out": self.left_out}))


def runs_in(folder: Path) -> list[Finished]:
    """The runs of a folder with records/NAME.json and evaluations/NAME.json, or of a sweep's output, by rising compute.

    Raises:
        UserError: fewer than two of them.
    """
    pairs = [(path, folder / "evaluations" / path.name) for path in sorted(folder.glob("records/*.json"))]
    pairs += [(path, path.with_name("evaluation.json")) for path in sorted(folder.glob("*/record.json"))]
    found = []
    for path, later in pairs:
        record = RunRecord.from_json(read_json(path, "restore it"), path)
        more = with_current_names(read_json(later, "evaluate again")) if later.exists() else {}
        if record.flops.get("train") and not record.is_trunk and "heldout/loss" in record.metrics:
            found.append(Finished.of(record, later=more))
    if len(unstopped(found)) < 2:
        raise UserError(f"{folder} holds {len(unstopped(found))} finished world models, 2 are needed: give the output "
                        "of a sweep, or a folder with records and evaluations")  # fmt: skip
    return sorted(unstopped(found), key=lambda record: record.compute)


def emergence(records: Sequence[Finished]) -> Emergence:
    """The table of some runs of one study."""
    rows, left_out = [], {}
    for ability, pattern in ABILITIES.items():
        for name in sorted({n for record in records for n in record.metrics if fnmatch(n, pattern)}):
            if base_name(name) != name or (metric := find(name)) is None or metric.better is None:
                continue
            having = [record for record in records if record.number(name) is not None]
            try:
                check_metric(having, name)
                title = f"{ability} ({metric.of(name)})" if "{}" in metric.name else ability
                rows.append(row_of(title, name, having))
            except UserError as why:
                left_out[name] = str(why)
    return Emergence(rows, left_out)


def row_of(ability: str, name: str, records: list[Finished]) -> Row:
    """One row, of the runs that have the metric; each budget shows its run of least held-out loss.

    Raises:
        UserError: they are of fewer than two budgets.
    """
    from scipy.stats import spearmanr

    if len(set(budgets(np.array([record.compute for record in records])))) < 2:
        raise UserError(
            f"{name} is known at {len(records)} run{'s' * (len(records) != 1)} of one budget: evaluate more"
        )
    best, sign = best_of_budgets(records, "heldout/loss"), -1 if metric_of(name).better == "lower" else 1
    least, cells = None, []
    for record in best:
        hardest = floor_of(record, name, sign)
        least = least or (record.metrics[name], record.number(name_beside(name, "se")))
        cells.append(cell_of(record, name, sign, hardest or least, known=hardest is not None))
    known = cells[0].floor is not None
    rank = spearmanr([r.compute for r in records], [sign * r.metrics[name] for r in records]).statistic
    exponent, r2, why = power(best, cells, sign)
    return Row(ability, name, metric_of(name).unit, floor_text(best[0], name, sign) if known else LEAST, cells,
               None if math.isnan(rank) else float(rank), exponent, r2, why)  # fmt: skip


def cell_of(
    record: Finished, name: str, sign: int, floor: tuple[float, float | None], *, known: bool
) -> Cell:  # fmt: skip
    """The ability of one run against a floor with its error; `known`: it is the metric's own."""
    value, error = record.metrics[name], record.number(name_beside(name, "se"))
    apart = None if error is None else math.hypot(error, floor[1] or 0.0)
    clear = clear_of_zero(sign * (value - floor[0]), apart, CLEAR)
    return Cell(record.compute, record.name, value, error, floor[0] if known else None,
                bound(record, name, "ceiling"), clear)  # fmt: skip


def floors(record: Finished, name: str) -> Iterator[tuple[str, float, float | None]]:
    """The floors that a run was measured against: name, value and error; else the number that is one by definition."""
    found = False
    for suffix in (suffix for suffix in BOUNDS if suffix.startswith("floor")):
        key = name_beside(name, suffix)
        if (value := record.number(key)) is not None:
            found = True
            yield suffix, value, record.number(f"{key}_se")
    if not found and (value := stated(metric_of(name).floor)) is not None:
        yield "", value, 0.0


def floor_of(record: Finished, name: str, sign: int) -> tuple[float, float | None] | None:
    """The hardest floor with its error; None where there is none."""
    hardest = max(floors(record, name), key=lambda one: sign * one[1], default=None)
    return hardest and hardest[1:]


def floor_text(record: Finished, name: str, sign: int) -> str:
    """What the hardest floor is, in the words of the registry."""
    suffix = max(floors(record, name), key=lambda one: sign * one[1])[0]
    said = metric_of(name).floor or ""
    if suffix in ("", "floor"):
        return said.split(";")[0]
    part = re.search(rf"`_{suffix}`: ([^;,]*)", said)
    return part[1] if part else BOUNDS[suffix]


def bound(record: Finished, name: str, suffix: str) -> float | None:
    """A bound as it was measured, else the number that the registry gives."""
    value = record.number(name_beside(name, suffix))
    above, below = map(record.number, DIFFERENCES.get((name, suffix), ("", "")))
    if above is not None and below is not None:
        return above - below
    return stated(getattr(metric_of(name), suffix)) if value is None else value


def stated(text: str | None) -> float | None:
    """The number that a bound's description begins with, as in "0.5, by chance"."""
    found = re.match(r"(\d+(\.\d+)?)(,| |$)", text or "")
    return float(found[1]) if found else None


def power(best: list[Finished], cells: list[Cell], sign: int) -> tuple[float | None, float | None, str]:
    """Exponent and R², in logarithms, of a power of compute through the distances to the ceiling; or why there is none.

    Where no ceiling is known the metric itself is taken, if a lower one is better.
    """
    if sign > 0 and any(cell.ceiling is None for cell in cells):
        return None, None, "no ceiling is known"
    y = np.array([cell.value if cell.ceiling is None else sign * (cell.ceiling - cell.value) for cell in cells])
    c = np.array([cell.c for cell in cells])
    if len(y) < 4 or (y <= 0).any():
        return None, None, f"{len(y)} budgets, 4 are needed" if len(y) < 4 else "it is at its ceiling"
    runs = Runs([r.params["body"] for r in best], [r.tokens.get("target", 1) for r in best], c, y)
    if why := identifiable(runs, "power"):
        return None, None, why
    law = fit(runs, "power")
    left = np.log(y) - np.log(law.predict_c(c))
    spread = ((np.log(y) - np.log(y).mean()) ** 2).sum()
    return law.params["b"], float(1 - (left**2).sum() / spread), ""


def markdown(found: Emergence) -> str:
    """The table; bold where an ability is clear of its floor."""
    heads = sorted({cell.c for row in found.rows for cell in row.cells})
    label = budgets(np.array(heads))
    names = {k: f"{math.exp(np.mean([math.log(c) for c, i in zip(heads, label) if i == k])):.2g}" for k in set(label)}
    title = ["ability", "metric", "floor", *(names[k] for k in sorted(names)), "from", "rank", "law of what is missing"]
    lines = ["| " + " | ".join(title) + " |", "|" + "---|" * len(title)]
    for row in found.rows:
        at = {int(label[heads.index(cell.c)]): shown(cell) for cell in row.cells}
        rank = "" if row.rank is None else f"{row.rank:+.2f}"
        first = "never" if row.first is None else f"{row.first:.2g}"
        cells = [
            row.ability,
            f"`{row.metric}`",
            row.floor,
            *(at.get(k, "") for k in sorted(names)),
            first,
            rank,
            row.law,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    notes = [f"Left out: {why}." for why in found.left_out.values()]
    return "\n".join(lines) + "\n" + "".join(f"\n{note}\n" for note in notes)


def shown(cell: Cell) -> str:
    """Value and error, bold where it is clear of the floor, which is behind it."""
    text = f"{cell.value:.3g}" + (f" ± {cell.error:.1g}" if cell.error else "")
    text = f"**{text}**" if cell.clear else text
    return text if cell.floor is None else f"{text} ({cell.floor:.2g})"


def figure(found: Emergence) -> Figure:
    """Every ability by compute, from its floor (white) to its ceiling (blue), with a ring where it is clear."""
    drawn, (axes,) = new_figure()
    drawn.set_size_inches(7.5, 0.9 + 0.34 * len(found.rows))
    for y, row in enumerate(found.rows):
        ends = [(c.floor if c.floor is not None else row.cells[0].value, c.ceiling) for c in row.cells]
        best = max((cell.value for cell in row.cells), key=lambda value: abs(value - ends[0][0]))
        for cell, (low, high) in zip(row.cells, ends):
            high = best if high is None else high
            share = 0.0 if high == low else min(1.0, max(0.0, (cell.value - low) / (high - low)))
            axes.scatter(cell.c, y, s=130, c=[share], cmap="Blues", vmin=0, vmax=1, marker="s",
                         edgecolors="black" if cell.clear else "0.8", linewidths=1.3)  # fmt: skip
    axes.set(xscale="log", xlabel="training FLOPs", ylim=(len(found.rows) - 0.4, -0.6))
    axes.set_yticks(range(len(found.rows)), [row.ability for row in found.rows], fontsize=8)
    return drawn


def write(folder: Path, found: Emergence) -> list[Path]:
    """emergence.md, .json and .png in a folder."""
    files = {"md": markdown(found).encode(), "json": found.to_json(), "png": encode_figure(figure(found), "png")}
    for kind, content in files.items():
        write_atomic(folder / f"emergence.{kind}", content)
    return [folder / f"emergence.{kind}" for kind in files]
