"""A page on one table's law: figure, forms weighed, interval, what was doubted, and how far off such a design is."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scaling.combine import Combined, Outlook
from scaling.doubt import Doubt
from scaling.figures import isoflop_figure, law_figure, measured_cost
from scaling.fit import Bootstrap, bootstrap_fit
from scaling.fit import summary as law_summary
from scaling.law import Runs
from scaling.simulate import errors
from videowm.files import write_atomic
from videowm.show import encode_figure
from videowm.template import render
from videowm.types import UserError

TEMPLATE = Path(__file__).with_name("law.html")
BEYOND = (10, 32)  # times the highest budget


def write_page(path: Path, runs: Runs, doubts: Sequence[Doubt], *, title: str, draws: int, studies: int = 40) -> None:
    """Write the page of these runs; nothing in it comes from outside.

    Raises:
        UserError: the runs identify no form.
    """
    mixed, law = Combined.of(runs, max(draws, 20)), surface(runs, draws)
    figures = {
        "loss": law_figure(law or mixed.leading, runs, mixed=mixed),
        "isoflop": isoflop_figure(runs, law and law.law),
    }
    shown = {name: base64.b64encode(encode_figure(made, "png")).decode() for name, made in figures.items() if made}
    html = render(
        TEMPLATE, title=title, figures=shown, law=law and law_summary(law.law), doubts=list(map(str, doubts)),
        tables=[(times, form_rows(mixed, runs, times)) for times in BEYOND], runs=len(runs),
        expected=expected(runs, law, mixed, studies), warnings=warnings(mixed),
    )  # fmt: skip
    write_atomic(path, html)


def surface(runs: Runs, draws: int) -> Bootstrap | None:
    """The surface with its error bars; None where the runs identify none."""
    try:
        return bootstrap_fit(runs, "surface", max(draws, 20))
    except UserError:
        return None


def form_rows(mixed: Combined, runs: Runs, times: float) -> list[dict[str, Any]]:
    """What each form says of `times` the highest budget, and all of them together."""
    c = times * float(runs.c.max())
    size = mixed.optimum(c, measured_cost(runs)) or (float(np.median(runs.n)), float(np.median(runs.d)))
    found = mixed.at(*size, c)
    rows = [
        {"form": form, "weight": f"{said['weight']:.2f}", "loss": f"{said['loss']:.4g}", "90 % interval": "",
         "rolling error, % of the gain": "not tried" if said["rolling"] is None else f"{said['rolling']:.1f}",
         "fit": said["status"]}
        for form, said in mixed.described(found).items()
    ]  # fmt: skip
    return [combined_row(mixed, found), *rows]


def combined_row(mixed: Combined, found: Outlook) -> dict[str, Any]:
    """The row of all forms together."""
    low, high, loss = (float(v[0]) for v in (found.low, found.high, found.loss))
    return {
        "form": "combined", "weight": "", "loss": f"{loss:.4g}",
        "90 % interval": f"{low:.4g} to {high:.4g} (± {50 * (high - low) / loss:.1f} %)",
        "rolling error, % of the gain": f"{100 * mixed.rolling:.1f}", "fit": "",
    }  # fmt: skip


def expected(runs: Runs, law: Bootstrap | None, mixed: Combined, studies: int) -> list[str]:
    """How far off such a design is where the surface is the truth, by simulation."""
    if law is None:
        return []
    scatter = float(mixed.scatter(runs.c.max()))
    found = errors(law.law, runs, scatter, studies=studies, beyond=BEYOND)
    return [
        f"These {len(runs)} runs will be off by {median:.1f} % of the gain at {times} times the compute in half of all "
        f"studies, and by more than {most:.1f} % in one of ten."
        for times, (median, most) in found.items()
        if np.isfinite([median, most]).all()
    ]


def warnings(mixed: Combined) -> list[str]:
    """What a reader should know before believing the forecast."""
    span = mixed.runs.c.max() / mixed.runs.c.min()
    said = []
    if span < BEYOND[0]:
        said.append(f"The runs span a factor {span:.3g} of compute: a forecast further than that is a guess.")
    if not mixed.trials:
        said.append("No budget could be predicted from the ones below, so no rolling error is known.")
    bad = [f"{form}: {m.law.reason}" for form, m in mixed.members.items() if m.law.status != "converged"]
    return [*said, *(f"The form {line}." for line in bad)]
