"""The quality-against-compute curve as a wandb run: table, figure, strip and videos. Its failure costs a warning."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from scaling.point import SweepConfig, planned
from scaling.records import finished
from scaling.summary import table_rows
from videowm import config as configuration
from videowm.train.log import wandb_settings
from videowm.types import first_line

logger = logging.getLogger("scaling")


def publish(sweep: SweepConfig, *, y: str) -> None:
    """Log the summary run; offline unless the user is logged in."""
    out = Path(sweep.out)
    try:
        log_run(sweep, out, y)
    except Exception as error:  # noqa: BLE001 - a tracker never fails the work it reports on
        logger.warning("no wandb summary: %s", first_line(error))


def log_run(sweep: SweepConfig, out: Path, y: str) -> None:
    """Log the curve, the table and the pictures of OUT/report, and every metric of every run."""
    import wandb

    records = finished(planned(sweep))
    rows, pictures = table_rows(records), sorted((out / "report").iterdir())
    columns = ["name", "flops", "params", y]
    curve = [[r.name, r.compute, r.params["body"], r.metrics[y]] for r in records]
    images = {path.stem: wandb.Image(str(path)) for path in pictures if path.suffix == ".png"}
    videos = {f"{path.stem}_video": wandb.Video(str(path), format="mp4") for path in pictures if path.suffix == ".mp4"}
    settings = wandb_settings(out, "sweep")
    settings["group"] = settings["group"] or settings["name"]  # that of the sweep's points
    with wandb.init(project=os.environ.get("WANDB_PROJECT", "videowm"), **settings) as run:
        tables = {
            "quality_vs_compute": wandb.Table(columns=columns, data=curve),
            "points": wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows]),
        }
        run.log(tables | images | videos)
        for record in records:
            for name in record.metrics:
                if (value := record.number(name)) is not None:
                    run.summary[f"{record.name}/{name}"] = value
        run.config.update({"sweep": configuration.to_dict(sweep)})
