"""At which compute an ability appears: planted numbers, and every committed evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made import write_record

from scaling.__main__ import main
from scaling.emergence import emergence, runs_in, stated
from videowm.types import UserError

ROOT = Path(__file__).parents[2]
COMPUTE = (1e12, 4e12, 1.6e13, 6.4e13, 2.56e14)
PLANTED = {  # metric -> one value a budget
    "control/r2": [0.1, 0.25, 0.6, 0.7, 0.8],
    "state/error": [0.1 + 0.9 * (c / 1e12) ** -0.25 for c in COMPUTE],
    "rollout/lead": [1.0, 1.0, -0.5, 1.0, 1.0],
    "leaks/events": [9.0, 8.8, 5.0, 3.0, 2.0],
    "text/obeyed": [0.5, 0.5, 0.5, 0.5, 0.6],
    "frechet/reader": [5.0, 4.0, 3.0, 2.0, 1.0],
}
BOUNDS = {
    "control/r2_ceiling": 0.9, "control/r2_floor": -0.2, "control/r2_floor_zero": 0.05, "state/error_ceiling": 0.1,
    "state/error_floor": 0.95, "text/obeyed_floor": 0.2, "text/obeyed_floor_empty": 0.49, "text/obeyed_ceiling": 0.7,
}  # fmt: skip


@pytest.fixture
def runs(tmp_path) -> Path:
    """A folder with records and evaluations of five budgets, the second with a worse run beside the best."""
    (tmp_path / "evaluations").mkdir()
    for i, compute in enumerate([*COMPUTE, COMPUTE[1]]):
        place, name = (i, f"p{i}") if i < len(COMPUTE) else (0, "worse")
        folder = tmp_path / "made" / name
        folder.mkdir(parents=True)
        write_record(folder, params={"body": 10**5}, flops={"train": compute, "spent": compute},
                     tokens={"target": 10, "processed": 10}, metrics={"heldout/loss": 1 - 0.1 * place})  # fmt: skip
        (tmp_path / "records").mkdir(exist_ok=True)
        (folder / "record.json").rename(tmp_path / f"records/{name}.json")
        found = {name: values[place] for name, values in PLANTED.items()}
        errors = {f"{name}_se": 0.05 for name in PLANTED if not name.startswith("frechet")}
        (tmp_path / f"evaluations/{name}.json").write_text(json.dumps(found | errors | BOUNDS))
    return tmp_path


def test_abilities_appear_where_they_were_planted(runs):
    """Guards errors and floors of other metrics, the easier of two floors, a metric that is better when it is lower,
    and an ability that is gone again at a larger budget."""
    rows = {row.metric: row for row in emergence(runs_in(runs)).rows}
    assert set(rows) == set(PLANTED)
    assert rows["control/r2"].first == COMPUTE[1], "0.05 is the hardest floor, 0.1 ± 0.05 is not clear of it"
    assert rows["control/r2"].floor == "under actions of zeros" and rows["control/r2"].cells[0].floor == 0.05
    assert [cell.run for cell in rows["control/r2"].cells] == ["p0", "p1", "p2", "p3", "p4"]
    assert rows["state/error"].first == COMPUTE[1] and rows["state/error"].rank > 0.9
    assert rows["rollout/lead"].first == COMPUTE[3], "lost at the third budget"
    assert rows["leaks/events"].first == COMPUTE[2] and rows["leaks/events"].floor == "the least budget"
    assert rows["text/obeyed"].first is None and rows["text/obeyed"].cells[0].floor == 0.49
    assert rows["frechet/reader"].first is None, "no error is known"


def test_a_planted_power_law_is_found(runs):
    """Guards a distance to the floor taken for one to the ceiling, and a law where there is none."""
    rows = {row.metric: row for row in emergence(runs_in(runs)).rows}
    assert rows["state/error"].exponent == pytest.approx(-0.25, abs=0.01) and rows["state/error"].r2 > 0.99
    assert rows["rollout/lead"].exponent is None and "no ceiling" in rows["rollout/lead"].law
    assert "(no law)" in rows["text/obeyed"].law and rows["control/r2"].exponent < 0
    assert rows["frechet/reader"].rank > 0.8 > abs(rows["text/obeyed"].rank)
    assert (stated("0.5, by chance"), stated("1"), stated("the mean"), stated(None)) == (0.5, 1, None, None)


def test_the_verb_reads_a_committed_study(runs, tmp_path, capsys):
    """Guards a verb that only works on planted numbers, files that were not written, and a folder without runs."""
    with pytest.raises(SystemExit) as ended:
        main(["emergence", str(ROOT / "benchmarks/decisions/carracing"), "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert not ended.value.code and "| decides | `decision/regret` | the heads on the start alone |" in printed
    assert (tmp_path / "emergence.md").read_text() in printed
    rows = {row["metric"]: row for row in json.loads((tmp_path / "emergence.json").read_text())["rows"]}
    assert rows["decision/regret"]["first"] == pytest.approx(4e13, rel=0.1)
    assert (tmp_path / "emergence.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="holds 0 finished world models, 2 are needed"):
        runs_in(ROOT / "docs")
