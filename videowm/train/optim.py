"""Optimiser, what the width does to its learning rate (µP), and the schedule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from videowm.train.muon import Muon
from videowm.train.rule import BASE_WIDTH
from videowm.types import UserError

if TYPE_CHECKING:
    from videowm.train.config import TrainConfig


def wsd(step: int, steps: int, warmup: float, cooldown: float) -> float:
    """Warmup-stable-decay factor in (0, 1] (arXiv 2405.18392): linear up, flat, then 1 - sqrt down to zero.

    `warmup` (below 1; from 1 on it is a number of steps) and `cooldown` are fractions of the run, so the schedule moves
    with its length.
    """
    rise, fall = warmup if warmup >= 1 else warmup * steps, cooldown * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    if step >= cooldown_from(steps, cooldown):
        return 1 - math.sqrt((step + 1 - (steps - fall)) / (fall + 1))
    return 1.0


def cooldown_from(steps: int, cooldown: float) -> int:
    """The first step at a falling rate: up to here runs of every length are one run, if their warmups are."""
    return math.ceil(steps - cooldown * steps)


def roles(model: nn.Module) -> dict[str, Literal["matrix", "input", "output", "other"]]:
    """What each parameter is to the width (arXiv 2203.03466, table 8), seen on the same network at twice the width.

    A matrix grows on both sides. An input layer grows on its output side only, an output layer on its input side only;
    all else, biases and gains too, is "other" and treated as an input is.

    Raises:
        UserError: the model is no world model.
    """
    if not hasattr(model, "hidden"):
        raise UserError("train.parametrisation mup is for world models, and train.optimizer muon for them and for a "
                        "PatchAutoencoder: leave them out")  # fmt: skip
    with torch.device("meta"):
        # Not from_config: that one leaves out what was given by position or by default, the depth and the width too.
        config = {key: value for key, value in model.config.items() if not key.startswith("_")}
        twice = {"hidden": 2 * model.hidden, "heads": config["heads"] and 2 * config["heads"]}
        wider = dict(type(model)(**config | twice).named_parameters())
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    kinds = {(True, True): "matrix", (True, False): "input", (False, True): "output"}
    found = {}
    for name, parameter in model.named_parameters():
        grows = tuple(a != b for a, b in zip(parameter.shape, wider[name].shape, strict=True))
        found[name] = kinds.get(grows, "other") if name in linear else "other"
    return found


@torch.no_grad()
def start_as_mup(model: nn.Module) -> None:
    """Give the input layers the variance that they have at the base width, whatever the width.

    Xavier's variance is right for matrices, 1/width, and output layers start at zero, as table 8 of arXiv 2203.03466
    wants it. Attention needs no 1/k either: heads are of one size, and with QK-norm their scores are of unit vectors.

    Raises:
        UserError: the model is no world model.
    """
    kinds = roles(model)
    for name, weight in model.named_parameters():
        if kinds[name] == "input":
            out, into = weight.shape
            weight *= math.sqrt((into + out) / (into + out * BASE_WIDTH / model.hidden))


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Groups with a `scale` of the learning rate; only matrices decay, biases and gains "blocks k" or "k" do not.

    Under µP the rate of matrices falls as 1/width in AdamW, whose updates add up over the inputs. In Muon it falls as
    1/width^0.5: the largest singular value of an update is rate x width^0.5 (arXiv 2310.17813, condition 1). That of
    the output layer falls as 1/width, the multiplier of table 8 for a layer that starts at zero. What decays in a step,
    rate x weight_decay, is the same at every width. `model.rates` are shares of the rate for parts of the model whose
    names begin so; `model.matrices()` names what Muon moves in a model that is no world model.

    Raises:
        UserError: µP or Muon is set for a model that has no such matrices.
    """
    rates = getattr(model, "rates", {})
    mup, muon = config.parametrisation == "mup", config.optimizer == "muon"
    kinds = roles(model) if mup or (muon and not hasattr(model, "matrices")) else {}
    named = model.matrices() if muon and not kinds else {name for name, kind in kinds.items() if kind == "matrix"}
    grouped: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = kinds.get(name)
        scale = next((rate for part, rate in rates.items() if name.startswith(part)), 1.0)
        orthogonal = muon and name in named
        if mup and kind in ("matrix", "output"):
            scale = (BASE_WIDTH / model.hidden) ** (0.5 if orthogonal else 1)
        # Without decay a gain stays in its old group: moments in a checkpoint go by the order of the groups.
        still = parameter.ndim < 2 or (config.weight_decay > 0 and name.endswith("gains"))
        key = (still, not orthogonal, scale)
        grouped.setdefault(key, []).append(parameter)
    return [
        {"params": grouped[key], "weight_decay": 0.0 if key[0] else config.weight_decay / key[2], "scale": key[2],
         "orthogonal": not key[1]}
        for key in sorted(grouped)
    ]  # fmt: skip


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """The optimiser of a run; `set_rate` is to be called before every step.

    Raises:
        UserError: µP or Muon is set, and the model is no world model.
    """
    groups = parameter_groups(model, config)
    kind = Muon if any(group["orthogonal"] for group in groups) else torch.optim.AdamW
    return kind(groups, lr=config.lr, betas=config.betas, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Let every group learn at its share of `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


class Guard:
    """Keeps gradients that are not finite out of the weights without waiting for the device.

    The fused AdamW reads `found_inf` where it computes and then leaves weights and moments as they are. The first such
    step stops all later updates too, so that the weights stay what they were before it until `failed` is called.
    """

    def __init__(self, optimizer: torch.optim.AdamW, device: torch.device) -> None:
        self.norm = torch.zeros((), device=device)  # of the latest gradient, or of the first that was not finite
        self.good = torch.zeros((), device=device, dtype=torch.int64)  # finite gradients before that
        self.bad = optimizer.found_inf = torch.zeros((), device=device)  # 0 or 1

    def see(self, norm: Tensor) -> None:
        """The gradient of the update to come has this norm."""
        self.norm = torch.where(self.norm.isfinite(), norm, self.norm)
        self.bad.copy_(~self.norm.isfinite())
        self.good += 1 - self.bad.long()

    def failed(self) -> tuple[int, float] | None:
        """How many gradients were finite before the first that was not, and its norm; waits for the device."""
        return None if math.isfinite(norm := float(self.norm)) else (int(self.good), norm)


class Average:
    """Exponential moving average of the weights over a fraction of the run (EMA length moves with the run)."""

    def __init__(self, model: nn.Module, steps: float) -> None:
        self.weight = 1 / max(1.0, steps)
        self.values = {k: v.detach().clone().float() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        state = model.state_dict()
        new = [value.detach().float() for value in state.values()]
        torch._foreach_lerp_([self.values[name] for name in state], new, self.weight)  # one kernel for many tensors
