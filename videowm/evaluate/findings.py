"""What was measured, for people: rows of tables and sentences made of measured numbers."""

from __future__ import annotations

import math
from typing import Any

from videowm.metrics import BOUNDS, METRICS, base_name, beside, find, single, unit

NO_ERROR = "one episode: no error is known"


def value_with_error(metrics: dict[str, Any], name: str) -> str:
    """The value ± its standard error; without ± where no error is known, empty where nothing was measured."""
    value, error = metrics.get(name), metrics.get(beside(name, "se"))
    if name not in metrics:
        return ""
    if value is None:
        return "none"
    return f"{value:.4g} ± {error:.2g}" if error and math.isfinite(error) else f"{value:.4g}"


def bounds(metrics: dict[str, Any], name: str) -> dict[str, str]:
    """The bounds that a number has, by label."""
    found = {label: value_with_error(metrics, beside(name, suffix)) for suffix, label in BOUNDS.items()}
    return {label: shown for label, shown in found.items() if shown}


def episodes(metrics: dict[str, Any]) -> int | None:
    """How many held-out episodes were measured on, where the evaluation recorded it."""
    return metrics.get("about", {}).get("episodes")


def table_rows(metrics: dict[str, Any], room: str) -> list[dict[str, str]]:
    """One row a number of the room: value ± error, unit, and the bounds that any number of the room has."""
    if room == "drift":
        return drift_rows(metrics)
    names = single(metrics, room)
    has = {name: bounds(metrics, name) for name in names}
    labels = [label for label in BOUNDS.values() if any(label in one for one in has.values())]
    return [
        {"name": name, "value": value_with_error(metrics, name), "unit": unit(name)}
        | {label: has[name].get(label, "") for label in labels}
        for name in names
    ]


def drift_rows(metrics: dict[str, Any]) -> list[dict[str, str]]:
    """One row a curve: how much of the distance between its bounds is kept, and when half of it is lost."""
    unknown = NO_ERROR if episodes(metrics) == 1 else "bounds not three errors apart"
    horizon, rows = find("drift/{}_horizon"), []
    for name in (name for name in metrics if name.startswith("drift/") and find(name) is horizon):
        curve = horizon.of(name)
        area, half = (f"drift/{curve}_{what}" for what in ("area", "half_life"))
        kept, lost = metrics.get(area) is not None, metrics.get(half) is not None
        never = f"not within {metrics[name]}"
        rows.append({
            "name": curve,
            "kept on average": value_with_error(metrics, area) if kept else unknown,
            "half is lost at frame": "" if not kept else value_with_error(metrics, half) if lost else never,
        })  # fmt: skip
    return rows


def sentences(metrics: dict[str, Any]) -> list[str]:
    """What stands at the top of the page and on the terminal: one sentence a finding."""
    written = about_sentences(metrics.get("about", {})) + headlines(metrics) + television(metrics)
    refused = [str(text) for name, text in metrics.items() if name.endswith("_refused")]
    return written + [f"{text[:1].upper()}{text[1:]}." for text in refused]


def about_sentences(about: dict[str, Any]) -> list[str]:
    """The model and the held-out starts that were measured."""
    written = []
    if model := about.get("model"):
        written.append(
            f"A world model of {model['world']}: depth {model['depth']}, {model['parameters'] / 1e6:.3g}M parameters "
            f"in its blocks' matrices, {model['flops']:.2e} training FLOPs, {model['steps']:,} steps."
        )
    if about:
        error = "± is the bootstrap standard error over episodes" if about.get("episodes") != 1 else NO_ERROR
        written.append(
            f"{about.get('clips')} held-out starts of {about.get('episodes')} episodes, {about.get('context')} frames "
            f"of context and {about.get('horizon')} predicted; {error}."
        )
    return written


def headlines(metrics: dict[str, Any]) -> list[str]:
    """The sentence of every metric that has one and was measured, with its bounds."""
    written = []
    for metric in (metric for metric in METRICS if metric.sentence):
        for name in (name for name in metrics if base_name(name) == name and find(name) is metric):
            if isinstance(metrics[name], str):
                continue
            text = metric.sentence.format(value=value_with_error(metrics, name), of=metric.of(name))
            between = ", ".join(f"{label} {shown}" for label, shown in bounds(metrics, name).items())
            written.append(f"{text} ({between})." if between else f"{text}.")
            if metrics.get(f"drift/{name.replace('/', '_')}_area", 0) is None and episodes(metrics) != 1:
                written[-1] += " Ceiling and floor do not lie three standard errors apart: it tells nothing here."
    return written


def television(metrics: dict[str, Any]) -> list[str]:
    """Which signals are drawn to a patch of pure noise: those of which it holds more than its part of the picture."""
    signals = {"error": "Raw error", "disagreement": "Reducible error, by disagreement,",
               "progress": "Reducible error, by progress,"}  # fmt: skip
    written = []
    for signal, words in signals.items():
        if (share := metrics.get(name := f"surprise/television_{signal}")) is None:
            continue
        if (error := metrics.get(f"{name}_se")) is None:
            drawn = f"may be drawn to ({NO_ERROR})"
        elif abs(share - 1) <= 2 * error:
            drawn = "is not measurably drawn to"
        else:
            drawn = "is drawn to" if share > 1 else "is not drawn to"
        written.append(
            f"{words} {drawn} the patch of pure noise: a place there has {value_with_error(metrics, name)} times the "
            "average."
        )
    return written
