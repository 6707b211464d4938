"""From budgets to runs: sizes around the optimum, seeds, trunks and branches, arms; and learning rates to check."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq

from scaling.law import Cost, Law, optimum
from scaling.point import FEWEST_STEPS, CheckConfig, GridConfig, OptimumConfig, label
from scaling.seal import sealed
from videowm import config as configuration
from videowm.train.rule import batch_by_rule, horizon, rate_by_rule
from videowm.types import UserError

DEEPEST = 32  # 1.6e9 body parameters


@dataclass(frozen=True)
class Dial:
    """What depths 1, 2, ... of a base configuration are in parameters and in compute."""

    n: np.ndarray  # body parameters, "depths"
    per_token: np.ndarray  # exact training FLOPs of a target token, "depths"
    clip: int  # target tokens of one sample, at every depth

    @staticmethod
    def of(base) -> Dial:
        """Counted on the transformer of the `WorldRun` `base`; once in a process, it takes a second."""
        same = replace(base, depth=1, seed=0, budget=None, out="", train=type(base.train)())
        key = configuration.digest(same)
        if key not in COUNTED:
            COUNTED[key] = Dial.counted(same)
        return COUNTED[key]

    @staticmethod
    def counted(base) -> Dial:
        from videowm.train.flops import clip_training_flops, parameters
        from videowm.train.tasks.world import meta_model

        models = [meta_model(replace(base, depth=depth)) for depth in range(1, DEEPEST + 1)]
        clip = base.window * models[0].tokens
        per_token = np.array([clip_training_flops(model, base.window, base.flow.shortcut) / clip for model in models])
        return Dial(np.array([parameters(model)["body"] for model in models], float), per_token, clip)

    def cost(self, n: float, d: float) -> float:
        """Exact FLOPs of training N parameters on D tokens; between two depths FLOPs/N is interpolated in ln N."""
        return n * d * float(np.exp(np.interp(np.log(n), np.log(self.n), np.log(self.per_token / self.n))))

    def depth(self, n: float) -> int:
        """The depth nearest to N."""
        return 1 + int(np.abs(np.log(self.n / n)).argmin())


COUNTED: dict[str, Dial] = {}  # by the hash of the configuration


def expected_optimum(rule: OptimumConfig, budget: float, cost: Cost) -> tuple[float, float]:
    """N and D that `rule` expects to be best for `budget` FLOPs.

    Raises:
        UserError: the rule's law.json cannot be read.
    """
    if rule.law is not None:
        try:
            return optimum(Law.from_json(Path(rule.law).read_text()), budget, cost)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"grid.optimum.law {rule.law} cannot be read ({error}): give a law.json") from None
    ratio = rule.tokens_per_parameter
    log_n = brentq(lambda x: np.log(cost(np.exp(x), ratio * np.exp(x)) / budget), 0, 60)
    return float(np.exp(log_n)), ratio * float(np.exp(log_n))


def depths(grid: GridConfig, dial: Dial, budget: float) -> list[int]:
    """The sizes of one budget: evenly spaced in ln N around the optimum, each depth once."""
    if budget in grid.targets:
        return [dial.depth(expected_optimum(grid.target_optimum or grid.optimum, budget, dial.cost)[0])]
    if grid.sizes is not None:
        return grid.sizes
    n, _ = expected_optimum(grid.optimum, budget, dial.cost)
    steps = np.linspace(-1, 1, grid.per_budget) if grid.per_budget > 1 else [0.0]
    return sorted({dial.depth(n * grid.spread**step) for step in steps})


@dataclass(frozen=True)
class Training:
    """How long a run is and what it learns with."""

    steps: int
    batch: int
    lr: float
    horizon: float | None  # tokens that the rule took them for; None where the sweep states both as numbers

    @staticmethod
    def of(base, dial: Dial, depth: int, tokens: float, *, shared: bool = False) -> Training:
        """The batch, rate and steps of `tokens` tokens at `depth`: the numbers of the `WorldRun` `base`, or the rule's.

        `shared`: as the rule gives them for runs of half to twice the tokens, which can then share a trunk.
        """
        train = base.train
        batch, lr, width = train.batch, train.lr, base.hidden or 64 * depth
        ruled, taken = "rule" in (batch, lr), horizon(tokens, train.rule) if shared else tokens
        batch = batch_by_rule(taken, dial.clip, train.rule) if batch == "rule" else batch
        lr = rate_by_rule(width, taken, train.parametrisation, train.rule) if lr == "rule" else lr
        steps = max(1, round(tokens / (dial.clip * batch)))
        return Training(steps, batch, lr, taken if ruled else None)

    @property
    def overrides(self) -> dict[str, Any]:
        """Dotted overrides of a run; empty where the base holds both numbers."""
        return {} if self.horizon is None else {"train.batch": self.batch, "train.lr": self.lr}


def long_enough(name: str, training: Training, *, force: bool) -> Training:
    """Refuse a run that is mostly warmup and cooldown.

    Raises:
        UserError: the run has fewer than `FEWEST_STEPS` steps, and `force` is not set.
    """
    if training.steps < FEWEST_STEPS and not force:
        raise UserError(
            f"{name} would have {training.steps:,} steps, fewer than {FEWEST_STEPS:,}: give larger budgets, smaller "
            "sizes or a smaller train.batch, or set force to true"
        )
    return training


def expand(grid: GridConfig, bases: dict[str, Any], out: str) -> list[dict[str, Any]]:
    """Overrides of every run, trunks first; `bases` is the sweep's base as a `WorldRun` by arm ("" without arms).

    All arms take the sizes of the first, and each spends the budget at its own cost.
    """
    sizes, points = Dial.of(next(iter(bases.values()))), []
    for arm, base in bases.items():
        dial, families = Dial.of(base), {}
        seals = {budget: found for budget in grid.targets if (found := sealed(out, budget, arm or None))}
        for budget, depth, seed in cells(grid, sizes):
            seed = seals[budget].seed - base.seed if budget in seals else seed
            name = f"d{depth} at {label(budget)} FLOPs"
            training = Training.of(base, dial, depth, budget / dial.per_token[depth - 1], shared=grid.trunks)
            runs = families.setdefault((depth, seed, training.horizon), {})
            runs[budget] = long_enough(name, training, force=grid.force)
        for (depth, seed, _), runs in families.items():
            prediction = next((seals[budget].prediction for budget in runs if budget in seals), None)
            points += family(grid, base, out, arm, depth, seed, runs, prediction)
    return sorted(points, key=lambda point: "train.trunk" not in point)


def cells(grid: GridConfig, dial: Dial) -> Iterator[tuple[float, int, int]]:
    """Budget, depth and seed of every run."""
    for budget in sorted({*grid.budgets, *grid.targets}):
        seeds = (grid.seeds_at_lowest or grid.seeds) if budget == min(grid.budgets) else grid.seeds
        for depth in depths(grid, dial, budget):
            yield from ((budget, depth, seed) for seed in range(1 if budget in grid.targets else seeds))


def family(grid: GridConfig, base, out: str, arm: str, depth: int, seed: int,
           trainings: dict[float, Training], prediction: str | None = None) -> list[dict[str, Any]]:  # fmt: skip
    """The runs of one size, seed and horizon: a trunk and a branch for each budget, or a run of its own for each.

    `prediction` is the sha256 of a sealed prediction, whose target they are.
    """
    from videowm.train.optim import cooldown_from

    prefix, suffix = f"{arm}-d{depth}" if arm else f"d{depth}", f"-s{seed}" if seed else ""
    first = next(iter(trainings.values()))
    common = {"arm": arm or None, "depth": depth, "seed": base.seed + seed, "budget": None}
    common |= grid.arms.get(arm, {}) | first.overrides | ({"prediction": prediction} if prediction else {})
    runs = {f"{prefix}-{label(budget)}{suffix}": training.steps for budget, training in trainings.items()}
    if not grid.trunks:
        return [{"name": name, **common, "train.steps": count} for name, count in runs.items()]
    warmup = base.train.warmup
    if 0 < warmup < 1:
        warmup = max(1, round(warmup * min(runs.values())))
    trunk = f"{prefix}-{'' if first.horizon is None else f'D{label(first.horizon)}-'}trunk{suffix}"
    common |= {"train.warmup": warmup}
    leaves = {name: cooldown_from(count, base.train.cooldown) for name, count in runs.items()}
    keep = sorted(set(leaves.values()))
    points = [{"name": trunk, **common, "train.steps": keep[-1], "train.keep_at": keep, "train.trunk": True,
               "train.cooldown": 0}]  # fmt: skip
    for name, count in runs.items():
        start = {"run": str(Path(out) / trunk), "step": leaves[name]}
        points.append({"name": name, **common, "train.steps": count, "train.start": start})
    return points


def rates(check: CheckConfig, base) -> list[dict[str, Any]]:
    """Overrides of the runs of a learning-rate check; only the held-out loss is measured."""
    dial, points = Dial.of(base), []
    for depth, tokens in itertools.product(check.depths, check.tokens):
        cell = f"lr-d{depth}-D{tokens / min(check.tokens):.3g}"
        training = long_enough(cell, Training.of(base, dial, depth, tokens), force=check.force)
        for factor, seed in itertools.product(check.factors, range(check.seeds)):
            name = f"{cell}-x{factor:.3g}" + (f"-s{seed}" if seed else "")
            own = {"train.steps": training.steps, "train.batch": training.batch, "train.lr": training.lr * factor}
            points.append({"name": name, "depth": depth, "seed": base.seed + seed, "budget": None, **own,
                           "rollout.clips": 0})  # fmt: skip
    return points
