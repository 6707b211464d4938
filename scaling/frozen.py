"""A frozen prediction: a file with a sha256 over its content, written once. Imports neither torch nor numpy."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling.point import label
from videowm.files import write_atomic
from videowm.types import UserError


@dataclass(frozen=True)
class Forecast:
    """The loss at one budget, with its interval and the baselines."""

    form: str  # of the law, or "combined"
    status: str  # of the fit, "converged" or what is wrong with it
    params: dict[str, float]  # of the law; empty where forms are combined
    n: float | None  # expected to be best at this budget; None where neither the law nor the sweep has a rule
    d: float | None  # tokens, likewise
    loss: float  # that is predicted
    interval: list[float]  # of one new run
    block: str  # what the bootstrap drew: "run" or "trunk"
    baselines: dict[str, float]  # "no further gain" is the lowest loss of the highest budget that was fitted
    forms: dict[str, dict[str, Any]] = field(default_factory=dict)  # by form: loss, status, weight, rolling error in %
    width: dict[str, float] = field(default_factory=dict)  # what the interval is made of, standard deviations in ln L

    @property
    def half_width(self) -> float:
        """Half of the interval, in % of the loss."""
        return 50 * (self.interval[1] - self.interval[0]) / self.loss


@dataclass(frozen=True, kw_only=True)
class Prediction(Forecast):
    """A frozen forecast, as its file holds it."""

    budget: float  # FLOPs
    y: str  # the metric
    arm: str | None  # of the sweep; None where it has none
    form_chosen: str  # why this form
    level: float  # of the interval
    depth: int | None  # whose parameters come closest to n
    held_out: bool  # no run of this budget had been finished
    runs: dict[str, str]  # sha256 of the records that were fitted, by name
    time: str  # when it was frozen
    sha256: str  # over all the rest
    code: str | None = None  # git commit of the code that made it, "+" behind it where files were changed
    doubts: list[str] = field(default_factory=list)  # sentences on records that were left out

    def __str__(self) -> str:
        """The prediction as lines for a terminal."""
        interval = (
            f"{100 * self.level:.0f} % [{self.interval[0]:.4f}, {self.interval[1]:.4f}], ± {self.half_width:.1f} %"
        )
        size = "" if self.n is None else f" at N = {self.n:.3g} (depth {self.depth}), D = {self.d:.3g} tokens"
        others = ", ".join(f"{name} {value:.4f}" for name, value in self.baselines.items())
        late = "" if self.held_out else "\n  not held out: a run of this budget had been finished before"
        return (
            f"{self.y} at {self.budget:.3g} FLOPs: {self.loss:.4f}, {interval}{size}\n"
            f"  {self.form} law ({self.status}) on {len(self.runs)} runs; {self.form_chosen}\n  {others}\n"
            + "".join(f"  {line}\n" for line in form_lines(self.forms))
            + f"  frozen {self.time}, sha256 {self.sha256[:16]}{late}"
        )


def form_lines(forms: dict[str, dict[str, Any]]) -> list[str]:
    """What each form alone says, a line each."""
    return [
        f"{form:<13} {said['loss']:.4f}  weight {said['weight']:.2f}"
        + ("" if said["rolling"] is None else f", rolling error {said['rolling']:.1f} % of the gain")
        + ("" if said["status"] == "converged" else f" ({said['status']})")
        for form, said in forms.items()
    ]


def file_name(budget: float, y: str, arm: str | None) -> str:
    metric = "" if y == "heldout/loss" else "-" + y.replace("/", "-")
    return (f"{arm}-" if arm else "") + label(budget) + metric + ".json"


def digest(content: dict[str, Any]) -> str:
    """sha256 over all of a prediction but the hash itself."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def publish_once(path: Path, text: str) -> None:
    """Write `text` whole or not at all, never over a file that is there: a link fails where a rename would replace.

    Raises:
        UserError: another call wrote the file at the same time.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    write_atomic(aside, text.encode())
    try:
        os.link(aside, path)
    except FileExistsError:
        raise UserError(f"{path} was written by another call just now: run the same command again to see it") from None
    finally:
        aside.unlink()


def read(path: Path) -> Prediction:
    """A frozen prediction.

    Raises:
        UserError: the file was changed.
    """
    try:
        content = json.loads(path.read_text())
        whole = content["sha256"] == digest(content)
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{path} does not match its own sha256, so it is not what was frozen: restore the file")
    return Prediction(**content)
