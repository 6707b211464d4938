"""Does one study's law hold in another world? Exponents with their intervals, and the one's with the other's constants.

    cd benchmarks/studies && python ../carry_over.py takecover carracing --out carry_over.json

Of each study only what its predictions were made from is fitted; its targets are then looked at.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from scaling.fit import bootstrap_fit
from scaling.law import Runs
from scaling.table import read_table
from videowm.files import write_json


def study(folder: Path) -> tuple[Runs, Runs]:
    """The runs that were fitted, and the targets."""
    runs = read_table(folder / "points.csv", n="N", d="D", c="C", loss="heldout/loss")
    first = min(json.loads(path.read_text())["budget"] for path in (folder / "predictions").glob("*.json"))
    return runs.keep(runs.c < 0.9 * first), runs.keep(runs.c >= 0.9 * first)


def growth(alpha: np.ndarray, beta: np.ndarray) -> dict[str, np.ndarray]:
    """Exponents of compute C = 6ND along the best sizes: of N, and of what the loss has above E."""
    return {"N of C": beta / (alpha + beta), "loss of C": -alpha * beta / (alpha + beta)}


def transplanted(runs: Runs, targets: Runs, alpha: float, beta: float) -> dict[str, object]:
    """E, A and B fitted to `runs` in ln L (least squares) at these exponents: what is left, and off at targets, %."""

    def log_loss(x: np.ndarray, at: Runs) -> np.ndarray:
        e, a, b = np.exp(x)
        return np.log(e + a / at.n**alpha + b / at.d**beta)

    found = least_squares(lambda x: log_loss(x, runs) - np.log(runs.loss), (-6.0, 4.0, 4.0)).x
    scatter = np.sqrt(np.mean((log_loss(found, runs) - np.log(runs.loss)) ** 2))
    off = np.exp(log_loss(found, targets)) / targets.loss - 1
    return {"root mean square": round(100 * float(scatter), 2), "targets": [round(100 * float(v), 1) for v in off]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of the study whose exponents are taken")
    parser.add_argument("other", type=Path, help="folder of the study that they are tried on")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    said, draws, params = {}, {}, {}
    for folder in (args.source, args.other):
        result = bootstrap_fit(study(folder)[0], "surface", level=0.9)
        params[folder], draws[folder] = result.law.params, result.draws
        points = params[folder] | growth(params[folder]["alpha"], params[folder]["beta"])
        drawn = draws[folder] | growth(draws[folder]["alpha"], draws[folder]["beta"])
        said[folder.name] = {
            key: [float(f"{v:.4g}") for v in (points[key], *np.quantile(drawn[key], (0.05, 0.95)))]
            for key in ("alpha", "beta", "E", "N of C", "loss of C")
        }
    runs, targets = study(args.other)
    exponents = {
        name: (params[f]["alpha"], params[f]["beta"]) for name, f in (("source", args.source), ("own", args.other))
    }
    said[f"{args.other.name}, exponents of"] = {name: transplanted(runs, targets, *e) for name, e in exponents.items()}
    said["share of draws above the source's"] = {
        key: round(float(np.mean(draws[args.other][key] > draws[args.source][key])), 3) for key in ("alpha", "beta")
    }
    print(json.dumps(said, indent=1))
    if args.out:
        write_json(args.out, said)


if __name__ == "__main__":
    main()
