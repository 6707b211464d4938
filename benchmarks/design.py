"""How far off will a study's prediction be? Studies simulated under a known law, by design and by a run's scatter.

    python benchmarks/design.py --law benchmarks/studies/takecover/law.json --out benchmarks/design.json

Errors are in % of the gain (best loss of the highest budget minus that of the target), at 10 and 32 times that budget.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaling.fit import fit
from scaling.law import Law, Runs, optimum, score
from videowm.files import write_json

BEYOND = (10, 32)  # times the highest budget
FOUR = (1.25e14, 4e14, 1.25e15, 4e15)


@dataclass(frozen=True)
class Design:
    """Runs of C = 6ND around a best size of 20 tokens a parameter, evenly spaced in ln N."""

    budgets: tuple[float, ...]
    seeds: tuple[int, ...]  # of every size, a budget each
    sizes: int = 5
    spread: float = 4.0

    def runs(self, truth: Law) -> Runs:
        rows = [
            (np.sqrt(c / 120) * factor, c)
            for c, seeds in zip(self.budgets, self.seeds, strict=True)
            for factor in np.repeat(np.geomspace(1 / self.spread, self.spread, self.sizes), seeds)
        ]
        n, c = np.array(rows).T
        return Runs(n, c / (6 * n), c, truth.predict(n, c / (6 * n)))


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


def errors(truth: Law, design: Design, scatter: float, form: str, studies: int) -> dict[str, list[float]]:
    """[median, 90 % quantile] of the absolute error at each distance, over studies whose runs scatter in ln L."""
    runs, rng = design.runs(truth), np.random.default_rng(0)
    last = runs.loss[runs.c == runs.c.max()].min()
    found = {times: [] for times in BEYOND}
    for _ in range(studies):
        noisy = runs.loss * np.exp(scatter * rng.standard_normal(len(runs)))
        law = fit(Runs(runs.n, runs.d, runs.c, noisy), form)
        for times in BEYOND:
            c = times * runs.c.max()
            predicted = law.predict(*optimum(law, c)) if form == "surface" else law.predict_c(c)
            found[times].append(abs(score(predicted, truth.predict(*optimum(truth, c)), last).gain_percent))
    return {f"{times}x": [round(float(q), 1) for q in np.quantile(off, (0.5, 0.9))] for times, off in found.items()}


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
                row[f"scatter {scatter:g}"] = errors(truth, design, scatter, form, args.studies)
            said.append(row)
            print(row, flush=True)
    if args.out:
        write_json(args.out, {"law": truth.params, "error, % of the gain: median, 90 % quantile": said})


if __name__ == "__main__":
    main()
