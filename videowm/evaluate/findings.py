"""What was measured, for people: units, rows of tables, and sentences made of measured numbers."""

from __future__ import annotations

import re
from typing import Any

BOUNDS = {  # suffix -> label
    "ceiling": "ceiling",
    "ceiling_real": "ceiling on real video",
    "floor": "floor",
    "floor_zero": "floor without actions",
    "real": "real against real",
    "true": "the simulator",
}
# Ends of names that have no row of their own.
BESIDE = tuple(f"_{suffix}" for suffix in ("se", "first", "horizon", "clips", "seconds", *BOUNDS))
UNITS = {  # the first pattern that fits a name says what its numbers are in
    "^drift/": "share kept",
    "^(frechet|surprise)/|loss_ratio|guidance": "",
    "starts$|left_out$": "starts",
    "psnr|gain$": "dB",
    "ms_ssim": "MS-SSIM",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "r2$": "R²",
    "accuracy$": "share right",
    "_share$": "share",
    "delay$": "frames",
    "^count/.*_error$": "things",
    "^count/": "per 100 frames",
    "^(state|text|counterfactual)/": "std. deviations",
}
SAID = {  # name -> what is said of it before its bounds
    "fidelity/psnr": "PSNR of the rollout is {} dB",
    "control/delta_psnr": "True actions instead of random ones are worth {} dB",
    "control/r2": "R² of the requested actions, read off the rollout, is {}",
    "control/delay": "Actions show {} frames late",
    "text/turn": "Told to turn left, not right, the rollout turns more by {} standard deviations",
    "state/error": "The state read off the rollout is off by {} standard deviations",
    "counterfactual/psnr": "Under forced actions the rollout is at {} dB from the real game",
    "frechet/reader": "The Fréchet distance to real video, in the reader's features, is {}",
}


def unit(name: str) -> str:
    """The unit of a number, or of the curve that it is the mean of."""
    name = name.removesuffix("_by_frame")
    return next((words for pattern, words in UNITS.items() if re.search(pattern, name)), "")


def single(metrics: dict[str, Any], room: str = "") -> list[str]:
    """The names of a room's single numbers, without those of bounds and errors."""
    names = [n for n, v in metrics.items() if n.startswith(f"{room}/" if room else "") and not n.endswith(BESIDE)]
    return [n for n in names if isinstance(metrics[n], int | float | None)]


def with_error(metrics: dict[str, Any], name: str) -> str:
    value, error = metrics.get(name), metrics.get(f"{name}_se")
    if name not in metrics:
        return ""
    if value is None:
        return "none"
    return f"{value:.4g} ± {error:.2g}" if error else f"{value:.4g}"


def bounds(metrics: dict[str, Any], name: str) -> dict[str, str]:
    """The bounds that a number has, by label."""
    found = {label: with_error(metrics, f"{name}_{suffix}") for suffix, label in BOUNDS.items()}
    return {label: shown for label, shown in found.items() if shown}


def table_rows(metrics: dict[str, Any], room: str) -> list[dict[str, str]]:
    """One row a number of the room: value ± error, unit, and the bounds that any of the room has."""
    if room == "drift":
        return drift_rows(metrics)
    names = single(metrics, room)
    has = {name: bounds(metrics, name) for name in names}
    labels = [label for label in BOUNDS.values() if any(label in one for one in has.values())]
    return [
        {"name": name, "value": with_error(metrics, name), "unit": unit(name)}
        | {k: has[name].get(k, "") for k in labels}
        for name in names
    ]


def drift_rows(metrics: dict[str, Any]) -> list[dict[str, str]]:
    """One row a curve: how much of the distance between its bounds is kept, and when half of it is lost."""
    rows = []
    for name in (n.removesuffix("_horizon") for n in metrics if n.startswith("drift/") and n.endswith("_horizon")):
        area, half, last = (f"{name}_{what}" for what in ("area", "half_life", "horizon"))
        kept = metrics[area] is not None
        never = f"not within {metrics[last]}"
        rows.append({
            "name": name.removeprefix("drift/"),
            "kept on average": with_error(metrics, area) if kept else "bounds not three errors apart",
            "half is lost at frame": "" if not kept else never if metrics[half] is None else with_error(metrics, half),
        })  # fmt: skip
    return rows


def sentences(metrics: dict[str, Any]) -> list[str]:
    """What is said first."""
    about, said = metrics["about"], []
    if model := about.get("model"):
        said.append(
            f"A world model of {model['world']}: depth {model['depth']}, {model['parameters'] / 1e6:.3g}M parameters "
            f"in its blocks' matrices, {model['flops']:.2e} training FLOPs, {model['steps']:,} steps."
        )
    said.append(
        f"{about['clips']} held-out starts of {about['episodes']} episodes, {about['context']} frames of context and "
        f"{about['horizon']} predicted; ± is the bootstrap standard error over episodes."
    )
    for name, words in SAID.items():
        if name in metrics:
            between = ", ".join(f"{label} {shown}" for label, shown in bounds(metrics, name).items())
            said.append(words.format(with_error(metrics, name)) + (f" ({between})." if between else "."))
            if metrics.get(f"drift/{name.replace('/', '_')}_area", 0) is None:
                said[-1] += " Ceiling and floor do not lie three standard errors apart: it says nothing here."
    said += television(metrics)
    said += [f"{text[0].upper()}{text[1:]}." for name, text in metrics.items() if name.endswith("_refused")]
    return said


def television(metrics: dict[str, Any]) -> list[str]:
    """Which signals are drawn to a patch of pure noise: those of which it holds more than its part of the picture."""
    said = []
    for name in ("error", "disagreement", "progress"):
        key = f"surprise/television_{name}"
        if key not in metrics:
            continue
        clear = 2 * metrics[f"{key}_se"]
        drawn = "is drawn to" if metrics[key] > 1 + clear else "is not drawn to"
        if abs(metrics[key] - 1) <= clear:
            drawn = "is not measurably drawn to"
        words = "Raw error" if name == "error" else f"Reducible error, by {name},"
        said.append(
            f"{words} {drawn} the patch of pure noise: a place there has {with_error(metrics, key)} times the average."
        )
    return said
