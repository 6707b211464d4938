"""Does more compute decide better, and which number without an agent says so? Over all runs of one or more studies.

Every run needs `evaluation.json` of `videowm evaluate RUN --decisions 128 --reader READER`, beside its record.json; or
a study holds `records/NAME.json` and `evaluations/NAME.json`. Prints the law of decision regret, and how each other
metric ranks the runs against it; writes both with a figure.

    python benchmarks/decision_law.py runs/study/takecover --out decisions.json --figure decisions.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from videowm.files import finite, read_json, write_atomic, write_json
from videowm.metrics import base_name, metric_of, with_current_names
from videowm.record import RunRecord
from videowm.types import UserError

REGRET = "decision/regret"
DRAWS = 1000
SHOWN = 12  # metrics in the figure
OWN = ("decision/", "drift/", "evaluate/", "train/", "heads/")  # what needs no agent, each once


@dataclass(frozen=True)
class Judged:
    """A finished run and all that was measured of it."""

    name: str
    compute: float  # training FLOPs
    size: float  # body parameters
    metrics: dict[str, Any]


def judged(study: Path) -> list[Judged]:
    """The runs of a study that decisions were measured of, by rising compute.

    Raises:
        UserError: there is none.
    """
    pairs = [(path, study / "evaluations" / path.name) for path in (study / "records").glob("*.json")]
    pairs += [(path, path.with_name("evaluation.json")) for path in study.glob("*/record.json")]
    found = []
    for path, later in pairs:
        if later.exists():
            record = RunRecord.from_json(read_json(path, "restore it"), path)
            metrics = record.metrics | with_current_names(read_json(later, "evaluate again"))
            if metrics.get(REGRET) is not None:
                found.append(Judged(record.name, record.flops["train"], record.params["body"], metrics))
    if len(found) < 4:
        raise UserError(f"{study} holds {len(found)} runs with {REGRET}, 4 are needed: videowm evaluate --decisions")
    return sorted(found, key=lambda run: (run.compute, run.size))


def numbers(runs: list[Judged]) -> Iterator[tuple[str, np.ndarray]]:
    """Every registered metric with a direction that all runs have, "runs" each."""
    for name in runs[0].metrics:
        metric, values = metric_of(name), [run.metrics.get(name) for run in runs]
        own = not name.endswith("_se") and base_name(name) == name and not name.startswith(OWN)
        if not (own and metric and metric.better and all(isinstance(value, int | float) for value in values)):
            continue
        if np.ptp(values) > 0:
            yield name, np.array(values, float) * (1 if metric.better == "lower" else -1)


def ranking(runs: list[Judged], regret: np.ndarray) -> dict[str, list[float]]:
    """Rank correlation of each metric with regret, with its 90 % interval over runs; 1: it says the same."""
    rng, found = np.random.default_rng(0), {}
    draws = rng.integers(len(runs), size=(DRAWS, len(runs)))
    for name, values in numbers(runs):
        drawn = [spearmanr(values[i], regret[i]).statistic for i in draws if np.ptp(values[i]) and np.ptp(regret[i])]
        found[name] = [float(spearmanr(values, regret).statistic), *np.nanquantile(drawn, [0.05, 0.95]).tolist()]
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def law(runs: list[Judged], regret: np.ndarray) -> dict[str, Any]:
    """ln regret against ln C, all runs alike: the slope, its 90 % interval over runs, and regret at both ends."""
    x, y = np.log([run.compute for run in runs]), np.log(np.maximum(regret, 1e-3))
    rng = np.random.default_rng(0)
    draws = [i for i in rng.integers(len(x), size=(DRAWS, len(x))) if np.ptp(x[i]) > 0]
    slopes = [np.polyfit(x[i], y[i], 1)[0] for i in draws]
    slope, level = np.polyfit(x, y, 1)
    ends = [float(np.exp(level + slope * at)) for at in (x.min(), x.max())]
    low, high = np.quantile(slopes, [0.05, 0.95])
    return {"slope": float(slope), "slope_90": [float(low), float(high)], "at_lowest": ends[0], "at_highest": ends[1],
            "left_by": left_by(runs, y)}  # fmt: skip


def left_by(runs: list[Judged], y: np.ndarray) -> dict[str, float]:
    """Deviation of ln regret that is left by a line in ln C, and by one in ln loss."""
    kinds = {"compute": [run.compute for run in runs], "loss": [run.metrics["heldout/loss"] for run in runs]}
    found = {}
    for name, values in kinds.items():
        x = np.log(values)
        found[name] = float(np.std(y - np.polyval(np.polyfit(x, y, 1), x), ddof=2))
    return found


def study_of(path: Path) -> dict[str, Any]:
    """All that is said of one study."""
    runs = judged(path)
    regret = np.array([run.metrics[REGRET] for run in runs])
    kept = ("regret", "regret_se", "spearman", "auroc", "auroc_se", "brier", "brier_floor", "error_relative")
    rows = [{"run": run.name, "C": run.compute, "N": run.size, "loss": run.metrics["heldout/loss"],
             **{key: run.metrics.get(f"decision/{key}") for key in kept}} for run in runs]  # fmt: skip
    bounds = {key: float(np.mean([run.metrics[f"{REGRET}_{key}"] for run in runs]))
              for key in ("ceiling", "floor", "floor_repeat")}  # fmt: skip
    return {"runs": rows, "bounds": bounds, "law": law(runs, regret), "ranking": ranking(runs, regret)}


def figure(studies: dict[str, dict[str, Any]]) -> bytes:
    """A row a study: regret against compute, and how each metric ranks the runs, as PNG."""
    import io

    from matplotlib.figure import Figure

    drawn = Figure(figsize=(11, 4.2 * len(studies)), layout="constrained")
    axes = drawn.subplots(len(studies), 2, squeeze=False)
    for (name, one), (left, right) in zip(studies.items(), axes):
        rows = one["runs"]
        c, regret, error = (np.array([row[key] for row in rows], float) for key in ("C", "regret", "regret_se"))
        left.errorbar(c, regret, error, fmt="none", ecolor="0.8", zorder=1)
        points = left.scatter(c, regret, c=np.log10([row["N"] for row in rows]), cmap="viridis", zorder=2)
        drawn.colorbar(points, ax=left, label="log10 parameters")
        line, slope = np.geomspace(c.min(), c.max()), one["law"]["slope"]
        left.plot(line, one["law"]["at_lowest"] * (line / c.min()) ** slope, color="#d62728", label=f"C^{slope:.3f}")
        for key, style in (("ceiling", ":"), ("floor", "--")):
            left.axhline(one["bounds"][key], color="0.5", linestyle=style, label=f"heads, {key}")
        left.set(xscale="log", xlabel="training FLOPs", ylabel="decision regret", title=name, ylim=(0, None))
        left.legend(frameon=False, fontsize=8)
        best = list(one["ranking"].items())
        best = best[:SHOWN] + [item for item in best[SHOWN:] if item[0] == "heldout/loss"]
        y = np.arange(len(best))[::-1]
        value, low, high = (np.array([item[1][i] for item in best]) for i in range(3))
        right.barh(y, value, color=["#d62728" if item[0] == "heldout/loss" else "#1f77b4" for item in best])
        right.hlines(y, low, high, color="0.3")
        right.set_yticks(y, [item[0] for item in best], fontsize=8)
        right.set(xlabel="rank correlation with regret over the runs", xlim=(-1, 1))
    drawn.savefig(held := io.BytesIO(), format="png", dpi=110)
    return held.getvalue()


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+", help="folder of a sweep's runs, or of a committed study")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args(arguments)
    found = {path.name: finite(study_of(path)) for path in args.studies}
    for name, one in found.items():
        print(name, json.dumps(one["law"], indent=1))
        for row in one["runs"]:
            print("  {run:24s} {C:9.3g} {N:9.3g}  loss {loss:.4f}  regret {regret:.3f} ± {regret_se:.3f}".format(**row))
        for metric, (value, low, high) in list(one["ranking"].items())[:SHOWN]:
            print(f"  {metric:40s} {value:+.2f} [{low:+.2f}, {high:+.2f}]")
    if args.out:
        write_json(args.out, found)
    if args.figure:
        write_atomic(args.figure, figure(found))
    return found


if __name__ == "__main__":
    main()
