"""Do the intervals hold what came? Public tables, each budget of which is predicted from those far below it.

    python benchmarks/law_coverage.py --out benchmarks/law_coverage.json

A case is a table, a highest budget that is fitted, and the first budget 10 or 30 times above. The fit sees at least 4
budgets and 8 runs, over a range of compute as wide as the extrapolation. What is predicted is the best run of the
target budget. Coverage and medians are means over families of tables: a table of many budgets counts once, and so do
the tables of one recipe. Which were held back from the design is in `benchmarks/laws/README.md`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaling.combine import Combined
from scaling.fit import bootstrap_fit
from scaling.law import FORMS, SURFACES, Runs, budgets
from scaling.table import Table, read_table
from videowm.files import write_json
from videowm.types import UserError

ROOT = Path(__file__).parents[1]
LAWS, DATA, STUDIES = ROOT / "benchmarks/laws", ROOT / "tests/scaling/data", ROOT / "benchmarks/studies"
BEYOND = (10, 30)
EPOCHS = 4.0  # passes over the data that cost a language model almost nothing (arXiv 2305.16264)


def plain(name: str, d: float = 0.5) -> Runs:
    """A table of benchmarks/laws, without runs of fewer tokens than `d` a parameter: they saw little but warmup."""
    runs = read_table(LAWS / f"{name}.csv", d="D", c="C")
    return runs.keep(runs.d >= d * runs.n)


def gadre(dataset: str) -> Runs:
    return read_table(DATA / "gadre2024_mlfoundations_scaling.csv", d="D", loss="loss_c4_val",
                      where=[f"dataset={dataset}"])  # fmt: skip


def olmo() -> Runs:
    """The ladder's last checkpoints, and the 7B and 13B that it was made for."""
    path = DATA / "olmo_ladder_final_evals.csv"
    names = np.array(Table.read(path).where("rank_from_end=1").column("run"))
    runs = read_table(path, n="N_non_embedding", d="D", loss="c4_en", where=["rank_from_end=1"])
    wanted = ("peteish7_eval_anneal", "peteish13_eval_final")
    return runs.keep(np.array(["xC" in name or name in wanted for name in names]))


def datablations() -> Runs:
    """Runs of few passes over their data."""
    rows = Table.read(LAWS / "datablations.csv")
    runs = plain("datablations", d=0)
    passes = rows.numbers("D") / rows.numbers("U")
    return runs.keep((passes <= EPOCHS) & (runs.d >= 0.5 * runs.n))


def study(world: str) -> Runs:
    return read_table(STUDIES / world / "points.csv", n="N", d="D", c="C", loss="heldout/loss")


DESIGN: dict[str, Callable[[], Runs]] = {
    "chinchilla": lambda: read_table(DATA / "epoch_chinchilla_svg_extracted_data.csv", n="Model Size",
                                     c="Training FLOP", drop_highest=5),
    "gadre-c4": lambda: gadre("c4_original"),
    "gadre-rpj": lambda: gadre("rpj"),
    "gadre-rw": lambda: gadre("rw_original"),
    "olmo": olmo,
    "misfitting": lambda: plain("misfitting"),
    "misfitting-2024": lambda: plain("misfitting-2024"),
    "gemstones": lambda: plain("gemstones"),
    "datablations": datablations,
    "xlstm-llama-8k": lambda: plain("xlstm-llama-8k"),
    **{f"routing-{kind}": lambda kind=kind: plain(f"routing-{kind}", d=0)
       for kind in ("dense", "hash64", "base64", "rl64")},
    "takecover": lambda: study("takecover"),
    "carracing": lambda: study("carracing"),
}  # fmt: skip
HELD_BACK: dict[str, Callable[[], Runs]] = {
    name: lambda name=name: plain(name)
    for name in ("llama3", "marin-comma", "marin-dclm", "marin-nemotron", "steplaw-dense", "porian-rw-cosine",
                 "porian-rw-tuned", "porian-owt2-cosine", "porian-owt2-tuned")
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Errors in % of the loss and half-widths in %, by what predicted; None where it had no law."""

    table: str
    beyond: int
    fitted: float  # highest FLOPs
    target: float
    gain: float  # % of the loss
    error: dict[str, float | None]
    half: dict[str, float | None]


def cases(table: str, runs: Runs, draws: int) -> Iterator[Case]:
    """Every case of a table."""
    label = budgets(runs.c)
    best = np.array([at[runs.loss[at].argmin()] for k in range(label.max() + 1) for at in [np.flatnonzero(label == k)]])
    for k in range(3, len(best) - 1):
        below = runs.keep(label <= k)
        ahead = {times: first for times in BEYOND if (first := target(runs.c[best], k, times))}
        if len(below) < 8 or not ahead:
            continue
        said = predictions(below, runs.keep(np.isin(np.arange(len(runs)), best[list(ahead.values())])), draws)
        for times, j in ahead.items():
            at = best[j]
            last, true = float(np.log(below.loss.min())), float(np.log(runs.loss[at]))
            found = {name: rows.get(float(runs.c[at])) for name, rows in said.items()}
            error = {name: row and round(100 * (row[0] - true), 3) for name, row in found.items()}
            half = {name: row and round(100 * row[1], 3) for name, row in found.items()}
            yield Case(
                table, times, float(runs.c[best[k]]), float(runs.c[at]), round(100 * (last - true), 2), error, half
            )


def target(c: np.ndarray, k: int, times: float) -> int | None:
    """The first budget `times` above budget k, where the fit spans as much."""
    ahead = np.flatnonzero(c >= 0.98 * times * c[k])
    return int(ahead[0]) if len(ahead) and c[k] >= 0.95 * times * c[0] else None


Row = dict[float, tuple[float, float]]  # FLOPs of the target -> ln L, half-width in ln L


def predictions(below: Runs, targets: Runs, draws: int) -> dict[str, Row]:
    """What every form, and all of them together, say of the targets."""
    said: dict[str, Row] = {form: single(below, targets, form, draws) for form in FORMS}
    return said | {"combined": combination(below, targets, draws)}


def combination(below: Runs, targets: Runs, draws: int) -> Row:
    """All forms together."""
    try:
        found = Combined.of(below, draws).at(targets.n, targets.d, targets.c)
    except UserError:
        return {}
    rows = zip(targets.c, np.log(found.loss), np.log(found.high / found.loss), strict=True)
    return {float(c): (float(loss), float(half)) for c, loss, half in rows}


def single(below: Runs, targets: Runs, form: str, draws: int) -> Row:
    """One form with the interval of its bootstrap."""
    try:
        found = bootstrap_fit(below, form, draws)
    except UserError:
        return {}
    at = (targets.n, targets.d) if form in SURFACES else (targets.c,)
    loss = found.law.predict(*at) if form in SURFACES else found.law.predict_c(*at)
    _, high = found.interval(*at) if form in SURFACES else found.interval_c(*at)
    rows = {float(c): (float(np.log(x)), float(np.log(y / x))) for c, x, y in zip(targets.c, loss, high, strict=True)}
    return {c: row for c, row in rows.items() if np.isfinite(row).all()}


def family(row: Case) -> str:
    """Tables of one paper and recipe."""
    return row.table.split("-")[0]


def mean_over_families(rows: list[Case], value: Callable[[Case], float], how: Callable) -> float:
    """The mean over families of `how` over a family's cases."""
    families = dict.fromkeys(map(family, rows))
    return float(np.mean([how([value(row) for row in rows if family(row) == name]) for name in families]))


def numbers(rows: list[Case], who: str) -> dict[str, float]:
    """Coverage, median error and half-width of what `who` predicted."""
    return {
        "coverage": round(mean_over_families(rows, lambda row: abs(row.error[who]) <= row.half[who], np.mean), 3),
        "error": round(mean_over_families(rows, lambda row: abs(row.error[who]), np.median), 2),
        "error, median of all cases": round(float(np.median([abs(row.error[who]) for row in rows])), 2),
        "error, % of the gain": round(
            mean_over_families(rows, lambda row: 100 * abs(row.error[who]) / row.gain, np.median), 1
        ),
        "half-width": round(mean_over_families(rows, lambda row: row.half[who], np.median), 2),
    }


def summary(found: list[Case]) -> dict[str, dict]:
    """By what predicted: how many cases, its numbers, and those of the combination on the same cases."""
    said = {}
    for name in (*FORMS, "combined"):
        rows = [row for row in found if row.error.get(name) is not None and row.error["combined"] is not None]
        if rows:
            count = {"families": len(set(map(family, rows))), "tables": len({row.table for row in rows})}
            said[name] = count | {"cases": len(rows)} | numbers(rows, name)
            said[name]["combined on these"] = numbers(rows, "combined")
    return said


HEAD = """| | families, tables, cases | intervals hold | error, % of L | half-width, % | combined on the same cases |
|---|---|---|---|---|---|"""


def lines(title: str, said: dict[str, dict]) -> str:
    """A summary as a Markdown table."""
    rows = []
    for name, row in said.items():
        same = row["combined on these"]
        both = f"{same['coverage']:.0%}, {same['error']:.2f}, ±{same['half-width']:.1f}"
        rows.append(
            f"| {name} | {row['families']}, {row['tables']}, {row['cases']} | {row['coverage']:.0%} | "
            f"{row['error']:.2f} | ±{row['half-width']:.1f} | {'' if name == 'combined' else both} |"
        )
    return "\n".join([f"{title}\n", HEAD, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", choices=("design", "held back", "both"), default="both")
    parser.add_argument("--only", nargs="+", help="names of tables")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found: dict[str, list[Case]] = {}
    for kind, tables in (("design", DESIGN), ("held back", HELD_BACK)):
        if args.sets in (kind, "both"):
            chosen = {name: read for name, read in tables.items() if not args.only or name in args.only}
            found[kind] = [case for name, read in chosen.items() for case in cases(name, read(), args.draws)]
    found["all"] = [case for rows in found.values() for case in rows]
    content = {}
    for kind, rows in found.items():
        for times in BEYOND:
            said = summary([row for row in rows if row.beyond == times])
            content[f"{kind}, {times}x"] = said
            print(lines(f"{kind}, {times} times the compute", said), "\n", flush=True)
    content["cases"] = [vars(row) for row in found["all"]]
    if args.out:
        write_json(args.out, content)


if __name__ == "__main__":
    main()
