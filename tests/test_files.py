"""The page on files, against files that the program has written: no key and no file is unlisted, none is made up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scaling import api
from videowm.caption import CaptionConfig
from videowm.data.dataset import Dataset
from videowm.data.import_ import import_dataset
from videowm.endpoint import AskConfig
from videowm.types import UserError

ROOT = Path(__file__).parents[1]
GATED = {"stopped", "planned"}  # only of a run that the gate stopped


def keys_of(path: Path) -> set[str]:
    return set(json.loads(path.read_text())) - {"schema"}


def test_files_of_a_dataset(listed, dataset, worded, tmp_path):
    """Guards a key of a dataset's files that the page forgot, or that is gone."""
    imported = import_dataset(dataset, tmp_path / "imported")
    files = {"info.json": dataset, "recording.json": dataset, "import.json": imported}
    for name, optional in {"info.json": set(), "recording.json": {"arguments"}, "import.json": set()}.items():
        assert keys_of(files[name] / "meta" / name) | optional == listed(f"meta/{name}"), name
    (header,) = [h for h in (worded / "data/captions").glob("*.json") if '"state"' in h.read_text()]
    made = set(CaptionConfig(AskConfig("m")).header(Dataset(dataset))) - {"schema"}
    assert keys_of(header) | made == listed("captions/NAME.json")


def test_files_of_latents_and_runs(listed, latents, world_run, worded_run, vae_run, train_world, tmp_path):
    """Guards a key of latents.json, record.json or a checkpoint that the page forgot, or that is gone."""
    assert keys_of(latents / "latents.json") == listed("latents.json")
    records = [keys_of(run / "record.json") for run in (world_run, worded_run, vae_run)]
    assert set().union(*records) | GATED == listed("record.json")
    (state,) = world_run.glob("checkpoints/step-00000004/state.json")
    assert keys_of(state) == listed("checkpoints/step-N/state.json")
    with pytest.raises(UserError, match="is not finite"):
        train_world(tmp_path / "diverged", "train.lr=1e12", "train.warmup=0")
    assert keys_of(tmp_path / "diverged/diverged.json") == listed("diverged.json")


def test_files_of_a_law(listed, tmp_path):
    """Guards a key of law.json that the page forgot, or that is gone."""
    table = ROOT / "benchmarks/studies/takecover/points.csv"
    columns = api.TableOptions(d="D", c="C", loss="heldout/loss")
    api.fit_table(table, columns, api.FitOptions(form="power", bootstrap=0, out=tmp_path / "law.json"))
    assert keys_of(tmp_path / "law.json") == listed("law.json")


@pytest.mark.parametrize("kind", ["dataset", "latents", "world_run", "vae_run"])
def test_every_file_is_on_the_page(hooks, kind, request):
    """Guards a file beside the others that nobody explains."""
    page, root = hooks.files_page(), request.getfixturevalue(kind)
    names = {path.relative_to(root).parts[0] for path in root.rglob("*") if not path.name.startswith(".")}
    names |= {path.name for path in root.glob("meta/*.json")}
    assert [name for name in names if name not in page] == [] and len(names) > 2
