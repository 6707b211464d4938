"""The studies in benchmarks/studies are what they say: frozen, of these records, and given by the committed table."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from scaling import check
from scaling.__main__ import parse_args, parser, run
from scaling.fit import fit
from scaling.law import Law, score
from scaling.predict import read
from scaling.table import read_table
from videowm.types import UserError
from videowm.vae.codec import DiffusersCodec, load_vae

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.parent for path in ROOT.glob("benchmarks/studies/*/law.json"))


def world_of(study: Path) -> str:
    """The game of a study; a later one has a number behind it."""
    return study.name.split("-")[0]


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_a_study_is_what_was_frozen(study):
    """Guards a prediction that was made after its run, or of other runs, and a page that says other numbers."""
    runs = read_table(study / "points.csv", n="N", d="D", c="C", loss="heldout/loss")
    frozen = sorted((read(path) for path in (study / "predictions").glob("*.json")), key=lambda p: p.budget)
    grid = runs.keep(runs.c < 0.9 * frozen[0].budget)
    law, kept = fit(grid, "surface"), Law.from_json((study / "law.json").read_text())
    assert law.params == pytest.approx(kept.params, rel=1e-4)
    pages = [(ROOT / "benchmarks/studies/README.md").read_text()]
    if study == [other for other in STUDIES if world_of(other) == world_of(study)][-1]:  # README has the newest alone
        pages.append((ROOT / "README.md").read_text())
    for p in frozen:
        for name, digest in p.runs.items():
            assert hashlib.sha256((study / f"records/{name}.json").read_bytes()).hexdigest() == digest
        assert p.held_out and len(p.runs) == len(grid)
        alone = p.forms["surface"]["loss"] if p.forms else p.loss
        assert law.predict(p.n, p.d) == pytest.approx(alone, rel=1e-4)
        at = runs.loss[(runs.c > 0.9 * p.budget) & (runs.c < 1.1 * p.budget)]
        if not len(at):
            assert re.search(
                rf"\| {p.loss:.4f} \[{p.interval[0]:.4f}, {p.interval[1]:.4f}\] \|(.*\|)? not run yet", pages[0]
            )
            continue
        measured = at.min()
        off = score(p.loss, measured, grid.loss[grid.c > grid.c.max() / 1.5].min())
        for page in pages:
            budget, predicted = f" {p.budget:.3g} (".replace("+", ""), f"| {p.loss:.4f} "
            row = next(line for line in page.splitlines() if budget in line and predicted in line)
            for number in (*p.interval, measured):
                assert f"{number:.4f}" in row
            errors = re.findall(r"\| ([+-][0-9.]+) %.*? ([+-][0-9.]+) % (?:of the gain )?\|", row)[0]
            loss, gain = map(float, errors)
            assert loss == pytest.approx(off.loss_percent, abs=0.06) and gain == pytest.approx(
                off.gain_percent, abs=0.06
            )


def test_the_law_from_the_table_alone(tmp_path):
    """Guards options of a table that are not handed on: README's command gives the frozen law, in any unit."""
    study, out = ROOT / "benchmarks/studies/takecover", tmp_path / "law.json"
    columns = ["--n", "N", "--d", "D", "--c", "C", "--loss", "heldout/loss", "--trunk", "trunk", "--where", "C<1e16"]
    run(parse_args(parser(), ["fit", str(study / "points.csv"), *columns, "--out", str(out)]))
    law, kept = json.loads(out.read_text()), json.loads((study / "law.json").read_text())
    assert law["num_points"] == 22 and law["params"] == pytest.approx(kept["params"], rel=1e-4)
    assert law["intervals"]["params"]["alpha"] == pytest.approx(kept["intervals"]["params"]["alpha"], rel=1e-2)
    millions = ["--n-unit", "1e-6", "--bootstrap", "0"]
    run(parse_args(parser(), ["fit", str(study / "points.csv"), *columns, *millions, "--out", str(out)]))
    assert json.loads(out.read_text())["params"]["alpha"] == pytest.approx(kept["params"]["alpha"], rel=1e-4)
    page = tmp_path / "law.html"
    run(parse_args(parser(), ["fit", str(study / "points.csv"), *columns, "--bootstrap", "20", "--page", str(page)]))
    html = page.read_text()
    assert "These 22 runs will be off by" in html and "surface-0" in html and "(± " in html
    assert "data:image/png" in html and "nan" not in html.split("data:image")[0]
    with pytest.raises(UserError, match="--where is for a table"):
        run(parse_args(parser(), ["fit", "configs/sweep/takecover.yaml", "--where", "C<1e16"]))


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_a_study_s_table_is_its_records(study):
    """Guards a table that was made of other runs than the records beside it."""
    table = read_table(study / "points.csv", n="N", d="D", c="C", loss="heldout/loss")
    records = [json.loads(path.read_text()) for path in (study / "records").glob("*.json")]
    runs = [r for r in records if r["role"] == "run" and not r["name"].startswith("lr-")]
    assert sorted(table.loss) == sorted(r["metrics"]["heldout/loss"] for r in runs)
    assert len({r["hashes"]["bank"] for r in runs}) == 1
    assert {r["hashes"]["vae"] for r in runs} == {DiffusersCodec(load_vae(study / "vae")).hash}


def test_the_rates_are_the_records():
    """Guards a verdict on other runs than the records, and what the rule says of itself: nine columns, 1.3 to 1.9."""
    factors, best = [0.25, 0.5, 1.0, 2.0, 4.0], {}
    for study in STUDIES:
        for depth, times in itertools.product((1, 3, 6), (1, 4)):
            names = [[f"lr-d{depth}-D{times}-x{f:.3g}{seed}.json" for seed in ("", "-s1")] for f in factors]
            if all((study / "records" / name).exists() for row in names for name in row):
                records = [[json.loads((study / "records" / name).read_text()) for name in row] for row in names]
                losses = np.array([[r["metrics"]["heldout/loss"] for r in row] for row in records])
                best[study.name, depth, times] = check.best(np.array(factors), losses.mean(1))[0]
    assert len(best) == 9 and all(1.3 < factor < 1.95 for factor in best.values())
    said = json.loads((ROOT / "benchmarks/studies/carracing/check-lr.json").read_text())
    assert said["passes"] and [row["best_factor"] for row in said["curves"]] == pytest.approx(
        [factor for (study, *_), factor in best.items() if study == "carracing"]
    )
