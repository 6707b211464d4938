"""How far off will a study's prediction be? Studies simulated under a known law, by design and by a run's scatter.

    python benchmarks/design.py --law benchmarks/studies/takecover/law.json --out benchmarks/design.json

Errors are in % of the gain (best loss of the highest budget minus that of the target), at 10 and 32 times that budget.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from scaling.law import Law
from scaling.simulate import Design, errors
from videowm.files import write_json

FOUR = (1.25e14, 4e14, 1.25e15, 4e15)


DESIGNS = {
    "4 budgets, 5 sizes": Design(FOUR, (1, 1, 1, 1)),
    "3 seeds at the lowest": Design(FOUR, (3, 1, 1, 1)),
    "3 seeds at the lower two": Design(FOUR, (3, 3, 1, 1)),
    "3 seeds at the highest": Design(FOUR, (1, 1, 1, 3)),
    "2 seeds everywhere": Design(FOUR, (2, 2, 2, 2)),
    "sizes within a factor 2": Design(FOUR, (3, 1, 1, 1), spread=2),
    "sizes within a factor 8": Design(FOUR, (3, 1, 1, 1), spread=8),
    "3 sizes": Design(FOUR, (3, 1, 1, 1), sizes=3),
    "a lower budget more": Design((4e13, *FOUR), (3, 1, 1, 1, 1)),
    "a higher budget more": Design((*FOUR, 1.25e16), (3, 1, 1, 1, 1)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--law", type=Path, required=True, help="law.json of a surface, taken for true")
    parser.add_argument("--scatter", type=float, nargs="+", default=[0.005, 0.011, 0.017], help="of a run's ln L")
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    truth, said = Law.from_json(args.law.read_text()), []
    for name, design in DESIGNS.items():
        runs = design.runs(truth)
        for form in ("surface", "frontier"):
            row = {"design": name, "runs": len(runs), "FLOPs": float(f"{runs.c.sum():.3g}"), "form": form}
            for scatter in args.scatter:
                found = errors(truth, runs, scatter, form, args.studies)
                row[f"scatter {scatter:g}"] = {f"{x}x": [round(float(q), 1) for q in off] for x, off in found.items()}
            said.append(row)
            print(row, flush=True)
    if args.out:
        write_json(args.out, {"law": truth.params, "error, % of the gain: median, 90 % quantile": said})


if __name__ == "__main__":
    main()
