"""What a run writes: a progress bar, metrics.jsonl (the truth), and trackers that mirror it and may fail."""

from __future__ import annotations

import json
import logging
import os
import secrets
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker
from tqdm import tqdm

from videowm.config import flatten
from videowm.files import finite, write_atomic
from videowm.types import first_line

logger = logging.getLogger("videowm")


class Log:
    """Progress bar, metrics.jsonl and accelerate's trackers of one run; silent on all but the main process."""

    def __init__(self, accelerator, out: Path, *, steps: int, first: int, name: str, config: dict[str, Any],
                 trackers: list[str]) -> None:  # fmt: skip
        self.accelerator = accelerator
        self.main = accelerator.is_main_process
        self.path = out / "metrics.jsonl"
        if self.main:
            keep_until(self.path, first)
        self.bar = tqdm(total=steps, initial=first, desc=name, disable=not self.main, dynamic_ncols=True, unit="step")
        self.trackers = self.start_trackers(out, name, config, trackers) if self.main else []

    def start_trackers(self, out: Path, name: str, config: dict[str, Any], kinds: list[str]) -> list[GeneralTracker]:
        """Start the trackers of the configuration; one that fails costs one warning, never the run."""
        flat = {k: v if isinstance(v, (int, float, str, bool)) else json.dumps(v) for k, v in flatten(config).items()}
        started: list[GeneralTracker] = []
        for kind in kinds:
            self.accelerator.log_with, self.accelerator.trackers = [kind], []  # each for itself: one fails, not both
            try:
                project = os.environ.get("WANDB_PROJECT") if kind == "wandb" else None
                settings = {"wandb": wandb_settings(out, name)} if kind == "wandb" else {}
                self.accelerator.init_trackers(project or "videowm", config=flat, init_kwargs=settings)
                started += self.accelerator.trackers
            except Exception as error:  # noqa: BLE001 - whatever a tracker raises, training goes on
                logger.warning("no tracking with %s: %s", kind, first_line(error))
        return started

    def progress(self, step: int, values: dict[str, Any]) -> None:
        """Move the bar to `step` steps done and show the loss, the speed and, where it is known, the MFU."""
        shown = {"loss": f"{values['loss']:.4g}"}
        for unit in ("tokens", "samples"):
            if (rate := values.get(f"{unit}_per_second")) is not None:
                shown[f"{unit}/s"] = f"{rate:,.4g}" if rate < 1000 else f"{rate:,.0f}"
                break
        if values.get("mfu") is not None:
            shown["MFU"] = f"{values['mfu']:.1%}"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(step - self.bar.n)

    def say(self, text: str) -> None:
        """Lines on the terminal, above the bar."""
        if self.main:
            self.bar.write(text)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One line in metrics.jsonl and the same numbers to the trackers."""
        if not self.main:
            return
        with self.path.open("a") as file:
            file.write(json.dumps(finite({"step": step, **values})) + "\n")
        numbers = {k: v for k, v in values.items() if isinstance(v, (int, float))}
        for tracker in list(self.trackers):
            try:
                tracker.log(numbers, step=step)
            except Exception as error:  # noqa: BLE001
                logger.warning("no tracking with %s from step %d on: %s", tracker.name, step, first_line(error))
                self.trackers.remove(tracker)

    def close(self) -> None:
        self.bar.close()
        for tracker in self.trackers:
            try:
                tracker.finish()
            except Exception as error:  # noqa: BLE001
                logger.warning("tracking with %s did not close: %s", tracker.name, first_line(error))


def keep_until(path: Path, step: int) -> None:
    """Drop the lines after `step` and an evaluation without a record: a resumed run writes all of them once."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
            if row["step"] <= step and "loss" in row:
                kept.append(line + b"\n")
        except (ValueError, KeyError, TypeError, RecursionError):  # the half line of a killed process, or damage
            continue
    write_atomic(path, b"".join(kept))


def wandb_settings(out: Path, task: str) -> dict[str, Any]:
    """Settings of a wandb run: its name is the run directory's, its group the sweep's where it is a point of one.

    Offline unless the user is logged in or WANDB_MODE holds another mode. WANDB_PROJECT and WANDB_RUN_GROUP count.
    """
    import wandb

    mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
    swept = (out.absolute().parent / "plan.jsonl").exists()
    group = os.environ.get("WANDB_RUN_GROUP") or (out.absolute().parent.name if swept else None)
    # A server that does not answer costs a run seconds at its start and a minute at its end (90 s and for ever before).
    wait = float(os.environ.get("WANDB_INIT_TIMEOUT", 15))
    settings = wandb.Settings(silent=True, console="off", init_timeout=wait, finish_timeout=60)
    return {"mode": mode, "dir": str(out), "name": out.absolute().name, "group": group, "job_type": task,
            "id": tracking_id(out), "resume": "allow", "settings": settings}  # fmt: skip


def tracking_id(out: Path) -> str:
    """The run's id at its tracker, kept in its directory: a directory that was removed and trained anew is another."""
    path = out / ".tracking-id"
    if not path.exists():
        write_atomic(path, secrets.token_hex(6).encode())
    return path.read_text()
