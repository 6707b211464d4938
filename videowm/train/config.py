"""How anything is trained: the configuration of the loop, the gate, the rule and a branch. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from videowm.limits import Count, Fraction, NonNegative, Positive, Range, Share
from videowm.types import UserError

DIVERGED = "diverged.json"  # in a run directory: the step whose gradient was not finite
Parametrisation = Literal["standard", "mup"]
Beta = Annotated[float, Range(at_least=0, below=1)]

# What executes a run and changes nothing that it computes. A run may be continued with other values of these keys.
FREE = frozenset(
    ["out", "resident", "play.workers", "train.start.run"]
    + [f"train.{key}" for key in ("workers", "log_every", "save_every", "keep", "keep_at", "trackers", "accumulate")]
    + [f"train.{key}" for key in ("compile", "checkpointing", "gate.after", "gate.errors", "gate.failing")]
    + [f"train.rule.{key}" for key in ("tokens", "batch", "lr")]  # what it gave is in train.batch and train.lr
)


@dataclass(frozen=True)
class StartConfig:
    """Where a branch leaves its trunk."""

    run: str  # the trunk's run directory
    step: Count  # finished steps of the trunk's checkpoint


@dataclass(frozen=True)
class GateConfig:
    """After `after` of the run, another episode's actions must raise the held-out loss by `errors` standard errors."""

    after: Fraction = 0.1  # share of the run after which the gate looks
    errors: NonNegative = 3.0  # standard errors by which wrong actions must raise the held-out loss
    failing: Literal["off", "warn", "stop"] = "warn"  # what a failed gate does: no look, one line, or the run's end

    def step(self, steps: int) -> int:
        """The number of finished steps after which the gate judges a run of `steps`."""
        return min(steps, max(1, round(self.after * steps)))


@dataclass(frozen=True)
class RuleConfig:
    """The point that the rule passes through: `batch` and `lr` at `tokens`, width 256.

    The batch is near benchmarks/predictor.py's (8,192 tokens for 2e7) and Step Law's (arXiv 2503.04715, language:
    16,000 for 6e7). The rate was predictor.py's 2e-3, until `python -m scaling check-lr` found the best one at 1.3 to
    1.9 times that in nine columns of TakeCover and CarRacing (benchmarks/studies; widths 64 to 384, 4 and 17M tokens).
    """

    tokens: Positive = 2.0**26  # target tokens of the whole run
    batch: Count = 2**14  # target tokens of one step
    lr: Positive = 3e-3  # learning rate there


@dataclass(frozen=True)
class TrainConfig:
    """How a run is trained. `batch` is global: split over processes and accumulation steps, it changes no result."""

    steps: Count = 1000  # optimiser steps
    minutes: Positive | None = None  # of training; sets train.steps by the speed of this machine, once
    batch: Count | Literal["rule"] = 8  # samples a step; rule: from the budget (world models)
    lr: Positive | Literal["rule"] = 3e-3  # peak learning rate; rule: from width and tokens
    rule: RuleConfig = field(default_factory=RuleConfig)
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: for the matrices whose both sides grow with the width
    parametrisation: Parametrisation = "standard"  # mup: the best lr does not move with the width
    accumulate: Count = 1  # parts of a batch that are computed one after another, for less memory
    warmup: Annotated[float, Range(at_least=0, at_most=1e9)] = 0.1  # below 1 a share of the run, else steps
    cooldown: Share = 0.2  # share of the run at its end in which the rate falls as 1 - sqrt
    betas: tuple[Beta, Beta] = (0.9, 0.99)  # of Adam's two moving averages
    weight_decay: NonNegative = 0.0  # of matrices alone, decoupled
    clip: NonNegative = 1.0  # global gradient norm; 0: no clipping
    ema: Share = 0.0  # length of the weights' moving average as a share of the run; 0: none
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the device computes it, else fp32
    workers: Annotated[int, Range(at_least=0, at_most=1024)] = 0  # processes that load data; on a GPU one at least
    compile: Literal["auto", "on", "off"] = "auto"  # the network's blocks, and steps as CUDA graphs; auto: on a GPU
    checkpointing: bool = False  # compute activations again in the backward pass, for less memory
    log_every: Count = 10  # steps between two lines of metrics.jsonl
    save_every: Count = 500  # steps between two checkpoints
    keep: Count = 2  # newest checkpoints that stay
    keep_at: list[Count] = field(default_factory=list)  # steps whose checkpoints are never deleted
    trunk: bool = False  # a run for others to start from: it is neither cooled down nor evaluated
    start: StartConfig | None = None  # go on from a trunk's checkpoint
    gate: GateConfig = field(default_factory=GateConfig)
    trackers: list[Literal["wandb", "tensorboard"]] = field(default_factory=lambda: ["wandb", "tensorboard"])  # mirrors

    def __post_init__(self) -> None:
        if self.minutes is not None and (self.trunk or self.start is not None):
            raise UserError(
                f"train.minutes {self.minutes:g} cannot set the length of a trunk or a branch, whose steps others "
                "count on: give train.steps"
            )
        if self.trunk and (self.cooldown or self.ema or 0 < self.warmup < 1):
            raise UserError(
                f"a trunk has no length of its own, but train.warmup is {self.warmup}, train.cooldown {self.cooldown} "
                f"and train.ema {self.ema}: give the warmup in steps (1 or more) and 0 for the others"
            )
