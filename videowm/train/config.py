"""How anything is trained: the configuration of the loop, the gate, the rule and a branch. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from videowm.types import UserError

DIVERGED = "diverged.json"  # in a run directory: the step whose gradient was not finite
Parametrisation = Literal["standard", "mup"]


@dataclass(frozen=True)
class StartConfig:
    """Where a branch leaves its trunk."""

    run: str  # the trunk's run directory
    step: int


@dataclass(frozen=True)
class GateConfig:
    """After `after` of the run, another episode's actions must raise the held-out loss by `errors` standard errors."""

    after: float = 0.1
    errors: float = 3.0
    failing: Literal["off", "warn", "stop"] = "warn"

    def __post_init__(self) -> None:
        if not 0 < self.after <= 1 or self.errors < 0:
            raise UserError(
                f"gate.after {self.after}, gate.errors {self.errors}: give a share of the run above 0 and at most 1, "
                "and standard errors from 0 on"
            )

    def step(self, steps: int) -> int:
        """The number of finished steps at which a run of `steps` is looked at."""
        return min(steps, max(1, round(self.after * steps)))


@dataclass(frozen=True)
class RuleConfig:
    """What the rule goes through: `batch` and `lr` at `tokens`, width 256.

    The batch is near benchmarks/predictor.py's (8,192 tokens for 2e7) and Step Law's (arXiv 2503.04715, language:
    16,000 for 6e7). The rate was predictor.py's 2e-3, until `python -m scaling check-lr` found the best one at 1.3 to
    1.9 times that in nine columns of TakeCover and CarRacing (benchmarks/studies; widths 64 to 384, 4 and 17M tokens).
    """

    tokens: float = 2.0**26  # target tokens of the whole run
    batch: int = 2**14  # target tokens of one step
    lr: float = 3e-3

    def __post_init__(self) -> None:
        if min(self.tokens, self.batch, self.lr) <= 0:
            raise UserError(f"train.rule {self} cannot be used: give tokens, batch and lr above 0")


@dataclass(frozen=True)
class TrainConfig:
    """How a run is trained. `batch` is global: split over processes and accumulation steps, it changes no result."""

    steps: int = 1000
    batch: int | Literal["rule"] = 8  # rule: from the budget (world models)
    lr: float | Literal["rule"] = 3e-3  # rule: from width and tokens
    rule: RuleConfig = field(default_factory=RuleConfig)
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: for the matrices whose both sides grow with the width
    parametrisation: Parametrisation = "standard"  # mup: the best lr does not move with the width
    accumulate: int = 1
    warmup: float = 0.1  # below 1 a fraction of the run, from 1 on a number of steps
    cooldown: float = 0.2  # fraction of the run, 1 - sqrt
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 1.0  # global gradient norm; 0: no clipping
    ema: float = 0.0  # length of the weights' moving average as a fraction of the run; 0: none
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the device computes it, else fp32
    workers: int = 0  # processes that load data; on a GPU one at least, which hides the time
    compile: Literal["auto", "on", "off"] = "auto"  # the network's blocks, and steps as CUDA graphs; auto: on a GPU
    checkpointing: bool = False  # compute activations again in the backward pass, for less memory
    log_every: int = 10
    save_every: int = 500
    keep: int = 2
    keep_at: list[int] = field(default_factory=list)  # steps whose checkpoints are never deleted
    trunk: bool = False  # a run for others to start from: it is neither cooled down nor evaluated
    start: StartConfig | None = None  # go on from a trunk's checkpoint
    gate: GateConfig = field(default_factory=GateConfig)
    trackers: list[Literal["wandb", "tensorboard"]] = field(default_factory=lambda: ["wandb", "tensorboard"])

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "log_every", "save_every", "keep"):
            if getattr(self, name) != "rule" and getattr(self, name) < 1:
                raise UserError(f"train.{name} {getattr(self, name)} cannot be used: give 1 or more")
        if self.trunk and (self.cooldown or self.ema or 0 < self.warmup < 1):
            raise UserError(
                f"a trunk has no length of its own, but train.warmup is {self.warmup}, train.cooldown {self.cooldown} "
                f"and train.ema {self.ema}: give the warmup in steps (1 or more) and 0 for the others"
            )
