"""A page of imported data, and of parts that cannot be drawn: no page fails for one picture."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from scaling.__main__ import main
from scaling.plan import plan
from scaling.point import SweepConfig, load_sweep
from scaling.report import Parts, report
from videowm.data.dataset import Dataset
from videowm.data.encode import encode_dataset
from videowm.data.import_ import import_dataset
from videowm.train.loop import launch
from videowm.types import UserError
from videowm.vae.codec import to_float

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def imported(dataset, codec, vae_run, world_arguments, tmp_path_factory) -> Path:
    """A sweep of two trained points on a recording that came as a foreign LeRobot folder."""
    folder = tmp_path_factory.mktemp("imported")
    src = shutil.copytree(dataset, folder / "hub")
    for name in ("meta/files.json", "meta/recording.json", "captions.jsonl"):
        (src / name).unlink(missing_ok=True)
    data = Dataset(import_dataset(src, folder / "data"))
    encode_dataset(data, codec, folder / "latents", vae=str(vae_run), to_frames=to_float, frames=33, dtype="fp16",
                   batch=4)  # fmt: skip
    common = {key: yaml.safe_load(value) for key, value in (a.split("=", 1) for a in world_arguments)}
    sweep = {
        "base": str(ROOT / "configs/world/quickstart.yaml"),
        "out": str(folder / "out"),
        "set": common | {"latents": str(folder / "latents")},
        "points": [{"name": "a", "train.steps": 2}, {"name": "b", "train.steps": 8}],
        "strip_clips": 2,  # more than the one start of the two futures
        "strip_frames": 8,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep))
    for point in plan(load_sweep(path)):
        launch(point.config, [])
    return path


def test_imported_data_have_a_page(imported, capsys):
    """Guards `KeyError: 'left'` and "has no named actions" after hours of training: a world without a simulator has
    two opposite actions all the same. Where frames are gone, the page says so and holds the rest."""
    sweep = load_sweep(imported)
    path, notes = report(sweep)
    folder = Path(sweep.out) / "report"
    assert notes == [] and (folder / "futures.mp4").stat().st_size > 1000
    assert path.read_text().count("data:video/mp4;base64,") == 2
    shutil.rmtree(imported.parent / "data/videos")
    with pytest.raises(SystemExit) as ended:
        main(["report", str(imported), "--no-wandb"])
    said, page = capsys.readouterr().out, path.read_text()
    assert ended.value.code == 0 and "The picture 'strip' could not be made: " in said
    assert "The picture &#39;strip&#39; could not be made: " in page and "data:video/mp4" not in page
    assert page.count("data:image/png;base64,") >= 2 and "Every point" in page


def test_a_picture_that_fails_is_a_sentence():
    """Guards a report that a single figure ends: the others are made, and the sentence says which one and why."""
    parts = Parts()
    refusals = {"one": UserError("no starts: record more"), "two": KeyError("left"), "three": ValueError("a\nb")}
    for name, error in refusals.items():

        def fails(error=error):
            raise error

        parts.figure(name, fails)
    parts.figure("none", lambda: None)
    assert parts.files == {} and list(parts.failed.values()) == [
        "The picture 'one' could not be made: no starts: record more.",
        "The picture 'two' could not be made: KeyError: 'left'.",
        "The picture 'three' could not be made: ValueError: a.",
    ]


def test_a_task_reads_the_sweep_that_was_submitted(imported, tmp_path):
    """Guards a SLURM task that plans another sweep than the one that was submitted: its copy is the same object."""
    from scaling.slurm import write_script

    sweep = load_sweep(imported, ["cap=1e17", "set.train.clip=2"])
    write_script(tmp_path, sweep)
    assert load_sweep(tmp_path / ".sweep.yaml") == sweep and isinstance(sweep, SweepConfig)
