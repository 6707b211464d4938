"""The quality-against-compute curve as a wandb run: table, figure, strip and videos. Its failure costs a warning."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from scaling.plan import SweepConfig, plan
from scaling.records import finished
from scaling.summary import table_rows
from videowm.train.log import wandb_settings

logger = logging.getLogger("scaling")


def publish(sweep: SweepConfig, *, y: str) -> None:
    """Log the summary run; offline unless the user is logged in."""
    out = Path(sweep.out)
    try:
        log_run(sweep, out, y)
    except Exception as error:  # noqa: BLE001 - a tracker never fails the work it reports on
        logger.warning("no wandb summary: %s", str(error).splitlines()[0] if str(error) else type(error).__name__)


def log_run(sweep: SweepConfig, out: Path, y: str) -> None:
    import wandb

    records = finished(plan(sweep))
    rows = table_rows(records)
    columns = ["name", "flops", "params", y]
    curve = [[r["name"], r["flops"]["train"], r["params"]["body"], r["metrics"][y]] for r in records]
    pictures = sorted((out / "report").iterdir())
    with wandb.init(project="videowm", job_type="sweep", **wandb_settings(out, f"{out.name} summary")) as run:
        run.log(
            {
                "quality_vs_compute": wandb.Table(columns=columns, data=curve),
                "points": wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows]),
                **{path.stem: wandb.Image(str(path)) for path in pictures if path.suffix == ".png"},
                **{
                    f"{path.stem}_video": wandb.Video(str(path), format="mp4")
                    for path in pictures
                    if path.suffix == ".mp4"
                },
            }
        )
        for record in records:
            for name, value in record["metrics"].items():
                if isinstance(value, float):
                    run.summary[f"{record['name']}/{name}"] = value
        run.config.update({"sweep": json.loads(json.dumps(sweep.__dict__, default=str))})
