"""The reference is the code's, and the page on files that of files which were written; the site builds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
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
    for name, optional in {"info.json": set(), "recording.json": {"arguments", "player"}, "import.json": set()}.items():
        assert keys_of(files[name] / "meta" / name) | optional == listed(f"meta/{name}"), name
    (header,) = [h for h in (worded / "data/captions").glob("*.json") if '"state"' in h.read_text()]
    made = set(CaptionConfig(AskConfig("m")).header(Dataset(dataset))) - {"schema"}
    assert keys_of(header) | made == listed("captions/NAME.json")


def test_files_of_latents_and_runs(listed, latents, world_run, worded_run, vae_run, train_world, tmp_path):
    """Guards a key of latents.json, record.json or a checkpoint that the page forgot, or that is gone."""
    assert keys_of(latents / "latents.json") == listed("latents.json")
    records = [keys_of(run / "record.json") for run in (world_run, worded_run, vae_run)]
    assert set().union(*records) | GATED | {"prediction", "sources", "share"} == listed("record.json")
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


def test_the_reference_has_every_key(hooks):
    """A key of a configuration, or of a file, that the reference forgot or says nothing of."""
    from videowm.reference import keys

    page = hooks.configuration_page()
    for cls in hooks.configurations().values():
        for key in keys(cls):
            assert f"| `{key.name}` | " in page and key.comment, key
    assert {"task: vae", "task: world", "task: reader", "sweep"} <= set(hooks.configurations())
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", hooks.files_page(), re.M)
    assert len(rows) > 70 and [name for name, what in rows if not what] == []


def test_the_reference_has_every_verb_and_option(hooks):
    """A verb or an option that the reference forgot."""
    page, found = hooks.cli_page(), dict(hooks.parsers())
    assert {"videowm record", "videowm train", "python -m scaling run", "python -m scaling fit"} <= set(found)
    for command, parser in found.items():
        section = page.split(f"## {command}\n")[1].split("\n## ")[0]
        for option in (option for action in parser._actions for option in action.option_strings):
            assert option in section or option in ("-h", "--help"), f"{command} {option}"


def test_the_reference_has_every_metric(hooks):
    """A metric that the reference forgot, or two with one name."""
    from videowm.metrics import METRICS

    page = hooks.metrics_page()
    assert all(page.count(f"\n| `{metric.name}` |") == 1 for metric in METRICS) and len(METRICS) > 20


def test_the_site_builds(tmp_path, environment):
    """A page that no one can reach, a broken link, an anchor or an object of the API that is gone."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    pages = [path.read_text() for path in tmp_path.rglob("*.html")]
    assert len(pages) > 60
    outside = r'(?:src|href)="(?:https?:)?//[^"]*\.(?:js|css|woff2?)'
    assert [found for page in pages for found in re.findall(outside, page)] == []  # nothing comes from a network
